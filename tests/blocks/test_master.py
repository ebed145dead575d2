"""The block master against a book kept by hand."""

from __future__ import annotations

from typing import cast

from books import UNIT, added, info, workers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arrowstream.blocks.block import BlockInfo
from arrowstream.blocks.master import BlockMaster, SplitPosition
from arrowstream.blocks.messages import BlockCopied, BlockNotCopied, CopyBlock, DropBlocks
from arrowstream.ids import BlockId, WorkerId


def test_a_copy_of_a_block_that_is_worked_off_goes_at_once() -> None:
    """A copy was ordered when a worker was lost, and its batch was committed before it was made."""
    master = BlockMaster(UNIT, 2)
    master.added(added(info(0), workers(0, 1)))
    assert master.lost(WorkerId("w1"), workers(0, 2)) == ([("w0", CopyBlock(UNIT, BlockId("a/0"), WorkerId("w2")))], [])
    taken = master.allot(None, 10**9)
    assert master.committed(taken) == [("w0", DropBlocks([BlockId("a/0")]))]
    assert master.copied(BlockCopied(UNIT, BlockId("a/0"), WorkerId("w2"))) == [("w2", DropBlocks([BlockId("a/0")]))]


def test_a_block_reported_late_is_not_on_a_worker_that_is_lost() -> None:
    """The copy was made, its keeper died, and only then was the block reported."""
    master = BlockMaster(UNIT, 2)
    master.added(added(info(0), workers(0, 1)), lost=workers(1))
    assert master.workers(BlockId("a/0")) == ["w0"]


def test_blocks_that_can_be_read_again_are_never_lost() -> None:
    """A file is still there when the worker that listed it is not."""
    master = BlockMaster(UNIT, 2)
    master.added(added(info(0, replayable=True), workers(0)))
    master.added(added(info(1, held=False, replayable=True), workers(0)))
    assert master.lost(WorkerId("w0"), workers(1)) == ([], [])
    assert [block.position for block in master.allot(None, 10**9)] == [0, 1]


