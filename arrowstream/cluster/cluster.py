"""What places and watches workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from arrowstream.cluster.executor import Event, Instruction
from arrowstream.cluster.lastwords import LastWords
from arrowstream.ids import UnitId, WorkerId
from arrowstream.plan.unit import Unit


class WorkerLost(msgspec.Struct, frozen=True):
    """A worker process is gone. No event of it comes any more. `at` is the step that it was in; `by_itself` where what
    it did has ended it, and no signal from outside."""

    worker: WorkerId
    reason: str
    at: LastWords | None = None
    by_itself: bool = False


class WorkerJoined(msgspec.Struct, frozen=True):
    """A new worker is there, in place of one that was lost; it has no unit yet."""

    worker: WorkerId


class WorkerNotReplaced(msgspec.Struct, frozen=True):
    """A worker that was to take the place of a lost one did not start; it is tried again after so many seconds."""

    worker: WorkerId
    reason: str
    again: float


ClusterEvent: TypeAlias = Event | WorkerLost | WorkerJoined | WorkerNotReplaced


class Cluster(Protocol):
    """Workers, in this process or others: the same calls whichever they are.

    `start` -> `start_unit` ... `stop_unit` -> `close`. Events of a unit, and of the workers, are handed to the
    function given to `start_unit`, from any thread.
    """

    def start(self) -> None:
        """Start the workers; returns when all are there. A second call does nothing."""

    @property
    def workers(self) -> Sequence[WorkerId]:
        """Those that are there now."""

    def start_unit(self, unit: Unit, partitions: int, deliver: Callable[[ClusterEvent], None]) -> None:
        """Ship a plan to all workers."""

    def join_unit(self, unit: UnitId, worker: WorkerId) -> None:
        """Ship a plan that was started to a worker that came later."""

    def send(self, unit: UnitId, worker: WorkerId, instruction: Instruction) -> None:
        """Have a worker carry out an instruction of a unit; one to a worker that is gone does nothing. May run it
        before it returns."""

    def seal(self, unit: UnitId) -> None:
        """A batch is due: seal open blocks, where that takes no time."""

    def stop_unit(self, unit: UnitId) -> None:
        """Stop a unit's receivers and forget it everywhere."""

    def kill(self) -> None:
        """End worker processes at once, whatever they do; inside this process there is nothing that could be ended."""

    def close(self) -> None:
        """End the workers. A second call does nothing."""
