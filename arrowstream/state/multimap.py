"""Many rows by key, for ever: joins without bounds, and groups that are computed anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.state.delta import DELETED, from_delta, to_delta
from arrowstream.state.runs import Ints, Run, SlotRuns
from arrowstream.state.segments import Segments
from arrowstream.state.table import KeyedTable

ROW: Final = "__row"
_OUT: Final = "__out"
_GARBAGE: Final = 1 << 16


class MultiMap:
    """Rows by key, in order of arrival, changed a batch at a time, a version at a time.

    A key becomes a slot once, rows are appended to segments under ids that count up and never move, and sorted runs
    say which ids a slot has. What is appended and looked up costs by the batch. Keys are equal as in a Polars group
    (null = null; who wants nulls to match nothing leaves them out). Rows that were taken out are left where they
    are until they are the greater part.

    >>> words = MultiMap(pl.Schema({"word": pl.String}), pl.Schema({"line": pl.Int64}))
    >>> words.append(pl.DataFrame({"word": ["a", "b", "a"], "line": [1, 2, 3]}))
    >>> words.of_keys(pl.DataFrame({"word": ["a"]})).rows()
    [('a', 1), ('a', 3)]
    """

    def __init__(self, keys: pl.Schema, values: pl.Schema) -> None:
        self._by, self._rest = keys, values
        self._schema = pl.Schema({**keys, **values})
        if clash := {ROW, DELETED, _OUT} & set(self._schema):
            raise StateError(f"the column {min(clash)} is used inside; rename yours")
        self._clear()

    def _clear(self) -> None:
        self._slots = KeyedTable(self._by, pl.Schema({}))
        self._payload = Segments(self._schema)
        self._runs = SlotRuns()
        self._alive: npt.NDArray[np.bool_] | None = None
        self._live = self._dead = 0
        self._top = 1
        self._close()

    def _close(self) -> None:
        self._was: tuple[tuple[Run, ...], int, int] = (self._runs.runs, self._live, self._top)
        self._added: list[Ints] = []
        self._gone: list[Ints] = []

    @property
    def keys(self) -> pl.Schema:
        """The column by which a delta is applied: the id of the row."""
        return pl.Schema({ROW: pl.Int64()})

    def __len__(self) -> int:
        return self._live

    def memory_bytes(self) -> int:
        """Bytes of rows and indexes, rows that were taken out included."""
        return self._slots.memory_bytes() + self._payload.nbytes + self._runs.nbytes

    def append(self, rows: pl.DataFrame) -> None:
        """Add rows of the key and value columns."""
        if not rows.height:
            return
        rows = rows.select(self._schema.names())
        slots = self._upsert(rows.select(self._by.names()))
        ids = self._payload.append(rows, slots)
        self._runs.append(slots, ids)
        self._added.append(ids)
        self._live += len(ids)
        self._top = int(ids[-1]) + 1
        if self._alive is not None:
            self._grow()

    def of_keys(self, keys: pl.DataFrame) -> pl.DataFrame:
        """All rows of these keys, each row once, in order of arrival."""
        return self.gather(self.ids_of(keys))

    def ids_of(self, keys: pl.DataFrame) -> Ints:
        """The ids of all rows of these keys, rising."""
        slots = self._slots.find(keys.select(self._by.names()))
        slots = slots[slots >= 0]
        if not len(slots):
            return np.empty(0, np.int64)
        _, ids = self._runs.find(np.unique(slots))
        if self._alive is not None:
            ids = ids[self._alive[ids]]
        return np.sort(ids)

    def lookup(self, keys: pl.DataFrame) -> tuple[Ints, Ints]:
        """All pairs (row of `keys`, id) that have the same key; the caller leaves nulls out where they match none."""
        places, ids = self._runs.find(self._slots.find(keys.select(self._by.names())))
        if self._alive is None:
            return places, ids
        alive = self._alive[ids]
        return places[alive], ids[alive]

    def gather(self, ids: Ints) -> pl.DataFrame:
        """The rows with these ids, in their order: keys and values."""
        return self._payload.gather(ids) if len(ids) else self._schema.to_frame()

    def remove(self, rows: pl.DataFrame) -> None:
        """Take out one row equal to each of these, the oldest first. Raises `StateError` where there is none."""
        names = self._schema.names()
        ids = self.ids_of(rows.select(self._by.names()))
        held = self.gather(ids).with_columns(pl.Series(ROW, ids), pl.lit(False).alias(_OUT))
        out = rows.select(names).with_columns(pl.lit(None, pl.Int64).alias(ROW), pl.lit(True).alias(_OUT))
        picked = (
            pl.concat([held, out])
            .lazy()
            .group_by(names)
            .agg(pl.col(ROW).filter(~pl.col(_OUT)), pl.col(_OUT).sum().cast(pl.Int64))
            .filter(pl.col(_OUT) > 0)
            .select(pl.col(ROW).list.head(pl.col(_OUT)))
            .explode(ROW)
            .drop_nulls()
            .collect()[ROW]
        )
        if picked.len() != rows.height:
            raise StateError(f"{rows.height - picked.len()} rows were taken back that were never there")
        self.delete(picked.to_numpy())

    def delete(self, ids: Ints) -> None:
        """Take out the rows with these ids; each once, and only rows that are there."""
        if not len(ids):
            return
        if self._alive is None:
            self._alive = np.ones(self._top, np.bool_)
        self._alive[ids] = False
        self._gone.append(ids)
        self._live -= len(ids)

    def scan(self) -> pl.DataFrame:
        """All rows, in order of arrival."""
        return self.gather(self._all())

    def delta(self) -> pa.Table:
        """The rows that came and the ids of those that went, since the last commit."""
        added = np.concatenate([np.empty(0, np.int64), *self._added])
        gone = np.concatenate([np.empty(0, np.int64), *self._gone])
        if len(gone):
            assert self._alive is not None
            added = added[self._alive[added]]
            gone = gone[gone < self._was[2]]
        rows = self._numbered(added)
        if not len(gone):
            return to_delta(rows)
        nothing = self._schema.to_frame().clear(len(gone)).insert_column(0, pl.Series(ROW, gone))
        return to_delta(pl.concat([rows, nothing]), pl.Series(np.repeat([False, True], [len(added), len(gone)])))

    def commit(self) -> None:
        """Make the open version the state."""
        self._dead += sum(len(ids) for ids in self._gone)
        self._slots.commit()
        if self._dead > max(_GARBAGE, self._live):
            self._rebuild(self.scan())
        self._close()

    def rollback(self) -> None:
        """Be again as at the last commit."""
        for ids in self._gone:
            assert self._alive is not None
            self._alive[ids] = True
        for ids in self._added:
            self._payload.free(ids)
        self._runs.runs, self._live, _ = self._was
        self._slots.rollback()
        self._close()

    def snapshot(self) -> pa.Table:
        """All rows in the form of a delta."""
        return to_delta(self._numbered(self._all()))

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then take over a snapshot and deltas, oldest first; rows get new ids."""
        schema = pl.Schema({ROW: pl.Int64(), **self._schema})
        frames = []
        for table in tables:
            rows, deleted = from_delta(table, schema)
            frames.append(rows.with_columns(deleted.alias(DELETED)))
        self._clear()
        if frames:
            last = pl.concat(frames).unique(ROW, keep="last").filter(~pl.col(DELETED)).sort(ROW)
            self.append(last.select(self._schema.names()))
        self.commit()

    def _upsert(self, keys: pl.DataFrame) -> Ints:
        """The slot of each row's key, made where missing."""
        if not self._by:
            slot = self._slots.upsert(pl.DataFrame(height=1)).slots
            return np.repeat(slot, keys.height)
        slots = self._slots.find(keys)
        missing = slots < 0
        if missing.any():
            self._slots.upsert(keys.filter(pl.Series(missing)).unique())
            slots = np.array(slots)
            slots[missing] = self._slots.find(keys.filter(pl.Series(missing)))
        return slots

    def _grow(self) -> None:
        assert self._alive is not None
        if self._top > len(self._alive):
            grown = np.ones(max(self._top, 2 * len(self._alive)), np.bool_)
            grown[: len(self._alive)] = self._alive
            self._alive = grown

    def _all(self) -> Ints:
        if not self._runs.runs:
            return np.empty(0, np.int64)
        ids = np.sort(np.concatenate([run.ids for run in self._runs.runs]))
        return ids if self._alive is None else ids[self._alive[ids]]

    def _numbered(self, ids: Ints) -> pl.DataFrame:
        return self.gather(ids).insert_column(0, pl.Series(ROW, ids))

    def _rebuild(self, rows: pl.DataFrame) -> None:
        self._clear()
        self.append(rows)
        self._slots.commit()
