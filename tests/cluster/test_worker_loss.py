"""Workers that are killed, at every moment: nothing acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from gate import Gate
from lineserver import LineServer
from polars.testing import assert_frame_equal

from arrowstream import StreamingContext, concat_history
from arrowstream.check import run_pieces
from arrowstream.cluster import local
from arrowstream.cluster.local import LocalCluster
from arrowstream.connectors.sink import Committer, Receipt
from arrowstream.errors import BatchError, ClusterError
from arrowstream.frame import StreamFrame
from arrowstream.ids import WorkerId
from arrowstream.sinks.memory import MemorySink


def workers_of(ctx: StreamingContext) -> LocalCluster:
    cluster = ctx._cluster
    assert isinstance(cluster, LocalCluster)
    return cluster


def kill(ctx: StreamingContext, worker: str) -> None:
    os.kill(workers_of(ctx).pid(WorkerId(worker)), signal.SIGKILL)


def wait_until(true: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    until = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < until, f"never came: {what}"
        time.sleep(0.005)


def wait_for_note(ctx: StreamingContext, text: str) -> None:
    wait_until(lambda: any(text in note for note in ctx.progress.notes), f"a note with {text!r}")


def numbers(start: int, stop: int) -> pl.DataFrame:
    values = pl.int_range(start, stop, eager=True)
    return pl.DataFrame({"key": values % 7, "value": values})


def totals(frame: Any) -> Any:
    return frame.group_by("key").agg(n=pl.len(), total=pl.col("value").sum(), last=pl.col("value").max())


def assert_right(ctx: StreamingContext, table: str, sent: pl.DataFrame) -> None:
    """The running totals are those of all that was sent, each row once."""
    expected = totals(sent.lazy()).collect().sort("key").cast({"n": pl.Int64})
    assert ctx.sql(f"SELECT * FROM {table} ORDER BY key").pl().equals(expected)
    assert ctx.progress.rows_in == sent.height
    assert ctx.progress.lost_rows == 0


def test_the_worker_that_receives_dies_and_no_acknowledged_line_is_lost() -> None:
    """The kernel kills the worker that reads a socket. What it has acknowledged is on the other one; the sender
    goes on with whoever connects next."""
    with LineServer() as server:
        ctx = StreamingContext(batch_interval="10s", block_interval="10ms", workers=2)
        lines = ctx.read.socket(server.address, ack=True)
        totals(lines.select(key=pl.col("line").cast(pl.Int64) % 7, value=pl.col("line").cast(pl.Int64))).write.memory(
            "t"
        )
        with ctx:
            ctx.start()
            server.send(*map(str, range(1000)))
            server.wait_acknowledged()
            ctx.process_all_available(timeout=60)
            server.send(*map(str, range(1000, 3000)))
            server.wait_acknowledged()  # not in a batch yet: the batch interval is long
            kill(ctx, "worker-0")
            wait_for_note(ctx, "worker-0 is lost")
            server.send(*map(str, range(3000, 4000)))
            server.wait_acknowledged()
            ctx.process_all_available(timeout=60)
            assert_right(ctx, "t", numbers(0, 4000))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_dies_in_the_middle_of_a_batch(tmp_path: Path, victim: int) -> None:
    """Out of memory in a user's function: the batch runs again elsewhere, on the state from before it."""
    gate = Gate(tmp_path)
    ctx = StreamingContext(batch_interval="10s", workers=2)
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    totals(frame.map_batches(gate.holder())).write.memory("t")
    with ctx:
        ctx.start()
        gate.open()
        frame.source.send(numbers(0, 1000))
        ctx.process_all_available(timeout=60)
        gate.close()
        frame.source.send(numbers(1000, 3000))
        done = ctx._drivers[0].flush()
        gate.wait_for_somebody()
        kill(ctx, f"worker-{victim}")
        wait_for_note(ctx, f"worker-{victim} is lost")
        gate.open()
        assert done.wait(60)
        assert_right(ctx, "t", numbers(0, 3000))


