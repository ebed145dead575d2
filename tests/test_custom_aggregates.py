"""Aggregates of the user's own, held to the law: any cut gives what Polars gives in one shot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from apart import source
from hypothesis import given
from hypothesis import strategies as st
from lawful import SCHEMA, assert_same_rows, frames

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.errors import NotRowLocalError, PlanError
from arrowstream.frame import StreamFrame
from arrowstream.plan.running import column_name

Parts = Mapping[str, pl.Expr]


class WeightedMean:
    """Two columns; the parts are sums."""

    def partial(self, value: pl.Expr, weight: pl.Expr) -> Parts:
        return {"total": (value * weight).sum(), "weight": pl.when(value.is_not_null()).then(weight).sum()}

    def merge(self, parts: Parts) -> Parts:
        return {name: part.sum() for name, part in parts.items()}

    def final(self, parts: Parts) -> pl.Expr:
        return pl.when(parts["weight"] != 0).then(parts["total"] / parts["weight"])


class Spread:
    """Parts that depend on each other when they are merged: Chan's variance, from count, mean and squares."""

    def partial(self, x: pl.Expr) -> Parts:
        n = x.count()
        return {"n": n, "mean": x.mean().fill_null(0.0), "squares": (x.var(ddof=0) * n).fill_null(0.0)}

    def merge(self, parts: Parts) -> Parts:
        n, mean = parts["n"], parts["mean"]
        middle = pl.when(n.sum() > 0).then((n * mean).sum() / n.sum()).otherwise(0.0)
        return {"n": n.sum(), "mean": middle, "squares": (parts["squares"] + n * (mean - middle) ** 2).sum()}

    def final(self, parts: Parts) -> pl.Expr:
        return pl.when(parts["n"] > 0).then(parts["squares"] / parts["n"])


class Change:
    """The last value less the first: the order of arrival counts."""

    def partial(self, x: pl.Expr) -> Parts:
        return {"first": x.first(ignore_nulls=True), "last": x.last(ignore_nulls=True)}

    def merge(self, parts: Parts) -> Parts:
        return {"first": parts["first"].first(ignore_nulls=True), "last": parts["last"].last(ignore_nulls=True)}

    def final(self, parts: Parts) -> pl.Expr:
        return parts["last"] - parts["first"]


class Seen:
    """Parts that are lists."""

    def __init__(self, most: int) -> None:
        self.most = most

    def partial(self, x: pl.Expr) -> Parts:
        return {"values": x.drop_nulls().unique().sort().head(self.most).implode()}

    def merge(self, parts: Parts) -> Parts:
        values = parts["values"].explode(empty_as_null=False, keep_nulls=False)
        return {"values": values.unique().sort().head(self.most).implode()}

    def final(self, parts: Parts) -> pl.Expr:
        return parts["values"].list.len().cast(pl.Int64)


EXPRESSIONS = [
    ars.aggregate(WeightedMean(), "i", "j").alias("y"),
    (ars.aggregate(Spread(), pl.col("i") * 2) + pl.len().cast(pl.Float64)).round(6).alias("y"),
    ars.aggregate(Change(), "i").alias("y"),
    ars.aggregate(Change(), pl.col("i").filter(pl.col("b"))).alias("y"),
    ars.aggregate(Seen(2), "i").alias("y"),
]


def orders() -> StreamFrame:
    return source("rows", SCHEMA)


def cut(rows: pl.DataFrame, at: list[int]) -> list[dict[str, pl.DataFrame]]:
    edges = [0, *sorted(min(place, rows.height) for place in at), rows.height]
    return [{"rows": rows[start:stop]} for start, stop in pairwise(edges)]


cuts = st.lists(st.integers(0, 40), max_size=6)


@given(frames(), cuts, st.sampled_from(EXPRESSIONS), st.sampled_from([[], ["k"], ["k", "g"]]), st.integers(1, 3))
def test_any_cut_gives_what_one_shot_gives(
    rows: pl.DataFrame, at: list[int], expression: pl.Expr, keys: list[str], partitions: int
) -> None:
    """Grouped and not, with nulls and empty groups, over several workers; Polars runs the same expression."""
    frame = orders().group_by(keys).agg(expression) if keys else orders().agg(expression)
    assert "Aggregate" in frame.explain()
    lazy = rows.lazy().group_by(keys).agg(expression) if keys else rows.lazy().select(expression)
    wanted = lazy.collect().cast(dict(frame.schema))  # type: ignore[arg-type]
    assert_same_rows(run_pieces(frame._node, cut(rows, at), partitions=partitions), wanted)
    assert_same_rows(frame.collect(rows), wanted)


WINDOWED: dict[str, Callable[[Any, pl.Expr], Any]] = {
    "windows": lambda frame, y: frame.group_by_dynamic("t", every="5i", group_by="k").agg(y),
    "rolling": lambda frame, y: frame.rolling("t", period="5i", group_by="k").agg(y),
}
TIMED = pl.Schema({"k": pl.Int64(), "t": pl.Int64(), "i": pl.Int64(), "j": pl.Int32(), "b": pl.Boolean()})
timed_rows = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.none() | st.integers(-5, 5), st.integers(1, 3), st.booleans()),
    max_size=30,
).map(lambda rows: pl.DataFrame(rows, schema=TIMED, orient="row").sort("t", maintain_order=True))


