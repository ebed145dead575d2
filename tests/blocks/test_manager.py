"""A worker's block manager: copies first, then the report, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest
from books import SOURCE, UNIT, info, workers
from hypothesis import given
from hypothesis import strategies as st

from arrowstream.blocks.block import Block
from arrowstream.blocks.manager import BlockManager
from arrowstream.blocks.messages import BlockAdded, BlockCopied, BlockNotCopied, CopyBlock
from arrowstream.blocks.store import BlockStore
from arrowstream.ids import WorkerId
from arrowstream.settings import BlockSettings

ROWS = pa.record_batch([pa.array(range(10), pa.int64())], names=["n"])


class SlowPeers:
    """Other workers, whose answers come when the test says so."""

    def __init__(self, alive: Sequence[WorkerId]) -> None:
        self.workers = list(alive)
        self.asked: list[tuple[WorkerId, Block, Callable[[str], None]]] = []

    def alive(self) -> Sequence[WorkerId]:
        return self.workers

    def send(self, worker: WorkerId, block: Block, done: Callable[[str], None]) -> None:
        self.asked.append((worker, block, done))

    def answer(self, at: int = 0, *, there: bool = True) -> WorkerId:
        worker, _, done = self.asked.pop(at)
        done("" if there else "no room")
        return worker


class Managed:
    def __init__(self, *, replication: int = 2, alive: int = 3, memory: int = 10**6) -> None:
        self.events: list[BlockAdded | BlockCopied | BlockNotCopied] = []
        self.peers = SlowPeers(workers(*range(alive)))
        settings = BlockSettings(memory=memory)
        store = BlockStore(settings)
        self.manager = BlockManager(WorkerId("w0"), store, self.peers, replication, settings, self.events.append)

    def put(self, number: int, *, held: bool = True, replayable: bool = False) -> None:
        block = info(number, nbytes=80, held=held, replayable=replayable)
        self.manager.put(UNIT, Block(block, ROWS if held else None))

    def reported(self) -> list[tuple[int, list[WorkerId]]]:
        return [(event.info.position, event.workers) for event in self.events if isinstance(event, BlockAdded)]


@pytest.fixture
def at() -> Managed:
    return Managed()


def test_a_block_is_reported_when_its_copy_is_there(at: Managed) -> None:
    """Only then is the source told that the rows are safe."""
    at.put(0)
    assert at.reported() == []
    assert at.peers.answer() == "w1"
    assert at.reported() == [(0, ["w0", "w1"])]


def test_blocks_are_reported_in_order(at: Managed) -> None:
    """The copy of the second block is there before that of the first, which went another way."""
    for number in range(3):
        at.put(number)
    at.peers.answer(2)
    at.peers.answer(1)
    assert at.reported() == []
    at.peers.answer(0)
    assert [number for number, _ in at.reported()] == [0, 1, 2]


def test_a_worker_that_does_not_take_a_copy_is_passed_over(at: Managed) -> None:
    """It is dying; the next in the ring takes the block."""
    at.put(0)
    at.peers.answer(there=False)
    assert at.peers.answer() == "w2"
    assert at.reported() == [(0, ["w0", "w2"])]


def test_with_nobody_left_a_block_is_reported_as_it_is(at: Managed) -> None:
    """The driver counts the copies, and hears why there is but one."""
    at.put(0)
    at.peers.answer(there=False)
    at.peers.answer(there=False)
    assert at.reported() == [(0, ["w0"])]
    (event,) = at.events
    assert isinstance(event, BlockAdded)
    assert event.problem == "w2: no room"


def test_what_can_be_read_again_is_not_copied(at: Managed) -> None:
    """Blocks of files need no copies; those that stay in the file are not even held."""
    at.put(0, replayable=True)
    at.put(1, held=False, replayable=True)
    assert at.peers.asked == []
    assert at.reported() == [(0, ["w0"]), (1, ["w0"])]


def test_what_comes_after_the_blocks_waits_for_their_report(at: Managed) -> None:
    """The receiver has ended; that is told when all its blocks are known."""
    said: list[str] = []
    at.put(0)
    at.manager.after(UNIT, SOURCE, "a", lambda: said.append("ended"))
    at.manager.after(UNIT, SOURCE, "b", lambda: said.append("another split"))
    assert said == ["another split"]
    at.peers.answer()
    assert said == ["another split", "ended"]


def test_receivers_wait_for_room_until_blocks_are_worked_off() -> None:
    """A slow sink holds up the senders."""
    at = Managed(replication=1, memory=320)
    stop = threading.Event()
    at.put(0)
    at.manager.wait_for_room(stop)  # 80 of 160 bytes
    at.put(1)
    assert at.manager.backlog_bytes == 160
    waiting = threading.Thread(target=at.manager.wait_for_room, args=(stop,))
    waiting.start()
    waiting.join(0.12)
    assert waiting.is_alive()
    at.manager.drop([info(0).id])
    waiting.join(5)
    assert not waiting.is_alive()
    at.put(2)
    stop.set()
    at.manager.wait_for_room(stop)


def test_a_unit_that_is_over_leaves_nothing_behind() -> None:
    """The workers of a shared cluster go on with the next context."""
    at = Managed(replication=1)
    other = info(7, split="b")
    block = Block(type(other)(**{**{f: getattr(other, f) for f in other.__struct_fields__}, "id": f"{UNIT}/b/7"}), ROWS)
    at.manager.put(UNIT, block)
    at.put(0)
    at.manager.forget(UNIT)
    assert at.manager.store.ids() == [info(0).id]  # its id does not begin with the unit's
    assert at.manager.backlog_bytes == 80


def test_a_copy_that_the_driver_orders() -> None:
    """A worker was lost, and its blocks have too few copies."""
    at = Managed(replication=1)
    at.put(0)
    at.manager.copy(CopyBlock(UNIT, info(0).id, WorkerId("w2")))
    assert at.peers.asked[0][1].data == ROWS
    at.peers.answer()
    assert at.events[-1] == BlockCopied(UNIT, info(0).id, WorkerId("w2"))


def test_a_copy_that_cannot_be_made_is_told() -> None:
    """The other's disk is full, or the block went in the meantime: the driver orders it again, or need not."""
    at = Managed(replication=1)
    at.put(0)
    at.manager.copy(CopyBlock(UNIT, info(0).id, WorkerId("w2")))
    at.peers.answer(there=False)
    assert at.events[-1] == BlockNotCopied(UNIT, info(0).id, WorkerId("w2"), "no room")
    at.manager.drop([info(0).id])
    at.manager.copy(CopyBlock(UNIT, info(0).id, WorkerId("w2")))
    assert isinstance(at.events[-1], BlockNotCopied)


@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_blocks_are_reported_once_in_order_whatever_fails(
    alive: int, replication: int, answers: list[tuple[int, bool]]
) -> None:
    """Copies succeed and fail in any order."""
    at = Managed(replication=replication, alive=alive)
    for number in range(4):
        at.put(number)
    for index, there in [*answers, *[(0, True)] * 40]:
        if at.peers.asked:
            at.peers.answer(index % len(at.peers.asked), there=there)
    reported = at.reported()
    assert [number for number, _ in reported] == [0, 1, 2, 3]
    for _, holders in reported:
        assert holders[0] == "w0"
        assert len(set(holders)) == len(holders) <= replication
    if all(there for _, there in answers):
        assert all(len(holders) == min(alive, replication) for _, holders in reported)
