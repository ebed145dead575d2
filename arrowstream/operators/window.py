"""Windows that come out once and final: partial bins by key, put together as the watermark passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from arrowstream.engine import engine
from arrowstream.operators.bintree import BinTree
from arrowstream.operators.exchange import gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.operators.windowshape import WINDOW, WindowShape, among, bin_table, drop_passed
from arrowstream.plan.aggregates import MAIN, VALUE
from arrowstream.plan.grid import Spans
from arrowstream.plan.windownodes import WindowAggregate
from arrowstream.state.bins import BinTable
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID

_MERGE_ROWS: Final = 1 << 15
# With so many bins a window it pays to keep runs of bins put together.
_MANY: Final = 16
# So few windows are filtered out of the bins one by one.
_FEW: Final = 8


class WindowMerge(WindowShape):
    """Keeps accumulators by key and bin, and puts windows together from bins.

    What comes is only appended; it is merged as it grows beyond what was merged, so that each row is merged a few
    times at most. Where a window has many bins, those that get no more rows are merged into runs, and these into
    longer ones.
    """

    def __init__(self, node: WindowAggregate, mark: Mark) -> None:
        assert node.decomposition is not None
        plan = node.decomposition
        kept = pl.Schema({**plan.keys, **plan.accumulators})
        super().__init__(node, mark, bin_table(kept, node.windows, ordered=plan.ordered))
        self._plan, self._at = plan, list(node.columns())
        self._pairs = {pairs.name: bin_table(pairs.schema, node.windows, ordered=False) for pairs in plan.pairs}
        self._merged = 0
        grid = node.windows.grid()
        self._tree = None
        if grid is not None and grid.length >= _MANY * grid.stride and not self._corrects and not self._pairs:
            self._tree = BinTree(plan, grid, self._keys)

    @property
    def tables(self) -> Mapping[str, StateTable]:
        tree = {} if self._tree is None else {"runs": self._tree.table}
        return {MAIN: self._state, **self._pairs, **tree}

    def _take(self, parts: Parts, moment: Moment) -> None:
        new = gathered(parts, MAIN)
        self._state.append(new, whole=True)
        for name, table in self._pairs.items():
            table.append(gathered(parts, name), whole=True)
        self._merge()
        if self._tree is not None:
            low, high = moment.start(self._mark), moment.end(self._mark)
            self._tree.grow(new, self._state.frame, self._numbers(), self._last(low), self._last(high))

    def _merge(self) -> None:
        if len(self._state) <= 2 * max(self._merged, _MERGE_ROWS):
            return
        merged = self._plan.merge(self._state.frame.drop(ID).lazy()).collect(engine=engine(len(self._state)))
        # Where next to nothing was merged, it is not soon worth another try.
        self._merged = merged.height if 4 * merged.height < 3 * len(self._state) else 2 * merged.height
        self._state.replace(merged)
        for pairs in self._plan.pairs:
            table = self._pairs[pairs.name]
            table.replace(pairs.merge(table.frame.lazy()).collect(engine=engine(len(table))))

    def _results(self, spans: Spans, like: pl.DataFrame | None = None) -> pl.DataFrame:
        """The output rows of these windows, put together from their bins."""
        # The rows of one window need not be told apart by it.
        at = self._keys if len(spans) == 1 and self._keys else [*self._keys, WINDOW]
        merged = self._plan.merge(self._rows(self._state, spans, like), at)
        counts = [
            pairs.merge(self._rows(self._pairs[pairs.name], spans, like), [*at, VALUE])
            .group_by(at)
            .agg(pl.col(pairs.columns).sum().cast(pl.Int64))
            for pairs in self._plan.pairs
        ]
        frames = [self._named(each, spans).drop(WINDOW, strict=False) for each in (merged, *counts)]
        way = engine(len(self._state) + sum(len(table) for table in self._pairs.values()))
        rows, *found = pl.collect_all(frames, engine=way) if counts else [frames[0].collect(engine=way)]
        for pairs, count in zip(self._plan.pairs, found, strict=True):
            rows = _with_counts(rows, count, self._at, pairs.columns)
        return self._typed(self._plan.final(rows, self._at)) if rows.height else self._output.to_frame()

    def _rows(self, table: BinTable, spans: Spans, like: pl.DataFrame | None) -> pl.LazyFrame:
        """The rows of a table that belong to these windows, with the place of the window in `WINDOW`."""
        if self._tree is not None:
            return self._tree.rows(table.frame, spans)
        keys = [pl.col(key) for key in self._keys]
        if len(spans) > _FEW:
            return self._chosen(table.frame if like is None else among(table.frame, keys, like), spans)
        edges = zip(spans.starts.tolist(), spans.stops.tolist(), strict=True)
        found = [table.between(start, stop) for start, stop in edges]
        if like is not None:
            found = [among(rows, keys, like) for rows in found]
        return pl.concat(
            rows.lazy().with_columns(pl.lit(place, pl.Int64).alias(WINDOW)) for place, rows in enumerate(found)
        )

    def _forget(self, moment: Moment) -> None:
        super()._forget(moment)
        before, limit = moment.late_before(self._mark), moment.forgotten(self._mark)
        for table in self._pairs.values():
            drop_passed(table, self._windows, before, limit)
        if self._tree is not None and limit != before:
            self._tree.forget(self._last(limit))

    def _numbers(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        grid = self._windows.grid()
        assert grid is not None
        return grid.bins.numbers(self._state.bins)

    def _last(self, watermark: int) -> int:
        """The last bin at which windows end that are closed by this watermark."""
        grid = self._windows.grid()
        assert grid is not None
        return grid.bins.number(self._windows.last(watermark))


def _with_counts(rows: pl.DataFrame, counts: pl.DataFrame, at: Sequence[str], names: Sequence[str]) -> pl.DataFrame:
    """Rows with the counts of their group in these columns, 0 where there are none.

    No join: it does not always match NaN with NaN. Every group with counts is among the rows, which come first.
    """
    columns = rows.columns
    both = pl.concat([rows.with_columns(pl.lit(0, pl.Int64).alias(name) for name in names), counts], how="diagonal")
    rest = [pl.col(column).first() for column in columns if column not in (*at, *names)]
    total = both.lazy().group_by(at).agg(*rest, pl.col(names).sum())
    return total.select(columns).collect(engine=engine(both.height))
