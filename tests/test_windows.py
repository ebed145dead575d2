"""Windows: a function of the row's time alone, closed by the watermark, however the stream is cut."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from wallreading import Reading, ZonedReading

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.connectors.changes import Append, Upsert
from arrowstream.frame import StreamFrame
from arrowstream.plan.wallclock import changes

DAY = dt.datetime(2026, 1, 1)
SCHEMA: Any = {"t": pl.Datetime("us"), "k": pl.Int64, "v": pl.Int64}


def at(second: float) -> dt.datetime:
    return DAY + dt.timedelta(seconds=second)


def frame(rows: list[tuple[int, int | None]]) -> pl.DataFrame:
    """Rows of (second, key); `v` is the number of the row."""
    return pl.DataFrame([(at(s), k, n) for n, (s, k) in enumerate(rows)], schema=SCHEMA, orient="row")


def stream(delay: str = "0s", **options: Any) -> StreamFrame:
    return ars.StreamingContext().read.memory(SCHEMA, name="s").with_watermark("t", delay, **options)


def cut(rows: pl.DataFrame, cuts: list[float]) -> list[dict[str, pl.DataFrame]]:
    edges = [0, *sorted(int(c * rows.height) for c in cuts), rows.height]
    return [{"s": rows[a:b]} for a, b in itertools.pairwise(edges)]


def in_time(rows: pl.DataFrame, letters: list[pa.Table]) -> pl.DataFrame:
    """The rows that were not late; `v` names a row."""
    raw = [value.decode() for table in letters for value in table["raw"].to_pylist()]
    late = [pl.Series([one]).str.json_decode(pl.Struct({"v": pl.Int64})).struct.field("v")[0] for one in raw]
    return rows.filter(~pl.col("v").is_in(late))


def too_late(letters: list[pa.Table]) -> dict[int, tuple[dt.datetime, dt.datetime]]:
    """For which windows rows came too late, by `v`: from the start of the first to the end of the last."""
    found = {}
    for table in letters:
        for letter in table.to_pylist():
            edges = [letter[name].replace(tzinfo=None) for name in ("window_start", "window_end")]
            found[json.loads(letter["raw"])["v"]] = (edges[0], edges[1])
    return found


def exploded(
    rows: pl.DataFrame,
    letters: list[pa.Table],
    every: int,
    period: int,
    offset: int,
    closed: str,
    aggs: list[pl.Expr],
    *,
    right: bool,
) -> pl.DataFrame:
    """The windows in one shot: each row in every window that contains it, and that it did not come too late for."""
    late = too_late(letters)
    low: dict[str, Callable[[float, float], bool]] = {
        "left": lambda t, s: s <= t < s + period,
        "right": lambda t, s: s < t <= s + period,
        "both": lambda t, s: s <= t <= s + period,
        "none": lambda t, s: s < t < s + period,
    }
    made = []
    for t, k, v in rows.iter_rows():
        second = (t - DAY).total_seconds()
        first = math.floor((second - period - offset) / every)
        for number in range(first, first + period // every + 4):
            start = number * every + offset
            first_gone, last_gone = late.get(v, (at(9999), at(-9999)))
            gone = first_gone <= at(start) and at(start + period) <= last_gone
            if low[closed](second, start) and not gone:
                made.append((k, at(start + (period if right else 0)), v))
    found = pl.DataFrame(made, schema={"k": pl.Int64, "t": pl.Datetime("us"), "v": pl.Int64}, orient="row")
    return found.group_by("k", "t").agg(aggs)


rows_of = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([None, 1, 2])), max_size=20)
cuts_of = st.lists(st.floats(0, 1), max_size=5)
AGGS = [pl.col("v").sum().alias("sum"), pl.len().cast(pl.Int64).alias("n"), pl.col("v").max().alias("max")]
DISTINCT = [(pl.col("v") % 3).n_unique().cast(pl.Int64).alias("kinds"), pl.len().cast(pl.Int64).alias("n")]
WHOLE = [pl.col("v").median().alias("mid"), pl.col("v").sort().last().alias("top")]
# What goes by the order of arrival, which is not that of time.
ORDERED = [pl.col("v").first().alias("first"), pl.col("v").last().alias("last"), pl.col("v").implode().alias("all")]


@given(
    rows=rows_of,
    cuts=cuts_of,
    shape=st.sampled_from([(10, 10), (5, 10), (4, 6), (3, 9), (10, 4), (1, 17), (2, 40)]),
    offset=st.sampled_from([0, 3]),
    closed=st.sampled_from(["left", "right", "both", "none"]),
    label=st.sampled_from(["left", "right"]),
    delay=st.sampled_from(["0s", "4s", "60s"]),
    emit=st.sampled_from(["final", "update"]),
    aggs=st.sampled_from([AGGS, DISTINCT, WHOLE, ORDERED]),
)
@example(
    rows=[(1, None)], cuts=[1.0], shape=(10, 10), offset=0, closed="none", label="left", delay="0s", emit="final",
    aggs=AGGS,
)  # fmt: skip
@settings(max_examples=120)
def test_windows_are_those_of_the_rows_in_time(
    rows: Any, cuts: Any, shape: Any, offset: int, closed: str, label: str, delay: str, emit: str, aggs: Any
) -> None:
    every, period = shape
    windows = stream(delay).group_by_dynamic(
        "t", every=f"{every}s", period=f"{period}s", offset=f"{offset}s", closed=closed, label=label, group_by="k",
        emit=emit,
    ).agg(aggs)  # fmt: skip
    assert isinstance(windows.kind, Append if emit == "final" else Upsert)
    data = frame(rows)
    letters: list[pa.Table] = []
    found = run_pieces(windows._node, cut(data, cuts), letters=letters)
    wanted = exploded(data, letters, every, period, offset, closed, aggs, right=label == "right")
    assert found.schema == windows.schema
    wanted = wanted.cast(dict(windows.schema))  # type: ignore[arg-type]
    assert_frame_equal(found, wanted, check_row_order=False)
    assert_frame_equal(windows.collect(in_time(data, letters)), wanted, check_row_order=False)


@given(
    rows=rows_of,
    cuts=cuts_of,
    aggs=st.sampled_from([AGGS, DISTINCT, WHOLE, ORDERED]),
    shape=st.sampled_from([(5, 5), (2, 6), (1, 20)]),
)
@settings(max_examples=60)
def test_late_rows_correct_windows_as_long_as_it_is_allowed(
    rows: Any, cuts: Any, aggs: Any, shape: tuple[int, int]
) -> None:
    frame_ = stream("0s", allowed_lateness="10s")
    every, period = shape
    windows = frame_.group_by_dynamic("t", every=f"{every}s", period=f"{period}s", group_by="k").agg(aggs)
    assert isinstance(windows.kind, Upsert)
    data = frame(rows)
    letters: list[pa.Table] = []
    found = run_pieces(windows._node, cut(data, cuts), letters=letters)
    wanted = exploded(data, letters, every, period, 0, "left", aggs, right=False)
    assert_frame_equal(found, wanted.cast(dict(windows.schema)), check_row_order=False)  # type: ignore[arg-type]


@given(rows=rows_of, cuts=cuts_of)
@settings(max_examples=40)
def test_windows_of_windows_close_in_the_same_batch(rows: Any, cuts: Any) -> None:
    # `v`, which names a row in the dead letters, must be among the columns that are read.
    small = stream("2s").group_by_dynamic("t", every="5s", group_by="k").agg(n=pl.col("v").count().cast(pl.Int64))
    large = small.group_by_dynamic("t", every="20s").agg(pl.col("n").sum(), most=pl.col("n").max())
    data = frame(rows)
    letters: list[pa.Table] = []
    found = run_pieces(large._node, cut(data, cuts), letters=letters)
    lazy = in_time(data, letters).sort("t").lazy()
    wanted = (
        lazy.group_by(pl.col("t").dt.truncate("5s"), "k")
        .agg(n=pl.len().cast(pl.Int64))
        .group_by(pl.col("t").dt.truncate("20s"))
        .agg(pl.col("n").sum(), most=pl.col("n").max())
        .collect()
    )
    assert_frame_equal(found, wanted, check_row_order=False)
    assert_frame_equal(large.collect(in_time(data, letters)), wanted, check_row_order=False)


@given(rows=rows_of, cuts=cuts_of, shape=st.sampled_from([(5, 15), (1, 20)]))
@settings(max_examples=40)
def test_cumulating_windows_grow_step_by_step(rows: Any, cuts: Any, shape: tuple[int, int]) -> None:
    step, every = shape
    windows = stream("3s").group_by_cumulate("t", step=f"{step}s", every=f"{every}s").agg(pl.col("v").sum())
    data = frame(rows)
    letters: list[pa.Table] = []
    found = run_pieces(windows._node, cut(data, cuts), letters=letters)
    made: dict[tuple[int, int], int] = {}
    late = too_late(letters)
    for t, _, v in data.iter_rows():
        second = int((t - DAY).total_seconds())
        base = second // every * every
        for end in range(base + step, base + every + 1, step):
            if second < end and not (v in late and at(end) <= late[v][1]):
                made[base, end] = made.get((base, end), 0) + v
    assert sorted(found.select("_lower_boundary", "_upper_boundary", "v").rows()) == sorted(
        (at(base), at(end), total) for (base, end), total in made.items()
    )
    assert_frame_equal(windows.collect(in_time(data, letters)), found, check_row_order=False)


@pytest.mark.parametrize("every", ["1d", "1w", "1mo", "1q", "1y"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "Asia/Tokyo"])
def test_calendar_windows_are_those_of_polars_also_across_summer_time(every: str, zone: str | None) -> None:
    begin = dt.datetime(2025, 3, 28, 20)
    times = pl.datetime_range(begin, begin + dt.timedelta(days=240), "5h", time_zone="UTC", eager=True)
    column = times.dt.convert_time_zone(zone) if zone else times.dt.replace_time_zone(None)
    data = pl.DataFrame({"t": column, "v": pl.int_range(times.len(), eager=True)})
    source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "1h")
    windows = source.group_by_dynamic("t", every=every, include_boundaries=True).agg(pl.col("v").sum(), n=pl.len())
    wanted = data.group_by_dynamic("t", every=every, include_boundaries=True).agg(
        pl.col("v").sum(), n=pl.len().cast(pl.Int64)
    )
    for count in (1, 7):
        size = -(-data.height // count)
        pieces = [{"s": data[number : number + size]} for number in range(0, data.height, size)]
        letters: list[pa.Table] = []
        assert_frame_equal(run_pieces(windows._node, pieces, letters=letters).sort("t"), wanted)
        assert not letters


@given(
    seed=st.integers(0, 2**16),
    cuts=cuts_of,
    delay=st.sampled_from(["0s", "4s"]),
    keyed=st.booleans(),
    aggs=st.sampled_from([AGGS, WHOLE, ORDERED]),
)
@settings(max_examples=15)
def test_a_window_may_be_hundreds_of_steps_long(seed: int, cuts: Any, delay: str, keyed: bool, aggs: Any) -> None:
    """10 minutes every second: what a window is made of is merged by and by, and none is left out."""
    chance = random.Random(seed)
    seconds = sorted(chance.sample(range(4000), 40), key=lambda s: s + chance.random() * 8)
    data = frame([(s, chance.choice([None, 1, 2]) if keyed else 1) for s in seconds])
    windows = stream(delay).group_by_dynamic("t", every="1s", period="600s", group_by="k").agg(aggs)
    letters: list[pa.Table] = []
    found = run_pieces(windows._node, cut(data, cuts), letters=letters)
    wanted = exploded(data, letters, 1, 600, 0, "left", aggs, right=False)
    assert_frame_equal(found, wanted.cast(dict(windows.schema)), check_row_order=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(("every", "period"), [("1d", "3d"), ("1d", "36h"), ("6h", "1d"), ("1h", "12h"), ("1mo", "1q")])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("aggs", [AGGS, WHOLE, ORDERED])
def test_windows_that_overlap_keep_to_the_calendar(every: str, period: str, zone: str, aggs: list[pl.Expr]) -> None:
    for begin in (dt.datetime(2025, 3, 5, 1), dt.datetime(2025, 10, 22, 1)):
        times = pl.datetime_range(begin, begin + dt.timedelta(days=30), "97m", time_zone="UTC", eager=True)
        column = times.dt.convert_time_zone(zone)
        data = pl.DataFrame({"t": column, "v": pl.int_range(times.len(), eager=True)})
        source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "1h")
        windows = source.group_by_dynamic("t", every=every, period=period).agg(aggs)
        letters: list[pa.Table] = []
        found = run_pieces(windows._node, [{"s": data[:200]}, {"s": data[200:210]}, {"s": data[210:]}], letters=letters)
        assert not letters
        around = dt.timedelta(days=130)
        clock = pl.datetime_range(begin - around, begin + around, "15m", time_zone="UTC", eager=True)
        starts = pl.DataFrame({"s": clock.dt.convert_time_zone(zone).dt.truncate(every).unique()[1:]})
        # By the clock on the wall: half a day after midnight is noon.
        wall = pl.col("s").dt.replace_time_zone(None).dt.offset_by(period).dt.replace_time_zone(zone)
        edges = starts.with_columns(e=wall if period == "36h" else pl.col("s").dt.offset_by(period))
        pairs = data.join_where(edges, pl.col("t") >= pl.col("s"), pl.col("t") < pl.col("e"))
        wanted = pairs.group_by(pl.col("s").alias("t_")).agg(aggs).rename({"t_": "t"})
        assert_frame_equal(found, wanted.cast(dict(windows.schema)), check_row_order=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "unit", "lengths"),
    [
        (pl.Datetime("us"), 1000, "4us 5us 400us 500us 4ms 5ms 40ms 50ms 125ms 200ms 500ms 1s"),
        (pl.Datetime("ns"), 1, "1ns 3ns 700ns 1us 1500ns 200ms 500ms"),
        (pl.Datetime("ms", "UTC"), 10**6, "8ms 10ms 200ms 500ms 2500ms 1m"),
        (pl.Datetime("us", "Etc/UTC"), 1000, "200ms 500ms 15m 1h 2h 1d 36h 1w 1mo"),
        (pl.Date(), 86_400 * 10**9, "1d 2d 3d 1w 1mo 1q"),
        (pl.Int64(), 0, "1i 2i 3i 10i 25i"),
        (pl.UInt32(), 0, "1i 3i 10i"),
    ],
)
def test_all_pairs_of_lengths_give_their_windows_however_the_stream_is_cut(
    dtype: pl.DataType, unit: int, lengths: str
) -> None:
    """200 ms of 500: neither divides the other. Rows before 1970 too; counted row by row."""
    chance = random.Random(4)
    none = "0d" if unit else "0i"
    for place, (every, period) in enumerate(itertools.product(lengths.split(), lengths.split())):
        offset, closed = (none, f"-{every}")[place % 2], ["left", "right", "both", "none"][place % 4]
        if dtype.is_unsigned_integer():
            period, offset = every, none  # the others are refused: a window would begin below 0
        reading = Reading.of(every, period, offset, closed, unit)
        if not reading.few(30):
            continue
        begin = reading.begin(2 if dtype.is_unsigned_integer() else -2)
        reach = 3 * max(reading.end(0) - reading.begin(0), reading.begin(1) - reading.begin(0))
        times = pl.Series("t", sorted(chance.randint(begin, begin + reach) for _ in range(25)), pl.Int64)
        data = pl.DataFrame({"t": (times.cast(pl.Int32) if dtype == pl.Date() else times).cast(dtype), "v": 1})
        wanted = Counter(window for time in times for window in reading.holding(time))
        source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "0s" if unit else 0)
        options: Any = {"every": every, "period": period, "offset": offset, "closed": closed}
        windows = source.group_by_dynamic("t", include_boundaries=True, **options).agg(n=pl.len())
        edges = pl.col("_lower_boundary", "_upper_boundary").to_physical().cast(pl.Int64)
        for size in (25, 4):
            pieces = [{"s": data[number : number + size]} for number in range(0, 25, size)]
            found = run_pieces(windows._node, pieces).select(edges, "n")
            assert {(low, up): n for low, up, n in found.rows()} == wanted, options
            assert found.height == len(wanted), options


@pytest.mark.parametrize(
    ("zone", "begin", "seen"),
    [
        ("Atlantic/Azores", "2026-10-24 12:00", 25),
        ("America/Havana", "2026-10-31 16:00", 25),
        ("Europe/Paris", "2026-03-28 12:00", 23),
        ("Australia/Lord_Howe", "2026-04-04 00:00", 24.5),
        ("America/St_Johns", "2006-10-28 12:00", 25),  # from 00:01 back to 23:01 of the day before
        ("Pacific/Apia", "2011-12-29 04:00", 24),  # without the 30th of December
    ],
)
@pytest.mark.parametrize("update", [False, True])
def test_where_clocks_are_changed_each_row_is_in_the_one_window_that_the_wall_shows(
    zone: str, begin: str, seen: float, update: bool
) -> None:
    """Days with two midnights or with none, hours that come twice: against Python's zones, a row at a time."""
    start = dt.datetime.fromisoformat(begin).replace(tzinfo=dt.UTC)
    times = pl.datetime_range(start, start + dt.timedelta(days=4), "10m", time_zone="UTC", eager=True)
    data = pl.DataFrame({"t": times.dt.convert_time_zone(zone), "v": pl.int_range(times.len(), eager=True)})
    instants = [int(each.timestamp()) for each in times]
    moved = [int(each) for each in changes(zone)[0] if instants[0] < each < instants[-1]]
    assert len(moved) == 1
    source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "1h")
    for every, offset in (
        ("1d", "0s"),
        ("1d", "6h"),
        ("1h", "0s"),
        ("2h", "0s"),
        ("6h", "-1h"),
        ("30m", "0s"),
        ("1w", "0s"),
    ):
        options: Any = {"every": every, "offset": offset, "include_boundaries": True}
        options["emit"] = "update" if update else "final"
        windows = source.group_by_dynamic("t", **options).agg(n=pl.len(), v=pl.col("v").sum(), mid=pl.col("v").median())
        reading = ZonedReading.of(ZoneInfo(zone), every, offset)
        of_rows = pl.Series([reading.window(instant, moved[0]) for instant in instants], dtype=pl.List(pl.Int64))
        wanted = (
            data.group_by(of_rows.alias("w"))
            .agg(n=pl.len().cast(pl.Int64), v=pl.col("v").sum(), mid=pl.col("v").median())
            .select(pl.col("w").list.get(0).alias("a"), pl.col("w").list.get(1).alias("b"), "n", "v", "mid")
        )
        edges = [
            (pl.col(f"_{name}_boundary").to_physical() // 1_000_000).alias(short)
            for name, short in (("lower", "a"), ("upper", "b"))
        ]
        for size in (data.height, 50):
            pieces = [{"s": data[number : number + size]} for number in range(0, data.height, size)]
            letters: list[pa.Table] = []
            found = run_pieces(windows._node, pieces, letters=letters).select(*edges, "n", "v", "mid")
            assert not letters
            assert_frame_equal(found, wanted, check_row_order=False)
        if (every, offset) == ("1d", "0s"):
            whole = wanted.filter(pl.col("a") <= moved[0], pl.col("b") > moved[0])
            assert whole["n"].to_list() == [seen * 6]


def test_hopping_and_growing_windows_go_over_a_change_of_the_clock_by_the_wall() -> None:
    zone = "Europe/Paris"
    begin = dt.datetime(2026, 3, 28, 12, tzinfo=dt.UTC)
    times = pl.datetime_range(begin, begin + dt.timedelta(days=3), "20m", time_zone="UTC", eager=True)
    data = pl.DataFrame({"t": times.dt.convert_time_zone(zone), "v": 1})
    source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "1h")
    pieces = [{"s": data[number : number + 30]} for number in range(0, data.height, 30)]

    def shown(frame: pl.DataFrame) -> dict[tuple[str, str], int]:
        low, up = (frame[f"_{name}_boundary"].dt.to_string("%d %H:%M").to_list() for name in ("lower", "upper"))
        return dict(zip(zip(low, up, strict=True), frame["v"].to_list(), strict=True))

    hops = source.group_by_dynamic("t", every="6h", period="1d", include_boundaries=True).agg(pl.col("v").sum())
    found = shown(run_pieces(hops._node, pieces))
    assert found["28 18:00", "29 18:00"] == 23 * 3
    assert found["29 06:00", "30 06:00"] == 24 * 3
    assert {low[3:] for low, _ in found} == {up[3:] for _, up in found} == {"00:00", "06:00", "12:00", "18:00"}

    growing = source.group_by_cumulate("t", step="1h", every="1d").agg(pl.col("v").sum())
    rows = run_pieces(growing._node, pieces)
    found = shown(rows)
    assert found["29 00:00", "29 01:00"] == 3
    assert ("29 00:00", "29 02:00") not in found  # this is the instant at which the clock shows 03:00
    assert found["29 00:00", "29 03:00"] == 6
    assert found["29 00:00", "30 00:00"] == 23 * 3
    assert rows.select("_lower_boundary", "_upper_boundary").is_unique().all()

    months = source.group_by_cumulate("t", step="1mo", every="1q").agg(pl.col("v").sum())
    assert shown(run_pieces(months._node, pieces))["01 00:00", "01 00:00"] == data.height


