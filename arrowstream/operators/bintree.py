"""Runs of bins put together, so that a long window is made of few: a tree over time for each key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from arrowstream import matching
from arrowstream.engine import engine
from arrowstream.names import inner
from arrowstream.operators.windowshape import WINDOW
from arrowstream.plan.aggregates import Decomposition
from arrowstream.plan.grid import Grid, Ints, Spans, cover
from arrowstream.plan.windows import BIN, physical
from arrowstream.state.rows import RowTable

_LEVEL: Final = inner("level")
_RUN: Final = inner("run")
_BASE: Final = 4
_LITTLE: Final = 1 << 14


class BinTree:
    """Accumulators by key, level and run: run n of level j has the bins from n * 4**j up to (n + 1) * 4**j.

    A run is made once its bins get no more rows, but for late ones, of four runs of the level below. So a row is merged
    once a level, and a window of n bins is made of some 6 * log4(n) runs: what a window costs follows the keys in it,
    not the bins.
    """

    def __init__(self, plan: Decomposition, grid: Grid, keys: Sequence[str]) -> None:
        self._plan, self._grid, self._keys = plan, grid, list(keys)
        held = {name: dtype for name, dtype in plan.keys.items() if name != BIN}
        self.table = RowTable(pl.Schema({**held, _LEVEL: pl.Int64(), _RUN: pl.Int64(), **plan.accumulators}))
        self._levels = 1
        while _BASE ** (self._levels + 1) <= grid.length:
            self._levels += 1

    def grow(self, new: pl.DataFrame, bins: pl.DataFrame, numbers: Ints, before: int, end: int) -> None:
        """Make the runs that are complete now that windows close which end with `end`, and were not with `before`.

        Of the `new` rows, which are among the bins, some may come late for a run that was made: it gets them, too.
        """
        if not len(numbers):
            return
        top = _BASE**self._levels
        highest = (int(numbers[-1]) // top + 1) * top
        first, last = (min(self._grid.complete(each), highest) for each in (before, end))
        first = max(first, int(numbers[0]) // top * top)
        self._add_late(new, first)
        if end <= before:
            return
        below = self._numbered(bins)
        for level in range(1, self._levels + 1):
            size = _BASE**level
            begin, stop = first // size, last // size
            if begin >= stop:
                return
            inside = pl.col(_RUN).is_between(begin * _BASE, stop * _BASE, closed="left")
            runs = below.filter(inside).with_columns(pl.col(_RUN).floordiv(_BASE))
            made = self._plan.merge(runs, [*self._keys, _RUN]).collect(engine=engine(bins.height + len(self.table)))
            self.table.append(made.with_columns(pl.lit(level, pl.Int64).alias(_LEVEL)))
            below = self.table.frame.lazy().filter(pl.col(_LEVEL) == level)

    def _add_late(self, new: pl.DataFrame, first: int) -> None:
        """Rows of bins below `first`, into the runs that were made of these."""
        if not new.height:
            return
        late = self._numbered(new).filter(pl.col(_RUN) < first).collect(engine=engine(new.height))
        if not late.height:
            return
        for level in range(1, self._levels + 1):
            size = _BASE**level
            rows = late.lazy().filter(pl.col(_RUN) < first // size * size).with_columns(pl.col(_RUN).floordiv(size))
            made = self._plan.merge(rows, [*self._keys, _RUN]).collect(engine=engine(late.height))
            self.table.append(made.with_columns(pl.lit(level, pl.Int64).alias(_LEVEL)))

    def rows(self, bins: pl.DataFrame, spans: Spans) -> pl.LazyFrame:
        """What is to be merged for these windows, each with the place of its window in `WINDOW`."""
        numbered = self._grid.bins.numbers
        # Where the clock leaps, bins beyond a window's end may begin with it: its last bin counts.
        counted = Spans(numbered(spans.starts), numbered(spans.stops - 1) + 1)
        columns = [*self._keys, *self._plan.accumulators, WINDOW]
        lowest, *above = cover(counted, _BASE, self._levels)
        found = [matching.join_numbers(self._numbered(bins), _pieces(*lowest).lazy(), _RUN).select(columns)]
        runs = pl.concat(
            [
                _pieces(*each).with_columns(pl.lit(level, pl.Int64).alias(_LEVEL))
                for level, each in enumerate(above, start=1)
            ]
        )
        found.append(matching.join_numbers(self.table.frame.lazy(), runs.lazy(), [_LEVEL, _RUN]).select(columns))
        return pl.concat(found)

    def forget(self, end: int) -> None:
        """Drop the runs that begin before every window to come."""
        needed = self._grid.needed(end)
        size = pl.lit(_BASE, pl.Int64).pow(pl.col(_LEVEL)).cast(pl.Int64)
        alive = self.table.frame.select(pl.col(_RUN) * size >= needed).to_series()
        gone, height = alive.len() - int(alive.sum()), alive.len()
        if gone == height or height < _LITTLE or 4 * gone > height:
            self.table.keep(alive)

    def _numbered(self, bins: pl.DataFrame) -> pl.LazyFrame:
        numbers = self._grid.bins.numbers(physical(bins[BIN]))
        return bins.lazy().with_columns(pl.Series(_RUN, numbers))


def _pieces(runs: Ints, places: Ints) -> pl.DataFrame:
    return pl.DataFrame({_RUN: runs, WINDOW: places})
