"""Windows over event time: to which windows a time belongs, and when each closes.

A window is a function of the row's time alone: one begins at every multiple of `every` (of the calendar, in the
column's zone, with `dt.truncate`) plus `offset`, and is `period` long; a row belongs to each that contains it. Where
`period` is `every`, each ends where the next begins, also on the days when the clock is changed.

Rows are first gathered in *bins*, which lie wholly inside or outside of each window, and windows are made of bins. On
a clock without summer time, and for whole numbers, windows are then a matter of arithmetic (`plan.grid`); else Polars'
calendar says where they begin.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import polars as pl

from arrowstream.errors import PlanError
from arrowstream.plan.eventtime import DAY, duration_ticks, show_ticks, ticks
from arrowstream.plan.grid import Grid, Ints, Spans, ranges

BIN: Final = "__bin"
START: Final = "__start"
END: Final = "__end"

Closed = Literal["left", "right", "both", "none"]
CLOSED: Final = ("left", "right", "both", "none")

_PART: Final = re.compile(r"(\d+)(ns|us|ms|s|mo|m|h|d|w|q|y|i)")
_CALENDAR: Final = {"mo": (28 * DAY, 31 * DAY), "q": (90 * DAY, 92 * DAY), "y": (365 * DAY, 366 * DAY)}
_HOUR: Final = 3_600_000_000
_QUARTER: Final = _HOUR // 4
_FAR: Final = 2**61


@dataclass(frozen=True, slots=True)
class Interval:
    """A duration of the calendar or the clock, as Polars writes it; `least` and `most` are its ticks."""

    text: str
    least: int
    most: int

    @property
    def fixed(self) -> bool:
        """Whether it always has the same length."""
        return self.least == self.most

    def __str__(self) -> str:
        return self.text


def interval(given: str | timedelta | int, dtype: pl.DataType, where: str, *, positive: bool = True) -> Interval:
    """An interval on a column of this type. Raises `PlanError` for what is none."""
    if dtype.is_integer():
        count = duration_ticks(given, dtype, where)
        made = Interval(f"{count}i", count, count)
    elif isinstance(given, timedelta):
        count = duration_ticks(given, dtype, where)
        made = Interval(_text(count, dtype), count, count)
    else:
        made = _parsed(str(given), dtype, where)
    if positive and made.least <= 0:
        raise PlanError(f"{where}: {given!r} is no length of a window; give one above zero, as in '10s'")
    return made


def _parsed(text: str, dtype: pl.DataType, where: str) -> Interval:
    at = least = most = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None or found[2] == "i":
            raise PlanError(
                f"{where}: {text!r} is no interval; units are us, ms, s, m, h, d, w, mo, q, y, as in '1h30m'"
            )
        number, unit = int(found[1]), found[2]
        if unit in _CALENDAR:
            low, high = _CALENDAR[unit]
        else:
            low = high = duration_ticks(f"1{unit}", dtype, where) if unit != "ns" else 0
            if unit in ("d", "w") and _zoned(dtype):
                low, high = low - _HOUR, high + _HOUR  # days of a zone with summer time
        least, most = least + number * low, most + number * high
        at = found.end()
    if isinstance(dtype, pl.Date) and most % DAY:
        raise PlanError(f"{where}: {text!r} is no whole number of days, and the column is a Date")
    return Interval(text, least, most)


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one length: tumbling, or hopping where `period` is longer than `every`.

    With `cumulate` they begin at each multiple of `period` and end at each multiple of `every` in it.
    """

    dtype: pl.DataType
    every: Interval
    period: Interval
    offset: str | None
    closed: Closed
    cumulate: bool = False

    @property
    def tumbling(self) -> bool:
        """Whether each time is in one window, the next beginning where one ends."""
        return self.every.text == self.period.text and self.closed in ("left", "right") and not self.cumulate

    @property
    def bin(self) -> str | None:
        """The length of bins that lie in each window whole or not at all; None where there is none to rely on.

        Raises `PlanError` for an interval that Polars cannot cut time by, such as one of months and days.
        """
        return _bin(self)

    def grid(self) -> Grid | None:
        """The same in whole numbers, where all windows have one length; None where the calendar has its say."""
        return _grid(self)

    def behind(self, *, label_right: bool) -> int:
        """By how many ticks the label of a window to come may lie before the watermark.

        What is open ends later than the watermark, so at least by the least step of time, where the end is no part.
        """
        step = 0 if self.closed in ("right", "both") else self.tick
        return -step if label_right else self.period.most - step

    def bin_of(self, time: pl.Expr) -> pl.Expr:
        """Where the bin of a time begins; without bins, the last window that can contain it."""
        if self.closed == "right":
            time = self._before(time)
        return self.floor(time, self.bin or self.every.text)

    def one_bin(self, low: int, high: int) -> int | None:
        """The physical value of the bin that all times between these two are in; None where none is known."""
        grid = self.grid()
        if grid is None or self.touching:
            return None
        back = 1 if self.closed == "right" else 0
        first, last = grid.numbers(np.array([low - back, high - back]))
        return int(grid.physical(first)) if first == last else None

    def pairs(self, bins: pl.Series, low: int, high: int) -> pl.DataFrame:
        """`__bin`, `__start`, `__end`: the windows that each bin is in and that the watermark passes after `low`, up to
        `high`; sorted by window. Without bins to rely on, those it may be in.
        """
        begins = physical(bins.unique().sort())
        spans = self.closing(begins, low, high)
        held, places = spans.pieces(begins, touching=self.touching)
        columns = {BIN: held, START: spans.starts[places], END: spans.stops[places]}
        return pl.DataFrame([self.times(values).alias(name) for name, values in columns.items()])

    def closing(self, begins: Ints, low: int, high: int) -> Spans:
        """The windows with any of these bins (physical values, sorted, each once) that the watermark passes after `low`
        and up to `high`; each once, and sorted.
        """
        low, high = self.last(low), self.last(high)
        if (grid := self.grid()) is not None:
            found = grid.closing(grid.numbers(begins), grid.end(low), grid.end(high), touching=self.touching)
            return Spans(grid.physical(found.starts), grid.physical(found.stops))
        found = _by_calendar(self, begins) if len(begins) and high > low else Spans(begins[:0], begins[:0])
        passed = (found.stops > low) & (found.stops <= high)
        return Spans(found.starts[passed], found.stops[passed])

    def last(self, watermark: int) -> int:
        """The last physical value at which a window may end that is closed by this watermark."""
        watermark -= self.tick if self.closed in ("right", "both") else 0
        match self.dtype:
            case pl.Datetime(time_unit="ms"):
                return watermark // 1000
            case pl.Datetime(time_unit="ns"):
                return watermark * 1000 + 999
            case pl.Date():
                return watermark // DAY
        return watermark

    def closes(self, end: pl.Expr) -> pl.Expr:
        """The watermark, in ticks, at which a window with this end is complete."""
        last = ticks(end, self.dtype)
        return last + self.tick if self.closed in ("right", "both") else last

    def contains(self, time: pl.Expr) -> pl.Expr:
        """Whether the window of `__start` and `__end` contains a time."""
        start, end = pl.col(START), pl.col(END)
        low = time >= start if self.closed in ("left", "both") else time > start
        high = time <= end if self.closed in ("right", "both") else time < end
        return low & high

    def times(self, values: Ints) -> pl.Series:
        """Times of the column's type from physical values."""
        series = pl.Series(values, dtype=pl.Int64)
        return (series.cast(pl.Int32) if isinstance(self.dtype, pl.Date) else series).cast(self.dtype)

    def time(self, value: int) -> pl.Expr:
        """One of them. No Python time: it knows neither nanoseconds nor, for sure, an hour that comes twice."""
        literal = pl.lit(value, pl.Int64)
        return (literal.cast(pl.Int32) if isinstance(self.dtype, pl.Date) else literal).cast(self.dtype)

    @property
    def touching(self) -> bool:
        """Whether a time may be in a window that ends where its bin begins."""
        return self.closed in ("both", "none")

    @property
    def tick(self) -> int:
        """The least step of the column, in ticks."""
        match self.dtype:
            case pl.Datetime(time_unit="ms"):
                return 1000
            case pl.Date():
                return DAY
        return 1

    def floor(self, time: pl.Expr, length: str) -> pl.Expr:
        """The last time up to this that is a multiple of a length, plus the offset."""
        if self.dtype.is_integer():
            count, shift = int(length[:-1]), int((self.offset or "0i")[:-1])
            return ((time.cast(pl.Int64) - shift).floordiv(count) * count + shift).cast(self.dtype)
        if self.offset is None:
            return time.dt.truncate(length)
        back = self.offset[1:] if self.offset.startswith("-") else f"-{self.offset}"
        return time.dt.offset_by(back).dt.truncate(length).dt.offset_by(self.offset)

    def later(self, time: pl.Expr, length: str) -> pl.Expr:
        """A time by a length later."""
        if self.dtype.is_integer():
            return time + pl.lit(int(length[:-1])).cast(self.dtype)
        return time.dt.offset_by(length)

    def _before(self, time: pl.Expr) -> pl.Expr:
        """The time just before."""
        match self.dtype:
            case pl.Datetime(time_unit=unit):
                return time.dt.offset_by(f"-1{unit}")
            case pl.Date():
                return time.dt.offset_by("-1d")
        return time - 1