def test_hours_begin_where_the_clock_on_the_wall_says_so() -> None:
    """Polars counts on from the first window and is an hour off after the change; these are `dt.truncate`."""
    times = pl.datetime_range(dt.datetime(2025, 3, 29), dt.datetime(2025, 4, 1), "1h", time_zone="UTC", eager=True)
    data = pl.DataFrame({"t": times.dt.convert_time_zone("Europe/Berlin")})
    source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "1h")
    found = run_pieces(source.group_by_dynamic("t", every="6h").len()._node, [{"s": data[:30]}, {"s": data[30:]}])
    wanted = data.group_by(pl.col("t").dt.truncate("6h")).agg(pl.len().cast(pl.Int64))
    assert_frame_equal(found, wanted, check_row_order=False)
    assert set(found["t"].dt.hour()) == {0, 6, 12, 18}


@dataclass(frozen=True)
class Session:
    """The numbers of a session's rows, which count up as rows arrive."""

    numbers: list[int]

    @property
    def total(self) -> int:
        return sum(self.numbers)

    @property
    def kinds(self) -> int:
        return len({number % 2 for number in self.numbers})

    @property
    def first(self) -> int:
        return min(self.numbers)

    @property
    def last(self) -> int:
        return max(self.numbers)

    @property
    def all(self) -> list[int]:
        return sorted(self.numbers)


