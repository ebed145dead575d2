"""Names of what stateful operators keep: short, readable, the same for the same plan."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

from arrowstream.names import readable
from arrowstream.plan.joins import AsofJoin, Join
from arrowstream.plan.nodes import Aggregate, Node
from arrowstream.plan.ranks import Distinct, TopK
from arrowstream.plan.recompute import Recompute
from arrowstream.plan.sessions import SessionAggregate
from arrowstream.plan.unit import topological
from arrowstream.plan.windownodes import Numbered, Rolling, WindowAggregate


def state_names(roots: Iterable[Node]) -> dict[Node, str]:
    """The name of each stateful node of these plans: the call and its keys, and from the second of the same on a number
    (`group_by word`, `group_by word (2)`)."""
    names: dict[Node, str] = {}
    taken: dict[str, int] = {}
    for node in topological(roots):
        name = _name(node)
        if name is not None:
            taken[name] = taken.get(name, 0) + 1
            names[node] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names


def state_keys(node: Node) -> tuple[str, ...]:
    """The columns by which a stateful node keeps what it keeps."""
    match node:
        case Join():
            return node.left_on
        case AsofJoin():
            return node.by_left
        case Distinct():
            return node.subset
        case Aggregate() | WindowAggregate() | SessionAggregate() | Rolling() | Numbered() | Recompute() | TopK():
            return node.keys
    return ()


def _of(call: str, *columns: str) -> str:
    return readable(" ".join([call, ", ".join(columns)])) if columns else call


@singledispatch
def _name(node: Node) -> str | None:
    return None


@_name.register
def _(node: Aggregate) -> str:
    return _of("group_by", *node.keys) if node.keys else "agg"


@_name.register
def _(node: Recompute) -> str:
    return _of("recompute", *node.keys)


@_name.register
def _(node: WindowAggregate) -> str:
    return _of("group_by_cumulate" if node.windows.cumulate else "group_by_dynamic", node.index, *node.keys)


@_name.register
def _(node: SessionAggregate) -> str:
    return _of("group_by_session", node.index, *node.keys)


@_name.register
def _(node: Rolling) -> str:
    return _of("rolling", node.index, *node.keys)


@_name.register
def _(node: Numbered) -> str:
    return _of("group_by_count", *node.keys)


@_name.register
def _(node: TopK) -> str:
    return _of(f"top_{node.k}", *node.keys)


@_name.register
def _(node: Distinct) -> str:
    return _of("unique", *node.subset)


@_name.register
def _(node: Join) -> str:
    return _of("join", *node.left_on)


@_name.register
def _(node: AsofJoin) -> str:
    return _of("join_asof", *(node.by_left or (node.left_on,)))
