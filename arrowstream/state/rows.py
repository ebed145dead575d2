"""A plain frame of rows: state that the watermark bounds, so that it may be read whole in every batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.state.delta import DELETED, from_delta, to_delta

ID: Final = "__id"
"""The column that names a row: Int64, counted up in order of arrival."""

_CHUNKS: Final = 16


class RowTable:
    """Rows in order of arrival: open windows, sessions, the sides of a join with bounds.

    Frames are immutable, so the former version is simply kept until the next is committed. What is asked of it costs
    by all its rows: it is for rows that are looked at, or let go, as time goes on.

    >>> table = RowTable(pl.Schema({"word": pl.String}))
    >>> ids = table.append(pl.DataFrame({"word": ["a", "b"]}))
    >>> table.keep(table.frame["word"] == "b")
    >>> table.frame.rows()
    [(2, 'b')]
    """

    def __init__(self, schema: pl.Schema) -> None:
        if ID in schema or DELETED in schema:
            raise StateError(f"the columns {ID} and {DELETED} are used inside; rename yours")
        self._schema = pl.Schema({ID: pl.Int64(), **schema})
        self._clear()

    def _clear(self) -> None:
        self._frame = self._committed = self._schema.to_frame()
        self._next = self._committed_next = 1

    @property
    def keys(self) -> pl.Schema:
        """The one key column, the number of the row."""
        return pl.Schema({ID: pl.Int64()})

    @property
    def frame(self) -> pl.DataFrame:
        """All rows, `__id` first, in order of arrival."""
        return self._frame

    @property
    def next_id(self) -> int:
        """The number that the next row will have."""
        return self._next

    def __len__(self) -> int:
        return self._frame.height

    def memory_bytes(self) -> int:
        """Bytes of all rows."""
        return int(self._frame.estimated_size())

    def append(self, rows: pl.DataFrame) -> pl.Series:
        """Add rows of the table's columns; their numbers."""
        ids = pl.Series(ID, np.arange(self._next, self._next + rows.height))
        if rows.height:
            self._next += rows.height
            added = rows.select(list(self._schema)[1:]).insert_column(0, ids)
            frame = pl.concat([self._frame, added]) if self._frame.height else added
            self._frame = frame.rechunk() if frame.n_chunks() > _CHUNKS else frame
        return ids

    def keep(self, rows: pl.Series | pl.Expr) -> None:
        """Drop the rows for which this is not true."""
        kept = self._frame.filter(rows)
        if kept.height < self._frame.height:
            self._frame = kept.rechunk()

    def replace(self, rows: pl.DataFrame) -> None:
        """Drop all rows and add these, under new numbers."""
        self._frame = self._schema.to_frame()
        self.append(rows)

    def delta(self) -> pa.Table:
        """Rows that came since the last commit and are still there, and the numbers of those that went."""
        before, now = self._committed, self._frame
        added = now.filter(pl.col(ID) >= self._committed_next)
        if now.height - added.height == before.height:
            return to_delta(added)
        gone = before.select(ID).filter(~pl.col(ID).is_in(now[ID].implode()))
        removed = gone.join(self._schema.to_frame(), on=ID, how="left")
        flags = pl.Series(np.repeat([False, True], [added.height, removed.height]))
        return to_delta(pl.concat([added, removed.select(self._schema.names())]), flags)

    def commit(self) -> None:
        """Make the open version the state."""
        self._committed, self._committed_next = self._frame, self._next

    def rollback(self) -> None:
        """Be again as at the last commit."""
        self._frame, self._next = self._committed, self._committed_next

    def snapshot(self) -> pa.Table:
        """All rows in the form of a delta."""
        return to_delta(self._frame)

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then take over a snapshot and deltas, oldest first."""
        self._clear()
        frame = self._frame
        for table in tables:
            rows, deleted = from_delta(table, self._schema)
            touched = rows[ID]
            if frame.height:
                frame = frame.filter(~pl.col(ID).is_in(touched.implode()))
            frame = pl.concat([frame, rows.filter(~deleted)])
            if touched.len():
                self._next = max(self._next, int(touched.max()) + 1)  # type: ignore[arg-type]
        self._frame = frame.sort(ID).rechunk()
        self.commit()
