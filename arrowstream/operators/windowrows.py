"""Windows whose aggregates need all rows at once: the rows of open windows are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream.engine import engine
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.operators.windowlate import WindowJudge
from arrowstream.operators.windowshape import WINDOW, WindowShape, among, bin_table
from arrowstream.plan.aggregates import MAIN
from arrowstream.plan.grid import Spans
from arrowstream.plan.groupwise import TOO_LARGE
from arrowstream.plan.windownodes import WindowAggregate
from arrowstream.plan.windows import BIN, END, START, Windows
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID


class WindowRowsPartial:
    """The rows that came in time, with the bin of each."""

    def __init__(self, judge: WindowJudge, windows: Windows, columns: Sequence[str]) -> None:
        self._judge, self._windows, self._columns = judge, windows, list(columns)

    @property
    def frames(self) -> Sequence[str]:
        return (MAIN,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = self._judge.in_time(changes.added.select(self._columns).collect(engine=engine(changes.rows)), moment)
        return {MAIN: rows.with_columns(self._windows.bin_of(pl.col(self._judge.column)).alias(BIN))}


class WindowRows(WindowShape):
    """Keeps the rows of open windows, and computes each window from its rows as it closes."""

    def __init__(self, node: WindowAggregate, mark: Mark, schema: pl.Schema) -> None:
        kept = pl.Schema({**schema, BIN: schema[node.index]})
        super().__init__(node, mark, bin_table(kept, node.windows, ordered=True))
        guard = [] if node.too_large is None else [node.too_large.alias(TOO_LARGE)]
        self._aggs, self._by = [*node.aggs, *guard], node.by

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {MAIN: self._state}

    def _take(self, parts: Parts, moment: Moment) -> None:
        self._state.append(gathered(parts, MAIN), whole=True)

    def _results(self, spans: Spans, like: pl.DataFrame | None = None) -> pl.DataFrame:
        frame, windows = self._state.frame, self._windows
        rows = self._chosen(frame if like is None else among(frame, self._by, like), spans)
        if windows.bin is None:  # rows of a bin may be in a window
            edges = {START: spans.starts, END: spans.stops}
            at = [pl.lit(windows.times(edge)).gather(pl.col(WINDOW)).alias(name) for name, edge in edges.items()]
            rows = rows.with_columns(at).filter(windows.contains(pl.col(self._index))).drop(START, END)
        groups = rows.drop(ID, BIN).group_by(*self._by, WINDOW, maintain_order=True).agg(self._aggs)
        found = self._named(groups, spans).select(self._output.names())
        return self._typed(found.collect(engine=engine(len(self._state))))
