"""What a worker does, in whichever process: receive, keep blocks, run tasks, keep copies of state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Protocol, TypeAlias

import cloudpickle
import polars as pl
import pyarrow as pa

from arrowstream.blocks.generator import BlockGenerator
from arrowstream.blocks.manager import BlockManager, Peers
from arrowstream.blocks.messages import BlockAdded, BlockCopied, BlockNotCopied, CopyBlock, DropBlocks
from arrowstream.blocks.store import BlockNotFoundError, BlockStore
from arrowstream.clock import Clock
from arrowstream.cluster.outlet import ReceiverEvents, ReceiverOutlet
from arrowstream.connectors.source import SupportsBounded, batch_limit, joined
from arrowstream.errors import BatchError, StateError, WorkerLostError, failure_text
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId
from arrowstream.operators.changes import to_arrow
from arrowstream.operators.compile import compile_unit
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Program
from arrowstream.plan.unit import Unit
from arrowstream.receive.messages import (
    AcknowledgeRows,
    ReceiverEnded,
    ReceiverFailed,
    ReceiversSealed,
    ReceiverStarted,
    SealBlocks,
    StartReceiver,
    StopReceivers,
)
from arrowstream.receive.receiver import Receiver
from arrowstream.schedule.ahead import ReadAhead
from arrowstream.schedule.deadletters import dead_letters, late_letters, receipt_of
from arrowstream.schedule.messages import (
    CommitState,
    FaultPlace,
    RunTask,
    ShownTable,
    ShowState,
    StateShown,
    TaskBlock,
    TaskDone,
    TaskFailed,
    TaskId,
    TaskSlow,
)
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.task import run_task
from arrowstream.settings import Settings, cores
from arrowstream.state.changelog import ChangeLog
from arrowstream.state.protocol import StateTable
from arrowstream.usercode import line_of, told_trace

Instruction: TypeAlias = (
    StartReceiver
    | SealBlocks
    | StopReceivers
    | AcknowledgeRows
    | CopyBlock
    | DropBlocks
    | RunTask
    | CommitState
    | ShowState
)
Event: TypeAlias = (
    BlockAdded
    | BlockCopied
    | BlockNotCopied
    | ReceiverStarted
    | ReceiverFailed
    | ReceiverEnded
    | ReceiversSealed
    | TaskDone
    | TaskFailed
    | TaskSlow
    | StateShown
)


class Neighbours(Peers, Protocol):
    """The other workers, as an executor sees them."""

    def fetch(self, worker: WorkerId, block: BlockId) -> pa.Table:
        """A block or a shuffle part that another worker holds. Raises `WorkerLostError`, `BlockNotFoundError`."""

    def copy_state(self, worker: WorkerId, state: StateCopy) -> None:
        """Give a change of state to the worker that keeps its copy; returns when it is there."""


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A table's change in one batch; or all of it, where `snapshot`, as of the committed batch `version`."""

    unit: UnitId
    partition: int
    name: str
    version: int
    snapshot: bool
    keys: list[str]
    table: pa.Table


@dataclass(slots=True)
class _UnitRun:
    """A unit on this worker."""

    unit: Unit
    program: Program
    partitions: int
    parts: dict[int, dict[BlockId, pl.DataFrame]] = field(default_factory=dict)
    owned: dict[int, Partition] = field(default_factory=dict)
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)
    keepers: dict[int, list[WorkerId]] = field(default_factory=dict)
    copies: dict[tuple[int, str], ChangeLog] = field(default_factory=dict)
    receivers: dict[tuple[SourceId, str], Receiver] = field(default_factory=dict)
    ahead: ReadAhead | None = None


