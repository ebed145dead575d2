"""The batch scheduler as what it is: events in, instructions out, no clock, no I/O."""

from __future__ import annotations

import pytest
from books import UNIT, added, info, workers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arrowstream.blocks.master import BlockMaster
from arrowstream.blocks.messages import BlockCopied, DropBlocks
from arrowstream.connectors.sink import Receipt
from arrowstream.ids import BlockId, WorkerId
from arrowstream.schedule.messages import (
    AbortReceipts,
    CommitBatch,
    CommitState,
    FailUnit,
    LogBatch,
    RunTask,
    TaskDone,
    TaskFailed,
    TaskStats,
)
from arrowstream.schedule.scheduler import RETRY_SECONDS, BatchScheduler, Instruction
from arrowstream.settings import BatchSettings


def done(order: RunTask, worker: WorkerId) -> TaskDone:
    return TaskDone(order.task, worker, {0: Receipt()}, Receipt(), TaskStats({}, 0, 0, 0.0))


def failed(order: RunTask, worker: WorkerId, *, retry: bool = True) -> TaskFailed:
    return TaskFailed(order.task, worker, "it broke", retry)


class Scheduled:
    """A scheduler, its block master, and what it has said last."""

    def __init__(
        self, *, count: int = 2, stages: int = 2, stateful: bool = True, settings: BatchSettings | None = None
    ) -> None:
        self.workers = workers(*range(count))
        self.blocks = BlockMaster(UNIT, min(2, count))
        self.scheduler = BatchScheduler(
            UNIT, stages, stateful, self.workers, min(2, count), settings or BatchSettings(interval=1.0), self.blocks
        )
        self.numbers = 0

    def receive(self, count: int = 1) -> None:
        for _ in range(count):
            self.blocks.added(added(info(self.numbers), self.workers[:2]))
            self.numbers += 1

    def lose(self, worker: WorkerId) -> list[Instruction]:
        self.workers.remove(worker)
        _, gone = self.blocks.lost(worker, self.workers)
        self.blocks.forget(gone)
        return self.scheduler.workers_changed(self.workers, gone)


def tasks(instructions: list[Instruction]) -> list[tuple[WorkerId, RunTask]]:
    return [(each[0], each[1]) for each in instructions if isinstance(each, tuple) and isinstance(each[1], RunTask)]


def finish(at: Scheduled, instructions: list[Instruction]) -> CommitBatch:
    """Answer every task until the batch is to be committed."""
    while True:
        for worker, order in tasks(instructions):
            instructions = at.scheduler.task_done(done(order, worker))
        for each in instructions:
            if isinstance(each, CommitBatch):
                return each


def test_a_batch_goes_through_its_stages_and_is_let_go() -> None:
    """The way of every batch: written ahead, run stage by stage, committed, blocks dropped."""
    at = Scheduled()
    at.receive(3)
    first = at.scheduler.tick(0.0, hurry=True)
    assert isinstance(first[0], LogBatch)
    assert [block.position for block in first[0].batch.blocks] == [0, 1, 2]
    assert [(worker, order.task.stage) for worker, order in tasks(first)] == [("w0", 0), ("w1", 0)]
    assert not at.scheduler.idle
    assert at.scheduler.tick(100.0, hurry=True) == []
    committing = finish(at, first)
    assert [(one.task.stage, one.task.partition) for one in committing.done] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    after = at.scheduler.batch_committed()
    assert [each for each in after if isinstance(each[1], CommitState)] == [  # type: ignore[index]
        ("w0", CommitState(UNIT, 0)),
        ("w1", CommitState(UNIT, 0)),
    ]
    assert {each[0] for each in after if isinstance(each[1], DropBlocks)} == {"w0", "w1"}  # type: ignore[index]
    assert at.scheduler.idle


def test_batches_keep_the_beat() -> None:
    """A batch every second on the second; one that takes longer is followed at once, and nothing is caught up."""
    at = Scheduled(stages=1)
    assert at.scheduler.next_tick(10.0) == 11.0
    assert at.scheduler.tick(10.5) == []
    assert at.scheduler.tick(11.0) == []  # nothing has come, so there is no batch
    assert at.scheduler.next_tick(11.1) == 12.0
    at.receive()
    assert at.scheduler.tick(11.9) == []
    running = at.scheduler.tick(12.0)
    assert running
    assert at.scheduler.next_tick(12.0) is None
    finish(at, running)
    at.scheduler.batch_committed()
    at.receive()
    slow = at.scheduler.tick(15.2)  # the tick of 13.0, late
    assert slow
    finish(at, slow)
    at.scheduler.batch_committed()
    assert at.scheduler.next_tick(15.3) == 16.2


