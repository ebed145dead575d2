"""Groups of a stream frame, and their running aggregates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from arrowstream import hints
from arrowstream.connectors.changes import Append, Retract, Upsert
from arrowstream.connectors.retries import Retries, as_retries
from arrowstream.errors import PlanError
from arrowstream.plan.aggregates import NotDecomposable, decompose
from arrowstream.plan.comparable import check_comparisons
from arrowstream.plan.expressions import as_expressions, expand, expand_grouped, parse
from arrowstream.plan.groupwise import groupwise, too_large
from arrowstream.plan.nodes import Aggregate
from arrowstream.plan.recompute import MapGroups, Recompute
from arrowstream.plan.rowlocal import check_row_local
from arrowstream.ranked import recomputed, time_to_live

if TYPE_CHECKING:
    from polars._typing import IntoExpr

    from arrowstream.frame import StreamFrame


class StreamGroupBy:
    """What `frame.group_by(...)` gives: call `agg`, or one of the short forms that Polars has too."""

    def __init__(self, frame: StreamFrame, by: Iterable[Any], named_by: Mapping[str, Any], ttl: Any = None) -> None:
        self._frame, self._ttl = frame, ttl
        self._by = as_expressions(list(by), named_by)
        for _, key in expand(frame.schema, *self._by) if self._by else []:
            check_row_local("group_by", key, frame.schema)
            check_comparisons("group_by", parse(key), frame.schema)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise hints.no_such_call("group_by(...)", name, hints.GROUPED, dir(type(self)))

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """Running aggregates, one row per group, updated as rows come.

        Expressions of `sum, count, len, mean, min, max, var, std, first, last, any, all, product, n_unique,
        implode`, with `filter` inside and any arithmetic over them, are kept as a few running values a group. For all
        others (a median, `sort_by`, your own function) the rows of each group are kept, and the groups that a batch
        touches are computed anew; `explain()` says which it is. Raises `PlanError` for what Polars refuses.
        """
        node, schema = self._frame._node, self._frame.schema
        by, outputs = expand_grouped(schema, self._by, as_expressions(aggs, named_aggs))
        if not outputs and not by:
            raise PlanError("agg() of nothing: give at least one aggregate, as in agg(pl.len())")
        weighted = not isinstance(node.kind, Append)
        keys = tuple(name for name, _ in by)
        ttl = time_to_live(node, self._ttl, keys, "group_by")
        described = ", ".join(f"{name}={' '.join(str(expr).split())}" for name, expr in outputs)
        computed = groupwise("agg", outputs, schema)
        try:
            plan = decompose(by, outputs, schema, weighted=weighted)
        except NotDecomposable:
            return self._frame._with(recomputed(node, by, computed, too_large(outputs, schema), described, ttl))
        return self._frame._with(
            Aggregate(
                schema=plan.output,
                kind=Upsert(keys),
                input=node,
                keys=keys,
                by=tuple(expr.alias(name) for name, expr in by),
                aggs=tuple(expr.alias(name) for name, expr in computed),
                too_large=too_large(outputs, schema),
                description=described if len(described) <= 120 else described[:119] + "…",
                decomposition=plan,
                ttl=ttl,
            )
        )

    def map_groups(
        self, function: Callable[[pl.DataFrame], pl.DataFrame], schema: Any, *, retries: int | Retries = 0
    ) -> StreamFrame:
        """Your own function of all rows of a group, as a DataFrame in order of arrival, to a DataFrame of `schema`.

        It is called for each group that a batch touches, with the rows that were there before and with those that
        are there now; what it gave before is taken back. `retries` as in `map_batches`. Raises `PlanError`.
        """
        node = self._frame._node
        by, _ = expand_grouped(node.schema, self._by, [])
        names = tuple(name for name, _ in by)
        if not names or any(name not in node.schema or not expr.meta.is_column() for name, expr in by):
            raise PlanError("map_groups: group by columns of the frame; make one first by with_columns(key=...)")
        output = pl.Schema(schema)
        return self._frame._with(
            Recompute(
                schema=output,
                kind=Retract(),
                input=node,
                keys=names,
                columns=tuple(node.schema),
                whole=MapGroups(names, function, output, as_retries(retries)),
                description=f"map_groups {getattr(function, '__name__', type(function).__name__)}",
                ttl=time_to_live(node, self._ttl, names, "group_by"),
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
