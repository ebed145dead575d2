"""Batches, one after the other: allot, run stage by stage, commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from arrowstream.blocks.block import BlockInfo
from arrowstream.blocks.master import BlockMaster
from arrowstream.blocks.messages import DropBlocks
from arrowstream.blocks.placement import least_loaded, next_workers
from arrowstream.ids import SourceId, UnitId, WorkerId
from arrowstream.schedule.batch import Batch
from arrowstream.schedule.messages import (
    AbortReceipts,
    CommitBatch,
    CommitState,
    FailUnit,
    LogBatch,
    RunTask,
    TaskBlock,
    TaskDone,
    TaskFailed,
    TaskId,
)
from arrowstream.schedule.turns import Turns
from arrowstream.schedule.versions import TableVersions
from arrowstream.schedule.watermarks import SplitTime, Standing, WatermarkTracker
from arrowstream.settings import BatchSettings

Instruction: TypeAlias = (
    LogBatch | CommitBatch | AbortReceipts | FailUnit | tuple[WorkerId, RunTask | CommitState | DropBlocks]
)


RETRY_SECONDS = 0.1
"""How long to wait, doubled with every attempt, before a batch is tried a third time."""


class BatchScheduler:
    """Decides what a unit does next; does no I/O, takes the time as an argument.

    Idle -> (`tick`, blocks wait) -> Running stage 0..n-1 -> Committing -> (`batch_committed`) -> Idle. A worker
    lost, or a task that may succeed another time, starts the batch again from its first stage under the next
    attempt number, over the same blocks; answers of former attempts are dropped. Instructions with a worker
    are to be sent to it; all are to be carried out in order. How far event time has come is known when stage 0 is
    through, so the later stages close in this batch what it passes.

    A partition lives on one worker, and its state has a copy on the next in the ring; when its worker is lost it
    moves there. To a worker that joins a partition moves from one that has several: the newcomer keeps a copy of its
    state for one batch, and then takes over.
    """

    def __init__(
        self,
        unit: UnitId,
        stages: int,
        stateful: bool,
        workers: Sequence[WorkerId],
        replication: int,
        settings: BatchSettings,
        blocks: BlockMaster,
        max_rows_of: Mapping[SourceId, int] | None = None,
        times: WatermarkTracker | None = None,
        turns: Turns | None = None,
        tables: TableVersions | None = None,
    ) -> None:
        self._unit, self._stages, self._stateful = unit, stages, stateful
        self._workers = sorted(workers)
        self._replication = replication
        self._settings, self._blocks, self._max_rows_of = settings, blocks, max_rows_of
        self._times, self._turns, self._tables = times, turns, tables
        self._after: list[int] = []
        self.placement: list[WorkerId] = list(self._workers)
        self._replicas: list[WorkerId | None] = [self._replica_of(worker) for worker in self.placement]
        self._protected: list[set[WorkerId]] = [set() for _ in self.placement]
        self._moves: dict[int, WorkerId] = {}
        self._carried: dict[int, WorkerId] = {}
        self._next_id = 0
        self._due: float | None = None
        self._batch: Batch | None = None
        self._attempt = self._stage = 0
        self._pending: set[int] = set()
        self._done: list[TaskDone] = []
        self._committing = False
        self._again_at: float | None = None
        self._broken = ""

    @property
    def idle(self) -> bool:
        """No batch is on its way."""
        return self._batch is None

    @property
    def committed(self) -> int:
        """The last batch that is committed, -1 before the first."""
        return self._next_id - 1

    @property
    def unprotected(self) -> list[int]:
        """Partitions whose state as of the last committed batch is on one worker alone, though it should be on two."""
        if not self._stateful or self._replication < 2 or not self._next_id:
            return []
        return [
            partition
            for partition, replica in enumerate(self._replicas)
            if replica is None or replica not in self._protected[partition]
        ]

    def ready(self, now: float) -> bool:
        """Whether there is something for a batch: blocks wait, time would move on without any, or state has no copy."""
        if self._blocks.waiting and (not self._turns or self._blocks.waiting_splits - self._out_of_turn()):
            return True
        if any(self._replicas[partition] is not None for partition in self.unprotected):
            return True  # a batch without rows makes the copies
        return self._times is not None and self._times.due(now, self._blocks.waiting_splits)

    def _out_of_turn(self) -> set[tuple[SourceId, str]]:
        return self._turns.held(self._blocks.waiting_splits) if self._turns else set()

    def split_ended(self, source: SourceId, split: str) -> None:
        """After what still waits of this split, nothing comes."""
        if self._turns is not None:
            self._turns.end(source, split)
        if self._times is not None:
            self._times.end(source, split)

    def abandon(self) -> list[Instruction]:
        """The unit ends in the middle of a batch: what its tasks have staged is of no use.

        Once sinks have begun to commit, some may have the batch in their logs: then nothing is dropped, and the next
        committer says what is to stay.
        """
        if self._batch is None or self._committing or not self._done:
            return []
        return [AbortReceipts(self._batch.id, self._done)]

    def next_tick(self, now: float) -> float | None:
        """When `tick` should be called next; None while a batch is on its way and none of its tasks has failed."""
        if self._batch is not None:
            return self._again_at
        if self._due is None:
            self._due = now + self._settings.interval
        return self._due

    def tick(self, now: float, *, hurry: bool = False) -> list[Instruction]:
        """A batch may be due: allot it. `hurry` does not wait for its time."""
        if self._again_at is not None and now >= self._again_at:
            return self._again(self._broken)
        due = self.next_tick(now)
        if self._batch is not None or not (hurry or (due is not None and now >= due)):
            return []
        interval = self._settings.interval
        if due is not None and now >= due:
            # The next tick keeps the beat; ticks that were missed are not made up for.
            self._due = due + interval if now < due + interval else now + interval
        if not self.ready(now):
            return []
        held = self._out_of_turn()
        held |= self._times.held(self._blocks.waiting_splits - held) if self._times else set()
        taken = self._blocks.allot(self._settings.rows, self._settings.bytes, self._max_rows_of, held)
        standing = self._times.stand(now, taken, self._blocks.waiting_splits) if self._times else Standing()
        versions = self._tables.stand(now) if self._tables is not None else []
        self._batch = Batch(self._next_id, now, taken, standing, versions)
        self._attempt = 0
        return [LogBatch(self._batch), *self._start_stage(0)]

    def task_done(self, event: TaskDone) -> list[Instruction]:
        if not self._current(event.task):
            return [AbortReceipts(event.task.batch, [event])]
        self._done.append(event)
        self._pending.discard(event.task.partition)
        if self._pending:
            return []
        if self._stage == 0 and self._times:
            assert self._batch is not None
            self._after = self._times.after(self._batch.standing, self._seen())
        if self._stage + 1 < self._stages:
            return self._start_stage(self._stage + 1)
        assert self._batch is not None
        self._committing = True
        return [CommitBatch(self._batch, sorted(self._done, key=lambda done: (done.task.stage, done.task.partition)))]

    def task_failed(self, event: TaskFailed, now: float) -> list[Instruction]:
        if not self._current(event.task):
            return []
        if not event.retry:
            return [FailUnit(event.task.batch, event.reason, event.error, event.place)]
        if self._attempt == 0:
            return self._again(event.reason)
        if self._again_at is None:
            # A lost worker is refused sooner than it is known to be lost: give the news time to come.
            self._broken, self._again_at = event.reason, now + RETRY_SECONDS * 2**self._attempt
        return []

    def batch_committed(self) -> list[Instruction]:
        """All sinks have the batch, and the log."""
        assert self._batch is not None
        if self._times:
            waits = [wait for done in self._done for wait in done.stats.waits]
            self._times.commit(self._batch.standing, self._seen(), waits)
        drops = self._blocks.committed(self._batch.blocks)
        closed = [(worker, CommitState(self._unit, self._batch.id)) for worker in sorted(set(self.placement))]
        self._next_id += 1
        self._protected = [set(self._keepers(partition)) for partition in range(len(self.placement))]
        self._batch, self._done, self._committing = None, [], False
        self._move(self._carried)
        return [*closed, *drops]

    def workers_changed(self, alive: Sequence[WorkerId], lost_blocks: Sequence[BlockInfo]) -> list[Instruction]:
        """Workers are gone or have joined; `lost_blocks` are those of which no copy is left."""
        self._workers = sorted(alive)
        if not self._workers:
            return [FailUnit(self._batch.id if self._batch else None, "all workers are lost")]
        moved = False
        for partition, worker in enumerate(self.placement):
            if worker in self._workers:
                if self._replicas[partition] not in self._workers:
                    self._replicas[partition] = self._replica_of(worker)
                continue
            heir = self._replicas[partition]
            moved = True
            if heir not in self._workers:
                if self._stateful and (self._next_id > 0 or self._batch is not None):
                    reason = f"the state of partition {partition} was on the lost worker {worker} and had no copy"
                    return [FailUnit(None, f"{reason}; run with replication=2")]
                heir = least_loaded(self._workers, self.placement)
            assert heir is not None
            self.placement[partition] = heir
            self._replicas[partition] = self._replica_of(heir)
        self._plan_moves()
        if self._batch is None or self._committing:
            return []
        gone = {info.id for info in lost_blocks}
        if gone:
            left = [info for info in self._batch.blocks if info.id not in gone]
            self._batch = msgspec.structs.replace(self._batch, blocks=left)
        return self._again("a worker was lost") if moved or gone else []

    def _plan_moves(self) -> None:
        """Partitions for workers that have none, from those that have the most."""
        self._moves = {
            partition: to
            for partition, to in self._moves.items()
            if to in self._workers and to != self.placement[partition]
        }
        for newcomer in self._workers:
            after = [self._moves.get(partition, worker) for partition, worker in enumerate(self.placement)]
            busiest = max(self._workers, key=after.count)
            if newcomer not in after and after.count(busiest) > 1:
                self._moves[after.index(busiest)] = newcomer
        if self._batch is None and (not self._stateful or self._next_id == 0):
            self._move(self._moves)

    def _move(self, ready: dict[int, WorkerId]) -> None:
        """Let those take over that have what they need."""
        for partition, to in list(ready.items()):
            if self._moves.get(partition) == to:
                del self._moves[partition]
                self.placement[partition] = to
                self._replicas[partition] = self._replica_of(to)

    def _seen(self) -> list[SplitTime]:
        """The times that this batch's rows have."""
        return [time for done in self._done for time in done.stats.times]

    def _replica_of(self, worker: WorkerId) -> WorkerId | None:
        if not self._stateful:
            return None
        return next(iter(next_workers(worker, self._workers, self._replication)), None)

    def _current(self, task: TaskId) -> bool:
        return (
            self._batch is not None
            and not self._committing
            and (task.batch, task.attempt, task.stage) == (self._batch.id, self._attempt, self._stage)
        )

    def _again(self, reason: str) -> list[Instruction]:
        assert self._batch is not None
        if self._attempt + 1 >= self._settings.attempts:
            return [FailUnit(self._batch.id, f"gave up after {self._settings.attempts} attempts: {reason}")]
        self._again_at = None
        aborted = AbortReceipts(self._batch.id, self._done)
        self._attempt += 1
        return [aborted, *self._start_stage(0)]

    def _start_stage(self, stage: int) -> list[Instruction]:
        assert self._batch is not None
        if stage == 0:
            self._done = []
            self._after = self._batch.standing.before
            self._carried = dict(self._moves)
        self._stage = stage
        self._pending = set(range(len(self.placement)))
        blocks = self._spread(self._batch) if stage == 0 else [[] for _ in self.placement]
        return [
            (
                worker,
                RunTask(
                    TaskId(self._unit, self._batch.id, self._attempt, stage, partition),
                    blocks[partition],
                    self.placement,
                    self._next_id - 1,
                    self._keepers(partition),
                    self._batch.time,
                    self._batch.standing.before,
                    self._after,
                    self._batch.tables,
                ),
            )
            for partition, worker in enumerate(self.placement)
        ]

    def _keepers(self, partition: int) -> list[WorkerId]:
        """Who keeps copies of a partition's state in this batch."""
        if not self._stateful:
            return []
        keepers = dict.fromkeys([self._replicas[partition], self._carried.get(partition)])
        return [keeper for keeper in keepers if keeper is not None]

    def _spread(self, batch: Batch) -> list[list[TaskBlock]]:
        """Give each block to a partition whose worker holds it, the one with the least to do."""
        parts: list[list[TaskBlock]] = [[] for _ in self.placement]
        load = [0] * len(parts)
        for ordinal, info in enumerate(batch.blocks):
            holders = list(self._blocks.workers(info.id)) if info.held else []
            near = [p for p, worker in enumerate(self.placement) if worker in holders] or range(len(parts))
            chosen = min(near, key=lambda p: (load[p], p))
            load[chosen] += info.nbytes
            parts[chosen].append(TaskBlock(ordinal, info, holders))
        return parts
