"""A sink that keeps the output in a table of a DuckDB database, exactly once."""

from __future__ import annotations

import errno
import os
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract, Upsert
from arrowstream.connectors.database import IN_MEMORY, DatabaseHeldError, database_key, hub
from arrowstream.connectors.paths import local_path
from arrowstream.connectors.plain import plain_schema
from arrowstream.connectors.sink import Guarantee, Receipt, Refused
from arrowstream.connectors.space import with_space
from arrowstream.connectors.view import DatabaseTable, TableView
from arrowstream.errors import PlanError, SinkError, unknown_column
from arrowstream.names import refuse_twins
from arrowstream.sinks._duckdb_table import DuckDBTable
from arrowstream.sinks._fence import Fence
from arrowstream.sinks._handover import HandoverWriter, bound, handed_over, one_word
from arrowstream.sinks._places import WatchedPlace, lock_table
from arrowstream.sinks._refusals import NOT_IN_FILES, NOT_IN_POLARS, refuse_types
from arrowstream.sinks._refused_rows import TooManyRefused, without_refused

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

    mode="complete", or "overwrite", empties the table with the first batch of a new run, so that it holds this run's
    result and nothing else; streams that take rows back are always so. A row that a constraint of the table forbids
    is a dead letter (of streams that take rows back it ends the run, as rows depend on each other).

    lock="release" lets go of the file between batches, so that other processes can read it; "hold" is faster.

    Exactly once: the number of the batch stands in the table `_arrowstream_batches`, in the same transaction.
    """

    path: str | os.PathLike[str]
    table: str
    keys: str | Sequence[str] | None = field(default=None, kw_only=True)
    mode: Literal["complete", "overwrite"] | None = field(default=None, kw_only=True)
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
        path = local_path(self.path, "a DuckDB sink")
        if self.mode not in (None, "complete", "overwrite"):
            raise PlanError(f"mode={self.mode!r} of a DuckDB sink: use 'overwrite', or none for rows to stay")
        if self.lock not in ("hold", "release"):
            raise PlanError(f"lock={self.lock!r} of a DuckDB sink: use 'hold' or 'release'")
        if self.lock == "release" and os.fspath(self.path) == IN_MEMORY:
            raise PlanError("lock='release' lets go of a file, and a database in memory would be lost: use a path")
        refuse_twins(schema.names, f"table {self.table!r}")
        refuse_types(schema, "DuckDB", _REFUSED)
        return replace(self, path=path, schema=schema, kind=self._kind(schema, kind))

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
        self._kind = sink.kind
        self._patience = 10.0 if sink.lock == "release" else 1.0  # readers come and go; a holder stays
        self._replaces = sink.mode is not None or isinstance(sink.kind, Retract)
        self._table = DuckDBTable(sink.table, schema, sink.kind)
        self._refused: list[Refused] = []
        self._held = ExitStack()
        self._lease = ExitStack()
        try:
            if self._path != IN_MEMORY:
                self._held.enter_context(lock_table(Path(self._key), sink.table))
            self._held.enter_context(hub().keep(self._key))
            self._file = WatchedPlace(Path(self._key), "the database") if self._path != IN_MEMORY else None
            with self._database() as cursor:
                self._table.prepare(cursor)
                self._fence = Fence(f"{self._table} of {self._path!r}", self._table.last_batch(cursor, run))
                self._earlier = 0 if self._fence.last is not None else self._table.rows(cursor)
                if sink.lock == "hold":
                    self._lease.enter_context(self._database())
            if self._file is not None:
                self._file.note()
        except BaseException:
            self._lease.close()
            self._held.close()
            raise

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if self._fence.passed(batch_id, receipts):
            return
        if self._file is not None:
            self._file.check()
        batch = handed_over(receipts)
        size = sum(changes.rows.nbytes for changes in batch)
        with_space(Path(self._key), lambda: self._commit(batch_id, batch), size)
        self._fence.through(batch_id, receipts)

    def _commit(self, batch_id: int, batch: Sequence[ChangeBatch]) -> None:
        """Write the batch, or all of it that the table takes; a full disk is an `OSError`, and nothing is written."""
        with self._database() as cursor:
            try:
                self._write(cursor, batch_id, batch)
            except duckdb.ConstraintException as error:
                taken = self._without_refused(cursor, batch_id, batch, error)
                self._write(cursor, batch_id, taken)

    def _write(self, cursor: duckdb.DuckDBPyConnection, batch_id: int, batch: Sequence[ChangeBatch]) -> None:
        with _transaction(cursor):
            self._apply(cursor, batch)
            self._table.remember(cursor, self._run, batch_id)

    def _apply(self, cursor: duckdb.DuckDBPyConnection, batch: Sequence[ChangeBatch]) -> None:
        if self._fence.last is None and self._replaces:
            self._table.empty(cursor)
        self._table.apply(cursor, batch)

    def _without_refused(
        self,
        cursor: duckdb.DuckDBPyConnection,
        batch_id: int,
        batch: Sequence[ChangeBatch],
        error: duckdb.ConstraintException,
    ) -> list[ChangeBatch]:
        """The batch without the rows that a constraint of the table forbids; those are kept as refused.

        Rows are tried in groups, in transactions that are rolled back. Raises `SinkError` where rows depend on each
        other, or where too many are refused to be found one by one.
        """

        def refusal(tried: Sequence[ChangeBatch]) -> str | None:
            try:
                with _transaction(cursor, keep=False):
                    self._apply(cursor, tried)
            except duckdb.ConstraintException as error:
                return str(error).partition("\n")[0]
            return None

        try:
            if isinstance(self._kind, Retract):
                raise TooManyRefused
            kept, refused = without_refused(batch, refusal)
        except TooManyRefused:
            raise SinkError(
                f"batch {batch_id} could not be written to {self._table} of {self._path!r}: {error}"
            ) from error
        self._refused.append(refused)
        return kept

    def refused(self) -> list[Refused]:
        taken, self._refused = self._refused, []
        return taken

    def earlier_rows(self) -> int:
        return 0 if self._replaces or not isinstance(self._kind, Append) else self._earlier

    @contextmanager
    def _database(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with hub().lease(self._key, timeout=self._patience) as cursor:
                yield cursor
        except DatabaseHeldError as error:
            cure = "close it there, or write to another file; readers find it free between batches with lock='release'"
            raise SinkError(f"{error}: {cure}") from error
        except duckdb.Error as error:
            if "No space left on device" in str(error):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise SinkError(f"{self._table} of {self._path!r} cannot be written: {error}") from error

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged outside the receipts."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Let go of the file. A database in memory stays, for queries, as long as this committer does."""
        held = ExitStack()
        held.push(self._held.pop_all())
        held.push(self._lease.pop_all())
        if self._path == IN_MEMORY:
            weakref.finalize(self, held.close).atexit = False
        else:
            held.close()

    def view(self) -> TableView:
        table = DatabaseTable(self._path, self._table.qualified_name, partial(hub().lease, self._key), self._key)
        return TableView(self._schema, database=table)

    def last_batch(self) -> int | None:
        return self._fence.last


@contextmanager
def _transaction(cursor: duckdb.DuckDBPyConnection, *, keep: bool = True) -> Iterator[None]:
    """A transaction that is rolled back after an error, so that the cursor is fit for the next; also without `keep`."""
    cursor.begin()
    try:
        yield
        if keep:
            cursor.commit()
    except BaseException:
        with suppress(duckdb.Error):  # the error is what counts
            cursor.rollback()
        raise
    if not keep:
        cursor.rollback()
