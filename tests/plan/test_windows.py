"""Windows of every length: against a reading, number by number, with Python's whole numbers and dates."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wallreading import Reading

from arrowstream.errors import PlanError
from arrowstream.plan.eventtime import BEGINNING, DAY, FOREVER, ticks_of
from arrowstream.plan.windows import BIN, CLOSED, END, START, Windows, interval, physical

WHOLE = bool(os.environ.get("ARROWSTREAM_TEST_ALL"))
FEW = 30

NANOS = ("1ns", "7ns", "500ns", "1500ns")
MICROS = ("1us", "400us", "500us")
MILLIS = (
    "1ms", "8ms", "10ms", "50ms", "125ms", "200ms", "500ms", "1s", "2500ms", "7s", "1m", "90s", "15m", "1h", "7h",
    "36h",
)  # fmt: skip
DAYS = ("1d", "3d", "1w", "2w", "1mo", "5mo", "1q", "1y", "3y")
COUNTS = ("1i", "2i", "3i", "5i", "10i", "25i", "64i", "1000i", "86400i", "1000000007i")
COLUMNS: dict[pl.DataType, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    pl.Datetime("ns"): (1, (*NANOS, *MICROS, *MILLIS, *DAYS), ("0s", "3ns", "-700us", "100d", "-90m")),
    pl.Datetime("us"): (1000, (*MICROS, *MILLIS, *DAYS), ("0s", "3us", "-700us", "1000d", "-90m")),
    pl.Datetime("ms", "UTC"): (10**6, (*MILLIS, *DAYS), ("0s", "3ms", "-2500ms", "1000d", "-90m")),
    pl.Date(): (86_400 * 10**9, DAYS, ("0d", "1d", "-1w", "1000d")),
    pl.Int64(): (0, COUNTS, ("0i", "3i", "-7i", "1000i")),
    pl.Int32(): (0, COUNTS[:8], ("0i", "3i", "-7i")),
}
OF_MONTHS = ("1mo", "-1q", "2mo3d")


def cases(dtype: pl.DataType) -> Iterator[tuple[str, str, str, str]]:
    """every, period, offset, closed: all there are, or one in so many."""
    _, lengths, offsets = COLUMNS[dtype]
    of_months = [*offsets, *OF_MONTHS]
    made = (
        (every, period, offset, closed)
        for every, period in itertools.product(lengths, lengths)
        for offset in (of_months if every.endswith(("mo", "q", "y")) else offsets)
        for closed in CLOSED
    )
    return made if WHOLE else itertools.islice(made, 0, None, 37)


def made(dtype: pl.DataType, every: str, period: str, offset: str, closed: str) -> Windows:
    return Windows(dtype, interval(every, dtype, "every"), interval(period, dtype, "period"), offset, closed)  # type: ignore[arg-type]


def times_near(reading: Reading, dtype: pl.DataType) -> list[int]:
    """Times at bounds and beside them: today, in 1970, in 1938, and somewhere in between."""
    chance = random.Random(1)
    spots = [0, 20_000, -11_700, chance.randrange(-10_000, 20_000)]
    found = set()
    for days in spots:
        spot = days * reading.day if reading.day > 1 or isinstance(dtype, pl.Date) else days * 1000 + 7
        begin = reading.begin(number := reading.last(spot))
        end = reading.end(number)
        found |= {begin - 1, begin, begin + 1, end - 1, end, end + 1, chance.randint(begin, max(begin, end))}
    return sorted(found)


def held(windows: Windows, times: list[int], low: int = BEGINNING, high: int = FOREVER) -> set[tuple[int, int, int]]:
    """Of these times and the windows that are closed between two watermarks: which contains which."""
    column = windows.times(np.array(times))
    rows = pl.DataFrame({"at": column, BIN: windows.bins_of(column)})
    found = rows.join(windows.pairs(rows[BIN], low, high), on=BIN)
    if windows.touching:
        found = found.filter(windows.contains(pl.col("at")))
    assert found.is_unique().all()
    return set(found.select(pl.col("at", START, END).to_physical().cast(pl.Int64)).rows())


@pytest.mark.parametrize("dtype", COLUMNS, ids=str)
def test_all_pairs_of_lengths_give_the_windows_that_they_say(dtype: pl.DataType) -> None:
    """200 ms of 500, of 1 us every 3 years: ARROWSTREAM_TEST_ALL=1 takes all of them, in two minutes."""
    unit = COLUMNS[dtype][0]
    looked_at = 0
    for every, period, offset, closed in cases(dtype):
        case = (str(dtype), every, period, offset, closed)
        reading = Reading.of(every, period, offset, closed, unit)
        if period.endswith(("mo", "q", "y")) and not every.endswith(("mo", "q", "y")) and not reading.few(10**7):
            with pytest.raises(PlanError, match="a row would be in"):
                made(dtype, every, period, offset, closed)
            continue
        windows = made(dtype, every, period, offset, closed)
        times = times_near(reading, dtype)
        looked_at += 1
        if reading.few(FEW):
            wanted = {(time, begin, end) for time in times for begin, end in reading.holding(time)}
            assert held(windows, times) == wanted, case
            continue
        for time in times[::5]:  # it is in very many: look at those that begin last
            number = reading.last(time)
            some = [(reading.begin(each), reading.end(each)) for each in range(number - 4, number + 1)]
            ends = sorted(ticks_of(end, dtype) for _, end in some)
            found = held(windows, [time], ends[0] - 1, ends[-1] + 1)
            assert found >= {(time, begin, end) for begin, end in some if reading.holds(time, begin, end)}, case
            for _, begin, end in found:
                number = reading.last(begin)
                assert (begin, end) == (reading.begin(number), reading.end(number)), case
                assert reading.holds(time, begin, end), case
    assert looked_at > 5


lengths_of = st.sampled_from([*MILLIS, *DAYS])


@given(
    every=lengths_of,
    period=lengths_of,
    closed=st.sampled_from(CLOSED),
    zone=st.sampled_from([None, "UTC", "Europe/Paris", "Australia/Lord_Howe", "Etc/GMT+3"]),
    unit=st.sampled_from(["ms", "us", "ns"]),
    minutes=st.lists(st.integers(-600_000, 600_000), min_size=1, max_size=5),
    steps=st.lists(st.integers(0, 40_000), min_size=2, max_size=4).map(sorted),
)
@settings(max_examples=150)
def test_each_window_is_closed_by_one_watermark_and_the_first_that_is_open_is_known(
    every: str, period: str, closed: str, zone: str | None, unit: str, minutes: list[int], steps: list[int]
) -> None:
    dtype = pl.Datetime(unit, zone)  # type: ignore[arg-type]
    if interval(period, dtype, "period").most > 60 * interval(every, dtype, "every").most:
        return
    windows = made(dtype, every, period, "0s", closed)
    base = 1_774_700_000_000_000  # the day before summer time begins in Paris
    instants = base + np.array(minutes) * 60_000_000
    begins = physical(windows.bins_of(pl.Series(instants).cast(pl.Datetime("us", zone)).cast(dtype)).unique().sort())
    marks = [BEGINNING, *(base + step * 60_000_000 + 3 for step in steps), FOREVER]
    parts = [windows.closing(begins, low, high) for low, high in itertools.pairwise(marks)]
    together = [pair for part in parts for pair in zip(part.starts.tolist(), part.stops.tolist(), strict=True)]
    all_ = windows.closing(begins, BEGINNING, FOREVER)
    whole = list(zip(all_.starts.tolist(), all_.stops.tolist(), strict=True))
    assert sorted(together) == sorted(whole)
    assert len(set(whole)) == len(whole)
    for mark in marks[1:-1]:
        last = windows.last(mark)
        assert windows.last(windows.closes(last)) >= last > windows.last(windows.closes(last) - 1)
        still = [pair for pair in whole if pair[1] > last]
        assert all(start >= windows.opening(mark, label_right=False) for start, _ in still)
        assert all(stop >= windows.opening(mark, label_right=True) > last for _, stop in still)


@pytest.mark.parametrize(("unit", "second"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_the_first_open_window_is_the_one_that_a_next_row_may_be_in(unit: str, second: int) -> None:
    dtype = pl.Datetime(unit)  # type: ignore[arg-type]
    windows = made(dtype, "1m", "5m", "0s", "left")
    assert windows.opening(600_000_000, label_right=False) == 6 * 60 * second
    assert windows.opening(600_000_000, label_right=True) == 11 * 60 * second
    months = made(dtype, "1mo", "10d", "0s", "left")
    assert months.opening(12 * DAY, label_right=False) == 31 * 86_400 * second


def test_lengths_that_no_column_of_this_unit_can_tell_are_refused_with_the_unit() -> None:
    for dtype, text, said in (
        (pl.Datetime("us"), "500ns", r"Datetime\(time_unit='us'"),
        (pl.Datetime("ms"), "1500us", r"Datetime\(time_unit='ms'"),
        (pl.Date(), "36h", "days"),
        (pl.Int64(), "10s", "a number"),
        (pl.Int64(), dt.timedelta(seconds=1), "a number"),
        (pl.Datetime("us"), "10x", "units are"),
        (pl.Datetime("us"), "", "units are"),
        (pl.Datetime("us"), "0s", "above zero"),
        (pl.Datetime("us"), "-5s", "above zero"),
        (pl.Datetime("us"), dt.timedelta(0), "above zero"),
    ):
        with pytest.raises(PlanError, match=said):
            interval(text, dtype, "every")  # type: ignore[arg-type]


def test_windows_that_nothing_can_be_cut_into_are_refused() -> None:
    with pytest.raises(PlanError, match="months"):
        made(pl.Datetime("us"), "1mo5d", "1mo5d", "0s", "left")
    with pytest.raises(PlanError, match="no fixed time"):
        made(pl.Datetime("us"), "1d", "1d", "1mo", "left")
    with pytest.raises(PlanError, match="cast the column to Int64"):
        made(pl.UInt32(), "10i", "20i", "0i", "left")
    made(pl.UInt32(), "10i", "10i", "20i", "left")


def test_24_hours_of_python_are_a_day_as_they_are_for_polars() -> None:
    assert interval(dt.timedelta(hours=24, milliseconds=5), pl.Datetime("us"), "every").text == "1d5ms"
    assert interval(-dt.timedelta(hours=6), pl.Datetime("us"), "offset", positive=False).text == "-6h"
    assert interval(dt.timedelta(days=2), pl.Date(), "every").units == 2


def test_the_longest_and_the_shortest_of_months() -> None:
    spans = {text: interval(text, pl.Datetime("us"), "every") for text in ("1mo", "1q", "1y", "4y", "1d")}
    days = {text: (span.least // DAY, span.most // DAY) for text, span in spans.items()}
    assert days == {"1mo": (28, 31), "1q": (89, 92), "1y": (365, 366), "4y": (1460, 1461), "1d": (1, 1)}
