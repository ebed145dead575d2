"""A sink that keeps the output in memory, to be queried by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeKind
from arrowstream.connectors.sink import Guarantee, Receipt
from arrowstream.connectors.view import TableView
from arrowstream.names import refuse_twins
from arrowstream.sinks._handover import HandoverWriter, bound, handed_over, one_word
from arrowstream.sinks._refusals import NOT_IN_POLARS, refuse_types
from arrowstream.sinks._tables import live_table


@dataclass(frozen=True, slots=True)
class MemorySink:
    """The output as a table in the driver's memory: `ctx.sql("SELECT * FROM <name>")`.

    An append-only stream keeps every row; one that updates rows keeps the table as it stands. It begins empty in
    every process, also when a run is resumed.
    """

    name: str
    schema: pa.Schema | None = field(default=None, repr=False)
    kind: ChangeKind = field(default=Append(), repr=False)

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.EXACTLY_ONCE

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> MemorySink:
        one_word(self.name)
        refuse_twins(schema.names, f"table {self.name!r}")
        refuse_types(schema, "a table in memory", NOT_IN_POLARS)
        return replace(self, schema=schema, kind=kind)

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> HandoverWriter:
        return HandoverWriter(bound(self.schema, self.name))

    def committer(self, run: str | None = None) -> MemoryCommitter:
        return MemoryCommitter(bound(self.schema, self.name), self.kind)


class MemoryCommitter:
    """Holds the table. Commits belong to the driver's thread; `view` is for any."""

    def __init__(self, schema: pa.Schema, kind: ChangeKind) -> None:
        self._schema = schema
        self._table = live_table(schema, kind)
        self._last: int | None = None

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if self._last is not None and batch_id <= self._last:
            return
        self._table.apply(handed_over(receipts))
        self._last = batch_id

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged outside the receipts."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The table stays readable: a stopped context still answers queries."""

    def view(self) -> TableView:
        return TableView(self._schema, rows=self._table.tables())

    def last_batch(self) -> int | None:
        return self._last
