"""Sessions: rows of a key that follow each other without a gap in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream.names import inner
from arrowstream.plan.aggregates import Decomposition
from arrowstream.plan.eventtime import show_ticks, step_of, steps_of_tick
from arrowstream.plan.nodes import Node

FIRST: Final = inner("first")
LAST: Final = inner("last")
TICKS: Final = inner("session_ticks")
STEPS: Final = inner("steps")
_SESSION: Final = inner("session")


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionAggregate(Node):
    """Aggregates by key and session, given out once no row to come can belong to it.

    Two rows of a key that are `gap` ticks apart or more are in two sessions, unless others lie between. With
    `decomposition`, whose keys end in the first and the last step, accumulators are kept; without it, the rows.
    """

    input: Node
    index: str
    gap: int
    keys: tuple[str, ...]
    by: tuple[pl.Expr, ...]
    aggs: tuple[pl.Expr, ...]
    description: str
    boundaries: bool
    decomposition: Decomposition | None
    update: bool
    too_large: pl.Expr | None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def steps(self) -> int:
        """The gap as fine as the column."""
        return self.gap * steps_of_tick(self.input.schema[self.index])

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Session of gap {show_ticks(self.gap, self.input.schema[self.index])} {self.description}{by}"

    @property
    def flagged(self) -> bool:
        return self.too_large is not None if self.decomposition is None else self.decomposition.flagged


@dataclass(frozen=True, slots=True)
class OpenSessions:
    """The least end that a session may have which is still open: it lies after the watermark."""

    dtype: pl.DataType

    def __call__(self, watermark: int) -> int:
        step = step_of(self.dtype)
        # In a column of nanoseconds it may lie less than a tick after it.
        fine = isinstance(self.dtype, pl.Datetime) and self.dtype.time_unit == "ns"
        return (watermark if fine else watermark + 1) // step * step


def sessions(rows: pl.LazyFrame, keys: Sequence[str], gap: int) -> pl.LazyFrame:
    """Stretches of time (`FIRST`, `LAST`) of each key, put together where they are less than `gap` apart.

    Each row gets the first and the last step of the session that it is in. The end that counts is the latest of all
    that began before, not that of the neighbour.
    """
    ordered = rows.sort(FIRST, maintain_order=True)
    reached = pl.col(LAST).cum_max().shift(1)
    begins = (pl.col(FIRST) - reached >= gap).fill_null(True).cum_sum()
    if keys:
        reached = pl.col(LAST).cum_max().shift(1).over(keys)
        begins = (pl.col(FIRST) - reached >= gap).fill_null(True).cum_sum().over(keys)
    session = [*keys, _SESSION]
    return (
        ordered.with_columns(begins.alias(_SESSION))
        .with_columns(pl.col(FIRST).min().over(session), pl.col(LAST).max().over(session))
        .drop(_SESSION)
    )
