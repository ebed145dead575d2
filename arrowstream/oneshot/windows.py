"""Windows by exploding rows into windows: each row once for every window that contains it, and then plain groups.

All is done in whole numbers: an integer column as it is, a time as what the clock on the wall of its zone shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Final

import polars as pl

from arrowstream.oneshot.aggregates import grouped
from arrowstream.oneshot.clock import instants, offsets, walls
from arrowstream.oneshot.once import unused
from arrowstream.plan.windownodes import WindowAggregate

_PART: Final = re.compile(r"(\d+)(ns|us|ms|s|mo|m|h|d|w|q|y|i)")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_MONTHS: Final = {"mo": 1, "q": 3, "y": 12}
_MONDAY: Final = 4 * _NANOSECONDS["d"]  # 1970-01-05, from which weeks are counted


@dataclass(frozen=True, slots=True)
class _Length:
    """A duration of months and of nanoseconds on the wall (or a plain number, in `whole`); `weeks` says that it is of
    these alone, `days` that it is of the calendar."""

    months: int
    whole: int
    weeks: bool
    days: bool

    @classmethod
    def of(cls, text: str | None) -> _Length:
        months = whole = 0
        units = set()
        for number, unit in _PART.findall(text or ""):
            units.add(unit)
            if unit in _MONTHS:
                months += int(number) * _MONTHS[unit]
            else:
                whole += int(number) * _NANOSECONDS.get(unit, 1)
        sign = -1 if text is not None and text.startswith("-") else 1
        return cls(sign * months, sign * whole, units == {"w"}, bool(units & {"d", "w", *_MONTHS}))

    @property
    def longest(self) -> int:
        return self.months * 31 * _NANOSECONDS["d"] + self.whole


@dataclass(frozen=True, slots=True)
class _Axis:
    """Times of a column as whole numbers: of `step` nanoseconds each, as the clock on the wall shows them."""

    dtype: pl.DataType

    @property
    def step(self) -> int:
        match self.dtype:
            case pl.Datetime(time_unit=unit):
                return _NANOSECONDS[unit]
            case pl.Date():
                return _NANOSECONDS["d"]
        return 1

    @property
    def zone(self) -> str | None:
        """The zone whose clock may be changed."""
        zone = self.dtype.time_zone if isinstance(self.dtype, pl.Datetime) else None
        return None if zone == "UTC" else zone

    def edges(self, time: pl.Expr, every: _Length, period: _Length) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
        """The numbers `from` and `until` (see `clock.walls`) of times: one number where no clock is changed. And by how
        much these are ahead of UTC where the windows around a time go on as if the clock had not been changed; null
        where they do not."""
        if self.zone is None:
            number = time.to_physical().cast(pl.Int64)
            return number, number, pl.lit(None, pl.Int64)
        fields = pl.Struct({"from": pl.Int64, "until": pl.Int64, "ahead": pl.Int64})
        clocked = not (every.days or period.days)
        made = partial(_edges, every=every.whole // self.step if clocked else None, reach=period.longest // self.step)
        both = time.map_batches(made, return_dtype=fields, is_elementwise=True).struct
        return both.field("from"), both.field("until"), both.field("ahead")

    def later(self, number: pl.Expr, length: _Length) -> pl.Expr:
        """Numbers that are later by a length."""
        if length.months:
            months = number.cast(pl.Datetime("us")) if isinstance(self.dtype, pl.Date) else self.naive(number)
            if isinstance(self.dtype, pl.Date):
                months = number.cast(pl.Int32).cast(pl.Date)
            number = months.dt.offset_by(f"{length.months}mo").to_physical().cast(pl.Int64)
        return number + length.whole // self.step

    def naive(self, number: pl.Expr) -> pl.Expr:
        return number.cast(pl.Datetime(self.dtype.time_unit))  # type: ignore[attr-defined]

    def months(self, number: pl.Expr) -> pl.Expr:
        """In which month since year 0 times are."""
        time = number.cast(pl.Int32).cast(pl.Date) if isinstance(self.dtype, pl.Date) else self.naive(number)
        return time.dt.year().cast(pl.Int64) * 12 + time.dt.month() - 1

    def of_months(self, months: pl.Expr) -> pl.Expr:
        """The numbers of the first of these months."""
        days = pl.date(months.floordiv(12), months % 12 + 1, 1).to_physical().cast(pl.Int64)
        return days * (_NANOSECONDS["d"] // self.step)

    def instant(self, number: pl.Expr, ahead: pl.Expr) -> pl.Expr:
        """Times of the column's type that the clock on the wall shows so."""
        if self.zone is not None:
            made = partial(_instants, zone=self.zone)
            by_wall = self.naive(number).map_batches(made, return_dtype=self.dtype, is_elementwise=True)
            return pl.when(ahead.is_null()).then(by_wall).otherwise((number - ahead).cast(self.dtype))
        return (number.cast(pl.Int32) if isinstance(self.dtype, pl.Date) else number).cast(self.dtype)


