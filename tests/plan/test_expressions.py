"""Expressions as trees: they rebuild, they expand as Polars does, and their form is pinned."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrowstream.errors import ColumnError, PlanError
from arrowstream.plan.expressions import (
    Call,
    Column,
    ExprRef,
    Literal,
    Node,
    Opaque,
    Selector,
    build,
    columns,
    describe,
    expand,
    expand_grouped,
    parse,
    unaliased,
    user_line,
    walk,
)

SCHEMA = pl.Schema(
    {
        "a": pl.Int64(),
        "b": pl.Float64(),
        "s": pl.String(),
        "st": pl.Struct({"x": pl.Int64(), "y": pl.String()}),
        "xs": pl.List(pl.Int64()),
    }
)
a, b, s = pl.col("a"), pl.col("b"), pl.col("s")


def sketch(node: Node) -> str:
    """A tree as text, without the bytes of its options."""
    match node:
        case Column(name):
            return name
        case Literal(_, scalar):
            return "lit" if scalar else "series"
        case Selector():
            return "selector"
        case Opaque():
            return "opaque"
        case Call(op, _, inputs, inner):
            body = f"[{', '.join(map(sketch, inner))}]" if inner else ""
            return f"{op}({', '.join(map(sketch, inputs))}){body}"


# What Polars 2.1 writes: a version that writes otherwise is found here, by name.
GOLDEN = {
    "a": a,
    "selector": pl.col("a", "b"),
    "lit": pl.lit(1),
    "series": pl.lit(pl.Series([1, 2])),
    "Len()": pl.len(),
    "BinaryExpr.Plus(BinaryExpr.Multiply(a, lit), b)": a * 2 + b,
    "Function.Negate(a)": -a,
    "Agg.Sum(Filter(a, BinaryExpr.Gt(b, lit)))": a.filter(b > 1).sum(),
    "Agg.Std(a)": a.std(ddof=0),
    "Agg.Min(a)": a.min(),
    "Agg.Count(a)": a.count(),
    "Agg.FirstNonNull(a)": a.first(ignore_nulls=True),
    "Agg.Implode(a)": a.implode(),
    "Agg.NUnique(a)": a.n_unique(),
    "Function.NullCount(a)": a.null_count(),
    "Function.Product(a)": a.product(),
    "Function.Boolean.Any(BinaryExpr.Gt(a, lit))": (a > 1).any(),
    "Function.Boolean.IsIn(a, lit)": a.is_in([1, 2]),
    "Function.StringExpr.Uppercase(s)": s.str.to_uppercase(),
    "Function.StringExpr.Strptime(s, lit)": s.str.to_date("%Y"),
    "Function.TemporalExpr.Truncate(s, lit)": s.dt.truncate("1d"),
    "Function.Round(a)": a.round(2),
    "Function.Pow.Generic(a, lit)": a**2,
    "Function.FillNullWithStrategy.Forward(a)": a.fill_null(strategy="forward"),
    "Function.StructExpr.FieldByName(st)": pl.col("st").struct.field("x"),
    "Ternary(BinaryExpr.Gt(a, lit), lit, b)": pl.when(a > 1).then(2).otherwise(b),
    "Cast(a)": a.cast(pl.Int8),
    "Alias(a)": a.alias("z"),
    "RenameAlias(a)": a.name.suffix("_z"),
    "KeepName(Agg.Sum(a))": a.sum().name.keep(),
    "Over(Agg.Sum(a), s)": a.sum().over("s"),
    "Explode(xs)": pl.col("xs").explode(),
    "Eval.List(xs)[BinaryExpr.Plus(Element(), lit)]": pl.col("xs").list.eval(pl.element() + 1),
    "StructEval(st)[BinaryExpr.Plus(Field(), lit)]": pl.col("st").struct.with_fields(pl.field("x") + 1),
    "Agg.First(SortBy(a, b))": a.sort_by("b").first(),
    "Slice(a, lit, lit)": a.head(2),
    "Gather(a, lit)": a.get(0),
    "AnonymousFunction(a)": a.map_batches(lambda x: x),
    "opaque": a.pipe_with_dtype(lambda expr, dtype: expr),
}


@pytest.mark.parametrize("shape", GOLDEN)
def test_the_form_is_as_pinned(shape: str) -> None:
    """A Polars release changes how expressions are written: this says which."""
    assert sketch(parse(GOLDEN[shape])) == shape


@pytest.mark.parametrize("shape", [shape for shape in GOLDEN if shape not in ("AnonymousFunction(a)", "opaque")])
def test_a_tree_builds_the_same_expression(shape: str) -> None:
    """Aggregates are cut out of trees and the rest is built again."""
    expr = GOLDEN[shape]
    tree = parse(expr)
    assert build(tree).meta.eq(expr)
    assert pickle.loads(pickle.dumps(tree)) == tree
    for node in walk(tree):
        assert parse(build(node)) == node


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**100, -(2**64), None, "é", b"\xff", date(2020, 1, 1), Decimal("1.50")],
    ids=str,
)
def test_literals_keep_their_values(value: Any) -> None:
    """NaN and large integers get lost in Polars' JSON, not in its MessagePack."""
    (found,) = pl.select(build(parse(pl.lit(value)))).row(0)
    assert found == value or (isinstance(found, float) and math.isnan(found) and math.isnan(value))


