"""History first, then live: a stream that ends, followed by one that goes on, without a gap or an overlap."""

from __future__ import annotations

from dataclasses import dataclass

from arrowstream.ids import SourceId
from arrowstream.plan.eventtime import EventTime
from arrowstream.plan.kinds import time_through
from arrowstream.plan.nodes import Node, Rows, Union, Watermark
from arrowstream.plan.unit import Unit, sources_below, topological, watermarks


@dataclass(frozen=True, eq=False, kw_only=True)
class Handover(Union):
    """Rows of the history, whose `column` is below `at` (ticks), then those of the live stream, where it is not.

    The parts are filtered already. Rows of live sources wait until all sources of the history have ended.
    """

    column: str
    at: int

    @property
    def label(self) -> str:
        return f"History, then live by {self.column}"


@dataclass(frozen=True, slots=True)
class Turn:
    """These sources go first, to their end; those wait."""

    first: frozenset[SourceId]
    later: frozenset[SourceId]


def turns(unit: Unit) -> list[Turn]:
    """Whose turn it is before whose."""
    return [
        Turn(*(frozenset(sources_below(unit, part)) for part in node.parts))
        for node in topological(unit.outputs)
        if isinstance(node, Handover)
    ]


def floors(unit: Unit) -> list[dict[SourceId, int]]:
    """For each watermark of a unit, sources of which no row comes to it with a time below so many ticks.

    Live rows all have a time from the handover on, so that before the first of them the watermark may already stand
    there, and the history closes its windows.
    """
    known = [_floors(unit, mark.input) for mark in watermarks(unit)]
    return [
        {source: ticks for source, (column, ticks) in each.items() if column == mark.column}
        for each, mark in zip(known, watermarks(unit), strict=True)
    ]


def _floors(unit: Unit, node: Node) -> dict[SourceId, tuple[str, int]]:
    """Sources below a node, with the column of the node's rows that has a least value, and that value."""
    match node:
        case Handover():
            history, live = node.parts
            own = dict.fromkeys(sources_below(unit, live), (node.column, node.at))
            return {**_floors(unit, history), **own}
        case Watermark():
            return _floors(unit, node.input)
        case Rows():
            found = _floors(unit, node.input)
            schema = node.input.schema
            for step in node.steps:
                passed = {source: time_through(step, schema, EventTime(at[0], ())) for source, at in found.items()}
                found = {source: (time.column, found[source][1]) for source, time in passed.items() if time is not None}
                schema = step(schema.to_frame().lazy()).collect_schema()
            return found
    return {}
