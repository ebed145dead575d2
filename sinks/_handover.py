"""What sinks share whose rows are handed to the driver: the writer, and the words of a description.

Such a sink (memory, console, foreach_batch, DuckDB, a complete Parquet file) stages nothing on the worker: its
receipt carries the rows themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.plain import plain, plain_schema
from arrowstream.connectors.sink import Receipt
from arrowstream.errors import PlanError, SinkError


@dataclass(slots=True)
class HandoverWriter:
    """Keeps the batches of one task and hands them over in its receipt.

    Rows must have the columns of `schema`; another encoding of the same values (string for string_view, words for
    categories) is cast.
    """

    schema: pa.Schema
    _changes: list[ChangeBatch] = field(default_factory=list)

    def write(self, changes: ChangeBatch) -> None:
        if changes.num_rows:
            self._changes.append(ChangeBatch(conformed(changes.rows, self.schema), changes.weights))

    def finish(self) -> Receipt:
        rows = sum(changes.num_rows for changes in self._changes)
        return Receipt({"rows": rows}, tuple(self._changes))

    def close(self) -> None:
        self._changes = []


def handed_over(receipts: Sequence[Receipt]) -> list[ChangeBatch]:
    """All changes of a batch, in the order of its tasks."""
    return [changes for receipt in receipts for changes in receipt.changes]


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` with exactly the columns and types of `schema`; raises `SinkError` where they are others."""
    if plain_schema(schema).equals(schema):
        rows = plain(rows)
    if rows.schema.equals(schema):
        return rows
    if rows.schema.names != schema.names:
        raise SinkError(f"the sink was bound to the columns {', '.join(schema.names)} and got {rows.schema.names}")
    try:
        return rows.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SinkError(f"the sink was bound to other types than it got: {error}") from error


def bound(schema: pa.Schema | None, sink: str) -> pa.Schema:
    """The schema a description was bound to; raises `SinkError` where `bind` was not called."""
    if schema is None:
        raise SinkError(f"the sink {sink!r} is not bound to a stream yet: call bind(schema, kind) first")
    return schema


def one_word(name: str) -> str:
    """`name` if SQL can use it unquoted, else `PlanError`."""
    if not re.fullmatch(r"[^\W\d]\w*", name):
        near = re.sub(r"\W+", "_", name).strip("_") or "output"
        raise PlanError(f"{name!r} cannot be the name of an output: it must be one word, such as {near!r}")
    return name
