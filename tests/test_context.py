"""The life of a context: what may be called when, what fails and how, and what reports say."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import arrowstream
from arrowstream import StreamFrame, StreamingContext
from arrowstream.connectors.source import EndOfStream, Offset
from arrowstream.errors import BatchError, ChangeKindError, ContextError, PlanError, SinkError, SourceError
from arrowstream.schedule.progress import BatchReport
from arrowstream.testing.clock import ManualClock

SCHEMA = {"k": pl.String, "v": pl.Int64}


@pytest.fixture
def ctx() -> Iterator[StreamingContext]:
    """A context whose batches run when a test asks for them."""
    with StreamingContext(batch_interval="1h", block_interval="1h", clock=ManualClock()) as ctx:
        yield ctx


def send(frame: StreamFrame, *rows: tuple[str | None, int]) -> None:
    frame.source.send([{"k": key, "v": value} for key, value in rows])


def end(frame: StreamFrame) -> None:
    frame.source.end()


# --- what may be called when


def test_a_start_without_an_output(ctx: StreamingContext) -> None:
    """The frame was built and the `.write` forgotten."""
    ctx.read.memory(SCHEMA).filter(pl.col("v") > 0)
    with pytest.raises(ContextError, match=r"nothing to do.*frame\.write\.console"):
        ctx.start()


def test_calls_that_need_a_start(ctx: StreamingContext) -> None:
    """`start()` was forgotten."""
    ctx.read.memory(SCHEMA).write.memory("t")
    for call in (ctx.stop, ctx.await_termination, ctx.process_all_available):
        with pytest.raises(ContextError, match=r"before start\(\): call start\(\) first"):
            call()


def test_a_context_runs_once(ctx: StreamingContext) -> None:
    """A cell of a notebook is run again."""
    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")
    ctx.start()
    with pytest.raises(ContextError, match="running already; make a new StreamingContext"):
        ctx.start()
    ctx.stop()
    ctx.stop()
    with pytest.raises(ContextError, match="stopped already"):
        ctx.run()
    with pytest.raises(ContextError, match=r"is stopped: declare every output before start\(\)"):
        frame.write.memory("u")


def test_an_output_after_the_start(ctx: StreamingContext) -> None:
    """One more table is wanted while the run goes on."""
    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")
    ctx.start()
    with pytest.raises(ContextError, match=r"is running: declare every output before start\(\)"):
        frame.write.memory("u")


def test_a_run_that_would_never_end(ctx: StreamingContext) -> None:
    """`run()` waits for the end of a source that has none."""

    class Endless:
        schema = pa.schema([("a", pa.int64())])
        replayable = False

        def splits(self) -> list[str]:
            return ["all"]

        def open(self, split: str, resume: Offset | None) -> Any:
            raise NotImplementedError

    ctx.read.open(Endless()).write.memory("t")
    with pytest.raises(PlanError, match=r"Endless never ends: use start\(\) and stop\(\)"):
        ctx.run()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_interval": "soon"}, "batch_interval='soon' is no duration"),
        ({"block_interval": -1}, "block_interval=-1 must not be negative"),
        ({"memory": "much"}, "memory='much' is no size"),
        ({"max_batch_rows": 0}, "max_batch_rows=0 must be at least 1"),
        ({"workers": -1}, "workers=-1"),
        ({"replication": 2}, "replication=2 must be between 1 and the number of workers, 1"),
        ({"workers": 2, "replication": 3}, "replication=3 must be between 1 and the number of workers, 2"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, Any], said: str) -> None:
    """A slip in the first line of a program."""
    with pytest.raises(PlanError, match=said):
        StreamingContext(**arguments)


# --- outputs


def test_output_names_are_unique(ctx: StreamingContext) -> None:
    """Two tables of one name: SQL could not tell them apart."""
    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")
    with pytest.raises(PlanError, match="already an output 't'"):
        frame.filter(pl.col("v") > 0).write.memory("t")
    with pytest.raises(PlanError, match="already an output 'dead_letters'"):
        frame.write.memory("dead_letters")


def test_a_sink_that_cannot_take_back_rows(ctx: StreamingContext, tmp_path: Any) -> None:
    """Running counts into Parquet files, which are never changed: the message has the cure."""
    counts = ctx.read.memory(SCHEMA).group_by("k").agg(pl.len())
    with pytest.raises(ChangeKindError, match=r"(?s)updates rows of .?k.*complete"):
        counts.write.parquet(tmp_path / "counts")


def test_connectors_that_are_not_there(ctx: StreamingContext) -> None:
    """A slip in the name of a connector."""
    with pytest.raises(PlanError, match=r"no connector 'memry' among the sources.*did you mean 'memory'"):
        ctx.read.open("memry")
    with pytest.raises(PlanError, match=r"no connector 'parket' among the sinks.*did you mean 'parquet'"):
        ctx.read.memory(SCHEMA).write.to("parket")
    with pytest.raises(PlanError, match="is no source: it lacks"):
        ctx.read.open(object())  # type: ignore[arg-type]


def test_two_outputs_of_a_plan_show_the_same_instant(ctx: StreamingContext) -> None:
    """A total and its parts, side by side on a dashboard, always add up."""
    frame = ctx.read.memory(SCHEMA)
    frame.group_by("k").agg(n=pl.len()).write.memory("parts")
    frame.agg(n=pl.len()).write.memory("total")
    ctx.start()
    over = threading.Event()

    def sender() -> None:
        for value in range(200):
            send(frame, ("a", value), ("b", value))
        over.set()

    thread = threading.Thread(target=sender)
    thread.start()
    while not over.is_set():
        seen = ctx.sql("SELECT (SELECT sum(n) FROM parts) IS NOT DISTINCT FROM (SELECT sum(n) FROM total)").pl().item()
        assert seen
        ctx.process_all_available(timeout=30)
    thread.join()
    ctx.process_all_available(timeout=30)
    assert ctx.sql("SELECT n FROM total").pl().item() == 400


def test_plans_that_share_nothing_do_not_wait_for_each_other(ctx: StreamingContext) -> None:
    """A slow report must not hold up the alarms."""
    entered, leave = threading.Event(), threading.Event()

    def slow(frame: pl.DataFrame, batch: int) -> None:
        entered.set()
        assert leave.wait(30)

    reports, alarms = ctx.read.memory(SCHEMA), ctx.read.memory(SCHEMA)
    reports.write.foreach_batch(slow, name="report")
    alarms.write.memory("alarms")
    seen: list[BatchReport] = []
    ctx.listen(seen.append)
    ctx.start()
    try:
        send(reports, ("a", 1))
        held = ctx._drivers[0].flush()
        assert entered.wait(30)
        for value in range(3):
            send(alarms, ("b", value))
            assert ctx._drivers[1].flush().wait(30)
        assert [(report.unit, report.rows_in) for report in seen] == [("u1", 1)] * 3
        assert ctx.sql("SELECT count(*) FROM alarms").pl().item() == 3
        assert not held.is_set()
    finally:
        leave.set()


# --- the end of a run


def test_a_run_ends_with_its_sources(ctx: StreamingContext) -> None:
    """The last sender has gone: what it sent is committed, then the run is over."""
    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")
    ctx.start()
    send(frame, ("a", 1), ("b", 2))
    end(frame)
    assert ctx.await_termination(timeout=30)
    assert ctx.sql("SELECT count(*) FROM t").pl().item() == 2
    ctx.stop()


def test_run_takes_what_there_is_and_stops() -> None:
    """A nightly job over a directory: the same program, without waiting for more."""
    ctx = StreamingContext()
    frame = ctx.read.memory(SCHEMA)
    frame.group_by("k").agg(n=pl.len()).write.memory("t")
    send(frame, ("a", 1), ("a", 2), ("b", 3))
    ctx.run(timeout=30)
    assert ctx.sql("SELECT * FROM t ORDER BY k").pl().rows() == [("a", 2), ("b", 1)]
    assert "stopped" in repr(ctx)


def test_a_wait_with_a_timeout_gives_up(ctx: StreamingContext) -> None:
    """A program looks in from time to time."""
    ctx.read.memory(SCHEMA).write.memory("t")
    ctx.start()
    assert ctx.await_termination(timeout=0.01) is False


def test_a_graceful_stop_finishes_what_has_arrived(ctx: StreamingContext) -> None:
    """A deployment: nothing that was sent before the stop is missing after it."""
    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")
    ctx.start()
    send(frame, *[("a", value) for value in range(1000)])
    ctx.stop()
    assert ctx.sql("SELECT count(*) FROM t").pl().item() == 1000


def test_a_stop_at_once_lets_go_of_what_waits(ctx: StreamingContext) -> None:
    """Ctrl-C twice."""
    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")
    ctx.start()
    send(frame, ("a", 1))
    ctx.process_all_available(timeout=30)
    send(frame, ("a", 2))
    ctx.stop(graceful=False)
    assert ctx.sql("SELECT v FROM t").pl().rows() == [(1,)]


def test_the_end_of_a_with_block_stops_the_run() -> None:
    """An error in the program ends the run without waiting for the rest."""
    ctx = StreamingContext(batch_interval="1h")
    ctx.read.memory(SCHEMA).write.memory("t")

    def program() -> None:
        with ctx:
            ctx.start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program()
    assert "stopped" in repr(ctx)


# --- failures


def test_a_function_that_raises_ends_the_run_with_its_batch(ctx: StreamingContext) -> None:
    """A value that nobody thought of, three batches in: the error has the batch and the cause, and nothing hangs."""

    def fails(frame: pl.DataFrame) -> pl.DataFrame:
        if (frame["v"] == 0).any():
            raise ZeroDivisionError("a price of nothing")
        return frame

    frame = ctx.read.memory(SCHEMA)
    frame.map_batches(fails, schema=SCHEMA).write.memory("t")
    ctx.start()
    for value in (3, 2, 1):
        send(frame, ("a", value))
        ctx.process_all_available(timeout=30)
    send(frame, ("a", 0))
    with pytest.raises(BatchError, match=r"batch 3: ZeroDivisionError: a price of nothing") as raised:
        ctx.process_all_available(timeout=30)
    assert raised.value.batch_id == 3
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(BatchError, match="batch 3"):
        ctx.await_termination()
    assert ctx.sql("SELECT v FROM t ORDER BY v").pl().rows() == [(1,), (2,), (3,)]


def test_run_raises_what_made_it_fail() -> None:
    """The same in a nightly job, whose exit code must not be 0."""
    ctx = StreamingContext()
    frame = ctx.read.memory(SCHEMA)
    frame.map_batches(lambda at: at.with_columns(pl.col("v").cast(pl.Int8)), schema=SCHEMA).write.memory("t")
    send(frame, ("a", 1))
    with pytest.raises(BatchError, match=r"batch 0: PlanError: map_batches.*Int8"):
        ctx.run(timeout=30)


def test_an_output_that_cannot_be_written_ends_the_run(ctx: StreamingContext) -> None:
    """The user's own function is an output too."""

    def fails(frame: pl.DataFrame, batch: int) -> None:
        raise ValueError("no such account")

    frame = ctx.read.memory(SCHEMA)
    frame.write.foreach_batch(fails, name="accounts")
    ctx.start()
    send(frame, ("a", 1))
    with pytest.raises(SinkError, match=r"no such account") as raised:
        ctx.process_all_available(timeout=30)
    assert isinstance(raised.value.__cause__, ValueError)


