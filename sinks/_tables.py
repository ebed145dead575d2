"""The table that a stream of changes makes, kept in memory: appended rows, rows by key, or a multiset.

All three take whole batches and give the table as it stands. A commit costs what the batch costs, whatever the size
of the table: changes are kept in a log and merged when somebody looks, or when the log has grown as large as the
table (O'Neil et al., The log-structured merge-tree, 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream import matching
from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Upsert
from arrowstream.connectors.plain import plain, plain_schema, whole
from arrowstream.names import inner
from arrowstream.pieces import worth_merging

WEIGHT: Final = inner("weights")
_FAN_IN = 16
_LOGGED = 256  # so that less than one commit in a hundred waits for a merge
_LARGE = 1 << 20
_SMALL = 1 << 16


class LiveTable(Protocol):
    """The table now. One thread applies; any thread looks."""

    def apply(self, batch: Sequence[ChangeBatch]) -> None:
        """Take in all changes of one batch, at once for those who look."""

    def tables(self) -> tuple[pa.Table, ...]:
        """The rows as they stand, as Arrow tables of the bound schema; none at all where there are no rows."""


def live_table(schema: pa.Schema, kind: ChangeKind) -> LiveTable:
    """An empty table for changes of this kind."""
    match kind:
        case Append():
            return AppendedRows()
        case Upsert(keys):
            return KeyedRows(schema, keys)
        case _:
            return RowMultiset(schema)


class AppendedRows:
    """Rows that only ever come.

    Tiny batches are merged sixteen at a time into larger ones, level by level, until a piece has a million rows: a
    row is copied at most five times, and a look sees few pieces.
    """

    def __init__(self) -> None:
        self._large: list[pa.Table] = []
        self._levels: list[list[pa.Table]] = [[]]
        self._lock = Lock()

    def apply(self, batch: Sequence[ChangeBatch]) -> None:
        pieces = [changes.rows for changes in batch if changes.num_rows]
        if not pieces:
            return
        piece = pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces)
        with self._lock:
            self._levels[0].append(piece)
            self._merge_full_levels()

    def tables(self) -> tuple[pa.Table, ...]:
        with self._lock:
            return (*self._large, *(piece for level in reversed(self._levels) for piece in level))

    def _merge_full_levels(self) -> None:
        level = 0
        while len(self._levels[level]) == _FAN_IN:
            merged = pa.concat_tables(self._levels[level]).combine_chunks()
            self._levels[level] = []
            above = self._levels[level + 1 :]
            if merged.num_rows >= _LARGE and not any(above):
                self._large.append(merged)
                return
            if not above:
                self._levels.append([])
            level += 1
            self._levels[level].append(merged)


class _Log:
    """A merged table and the batches that came since; `_merged` says what they make together.

    Looking merges outside the lock, so that a commit never waits for a reader's merge of a large table; only merges
    wait for each other.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._base = frame_of(pa.Table.from_batches([], schema))
        self._log: list[Sequence[ChangeBatch]] = []
        self._log_rows = 0
        self._seen: tuple[pa.Table, ...] | None = ()
        self._lock = Lock()
        self._merging = Lock()

    def apply(self, batch: Sequence[ChangeBatch]) -> None:
        rows = sum(changes.num_rows for changes in batch)
        if not rows:
            return
        with self._lock:
            self._log.append(batch)
            self._log_rows += rows
            self._seen = None
            grown = self._log_rows > max(self._base.height, _SMALL)
            many = not grown and len(self._log) >= _LOGGED
        if grown or many:
            with self._merging:
                self._merge_log() if grown else self._shorten_log()

    def tables(self) -> tuple[pa.Table, ...]:
        with self._merging:
            with self._lock:
                if self._seen is not None:
                    return self._seen
            base = self._merge_log()
            tables = (as_arrow(self._shown(base), self._schema),) if base.height else ()
            with self._lock:
                if not self._log:
                    self._seen = tables
            return tables

    def _shorten_log(self) -> None:
        """Make one of the small batches at the end of the log. Only a merge shortens it, so it is still there."""
        with self._lock:
            start = worth_merging([_rows(each) for each in self._log], _LOGGED)
            if start is None:
                return
            some = self._log[start:]
        merged = self._together(some)
        with self._lock:
            self._log[start : start + len(some)] = [merged] if merged else []
            self._log_rows = sum(map(_rows, self._log))

    def _merge_log(self) -> pl.DataFrame:
        with self._lock:
            base, log = self._base, list(self._log)
        if log:
            base = self._merged(base, log)
            with self._lock:
                self._base = base
                del self._log[: len(log)]
                self._log_rows = sum(map(_rows, self._log))
        return base

    def _merged(self, base: pl.DataFrame, log: list[Sequence[ChangeBatch]]) -> pl.DataFrame:
        raise NotImplementedError

    def _together(self, log: list[Sequence[ChangeBatch]]) -> Sequence[ChangeBatch]:
        """Batches that come one after the other, as one."""
        raise NotImplementedError

    def _as_batch(self, rows: pl.DataFrame) -> Sequence[ChangeBatch]:
        """Rows with their weights as a batch."""
        if not rows.height:
            return ()
        return (ChangeBatch(as_arrow(rows.drop(WEIGHT), self._schema), pa.array(rows[WEIGHT].to_numpy())),)

    def _shown(self, base: pl.DataFrame) -> pl.DataFrame:
        return base


