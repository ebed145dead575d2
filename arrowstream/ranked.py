"""What `unique`, `top_k`, `over` and aggregates of whole groups mean: checked, and made nodes of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from arrowstream.connectors.changes import Append, ChangeKind, Retract, Upsert
from arrowstream.errors import PlanError, unknown_column
from arrowstream.names import inner
from arrowstream.plan.comparable import check_comparisons
from arrowstream.plan.eventtime import duration_ticks
from arrowstream.plan.expressions import PANIC, Call, columns, expand, parse, plan_error, walk
from arrowstream.plan.expressions import Node as Tree
from arrowstream.plan.groupwise import groupwise, too_large
from arrowstream.plan.nodes import Node
from arrowstream.plan.ranks import Distinct, TopK
from arrowstream.plan.recompute import GroupAggs, Recompute, Replayed, Unique, over_keys
from arrowstream.plan.rowlocal import check_row_local
from arrowstream.plan.timeless import cure


def time_to_live(node: Node, ttl: Any, keys: Sequence[str], where: str) -> int | None:
    """The ticks of `ttl=`, which goes by the event time of `node`. Raises `PlanError`."""
    if ttl is None:
        return None
    if node.time is None:
        raise PlanError(f"{where}: ttl= goes by event time; {cure(node)}")
    if not isinstance(node.kind, Append):
        raise PlanError(
            f"{where}: ttl= takes a stream that only grows, and this one {node.kind}; use windows before it"
        )
    if not keys:
        raise PlanError(f"{where}: ttl= lets groups go, and without keys there is but one")
    if node.time.column in keys:
        raise PlanError(f"{where}: leave out ttl=: {node.time.column!r} is a key, and tells the time of each group")
    ticks = duration_ticks(ttl, node.schema[node.time.column], f"{where}: ttl")
    if ticks <= 0:
        raise PlanError(f"{where}: ttl={ttl!r} must be above zero")
    return ticks


def recomputed(
    node: Node,
    by: Sequence[tuple[str, pl.Expr]],
    outputs: Sequence[tuple[str, pl.Expr]],
    too_large: pl.Expr | None,
    described: str,
    ttl: int | None = None,
) -> Node:
    """Aggregates that need all rows of a group at once, in the form that `groupwise` gives."""
    schema = node.schema
    for name, key in by:
        check_row_local("group_by", key.alias(name), schema)
    keyed, names = _with_keys(node, by)
    read = {column for _, expr in outputs for column in columns(parse(expr))}  # the guard reads no others
    kept = tuple(name for name in keyed.schema if name in names or name in read)
    by_exprs = tuple(pl.col(column).alias(name) for column, (name, _) in zip(names, by, strict=True))
    aggs = tuple(expr.alias(name) for name, expr in outputs)
    try:
        # A row of nulls, so that functions are really called; but not the user's.
        own = any(isinstance(tree, Call) and tree.op == "AnonymousFunction" for tree in _trees(outputs))
        empty = keyed.schema.to_frame().clear(0 if own else 1).lazy()
        found = empty.group_by(by_exprs).agg(aggs) if by_exprs else empty.select(aggs)
        output = found.collect_schema()
        found.collect()
    except PANIC as error:
        raise plan_error(error, schema) from None
    keys = tuple(name for name, _ in by)
    return Recompute(
        schema=output,
        kind=Upsert(keys),
        time=None,
        input=keyed,
        keys=names,
        columns=kept or (next(iter(keyed.schema)),),
        whole=GroupAggs(by_exprs, aggs, too_large),
        description=described if len(described) <= 120 else described[:119] + "…",
        ttl=ttl,
    )


def _trees(outputs: Sequence[tuple[str, pl.Expr]]) -> Iterator[Tree]:
    for _, expr in outputs:
        yield from walk(parse(expr))


def over(node: Node, method: str, exprs: Sequence[pl.Expr]) -> Node:
    """A `select` or `with_columns` in which expressions are over groups."""
    keys = over_keys(method, exprs, node.schema)
    outputs = expand(node.schema, *exprs)
    computed = [expr.alias(name) for name, expr in groupwise(method, outputs, node.schema)]
    try:
        empty = node.schema.to_frame().lazy()
        schema = getattr(empty, method)(*computed).collect_schema()
    except PANIC as error:
        raise plan_error(error, node.schema) from None
    text = ", ".join(" ".join(str(expr).split()) for expr in exprs)
    time = node.time
    timed = time is not None and time.column in keys
    kept = time is not None and timed and schema.get(time.column) == node.schema[time.column]
    final = timed and isinstance(node.kind, Append)
    return Recompute(
        schema=schema,
        kind=Append() if final else Retract(),
        time=(time.settled() if final else time) if time is not None and kept and method == "with_columns" else None,
        input=node,
        keys=keys,
        columns=tuple(node.schema),
        whole=Replayed(method, tuple(computed), too_large(outputs, node.schema)),
        description=text if len(text) <= 120 else text[:119] + "…",
        final=final,
    )


def unique(node: Node, subset: Any, keep: str, within: Any, ttl: Any = None) -> Node:
    """The node of `frame.unique(...)`."""
    if keep not in ("any", "first", "last", "none"):
        raise PlanError(f"unique: keep={keep!r} is not any, first, last or none")
    names = _columns(node, subset, "unique") if subset is not None else tuple(node.schema)
    if not names:
        raise PlanError("unique: subset=[] names no column")
    if within is not None and ttl is not None:
        raise PlanError("unique: within= lets keys go already; leave out ttl=")
    live = time_to_live(node, ttl, names, "unique")
    ticks = None
    append = isinstance(node.kind, Append)
    if within is not None:
        if node.time is None:
            raise PlanError(f"unique: within= goes by event time; {cure(node)}")
        if keep not in ("any", "first") or not append:
            raise PlanError("unique: within= keeps the first of a stream that only grows; leave out keep=")
        ticks = duration_ticks(within, node.schema[node.time.column], "unique: within")
        if ticks <= 0:
            raise PlanError(f"unique: within={within!r} must be above zero: at the same time nothing would be near")
    if append and keep != "none":
        kind: ChangeKind = Upsert(names) if keep == "last" else Append()
        # Equal rows have the same time where it is among the columns: then no late one can stand before one in time.
        kept = node.time is not None and node.time.column in names and keep != "last"
        time = node.time if ticks is not None or kept else None
        return Distinct(
            schema=node.schema, kind=kind, time=time, input=node, subset=names, keep=keep, within=ticks, ttl=live
        )
    return Recompute(
        schema=node.schema,
        kind=Upsert(names),
        input=node,
        keys=names,
        columns=tuple(node.schema),
        whole=Unique(names, "first" if keep == "any" else keep),
        description=f"unique, {keep} kept",
        ttl=live,
    )


def top_k(
    node: Node,
    k: int,
    by: Any,
    group_by: Any,
    reverse: bool | Sequence[bool],
    rank: str | None,
    method: str,
    ttl: Any = None,
) -> Node:
    """The node of `frame.top_k(...)` and `frame.bottom_k(...)`."""
    if not isinstance(k, int) or k < 1:
        raise PlanError(f"{method}: k={k!r} must be a whole number above zero")
    by_list = [by] if isinstance(by, str | pl.Expr) else list(by)
    if not by_list:
        raise PlanError(f"{method}: by which columns?")
    keyed, names = _with_keys(node, _named(node, by_list, method))
    made = [name for name in names if name not in node.schema]
    keys = () if group_by is None else _columns(node, group_by, method)
    turns = [reverse] * len(names) if isinstance(reverse, bool) else list(reverse)
    if len(turns) != len(names):
        raise PlanError(f"{method}: reverse has {len(turns)} values and by {len(names)} columns")
    ways = {name: (method == "top_k") != turn for name, turn in zip(names, turns, strict=True) if name not in keys}
    names, descending = tuple(ways), tuple(ways.values())
    if rank is not None and rank in node.schema:
        raise PlanError(f"{method}: the frame has a column {rank!r} already; choose another rank=")
    schema = pl.Schema({**keyed.schema, **({} if rank is None else {rank: pl.Int64()})})
    if rank is not None:
        kind: ChangeKind = Upsert((*keys, rank))
    elif k == 1 and keys:
        kind = Upsert(keys)
    else:
        kind = Retract()
    node_made = TopK(
        schema=schema,
        kind=kind,
        input=keyed,
        k=k,
        by=names,
        descending=descending,
        keys=keys,
        rank=rank,
        ttl=time_to_live(keyed, ttl, keys, method),
    )
    result: Node = node_made
    # Groups whose time is among their keys are given once, when they are whole.
    final = isinstance(node.kind, Append) and keyed.time is not None and keyed.time.column in keys and ttl is None
    if final or not isinstance(node.kind, Append):
        result = Recompute(
            schema=schema,
            kind=Append() if final else kind,
            time=keyed.time.settled() if final and keyed.time is not None else None,
            input=keyed,
            keys=keys,
            columns=tuple(keyed.schema),
            whole=node_made.best(),
            description=node_made.label,
            final=final,
        )
    if made:
        from arrowstream.joining import _rows
        from arrowstream.plan.nodes import Step

        return _rows(result, Step("drop", (made,)))
    return result


def _named(node: Node, exprs: Sequence[Any], method: str) -> list[tuple[str, pl.Expr]]:
    found = []
    for name, expr in expand(node.schema, *exprs):
        check_row_local(method, expr, node.schema)
        check_comparisons(method, parse(expr), node.schema)
        found.append((name, expr))
    return found


def _with_keys(node: Node, by: Sequence[tuple[str, pl.Expr]]) -> tuple[Node, tuple[str, ...]]:
    """The node with these as columns of their own where they are computed, and the columns' names."""
    from arrowstream.joining import _rows
    from arrowstream.plan.nodes import Step

    names: list[str] = []
    made: list[pl.Expr] = []
    for number, (_, expr) in enumerate(by):
        bare = expr.meta.undo_aliases()
        if bare.meta.is_column():
            names.append(bare.meta.output_name())
            continue
        names.append(inner(f"by_{number}"))
        made.append(expr.alias(names[-1]))
    return (_rows(node, Step("with_columns", tuple(made))) if made else node), tuple(names)


def _columns(node: Node, names: Any, method: str) -> tuple[str, ...]:
    given = [names] if isinstance(names, str | pl.Expr) else list(names)
    found = []
    for one in given:
        if isinstance(one, str) and one not in node.schema:
            raise unknown_column(one, "the frame", node.schema.names())
        for _, expr in expand(node.schema, one):
            bare = expr.meta.undo_aliases()
            if not bare.meta.is_column():
                raise PlanError(f"{method}: {expr} is no column; make one first: with_columns(key=...)")
            found.append(bare.meta.output_name())
    return tuple(dict.fromkeys(found))
