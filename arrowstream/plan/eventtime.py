"""Event time: which column of a node's rows tells it, and whose watermarks bound it.

Inside the engine a time is a whole number of ticks: microseconds since the epoch in UTC for a Datetime of any unit
and zone and for a Date, the value itself for an integer column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl

from arrowstream.errors import ColumnError, PlanError

if TYPE_CHECKING:
    from arrowstream.plan.nodes import Watermark

BEGINNING: Final = -(2**62)
"""The watermark before any row has come."""

FOREVER: Final = 2**62
"""The watermark when all that was to come has come."""

DAY: Final = 86_400_000_000
_UNITS: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": DAY,
    "w": 7 * DAY,
}
_DURATION: Final = re.compile(r"(\d+)(us|ms|s|mo|m|h|d|w|q|y|i|ns)")


class Holding(Protocol):
    """What an operator makes of the watermark of its input: the least time of the rows that it has still to give.

    It rises with the watermark. Descriptions are frozen and can be compared.
    """

    def __call__(self, watermark: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Later:
    """Rows come out up to `ticks` later than their time says."""

    ticks: int

    def __call__(self, watermark: int) -> int:
        return watermark - self.ticks


@dataclass(frozen=True, slots=True)
class Course:
    """The watermark of `mark` on its way through the plan: what the operators `through` have made of it, in order."""

    mark: Watermark
    through: tuple[Holding, ...] = ()


@dataclass(frozen=True, slots=True)
class EventTime:
    """The time of a node's rows: `column`, bounded by the least of the watermarks on these `courses`.

    After a batch, every later row has a time that is not below it; a row that breaks this is late, once it is
    `lateness` ticks behind that too.
    """

    column: str
    courses: tuple[Course, ...]
    lateness: int = 0

    @property
    def marks(self) -> tuple[Watermark, ...]:
        """The watermarks that bound it, each once."""
        return tuple(dict.fromkeys(course.mark for course in self.courses))

    def renamed(self, column: str) -> EventTime:
        """The same time under another name."""
        return replace(self, column=column)

    def held_back(self, by: Holding) -> EventTime:
        """Of rows that an operator holds back."""
        return replace(self, courses=tuple(replace(each, through=(*each.through, by)) for each in self.courses))

    def settled(self) -> EventTime:
        """Of rows that are given once no late row is accepted any more that could change them."""
        if not self.lateness:
            return self
        wait = Later(self.lateness)
        return EventTime(self.column, tuple(replace(each, through=(wait, *each.through)) for each in self.courses))


def least(times: Sequence[EventTime], column: str) -> EventTime:
    """The time `column` of rows that come from all of these: the slowest rules."""
    courses = tuple(dict.fromkeys(course for time in times for course in time.courses))
    return EventTime(column, courses, max(time.lateness for time in times))


def is_time(dtype: pl.DataType) -> bool:
    """Whether a column of this type can tell the time of a row."""
    return isinstance(dtype, pl.Datetime | pl.Date) or (dtype.is_integer() and not isinstance(dtype, pl.Int128))


def check_time(column: str, dtype: pl.DataType, where: str) -> None:
    """Raises `ColumnError` where the column cannot tell a time."""
    if not is_time(dtype):
        raise ColumnError(
            f"{where}: {column!r} is {dtype}; an event time is a Datetime, a Date or an integer: "
            f"make one first, with_columns(pl.col({column!r}).str.to_datetime()) or pl.from_epoch(...)"
        )


def ticks(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Int64 ticks of a time of this type; nanoseconds are rounded down."""
    match dtype:
        case pl.Datetime(time_unit="us"):
            return expr.to_physical()
        case pl.Datetime(time_unit="ms"):
            return expr.to_physical() * 1000
        case pl.Datetime():
            return expr.to_physical().floordiv(1000)
        case pl.Date():
            return expr.to_physical().cast(pl.Int64) * DAY
    return expr.cast(pl.Int64)