def one_by_one(rows: pl.DataFrame, gap: int) -> list[tuple[int | None, dt.datetime, dt.datetime, Session]]:
    """The sessions of rows in one shot: key, start, end, and what is in them."""
    made = []
    for _, group in rows.sort("t", maintain_order=True).group_by("k", maintain_order=True):
        stretch: list[tuple[Any, ...]] = []
        for row in [*group.iter_rows(), None]:
            if stretch and (row is None or row[0] - stretch[-1][0] >= dt.timedelta(seconds=gap)):
                end = stretch[-1][0] + dt.timedelta(seconds=gap)
                made.append((stretch[0][1], stretch[0][0], end, Session([v for _, _, v in stretch])))
                stretch = []
            if row is not None:
                stretch.append(row)
    return made


SESSION_AGGS = {
    "running": [pl.col("v").sum().alias("total")],
    "whole": [pl.col("v").sum().alias("total"), (pl.col("v") % 2).n_unique().cast(pl.Int64).alias("kinds")],
    "ordered": [pl.col("v").sum().alias("total"), *ORDERED],
}


@given(
    rows=rows_of,
    cuts=cuts_of,
    delay=st.sampled_from(["0s", "4s", "60s"]),
    emit=st.sampled_from(["final", "update"]),
    how=st.sampled_from(sorted(SESSION_AGGS)),
)
@settings(max_examples=120)
def test_sessions_end_where_nothing_comes_for_a_while(rows: Any, cuts: Any, delay: str, emit: str, how: str) -> None:
    found = stream(delay).group_by_session("t", gap="5s", group_by="k", include_boundaries=True, emit=emit)
    sessions = found.agg(SESSION_AGGS[how])
    data = frame(rows)
    letters: list[pa.Table] = []
    given_ = run_pieces(sessions._node, cut(data, cuts), letters=letters)
    results = [expr.meta.output_name() for expr in SESSION_AGGS[how]]
    wanted = [
        (key, start, end, *(getattr(session, name) for name in results))
        for key, start, end, session in one_by_one(in_time(data, letters), 5)
    ]
    for each in (given_, sessions.collect(in_time(data, letters))):
        assert sorted(each.select("k", "_lower_boundary", "_upper_boundary", *results).rows(), key=str) == sorted(
            wanted, key=str
        )


