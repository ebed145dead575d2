"""Row ids by slot: each slot's ids lie side by side, in an extent that doubles when it is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from arrowstream.errors import StateError
from arrowstream.state.growing import GrowingArray

Ints: TypeAlias = npt.NDArray[np.int64]

# A head is where the slot's extent begins, and in the lower bits how many ids it holds.
_BITS: Final = 30
_COUNT: Final = (1 << _BITS) - 1
_MAX_STARTS: Final = 1 << 33
_HALF: Final = 16


class Extents:
    """Which ids belong to a slot, in the order in which they came.

    An extent has room for a power of two of ids. One that is full gives way to one of twice the size and is then
    free for another slot, so an id is moved once or twice in its life, nothing is merged, and what is appended or
    found costs by itself, wherever the slots are. Changes since the last `commit` can be rolled back: they only
    write behind what was there, and extents given up in the open version are not used again in it.
    """

    def __init__(self) -> None:
        self._heads = GrowingArray(np.int64)
        self._pool = GrowingArray(np.int64)
        self._top = 0
        self._free: dict[int, list[Ints]] = {}
        self._close()

    def _close(self) -> None:
        self._undo: list[tuple[Ints, Ints]] = []
        self._taken: list[tuple[int, Ints]] = []
        self._given_up: list[tuple[int, Ints]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all extents, free ones too."""
        return self._heads.nbytes + self._pool.nbytes

    def append(self, slots: Ints, ids: Ints) -> None:
        """More ids, each for its slot; a slot may come often."""
        if not len(slots):
            return
        touched, more, first = slots, np.ones_like(slots), np.arange(len(slots))
        if not (slots[1:] > slots[:-1]).all():  # else each slot comes once, and in order, as new ones do
            order = stable_order(slots)
            ordered, ids = slots[order], ids[order]
            first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            touched, more = ordered[first], np.diff(np.append(first, len(ordered)))
        self._heads.grow(int(touched[-1]) + 1)
        heads = self._heads.values.take(touched)
        starts, held = heads >> _BITS, heads & _COUNT
        full = np.flatnonzero(held + more > _room(held))
        if len(full):
            starts[full] = self._move(starts[full], held[full], (held + more)[full])
        self._undo.append((touched, heads))
        self._heads.values[touched] = (starts << _BITS) | (held + more)
        at = np.repeat(starts + held - first, more)
        at += np.arange(len(at))
        self._pool.values[at] = ids

    def find(self, slots: Ints) -> tuple[Ints, Ints]:
        """All pairs (place in `slots`, id), by rising place, of a place in order of arrival; -1 has none."""
        starts, counts = self._spans(slots)
        places = np.repeat(np.arange(len(slots)), counts)
        return places, self._pool.values.take(_unfold(starts, counts))

    def counts(self, slots: Ints) -> Ints:
        """How many ids each slot has."""
        return self._spans(slots)[1]

    def weed(self, slots: Ints, alive: Callable[[Ints], npt.NDArray[np.bool_]]) -> Ints:
        """Take out the ids of these slots, no slot twice, that are not alive; they are returned.

        It cannot be rolled back, so it is for the time of the commit.
        """
        starts, counts = self._spans(slots)
        ids = self._pool.values.take(_unfold(starts, counts))
        kept = alive(ids)
        left = np.bincount(np.repeat(np.arange(len(slots)), counts)[kept], minlength=len(slots))
        less = np.flatnonzero(_room(left) < _room(counts))
        for size, rows in _by_size(counts[less]):
            self._give_back(size, starts[less[rows]])
        if len(less):
            starts[less] = self._take(left[less])
        self._heads.values[slots] = np.where(left > 0, (starts << _BITS) | left, 0)
        self._pool.values[_unfold(starts, left)] = ids[kept]
        self._taken.clear()
        return ids[~kept]

    def commit(self) -> None:
        """Make the open version the state."""
        for size, starts in self._given_up:
            self._give_back(size, starts)
        self._close()

    def rollback(self) -> None:
        """Be again as at the last commit."""
        for slots, heads in reversed(self._undo):
            self._heads.values[slots] = heads
        for size, starts in self._taken:
            self._give_back(size, starts)
        self._close()

    # -- helpers ----------------------------------------------------------------------------------------

    def _spans(self, slots: Ints) -> tuple[Ints, Ints]:
        if not len(self._heads.values):
            return np.zeros(len(slots), np.int64), np.zeros(len(slots), np.int64)
        heads = self._heads.values.take(slots, mode="clip")
        known = (slots >= 0) & (slots < len(self._heads.values))
        return heads >> _BITS, np.where(known, heads & _COUNT, 0)

    def _move(self, starts: Ints, held: Ints, need: Ints) -> Ints:
        """New extents with room for `need`, with what the old ones hold."""
        fresh = self._take(need)
        some = np.flatnonzero(held)
        if len(some):
            starts, held = starts[some], held[some]
            ids = self._pool.values.take(_unfold(starts, held))
            self._pool.values[_unfold(fresh[some], held)] = ids
            self._given_up += [(size, starts[rows]) for size, rows in _by_size(held)]
        return fresh

    def _take(self, need: Ints) -> Ints:
        """Free extents for so many ids each; none for 0."""
        starts = np.zeros(len(need), np.int64)
        for size, rows in _by_size(need):
            starts[rows] = taken = self._extents(size, len(rows))
            self._taken.append((size, taken))
        return starts

    def _extents(self, size: int, count: int) -> Ints:
        free, parts, left = self._free.get(size, []), [np.empty(0, np.int64)], count
        while left and free:
            part = free.pop()
            if len(part) > left:
                free.append(part[left:])
                part = part[:left]
            parts.append(part)
            left -= len(part)
        if left:
            parts.append(self._top + (np.arange(left) << size))
            self._top += left << size
            if self._top > _MAX_STARTS:
                raise StateError("the rows by key of one partition are too many: use more workers or partitions")
            self._pool.grow(self._top)
        return np.concatenate(parts)

    def _give_back(self, size: int, starts: Ints) -> None:
        self._free.setdefault(size, []).append(starts)


def stable_order(numbers: Ints) -> Ints:
    """What sorts numbers from 0 to 2**32 - 1; sixteen bits at a time, which NumPy sorts by radix."""
    order: Ints = np.argsort((numbers & 0xFFFF).astype(np.uint16), kind="stable")
    high = numbers >> _HALF
    if high.any():
        order = order[np.argsort(high.astype(np.uint16)[order], kind="stable")]
    return order


def _sizes(counts: Ints) -> Ints:
    """The logarithm of the least power of two that is not below each count (from 1)."""
    sizes: Ints = np.frexp(counts - 1.0)[1].astype(np.int64)
    return sizes


def _room(counts: Ints) -> Ints:
    return np.where(counts > 0, 1 << np.maximum(_sizes(counts), 0), 0)


def _by_size(counts: Ints) -> list[tuple[int, Ints]]:
    """The rows of each size of extent; rows with nothing are in none."""
    sizes = np.where(counts > 0, _sizes(counts), -1)
    return [(int(size), np.flatnonzero(sizes == size)) for size in np.flatnonzero(np.bincount(sizes + 1)[1:])]


def _unfold(starts: Ints, counts: Ints) -> Ints:
    """Where everything is that begins at `starts` and goes on for `counts`."""
    at = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    at += np.arange(len(at))
    return at
