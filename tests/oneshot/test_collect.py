"""The reading in one shot, each kind of node by hand: what the stream is compared with must itself be right."""

from __future__ import annotations

import datetime as dt
import math
import random
from typing import Any

import duckdb
import polars as pl
import pytest
from lawful import assert_same_rows

import arrowstream as ars
from arrowstream.frame import StreamFrame

NAN = float("nan")
DAY = dt.datetime(2026, 3, 1)
SCHEMA = pl.Schema({"t": pl.Datetime("us"), "k": pl.String(), "g": pl.Float64(), "v": pl.Int64()})


def at(second: float) -> dt.datetime:
    return DAY + dt.timedelta(seconds=second)


def table(*rows: tuple[float | None, str | None, float | None, int | None]) -> pl.DataFrame:
    """Rows of second, k, g, v."""
    return pl.DataFrame([(None if t is None else at(t), k, g, v) for t, k, g, v in rows], schema=SCHEMA, orient="row")


ROWS = table(
    (0, "a", 0.0, 1), (7, None, NAN, 2), (3, "a", -0.0, None), (12, "b", None, 4), (12, "a", NAN, 5), (25, "b", 1.5, 6)
)  # fmt: skip


def source(name: str = "s", timed: bool = True) -> StreamFrame:
    frame = ars.StreamingContext().read.memory(SCHEMA, name=name)
    return frame.with_watermark("t", "10s") if timed else frame


def two() -> tuple[StreamFrame, StreamFrame]:
    ctx = ars.StreamingContext()
    one, other = (ctx.read.memory(SCHEMA, name=name).with_watermark("t", "10s") for name in ("l", "r"))
    return one, other


def same(frame: StreamFrame, rows: Any, expected: list[tuple[Any, ...]]) -> None:
    """`collect` gives these rows, and the stream does too."""
    found = frame.collect(rows)
    assert found.schema == frame.schema
    assert_same_rows(found, pl.DataFrame(expected, schema=frame.schema, orient="row"))
    frame.check(rows, tries=3)


def test_rows_sql_and_functions() -> None:
    frame = source(timed=False)
    same(
        frame.filter(pl.col("v") > 1).select("k", w=pl.col("v") * 2),
        ROWS,
        [(None, 4), ("b", 8), ("a", 10), ("b", 12)],
    )
    same(frame.sql("SELECT k, v + 1 AS w FROM self WHERE v < 3"), ROWS, [("a", 2), (None, 3)])
    same(frame.map_batches(lambda rows: rows.select("v").drop_nulls()), ROWS, [(1,), (2,), (4,), (5,), (6,)])
    doubled = ars.concat([frame, frame.filter(pl.col("v") == 6)]).select("v")
    same(doubled, ROWS, [(1,), (2,), (None,), (4,), (5,), (6,), (6,)])


def test_groups_have_one_row_of_each_key() -> None:
    """Null is a key, NaN is one, and both zeros are one."""
    frame = source(timed=False)
    same(frame.group_by("k").agg(pl.col("v").sum(), n=pl.len()), ROWS, [("a", 6, 3), (None, 2, 1), ("b", 10, 2)])
    same(frame.group_by("g").agg(n=pl.len()), ROWS, [(0.0, 2), (NAN, 2), (None, 1), (1.5, 1)])
    same(frame.agg(pl.col("v").median(), n=pl.len() - 7), ROWS, [(4.0, -1)])
    same(
        frame.group_by("k").agg(pl.col("v").last(), low=pl.col("v").min()),
        ROWS,
        [("a", 5, 1), (None, 2, 2), ("b", 6, 4)],
    )


def test_counts_and_sums_are_those_of_sixty_four_bits() -> None:
    """Polars counts in UInt32, and adds up Int32 in Int32: one wraps below zero, the other above two billion."""
    rows = pl.DataFrame({"v": pl.Series([2**31 - 1, 1], dtype=pl.Int32)})
    frame = ars.StreamingContext().read.memory(rows.schema, name="s")
    assert frame.agg(a=pl.col("v").sum(), n=pl.len() - 5).collect(rows).rows() == [(2**31, -3)]
    assert frame.agg(a=pl.col("v").sum(), m=pl.col("v").median()).collect(rows)["a"].item() == 2**31