def test_a_row_between_two_sessions_makes_them_one() -> None:
    """The end that counts is the latest of all before, not the neighbour's."""
    data = frame([(0, 1), (6, 1), (3, 1), (15, 1)])
    sessions = stream("60s").group_by_session("t", gap="10s").agg(pl.len())
    pieces = [{"s": data[number : number + 1]} for number in range(4)]
    assert run_pieces(sessions._node, pieces).rows() == [(DAY, 4)]


@given(
    rows=rows_of,
    cuts=cuts_of,
    delay=st.sampled_from(["0s", "4s", "60s"]),
    closed=st.sampled_from(["right", "left", "both", "none"]),
    keyed=st.booleans(),
    lateness=st.sampled_from([None, "5s"]),
)
@settings(max_examples=60)
def test_each_row_sees_what_lies_before_it(
    rows: Any, cuts: Any, delay: str, closed: Any, keyed: bool, lateness: str | None
) -> None:
    aggs = [pl.col("v").sum().alias("sum"), pl.len().cast(pl.Int64).alias("n"), pl.col("v").median().alias("mid")]
    by = "k" if keyed else None
    rolled = stream(delay, allowed_lateness=lateness).rolling("t", period="7s", closed=closed, group_by=by).agg(aggs)
    data = frame(rows)
    letters: list[pa.Table] = []
    found = run_pieces(rolled._node, cut(data, cuts), letters=letters)
    wanted = in_time(data, letters).sort("t", maintain_order=True).rolling("t", period="7s", closed=closed, group_by=by)
    assert_frame_equal(found, wanted.agg(aggs), check_row_order=False)
    assert_frame_equal(rolled.collect(in_time(data, letters)), wanted.agg(aggs), check_row_order=False)


