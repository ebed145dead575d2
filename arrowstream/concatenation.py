"""Several streams as one: side by side as they come, or a history and then what is live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from arrowstream.connectors.changes import Append, Retract
from arrowstream.connectors.source import SupportsBounded
from arrowstream.errors import PlanError, unknown_column
from arrowstream.frame import StreamFrame
from arrowstream.plan.eventtime import check_time, least, ticks
from arrowstream.plan.handover import Handover
from arrowstream.plan.nodes import SourceNode, Union
from arrowstream.plan.unit import topological


def concat(frames: Sequence[StreamFrame]) -> StreamFrame:
    """All rows of several frames of the same columns and types, as they come.

    Raises `PlanError` where columns or types differ, or the frames belong to different contexts.
    """
    if not frames:
        raise PlanError("concat([]): give at least one frame")
    first = frames[0]
    for other in frames[1:]:
        if other._plans is not first._plans:
            raise PlanError("concat: the frames belong to different contexts")
        if other.schema != first.schema:
            raise PlanError(f"concat: the frames differ: {dict(first.schema)} and {dict(other.schema)}; cast or select")
    if len(frames) == 1:
        return first
    nodes = tuple(frame._node for frame in frames)
    kind = Append() if all(isinstance(node.kind, Append) for node in nodes) else Retract()
    times = [node.time for node in nodes]
    column = times[0].column if times[0] is not None else ""
    timed = [time for time in times if time is not None and time.column == column]
    time = least(timed, column) if len(timed) == len(nodes) else None
    return StreamFrame(Union(schema=first.schema, kind=kind, time=time, parts=nodes), first._plans)


def concat_history(history: StreamFrame, live: StreamFrame, *, on: str, at: Any) -> StreamFrame:
    """History first, then live: rows of `history` whose `on` is below `at`, then those of `live` from `at` on.

    The history is read as it is at the start, to its end (a directory with the files that are there). Live rows wait
    until then; a live source that cannot be read again is listened to from the start, so that there is no gap, and
    its rows are kept. `on` is a time or a whole number that both have (an offset), `at` a value of its type, or
    a text such as "2026-11-26 12:00". Rows without one are kept, on either side.

    Call `with_watermark` on what this gives: its watermark follows the history, and then the live stream.
    Raises `PlanError`, `ColumnError`.
    """
    where = "concat_history"
    for frame in (history, live):
        if on not in frame.schema:
            raise unknown_column(on, "the frame", frame.columns)
        if frame._node.time is not None:
            raise PlanError(f"{where}: call with_watermark on what {where} gives, not on its parts")
        if not isinstance(frame.kind, Append):
            raise PlanError(f"{where}: takes streams that only grow, and one of these {frame.kind}")
    check_time(on, history.schema[on], where)
    sources = [{node for node in topological([f._node]) if isinstance(node, SourceNode)} for f in (history, live)]
    if sources[0] & sources[1]:
        raise PlanError(f"{where}: history and live read the same source; that stream alone is both")
    for node in sources[0]:
        if not isinstance(node.source, SupportsBounded):
            raise PlanError(f"{where}: source {node.name} of the history never ends")
    moment = _moment(at, history.schema[on], where)
    before, time = pl.col(on) < moment, pl.col(on)
    joined = concat([history.filter(before | time.is_null()), live.filter(~before | time.is_null())])._node
    assert isinstance(joined, Union)
    value = pl.select(ticks(moment, history.schema[on])).item()
    made = Handover(schema=joined.schema, kind=joined.kind, parts=joined.parts, column=on, at=value)
    return StreamFrame(made, history._plans)


def _moment(at: Any, dtype: pl.DataType, where: str) -> pl.Expr:
    """`at` as a constant of the column's type. Raises `PlanError`."""
    try:
        if isinstance(at, str) and isinstance(dtype, pl.Datetime):
            found = pl.select(pl.lit(at).str.to_datetime(time_unit=dtype.time_unit, time_zone=dtype.time_zone))
        elif isinstance(at, str) and isinstance(dtype, pl.Date):
            found = pl.select(pl.lit(at).str.to_date())
        else:
            given = pl.Series([at])
            zones = [getattr(each, "time_zone", None) for each in (given.dtype, dtype)]
            if (zones[0] is None) != (zones[1] is None):
                raise PlanError(f"{where}: at={at!r} and a column of {dtype}: both must have a time zone, or none")
            found = given.to_frame().select(pl.all().cast(dtype))
        return pl.lit(found.item(), dtype)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise PlanError(f"{where}: at={at!r} is no value of a column of {dtype}: {error}") from None
