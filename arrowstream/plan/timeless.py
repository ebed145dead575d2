"""What to say where a frame has no event time: whether it never had one, or which step gave it up."""

from __future__ import annotations

from arrowstream.plan.nodes import Node
from arrowstream.plan.ranks import Distinct
from arrowstream.plan.sessions import SessionAggregate
from arrowstream.plan.unit import topological


def cure(node: Node) -> str:
    """What would give this frame an event time."""
    for step in topological([node]):
        if step.time is None and any(before.time is not None for before in step.inputs):
            name = step.label.split()[0].lower()
            return f"{name} gave up the event time: {_instead(step)}"
    return "call with_watermark(column, delay) first"


def _instead(step: Node) -> str:
    match step:
        case Distinct():
            return "give it within=, the time in which equal rows may come, or have the time among its columns"
        case SessionAggregate():
            return "a session may have begun any time ago; do this before it"
    return "do this before it"