@pytest.mark.parametrize("closed", ["right", "left", "both", "none"])
@pytest.mark.parametrize("period", ["1d", "24h", "2d", "36h"])
@pytest.mark.parametrize("day", [dt.datetime(2026, 3, 28), dt.datetime(2026, 10, 24)])
def test_the_day_before_each_row_is_that_of_polars_when_the_clock_is_changed(
    day: dt.datetime, period: str, closed: Any
) -> None:
    """A day of 25 hours reaches back further than one of 24, and rows must be kept for so long."""
    times = pl.datetime_range(day, day + dt.timedelta(days=3), "90m", time_zone="UTC", eager=True)
    data = pl.DataFrame({"t": times.dt.convert_time_zone("Europe/Paris"), "v": pl.int_range(times.len(), eager=True)})
    source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "0s")
    aggs = [pl.len().cast(pl.Int64).alias("n"), pl.col("v").sum()]
    rolled = source.rolling("t", period=period, closed=closed).agg(aggs)
    wanted = data.rolling("t", period=period, closed=closed).agg(aggs)
    for size in (data.height, 5, 1):
        pieces = [{"s": data[number : number + size]} for number in range(0, data.height, size)]
        assert_frame_equal(run_pieces(rolled._node, pieces).sort("t"), wanted)


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_sessions_and_duplicates_count_as_finely_as_the_column(unit: Any) -> None:
    """Ticks of an exchange in nanoseconds, 200 of them apart: no microsecond lies between."""
    chance = random.Random(7)
    fine = {"ns": 1000, "us": 1, "ms": 1}[unit]
    gap = {"ns": "3us", "us": "3us", "ms": "3ms"}[unit]
    times = sorted(chance.sample(range(-200 * fine, 200 * fine), 80))
    data = pl.DataFrame({"t": pl.Series(times, dtype=pl.Int64).cast(pl.Datetime(unit)), "k": 1})
    source = ars.StreamingContext().read.memory(data.schema, name="s").with_watermark("t", "0s")
    sessions: list[list[int]] = []
    let_through: list[int] = []
    for time in times:
        if not sessions or time - sessions[-1][-1] >= 3 * fine:
            sessions.append([])
        sessions[-1].append(time)
        if not let_through or time - let_through[-1] >= 3 * fine:
            let_through.append(time)
    edges = pl.col("t", "_upper_boundary").to_physical()
    for size in (80, 7, 1):
        pieces = [{"s": data[number : number + size]} for number in range(0, 80, size)]
        for aggs in (pl.len().cast(pl.Int64).alias("n"), pl.col("t").count().cast(pl.Int64).alias("n")):
            visits = source.group_by_session("t", gap=gap, group_by="k", include_boundaries=True).agg(aggs)
            found = run_pieces(visits._node, pieces).select(edges, "n").sort("t")
            assert found.rows() == [(one[0], one[-1] + 3 * fine, len(one)) for one in sessions]
        once = run_pieces(source.unique("k", within=gap)._node, pieces)
        assert once["t"].to_physical().sort().to_list() == let_through


