"""Rows by bins of time: open windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from arrowstream.frames import rows_where
from arrowstream.state.copying import texts_released
from arrowstream.state.extents import Ints
from arrowstream.state.rows import ID, Piece, RowTable, all_bins

# What is appended is cut by bin if it has no more bins than these.
_FEW: Final = 8
# So many rows may lie about that nobody needs; beyond, they are dropped once they are a quarter.
_LITTLE: Final = 1 << 15


class BinTable(RowTable):
    """Rows in pieces of one bin each, or, where a batch brings many bins at once, of several.

    The rows of some bins are found, and dropped, by the piece: neither filters what it need not look at. A bin is the
    value of the column `by`, an integer or a time, here as Polars' physical integer; `step` is what bins are multiples
    of, if they are. With `ordered` the rows stand in order of arrival, so that no batch is cut.

    >>> table = BinTable(pl.Schema({"word": pl.String, "bin": pl.Int64}), "bin", step=10, ordered=False)
    >>> ids = table.append(pl.DataFrame({"word": ["a", "b", "c"], "bin": [10, 20, 10]}))
    >>> table.bins.tolist(), table.between(10, 20)["word"].to_list()
    ([10, 20], ['a', 'c'])
    >>> table.drop(20)
    >>> table.frame["word"].to_list()
    ['b']
    """

    def __init__(self, schema: pl.Schema, by: str, *, step: int | None, ordered: bool) -> None:
        self._by, self._step, self._ordered = by, step, ordered
        super().__init__(schema)

    def _be(self, pieces: Sequence[Piece]) -> None:
        super()._be(pieces)
        self._bins: Ints | None = None

    def _piece(self, rows: pl.DataFrame, buffers: int = 1) -> Piece:
        return Piece.of(rows, buffers, self._bins_of(self._at(rows)))

    @property
    def bins(self) -> Ints:
        """All bins of which there are rows, sorted, each once."""
        if self._bins is None:
            self._bins = all_bins([piece.bins for piece in self._pieces]) if self._pieces else np.empty(0, np.int64)
        return self._bins

    def between(self, low: int, high: int) -> pl.DataFrame:
        """The rows of the bins from `low` up to, and without, `high`."""
        found = []
        for piece in self._pieces:
            first, last = int(piece.bins[0]), int(piece.bins[-1])
            if low <= first and last < high:
                found.append(piece.rows)
            elif first < high and low <= last:
                at = self._at(piece.rows)
                found.append(rows_where(piece.rows, (at >= low) & (at < high)))
        if len(found) == 1:
            return found[0]
        return pl.concat(found, rechunk=False) if found else self._schema.to_frame()

    def drop(self, before: int) -> None:
        """Drop the rows of bins below this one; of pieces with several bins only if they are many."""
        if not self._pieces or before <= self.bins[0]:
            return
        alive = [piece for piece in self._pieces if piece.bins[-1] >= before]
        self._be([piece if piece.bins[0] >= before else self._without(piece, before) for piece in alive])
        self._held = len(self)

    def _without(self, piece: Piece, before: int) -> Piece:
        mask = self._at(piece.rows) >= before
        gone, height = int(len(mask) - mask.sum()), len(mask)
        if height > _LITTLE and 4 * gone < height:
            return piece
        return Piece.of(texts_released(rows_where(piece.rows, mask)), piece.buffers, piece.bins[piece.bins >= before])

    def _cut(self, rows: pl.DataFrame) -> Sequence[Piece]:
        at = self._at(rows)
        bins = self._bins_of(at)
        if self._ordered or not 1 < len(bins) <= _FEW:
            return [Piece.of(rows, 1, bins)]
        return [Piece.of(rows_where(rows, at == one), 1, np.array([one])) for one in bins]

    def _alike(self, piece: Piece, before: int) -> int | None:
        if self._ordered:
            return super()._alike(piece, before)
        for place in reversed(range(before)):
            other = self._pieces[place].bins
            if len(other) == len(piece.bins) == 1 and other[0] == piece.bins[0]:
                return place
            if len(other) > 1 and len(piece.bins) > 1:
                return place
        return None

    def _in_order(self) -> pl.DataFrame:
        return self.frame if self._ordered or len(self._pieces) <= 1 else self.frame.sort(ID)

    def _at(self, rows: pl.DataFrame) -> Ints:
        at: Ints = rows[self._by].cast(pl.Int64).to_numpy()
        return at

    def _bins_of(self, at: Ints) -> Ints:
        if not len(at):
            return at
        low, high = int(at.min()), int(at.max())
        if low == high:
            return np.array([low])
        if self._step is not None and (high - low) // self._step <= 2 * len(at):
            return low + np.flatnonzero(np.bincount((at - low) // self._step)) * self._step
        return np.unique(at)
