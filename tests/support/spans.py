"""Columns of time for random programs: of which type, how far apart rows are, and how durations on them are written."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

_BEGIN = dt.datetime(2026, 3, 1)


@dataclass(frozen=True)
class Span:
    """Times of `dtype` at whole numbers of `unit` (a step of the column, where it has no clock) after `begin`.

    `text` says the type in code, `mark` is the unit of a duration, of which `unit` has `size`; `calendar` are lengths
    of windows besides.
    """

    dtype: pl.DataType
    text: str
    unit: dt.timedelta | int
    size: int
    mark: str
    calendar: Sequence[str] = ()
    begin: dt.datetime = _BEGIN

    def duration(self, count: int) -> str:
        """So many units, as code."""
        if isinstance(self.unit, int):
            return str(count)
        return repr(f"{count * self.size}{self.mark}")

    def length(self, chance: random.Random, most: int = 10) -> str:
        """A length of a window, as code."""
        if self.calendar and chance.random() < 0.5:
            return repr(chance.choice(self.calendar))
        return self.duration(chance.choice([1, 1, 2, 3, 4, 5, most]))

    def times(self, counts: Sequence[int | None]) -> pl.Series:
        """Times at so many units after the begin."""
        if isinstance(self.unit, int):
            return pl.Series(counts, dtype=pl.Int64).cast(self.dtype)
        unit = self.unit
        values = [None if count is None else self.begin + unit * count for count in counts]
        if isinstance(self.dtype, pl.Date):
            return pl.Series(values, dtype=pl.Datetime("us")).dt.date()
        naive = pl.Series(values, dtype=pl.Datetime("us"))
        zone = getattr(self.dtype, "time_zone", None)
        zoned = naive if zone is None else naive.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        return zoned.cast(self.dtype)

    def literal(self, count: int) -> str:
        """One of these times, as code."""
        return f"pl.lit({self.times([count]).to_physical()[0]}).cast({self.text})"


_SECOND, _MILLISECOND = dt.timedelta(seconds=1), dt.timedelta(milliseconds=1)
_US, _MS, _NS = "pl.Datetime('us')", "pl.Datetime('ms')", "pl.Datetime('ns')"


_HOURS = ("1d", "2h", "3h", "6h", "12h", "30m", "90m", "1w")


def _zoned(zone: str) -> tuple[pl.DataType, str]:
    return pl.Datetime("us", zone), f"pl.Datetime('us', {zone!r})"


SPANS: Sequence[Span] = (
    Span(pl.Datetime("us"), _US, _SECOND, 1, "s"),
    Span(pl.Datetime("us"), _US, 100 * _MILLISECOND, 100, "ms", ("250ms", "1s", "50ms", "125ms", "40ms")),
    Span(pl.Datetime("us"), _US, _MILLISECOND / 10, 100, "us", ("250us", "1ms", "40us")),
    Span(pl.Datetime("ms"), _MS, 50 * _MILLISECOND, 50, "ms", ("125ms", "1s")),
    Span(pl.Datetime("ns"), _NS, _SECOND, 1, "s", ("500ms",)),
    Span(*_zoned("UTC"), 20 * 60 * _SECOND, 20, "m", ("1h", "90m")),
    Span(*_zoned("Asia/Tokyo"), 6 * 3600 * _SECOND, 6, "h", ("1d", "2d", "1w")),
    Span(pl.Datetime("us"), _US, 7 * 3600 * _SECOND, 7, "h", ("1d", "12h", "1w", "1mo", "1q")),
    # Over a change of clocks, of an hour and of half an hour.
    Span(*_zoned("Europe/Paris"), 3600 * _SECOND, 1, "h", _HOURS, dt.datetime(2026, 3, 28)),
    Span(*_zoned("Europe/Paris"), 3600 * _SECOND, 1, "h", _HOURS, dt.datetime(2026, 10, 24)),
    Span(*_zoned("Australia/Lord_Howe"), 1800 * _SECOND, 30, "m", _HOURS, dt.datetime(2026, 4, 4)),
    Span(*_zoned("Australia/Lord_Howe"), 1800 * _SECOND, 30, "m", _HOURS, dt.datetime(2026, 10, 3)),
    Span(pl.Date(), "pl.Date()", dt.timedelta(days=1), 1, "d", ("1w", "1mo", "2w")),
    Span(pl.Int64(), "pl.Int64()", 1, 1, "i"),
    Span(pl.Int32(), "pl.Int32()", 1, 1, "i"),
)