def test_a_sum_that_is_too_large_is_left_out() -> None:
    """The stream sets such a group aside, as a dead letter; the others go on."""
    rows = pl.DataFrame({"k": ["a", "a", "b"], "v": [2**62, 2**62, 1]})
    frame = ars.StreamingContext().read.memory(rows.schema, name="s")
    assert frame.group_by("k").agg(pl.col("v").sum()).collect(rows).rows() == [("b", 1)]
    assert frame.group_by("k").agg(pl.col("v").sum(), m=pl.col("v").median()).collect(rows)["k"].to_list() == ["b"]


@pytest.mark.parametrize("closed", ["left", "right", "both", "none"])
@pytest.mark.parametrize(
    ("every", "period", "offset"), [(5, 5, 0), (2, 7, 1), (10, 3, -2), (0.2, 0.5, 0), (0.05, 0.04, 0.01)]
)
def test_windows_by_a_loop(every: float, period: float, offset: float, closed: str) -> None:
    """Each row in every window that contains it, in whole milliseconds."""
    chance = random.Random(4)
    rows = table(
        *((chance.randint(-40, 60) * (0.01 if every < 1 else 1), chance.choice("ab"), 0.0, n) for n in range(12))
    )
    step, length, shift = (round(each * 1000) for each in (every, period, offset))
    contains = {
        "left": lambda t, s: s <= t < s + length,
        "right": lambda t, s: s < t <= s + length,
        "both": lambda t, s: s <= t <= s + length,
        "none": lambda t, s: s < t < s + length,
    }[closed]
    expected: dict[tuple[str, dt.datetime, dt.datetime], int] = {}
    for t, k, _, v in rows.iter_rows():
        ticks = round((t - DAY).total_seconds() * 1000)
        for number in range(math.floor((ticks - length - shift) / step) - 1, math.ceil((ticks - shift) / step) + 2):
            start = number * step + shift
            if contains(ticks, start):
                window = (k, at(start / 1000), at((start + length) / 1000))
                expected[window] = expected.get(window, 0) + v
    # Days are whole numbers of all these steps, so counting from this day is counting from 1970.
    windows = source().group_by_dynamic(
        "t", every=dt.timedelta(seconds=every), period=dt.timedelta(seconds=period),
        offset=f"{'-' if offset < 0 else ''}{abs(shift)}ms", closed=closed, group_by="k", include_boundaries=True,
    ).agg(pl.col("v").sum())  # fmt: skip
    found = windows.collect(rows)
    assert sorted(found.select("k", "_lower_boundary", "_upper_boundary", "v").rows()) == sorted(
        (*window, total) for window, total in expected.items()
    )
    assert found["t"].equals(found["_lower_boundary"], check_names=False)


@pytest.mark.parametrize("every", ["1d", "1w", "1mo", "1q", "1y", "2w", "5mo"])
@pytest.mark.parametrize("zone", [None, "Asia/Tokyo", "Europe/Berlin"])
def test_windows_of_the_calendar_are_those_of_polars(every: str, zone: str | None) -> None:
    """Where they do not overlap, and bounds are whole days, Polars has the same."""
    times = pl.datetime_range(dt.datetime(1968, 1, 3), dt.datetime(1971, 12, 1), "37h", time_zone="UTC", eager=True)
    column = times.dt.convert_time_zone(zone) if zone else times.dt.replace_time_zone(None)
    rows = pl.DataFrame({"t": column, "v": pl.int_range(times.len(), eager=True)})
    frame = ars.StreamingContext().read.memory(rows.schema, name="s").with_watermark("t", "1h")
    windows = frame.group_by_dynamic("t", every=every, include_boundaries=True).agg(pl.col("v").sum())
    wanted = rows.group_by_dynamic("t", every=every, include_boundaries=True).agg(pl.col("v").sum())
    assert windows.collect(rows).sort("t").equals(wanted)


def test_windows_when_the_clock_is_changed() -> None:
    """A gas day begins at 06:00 on every day; of hours there are 25 in autumn, and 02:00 to 04:00 has three."""
    zone = pl.Datetime("us", "Europe/Paris")

    def rows(*hours: str) -> pl.DataFrame:
        times = pl.Series(hours).str.to_datetime(time_zone="UTC").dt.convert_time_zone("Europe/Paris")
        return pl.DataFrame({"t": times.cast(zone), "v": [2**n for n in range(len(hours))]})

    frame = ars.StreamingContext().read.memory({"t": zone, "v": pl.Int64}, name="s").with_watermark("t", "1h")

    def sums(windows: Any, given: pl.DataFrame) -> list[tuple[str, int]]:
        found = windows.agg(pl.col("v").sum()).collect(given).sort("t")
        return list(zip(found["t"].dt.to_string("%d %H:%M"), found["v"], strict=True))

    spring = rows("2026-03-28 23:30", "2026-03-29 03:30", "2026-03-29 04:30")  # 00:30, 05:30, 06:30
    assert sums(frame.group_by_dynamic("t", every="1d", offset="6h"), spring) == [("28 06:00", 3), ("29 06:00", 4)]
    autumn = rows("2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30")  # 02:30 twice, 03:30
    assert sums(frame.group_by_dynamic("t", every="1h"), autumn) == [("25 02:00", 1), ("25 02:00", 2), ("25 03:00", 4)]
    assert sums(frame.group_by_dynamic("t", every="2h"), autumn) == [("25 02:00", 7)]
    assert sums(frame.group_by_dynamic("t", every="1d"), autumn) == [("25 00:00", 7)]