class KeyedRows(_Log):
    """At most one row per key. Null equals null, NaN equals NaN, -0.0 equals 0.0."""

    def __init__(self, schema: pa.Schema, keys: Sequence[str]) -> None:
        super().__init__(schema)
        self._keys = list(keys)

    def _merged(self, base: pl.DataFrame, log: list[Sequence[ChangeBatch]]) -> pl.DataFrame:
        touched = self._touched(log)
        live = touched.filter(pl.col(WEIGHT) > 0).drop(WEIGHT)
        if not self._keys:
            return live
        options: dict[str, Any] = {"how": "anti", "nulls_equal": True, "maintain_order": "left"}
        rest = matching.join(base.lazy(), touched.lazy(), self._keys, base.schema, **options).collect()
        return pl.concat([rest, live])

    def _together(self, log: list[Sequence[ChangeBatch]]) -> Sequence[ChangeBatch]:
        return self._as_batch(self._touched(log))

    def _touched(self, log: list[Sequence[ChangeBatch]]) -> pl.DataFrame:
        """The last that was said of each key."""
        return newest(_laid_out(log, deletions_first), self._keys)


class RowMultiset(_Log):
    """Rows that can be taken back, each as often as the weights add up to."""

    def __init__(self, schema: pa.Schema) -> None:
        super().__init__(schema)
        self._base = self._base.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT))

    def _merged(self, base: pl.DataFrame, log: list[Sequence[ChangeBatch]]) -> pl.DataFrame:
        return net(pl.concat([base, *(weighted(changes) for batch in log for changes in batch)]))

    def _together(self, log: list[Sequence[ChangeBatch]]) -> Sequence[ChangeBatch]:
        return self._as_batch(net(_laid_out(log, lambda batch: [weighted(changes) for changes in batch])))

    def _shown(self, base: pl.DataFrame) -> pl.DataFrame:
        return repeated(base)


def _laid_out(
    log: Sequence[Sequence[ChangeBatch]], rows_of: Callable[[Sequence[ChangeBatch]], list[pl.DataFrame]]
) -> pl.DataFrame:
    """The weighted rows of batches, one after the other; at once where none is taken back."""
    every = [changes for batch in log for changes in batch]
    if all(changes.weights is None for changes in every):
        return weighted(ChangeBatch(pa.concat_tables([changes.rows for changes in every])))
    return pl.concat([frame for batch in log for frame in rows_of(batch)])


def _rows(batch: Sequence[ChangeBatch]) -> int:
    return sum(changes.num_rows for changes in batch)


def weighted(changes: ChangeBatch, column: str = WEIGHT) -> pl.DataFrame:
    """The rows as a frame, with their weights as its last column."""
    frame = frame_of(changes.rows)
    if changes.weights is None:
        return frame.with_columns(pl.lit(1, pl.Int64).alias(column))
    return frame.with_columns(pl.Series(column, changes.weights, pl.Int64))


def deletions_first(batch: Sequence[ChangeBatch]) -> list[pl.DataFrame]:
    """One batch's weighted rows such that the last row of a key is the one that counts.

    Within a batch a row of weight -1 means nothing where its key has a row of weight +1, wherever that stands.
    """
    frames = [weighted(changes) for changes in batch if changes.num_rows]
    if all(changes.weights is None for changes in batch):
        return frames
    gone = [frame.filter(pl.col(WEIGHT) < 0) for frame in frames]
    return gone + [frame.filter(pl.col(WEIGHT) > 0) for frame in frames]


def newest(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The last row of each key; of no keys at all, the last row."""
    return rows.unique(keys, keep="last", maintain_order=True) if keys else rows.tail(1)


def net(rows: pl.DataFrame) -> pl.DataFrame:
    """Each distinct row once, with the sum of its weights; those that add up to nothing are gone."""
    columns = [column for column in rows.columns if column != WEIGHT]
    summed = rows.group_by(columns, maintain_order=True).agg(pl.col(WEIGHT).sum())
    return summed.filter(pl.col(WEIGHT) != 0)


def repeated(rows: pl.DataFrame) -> pl.DataFrame:
    """Each row as often as its weight says, without the weight."""
    weights = rows[WEIGHT].to_numpy()
    rows = rows.drop(WEIGHT)
    if (weights == 1).all():
        return rows
    return rows[np.repeat(np.arange(len(weights)), np.maximum(weights, 0))]


def frame_of(table: pa.Table) -> pl.DataFrame:
    """The rows as a Polars frame."""
    return pl.DataFrame(pl.from_arrow(whole(table)))


def as_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame as an Arrow table of exactly this schema."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.newest())
    if plain_schema(schema).equals(schema):
        table = plain(table)
    return table if table.schema.equals(schema) else table.cast(schema)
