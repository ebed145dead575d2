"""When results come: the very batch in which they can no longer change, and not before."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import arrowstream as ars
from arrowstream.check import batch_by_batch, live_rows, run_pieces
from arrowstream.errors import PlanError
from arrowstream.frame import StreamFrame
from arrowstream.operators.changes import Changes
from arrowstream.plan.eventtime import BEGINNING
from arrowstream.schedule.batch import Batch
from arrowstream.schedule.logs import MemoryLog
from arrowstream.testing.clock import ManualClock

# Where windows of every length begin.
DAY = dt.datetime(1970, 1, 1)
SCHEMA: Any = {"t": pl.Datetime("us"), "k": pl.Int64}


def at(second: float) -> dt.datetime:
    return DAY + dt.timedelta(seconds=second)


def rows(*seconds: int, schema: Any = SCHEMA) -> pl.DataFrame:
    return pl.DataFrame({"t": [at(s) for s in seconds], "k": [s % 2 for s in seconds]}, schema=schema)


def given_after(frame: StreamFrame, batches: Sequence[Sequence[int]], *, partitions: int = 1) -> Iterator[list[float]]:
    """After each batch of rows of these seconds, the seconds in column `t` of all that the frame has given."""
    pieces = [{"s": rows(*seconds)} for seconds in batches]
    shown = [Changes.of(frame.schema.to_frame())]
    for changes in batch_by_batch(frame._node, pieces, partitions=partitions, end=False):
        shown += changes
        live = live_rows(shown, frame._node.kind)
        yield sorted((t - DAY).total_seconds() for t in live["t"].to_list())


def stream(delay: str = "0s", **options: Any) -> StreamFrame:
    return ars.StreamingContext().read.memory(SCHEMA, name="s").with_watermark("t", delay, **options)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(("small", "large"), [("5s", "10s"), ("1s", "1m"), ("1h", "1d"), ("15m", "1h")])
def test_windows_of_windows_close_with_the_last_in_them(small: str, large: str, partitions: int) -> None:
    """Hours in days: the day is over at midnight, not an hour later."""
    inner = stream().group_by_dynamic("t", every=small, group_by="k").len()
    outer = inner.group_by_dynamic("t", every=large).agg(pl.col("len").sum())
    length = {"10s": 10, "1m": 60, "1d": 86_400, "1h": 3600}[large]
    batches = [[1, length - 1], [length - 1], [length], [length + 1], [3 * length]]
    assert list(given_after(outer, batches, partitions=partitions)) == [[], [], [0], [0], [0, length]]


def test_three_levels_close_in_one_batch() -> None:
    """Seconds in minutes in hours: nothing adds up."""
    frame = stream("3s").group_by_dynamic("t", every="1s").len("n")
    for every in ("1m", "1h"):
        frame = frame.group_by_dynamic("t", every=every).agg(pl.col("n").sum())
    assert "held back" not in frame.explain()
    assert list(given_after(frame, [[5, 3599], [3600], [3602], [3603]])) == [[], [], [], [0]]


def test_days_in_weeks_and_months_of_a_zone() -> None:
    """The week with the hour that is left out ends on Monday at midnight in Paris."""
    zone = "Europe/Paris"
    schema: Any = {"t": pl.Datetime("us", zone), "k": pl.Int64}
    source = ars.StreamingContext().read.memory(schema, name="s").with_watermark("t", "0s")
    for every, last in (("1w", dt.datetime(2026, 3, 29, 23, 59)), ("1mo", dt.datetime(2026, 3, 31, 23, 59))):
        days = source.group_by_dynamic("t", every="1d").len()
        outer = days.group_by_dynamic("t", every=every).agg(pl.col("len").sum())
        times = pl.Series([last - dt.timedelta(days=3), last, last + dt.timedelta(minutes=1)]).dt.replace_time_zone(
            zone
        )
        pieces = [{"s": pl.DataFrame({"t": [time], "k": [1]}, schema=schema)} for time in times]
        heights = [
            sum(change.added.collect().height for change in changes)
            for changes in batch_by_batch(outer._node, pieces, end=False)
        ]
        assert heights == [0, 0, 1], every


def test_the_best_of_windows_and_windows_of_the_best_come_in_the_same_batch() -> None:
    """What goes over the windows of one time is there as they close, and so is what is made of it."""
    inner = stream().group_by_dynamic("t", every="5s", group_by="k").agg(n=pl.len())
    best = inner.top_k(1, by="n", group_by="t")
    share = inner.with_columns(pl.col("n") / pl.col("n").sum().over("t"))
    once = inner.unique(["t"])
    for frame in (best, share, once):
        outer = frame.group_by_dynamic("t", every="10s").agg(pl.len())
        assert list(given_after(outer, [[1, 2, 9], [10], [20]])) == [[], [0], [0, 10]]


def test_windows_of_two_streams_that_are_joined_close_together() -> None:
    """Orders and payments by minute, joined by minute, by hour."""
    ctx = ars.StreamingContext()
    sides = [ctx.read.memory(SCHEMA, name=name).with_watermark("t", "0s") for name in ("s", "o")]
    one, two = (
        side.group_by_dynamic("t", every="5s", group_by="k").len(name) for side, name in zip(sides, "ab", strict=True)
    )
    outer = one.join(two, on=["k", "t"]).group_by_dynamic("t", every="10s").agg(pl.col("a").sum())
    pieces = [{"s": rows(1), "o": rows(1)}, {"s": rows(10), "o": rows(9)}, {"s": rows(), "o": rows(10)}]
    heights = [
        sum(change.added.collect().height for change in changes)
        for changes in batch_by_batch(outer._node, pieces, end=False)
    ]
    assert heights == [0, 0, 1]


@given(
    seconds=st.lists(st.integers(0, 40), max_size=14),
    cut=st.integers(1, 4),
    shape=st.sampled_from([(5, 5), (2, 6), (10, 4)]),
    label=st.sampled_from(["left", "right"]),
    emit=st.sampled_from(["final", "update"]),
    lateness=st.sampled_from([None, "5s"]),
    partitions=st.sampled_from([1, 2]),
)
@settings(max_examples=80)
def test_what_is_made_of_windows_that_may_come_again_follows_them(
    seconds: list[int], cut: int, shape: Any, label: str, emit: str, lateness: str | None, partitions: int
) -> None:
    """A dashboard shows the share of each shop in the window, from the first row on and after corrections."""
    windows = stream("0s", allowed_lateness=lateness).group_by_dynamic(
        "t", every=f"{shape[0]}s", period=f"{shape[1]}s", label=label, emit=emit, group_by="k"
    ).len("n")  # fmt: skip
    shares = windows.with_columns(all=pl.col("n").sum().over("t"))
    best = windows.top_k(1, by=["n", "k"], group_by="t")
    data = rows(*seconds)
    pieces = [{"s": data[start : start + cut]} for start in range(0, max(data.height, 1), cut)]
    known = run_pieces(windows._node, pieces, partitions=partitions)
    found = run_pieces(shares._node, pieces, partitions=partitions)
    assert_frame_equal(found, known.with_columns(all=pl.col("n").sum().over("t")), check_row_order=False)
    found = run_pieces(best._node, pieces, partitions=partitions)
    wanted = known.sort("n", "k", descending=True).unique("t", keep="first", maintain_order=True)
    assert_frame_equal(found, wanted, check_row_order=False, check_column_order=False)


@given(
    left=st.lists(st.integers(0, 40), max_size=10),
    right=st.lists(st.integers(0, 40), max_size=10),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
    low=st.integers(-8, 8),
    span=st.integers(0, 8),
    how=st.sampled_from(["inner", "left", "anti", "semi"]),
    delay=st.sampled_from(["0s", "5s", "60s"]),
)
@settings(max_examples=100)
def test_windows_over_a_join_wait_for_the_last_pair_and_none_is_late(
    left: list[int], right: list[int], cuts: Any, low: int, span: int, how: Any, delay: str
) -> None:
    """Payments that come hours after or before their order, counted by the hour of the order."""
    ctx = ars.StreamingContext()
    schema = {"t": pl.Datetime("us"), "k": pl.Int64, "n": pl.Int64}
    one, two = (ctx.read.memory(schema, name=name).with_watermark("t", delay) for name in ("left", "right"))
    joined = one.join(two, on="k", how=how, within=(f"{low}s", f"{low + span}s"))
    windows = joined.group_by_dynamic("t", every="10s").agg(pl.len(), pl.col("n").sum())
    sides = [rows(*side).with_columns(n=pl.int_range(len(side), dtype=pl.Int64)) for side in (left, right)]
    pieces, at_ = [], [0, 0]
    for shares in [*sorted(cuts), (1.0, 1.0)]:
        to = [max(a, int(share * side.height)) for a, share, side in zip(at_, shares, sides, strict=True)]
        pieces.append({name: side[a:b] for name, side, a, b in zip(("left", "right"), sides, at_, to, strict=True)})
        at_ = to
    letters: list[pa.Table] = []
    found = run_pieces(windows._node, pieces, letters=letters)
    assert not any("Window" in name for table in letters for name in table["operator"].to_pylist())
    pairs = run_pieces(joined._node, pieces)
    wanted = pairs.group_by(pl.col("t").dt.truncate("10s")).agg(pl.len().cast(pl.Int64), pl.col("n").sum())
    assert_frame_equal(found, wanted, check_row_order=False)


lengths = st.integers(1, 12)


@given(
    inner=st.tuples(lengths, lengths),
    outer=st.tuples(lengths, lengths),
    offsets=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    closed=st.tuples(*[st.sampled_from(["left", "right", "both", "none"])] * 2),
    right=st.booleans(),
    seconds=st.lists(st.integers(0, 60), min_size=1, max_size=8),
)
@settings(max_examples=150)
def test_a_window_of_windows_waits_for_those_in_it_and_for_nothing_else(
    inner: Any, outer: Any, offsets: Any, closed: Any, right: bool, seconds: list[int]
) -> None:
    """Whatever the lengths: it is out as soon as every inner window that it could hold is closed."""
    small = stream().group_by_dynamic(
        "t", every=f"{inner[0]}s", period=f"{inner[1]}s", offset=f"{offsets[0]}s", closed=closed[0],
        label="right" if right else "left",
    ).len("n")  # fmt: skip
    large = small.group_by_dynamic(
        "t", every=f"{outer[0]}s", period=f"{outer[1]}s", offset=f"{offsets[1]}s", closed=closed[1]
    ).agg(pl.col("n").sum())

    def windows(of: Any, offset: int) -> list[tuple[int, int]]:
        starts = range(offset - 40 * of[0], offset + 100 * of[0], of[0])
        return [(start, start + of[1]) for start in starts if -30 < start < 100]

    def holds(window: tuple[int, int], time: int, ends: str) -> bool:
        low = time > window[0] or (time == window[0] and ends in ("left", "both"))
        high = time < window[1] or (time == window[1] and ends in ("right", "both"))
        return low and high

    def passed(window: tuple[int, int], watermark: int, ends: str) -> bool:
        return watermark > window[1] or (watermark == window[1] and ends not in ("right", "both"))

    batches = [[second] for second in itertools.accumulate(seconds, max)]
    known: list[int] = []
    for (second,), given_ in zip(batches, given_after(large, batches), strict=True):
        known.append(second)
        full = [one for one in windows(inner, offsets[0]) if any(holds(one, t, closed[0]) for t in known)]
        wanted = []
        for one in windows(outer, offsets[1]):
            inside = [each for each in windows(inner, offsets[0]) if holds(one, each[right], closed[1])]
            if any(each in full for each in inside) and all(passed(each, second, closed[0]) for each in inside):
                wanted.append(one[0])
        assert given_ == sorted(wanted)


@given(
    seconds=st.lists(st.integers(0, 50), max_size=12),
    lateness=st.sampled_from([None, "5s"]),
    cut=st.integers(1, 4),
)
@settings(max_examples=30)
def test_what_goes_over_a_time_waits_for_the_late_rows_that_are_allowed(
    seconds: list[int], lateness: str | None, cut: int
) -> None:
    """A late reading still counts in the total that all readings of its second share."""
    source = ars.StreamingContext().read.memory({**SCHEMA, "v": pl.Int64}, name="s")
    frame = source.with_watermark("t", "0s", allowed_lateness=lateness).with_columns(n=pl.len().over("t"))
    data = rows(*(second // 4 for second in seconds)).with_columns(v=pl.int_range(len(seconds), dtype=pl.Int64))
    pieces = [{"s": data[start : start + cut]} for start in range(0, max(data.height, 1), cut)]
    letters: list[pa.Table] = []
    found = run_pieces(frame._node, pieces, letters=letters)
    late = [json.loads(raw)["v"] for table in letters for raw in table["raw"].to_pylist()]
    kept = data.filter(~pl.col("v").is_in(late))
    wanted = kept.with_columns(n=pl.len().over("t")).cast(dict(frame.schema))  # type: ignore[arg-type]
    assert_frame_equal(found, wanted, check_row_order=False)


@given(
    seconds=st.lists(st.integers(0, 40), max_size=14),
    cut=st.integers(1, 4),
    shape=st.sampled_from([(5, 5), (2, 6), (3, 10), (4, 6), (10, 4), (1, 20), (1, 40)]),
    closed=st.sampled_from(["left", "right", "both", "none"]),
    delay=st.integers(0, 4),
    lateness=st.sampled_from([0, 6]),
    emit=st.sampled_from(["final", "update"]),
    agg=st.sampled_from([pl.col("v").sum(), pl.col("v").implode().list.sum()]),
    partitions=st.sampled_from([1, 2]),
)
@settings(max_examples=150)
def test_a_row_counts_in_each_window_that_is_open_when_it_comes(
    seconds: list[int],
    cut: int,
    shape: tuple[int, int],
    closed: Any,
    delay: int,
    lateness: int,
    emit: str,
    agg: pl.Expr,
    partitions: int,
) -> None:
    """A reading that comes late for the last ten minutes still counts in those that end in five."""
    every, period = shape
    source = ars.StreamingContext().read.memory({"t": pl.Datetime("us"), "v": pl.Int64}, name="s")
    timed = source.with_watermark("t", f"{delay}s", allowed_lateness=f"{lateness}s")
    frame = timed.group_by_dynamic("t", every=f"{every}s", period=f"{period}s", closed=closed, emit=emit).agg(agg)
    data = pl.DataFrame(
        {"t": [at(s) for s in seconds], "v": [1 << n for n in range(len(seconds))]}, schema=source.schema
    )
    pieces = [{"s": data[start : start + cut]} for start in range(0, max(data.height, 1), cut)]
    letters: list[pa.Table] = []
    found = run_pieces(frame._node, pieces, letters=letters, partitions=partitions)

    wanted: dict[float, int] = {}
    fates: dict[int, tuple[str, float, float]] = {}
    watermark = -1000
    for start in range(0, len(seconds), cut):
        for number, second in list(enumerate(seconds))[start : start + cut]:
            begins = range((second // every - period // every - 2) * every, second + every + 1, every)
            mine = [
                begin
                for begin in begins
                if (begin < second < begin + period)
                or (second == begin and closed in ("left", "both"))
                or (second == begin + period and closed in ("right", "both"))
            ]
            gone = [
                begin
                for begin in mine
                if (watermark > begin + period if closed in ("right", "both") else watermark >= begin + period)
            ]
            for begin in mine:
                if begin not in gone:
                    wanted[begin] = wanted.get(begin, 0) + (1 << number)
            if gone:
                fates[1 << number] = ("late" if gone == mine else "partly late", gone[0], gone[-1] + period)
        watermark = max([watermark, *(second - delay - lateness for second in seconds[start : start + cut])])
    assert sorted(((t - DAY).total_seconds(), v) for t, v in found.rows()) == sorted(wanted.items())
    told = {}
    for letter in (one for table in letters for one in table.to_pylist()):
        edges = [(letter[name].replace(tzinfo=None) - DAY).total_seconds() for name in ("window_start", "window_end")]
        told[json.loads(letter["raw"])["v"]] = (letter["reason"].split(":")[0], *edges)
    assert told == fates


def test_a_row_that_is_late_for_some_windows_is_told_and_counted_apart() -> None:
    """The books: rows in are the rows that count and the dead letters; what came partly late stands beside."""
    ctx = ars.StreamingContext(batch_interval="10ms")
    source = ctx.read.memory(SCHEMA, name="s")
    frame = source.with_watermark("t", "0s").group_by_dynamic("t", every="5s", period="10s").agg(pl.len())
    frame.write.memory("counts")
    with ctx:
        ctx.start()
        for second in (1, 10, 7, 4):
            source.source.send(rows(second))
            ctx.process_all_available()
        reports = [(report.rows_in, report.dead_letters, dict(report.fates)) for report in ctx.progress]
        assert reports == [(1, 0, {}), (1, 0, {}), (1, 0, {"partly late": 1}), (1, 1, {"late": 1})]
        assert ctx.progress.dead_letters == 1
        first, second_ = ctx.dead_letters.pl().to_dicts()
        assert first["reason"].startswith("partly late: some of its windows had closed; it counts in the others")
        assert (first["window_start"].replace(tzinfo=None), first["window_end"].replace(tzinfo=None)) == (at(0), at(10))
        assert (second_["window_start"].replace(tzinfo=None), second_["window_end"].replace(tzinfo=None)) == (
            at(-5),
            at(10),
        )
        source.source.end()
        ctx.await_termination(timeout=30)
        assert ctx.sql("SELECT t, len FROM counts ORDER BY t").fetchall() == [
            (at(-5), 1),
            (at(0), 1),
            (at(5), 2),
            (at(10), 1),
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_has_ended_closes_everything_although_the_run_is_stopped(workers: int) -> None:
    """A script sends its rows, ends the source and leaves the `with` block."""
    for _ in range(1 if workers else 10):
        ctx = ars.StreamingContext(batch_interval="20ms", workers=workers)
        source = ctx.read.memory(SCHEMA, name="s")
        source.with_watermark("t", "1s").group_by_dynamic("t", every="10s").agg(pl.len()).write.memory("counts")
        with ctx:
            ctx.start()
            source.source.send(rows(1, 12))
            source.source.end()
            ctx.stop()
            assert ctx.sql("SELECT t, len FROM counts ORDER BY t").fetchall() == [(at(0), 1), (at(10), 1)]


def test_a_source_that_goes_on_leaves_its_windows_open_when_the_run_is_stopped() -> None:
    """A stop is not the end of time: what would have come belongs to these windows, too."""
    ctx = ars.StreamingContext(batch_interval="20ms")
    one, two = (ctx.read.memory(SCHEMA, name=name) for name in ("one", "two"))
    for name, frame in (("alone", one), ("together", ars.concat([one, two]))):
        frame.with_watermark("t", "1s").group_by_dynamic("t", every="10s").agg(pl.len()).write.memory(name)
    with ctx:
        ctx.start()
        one.source.send(rows(1, 12))
        two.source.send(rows(2, 13, 31))
        one.source.end()  # the end of one is no end of the other
        ctx.stop()
        assert ctx.sql("SELECT t, len FROM alone ORDER BY t").fetchall() == [(at(0), 1), (at(10), 1)]
        assert ctx.sql("SELECT t, len FROM together ORDER BY t").fetchall() == [(at(0), 2), (at(10), 2)]


def test_who_waits_for_all_that_there_is_waits_for_the_end() -> None:
    """A test sends, ends, waits, and looks: the last windows are there."""
    for _ in range(10):
        ctx = ars.StreamingContext(batch_interval="10s")
        source = ctx.read.memory(SCHEMA, name="s")
        source.with_watermark("t", "1s").group_by_dynamic("t", every="10s").agg(pl.len()).write.memory("counts")
        with ctx:
            ctx.start()
            source.source.send(rows(1, 12))
            source.source.end()
            ctx.process_all_available(timeout=30)
            assert ctx.sql("SELECT t, len FROM counts ORDER BY t").fetchall() == [(at(0), 1), (at(10), 1)]


SENT: Any = {"t": pl.Datetime("us"), "k": pl.Int64}
IN_SILENCE: dict[str, tuple[Any, list[tuple[Any, ...]], int]] = {
    # What is made of seconds 1, 3, 3 and 6; what comes out in the end; and seconds of silence until it has.
    "window": (lambda at_: at_.group_by_dynamic("t", every="10s").len("n").select("n"), [(4,)], 4),
    "hops": (
        lambda at_: at_.group_by_dynamic("t", every="5s", period="10s").len("n").select("n"),
        [(3,), (4,), (1,)],
        9,
    ),
    "rows of a window": (
        lambda at_: at_.group_by_dynamic("t", every="10s").agg(n=pl.col("k").median()).select("n"),
        [(1.0,)],
        4,
    ),
    "windows of windows": (
        lambda at_: (
            at_.group_by_dynamic("t", every="5s").len("n").group_by_dynamic("t", every="20s").agg(pl.col("n").sum())
        ).select("n"),
        [(4,)],
        14,
    ),
    "session": (lambda at_: at_.group_by_session("t", gap="10s").agg(n=pl.len()).select("n"), [(4,)], 10),
    "rolling": (
        lambda at_: at_.rolling("t", period="3s").agg(n=pl.len()).select(pl.col("n").cast(pl.Int64)),
        [(1,), (3,), (3,), (1,)],
        1,
    ),
    "best of a time": (lambda at_: at_.top_k(1, by="k", group_by="t").select(n="k"), [(1,), (1,), (0,)], 1),
    "over a time": (
        lambda at_: at_.with_columns(n=pl.len().over("t").cast(pl.Int64)).select("n"),
        [(1,), (2,), (2,), (1,)],
        1,
    ),
    "lonely rows": (
        lambda at_: at_.join(at_.filter(pl.col("k") == 0), on="k", how="anti", within="5s").select(n="k"),
        [(1,), (1,), (1,)],
        3,
    ),
    "lonely rows that say how long": (
        lambda at_: at_.join_where(
            at_.filter(pl.col("k") == 0),
            pl.col("k") == pl.col("k_right"),
            pl.col("t_right") <= pl.col("t") + pl.duration(seconds=pl.col("k") * 4),
            how="anti",
        ).select(n="k"),
        [(1,), (1,), (1,)],
        2,
    ),
    "as of": (
        lambda at_: at_.join_asof(at_.select("t", n="k"), on="t", strategy="forward", tolerance="2s").select("n"),
        [(1,), (1,), (1,), (0,)],
        3,
    ),
}


@pytest.mark.parametrize("what", IN_SILENCE)
@pytest.mark.parametrize("then", ["advance", "hold"])
def test_what_is_open_closes_in_silence_where_time_goes_on(what: str, then: str) -> None:
    """The shop closes; the last visit of the day is to be in the report before the next morning."""
    build, wanted, seconds = IN_SILENCE[what]
    clock = ManualClock(1000.0)
    with ars.StreamingContext(batch_interval="1s", clock=clock) as ctx:
        source = ctx.read.memory(SENT, name="s")
        build(source.with_watermark("t", "0s", idle="30s", then=then)).write.memory("out")
        ctx.start()
        source.source.send(rows(1, 3, 3, 6))
        ctx.process_all_available(timeout=30)
        clock.advance("30s")
        ctx.process_all_available(timeout=30)
        before = ctx.progress.batches
        for _ in range(seconds):
            assert sorted(ctx.sql("FROM out").fetchall()) != sorted(wanted) or then == "hold"
            clock.advance("1s")
            ctx.process_all_available(timeout=30)
        if then == "hold":
            assert sorted(ctx.sql("FROM out").fetchall()) != sorted(wanted) or seconds == 0
            assert ctx.progress.batches == before
            return
        assert sorted(ctx.sql("FROM out").fetchall()) == sorted(wanted)
        quiet = ctx.progress.batches
        assert quiet - before <= 4  # no batch but for what closes
        clock.advance("1h")
        ctx.process_all_available(timeout=30)
        assert ctx.progress.batches == quiet


def test_rows_after_the_silence_are_late_where_time_has_gone_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender stood still for a minute, and now sends what it had; what the clock decided stands in the batches."""
    logged: list[Batch] = []
    monkeypatch.setattr(MemoryLog, "allotted", lambda self, batch: logged.append(batch))
    clock = ManualClock(1000.0)
    with ars.StreamingContext(batch_interval="1s", clock=clock) as ctx:
        source = ctx.read.memory(SENT, name="s")
        timed = source.with_watermark("t", "2s", idle="30s", then="advance", max_ahead="10000d")
        timed.group_by_dynamic("t", every="10s").len("n").write.memory("out")
        ctx.start()
        source.source.send(rows(1, 6))
        ctx.process_all_available(timeout=30)
        clock.advance("37s")  # the watermark was at 4 s, and is at 11 s
        ctx.process_all_available(timeout=30)
        assert ctx.sql("FROM out").fetchall() == [(at(0), 2)]
        assert [batch.standing.clock for batch in logged] == [[BEGINNING], [11_000_000]]
        assert not logged[1].blocks
        source.source.send(rows(7, 12, 13))
        ctx.process_all_available(timeout=30)
        assert ctx.progress.last is not None
        assert ctx.progress.last.fates == {"late": 1}
        assert ctx.progress.last.watermark == at(11).replace(tzinfo=dt.UTC)
        assert logged[2].standing.before == [11_000_000]
        source.source.end()
        ctx.await_termination(timeout=30)
        assert ctx.sql("FROM out ORDER BY t").fetchall() == [(at(0), 2), (at(10), 2)]


