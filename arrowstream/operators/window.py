"""Windows that come out once and final: partial bins by key, put together as the watermark passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream.operators.aggregate import PartialAggregate
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, difference, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.aggregates import MAIN, VALUE, Decomposition
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.plan.windows import BIN, END, START, WindowAggregate, Windows
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable

_CLOSES: Final = "__closes"
_MERGE_ROWS: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class WindowJudge:
    """A row is late, as a whole, where the earliest window that contains it had closed when its batch began."""

    column: str
    windows: Windows
    mark: Mark
    operator: str

    def in_time(self, rows: pl.DataFrame, moment: Moment) -> pl.DataFrame:
        """The rows that came in time; the others are in the dead letters."""
        watermark = moment.late_before(self.mark)
        dtype = rows.schema[self.column]
        if watermark == BEGINNING or rows.is_empty():
            return rows
        time = pl.col(self.column)
        low = rows.select(ticks(time, dtype).min()).item()
        if low is None or low >= watermark:
            return rows
        start, end = self.windows.first_end(time)
        judged = rows.select(
            time=ticks(time, dtype),
            start=ticks(start, dtype),
            end=ticks(end, dtype),
            late=(self.windows.closes(end) <= watermark).fill_null(False),
        )
        late = judged["late"]
        if not late.any():
            return rows
        found = judged.filter(late)
        moment.late(
            rows.filter(late),
            self.operator,
            time=found["time"],
            watermark=watermark,
            window_start=found["start"],
            window_end=found["end"],
            temporal=dtype.is_temporal(),
        )
        return rows.filter(~late)


class JudgedPartial:
    """A partial aggregate over the rows that came in time."""

    def __init__(self, judge: WindowJudge | None, inner: PartialAggregate) -> None:
        self._judge, self._inner = judge, inner

    @property
    def frames(self) -> Sequence[str]:
        return self._inner.frames

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        if self._judge is None or moment.late_before(self._judge.mark) == BEGINNING:
            return self._inner.partial(changes, moment)
        rows = self._judge.in_time(changes.added.collect(), moment)
        return self._inner.partial(Changes(rows.lazy(), changes.removed), moment)


class WindowRowsPartial:
    """The rows of windows whose aggregates need all of them at once, with the bin of each."""

    def __init__(self, judge: WindowJudge, windows: Windows, columns: Sequence[str]) -> None:
        self._judge, self._windows, self._columns = judge, windows, list(columns)

    @property
    def frames(self) -> Sequence[str]:
        return (ROWS_FRAME,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = self._judge.in_time(changes.added.select(self._columns).collect(), moment)
        return {ROWS_FRAME: rows.with_columns(self._windows.bin_of(pl.col(self._judge.column)).alias(BIN))}


class _Shape:
    """How closed windows look, and when they close; what both operators have in common."""

    def __init__(self, node: WindowAggregate, mark: Mark) -> None:
        self._windows, self._mark, self._keys = node.windows, mark, list(node.keys)
        self._index, self._label = node.index, END if node.label_right else START
        self._bounds = node.boundaries
        self._output = node.schema
        self._update = node.update

    @property
    def _corrects(self) -> bool:
        """Whether windows that were given out may come again."""
        return self._update or bool(self._mark.lateness)

    def _given(self, moment: Moment) -> int:
        """Windows that close up to here may have been given out before this batch."""
        return FOREVER if self._update else moment.start(self._mark)

    def nothing(self) -> Changes:
        empty = self._output.to_frame().lazy()
        return Changes(empty, empty if self._corrects else None)

    def _expanded(self, rows: pl.LazyFrame, time: str | None = None) -> pl.LazyFrame:
        closes = self._windows.closes(pl.col(END)).alias(_CLOSES)
        return self._windows.expanded(rows, time).with_columns(closes)

    def _shown(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of keys, `__start`, `__end` and results in the columns of the output."""
        named = [pl.col(self._label).alias(self._index)]
        if self._bounds:
            named += [pl.col(START).alias("_lower_boundary"), pl.col(END).alias("_upper_boundary")]
        return rows.with_columns(named).select(self._output.names())

    def _forgets(self, frame: pl.DataFrame, moment: Moment) -> pl.Series | None:
        """Which of these bins are in no window any more that a row could change; None where all are."""
        limit = moment.forgotten(self._mark)
        if limit == BEGINNING or not frame.height:
            return None
        if limit == FOREVER:
            return pl.Series([False]).new_from_index(0, frame.height)
        bins = frame.select(pl.col(BIN)).unique()
        last = (
            self._windows.expanded(bins.lazy())
            .group_by(BIN)
            .agg(self._windows.closes(pl.col(END)).max().alias(_CLOSES))
            .filter(pl.col(_CLOSES) > limit)
            .collect()
        )
        return frame[BIN].is_in(last[BIN].implode())