def test_one_plan_that_fails_ends_the_others_too(ctx: StreamingContext) -> None:
    """Half a run is not what anybody asked for."""
    good, bad = ctx.read.memory(SCHEMA), ctx.read.memory(SCHEMA)
    good.write.memory("good")
    bad.map_batches(lambda at: at.drop("k"), schema=SCHEMA).write.memory("bad")
    ctx.start()
    send(good, ("a", 1))
    assert ctx._drivers[0].flush().wait(30)
    send(bad, ("a", 1))
    ctx._drivers[1].flush()
    with pytest.raises(BatchError, match="batch 0"):
        ctx.await_termination(timeout=30)
    assert ctx.sql("SELECT count(*) FROM good").pl().item() == 1
    assert all(driver.wait(0) for driver in ctx._drivers)


class Scripted:
    """A source that does what it is told, poll by poll: rows, or an error to raise."""

    schema = pa.schema([("a", pa.int64())])
    replayable = False

    def __init__(self, *script: list[int] | Exception) -> None:
        self._script = list(script)

    def splits(self) -> list[str]:
        return ["script"]

    def bounded(self) -> Scripted:
        return self

    def open(self, split: str, resume: Offset | None) -> Scripted:
        if self._script and isinstance(self._script[0], OSError):
            raise self._script.pop(0)  # type: ignore[misc]
        return self

    def poll(self, timeout: float) -> pa.RecordBatch | None:
        if not self._script:
            raise EndOfStream
        item = self._script.pop(0)
        if isinstance(item, Exception):
            raise item
        return pa.record_batch([pa.array(item, pa.int64())], schema=self.schema)

    def position(self) -> Offset:
        return 0

    def acknowledge(self, offset: Offset) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_source_that_cannot_be_opened_fails_at_the_start(ctx: StreamingContext) -> None:
    """Nobody listens at the address: better now than in the log."""
    ctx.read.open(Scripted(ConnectionRefusedError("nobody listens"))).write.memory("t")
    with pytest.raises(SourceError, match="source Scripted: nobody listens"):
        ctx.start()
    assert "stopped" in repr(ctx)


