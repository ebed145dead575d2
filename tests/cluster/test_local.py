"""Worker processes: how they start, what they run, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from arrowstream import StreamingContext
from arrowstream.cluster.local import LocalCluster
from arrowstream.errors import ArrowStreamError, ClusterError, PlanError
from arrowstream.settings import ClusterSettings, Settings


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = folder / "app.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)


def test_a_script_without_a_guard_runs_on_workers(tmp_path: Path) -> None:
    """The first script of most users has no `if __name__ == "__main__"`; its lambdas, functions and prints work."""
    done = run_script(
        tmp_path,
        """
        import polars as pl
        import arrowstream as ars

        FACTOR = 10

        class Model:
            def predict(self, values):
                return values * FACTOR

        def tenfold(frame):
            print("predicting", frame.height, "rows")
            return frame.with_columns(b=Model().predict(pl.col("a")))

        ctx = ars.StreamingContext(batch_interval="50ms", workers=2)
        numbers = ctx.read.memory({"a": pl.Int64})
        made = numbers.map_batches(tenfold, schema={"a": pl.Int64, "b": pl.Int64})
        made.map_batches(lambda frame: frame.with_columns(c=frame["b"] + 1)).write.memory("made")
        numbers.source.send([{"a": 1}, {"a": 2}])
        ctx.run(timeout=60)
        print(ctx.sql("SELECT * FROM made ORDER BY a").pl().rows())
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(1, 10, 11), (2, 20, 21)]\n"
    assert "predicting 2 rows" in done.stderr


def test_workers_end_when_their_driver_is_killed(tmp_path: Path) -> None:
    """The machine runs out of memory and the kernel takes the driver: nothing is left to take memory."""
    script = tmp_path / "app.py"
    script.write_text(
        textwrap.dedent(
            """
            import polars as pl
            import arrowstream as ars

            ctx = ars.StreamingContext(batch_interval="50ms", workers=2)
            ctx.read.memory({"a": pl.Int64}).write.memory("t")
            ctx.start()
            print(*(ctx._cluster.pid(worker) for worker in ctx._cluster.workers), flush=True)
            ctx.await_termination()
            """
        )
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        assert len(workers) == 2
        driver.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) == 2, f"still there: {alive}"


def test_a_worker_that_cannot_start_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken environment: the interpreter ends at once."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    cluster = LocalCluster(Settings(cluster=ClusterSettings(2, 2)))
    with pytest.raises(ClusterError, match=r"worker-0 ended with 1; its messages are above"):
        cluster.start()
    cluster.close()


def test_a_plan_that_workers_cannot_load_is_an_error_at_start(tmp_path: Path) -> None:
    """A function comes from a module that only the driver has."""
    done = run_script(
        tmp_path,
        """
        import sys
        import types

        import polars as pl
        import arrowstream as ars

        module = types.ModuleType("only_here")
        exec("def same(frame): return frame", module.__dict__)
        sys.modules["only_here"] = module

        ctx = ars.StreamingContext(workers=1)
        ctx.read.memory({"a": pl.Int64}).map_batches(module.same).write.memory("t")
        try:
            ctx.start()
        except ars.ArrowStreamError as error:
            print(type(error).__name__, error)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ClusterError ")
    assert "only_here" in done.stdout


def test_a_cluster_starts_once_and_ends_once() -> None:
    """Several contexts share one; whoever made it closes it."""
    cluster = LocalCluster(Settings(cluster=ClusterSettings(1, 1)))
    cluster.start()
    (worker,) = cluster.workers
    pid = cluster.pid(worker)
    cluster.start()
    assert [cluster.pid(each) for each in cluster.workers] == [pid]
    cluster.close()
    cluster.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(ArrowStreamError, match="closed"):
        cluster.start()


def test_a_worker_that_dies_while_nothing_runs_is_replaced() -> None:
    """A shared cluster idles overnight, and one of its processes does not survive it."""
    cluster = LocalCluster(Settings(cluster=ClusterSettings(2, 2)))
    cluster.start()
    os.kill(cluster.pid(cluster.workers[0]), signal.SIGKILL)
    until = time.monotonic() + 30
    while list(cluster.workers) != ["worker-1", "worker-2"]:
        assert time.monotonic() < until, cluster.workers
        time.sleep(0.01)
    cluster.close()


def test_a_plan_that_cannot_be_sent_is_an_error_at_start() -> None:
    """A function closes over a lock, or a connection to a database."""
    lock = threading.Lock()
    ctx = StreamingContext(workers=1)
    frame = ctx.read.memory({"a": pl.Int64})
    frame.map_batches(lambda at: at.head(at.height + lock.locked())).write.memory("t")
    with pytest.raises(PlanError, match=r"cannot be sent to worker processes: .*lock.*inside your functions"):
        ctx.start()
