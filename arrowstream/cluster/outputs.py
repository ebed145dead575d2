"""The outputs of a unit, in which batches are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import tenacity

from arrowstream.connectors.sink import Committer, Receipt, Refused, SupportsRefused, SupportsView
from arrowstream.errors import ArrowStreamError, SinkError
from arrowstream.schedule.messages import CommitBatch, TaskDone

COMMIT_TRIES: Final = 3
"""A sink's commit is idempotent: a connection that broke is worth another try, some tenths of a second later."""


class Outputs:
    """The committers of a unit's outputs, by their order in it; they belong to the driver's thread."""

    def __init__(self, names: Sequence[str], committers: Sequence[Committer]) -> None:
        self._names, self._committers = list(names), list(committers)
        # Asked once: a protocol is slow to answer.
        self._seen = [isinstance(committer, SupportsView) for committer in committers]
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OSError),
            stop=tenacity.stop_after_attempt(COMMIT_TRIES),
            wait=tenacity.wait_exponential(multiplier=0.1),
            reraise=True,
        )

    def commit(self, order: CommitBatch, *, seen: bool) -> None:
        """Publish a batch in the outputs that SQL sees, or in the others. Raises `SinkError`."""
        for output, committer in enumerate(self._committers):
            if self._seen[output] is seen:
                receipts = [task.receipts[output] for task in order.done if output in task.receipts]
                self._commit(output, committer, order.batch.id, receipts)

    def _commit(self, output: int, committer: Committer, batch_id: int, receipts: Sequence[Receipt]) -> None:
        try:
            self._retrying(committer.commit, batch_id, receipts)
        except ArrowStreamError:
            raise
        except Exception as error:
            name = self._names[output]
            raise SinkError(f"output {name}, batch {batch_id}: {type(error).__name__}: {error}") from error

    def refused(self, order: CommitBatch) -> list[tuple[str, Refused]]:
        """The rows of a committed batch that an output did not take, by its name."""
        found = [
            (self._names[output], refused)
            for task in order.done
            for output, receipt in task.receipts.items()
            for refused in receipt.refused
        ]
        for name, committer in zip(self._names, self._committers, strict=True):
            if isinstance(committer, SupportsRefused):
                found += [(name, refused) for refused in committer.refused()]
        return found

    def abort(self, batch_id: int, done: Sequence[TaskDone]) -> None:
        """Drop what an attempt at a batch has staged."""
        for output, committer in enumerate(self._committers):
            committer.abort(batch_id, [task.receipts[output] for task in done if output in task.receipts])

    def flush(self) -> None:
        """The run has ended: write what is held back."""
        for committer in self._committers:
            committer.flush()

    def closes(self) -> Sequence[Callable[[], None]]:
        """What closes each of them."""
        return [committer.close for committer in self._committers]
