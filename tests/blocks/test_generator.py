"""Cutting what is polled into blocks."""

from __future__ import annotations

from itertools import count

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from arrowstream.blocks.block import Block
from arrowstream.blocks.generator import BlockGenerator
from arrowstream.connectors.source import REJECT_SCHEMA, Reference
from arrowstream.ids import BlockId, SourceId
from arrowstream.settings import BlockSettings

SETTINGS = BlockSettings(interval=1.0, rows=10, bytes=1000)


def generator(settings: BlockSettings = SETTINGS, *, replayable: bool = False) -> BlockGenerator:
    numbers = count()
    return BlockGenerator(
        SourceId("s000"),
        "split",
        settings=settings,
        replayable=replayable,
        start=None,
        position=0,
        new_id=lambda: BlockId(f"b{next(numbers)}"),
    )


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.int64())], names=["n"])


def rejects(number: int) -> pa.RecordBatch:
    return pa.record_batch([[b"?"] * number, ["no row"] * number, *[[None] * number] * 3], schema=REJECT_SCHEMA)


def values(blocks: list[Block]) -> list[int]:
    return [value for block in blocks if block.data is not None for value in block.data.column(0).to_pylist()]


def test_a_block_is_sealed_by_rows_bytes_or_age() -> None:
    """A trickle goes by age, a flood by size."""
    at = generator()
    assert at.due is None
    assert at.append(rows(*range(9)), None, 9, now=5.0) == []
    assert at.due == 6.0
    assert at.tick(5.9) == []
    (by_age,) = at.tick(6.0)
    assert (by_age.info.rows, by_age.info.start, by_age.info.stop, by_age.info.created) == (9, None, 9, 5.0)
    assert at.due is None
    (by_rows,) = at.append(rows(*range(10)), None, 19, now=7.0)
    assert (by_rows.info.start, by_rows.info.stop, by_rows.info.position) == (9, 19, 1)
    large = generator(BlockSettings(interval=1.0, rows=10**6, bytes=1000))
    (by_bytes,) = large.append(rows(*range(200)), None, 1, now=0.0)
    assert by_bytes.info.nbytes == 1600
    assert large.seal() == []


def test_rejects_travel_in_a_block_of_their_own() -> None:
    """Malformed lines between good ones: both are counted, neither is lost."""
    at = generator(replayable=True)
    at.append(rows(1, 2), rejects(1), 3, now=0.0)
    at.append(None, rejects(2), 5, now=0.1)
    bad, good = at.seal()
    assert (good.info.kind, good.info.rows, good.info.replayable) == ("rows", 2, True)
    assert (bad.info.kind, bad.info.rows, bad.info.replayable) == ("rejects", 3, False)
    # A worker lost between the two reports: what is known of the split has not moved, so both are read again.
    assert (bad.info.start, bad.info.stop) == (None, None)
    assert (good.info.start, good.info.stop) == (None, 5)


def test_rejects_alone_move_the_position() -> None:
    """A file of nothing but rubbish is not read again and again."""
    at = generator(replayable=True)
    at.append(None, rejects(2), 5, now=0.0)
    (bad,) = at.seal()
    assert (bad.info.start, bad.info.stop) == (None, 5)


def test_a_reference_is_a_block_of_its_own() -> None:
    """Row groups of a Parquet file stay where they are; what was read before goes out before."""
    at = generator(replayable=True)
    at.append(rows(1), None, 1, now=0.0)
    before, reference = at.append(Reference(1000, 5000), None, 2, now=0.0)
    assert values([before]) == [1]
    assert (reference.data, reference.info.held, reference.info.rows) == (None, False, 1000)
    assert (reference.info.start, reference.info.stop) == (1, 2)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("rows"), st.integers(0, 15)),
            st.tuples(st.just("rejects"), st.integers(1, 3)),
            st.tuples(st.just("reference"), st.integers(1, 5)),
            st.tuples(st.just("tick"), st.integers(0, 3)),
            st.tuples(st.just("seal"), st.just(0)),
        ),
        max_size=30,
    )
)
def test_all_rows_leave_once_in_order_and_without_gaps(script: list[tuple[str, int]]) -> None:
    """Whatever a source gives and whenever a batch is due: positions join up, and nothing is missing or doubled."""
    at, now, position = generator(), 0.0, 0
    sealed: list[Block] = []
    sent: list[int] = []
    refused = referred = 0
    for kind, number in script:
        if kind in ("rows", "rejects", "reference"):
            position += 1
        match kind:
            case "rows":
                fresh = range(len(sent), len(sent) + number)
                sent += fresh
                sealed += at.append(rows(*fresh), None, position, now)
            case "rejects":
                refused += number
                sealed += at.append(None, rejects(number), position, now)
            case "reference":
                referred += number
                sealed += at.append(Reference(number, 10), None, position, now)
            case "tick":
                now += number * 0.4
                sealed += at.tick(now)
            case _:
                sealed += at.seal()
    sealed += at.seal()
    held = [block for block in sealed if block.info.kind == "rows" and block.info.held]
    assert values(held) == sent
    assert sum(block.info.rows for block in sealed if block.info.kind == "rejects") == refused
    assert sum(block.info.rows for block in sealed if not block.info.held) == referred
    assert [block.info.position for block in sealed] == list(range(len(sealed)))
    assert all(block.info.rows for block in sealed)
    stop = None
    for block in sealed:
        if block.info.kind == "rejects" and block.info.stop == stop:
            continue  # beside the rows of the same stretch
        assert block.info.start == stop
        stop = block.info.stop


def test_the_positions_of_a_block_are_joined() -> None:
    """Those of a directory say only which files came since the one before; a block is read again with all of them."""
    numbers = count()
    at = BlockGenerator(
        SourceId("s000"),
        "split",
        settings=SETTINGS,
        replayable=True,
        start=None,
        position=0,
        new_id=lambda: BlockId(f"b{next(numbers)}"),
        join=lambda earlier, later: f"{earlier}{later}",
    )
    at.append(rows(1), None, "a", now=0.0)
    at.append(None, rejects(1), "b", now=0.0)
    at.append(rows(2), None, "c", now=0.0)
    assert [(block.info.start, block.info.stop) for block in at.seal()] == [(None, None), (None, "abc")]
    [reference] = at.append(Reference(5, 40), None, "d", now=0.0)
    assert (reference.info.start, reference.info.stop) == ("abc", "d")
    at.append(rows(3), None, "e", now=0.0)
    at.append(rows(4), None, "f", now=0.0)
    assert [(block.info.start, block.info.stop) for block in at.seal()] == [("d", "ef")]
