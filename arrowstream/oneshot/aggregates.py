"""Aggregates of groups, as Polars computes them over all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import polars as pl

from arrowstream.oneshot.once import unused
from arrowstream.plan.expressions import Call, parse, walk

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


def grouped(
    rows: pl.LazyFrame, by: Sequence[pl.Expr], aggs: Sequence[pl.Expr], too_large: pl.Expr | None
) -> pl.LazyFrame:
    """`group_by(by).agg(aggs)`, or `select(aggs)` without keys; rows of a group are in order of arrival.

    Groups with a result that cannot be shown, as `too_large` says, are left out.
    """
    if not by:
        return shown(aggs, too_large, rows.select)
    ordered = not all(_in_any_order(each) for each in aggs)
    return shown(aggs, too_large, rows.group_by(by, maintain_order=ordered).agg)


def shown(
    exprs: Sequence[pl.Expr], too_large: pl.Expr | None, call: Callable[[Iterable[pl.Expr]], pl.LazyFrame]
) -> pl.LazyFrame:
    """What a call makes of these expressions, without rows whose results are too large to be shown."""
    if too_large is None:
        return call(exprs)
    reason = unused("reason", (name for each in exprs for name in [each.meta.output_name(), *each.meta.root_names()]))
    return call([*exprs, too_large.alias(reason)]).filter(pl.col(reason).is_null()).drop(reason)


def _in_any_order(expr: pl.Expr) -> bool:
    """Whether a value is the same in whatever order the rows of a group come; then Polars need not keep it."""
    return all(
        each.op in _IN_ANY_ORDER or each.op.startswith("BinaryExpr.")
        for each in walk(parse(expr))
        if isinstance(each, Call)
    )
