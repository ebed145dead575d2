"""Which rows come to windows: not those whose windows had all closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream import matching
from arrowstream.engine import engine
from arrowstream.frames import rows_at, rows_where
from arrowstream.names import inner
from arrowstream.operators.aggregate import PartialAggregate
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks, ticks_of
from arrowstream.plan.windows import BIN, END, START, Windows

_PLACE: Final = inner("late_place")


@dataclass(frozen=True, slots=True)
class WindowJudge:
    """A row comes too late for those of its windows that had closed when its batch began; it counts in the others.

    What of it came too late is in the dead letters: from the start of the first to the end of the last window that had
    closed. A row with no open window is late, and goes no further.
    """

    column: str
    windows: Windows
    mark: Mark
    operator: str

    def in_time(self, rows: pl.DataFrame, moment: Moment) -> pl.DataFrame:
        """The rows that any open window contains."""
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
        for partly in (False, True):
            some = closed.filter(pl.col("partly") == partly)
            moment.late(
                rows_at(rows, some[_PLACE].to_numpy()),
                self.operator,
                time=times.gather(some[_PLACE]),
                watermark=watermark,
                window_start=some["start"],
                window_end=some["end"],
                temporal=dtype.is_temporal(),
                partly=partly,
            )
        late = (
            pl.select(pl.int_range(rows.height)).to_series().is_in(closed.filter(~pl.col("partly"))[_PLACE].implode())
        )
        return rows_where(rows, ~late)

    def _closed(self, rows: pl.DataFrame, watermark: int) -> pl.DataFrame:
        """Of these rows those with windows that are closed: their places, the start of the first and the end of the
        last of these, and whether others are open (`partly`)."""
        time = pl.col(self.column)
        rows = rows.with_columns(self.windows.bin_of(time).alias(BIN))
        found = matching.join_numbers(rows.lazy(), self.windows.pairs(rows[BIN], BEGINNING, FOREVER).lazy(), BIN)
        if self.windows.bin is None:
            found = found.filter(self.windows.contains(time))
        dtype = rows.schema[self.column]
        gone = self.windows.closed_by(watermark)
        edges = [ticks(pl.col(START), dtype).filter(gone).min(), ticks(pl.col(END), dtype).filter(gone).max()]
        judged = found.group_by(_PLACE).agg(
            edges[0].alias("start"), edges[1].alias("end"), (~gone).any().alias("partly")
        )
        return judged.filter(pl.col("end").is_not_null()).sort(_PLACE).collect(engine=engine(rows.height))


class JudgedPartial:
    """A partial aggregate over the rows that came in time."""

    def __init__(self, judge: WindowJudge, inner: PartialAggregate) -> None:
        self._judge, self._inner = judge, inner

    @property
    def frames(self) -> Sequence[str]:
        return self._inner.frames

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = self._judge.in_time(changes.added.collect(engine=engine(changes.rows)), moment)
        times, windows = rows[self._judge.column], self._judge.windows
        begin = None
        if len(times) and len(self.frames) == 1:
            # Where all rows are in one bin, they are grouped by the other keys alone.
            values = times.cast(pl.Int64)
            begin = windows.one_bin(int(values.min()), int(values.max()))  # type: ignore[arg-type]
        if begin is not None:
            return self._inner.partial(Changes.of(rows), moment, {BIN: windows.time(begin)})
        return self._inner.partial(Changes.of(rows.with_columns(windows.bins_of(times).alias(BIN))), moment)