@given(
    st.recursive(
        st.sampled_from([a, b, pl.lit(2), pl.lit(math.nan), a.sum(), pl.len(), pl.lit(timedelta(1)), pl.lit("x")]),
        lambda inner: st.one_of(
            st.builds(lambda x, y: x + y, inner, inner),
            st.builds(lambda x, y: pl.when(x.is_null()).then(y).otherwise(x), inner, inner),
            st.builds(lambda x: x.alias("z").max(), inner),
            st.builds(lambda x, y: pl.struct(x.alias("p"), y.alias("q")), inner, inner),
        ),
        max_leaves=6,
    )
)
def test_any_tree_survives(expr: pl.Expr) -> None:
    """Whatever is nested in whatever: there and back."""
    assert build(parse(expr)).meta.eq(expr)
    assert str(build(parse(expr))) == str(expr)


def test_user_functions_survive() -> None:
    """A UDF is carried along as Polars pickles it; one that cannot be pickled is opaque."""
    tree = parse(s.map_elements(len, return_dtype=pl.Int64) + 1)
    frame = pl.DataFrame({"s": ["ab", "c"]})
    assert frame.select(build(tree)).to_series().to_list() == [3, 2]
    lock = threading.Lock()
    opaque = parse(a.map_elements(lambda x: x if lock else 0, return_dtype=pl.Int64))
    assert isinstance(opaque, Opaque)
    assert "cannot be serialized" in opaque.why
    assert "cannot be serialized" in describe(opaque)
    with pytest.raises(PlanError, match="cannot be rebuilt"):
        build(opaque)


def text(pairs: list[tuple[str, pl.Expr]]) -> list[str]:
    return [f"{name}={sketch(parse(expr))}" for name, expr in pairs]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("a", ["a=a"]),
        (["a", "b"], ["a=a", "b=b"]),
        (pl.all().exclude("st", "xs"), ["a=a", "b=b", "s=s"]),
        (cs.numeric() - cs.by_name("a"), ["b=b"]),
        (pl.col("^(a|b)$") * 2, ["a=BinaryExpr.Multiply(a, lit)", "b=BinaryExpr.Multiply(b, lit)"]),
        (pl.col("a", "b") + pl.col("b", "a"), ["a=BinaryExpr.Plus(a, b)", "b=BinaryExpr.Plus(b, a)"]),
        (cs.numeric().name.suffix("_x"), ["a_x=a", "b_x=b"]),
        (cs.numeric().sum().name.keep(), ["a=Agg.Sum(a)", "b=Agg.Sum(b)"]),
        (pl.struct(cs.numeric()), ["a=Function.AsStruct(a, b)"]),
        (pl.sum_horizontal(pl.col("a", "b"), a), ["a=Function.SumHorizontal(a, b, a)"]),
        (pl.coalesce(cs.numeric()), ["a=Function.Coalesce(a, b)"]),
        (pl.format("{}{}", pl.col("a", "b"), a), [f"{x}=Function.StringExpr.Format({x}, a)" for x in "ab"]),
        (pl.col("st").struct.unnest(), [f"{x}=Function.StructExpr.FieldByName(st)" for x in "xy"]),
        (pl.col("st").struct.field("y").alias("z"), ["z=Function.StructExpr.FieldByName(st)"]),
        (pl.nth(1), ["b=b"]),
        (pl.lit(1) + a, ["literal=BinaryExpr.Plus(lit, a)"]),
        (1, ["literal=lit"]),
        (cs.temporal(), []),
    ],
    ids=str,
)
def test_expansion_is_polars_own(expr: Any, expected: list[str]) -> None:
    """One name and one expression for each column, and evaluated they are what Polars gives."""
    found = expand(SCHEMA, expr)
    assert text(found) == expected
    frame = pl.DataFrame({"a": [1], "b": [0.5], "s": ["q"], "st": [{"x": 1, "y": "w"}], "xs": [[1]]}, schema=SCHEMA)
    assert frame.select(one.alias(name) for name, one in found).equals(frame.select(expr))


