"""What stateful operators keep, as tables for people: names, sizes, and readable columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from arrowstream.names import PREFIX, is_inner, readable
from arrowstream.operators.changes import to_arrow
from arrowstream.operators.expiry import TOUCHED
from arrowstream.plan.aggregates import MAIN
from arrowstream.plan.eventtime import from_steps, from_ticks
from arrowstream.plan.explain import facts_of
from arrowstream.plan.nodes import Node
from arrowstream.plan.sessions import FIRST, LAST, STEPS, TICKS
from arrowstream.plan.statenames import state_names
from arrowstream.schedule.messages import ShownTable
from arrowstream.snapshot import Snapshot
from arrowstream.state.delta import DELETED
from arrowstream.state.multimap import ROW as MAP_ROW
from arrowstream.state.pile import ROW as PILE_ROW
from arrowstream.state.rows import ID

_INSIDE = (ID, MAP_ROW, PILE_ROW)
"""Columns that name rows inside a structure of state, and mean nothing outside."""


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One table of an operator: `name` for people, `table` inside."""

    name: str
    table: str
    node: Node
    operator: str
    bounded: bool


def entries(roots: Sequence[Node], keepers: Mapping[int, Node], tables: Iterable[str]) -> list[StateEntry]:
    """The tables of a unit whose plan is part of `roots`; `tables` are their names inside, number and role.

    An operator with one table gives it its own name, further ones are told apart: `join user: left`.
    """
    names, facts = state_names(roots), facts_of(roots)
    roles: dict[int, list[str]] = {}
    for table in tables:
        step, role = table.split("/", 1)
        roles.setdefault(int(step), []).append(role)
    found = []
    for number, several in sorted(roles.items()):
        node = keepers[number]
        for role in several:
            alone = role == MAIN or [role] == [other for other in several if other != TOUCHED]
            name = names[node] if alone else f"{names[node]}: {_readable_role(node, role)}"
            fact = facts[node]
            found.append(StateEntry(name, f"{number}/{role}", node, fact.label, not fact.unbounded))
    return found


def listing(found: Sequence[tuple[StateEntry, Sequence[ShownTable]]]) -> Snapshot:
    """A row for each table: name, operator, rows, bytes, and whether it is bounded."""
    rows = {
        "name": pa.array([entry.name for entry, _ in found], pa.string()),
        "operator": pa.array([entry.operator for entry, _ in found], pa.string()),
        "rows": pa.array([sum(part.rows for part in parts) for _, parts in found], pa.int64()),
        "bytes": pa.array([sum(part.bytes for part in parts) for _, parts in found], pa.int64()),
        "bounded": pa.array([entry.bounded for entry, _ in found], pa.bool_()),
    }
    return Snapshot(pa.table(rows))


def content(entry: StateEntry, parts: Sequence[ShownTable]) -> Snapshot:
    """The rows of a table, of all partitions."""
    frames = [pl.DataFrame(part.content) for part in parts if part.content is not None]
    kept = pl.concat(frames).filter(~pl.col(DELETED)).drop(DELETED, *_INSIDE, strict=False)
    time = entry.node.inputs[0].time
    if time is not None:
        dtype = entry.node.inputs[0].schema[time.column]
        columns = {FIRST: from_steps, LAST: from_steps, STEPS: from_steps, TICKS: from_ticks}
        shown = {name: made for name, made in columns.items() if name in kept.columns}
        kept = kept.with_columns(made(pl.col(name), dtype) for name, made in shown.items())
    return Snapshot(to_arrow(kept.rename(_readable(entry.node, kept.columns))))


def _readable(node: Node, columns: Sequence[str]) -> dict[str, str]:
    """A name for each column that has one from inside: what an accumulator holds, or the word itself."""
    decomposition = getattr(node, "decomposition", None)
    known: Mapping[str, str] = {} if decomposition is None else decomposition.readable
    names: dict[str, str] = {}
    for column in columns:
        if not is_inner(column):
            continue
        base = name = known.get(column, column.removeprefix(PREFIX))
        number = 1
        while name in columns or name in names.values():
            number += 1
            name = f"{base}_{number}"
        names[column] = name
    return names


def _readable_role(node: Node, role: str) -> str:
    decomposition = getattr(node, "decomposition", None)
    if decomposition is not None and role in decomposition.readable:
        return str(decomposition.readable[role])
    return readable(role).strip("_").replace("_", " ")
