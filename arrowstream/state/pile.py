"""Rows by key that only ever come: the sides of a join of streams that take nothing back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.frames import rows_at
from arrowstream.names import inner
from arrowstream.state.columns import check_payload
from arrowstream.state.copying import copied, texts_released
from arrowstream.state.delta import DELETED, merge_deltas, to_delta
from arrowstream.state.extents import Extents, Ints, stable_order
from arrowstream.state.numbers import KeyNumbers
from arrowstream.state.physical import storage

ROW: Final = inner("pile_row")
# So many pieces of about one size are joined into one of the next, and those of so many rows no more: a row is moved
# a few times in its life, pieces stay few, and no join is a long pause.
_JOINED: Final = 8
_LARGE: Final = 1 << 14
# Rows that are restored at once.
_SLICE: Final = 1 << 17


class Pile:
    """Rows in order of arrival, in frames much as they came, found by the number of their key.

    The texts of a large batch are not moved at all. Rows have ids that count up from 0. What is appended, found or
    read costs by itself, not by what is there.

    >>> pile = Pile(pl.Schema({"word": pl.String, "line": pl.Int64}), ["word"], KeyNumbers(pl.Schema({"w": pl.String})))
    >>> rows = pl.DataFrame({"word": ["a", "b", "a"], "line": [1, 2, 3]})
    >>> pile.append(rows, pile.numbers(rows))
    >>> _, ids = pile.find(pile.numbers(rows.head(1)))
    >>> pile.gather(ids, ["line"]).to_series().to_list()
    [1, 3]
    """

    def __init__(self, schema: pl.Schema, on: Sequence[str], numbers: KeyNumbers) -> None:
        if clash := {ROW, DELETED} & set(schema):
            raise StateError(f"the column {min(clash)!r} is used inside; rename yours")
        for name, dtype in schema.items():
            if storage(dtype) is None:
                check_payload(name, dtype)
        self._schema, self._on, self._numbers = schema, list(on), numbers
        numbers.sharers += 1
        self._clear()

    def _clear(self) -> None:
        self._extents = Extents()
        self._set([], 0)
        self._close()

    def _set(self, pieces: list[pl.DataFrame], raw: int) -> None:
        self._pieces = pieces
        # The last so many are small and as they came: they may keep alive what they were cut from.
        self._raw = raw
        # Where each piece begins.
        ends = np.cumsum([piece.height for piece in pieces], dtype=np.int64)
        self._starts, self._top = ends - [piece.height for piece in pieces], int(ends[-1]) if len(ends) else 0

    def _close(self) -> None:
        self._committed = (self._pieces, self._raw)
        self._committed_top = self._top

    @property
    def keys(self) -> pl.Schema:
        """The column by which a delta is applied: the id of the row."""
        return pl.Schema({ROW: pl.Int64()})

    @property
    def schema(self) -> pl.Schema:
        """The columns of a row."""
        return self._schema

    def __len__(self) -> int:
        return self._top

    def memory_bytes(self) -> int:
        """Bytes of rows and index, and of its share of the numbers."""
        rows = sum(int(piece.estimated_size()) for piece in self._pieces)
        return rows + self._extents.nbytes + self._numbers.nbytes // self._numbers.sharers

    def numbers(self, rows: pl.DataFrame) -> Ints:
        """The numbers of the rows' keys."""
        return self._numbers.of(rows[self._on] if self._on else rows)

    def append(self, rows: pl.DataFrame, numbers: Ints) -> None:
        """Add rows, whose keys have these numbers."""
        if not rows.height:
            return
        self._set(*_with(self._pieces, self._raw, rows[self._schema.names()]))
        first = self._top - rows.height
        self._extents.append(numbers, np.arange(first, self._top))

    def find(self, numbers: Ints) -> tuple[Ints, Ints]:
        """All pairs (place in `numbers`, id of a row with this key), in an order that `gather` likes."""
        places, ids = self._extents.find(numbers)
        if len(self._pieces) == 1 or not len(ids):
            return places, ids
        order = stable_order(self._piece_of(ids))
        return places[order], ids[order]

    def gather(self, ids: Ints, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns of the rows with these ids, those of a piece together, as `find` gives them."""
        if not len(ids):
            return self._schema.to_frame().select(columns)
        piece = self._piece_of(ids)
        begins = np.flatnonzero(np.diff(piece, prepend=-1))
        parts: list[pl.DataFrame] = [
            rows_at(self._pieces[piece[begin]][columns], ids[begin:end] - self._starts[piece[begin]])
            for begin, end in zip(begins, np.append(begins[1:], len(ids)), strict=True)
        ]
        return parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=True)

    def scan(self) -> pl.DataFrame:
        """All rows, in order of arrival."""
        return pl.concat(self._pieces, rechunk=False) if self._pieces else self._schema.to_frame()

    # -- versions ---------------------------------------------------------------------------------------

    def delta(self) -> pa.Table:
        """The rows that came since the last commit."""
        return to_delta(self._since(self._committed_top))

    def commit(self) -> None:
        """Make the open version the state."""
        self._extents.commit()
        self._close()

    def rollback(self) -> None:
        """Be again as at the last commit; ids given since then are given again, since their rows come again."""
        self._extents.rollback()
        self._set(*self._committed)

    def snapshot(self) -> pa.Table:
        """All rows in the form of a delta."""
        return to_delta(self._since(0))

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then take over a snapshot and deltas, oldest first."""
        rows, last = merge_deltas(tables, pl.Schema({ROW: pl.Int64(), **self._schema}), ROW)
        if rows.height and last + 1 != rows.height:
            raise StateError(f"{last + 1 - rows.height} rows are in none of the deltas: one is missing")
        self._clear()
        for start in range(0, rows.height, _SLICE):
            part = rows[start : start + _SLICE].drop(ROW)
            self.append(part, self.numbers(part))
            self.commit()

    # -- helpers ----------------------------------------------------------------------------------------

    def _piece_of(self, ids: Ints) -> Ints:
        piece: Ints = np.searchsorted(self._starts, ids, "right") - 1
        return piece

    def _since(self, first: int) -> pl.DataFrame:
        rows = self.scan().slice(first)
        return rows.insert_column(0, pl.Series(ROW, np.arange(first, first + rows.height)))


def _with(pieces: list[pl.DataFrame], raw: int, rows: pl.DataFrame) -> tuple[list[pl.DataFrame], int]:
    """The pieces and one more, joined where there are too many small ones; how many are raw."""
    if rows.height >= _LARGE:
        return [*_joined(pieces, raw), texts_released(rows)], 0
    after, raw = [*pieces, rows], raw + 1
    if raw < _JOINED:
        return after, raw
    after = _joined(after, raw)
    while after[-1].height < _LARGE:
        size, count = _size(after[-1]), 1
        while count < len(after) and _size(after[-count - 1]) <= size and after[-count - 1].height < _LARGE:
            count += 1
        if count < _JOINED:
            break
        after = _joined(after, count)
    return after, 0


def _joined(pieces: list[pl.DataFrame], count: int) -> list[pl.DataFrame]:
    """The last so many of the pieces as one in memory of its own."""
    return [*pieces[:-count], copied(pl.concat(pieces[-count:]))] if count else pieces


def _size(piece: pl.DataFrame) -> int:
    return math.frexp(piece.height)[1] // 3