class _KillingSink(MemorySink):
    """Kills a worker in the middle of the commit of its second batch."""

    def committer(self, run: str | None = None) -> Committer:  # type: ignore[override]
        return _KillingCommitter(super().committer(run))


class _KillingCommitter:
    ctx: StreamingContext

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        if batch_id == 1:
            kill(self.ctx, "worker-1")
        self._inner.commit(batch_id, receipts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_worker_dies_while_a_batch_is_committed() -> None:
    """Between the sinks' commit and the word to the workers that the state is final, one of them is gone."""
    ctx = StreamingContext(batch_interval="10s", workers=2)
    _KillingCommitter.ctx = ctx
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    totals(frame).write.to(_KillingSink("t"))
    with ctx:
        ctx.start()
        for start in range(0, 4000, 1000):
            frame.source.send(numbers(start, start + 1000))
            ctx.process_all_available(timeout=60)
        assert_right(ctx, "t", numbers(0, 4000))


def test_one_worker_after_the_other_dies_once_the_first_is_replaced() -> None:
    """A fault in the night, and another one an hour later: the new worker has the copies that the second needs."""
    ctx = StreamingContext(batch_interval="10s", workers=2)
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    counts = totals(frame)
    counts.write.memory("t")
    counts.group_by("n").agg(keys=pl.len()).write.memory("histogram")
    with ctx:
        ctx.start()
        frame.source.send(numbers(0, 1000))
        ctx.process_all_available(timeout=60)
        for victim in (0, 1):
            kill(ctx, f"worker-{victim}")
            wait_for_note(ctx, f"worker-{victim + 2} has joined")
            start = 1000 * (victim + 1)
            frame.source.send(numbers(start, start + 1000))
            ctx.process_all_available(timeout=60)
        assert_right(ctx, "t", numbers(0, 3000))
        expected = totals(numbers(0, 3000)).group_by("n").agg(keys=pl.len()).cast(pl.Int64).sort("n")
        assert ctx.sql("SELECT * FROM histogram ORDER BY n").pl().equals(expected)


def plans(left: StreamFrame, right: StreamFrame) -> dict[str, StreamFrame]:
    """One of each kind of state."""
    key = ["key"]
    return {
        "pairs": left.join(right, on="key"),
        "outer": left.join(right.unique("key"), on="key", how="left"),
        "near": left.join(right, on="key", within="2s", how="left"),
        "before": left.join_asof(right, on="t", by="key"),
        "windows": left.group_by_dynamic("t", every="5s", group_by="key").agg(pl.len(), pl.col("value").n_unique()),
        "hops": left.group_by_dynamic("t", every="1s", period="30s", group_by="key").agg(pl.col("value").sum()),
        "middles": left.group_by_dynamic("t", every="5s", period="10s", group_by="key").agg(pl.col("value").median()),
        "sessions": left.group_by_session("t", gap="2s", group_by="key").agg(pl.len()),
        "rolled": left.rolling("t", period="3s", group_by="key").agg(pl.col("value").max()),
        "kinds": left.group_by("key").agg((pl.col("value") % 50).n_unique()),
        "middle": left.group_by("key").agg(pl.col("value").median()),
        "best": left.top_k(3, by="value", group_by=key),
        "once": left.unique("value"),
        "seldom": left.unique("key", within="3s"),
    }


def at(second: float) -> dt.datetime:
    return dt.datetime(2026, 1, 1) + dt.timedelta(seconds=second)


def timed(start: int, stop: int) -> pl.DataFrame:
    """Ten rows a second, each a bit out of order."""
    return numbers(start, stop).with_columns(
        t=pl.Series([at((n + 7 * (n % 3)) / 10) for n in range(start, stop)], dtype=pl.Datetime("us"))
    )


def test_state_of_every_kind_goes_to_who_takes_over() -> None:
    """Joins, windows, sessions, ranks: one worker after the other is killed, and each answer is that of one shot."""
    ctx = StreamingContext(batch_interval="10s", workers=2)
    schema = {"key": pl.Int64, "value": pl.Int64, "t": pl.Datetime("us")}
    sources = [ctx.read.memory(schema, name=name) for name in ("left", "right")]
    made = plans(*(source.with_watermark("t", "3s") for source in sources))
    for name, frame in made.items():
        frame.write.memory(name)
    pieces = [timed(start, start + 200) for start in range(0, 800, 200)]
    # What comes long after lets all before it close; what is still open then is left out on both sides.
    end = timed(800, 801).with_columns(t=pl.lit(at(10_000)))
    with ctx:
        ctx.start()
        for number, rows in enumerate([*pieces, end]):
            for source in sources:
                source.source.send(rows)
            ctx.process_all_available(timeout=60)
            if number in (1, 2):
                kill(ctx, f"worker-{number - 1}")
                wait_for_note(ctx, f"worker-{number + 1} has joined")
        whole = pl.concat([*pieces, end])
        for name, frame in made.items():
            sent = {"left": whole, "right": whole} if "right" in frame.explain() else {"left": whole}
            expected = run_pieces(frame._node, [sent], patient=True)
            before = pl.col("t") < at(9_000) if "t" in expected.columns else pl.lit(True)
            found = ctx.sql(f'FROM "{name}"').pl().select(expected.columns)
            assert_frame_equal(found.filter(before), expected.filter(before), check_row_order=False, check_dtypes=False)
        assert ctx.progress.lost_rows == 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_dies_while_the_history_gives_way_to_the_live_stream(victim: int) -> None:
    """The one that reads the archive, or the one that holds what came live meanwhile: no gap, no overlap."""
    with LineServer() as server:
        ctx = StreamingContext("10ms", "10ms", workers=2)
        archive = ctx.read.memory({"t": pl.Int64}, max_rows_per_batch=20)
        topic = ctx.read.socket(server.address, ack=True).select(pl.col("line").cast(pl.Int64).alias("t"))
        both = concat_history(archive, topic, on="t", at=2000)
        both.write.memory("out")
        archive.source.send(pl.DataFrame({"t": pl.int_range(2200, eager=True)}))
        with ctx:
            ctx.start()
            server.send(*map(str, range(1800, 3000)))
            server.wait_acknowledged()
            wait_until(lambda: ctx.progress.rows_in > 300, "some of the history")
            kill(ctx, f"worker-{victim}")
            wait_for_note(ctx, f"worker-{victim} is lost")
            server.send(*map(str, range(3000, 3500)))
            server.wait_acknowledged()
            ctx.process_all_available(timeout=60)
            assert ctx.sql("SELECT count(DISTINCT t), count(*), max(t) FROM out").fetchone() == (3500, 3500, 3499)
            assert ctx.progress.lost_rows == 0


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("tail", [False, True])
def test_a_worker_dies_that_reads_files(tmp_path: Path, victim: int, tail: bool) -> None:
    """The next one knows all files that were read, and goes on in each log where the first one was."""

    def come(first: int, stop: int) -> None:
        for name in range(3):
            with (tmp_path / (f"{name}.csv" if tail else f"{first}-{name}.csv")).open("a") as file:
                file.write("".join(f"{value}\n" for value in range(first + name, stop, 3)))

    come(0, 300)
    ctx = StreamingContext("10ms", "10ms", workers=2)
    frame = ctx.read.csv(tmp_path, {"value": pl.Int64}, poll_interval="10ms", max_rows_per_poll=20, tail=tail)
    totals(frame.with_columns(key=pl.col("value") % 7)).write.memory("t")
    with ctx:
        ctx.start()
        come(300, 600)
        wait_until(lambda: ctx.progress.rows_in >= 600, "the first files")
        come(600, 900)
        kill(ctx, f"worker-{victim}")
        come(900, 1200)
        wait_for_note(ctx, f"worker-{victim} is lost")
        wait_until(lambda: ctx.progress.rows_in >= 1200, "the last files")
        ctx.process_all_available(timeout=60)
        assert_right(ctx, "t", numbers(0, 1200))


def test_without_copies_the_loss_of_rows_is_loud() -> None:
    """replication=1 was chosen for speed: rows that a dead worker alone had are gone, and that is said."""
    with LineServer() as server:
        ctx = StreamingContext(batch_interval="10s", block_interval="10ms", workers=2, replication=1)
        ctx.read.socket(server.address, ack=True).write.memory("lines")
        with ctx:
            ctx.start()
            server.send(*map(str, range(100)))
            server.wait_acknowledged()
            kill(ctx, "worker-0")
            wait_for_note(ctx, "LOST")
            assert ctx.progress.lost_rows == 100
            server.send(*map(str, range(100, 150)))
            server.wait_acknowledged()
            ctx.process_all_available(timeout=60)
            assert ctx.sql("SELECT count(*) FROM lines").pl().item() == 50
            assert ctx.progress.last is not None
            assert ctx.progress.last.lost_rows == 100
            assert ctx.progress.lost_rows == 100


def test_without_copies_of_state_the_run_ends_with_the_cure() -> None:
    """replication=1 and running counts: the counts of half the keys are gone, and going on would be a lie."""
    ctx = StreamingContext(batch_interval="10s", workers=2, replication=1)
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    totals(frame).write.memory("t")
    ctx.start()
    frame.source.send(numbers(0, 100))
    ctx.process_all_available(timeout=60)
    kill(ctx, "worker-1")
    with pytest.raises(BatchError, match="replication=2"):
        ctx.await_termination(timeout=60)
    with pytest.raises(BatchError, match="replication=2"):
        ctx.process_all_available()
    ctx.stop()


def test_the_last_worker_dies() -> None:
    """A run on one worker process has nobody to go on with."""
    ctx = StreamingContext(batch_interval="10s", workers=1)
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    totals(frame).write.memory("t")
    ctx.start()
    kill(ctx, "worker-0")
    with pytest.raises(ClusterError, match=r"all workers are lost.*worker-0.*ended with -9"):
        ctx.await_termination(timeout=60)


def test_a_run_goes_on_with_one_worker_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kills workers kills their replacements too: the run is degraded, not over."""
    monkeypatch.setattr(local, "LOSSES_AT_ONCE", -100)
    monkeypatch.setattr(local, "LATEST_SECONDS", 1000.0)
    with LineServer() as server:
        ctx = StreamingContext(batch_interval="10s", block_interval="10ms", workers=2)
        lines = ctx.read.socket(server.address, ack=True).select(value=pl.col("line").cast(pl.Int64))
        totals(lines.with_columns(key=pl.col("value") % 7)).write.memory("t")
        with ctx:
            ctx.start()
            server.send(*map(str, range(500)))
            server.wait_acknowledged()
            ctx.process_all_available(timeout=60)
            kill(ctx, "worker-1")
            wait_for_note(ctx, "1 left")
            server.send(*map(str, range(500, 1000)))
            ctx.process_all_available(timeout=60)  # acknowledged by the commit: there is no second worker to hold them
            server.wait_acknowledged()
            assert_right(ctx, "t", numbers(0, 1000))
            report = ctx.progress.last
            assert report is not None
            assert report.degraded_partitions == 2


def test_two_plans_of_a_context_both_survive() -> None:
    """Each of the plans has receivers and state of its own on the worker that dies."""
    ctx = StreamingContext(batch_interval="10s", workers=2)
    frames = [ctx.read.memory({"key": pl.Int64, "value": pl.Int64}) for _ in range(2)]
    for number, frame in enumerate(frames):
        totals(frame).write.memory(f"t{number}")
    with ctx:
        ctx.start()
        for start in (0, 500):
            for frame in frames:
                frame.source.send(numbers(start, start + 500))
            ctx.process_all_available(timeout=60)
            if not start:
                kill(ctx, "worker-0")
        expected = totals(numbers(0, 1000).lazy()).collect().sort("key").cast({"n": pl.Int64})
        for number in range(2):
            assert ctx.sql(f"SELECT * FROM t{number} ORDER BY key").pl().equals(expected)


def test_workers_go_with_their_context() -> None:
    """Nobody has to look for leftover processes after a run."""
    ctx = StreamingContext(workers=2)
    ctx.read.memory({"a": pl.Int64}).write.memory("t")
    ctx.start()
    pids = [workers_of(ctx).pid(worker) for worker in workers_of(ctx).workers]
    assert all(psutil.pid_exists(pid) for pid in pids)
    ctx.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_acknowledged_lines_survive_one_loss_after_the_other() -> None:
    """Workers are killed as soon as they are there: rows with one copy are acknowledged by nobody but a commit."""
    with LineServer() as server:
        ctx = StreamingContext(batch_interval="500ms", block_interval="10ms", workers=2)
        lines = ctx.read.socket(server.address, ack=True)
        lines.select(value=pl.col("line").cast(pl.Int64)).write.memory("t")
        with ctx:
            ctx.start()
            for number in range(4):
                server.send(*map(str, range(500 * number, 500 * number + 500)))
                server.wait_acknowledged()
                victim = sorted(workers_of(ctx).workers)[number % 2]
                kill(ctx, victim)
                wait_for_note(ctx, f"{victim} is lost")
                server.send(*map(str, range(10_000 + 100 * number, 10_000 + 100 * number + 100)))
                server.wait_acknowledged()
                wait_until(lambda: len(workers_of(ctx).workers) == 2, "a worker in place of the lost one")
            ctx.process_all_available(timeout=60)
            found = set(ctx.sql("SELECT value FROM t").pl()["value"])
        assert found >= {*range(2000), *(10_000 + each for each in range(400))}


def test_a_worker_that_is_killed_as_it_starts_is_replaced_too() -> None:
    """The machine is short of memory, and the kernel takes the newcomer at once."""
    ctx = StreamingContext(batch_interval="10s", workers=2)
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    totals(frame).write.memory("t")
    with ctx:
        ctx.start()
        frame.source.send(numbers(0, 100))
        ctx.process_all_available(timeout=60)
        known = {workers_of(ctx).pid(worker) for worker in workers_of(ctx).workers}
        kill(ctx, "worker-0")
        newcomers: list[int] = []

        def starting() -> bool:
            newcomers[:] = [each.pid for each in psutil.Process().children() if each.pid not in known]
            return bool(newcomers)

        wait_until(starting, "a worker that starts")
        os.kill(newcomers[0], signal.SIGKILL)
        wait_for_note(ctx, "did not start")
        wait_for_note(ctx, "worker-3 has joined")
        frame.source.send(numbers(100, 200))
        ctx.process_all_available(timeout=60)
        assert_right(ctx, "t", numbers(0, 200))
        report = ctx.progress.last
        assert report is not None
        assert (report.degraded_blocks, report.degraded_partitions) == (0, 0)


def test_state_that_has_lost_its_copy_is_copied_also_when_no_rows_come() -> None:
    """A quiet night: a worker dies, its replacement comes, and then the other one dies, with no row in between."""
    ctx = StreamingContext(batch_interval="100ms", workers=2)
    frame = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    totals(frame).write.memory("t")
    with ctx:
        ctx.start()
        frame.source.send(numbers(0, 1000))
        ctx.process_all_available(timeout=60)
        kill(ctx, "worker-0")
        wait_for_note(ctx, "worker-2 has joined")
        wait_until(
            lambda: ctx.progress.reports[-1].degraded_partitions == 0 and len(ctx.progress.reports) > 1, "copies"
        )
        kill(ctx, "worker-1")
        wait_for_note(ctx, "worker-3 has joined")
        frame.source.send(numbers(1000, 2000))
        ctx.process_all_available(timeout=60)
        assert_right(ctx, "t", numbers(0, 2000))
