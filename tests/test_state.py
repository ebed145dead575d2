"""State as tables, while the stream runs."""

from __future__ import annotations

import threading
from pathlib import Path

import polars as pl
import pytest
from gate import Gate

import arrowstream as ars
from arrowstream.cluster.local import LocalCluster
from arrowstream.errors import ContextError, QueryError
from arrowstream.ids import WorkerId


def numbers(start: int, stop: int) -> pl.DataFrame:
    values = pl.int_range(start, stop, eager=True)
    return pl.DataFrame({"key": values % 7, "value": values})


@pytest.mark.parametrize("workers", [0, 2])
def test_state_is_shown_by_name(workers: int) -> None:
    """Why does this stream take so much memory? One look, with workers or without."""
    ctx = ars.StreamingContext("20ms", workers=workers)
    rows = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    rows.group_by("key").agg(pl.len(), pl.col("value").max(), d=pl.col("value").n_unique()).write.memory("a")
    rows.unique("key").write.memory("b")
    rows.top_k(2, by="value").write.memory("c")
    with ctx:
        ctx.start()
        assert ctx.state().pl()["rows"].sum() == 0
        rows.source.send(numbers(0, 100))
        ctx.process_all_available()
        overview = ctx.state().pl()
        sizes = dict(overview.select("name", "rows").iter_rows())
        assert sizes == {"group_by key": 7, "group_by key: n_unique(value)": 100, "unique key": 7, "top_2": 2}
        assert (overview["bytes"] > 0).all()
        assert overview.filter("bounded")["name"].to_list() == ["top_2"]
        assert all(f"state {name}: " in ctx.explain() for name in sizes if "n_unique" not in name)
        kept = ctx.state("group_by key").pl().sort("key")
        expected = numbers(0, 100).group_by("key").agg(rows=pl.len(), top=pl.col("value").max()).sort("key")
        assert kept.select("key", "rows", "max(value)").rows() == expected.rows()
        assert sorted(ctx.state("top_2").pl()["value"]) == [98, 99]
        assert ctx.state("group_by key: n_unique(value)").pl().select("key", "value").n_unique() == 100


def test_what_is_not_there_is_said() -> None:
    """A typing error, too early, too late."""
    ctx = ars.StreamingContext("20ms")
    rows = ctx.read.memory({"key": pl.Int64})
    rows.group_by("key").agg(pl.len()).write.memory("a")
    with pytest.raises(ContextError, match="before start"):
        ctx.state()
    with ctx:
        ctx.start()
        with pytest.raises(QueryError, match=r"no table 'group_by kay'; there are: group_by key"):
            ctx.state("group_by kay")
    with pytest.raises(ContextError, match="the run has ended, and its state with it"):
        ctx.state()


def test_a_stream_without_state_has_an_empty_list() -> None:
    ctx = ars.StreamingContext("20ms")
    ctx.read.memory({"key": pl.Int64}).write.memory("a")
    with ctx:
        ctx.start()
        assert len(ctx.state()) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_only_whole_batches_are_seen(workers: int) -> None:
    """Asked again and again while batches run: each answer is the state between two of them."""
    ctx = ars.StreamingContext("5ms", workers=workers)
    rows = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    rows.group_by("key").agg(pl.len()).write.memory("a")
    after: set[int] = {0}
    ctx.listen(lambda report: after.add(ctx.progress.rows_in))
    seen: list[int] = []
    with ctx:
        ctx.start()

        def send() -> None:
            for start in range(0, 3000, 30):
                rows.source.send(numbers(start, start + 30))

        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive() or not seen or seen[-1] < 3000:
            seen.append(int(ctx.state("group_by key", timeout=30).pl()["rows"].sum()))
        sender.join()
        ctx.process_all_available()
    assert set(seen) <= after
    assert seen == sorted(seen)


def test_a_batch_under_way_is_waited_for(tmp_path: Path) -> None:
    """A slow function holds the batch: the answer is not half of it, and `timeout` gives up."""
    gate = Gate(tmp_path)
    ctx = ars.StreamingContext("10ms")
    rows = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    rows.map_batches(gate.holder()).group_by("key").agg(pl.len()).write.memory("a")
    with ctx:
        ctx.start()
        rows.source.send(numbers(0, 10))
        gate.wait_for_somebody()
        with pytest.raises(TimeoutError, match="a batch was still under way"):
            ctx.state(timeout=0.05)
        gate.open()
        assert ctx.state("group_by key", timeout=30).pl()["rows"].sum() == 10


def test_the_heir_of_a_lost_worker_shows_its_state() -> None:
    """A worker is killed between two batches; its state is shown by the one that has the copy."""
    ctx = ars.StreamingContext("10s", workers=2)
    rows = ctx.read.memory({"key": pl.Int64, "value": pl.Int64})
    rows.group_by("key").agg(pl.len()).write.memory("a")
    with ctx:
        ctx.start()
        rows.source.send(numbers(0, 100))
        ctx.process_all_available(timeout=60)
        cluster = ctx._cluster
        assert isinstance(cluster, LocalCluster)
        cluster._workers[WorkerId("worker-1")].process.kill()
        assert ctx.state("group_by key", timeout=60).pl()["rows"].sum() == 100
        rows.source.send(numbers(100, 200))
        ctx.process_all_available(timeout=60)
        assert ctx.state("group_by key", timeout=60).pl()["rows"].sum() == 200


def test_a_function_of_a_sink_cannot_wait_for_its_own_batch() -> None:
    """Asking from the engine's own thread would wait for ever; it is an error that says so."""
    ctx = ars.StreamingContext("10ms")
    rows = ctx.read.memory({"key": pl.Int64})
    rows.group_by("key").agg(pl.len()).write.memory("a")
    told: list[str] = []

    def ask(report: object) -> None:
        try:
            ctx.state()
        except ContextError as error:
            told.append(str(error))

    ctx.listen(ask)
    with ctx:
        ctx.start()
        rows.source.send(pl.DataFrame({"key": [1]}))
        ctx.process_all_available()
    assert "ask from another thread" in told[0]