def test_expansion_of_several_and_named() -> None:
    """As `select("a", b * 2, c=...)`."""
    assert text(expand(SCHEMA, "a", b * 2, c=a.max())) == ["a=a", "b=BinaryExpr.Multiply(b, lit)", "c=Agg.Max(a)"]


def test_wrong_expansions_are_plan_errors() -> None:
    """Polars' own errors carry a plan of twenty lines; ours one sentence, and no chain behind it."""
    with pytest.raises(ColumnError, match=r"column 'bb' is not in the frame; it has: a, b.*did you mean 'b'") as caught:
        expand(SCHEMA, pl.col("bb") + 1)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(PlanError, match="different number of columns"):
        expand(SCHEMA, pl.col("a", "b") + pl.col("a", "b", "s"))
    with pytest.raises(PlanError, match="duplicate"):
        expand(SCHEMA, "a", "a")


def test_groups_leave_their_keys_out_of_selectors() -> None:
    """`group_by("a").agg(pl.all().first())` is about the other columns."""
    keys, aggs = expand_grouped(SCHEMA, [a % 2], [cs.numeric().sum(), pl.len()])
    assert text(keys) == ["a=BinaryExpr.Modulus(a, lit)"]
    assert text(aggs) == ["b=Agg.Sum(b)", "len=Len()"]
    _, aggs = expand_grouped(SCHEMA, [a.alias("z")], [cs.numeric().sum()])
    assert text(aggs) == ["a=Agg.Sum(a)", "b=Agg.Sum(b)"]
    assert text(expand_grouped(SCHEMA, [], [cs.numeric().sum()])[1]) == ["a=Agg.Sum(a)", "b=Agg.Sum(b)"]


def test_columns_and_names() -> None:
    """What a tree reads decides which columns a source has to give."""
    assert columns(parse(pl.when(a > 1).then(b).otherwise(pl.col("st").struct.field("x")))) == {"a", "b", "st"}
    assert columns(parse(pl.lit(1))) == set()
    assert unaliased(parse(a.alias("x").name.suffix("y"))) == Column("a")


def test_references_compare_hash_and_pickle() -> None:
    """An expression itself raises where a dataclass would compare or hash it."""
    one, two, other = ExprRef.here(a + 1), ExprRef.here(a + 1), ExprRef.here(a + 2)
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert len({one, two, other}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == str(a + 1)
    assert one.tree == parse(a + 1)


def test_references_know_the_users_line() -> None:
    """Errors that come later still name the line that asked."""

    def helper(make: Callable[[], str]) -> str:
        return make()

    file, line = helper(user_line).rsplit(":", 1)
    assert Path(file) == Path(__file__)
    assert int(line) > 0
    assert ExprRef.here(a).source.startswith(__file__)


def test_a_datetime_literal_keeps_its_zone() -> None:
    """Event times are compared with literals; a lost zone would shift them."""
    expr = pl.lit(datetime(2020, 1, 1), dtype=pl.Datetime("us", "Asia/Tokyo"))
    assert pl.select(build(parse(expr))).schema == pl.select(expr).schema
