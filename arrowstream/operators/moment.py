"""What an operator knows of time while it runs a batch, and where it leaves rows that came too late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import polars as pl

from arrowstream.plan.eventtime import BEGINNING, FOREVER, EventTime, Holding, Later
from arrowstream.plan.nodes import Watermark

PARTLY_LATE: Final = "partly late"
"""The fate of rows that came too late for some of their windows, and count in the others."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A compiled event time: the least of some watermarks, by number, each after what operators have made of it."""

    courses: tuple[tuple[int, tuple[Holding, ...]], ...]
    lateness: int = 0

    @classmethod
    def of(cls, time: EventTime, numbers: Mapping[Watermark, int]) -> Mark:
        """The event time of a node, whose watermarks have these numbers."""
        return cls(tuple((numbers[each.mark], each.through) for each in time.courses), time.lateness)

    def settled(self) -> Mark:
        """Of results that come once no late row is accepted any more that could change them."""
        late = (Later(self.lateness),) if self.lateness else ()
        return Mark(tuple((number, (*late, *through)) for number, through in self.courses))

    def and_(self, other: Mark) -> Mark:
        """The least of both."""
        return Mark(tuple(dict.fromkeys((*self.courses, *other.courses))), max(self.lateness, other.lateness))

    def least(self, watermarks: Sequence[int], lateness: int = 0) -> int:
        """What these watermarks say, less so much lateness."""
        return min(_through(watermarks[number], lateness, through) for number, through in self.courses)


def _through(watermark: int, lateness: int, through: Sequence[Holding]) -> int:
    if watermark in (BEGINNING, FOREVER):
        return watermark
    watermark -= lateness
    for holding in through:
        watermark = holding(watermark)
    return watermark


@dataclass(frozen=True, slots=True)
class Late:
    """Rows that an operator has turned away, from some windows at least: `rows` as they came to it, and for each its
    `details`.

    `details` has Int64 ticks: `time`, `watermark`, and `window_start` and `window_end`, null where there are none.
    `source` and `split` are empty where the rows may come from several; `temporal` is False for integer times.
    """

    rows: pl.DataFrame
    details: pl.DataFrame
    fate: str
    reason: str
    operator: str
    source: str
    split: str
    temporal: bool


@dataclass(slots=True)
class Moment:
    """One task's view of a batch: its number, the clock at its allotment, the watermarks at its begin and its end.

    `now` is in seconds since the epoch. Watermarks are in ticks (see `plan.eventtime`), BEGINNING before any row and
    FOREVER once all inputs have ended. In stage 0 the end is not known yet and reads as the begin. `tables` are the
    versions of tables that are read again.
    """

    batch: int = 0
    now: float = 0.0
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    tables: Sequence[float] = ()
    source: str = ""
    split: str = ""
    turned_away: list[Late] = field(default_factory=list)

    def again(self) -> Moment:
        """The same moment, with nothing turned away yet."""
        return replace(self, turned_away=[])

    def start(self, mark: Mark) -> int:
        """The watermark when the batch began: what has closed by it is closed."""
        return mark.least(self.before)

    def end(self, mark: Mark) -> int:
        """The watermark when the batch ends: what it passes closes now."""
        return mark.least(self.after)

    def late_before(self, mark: Mark) -> int:
        """Rows of a time below this came too late: the begin, less the lateness that is allowed."""
        return mark.least(self.before, mark.lateness)

    def forgotten(self, mark: Mark) -> int:
        """What lies below this can no longer change, at the end of the batch: no row for it will be accepted."""
        return mark.least(self.after, mark.lateness)

    def late(
        self,
        rows: pl.DataFrame,
        operator: str,
        *,
        time: pl.Series,
        watermark: int,
        window_start: pl.Series | None = None,
        window_end: pl.Series | None = None,
        temporal: bool = True,
        partly: bool = False,
    ) -> None:
        """Leave late rows to the dead letters; `time` and the windows in ticks, a value a row. Those that are `partly`
        late are no less part of the result: they count where they were in time."""
        if rows.is_empty():
            return
        fate, what = "late", "its window had closed" if window_end is not None else "it was behind the watermark"
        if partly:
            fate, what = PARTLY_LATE, "some of its windows had closed; it counts in the others"
        self.turn_away(
            rows,
            operator,
            fate,
            f"{fate}: {what}",
            time=time,
            watermark=watermark,
            window_start=window_start,
            window_end=window_end,
            temporal=temporal,
        )

    def turn_away(
        self,
        rows: pl.DataFrame,
        operator: str,
        fate: str,
        reason: str,
        *,
        time: pl.Series,
        watermark: int | None = None,
        window_start: pl.Series | None = None,
        window_end: pl.Series | None = None,
        temporal: bool = True,
    ) -> None:
        """Leave rows to the dead letters; reports count them by `fate`."""
        none = pl.Series([None], dtype=pl.Int64)
        columns = {
            "time": time.cast(pl.Int64),
            "watermark": pl.Series([watermark], dtype=pl.Int64),
            "window_start": none if window_start is None else window_start.cast(pl.Int64),
            "window_end": none if window_end is None else window_end.cast(pl.Int64),
        }
        height = rows.height
        details = pl.DataFrame(
            [
                (series if series.len() == height else series.new_from_index(0, height)).alias(name)
                for name, series in columns.items()
            ]
        )
        self.turned_away.append(Late(rows, details, fate, reason, operator, self.source, self.split, temporal))