def test_a_source_that_breaks_for_good_ends_the_run() -> None:
    """What was received before is committed or not, but the run does not go on without its source."""
    ctx = StreamingContext(batch_interval="10ms")
    ctx.read.open(Scripted([1, 2], SourceError("the account is closed"))).write.memory("t")
    with pytest.raises(SourceError, match="the account is closed"):
        ctx.run(timeout=30)


def test_a_connection_that_breaks_is_noted_and_opened_again() -> None:
    """A router restarts."""
    ctx = StreamingContext(batch_interval="10ms")
    ctx.read.open(Scripted([1, 2], ConnectionResetError("the line is dead"), [3])).write.memory("t")
    ctx.run(timeout=30)
    assert ctx.sql("SELECT a FROM t ORDER BY a").pl().rows() == [(1,), (2,), (3,)]
    assert any("the line is dead; trying again" in note for note in ctx.progress.notes)


# --- reports


def test_reports_add_up() -> None:
    """Every row that was sent is in the rows in or among the dead letters, batch by batch."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        ctx = StreamingContext(batch_interval="10ms", block_interval="10ms", max_batch_rows=100)
        reports: list[BatchReport] = []
        ctx.listen(reports.append)
        frame = ctx.read.socket(address, format="ndjson", schema={"v": pl.Int64})
        frame.filter(pl.col("v") % 2 == 0).write.memory("even")

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for value in range(1000):
                    connection.sendall(b'{"v": %d}\n' % value if value % 10 else b"this is no JSON\n")

        server = threading.Thread(target=serve)
        server.start()
        ctx.run(timeout=60)
        server.join()
    assert sum(report.rows_in for report in reports) == ctx.progress.rows_in == 900
    assert sum(report.dead_letters for report in reports) == ctx.progress.dead_letters == 100
    assert ctx.dead_letters.pl().height == 100
    assert set(ctx.dead_letters.pl()["raw"]) == {b"this is no JSON"}
    assert sum(report.rows_out["even"] for report in reports) == ctx.sql("FROM even").pl().height == 400
    assert [report.batch for report in reports] == list(range(len(reports)))
    assert ctx.progress.batches == len(reports) == len(list(ctx.progress))
    assert all(report.attempts == 1 and report.lost_rows == 0 and report.lag >= 0 for report in reports)


def test_what_waits_is_reported(ctx: StreamingContext) -> None:
    """A backlog shows in the reports while it is worked off."""
    small = StreamingContext(batch_interval="1h", max_batch_rows=1)
    frame = small.read.memory(SCHEMA)
    frame.write.memory("t")
    waiting: list[int] = []
    small.listen(lambda report: waiting.append(report.waiting_rows))
    gate = threading.Event()
    small.listen(lambda report: gate.wait(30))
    with small:
        small.start()
        send(frame, ("a", 1))
        first = small._drivers[0].flush()
        while not waiting:
            pass
        for value in range(3):
            send(frame, ("b", value))
            small._cluster.seal(small._drivers[0].unit.id)  # type: ignore[union-attr]
        gate.set()
        assert first.wait(30)
    assert waiting[-1] == 0
    assert small.progress.rows_in == 4


def test_the_clock_makes_the_batches() -> None:
    """Time by hand: a batch every second, with what arrived until then."""
    clock = ManualClock()
    done = threading.Semaphore(0)
    with StreamingContext(batch_interval="1s", block_interval="1s", clock=clock) as ctx:
        frame = ctx.read.memory(SCHEMA)
        frame.write.memory("t")
        times: list[float] = []
        ctx.listen(lambda report: times.append(report.time))
        ctx.listen(lambda report: done.release())
        ctx.start()
        for value in range(3):
            send(frame, ("a", value))
            while not done.acquire(timeout=0.05):
                clock.advance("1s")
    assert times == sorted(times)
    assert all(time == int(time) for time in times)
    assert ctx.sql("SELECT count(*) FROM t").pl().item() == 3


def test_names_of_sources_in_reports(ctx: StreamingContext) -> None:
    """Dead letters and errors name the source they mean."""
    frames = [ctx.read.memory(SCHEMA), ctx.read.memory(SCHEMA), ctx.read.open("memory", SCHEMA, name="clicks")]
    arrowstream.concat(frames).write.memory("t")
    assert [name in ctx.explain() for name in ("Source memory\n", "Source memory-1\n", "Source clicks\n")] == [True] * 3


def test_a_listener_that_fails_does_not_stop_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """A dashboard of one's own divides by zero: it is logged, rows go on."""
    ctx = StreamingContext()
    ctx.read.rate(1000, rows=10).write.memory("t")
    ctx.listen(lambda report: 1 / 0)
    ctx.run(timeout=30)
    assert len(ctx.sql("FROM t")) == 10
    assert "a listener failed at batch 0" in caplog.text


