"""A plain frame of rows: state that the watermark bounds, so that it may be read whole in every batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.frames import rows_where
from arrowstream.names import inner
from arrowstream.state.columns import check_payload
from arrowstream.state.copying import copied, released, texts_released
from arrowstream.state.delta import DELETED, merge_deltas, to_delta
from arrowstream.state.extents import Ints
from arrowstream.state.physical import storage

ID: Final = inner("id")
"""The column that names a row: Int64, counted up in order of arrival."""

# A piece that was joined of more appends is written anew, so that no texts refer to thousands of buffers.
_MANY: Final = 32


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows in memory of their own, with the texts of so many appends; where they are kept by bin, their bins, sorted
    and each once. `last` is the highest number among them. A piece is never changed."""

    rows: pl.DataFrame
    buffers: int
    bins: Ints
    last: int

    @classmethod
    def of(cls, rows: pl.DataFrame, buffers: int, bins: Ints) -> Piece:
        """The piece of these rows."""
        return cls(rows, buffers, bins, int(rows[ID].max() or 0))  # type: ignore[arg-type]


class RowTable:
    """Rows in order of arrival: sessions, the sides of a join with bounds.

    Frames are immutable, so the former version is simply kept until the next is committed. What is asked of it costs
    by all its rows, except for `append`: it is for rows that are looked at, or let go, as time goes on. Numbers are
    not given again, neither after a rollback nor after a restore. Of the batches that rows came with, no more stays
    alive than a few times the rows' own memory.

    >>> table = RowTable(pl.Schema({"word": pl.String}))
    >>> ids = table.append(pl.DataFrame({"word": ["a", "b"]}))
    >>> table.keep(table.frame["word"] == "b")
    >>> table.frame.rows()
    [(2, 'b')]
    """

    def __init__(self, schema: pl.Schema) -> None:
        if ID in schema or DELETED in schema:
            raise StateError(f"the columns {ID!r} and {DELETED!r} are used inside; rename yours")
        for name, dtype in schema.items():
            if storage(dtype) is None:
                check_payload(name, dtype)
        self._schema = pl.Schema({ID: pl.Int64(), **schema})
        self._next = 1
        self._set(self._schema.to_frame())
        self.commit()

    def _set(self, frame: pl.DataFrame) -> None:
        """Be one frame whose memory is its own."""
        self._be([self._piece(frame)] if frame.height else [])
        # Rows whose texts may be alive: those here, and those dropped since the last copy.
        self._held = frame.height

    def _be(self, pieces: Sequence[Piece]) -> None:
        """Be these pieces."""
        self._pieces = tuple(pieces)
        self._whole: pl.DataFrame | None = None

    def _piece(self, rows: pl.DataFrame, buffers: int = 1) -> Piece:
        return Piece.of(rows, buffers, np.empty(0, np.int64))

    @property
    def keys(self) -> pl.Schema:
        """The one key column, the number of the row."""
        return pl.Schema({ID: pl.Int64()})

    @property
    def frame(self) -> pl.DataFrame:
        """All rows, `ID` first, in order of arrival. The frame stays as it is when the table changes."""
        if self._whole is None:
            frames = [piece.rows for piece in self._pieces]
            self._whole = pl.concat(frames, rechunk=False) if frames else self._schema.to_frame()
        return self._whole

    @property
    def next_id(self) -> int:
        """The number that the next row will have."""
        return self._next

    def __len__(self) -> int:
        return sum(piece.rows.height for piece in self._pieces)

    def memory_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(int(piece.rows.estimated_size()) for piece in self._pieces)

    def append(self, rows: pl.DataFrame, *, whole: bool = False) -> pl.Series:
        """Add rows of the table's columns; their numbers. Where they are `whole`, and no slice of something larger,
        numbers stay in the memory they came in."""
        ids = pl.Series(ID, np.arange(self._next, self._next + rows.height))
        if not rows.height:
            return ids
        self._next += rows.height
        self._held += rows.height
        taken = texts_released if whole else released
        for piece in self._cut(rows.select_seq(list(self._schema)[1:]).insert_column(0, ids)):
            self._add(replace(piece, rows=taken(piece.rows), buffers=1))
        return ids

    def _cut(self, rows: pl.DataFrame) -> Sequence[Piece]:
        """What is appended as pieces to be kept apart."""
        return [self._piece(rows)]

    def _add(self, piece: Piece) -> None:
        """Add a piece. It joins the last one of its like that is not twice its size: a row is moved a few times in its
        life, and pieces stay few."""
        pieces, joining = list(self._pieces), [piece]
        height = piece.rows.height
        place = self._alike(piece, len(pieces))
        while place is not None and pieces[place].rows.height <= 2 * height:
            joining.append(pieces.pop(place))
            height += joining[-1].rows.height
            place = self._alike(piece, place)
        if len(joining) > 1:
            rows = pl.concat([each.rows for each in reversed(joining)], rechunk=True)
            buffers = sum(each.buffers for each in joining)
            if buffers > _MANY:
                rows, buffers = copied(rows), 1
            bins = all_bins([each.bins for each in joining])
            piece = Piece(rows, buffers, bins, max(each.last for each in joining))
        self._be([*pieces, piece])

    def _alike(self, piece: Piece, before: int) -> int | None:
        """The last piece before this place that it may join."""
        return before - 1 if before else None

    def keep(self, rows: pl.Series | pl.Expr) -> None:
        """Drop the rows for which this is not true."""
        frame = self.frame
        if isinstance(rows, pl.Series):
            if rows.all() and not rows.null_count():
                return
            if not rows.any():
                self.clear()
                return
        kept = rows_where(frame, rows) if isinstance(rows, pl.Series) else frame.filter(rows)
        if kept.height == frame.height:
            return
        # Texts that are left refer to the buffers of all; once most is gone, that pays for a copy.
        if 4 * kept.height < self._held:
            self._set(copied(kept))
        else:
            self._be([self._piece(kept.rechunk(), sum(piece.buffers for piece in self._pieces))])

    def clear(self) -> None:
        """Drop all rows."""
        self._set(self._schema.to_frame())

    def replace(self, rows: pl.DataFrame) -> None:
        """Drop all rows and add these, under new numbers."""
        self.clear()
        self.append(rows)

    def delta(self) -> pa.Table:
        """Rows that came since the last commit and are still there, and the numbers of those that went.

        Only the pieces are looked at in which the two versions differ: the cost follows the batch, not the table.
        """
        held = {id(piece) for piece in self._pieces}
        former = {id(piece) for piece in self._committed[0]}
        now = [piece.rows for piece in self._pieces if id(piece) not in former]
        before = [piece.rows[ID].to_numpy() for piece in self._committed[0] if id(piece) not in held]
        rows = pl.concat(now) if now else self._schema.to_frame()
        gone = np.setdiff1d(np.concatenate([np.empty(0, np.int64), *before]), rows[ID].to_numpy(), assume_unique=True)
        return self._delta(rows.filter(pl.col(ID) >= self._committed_next).sort(ID), gone)

    def _in_order(self) -> pl.DataFrame:
        """All rows in order of arrival."""
        return self.frame

    def commit(self) -> None:
        """Make the open version the state."""
        self._committed = (self._pieces, self._held)
        self._committed_next = self._next

    def rollback(self) -> None:
        """Be again as at the last commit; numbers given since then are not given again."""
        pieces, self._held = self._committed
        self._be(pieces)

    def snapshot(self) -> pa.Table:
        """All rows in the form of a delta."""
        return self._delta(self._in_order(), np.empty(0, np.int64))

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then take over a snapshot and deltas, oldest first."""
        frame, last = merge_deltas(tables, self._schema, ID)
        self._next = last + 1
        self._set(copied(frame))
        self.commit()

    def _delta(self, added: pl.DataFrame, gone: npt.NDArray[np.int64]) -> pa.Table:
        """Also the last number given, if its row is gone: the newest delta of a log is not merged, and remembers it."""
        if max((piece.last for piece in self._pieces), default=0) != self._next - 1:
            gone = np.union1d(gone, [self._next - 1])
        if not len(gone):
            return to_delta(added)
        removed = self._schema.to_frame().clear(len(gone)).with_columns(pl.Series(ID, gone))
        flags = pl.Series(np.repeat([False, True], [added.height, removed.height]))
        return to_delta(pl.concat([added, removed]), flags)


def all_bins(bins: Sequence[Ints]) -> Ints:
    """All bins of several pieces."""
    if all(np.array_equal(each, bins[0]) for each in bins[1:]):
        return bins[0]
    return np.unique(np.concatenate(bins))
