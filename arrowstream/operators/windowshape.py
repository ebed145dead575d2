"""What the operators of windows have in common: how a window looks, and which bins are still needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from arrowstream import matching
from arrowstream.frames import rows_where
from arrowstream.names import inner
from arrowstream.operators.changes import Changes, union
from arrowstream.operators.exchange import difference, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.aggregates import MAIN
from arrowstream.plan.eventtime import BEGINNING, FOREVER
from arrowstream.plan.grid import Spans
from arrowstream.plan.groupwise import flagged
from arrowstream.plan.windownodes import WindowAggregate
from arrowstream.plan.windows import BIN, END, START, Windows, physical
from arrowstream.state.bins import BinTable
from arrowstream.state.keyhash import hash_rows

WINDOW: Final = inner("window")


class WindowShape(ABC):
    """What comes in is kept by bin; windows come out as the watermark passes their end.

    With `lateness` closed windows are kept on, and rows that still come for them correct what was given out; with
    `update` they are given out from their first row on. A subclass fills the table and puts windows together.
    """

    def __init__(self, node: WindowAggregate, mark: Mark, state: BinTable) -> None:
        self._windows, self._mark, self._keys = node.windows, mark, list(node.keys)
        self._index, self._label = node.index, END if node.label_right else START
        self._bounds, self._update = node.boundaries, node.update
        self._output = flagged(node.schema, node.flagged)
        self._state = state

    @property
    def _corrects(self) -> bool:
        """Whether windows that were given out may come again."""
        return self._update or bool(self._mark.lateness)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        parts = inputs[0]
        new = gathered(parts, MAIN)
        given, high = FOREVER if self._update else moment.start(self._mark), moment.end(self._mark)
        corrected = self._given(new, moment.late_before(self._mark), given) if self._corrects and new.height else None
        before = None if corrected is None else self._results(corrected, new)
        self._take(parts, moment)
        closing = self._windows.closing(self._state.bins, given, high)
        closed = self._results(closing) if len(closing) else self._output.to_frame()
        after = None if corrected is None else self._results(corrected, new)
        self._forget(moment)
        if before is None or after is None:
            return Changes.of(closed, self._output.to_frame() if self._corrects else None)
        return union([Changes.of(closed), difference(before, after)])

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the next window closes of which there are rows."""
        if self._update:
            return [None]
        end, bins, several = moment.end(self._mark), self._state.bins, 1
        while several < 2 * len(bins):
            # The first bin with an open window is in the first window to close.
            spans = self._windows.closing(bins[:several], end, FOREVER)
            if len(spans):
                return [self._windows.closes(int(spans.stops.min()))]
            several *= 2
        return [None]

    def nothing(self) -> Changes:
        """No change."""
        empty = self._output.to_frame()
        return Changes.of(empty, empty if self._corrects else None)

    @abstractmethod
    def _take(self, parts: Parts, moment: Moment) -> None:
        """Keep what came."""

    @abstractmethod
    def _results(self, spans: Spans, like: pl.DataFrame | None = None) -> pl.DataFrame:
        """The output rows of these windows; with `like` at least those of its keys."""

    def _given(self, new: pl.DataFrame, closed: int, given: int) -> Spans | None:
        """The windows that may have been given out, have not closed for good, and of which these bins are a part."""
        found = self._windows.closing(physical(new[BIN].unique().sort()), closed, given)
        return found if len(found) else None

    def _chosen(self, frame: pl.DataFrame, spans: Spans) -> pl.LazyFrame:
        """The rows whose bins belong to these windows, with the place of the window in `WINDOW`; in their order."""
        windows = self._windows
        bins, places = spans.pieces(self._state.bins, touching=windows.touching)
        pieces = pl.DataFrame([windows.times(bins).alias(BIN), pl.Series(WINDOW, places)])
        return matching.join_numbers(frame.lazy(), pieces.lazy(), BIN, maintain_order="left")

    def _forget(self, moment: Moment) -> None:
        drop_passed(self._state, self._windows, moment.late_before(self._mark), moment.forgotten(self._mark))

    def _named(self, rows: pl.LazyFrame, spans: Spans) -> pl.LazyFrame:
        """Rows with `WINDOW` turned into the columns of the output that say which window it is."""
        windows, edges = self._windows, {START: spans.starts, END: spans.stops}
        named = {self._index: self._label}
        if self._bounds:
            named |= {"_lower_boundary": START, "_upper_boundary": END}
        if len(spans) == 1:
            return rows.with_columns(windows.time(int(edges[edge][0])).alias(name) for name, edge in named.items())
        times = {name: pl.lit(windows.times(edges[edge])) for name, edge in named.items()}
        return rows.with_columns(time.gather(pl.col(WINDOW)).alias(name) for name, time in times.items())

    def _typed(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows if rows.schema == self._output else rows.cast(dict(self._output))  # type: ignore[arg-type]


def bin_table(schema: pl.Schema, windows: Windows, *, ordered: bool) -> BinTable:
    """A table for rows by the bins of windows."""
    bins = windows.bin
    return BinTable(schema, BIN, step=None if bins is None else bins.step, ordered=ordered)


def drop_passed(table: BinTable, windows: Windows, before: int, limit: int) -> None:
    """Drop rows that are in no window any more which a row could change, or which is still to come."""
    if limit in (before, BEGINNING) or not len(table):
        return
    values = table.bins
    if limit == FOREVER:
        needed = int(values[-1]) + 1
    elif (grid := windows.grid()) is not None and not windows.touching:
        number = grid.needed(grid.bins.number(windows.last(limit)))
        needed = int(grid.bins.physical(np.array([number]))[0])
    else:
        alive, _ = windows.closing(values, limit, FOREVER).pieces(values, touching=windows.touching)
        needed = int(alive.min()) if len(alive) else int(values[-1]) + 1
    table.drop(needed)


def among(rows: pl.DataFrame, keys: Sequence[pl.Expr], others: pl.DataFrame) -> pl.DataFrame:
    """The rows whose keys are also in the other frame, and perhaps a few more whose hash is the same.

    No join: it does not always match NaN with NaN.
    """
    if not keys or not rows.height:
        return rows
    return rows_where(rows, np.isin(hash_rows(rows.select(keys)), hash_rows(others.select(keys))))
