"""A number for every key, for several tables that are joined by it."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from arrowstream.frames import rows_where
from arrowstream.state.extents import Ints
from arrowstream.state.growing import GrowingArray
from arrowstream.state.table import KeyedTable

_WHOLE: Final = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
# A window of whole keys has so many places for each key that is known, and no fewer than these.
_SPARSE: Final = 4
_LEAST: Final = 1 << 16


class KeyNumbers:
    """Numbers for keys, counted up from 0; a key keeps its number for ever.

    It is no state but follows from the rows of those who share it: a number that nobody uses any more, after a
    rollback, does no harm. Whole keys that lie close together, as ids that count up do, are looked up by place, in a
    window that grows with them; all others by their hash. Keys are equal as in a Polars group.

    >>> numbers = KeyNumbers(pl.Schema({"id": pl.Int64}))
    >>> numbers.of(pl.DataFrame({"id": [1007]})).tolist(), numbers.of(pl.DataFrame({"id": [1001, 1007, 1001]})).tolist()
    ([0], [1, 0, 1])
    """

    def __init__(self, keys: pl.Schema) -> None:
        self._names = [f"key_{place}" for place in range(len(keys))]
        self._whole = len(keys) == 1 and isinstance(keys.dtypes()[0], _WHOLE)
        self._hashed = KeyedTable(pl.Schema(zip(self._names, keys.dtypes(), strict=True)), pl.Schema({}))
        # By slot of the hashed, and by place in the window: the number and 1, or 0 where there is none.
        self._of_hashed = GrowingArray(np.int64)
        self._window = GrowingArray(np.int64)
        self._base = self._count = 0
        self.sharers = 0

    @property
    def nbytes(self) -> int:
        return self._window.nbytes + self._of_hashed.nbytes + self._hashed.memory_bytes()

    def of(self, keys: pl.DataFrame) -> Ints:
        """The number of every row's key, made where missing."""
        if not self._names or not keys.height:
            return np.zeros(keys.height, np.int64)
        if not self._whole:
            return self._by_hash(keys)
        column = keys.to_series()
        nulls = column.null_count() > 0
        values = (column.fill_null(0) if nulls else column).to_numpy().astype(np.int64, copy=False)
        self._stretch(int(values.min()), int(values.max()), len(values))
        at = values - self._base
        inside = at.view(np.uint64) < len(self._window.values)
        if nulls:
            inside &= column.is_not_null().to_numpy()
        if inside.all():
            return self._numbered(self._window, at)
        numbers = np.empty(len(at), np.int64)
        numbers[inside] = self._numbered(self._window, at[inside])
        numbers[~inside] = self._by_hash(rows_where(keys, ~inside))
        return numbers

    def _by_hash(self, keys: pl.DataFrame) -> Ints:
        slots = self._hashed.intern(keys.rename(dict(zip(keys.columns, self._names, strict=True))))
        self._hashed.commit()
        self._of_hashed.grow(len(self._hashed))
        return self._numbered(self._of_hashed, slots)

    def _numbered(self, held: GrowingArray, at: Ints) -> Ints:
        """What is held at these places, new numbers where nothing is."""
        numbers = held.values.take(at)
        missing = np.flatnonzero(numbers == 0)
        if len(missing):
            places = at[missing]
            # Of the rows that meet in a place one wins.
            rows = np.arange(len(places))
            held.values[places] = rows
            first = places[held.values[places] == rows]
            held.values[first] = np.arange(self._count + 1, self._count + 1 + len(first))
            self._count += len(first)
            numbers[missing] = held.values[places]
        return numbers - 1

    def _stretch(self, low: int, high: int, rows: int) -> None:
        """Let the window reach these keys, unless it would be mostly empty."""
        size = len(self._window.values)
        if size:
            low, high = min(low, self._base), max(high, self._base + self._window.nbytes // 8 - 1)
        span = high - low + 1
        if (self._base <= low and high < self._base + size) or span > max(_SPARSE * (self._count + rows), _LEAST):
            return
        if not size:
            self._base = low
        elif low < self._base:
            # As much room again, so that keys that count down do not move it all each time.
            room = min(span, low + (1 << 62)) if low > -(1 << 62) else 0
            former, self._window = self._window.values, GrowingArray(np.int64)
            moved, self._base = self._base - low + room, low - room
            self._window.grow(moved + size)
            self._window.values[moved : moved + size] = former
        self._window.grow(high - self._base + 1)
        self._take_in()

    def _take_in(self) -> None:
        """Keys that were found by hash and now lie in the window keep their numbers."""
        count = len(self._hashed)
        if not count:
            return
        slots = np.arange(count)
        keys = self._hashed.gather_keys(slots).to_series()
        at = keys.fill_null(0).to_numpy().astype(np.int64) - self._base
        inside = (at.view(np.uint64) < len(self._window.values)) & keys.is_not_null().to_numpy()
        self._window.values[at[inside]] = self._of_hashed.values[slots[inside]]
