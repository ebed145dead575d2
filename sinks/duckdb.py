"""A sink that keeps the output in a table of a DuckDB database, exactly once."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import duckdb
import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeKind, Retract, Upsert
from arrowstream.connectors.database import IN_MEMORY, DatabaseHeldError, database_key, hub
from arrowstream.connectors.plain import plain_schema
from arrowstream.connectors.sink import Guarantee, Receipt
from arrowstream.connectors.view import DatabaseTable, TableView
from arrowstream.errors import PlanError, SinkError, unknown_column
from arrowstream.sinks._duckdb_table import DuckDBTable
from arrowstream.sinks._handover import HandoverWriter, bound, handed_over, one_word
from arrowstream.sinks._refusals import NOT_IN_FILES, NOT_IN_POLARS, refuse_types

_REFUSED = {
    **NOT_IN_POLARS,
    **NOT_IN_FILES,
    "halffloat": "cast it to {}",
    "duration": "DuckDB's intervals cannot be read back as durations; cast it to {}",
    "null": "it has no type; cast it to one, such as {}",
}


@dataclass(frozen=True, slots=True)
class DuckDBSink:
    """The output as the table `table` of the DuckDB database at `path` (":memory:" for one that is not kept).

    An append-only stream adds rows; with `keys=` the last row of each key of a batch replaces the one in the table.
    A stream that updates rows updates them in place, by its own keys; one that takes rows back deletes them. The
    table is made where it is not there; one that is there must have the stream's columns and types.

    mode="complete" empties the table when a new run begins, so that it holds this run's result and nothing else;
    streams that take rows back are always so. lock="release" lets go of the file between batches, so that other
    processes can read it; "hold" is faster.

    Exactly once: the number of the batch stands in the table `_arrowstream_batches`, in the same transaction.
    """

    path: str | os.PathLike[str]
    table: str
    keys: str | Sequence[str] | None = field(default=None, kw_only=True)
    mode: Literal["complete"] | None = field(default=None, kw_only=True)
    lock: Literal["hold", "release"] = field(default="hold", kw_only=True)
    schema: pa.Schema | None = field(default=None, kw_only=True, repr=False)
    kind: ChangeKind = field(default=Append(), kw_only=True, repr=False)

    @property
    def name(self) -> str:
        return self.table

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.EXACTLY_ONCE

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> DuckDBSink:
        one_word(self.table)
        if self.mode not in (None, "complete"):
            raise PlanError(f"mode={self.mode!r} of a DuckDB sink: use 'complete', or none for rows to stay")
        if self.lock not in ("hold", "release"):
            raise PlanError(f"lock={self.lock!r} of a DuckDB sink: use 'hold' or 'release'")
        if self.lock == "release" and os.fspath(self.path) == IN_MEMORY:
            raise PlanError("lock='release' lets go of a file, and a database in memory would be lost: use a path")
        refuse_types(schema, "DuckDB", _REFUSED)
        return replace(self, schema=schema, kind=self._kind(schema, kind))

    def _kind(self, schema: pa.Schema, kind: ChangeKind) -> ChangeKind:
        if self.keys is None:
            return kind
        keys = (self.keys,) if isinstance(self.keys, str) else tuple(self.keys)
        for key in keys:
            if key not in schema.names:
                raise unknown_column(key, f"the stream for table {self.table!r}", schema.names)
        if isinstance(kind, Append) or kind == Upsert(keys):
            return Upsert(keys)
        raise PlanError(f"keys={keys} for table {self.table!r}: the stream {kind}; leave keys= out")

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> HandoverWriter:
        return HandoverWriter(plain_schema(bound(self.schema, self.name)))

    def committer(self, run: str | None = None) -> DuckDBCommitter:
        return DuckDBCommitter(self, plain_schema(bound(self.schema, self.name)), run or uuid.uuid4().hex)


class DuckDBCommitter:
    """Writes a batch and its number in one transaction. `view` is for any thread, the rest for the driver's."""

    def __init__(self, sink: DuckDBSink, schema: pa.Schema, run: str) -> None:
        self._path = os.fspath(sink.path)
        self._key = database_key(sink.path, owner=self)
        self._schema = schema
        self._run = run
        self._patience = 10.0 if sink.lock == "release" else 1.0  # readers come and go; a holder stays
        self._complete = sink.mode == "complete" or isinstance(sink.kind, Retract)
        self._table = DuckDBTable(hub().alias(self._key), sink.table, schema, sink.kind)
        self._held = ExitStack()
        self._last: int | None = None
        with self._database() as cursor:
            self._table.prepare(cursor)
            self._last = self._table.last_batch(cursor, run)
            if sink.lock == "hold":
                self._held.enter_context(self._database())

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if self._last is not None and batch_id <= self._last:
            return
        with self._database() as cursor, self._transaction(cursor, batch_id):
            if self._last is None and self._complete:
                self._table.empty(cursor)
            self._table.apply(cursor, handed_over(receipts))
            self._table.remember(cursor, self._run, batch_id)
        self._last = batch_id

    @contextmanager
    def _transaction(self, cursor: duckdb.DuckDBPyConnection, batch_id: int) -> Iterator[None]:
        try:
            cursor.begin()
            yield
            cursor.commit()
        except duckdb.Error as error:
            raise SinkError(
                f"batch {batch_id} could not be written to {self._table} of {self._path!r}: {error}"
            ) from error

    @contextmanager
    def _database(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with hub().lease(self._key, timeout=self._patience) as cursor:
                yield cursor
        except DatabaseHeldError as error:
            cure = "close it there, or write to another file; readers find it free between batches with lock='release'"
            raise SinkError(f"{error}: {cure}") from error
        except duckdb.Error as error:
            raise SinkError(f"the database {self._path!r} cannot be written: {error}") from error

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged outside the receipts."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Let go of the file. A database in memory stays, for queries, as long as this committer does."""
        if self._path == IN_MEMORY:
            weakref.finalize(self, self._held.pop_all().close).atexit = False
        self._held.close()

    def view(self) -> TableView:
        table = DatabaseTable(self._path, self._table.qualified_name, partial(hub().lease, self._key))
        return TableView(self._schema, database=table)

    def last_batch(self) -> int | None:
        return self._last
