"""When something fails: what is told, at once and to whom; and every stop has an end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest

import arrowstream as ars
from arrowstream import StreamFrame, StreamingContext

SCHEMA = {"k": pl.String, "v": pl.Int64}


@pytest.fixture
def ctx() -> Iterator[StreamingContext]:
    with StreamingContext("20ms", name="orders", stop_timeout="10s") as ctx:
        yield ctx


def send(frame: StreamFrame, *values: int) -> None:
    frame.source.send([{"k": "a", "v": value} for value in values])


def fail(ctx: StreamingContext, frame: StreamFrame, *values: int) -> ars.ArrowStreamError:
    """Send rows that make the run fail, and wait until it has."""
    failed = threading.Event()
    ctx.listen(on_error=lambda error: failed.set())
    ctx.start()
    send(frame, *values)
    assert failed.wait(30)
    assert ctx.error is not None
    return ctx.error


# --- a failure is told


def test_a_failure_is_told_at_once_with_the_line_and_the_rows(
    ctx: StreamingContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for the run: a dashboard asks by SQL, a web server sends. All of them hear of it."""

    def share(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(v=pl.Series([100 // value for value in frame["v"]]))

    frame = ctx.read.memory(SCHEMA)
    frame.map_batches(share, schema=SCHEMA).write.memory("t")
    with caplog.at_level(logging.ERROR, "arrowstream"):
        error = fail(ctx, frame, 5, 0, 7, 0)
    assert isinstance(error, ars.BatchError)
    assert (error.batch_id, error.where) == (0, "MapBatches share")
    assert f"{Path(__file__).name}:" in error.line
    assert error.line.endswith(" in <listcomp>") or error.line.endswith(" in share")
    assert error.rows == ('{"k":"a","v":0}', '{"k":"a","v":0}')
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    told = record.getMessage()
    assert "\n" not in told
    for part in (
        "context 'orders' has failed",
        "batch 0",
        "ZeroDivisionError",
        "MapBatches share",
        error.line,
        '"v":0',
    ):
        assert part in told
    assert ctx.status == "failed"
    assert not ctx.is_running
    assert "failed: BatchError: batch 0: ZeroDivisionError" in repr(ctx)
    assert "<b>failed</b>" in ctx._repr_html_()
    assert "ZeroDivisionError" in ctx._repr_html_()
    with caplog.at_level(logging.WARNING, "arrowstream"):
        assert len(ctx.sql("FROM t")) == 0
    assert "answer of its last whole batch" in caplog.text
    with pytest.raises(ars.ContextError, match="the run that reads it has failed: BatchError"):
        send(frame, 1)
    with pytest.raises(ars.BatchError):
        ctx.stop()
    ctx.stop()


def test_an_expression_that_fails_is_named_with_the_line_it_was_written_at(ctx: StreamingContext) -> None:
    """Polars runs many calls as one query; which of them it was is what one wants to know."""
    frame = ctx.read.memory(SCHEMA)
    text = frame.filter(pl.col("v") > 0).with_columns(pl.lit("x").alias("x"))
    text.with_columns(n=(pl.col("k") + pl.col("v").cast(pl.String)).cast(pl.Int64)).group_by("k").agg(
        pl.col("n").sum()
    ).write.memory("t")
    error = fail(ctx, frame, -1, 3)
    assert error.where.startswith("with_columns(n=")
    assert error.line.startswith(os.path.relpath(__file__) + ":")
    assert error.rows == ('{"k":"a","v":3,"x":"x"}',)
    with pytest.raises(ars.BatchError):
        ctx.await_termination()


@pytest.mark.parametrize("kind", ["map_elements", "map_groups", "table", "foreach_batch"])
def test_every_function_of_the_user_is_named(ctx: StreamingContext, kind: str) -> None:
    """Wherever a function of one's own may stand, its line is told."""
    armed: list[bool] = []

    def culprit(value: object, batch: int = 0) -> object:
        if armed:
            raise LookupError("no such account")
        return pl.DataFrame({"k": ["a"], "w": [1]}) if kind == "table" else value

    frame = ctx.read.memory(SCHEMA)
    match kind:
        case "map_elements":
            armed.append(True)  # Polars pickles a function within an expression as it is now
            frame.select(pl.col("v").map_elements(culprit, return_dtype=pl.Int64)).write.memory("t")
        case "map_groups":
            frame.group_by("k").map_groups(culprit, schema=SCHEMA).write.memory("t")  # type: ignore[arg-type]
        case "table":
            table = ars.table(lambda: culprit(0), refresh="asked")
            frame.join(table, on="k").write.memory("t")
        case "foreach_batch":
            frame.write.foreach_batch(culprit, name="accounts")
    armed.append(True)
    error = fail(ctx, frame, 1)
    assert "LookupError: no such account" in str(error)
    assert " in culprit" in error.line
    assert error.where
    assert error.batch_id == 0
    with pytest.raises(ars.ArrowStreamError, match="no such account"):
        ctx.stop()


def test_an_error_of_the_caller_that_is_caught_is_told_once(ctx: StreamingContext) -> None:
    """The program deals with the failure; the end of the `with` block does not raise it again."""
    frame = ctx.read.memory(SCHEMA)
    frame.map_batches(lambda rows: rows.drop("k"), schema=SCHEMA).write.memory("t")
    ctx.start()
    send(frame, 1)
    with pytest.raises(ars.BatchError, match="map_batches: the function gave"):
        ctx.process_all_available(30)
    assert ctx not in ars.contexts()


def test_a_listener_is_told_on_a_thread_that_cannot_wait_for_itself(ctx: StreamingContext) -> None:
    """Three rows are enough: the function wants to stop the run that has called it."""
    said: list[BaseException] = []

    def enough(rows: pl.DataFrame, batch: int) -> None:
        for call in (ctx.stop, ctx.process_all_available, ctx.await_termination):
            try:
                call()
            except ars.ContextError as error:
                said.append(error)

    frame = ctx.read.memory(SCHEMA)
    frame.write.foreach_batch(enough)
    ctx.start()
    send(frame, 1)
    ctx.process_all_available(30)
    assert len(said) == 3
    assert "threading.Thread(target=ctx.stop).start()" in str(said[0])


# --- trying again, and the order of outputs


def test_an_oserror_is_tried_again_and_others_only_where_asked(ctx: StreamingContext) -> None:
    """A web service is busy twice; a bug is none of its business."""
    tries: dict[str, int] = {"post": 0, "map": 0}

    def post(rows: pl.DataFrame, batch: int) -> None:
        tries["post"] += 1
        if tries["post"] < 3:
            raise ConnectionResetError("busy")

    def score(rows: pl.DataFrame) -> pl.DataFrame:
        tries["map"] += 1
        if tries["map"] < 3:
            raise LookupError("warming up")
        return rows

    frame = ctx.read.memory(SCHEMA)
    again = ars.Retries(2, on=(LookupError,), wait=0.001)
    frame.map_batches(score, schema=SCHEMA, retries=again).write.foreach_batch(post, retries=ars.Retries(2, wait=0.001))
    ctx.start()
    send(frame, 1)
    ctx.process_all_available(30)
    assert tries == {"post": 3, "map": 3}
    with pytest.raises(ars.PlanError, match="retries=-1 is no number of times"):
        frame.map_batches(score, schema=SCHEMA, retries=-1)


def test_where_a_function_fails_no_output_that_promises_once_has_the_batch(ctx: StreamingContext) -> None:
    """The report and the files tell the same story, whoever failed."""

    def fails(rows: pl.DataFrame, batch: int) -> None:
        if (rows["v"] == 0).any():
            raise ValueError("no")

    frame = ctx.read.memory(SCHEMA)
    frame.write.memory("t")  # named before the function, and committed after it all the same
    frame.write.foreach_batch(fails)
    ctx.start()
    send(frame, 1)
    ctx.process_all_available(30)
    send(frame, 0)
    with pytest.raises(ars.SinkError, match="output foreach_batch, batch 1: ValueError: no"):
        ctx.process_all_available(30)
    assert ctx.sql("SELECT v FROM t").fetchall() == [(1,)]
    assert ctx.progress.batches == 1


# --- stopping


def test_a_function_that_does_not_return_is_named_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A service without a time limit of its own, in the middle of the night."""
    inside, leave = threading.Event(), threading.Event()

    def waits(rows: pl.DataFrame) -> pl.DataFrame:
        inside.set()
        leave.wait(60)
        return rows

    ctx = StreamingContext("20ms", slow_batch="100ms")
    frame = ctx.read.memory(SCHEMA)
    frame.map_batches(waits, schema=SCHEMA).write.memory("t")
    try:
        ctx.start()
        send(frame, 1)
        assert inside.wait(30)
        until = time.monotonic() + 30
        while "has been under way" not in caplog.text and time.monotonic() < until:
            threading.Event().wait(0.01)
        with pytest.raises(TimeoutError, match=r"batch 0 is in its tasks, at .*test_failures.py:\d+ in waits"):
            ctx.stop(timeout=0.1)
    finally:
        leave.set()
    assert "in waits, and has been under way for" in caplog.text
    assert ctx.status == "failed"
    for driver in ctx._drivers:
        driver.thread.join(30)
    assert len(ctx.sql("FROM t")) == 0  # what it gave in the end is not committed


def test_a_stop_at_once_begins_no_further_batch(ctx: StreamingContext) -> None:
    """Rows wait when the stop comes: they are let go."""
    batches: list[int] = []
    frame = ctx.read.memory(SCHEMA)
    frame.write.foreach_batch(lambda rows, batch: batches.append(batch))
    slow = StreamingContext("1h", "1h")
    waiting = slow.read.memory(SCHEMA)
    waiting.write.foreach_batch(lambda rows, batch: batches.append(batch))
    slow.start()
    send(waiting, 1)
    slow.stop(graceful=False)
    assert batches == []
    frame.source.end()


PROGRAM = """
import sys, time, re
import polars as pl
import arrowstream as ars

what, workers = sys.argv[1], int(sys.argv[2])

def inside():
    print("inside", file=sys.stderr, flush=True)

def sleeps(rows):
    inside()
    time.sleep(1000)

def holds(rows):
    inside()
    re.match(r"(a+)+$", "a" * 60 + "b")

def dies(rows):
    import os
    os._exit(3)

def raises(rows):
    raise ValueError("no")

ctx = ars.StreamingContext("50ms", workers=workers, stop_timeout="500ms", name="program")
frame = ctx.read.rate(1000)
if what == "counts":
    frame.write.parquet("out")
elif what == "hands over":
    frame.write.foreach_batch(lambda rows, batch: sleeps(rows))
else:
    frame.map_batches(globals()[what], schema=frame.schema).write.null()
ctx.start()
print(*(ctx._cluster.pid(each) for each in ctx._cluster.workers) if workers else "", flush=True)
if what == "raises":
    while ctx.error is None:
        time.sleep(0.01)
    print("the end")
else:
    if what == "counts":
        time.sleep(0.3)
        inside()
    ctx.await_termination()
"""


def program(tmp_path: Path, what: str, workers: int) -> subprocess.Popen[str]:
    """A plain `python` that runs a stream, once it is inside of the function."""
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py", what, str(workers)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if what not in ("raises", "dies"):
        assert process.stderr is not None
        while "inside" not in (line := process.stderr.readline()):
            assert line, "it ended before it was inside"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(("what", "workers"), [("sleeps", 0), ("hands over", 0), ("sleeps", 2)])
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, what: str, workers: int) -> None:
    """The function hangs, and somebody at the terminal has had enough."""
    process = program(tmp_path, what, workers)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping: finishing what has arrived" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_gracefully(tmp_path: Path, number: signal.Signals) -> None:
    """A deployment, or a terminal that is closed: what has arrived is in whole files."""
    process = program(tmp_path, "counts", 0)
    process.send_signal(number)
    code, said = ended(process)
    assert code == 128 + number, said
    assert "stopping: finishing what has arrived" in said
    values = pl.read_parquet(tmp_path / "out" / "*.parquet")["value"].sort().to_list()
    assert values
    assert values == list(range(len(values)))


@pytest.mark.parametrize(("what", "workers"), [("sleeps", 0), ("holds", 1)])
def test_a_signal_ends_what_hangs_within_its_bound(tmp_path: Path, what: str, workers: int) -> None:
    """The function does not come back; the machine is to be shut down."""
    process = program(tmp_path, what, workers)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 128 + signal.SIGTERM
    assert "batch 0 is in its tasks" in said


def test_a_program_that_ends_without_having_heard_of_a_failure_ends_with_1(tmp_path: Path) -> None:
    """A job in a scheduler, which looks at the code and nothing else."""
    code, said = ended(program(tmp_path, "raises", 0))
    assert code == 1
    assert "context 'program' had failed: batch 0: ValueError: no" in said


def test_a_function_that_ends_its_process_is_named(tmp_path: Path) -> None:
    """A native library aborts: the batch and the node are told, after the second process it has ended."""
    code, said = ended(program(tmp_path, "dies", 2))
    assert code == 1
    assert "process(es); the last" in said
    assert "in batch 0, MapBatches dies, written at program.py:" in said


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_a_worker_that_holds_the_interpreter_ends_with_its_driver(tmp_path: Path) -> None:
    """The driver is killed while a regular expression runs that never ends: nobody else could end that worker."""
    process = program(tmp_path, "holds", 1)
    assert process.stdout is not None
    worker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not alive


# --- dead letters, and several contexts


def test_dead_letters_are_told_in_one_line_and_printed_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nightly run over files: what is no row is no secret."""
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "a.ndjson").write_text('{"k": "a", "v": 1}\n{"k": "b", "v": "much"}\nno json\n')
    ctx = StreamingContext()
    ctx.read.ndjson(tmp_path / "a.ndjson", schema=SCHEMA).write.memory("t")
    ctx.run(timeout=60)
    (line,) = [record.getMessage() for record in caplog.records if "dead letters" in record.getMessage()]
    assert line.startswith("dead letters: 2 rows are in no result: ")
    assert '{"k": "b", "v": "much"}' in line
    shown = repr(ctx.dead_letters)
    letters = ctx.dead_letters.pl()
    assert shown.startswith("2 dead letters\n")
    for reason in letters["reason"]:
        assert f"reason {reason}\n" in shown
    assert "no json" in shown
    assert {"path", "line", "offset"} <= set(letters.columns)
    assert "much" in ctx.dead_letters._repr_html_()


def test_contexts_are_known_and_stopped_together() -> None:
    """The end of a session in which several were tried."""
    before = ars.contexts()
    made = [StreamingContext("1h", name=name) for name in ("one", "two")]
    for each in made:
        each.read.memory(SCHEMA).write.memory("t")
        each.start()
    assert ars.contexts() == [*before, *made]
    ars.stop_all()
    assert ars.contexts() == []
    assert [each.status for each in made] == ["stopped", "stopped"]


def test_in_an_interactive_session_a_context_replaces_the_older_of_its_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cell of a notebook is run again."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    made = [StreamingContext("1h", name=name) for name in ("cell", "other", "cell")]
    for each in made:
        each.read.memory(SCHEMA).write.memory("t")
        each.start()
    assert [each.status for each in made] == ["stopped", "running", "running"]
    assert "context 'cell' was running still and is stopped" in caplog.text
    ars.stop_all()


def test_handlers_of_signals_are_given_back() -> None:
    """A library must not leave its handlers behind."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with StreamingContext("1h") as ctx:
        ctx.read.memory(SCHEMA).write.memory("t")
        ctx.start()
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
