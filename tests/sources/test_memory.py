"""The memory source: rows that the program itself sends."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import polars as pl
import polars.testing
import pyarrow as pa
import pytest

from arrowstream.connectors.source import EndOfStream, batch_limit
from arrowstream.errors import ColumnError, ContextError, PlanError, SourceError
from arrowstream.sources.memory import MemorySource
from arrowstream.testing.source_suite import SourceSuite, Supply, assert_rows, polled, reading

SCHEMA = {"n": pl.Int64, "word": pl.String}


def rows(first: int, count: int) -> pl.DataFrame:
    numbers = range(first, first + count)
    return pl.DataFrame({"n": numbers, "word": [f"the word number {n}" for n in numbers]}, schema=SCHEMA)


class MemorySupply(Supply):
    def __init__(self) -> None:
        self._source = MemorySource(SCHEMA)

    def source(self) -> MemorySource:
        return self._source

    def feed(self, first: int, count: int) -> pl.DataFrame:
        sent = rows(first, count)
        self._source.send(sent)
        return sent

    def end(self) -> None:
        self._source.end()


class TestMemorySource(SourceSuite):
    @pytest.fixture
    def supply(self) -> MemorySupply:
        return MemorySupply()


@pytest.mark.parametrize(
    "sent",
    [
        [{"word": "a", "n": 1}, {"n": 2}],
        pl.DataFrame({"word": ["a", None], "n": [1, 2]}, schema={"word": pl.String, "n": pl.Int64}),
        pa.table({"n": pa.array([1, 2]), "word": pa.array(["a", None], pa.large_string())}),
    ],
)
def test_rows_are_sent_in_whatever_form_they_are_at_hand(sent: Any) -> None:
    source = MemorySource(SCHEMA)
    assert source.send(sent) == 2
    with reading(source) as reader:
        got = polled(source, reader, 2)
    assert_rows([got], [pl.DataFrame({"n": [1, 2], "word": ["a", None]}, schema=SCHEMA)])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([{"m": 1}], "column 'm' is not in the source; it has: n, word"),
        ([{"n": "one"}], "not of the source's types"),
        (pl.DataFrame({"n": [1]}), "column 'word' is not in the rows sent; it has: n"),
        (pl.DataFrame({"n": [1.5], "word": ["a"]}), "column 'n' is Float64 in the rows sent; it is Int64"),
    ],
)
def test_rows_of_another_shape_are_refused_where_they_are_sent(sent: Any, said: str) -> None:
    source = MemorySource(SCHEMA)
    with pytest.raises(ColumnError, match=said):
        source.send(sent)
    assert source.send([{"n": 1}]) == 1


def test_after_the_end_nothing_can_be_sent() -> None:
    source = MemorySource(SCHEMA)
    source.send(rows(0, 2))
    source.end()
    source.end()
    with pytest.raises(ContextError, match="ended"):
        source.send(rows(2, 1))
    with reading(source) as reader:
        polled(source, reader, 2)
        with pytest.raises(EndOfStream):
            reader.poll(10)


def test_a_waiting_reader_gets_rows_as_soon_as_they_are_sent() -> None:
    source = MemorySource(SCHEMA)
    with reading(source) as reader:
        sender = threading.Timer(0.05, source.send, [rows(0, 1)])
        sender.start()
        found = reader.poll(60)
        sender.join()
    assert isinstance(found, pa.RecordBatch)
    assert found.num_rows == 1


READ_IN_ANOTHER_PROCESS = """
import pickle, sys
from arrowstream.connectors.source import EndOfStream, batch_limit
source = pickle.load(sys.stdin.buffer)
print(source.scan("memory", 1, 3).collect()["n"].to_list(), flush=True)
reader = source.open("memory", None)
try:
    while True:
        rows = reader.poll(0.2)
        if rows is not None:
            print(rows["n"].to_pylist(), flush=True)
except EndOfStream:
    print("end", flush=True)
reader.close()
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", READ_IN_ANOTHER_PROCESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_worker_process_reads_what_is_sent_here(worker: subprocess.Popen[bytes]) -> None:
    """With workers of their own processes, rows are sent in the driver's and read in theirs, also later ones."""
    source = MemorySource(SCHEMA)
    source.send(rows(0, 3))
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(pickle.dumps(source))
    worker.stdin.close()
    assert worker.stdout.readline() == b"[1, 2]\n"
    assert worker.stdout.readline() == b"[0, 1, 2]\n"
    source.send(rows(3, 2))
    assert worker.stdout.readline() == b"[3, 4]\n"
    source.end()
    assert worker.stdout.readline() == b"end\n"
    assert worker.wait(10) == 0


def test_a_copy_whose_maker_is_gone_says_so() -> None:
    made = "import pickle, sys, polars as pl; from arrowstream.sources.memory import MemorySource;"
    script = made + "sys.stdout.buffer.write(pickle.dumps(MemorySource({'n': pl.Int64})))"
    source = pickle.loads(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout)
    with pytest.raises(OSError):
        source.open("memory", None)
    with pytest.raises(ContextError, match="send where the source was made"):
        source.send([{"n": 1}])


def test_nothing_listens_any_more_once_the_source_is_forgotten() -> None:
    """A notebook makes many sources; each of them must not leave a thread."""
    before = set(threading.enumerate())  # sources of other tests may not be forgotten yet
    source = MemorySource(SCHEMA)
    pickle.dumps(source)
    [serving] = [each for each in threading.enumerate() if each.name == "memory-source" and each not in before]
    del source
    gc.collect()
    serving.join(10)
    assert not serving.is_alive()


def test_a_range_that_is_not_there_is_an_error() -> None:
    source = MemorySource(SCHEMA)
    source.send(rows(0, 2))
    with pytest.raises(SourceError, match="rows 0 to 5"):
        source.scan("memory", None, 5)


def test_two_readers_do_not_disturb_each_other() -> None:
    source = MemorySource(SCHEMA)
    with closing(source.open("memory", None)) as first, closing(source.open("memory", 2)) as second:
        source.send(rows(0, 4))
        polars.testing.assert_frame_equal(polled(source, first, 4), rows(0, 4))
        polars.testing.assert_frame_equal(polled(source, second, 2), rows(2, 2))


def test_a_limit_for_a_batch_is_one_for_a_poll() -> None:
    source = MemorySource(SCHEMA, max_rows_per_batch=2)
    source.send(rows(0, 5))
    source.end()
    assert batch_limit(pickle.loads(pickle.dumps(source))) == 2
    with reading(source) as reader:
        polls = [reader.poll(0) for _ in range(3)]
        assert [found.num_rows for found in polls if isinstance(found, pa.RecordBatch)] == [2, 2, 1]
        with pytest.raises(EndOfStream):
            reader.poll(0)
    with pytest.raises(PlanError, match="max_rows_per_batch=0"):
        MemorySource(SCHEMA, max_rows_per_batch=0)