def test_a_hurried_batch_does_not_move_the_beat() -> None:
    """Somebody waits for what is there; the next batch is due when it would have been."""
    at = Scheduled(stages=1)
    at.scheduler.next_tick(0.0)
    at.receive()
    finish(at, at.scheduler.tick(0.3, hurry=True))
    at.scheduler.batch_committed()
    assert at.scheduler.next_tick(0.4) == 1.0


def test_a_batch_takes_no_more_than_it_may() -> None:
    """A backlog is worked off in pieces; a single block may be larger than the limit."""
    at = Scheduled(stages=1, settings=BatchSettings(interval=1.0, rows=25))
    at.receive(5)
    sizes = []
    while at.blocks.waiting:
        committing = finish(at, at.scheduler.tick(0.0, hurry=True))
        sizes.append(committing.batch.rows)
        at.scheduler.batch_committed()
    assert sizes == [20, 20, 10]
    at.blocks.added(added(info(9, rows=1000), at.workers))
    assert finish(at, at.scheduler.tick(0.0, hurry=True)).batch.rows == 1000


def test_a_failure_that_will_not_pass_ends_the_unit() -> None:
    """A user's function raises: trying again would raise again."""
    at = Scheduled()
    at.receive()
    worker, order = tasks(at.scheduler.tick(0.0, hurry=True))[0]
    (end,) = at.scheduler.task_failed(failed(order, worker, retry=False), 0.0)
    assert isinstance(end, FailUnit)
    assert (end.batch_id, end.reason) == (0, "it broke")


def test_the_first_retry_is_at_once_and_later_ones_wait() -> None:
    """A worker is gone, but nobody has said so yet: all attempts must not be used up within a millisecond."""
    at = Scheduled(settings=BatchSettings(interval=1.0, attempts=4))
    at.receive()
    running, now = at.scheduler.tick(5.0, hurry=True), 5.0
    for attempt, pause in enumerate([0.0, 2 * RETRY_SECONDS, 4 * RETRY_SECONDS]):
        worker, order = tasks(running)[0]
        assert order.task.attempt == attempt
        again = at.scheduler.task_failed(failed(order, worker), now)
        if pause:
            assert again == []
            assert at.scheduler.task_failed(failed(*tasks(running)[1][::-1]), now) == []
            assert at.scheduler.next_tick(now) == pytest.approx(now + pause)
            assert at.scheduler.tick(now + pause / 2) == []
            now += pause
            again = at.scheduler.tick(now + 1e-9)
            now += 1e-9
        assert isinstance(again[0], AbortReceipts)
        running = again
    worker, order = tasks(running)[0]
    assert at.scheduler.task_failed(failed(order, worker), now) == []
    (end,) = at.scheduler.tick(now + 60)
    assert isinstance(end, FailUnit)
    assert "gave up after 4 attempts: it broke" in end.reason


def test_a_lost_worker_hands_its_partition_to_the_one_with_the_copy() -> None:
    """The next in the ring keeps the copy of a partition's state."""
    at = Scheduled(count=3)
    at.receive()
    running = at.scheduler.tick(0.0, hurry=True)
    assert [order.replicas for _, order in tasks(running)] == [["w1"], ["w2"], ["w0"]]
    again = at.lose(WorkerId("w1"))
    assert isinstance(again[0], AbortReceipts)
    assert [(worker, order.task.attempt, order.replicas) for worker, order in tasks(again)] == [
        ("w0", 1, ["w2"]),
        ("w2", 1, ["w0"]),
        ("w2", 1, ["w0"]),
    ]


def test_a_new_worker_gets_a_copy_first_and_then_a_partition() -> None:
    """A replacement joins: the partition moves once a whole batch has carried its state there."""
    at = Scheduled(count=2)
    at.receive()
    finish(at, at.scheduler.tick(0.0, hurry=True))
    at.scheduler.batch_committed()
    at.lose(WorkerId("w1"))
    assert at.scheduler.placement == ["w0", "w0"]
    at.workers.append(WorkerId("w2"))
    assert at.scheduler.workers_changed(at.workers, []) == []
    assert at.scheduler.placement == ["w0", "w0"]
    at.receive()
    carrying = at.scheduler.tick(1.0, hurry=True)
    assert all("w2" in order.replicas for _, order in tasks(carrying))
    finish(at, carrying)
    at.scheduler.batch_committed()
    assert sorted(at.scheduler.placement) == ["w0", "w2"]


