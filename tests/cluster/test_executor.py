"""One worker's part, told what to do by hand: tasks, state that is taken over, blocks that stay in their source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from apart import Apart, NoRows
from hypothesis import given
from hypothesis import strategies as st

from arrowstream.blocks.block import Block, BlockInfo
from arrowstream.blocks.messages import BlockAdded, DropBlocks
from arrowstream.blocks.store import BlockNotFoundError
from arrowstream.clock import SystemClock
from arrowstream.cluster.executor import Event, Executor, StateCopy
from arrowstream.connectors.changes import Append
from arrowstream.connectors.source import EndOfStream, Offset, Reference
from arrowstream.errors import StateError
from arrowstream.frame import StreamFrame
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId
from arrowstream.plan.nodes import SourceNode
from arrowstream.plan.unit import Unit, units
from arrowstream.receive.messages import ReceiverEnded, StartReceiver
from arrowstream.schedule.messages import CommitState, RunTask, TaskBlock, TaskDone, TaskFailed, TaskId
from arrowstream.settings import BlockSettings, Settings

ME = WorkerId("me")


class Copies:
    """No other workers, but a place for the copies of state that would go to them."""

    def __init__(self) -> None:
        self.states: list[StateCopy] = []

    def alive(self) -> Sequence[WorkerId]:
        return [ME]

    def send(self, worker: WorkerId, block: Block, done: Callable[[str], None]) -> None:
        done("nobody is there")

    def fetch(self, worker: WorkerId, block: BlockId) -> pa.Table:
        raise BlockNotFoundError(str(block))

    def copy_state(self, worker: WorkerId, state: StateCopy) -> None:
        self.states.append(state)


def counting(source: Any) -> Unit:
    """A plan that counts rows by key."""
    plans = Apart()
    node = SourceNode(schema=pl.Schema({"k": pl.String()}), kind=Append(), name="rows", source=source)
    StreamFrame(node, plans).group_by("k").agg(n=pl.len()).write.memory("t")
    return units(plans.outputs)[0]


class Worker:
    """An executor, and what it says."""

    def __init__(self, unit: Unit, settings: Settings | None = None) -> None:
        self.events: list[Event] = []
        self.copies = Copies()
        self.executor = Executor(ME, settings or Settings(), SystemClock(), self.copies, self.events.append)
        self.executor.start_unit(unit, 1)
        self.unit = unit

    def run(self, batch: int, keys: list[str], attempt: int = 0, replicas: Sequence[str] = ()) -> Event:
        """Both stages of a batch with these keys; the last answer."""
        block = BlockInfo(BlockId(f"u0/b{batch}"), SourceId("s000"), "", batch, None, None, len(keys), 0, 0.0)
        rows = pl.DataFrame({"k": keys}, schema={"k": pl.String})
        self.executor.store.put(block.id, rows.to_arrow(compat_level=pl.CompatLevel.newest()))
        for stage in (0, 1):
            task = TaskId(self.unit.id, batch, attempt, stage, 0)
            blocks = [TaskBlock(0, block, [ME])] if stage == 0 else []
            self.executor.handle(RunTask(task, blocks, [ME], batch - 1, [WorkerId(name) for name in replicas]))
            if isinstance(self.events[-1], TaskFailed):
                break
        return self.events[-1]

    def commit(self, batch: int) -> None:
        self.executor.handle(CommitState(self.unit.id, batch))


@pytest.fixture
def unit() -> Unit:
    return counting(NoRows(pl.Schema({"k": pl.String()})))


def counts(done: Event) -> dict[str, int]:
    assert isinstance(done, TaskDone), done
    return dict(row for changes in done.receipts[0].changes for row in pl.DataFrame(changes.rows).rows())


def test_a_batch_that_runs_again_counts_once(unit: Unit) -> None:
    """A sink was unreachable, or another worker was lost: the state of the first attempt is rolled back."""
    worker = Worker(unit)
    assert counts(worker.run(0, ["a", "b"])) == {"a": 1, "b": 1}
    worker.commit(0)
    assert counts(worker.run(1, ["a"], attempt=0)) == {"a": 2}
    assert counts(worker.run(1, ["a"], attempt=1)) == {"a": 2}
    worker.commit(1)
    worker.commit(1)
    assert counts(worker.run(2, ["a"])) == {"a": 3}
    worker.executor.close()


def hand_over(giver: Worker, keeper: Worker, first: int) -> int:
    """The copies of state that `giver` has sent since the one with this number; the next number."""
    for copy in giver.copies.states[first:]:
        keeper.executor.keep_state(copy)
    return len(giver.copies.states)


@given(st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=4), st.integers(1, 3)), max_size=6), st.data())
def test_state_can_be_taken_over_at_any_batch(batches: list[tuple[list[str], int]], data: st.DataObject) -> None:
    """A worker is lost and the one with the copies goes on, perhaps in the middle of a batch that it saw begin."""
    unit = counting(NoRows(pl.Schema({"k": pl.String()})))
    first, heir = Worker(unit), Worker(unit)
    change = data.draw(st.integers(0, len(batches)), label="lost at")
    total: dict[str, int] = {}
    at, kept = first, 0
    for number, (keys, attempts) in enumerate(batches):
        if number == change:
            if data.draw(st.booleans(), label="in the middle"):
                first.run(number, keys, replicas=["heir"])
            at = heir
        kept = hand_over(first, heir, kept)
        for attempt in range(attempts):
            done = at.run(number, keys, attempt, replicas=["heir"] if at is first else [])
        for key in keys:
            total[key] = total.get(key, 0) + 1
        assert counts(done) == {key: total[key] for key in keys}
        at.commit(number)
        kept = hand_over(first, heir, kept)
    for worker in (first, heir):
        worker.executor.close()


def test_an_old_copy_of_state_is_not_taken_for_the_newest(unit: Unit) -> None:
    """Two workers die at once: the third kept the state long ago. Wrong numbers would be worse than an end."""
    first, heir = Worker(unit), Worker(unit)
    first.run(0, ["a"], replicas=["heir"])
    first.commit(0)
    for copy in first.copies.states:
        heir.executor.keep_state(copy)
    failed = heir.run(3, ["a"])
    assert isinstance(failed, TaskFailed)
    assert not failed.retry
    assert StateError.__name__ in failed.reason
    assert "as of batch 0, not of 2" in failed.reason
    nobody = Worker(unit).run(3, ["a"])
    assert isinstance(nobody, TaskFailed)
    assert "has no copy of the state" in nobody.reason


class Referring:
    """A source whose blocks stay where they are: references of 1,000 bytes each."""

    schema = pa.schema([("k", pa.string())])
    replayable = True

    def __init__(self, blocks: int) -> None:
        self._left, self._blocks = blocks, blocks

    def splits(self) -> list[str]:
        return ["all"]

    def open(self, split: str, resume: Offset | None) -> Referring:
        return self

    def poll(self, timeout: float) -> Reference:
        if not self._left:
            raise EndOfStream
        self._left -= 1
        return Reference(10, 1000)

    def position(self) -> Offset:
        return self._blocks - self._left

    def acknowledge(self, offset: Offset) -> None:
        pass

    def close(self) -> None:
        pass

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        raise NotImplementedError


@pytest.fixture
def referring() -> Iterator[Worker]:
    worker = Worker(counting(Referring(20)), Settings(blocks=BlockSettings(memory=4000)))
    yield worker
    worker.executor.close()


def test_blocks_that_stay_in_their_source_count_until_they_are_worked_off(referring: Worker) -> None:
    """A directory of Parquet files larger than memory: its receiver waits, and goes on as batches are committed."""
    unit = UnitId("u0")
    referring.executor.handle(StartReceiver(unit, SourceId("s000"), "all", None, 0, False))
    settled = 0
    while not any(isinstance(event, ReceiverEnded) for event in referring.events):
        assert referring.executor.manager.backlog_bytes <= 3000
        added = [event for event in list(referring.events) if isinstance(event, BlockAdded)]
        for event in added[settled:]:
            assert event.workers == [ME]
            referring.executor.handle(DropBlocks([event.info.id]))
        settled = len(added)
    assert sum(isinstance(event, BlockAdded) for event in referring.events) == 20