class Executor:
    """Carries out the driver's instructions on one worker, and emits what happened.

    `handle` may be called by several threads, but all tasks of a unit by one. It never raises: what goes wrong is
    an event.
    """

    def __init__(
        self,
        worker: WorkerId,
        settings: Settings,
        clock: Clock,
        neighbours: Neighbours,
        emit: Callable[[Event], None],
        begins: Callable[[UnitId, int, int], None] | None = None,
    ) -> None:
        self.worker, self._begins = worker, begins
        self._settings, self._clock, self._neighbours, self._emit = settings, clock, neighbours, emit
        self.store = BlockStore(settings.blocks)
        self.manager = BlockManager(worker, self.store, neighbours, settings.cluster.replication, settings.blocks, emit)
        self._units: dict[UnitId, _UnitRun] = {}
        self._numbers = count()
        self._copies_lock = threading.Lock()

    def start_unit(self, unit: Unit, partitions: int) -> None:
        """Take in a plan; its receivers and tasks come as instructions."""
        run = self._units[unit.id] = _UnitRun(unit, compile_unit(unit), partitions)
        reader = Partition(0, partitions, run.program, unit)
        if ReadAhead.possible(reader):
            run.ahead = ReadAhead(reader, cores(), self._settings.blocks.backlog)

    def stop_unit(self, unit_id: UnitId) -> None:
        """Stop its receivers and forget all of it."""
        run = self._units.pop(unit_id, None)
        if run is None:
            return
        for receiver in run.receivers.values():
            receiver.stop(drain=False)
        for receiver in run.receivers.values():
            receiver.release(10)
        if run.ahead is not None:
            run.ahead.close()
        self.manager.forget(unit_id)

    def close(self) -> None:
        for unit_id in list(self._units):
            self.stop_unit(unit_id)
        self.store.close()

    def handle(self, instruction: Instruction) -> None:
        match instruction:
            case RunTask():
                self._run_task(instruction)
            case CommitState(unit, batch):
                self._commit(unit, batch)
            case ShowState():
                self._show_state(instruction)
            case DropBlocks(blocks):
                self.manager.drop(blocks)
                for ahead in [run.ahead for run in self._units.values() if run.ahead is not None]:
                    ahead.drop(blocks)
            case CopyBlock():
                self.manager.copy(instruction)
            case StartReceiver():
                self._start_receiver(instruction)
            case StopReceivers(unit, drain):
                for each in self._receivers(unit):
                    each.stop(drain=drain)
            case SealBlocks(unit, token):
                self._flush(unit, token)
            case AcknowledgeRows(unit, source, split, offset):
                if (run := self._units.get(unit)) and (receiver := run.receivers.get((source, split))):
                    receiver.acknowledge(offset)

    def seal(self, unit: UnitId) -> None:
        """Seal the open blocks of a unit's receivers: a batch is due."""
        for receiver in self._receivers(unit):
            receiver.seal()

    def get(self, block: BlockId) -> pa.Table:
        """A block or shuffle part that is here. Raises `BlockNotFoundError`."""
        for run in list(self._units.values()):
            for parts in list(run.parts.values()):
                if (frame := parts.get(block)) is not None:
                    return to_arrow(frame)
        return self.store.get(block)

    def keep_state(self, state: StateCopy) -> None:
        """Keep another worker's change of state, in place of what an attempt given up may have left."""
        run = self._units.get(state.unit)
        if run is None:
            return
        with self._copies_lock:
            key = (state.partition, state.name)
            if state.snapshot or key not in run.copies:
                run.copies[key] = ChangeLog(state.keys)
            log = run.copies[key]
            log.discard_after(state.version - 1)
            log.append(state.version, state.table)
            log.compact()

    def _receivers(self, unit: UnitId) -> Sequence[Receiver]:
        run = self._units.get(unit)
        return list(run.receivers.values()) if run is not None else []

    def _start_receiver(self, order: StartReceiver) -> None:
        run = self._units[order.unit]
        source = dict(run.unit.sources)[order.source].source
        if order.bounded and isinstance(source, SupportsBounded):
            source = source.bounded()
        blocks = self._settings.blocks
        if (limit := batch_limit(source)) is not None:
            blocks = replace(blocks, rows=min(blocks.rows, limit))  # blocks are never cut
        generator = BlockGenerator(
            order.source,
            order.split,
            settings=blocks,
            replayable=source.replayable,
            start=None if order.resume is None else joined(source, None, order.resume),
            position=order.next_block,
            new_id=lambda: BlockId(f"{order.unit}/{order.source}/{order.split}/{self.worker}/{next(self._numbers)}"),
            join=partial(joined, source),
        )
        listener = ReceiverEvents(order, self.worker, self._emit)
        outlet = ReceiverOutlet(order, self.manager, run.ahead)
        receiver = Receiver(source, order.split, order.resume, generator, outlet, self._clock, listener)
        run.receivers[order.source, order.split] = receiver
        receiver.start()

    def _flush(self, unit: UnitId, token: int) -> None:
        receivers = self._receivers(unit)
        left = count(len(receivers) - 1, -1)

        def done() -> None:
            if next(left) <= 0:
                self._emit(ReceiversSealed(unit, self.worker, token))

        for receiver in receivers:
            receiver.flush(done)
        if not receivers:
            done()

    def _commit(self, unit: UnitId, batch: int) -> None:
        if (run := self._units.get(unit)) is not None:
            for partition in run.owned.values():
                partition.commit(batch)
            run.parts.clear()

    def _run_task(self, order: RunTask) -> None:
        task = order.task
        try:
            run = self._units[task.unit]
            partition = self._prepare(run, order)
            result = run_task(
                partition,
                task,
                order.blocks,
                self._load,
                lambda step, name: self._fetch_parts(run, order, step, name),
                Moment(task.batch, order.time, order.before, order.after, order.tables),
                None if run.ahead is None else run.ahead.take,
            )
            parts = run.parts.setdefault(task.partition, {})
            for (step, name, to), frame in result.parts.items():
                parts[_part_id(task, step, name, task.partition, to)] = frame
            for name, table in partition.tables(task.stage):
                self._copy_state(order, name, table, order.replicas, snapshot=False)
            letters = [self._dead_letters(run, task, block) for block in order.blocks if block.info.kind == "rejects"]
            letters += [late_letters(task.batch, late) for late in result.turned_away]
            self._emit(TaskDone(task, self.worker, result.receipts, receipt_of(letters), result.stats))
        except (WorkerLostError, BlockNotFoundError) as error:
            self._emit(TaskFailed(task, self.worker, str(error), retry=True))
        except KeyboardInterrupt:  # Polars ends queries so, in any thread, where Ctrl-C is not the context's
            self._emit(TaskFailed(task, self.worker, "Ctrl-C ended a query of the task", retry=True))
        except BaseException as error:  # also a panic of a native library is an answer, never a hang
            self._emit(_failed(task, self.worker, error))

    def _prepare(self, run: _UnitRun, order: RunTask) -> Partition:
        """The task's partition, at the state of the last committed batch when a batch begins."""
        task = order.task
        for moved in [number for number in run.owned if order.placement[number] != self.worker]:
            del run.owned[moved]
            run.keepers.pop(moved, None)
        partition = self._owned(run, task.partition, order.committed)
        attempt = (task.batch, task.attempt)
        if task.stage == 0:
            partition.commit(order.committed)
            if partition.open_batch is not None:
                partition.rollback()
            run.parts.pop(task.partition, None)
            run.attempts[task.partition] = attempt
            self._copy_snapshot(run, partition, order)
        elif run.attempts.get(task.partition) != attempt:
            raise WorkerLostError(f"{task}: its former stage did not run here")
        return partition

    def _owned(self, run: _UnitRun, number: int, committed: int) -> Partition:
        """A partition that lives here, taken over where it did not until now."""
        partition = run.owned.get(number)
        if partition is None:
            partition = Partition(number, run.partitions, run.program, run.unit)
            if self._begins is not None:
                partition.begins = partial(self._begins, run.unit.id)
            self._restore(run, partition, committed)
            run.owned[number] = partition
        return partition

    def _show_state(self, order: ShowState) -> None:
        try:
            run = self._units[order.unit]
            shown = []
            for number in order.partitions:
                partition = self._owned(run, number, order.committed)
                partition.commit(order.committed)
                for name, table in partition.tables():
                    content = table.snapshot() if name in order.tables else None
                    shown.append(ShownTable(name, len(table), table.memory_bytes(), content))
            self._emit(StateShown(order.unit, self.worker, order.token, shown))
        except BaseException as error:
            self._emit(StateShown(order.unit, self.worker, order.token, [], failure_text(error)))

    def _restore(self, run: _UnitRun, partition: Partition, committed: int) -> None:
        """Take over a partition: build its state from the copies kept here."""
        if committed < 0:
            return
        with self._copies_lock:
            for name, table in partition.tables():
                log = run.copies.pop((partition.number, name), None)
                if log is None:
                    raise StateError(f"worker {self.worker} has no copy of the state {name} of {partition.number}")
                log.discard_after(committed)
                if log.version != committed:
                    raise StateError(
                        f"worker {self.worker} has the state {name} of {partition.number} as of batch {log.version}, "
                        f"not of {committed}"
                    )
                table.restore(log.tables())
        partition.version = committed

    def _copy_snapshot(self, run: _UnitRun, partition: Partition, order: RunTask) -> None:
        """Workers that keep a copy of this partition's state from now on get all there is."""
        new = [worker for worker in order.replicas if worker not in run.keepers.get(partition.number, [])]
        if order.committed >= 0:
            for name, table in partition.tables():
                self._copy_state(order, name, table, new, snapshot=True)
        run.keepers[partition.number] = order.replicas

    def _copy_state(
        self, order: RunTask, name: str, table: StateTable, workers: Sequence[WorkerId], *, snapshot: bool
    ) -> None:
        """What this batch has changed, or all there is; the task is done only when the copies are there."""
        if not workers:
            return
        task = order.task
        rows, version = (table.snapshot(), order.committed) if snapshot else (table.delta(), task.batch)
        copy = StateCopy(task.unit, task.partition, name, version, snapshot, table.keys.names(), rows)
        for worker in workers:
            self._neighbours.copy_state(worker, copy)

    def _load(self, block: TaskBlock) -> pa.Table | None:
        """A block's rows: from here, from another worker, or (None) from its source."""
        info = block.info
        if not info.held:
            return None
        if info.id in self.store:
            return self.store.get(info.id)
        for worker in block.workers:
            if worker != self.worker:
                try:
                    return self._neighbours.fetch(worker, info.id)
                except (WorkerLostError, BlockNotFoundError):
                    continue
        if info.replayable:
            return None
        raise BlockNotFoundError(f"no worker holds block {info.id}")

    def _fetch_parts(self, run: _UnitRun, order: RunTask, step: int, name: str) -> list[pl.DataFrame]:
        frames = []
        for giver, worker in enumerate(order.placement):
            part = _part_id(order.task, step, name, giver, order.task.partition)
            frame = run.parts.get(giver, {}).get(part) if worker == self.worker else None
            if frame is None:
                table = self._neighbours.fetch(worker, part)
                made = pl.from_arrow(table)
                assert isinstance(made, pl.DataFrame)
                frame = made
            frames.append(frame)
        return frames

    def _dead_letters(self, run: _UnitRun, task: TaskId, block: TaskBlock) -> pa.Table:
        table = self._load(block)
        assert table is not None
        name = dict(run.unit.sources)[block.info.source].name
        return dead_letters(task.batch, name, block.info.split, table)


def _part_id(task: TaskId, step: int, name: str, giver: int, to: int) -> BlockId:
    return BlockId(f"{task.unit}/{task.batch}/{task.attempt}/{step}/{name}/{giver}>{to}")


def _failed(task: TaskId, worker: WorkerId, error: BaseException) -> TaskFailed:
    """The end of a task that no other attempt would help, with the cause as far as it can travel."""
    if isinstance(error, BatchError) and error.__cause__ is not None:
        place, reason, cause = FaultPlace(error.where, error.line, list(error.rows)), str(error), error.__cause__
    else:
        place, cause = FaultPlace(line=line_of(error)), error
        reason = failure_text(error, line=place.line)
    if trace := told_trace(cause):  # a traceback cannot be pickled
        cause.add_note(f"It was raised here:\n{trace}")
    return TaskFailed(task, worker, reason, retry=False, error=_pickled(cause), place=place)


def _pickled(error: BaseException) -> bytes | None:
    try:
        data: bytes = cloudpickle.dumps(error)
        return data
    except Exception:
        return None
