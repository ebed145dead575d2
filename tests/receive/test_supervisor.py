"""Which worker reads which split."""

from __future__ import annotations

from books import SOURCE, UNIT, workers

from arrowstream.blocks.master import SplitPosition
from arrowstream.receive.supervisor import ReceiverSupervisor


def test_splits_are_spread_and_move_when_a_worker_is_lost() -> None:
    """Three partitions on two workers; one dies, and its splits go on elsewhere, from where their blocks end."""
    positions = {"a": SplitPosition(), "b": SplitPosition(7, 3), "c": SplitPosition(9, 1)}
    splits = [(SOURCE, split) for split in "abc"]
    at = ReceiverSupervisor(UNIT, splits, lambda source, split: positions[split], bounded=True)
    orders = [(worker, order.split) for worker, order in at.assign(workers(0, 1))]
    assert orders == [("w0", "a"), ("w1", "b"), ("w0", "c")]
    assert at.assign(workers(0, 1)) == []
    assert at.reader(SOURCE, "b") == "w1"
    at.lost(workers(1)[0])
    assert at.reader(SOURCE, "b") is None
    ((worker, order),) = at.assign(workers(0, 2))
    assert (worker, order.split, order.resume, order.next_block, order.bounded) == ("w2", "b", 7, 3, True)


def test_a_split_that_has_ended_is_not_read_again() -> None:
    """The late word of a lost worker that its split has ended does not end the one that goes on."""
    at = ReceiverSupervisor(UNIT, [(SOURCE, "a"), (SOURCE, "b")], lambda *_: SplitPosition(), bounded=False)
    at.assign(workers(0))
    at.ended(SOURCE, "a", workers(0)[0])
    assert at.running == 1
    at.lost(workers(0)[0])
    at.assign(workers(1))
    at.ended(SOURCE, "b", workers(0)[0])
    assert at.running == 1
    at.lost(workers(1)[0])
    at.abandon()
    assert at.running == 0
