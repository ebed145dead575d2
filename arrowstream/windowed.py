"""Windows of a stream frame: what `frame.group_by_dynamic(...)` and its like give; `agg` makes the node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from arrowstream.connectors.changes import Append, ChangeKind, Retract, Upsert
from arrowstream.errors import PlanError, unknown_column
from arrowstream.plan.aggregates import NotDecomposable, decompose
from arrowstream.plan.eventtime import check_time, duration_ticks
from arrowstream.plan.expressions import as_expressions, expand_grouped, resolve
from arrowstream.plan.groupwise import TOO_LARGE, groupwise, too_large
from arrowstream.plan.openwindows import OpenWindows
from arrowstream.plan.sessions import FIRST, LAST, OpenSessions, SessionAggregate
from arrowstream.plan.timeless import cure
from arrowstream.plan.windownodes import Numbered, Rolling, WindowAggregate
from arrowstream.plan.windows import BIN, CLOSED, Windows, interval, spelled, stretch

if TYPE_CHECKING:
    from polars._typing import IntoExpr

    from arrowstream.frame import StreamFrame


class StreamWindows:
    """Rows by window and key: call `agg`."""

    def __init__(
        self,
        frame: StreamFrame,
        index: str,
        windows: Windows,
        by: Sequence[pl.Expr],
        *,
        label_right: bool,
        boundaries: bool,
        update: bool,
    ) -> None:
        self._frame, self._index, self._windows, self._by = frame, index, windows, list(by)
        self._label_right, self._boundaries, self._update = label_right, boundaries, update

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """A row per window and key that has rows: any aggregates of Polars.

        What can be kept as running values is (per key and bin); for the rest the rows of open windows are kept.
        Raises `PlanError`.
        """
        node, schema, windows = self._frame._node, self._frame.schema, self._windows
        by, outputs = expand_grouped(schema, self._by, as_expressions(aggs, named_aggs))
        binned = pl.Schema({**schema, BIN: schema[self._index]})
        keys = tuple(name for name, _ in by)
        decomposed = None
        named = [expr.alias(name) for name, expr in groupwise("agg", outputs, schema)]
        grouping = [expr.alias(name) for name, expr in by]
        if windows.bin is not None:
            with contextlib.suppress(NotDecomposable):
                decomposed = decompose([*by, (BIN, pl.col(BIN))], outputs, binned)
        if decomposed is not None and decomposed.ordered and not windows.tumbling:
            decomposed = None  # rows of different bins come in turns: which was the first, bins do not tell
        if decomposed is not None:
            found = {name: dtype for name, dtype in decomposed.output.items() if name != BIN}
        else:
            found = dict(resolve(pl.LazyFrame(schema=binned).group_by(*grouping, BIN).agg(named), schema))
            found.pop(BIN)
        key_types = {name: found[name] for name in keys}
        results = {name: dtype for name, dtype in found.items() if name not in keys}
        window = [*(("_lower_boundary", "_upper_boundary") if self._boundaries else ()), self._index]
        if clash := set(window) & set(found):
            raise PlanError(f"agg: the name {min(clash)!r} is that of the window; rename yours by .alias(...)")
        _check_bounds(window, self._index)
        output = pl.Schema({**key_types, **dict.fromkeys(window, schema[self._index]), **results})
        assert node.time is not None
        late = bool(node.time.lateness)
        kind: ChangeKind = Upsert((*keys, *window)) if self._update or late else Append()
        described = ", ".join(f"{name}={' '.join(str(expr).split())}" for name, expr in outputs)
        return self._frame._with(
            WindowAggregate(
                schema=output,
                kind=kind,
                time=node.time.renamed(self._index).held_back(OpenWindows(windows, self._label_right)),
                input=node,
                index=self._index,
                windows=windows,
                keys=keys,
                by=tuple(grouping),
                aggs=tuple(named),
                description=described if len(described) <= 120 else described[:119] + "…",
                label_right=self._label_right,
                boundaries=self._boundaries,
                decomposition=decomposed,
                update=self._update,
                too_large=too_large(outputs, schema),
            )
        )

    def len(self, name: str | None = None) -> StreamFrame:
        """How many rows each window has."""
        return self.agg(pl.len().alias(name or "len"))


class StreamSessions:
    """Rows by session and key: call `agg`."""

    def __init__(
        self, frame: StreamFrame, index: str, gap: int, by: Sequence[pl.Expr], *, boundaries: bool, update: bool
    ) -> None:
        self._frame, self._index, self._gap, self._by = frame, index, gap, list(by)
        self._boundaries, self._update = boundaries, update

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """A row per session: any aggregates of Polars. Raises `PlanError`."""
        node, schema = self._frame._node, self._frame.schema
        by, outputs = expand_grouped(schema, self._by, as_expressions(aggs, named_aggs))
        keys = tuple(name for name, _ in by)
        named = tuple(expr.alias(name) for name, expr in groupwise("agg", outputs, schema))
        grouping = tuple(expr.alias(name) for name, expr in by)
        keyed = pl.Schema({**resolve(pl.LazyFrame(schema=schema).with_columns(grouping), schema)})
        wide = pl.Schema({**keyed, FIRST: pl.Int64(), LAST: pl.Int64()})
        decomposed = None
        with contextlib.suppress(NotDecomposable):
            decomposed = decompose([(name, pl.col(name)) for name in (*keys, FIRST, LAST)], outputs, wide)
        if decomposed is not None and (decomposed.pairs or decomposed.ordered):
            # Values that were seen belong to a session that others may join; and rows of two that become one have come
            # in turns.
            decomposed = None
        if decomposed is not None:
            found = {name: dtype for name, dtype in decomposed.output.items() if name not in (FIRST, LAST)}
        else:
            one = pl.LazyFrame(schema=schema).with_columns(pl.lit(0).alias(FIRST))
            found = dict(resolve(one.group_by(*grouping, FIRST).agg(named), schema))
            found.pop(FIRST)
        window = [*(("_lower_boundary", "_upper_boundary") if self._boundaries else ()), self._index]
        if clash := set(window) & set(found):
            raise PlanError(f"agg: the name {min(clash)!r} is that of the session; rename yours by .alias(...)")
        _check_bounds(window, self._index)
        key_types = {name: found[name] for name in keys}
        results = {name: dtype for name, dtype in found.items() if name not in keys}
        output = pl.Schema({**key_types, **dict.fromkeys(window, schema[self._index]), **results})
        assert node.time is not None
        kind: ChangeKind = Retract() if self._update or node.time.lateness else Append()
        # The start of a session may be any time back; what is known is that its end is after the watermark.
        time = node.time.renamed("_upper_boundary").held_back(OpenSessions(schema[self._index]))
        described = ", ".join(f"{name}={' '.join(str(expr).split())}" for name, expr in outputs)
        return self._frame._with(
            SessionAggregate(
                schema=output,
                kind=kind,
                time=time if self._boundaries else None,
                input=node,
                index=self._index,
                gap=self._gap,
                keys=keys,
                by=grouping,
                aggs=named,
                description=described if len(described) <= 120 else described[:119] + "…",
                boundaries=self._boundaries,
                decomposition=decomposed,
                update=self._update,
                too_large=too_large(outputs, schema),
            )
        )

    def len(self, name: str | None = None) -> StreamFrame:
        """How many rows each session has."""
        return self.agg(pl.len().alias(name or "len"))


class StreamRolling:
    """For each row what lies before it: call `agg`."""

    def __init__(
        self, frame: StreamFrame, index: str, length: str, period: int, closed: str, by: Sequence[pl.Expr]
    ) -> None:
        self._frame, self._index, self._closed, self._by = frame, index, closed, list(by)
        self._length, self._period = length, period

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """A row per row: its key, its time and aggregates of the rows before it. Raises `PlanError`."""
        node, schema = self._frame._node, self._frame.schema
        by, outputs = expand_grouped(schema, self._by, as_expressions(aggs, named_aggs))
        for name, expr in by:
            if not expr.meta.is_column():
                raise PlanError(f"rolling: the key {name!r} is computed; make it a column first by with_columns")
        described = ", ".join(f"{name}={' '.join(str(expr).split())}" for name, expr in outputs)
        assert node.time is not None
        parts: dict[str, Any] = {
            "kind": Append(),
            "input": node,
            "index": self._index,
            "length": self._length,
            "period": self._period,
            "reach": self._period + stretch(self._period, schema[self._index]),
            "closed": self._closed,
            "keys": tuple(name for name, _ in by),
            "by": tuple(expr for _, expr in by),
            "aggs": tuple(expr.alias(name) for name, expr in groupwise("agg", outputs, schema)),
            "too_large": too_large(outputs, schema),
            "description": described if len(described) <= 120 else described[:119] + "…",
        }
        empty = Rolling(schema=schema, **parts)
        output = resolve(empty.rolled(pl.LazyFrame(schema=schema)).drop(TOO_LARGE, strict=False), schema)
        return self._frame._with(Rolling(schema=output, time=node.time.settled(), **parts))


class StreamCounts:
    """Windows of a number of rows: call `agg`."""

    def __init__(self, frame: StreamFrame, size: int, group_by: Any) -> None:
        self._frame, self._size = frame, size
        self._keys = [] if group_by is None else [group_by] if isinstance(group_by, str) else list(group_by)

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """A row per key and window, updated as its rows come; `window` numbers them from 0. Raises `PlanError`."""
        frame, node = self._frame, self._frame._node
        for key in self._keys:
            if key not in frame.schema:
                raise unknown_column(key, "the frame", frame.columns)
        if "window" in frame.schema:
            raise PlanError("group_by_count: the number of the window is called 'window'; rename your column")
        schema = pl.Schema({**frame.schema, "window": pl.Int64()})
        numbered = frame._with(
            Numbered(schema=schema, kind=Append(), input=node, keys=tuple(self._keys), name="window")
        )
        windows = numbered.with_columns(pl.col("window") // self._size)
        return windows.group_by(*self._keys, "window").agg(*aggs, **named_aggs)


def count(frame: StreamFrame, size: int, group_by: Any) -> StreamCounts:
    """What `group_by_count` gives."""
    if not isinstance(size, int) or size < 1:
        raise PlanError(f"group_by_count: size={size!r} must be a whole number above zero")
    if not isinstance(frame._node.kind, Append):
        raise PlanError("group_by_count: rows that are taken back have no number; count before the aggregate")
    return StreamCounts(frame, size, group_by)


def rolling(frame: StreamFrame, index: str, period: Any, closed: str, group_by: Any) -> StreamRolling:
    """What `rolling` gives."""
    where = "rolling"
    _check(frame, index, "final", where)
    if closed not in CLOSED:
        raise PlanError(f"{where}: closed={closed!r} is not one of {', '.join(CLOSED)}")
    dtype = frame.schema[index]
    ticks = duration_ticks(period, dtype, f"{where}: period")
    if ticks <= 0:
        raise PlanError(f"{where}: period={period!r} must be above zero, as in '10s'")
    length = f"{ticks}i" if dtype.is_integer() else spelled(period) if isinstance(period, timedelta) else str(period)
    by = [] if group_by is None else as_expressions([group_by], {})
    return StreamRolling(frame, index, length, ticks, closed, by)


def session(frame: StreamFrame, index: str, gap: Any, group_by: Any, boundaries: bool, emit: str) -> StreamSessions:
    """What `group_by_session` gives."""
    where = "group_by_session"
    _check(frame, index, emit, where)
    distance = duration_ticks(gap, frame.schema[index], f"{where}: gap")
    if distance <= 0:
        raise PlanError(f"{where}: gap={gap!r} must be above zero, as in '10s'")
    by = [] if group_by is None else as_expressions([group_by], {})
    return StreamSessions(frame, index, distance, by, boundaries=boundaries, update=emit == "update")


def dynamic(
    frame: StreamFrame,
    index: str,
    every: Any,
    period: Any,
    offset: Any,
    boundaries: bool,
    closed: str,
    label: str,
    group_by: Any,
    emit: str,
) -> StreamWindows:
    """What `group_by_dynamic` gives."""
    where = "group_by_dynamic"
    _check(frame, index, emit, where)
    if closed not in CLOSED:
        raise PlanError(f"{where}: closed={closed!r} is not one of {', '.join(CLOSED)}")
    if label not in ("left", "right"):
        raise PlanError(
            f"{where}: label={label!r} is not left or right"
            + ("; a window is named by itself, not by a row that may come late" if label == "datapoint" else "")
        )
    dtype = frame.schema[index]
    step = interval(every, dtype, f"{where}: every")
    length = step if period is None else interval(period, dtype, f"{where}: period")
    windows = Windows(dtype, step, length, _offset(offset, dtype, where), closed)  # type: ignore[arg-type]
    return _windows(frame, index, windows, group_by, emit, label_right=label == "right", boundaries=boundaries)


def cumulate(
    frame: StreamFrame, index: str, step: Any, every: Any, offset: Any, group_by: Any, emit: str
) -> StreamWindows:
    """What `group_by_cumulate` gives."""
    where = "group_by_cumulate"
    _check(frame, index, emit, where)
    dtype = frame.schema[index]
    small, large = interval(step, dtype, f"{where}: step"), interval(every, dtype, f"{where}: every")
    alike = small.fixed == large.fixed and not (small.months and small.units)
    if not alike or large.units % (small.units or 1) or large.months % (small.months or 1):
        raise PlanError(
            f"{where}: every={every!r} must be a whole number of steps of {step!r}, both in months, quarters, years, "
            "or both in weeks, days, hours and less"
        )
    windows = Windows(dtype, small, large, _offset(offset, dtype, where), "left", cumulate=True)
    return _windows(frame, index, windows, group_by, emit, label_right=True, boundaries=True)


def _windows(
    frame: StreamFrame,
    index: str,
    windows: Windows,
    group_by: Any,
    emit: str,
    *,
    label_right: bool,
    boundaries: bool,
) -> StreamWindows:
    by = [] if group_by is None else as_expressions([group_by], {})
    return StreamWindows(
        frame, index, windows, by, label_right=label_right, boundaries=boundaries, update=emit == "update"
    )


def _check(frame: StreamFrame, index: str, emit: str, where: str) -> None:
    if index not in frame.schema:
        raise unknown_column(index, "the frame", frame.columns)
    check_time(index, frame.schema[index], where)
    if emit not in ("final", "update"):
        raise PlanError(f"{where}: emit={emit!r} is not final or update")
    time = frame._node.time
    if time is None or time.column != index:
        has = "" if time is None else f" (it has one on {time.column!r})"
        how = cure(frame._node) if time is None else f"call with_watermark({index!r}, delay) instead"
        raise PlanError(
            f"{where}: the frame has no watermark on {index!r}{has}, so nothing says when a window is complete; {how}; "
            f"for running aggregates frame.group_by(pl.col({index!r}).dt.truncate(...)) does without"
        )
    if not isinstance(frame._node.kind, Append):
        raise PlanError(
            f"{where}: windows close for good, and this stream {frame._node.kind}; put the window before the "
            f"aggregate, or group by the time: frame.group_by(pl.col({index!r}).dt.truncate(...))"
        )


def _check_bounds(columns: Sequence[str], index: str) -> None:
    """Raises `PlanError` where the label, which has the name of the index column, would be called like a bound."""
    if columns.count(index) > 1:
        raise PlanError(
            f"agg: the index column is called {index!r}, and so is a boundary of the new windows; "
            f"rename it before, .rename({{{index!r}: 'at'}})"
        )


def _offset(offset: Any, dtype: pl.DataType, where: str) -> str | None:
    if offset is None:
        return None
    made = interval(offset, dtype, f"{where}: offset", positive=False)
    return made.text if made.months or made.units else None