def test_blocks_that_stay_in_their_source_are_spread_over_all() -> None:
    """One receiver lists a directory; everybody reads its files."""
    at = Scheduled(stages=1)
    for number in range(4):
        at.blocks.added(added(info(number, held=False, replayable=True), at.workers[:1]))
    assert [len(order.blocks) for _, order in tasks(at.scheduler.tick(0.0, hurry=True))] == [2, 2]


def test_blocks_are_read_where_they_lie() -> None:
    """Rows do not cross the wire to be read."""
    at = Scheduled(stages=1)
    for number, holder in enumerate([1, 1, 1, 0]):
        at.blocks.added(added(info(number), workers(holder)))
    assert [len(order.blocks) for _, order in tasks(at.scheduler.tick(0.0, hurry=True))] == [1, 3]


def test_answers_of_former_attempts_are_dropped() -> None:
    """A task of the attempt before ends late: what it has staged goes, and it does not count."""
    at = Scheduled(stages=1)
    at.receive()
    stale = tasks(at.scheduler.tick(0.0, hurry=True))
    at.scheduler.task_failed(failed(stale[0][1], stale[0][0]), 0.0)
    late = done(stale[1][1], stale[1][0])
    assert at.scheduler.task_done(late) == [AbortReceipts(0, [late])]
    assert at.scheduler.task_failed(failed(stale[0][1], stale[0][0], retry=False), 0.0) == []