def test_growing_windows() -> None:
    windows = source().group_by_cumulate("t", step="5s", every="10s").agg(pl.col("v").sum(), n=pl.len())
    found = windows.collect(ROWS).sort("_lower_boundary", "_upper_boundary")
    assert found.select("_lower_boundary", "_upper_boundary", "v", "n").rows() == [
        (at(0), at(5), 1, 2),
        (at(0), at(10), 3, 3),
        (at(10), at(15), 9, 2),
        (at(10), at(20), 9, 2),
        (at(20), at(30), 6, 1),
    ]
    windows.check(ROWS)


def test_sessions() -> None:
    """Rows in any order; the gap itself parts."""
    sessions = source().group_by_session("t", gap="5s", group_by="k", include_boundaries=True).agg(n=pl.len())
    rows = table((9, "a", 0, 1), (0, "a", 0, 1), (4, "a", 0, 1), (3, "b", 0, 1), (14, "a", 0, 1), (7, None, 0, 1))
    same(
        sessions,
        rows,
        [
            ("a", at(0), at(9), at(0), 2),
            ("a", at(9), at(14), at(9), 1),
            ("a", at(14), at(19), at(14), 1),
            ("b", at(3), at(8), at(3), 1),
            (None, at(7), at(12), at(7), 1),
        ],
    )


def test_sessions_of_nanoseconds_keep_them() -> None:
    rows = pl.DataFrame({"t": pl.Series([1_001, 2_002, 9_000]).cast(pl.Datetime("ns"))})
    frame = ars.StreamingContext().read.memory(rows.schema, name="s").with_watermark("t", "1s")
    found = frame.group_by_session("t", gap="2us", include_boundaries=True).agg(n=pl.len()).collect(rows).sort("t")
    assert found.cast({"t": pl.Int64, "_lower_boundary": pl.Int64, "_upper_boundary": pl.Int64}).rows() == [
        (1_001, 4_002, 1_001, 2),
        (9_000, 11_000, 9_000, 1),
    ]


@pytest.mark.parametrize("closed", ["left", "right", "both", "none"])
def test_rolling_by_a_loop(closed: str) -> None:
    chance = random.Random(7)
    rows = table(*((chance.randint(0, 20), chance.choice(["a", "b", None]), 0.0, n) for n in range(25)))
    rolled = source().rolling("t", period="5s", closed=closed, group_by="k").agg(pl.col("v").sum(), n=pl.len())
    expected = []
    for t, k, _, _ in rows.iter_rows():
        low, high = t - dt.timedelta(seconds=5), t
        inside = [
            v
            for other, key, _, v in rows.iter_rows()
            if key == k
            and (low <= other if closed in ("left", "both") else low < other)
            and (other <= high if closed in ("right", "both") else other < high)
        ]
        expected.append((k, t, sum(inside), len(inside)))
    same(rolled, rows, expected)


def test_counted_windows_go_by_the_order_of_rows() -> None:
    counted = source(timed=False).group_by_count(2, group_by="k").agg(first=pl.col("t").first(), n=pl.len())
    same(
        counted,
        ROWS,
        [("a", 0, at(0), 2), ("a", 1, at(12), 1), (None, 0, at(7), 1), ("b", 0, at(12), 2)],
    )


# --- joins

LEFT = table((0, "a", NAN, 1), (1, "b", 0.0, 2), (2, None, None, 3), (20, "a", 1.5, 4))
RIGHT = table((1, "a", NAN, 10), (0, "a", -0.0, 20), (3, None, None, 30), (4, "c", 2.5, 40))


