"""Windows that are runs of bins: which of them close, and what they are made of, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from arrowstream.plan.bins import Bins, Cuts, months_later
from arrowstream.plan.wallclock import Ints as Ints

_LAST: Final = 2**63 - 2**50


@dataclass(frozen=True, slots=True)
class Spans:
    """Windows: where each begins, and where it ends."""

    starts: Ints
    stops: Ints

    def __len__(self) -> int:
        return len(self.starts)

    def pieces(self, bins: Ints, *, touching: bool = False) -> tuple[Ints, Ints]:
        """Which of the bins, sorted and each once, begin in which window: bins, and places of windows.

        With `touching` also those that begin where the window ends.
        """
        low, high = (
            np.searchsorted(bins, self.starts),
            np.searchsorted(bins, self.stops, "right" if touching else "left"),
        )
        places = np.repeat(np.arange(len(self)), high - low)
        return bins[ranges(low, high - 1, 1)], places


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows of a number of bins each.

    They begin with the bins 0, `stride` and so on, and hold `length` bins; where they grow (`grows`), they begin
    with 0, `length` and so on, and one more ends with each bin.
    """

    bins: Bins
    stride: int
    length: int
    grows: bool = False

    def closing(self, bins: Ints, low: int, high: int, *, touching: bool = False) -> Spans:
        """The windows with any of these bins, sorted and each once, that end with a bin above `low` and up to `high`.

        With `touching` also those that end where one of the bins begins, and perhaps more.
        """
        if not len(bins) or high <= low:
            return Spans(np.empty(0, np.int64), np.empty(0, np.int64))
        reach = self.length
        if touching:
            reach += 1 + self.bins.leap
        first, last = max(low + 1, int(bins[0]) - reach), min(high, int(bins[-1]) + self.length)
        former = np.concatenate([[int(bins[0]) - reach - 1], bins[:-1]])
        if not self.grows:
            # What holds a bin, and not the one before it: each window once, also where bins are far apart.
            begin = np.maximum(np.maximum(former, bins - reach) + 1, first - self.length)
            starts = ranges(self._next(begin), np.minimum(bins, last - self.length), self.stride)
            return Spans(starts, starts + self.length)
        blocks = bins // self.length * self.length
        new = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1))
        blocks, bins = blocks[new], bins[new]
        begin, end = np.maximum(bins + 1, first), np.minimum(blocks + self.length, last)
        return Spans(np.repeat(blocks, np.maximum(end - begin + 1, 0)), ranges(begin, end, 1))

    def physical(self, found: Spans) -> Spans:
        """Where these windows begin and end; without those that a change of the clock makes the same as the next."""
        starts, stops = self.bins.physical(found.starts), self.bins.physical(found.stops)
        if self.bins.clock is None or not len(starts):
            return Spans(starts, stops)
        if self.grows:
            kept = stops > self.bins.physical(found.stops - 1)
        else:
            kept = starts < self.bins.physical(found.starts + self.stride)
        return Spans(starts, stops) if kept.all() else Spans(starts[kept], stops[kept])

    def complete(self, end: int) -> int:
        """All bins below this number get no more rows but late ones, once windows that end here are closed."""
        return end if self.grows else (end - self.length) // self.stride * self.stride + self.length

    def needed(self, end: int) -> int:
        """The first bin that may belong to a window that ends later than this."""
        stride = self.length if self.grows else self.stride
        return ((end - self.length) // stride + 1) * stride

    def _next(self, numbers: Ints) -> Ints:
        """The same bin, or the next that a window begins with."""
        return -(-numbers // self.stride) * self.stride


@dataclass(frozen=True, slots=True)
class Uneven:
    """Windows of months every few days, or of days every few months: some have more bins than others.

    They begin at the cuts `every`, and are `months` and then `rest` long, between `shortest` and `longest`; a day has
    `day` units. A clock without changes is `base` ahead of what is cut.
    """

    bins: Bins
    every: Cuts
    months: int
    rest: int
    shortest: int
    longest: int
    day: int
    base: int

    def closing(self, begins: Ints, low: int, high: int, *, touching: bool = False) -> Spans:
        """The windows, in physical values, with any of the bins that begin here, that end after `low` and up to `high`.

        Sorted, and each once. With `touching` also those that end where one of the bins begins.
        """
        if not len(begins) or high <= low:
            return Spans(begins[:0], begins[:0])
        clock = self.bins.clock
        faces = begins if clock is None else clock.face(begins)
        leap = clock.leap if clock is not None and touching else 0
        earliest = np.maximum(self.every.numbers(faces - self.longest - leap), self._number(low, -self.longest - leap))
        last = np.minimum(self.every.numbers(faces), self._number(high, leap - self.shortest))
        former = np.concatenate([earliest[:1] - 1, last[:-1]])
        numbers = ranges(np.maximum(former + 1, earliest), last, 1)
        spans = self._spans(numbers)
        starts, stops = spans.starts, spans.stops
        held = np.searchsorted(begins, stops, "right" if touching else "left") > np.searchsorted(begins, starts)
        held &= (stops > low) & (stops <= high) & (starts < self._instants(self.every.faces(numbers + 1)))
        return Spans(starts[held], stops[held])

    def opening(self, end: int, *, label_right: bool) -> int:
        """The least start, or stop, of the windows that stop after this."""
        leap = 0 if self.bins.clock is None else self.bins.clock.leap
        first, last = self._number(end, -self.longest - leap), self._number(end, 0)
        spans = self._spans(np.arange(first, last + 2))
        return int((spans.stops if label_right else spans.starts)[spans.stops > end].min())

    def _number(self, instant: int, more: int) -> int:
        """The last window that begins up to this instant, and so much more; any number that is beyond all others."""
        if abs(instant) > _LAST:
            return _LAST if instant > 0 else -_LAST
        at = np.array([instant])
        face = at if self.bins.clock is None else self.bins.clock.face(at)
        return int(self.every.numbers(face + more)[0])

    def _spans(self, numbers: Ints) -> Spans:
        first = self.every.faces(numbers)
        last = months_later(first + self.base, self.months, self.day) - self.base + self.rest
        return Spans(self._instants(first), self._instants(last))

    def _instants(self, faces: Ints) -> Ints:
        return faces if self.bins.clock is None else self.bins.clock.first(faces)


def cover(spans: Spans, base: int, levels: int) -> Sequence[tuple[Ints, Ints]]:
    """Each window as few aligned runs of bins: for each level the numbers of its runs, and the places of their windows.

    Run n of level j holds the bins from n * base**j up to (n + 1) * base**j. This is the classic cover of a range in
    a tree: at most 2 * (base - 1) runs of a level, but for the highest.
    """
    left, right, at = spans.starts, spans.stops, np.arange(len(spans))
    found: list[tuple[Ints, Ints]] = []
    for level in range(levels + 1):
        up, down = -(-left // base), right // base
        going = (up < down) & (level < levels)
        stop, begin = np.where(going, up * base, right), np.where(going, down * base, right)
        counts = np.concatenate([stop - left, right - begin])
        runs = np.concatenate([ranges(left, stop - 1, 1), ranges(begin, right - 1, 1)])
        found.append((runs, np.repeat(np.concatenate([at, at]), counts)))
        left, right, at = up[going], down[going], at[going]
    return found


def ranges(first: Ints, last: Ints, step: int) -> Ints:
    """All of these ranges, one after the other; both ends belong to them."""
    counts = np.maximum((last - first) // step + 1, 0)
    offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    found: Ints = np.repeat(first, counts) + offsets * step
    return found
