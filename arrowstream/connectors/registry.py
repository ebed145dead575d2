"""Connectors by name: entry points of the groups `arrowstream.sources` and `arrowstream.sinks`.

A third party's connector is no different from ours: its package registers a class under a short name, and
`ctx.read.open(name, ...)` or `frame.write.to(name, ...)` finds it.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from arrowstream.errors import PlanError


@cache
def _registered(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def load(group: str, name: str) -> Any:
    """The class registered as `name` in `arrowstream.<group>`; its module is imported now.

    Raises `PlanError` for a name that is not registered.
    """
    known = _registered(f"arrowstream.{group}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PlanError(f"no connector {name!r} among the {group}; there are: {', '.join(sorted(known))}{hint}")
    return known[name].load()
