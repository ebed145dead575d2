"""The driver of a unit: one thread that hears what happened, asks the deciders, and does what they say."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from arrowstream.blocks.block import BlockInfo
from arrowstream.blocks.master import BlockMaster
from arrowstream.blocks.messages import BlockAdded, BlockCopied, BlockNotCopied
from arrowstream.clock import Clock
from arrowstream.cluster.cluster import Cluster, ClusterEvent, WorkerJoined, WorkerLost, WorkerNotReplaced
from arrowstream.cluster.executor import Instruction as Order
from arrowstream.cluster.flushes import Flush, Flushes
from arrowstream.cluster.inbox import Inbox
from arrowstream.cluster.outputs import Outputs
from arrowstream.cluster.questions import Question, Questions
from arrowstream.connectors.sink import Committer
from arrowstream.connectors.source import Offset, batch_limit, remembered
from arrowstream.errors import (
    ArrowStreamError,
    BatchError,
    ClusterError,
    ContextError,
    SourceError,
    StateError,
)
from arrowstream.ids import SourceId, WorkerId
from arrowstream.operators.compile import compile_unit
from arrowstream.operators.moment import PARTLY_LATE
from arrowstream.plan.explain import unbounded
from arrowstream.plan.nodes import Node
from arrowstream.plan.tables import Table
from arrowstream.plan.unit import Unit, topological
from arrowstream.receive.messages import (
    AcknowledgeRows,
    ReceiverEnded,
    ReceiverFailed,
    ReceiversSealed,
    ReceiverStarted,
    StopReceivers,
)
from arrowstream.receive.supervisor import ReceiverSupervisor
from arrowstream.schedule.blame import step_name
from arrowstream.schedule.deadletters import DeadLetters, receipt_of, refused_letters
from arrowstream.schedule.logs import BatchLog
from arrowstream.schedule.messages import (
    AbortReceipts,
    CommitBatch,
    FailUnit,
    LogBatch,
    ShownTable,
    StateShown,
    TaskDone,
    TaskFailed,
    TaskSlow,
)
from arrowstream.schedule.progress import BatchReport, Progress
from arrowstream.schedule.scheduler import BatchScheduler, Instruction
from arrowstream.schedule.turns import Turns
from arrowstream.schedule.versions import TableVersions
from arrowstream.schedule.watermarks import WatermarkTracker
from arrowstream.settings import Settings

log = logging.getLogger("arrowstream")

REPAIR_SECONDS = 0.5
"""How often copies are ordered anew that could not be made."""


FATAL_DEATHS = 2
"""Worker processes that a batch may end by what it does before the run fails; one may have been an accident."""


class _Stop:
    """The user wants the unit to stop; `drain` to finish what arrived."""

    def __init__(self, drain: bool) -> None:
        self.drain = drain


class _Abandoned(Exception):
    """Nobody waits for this unit any more: its thread has to let go of everything and say nothing."""


class _Leave:
    """The unit has been abandoned."""


@dataclass(frozen=True, slots=True)
class Underway:
    """A batch that a unit is in the middle of: since when (`time.monotonic`), and what it waits for."""

    batch: int
    since: float
    what: str
    line: str = ""
    """Of the user's code, where a worker has told."""


@dataclass(frozen=True, eq=False, slots=True)
class _Refresh:
    """The next batch is to read a table again."""

    table: Table


_Event: TypeAlias = ClusterEvent | _Stop | _Leave | Flush | Question | _Refresh