class Book(RuleBasedStateMachine):
    """Blocks come, are allotted and committed, workers are lost, copies are made."""

    def __init__(self) -> None:
        super().__init__()
        self.master = BlockMaster(UNIT, 2)
        self.alive = workers(0, 1, 2)
        self.next = {"a": 0, "b": 0}
        self.known: dict[BlockId, BlockInfo] = {}
        self.holders: dict[BlockId, set[WorkerId]] = {}
        self.waiting: list[BlockInfo] = []
        self.allotted: list[list[BlockInfo]] = []
        self.gone: set[BlockId] = set()
        self.ordered: list[CopyBlock] = []
        self.over: list[BlockId] = []
        self.told: set[BlockId] = set()

    @rule(
        split=st.sampled_from(["a", "b"]), rows=st.integers(1, 50), replayable=st.booleans(), copies=st.integers(1, 2)
    )
    def add(self, split: str, rows: int, replayable: bool, copies: int) -> None:
        block = info(self.next[split], rows, rows * 8, split=split, replayable=replayable)
        self.next[split] += 1
        holders = self.alive[:copies]
        self.master.added(added(block, holders))
        self.known[block.id], self.holders[block.id] = block, set(holders)
        self.waiting.append(block)

    @rule(rows=st.none() | st.integers(1, 80), nbytes=st.integers(8, 800))
    def allot(self, rows: int | None, nbytes: int) -> None:
        taken = self.master.allot(rows, nbytes)
        assert bool(taken) == bool(self.waiting)
        first = self.waiting[: len(taken)]
        assert sorted(taken, key=lambda block: (block.split, block.position)) == taken
        assert {block.id for block in taken} == {block.id for block in first}
        if len(taken) > 1:
            assert sum(block.nbytes for block in taken) <= nbytes
            assert rows is None or sum(block.rows for block in taken) <= rows
        del self.waiting[: len(taken)]
        if taken:
            self.allotted.append(taken)

    @precondition(lambda self: self.allotted)
    @rule()
    def commit(self) -> None:
        batch = [block for block in self.allotted.pop(0) if block.id not in self.gone]
        dropped = {(worker, block) for worker, order in self.master.committed(batch) for block in order.blocks}
        assert dropped == {(worker, block.id) for block in batch for worker in self.holders[block.id]}
        for block in batch:
            del self.known[block.id], self.holders[block.id]
            self.over.append(block.id)

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.alive))
        self.alive.remove(worker)
        orders, gone = self.master.lost(worker, self.alive)
        for holders in self.holders.values():
            holders.discard(worker)
        lost = {block.id for block in self.known.values() if not block.replayable and not self.holders[block.id]}
        assert {block.id for block in gone} == lost
        for holder, order in orders:
            assert holder in self.holders[order.block]
            assert order.to in self.alive
            assert order.to not in self.holders[order.block]
            self.ordered.append(order)
        wanted = min(2, len(self.alive))
        for block, holders in self.holders.items():
            if not self.known[block].replayable and holders:
                coming = {order.to for order in self.ordered if order.block == block and order.to in self.alive}
                assert len(holders | coming) >= wanted
        self.master.forget(gone)
        for block in lost:
            del self.known[block], self.holders[block]
        self.gone |= lost
        self.waiting = [block for block in self.waiting if block.id not in lost]

    @rule()
    def join(self) -> None:
        newest = max(int(worker[1:]) for worker in self.alive)
        self.alive.append(WorkerId(f"w{newest + 1 + len(self.over)}"))

    @rule()
    def repair(self) -> None:
        """From time to time what is missing is ordered: nothing twice."""
        orders = self.master.missing_copies(self.alive)
        outstanding = [(order.block, order.to) for order in self.ordered]
        for holder, order in orders:
            assert holder in self.holders[order.block]
            assert order.to not in self.holders[order.block]
            self.ordered.append(order)
            outstanding.append((order.block, order.to))
        assert self.master.missing_copies(self.alive) == []

    @rule(copies=st.integers(1, 2))
    def acknowledge(self, copies: int) -> None:
        """What is acknowledged is held by so many, or is in outputs, or is lost and said to be."""
        for _, split, offset in self.master.safe(copies):
            reached = cast(int, offset)
            for block in self.known.values():
                if block.split == split and block.position <= reached and not block.replayable:
                    assert len(self.holders[block.id]) >= copies or block.id in self.told
            self.told |= {b.id for b in self.known.values() if b.split == split and b.position <= reached}

    @invariant()
    def what_is_degraded_is_counted(self) -> None:
        few = [block for block, at in self.holders.items() if not self.known[block].replayable and len(at) < 2]
        assert self.master.degraded == len(few)

    @precondition(lambda self: self.ordered)
    @rule()
    def refuse(self) -> None:
        order = self.ordered.pop(0)
        self.master.not_copied(BlockNotCopied(UNIT, order.block, order.to, "no room"))

    @precondition(lambda self: self.ordered)
    @rule()
    def copy(self) -> None:
        order = self.ordered.pop(0)
        if order.to not in self.alive:
            return
        drops = self.master.copied(BlockCopied(UNIT, order.block, order.to))
        if order.block in self.holders:
            assert drops == []
            self.holders[order.block].add(order.to)
        else:
            assert drops == [(order.to, DropBlocks([order.block]))]

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert self.master.waiting == len(self.waiting)
        assert self.master.waiting_rows == sum(block.rows for block in self.waiting)
        assert self.master.waiting_bytes == sum(block.nbytes for block in self.waiting)
        assert self.master.oldest == min((block.created for block in self.waiting), default=None)

    @invariant()
    def every_split_goes_on_where_it_ended(self) -> None:
        for split, number in self.next.items():
            expected = SplitPosition(number - 1, number) if number else SplitPosition()
            assert self.master.position(info(0).source, split) == expected

    @invariant()
    def everybody_knows_who_holds_what(self) -> None:
        for block, holders in self.holders.items():
            assert set(self.master.workers(block)) == holders


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_split_is_opened_again_with_all_that_was_read() -> None:
    """A directory's positions name new files only; who takes over from a lost worker must know the old ones."""
    master = BlockMaster(UNIT, 1, lambda source, memory, later: sorted({*(memory or ()), later}))  # type: ignore[misc]
    for number in range(3):
        master.added(added(info(number), workers(0)))
    assert master.position(info(0).source, "a") == SplitPosition([0, 1, 2], 3)
    assert master.position(info(0).source, "b") == SplitPosition(None, 0)
