"""The clock on the wall of a time zone: which times it shows, once, twice or never.

A bound of a window is a time on the wall. One that the clock skips is the first instant after the gap; one that it
shows twice is the first of the two. From that follows on which side of which bounds an instant lies, see `Wall`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

_SECOND = timedelta(seconds=1)


def instants(walls: pl.Series, zone: str) -> pl.Series:
    """The instants of times on the wall (naive datetimes)."""
    found = walls.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    skipped = walls.filter(found.is_null() & walls.is_not_null()).unique()
    if not skipped.len():
        return found
    seconds = skipped.cast(pl.Datetime("us")).to_list()
    after = pl.Series([_end_of_gap(each, ZoneInfo(zone)) for each in seconds], dtype=pl.Datetime("us", "UTC"))
    after = after.dt.convert_time_zone(zone).cast(found.dtype)
    known = pl.DataFrame({"wall": skipped, "instant": after})
    filled = pl.DataFrame({"wall": walls, "found": found}).join(known, on="wall", how="left", maintain_order="left")
    return filled.select(pl.coalesce("found", "instant")).to_series()


def offsets(times: pl.Series) -> pl.Series:
    """By how much the clock on the wall is ahead of UTC at instants of a zoned column, in units of the column."""
    return times.dt.replace_time_zone(None).to_physical() - times.to_physical()


def walls(times: pl.Series) -> pl.DataFrame:
    """`from` and `until` (naive datetimes) of instants of a zoned column: between which bounds each lies.

    A bound on the wall is at or before the instant where it is at or before `from`; it is at or after it where it is
    at or after `until`. Both are what the clock shows, but for what it shows for the second time: all bounds of that
    stretch were passed the first time, so `from` is its last moment and `until` the end of it. And the first instant
    after a gap is where all bounds in the gap are, so there `until` is the begin of it.
    """
    zone, unit = times.dtype.time_zone, times.dtype.time_unit  # type: ignore[attr-defined]
    step = pl.duration(nanoseconds={"ns": 1, "us": 1_000, "ms": 1_000_000}[unit], time_unit=unit)
    shown = times.dt.replace_time_zone(None)
    first = shown.dt.replace_time_zone(zone, ambiguous="earliest")
    before = pl.select(pl.lit(times) - step).to_series().dt.replace_time_zone(None)
    frame = pl.DataFrame({"time": times, "shown": shown, "again": first != times, "before": before})
    frame = frame.with_columns(pl.col("time").dt.convert_time_zone("UTC").dt.truncate("1s").alias("second"))
    again = frame.filter("again")["second"].unique()
    ends = [_end_of_overlap(each, ZoneInfo(zone)) for each in again.cast(pl.Datetime("us", "UTC")).to_list()]
    known = pl.DataFrame({"second": again, "end": pl.Series(ends, dtype=pl.Datetime("us")).cast(shown.dtype)})
    return frame.join(known, on="second", how="left", maintain_order="left").select(
        pl.when("again").then(pl.col("end") - step).otherwise("shown").alias("from"),
        pl.when("again")
        .then("end")
        .when(pl.col("shown") - pl.col("before") > step)
        .then(pl.col("before") + step)
        .otherwise("shown")
        .alias("until"),
    )


def _end_of_gap(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant after the gap in which this time on the wall would be."""
    late = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)  # by the offset of before
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # by that of after
    return _change(early, late, zone)


def _end_of_overlap(second: datetime, zone: ZoneInfo) -> datetime:
    """What the clock shows at the end of the stretch that it shows for the second time at this instant."""
    shown = second.astimezone(zone).replace(fold=0)
    first = shown.astimezone(UTC)
    changed = _change(first, second, zone)
    return changed.replace(tzinfo=None) + (first.astimezone(zone).utcoffset() or timedelta())


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first instant with another offset than `before` has, up to `after`; clocks are changed at whole seconds."""
    before, after = before.replace(microsecond=0), after.replace(microsecond=0) + _SECOND
    old = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
