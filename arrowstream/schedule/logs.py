"""What must be known of batches after a crash: which were allotted, which are committed.

The order is the protocol's: a batch is in the offset log before it runs, and in the commit log once all sinks have
published it. The logs here live as long as the driver; durable ones take their place where a checkpoint directory
is given.
"""

from __future__ import annotations

from typing import Protocol

from arrowstream.schedule.batch import Batch


class BatchLog(Protocol):
    """The write-ahead log of a unit's batches."""

    def allotted(self, batch: Batch) -> None:
        """Durable when it returns; the same number again replaces nothing and is an error."""

    def committed(self, batch_id: int) -> None:
        """Durable when it returns."""


class MemoryLog:
    """Remembers the one batch that is on its way: enough while the driver lives."""

    def __init__(self) -> None:
        self.running: Batch | None = None
        self.last_committed = -1

    def allotted(self, batch: Batch) -> None:
        if self.running is not None or batch.id != self.last_committed + 1:
            raise ValueError(f"batch {batch.id} allotted after {self.last_committed} committed, {self.running} running")
        self.running = batch

    def committed(self, batch_id: int) -> None:
        self.last_committed, self.running = batch_id, None
