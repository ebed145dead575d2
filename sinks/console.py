"""A sink that prints every batch as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeKind
from arrowstream.connectors.sink import Guarantee, Receipt
from arrowstream.connectors.texttable import text_table
from arrowstream.errors import PlanError
from arrowstream.sinks._handover import HandoverWriter, bound, handed_over, one_word
from arrowstream.sinks._refusals import NOT_IN_POLARS, refuse_types
from arrowstream.sinks._tables import live_table


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSink:
    """Prints a heading and a table per batch to `sys.stdout`, in a terminal or a notebook.

    An append-only stream shows the new rows; one that updates rows shows the table as it stands after the batch. At
    most `rows` rows are printed, and how many more there are. `width` in characters; that of the terminal if None.
    Batches without a change print nothing.

    At least once: a batch that was printed before a crash is printed again.
    """

    rows: int = 20
    name: str = "console"
    width: int | None = None
    schema: pa.Schema | None = field(default=None, repr=False)
    kind: ChangeKind = field(default=Append(), repr=False)

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.AT_LEAST_ONCE

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> ConsoleSink:
        one_word(self.name)
        if self.rows < 1:
            raise PlanError(f"rows={self.rows}: the console shows at least one row of a batch")
        if not isinstance(kind, Append):
            refuse_types(schema, "a table on the console that is updated", NOT_IN_POLARS)
        return replace(self, schema=schema, kind=kind)

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> HandoverWriter:
        return HandoverWriter(bound(self.schema, self.name))

    def committer(self, run: str | None = None) -> ConsoleCommitter:
        return ConsoleCommitter(self, bound(self.schema, self.name))


class ConsoleCommitter:
    """Prints. Keeps the table of a stream that updates rows."""

    def __init__(self, sink: ConsoleSink, schema: pa.Schema) -> None:
        self._sink = sink
        self._schema = schema
        self._table = None if isinstance(sink.kind, Append) else live_table(schema, sink.kind)
        self._last: int | None = None

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if self._last is not None and batch_id <= self._last:
            return
        self._last = batch_id
        batch = handed_over(receipts)
        changed = sum(changes.num_rows for changes in batch)
        if changed and self._table is None:
            rows = pa.concat_tables([changes.rows for changes in batch])
            self._print(f"batch {batch_id} · {_count(changed, 'row')}", rows)
        elif changed and self._table is not None:
            self._table.apply(batch)
            rows = pa.concat_tables([pa.Table.from_batches([], self._schema), *self._table.tables()])
            self._print(f"batch {batch_id} · {_count(changed, 'change')}, {_count(rows.num_rows, 'row')} now", rows)

    def _print(self, heading: str, rows: pa.Table) -> None:
        table = text_table(rows, rows=self._sink.rows, width=self._sink.width)
        sys.stdout.write(f"{self._sink.name} · {heading}\n{table}\n")
        sys.stdout.flush()

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged outside the receipts."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