def _edges(times: pl.Series, *, every: int | None, reach: int) -> pl.Series:
    shown = walls(times)
    ahead = offsets(times)
    goes_on = pl.repeat(False, times.len(), eager=True)
    if every is not None:
        numbers = times.to_physical()
        around = [offsets((numbers + by).cast(times.dtype)) - ahead for by in (-reach - every, reach + every)]
        goes_on = (around[0] % every == 0) & (around[1] % every == 0)
    plain = times.dt.replace_time_zone(None).to_physical()
    frame = shown.select(pl.all().to_physical()).with_columns(goes_on.alias("on"), plain.alias("plain"))
    return frame.select(
        *(pl.when("on").then("plain").otherwise(name).alias(name) for name in ("from", "until")),
        pl.when("on").then(ahead).alias("ahead"),
    ).to_struct()


def _instants(numbers: pl.Series, *, zone: str) -> pl.Series:
    return instants(numbers, zone)


def windowed(node: WindowAggregate, rows: pl.LazyFrame) -> pl.LazyFrame:
    """The groups of windows and keys."""
    taken = (node.input.schema, node.schema)
    start, end = unused("start", *taken), unused("end", *taken)
    members = _exploded(node, rows, start, end)
    found = grouped(members, [*node.by, pl.col(start), pl.col(end)], node.aggs, node.too_large)
    shown = {"_lower_boundary": pl.col(start), "_upper_boundary": pl.col(end)} if node.boundaries else {}
    return found.with_columns(**shown | {node.index: pl.col(end if node.label_right else start)})


def _exploded(node: WindowAggregate, rows: pl.LazyFrame, start: str, end: str) -> pl.LazyFrame:
    """Each row as often as there are windows that contain it, with their `start` and `end`."""
    windows, axis = node.windows, _Axis(node.windows.dtype)
    taken = (node.input.schema, node.schema, (start, end))
    low, high, ahead, following = (unused(word, *taken) for word in ("from", "until", "ahead", "following"))
    every, period = _Length.of(str(windows.every)), _Length.of(str(windows.period))
    offset = _Length.of(windows.offset)
    begins = period if windows.cumulate else every
    edges = axis.edges(pl.col(node.index), begins, period)
    timed = rows.with_columns(edge.alias(name) for name, edge in zip((low, high, ahead), edges, strict=True))
    # All windows that may contain the row, and a few more.
    slack = 4 * _NANOSECONDS["d"] if offset.months else 0
    early = pl.min_horizontal(low, high) - (period.longest + offset.longest + slack) // axis.step
    late = pl.max_horizontal(low, high) - (offset.longest - offset.months * 3 * _NANOSECONDS["d"] - slack) // axis.step
    named = timed.with_columns(_multiples(early, late, begins, axis).alias(start)).explode(start)
    # Months from the begin of a month, whatever the offset: so each window of a month ends where the next begins.
    lengths = (period, offset) if begins.months else (offset, period)
    named = named.with_columns(
        axis.later(pl.col(start), offset).alias(start),
        axis.later(axis.later(pl.col(start), begins), offset).alias(following),
        axis.later(axis.later(pl.col(start), lengths[0]), lengths[1]).alias(end),
    )
    if windows.cumulate:
        size, length = every.whole // axis.step, period.whole // axis.step
        ends = pl.int_ranges(pl.col(start) + size, pl.col(start) + length + 1, size)
        named = named.filter(pl.col(start) <= pl.col(low)).with_columns(ends.alias(end)).explode(end)
        named = named.with_columns(pl.min_horizontal(pl.col(end) + size, following).alias(following))
    begun = pl.col(start) <= pl.col(low) if windows.closed in ("left", "both") else pl.col(start) < pl.col(high)
    ended = pl.col(end) < pl.col(high) if windows.closed in ("right", "both") else pl.col(end) <= pl.col(low)
    there = named.filter(begun & ~ended)
    if axis.zone is None:
        return there.with_columns(axis.instant(pl.col(each), pl.col(ahead)).alias(each) for each in (start, end))
    # Where a gap makes one bound of two, a window between them is none, and of those that would begin at one instant
    # the last is given; of growing ones, that which ends there.
    last = pl.col(end) == pl.col(start) + period.longest // axis.step if windows.cumulate else pl.lit(False)
    there = there.with_columns(last.alias(low)).with_columns(
        axis.instant(pl.col(each), pl.col(ahead)).alias(each) for each in (start, end, following)
    )
    doubled = pl.col(following) == pl.col(end if windows.cumulate else start)
    return there.filter((pl.col(start) != pl.col(end)) & (pl.col(low) | ~doubled))


def _multiples(early: pl.Expr, late: pl.Expr, every: _Length, axis: _Axis) -> pl.Expr:
    """Lists of the multiples of a length from one that is not after `early` to one that is not before `late`."""
    if every.months:
        first = axis.months(early).floordiv(every.months) * every.months
        listed = pl.int_ranges(first, axis.months(late) + every.months + 1, every.months)
        return listed.list.eval(axis.of_months(pl.element()))
    size = every.whole // axis.step
    origin = _MONDAY // axis.step if every.weeks else 0
    first = (early - origin).floordiv(size) * size + origin
    return pl.int_ranges(first, late + size + 1, size)
