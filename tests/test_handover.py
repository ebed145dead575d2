"""History first, then live, without a gap and without an overlap."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from apart import source
from hypothesis import given
from hypothesis import strategies as st
from lineserver import LineServer

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.errors import ColumnError, PlanError
from arrowstream.ids import SourceId, UnitId
from arrowstream.plan.eventtime import BEGINNING
from arrowstream.plan.handover import floors
from arrowstream.plan.nodes import Output
from arrowstream.plan.unit import Unit, units
from arrowstream.schedule.turns import Turns
from arrowstream.sinks.memory import MemorySink

SCHEMA = pl.Schema({"k": pl.Int64(), "t": pl.Int64(), "v": pl.String()})
H, L = SourceId("s000"), SourceId("s001")


def rows(name: str, *times: int | None, k: int = 0) -> pl.DataFrame:
    return pl.DataFrame([(k, time, f"{name}{time}") for time in times], schema=SCHEMA, orient="row")


def memory(ctx: ars.StreamingContext, name: str) -> Any:
    return ctx.read.memory(SCHEMA, name=name)


def unit_of(frame: ars.StreamFrame) -> Unit:
    node = frame._node
    return units([Output(schema=node.schema, kind=node.kind, input=node, sink=MemorySink("out"))])[0]


def joined() -> ars.StreamFrame:
    """Two streams of which nothing but the plan matters."""
    ctx = ars.StreamingContext()
    return ars.concat_history(memory(ctx, "history"), memory(ctx, "live"), on="t", at=100)


times = st.lists(st.none() | st.integers(95, 105), max_size=10)


@given(times, times, st.integers(0, 10))
def test_each_side_gives_its_part(old: list[int | None], new: list[int | None], at: int) -> None:
    """Both have rows around the handover, as an archive and a topic do; rows without a time are not lost."""
    history, live = rows("h", *old), rows("l", *new)
    pieces = [{"history": history[:at], "live": live[:at]}, {"history": history[at:], "live": live[at:]}]
    found = run_pieces(joined()._node, pieces)
    expected = [f"h{t}" for t in old if t is None or t < 100] + [f"l{t}" for t in new if t is None or t >= 100]
    assert sorted(found["v"]) == sorted(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_live_rows_wait_for_the_history(tmp_path: Path, workers: int) -> None:
    """An archive of Parquet files, and a stream that goes on while it is read. The order of arrival is history, then
    live; windows of the history close in time, and no row is late."""
    rows("h", *range(110)).write_parquet(tmp_path / "a.parquet")
    rows("h", *range(50, 110), k=1).write_parquet(tmp_path / "b.parquet")
    ctx = ars.StreamingContext("10ms", workers=workers)
    live = memory(ctx, "live")
    live.source.send(rows("l", *range(90, 130)))
    both = ars.concat_history(ctx.read.parquet(tmp_path), live, on="t", at=100).with_watermark("t", 60)
    both.group_by("k").agg(pl.col("v").first().alias("first"), pl.col("v").last().alias("last")).write.memory("edges")
    both.group_by_dynamic("t", every="10i").agg(pl.len()).write.memory("windows")
    with ctx:
        ctx.start()
        ctx.process_all_available(timeout=60)
        assert ctx.sql("FROM edges ORDER BY k").fetchall() == [(0, "h0", "l129"), (1, "h50", "h99")]
        # All windows of the history are closed, though the live stream's own times are not that far.
        assert dict(ctx.sql("FROM windows").fetchall()) == {t: 10 if t < 50 else 20 for t in range(0, 100, 10)}
        live.source.send(rows("l", 200))
        ctx.process_all_available(timeout=60)
        assert dict(ctx.sql("FROM windows").fetchall())[120] == 10
        assert len(ctx.sql("FROM windows").fetchall()) == 13
        assert len(ctx.dead_letters) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_socket_brings_meanwhile_is_kept(workers: int) -> None:
    """A live source that cannot be read again is heard from the start, and its rows wait, also where they take more
    room than there is."""
    with LineServer() as server:
        ctx = ars.StreamingContext("10ms", "10ms", workers=workers, memory="100KB")
        archive = ctx.read.memory({"line": pl.String}, max_rows_per_batch=50)
        number = pl.col("line").str.split(" ").list.first().cast(pl.Int64).alias("t")
        topic = ctx.read.socket(server.address, ack=True)
        out = ars.concat_history(archive.select(number), topic.select(number), on="t", at=1000)
        out.write.memory("out")
        out.agg(pl.col("t").last()).write.memory("last")
        archive.source.send(pl.DataFrame({"line": [f"{t} {'y' * 1000}" for t in range(1200)]}))
        server.send(*(f"{t} {'x' * 1000}" for t in range(900, 2000)))
        with ctx:
            ctx.start()
            server.wait_acknowledged()
            ctx.process_all_available(timeout=60)
            assert ctx.sql("SELECT count(DISTINCT t), count(*) FROM out").fetchone() == (2000, 2000)
            assert ctx.sql("FROM last").fetchone() == (1999,)


def test_a_history_that_does_not_end_can_be_stopped() -> None:
    """Somebody gave a socket for history: stop() lets what has arrived through, and does not hang."""
    with LineServer() as archive:
        ctx = ars.StreamingContext("10ms", "10ms")
        number = pl.col("line").cast(pl.Int64).alias("t")
        live = ctx.read.memory({"t": pl.Int64}, name="live")
        ars.concat_history(ctx.read.socket(archive.address).select(number), live, on="t", at=10).write.memory("out")
        ctx.start()
        archive.send("1", "2", "30")
        live.source.send(pl.DataFrame({"t": [3, 11]}))
        ctx.stop(timeout=30)
        assert {t for (t,) in ctx.sql("FROM out").fetchall()} <= {1, 2, 11}


def test_a_run_of_bounded_sources_takes_both() -> None:
    ctx = ars.StreamingContext("10ms")
    history, live = memory(ctx, "history"), memory(ctx, "live")
    history.source.send(rows("h", 1, 2, 150))
    live.source.send(rows("l", 2, 150))
    ars.concat_history(history, live, on="t", at=100).write.memory("out")
    ctx.run(timeout=60)
    assert ctx.sql("SELECT v FROM out ORDER BY v").fetchall() == [("h1",), ("h2",), ("l150",)]


def test_turns() -> None:
    """Live blocks wait while a split of the history is read or has blocks; a unit that stops has no turns."""
    turns = Turns(unit_of(joined()))
    turns.expect([(H, "a"), (H, "b"), (L, "x")])
    assert turns.first == {H}
    assert turns.waiting() == {L}
    assert turns.held([(L, "x"), (H, "a")]) == {(L, "x")}
    turns.end(H, "a")
    turns.end(L, "x")
    assert turns.held([(L, "x")]) == {(L, "x")}
    turns.end(H, "b")
    assert turns.held([(L, "x"), (H, "b")]) == {(L, "x")}
    assert turns.held([(L, "x")]) == set()
    stopped = Turns(unit_of(joined()))
    stopped.expect([(H, "a"), (L, "x")])
    stopped.release()
    assert stopped.held([(L, "x")]) == set()


def test_the_watermark_of_live_rows_begins_at_the_handover() -> None:
    """Else nothing of the history would close before the first live row; but only where it is sure."""
    at = {L: 100}
    both = joined()
    assert floors(unit_of(both.with_watermark("t", 5))) == [at]
    assert floors(unit_of(both.filter(pl.col("k") > 0).rename({"t": "u"}).with_watermark("u", 5))) == [at]
    assert floors(unit_of(both.with_columns(pl.col("t") - 50).with_watermark("t", 5))) == [{}]
    assert floors(unit_of(both.with_columns(u=pl.col("t") * 2).with_watermark("u", 5))) == [{}]
    assert floors(unit_of(ars.concat([both, both]).with_watermark("t", 5))) == [{}]
    from arrowstream.schedule.watermarks import SplitTime, Standing, WatermarkTracker

    tracker = WatermarkTracker(unit_of(both.with_watermark("t", 5)))
    tracker.expect([(H, "a"), (L, "x")])
    assert tracker.after(Standing(), []) == [BEGINNING]
    assert tracker.after(Standing(), [SplitTime(0, H, "a", 50)]) == [45]
    assert tracker.after(Standing(), [SplitTime(0, H, "a", 150)]) == [100]
    assert tracker.after(Standing(ended=[(H, "a")]), []) == [100]
    assert tracker.after(Standing(ended=[(H, "a")]), [SplitTime(0, L, "x", 103)]) == [100]
    assert tracker.after(Standing(ended=[(H, "a")]), [SplitTime(0, L, "x", 120)]) == [115]


@pytest.mark.parametrize(
    ("dtype", "at"),
    [
        (pl.Datetime("us"), "2026-11-26 12:00"),
        (pl.Datetime("ms"), dt.datetime(2026, 11, 26, 12)),
        (pl.Datetime("us", "Europe/Oslo"), dt.datetime(2026, 11, 26, 11, tzinfo=dt.UTC)),
        (pl.Datetime("us", "Europe/Oslo"), "2026-11-26 12:00"),
        (pl.Date(), "2026-11-26"),
        (pl.Date(), dt.date(2026, 11, 26)),
        (pl.UInt32(), 7),
    ],
)
def test_at_is_a_value_of_the_column(dtype: pl.DataType, at: Any) -> None:
    ctx = ars.StreamingContext()
    history, live = (ctx.read.memory({"t": dtype}, name=name) for name in ("h", "l"))
    frame = ars.concat_history(history, live, on="t", at=at)
    exact = pl.Series("t", [7 if dtype == pl.UInt32 else dt.datetime(2026, 11, 26, 12 if dtype != pl.Date else 0)])
    exact = exact.dt.replace_time_zone(dtype.time_zone) if isinstance(dtype, pl.Datetime) and dtype.time_zone else exact
    row = exact.cast(dtype).to_frame()
    assert run_pieces(frame._node, [{"h": row, "l": row.clear()}]).height == 0
    assert run_pieces(frame._node, [{"h": row.clear(), "l": row}]).equals(row)


def test_what_cannot_be_is_said() -> None:
    ctx = ars.StreamingContext()
    history, live = memory(ctx, "history"), memory(ctx, "live")
    timed = ctx.read.memory({"t": pl.Datetime("us", "UTC")}, name="timed")
    other = ctx.read.memory({"t": pl.Datetime("us", "UTC")}, name="other")
    with pytest.raises(ColumnError, match="column 'tt' is not in"):
        ars.concat_history(history, live, on="tt", at=1)
    with pytest.raises(ColumnError, match="'v' is String"):
        ars.concat_history(history, live, on="v", at="a")
    with pytest.raises(PlanError, match="call with_watermark on what concat_history gives"):
        ars.concat_history(history.with_watermark("t", 1), live, on="t", at=1)
    with pytest.raises(PlanError, match="takes streams that only grow"):
        ars.concat_history(history.group_by("t").agg(pl.len()), live.group_by("t").agg(pl.len()), on="t", at=1)
    with pytest.raises(PlanError, match="read the same source"):
        ars.concat_history(history, history, on="t", at=1)
    with pytest.raises(PlanError, match="never ends"):
        ars.concat_history(source("rows", SCHEMA), live, on="t", at=1)
    with pytest.raises(PlanError, match="is no value of a column of Int64"):
        ars.concat_history(history, live, on="t", at="soon")
    with pytest.raises(PlanError, match="both must have a time zone, or none"):
        ars.concat_history(timed, other, on="t", at=dt.datetime(2026, 1, 1))
    assert UnitId("u0") == unit_of(joined()).id