@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
@pytest.mark.parametrize("coalesce", [None, True, False])
@pytest.mark.parametrize("nulls_equal", [False, True])
@pytest.mark.parametrize("on", [("k", "k"), ("k", "z"), ("g", "g")])
def test_joins_are_those_of_polars(how: Any, coalesce: bool | None, nulls_equal: bool, on: tuple[str, str]) -> None:
    """Columns, names and all; sides of several rows, with which Polars finds every key."""
    ctx = ars.StreamingContext()
    right = RIGHT.rename({"k": "z", "t": "k"}) if on[1] == "z" else RIGHT
    one, other = ctx.read.memory(SCHEMA, name="l"), ctx.read.memory(right.schema, name="r")
    options: dict[str, Any] = {
        "left_on": on[0], "right_on": on[1], "how": how, "nulls_equal": nulls_equal, "coalesce": coalesce,
    }  # fmt: skip
    joined = one.join(other, **options)
    assert_same_rows(joined.collect({"l": LEFT, "r": right}), LEFT.join(right, **options))


def test_a_single_nan_meets_a_single_nan() -> None:
    one, other = two()
    rows = {"l": LEFT.head(1), "r": RIGHT.head(1)}
    assert one.join(other, on="g").collect(rows).height == 1
    assert one.join(other, on="g", how="anti").collect(rows).height == 0
    assert one.join(RIGHT.head(1), on="g").collect({"l": LEFT.head(1)}).height == 1
    asof = one.join_asof(other, on="t", by="g", strategy="forward", tolerance="5s")
    assert asof.collect(rows)["v_right"].to_list() == [10]


@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
def test_joins_within_by_a_loop(how: Any) -> None:
    """A pair matches by key and time; rows without a match are shown as the join says."""
    one, other = two()
    joined = one.join(other, on="k", how=how, within=("-1s", "2s"), coalesce=False)
    lefts, rights = LEFT.rows(), RIGHT.rows()
    pairs = [
        (a, b)
        for a in lefts
        for b in rights
        if a[1] is not None and a[1] == b[1] and -1 <= (b[0] - a[0]).total_seconds() <= 2
    ]
    nothing = (None,) * 4
    lonely = [a for a in lefts if a not in [one for one, _ in pairs]]
    alone = [b for b in rights if b not in [two for _, two in pairs]]
    shown: dict[str, list[tuple[Any, ...]]] = {
        "inner": [a + b for a, b in pairs],
        "left": [*(a + b for a, b in pairs), *(a + nothing for a in lonely)],
        "right": [*(a + b for a, b in pairs), *(nothing + b for b in alone)],
        "full": [*(a + b for a, b in pairs), *(a + nothing for a in lonely), *(nothing + b for b in alone)],
        "semi": [a for a in lefts if a not in lonely],
        "anti": lonely,
    }
    same(joined, {"l": LEFT, "r": RIGHT}, shown[how])


def test_join_where_is_that_of_duckdb() -> None:
    one, other = two()
    joined = one.join_where(other, pl.col("v") * 10 >= pl.col("v_right"), pl.col("t") <= pl.col("t_right"))
    with duckdb.connect() as connection:
        connection.register("l", LEFT.to_arrow())
        connection.register("r", RIGHT.to_arrow())
        found = connection.sql("SELECT l.v, r.v FROM l JOIN r ON l.v * 10 >= r.v AND l.t <= r.t").fetchall()
    assert sorted(joined.collect({"l": LEFT, "r": RIGHT}).select("v", "v_right").rows()) == sorted(found)


