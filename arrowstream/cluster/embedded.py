"""The default cluster: one worker inside the driver's process, called directly. No copies, no sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from arrowstream.blocks.block import Block
from arrowstream.blocks.store import BlockNotFoundError
from arrowstream.clock import Clock
from arrowstream.cluster.cluster import ClusterEvent
from arrowstream.cluster.executor import Executor, Instruction, StateCopy
from arrowstream.ids import BlockId, UnitId, WorkerId
from arrowstream.plan.unit import Unit
from arrowstream.settings import Settings

DRIVER = WorkerId("driver")


class EmbeddedCluster:
    """One executor per unit, so that units need not wait for each other: each runs on its driver's thread."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._executors: dict[UnitId, Executor] = {}

    def start(self) -> None:
        pass

    @property
    def workers(self) -> Sequence[WorkerId]:
        return [DRIVER]

    def start_unit(self, unit: Unit, partitions: int, deliver: Callable[[ClusterEvent], None]) -> None:
        executor = Executor(DRIVER, self._settings, self._clock, _Alone(), deliver)
        executor.start_unit(unit, partitions)
        self._executors[unit.id] = executor

    def join_unit(self, unit: UnitId, worker: WorkerId) -> None:
        pass

    def send(self, unit: UnitId, worker: WorkerId, instruction: Instruction) -> None:
        self._executors[unit].handle(instruction)

    def seal(self, unit: UnitId) -> None:
        self._executors[unit].seal(unit)

    def stop_unit(self, unit: UnitId) -> None:
        if (executor := self._executors.pop(unit, None)) is not None:
            executor.close()

    def kill(self) -> None:
        """A thread cannot be ended."""

    def close(self) -> None:
        for unit in list(self._executors):
            self.stop_unit(unit)


class _Alone:
    """No other workers."""

    def alive(self) -> Sequence[WorkerId]:
        return []

    def send(self, worker: WorkerId, block: Block, done: Callable[[str], None]) -> None:
        done("there is no other worker")

    def fetch(self, worker: WorkerId, block: BlockId) -> pa.Table:
        raise BlockNotFoundError(f"there is no worker {worker} to ask for block {block}")

    def copy_state(self, worker: WorkerId, state: StateCopy) -> None:
        raise BlockNotFoundError(f"there is no worker {worker} to keep state")
