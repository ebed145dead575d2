"""Windows over event time: to which windows a time belongs, and when each closes.

A window is a function of the row's time alone: one begins at every multiple of `every` (of the calendar, in the
column's zone, with `dt.truncate`) plus `offset`, and is `period` long; a row belongs to each that contains it. Where
windows overlap, rows are first gathered in *bins* that lie wholly inside or outside of each window, and windows
are made of bins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import polars as pl

from arrowstream.errors import PlanError
from arrowstream.plan.aggregates import Decomposition
from arrowstream.plan.eventtime import DAY, duration_ticks, show_ticks, ticks
from arrowstream.plan.nodes import Node

BIN: Final = "__bin"
START: Final = "__start"
END: Final = "__end"

Closed = Literal["left", "right", "both", "none"]
CLOSED: Final = ("left", "right", "both", "none")

_PART: Final = re.compile(r"(\d+)(ns|us|ms|s|mo|m|h|d|w|q|y|i)")
_CALENDAR: Final = {"mo": (28 * DAY, 31 * DAY), "q": (90 * DAY, 92 * DAY), "y": (365 * DAY, 366 * DAY)}
_HOUR: Final = 3_600_000_000


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
        made = Interval(show_ticks(count, dtype), count, count)
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
            if unit in ("d", "w") and isinstance(dtype, pl.Datetime) and dtype.time_zone not in (None, "UTC"):
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
        return self.every.text == self.period.text and self.closed in ("left", "right")

    @property
    def bin(self) -> Interval | None:
        """The length of bins that lie in each window whole or not at all; None where there is none to rely on."""
        if self.closed in ("both", "none"):
            return None
        if self.cumulate or self.every.text == self.period.text:
            return self.every
        if self.every.fixed and self.period.fixed:
            common = math.gcd(self.every.most, self.period.most)
            return self.every if common == self.every.most else Interval(_text(common, self.dtype), common, common)
        return self.every if _multiple(self.every.text, self.period.text) else None

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
        return self._floor(time, (self.bin or self.every).text)

    @property
    def reach(self) -> int:
        """How many windows can contain a bin."""
        if self.cumulate:
            return max(1, round(self.period.most / self.every.least))
        if self.tumbling:
            return 1
        more = 1 if self.closed == "both" or self.bin is None else 0
        return math.ceil(self.period.most / self.every.least) + more

    def expanded(self, rows: pl.LazyFrame, time: str | None = None) -> pl.LazyFrame:
        """A row for each window that contains its `__bin`, with `__start` and `__end` of the column's type.

        Where there are no bins, `time` is the column of times that the windows must contain; left out, there is a row
        for each window that may.
        """
        start, end = pl.col(START), pl.col(END)
        if self.cumulate:
            first = self._floor(pl.col(BIN), self.period.text)
            ends = [self._shift(pl.col(BIN), self.every.text, number) for number in range(1, self.reach + 1)]
            rows = rows.with_columns(first.alias(START), pl.concat_list(ends).alias(END)).explode(END)
            return rows.filter(end <= self._shift(start, self.period.text, 1))
        if self.tumbling:
            return rows.with_columns(pl.col(BIN).alias(START), self._shift(pl.col(BIN), self.period.text, 1).alias(END))
        base = self._floor(pl.col(BIN), self.every.text)
        starts = [self._shift(base, self.every.text, -number) for number in range(self.reach)]
        rows = rows.with_columns(pl.concat_list(starts).alias(START)).explode(START)
        rows = rows.with_columns(self._shift(start, self.period.text, 1).alias(END))
        if self.bin is not None:
            return rows.filter(end > pl.col(BIN))
        return rows if time is None else rows.filter(self._contains(pl.col(time)))

    def first_end(self, time: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """Begin and end of the earliest window that contains a time."""
        start = self.bin_of(time)
        if self.cumulate:
            return self._floor(start, self.period.text), self._shift(start, self.every.text, 1)
        if self.tumbling:
            return start, self._shift(start, self.period.text, 1)
        base = self._floor(start, self.every.text)
        first: pl.Expr = base
        for number in range(1, self.reach):
            earlier = self._shift(base, self.every.text, -number)
            end = self._shift(earlier, self.period.text, 1)
            inside = end > start if self.bin is not None else self._inside(time, earlier, end)
            first = pl.when(inside).then(earlier).otherwise(first)
        return first, self._shift(first, self.period.text, 1)

    def closes(self, end: pl.Expr) -> pl.Expr:
        """The watermark, in ticks, at which a window with this end is complete."""
        last = ticks(end, self.dtype)
        return last + self._tick if self.closed in ("right", "both") else last

    def _contains(self, time: pl.Expr) -> pl.Expr:
        return self._inside(time, pl.col(START), pl.col(END))

    def _inside(self, time: pl.Expr, start: pl.Expr, end: pl.Expr) -> pl.Expr:
        low = time >= start if self.closed in ("left", "both") else time > start
        high = time <= end if self.closed in ("right", "both") else time < end
        return low & high

    @property
    def _tick(self) -> int:
        """The least step of the column, in ticks."""
        match self.dtype:
            case pl.Datetime(time_unit="ms"):
                return 1000
            case pl.Date():
                return DAY
        return 1

    def _before(self, time: pl.Expr) -> pl.Expr:
        """The time just before."""
        match self.dtype:
            case pl.Datetime(time_unit=unit):
                return time.dt.offset_by(f"-1{unit}")
            case pl.Date():
                return time.dt.offset_by("-1d")
        return time - 1

    def _floor(self, time: pl.Expr, length: str) -> pl.Expr:
        if self.dtype.is_integer():
            count, shift = int(length[:-1]), int((self.offset or "0i")[:-1])
            return ((time.cast(pl.Int64) - shift).floordiv(count) * count + shift).cast(self.dtype)
        if self.offset is None:
            return time.dt.truncate(length)
        back = self.offset[1:] if self.offset.startswith("-") else f"-{self.offset}"
        return time.dt.offset_by(back).dt.truncate(length).dt.offset_by(self.offset)

    def _shift(self, time: pl.Expr, length: str, times: int) -> pl.Expr:
        if times == 0:
            return time
        if self.dtype.is_integer():
            return time + pl.lit(int(length[:-1]) * times).cast(self.dtype)
        text = "".join(f"{int(number) * abs(times)}{unit}" for number, unit in _PART.findall(length))
        return time.dt.offset_by(text if times > 0 else f"-{text}")


def _text(count: int, dtype: pl.DataType) -> str:
    return f"{count}i" if dtype.is_integer() else show_ticks(count, dtype)


def _multiple(every: str, period: str) -> bool:
    """Whether one interval of the calendar is a whole number of times another: months, quarters and years."""
    months = {"mo": 1, "q": 3, "y": 12}
    one, two = (_PART.fullmatch(each) for each in (every, period))
    if one is None or two is None:
        return False
    if one[2] in months and two[2] in months:
        return int(two[1]) * months[two[2]] % (int(one[1]) * months[one[2]]) == 0
    return one[2] == two[2] and int(two[1]) % int(one[1]) == 0


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowAggregate(Node):
    """Aggregates by window and key, given out once the watermark has passed the window's end.

    With `decomposition`, accumulators by key and bin are kept; without it the rows of open windows are. With
    `update` windows are given out from their first row on. `index` is the column of time, whose name the window's
    start or end takes.
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

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Window {describe(self.windows)} {self.description}{by}"

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
    """For each row, aggregates of the rows of its key in the `period` ticks before it; it comes out once the watermark
    has passed its time.
    """

    input: Node
    index: str
    period: int
    closed: Closed
    keys: tuple[str, ...]
    by: tuple[pl.Expr, ...]
    aggs: tuple[pl.Expr, ...]
    description: str

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Rolling {show_ticks(self.period, self.input.schema[self.index])} {self.description}{by}"

    def rolled(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The call itself, over rows in order of time."""
        dtype = self.input.schema[self.index]
        period = f"{self.period}i" if dtype.is_integer() else show_ticks(self.period, dtype)
        ordered = rows.sort(self.index, maintain_order=True)
        by = list(self.by) or None
        return ordered.rolling(self.index, period=period, closed=self.closed, group_by=by).agg(self.aggs)


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
