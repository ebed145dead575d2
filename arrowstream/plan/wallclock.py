"""What the clock on the wall of a time zone shows, and when: so that windows can be cut by it in whole numbers.

The clock is set back and forth, so its *face* is what counts here: the highest that it has shown up to an instant.
The face never goes back. Between two changes it is the instant and the offset from UTC; after the clock was set back it
stands still until that is made good; where the clock was set forward it leaps. So the first instant at which it
shows a time, or one beyond, is well defined for every time, skipped and repeated ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from arrowstream.errors import PlanError

Ints: TypeAlias = npt.NDArray[np.int64]

_DAY: Final = 86_400
# The first zone was drawn up in 1844; rules of today are worked out up to 2100.
_FIRST, _LAST = -47_482 * _DAY, 84_006 * _DAY  # 1840 to 2200
# Sums with an offset do not leave 64 bits.
_HIGH: Final = 2**63 - 2**50


@dataclass(frozen=True, slots=True, eq=False)
class WallClock:
    """A clock with changes. Instants, in UTC, and times, as shown, are whole numbers of one unit since 1970-01-01.

    From the instant `since[i]` on it is `offsets[i]` ahead of UTC. `before[i]` is the face just before, `after[i]` the
    first time that the face does not reach before `since[i + 1]`.
    """

    since: Ints
    offsets: Ints
    before: Ints
    after: Ints

    def face(self, instants: Ints) -> Ints:
        """The highest that the clock has shown up to each of these instants."""
        if not len(instants):
            return instants
        low, high = int(instants.min()), int(instants.max())
        if high > _HIGH or low < -_HIGH:
            instants = np.clip(instants, -_HIGH, _HIGH)
        begin, end = np.searchsorted(self.since[1:], (low, high), "right")
        if begin == end and low + int(self.offsets[begin]) > self.before[begin]:
            return instants + int(self.offsets[begin])  # as nearly always: no change among them
        at = np.searchsorted(self.since[1:], instants, "right")
        faces: Ints = np.maximum(instants + self.offsets[at], self.before[at])
        return faces

    def first(self, times: Ints) -> Ints:
        """The first instants at which the clock shows each of these times, or one beyond."""
        if not len(times):
            return times
        low, high = int(times.min()), int(times.max())
        begin, end = np.searchsorted(self.after, (low, high), "right")
        if begin == end and low - int(self.offsets[begin]) >= self.since[begin]:
            return times - int(self.offsets[begin])
        at = np.searchsorted(self.after, times, "right")
        instants: Ints = np.maximum(times - self.offsets[at], self.since[at])
        return instants

    def stretch(self, length: int) -> int:
        """By how much more than `length` may pass while the face goes forward by that length, at the most."""
        reach = length + int(self.offsets.max() - self.offsets.min())
        until = np.searchsorted(self.since, np.append(self.since[1:] + reach, _HIGH), "right")
        lowest = [int(self.offsets[place:end].min()) for place, end in enumerate(until)]
        return int((self.offsets - lowest).max())

    @property
    def leap(self) -> int:
        """The most by which it was set forward at once."""
        return max(0, int(np.diff(self.offsets).max()))


def wall_clock(zone: str | None, second: int, whole: int | None) -> tuple[int, WallClock | None]:
    """The clock of a zone, in units of which a second has so many: by how much it is ahead of UTC, or its changes.

    With `whole`, changes by a multiple of that are left out: what is cut into parts of this length by the clock is cut
    alike before and after.
    """
    if zone is None:
        return 0, None
    return _clock(zone, second, whole)


@lru_cache(maxsize=1024)
def _clock(zone: str, second: int, whole: int | None) -> tuple[int, WallClock | None]:
    instants, offsets = changes(zone)
    steps = np.diff(offsets) * second
    if whole is not None:
        steps = np.where(steps % whole == 0, 0, steps)
    kept = np.flatnonzero(steps)
    base = int(offsets[0]) * second
    if not len(kept):
        return base, None
    since = np.concatenate([[-_HIGH], instants[kept] * second])
    ahead = np.concatenate([[base], base + np.cumsum(steps[kept])])
    ends = np.maximum.accumulate(since[1:] + ahead[:-1])
    return 0, WallClock(since, ahead, np.concatenate([[-_HIGH], ends - 1]), np.concatenate([ends, [_HIGH]]))


@lru_cache(maxsize=1024)
def changes(zone: str) -> tuple[Ints, Ints]:
    """When a zone's offset from UTC changes, and the offsets before, between and after these instants; in seconds.

    As Polars' time zone database says. The offset is asked for each day, and each change found to the second by
    halving: no zone has changed its clock twice within a day.
    """
    days = np.arange(_FIRST, _LAST, _DAY)
    offsets = _offsets(days, zone)
    at = np.flatnonzero(np.diff(offsets))
    low, high = days[at], days[at + 1]
    while (high - low > 1).any():
        middle = (low + high) // 2
        early = _offsets(middle, zone) == offsets[at]
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return high, offsets[np.concatenate([[0], at + 1])]


def _offsets(seconds: Ints, zone: str) -> Ints:
    instants = pl.Series(seconds * 1000).cast(pl.Datetime("ms", "UTC"))
    try:
        shown = instants.dt.convert_time_zone(zone).dt.replace_time_zone(None)
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"the time zone {zone!r} is not known: {str(error).splitlines()[0]}") from error
    found: Ints = shown.cast(pl.Int64).to_numpy() // 1000 - seconds
    return found
