"""Windows over event time: to which windows a time belongs, and when each closes.

A window is a function of the row's time alone: one begins at every multiple of `every` plus `offset`, and is `period`
long; a row belongs to each that contains it. In a column with a time zone all of that is by the clock on the wall
(`plan.wallclock`), so that where `period` is `every` each ends where the next begins, also when the clock is changed.

Rows are first gathered in *bins* (`plan.bins`), which lie wholly inside or outside of each window, and windows are made
of bins. All of it is arithmetic with whole numbers: the length of bins is the greatest common divisor of `every` and
`period`, in units of the column, or in months where both are months.
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
from arrowstream.names import inner
from arrowstream.plan.bins import Bins, Even, Months, month_days
from arrowstream.plan.eventtime import BEGINNING, DAY, FOREVER
from arrowstream.plan.grid import Grid, Spans, Uneven
from arrowstream.plan.wallclock import Ints, wall_clock

BIN: Final = inner("bin")
START: Final = inner("start")
END: Final = inner("end")

Closed = Literal["left", "right", "both", "none"]
CLOSED: Final = ("left", "right", "both", "none")

_PART: Final = re.compile(r"(\d+)(ns|us|ms|s|mo|m|h|d|w|q|y)")
_MONTHS: Final = {"mo": 1, "q": 3, "y": 12}
_NANOS: Final = {
    "w": 7 * DAY * 1000,
    "d": DAY * 1000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1000,
    "ns": 1,
}
# Weeks begin on Mondays, and 1970-01-01 was a Thursday.
_MONDAY: Final = 4
_FAR: Final = 2**64
# Windows of months that begin every second are looked for among those of six days.
_MOST: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A length of time, as Polars writes it: so many `months`, and so many `units` of the column.

    `least` and `most` are its ticks. With `calendar` it is about days and more; `weekly` is said of weeks alone, which
    begin on Mondays.
    """

    text: str
    months: int
    units: int
    least: int
    most: int
    calendar: bool = False
    weekly: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it always has the same length, on a clock that is not changed."""
        return not self.months

    def __str__(self) -> str:
        return self.text


def interval(given: str | timedelta | int, dtype: pl.DataType, where: str, *, positive: bool = True) -> Interval:
    """An interval on a column of this type; above zero if `positive`. Raises `PlanError` for what is none."""
    if isinstance(given, timedelta):
        given = spelled(given)
    text = str(given)
    sign = -1 if text.startswith("-") else 1
    made = _counted(text, sign, dtype, where) if dtype.is_integer() else _parsed(text, sign, dtype, where)
    if positive and (sign < 0 or not (made.months or made.units)):
        raise PlanError(f"{where}: {given!r} is no length of a window; give one above zero, as in '10s'")
    return made


def _counted(text: str, sign: int, dtype: pl.DataType, where: str) -> Interval:
    number = text.removeprefix("-").removesuffix("i")
    if not number.isdigit():
        raise PlanError(f"{where}: {text!r} is no distance on an {dtype} column; give a number, or '100i'")
    count = sign * int(number)
    return Interval(f"{count}i", 0, count, count, count)


def _parsed(text: str, sign: int, dtype: pl.DataType, where: str) -> Interval:
    at, months, nanos = len(text) - len(text.removeprefix("-")), 0, 0
    units: set[str] = set()
    while at < len(text) or not units:
        found = _PART.match(text, at)
        if found is None:
            raise PlanError(
                f"{where}: {text!r} is no interval; units are ns, us, ms, s, m, h, d, w, mo, q, y, as in '1h30m'"
            )
        number, unit = int(found[1]), found[2]
        if unit in _MONTHS:
            months += number * _MONTHS[unit]
        else:
            nanos += number * _NANOS[unit]
        units.add(unit)
        at = found.end()
    step = _nanos(dtype)
    if nanos % step:
        of = "days, and the column is a Date" if isinstance(dtype, pl.Date) else f"what a column of {dtype} can tell"
        raise PlanError(f"{where}: {text!r} is no whole number of {of}")
    least, most = month_days(months)
    calendar = not units.isdisjoint({"d", "w", *_MONTHS})
    return Interval(
        text,
        sign * months,
        sign * nanos // step,
        least * DAY + nanos // 1000,
        most * DAY - -nanos // 1000,
        calendar,
        units == {"w"},
    )


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one length: tumbling, or hopping where `period` is longer than `every`.

    With `cumulate` they begin at each multiple of `period` and end at each multiple of `every` in it. `offset` is as
    Polars writes it. Raises `PlanError` for windows that nothing can be cut into.
    """

    dtype: pl.DataType
    every: Interval
    period: Interval
    offset: str | None
    closed: Closed
    cumulate: bool = False

    def __post_init__(self) -> None:
        shift = self._shift
        begins = self._begins
        if begins.months and begins.units:
            raise PlanError(f"windows every {begins}: give months, quarters and years, or weeks, days and less")
        if shift.months and not begins.months:
            raise PlanError(f"windows every {begins} cannot begin {shift} later, which is no fixed time")
        if self.period.months and begins.units and (count := self.period.most // max(begins.least, 1)) > _MOST:
            raise PlanError(f"a row would be in {count:,} windows of {self.period} every {begins}; give a longer every")
        before = shift.units % begins.units if begins.units else 0
        if self.dtype.is_unsigned_integer() and (before or self.period.units > begins.units):
            raise PlanError(
                f"windows may begin below 0 here, which {self.dtype} cannot say; cast the column to Int64 first"
            )

    @property
    def tumbling(self) -> bool:
        """Whether each time is in one window, the next beginning where one ends."""
        alike = (self.every.months, self.every.units) == (self.period.months, self.period.units)
        return alike and self.closed in ("left", "right") and not self.cumulate

    @property
    def bin(self) -> Bins | None:
        """Bins that lie in each window whole or not at all; None where a window may hold some times of a bin alone."""
        return None if self.touching else _layout(self).bins

    def grid(self) -> Grid | None:
        """The same in numbers of bins, where all windows have as many; None where some have more than others."""
        layout = _layout(self)
        return layout if isinstance(layout, Grid) else None

    def opening(self, watermark: int, *, label_right: bool) -> int:
        """The least start, or end, that a window may have which this watermark has not closed; a physical value."""
        layout, last = _layout(self), self.last(watermark)
        if isinstance(layout, Uneven):
            return layout.opening(last, label_right=label_right)
        end = layout.bins.number(last)
        number = layout.needed(end)
        if label_right:
            number = end + 1 if layout.grows else number + layout.length
        return int(layout.bins.physical(np.array([number]))[0])

    def bin_of(self, time: pl.Expr) -> pl.Expr:
        """Where the bin of a time begins."""
        return time.map_batches(self.bins_of, return_dtype=self.dtype, is_elementwise=True)

    def bins_of(self, times: pl.Series) -> pl.Series:
        """Where the bins of these times begin. There are no nulls among them."""
        values = physical(times)
        return self.times(_layout(self).bins.begins(values - 1 if self.closed == "right" else values))

    def one_bin(self, low: int, high: int) -> int | None:
        """The physical value of the bin that all times between these two are in; None where they are in several."""
        bins, back = _layout(self).bins, 1 if self.closed == "right" else 0
        first, last = bins.numbers(np.array([low - back, high - back]))
        return int(bins.physical(first[None])[0]) if first == last else None

    def pairs(self, bins: pl.Series, low: int, high: int) -> pl.DataFrame:
        """`BIN`, `START`, `END`: the windows that each bin is in and that the watermark passes after `low`, up to
        `high`; sorted by window. With `touching` also those that hold some times of the bin, or none.
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
        layout = _layout(self)
        if isinstance(layout, Uneven):
            return layout.closing(begins, low, high, touching=self.touching)
        bins = layout.bins
        found = layout.closing(bins.numbers(begins), bins.number(low), bins.number(high), touching=self.touching)
        return layout.physical(found)

    def last(self, watermark: int) -> int:
        """The last physical value at which a window may end that is closed by this watermark.

        Times to come are at the watermark or later; a window that holds its end must lie before it.
        """
        if watermark in (BEGINNING, FOREVER):
            return _FAR if watermark == FOREVER else -_FAR
        back = 1 if self.closed in ("right", "both") else 0
        match self.dtype:
            case pl.Datetime(time_unit="ms"):
                return (watermark - back) // 1000
            case pl.Datetime(time_unit="ns"):
                return watermark * 1000 - back
            case pl.Date():
                return (watermark - back) // DAY
        return watermark - back

    def closes(self, stop: int) -> int:
        """The least watermark that closes a window which ends at this physical value."""
        back = 1 if self.closed in ("right", "both") else 0
        match self.dtype:
            case pl.Datetime(time_unit="ms"):
                return stop * 1000 + back
            case pl.Datetime(time_unit="ns"):
                return -((-stop - back) // 1000)
            case pl.Date():
                return stop * DAY + back
        return stop + back

    def closed_by(self, watermark: int) -> pl.Expr:
        """Whether the window of `START` and `END` is closed by this watermark."""
        most = 2**63 - 1
        last = max(min(self.last(watermark), most), -most)
        return pl.col(END).to_physical().cast(pl.Int64) <= pl.lit(last, pl.Int64)

    def contains(self, time: pl.Expr) -> pl.Expr:
        """Whether the window of `START` and `END` contains a time."""
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
        """Whether a time may be in a window that ends where its bin begins, or not in one that begins there."""
        return self.closed in ("both", "none")

    @property
    def _begins(self) -> Interval:
        """How far windows begin from each other."""
        return self.period if self.cumulate else self.every

    @property
    def _shift(self) -> Interval:
        return interval(
            self.offset or ("0i" if self.dtype.is_integer() else "0s"), self.dtype, "offset", positive=False
        )


def stretch(length: int, dtype: pl.DataType) -> int:
    """By how many ticks more than `length` may pass, at the most, while the clock on the wall goes on by that."""
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    _, clock = wall_clock(zone, 1_000_000, None)
    return 0 if clock is None else clock.stretch(length)


def physical(times: pl.Series) -> Ints:
    """Physical values of times."""
    values: Ints = times.cast(pl.Int64).to_numpy()  # not `to_physical`, which is a query
    return values


@lru_cache(maxsize=1024)
def _layout(windows: Windows) -> Grid | Uneven:
    """How the bins and windows lie."""
    dtype, begins, shift = windows.dtype, windows._begins, windows._shift
    day = 1 if dtype.is_integer() else _NANOS["d"] // _nanos(dtype)
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    # What is not about days is cut alike before and after a change of the clock by a multiple of it.
    whole = None if windows.every.calendar or windows.period.calendar else begins.units
    base, clock = wall_clock(zone, day // 86_400, whole)
    months, units = windows.period.months, windows.period.units
    size = math.gcd(windows.every.months, months)
    if size and not (windows.every.units or units):
        bins = Bins(Months(size, shift.months, shift.units - base, day), clock)
        return Grid(bins, begins.months // size, months // size, windows.cumulate)
    origin = (_MONDAY * day if begins.weekly else 0) + shift.units - base
    if not (begins.months or months):
        size = math.gcd(windows.every.units, units)
        return Grid(Bins(Even(size, origin), clock), begins.units // size, units // size, windows.cumulate)
    every = Months(begins.months, shift.months, origin, day) if begins.months else Even(begins.units, origin)
    bins = Bins(Even(math.gcd(day, begins.units, units), origin), clock)
    shortest, longest = (days * day + units for days in month_days(months))
    # The 30th of January and a month is the last of February.
    return Uneven(bins, every, months, units, shortest - 3 * day, longest, day, base)


def _nanos(dtype: pl.DataType) -> int:
    """Nanoseconds in the least step of a column of this type."""
    match dtype:
        case pl.Datetime(time_unit=unit):
            return _NANOS[unit]
    return _NANOS["d"]


def spelled(length: timedelta) -> str:
    """The length as Polars writes it, which takes 24 hours of Python for a day of the calendar."""
    micros = length // timedelta(microseconds=1)
    text, rest = "-" if micros < 0 else "", abs(micros)
    for unit in ("d", "h", "m", "s", "ms", "us"):
        whole, rest = divmod(rest, _NANOS[unit] // 1000)
        text += f"{whole}{unit}" if whole else ""
    return text or "0s"