def test_a_batch_interval_of_nothing_is_refused() -> None:
    """It would ask the sources without a pause."""
    with pytest.raises(PlanError, match=r'batch_interval=.* "10ms" is usual'):
        StreamingContext(batch_interval="0s")


def test_two_sources_of_one_name_are_refused() -> None:
    """In reports and dead letters nobody could tell them apart."""
    ctx = StreamingContext()
    ctx.read.rate(1, name="clicks")
    with pytest.raises(PlanError, match="already a source 'clicks'"):
        ctx.read.rate(1, name="clicks")


def test_ctrl_c_ends_no_query_of_the_engine(tmp_path: Path) -> None:
    """Polars ends the queries of all threads at Ctrl-C; a stream that is to stop gracefully must not be hit."""
    script = tmp_path / "app.py"
    script.write_text(
        "import os, signal, threading, time\n"
        "import polars as pl, arrowstream as ars\n"
        "busy, results = threading.Event(), []\n"
        "def slow(rows):\n"
        "    frame = pl.DataFrame({'a': range(3_000_000)}).lazy()\n"
        "    if rows.height:\n"
        "        busy.set()\n"
        "        for _ in range(3):\n"
        "            frame.select(pl.col('a').cast(pl.String).str.len_bytes().sum()).collect()\n"
        "    return rows\n"
        "ctx = ars.StreamingContext(batch_interval='10ms')\n"
        "ctx.read.rate(1000, rows=100).map_batches(slow).write.memory('t')\n"
        "ctx.start()\n"
        "busy.wait()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    ctx.stop()\n"
        "print(ctx.progress.lost_rows, max(r.attempts for r in ctx.progress), len(ctx.sql('FROM t')) > 0)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0 1 True\n", done.stderr
