"""Which rows come to windows: not those whose window had closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream import matching
from arrowstream.engine import engine
from arrowstream.frames import rows_where
from arrowstream.names import inner
from arrowstream.operators.aggregate import PartialAggregate
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames
from arrowstream.plan.eventtime import BEGINNING, ticks, ticks_of
from arrowstream.plan.windows import BIN, END, START, Windows

_PLACE: Final = inner("late_place")


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
        if watermark == BEGINNING or rows.is_empty():
            return rows
        dtype = rows.schema[self.column]
        low = rows[self.column].cast(pl.Int64).min()
        if low is None or ticks_of(low, dtype) >= watermark:  # type: ignore[arg-type]
            return rows
        times = rows.select(ticks(pl.col(self.column), dtype)).to_series()
        old = (times < watermark).fill_null(False)
        closed = self._closed(rows.select(pl.int_range(pl.len()).alias(_PLACE), self.column).filter(old), watermark)
        if not closed.height:
            return rows
        late = pl.select(pl.int_range(rows.height)).to_series().is_in(closed[_PLACE].implode())
        moment.late(
            rows_where(rows, late),
            self.operator,
            time=times.filter(late),
            watermark=watermark,
            window_start=closed["start"],
            window_end=closed["end"],
            temporal=dtype.is_temporal(),
        )
        return rows_where(rows, ~late)

    def _closed(self, rows: pl.DataFrame, watermark: int) -> pl.DataFrame:
        """Of these rows those with a window that is closed: their places, and begin and end of the earliest."""
        time = pl.col(self.column)
        rows = rows.with_columns(self.windows.bin_of(time).alias(BIN))
        found = matching.join_numbers(rows.lazy(), self.windows.pairs(rows[BIN], BEGINNING, watermark).lazy(), BIN)
        if self.windows.bin is None:
            found = found.filter(self.windows.contains(time))
        dtype = rows.schema[self.column]
        edges = [ticks(pl.col(START), dtype).alias("start"), ticks(pl.col(END), dtype).alias("end")]
        earliest = found.sort(_PLACE, END).unique(_PLACE, keep="first", maintain_order=True)
        return earliest.select(_PLACE, *edges).collect()


class JudgedPartial:
    """A partial aggregate over the rows that came in time."""

    def __init__(self, judge: WindowJudge, inner: PartialAggregate) -> None:
        self._judge, self._inner = judge, inner

    @property
    def frames(self) -> Sequence[str]:
        return self._inner.frames

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = self._judge.in_time(changes.added.collect(engine=engine(changes.rows)), moment)
        return self._inner.partial(Changes.of(rows), moment, self._bin(rows[self._judge.column]))

    def _bin(self, times: pl.Series) -> Mapping[str, pl.Expr] | None:
        """The bin, where all rows are in one: then they are grouped by the other keys alone."""
        if not len(times) or times.null_count():
            return None
        values, windows = times.cast(pl.Int64), self._judge.windows
        begin = windows.one_bin(int(values.min()), int(values.max()))  # type: ignore[arg-type]
        return None if begin is None else {BIN: windows.time(begin)}
