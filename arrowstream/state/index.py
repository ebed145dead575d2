"""Where a key's slot is: an open-addressing hash table in NumPy, probed a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from arrowstream.errors import StateError

Hashes: TypeAlias = npt.NDArray[np.uint64]
SlotArray: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.int64] | slice
# Says for rows of the batch and a slot each, whether the key stored at the slot is the key of the row.
Match: TypeAlias = Callable[[Rows, SlotArray], npt.NDArray[np.bool_]]

_HALF: Final = np.uint64(32)
_LOW: Final = np.uint64(0xFFFFFFFF)
_ONE: Final = np.uint64(1)
_EMPTY: Final = np.uint64(0)
_REMOVED: Final = np.uint64(1)
_SMALLEST: Final = 1 << 10
# Cells moved by a call while the table grows, on top of four for each new key.
_STEP: Final = 1 << 14
MAX_SLOTS: Final = (1 << 32) - 2


class SlotIndex:
    """Dense slots by key; the keys themselves stay with the caller, who is asked to compare them.

    A cell is 64 bits: the upper half of the key's hash (its tag) and the slot plus one. A key's home is its
    tag scaled to the number of cells, so cells lie in the order of their tags and linear probing goes on
    from there. That order is what makes growing cheap: the old table is read front to back and laid down
    front to back in the new one, a piece in every `insert`, and a key's tag tells on which side of the
    border it is. At most half the cells are used, 16 to 32 bytes a key.
    """

    def __init__(self) -> None:
        self._table = _Table(_SMALLEST)
        self._old: _Table | None = None
        self._border = 0
        self._live = 0

    def __len__(self) -> int:
        return self._live

    @property
    def nbytes(self) -> int:
        """Bytes of all cells; while growing, of both tables."""
        return self._table.cells.nbytes + (self._old.cells.nbytes if self._old else 0)

    def find(self, hashes: Hashes, match: Match) -> SlotArray:
        """The slot of every row's key, or -1."""
        tags = _tags(hashes)
        parts = self._parts(tags)
        if len(parts) == 1:
            return parts[0][0].find(tags, match)
        slots = np.empty(len(tags), np.int64)
        for table, rows in parts:
            slots[rows] = table.find(tags[rows], _matching(match, rows))
        return slots

    def insert(self, hashes: Hashes, slots: SlotArray) -> None:
        """Add keys that are not here, each with its slot; no key twice in a call."""
        self._make_room(len(slots))
        tags = _tags(hashes)
        cells = (tags << _HALF) | (slots.view(np.uint64) + _ONE)
        for table, rows in self._parts(tags):
            table.place(cells[rows])
        self._live += len(slots)

    def remove(self, hashes: Hashes, slots: SlotArray) -> None:
        """Take out keys that are here, each with the slot it has."""
        tags = _tags(hashes)
        for table, rows in self._parts(tags):
            table.remove(tags[rows], slots[rows])
        self._live -= len(slots)

    def _parts(self, tags: Hashes) -> list[tuple[_Table, Rows]]:
        """The tables to ask, with the rows each is asked for: the old one beyond the border."""
        if self._old is None:
            return [(self._table, slice(None))]
        moved = self._old.homes(tags) < self._border
        parts = [(self._table, np.flatnonzero(moved)), (self._old, np.flatnonzero(~moved))]
        return [(table, rows) for table, rows in parts if len(rows)]

    def _make_room(self, count: int) -> None:
        if self._old is not None:
            self._drain(4 * count + _STEP)
        if self._table.used + count <= self._table.size // 2:
            return
        if self._old is not None:
            self._drain(self._old.size)
        size = _SMALLEST
        while size < 3 * (self._live + count):
            size *= 2
        self._old, self._table, self._border = self._table, _Table(size), 0
        # A call that brings much by itself may take as long; only small ones are spared the rest.
        everything = count >= self._old.size // 16
        self._drain(self._old.size if everything else 4 * count + _STEP)

    def _drain(self, count: int) -> None:
        """Move the keys of the next `count` homes, and some more up to the next empty cell."""
        assert self._old is not None
        cells, self._border = self._old.take(self._border, self._border + count)
        self._table.lay(cells)
        if self._border == self._old.size:
            self._old = None


