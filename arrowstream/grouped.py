"""Groups of a stream frame, and their running aggregates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from arrowstream.connectors.changes import Append, Upsert
from arrowstream.errors import PlanError
from arrowstream.plan.aggregates import decompose
from arrowstream.plan.expressions import as_expressions, expand, expand_grouped
from arrowstream.plan.nodes import Aggregate
from arrowstream.plan.rowlocal import check_row_local

if TYPE_CHECKING:
    from polars._typing import IntoExpr

    from arrowstream.frame import StreamFrame


class StreamGroupBy:
    """What `frame.group_by(...)` gives: call `agg`, or one of the short forms that Polars has too."""

    def __init__(self, frame: StreamFrame, by: Iterable[Any], named_by: Mapping[str, Any]) -> None:
        self._frame = frame
        self._by = as_expressions(list(by), named_by)
        for _, key in expand(frame.schema, *self._by) if self._by else []:
            check_row_local("group_by", key, frame.schema)

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """Running aggregates, one row per group, updated as rows come.

        Expressions of `sum, count, len, mean, min, max, var, std, first, last, any, all, product, n_unique,
        implode`, with `filter` inside and any arithmetic over them. The cost of a batch follows the groups it
        touches. Raises `PlanError` for what cannot be kept up to date so.
        """
        node, schema = self._frame._node, self._frame.schema
        by, outputs = expand_grouped(schema, self._by, as_expressions(aggs, named_aggs))
        if not outputs and not by:
            raise PlanError("agg() of nothing: give at least one aggregate, as in agg(pl.len())")
        weighted = not isinstance(node.kind, Append)
        plan = decompose(by, outputs, schema, weighted=weighted)
        keys = tuple(name for name, _ in by)
        described = ", ".join(f"{name}={' '.join(str(expr).split())}" for name, expr in outputs)
        return self._frame._with(
            Aggregate(
                schema=plan.output,
                kind=Upsert(keys),
                input=node,
                keys=keys,
                description=described if len(described) <= 120 else described[:119] + "…",
                decomposition=plan,
            )
        )

    def len(self, name: str | None = None) -> StreamFrame:
        """Rows per group, in a column `len` or `name`."""
        return self.agg(pl.len().alias(name or "len"))

    def sum(self) -> StreamFrame:
        """The sum of every other column."""
        return self.agg(pl.all().sum())

    def mean(self) -> StreamFrame:
        """The mean of every other column."""
        return self.agg(pl.all().mean())

    def min(self) -> StreamFrame:
        """The least value of every other column."""
        return self.agg(pl.all().min())

    def max(self) -> StreamFrame:
        """The greatest value of every other column."""
        return self.agg(pl.all().max())

    def first(self) -> StreamFrame:
        """The first row of each group."""
        return self.agg(pl.all().first())

    def last(self) -> StreamFrame:
        """The last row of each group."""
        return self.agg(pl.all().last())

    def n_unique(self) -> StreamFrame:
        """How many different values every other column has."""
        return self.agg(pl.all().n_unique())

    def all(self) -> StreamFrame:
        """The values of every other column, as lists in the order of arrival."""
        return self.agg(pl.all())
