"""Ranks, duplicates and groups computed anew: however the stream is cut, what Polars gives in one shot."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.connectors.changes import Append, Upsert
from arrowstream.frame import StreamFrame

DAY = dt.datetime(2026, 1, 1)
SCHEMA: Any = {"k": pl.String, "x": pl.Int64, "f": pl.Float64, "n": pl.Int64}

rows_of = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.none() | st.integers(0, 4),
        st.sampled_from([None, 0.0, -0.0, 1.5, float("nan")]),
    ),
    max_size=20,
)
cuts_of = st.lists(st.floats(0, 1), max_size=5)


def frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """`n` is the number of the row."""
    return pl.DataFrame([(*row, n) for n, row in enumerate(rows)], schema=SCHEMA, orient="row")


def stream() -> StreamFrame:
    return ars.StreamingContext().read.memory(SCHEMA, name="s")


def cut(rows: pl.DataFrame, cuts: list[float]) -> list[dict[str, pl.DataFrame]]:
    edges = [0, *sorted(int(c * rows.height) for c in cuts), rows.height]
    return [{"s": rows[a:b]} for a, b in pairwise(edges)]


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    # 0.0 and -0.0 are one value; Polars' answers keep either.
    plain = [
        pl.when(pl.col(c) == 0).then(0.0).otherwise(pl.col(c)).alias(c)
        for c, d in wanted.schema.items()
        if d.is_float()
    ]
    assert_frame_equal(found.with_columns(plain), wanted.with_columns(plain), check_row_order=False)


def best(rows: pl.DataFrame, k: int, by: list[str], keys: list[str], down: list[bool], rank: bool) -> pl.DataFrame:
    """The best rows in one shot."""
    ordered = rows.sort(by, descending=down, nulls_last=True, maintain_order=True)
    groups = ordered.partition_by(keys, maintain_order=True) if keys else [ordered]
    made = [group.head(k) for group in groups if group.height]
    if rank:
        made = [group.with_columns(place=pl.int_range(1, group.height + 1, eager=True)) for group in made]
    empty = rows.clear().with_columns(place=pl.lit(1, pl.Int64)) if rank else rows.clear()
    return pl.concat(made) if made else empty


@given(
    rows=rows_of,
    cuts=cuts_of,
    k=st.integers(1, 3),
    by=st.sampled_from([["x"], ["f"], ["x", "f"], ["f", "n"]]),
    keys=st.sampled_from([[], ["k"], ["k", "x"]]),
    top=st.booleans(),
    turn=st.booleans(),
    rank=st.booleans(),
    partitions=st.integers(1, 2),
)
@example(
    rows=[("a", None, None)] * 2, cuts=[0.5], k=2, by=["x"], keys=["k", "x"], top=False, turn=False, rank=False,
    partitions=1,
)  # fmt: skip
@settings(max_examples=150)
def test_the_best_rows_are_those_of_one_shot(
    rows: Any, cuts: Any, k: int, by: Any, keys: Any, top: bool, turn: bool, rank: bool, partitions: int
) -> None:
    method = "top_k" if top else "bottom_k"
    turns = [turn, *[False] * (len(by) - 1)]
    chosen = getattr(stream(), method)(k, by=by, group_by=keys or None, reverse=turns, rank="place" if rank else None)
    data = frame(rows)
    found = run_pieces(chosen._node, cut(data, cuts), partitions=partitions)
    wanted = best(data, k, by, keys, [top != each for each in turns], rank)
    assert found.schema == chosen.schema
    assert_same(found, wanted)
    assert_same(chosen.collect(data), wanted)


@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 40)), max_size=20),
    cuts=cuts_of,
    k=st.integers(1, 3),
    rank=st.booleans(),
    delay=st.sampled_from(["0s", "5s", "60s"]),
    partitions=st.integers(1, 2),
)
@settings(max_examples=80)
def test_the_best_of_a_window_are_given_once(
    rows: Any, cuts: Any, k: int, rank: bool, delay: str, partitions: int
) -> None:
    """As the watermark passes: the outputs that only append take them."""
    schema: Any = {"k": pl.String, "t": pl.Datetime("us"), "n": pl.Int64}
    made = [(key, DAY + dt.timedelta(seconds=second), number) for number, (key, second) in enumerate(rows)]
    data = pl.DataFrame(made, schema=schema, orient="row")
    timed_rows = ars.StreamingContext().read.memory(schema, name="s").with_watermark("t", delay)
    counts = timed_rows.group_by_dynamic("t", every="10s", group_by="k").agg(pl.len(), pl.col("n").max())
    chosen = counts.top_k(k, by=["len", "n"], group_by="t", rank="place" if rank else None)
    assert isinstance(chosen.kind, Append)
    letters: list[pa.Table] = []
    found = run_pieces(chosen._node, cut(data, cuts), letters=letters, partitions=partitions)
    late = {json.loads(value)["n"] for table in letters for value in table["raw"].to_pylist()}
    in_time = data.filter(~pl.col("n").is_in(list(late)))
    one = in_time.group_by("k", pl.col("t").dt.truncate("10s")).agg(pl.len().cast(pl.Int64), pl.col("n").max())
    wanted = best(one, k, ["len", "n"], ["t"], [True, True], rank).select(found.columns)
    assert_same(found, wanted)
    assert_same(chosen.collect(in_time), wanted)


@given(rows=rows_of, cuts=cuts_of, k=st.integers(1, 3), rank=st.booleans())
@settings(max_examples=40)
def test_the_best_of_aggregates_are_taken_back_when_they_are_beaten(rows: Any, cuts: Any, k: int, rank: bool) -> None:
    totals = stream().group_by("k").agg(pl.col("x").sum(), n=pl.col("n").n_unique())
    chosen = totals.top_k(k, by=["x", "k"], rank="place" if rank else None)
    data = frame(rows)
    found = run_pieces(chosen._node, cut(data, cuts))
    one = data.group_by("k").agg(pl.col("x").sum(), n=pl.col("n").n_unique().cast(pl.Int64))
    assert_same(found, best(one, k, ["x", "k"], [], [True, True], rank))
    assert_same(chosen.collect(data), found)


@given(
    rows=rows_of,
    cuts=cuts_of,
    subset=st.sampled_from([None, ["k"], ["x"], ["k", "f"]]),
    keep=st.sampled_from(["any", "first", "last", "none"]),
    partitions=st.integers(1, 2),
)
@settings(max_examples=100)
def test_each_row_comes_once(rows: Any, cuts: Any, subset: Any, keep: Any, partitions: int) -> None:
    once = stream().unique(subset, keep=keep)
    assert isinstance(once.kind, Append if keep in ("any", "first") else Upsert)
    data = frame(rows)
    wanted = data.unique(subset, keep="first" if keep == "any" else keep, maintain_order=True)
    assert_same(run_pieces(once._node, cut(data, cuts), partitions=partitions), wanted)
    assert_same(once.collect(data), wanted)


@given(rows=rows_of, cuts=cuts_of)
@settings(max_examples=30)
def test_duplicates_among_rows_that_change(rows: Any, cuts: Any) -> None:
    def plan(at: Any) -> Any:
        return at.group_by("k").agg(pl.col("x").max().fill_null(-1)).select("x").unique()

    data = frame(rows)
    found = plan(stream())
    assert_same(run_pieces(found._node, cut(data, cuts)), plan(data.lazy()).collect())
    assert_same(found.collect(data), plan(data.lazy()).collect())


timed = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 30)), max_size=20)


@given(rows=timed, cuts=cuts_of)
@settings(max_examples=60)
def test_duplicates_within_a_distance_are_dropped(rows: Any, cuts: Any) -> None:
    schema: Any = {"k": pl.String, "t": pl.Datetime("us")}
    data = pl.DataFrame([(k, DAY + dt.timedelta(seconds=s)) for k, s in rows], schema=schema, orient="row")
    source = ars.StreamingContext().read.memory(schema, name="s").with_watermark("t", "60s")
    once = source.unique("k", within="10s")
    kept: list[tuple[str, dt.datetime]] = []
    for k, t in data.rows():
        if all(key != k or abs(t - other) >= dt.timedelta(seconds=10) for key, other in kept):
            kept.append((k, t))
    found = run_pieces(once._node, cut(data, cuts))
    assert sorted(found.rows()) == sorted(kept)
    assert sorted(once.collect(data).rows()) == sorted(kept)


@given(
    rows=timed,
    cuts=cuts_of,
    keep=st.sampled_from(["any", "first", "last", "none"]),
    delay=st.sampled_from(["0s", "3s", "60s"]),
    lateness=st.sampled_from([None, "4s"]),
    partitions=st.integers(1, 2),
)
@settings(max_examples=100)
def test_duplicates_of_the_same_time_are_those_of_the_rows_in_time(
    rows: Any, cuts: Any, keep: Any, delay: str, lateness: str | None, partitions: int
) -> None:
    """A broker delivers twice. What is behind the watermark is late, and was perhaps forgotten."""
    schema: Any = {"k": pl.String, "t": pl.Datetime("us"), "n": pl.Int64}
    times = [(k, DAY + dt.timedelta(seconds=s), n) for n, (k, s) in enumerate(rows)]
    data = pl.DataFrame(times, schema=schema, orient="row")
    source = ars.StreamingContext().read.memory(schema, name="s")
    once = source.with_watermark("t", delay, allowed_lateness=lateness).unique(["k", "t"], keep=keep)
    assert "unbounded" not in once.explain()
    letters: list[pa.Table] = []
    found = run_pieces(once._node, cut(data, cuts), letters=letters, partitions=partitions)
    late = {json.loads(raw)["n"] for table in letters for raw in table["raw"].to_pylist()}
    behind, highest = dt.timedelta(seconds=int(delay[:-1]) + (4 if lateness else 0)), dt.datetime(1, 1, 2)
    for piece in cut(data, cuts):
        for t, n in piece["s"].select("t", "n").rows():
            assert (n in late) == (highest > dt.datetime(1, 1, 2) and t < highest - behind)
        highest = max([highest, *piece["s"]["t"]])
    kept = data.filter(~pl.col("n").is_in(list(late)))
    wanted = kept.unique(["k", "t"], keep="first" if keep == "any" else keep, maintain_order=True)
    assert_same(found, wanted)


@pytest.mark.parametrize("keep", ["first", "last", "none"])
def test_what_was_seen_is_forgotten_as_its_time_passes(keep: Any) -> None:
    """A year of readings, each of which comes twice, needs no more memory than the delay."""
    ctx = ars.StreamingContext(batch_interval="10ms")
    source = ctx.read.memory({"k": pl.Int64, "t": pl.Datetime("us")}, name="s")
    source.with_watermark("t", "10s").unique(keep=keep).write.memory("once")
    with ctx:
        ctx.start()
        for start in range(0, 6000, 1000):
            seconds = pl.int_range(start, start + 1000, eager=True)
            times = pl.select(pl.lit(DAY) + pl.duration(seconds=pl.lit(seconds))).to_series()
            source.source.send(pl.DataFrame({"k": seconds % 7, "t": times}, schema=source.schema))
            ctx.process_all_available()
            (state,) = ctx.state().pl().to_dicts()
            assert state["bounded"]
            assert state["rows"] <= 11
        source.source.end()
        ctx.await_termination(timeout=30)
        assert len(ctx.sql("FROM once").pl()) == 6000


def test_many_keys_of_a_time_are_looked_through_now_and_then() -> None:
    """A batch costs by its rows, not by what waits for the watermark; what is kept stays within a few times that."""
    schema: Any = {"k": pl.Int64, "t": pl.Datetime("us")}
    node = ars.StreamingContext().read.memory(schema, name="s").with_watermark("t", "100s").unique()._node
    pieces = []
    for second in range(40):
        time = DAY + dt.timedelta(seconds=50 * second)
        pieces.append({"s": pl.DataFrame({"k": range(2000), "t": [time] * 2000}, schema=schema)})
    assert run_pieces(node, [*pieces, *pieces[-2:]]).height == 80_000


@given(rows=timed, cuts=cuts_of)
@settings(max_examples=40)
def test_a_group_that_time_has_closed_is_not_begun_anew(rows: Any, cuts: Any) -> None:
    """The median of a second stays what it was when a reading comes too late for it."""
    schema: Any = {"k": pl.String, "t": pl.Datetime("us"), "n": pl.Int64}
    times = [(k, DAY + dt.timedelta(seconds=s // 3), n) for n, (k, s) in enumerate(rows)]
    data = pl.DataFrame(times, schema=schema, orient="row")
    source = ars.StreamingContext().read.memory(schema, name="s").with_watermark("t", "1s")
    letters: list[pa.Table] = []
    found = run_pieces(source.group_by("t").agg(pl.col("n").median())._node, cut(data, cuts), letters=letters)
    late = [json.loads(raw)["n"] for table in letters for raw in table["raw"].to_pylist()]
    wanted = data.filter(~pl.col("n").is_in(late)).group_by("t").agg(pl.col("n").median())
    assert_same(found, wanted)


@pytest.mark.parametrize(
    "exprs",
    [
        lambda: [pl.col("x").sum().over("k").alias("total")],
        lambda: [
            pl.col("x").rank("min").over("k").alias("rank"),
            (pl.col("n") - pl.col("n").min().over("k")).alias("d"),
        ],
        lambda: [pl.col("n").cum_count().over("k").alias("place")],
        lambda: [pl.col("x").shift().over("k", order_by="n").alias("before")],
        lambda: [pl.col("n").rolling_sum(2, min_samples=1).over("k", order_by=["x", "n"]).alias("two")],
    ],
)
@pytest.mark.parametrize("method", ["with_columns", "select"])
@given(rows=rows_of, cuts=cuts_of)
@settings(max_examples=20)
def test_expressions_over_groups(exprs: Callable[[], list[pl.Expr]], method: str, rows: Any, cuts: Any) -> None:
    data = frame(rows)
    found = getattr(stream(), method)(*exprs())
    wanted = getattr(data, method)(*exprs())
    numbers = {name for name, dtype in wanted.schema.items() if dtype == pl.UInt32}
    wanted = wanted.cast(dict.fromkeys(numbers, pl.Int64))  # what counts or numbers rows is Int64 on a stream
    assert found.schema == wanted.schema
    assert_same(run_pieces(found._node, cut(data, cuts)), wanted)
    assert_same(found.collect(data), wanted)


AGGS: list[Callable[[], pl.Expr]] = [
    lambda: pl.col("x").median(),
    lambda: pl.col("x").quantile(0.25, "nearest"),
    lambda: pl.col("x").sort().first(),
    lambda: pl.col("n").sort_by("x", maintain_order=True).last(),
    lambda: pl.col("x").map_batches(lambda s: s.sum(), returns_scalar=True, return_dtype=pl.Int64),
    lambda: pl.col("x").mode().sort().implode(),
    lambda: (pl.col("x") - pl.col("x").mean()).abs().max(),
]


@pytest.mark.parametrize("agg", AGGS)
@pytest.mark.parametrize("keyed", [True, False])
@given(rows=rows_of, cuts=cuts_of)
@settings(max_examples=12)
def test_aggregates_of_whole_groups(agg: Callable[[], pl.Expr], keyed: bool, rows: Any, cuts: Any) -> None:
    def plan(at: Any) -> Any:
        both = [agg().alias("y"), pl.len().cast(pl.Int64).alias("rows")]
        if keyed:
            return at.group_by("k").agg(both)
        return at.agg(both) if isinstance(at, StreamFrame) else at.select(both)

    data = frame(rows)
    found = plan(stream())
    assert_same(run_pieces(found._node, cut(data, cuts)), plan(data.lazy()).collect())
    assert_same(found.collect(data), plan(data.lazy()).collect())


@given(rows=rows_of, cuts=cuts_of)
@settings(max_examples=30)
def test_extremes_and_float_sums_of_rows_that_change(rows: Any, cuts: Any) -> None:
    def plan(at: Any) -> Any:
        inner = at.group_by("k", "x").agg(pl.col("n").sum())
        return inner.group_by("k").agg(
            pl.col("n").min().alias("low"), pl.col("n").max(), pl.col("n").median().alias("mid")
        )

    data = frame(rows)
    found = plan(stream())
    assert_same(run_pieces(found._node, cut(data, cuts)), plan(data.lazy()).collect())
    assert_same(found.collect(data), plan(data.lazy()).collect())


@given(rows=rows_of, cuts=cuts_of)
@settings(max_examples=20)
def test_a_function_of_each_group(rows: Any, cuts: Any) -> None:
    def spread(group: pl.DataFrame) -> pl.DataFrame:
        return group.select(pl.col("k").first(), rows=pl.len().cast(pl.Int64), last=pl.col("n").last())

    data = frame(rows)
    found = stream().group_by("k").map_groups(spread, {"k": pl.String, "rows": pl.Int64, "last": pl.Int64})
    wanted = data.group_by("k").agg(rows=pl.len().cast(pl.Int64), last=pl.col("n").last())
    assert_same(run_pieces(found._node, cut(data, cuts)), wanted)
    assert_same(found.collect(data), wanted)


def test_what_makes_no_sense_is_refused_with_the_cure() -> None:
    rows = stream()
    with pytest.raises(ars.ArrowStreamError, match="one call for each"):
        rows.with_columns(pl.col("x").sum().over("k"), pl.col("n").sum().over("f"))
    with pytest.raises(ars.ArrowStreamError, match="above zero"):
        rows.top_k(0, by="x")
    with pytest.raises(ars.ArrowStreamError, match="'q'"):
        rows.top_k(1, by="q")
    with pytest.raises(ars.ArrowStreamError, match="not any, first, last or none"):
        rows.unique(keep="some")
    with pytest.raises(ars.ArrowStreamError, match="with_watermark"):
        rows.unique("k", within="1s")
    with pytest.raises(ars.ArrowStreamError, match="within='0s' must be above zero"):
        ars.StreamingContext().read.memory({"t": pl.Datetime, "k": pl.Int64}).with_watermark("t", "1s").unique(
            "k", within="0s"
        )
    with pytest.raises(ars.ArrowStreamError, match="depend"):
        rows.with_columns(pl.col("x").sum().over("k"), y=pl.col("n").shift())


@pytest.mark.parametrize("rank", [None, "place"])
@pytest.mark.parametrize("changing", [True, False])
def test_of_equal_rows_that_are_nothing_but_their_key_as_many_are_best_as_there_are(
    rank: str | None, changing: bool
) -> None:
    """The two newest of each (shop, hour), of rows that have only shop and hour."""
    data = frame([("a", 1, None), ("a", 1, None), ("a", 1, None), ("b", 1, None)])
    rows = stream().unique("n", keep="none" if changing else "first").select("k", "x")
    chosen = rows.top_k(2, by="x", group_by=["k", "x"], rank=rank)
    assert sorted(run_pieces(chosen._node, cut(data, [0.5])).select("k", "x").rows()) == [
        ("a", 1), ("a", 1), ("b", 1),
    ]  # fmt: skip
    chosen.check(data)
