"""A receiver against readers that follow a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from arrowstream.blocks.block import Block
from arrowstream.blocks.generator import BlockGenerator
from arrowstream.clock import SystemClock
from arrowstream.connectors.source import REJECT_SCHEMA, EndOfStream, Offset
from arrowstream.errors import SourceError
from arrowstream.ids import BlockId, SourceId
from arrowstream.receive.receiver import Receiver
from arrowstream.settings import BlockSettings

SCHEMA = pa.schema([("n", pa.int64())])
Act = int | None | BaseException | str
"""What a poll does: give so many rows, give nothing, raise, or meet a reject."""


@dataclass
class Scripted:
    """A source each of whose openings follows the next script; after the last it waits for ever."""

    scripts: list[list[Act] | BaseException]
    resumed: list[Offset | None] = field(default_factory=list)
    acknowledged: list[Offset] = field(default_factory=list)
    closed: int = 0
    schema = SCHEMA
    replayable = False

    def splits(self) -> Sequence[str]:
        return ["0"]

    def open(self, split: str, resume: Offset | None) -> ScriptedReader:
        self.resumed.append(resume)
        script = self.scripts.pop(0) if self.scripts else []
        if isinstance(script, BaseException):
            raise script
        return ScriptedReader(self, script, resume if isinstance(resume, int) else 0)


class ScriptedReader:
    """Rows are numbered by their position, so that one that is missing or doubled is seen."""

    def __init__(self, source: Scripted, script: list[Act], position: int) -> None:
        self._source, self._script, self._at = source, script, position
        self._rejects: pa.RecordBatch | None = None

    def poll(self, timeout: float) -> pa.RecordBatch | None:
        if not self._script:
            return None
        act = self._script.pop(0)
        if isinstance(act, BaseException):
            raise act
        if isinstance(act, str):
            self._rejects = pa.record_batch(
                [[act.encode()], ["malformed"], [None], [None], [None]], schema=REJECT_SCHEMA
            )
            self._at += 1
            return None
        if act is None:
            return None
        first, self._at = self._at, self._at + act
        return pa.record_batch([pa.array(range(first, self._at))], schema=SCHEMA)

    def rejects(self) -> pa.RecordBatch | None:
        taken, self._rejects = self._rejects, None
        return taken

    def position(self) -> Offset:
        return self._at

    def acknowledge(self, offset: Offset) -> None:
        self._source.acknowledged.append(offset)

    def close(self) -> None:
        self._source.closed += 1


class Outlet:
    """Keeps the blocks, and reports them at once."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def put(self, block: Block) -> None:
        self.blocks.append(block)

    def after(self, action: Callable[[], None]) -> None:
        action()

    def wait_for_room(self, stop: threading.Event) -> None:
        pass

    def numbers(self) -> list[int]:
        batches = [block.data for block in self.blocks if block.data is not None and block.info.kind == "rows"]
        return [number for batch in batches for number in batch[0].to_pylist()]


