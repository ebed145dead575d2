"""Many rows by key, for ever: joins without bounds, and groups that are computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.names import inner
from arrowstream.state.columns import Columns
from arrowstream.state.delta import DELETED, merge_deltas, to_delta
from arrowstream.state.extents import Extents, Ints
from arrowstream.state.growing import GrowingArray
from arrowstream.state.keyhash import hash_rows
from arrowstream.state.table import KeyedTable

ROW: Final = inner("row")
MATCHES: Final = inner("matches")
_OUT: Final = inner("multimap_out")
# A row's id is the number of the append in which it came, and in the lower bits its place. Places are used again.
_BITS: Final = 30
_PLACE: Final = (1 << _BITS) - 1
# Bits of a print by which rows that cannot be meant are left out.
_PRINT_BITS: Final = 20
# Rows that are restored, or looked at, at once, so that a copy of all is not needed.
_SLICE: Final = 1 << 20


class MultiMap:
    """Rows by key, in order of arrival, changed a batch at a time, a version at a time.

    A key becomes a slot once; a slot has an extent of row ids; rows lie in columns by place. Ids rise in order of
    arrival and a row keeps its id for life. What is appended, looked up or taken out costs by itself, not by what is
    there. Keys are equal as in a Polars group (null = null, NaN = NaN, -0.0 = 0.0).

    Rows that are taken out can still be read until the commit. Their ids stay in the key's extent until they are
    half of it, so that what is held is at most about twice what lives. With `matches`, every row has a counter,
    0 at first, for the operator to use.

    >>> words = MultiMap(pl.Schema({"word": pl.String}), pl.Schema({"line": pl.Int64}))
    >>> ids = words.append(pl.DataFrame({"word": ["a", "b", "a"], "line": [1, 2, 3]}))
    >>> words.of_keys(pl.DataFrame({"word": ["a"]})).rows()
    [('a', 1), ('a', 3)]
    """

    def __init__(self, keys: pl.Schema, values: pl.Schema, *, matches: bool = False) -> None:
        self._by, self._rest = keys, values
        self._schema = pl.Schema({**keys, **values})
        if clash := {ROW, MATCHES, DELETED, _OUT} & set(self._schema):
            raise StateError(f"the column {min(clash)!r} is used inside; rename yours")
        self._counted = matches
        self._clear()

    def _clear(self) -> None:
        self._slots = KeyedTable(self._by, pl.Schema({}))
        self._extents = Extents()
        self._rows = Columns(self._schema)
        # By place: the id, negative once the row is taken out, 0 where there is none.
        self._ids = GrowingArray(np.int64)
        self._matches = GrowingArray(np.int64)
        # By place: some of the bits of a hash of the whole row, 0 until a row of its key is taken back.
        self._prints = GrowingArray(np.uint32)
        # By slot: rows that are taken out and still in the extent.
        self._dead = GrowingArray(np.int64)
        self._free: list[Ints] = []
        self._top = self._turn = self._live = self._dead_rows = 0
        self._close()

    def _close(self) -> None:
        self._before = self._turn
        self._added: list[Ints] = []
        self._gone: list[tuple[Ints, Ints]] = []
        self._counts: list[tuple[Ints, Ints]] = []

    @property
    def keys(self) -> pl.Schema:
        """The column by which a delta is applied: the id of the row."""
        return pl.Schema({ROW: pl.Int64()})

    @property
    def schema(self) -> pl.Schema:
        """The columns of a row: keys, then values."""
        return self._schema

    def __len__(self) -> int:
        return self._live

    def memory_bytes(self) -> int:
        """Bytes of rows and indexes, rows that were taken out included."""
        by_place = self._rows.nbytes + self._ids.nbytes + self._matches.nbytes + self._prints.nbytes
        by_slot = self._slots.memory_bytes() + self._extents.nbytes + self._dead.nbytes
        return by_place + by_slot + sum(places.nbytes for places in self._free)

    def append(self, rows: pl.DataFrame) -> Ints:
        """Add rows of the key and value columns; their ids, higher than all before."""
        rows = rows.select_seq(self._schema.names())
        if not rows.height:
            return np.empty(0, np.int64)
        encoded = self._rows.encode(rows)
        slots = self._intern(rows)
        self._turn += 1
        ids = (self._turn << _BITS) | self._places(rows.height)
        self._write(slots, ids)
        self._rows.write(ids & _PLACE, encoded)
        self._added.append(ids)
        return ids

    def of_keys(self, keys: pl.DataFrame) -> pl.DataFrame:
        """All rows of these keys, each row once, in order of arrival."""
        return self.gather(self.ids_of(keys))

    def ids_of(self, keys: pl.DataFrame) -> Ints:
        """The ids of all rows of these keys, rising, each once; a null is a key like others."""
        slots = self._find(keys)
        slots = np.unique(slots[slots >= 0])
        ids = self._alive(self._extents.find(slots)[1])
        return ids if len(slots) == 1 else np.sort(ids)

    def lookup(self, keys: pl.DataFrame, *, nulls_equal: bool = True) -> tuple[Ints, Ints]:
        """All pairs (row of `keys`, id) that have the same key, by rising row and id; a key may be asked for twice.

        Without `nulls_equal`, a key with a null in it has no rows.
        """
        slots = self._find(keys)
        if not nulls_equal and any(keys[name].null_count() for name in self._by):
            null = keys.select(pl.any_horizontal(pl.col(name).is_null() for name in self._by)).to_series()
            slots = np.where(null.to_numpy(), -1, slots)
        places, ids = self._extents.find(slots)
        if not self._dead_rows:
            return places, ids
        alive = self._is_alive(ids)
        return places[alive], ids[alive]

    def gather(self, ids: Ints, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows with these ids, in their order: keys and values, or some columns of them."""
        names = self._schema.names() if columns is None else columns
        if not len(ids):
            return self._schema.to_frame().select(names)
        return self._rows.gather(ids & _PLACE, names)

    def remove(self, rows: pl.DataFrame) -> Ints:
        """Take out one row equal to each of these, the oldest first; their ids.

        Rows are equal as keys are, nested values too. Raises `StateError`, and changes nothing, where there is none.
        """
        names = self._schema.names()
        ids = self._candidates(rows.select(names))
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
        gone = picked.to_numpy()
        self.delete(gone)
        return gone

    def delete(self, ids: Ints) -> None:
        """Take out the rows with these ids. Raises `StateError` where one is not there, or comes twice."""
        if not len(ids):
            return
        places = ids & _PLACE
        if places.max() >= self._top or not self._is_alive(ids).all() or len(np.unique(ids)) < len(ids):
            raise StateError("a row was taken out that is not there, or twice")
        slots = self._find(self._rows.gather(places, list(self._by)) if self._by else pl.DataFrame(height=len(ids)))
        self._ids.values[places] = -ids
        self._dead.grow(int(slots.max()) + 1)
        np.add.at(self._dead.values, slots, 1)
        self._gone.append((ids, slots))
        self._live -= len(ids)
        self._dead_rows += len(ids)

    def counts(self, ids: Ints) -> Ints:
        """The counters of these rows."""
        self._check_counted()
        return self._matches.values.take(ids & _PLACE)

    def add_counts(self, ids: Ints, by: Ints) -> None:
        """Change the counters of these rows, each by so much; a row may come often."""
        self._check_counted()
        np.add.at(self._matches.values, ids & _PLACE, by)
        self._counts.append((ids, by))

    def scan(self) -> pl.DataFrame:
        """All rows, in order of arrival."""
        return self.gather(self._all())

    # -- versions ---------------------------------------------------------------------------------------

    def delta(self) -> pa.Table:
        """The rows that came or whose counters changed, and the ids of those that went, since the last commit."""
        changed = _joined(self._added)
        if self._counts:
            changed = np.unique(np.concatenate([changed, *(ids for ids, _ in self._counts)]))
        gone = _joined([ids for ids, _ in self._gone])
        if len(gone):
            changed = self._alive(changed)
            gone = gone[gone >> _BITS <= self._before]
        rows = self._numbered(changed)
        if not len(gone):
            return to_delta(rows)
        nothing = rows.clear(len(gone)).with_columns(pl.Series(ROW, gone))
        return to_delta(pl.concat([rows, nothing]), pl.Series(np.repeat([False, True], [rows.height, len(gone)])))

    def commit(self) -> None:
        """Make the open version the state."""
        if self._gone:
            self._weed(np.unique(_joined([slots for _, slots in self._gone])))
        self._extents.commit()
        self._slots.commit()
        self._rows.vacuum()
        self._close()

    def rollback(self) -> None:
        """Be again as at the last commit; ids given since then are not given again."""
        for ids, by in self._counts:
            np.subtract.at(self._matches.values, ids & _PLACE, by)
        for ids, slots in self._gone:
            self._ids.values[ids & _PLACE] = ids
            np.subtract.at(self._dead.values, slots, 1)
            self._live += len(ids)
            self._dead_rows -= len(ids)
        for ids in self._added:
            self._live -= len(ids)
            self._let_go(ids & _PLACE)
        self._extents.rollback()
        self._slots.rollback()
        self._close()

    def snapshot(self) -> pa.Table:
        """All rows in the form of a delta."""
        return to_delta(self._numbered(self._all()))

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then take over a snapshot and deltas, oldest first; rows keep their ids."""
        counter = {MATCHES: pl.Int64()} if self._counted else {}
        rows, last = merge_deltas(tables, pl.Schema({ROW: pl.Int64(), **self._schema, **counter}), ROW)
        self._clear()
        ids = rows[ROW].to_numpy()
        taken = np.zeros(int((ids & _PLACE).max()) + 1 if len(ids) else 0, np.bool_)
        taken[ids & _PLACE] = True
        self._top, self._turn = len(taken), last >> _BITS
        self._free.append(np.flatnonzero(~taken))
        for start in range(0, len(ids), _SLICE):
            part, some = rows[start : start + _SLICE], ids[start : start + _SLICE]
            self._write(self._intern(part), some)
            self._rows.write(some & _PLACE, self._rows.encode(part.select(self._schema.names())))
            if self._counted:
                self._matches.values[some & _PLACE] = part[MATCHES].to_numpy()
            self.commit()

    # -- helpers ----------------------------------------------------------------------------------------

    def _find(self, keys: pl.DataFrame) -> Ints:
        """The slot of each row's key, -1 where there is none."""
        if not self._by:
            return np.repeat(self._slots.find(pl.DataFrame(height=1)), keys.height)
        return self._slots.find(keys.select_seq(self._by.names()))

    def _intern(self, rows: pl.DataFrame) -> Ints:
        """The slot of each row's key, made where missing."""
        if not self._by:
            return np.repeat(self._slots.upsert(pl.DataFrame(height=1)).slots, rows.height)
        return self._slots.intern(rows.select_seq(self._by.names()))

    def _places(self, count: int) -> Ints:
        """Places for new rows, rising: some that are free, the rest from the top."""
        parts, left = [np.empty(0, np.int64)], count
        while left and self._free:
            part = self._free.pop()
            if len(part) > left:
                self._free.append(part[left:])
                part = part[:left]
            parts.append(part)
            left -= len(part)
        free = np.sort(np.concatenate(parts))
        if self._top + left > _PLACE:
            raise StateError(f"one partition keeps at most {_PLACE} rows by key: use more workers or partitions")
        places = np.concatenate([free, np.arange(self._top, self._top + left)])
        self._top += left
        return places

    def _write(self, slots: Ints, ids: Ints) -> None:
        places = ids & _PLACE
        self._ids.grow(self._top)
        self._rows.grow(self._top)
        if self._counted:
            self._matches.grow(self._top)
            self._matches.values[places] = 0
        if len(self._prints.values):
            self._prints.grow(self._top)
            self._prints.values[places] = 0
        self._ids.values[places] = ids
        self._extents.append(slots, ids)
        self._live += len(ids)

    def _candidates(self, rows: pl.DataFrame) -> Ints:
        """Ids, rising, of rows that may be equal to some of `rows`: of these keys, and with such a print.

        Without prints, taking one row of a key with a million would read and group a million.
        """
        slots = self._find(rows)
        ids = self._alive(self._extents.find(np.unique(slots[slots >= 0]))[1])
        places = ids & _PLACE
        self._prints.grow(self._top)
        prints = self._prints.values.take(places)
        unknown = places[prints == 0]
        for start in range(0, len(unknown), _SLICE):
            some = unknown[start : start + _SLICE]
            self._prints.values[some] = _prints(self._rows.gather(some, self._schema.names()))
        if len(unknown):
            prints = self._prints.values.take(places)
        wanted = np.zeros(1 << _PRINT_BITS, np.bool_)
        wanted[_prints(rows) >> (32 - _PRINT_BITS)] = True
        return np.sort(ids[wanted[prints >> (32 - _PRINT_BITS)]])

    def _weed(self, slots: Ints) -> None:
        """Let go of what was taken out, for good, of those of these keys that have more dead than living rows."""
        held, dead = self._extents.counts(slots), self._dead.values.take(slots)
        due = slots[2 * dead >= held]
        gone = self._extents.weed(due, self._is_alive)
        self._dead.values[due] = 0
        self._dead_rows -= len(gone)
        self._let_go(gone & _PLACE)
        empty = slots[dead == held]
        if len(empty) and self._by:
            self._slots.delete(empty)

    def _let_go(self, places: Ints) -> None:
        self._rows.free(places)
        self._ids.values[places] = 0
        self._free.append(places)

    def _is_alive(self, ids: Ints) -> npt.NDArray[np.bool_]:
        alive: npt.NDArray[np.bool_] = self._ids.values.take(ids & _PLACE) == ids
        return alive

    def _alive(self, ids: Ints) -> Ints:
        return ids[self._is_alive(ids)] if self._dead_rows else ids

    def _all(self) -> Ints:
        ids = self._ids.values[: self._top]
        return np.sort(ids[ids > 0])

    def _numbered(self, ids: Ints) -> pl.DataFrame:
        rows = self.gather(ids).insert_column(0, pl.Series(ROW, ids))
        return rows.with_columns(pl.Series(MATCHES, self.counts(ids))) if self._counted else rows

    def _check_counted(self) -> None:
        if not self._counted:
            raise StateError("these rows have no counters: make the map with matches=True")


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _prints(rows: pl.DataFrame) -> npt.NDArray[np.uint32]:
    """The upper bits of each row's hash; never 0."""
    prints: npt.NDArray[np.uint32] = np.maximum(hash_rows(rows) >> np.uint64(32), np.uint64(1)).astype(np.uint32)
    return prints