class Machine(RuleBasedStateMachine):
    """Tasks end or fail in any order, workers come and go: each block is in exactly one committed batch, every
    attempt reads the same blocks, and tasks only ever run on workers that live."""

    @initialize(count=st.integers(1, 4), stages=st.integers(1, 3), stateful=st.booleans())
    def begin(self, count: int, stages: int, stateful: bool) -> None:
        self.at = Scheduled(
            count=count, stages=stages, stateful=stateful, settings=BatchSettings(interval=1.0, rows=30, attempts=500)
        )
        self.stages, self.next_worker = stages, count
        self.now = 0.0
        self.holders: dict[str, set[WorkerId]] = {}
        self.pending: list[tuple[WorkerId, RunTask]] = []
        self.stale: list[tuple[WorkerId, RunTask]] = []
        self.batch: list[str] = []
        self.batches = 0
        self.committed: list[str] = []
        self.lost: set[str] = set()
        self.failed = False

    def carry_out(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            match each:
                case LogBatch(batch):
                    assert batch.id == self.batches
                    assert not self.batch
                    self.batch = [block.id for block in batch.blocks]
                case FailUnit():
                    self.failed = True
        if orders := tasks(instructions):
            self.start(orders)
        for each in instructions:
            if isinstance(each, CommitBatch):
                self.commit(each)

    def start(self, orders: list[tuple[WorkerId, RunTask]]) -> None:
        (attempt,) = {order.task.attempt for _, order in orders}
        (stage,) = {order.task.stage for _, order in orders}
        assert [order.task.partition for _, order in orders] == list(range(len(self.at.scheduler.placement)))
        for worker, order in orders:
            assert worker in self.at.workers
            assert worker not in order.replicas
            assert order.placement[order.task.partition] == worker
            assert order.task.batch == self.batches == order.committed + 1
        if stage == 0:
            read = sorted((block.ordinal, block.info.id) for _, order in orders for block in order.blocks)
            assert [block for _, block in read] == [block for block in self.batch if block not in self.lost]
            assert not self.pending or attempt == self.pending[0][1].task.attempt + 1
            self.stale += self.pending
        else:
            assert not self.pending
        self.pending = list(orders)

    def commit(self, order: CommitBatch) -> None:
        keys = [(part.task.stage, part.task.partition) for part in order.done]
        partitions = len(self.at.scheduler.placement)
        assert keys == [(stage, partition) for stage in range(self.stages) for partition in range(partitions)]
        assert len({part.task.attempt for part in order.done}) == 1
        assert [block.id for block in order.batch.blocks] == [block for block in self.batch if block not in self.lost]
        self.committed += [block.id for block in order.batch.blocks]
        self.batch = []
        self.batches += 1
        for block in order.batch.blocks:
            del self.holders[block.id]
        self.carry_out(self.at.scheduler.batch_committed())

    @rule(count=st.integers(1, 3))
    def receive(self, count: int) -> None:
        if self.failed:
            return
        for number in range(self.at.numbers, self.at.numbers + count):
            self.holders[f"a/{number}"] = set(self.at.workers[:2])
        self.at.receive(count)

    @precondition(lambda self: not self.failed)
    @rule(pause=st.sampled_from([0.0, 0.3, 1.0, 5.0]), hurry=st.booleans())
    def tick(self, pause: float, hurry: bool) -> None:
        self.now += pause
        self.carry_out(self.at.scheduler.tick(self.now, hurry=hurry))

    def take(self, data: st.DataObject) -> tuple[WorkerId, RunTask] | None:
        """Some task that has not been answered, and whose worker lives."""
        alive = [pair for pair in self.pending if pair[0] in self.at.workers]
        return data.draw(st.sampled_from(alive)) if alive else None

    @precondition(lambda self: not self.failed and self.pending)
    @rule(data=st.data())
    def task_done(self, data: st.DataObject) -> None:
        if pair := self.take(data):
            self.pending.remove(pair)
            self.carry_out(self.at.scheduler.task_done(done(pair[1], pair[0])))

    @precondition(lambda self: not self.failed and self.pending)
    @rule(data=st.data())
    def task_fails(self, data: st.DataObject) -> None:
        if pair := self.take(data):
            self.pending.remove(pair)
            self.stale.append(pair)
            self.carry_out(self.at.scheduler.task_failed(failed(pair[1], pair[0]), self.now))

    @precondition(lambda self: not self.failed and self.stale)
    @rule(data=st.data(), retry=st.booleans())
    def stale_answer(self, data: st.DataObject, retry: bool) -> None:
        current = self.pending[0][1].task if self.pending else None
        stale = [pair for pair in self.stale if current is None or pair[1].task.attempt != current.attempt]
        if self.waits_to_try_again() or not stale:
            return
        worker, order = data.draw(st.sampled_from(stale))
        late = done(order, worker)
        assert self.at.scheduler.task_done(late) == [AbortReceipts(order.task.batch, [late])]
        assert self.at.scheduler.task_failed(failed(order, worker, retry=retry), self.now) == []

    def waits_to_try_again(self) -> bool:
        return not self.at.scheduler.idle and self.at.scheduler.next_tick(self.now) is not None

    @precondition(lambda self: not self.failed and len(self.at.workers) > 1)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.at.workers))
        for block, holders in list(self.holders.items()):
            holders.discard(worker)
            if not holders:
                self.lost.add(block)
                del self.holders[block]
        self.carry_out(self.at.lose(worker))

    @precondition(lambda self: not self.failed and len(self.at.workers) < 4)
    @rule()
    def join(self) -> None:
        newcomer = WorkerId(f"w{self.next_worker}")
        self.next_worker += 1
        self.at.workers = sorted([*self.at.workers, newcomer])
        self.carry_out(self.at.scheduler.workers_changed(self.at.workers, []))
        for block, holders in self.holders.items():  # copies that were ordered are made by now
            if len(holders) < 2:
                assert self.at.blocks.copied(BlockCopied(UNIT, BlockId(block), newcomer)) == []
                holders.add(newcomer)

    @invariant()
    def partitions_are_on_living_workers(self) -> None:
        if hasattr(self, "at") and not self.failed:
            assert set(self.at.scheduler.placement) <= set(self.at.workers)

    def teardown(self) -> None:
        """Whatever happened, the rest goes through in the end, each block once."""
        if not hasattr(self, "at") or self.failed:
            return
        for _ in range(200):
            if self.at.scheduler.idle and not self.at.blocks.waiting:
                break
            self.now += 1e6
            self.carry_out(self.at.scheduler.tick(self.now, hurry=True))
            if self.failed:
                return
            while self.pending:
                worker, order = self.pending.pop()
                self.carry_out(self.at.scheduler.task_done(done(order, worker)))
        assert len(self.committed) == len(set(self.committed))
        everything = {f"a/{number}" for number in range(self.at.numbers)}
        assert everything - self.lost <= set(self.committed) <= everything


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=40)
