"""Aggregates taken apart give, over any cut, what Polars gives in one shot."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from arrowstream.errors import NotRowLocalError, PlanError
from arrowstream.plan.aggregates import ROWS, Decomposition, NotDecomposable, canonical, decompose
from arrowstream.plan.expressions import expand_grouped
from arrowstream.plan.groupwise import TOO_LARGE
from arrowstream.plan.running import column_name

SCHEMA = pl.Schema(
    {
        "k": pl.String(),
        "g": pl.Float64(),
        "n": pl.Int64(),
        "i": pl.Int64(),
        "tiny": pl.Int8(),
        "u": pl.UInt64(),
        "f": pl.Float64(),
        "h": pl.Float32(),
        "s": pl.String(),
        "b": pl.Boolean(),
        "d": pl.Date(),
        "ts": pl.Datetime("us", "UTC"),
        "dur": pl.Duration("us"),
        "tm": pl.Time(),
        "dec": pl.Decimal(12, 2),
        "en": pl.Enum(["p", "q"]),
        "xs": pl.List(pl.Int64()),
        "st": pl.Struct({"x": pl.Float64(), "y": pl.Int64()}),
    }
)
k, g, n, i, tiny, u, f, h, s, b, d, ts, dur, tm, dec, en, xs, struct = (pl.col(name) for name in SCHEMA)

FLOATS = [0.0, -0.0, 1.5, -2.25, 1e9, 0.1, math.nan, math.inf, -math.inf]
DAY = datetime(1969, 12, 30)


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values | values | values


CELLS = {
    "k": some(st.sampled_from(["x", "y", ""])),
    "g": some(st.sampled_from([0.0, -0.0, math.nan, 1.0])),
    "n": some(st.integers(0, 2)),
    "i": some(st.integers(-5, 5) | st.sampled_from([2**61, -(2**61)])),
    "tiny": some(st.integers(-128, 127)),
    "u": some(st.integers(0, 9)),
    "f": some(st.sampled_from(FLOATS) | st.floats(-100, 100)),
    "h": some(st.sampled_from([0.0, -0.0, 1.5, -2.25, 0.5, math.nan])),
    "s": some(st.sampled_from(["", "a", "b", "Z"])),
    "b": some(st.booleans()),
    "d": some(st.dates(date(1960, 1, 1), date(2030, 1, 1))),
    "ts": some(st.integers(-(10**12), 10**12).map(lambda us: DAY + timedelta(microseconds=us))),
    "dur": some(st.integers(-(10**9), 10**9).map(lambda us: timedelta(microseconds=us))),
    "tm": some(st.times()),
    "dec": some(st.integers(-9999, 9999).map(lambda cents: Decimal(cents) / 100)),
    "en": some(st.sampled_from(["p", "q"])),
    "xs": some(st.lists(some(st.integers(0, 3)), max_size=3)),
    "st": some(st.fixed_dictionaries({"x": some(st.sampled_from([0.0, -0.0, math.nan])), "y": some(st.just(1))})),
}
ROWS_OF = st.lists(st.fixed_dictionaries(CELLS), max_size=14)

KEYS: list[list[pl.Expr]] = [
    [k],
    [g],
    [struct],
    [n, k],
    [b, d.dt.month().alias("month")],
    [(n % 2).alias("n")],
    [s.str.to_lowercase()],
    [en],
    [ts.dt.truncate("1d")],
    [dec, g],
    [],
]

# Aggregates that rows can be taken back from.
EXACT = [
    pl.len(),
    i.count(),
    i.len(),
    i.filter(f > 0).len(),
    s.null_count(),
    xs.has_nulls(),
    (i // 7).sum(),
    (i % 1000).mean(),
    tiny.sum(),
    tiny.mean(),
    u.sum(),
    u.mean(),
    b.sum(),
    b.mean(),
    dec.sum(),
    dec.mean(),
    dur.sum(),
    dur.mean(),
    ts.mean(),
    d.mean(),
    tm.mean(),
    b.any(),
    b.all(),
    b.any(ignore_nulls=False),
    b.all(ignore_nulls=False),
    b.filter(n == 1).all(ignore_nulls=False),
    (f > 1).any(),
    f.n_unique(),
    h.n_unique(),
    s.n_unique(),
    struct.n_unique(),
    i.filter(b).n_unique(),
    (i.filter(b) % 3).n_unique(),
    i.drop_nulls().n_unique(),
    tiny.filter(s == "a").sum(),
    (tiny.filter(s == "a") * 2).mean(),
    dec.filter(b).sum(),
    dur.filter(b).sum(),
    k.filter(n > 0).null_count(),
]
APPENDING = [
    f.sum(),
    f.mean(),
    f.var(),
    f.std(ddof=0),
    h.sum(),
    h.mean(),
    h.std(),
    tiny.var(ddof=2),
    b.std(),
    dec.var(),
    *(column.min() for column in (i, tiny, u, f, h, s, b, d, ts, dur, tm, dec, en)),
    *(column.max() for column in (i, tiny, u, f, h, s, b, d, ts, dur, tm, dec, en)),
    f.nan_min(),
    h.nan_max(),
    f.filter(b).max(),
    *(column.first() for column in (i, f, s, b, ts, dec, en, xs, struct)),
    *(column.last() for column in (i, f, s, b, ts, dec, en, xs, struct)),
    i.first(ignore_nulls=True),
    s.last(ignore_nulls=True),
    i.filter(n > 1).first(),
    s.filter(b).last(),
    i.drop_nulls().first(),
    i.filter(b).first(ignore_nulls=True),
    xs.explode().sum(),
    xs.explode().last(),
    (tiny % 4).product(),
    h.clip(-2, 2).product(),
    i.implode(),
    i,
    f.filter(b),
    xs,
    (tiny * 2).cast(pl.String),
    k.first(),
]


def nested(leaves: list[pl.Expr]) -> st.SearchStrategy[pl.Expr]:
    """Arithmetic over aggregates, as people write it."""
    number = st.sampled_from(
        [pl.len(), tiny.count(), tiny.sum(), tiny.mean(), u.sum(), b.sum(), (tiny > 0).sum(), tiny.filter(b).sum()]
    )
    return st.one_of(
        st.sampled_from(leaves),
        st.builds(lambda one, two: (one / two).round(2), number, number),
        st.builds(lambda one, two: pl.when(one > 3).then(two).otherwise(-1), number, number),
        st.builds(lambda one, two: one.cast(pl.Int64) * 2 - two.cast(pl.Int64), number, number),
        st.builds(lambda one, two: pl.struct(one.alias("p"), two.alias("q")), number, number),
        st.builds(lambda one: pl.format("{} of them", one), st.sampled_from([pl.len().cast(pl.Int64), tiny.sum()])),
        st.builds(lambda one: one.is_null() | (one == math.inf), number),
        st.just(pl.lit("constant")),
    )


def labels(frame: pl.DataFrame, keys: Sequence[str]) -> list[str]:
    """One label a row for its key. Polars 2.1 does not match NaN in a join of single rows, so no join here."""
    return [repr(row) for row in frame.select(keys).rows()] if keys else [""] * frame.height


class State:
    """Keyed state as frames: what the operator does, as simply as it can be written."""

    def __init__(self, plan: Decomposition) -> None:
        self.plan = plan
        self.keys = list(plan.keys)
        self.groups = pl.Schema({**plan.keys, **plan.accumulators}).to_frame()
        self.pairs = {one.name: one.schema.to_frame() for one in plan.pairs}

    def process(self, parts: Sequence[pl.DataFrame], weight: str | None = None) -> None:
        partials = [self.plan.partial(part.lazy(), weight).collect() for part in parts]
        for partial in partials:
            assert partial.schema == pl.Schema({**self.plan.keys, **self.plan.accumulators})
        touched = self.plan.merge(pl.concat(partials).lazy()).collect()
        assert touched.schema == self.groups.schema
        if touched.is_empty():
            return
        for one in self.plan.pairs:
            seen = pl.concat([one.partial(part.lazy(), weight).collect() for part in parts])
            before, self.pairs[one.name] = (
                self.pairs[one.name],
                one.merge(pl.concat([self.pairs[one.name], seen]).lazy()).collect(),
            )
            for name in one.columns:
                counts = [
                    self.count(touched, frame.filter(pl.col(name).cast(pl.Int64) > 0))
                    for frame in (before, self.pairs[one.name])
                ]
                touched = touched.with_columns(pl.Series(name, counts[1]) - pl.Series(counts[0]))
        places = {label: at for at, label in enumerate(labels(self.groups, self.keys))}
        slots = pl.Series([places.get(label) for label in labels(touched, self.keys)], dtype=pl.UInt32)
        accumulators = self.plan.accumulators.names()
        old = self.groups.select(pl.col(accumulators).gather(slots))
        new = self.plan.combine(old, touched.select(accumulators))
        assert new.schema == self.plan.accumulators
        changed = pl.concat([touched.select(self.keys), new], how="horizontal")
        kept = pl.int_range(pl.len(), dtype=pl.UInt32).is_in(slots.drop_nulls().implode()).not_()
        self.groups = pl.concat([self.groups.filter(kept), changed])
        if weight is not None:
            self.groups = self.groups.filter(pl.col(ROWS) > 0)

    def count(self, touched: pl.DataFrame, pairs: pl.DataFrame) -> list[int]:
        """How many of the pairs each touched group has."""
        held = labels(pairs, self.keys)
        return [held.count(label) for label in labels(touched, self.keys)]

    def too_large(self) -> str:
        """Why the one group there is cannot be shown."""
        return str(self.plan.final(self.groups)[TOO_LARGE].item())

    def result(self) -> pl.DataFrame:
        out = self.plan.final(self.groups) if self.groups.height or self.keys else self.plan.final_of_nothing()
        if self.plan.flagged:
            assert out[TOO_LARGE].null_count() == out.height
            out = out.drop(TOO_LARGE)
        assert out.schema == self.plan.output
        return out


def one_shot(frame: pl.DataFrame, by: Sequence[pl.Expr], aggs: Sequence[pl.Expr]) -> pl.DataFrame:
    if by and frame.is_empty():
        # Polars 2.1 may panic in `format` over no rows.
        return frame.lazy().group_by(by).agg(aggs).collect_schema().to_frame()
    return frame.group_by(by, maintain_order=True).agg(aggs) if by else frame.select(aggs)


def planned(by: Sequence[pl.Expr], aggs: Sequence[pl.Expr], weighted: bool = False) -> Decomposition:
    return decompose(*expand_grouped(SCHEMA, by, aggs), SCHEMA, weighted=weighted)


def check(result: pl.DataFrame, oracle: pl.DataFrame, keys: Sequence[str]) -> None:
    """Equal as multisets of rows, after the documented widening; floats within a tolerance."""
    oracle = oracle.with_columns(canonical(pl.col(name), oracle.schema[name]).alias(name) for name in keys)
    for name, dtype in result.schema.items():
        if oracle.schema[name] != dtype:
            assert _widened(oracle.schema[name], dtype), (name, oracle.schema[name], dtype)
            oracle = oracle.with_columns(pl.col(name).cast(dtype))
    if keys:
        ours, theirs = labels(result, keys), labels(oracle, keys)
        assert sorted(ours) == sorted(theirs)
        result = result[[ours.index(label) for label in theirs]]
    assert_frame_equal(result, oracle, rel_tol=1e-6, abs_tol=1e-6)


def _widened(narrow: Any, wide: Any) -> bool:
    if isinstance(narrow, pl.Struct):
        pairs = zip(narrow.fields, wide.fields, strict=True)
        return all(a.dtype == b.dtype or _widened(a.dtype, b.dtype) for a, b in pairs)
    return bool(narrow == pl.UInt32 and wide == pl.Int64)


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


def cut(frame: pl.DataFrame, marks: Sequence[int]) -> list[pl.DataFrame]:
    bounds = [0, *sorted(marks), frame.height]
    return [frame[low : max(low, high)] for low, high in pairwise(bounds)]


def outputs(exprs: Sequence[pl.Expr], by: Sequence[pl.Expr]) -> list[pl.Expr]:
    """Names of their own; an expression that is no aggregate has no meaning without keys."""
    kept = [one for one in exprs if by or "implode" in str(one) or one.meta.is_scalar()] or [pl.len()]
    return [one.alias(f"out{at}") for at, one in enumerate(kept)]


@given(
    rows=ROWS_OF,
    marks=st.lists(st.integers(0, 14), max_size=5),
    batches=st.integers(1, 3),
    by=st.sampled_from(KEYS),
    exprs=st.lists(nested(EXACT + APPENDING), min_size=1, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_what_one_shot_gives(
    rows: list[dict[str, Any]], marks: list[int], batches: int, by: list[pl.Expr], exprs: list[pl.Expr]
) -> None:
    """The law: partials of any cut, merged in sub-groups and combined batch by batch, end in Polars' answer."""
    frame = frame_of(rows)
    aggs = outputs(exprs, by)
    plan = pickle.loads(pickle.dumps(planned(by, aggs)))
    state = State(plan)
    parts = cut(frame, marks)
    for at in range(0, len(parts), batches):
        state.process(parts[at : at + batches])
    check(state.result(), one_shot(frame, by, aggs), plan.keys.names())


