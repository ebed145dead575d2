"""How time is cut into bins: equal parts, or months; and which number has the bin of a time.

A window is a run of bins, so a row belongs to it or not as its bin does. Times are Polars' physical values. In a column
with a time zone the *face* of the clock (`plan.wallclock`) is cut, where days have 24 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from arrowstream.plan.wallclock import Ints, WallClock

# Windows that would end beyond what 64 bits can say end there.
_END: Final = 2**63 - 2**50
_ALL: Final = 2**64


class Cuts(Protocol):
    """Times at which the face of a clock is cut, numbered."""

    def numbers(self, faces: Ints) -> Ints:
        """For each the number of the last cut up to it."""

    def faces(self, numbers: Ints) -> Ints:
        """The cuts with these numbers."""


@dataclass(frozen=True, slots=True)
class Even:
    """Cut number 0 is at `origin`, and each `size` after the one before."""

    size: int
    origin: int

    def numbers(self, faces: Ints) -> Ints:
        return (faces - self.origin) // self.size

    def faces(self, numbers: Ints) -> Ints:
        most, least = (_END - self.origin) // self.size, (-_END - self.origin) // self.size
        found: Ints = np.clip(numbers, least, most) * self.size + self.origin
        return found


@dataclass(frozen=True, slots=True)
class Months:
    """Cut number 0 is `shift` after the begin of the month `origin` (0: January 1970), and each `size` months later.

    `day` is how many units a day has.
    """

    size: int
    origin: int
    shift: int
    day: int

    def numbers(self, faces: Ints) -> Ints:
        return (_months((faces - self.shift) // self.day) - self.origin) // self.size

    def faces(self, numbers: Ints) -> Ints:
        most = _END // self.day // 31 // self.size
        begins = _days(np.clip(numbers, -most, most) * self.size + self.origin)
        found: Ints = np.clip(begins, -_END // self.day, _END // self.day) * self.day + self.shift
        return found


def months_later(faces: Ints, months: int, day: int) -> Ints:
    """These times so many months later, at the same time of day; the last of a month where it lacks that day."""
    days, rest = np.divmod(faces, day)
    month = _months(days)
    begin, end = _days(month + months), _days(month + months + 1)
    found: Ints = np.minimum(begin + days - _days(month), end - 1) * day + rest
    return found


def month_days(months: int) -> tuple[int, int]:
    """The fewest and the most days that so many months in a row have."""
    begins = np.arange(400 * 12 if months else 1)
    lengths = _days(begins + months) - _days(begins)
    return int(lengths.min()), int(lengths.max())


def _months(days: Ints) -> Ints:
    found: Ints = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return found


def _days(months: Ints) -> Ints:
    found: Ints = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return found


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins between the cuts of a clock's face, numbered; one without `clock` shows the instant itself."""

    cuts: Cuts
    clock: WallClock | None = None

    def numbers(self, physical: Ints) -> Ints:
        """The numbers of the bins that these times are in."""
        return self.cuts.numbers(physical if self.clock is None else self.clock.face(physical))

    def physical(self, numbers: Ints) -> Ints:
        """Where these bins begin."""
        faces = self.cuts.faces(numbers)
        return faces if self.clock is None else self.clock.first(faces)

    def number(self, value: int) -> int:
        """The same of one value, which need not be a time: it may lie beyond all of them."""
        if not -_END < value < _END:
            return _ALL if value > 0 else -_ALL
        return int(self.numbers(np.array([value]))[0])

    def begins(self, physical: Ints) -> Ints:
        """Where the bins of these times begin."""
        return self.physical(self.numbers(physical))

    @property
    def leap(self) -> int:
        """How many bins a change of the clock may skip."""
        if self.clock is None:
            return 0
        return -(-self.clock.leap // self.cuts.size) if isinstance(self.cuts, Even) else 1

    @property
    def step(self) -> int | None:
        """What the begins of any two bins are a multiple of this apart, where they are."""
        return self.cuts.size if self.clock is None and isinstance(self.cuts, Even) else None
