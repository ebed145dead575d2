"""Units: connected plans. Sources and outputs that share a part advance together, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from arrowstream.ids import SourceId, UnitId
from arrowstream.plan.nodes import Node, Output, SourceNode, Watermark


@dataclass(frozen=True, slots=True)
class Unit:
    """A connected plan: the unit of batches, of failure and of checkpoints."""

    id: UnitId
    sources: tuple[tuple[SourceId, SourceNode], ...]
    outputs: tuple[Output, ...]


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node once, inputs before those that read them, in the order in which they are met."""
    seen: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in seen:
            for child in node.inputs:
                visit(child)
            seen[node] = None

    for root in roots:
        visit(root)
    return list(seen)


def watermarks(unit: Unit) -> list[Watermark]:
    """The watermarks of a unit; their place here is their number."""
    return [node for node in topological(unit.outputs) if isinstance(node, Watermark)]


def sources_below(unit: Unit, node: Node) -> list[SourceId]:
    """The sources whose rows come to a node."""
    below = set(topological([node]))
    return [source for source, at in unit.sources if at in below]


def consumers(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """For each node, those that read it."""
    readers: dict[Node, list[Node]] = {}
    for node in nodes:
        for child in node.inputs:
            readers.setdefault(child, []).append(node)
    return readers


def units(outputs: Sequence[Output]) -> list[Unit]:
    """The connected plans of these outputs, in the order of their first output."""
    groups: list[tuple[set[Node], list[Output]]] = []
    for output in outputs:
        joined: set[Node] = {node for node in topological([output]) if isinstance(node, SourceNode)}
        members = [output]
        apart = []
        for group in groups:
            if group[0] & joined:
                joined, members = joined | group[0], [*group[1], *members]
            else:
                apart.append(group)
        groups = [*apart, (joined, members)]
    ordered = sorted(groups, key=lambda group: outputs.index(group[1][0]))
    made = []
    for number, (_, members) in enumerate(ordered):
        members = sorted(members, key=outputs.index)
        found = [node for node in topological(members) if isinstance(node, SourceNode)]
        sources_by_id = tuple((SourceId(f"s{i:03d}"), node) for i, node in enumerate(found))
        made.append(Unit(UnitId(f"u{number}"), sources_by_id, tuple(members)))
    return made