class _Table:
    """A power of two of cells; `used` counts those that are not empty, removed ones too."""

    __slots__ = ("_shift", "cells", "size", "used")

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self.cells = np.zeros(size, np.uint64)
        self._shift = np.uint64(32 - (size.bit_length() - 1))

    def homes(self, tags: Hashes) -> SlotArray:
        """Where the search for each tag begins."""
        homes: SlotArray = (tags >> self._shift).view(np.int64)
        return homes

    def find(self, tags: Hashes, match: Match) -> SlotArray:
        """The slot of each row, or -1: tags first, to the end; then the keys of all candidates at once."""
        slots, at = self._probe(tags, self.homes(tags))
        rows = np.flatnonzero(slots >= 0)
        same = match(rows, slots[rows]) if len(rows) < len(slots) else match(slice(None), slots)
        while not same.all():
            # Other keys with the same tag: seldom, so the rows left are few.
            rows = rows[~same]
            slots[rows], at[rows] = self._probe(tags[rows], self._next(at[rows]))
            rows = rows[slots[rows] >= 0]
            same = match(rows, slots[rows])
        return slots

    def _probe(self, tags: Hashes, at: SlotArray) -> tuple[SlotArray, SlotArray]:
        """Go from `at` to the first cell with the tag or empty; the slots there (-1 if empty), and where."""
        found = self.cells.take(at)
        left = np.flatnonzero(((found >> _HALF) != tags) & (found != _EMPTY))
        if len(left):
            tags_left, at_left = tags[left], at[left]
            at = at.copy()
        while len(left):
            at_left = self._next(at_left)
            cells = self.cells.take(at_left)
            found[left] = cells
            at[left] = at_left
            on = np.flatnonzero(((cells >> _HALF) != tags_left) & (cells != _EMPTY))
            left, tags_left, at_left = left[on], tags_left[on], at_left[on]
        return ((found & _LOW) - _ONE).view(np.int64), at

    def place(self, cells: Hashes) -> None:
        """Put new cells into the first empty place from their home on."""
        self.used += len(cells)
        at = self.homes(cells >> _HALF)
        while len(cells):
            free = np.flatnonzero(self.cells.take(at) == _EMPTY)
            self.cells[at[free]] = cells[free]
            # Of several that wrote to one place the last has it; they and the displaced go on.
            lost = np.flatnonzero(self.cells.take(at) != cells)
            cells, at = cells[lost], self._next(at[lost])

    def remove(self, tags: Hashes, slots: SlotArray) -> None:
        """Mark the cells of these slots as removed: searches go on over them."""
        wanted = (tags << _HALF) | (slots.view(np.uint64) + _ONE)
        at = self.homes(tags)
        while len(wanted):
            cells = self.cells.take(at)
            here = cells == wanted
            self.cells[at[here]] = _REMOVED
            left = np.flatnonzero(~here)
            if (cells[left] == _EMPTY).any():
                raise StateError("the index of a keyed table is damaged: a stored key is not in it")
            wanted, at = wanted[left], self._next(at[left])

    def take(self, start: int, stop: int) -> tuple[Hashes, int]:
        """The cells with homes from `start` to about `stop`, and where that ended: behind an empty cell.

        Ending there, no key of these homes lies further on. The cells stay, so that searches for later
        homes, which may run over the end of the table and through its beginning, still get past them.
        """
        stop = self.size if stop >= self.size else min(self._gap(stop - 1) + 1, self.size)
        piece = self.cells[start:stop]
        if stop == self.size:
            piece = np.concatenate([piece, self.cells[: min(self._gap(0), start)]])
        homes = self.homes(piece >> _HALF)
        return piece[(piece > _REMOVED) & (homes >= start) & (homes < stop)], stop

    def lay(self, cells: Hashes) -> None:
        """Place the next piece of an old table: beyond its first home nothing is here but the overhang."""
        if not len(cells):
            return
        # They are in order but for neighbours, which this sort makes use of: 2 ms for 260,000, the usual one takes 11.
        cells = np.sort(cells, kind="stable")
        count = np.arange(len(cells))
        homes = self.homes(cells >> _HALF)
        first = self._gap(int(homes[0]))
        at = np.maximum.accumulate(np.maximum(homes, first) - count) + count
        inside = int(np.searchsorted(at, self.size))
        self.cells[at[:inside]] = cells[:inside]
        self.used += inside
        self.place(cells[inside:])

    def _gap(self, at: int) -> int:
        """The first empty cell from `at` to the end of the table, or its size."""
        for start in range(at, self.size, 4096):
            gaps = np.flatnonzero(self.cells[start : start + 4096] == _EMPTY)
            if len(gaps):
                return start + int(gaps[0])
        return self.size

    def _next(self, at: SlotArray) -> SlotArray:
        return (at + 1) & (self.size - 1)


def _tags(hashes: Hashes) -> Hashes:
    """The upper halves; 0 is kept for cells that are empty or removed."""
    tags: Hashes = np.maximum(hashes >> _HALF, _ONE)
    return tags


def _matching(match: Match, rows: Rows) -> Match:
    """`match` for a part of the batch."""
    if isinstance(rows, slice):
        return match
    return lambda part, slots: match(rows[part], slots)