def steps(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Int64 of a time of this type, as fine as the column: so many nanoseconds where it has them, else ticks."""
    return expr.to_physical() if steps_of_tick(dtype) > 1 else ticks(expr, dtype)


def from_steps(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A time of this type from steps."""
    return expr.cast(dtype) if steps_of_tick(dtype) > 1 else from_ticks(expr, dtype)


def steps_of_tick(dtype: pl.DataType) -> int:
    """How many steps a tick has: 1000 in a column of nanoseconds, else 1."""
    return 1000 if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns" else 1


def ticks_of(physical: int, dtype: pl.DataType) -> int:
    """Ticks of one time of this type, given as Polars keeps it."""
    match dtype:
        case pl.Datetime(time_unit="ms"):
            return physical * 1000
        case pl.Datetime(time_unit="ns"):
            return physical // 1000
        case pl.Date():
            return physical * DAY
    return physical


def step_of(dtype: pl.DataType) -> int:
    """The least step that the ticks of times of this type can have."""
    match dtype:
        case pl.Datetime(time_unit="ms"):
            return 1000
        case pl.Date():
            return DAY
    return 1


def lowest(dtype: pl.DataType) -> int:
    """Ticks below which no time of this type lies."""
    return int(pl.select(dtype.min()).item()) if dtype.is_integer() else BEGINNING  # type: ignore[attr-defined]


def from_ticks(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A time of this type from ticks."""
    match dtype:
        case pl.Datetime(time_unit="us"):
            return expr.cast(dtype)
        case pl.Datetime(time_unit="ms"):
            return expr.floordiv(1000).cast(dtype)
        case pl.Datetime():
            return (expr * 1000).cast(dtype)
        case pl.Date():
            return expr.floordiv(DAY).cast(pl.Int32).cast(dtype)
    return expr.cast(dtype)


def duration_ticks(duration: str | timedelta | int, dtype: pl.DataType, where: str) -> int:
    """The ticks of a duration: "10s", "1h30m", a timedelta, or for integer columns a number or "5i".

    Raises `PlanError` for what is none, and for months, which have no fixed length.
    """
    if dtype.is_integer():
        text = str(duration)
        number = text.removesuffix("i")
        if not isinstance(duration, int | str) or not number.isdigit():
            raise PlanError(f"{where}: {duration!r} is no distance on an integer column; give a number, or '100i'")
        return int(number)
    if isinstance(duration, timedelta):
        if duration < timedelta(0):
            raise PlanError(f"{where}: {duration} is negative")
        return duration // timedelta(microseconds=1)
    if not isinstance(duration, str) or not duration:
        raise PlanError(f"{where}: {duration!r} is no duration; give one as in '10s', '5m', '1h30m', or a timedelta")
    return _parsed(duration, where)


def _parsed(duration: str, where: str) -> int:
    total, at = 0, 0
    while at < len(duration):
        found = _DURATION.match(duration, at)
        if found is None:
            raise PlanError(f"{where}: {duration!r} is no duration; units are us, ms, s, m, h, d, w, as in '1h30m'")
        number, unit = int(found[1]), found[2]
        if unit == "ns" and number % 1000:
            raise PlanError(f"{where}: {duration!r} is finer than a microsecond; give whole ones, as in '1us'")
        if unit == "ns":
            total += number // 1000
        elif unit not in _UNITS:
            raise PlanError(f"{where}: {duration!r} has no fixed length; give it in weeks, days or less")
        else:
            total += number * _UNITS[unit]
        at = found.end()
    return total


def show_ticks(count: int, dtype: pl.DataType) -> str:
    """A distance for people: '1m30s', or a plain number on an integer column."""
    if dtype.is_integer():
        return str(count)
    text = ""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        whole, count = divmod(count, _UNITS[unit])
        text += f"{whole}{unit}" if whole else ""
    return text or "0s"
