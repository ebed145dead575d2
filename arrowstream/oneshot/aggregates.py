"""Aggregates of groups, as Polars computes them over all rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from arrowstream.plan.expressions import Call, build, parse, walk
from arrowstream.plan.expressions import Node as Tree

_IN_ANY_ORDER: Final = frozenset(
    {
        "Agg.Count",
        "Agg.Max",
        "Agg.Mean",
        "Agg.Median",
        "Agg.Min",
        "Agg.NUnique",
        "Agg.Quantile",
        "Agg.Std",
        "Agg.Sum",
        "Agg.Var",
        "Alias",
        "Cast",
        "Filter",
        "Len",
        "Ternary",
    }
)


def grouped(rows: pl.LazyFrame, by: Sequence[pl.Expr], aggs: Sequence[pl.Expr], schema: pl.Schema) -> pl.LazyFrame:
    """`group_by(by).agg(aggs)`, or `select(aggs)` without keys; rows of a group are in order of arrival.

    `schema` are the columns that the aggregates read. Sums of small integers are added up in 64 bits: Polars' wrap.
    """
    made = [build(_wide(parse(each), schema)) for each in aggs]
    if not by:
        return rows.select(made)
    return rows.group_by(by, maintain_order=not all(_in_any_order(parse(each)) for each in aggs)).agg(made)


def _in_any_order(tree: Tree) -> bool:
    """Whether a value is the same in whatever order the rows of a group come; then Polars need not keep it."""
    return all(
        each.op in _IN_ANY_ORDER or each.op.startswith("BinaryExpr.") for each in walk(tree) if isinstance(each, Call)
    )


def _wide(tree: Tree, schema: pl.Schema) -> Tree:
    if not isinstance(tree, Call):
        return tree
    inputs = tuple(_wide(each, schema) for each in tree.inputs)
    if tree.op in ("Agg.Sum", "Function.Product"):
        dtype = pl.LazyFrame(schema=schema).select(build(inputs[0]).alias("value")).collect_schema()["value"]
        if dtype.is_integer() and dtype not in (pl.Int64, pl.UInt64, pl.Int128, pl.UInt128):
            inputs = (parse(build(inputs[0]).cast(pl.Int64)),)
    return Call(tree.op, tree.options, inputs, tree.inner)
