"""A sink that lets everything go: what a pipeline costs without an output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch, ChangeKind
from arrowstream.connectors.sink import Guarantee, Receipt
from arrowstream.sinks._handover import one_word


@dataclass(frozen=True, slots=True)
class NullSink:
    """Takes all rows of all kinds, made in full as for any other sink, and drops them; reports still count them."""

    name: str = "null"

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.EXACTLY_ONCE

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> NullSink:
        one_word(self.name)
        return self

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> NullWriter:
        return NullWriter()

    def committer(self, run: str | None = None) -> NullCommitter:
        return NullCommitter()


@dataclass(slots=True)
class NullWriter:
    """Counts the rows of one task."""

    rows: int = 0

    def write(self, changes: ChangeBatch) -> None:
        self.rows += changes.num_rows

    def finish(self) -> Receipt:
        return Receipt({"rows": self.rows})

    def close(self) -> None:
        """Nothing was staged."""


class NullCommitter:
    """Publishes nothing."""

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """There is nothing to publish."""

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""