@given(timed_rows, cuts, st.sampled_from(EXPRESSIONS), st.sampled_from(sorted(WINDOWED)))
def test_in_windows_too(rows: pl.DataFrame, at: list[int], expression: pl.Expr, form: str) -> None:
    frame = WINDOWED[form](source("rows", TIMED).with_watermark("t", 0), expression)
    found = run_pieces(frame._node, cut(rows, at))
    oracle = WINDOWED[form](rows.lazy(), expression).collect().cast(dict(frame.schema))
    assert_same_rows(found, oracle.select(found.columns))


@given(timed_rows, cuts, st.sampled_from(EXPRESSIONS[:3]))
def test_in_sessions_and_hopping_windows(rows: pl.DataFrame, at: list[int], expression: pl.Expr) -> None:
    """In pieces as in one shot."""
    timed = source("rows", TIMED).with_watermark("t", 0)
    for frame in (
        timed.group_by_session("t", gap=4, group_by="k").agg(expression),
        timed.group_by_dynamic("t", every="2i", period="6i", group_by="k").agg(expression),
    ):
        assert_same_rows(run_pieces(frame._node, cut(rows, at)), frame.collect(rows))


@given(frames(), cuts)
def test_over_a_result_that_changes_it_is_computed_anew(rows: pl.DataFrame, at: list[int]) -> None:
    """An own aggregate cannot take a row back: the groups that change are computed from their rows."""

    def both(frame: Any, *, wide: bool) -> Any:
        inner = frame.group_by("k", "b").agg(n=pl.len())
        inner = inner.with_columns(pl.col("n").cast(pl.Int64)) if wide else inner
        return inner.group_by("b").agg(ars.aggregate(Spread(), "n").alias("y"))

    frame = both(orders(), wide=False)
    assert "Recompute" in frame.explain()
    assert_same_rows(run_pieces(frame._node, cut(rows, at)), both(rows.lazy(), wide=True).collect())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_of_the_users_own_runs_on_workers(workers: int) -> None:
    """Typical prices by shop, and what is kept for them."""
    ctx = ars.StreamingContext("20ms", workers=workers)
    rows = ctx.read.memory({"shop": pl.String, "price": pl.Float64, "pieces": pl.Int32})
    rows.group_by("shop").agg(ars.aggregate(WeightedMean(), "price", "pieces").alias("mean")).write.memory("t")
    with ctx:
        ctx.start()
        for price in (1.0, 2.0, 6.0):
            rows.source.send([{"shop": "a", "price": price, "pieces": 1}, {"shop": "b", "price": price, "pieces": 2}])
            ctx.process_all_available(timeout=60)
        assert ctx.sql("FROM t ORDER BY shop").fetchall() == [("a", 3.0), ("b", 3.0)]
        kept = ctx.state("group_by shop").pl().sort("shop")
        assert kept.columns == ["shop", "rows", "WeightedMean(price).total", "WeightedMean(price).weight"]
        assert kept["WeightedMean(price).weight"].to_list() == [3, 6]


def test_counts_inside_do_not_wrap() -> None:
    """Polars counts in 32 bits; what is kept is wider, so a long stream goes on counting."""
    frame = orders().group_by("k").agg(ars.aggregate(Spread(), "i").alias("y"))
    assert frame._node.decomposition.accumulators[column_name(0, "n")] == pl.Int64  # type: ignore[attr-defined]


class Broken:
    """Each part can be replaced by one that is wrong."""

    def __init__(self, **wrong: Any) -> None:
        self.wrong = wrong

    def partial(self, x: pl.Expr) -> Any:
        return self.wrong.get("partial", {"n": x.sum()})

    def merge(self, parts: Parts) -> Any:
        return self.wrong.get("merge", {"n": parts["n"].sum()})

    def final(self, parts: Parts) -> Any:
        return self.wrong.get("final", parts["n"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"partial": [pl.col("0").sum()]}, r"Broken.partial must give a dict from names to Polars expressions"),
        ({"partial": {"n": pl.col("0") + 1}}, r"Broken.partial: 'n' is not one value of each group"),
        ({"merge": {"m": pl.col("n").sum()}}, r"Broken.merge gives \['m'\], and partial \['n'\]"),
        ({"final": 1}, r"Broken.final gives int, it must give a Polars expression"),
        ({"final": pl.col("n").max()}, r"Broken.final must work on the parts of each group alone"),
    ],
)
def test_a_class_that_is_wrong_is_refused_at_its_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        orders().group_by("k").agg(ars.aggregate(Broken(**wrong), "i").alias("y"))


def test_what_is_no_aggregator_is_refused() -> None:
    with pytest.raises(PlanError, match="str has no method partial"):
        ars.aggregate("sum", "i")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="of which columns"):
        ars.aggregate(Change())
    with pytest.raises(NotRowLocalError):
        orders().select(ars.aggregate(Change(), "i"))