class Heard:
    """What the receiver says of itself."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, bool]] = []
        self.starts = 0
        self.over = threading.Event()
        self.exhausted: bool | None = None

    def started(self) -> None:
        self.starts += 1

    def failed(self, reason: str, fatal: bool) -> None:
        self.failures.append((reason, fatal))

    def ended(self, exhausted: bool) -> None:
        self.exhausted = exhausted
        self.over.set()


def receiver(source: Scripted) -> tuple[Receiver, Outlet, Heard]:
    numbers = iter(range(1_000))
    generator = BlockGenerator(
        SourceId("s000"),
        "0",
        settings=BlockSettings(interval=3600.0),
        replayable=False,
        start=None,
        position=0,
        new_id=lambda: BlockId(str(next(numbers))),
    )
    outlet, heard = Outlet(), Heard()
    return Receiver(source, "0", None, generator, outlet, SystemClock(), heard), outlet, heard


@pytest.fixture
def started() -> Iterator[Callable[[Scripted], tuple[Receiver, Outlet, Heard]]]:
    running: list[Receiver] = []

    def start(source: Scripted) -> tuple[Receiver, Outlet, Heard]:
        made = receiver(source)
        made[0].start()
        running.append(made[0])
        return made

    yield start
    for each in running:
        each.stop(drain=False)
        each.release(10)


Start = Callable[[Scripted], tuple[Receiver, Outlet, Heard]]


def test_rows_are_in_blocks_before_the_end_is_told(started: Start) -> None:
    """A file is read to its end: the driver may stop as soon as it hears so."""
    _, outlet, heard = started(Scripted([[3, 2, EndOfStream()]]))
    assert heard.over.wait(10)
    assert outlet.numbers() == [0, 1, 2, 3, 4]
    assert not heard.failures


def test_a_broken_connection_is_opened_again_where_it_broke(started: Start) -> None:
    """A server is restarted twice, and once is away when it is tried."""
    source = Scripted([[3, ConnectionResetError("gone")], ConnectionRefusedError("away"), [2, EndOfStream()]])
    reading, outlet, heard = started(source)
    assert heard.over.wait(10)
    reading.release(10)
    assert source.resumed == [None, 3, 3]
    assert outlet.numbers() == [0, 1, 2, 3, 4]
    assert heard.failures == [("gone", False), ("away", False)]
    assert source.closed == heard.starts == 2


def test_an_error_of_the_source_is_final(started: Start) -> None:
    """A corrupt file: trying again is of no use, what was read before it is kept."""
    _, outlet, heard = started(Scripted([[2, SourceError("part-7 is no Parquet file")], [1]]))
    assert heard.over.wait(10)
    assert heard.failures == [("part-7 is no Parquet file", True)]
    assert outlet.numbers() == [0, 1]


def test_a_bug_in_a_connector_is_told_with_its_name(started: Start) -> None:
    """Somebody's own source divides by zero: the run ends with the connector's name, it does not hang."""
    _, _, heard = started(Scripted([[ZeroDivisionError("division by zero")]]))
    assert heard.over.wait(10)
    assert heard.failures == [("ZeroDivisionError in Scripted: division by zero", True)]


def test_rejects_alone_move_the_position(started: Start) -> None:
    """A sender of nothing but rubbish, then a broken connection: no record is read twice."""
    source = Scripted([["{", "}", OSError("broke")], [1, EndOfStream()]])
    _, outlet, heard = started(source)
    assert heard.over.wait(10)
    assert source.resumed == [None, 2]
    rejects = [block for block in outlet.blocks if block.info.kind == "rejects"]
    assert sum(block.info.rows for block in rejects) == 2
    assert outlet.numbers() == [2]


def test_a_flush_is_answered_when_all_at_hand_is_in_blocks(started: Start) -> None:
    """A test or a notebook waits for what it has sent."""
    source = Scripted([[2, 2, None]])
    reading, outlet, heard = started(source)
    flushed = threading.Event()
    reading.flush(flushed.set)
    assert flushed.wait(10)
    assert outlet.numbers() == [0, 1, 2, 3]
    assert not heard.over.is_set()


def test_a_flush_without_a_connection_is_answered(started: Start) -> None:
    """The server is away: nothing is at hand, and whoever waits for it must not wait for the server."""
    source = Scripted([ConnectionRefusedError("away") for _ in range(50)])
    reading, _, _ = started(source)
    flushed = threading.Event()
    reading.flush(flushed.set)
    assert flushed.wait(10)


def test_the_end_is_told_before_a_flush_is_answered() -> None:
    """Who waits for all that there is finds what the end of the source has closed."""
    reading, _, heard = receiver(Scripted([[2, EndOfStream()]]))
    told: list[bool] = []
    flushed = threading.Event()

    def answered() -> None:
        told.append(heard.over.is_set())
        flushed.set()

    reading.flush(answered)
    reading.start()
    assert flushed.wait(10)
    reading.release(10)
    assert told == [True]


def test_a_flush_after_the_end_is_answered(started: Start) -> None:
    reading, _, heard = started(Scripted([[EndOfStream()]]))
    assert heard.over.wait(10)
    flushed = threading.Event()
    reading.flush(flushed.set)
    assert flushed.is_set()


def test_a_graceful_stop_takes_in_what_is_at_hand(started: Start) -> None:
    """`ctx.stop()`: what has arrived is finished."""
    source = Scripted([[1] * 200])
    reading, outlet, heard = started(source)
    reading.stop()
    assert heard.over.wait(10)
    assert outlet.numbers() == list(range(200))
    reading.acknowledge(200)  # the last batch is committed only now
    assert source.acknowledged == [200]
    reading.release(10)
    assert source.closed == 1


@pytest.mark.parametrize(("script", "drain", "exhausted"), [
    ([None, 2, EndOfStream()], True, True),
    ([None, 2, None, EndOfStream()], True, False),
    ([None, 2, EndOfStream()], False, False),
    ([None, OSError("gone")], True, False),
])  # fmt: skip
def test_a_stop_knows_whether_the_source_had_come_to_its_end(script: list[Act], drain: bool, exhausted: bool) -> None:
    """The program ends its source and stops the run in one breath: what is at hand is all that there will ever be."""
    reading, _, heard = receiver(Scripted([script]))
    first = ScriptedReader.poll

    class StopsAtTheFirst(Scripted):
        def open(self, split: str, resume: Offset | None) -> ScriptedReader:
            reader = super().open(split, resume)

            def poll(timeout: float) -> pa.RecordBatch | None:
                reading.stop(drain=drain)
                return first(reader, timeout)

            reader.poll = poll  # type: ignore[method-assign]
            return reader

    reading, _, heard = receiver(StopsAtTheFirst([script]))
    reading.start()
    assert heard.over.wait(10)
    reading.release(10)
    assert heard.exhausted is exhausted


def test_a_stop_in_the_middle_of_a_pause_between_two_tries_is_heard_at_once(started: Start) -> None:
    """The pause may be ten seconds long; Ctrl-C must not take as long."""
    source = Scripted([ConnectionRefusedError("away") for _ in range(100)])
    reading, _, heard = started(source)
    reading.stop()
    assert heard.over.wait(5)


def test_an_acknowledgement_reaches_the_source_that_is_open(started: Start) -> None:
    source = Scripted([[1]])
    reading, _, _ = started(source)
    flushed = threading.Event()
    reading.flush(flushed.set)
    assert flushed.wait(10)
    reading.acknowledge(1)
    assert source.acknowledged == [1]