@pytest.mark.parametrize("strategy", ["backward", "forward", "nearest"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tolerance", [2, 50])
def test_joins_as_of_by_a_loop(strategy: Any, exact: bool, tolerance: int) -> None:
    """Times of the right differ, so that there is no question which of two it is."""
    chance = random.Random(5)
    lefts = table(*((chance.randint(0, 30), chance.choice(["a", "b", None]), 0.0, n) for n in range(12)))
    seconds = chance.sample(range(0, 30, 2), 12)
    rights = table(*((s, chance.choice(["a", "b", None]), 0.0, 100 + s) for s in seconds))
    one, other = two()
    joined = one.join_asof(
        other, on="t", by="k", strategy=strategy, allow_exact_matches=exact, tolerance=f"{tolerance}s"
    )
    found = {}
    for t, k, _, v in lefts.iter_rows():
        near = []
        for other_time, key, _, value in rights.iter_rows():
            away = (other_time - t).total_seconds()
            fits = {"backward": away <= 0, "forward": away >= 0, "nearest": True}[strategy]
            if k is not None and key == k and fits and abs(away) <= tolerance and (exact or away):
                near.append((abs(away), -away, value))
        found[v] = min(near)[2] if near else None
    answer = joined.collect({"l": lefts, "r": rights})
    assert dict(answer.select("v", "v_right").rows()) == found
    joined.check({"l": lefts, "r": rights}, tries=3)


def test_versions_of_a_table() -> None:
    one, other = two()
    versions = table((0, "a", 0, 1), (10, "a", 0, 2), (5, "b", 0, 3))
    rows = table((3, "a", 0, 0), (12, "a", 0, 1), (4, "b", 0, 2), (6, "b", 0, 3))
    joined = one.join_temporal(other, on="k").select("v", "v_right")
    same(joined, {"l": rows, "r": versions}, [(0, 1), (1, 2), (2, None), (3, 3)])
    inner = one.join_temporal(other, on="k", how="inner").select("v", "v_right")
    same(inner, {"l": rows, "r": versions}, [(0, 1), (1, 2), (3, 3)])


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti", "cross"])
def test_joins_with_tables_are_those_of_polars(how: Any) -> None:
    prices = pl.DataFrame({"k": ["a", "a", None, "c"], "p": [1, 2, 3, 4]})
    options: dict[str, Any] = {"how": how} if how == "cross" else {"how": how, "on": "k", "nulls_equal": True}
    joined = source(timed=False).join(prices, **options)
    assert_same_rows(joined.collect(ROWS), ROWS.join(prices, **options))


# --- ranks


@pytest.mark.parametrize("call", ["top_k", "bottom_k"])
def test_the_best_rows(call: Any) -> None:
    """Nulls last, of equal rows those that came first."""
    frame = source(timed=False)
    rows = table((0, "a", 0, 5), (1, "a", 0, 5), (2, "a", 0, None), (3, "b", 0, 1), (4, "a", 0, 9))
    best = getattr(frame, call)(2, by="v", group_by="k", rank="place").select("t", "place")
    top = [(at(4), 1), (at(0), 2), (at(3), 1)]
    bottom = [(at(0), 1), (at(1), 2), (at(3), 1)]
    same(best, rows, top if call == "top_k" else bottom)


def test_each_row_once() -> None:
    frame = source()
    same(frame.unique("k", keep="first").select("t", "k"), ROWS, [(at(0), "a"), (at(7), None), (at(12), "b")])
    same(frame.unique("k", keep="last").select("t", "k"), ROWS, [(at(12), "a"), (at(7), None), (at(25), "b")])
    same(frame.unique("g", keep="none").select("t"), ROWS, [(at(12),), (at(25),)])
    # Each is held to those that were let through, in the order of rows: 3 is near 0, and 12 far from it.
    same(frame.unique("k", within="5s").select("t", "k"), ROWS, [
        (at(0), "a"), (at(7), None), (at(12), "b"), (at(12), "a"), (at(25), "b"),
    ])  # fmt: skip


def test_over_and_map_groups() -> None:
    frame = source(timed=False)
    same(
        frame.with_columns(n=pl.len().over("k")).select("k", "n"),
        ROWS,
        [("a", 3), ("a", 3), ("a", 3), (None, 1), ("b", 2), ("b", 2)],
    )
    counted = frame.group_by("k").map_groups(
        lambda rows: rows.select(pl.col("k").first(), first=pl.col("t").first()),
        schema={"k": pl.String, "first": pl.Datetime("us")},
    )
    same(counted, ROWS, [("a", at(0)), (None, at(7)), ("b", at(12))])


def test_a_history_and_what_is_live() -> None:
    ctx = ars.StreamingContext()
    old, new = (ctx.read.memory(SCHEMA, name=name) for name in ("old", "new"))
    both = ars.concat_history(old, new, on="t", at=at(10)).select("v")
    rows = {"old": table((1, "a", 0, 1), (11, "a", 0, 2)), "new": table((9, "a", 0, 3), (10, "a", 0, 4))}
    same(both, rows, [(1,), (4,)])


def test_keys_with_a_time_to_live_are_kept() -> None:
    """A table has no watermark that could let them go: this is where the two differ by choice."""
    rows = table((0, "a", 0, 1), (1_000, "b", 0, 1), (2_000, "a", 0, 1))
    assert source().group_by("k", ttl="1m").agg(n=pl.len()).collect(rows).sort("k").rows() == [("a", 2), ("b", 1)]


def test_windows_come_once_whatever_they_emit() -> None:
    final, update = (
        source().group_by_dynamic("t", every="10s", emit=emit).agg(n=pl.len()) for emit in ("final", "update")
    )
    assert_same_rows(final.collect(ROWS), update.collect(ROWS))
