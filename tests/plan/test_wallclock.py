"""Windows by the clock on the wall: every zone, at each change of its clock, against a reading with Python's zones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import polars as pl
import pytest
from wallreading import DAY, ZonedReading

from arrowstream.errors import PlanError
from arrowstream.plan.eventtime import BEGINNING, FOREVER
from arrowstream.plan.wallclock import changes, wall_clock
from arrowstream.plan.windows import BIN, CLOSED, END, START, Windows, interval

WHOLE = bool(os.environ.get("ARROWSTREAM_TEST_ALL"))
FIRST, LAST = 0, 76 * 365 * DAY + 19 * DAY  # 1970 to 2046

# Two midnights, half hours, a day that was left out, 40 minutes and 30 seconds, changes of two, three and seven hours.
KNOWN = (
    "Europe/Paris", "Atlantic/Azores", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Monrovia",
    "Antarctica/Troll", "Antarctica/Casey", "Antarctica/Vostok", "Asia/Kathmandu", "Asia/Pyongyang", "America/St_Johns",
    "America/Asuncion", "Africa/Casablanca", "Asia/Tehran", "Pacific/Kwajalein", "America/New_York",
)  # fmt: skip
LENGTHS = (
    ("1d", "0s"), ("1d", "6h"), ("1d", "-90m"), ("1w", "0s"), ("2w", "1d"), ("3d", "0s"), ("1mo", "0s"), ("1mo", "14d"),
    ("1q", "1mo"), ("1y", "0s"), ("1y", "3mo"), ("2h", "0s"), ("6h", "0s"), ("12h", "30m"), ("1h", "0s"), ("1h", "15m"),
    ("30m", "0s"), ("90m", "0s"), ("7h", "0s"), ("24h", "0s"), ("40m", "0s"), ("1m", "0s"), ("7m", "0s"), ("1s", "0s"),
)  # fmt: skip
HOPS = (
    ("1d", "3d"), ("6h", "1d"), ("2h", "5h"), ("1h", "12h"), ("40m", "90m"), ("1w", "10d"), ("1mo", "1q"),
    ("1mo", "10d"), ("1d", "1mo"), ("12h", "1mo2d"), ("1d", "6h"), ("1d", "36h"), ("7h", "3h"), ("1h", "1d"),
    ("30m", "20m"), ("2w", "1mo"),
)  # fmt: skip
AROUND = sorted({
    side * seconds for side in (-1, 1)
    for seconds in (0, 1, 59, 61, 899, 1801, 2399, 3599, 3600, 5401, 7199, 7201, 10_799, 21_601, 43_203, 86_399, 90_001)
})  # fmt: skip


@lru_cache
def zones() -> list[str]:
    """The zones of Python's database that Polars has too: not `localtime` and `Factory`, which are no places."""
    known = []
    for zone in sorted(available_timezones()):
        try:
            changes(zone)
        except PlanError:
            continue
        known.append(zone)
    assert len(known) > 400, "Python's time zone database is missing: install tzdata"
    return known


