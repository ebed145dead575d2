"""What the operators of windows have in common: how a window looks, and which bins are still needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes, union
from arrowstream.operators.exchange import difference, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.aggregates import MAIN
from arrowstream.plan.eventtime import BEGINNING, FOREVER
from arrowstream.plan.grid import Ints, Spans
from arrowstream.plan.windownodes import WindowAggregate
from arrowstream.plan.windows import BIN, END, START, Windows, physical
from arrowstream.state.keyhash import hash_rows
from arrowstream.state.rows import RowTable

WINDOW: Final = "__window"

# So many rows may lie about that no window needs; beyond, they are dropped once they are a quarter.
_LITTLE: Final = 1 << 15


class WindowShape(ABC):
    """What comes in is kept by bin; windows come out as the watermark passes their end.

    With `lateness` closed windows are kept on, and rows that still come for them correct what was given out; with
    `update` they are given out from their first row on. A subclass keeps `main`, whose bins are `bins`, and puts
    windows together.
    """

    def __init__(self, node: WindowAggregate, mark: Mark, state: RowTable) -> None:
        self._windows, self._mark, self._keys = node.windows, mark, list(node.keys)
        self._index, self._label = node.index, END if node.label_right else START
        self._bounds, self._update = node.boundaries, node.update
        self._output = node.schema
        self._state, self._bins = state, Bins(state, node.windows)

    @property
    def _corrects(self) -> bool:
        """Whether windows that were given out may come again."""
        return self._update or bool(self._mark.lateness)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        parts = inputs[0]
        new = gathered(parts, MAIN)
        given, high = FOREVER if self._update else moment.start(self._mark), moment.end(self._mark)
        corrected = self._given(new, given) if self._corrects and new.height else None
        before = None if corrected is None else self._results(corrected, new)
        self._take(parts, moment)
        closing = self._windows.closing(self._bins.values, given, high)
        closed = self._results(closing) if len(closing) else self._output.to_frame()
        after = None if corrected is None else self._results(corrected, new)
        self._forget(moment)
        if before is None or after is None:
            return Changes.of(closed, self._output.to_frame() if self._corrects else None)
        return union([Changes.of(closed), difference(before, after)])

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

    def _given(self, new: pl.DataFrame, low: int) -> Spans | None:
        """The windows that may have been given out, and of which these bins are a part."""
        found = self._windows.closing(physical(new[BIN].unique().sort()), BEGINNING, low)
        return found if len(found) else None

    def _chosen(self, frame: pl.DataFrame, spans: Spans) -> pl.LazyFrame:
        """The rows whose bins belong to these windows, with the place of the window in `__window`; in their order."""
        windows = self._windows
        bins, places = spans.pieces(self._bins.values, touching=windows.touching)
        pieces = pl.DataFrame([windows.times(bins).alias(BIN), pl.Series(WINDOW, places)])
        return frame.lazy().join(pieces.lazy(), on=BIN, maintain_order="left")

    def _forget(self, moment: Moment) -> None:
        drop_passed(self._bins, self._windows, moment.late_before(self._mark), moment.forgotten(self._mark))

    def _named(self, rows: pl.LazyFrame, spans: Spans) -> pl.LazyFrame:
        """Rows with `__window` turned into the columns of the output that say which window it is."""
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


class Bins:
    """The bins of the rows in a table, and how many rows each has: looked for only where the table has changed
    otherwise than by `append` and `drop`.
    """

    def __init__(self, table: RowTable, windows: Windows) -> None:
        self._table, self._windows, self._grid = table, windows, windows.grid()
        self._of: pl.DataFrame | None = None
        self._values = self._counts = np.empty(0, np.int64)

    @property
    def values(self) -> Ints:
        """Physical values, sorted, each once."""
        frame = self._table.frame
        if frame is not self._of:
            self._values, self._counts = self._counted(frame)
            self._of = frame
        return self._values

    def append(self, rows: pl.DataFrame) -> None:
        """Append rows to the table."""
        if not rows.height:
            return
        known, (new, counts) = self.values, self._counted(rows)
        self._table.append(rows, whole=True)
        if len(known):
            together = np.union1d(known, new)
            total = np.zeros(len(together), np.int64)
            total[np.searchsorted(together, known)] = self._counts
            total[np.searchsorted(together, new)] += counts
            new, counts = together, total
        self._values, self._counts, self._of = new, counts, self._table.frame

    def drop(self, needed: int) -> None:
        """Drop the rows of bins before this one, if they are many."""
        place = int(np.searchsorted(self.values, needed))
        gone, height = int(self._counts[:place].sum()), len(self._table)
        if not gone or (gone < height and height > _LITTLE and 4 * gone < height):
            return
        if gone < height:
            self._table.keep(pl.Series(physical(self._table.frame[BIN]) >= needed))
        else:
            self._table.clear()
        self._values, self._counts, self._of = self._values[place:], self._counts[place:], self._table.frame

    def _counted(self, rows: pl.DataFrame) -> tuple[Ints, Ints]:
        """Bins of rows, and how often each is there."""
        values = physical(rows[BIN])
        if not len(values):
            return values, values
        low, high = int(values.min()), int(values.max())
        if low == high:
            return np.array([low]), np.array([len(values)])
        if self._grid is not None and (high - low) // self._grid.size <= 2 * len(values):
            counts = np.bincount((values - low) // self._grid.size)
            places = np.flatnonzero(counts)
            return low + places * self._grid.size, counts[places]
        return np.unique(values, return_counts=True)


def drop_passed(bins: Bins, windows: Windows, before: int, limit: int) -> None:
    """Drop rows that are in no window any more which a row could change, or which is still to come."""
    if limit in (before, BEGINNING) or not len(bins.values):
        return
    values = bins.values
    if limit == FOREVER:
        needed = int(values[-1]) + 1
    elif (grid := windows.grid()) is not None and not windows.touching:
        needed = int(grid.physical(np.array([grid.needed(grid.end(windows.last(limit)))]))[0])
    else:
        alive, _ = windows.closing(values, limit, FOREVER).pieces(values, touching=windows.touching)
        needed = int(alive.min()) if len(alive) else int(values[-1]) + 1
    bins.drop(needed)


def among(rows: pl.DataFrame, keys: Sequence[pl.Expr], others: pl.DataFrame) -> pl.DataFrame:
    """The rows whose keys are also in the other frame, and perhaps a few more whose hash is the same.

    No join: it does not always match NaN with NaN.
    """
    if not keys or not rows.height:
        return rows
    return rows_where(rows, np.isin(hash_rows(rows.select(keys)), hash_rows(others.select(keys))))