def test_a_duration_that_is_finer_than_what_is_counted_is_refused_and_not_rounded() -> None:
    ticks = ars.StreamingContext().read.memory({"t": pl.Datetime("ns"), "k": pl.Int64}, name="s")
    timed = ticks.with_watermark("t", "2000ns")
    for call in (
        lambda: ticks.with_watermark("t", "1500ns"),
        lambda: timed.group_by_session("t", gap="700ns"),
        lambda: timed.rolling("t", period="700ns"),
        lambda: timed.unique("k", within="1500ns"),
        lambda: timed.join(timed, on="k", within="1500ns"),
    ):
        with pytest.raises(ars.ArrowStreamError, match="finer than a microsecond"):
            call()
    with pytest.raises(ars.ArrowStreamError, match="above zero"):
        timed.rolling("t", period="0s")
    timed.group_by_dynamic("t", every="700ns", period="1500ns").len()  # windows count in nanoseconds


@given(rows=rows_of, cuts=cuts_of, keyed=st.booleans(), size=st.integers(1, 4))
@settings(max_examples=40)
def test_windows_of_a_number_of_rows(rows: Any, cuts: Any, keyed: bool, size: int) -> None:
    windows = stream().group_by_count(size, group_by="k" if keyed else None).agg(pl.col("v").sum(), n=pl.len())
    data = frame(rows)
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    numbered = data.with_columns(window=(place.over("k") if keyed else place) // size)
    wanted = numbered.group_by(*(["k"] if keyed else []), "window").agg(pl.col("v").sum(), n=pl.len().cast(pl.Int64))
    assert_frame_equal(run_pieces(windows._node, cut(data, cuts)), wanted, check_row_order=False)
    assert_frame_equal(windows.collect(data), wanted, check_row_order=False)


def test_whole_numbers_can_be_a_time_too() -> None:
    source = ars.StreamingContext().read.memory({"i": pl.Int64, "v": pl.Int64}, name="s").with_watermark("i", 2)
    windows = source.group_by_dynamic("i", every="10i").agg(pl.col("v").sum())
    data = pl.DataFrame({"i": [1, 5, 12, 9, 30, 8], "v": [1, 2, 4, 8, 16, 32]})
    letters: list[pa.Table] = []
    found = run_pieces(windows._node, [{"s": data[:4]}, {"s": data[4:5]}, {"s": data[5:]}], letters=letters)
    assert found.sort("i").rows() == [(0, 11), (10, 4), (30, 16)]
    assert letters[0]["reason"].to_pylist() == [
        "late: its window had closed, time 8, watermark 28, window from 0, to 10"
    ]


def test_a_window_closes_in_the_batch_that_passes_its_end_and_names_what_came_too_late() -> None:
    ctx = ars.StreamingContext(batch_interval="10ms")
    rows = ctx.read.memory(SCHEMA, name="s")
    windows = rows.with_watermark("t", "5s").group_by_dynamic("t", every="10s").agg(pl.len())
    windows.write.memory("counts")
    with ctx:
        ctx.start()
        for second, seen in ((1, 0), (14, 0), (9, 0), (15, 1), (9, 1)):
            rows.source.send(frame([(second, 1)]))
            ctx.process_all_available()
            assert ctx.sql("SELECT * FROM counts").pl().height == seen
        assert ctx.sql("SELECT * FROM counts").fetchall() == [(DAY, 2)]
        (letter,) = ctx.dead_letters.pl().to_dicts()
        assert letter["operator"].startswith("Window of 10s")
        assert letter["source"] == "s"
        times = {name: letter[name].replace(tzinfo=None) for name in ("event_time", "watermark")}
        assert times == {"event_time": at(9), "watermark": at(10)}
        assert (letter["window_start"].replace(tzinfo=None), letter["window_end"].replace(tzinfo=None)) == (DAY, at(10))
        assert ctx.progress.last is not None
        assert ctx.progress.last.fates == {"late": 1}
        assert ctx.progress.last.watermark == at(10).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize("options", [{}, {"workers": 2}])
def test_the_end_of_the_input_closes_what_is_open(options: Any, tmp_path: Any) -> None:
    data = frame([(second, second % 3) for second in range(100)])
    for number in range(4):
        data[number * 25 : number * 25 + 25].write_parquet(tmp_path / f"{number}.parquet")
    ctx = ars.StreamingContext(batch_interval="10ms", **options)
    rows = ctx.read.parquet(str(tmp_path), max_rows_per_batch=25)
    rows.with_watermark("t", "3s").group_by_dynamic("t", every="10s", group_by="k").agg(pl.col("v").sum()).write.memory(
        "sums"
    )
    ctx.run()
    wanted = data.group_by(pl.col("t").dt.truncate("10s"), "k").agg(pl.col("v").sum()).select("k", "t", "v")
    assert_frame_equal(ctx.sql("SELECT * FROM sums").pl(), wanted, check_row_order=False)


def test_what_windows_need_is_said_with_the_cure() -> None:
    plain = ars.StreamingContext().read.memory(SCHEMA, name="s")
    with pytest.raises(ars.ArrowStreamError, match="with_watermark"):
        plain.group_by_dynamic("t", every="10s")
    timed = plain.with_watermark("t", "1s")
    with pytest.raises(ars.ArrowStreamError, match="column 'x' is not in"):
        timed.group_by_dynamic("x", every="10s")
    with pytest.raises(ars.ArrowStreamError, match="is no interval"):
        timed.group_by_dynamic("t", every="ten")
    with pytest.raises(ars.ArrowStreamError, match="above zero"):
        timed.group_by_dynamic("t", every="0s")
    with pytest.raises(ars.ArrowStreamError, match="named by itself"):
        timed.group_by_dynamic("t", every="10s", label="datapoint")
    with pytest.raises(ars.ArrowStreamError, match="update"):
        timed.group_by_dynamic("t", every="10s", emit="never")
    with pytest.raises(ars.ArrowStreamError, match="call it before"):
        timed.group_by_dynamic("t", every="10s").agg(pl.len()).with_watermark("t", "1s")
