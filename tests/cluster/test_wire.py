"""Messages between processes, and who may send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.blocks.block import BlockInfo
from arrowstream.blocks.messages import BlockAdded, BlockCopied, BlockNotCopied, CopyBlock, DropBlocks
from arrowstream.cluster.executor import Event, Instruction
from arrowstream.cluster.local import LocalCluster
from arrowstream.cluster.wire import call_options, decode_events, decode_info, decode_instruction, encode
from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.sink import Receipt
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId
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
from arrowstream.schedule.messages import CommitState, RunTask, TaskBlock, TaskDone, TaskFailed, TaskId, TaskStats
from arrowstream.settings import ClusterSettings, Settings

texts = st.text(max_size=8)
counts = st.integers(0, 2**40)
units, sources, workers, blocks = (texts.map(kind) for kind in (UnitId, SourceId, WorkerId, BlockId))
offsets = st.recursive(
    st.none() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
infos = st.builds(
    BlockInfo,
    id=blocks,
    source=sources,
    split=texts,
    position=counts,
    start=offsets,
    stop=offsets,
    rows=counts,
    nbytes=counts,
    created=st.floats(0, 1e10),
    kind=st.sampled_from(["rows", "rejects"]),
    held=st.booleans(),
    replayable=st.booleans(),
)
tasks = st.builds(TaskId, units, counts, counts, counts, counts)


@st.composite
def changes(draw: st.DrawFn) -> ChangeBatch:
    values = draw(st.lists(st.none() | st.integers(-5, 5), max_size=5))
    table = pl.DataFrame({"a": values, "s": [str(value) for value in values]}, schema={"a": pl.Int64, "s": pl.String})
    weights = draw(st.none() | st.just(pa.array([1 if value else -1 for value in values], pa.int64())))
    return ChangeBatch(table.to_arrow(compat_level=pl.CompatLevel.newest()), weights)


receipts = st.builds(
    Receipt, facts=st.dictionaries(texts, offsets, max_size=3), changes=st.lists(changes(), max_size=2).map(tuple)
)
stats = st.builds(TaskStats, st.dictionaries(counts, counts, max_size=3), counts, counts, st.floats(0, 1e6))
instructions: st.SearchStrategy[Instruction] = st.one_of(
    st.builds(StartReceiver, units, sources, texts, offsets, counts, st.booleans()),
    st.builds(SealBlocks, units, counts),
    st.builds(StopReceivers, units, st.booleans()),
    st.builds(AcknowledgeRows, units, sources, texts, offsets),
    st.builds(CopyBlock, units, blocks, workers),
    st.builds(DropBlocks, st.lists(blocks, max_size=3)),
    st.builds(CommitState, units, counts),
    st.builds(
        RunTask,
        task=tasks,
        blocks=st.lists(st.builds(TaskBlock, counts, infos, st.lists(workers, max_size=2)), max_size=3),
        placement=st.lists(workers, max_size=3),
        committed=st.integers(-1, 2**40),
        replicas=st.lists(workers, max_size=2),
    ),
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(BlockAdded, units, infos, st.lists(workers, max_size=3)),
    st.builds(BlockCopied, units, blocks, workers),
    st.builds(BlockNotCopied, units, blocks, workers, texts),
    st.builds(ReceiverStarted, units, sources, texts, workers),
    st.builds(ReceiverFailed, units, sources, texts, workers, texts, st.booleans()),
    st.builds(ReceiverEnded, units, sources, texts, workers, st.booleans()),
    st.builds(ReceiversSealed, units, workers, counts),
    st.builds(
        TaskDone,
        task=tasks,
        worker=workers,
        receipts=st.dictionaries(counts, receipts, max_size=2),
        rejects=receipts,
        stats=stats,
    ),
    st.builds(TaskFailed, tasks, workers, texts, st.booleans(), st.none() | st.binary(max_size=8)),
)


@given(instructions)
@settings(max_examples=200)
def test_an_instruction_arrives_as_it_was_sent(instruction: Instruction) -> None:
    """Every order that the driver gives crosses a process boundary."""
    assert decode_instruction(encode(instruction)) == instruction


@given(st.lists(events, max_size=5))
@settings(max_examples=200)
def test_events_arrive_as_they_were_sent(sent: list[Event]) -> None:
    """Workers answer in lots, with tables in their receipts, offsets of any JSON, and types as they were."""
    assert decode_events(encode(sent)) == sent


@given(infos)
def test_what_goes_with_a_block_arrives_as_it_was_sent(info: BlockInfo) -> None:
    """A copy of a block travels with what the block master knows of it."""
    assert decode_info(encode(info)) == info


@pytest.fixture(scope="module")
def location() -> Iterator[tuple[str, str]]:
    """The address of a worker, and its token."""
    cluster = LocalCluster(Settings(cluster=ClusterSettings(1, 1)))
    cluster.start()
    yield next(iter(cluster._workers.values())).location, cluster._token
    cluster.close()


CALLS: dict[str, Any] = {
    "do_action": lambda client, options: list(client.do_action(flight.Action("peers", b"\x80"), options)),
    "do_get": lambda client, options: client.do_get(flight.Ticket(b"a block"), options).read_all(),
    "do_put": lambda client, options: client.do_put(
        flight.FlightDescriptor.for_command(b"blocks"), pa.schema([("a", pa.int64())]), options
    )[0].close(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("token", [None, "", "a guess"])
def test_without_the_token_a_worker_answers_nobody(location: tuple[str, str], call: str, token: str | None) -> None:
    """Another user of the machine finds the port: a plan is code, and must not be taken from anybody."""
    options = flight.FlightCallOptions(timeout=10) if token is None else call_options(token, 10)
    with flight.FlightClient(location[0]) as client, pytest.raises(flight.FlightUnauthenticatedError):
        CALLS[call](client, options)


def test_with_the_token_it_answers(location: tuple[str, str]) -> None:
    """The driver, and the other workers."""
    with flight.FlightClient(location[0]) as client:
        assert CALLS["do_action"](client, call_options(location[1], 10)) == []
        with pytest.raises(flight.FlightServerError, match="block not found"):
            CALLS["do_get"](client, call_options(location[1], 10))