class WindowMerge(_Shape):
    """Keeps accumulators by key and bin, and gives out windows as they close.

    What comes is only appended; it is merged as it grows beyond what was merged, so that each row is merged a few
    times at most. With `lateness` closed windows are kept on, and rows that still come for them correct what was
    given out; with `update` they are given out from their first row on.
    """

    def __init__(self, node: WindowAggregate, mark: Mark) -> None:
        super().__init__(node, mark)
        assert node.decomposition is not None
        self._plan: Decomposition = node.decomposition
        self._state = RowTable(pl.Schema({**self._plan.keys, **self._plan.accumulators}))
        self._pairs = {pairs.name: RowTable(pairs.schema) for pairs in self._plan.pairs}
        self._merged = 0

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {MAIN: self._state, **self._pairs}

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        parts = inputs[0]
        new = gathered(parts, MAIN)
        low, high = self._given(moment), moment.end(self._mark)
        corrected = self._touched(new, low) if self._corrects and new.height else None
        before = None if corrected is None else self._results(pl.lit(True), corrected)
        self._take(parts)
        closed = self._closed(low, high) if high > low else None
        if corrected is None or before is None:
            self._forget(moment)
            return self.nothing() if closed is None else Changes(closed.lazy(), self.nothing().removed)
        after = self._results(pl.lit(True), corrected)
        self._forget(moment)
        change = difference(before, after)
        if closed is None:
            return change
        return Changes(pl.concat([closed.lazy(), change.added]), change.removed)

    def _take(self, parts: Parts) -> None:
        for name, table in self.tables.items():
            assert isinstance(table, RowTable)
            table.append(gathered(parts, name))
        if len(self._state) > 2 * max(self._merged, _MERGE_ROWS):
            merged = self._plan.merge(self._state.frame.drop(ID).lazy()).collect()
            self._state.replace(merged)
            self._merged = merged.height
            for pairs in self._plan.pairs:
                table = self._pairs[pairs.name]
                table.replace(pairs.merge(table.frame.lazy()).collect())

    def _closed(self, low: int, high: int) -> pl.DataFrame | None:
        """The windows that the watermark passes in this batch."""
        if not len(self._state):
            return None
        passed = (pl.col(_CLOSES) > low) & (pl.col(_CLOSES) <= high)
        return self._results(passed, None)

    def _touched(self, new: pl.DataFrame, low: int) -> pl.DataFrame | None:
        """Windows that were given out, and of which these bins are a part."""
        found = (
            self._expanded(new.lazy()).filter(pl.col(_CLOSES) <= low).select(*self._keys, START, END).unique().collect()
        )
        return found if found.height else None

    def _results(self, which: pl.Expr, windows: pl.DataFrame | None) -> pl.DataFrame:
        """The output rows of these windows, put together from their bins."""
        at = [*self._keys, START, END]

        def chosen(frame: pl.DataFrame) -> pl.LazyFrame:
            rows = self._expanded(frame.lazy()).filter(which)
            return rows if windows is None else rows.join(windows.lazy(), on=at, how="semi", nulls_equal=True)

        merged = self._plan.merge(chosen(self._state.frame), at)
        counts = [
            pairs.merge(chosen(self._pairs[pairs.name].frame), [*at, VALUE])
            .group_by(at)
            .agg(pl.col(pairs.columns).sum().cast(pl.Int64))
            for pairs in self._plan.pairs
        ]
        frames = pl.collect_all([merged, *counts])
        rows = frames[0]
        for pairs, found in zip(self._plan.pairs, frames[1:], strict=True):
            names = list(pairs.columns)
            rows = rows.drop(names).join(found, on=at, how="left", nulls_equal=True)
            rows = rows.with_columns(pl.col(names).fill_null(0))
        if not rows.height:
            return self._output.to_frame()
        return self._shown(self._plan.final(rows, at))

    def _forget(self, moment: Moment) -> None:
        limit = moment.forgotten(self._mark)
        if limit == moment.late_before(self._mark):
            return
        for table in (self._state, *self._pairs.values()):
            kept = self._forgets(table.frame, moment)
            if kept is not None:
                table.keep(kept)
        self._merged = min(self._merged, len(self._state))


class WindowRows(_Shape):
    """Keeps the rows of open windows, for aggregates that need all of them at once."""

    def __init__(self, node: WindowAggregate, mark: Mark, schema: pl.Schema) -> None:
        super().__init__(node, mark)
        self._aggs, self._by = node.aggs, node.by
        self._time = node.index
        self._state = RowTable(pl.Schema({**schema, BIN: schema[node.index]}))

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {MAIN: self._state}

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = gathered(inputs[0], ROWS_FRAME)
        low, high = self._given(moment), moment.end(self._mark)
        touched: pl.DataFrame | None = None
        before = None
        if self._corrects and new.height:
            touched = self._windows_of(new, low)
            before = self._results(pl.lit(True), touched)
        self._state.append(new)
        passed = (pl.col(_CLOSES) > low) & (pl.col(_CLOSES) <= high)
        closed = self._results(passed, None) if high > low and len(self._state) else self._output.to_frame()
        removed = self.nothing().removed
        if touched is not None and before is not None:
            change = difference(before, self._results(pl.lit(True), touched))
            closed, removed = pl.concat([closed, change.added.collect()]), change.removed
        kept = self._forgets(self._state.frame, moment)
        if kept is not None:
            self._state.keep(kept)
        return Changes(closed.lazy(), removed)

    def _windows_of(self, rows: pl.DataFrame, low: int) -> pl.DataFrame:
        expanded = self._expanded(rows.lazy(), self._time).filter(pl.col(_CLOSES) <= low)
        return expanded.select(*self._by, START, END).unique().collect()

    def _results(self, which: pl.Expr, windows: pl.DataFrame | None) -> pl.DataFrame:
        rows = self._expanded(self._state.frame.lazy(), self._time).filter(which).drop(_CLOSES, BIN, ID)
        found = rows.group_by(*self._by, START, END, maintain_order=True).agg(self._aggs).collect()
        if windows is not None:
            found = found.join(windows, on=[*self._keys, START, END], how="semi", nulls_equal=True)
        shown = self._shown(found)
        return shown if shown.schema == self._output else shown.cast(dict(self._output))  # type: ignore[arg-type]
