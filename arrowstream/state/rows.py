"""A plain frame of rows: state that the watermark bounds, so that it may be read whole in every batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.frames import rows_where
from arrowstream.state.columns import check_payload
from arrowstream.state.copying import copied, released, texts_released
from arrowstream.state.delta import DELETED, merge_deltas, to_delta
from arrowstream.state.physical import storage

ID: Final = "__id"
"""The column that names a row: Int64, counted up in order of arrival."""

# A piece that was joined of more appends is written anew, so that no texts refer to thousands of buffers.
_MANY: Final = 32


class RowTable:
    """Rows in order of arrival: open windows, sessions, the sides of a join with bounds.

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
            raise StateError(f"the columns {ID} and {DELETED} are used inside; rename yours")
        for name, dtype in schema.items():
            if storage(dtype) is None:
                check_payload(name, dtype)
        self._schema = pl.Schema({ID: pl.Int64(), **schema})
        self._next = 1
        self._set(self._schema.to_frame())
        self.commit()

    def _set(self, frame: pl.DataFrame) -> None:
        """Be one frame whose memory is its own."""
        self._pieces = [frame] if frame.height else []
        self._buffers = [1] * len(self._pieces)
        """Of how many appends each piece has the texts."""
        self._whole: pl.DataFrame | None = frame
        # Rows whose texts may be alive: those here, and those dropped since the last copy.
        self._held = frame.height

    @property
    def keys(self) -> pl.Schema:
        """The one key column, the number of the row."""
        return pl.Schema({ID: pl.Int64()})

    @property
    def frame(self) -> pl.DataFrame:
        """All rows, `__id` first, in order of arrival. The frame stays as it is when the table changes."""
        if self._whole is None:
            self._whole = pl.concat(self._pieces, rechunk=False) if self._pieces else self._schema.to_frame()
        return self._whole

    @property
    def next_id(self) -> int:
        """The number that the next row will have."""
        return self._next

    def __len__(self) -> int:
        return sum(piece.height for piece in self._pieces)

    def memory_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(int(piece.estimated_size()) for piece in self._pieces)

    def append(self, rows: pl.DataFrame, *, whole: bool = False) -> pl.Series:
        """Add rows of the table's columns; their numbers. Where they are `whole`, and no slice of something larger,
        numbers stay in the memory they came in."""
        ids = pl.Series(ID, np.arange(self._next, self._next + rows.height))
        if not rows.height:
            return ids
        self._next += rows.height
        self._held += rows.height
        taken = texts_released if whole else released
        added = [taken(rows.select_seq(list(self._schema)[1:]).insert_column(0, ids))]
        # A piece joins a last one not twice its size: a row is moved a few times in its life, and pieces stay few.
        pieces, buffers = list(self._pieces), list(self._buffers)
        height, joined_buffers = rows.height, 1
        while pieces and pieces[-1].height <= 2 * height:
            height += pieces[-1].height
            joined_buffers += buffers.pop()
            added.append(pieces.pop())
        joined = pl.concat(reversed(added), rechunk=True) if len(added) > 1 else added[0]
        if joined_buffers > _MANY:
            joined, joined_buffers = copied(joined), 1
        self._pieces, self._buffers, self._whole = [*pieces, joined], [*buffers, joined_buffers], None
        return ids

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
            kept = kept.rechunk()
            self._pieces, self._buffers, self._whole = [kept], [sum(self._buffers)], kept

    def clear(self) -> None:
        """Drop all rows."""
        self._set(self._schema.to_frame())

    def replace(self, rows: pl.DataFrame) -> None:
        """Drop all rows and add these, under new numbers."""
        self.clear()
        self.append(rows)

    def delta(self) -> pa.Table:
        """Rows that came since the last commit and are still there, and the numbers of those that went."""
        frame, before = self.frame, self._committed[0]
        ids = frame[ID].to_numpy()
        gone = np.setdiff1d(before[ID].to_numpy(), ids, assume_unique=True)
        return self._delta(frame.slice(int(np.searchsorted(ids, self._committed_next))), gone)

    def commit(self) -> None:
        """Make the open version the state."""
        self._committed = (self.frame, self._pieces, self._buffers, self._held)
        self._committed_next = self._next

    def rollback(self) -> None:
        """Be again as at the last commit; numbers given since then are not given again."""
        self._whole, self._pieces, self._buffers, self._held = self._committed

    def snapshot(self) -> pa.Table:
        """All rows in the form of a delta."""
        return self._delta(self.frame, np.empty(0, np.int64))

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then take over a snapshot and deltas, oldest first."""
        frame, last = merge_deltas(tables, self._schema, ID)
        self._next = last + 1
        self._set(copied(frame))
        self.commit()

    def _delta(self, added: pl.DataFrame, gone: npt.NDArray[np.int64]) -> pa.Table:
        """Also the last number given, if its row is gone: the newest delta of a log is not merged, and remembers it."""
        last = self.frame[ID][-1] if len(self) else 0
        if last != self._next - 1:
            gone = np.union1d(gone, [self._next - 1])
        if not len(gone):
            return to_delta(added)
        removed = self._schema.to_frame().clear(len(gone)).with_columns(pl.Series(ID, gone))
        flags = pl.Series(np.repeat([False, True], [added.height, removed.height]))
        return to_delta(pl.concat([added, removed]), flags)
