"""Windows of even length, counted in bins: which of them close, and what they are made of, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]


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
    """Bin number 0 begins at the physical value `origin` of the column, and each is `size` long.

    Windows begin with the bins `phase`, `phase + stride` and so on, and hold `length` bins; where they grow
    (`grows`), one more ends with each of its bins.
    """

    origin: int
    size: int
    phase: int
    stride: int
    length: int
    grows: bool

    def numbers(self, physical: Ints) -> Ints:
        """The numbers of the bins that begin at these values."""
        return (physical - self.origin) // self.size

    def physical(self, numbers: Ints) -> Ints:
        """Where these bins begin."""
        return numbers * self.size + self.origin

    def end(self, physical: int) -> int:
        """The last bin by whose begin windows may end that end by this value."""
        return (physical - self.origin) // self.size

    def closing(self, bins: Ints, low: int, high: int, *, touching: bool = False) -> Spans:
        """The windows with any of these bins, sorted and each once, that end with a bin above `low` and up to `high`.

        With `touching` also those that end where one of the bins begins.
        """
        if not len(bins) or high <= low:
            return Spans(np.empty(0, np.int64), np.empty(0, np.int64))
        reach = self.length + touching
        first, last = max(low + 1, int(bins[0]) - 1), min(high, int(bins[-1]) + self.length)
        former = np.concatenate([[int(bins[0]) - reach - 1], bins[:-1]])
        if not self.grows:
            # What holds a bin, and not the one before it: each window once, also where bins are far apart.
            begin = np.maximum(np.maximum(former, bins - reach) + 1, first - self.length)
            starts = ranges(self._next(begin), np.minimum(bins, last - self.length), self.stride)
            return Spans(starts, starts + self.length)
        blocks = self.phase + (bins - self.phase) // self.length * self.length
        new = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1))
        blocks, bins = blocks[new], bins[new]
        begin, end = np.maximum(bins + 1, first), np.minimum(blocks + self.length, last)
        return Spans(np.repeat(blocks, np.maximum(end - begin + 1, 0)), ranges(begin, end, 1))

    def complete(self, end: int) -> int:
        """All bins below this number get no more rows but late ones, once windows that end here are closed."""
        if self.grows:
            return end
        return self.phase + (end - self.length - self.phase) // self.stride * self.stride + self.length

    def needed(self, end: int) -> int:
        """The first bin that may belong to a window that ends later than this."""
        stride = self.length if self.grows else self.stride
        return self.phase + ((end - self.length - self.phase) // stride + 1) * stride

    def _next(self, numbers: Ints) -> Ints:
        """The same bin, or the next that a window begins with."""
        return self.phase - (self.phase - numbers) // self.stride * self.stride


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
