"""The table of a stream that updates rows, as one Parquet file that is replaced at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from arrowstream.connectors.changes import ChangeBatch, ChangeKind
from arrowstream.connectors.manifest import Home, parquet_files, sync_directory
from arrowstream.connectors.sink import Receipt
from arrowstream.connectors.space import with_space
from arrowstream.connectors.view import TableView
from arrowstream.errors import SinkError
from arrowstream.sinks._fence import Fence
from arrowstream.sinks._handover import conformed, handed_over
from arrowstream.sinks._parquet_committer import clear_staging, opened_home
from arrowstream.sinks._parquet_files import FileFormat
from arrowstream.sinks._tables import LiveTable, as_arrow, frame_of, live_table

FILE = "part-0.parquet"
_RUN, _BATCH = "arrowstream.run", "arrowstream.batch"


class CompleteCommitter:
    """Writes the whole table every batch. Its footer says which batch of which run it is: file and fence are one."""

    def __init__(
        self,
        directory: Path,
        run: str,
        schema: pa.Schema,
        kind: ChangeKind,
        form: FileFormat,
        order: Sequence[tuple[str, bool]] = (),
    ) -> None:
        self._home = Home(directory)
        self._run = run
        self._schema = schema
        self._form, self._order = form, list(order)
        self._kind = kind
        self._fence = Fence(f"the Parquet directory {str(directory)!r}")
        self._table: LiveTable
        self._broken = False
        self._places = ExitStack()
        try:
            self._watched = self._places.enter_context(opened_home(self._home))
            clear_staging(self._home)
            self._resume()
            for place in self._watched:
                place.note()
        except BaseException:
            self._places.close()
            raise

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if self._broken:
            self._resume()  # without the batch that could not be written, which comes again
        if self._fence.passed(batch_id, receipts):
            return
        for place in self._watched:
            place.check()
        self._broken = True
        if batch := handed_over(receipts):
            self._table.apply(batch)
        self._write(batch_id)
        self._fence.through(batch_id, receipts)
        self._broken = False

    def _write(self, batch_id: int) -> None:
        table = pa.concat_tables([pa.Table.from_batches([], self._schema), *self._table.tables()])
        if self._order:
            table = _sorted(table, self._order)
        staged = self._home.staging / FILE
        try:
            with_space(
                staged, lambda: self._form.write(table, staged, {_RUN: self._run, _BATCH: str(batch_id)}), table.nbytes
            )
            os.replace(staged, self._home.directory / FILE)
            sync_directory(self._home.directory)
        except (OSError, pa.ArrowException) as error:
            raise SinkError(f"batch {batch_id} could not be written to {str(self._file)!r}: {error}") from error

    def _resume(self) -> None:
        """Go on with the table of this run where it was; a table of another run will be replaced."""
        others = [name for name in parquet_files(self._home.directory) if name != FILE]
        if others:
            raise SinkError(
                f"{str(self._home.directory)!r} holds Parquet files of another kind, such as {others[0]!r}: "
                "mode='complete' keeps one file in a directory of its own"
            )
        self._table = live_table(self._schema, self._kind)
        self._broken = False
        if not self._file.exists():
            return
        try:
            facts = pq.read_metadata(self._file).metadata or {}
            if facts.get(_RUN.encode()) == self._run.encode():
                rows = conformed(pq.read_table(self._file, partitioning=None), self._schema)
                self._table.apply([ChangeBatch(rows)])
                self._fence.last = int(facts[_BATCH.encode()])
        except (OSError, pa.ArrowException) as error:
            raise SinkError(f"{str(self._file)!r} is no whole Parquet file ({error}): move it away") from error

    @property
    def _file(self) -> Path:
        return self._home.directory / FILE

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged outside the receipts."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._places.close()

    def view(self) -> TableView:
        return TableView(self._schema, rows=self._table.tables())

    def last_batch(self) -> int | None:
        return self._fence.last


def _sorted(table: pa.Table, order: Sequence[tuple[str, bool]]) -> pa.Table:
    """By columns, descending where said so; PyArrow 26 cannot sort the texts that Polars makes."""
    names, descending = zip(*order, strict=True)
    ordered = frame_of(table).sort(list(names), descending=list(descending), nulls_last=True)
    return as_arrow(ordered, table.schema)
