"""What row-local work does to the kind of change that passes through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from arrowstream.connectors.changes import Append, ChangeKind, Retract, Upsert
from arrowstream.plan.eventtime import EventTime
from arrowstream.plan.expressions import expand, parse
from arrowstream.plan.nodes import MapBatches, Node, Output, Rows, Sql, Step, Watermark
from arrowstream.plan.rowlocal import Height, height

_DROP_ROWS = frozenset({"filter", "remove", "drop_nulls", "drop_nans"})
_KEEP_COLUMNS = frozenset({"cast", "fill_null", "fill_nan"})


@dataclass(frozen=True, slots=True)
class Passage:
    """The kind of change after a step, and whether the step must be shown the rows that are replaced.

    An aggregate that is only written to a table need not say what each row was before. One whose rows are
    filtered must: the row of a key may pass now and not later, and then it has to be taken out.
    """

    kind: ChangeKind
    needs_removed: bool


def through(step: Step, before: pl.Schema, kind: ChangeKind) -> Passage:
    """How changes of `kind` come out of a row-local step over columns `before`."""
    if isinstance(kind, Append):
        return Passage(kind, False)
    if isinstance(kind, Retract):
        return Passage(kind, True)
    if step.method in _DROP_ROWS:
        return Passage(kind, True)
    if _multiplies(step, before):
        return Passage(Retract(), True)
    renamed = _renamed(step, before)
    if all(key in renamed for key in kind.keys):
        return Passage(Upsert(tuple(renamed[key] for key in kind.keys)), False)
    return Passage(Retract(), True)


def time_through(step: Step, before: pl.Schema, time: EventTime | None) -> EventTime | None:
    """The event time after a row-local step: known as long as its column goes through as it is."""
    if time is None:
        return None
    if step.method in _DROP_ROWS or step.method in ("explode", "unnest"):
        after = step(before.to_frame().lazy()).collect_schema()
        return time if after.get(time.column) == before[time.column] else None
    name = _renamed(step, before).get(time.column)
    return None if name is None else time.renamed(name)


def _multiplies(step: Step, before: pl.Schema) -> bool:
    """Whether one row may become several, so that a key, or the one row there is, no longer names a row."""
    if step.method in ("select", "select_seq"):
        trees = [parse(expr) for _, expr in expand(before, *step.args, **step.kwargs)]
        return any(height(step.method, tree, before) is Height.CHANGED for tree in trees)
    return step.method in ("explode", "unpivot")


def _renamed(step: Step, before: pl.Schema) -> dict[str, str]:
    """Columns that go through a step as they are, and under which name."""
    names = {name: name for name in before}
    match step.method:
        case "select" | "select_seq":
            return _plain(before, step.args, step.kwargs)
        case "with_columns" | "with_columns_seq":
            plain = _plain(before, step.args, step.kwargs)
            made = {name for name, _ in expand(before, *step.args, **step.kwargs)}
            kept = {name: name for name in names if name not in made}
            return kept | {source: name for source, name in plain.items() if source not in kept}
        case "rename":
            after = before.to_frame().lazy().rename(*step.args, **step.kwargs).collect_schema().names()
            return dict(zip(before.names(), after, strict=True))
        case "drop":
            after = step(before.to_frame().lazy()).collect_schema().names()
            return {name: name for name in after}
    if step.method in _KEEP_COLUMNS:
        # A cast may make two keys one, a fill may too: only columns of unchanged content are safe.
        after_schema = step(before.to_frame().lazy()).collect_schema()
        touched = set(names) if step.method != "cast" else {n for n in names if after_schema[n] != before[n]}
        return {name: name for name in names if name not in touched}
    return {}


def _plain(before: pl.Schema, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name, expr in expand(before, *args, **kwargs):
        bare = expr.meta.undo_aliases()
        if bare.meta.is_column():
            columns.setdefault(bare.meta.output_name(), name)
    return columns


def needs_removed(consumers: Mapping[Node, list[Node]], node: Node) -> bool:
    """Whether somebody after `node` must be shown the rows that it replaces."""
    for consumer in consumers.get(node, []):
        if isinstance(consumer, Rows):
            schema, kind, shown = node.schema, node.kind, False
            for step in consumer.steps:
                passage = through(step, schema, kind)
                shown = shown or passage.needs_removed
                schema, kind = step(schema.to_frame().lazy()).collect_schema(), passage.kind
            if shown or needs_removed(consumers, consumer):
                return True
        elif isinstance(consumer, Output | Sql | MapBatches | Watermark):
            if isinstance(consumer.kind, Retract):
                return True
        else:
            return True  # whatever keeps state of its input takes back what it was told before
    return False