class UnitDriver:
    """Runs one unit from start to end.

    New -> (`start`) -> Running -> (`stop`, or all sources ended) -> Ended, or Failed. `error` says why it failed, and
    `on_failed` is called with it, on the unit's thread. A unit whose thread does not come back from a function of the
    user is given up by `abandon`: it commits nothing from then on.
    All deciders (`BlockMaster`, `BatchScheduler`, `ReceiverSupervisor`) and all committers belong to its thread.
    """

    def __init__(
        self,
        unit: Unit,
        cluster: Cluster,
        settings: Settings,
        clock: Clock,
        batch_log: BatchLog,
        committers: Sequence[Committer],
        dead_letters: DeadLetters,
        progress: Progress,
        on_batch: Callable[[BatchReport], None],
        on_failed: Callable[[ArrowStreamError], None] = lambda error: None,
    ) -> None:
        self.unit = unit
        self.error: ArrowStreamError | None = None
        self._cluster, self._settings, self._clock, self._log = cluster, settings, clock, batch_log
        self._outputs = Outputs([output.sink for output in unit.outputs], committers)
        self._dead_letters, self._progress = dead_letters, progress
        self._on_batch, self._on_failed = on_batch, on_failed
        self._abandoned = False
        self._batch: tuple[int, float] | None = None
        self.instant = threading.RLock()
        """Held while outputs that SQL sees are between two batches."""
        self._inbox: Inbox[_Event] = Inbox(clock)
        self._sources = {source: node.source for source, node in unit.sources}
        self._blocks = BlockMaster(
            unit.id,
            settings.cluster.replication,
            lambda source, memory, later: remembered(self._sources[source], memory, later),
        )
        self._workers = list(cluster.workers)
        program = self._program = compile_unit(unit)
        self._times, self._turns, self._tables = WatermarkTracker(unit, program.waits), Turns(unit), TableVersions(unit)
        self._scheduler = BatchScheduler(
            unit.id,
            program.stages,
            program.stateful,
            self._workers,
            settings.cluster.replication,
            settings.batches,
            self._blocks,
            {source: limit for source, node in unit.sources if (limit := batch_limit(node.source)) is not None},
            self._times,
            self._turns,
            self._tables,
        )
        self._names = {source: node.name for source, node in unit.sources}
        self._supervisor: ReceiverSupervisor | None = None
        self._stopping: _Stop | None = None
        self._flushes, self._questions = Flushes(unit.id), Questions(unit.id)
        self._lost_rows = 0
        self._gone: set[WorkerId] = set()
        self._repair_at: float | None = None
        self._deaths: list[int] = []  # batches whose tasks have ended the process in which they ran
        self._slow: TaskSlow | None = None
        self._unopened: set[tuple[SourceId, str]] = set()
        self._opened = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"driver-{unit.id}", daemon=True)

    def start(self, *, bounded: bool) -> None:
        """Ship the plan, start the receivers and the loop; `bounded` sources end where they would wait for more.

        Raises `SourceError`.
        """
        splits = [(source, split) for source, node in self.unit.sources for split in node.source.splits()]
        self._supervisor = ReceiverSupervisor(
            self.unit.id, splits, self._blocks.position, bounded=bounded, first=self._turns.first
        )
        self._times.expect(splits)
        self._turns.expect(splits)
        waiting = self._waiting_sources()
        self._unopened = {(source, split) for source, split in splits if source not in waiting}
        if not self._unopened:
            self._opened.set()
        self._cluster.start_unit(self.unit, len(self._workers), self._inbox.put)
        # Workers that came and went before this unit could hear of it.
        there = self._cluster.workers
        for worker in self._workers:
            if worker not in there:
                self._inbox.put(WorkerLost(worker, "it ended as the unit began"))
        for worker in there:
            if worker not in self._workers:
                self._inbox.put(WorkerJoined(worker))
        for node in topological(self.unit.outputs):
            if (kept := unbounded(node)) is not None:
                self._note(
                    f"{node.label} keeps {kept} for ever: its state is unbounded; a watermark and a bound let it go"
                )
        self._send(self._supervisor.assign(self._workers, waiting))
        self._thread.start()

    def wait_until_open(self, timeout: float) -> bool:
        """Wait until every source is open for the first time, or one could not be opened (then `error` says why)."""
        return self._opened.wait(timeout)

    def stop(self, *, drain: bool) -> None:
        """Ask it to stop; returns at once."""
        self._inbox.put(_Stop(drain))

    def flush(self) -> threading.Event:
        """An event that is set once all that the sources have now is committed (or the unit has ended)."""
        flush = Flush()
        self._inbox.put(flush)
        if self._ended.is_set():
            flush.done.set()
        return flush.done

    @property
    def keepers(self) -> Mapping[int, Node]:
        """The nodes that keep state, by the number with which the names of their tables begin."""
        return self._program.keepers

    def state(self, tables: Sequence[str], timeout: float | None = None) -> list[ShownTable]:
        """What the operators of all partitions keep as of the last committed batch; with the rows of `tables`.

        Waits for the batch under way. Raises `ContextError` once the unit has ended, `StateError`, `TimeoutError`.
        """
        if threading.current_thread() is self._thread:
            raise ContextError("state cannot be asked for in the middle of a commit: ask from another thread")
        question = Question(tables)
        self._inbox.put(question)
        if self._ended.is_set() and not question.done.is_set():
            question.end()
        if not question.done.wait(timeout):
            raise TimeoutError(f"a batch was still under way after {timeout} s; {self._progress!r}")
        if question.failed:
            raise StateError(f"the state cannot be shown: {question.failed}")
        if question.ended:
            raise ContextError("the run has ended, and its state with it: ask while it runs")
        return question.found

    def refresh(self, table: Table) -> None:
        """Have the next batch that is allotted read a table again; from any thread."""
        self._inbox.put(_Refresh(table))

    def abandon(self, error: ArrowStreamError) -> None:
        """Wait no longer for a unit whose thread does not come back: it has failed with this error.

        Outputs are closed, but for the one that the thread is in. From any other thread.
        """
        self.error = error
        self._abandoned = True
        self._inbox.put(_Leave())
        for close in (*self._outputs.closes(but=self._outputs.at), self._stop_unit):
            with contextlib.suppress(Exception):
                close()
        self._ended.set()
        self._opened.set()
        self._let_go()

    @property
    def thread(self) -> threading.Thread:
        """The thread that runs the unit; embedded, also its tasks and with them the user's functions."""
        return self._thread

    @property
    def underway(self) -> Underway | None:
        """The batch that is being worked at; None between two batches."""
        if (batch := self._batch) is None:
            return None
        if (output := self._outputs.at) is not None:
            return Underway(*batch, f"output {output}")
        slow = self._slow
        line = slow.line if slow is not None and slow.task.batch == batch[0] else ""
        return Underway(*batch, "its tasks", line)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; whether it has."""
        return self._ended.wait(timeout)

    @property
    def waiting_bytes(self) -> int:
        return self._blocks.waiting_bytes

    def _run(self) -> None:
        try:
            self._loop()
            self._finish()
        except _Abandoned:
            pass
        except ArrowStreamError as error:
            self._fail(error)
        except BaseException as error:
            broken = BatchError(f"the driver of {self.unit.id} broke: {type(error).__name__}: {error}")
            broken.__cause__ = error
            self._fail(broken)
        finally:
            with contextlib.suppress(Exception):
                self._carry_out(self._scheduler.abandon())
            for close in (*self._outputs.closes(), self._stop_unit):
                with contextlib.suppress(Exception):
                    close()
            self._ended.set()
            self._opened.set()
            self._let_go()

    def _fail(self, error: ArrowStreamError) -> None:
        if self._abandoned:
            return
        self.error = error
        self._on_failed(error)

    def _let_go(self) -> None:
        """Whoever waits for something of this unit need not any more."""
        for flush in self._flushes.take(sealed=True):
            flush.done.set()
        self._questions.end()
        for event in self._inbox.take_now():
            match event:
                case Flush():
                    event.done.set()
                case Question():
                    event.end()

    def _stop_unit(self) -> None:
        self._cluster.stop_unit(self.unit.id)

    def _loop(self) -> None:
        while not self._through():
            self._stay()
            due = self._scheduler.next_tick(self._clock.now())
            hurry = self._hurry()
            at_once = hurry and self._scheduler.idle and self._scheduler.ready(self._clock.now())
            until = min((at for at in (due, self._repair_at) if at is not None), default=None)
            self._hear(self._inbox.take_now() if at_once else self._inbox.take(until))
            now = self._clock.now()
            if due is not None and now >= due and self._scheduler.idle:
                self._cluster.seal(self.unit.id)
                self._hear(self._inbox.take_now())
            if self._questions.waiting and self._scheduler.idle:  # the state is that of the last batch
                self._send(self._questions.ask(self._scheduler.placement, self._scheduler.committed))
            if self._stopping is None or self._stopping.drain or not self._scheduler.idle:  # else no further batch
                self._carry_out(self._scheduler.tick(now, hurry=self._hurry()))
            self._repair()
            if not self._blocks.waiting and self._scheduler.idle and not self._turns.waiting():
                self._flushes.answer()

    def _stay(self) -> None:
        """Raises where nobody waits for this unit any more."""
        if self._abandoned:
            raise _Abandoned

    def _hurry(self) -> bool:
        """Whether batches follow each other without waiting for the interval."""
        assert self._supervisor is not None
        return self._flushes.waiting or self._stopping is not None or not self._supervisor.running

    def _through(self) -> bool:
        assert self._supervisor is not None
        if not self._scheduler.idle:
            return False
        if self._stopping is not None and not self._stopping.drain:
            return True
        return not self._supervisor.running and not self._scheduler.ready(self._clock.now())

    def _hear(self, events: Iterable[_Event]) -> None:
        for event in events:
            self._hear_one(event)

    def _hear_one(self, event: _Event) -> None:
        assert self._supervisor is not None
        match event:
            case BlockAdded():
                self._block_added(event)
            case BlockCopied():
                if event.worker not in self._gone:
                    self._send(self._blocks.copied(event))
                    self._acknowledge_safe()
            case BlockNotCopied():
                self._blocks.not_copied(event)
                self._is_degraded(f"{event.worker}: {event.problem}")
            case WorkerNotReplaced(worker, reason, again):
                self._note(f"{worker}, in place of a lost worker, did not start ({reason}); again in {again:.1f} s")
            case TaskDone():
                self._carry_out(self._scheduler.task_done(event))
            case TaskFailed():
                self._carry_out(self._scheduler.task_failed(event, self._clock.now()))
            case ReceiverStarted():
                self._is_open(event.source, event.split)
                self._times.opened(event.source, event.split, self._clock.now())
            case ReceiverFailed():
                self._receiver_failed(event)
            case ReceiverEnded():
                self._is_open(event.source, event.split)
                self._supervisor.ended(event.source, event.split, event.worker)
                if event.exhausted:  # else the user has ended it, and there would have been more
                    self._scheduler.split_ended(event.source, event.split)
                if self._stopping is None:
                    self._next_turn()
            case ReceiversSealed():
                self._flushes.sealed(event.token, event.worker)
            case TaskSlow():
                self._slow = event
                where = f", at {event.line}" if event.line else ""
                self._note(
                    f"batch {event.task.batch} has been under way on worker {event.worker} for "
                    f"{event.seconds:.0f} s{where}; ctx.stop(graceful=False) gives it up"
                )
            case StateShown():
                self._questions.answered(event)
            case WorkerLost():
                self._worker_lost(event)
            case WorkerJoined():
                self._worker_joined(event)
            case _Stop():
                self._stopping = event
                self._turns.release()
                self._supervisor.abandon()
                self._send((worker, StopReceivers(self.unit.id, event.drain)) for worker in self._workers)
            case Flush():
                self._send(self._flushes.ask([event], self._workers))
            case Question():
                self._questions.put(event)
            case _Leave():
                self._stay()
            case _Refresh(table):
                self._tables.ask(table)

    def _block_added(self, event: BlockAdded) -> None:
        assert self._supervisor is not None
        # A copy may have been made on a worker that was lost before its block was reported.
        self._blocks.added(event, lost=self._gone)
        if event.problem:
            self._is_degraded(event.problem)
        self._acknowledge_safe()

    def _acknowledge_safe(self) -> None:
        """Acknowledge sources that cannot replay, up to where enough workers hold their rows, or sinks have them."""
        settings = self._settings.cluster
        copies = settings.replication
        if settings.degraded == "go on":
            copies = max(1, min(copies, len(self._workers)))
        self._acknowledge(self._blocks.safe(copies))

    def _acknowledge(self, positions: Iterable[tuple[SourceId, str, Offset]]) -> None:
        assert self._supervisor is not None
        for source, split, offset in positions:
            if (reader := self._supervisor.reader(source, split)) is not None:
                self._send([(reader, AcknowledgeRows(self.unit.id, source, split, offset))])

    def _is_degraded(self, problem: str) -> None:
        """Blocks have fewer copies than they should: say so once, and have them made."""
        if self._repair_at is not None or not self._blocks.degraded:
            return
        self._repair_at = self._clock.now() + REPAIR_SECONDS
        settings = self._settings.cluster
        waits = "acknowledgement waits for the others" if settings.degraded == "wait" else "the run goes on"
        few = f"{self._blocks.degraded} blocks are on fewer than {settings.replication} workers"
        self._note(f"{few} ({problem}); {waits}")

    def _repair(self) -> None:
        """Order the copies that are still missing, from time to time, until all are there."""
        now = self._clock.now()
        if self._repair_at is None or now < self._repair_at:
            return
        if not self._blocks.degraded:
            self._repair_at = None
            self._note(f"all blocks are on {self._settings.cluster.replication} workers again")
            return
        self._repair_at = now + REPAIR_SECONDS
        self._send(self._blocks.missing_copies(self._workers))

    def _waiting_sources(self) -> set[SourceId]:
        """Sources that are not read yet: what they have can be read later as well. (Of others rows would be missed.)"""
        return {source for source in self._turns.waiting() if self._sources[source].replayable}

    def _next_turn(self) -> None:
        """Sources whose turn has come are read; who waits for all that there is waits for theirs, too."""
        assert self._supervisor is not None
        orders = self._supervisor.assign(self._workers, self._waiting_sources())
        self._send(orders)
        if orders:
            self._send(self._flushes.ask(self._flushes.take(sealed=True), self._workers))

    def _is_open(self, source: SourceId, split: str) -> None:
        self._unopened.discard((source, split))
        if not self._unopened:
            self._opened.set()

    def _receiver_failed(self, event: ReceiverFailed) -> None:
        name = self._names[event.source]
        if event.fatal or (event.source, event.split) in self._unopened:
            raise SourceError(f"source {name}: {event.reason}")
        self._times.closed(event.source, event.split)
        self._note(f"source {name}: {event.reason}; trying again")

    def _worker_lost(self, event: WorkerLost) -> None:
        assert self._supervisor is not None
        if event.worker not in self._workers:
            return
        self._workers.remove(event.worker)
        self._gone.add(event.worker)
        doing = self._doing(event)
        self._note(f"worker {event.worker} is lost ({event.reason}{doing}); {len(self._workers)} left")
        self._blame_death(event, doing)
        if not self._workers:
            raise ClusterError(f"all workers are lost; the last: {event.worker}, {event.reason}{doing}")
        copies, gone = self._blocks.lost(event.worker, self._workers)
        self._send(copies)
        self._is_degraded(f"{event.worker} is lost")
        if gone:
            rows = sum(info.rows for info in gone)
            self._lost_rows += rows
            self._progress.lost_rows += rows
            self._note(f"{rows:,} rows were on worker {event.worker} alone and are LOST; use replication=2")
            self._blocks.forget(gone)
        for split in self._supervisor.lost(event.worker):
            self._times.closed(*split)
        if self._stopping is None:
            self._send(self._supervisor.assign(self._workers, self._waiting_sources()))
        else:
            self._supervisor.abandon()
        # Splits that moved have to be read up to now as well.
        self._send(self._flushes.ask(self._flushes.take(sealed=False), self._workers))
        self._questions.again()
        self._carry_out(self._scheduler.workers_changed(self._workers, gone))

    def _doing(self, event: WorkerLost) -> str:
        """What a worker that is lost was doing for this unit, for messages."""
        if (at := event.at) is None or at.unit != self.unit.id:
            return ""
        where, written = step_name(self._program, at.step), self._program.steps[at.step].node.line
        line = f", at {at.line}" if at.line else f", written at {written}" if written else ""
        return f", in batch {at.batch}, {where}{line}"

    def _blame_death(self, event: WorkerLost, doing: str) -> None:
        """A step that ends the process in which it runs, and the next one too, is no accident of the machine."""
        if not doing or not event.by_itself or event.at is None:
            return
        self._deaths.append(event.at.batch)
        if self._deaths.count(event.at.batch) < FATAL_DEATHS and self._workers:
            return
        where = step_name(self._program, event.at.step)
        raise BatchError(
            f"batch {event.at.batch}: what it runs has ended {len(self._deaths)} worker process(es); the last: "
            f"{event.worker}, {event.reason}{doing}"
        ).located(batch_id=event.at.batch, where=where, line=event.at.line)

    def _worker_joined(self, event: WorkerJoined) -> None:
        if event.worker in self._workers or event.worker in self._gone:
            return
        self._cluster.join_unit(self.unit.id, event.worker)
        self._workers.append(event.worker)
        self._send(self._blocks.missing_copies(self._workers))
        self._acknowledge_safe()
        self._note(f"worker {event.worker} has joined; {len(self._workers)} now")
        self._carry_out(self._scheduler.workers_changed(self._workers, []))

    def _send(self, orders: Iterable[tuple[WorkerId, Order]]) -> None:
        for worker, instruction in orders:
            self._cluster.send(self.unit.id, worker, instruction)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case LogBatch(batch):
                    self._batch = batch.id, time.monotonic()
                    self._log.allotted(batch)
                case CommitBatch():
                    self._commit(instruction)
                case AbortReceipts(batch_id, done):
                    self._outputs.abort(batch_id, done)
                case FailUnit():
                    raise _failure(instruction)
                case (worker, order):
                    self._send([(worker, order)])

    def _commit(self, order: CommitBatch) -> None:
        batch, done = order.batch, order.done
        self._stay()
        try:
            self._outputs.commit(order, repeatable=True)  # a slow function of the user holds up no query
            self._stay()
            with self.instant:
                self._outputs.commit(order, repeatable=False)
                self._dead_letters.commit([task.rejects for task in done])
        except BaseException:
            if not self._abandoned:
                with contextlib.suppress(Exception):
                    self._outputs.abandon(order)
            raise
        self._stay()
        refused = [refused_letters(batch.id, name, rows) for name, rows in self._outputs.refused(order)]
        self._dead_letters.commit([receipt_of(refused)])
        self._log.committed(batch.id)
        after = self._scheduler.batch_committed()
        self._acknowledge_safe()
        self._acknowledge(_ends(batch.blocks))
        self._report(order, refused=sum(table.num_rows for table in refused))
        self._batch = None
        self._carry_out(after)

    def _report(self, order: CommitBatch, refused: int) -> None:
        batch, done = order.batch, order.done
        now = self._clock.now()
        rows_out: dict[str, int] = {output.sink.name: 0 for output in self.unit.outputs}
        for task in done:
            for output, rows in task.stats.rows_out.items():
                rows_out[self.unit.outputs[output].sink.name] += rows
        lost, self._lost_rows = self._lost_rows, 0
        fates = Counter({"malformed": batch.rejects} if batch.rejects else {})
        for task in done:
            fates.update(task.stats.turned_away)
        if refused:
            fates["refused"] = refused
        report = BatchReport(
            unit=self.unit.id,
            batch=batch.id,
            time=batch.time,
            rows_in=batch.rows,
            dead_letters=fates.total() - fates[PARTLY_LATE],
            fates=dict(fates),
            watermark=self._times.least(),
            rows_out=rows_out,
            seconds=now - batch.time,
            run_seconds=sum(task.stats.seconds for task in done),
            lag=now - min((info.created for info in batch.blocks), default=now),
            waiting_rows=self._blocks.waiting_rows,
            waiting_bytes=self._blocks.waiting_bytes,
            state_rows=sum(task.stats.state_rows for task in done),
            state_bytes=sum(task.stats.state_bytes for task in done),
            attempts=1 + max((task.task.attempt for task in done), default=0),
            lost_rows=lost,
            degraded_blocks=self._blocks.degraded,
            degraded_partitions=len(self._scheduler.unprotected),
        )
        self._progress.add(report)
        self._on_batch(report)

    def _note(self, text: str) -> None:
        log.warning("%s", text)
        self._progress.notes.append(text)

    def _finish(self) -> None:
        with self.instant:
            self._outputs.flush()


def _ends(blocks: Sequence[BlockInfo]) -> list[tuple[SourceId, str, Offset]]:
    """How far the committed blocks of sources that can replay reach, by split: these may forget what is before."""
    last = {(info.source, info.split): info.stop for info in blocks if info.replayable}
    return [(source, split, stop) for (source, split), stop in last.items() if stop is not None]


def _failure(order: FailUnit) -> ArrowStreamError:
    cause: BaseException | None = None
    if order.error is not None:
        with contextlib.suppress(Exception):
            cause = pickle.loads(order.error)
    where = f"batch {order.batch_id}: " if order.batch_id is not None else ""
    error = BatchError(f"{where}{order.reason}").located(batch_id=order.batch_id)
    if (place := order.place) is not None:
        error.located(batch_id=order.batch_id, where=place.where, line=place.line, rows=place.rows)
    error.__cause__ = cause
    return error
