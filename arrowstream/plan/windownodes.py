"""The nodes of windows over event time, of rolling aggregates and of windows of a number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from arrowstream.plan.aggregates import Decomposition
from arrowstream.plan.groupwise import TOO_LARGE
from arrowstream.plan.nodes import Node
from arrowstream.plan.windows import Closed, Windows


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowAggregate(Node):
    """Aggregates by window and key, given out once the watermark has passed the window's end.

    With `decomposition`, accumulators by key and bin are kept; without it the rows of open windows are. With
    `update` windows are given out from their first row on. `index` is the column of time, whose name the window's
    start or end takes. Of windows that are computed from rows, `too_large` says which cannot be shown, and why.
    """

    input: Node
    index: str
    windows: Windows
    keys: tuple[str, ...]
    by: tuple[pl.Expr, ...]
    aggs: tuple[pl.Expr, ...]
    description: str
    label_right: bool
    boundaries: bool
    decomposition: Decomposition | None
    update: bool
    too_large: pl.Expr | None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Window {describe(self.windows)} {self.description}{by}"

    @property
    def flagged(self) -> bool:
        return self.too_large is not None if self.decomposition is None else self.decomposition.flagged

    def columns(self) -> Sequence[str]:
        """The columns of the output that say key and window."""
        bounds = ("_lower_boundary", "_upper_boundary") if self.boundaries else ()
        return (*self.keys, *bounds, self.index)


def describe(windows: Windows) -> str:
    """A few words for `explain`."""
    if windows.cumulate:
        return f"cumulate every {windows.every} up to {windows.period}"
    if windows.tumbling:
        return f"of {windows.period}"
    return f"of {windows.period} every {windows.every}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Rolling(Node):
    """For each row, aggregates of the rows of its key in the `period` before it; it comes out once the watermark has
    passed its time.

    `length` is the period as Polars writes it. In a column with a time zone "1d" goes back to the same time of the day
    before, and "24h" by a stop watch; `reach` says how many ticks that may be at the most, `period` how many it is
    on a clock that is not changed.
    """

    input: Node
    index: str
    length: str
    period: int
    reach: int
    closed: Closed
    keys: tuple[str, ...]
    by: tuple[pl.Expr, ...]
    aggs: tuple[pl.Expr, ...]
    description: str
    too_large: pl.Expr | None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Rolling {self.length.removesuffix('i')} {self.description}{by}"

    @property
    def flagged(self) -> bool:
        return self.too_large is not None

    def rolled(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The call itself, over rows in order of time."""
        ordered = rows.sort(self.index, maintain_order=True)
        by = list(self.by) or None
        aggs = self.aggs if self.too_large is None else [*self.aggs, self.too_large.alias(TOO_LARGE)]
        return ordered.rolling(self.index, period=self.length, closed=self.closed, group_by=by).agg(aggs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Numbered(Node):
    """Rows with their number in order of arrival, from 0, of each key: the column `name`."""

    input: Node
    keys: tuple[str, ...]
    name: str

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return "Number rows" + (f" of each {', '.join(self.keys)}" if self.keys else "")
