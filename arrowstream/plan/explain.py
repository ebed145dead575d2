"""The plan as text: each node with its engine, the kind of its changes, and its state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch

import polars as pl

from arrowstream.names import readable
from arrowstream.plan.eventtime import Course, Later, show_ticks
from arrowstream.plan.joins import AsofJoin, Join
from arrowstream.plan.nodes import Aggregate, MapBatches, Node, Output, Rows, SourceNode, Sql, Union
from arrowstream.plan.openwindows import OpenWindows
from arrowstream.plan.ranks import Distinct, TopK
from arrowstream.plan.recompute import Recompute
from arrowstream.plan.sessions import SessionAggregate
from arrowstream.plan.statenames import state_keys, state_names
from arrowstream.plan.tables import TableJoin
from arrowstream.plan.unit import topological
from arrowstream.plan.windownodes import Numbered, Rolling, WindowAggregate


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to say of a node, part by part; empty where there is nothing.

    `state` begins with the name that `ctx.state` knows it by; `unbounded` says that it grows for ever.
    """

    label: str
    engine: str
    kind: str
    time: str
    state: str
    unbounded: bool


def explain(*roots: Node) -> str:
    """A tree for each of the nodes, with what it reads below it; a node that was shown already is only named again."""
    lines: list[str] = []
    shown: dict[Node, int] = {}
    facts = facts_of(roots)

    def visit(node: Node, indent: int) -> None:
        pad = "  " * indent
        if node in shown:
            lines.append(f"{pad}#{shown[node]} (shared: runs once)")
            return
        shown[node] = len(shown)
        fact = facts[node]
        lines.append(f"{pad}#{shown[node]} {fact.label}")
        state = f"state {fact.state}" if fact.state else ""
        lines.append(f"{pad}     " + " | ".join(filter(None, (fact.engine, fact.kind, fact.time, state))))
        for child in node.inputs:
            visit(child, indent + 1)

    for node in roots:
        visit(node, 0)
    return "\n".join(lines)


def facts_of(roots: Iterable[Node]) -> dict[Node, Facts]:
    """The facts of each node of these plans, inputs first."""
    roots = list(roots)
    names = state_names(roots)
    return {node: _facts(node, names.get(node)) for node in topological(roots)}


def _facts(node: Node, name: str | None) -> Facts:
    state = _state(node)
    if isinstance(node, Aggregate | Distinct | TopK | Recompute) and node.ttl is not None:
        dtype = node.input.schema[node.input.time.column] if node.input.time is not None else pl.Int64()
        state = f"{state.removesuffix(', unbounded')}, let go after {show_ticks(node.ttl, dtype)} without rows"
    if state and name is not None:
        state = f"{name}: {state}"
    return Facts(readable(node.label), _engine(node), str(node.kind), _time(node), state, state.endswith("unbounded"))


def _time(node: Node) -> str:
    """The event time of the rows, and how far behind it the watermark may be."""
    if node.time is None:
        return ""
    dtype = node.schema[node.time.column]
    text = f"time: {node.time.column}"
    if node.time.marks:
        behind = max(mark.delay for mark in node.time.marks)
        text += f", watermark {show_ticks(behind, dtype)} behind"
    if (held := max(map(_held, node.time.courses), default=0)) > 0:
        text += f", held back {show_ticks(held, dtype)}"
    if any(isinstance(each, OpenWindows) for course in node.time.courses for each in course.through):
        text += ", as windows close"
    if node.time.lateness:
        text += f", late rows for {show_ticks(node.time.lateness, dtype)}"
    return text


def _held(course: Course) -> int:
    """By how many ticks rows are held back, whatever the windows."""
    return sum(each.ticks for each in course.through if isinstance(each, Later))


def unbounded(node: Node) -> str | None:
    """What this node keeps for ever besides a few values a key, in words; None where it does not."""
    return None if getattr(node, "ttl", None) is not None else _kept(node)


def _kept(node: Node) -> str | None:
    """What no bound of time lets go."""
    match node:
        case Join() if not node.bounded:
            return "the rows of both sides"
        case Join() if not node.left_bounds:
            return "the rows of the left side"
        case Join() if not node.right_bounds:
            return "the rows of the right side"
        case Recompute() if not node.timed and node.keys:
            return "the rows of each group"
        case Recompute() if not node.timed:
            return "all rows"
        case Distinct() if node.within is None and not node.timed:
            return "every key" if node.keep != "last" else "the last row of every key"
    return None


@singledispatch
def _engine(node: Node) -> str:
    return "polars"


@_engine.register
def _(node: SourceNode) -> str:
    source = node.source
    return f"{type(source).__name__}, {'replayable' if source.replayable else 'cannot be read again'}"


@_engine.register(Sql)
def _(node: Sql) -> str:
    return "duckdb"


@_engine.register(MapBatches)
def _(node: MapBatches) -> str:
    return "python"


@_engine.register
def _(node: Output) -> str:
    return str(node.sink.guarantee)


@_engine.register(Rows)
@_engine.register(Union)
def _(node: Node) -> str:
    return "polars, row-local"


@_engine.register
def _(node: TableJoin) -> str:
    return "polars, row-local"


@_engine.register(Aggregate)
@_engine.register(Join)
@_engine.register(AsofJoin)
@_engine.register(WindowAggregate)
@_engine.register(SessionAggregate)
@_engine.register(Recompute)
@_engine.register(TopK)
@_engine.register(Rolling)
@_engine.register(Numbered)
@_engine.register(Distinct)
def _(node: Node) -> str:
    keys = state_keys(node)
    return f"polars, exchange by {', '.join(keys)}" if keys else "polars, exchange to one partition"


@singledispatch
def _state(node: Node) -> str:
    return ""


@_state.register
def _(node: Aggregate) -> str:
    plan = node.decomposition
    rows = f"a row per {', '.join(node.keys)}" if node.keys else "one row"
    kept = f"{rows} ({', '.join(f'{dtype}' for dtype in plan.accumulators.dtypes())})"
    if plan.pairs:
        kept += f" and a row per distinct value, {len(plan.pairs)}x"
    return f"{kept}, unbounded" if node.keys else kept


@_state.register(Join)
@_state.register(Recompute)
@_state.register(Distinct)
def _(node: Node) -> str:
    kept = _kept(node)
    if kept is not None:
        return f"{kept}, unbounded"
    return "rows that the watermark lets go"


@_state.register
def _(node: TopK) -> str:
    return f"{node.k} rows per {', '.join(node.keys)}, unbounded" if node.keys else f"{node.k} rows"


@_state.register
def _(node: WindowAggregate) -> str:
    kept = "a row per key and bin" if node.decomposition is not None else "the rows"
    return f"{kept} of open windows"


@_state.register
def _(node: SessionAggregate) -> str:
    return "open sessions" if node.decomposition is not None else "the rows of open sessions"


@_state.register
def _(node: TableJoin) -> str:
    return "the table, in each worker"


@_state.register
def _(node: AsofJoin) -> str:
    last = f"the last row per {', '.join(node.by_right)}" if node.by_right else "the last row"
    return f"rows of the left that wait, {last} of the right and what the watermark has not passed"


@_state.register
def _(node: Rolling) -> str:
    return "the rows of the period before the watermark"


@_state.register
def _(node: Numbered) -> str:
    return f"a count per {', '.join(node.keys)}, unbounded" if node.keys else "a count"
