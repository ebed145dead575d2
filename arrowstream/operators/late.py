"""Rows that came behind the watermark are turned away before an exchange."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from arrowstream.frames import rows_where
from arrowstream.operators.moment import Mark, Moment
from arrowstream.plan.eventtime import BEGINNING, ticks, ticks_of


@dataclass(frozen=True, slots=True)
class LateJudge:
    """A row is late where the time in `column` is below the watermark that its batch began with, less the lateness
    allowed. (Rows without a time do not get past the watermark.)"""

    column: str
    dtype: pl.DataType
    mark: Mark
    operator: str

    def in_time(self, rows: pl.DataFrame, moment: Moment) -> pl.DataFrame:
        """The rows that came in time; the others are in the dead letters."""
        watermark = moment.late_before(self.mark)
        if watermark == BEGINNING or rows.is_empty():
            return rows
        low = rows[self.column].cast(pl.Int64).min()
        if low is None or ticks_of(low, self.dtype) >= watermark:  # type: ignore[arg-type]
            return rows
        times = rows.select(ticks(pl.col(self.column), self.dtype)).to_series()
        late = (times < watermark).fill_null(False)
        moment.late(
            rows_where(rows, late),
            self.operator,
            time=times.filter(late),
            watermark=watermark,
            temporal=self.dtype.is_temporal(),
        )
        return rows_where(rows, ~late)
