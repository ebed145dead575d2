"""A sink that calls a function of the user with every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import polars as pl
import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind
from arrowstream.connectors.retries import Retries, as_retries
from arrowstream.connectors.sink import Guarantee, Receipt
from arrowstream.errors import PlanError, SinkError, kind_of
from arrowstream.sinks._handover import HandoverWriter, bound, handed_over, one_word
from arrowstream.sinks._refusals import NOT_IN_POLARS, refuse_types
from arrowstream.sinks._tables import frame_of, weighted

WEIGHT = "_weight"
"""What the user's function sees beside the rows of a stream that updates them."""


@dataclass(frozen=True, slots=True)
class ForeachBatchSink:
    """Calls `fn(frame, batch_id)` on the driver with all rows of each batch, also of an empty one.

    Of a stream that updates rows, the frame has one column more, `_weight` (Int64): +1 the row is there now, -1 it
    is gone.

    At least once: when the process dies after `fn` has done its work and before the batch is logged as committed, the
    batch runs again. With `batch_id` the function can make that harmless. It is called before outputs that promise
    exactly once have the batch: where it fails, none of them gets it.

    An `OSError` that it raises, as connections do, has it called again with the same rows, `retries` times; an
    `arrowstream.Retries` names other exceptions and pauses. It stays in the driver's process, so it may hold on to
    connections, locks and the like.
    """

    fn: Callable[[pl.DataFrame, int], object]
    name: str = "foreach_batch"
    retries: int | Retries = 2
    schema: pa.Schema | None = field(default=None, repr=False)
    kind: ChangeKind = field(default=Append(), repr=False)

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.AT_LEAST_ONCE

    def __reduce__(self) -> tuple[Callable[..., ForeachBatchSink], tuple[object, ...]]:
        """What workers need: all but the function, which only the driver calls."""
        return ForeachBatchSink, (_elsewhere, self.name, self.retries, self.schema, self.kind)

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> ForeachBatchSink:
        one_word(self.name)
        if not callable(self.fn):
            raise PlanError(f"foreach_batch: {kind_of(self.fn)} is no function; give function(frame, batch_id)")
        refuse_types(schema, "a Polars frame", NOT_IN_POLARS)
        if not isinstance(kind, Append) and WEIGHT in schema.names:
            raise PlanError(
                f"the stream has a column {WEIGHT!r}, the name that foreach_batch gives the weights: rename it"
            )
        return replace(self, retries=as_retries(self.retries), schema=schema, kind=kind)

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> HandoverWriter:
        return HandoverWriter(bound(self.schema, self.name))

    def committer(self, run: str | None = None) -> ForeachBatchCommitter:
        return ForeachBatchCommitter(
            self.fn, bound(self.schema, self.name), isinstance(self.kind, Append), as_retries(self.retries)
        )


def _elsewhere(frame: pl.DataFrame, batch_id: int) -> object:
    raise SinkError("the function of foreach_batch is called in the driver's process only")


class ForeachBatchCommitter:
    """Calls the function; remembers the last batch of this process only. What the function raises is raised."""

    def __init__(
        self, fn: Callable[[pl.DataFrame, int], object], schema: pa.Schema, append_only: bool, retries: Retries
    ) -> None:
        self._fn = fn
        self.retries = retries
        self._schema = schema
        self._append_only = append_only
        self._last: int | None = None

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if self._last is not None and batch_id <= self._last:
            return
        self._fn(self._frame(receipts), batch_id)  # what it raises is the engine's to try again, or to report
        self._last = batch_id

    def _frame(self, receipts: Sequence[Receipt]) -> pl.DataFrame:
        batch = handed_over(receipts)
        if self._append_only:
            tables = [changes.rows for changes in batch] or [pa.Table.from_batches([], self._schema)]
            return frame_of(pa.concat_tables(tables))
        batch = batch or [ChangeBatch(pa.Table.from_batches([], self._schema))]
        return pl.concat([weighted(changes, WEIGHT) for changes in batch])

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Nothing was staged outside the receipts."""

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The function belongs to the user."""
