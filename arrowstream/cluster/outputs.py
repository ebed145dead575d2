"""The outputs of a unit, in which batches are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

import polars as pl
import pyarrow as pa

from arrowstream.connectors.retries import Retries
from arrowstream.connectors.sink import (
    Committer,
    Guarantee,
    Receipt,
    Refused,
    Sink,
    SupportsRefused,
    SupportsRetries,
    SupportsView,
)
from arrowstream.errors import ArrowStreamError, SinkError, failure_text
from arrowstream.schedule.deadletters import as_json
from arrowstream.schedule.messages import CommitBatch, TaskDone
from arrowstream.usercode import line_of

COMMIT_RETRIES: Final = Retries(2)
"""A sink's commit is idempotent: a connection that broke is worth another try, some tenths of a second later."""

_SHOWN = 5
"""Rows of a batch that an error of an output shows."""


class Outputs:
    """The committers of a unit's outputs, by their order in it; they belong to the driver's thread.

    Those that may get a batch twice by their own word (at least once: a function of the user, the console) are first in
    every batch. So when one of them fails, nobody who promises exactly once has the batch.
    """

    def __init__(self, sinks: Sequence[Sink], committers: Sequence[Committer]) -> None:
        self._names, self._committers = [sink.name for sink in sinks], list(committers)
        # Asked once: a protocol is slow to answer.
        self._repeatable = [
            sink.guarantee is Guarantee.AT_LEAST_ONCE and not isinstance(committer, SupportsView)
            for sink, committer in zip(sinks, committers, strict=True)
        ]
        self._retries = [
            committer.retries if isinstance(committer, SupportsRetries) else COMMIT_RETRIES for committer in committers
        ]
        self._refusing = [
            (name, committer)
            for name, committer in zip(self._names, committers, strict=True)
            if isinstance(committer, SupportsRefused)
        ]
        self._begun: set[int] = set()
        self.at: str | None = None
        """The name of the output that takes in a batch at this moment."""

    def commit(self, order: CommitBatch, *, repeatable: bool) -> None:
        """Publish a batch in the outputs that may get it twice, or in the others. Raises `SinkError`."""
        for output, committer in enumerate(self._committers):
            if self._repeatable[output] is repeatable:
                self._begun.add(output)
                self.at = self._names[output]
                self._commit(output, committer, order.batch.id, _receipts(order.done, output))
        self.at = None
        if not repeatable:
            self._begun.clear()

    def _commit(self, output: int, committer: Committer, batch_id: int, receipts: Sequence[Receipt]) -> None:
        where = f"output {self._names[output]}"
        try:
            self._retries[output].call(committer.commit, batch_id, receipts)
        except ArrowStreamError as error:
            error.located(batch_id=batch_id, where=where, line=line_of(error))
            raise
        except Exception as error:
            line, rows = line_of(error), _first_rows(receipts)
            text = failure_text(error, line=line, rows=rows)
            raise SinkError(f"{where}, batch {batch_id}: {text}").located(
                batch_id=batch_id, where=where, line=line, rows=rows
            ) from error

    def abandon(self, order: CommitBatch) -> None:
        """A commit has failed: drop what is staged in outputs that have not begun with the batch."""
        for output, committer in enumerate(self._committers):
            if output not in self._begun:
                committer.abort(order.batch.id, _receipts(order.done, output))

    def refused(self, order: CommitBatch) -> list[tuple[str, Refused]]:
        """The rows of a committed batch that an output did not take, by its name."""
        found = [
            (self._names[output], refused)
            for task in order.done
            for output, receipt in task.receipts.items()
            for refused in receipt.refused
        ]
        for name, committer in self._refusing:
            found += [(name, refused) for refused in committer.refused()]
        return found

    def abort(self, batch_id: int, done: Sequence[TaskDone]) -> None:
        """Drop what an attempt at a batch has staged."""
        for output, committer in enumerate(self._committers):
            committer.abort(batch_id, _receipts(done, output))

    def flush(self) -> None:
        """The run has ended: write what is held back."""
        for committer in self._committers:
            committer.flush()

    def closes(self, *, but: str | None = None) -> Sequence[Callable[[], None]]:
        """What closes each of them, all but the one of that name."""
        named = zip(self._names, self._committers, strict=True)
        return [committer.close for name, committer in named if name != but]


def _receipts(done: Sequence[TaskDone], output: int) -> list[Receipt]:
    return [task.receipts[output] for task in done if output in task.receipts]


def _first_rows(receipts: Sequence[Receipt]) -> list[str]:
    """The first rows that an output was given, as JSON; none where they are in files."""
    for changes in chain.from_iterable(receipt.changes for receipt in receipts):
        if changes.num_rows:
            try:
                return as_json(pl.DataFrame(changes.rows.slice(0, _SHOWN))).to_list()
            except (pl.exceptions.PolarsError, pa.ArrowException, TypeError):  # a type that Polars lacks
                return []
    return []