@pytest.mark.parametrize("workers", [0, 2])
def test_time_goes_on_by_the_clock_of_the_machine(workers: int) -> None:
    """Nobody waits for rows, a batch or a call: the session is there a moment after its gap."""
    over = threading.Event()
    with ars.StreamingContext(batch_interval="20ms", workers=workers) as ctx:
        source = ctx.read.memory(SCHEMA, name="s")
        timed = source.with_watermark("t", "0s", idle="50ms", then="advance")
        timed.group_by_session("t", gap="100ms", group_by="k").len("n").write.memory("visits")
        ctx.listen(lambda report: over.set() if report.rows_out["visits"] else None)
        ctx.start()
        source.source.send(rows(1))
        assert over.wait(30)
        assert ctx.sql("SELECT n FROM visits").fetchall() == [(1,)]
        assert ctx.progress.batches == 2


def test_what_makes_no_sense_of_silence_is_refused_with_the_cure() -> None:
    source = ars.StreamingContext().read.memory({"t": pl.Datetime("us"), "i": pl.Int64}, name="s")
    with pytest.raises(PlanError, match="'never' is not hold or advance"):
        source.with_watermark("t", "1s", idle="30s", then="never")
    with pytest.raises(PlanError, match="say how long it is: idle='30s'"):
        source.with_watermark("t", "1s", then="advance")
    with pytest.raises(PlanError, match=r"'i' is Int64, .*; make a time of it first, with_columns\(pl.from_epoch"):
        source.with_watermark("i", 1, idle="30s", then="advance")
    assert (
        "with the clock after 30s of silence" in source.with_watermark("t", "1s", idle="30s", then="advance").explain()
    )
