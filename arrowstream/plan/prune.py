"""Which columns of a node anybody reads, so that no others are decoded, kept or sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from arrowstream.plan.aggregates import Decomposition
from arrowstream.plan.expressions import Opaque, Selector, as_expressions, columns, expand, parse, walk
from arrowstream.plan.joins import Join, pair_names
from arrowstream.plan.nodes import Aggregate, Node, Output, Rows, Step, Watermark
from arrowstream.plan.recompute import Recompute
from arrowstream.plan.sessions import SessionAggregate
from arrowstream.plan.tables import TableJoin
from arrowstream.plan.unit import topological
from arrowstream.plan.windownodes import Rolling, WindowAggregate

_PREDICATES: Final = frozenset({"filter", "remove"})
_PROJECTIONS: Final = frozenset({"select", "select_seq"})
_ADDITIONS: Final = frozenset({"with_columns", "with_columns_seq"})


def required(outputs: Sequence[Output]) -> Mapping[Node, frozenset[str]]:
    """For each node, the columns that those who read it need."""
    needs: dict[Node, set[str]] = {}
    for node in reversed(topological(outputs)):
        own = frozenset(node.schema) if isinstance(node, Output) else frozenset(needs.get(node, ()))
        each = reads_of_join(node, own) if isinstance(node, Join) else [_reads(node, own)] * len(node.inputs)
        for child, names in zip(node.inputs, each, strict=True):
            needs.setdefault(child, set()).update(names & set(child.schema))
    return {node: frozenset(names) for node, names in needs.items()}


def rows_read(node: Node) -> pl.Schema:
    """The columns that a node with one input reads of it, whatever is read of its own."""
    (child,) = node.inputs
    read = _reads(node, frozenset(node.schema))
    return pl.Schema({name: dtype for name, dtype in child.schema.items() if name in read})


def shown_of_join(node: Join, own: frozenset[str]) -> pl.Schema:
    """The columns that a join has to give when these are read; one at least, so that there are rows to count."""
    if node.how in ("right", "full"):
        return node.schema
    own = own or frozenset([next(iter(node.schema))])
    return pl.Schema({name: dtype for name, dtype in node.schema.items() if name in own})


def reads_of_join(node: Join, own: frozenset[str]) -> tuple[set[str], set[str]]:
    """What a join reads of its left and of its right, when these of its columns are read."""
    left, right = node.left, node.right
    if node.how in ("right", "full"):
        return set(left.schema), set(right.schema)
    asked = {*shown_of_join(node, own), *(name for each in node.where for name in each.meta.root_names())}
    pair = pair_names(left.schema, right.schema, node.suffix)
    lefts = asked & set(left.schema) | set(node.left_on)
    rights = {name for name, shown in pair.items() if shown in asked} | set(node.right_on)
    if node.bounded:
        for side, bounds, names in ((left, node.left_bounds, lefts), (right, node.right_bounds, rights)):
            names |= {name for each in bounds for name in each.alive.meta.root_names()} & set(side.schema)
            names |= set() if side.time is None else {side.time.column}
    # A column of the right has its suffix because the left has one of its name.
    return lefts | rights & set(left.schema), rights


def _reads(node: Node, own: frozenset[str]) -> set[str]:
    """What a node reads of its input, when `own` of its columns are read; everything, where it is not known."""
    match node:
        case Watermark():
            return {*own, node.column}
        case Rows():
            return _through(node, own)
        case Aggregate():
            return _of_decomposition(node.decomposition) | _time_of_ttl(node)
        case WindowAggregate() | SessionAggregate() | Rolling():
            return {node.index, *_roots((*node.by, *node.aggs), node.input.schema)}
        case Recompute():
            return set(node.columns) | _time_of_ttl(node)
        case TableJoin() if not set(node.table.schema) - set(node.right_on) & set(node.input.schema):
            return {*(own & set(node.input.schema)), *node.left_on}
    return {name for child in node.inputs for name in child.schema}


def _time_of_ttl(node: Aggregate | Recompute) -> set[str]:
    """The event time, where it says when groups are let go."""
    return set() if node.ttl is None or node.input.time is None else {node.input.time.column}


def _of_decomposition(plan: Decomposition) -> set[str]:
    exprs = [*plan.reads]
    return {name for expr in exprs for name in expr.meta.root_names()}


def _through(node: Rows, own: frozenset[str]) -> set[str]:
    schemas = [node.input.schema]
    for step in node.steps:
        schemas.append(step(schemas[-1].to_frame().lazy()).collect_schema())
    needed = set(own)
    for step, before in zip(reversed(node.steps), reversed(schemas[:-1]), strict=True):
        needed = _before(step, before, needed)
    return needed


def _before(step: Step, schema: pl.Schema, needed: set[str]) -> set[str]:
    """What a row-local step needs of the columns before it."""
    method = step.method
    if method in _PROJECTIONS:
        return _roots(_all(step), schema)
    if method in _ADDITIONS:
        made = {name for name, _ in expand(schema, *step.args, **step.kwargs)}
        return (needed - made) | _roots(_all(step), schema)
    if method in _PREDICATES:
        return needed | _roots(as_expressions(list(step.args), {}), schema) | set(step.kwargs)
    if method == "drop":
        return needed
    if method == "rename" and isinstance(mapping := (step.args or (None,))[0], Mapping):
        back = {new: old for old, new in mapping.items()}
        return {back.get(name, name) for name in needed} | set(mapping)
    return set(schema)


def _all(step: Step) -> list[Any]:
    return as_expressions(list(step.args), step.kwargs)


def _roots(exprs: Iterable[pl.Expr], schema: pl.Schema) -> set[str]:
    """The columns that expressions read; all, where one names them by a rule or cannot be looked into."""
    found: set[str] = set()
    for expr in exprs:
        tree = parse(expr)
        if any(isinstance(each, Selector | Opaque) for each in walk(tree)):
            return set(schema)
        found |= columns(tree) | set(expr.meta.root_names())
    return found
