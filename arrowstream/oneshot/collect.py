"""The same plan over tables, in one shot: each node read as plain Polars, by nothing that the stream runs with.

One short function a node, from its inputs' rows to its own. What a stream keeps and what it lets go has no place here,
nor have watermarks: there are no late rows, keys with a time to live are kept, and windows come once, whatever `emit`
says.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import singledispatch

import duckdb
import polars as pl

from arrowstream.errors import PlanError
from arrowstream.oneshot.aggregates import grouped, shown
from arrowstream.oneshot.inputs import Tables, rows_of_sources
from arrowstream.oneshot.joins import joined, joined_as_of, joined_with_table
from arrowstream.oneshot.once import Engine, Once
from arrowstream.oneshot.ranks import best, distinct, numbers
from arrowstream.oneshot.sessions import sessions
from arrowstream.oneshot.windows import windowed
from arrowstream.plan import nodes
from arrowstream.plan.joins import AsofJoin, Join
from arrowstream.plan.ranks import Best, Distinct, TopK
from arrowstream.plan.recompute import GroupAggs, MapGroups, Recompute, Replayed, Unique
from arrowstream.plan.sessions import SessionAggregate
from arrowstream.plan.tables import TableJoin
from arrowstream.plan.unit import topological
from arrowstream.plan.windownodes import Numbered, Rolling, WindowAggregate


def collect(node: nodes.Node, rows: Tables, *, engine: Engine = "auto", now: float | None = None) -> pl.DataFrame:
    """What the plan of `node` gives of all rows at once, in the columns and types of its schema.

    `now` is what the clock shows, in seconds since the epoch; left out, what it really shows. Raises `PlanError` where
    the rows do not fit the sources.
    """
    tables = rows_of_sources(node, rows, "collect")
    once = Once(int((time.time() if now is None else now) * 1_000_000), engine)
    made: dict[nodes.Node, pl.LazyFrame] = {}
    read = Counter(child for each in topological([node]) for child in each.inputs)
    for each in topological([node]):
        if isinstance(each, nodes.SourceNode):
            made[each] = tables[each.name]
            continue
        found = _read(each, [made[child] for child in each.inputs], once)
        found = found.select(each.schema.names()).cast(dict(each.schema))  # type: ignore[arg-type]
        if read[each] > 1 and not isinstance(each, nodes.Rows | nodes.Watermark | nodes.Union):
            found = once.rows(found).lazy()
        made[each] = found
    return once.rows(made[node])


@singledispatch
def _read(node: nodes.Node, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    raise NotImplementedError(type(node).__name__)


@_read.register
def _(node: nodes.Watermark, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    (rows,) = inputs
    rows = rows.filter(pl.col(node.column).is_not_null())
    if node.max_ahead is None:
        return rows
    latest, seen = pl.lit(once.now + node.max_ahead).cast(pl.Datetime("us")), pl.col(node.column)
    if getattr(node.schema[node.column], "time_zone", None) is not None:
        seen = seen.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return rows.filter(seen <= latest)


@_read.register
def _(node: nodes.Rows, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    (rows,) = inputs
    for step in node.steps:
        rows = getattr(rows, step.method)(*step.args, **step.kwargs)
    return rows


@_read.register
def _(node: nodes.Sql, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    with duckdb.connect(":memory:") as connection:
        connection.register("self", once.rows(inputs[0]).to_arrow())
        found = pl.from_arrow(connection.sql(node.statement).to_arrow_table())
    assert isinstance(found, pl.DataFrame)
    return found.lazy()


@_read.register
def _(node: nodes.MapBatches, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    rows = once.rows(inputs[0])
    return (_asked("map_batches", node.function, rows, node.schema) if rows.height else node.schema.to_frame()).lazy()


def _asked(
    where: str, function: Callable[[pl.DataFrame], pl.DataFrame], rows: pl.DataFrame, schema: pl.Schema
) -> pl.DataFrame:
    """What a function of the user's gives, held to the schema that was promised."""
    found = function(rows)
    if not isinstance(found, pl.DataFrame):
        raise PlanError(f"{where}: the function gave {type(found).__name__}, it must give a DataFrame")
    if found.schema != schema:
        raise PlanError(f"{where}: the function gave {dict(found.schema)}, the schema is {dict(schema)}")
    return found


@_read.register
def _(node: nodes.Union, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return pl.concat(inputs)


@_read.register
def _(node: nodes.Aggregate, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return grouped(inputs[0], node.by, node.aggs, node.too_large)


@_read.register
def _(node: WindowAggregate, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return windowed(node, inputs[0])


@_read.register
def _(node: SessionAggregate, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return sessions(node, inputs[0], once)


@_read.register
def _(node: Rolling, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    whole = node.input.schema[node.index].is_integer()
    period = f"{node.period}i" if whole else timedelta(microseconds=node.period)
    ordered = inputs[0].sort(node.index, maintain_order=True)
    rolling = ordered.rolling(node.index, period=period, closed=node.closed, group_by=list(node.by) or None)
    return shown(node.aggs, node.too_large, rolling.agg)


@_read.register
def _(node: Numbered, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return inputs[0].with_columns(numbers(node.keys).alias(node.name))


@_read.register
def _(node: TopK, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return best(inputs[0], node.k, node.by, node.descending, node.keys, node.rank, node.input.schema)


@_read.register
def _(node: Distinct, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return distinct(node, inputs[0], once)


@_read.register
def _(node: Join, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    left, right = inputs
    return joined(node, left, right, once)


@_read.register
def _(node: AsofJoin, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    left, right = inputs
    return joined_as_of(node, left, right, once)


@_read.register
def _(node: TableJoin, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    return joined_with_table(node, inputs[0], once)


@_read.register
def _(node: Recompute, inputs: Sequence[pl.LazyFrame], once: Once) -> pl.LazyFrame:
    rows = inputs[0].select(node.columns)
    match node.whole:
        case GroupAggs(by, aggs, too_large):
            return grouped(rows, by, aggs, too_large)
        case Replayed(method, exprs, too_large):
            return shown(exprs, too_large, getattr(rows, method))
        case Unique(subset, keep):
            return rows.unique(list(subset), keep=keep, maintain_order=True)  # type: ignore[arg-type]
        case Best(k, by, descending, keys, rank):
            return best(rows, k, by, descending, keys, rank, node.input.schema)
        case MapGroups(keys, function, _):
            groups = once.rows(rows).partition_by(keys, maintain_order=True)
            answers = [_asked("map_groups", function, group, node.schema) for group in groups if group.height]
            return pl.concat([node.schema.to_frame(), *answers]).lazy()
    raise NotImplementedError(type(node.whole).__name__)