def physical(times: pl.Series) -> Ints:
    """Physical values of times."""
    values: Ints = times.cast(pl.Int64).to_numpy()  # not `to_physical`, which is a query
    return values


def _by_calendar(windows: Windows, begins: Ints) -> Spans:
    """The windows that may hold one of these bins, found by cutting times all over them."""
    every = windows.period if windows.cumulate else windows.every
    step = DAY if every.least >= DAY else _QUARTER
    unit = _unit(windows.dtype)
    first = int(begins[0]) - _units(windows.period.most + every.most + _HOUR, unit)
    last = int(begins[-1]) + _units(2 * every.most + _HOUR, unit)
    points = np.arange(first, last + 1, max(_units(step, unit), 1))
    starts = physical(_cut(windows, points, every.text).unique().sort())
    if windows.tumbling or windows.cumulate:
        starts, stops = starts[:-1], starts[1:]
    else:
        stops = physical(pl.select(windows.later(pl.lit(windows.times(starts)), windows.period.text)).to_series())
    place = np.searchsorted(begins, starts)
    held = np.searchsorted(begins, stops, "right" if windows.touching else "left") > place
    starts, stops, place = starts[held], stops[held], place[held]
    if not windows.cumulate:
        return Spans(starts, stops)
    size = _units(windows.every.most, unit)
    ends = begins[place] + size
    return Spans(np.repeat(starts, (stops - ends) // size + 1), ranges(ends, stops, size))


def _cut(windows: Windows, values: Ints, length: str) -> pl.Series:
    return pl.select(windows.floor(pl.lit(windows.times(values)), length)).to_series()


@lru_cache
def _bin(windows: Windows) -> str | None:
    """The longest of some lengths that fits, as tried out on times all over the calendar."""
    every, period = (windows.period, windows.every) if windows.cumulate else (windows.every, windows.period)
    samples = _samples(windows.dtype)
    try:
        starts = _cut(windows, samples, every.text)
    except pl.exceptions.PolarsError as error:
        found = str(error).splitlines()[0]
        raise PlanError(f"windows of {windows.period} every {windows.every} on {windows.dtype}: {found}") from None
    if windows.touching:
        return None
    if windows.tumbling:
        return every.text
    if windows.cumulate:
        edges = [starts]
        lengths = [windows.every.text]
    else:
        edges = [starts, pl.select(windows.later(pl.lit(starts), period.text)).to_series()]
        common = math.gcd(every.least, every.most, period.least, period.most)
        parts = [math.gcd(common, part) for part in (common, DAY, _HOUR, _QUARTER)]
        lengths = [every.text, period.text, "1w", "1d", *(_text(part, windows.dtype) for part in parts)]
        if windows.dtype.is_integer():
            lengths = [_text(common, windows.dtype)]
    for length in dict.fromkeys(lengths):
        if isinstance(windows.dtype, pl.Date) and not length.endswith(("d", "w", "mo", "q", "y")):
            continue
        fits = all(_cut(windows, physical(edge), length).equals(edge) for edge in edges)
        if fits and (not windows.cumulate or _even(windows, samples, length)):
            return length
    return None


@lru_cache
def _grid(windows: Windows) -> Grid | None:
    """Where all windows, and all bins, have one length, as tried out."""
    length = windows.bin or windows.every.text
    unit = _unit(windows.dtype)
    begins = windows.period if windows.cumulate else windows.every
    if not (begins.fixed and windows.period.fixed):
        return None
    made = interval(length if not windows.dtype.is_integer() else int(length[:-1]), windows.dtype, "bin")
    if windows.touching:  # bins are where windows begin; what is counted must fit the ends too
        common = math.gcd(made.most, windows.period.most)
        made = Interval(_text(common, windows.dtype), common, common)
    samples = _samples(windows.dtype)
    if not made.fixed or not (_even(windows, samples, length) and _even(windows, samples, begins.text)):
        return None
    zero = np.zeros(1, np.int64)
    origin, first = (int(physical(_cut(windows, zero, each))[0]) for each in (length, begins.text))
    size, each, period = (_units(one.most, unit) for one in (made, begins, windows.period))
    if (first - origin) % size or each % size or period % size:
        return None
    return Grid(origin, size, (first - origin) // size, 1 if windows.cumulate else each // size, period // size,
                windows.cumulate)  # fmt: skip


def _even(windows: Windows, samples: Ints, length: str) -> bool:
    """Whether time is cut into equal parts; not so by hours on a clock that is changed."""
    found = physical(_cut(windows, samples, length))
    made = interval(length if not windows.dtype.is_integer() else int(length[:-1]), windows.dtype, "bin")
    if not made.fixed:
        return False
    size, first = _units(made.most, _unit(windows.dtype)), found[0]
    return bool(((samples - first) // size * size + first == found).all())


@lru_cache
def _samples(dtype: pl.DataType) -> Ints:
    """Physical values all over the calendar, and close to each other over two years; the first is zero."""
    if dtype.is_integer():
        return np.arange(-8, 8)[::-1] * 13
    whole = np.arange(0, 28_000 * DAY, 11 * DAY + 7_919_000_000)
    near = np.arange(19_723 * DAY, 20_454 * DAY, 2 * _QUARTER)  # 2024 and 2025
    return np.asarray(np.unique(np.concatenate([whole, near]) * _unit(dtype)[0] // _unit(dtype)[1]))


def _unit(dtype: pl.DataType) -> tuple[int, int]:
    """Physical units in a tick, as a fraction."""
    match dtype:
        case pl.Datetime(time_unit="ms"):
            return 1, 1000
        case pl.Datetime(time_unit="ns"):
            return 1000, 1
        case pl.Date():
            return 1, DAY
    return 1, 1


def _units(count: int, unit: tuple[int, int]) -> int:
    return count * unit[0] // unit[1]


def _zoned(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone not in (None, "UTC")


def _text(count: int, dtype: pl.DataType) -> str:
    """A length that is no matter of the calendar: in a zone a day may have 23 hours, 24 hours have 24."""
    if dtype.is_integer():
        return f"{count}i"
    if _zoned(dtype) and count >= DAY:
        return f"{count // 1000}ms" if count % 1000 == 0 else f"{count}us"
    return show_ticks(count, dtype)
