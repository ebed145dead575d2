"""What `frame.join(...)` and its like mean: checked at the line that says it, and made a node of the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from arrowstream import matching
from arrowstream.connectors.changes import Append, Retract
from arrowstream.connectors.retries import Retries, as_retries
from arrowstream.errors import ColumnError, PlanError, kind_of, unknown_column
from arrowstream.names import check_names, inner, is_inner
from arrowstream.plan.comparable import check_comparisons
from arrowstream.plan.eventtime import Later, duration_ticks, least
from arrowstream.plan.expressions import as_expressions, parse, resolve
from arrowstream.plan.joins import (
    HOWS,
    AsofJoin,
    Bound,
    Join,
    bounds_of,
    final,
    pair_names,
    taken_apart,
    time_of,
    within_conditions,
)
from arrowstream.plan.nodes import Node, Rows, Step
from arrowstream.plan.rowlocal import check_row_local
from arrowstream.plan.tables import DuckDBRead, FrameRead, Table, TableJoin, as_table
from arrowstream.plan.timeless import cure

if TYPE_CHECKING:
    from arrowstream.frame import StreamFrame

_KNOWN: Final = inner("known")
_TABLE_HOWS: Final = ("inner", "left", "semi", "anti", "cross")


def table(
    source: Any = None,
    *,
    duckdb: str | None = None,
    query: str | None = None,
    refresh: str | timedelta | None = None,
    retries: int | Retries = 0,
) -> Table:
    """A table to join streams with: it is there as a whole, and may be read again every so often.

    `source` is a DataFrame, a LazyFrame, a path of Parquet files or a function that gives a DataFrame; or `query` is
    SQL, over the file `duckdb` or over what DuckDB can read by name. With `refresh="10m"` it is read again when it is
    that old, by the times of the batches; with `refresh="asked"` when `ctx.refresh(table)` says so, for example in a
    `foreach_batch` that has changed it. Rows that came before keep the matches they had. When to read is in the batch,
    so all workers do, and a replay does, at the same batches. With `retries=3` (or an `arrowstream.Retries`) a read is
    tried again that raises an `OSError`. Raises `PlanError` where it cannot be read.
    """
    seconds = None
    if refresh is not None:
        asked = refresh == "asked"
        seconds = inf if asked else duration_ticks(refresh, pl.Datetime("us"), "table: refresh") / 1_000_000
    if (source is None) == (query is None):
        raise PlanError("table: give a source (a frame, a path, a function), or a query=")
    read: Callable[[], pl.DataFrame]
    if query is not None:
        read, text = DuckDBRead(duckdb, query), " ".join(query.split())
    elif isinstance(source, Table):
        return Table(source.read, source.schema, source.text, seconds)
    elif isinstance(source, pl.LazyFrame):
        read, text = source.collect, "LazyFrame"
    elif callable(source):
        read, text = source, getattr(source, "__name__", type(source).__name__)
    else:
        made = as_table(source)
        if made is None:
            raise PlanError(f"table: {kind_of(source)} is no table; give a frame, a path or a function")
        return Table(made.read, made.schema, made.text, seconds)
    again = as_retries(retries)
    if again.times:
        read = partial(again.call, read)
    try:
        rows = read()
    except Exception as error:
        raise PlanError(f"table: {text} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(rows, pl.DataFrame):
        raise PlanError(f"table: {text} gave {kind_of(rows)}, it must give a DataFrame")
    check_names(rows.columns, f"table: {text}")
    return Table(read if seconds is not None else FrameRead(rows), rows.schema, text, seconds)


def join(
    frame: StreamFrame,
    other: Any,
    left_on: Sequence[Any],
    right_on: Sequence[Any],
    how: str,
    suffix: str,
    nulls_equal: bool,
    coalesce: bool | None,
    within: Any,
) -> Node:
    """The node of `frame.join(other, ...)`."""
    held = as_table(other)
    if held is not None:
        check_names(held.schema, "join: the table")
        if within is not None:
            raise PlanError("join: within= is about the times of two streams; a table has no watermark")
        return _table_join(frame._node, held, left_on, right_on, how, suffix, nulls_equal, coalesce)
    right: Node = _stream(frame, other, "join")
    if how == "cross":
        raise PlanError("join: a cross join of two streams has no end; join on a key, or with a table")
    if how not in HOWS:
        raise PlanError(f"join: how={how!r} is not one of {', '.join(HOWS)}")
    if not left_on and within is None:
        raise PlanError("join: on which columns? give on=, or left_on= and right_on=")
    left, lefts = _keyed(frame._node, left_on, "left")
    right, rights = _keyed(right, right_on, "right")
    _same_types(left, lefts, right, rights)
    names = pair_names(left.schema, right.schema, suffix)
    where: list[pl.Expr] = []
    if within is not None:
        if left.time is None or right.time is None:
            lacking = left if left.time is None else right
            raise PlanError(f"join: within= needs the event time of both streams; {cure(lacking)}")
        types = left.schema[left.time.column], right.schema[right.time.column]
        if types[0] != types[1]:
            raise ColumnError(f"join: within= compares times of two types, {types[0]} and {types[1]}; cast one")
        where = within_conditions(within, left.time, right.time, names[right.time.column], types[0])
    return _made(left, right, lefts, rights, how, suffix, nulls_equal, coalesce, where)


def join_where(frame: StreamFrame, other: Any, predicates: Sequence[Any], how: str, suffix: str) -> Node:
    """The node of `frame.join_where(other, *predicates)`."""
    right: Node = _stream(frame, other, "join_where")
    left = frame._node
    if how not in ("inner", "left", "semi", "anti"):
        raise PlanError(f"join_where: how={how!r} is not one of inner, left, semi, anti")
    names = pair_names(left.schema, right.schema, suffix)
    pair = pl.Schema({**left.schema, **{names[name]: dtype for name, dtype in right.schema.items()}})
    exprs = as_expressions(predicates, {})
    if not exprs:
        raise PlanError("join_where: give at least one predicate, as in pl.col('id') == pl.col('owner')")
    for expr in exprs:
        check_row_local("join_where", expr, pair)
        check_comparisons("join_where", parse(expr), pair)
        found = resolve(pl.LazyFrame(schema=pair).select(expr.alias("predicate")), pair)["predicate"]
        if found != pl.Boolean:
            raise PlanError(f"join_where: a predicate is Boolean, and {expr} is {found}")
    asked = taken_apart(exprs, left.schema, names)
    left, lefts = _keyed(left, [one for one, _ in asked.equal], "left")
    right, rights = _keyed(right, [two for _, two in asked.equal], "right")
    _same_types(left, lefts, right, rights)
    return _made(left, right, lefts, rights, how, suffix, False, False, list(asked.where))


def join_asof(
    frame: StreamFrame,
    other: Any,
    left_on: str | None,
    right_on: str | None,
    by_left: Sequence[Any],
    by_right: Sequence[Any],
    strategy: str,
    suffix: str,
    tolerance: Any,
    exact: bool,
    coalesce: bool,
) -> Node:
    """The node of `frame.join_asof(other, ...)`."""
    left, right = frame._node, _stream(frame, other, "join_asof")
    asof = _asof(left, right, left_on, right_on, by_left, by_right, strategy, suffix, tolerance, exact, coalesce)
    return _without_made(asof)


def join_temporal(
    frame: StreamFrame, versions: Any, by_left: Sequence[Any], by_right: Sequence[Any], how: str, suffix: str
) -> Node:
    """The node of `frame.join_temporal(versions, ...)`."""
    left, right = frame._node, _stream(frame, versions, "join_temporal")
    if how == "inner":
        right = _rows(right, Step("with_columns", (pl.lit(True).alias(_KNOWN),)))
    joined: Node = _asof(left, right, None, None, by_left, by_right, "backward", suffix, None, True, True)
    if how == "inner":
        joined = _rows(joined, Step("filter", (pl.col(_KNOWN),)))
    return _without_made(joined)


def _asof(
    left: Node,
    right: Node,
    left_on: str | None,
    right_on: str | None,
    by_left: Sequence[Any],
    by_right: Sequence[Any],
    strategy: str,
    suffix: str,
    tolerance: Any,
    exact: bool,
    coalesce: bool,
) -> AsofJoin:
    where = "join_asof"
    if left.time is None or right.time is None:
        raise PlanError(
            f"{where}: an answer is certain when the watermarks of both streams have passed it; call with_watermark on "
            "both first (a table that is there as a whole: use join)"
        )
    if not (isinstance(left.kind, Append) and isinstance(right.kind, Append)):
        raise PlanError(f"{where}: both streams must only grow; join before the aggregate, or use final windows")
    names = (left_on or left.time.column, right_on or right.time.column)
    for side, name, node in (("left", names[0], left), ("right", names[1], right)):
        if name not in node.schema:
            raise unknown_column(name, f"the {side} side", node.schema.names())
        if node.time is None or node.time.column != name:
            raise PlanError(f"{where}: {name!r} is not the event time of the {side} side")
    if left.schema[names[0]] != right.schema[names[1]]:
        raise ColumnError(f"{where}: {left.schema[names[0]]} and {right.schema[names[1]]} are two types; cast one")
    if strategy not in ("backward", "forward", "nearest"):
        raise PlanError(f"{where}: strategy={strategy!r} is not backward, forward or nearest")
    dtype = left.schema[names[0]]
    ticks = None if tolerance is None else duration_ticks(tolerance, dtype, f"{where}: tolerance")
    if strategy != "backward" and ticks is None:
        raise PlanError(f"{where}: strategy={strategy!r} looks ahead, so say how far: tolerance='10s'")
    times = [left.time, right.time]
    left, lefts = _keyed(left, by_left, "left")
    right, rights = _keyed(right, by_right, "right")
    _same_types(left, lefts, right, rights)
    parts: dict[str, Any] = {
        "left": left,
        "right": right,
        "left_on": names[0],
        "right_on": names[1],
        "by_left": lefts,
        "by_right": rights,
        "strategy": strategy,
        "tolerance": ticks,
        "suffix": suffix,
        "exact": exact,
        "coalesce": coalesce,
    }
    try:
        empty = AsofJoin(schema=left.schema, kind=Append(), **parts)
        made = empty.join(left.schema.to_frame().lazy(), right.schema.to_frame().lazy())
        schema = made.collect().schema
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"{where}: {error}") from None
    time = least(times, names[0])
    if strategy != "backward":
        time = time.held_back(Later(ticks or 0))
    return AsofJoin(schema=schema, kind=Append(), time=time, **parts)


def _made(
    left: Node,
    right: Node,
    lefts: tuple[str, ...],
    rights: tuple[str, ...],
    how: str,
    suffix: str,
    nulls_equal: bool,
    coalesce: bool | None,
    where: Sequence[pl.Expr],
) -> Node:
    names = pair_names(left.schema, right.schema, suffix)
    bounds: tuple[tuple[Bound, ...], tuple[Bound, ...]] = ((), ())
    append = isinstance(left.kind, Append) and isinstance(right.kind, Append)
    if append:
        bounds = bounds_of(where, left, right, names, list(zip(lefts, rights, strict=True)))
        if not final(how, *bounds):
            bounds = ((), ())
    try:
        one, two = pl.LazyFrame(schema=left.schema), pl.LazyFrame(schema=right.schema)
        options: dict[str, Any] = {"suffix": suffix, "nulls_equal": nulls_equal, "coalesce": coalesce}
        if lefts:
            joined = matching.join(one, two, lefts, left.schema, right_on=rights, how=how, **options)
        elif how in ("semi", "anti"):
            joined = one
        else:
            joined = matching.cross(one, two, suffix)
        schema = joined.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"join: {error}") from None
    parts: dict[str, Any] = {
        "left": left,
        "right": right,
        "left_on": lefts,
        "right_on": rights,
        "how": how,
        "suffix": suffix,
        "nulls_equal": nulls_equal,
        "coalesce": coalesce,
        "where": tuple(where),
        "left_bounds": bounds[0],
        "right_bounds": bounds[1],
    }
    bounded = bool(bounds[0] or bounds[1])
    kind = Append() if append and (how in ("inner", "semi") or bounded) else Retract()
    node = Join(schema=schema, kind=kind, **parts)
    if not bounded:
        return _without_made(node)
    left_name = left.time.column if left.time is not None and left.time.column in schema else None
    right_name = None
    if right.time is not None and how not in ("semi", "anti"):
        right_name = names[right.time.column]
        right_name = right_name if right_name in schema else None
    time = time_of(node, left_name, right_name)
    return _without_made(Join(schema=schema, kind=kind, time=time, **parts))


def _without_made(node: Node) -> Node:
    """The join without the columns that were made for it."""
    made = [name for name in node.schema if is_inner(name)]
    return _rows(node, Step("drop", (made,))) if made else node


def _rows(node: Node, step: Step) -> Rows:
    from arrowstream.plan.kinds import through, time_through

    schema = step(node.schema.to_frame().lazy()).collect_schema()
    kind = through(step, node.schema, node.kind).kind
    return Rows(schema=schema, kind=kind, time=time_through(step, node.schema, node.time), input=node, steps=(step,))


def _keyed(node: Node, on: Sequence[Any], side: str) -> tuple[Node, tuple[str, ...]]:
    """The node with its keys as columns, and their names: a key that is computed becomes a column first."""
    names: list[str] = []
    made: list[pl.Expr] = []
    for number, key in enumerate(on):
        expr = pl.col(key) if isinstance(key, str) else key
        if not isinstance(expr, pl.Expr):
            raise PlanError(f"join: a key is a column or an expression, not {key!r}")
        bare = expr.meta.undo_aliases()
        if bare.meta.is_column():
            name = bare.meta.output_name()
            if name not in node.schema:
                raise unknown_column(name, f"the {side} side", node.schema.names())
            names.append(name)
            continue
        check_row_local("join", expr, node.schema)
        check_comparisons("join", parse(expr), node.schema)
        names.append(inner(f"key_{side}_{number}"))
        made.append(expr.alias(names[-1]))
    if made:
        node = _rows(node, Step("with_columns", tuple(made)))
    return node, tuple(names)


def _same_types(left: Node, lefts: Sequence[str], right: Node, rights: Sequence[str]) -> None:
    if len(lefts) != len(rights):
        raise PlanError(f"join: {len(lefts)} keys on the left and {len(rights)} on the right")
    for one, two in zip(lefts, rights, strict=True):
        if left.schema[one] != right.schema[two]:
            raise ColumnError(
                f"join: {one!r} is {left.schema[one]} and {two!r} is {right.schema[two]}; "
                f"cast one: .cast({{{two!r}: pl.{left.schema[one]}}})"
            )


def _stream(frame: StreamFrame, other: Any, call: str) -> Node:
    from arrowstream.frame import StreamFrame

    if not isinstance(other, StreamFrame):
        raise PlanError(
            f"{call}: {kind_of(other)} is neither a stream nor a table; give a StreamFrame, a DataFrame, "
            "a path of Parquet files or arrowstream.table(...)"
        )
    if other._plans is not frame._plans:
        raise PlanError(f"{call}: the frames belong to different contexts")
    return other._node


def _table_join(
    node: Node,
    held: Table,
    left_on: Sequence[Any],
    right_on: Sequence[Any],
    how: str,
    suffix: str,
    nulls_equal: bool,
    coalesce: bool | None,
) -> Node:
    if how in ("right", "full"):
        raise PlanError(
            f"join: how={how!r} with a table shows the table's rows without a match, which only the end of the stream "
            "could tell; use how='left' or 'inner', or make the table a stream (ctx.read.memory, ctx.read.parquet)"
        )
    if how not in _TABLE_HOWS:
        raise PlanError(f"join: how={how!r} is not one of {', '.join(_TABLE_HOWS)}")
    if held.refresh is not None and not isinstance(node.kind, Append):
        raise PlanError(
            "join: rows that are taken back must find the matches they had, so a stream that updates rows "
            "cannot join a table that is read again; leave out refresh="
        )
    node, lefts = _keyed(node, left_on, "left")
    if how != "cross" and not lefts:
        raise PlanError("join: on which columns? give on=, or left_on= and right_on=")
    rights = tuple(str(each) for each in right_on if isinstance(each, str))
    if len(rights) != len(lefts):
        raise PlanError("join: the keys of a table are columns by name, as many as on the left")
    for name in rights:
        if name not in held.schema:
            raise unknown_column(name, "the table", held.schema.names())
    options: dict[str, Any] = {"suffix": suffix}
    if how != "cross":
        options |= {"nulls_equal": nulls_equal, "coalesce": coalesce}
    parts: dict[str, Any] = {"left_on": lefts, "right_on": rights, "how": how, "options": options}
    kind = Append() if isinstance(node.kind, Append) else Retract()
    empty = TableJoin(schema=node.schema, kind=kind, input=node, table=held, **parts)
    try:
        schema = empty.join(pl.LazyFrame(schema=node.schema), pl.LazyFrame(schema=held.schema)).collect_schema()
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"join: {error}") from None
    made = TableJoin(schema=schema, kind=kind, time=node.time, input=node, table=held, **parts)
    return _without_made(made)