@given(
    rows=ROWS_OF,
    gone=st.sets(st.integers(0, 13)),
    mark=st.integers(0, 14),
    by=st.sampled_from(KEYS),
    exprs=st.lists(nested(EXACT), min_size=1, max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_rows_taken_back_leave_no_trace(
    rows: list[dict[str, Any]], gone: set[int], mark: int, by: list[pl.Expr], exprs: list[pl.Expr]
) -> None:
    """An aggregate of an aggregate sees rows come and go: what remains is as if the others had never been."""
    frame = frame_of(rows)
    aggs = outputs(exprs, by)
    plan = planned(by, aggs, weighted=True)
    weighed = frame.with_columns(pl.lit(1, pl.Int64).alias("w")).with_row_index("at")
    back = weighed.filter(pl.col("at").is_in(list(gone))).with_columns(pl.lit(-1, pl.Int64).alias("w"))
    stream = pl.concat([weighed, back]).drop("at")
    state = State(plan)
    mark = min(mark, frame.height)
    state.process([stream[:mark], stream[mark : frame.height]], "w")
    state.process([stream[frame.height :]], "w")
    kept = frame.with_row_index("at").filter(~pl.col("at").is_in(list(gone))).drop("at")
    check(state.result(), one_shot(kept, by, aggs), plan.keys.names())


@pytest.mark.parametrize("expr", EXACT + APPENDING, ids=lambda one: " ".join(str(one).split())[:50])
def test_each_aggregate_on_nothing_and_on_nulls(expr: pl.Expr) -> None:
    """A stream begins with no rows, and a column may never hold a value."""
    nulls = frame_of([dict.fromkeys(SCHEMA)] * 3)
    aggs = [expr.alias("out")]
    state = State(planned([k], aggs))
    state.process([nulls[:1], nulls[1:]])
    check(state.result(), one_shot(nulls, [k], aggs), ["k"])
    if expr.meta.is_scalar():
        check(planned([], aggs).final_of_nothing().drop(TOO_LARGE, strict=False), one_shot(nulls.clear(), [], aggs), [])


def test_presence_is_kept() -> None:
    """A first value that comes in a later batch, and a first value that is null."""
    frame = frame_of([{"k": "x", "i": 1}, {"k": "x", "i": 9}, {"k": "x", "i": None}, {"k": "x", "i": 7}])
    state = State(
        planned([k], [i.filter(i > 5).first().alias("big"), i.filter(i.is_null()).first().is_null().alias("no")])
    )
    for part in cut(frame, [1, 2, 3]):
        state.process([part])
    assert state.result().row(0) == ("x", 9, True)
    leading = State(planned([k], [i.first().alias("first"), i.last().alias("last")]))
    leading.process([frame[2:3]])
    leading.process([frame[:1]])
    assert leading.result().row(0) == ("x", None, 1)


def test_accumulators_are_shared() -> None:
    """Ten aggregates over the same column keep its sum and count once."""
    plan = planned(
        [k], [i.sum().alias("a"), i.mean().alias("b"), (i.sum() / i.count()).alias("c"), pl.len().alias("d")]
    )
    assert plan.accumulators.names() == [ROWS, column_name(0, "high"), column_name(0, "low"), column_name(1, "values")]


def test_counts_are_widened() -> None:
    """Polars' UInt32 wraps after 12 hours of 100,000 rows a second."""
    plan = planned([k], [pl.len(), i.count().alias("c"), b.sum().alias("b"), s.n_unique().alias("u"), tiny.sum()])
    assert [str(dtype) for dtype in plan.output.values()] == ["String", *["Int64"] * 5]
    state = plan.partial(frame_of([{"k": "x", "b": True}]).lazy()).collect()
    many = state.with_columns(pl.lit(2**40, pl.Int64).alias(ROWS))
    assert plan.final(many)["len"].item() == 2**40


def test_sums_do_not_wrap() -> None:
    """A sum that leaves 64 bits is not shown, and the reason names the expression; it may come back."""
    plan = planned([k], [i.sum().alias("total")])
    state = State(plan)
    state.process([frame_of([{"k": "x", "i": 2**62}, {"k": "x", "i": 2**62}])])
    assert 'col("i").sum() passes 64 bits; take .cast(pl.Float64)' in state.too_large()
    state.process([frame_of([{"k": "x", "i": -(2**62)}])])
    assert state.result()["total"].item() == 2**62
    product = State(planned([k], [i.product().alias("p")]))
    product.process([frame_of([{"k": "x", "i": 2**40}])])
    product.process([frame_of([{"k": "x", "i": 2**40}])])
    assert "product() passes 64 bits" in product.too_large()
    unsigned = State(planned([k], [u.sum().alias("total")]))
    unsigned.process([frame_of([{"k": "x", "u": 2**63}, {"k": "x", "u": 2**62}])])
    assert unsigned.result()["total"].item() == 2**63 + 2**62


def test_means_of_whole_numbers_are_exact() -> None:
    """Polars adds up floats for a mean, and loses the -1 between two large values."""
    state = State(planned([k], [i.mean().alias("mean")]))
    state.process([frame_of([{"k": "x", "i": 2**62}, {"k": "x", "i": -1}, {"k": "x", "i": 2**62}])])
    state.process([frame_of([{"k": "x", "i": -(2**63)}])])
    assert state.result()["mean"].item() == -0.25


def test_float_sums_are_compensated() -> None:
    """A million small values beside a large one, batch by batch, do not drown."""
    state = State(planned([k], [f.sum().alias("total"), f.mean().alias("mean")]))
    state.process([frame_of([{"k": "x", "f": 1e16}])])
    for _ in range(100):
        state.process([frame_of([{"k": "x", "f": 1.0}])])
    state.process([frame_of([{"k": "x", "f": -1e16}])])
    assert state.result()["total"].item() == 100.0


def test_variance_of_large_values() -> None:
    """Timestamps as floats differ little: sums of squares would give noise or less than nothing."""
    values = [1e9 + at for at in (0.0, 1.0, 2.0, 3.0)]
    state = State(planned([k], [f.var().alias("v")]))
    for value in values:
        state.process([frame_of([{"k": "x", "f": value}])])
    assert state.result()["v"].item() == pytest.approx(5 / 3, rel=1e-9)


def test_float_keys_have_one_label() -> None:
    """-0.0 and 0.0 are one group, and so are all NaN, in every part alike."""
    plan = planned([g], [pl.len()])
    frame = frame_of([{"g": 0.0}, {"g": -0.0}, {"g": math.nan}, {"g": -math.nan}])
    partials = [plan.partial(part.lazy()).collect() for part in cut(frame, [1, 2, 3])]
    bits = pl.concat(partials)["g"].to_numpy().view("u8").tolist()
    assert bits[0] == bits[1] == 0
    assert bits[2] == bits[3]


@pytest.mark.parametrize(
    ("expr", "why"),
    [
        (i.median(), "median"),
        (i.quantile(0.3), "quantile"),
        (i.sort_by("f").first(), "all the rows of a group"),
        (i.map_batches(lambda x: x, returns_scalar=True), "all the rows of a group"),
        (i.unique().len(), "all the rows"),
        ((i - i.mean()).sum(), "all the rows"),
        (i - i.mean(), "one value a row"),
        (i.sum() / n, ".first() for a key"),
        (i.head(2), "all the rows of a group"),
        (s.str.join(","), "all the rows"),
        (i.sum().over("k"), "all the rows"),
        (pl.lit(1).sum(), "reads no column"),
        (d.sum(), "Date"),
        (xs.explode().n_unique(), "number of rows"),
    ],
    ids=str,
)
def test_what_cannot_be_taken_apart_is_named(expr: pl.Expr, why: str) -> None:
    """These need the rows of a group; the caller may keep and recompute them."""
    with pytest.raises(NotDecomposable) as caught:
        planned([n], [expr.alias("out")])
    assert str(caught.value).startswith("agg: ")
    assert why in str(caught.value)


@pytest.mark.parametrize("expr", [f.sum(), f.mean(), i.min(), i.max(), i.first(), i.std(), i, i.product()], ids=str)
def test_what_cannot_be_taken_back_is_named(expr: pl.Expr) -> None:
    """A minimum does not know the second least value; floats do not subtract."""
    with pytest.raises(NotDecomposable, match="append-only"):
        planned([n], [expr.alias("out")], weighted=True)


def test_wrong_plans_fail_at_the_line() -> None:
    """Doubled names, keys that are not row-local, and a column in place of an aggregate."""
    with pytest.raises(PlanError, match=r"more than one occurrence|given twice"):
        planned([k], [i.sum(), i.mean()])
    with pytest.raises(NotRowLocalError, match="group_by"):
        planned([i.rank()], [pl.len()])
    with pytest.raises(NotDecomposable, match="is not an aggregate"):
        planned([], [i])
    with pytest.raises(PlanError):
        planned([k], [s.mean() + d.sum()])