def at_changes(zone: str) -> Iterator[int]:
    """When a clock is changed, if Polars and Python agree on it: their databases may be of different years."""
    python = ZonedReading.of(ZoneInfo(zone), "1d", "0s")
    instants, offsets = changes(zone)
    for at, before, after in zip(instants.tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        if FIRST <= at < LAST and (python.offset(at - 1), python.offset(at)) == (before, after):
            yield at


def agreed(zone: str, *instants: int) -> bool:
    """Whether Polars and Python agree on the offsets about these instants (not in WET at the end of 1992)."""
    python = ZonedReading.of(ZoneInfo(zone), "1d", "0s")
    known, offsets = changes(zone)
    near = [instant + away for instant in instants for away in (-7200, -1, 0, 7200)]
    return [python.offset(each) for each in near] == offsets[np.searchsorted(known, near, "right")].tolist()


def windows(
    zone: str, every: str, offset: str, unit: str = "us", period: str | None = None, closed: str = "left"
) -> Windows:
    dtype = pl.Datetime(unit, zone)  # type: ignore[arg-type]
    length = interval(period or every, dtype, "period")
    return Windows(dtype, interval(every, dtype, "every"), length, offset, closed)  # type: ignore[arg-type]


def found(cut: Windows, instants: np.ndarray) -> list[tuple[int, int]]:  # type: ignore[type-arg]
    """Begin and end, in seconds, of the one window that holds each instant."""
    times = cut.times(instants * 1_000_000)
    begins = cut.bins_of(times)
    pairs = cut.pairs(begins, BEGINNING, FOREVER)
    rows = pl.DataFrame({BIN: begins}).join(pairs, on=BIN, how="left", maintain_order="left")
    assert rows.height == len(instants), "a row is in no window, or in two"
    edges = rows.select(pl.col(START, END).to_physical())
    assert edges.select((pl.all() % 1_000_000 == 0).all()).row(0) == (True, True)
    return [(start // 1_000_000, end // 1_000_000) for start, end in edges.iter_rows()]


def test_at_each_change_of_each_clock_windows_are_those_on_the_wall() -> None:
    """Twice a year, somewhere at midnight, by half an hour, or by a day. ARROWSTREAM_TEST_ALL=1 takes all of them."""
    looked_at, wrong = 0, []
    for zone in different(zones()) if WHOLE else [*KNOWN, *zones()[::60]]:
        instants = list(at_changes(zone))
        instants = instants if WHOLE else instants[:: max(1, len(instants) // 3)]
        if not instants:
            continue
        times = np.array([[at + away for away in AROUND] for at in instants])
        for every, offset in LENGTHS if WHOLE else LENGTHS[looked_at % 4 :: 4]:
            reading = ZonedReading.of(ZoneInfo(zone), every, offset)
            got = iter(found(windows(zone, every, offset), times.ravel()))
            for at, row in zip(instants, times.tolist(), strict=True):
                for time in row:
                    one, two = next(got), reading.window(time, at)
                    if one != two and agreed(zone, *one, *two):
                        wrong.append((zone, every, offset, time, one, two))
        looked_at += len(instants)
    assert not wrong[:5]
    assert looked_at > (10_000 if WHOLE else 60)


@pytest.mark.parametrize("closed", CLOSED)
def test_at_changes_of_a_clock_windows_that_overlap_and_such_with_gaps_are_those_on_the_wall(closed: str) -> None:
    for place, zone in enumerate(KNOWN):
        instants = list(at_changes(zone))
        for every, period in HOPS if WHOLE else HOPS[place % 8 :: 8]:
            reading = ZonedReading.of(ZoneInfo(zone), every, "0s", period, closed)
            cut = windows(zone, every, "0s", period=period, closed=closed)
            for at in instants if WHOLE else instants[place % 2 :: 30]:
                times = [at + away for away in AROUND[::3]]
                column = cut.times(np.array(times) * 1_000_000)
                rows = pl.DataFrame({"at": column, BIN: cut.bins_of(column)})
                got = rows.join(cut.pairs(rows[BIN], BEGINNING, FOREVER), on=BIN).filter(cut.contains(pl.col("at")))
                wanted = [(time, *window) for time in times for window in reading.holding(time, at)]
                shown = sorted(got.select(pl.col("at", START, END).to_physical() // 1_000_000).rows())
                assert shown == sorted(wanted), (zone, every, period, at)


def different(names: list[str]) -> list[str]:
    """Of zones whose clocks are changed alike, one."""
    return list({b"".join(part.tobytes() for part in changes(zone)): zone for zone in names}.values())


@pytest.mark.parametrize("zone", ["Africa/Casablanca", "Asia/Gaza", "Europe/Riga"])
def test_no_change_of_a_clock_is_missed(zone: str) -> None:
    """Between wars clocks were changed after weeks; Morocco's stop for Ramadan. Asked is Polars, hour by hour."""
    assert missed(zone) == []


@pytest.mark.skipif(not WHOLE, reason="takes a minute; ARROWSTREAM_TEST_ALL=1 runs it")
def test_no_change_of_any_clock_is_missed() -> None:
    assert {zone: some for zone in zones() if (some := missed(zone))} == {}


def missed(zone: str) -> list[int]:
    """Hours in which the offset is not that of the table."""
    hours = np.arange(-47_482 * DAY, 84_006 * DAY, 3600)
    shown = pl.Series(hours * 1000).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(zone).dt.replace_time_zone(None)
    instants, offsets = changes(zone)
    table = offsets[np.searchsorted(instants, hours, "right")]
    return list(hours[shown.cast(pl.Int64).to_numpy() // 1000 - hours != table])


@pytest.mark.parametrize("zone", KNOWN)
def test_the_face_never_goes_back_and_a_time_begins_when_it_is_first_shown(zone: str) -> None:
    _, clock = wall_clock(zone, 1, None)
    assert clock is not None
    instants = np.concatenate([clock.since[1:, None] + np.arange(-8000, 8000, 97)]).ravel()
    faces = clock.face(np.sort(instants))
    assert (np.diff(faces) >= 0).all()
    first = clock.first(faces)
    assert (first <= np.sort(instants)).all()
    assert (clock.face(first) >= faces).all()
    assert (clock.face(first - 1) < faces).all()


def test_times_before_all_changes_and_after_them_are_no_matter() -> None:
    """Mean time to the second in 1800, a placeholder at the very end of what nanoseconds can say."""
    for zone in ("Europe/Paris", "Africa/Monrovia", "Asia/Kathmandu"):
        cut = windows(zone, "1d", "0s", "ns")
        ends = pl.Series([-(2**63) + 10, -(2**63) + 2 * 10**15, 0, 2**63 - 2 * 10**15, 2**63 - 10]).cast(cut.dtype)
        begins = cut.bins_of(ends).to_physical()
        assert begins.is_sorted()
        near = begins[1:4]
        assert ((ends.to_physical()[1:4] - near) < 25 * 3600 * 10**9).all()
        pairs = cut.pairs(cut.bins_of(ends), BEGINNING, FOREVER)
        assert (pairs[START] <= pairs[END]).all()
    dawn = pl.Series(["1700-03-01 12:00"]).str.to_datetime(time_zone="UTC").dt.convert_time_zone("Europe/Paris")
    cut = windows("Europe/Paris", "1d", "0s")
    assert cut.bins_of(dawn.cast(cut.dtype)).dt.to_string("%F %T").to_list() == ["1700-03-01 00:00:00"]


def test_a_zone_that_is_not_known_is_said() -> None:
    with pytest.raises(PlanError, match="Mars/Olympus"):
        changes("Mars/Olympus")
