"""The plan as text: each node with its engine, the kind of its changes, and its state."""

from __future__ import annotations

from functools import singledispatch

from arrowstream.plan.nodes import Aggregate, MapBatches, Node, Output, Rows, SourceNode, Sql, Union


def explain(node: Node) -> str:
    """A tree, the node first and what it reads below it; a node that was shown already is only named again."""
    lines: list[str] = []
    shown: dict[Node, int] = {}

    def visit(node: Node, indent: int) -> None:
        pad = "  " * indent
        if node in shown:
            lines.append(f"{pad}#{shown[node]} (shared: runs once)")
            return
        shown[node] = len(shown)
        lines.append(f"{pad}#{shown[node]} {node.label}")
        lines.append(f"{pad}     {_engine(node)} | {node.kind}{_state(node)}")
        for child in node.inputs:
            visit(child, indent + 1)

    visit(node, 0)
    return "\n".join(lines)


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
def _(node: Aggregate) -> str:
    return "polars, exchange by key" if node.keys else "polars, exchange to one partition"


@singledispatch
def _state(node: Node) -> str:
    return ""


@_state.register
def _(node: Aggregate) -> str:
    plan = node.decomposition
    rows = f"a row per {', '.join(node.keys)}" if node.keys else "one row"
    kept = f" | state: {rows} ({', '.join(f'{dtype}' for dtype in plan.accumulators.dtypes())})"
    if plan.pairs:
        kept += f" and a row per distinct value, {len(plan.pairs)}x"
    return f"{kept}, unbounded" if node.keys else kept
