"""The clock on the wall: skipped times, times that come twice, and between which bounds an instant lies."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from arrowstream.oneshot.clock import instants, walls


def naive(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def shown(zone: str, *texts: str) -> list[str]:
    """The instants in UTC that these times on the wall are."""
    found = instants(pl.Series([naive(text) for text in texts], dtype=pl.Datetime("us")), zone)
    return found.dt.convert_time_zone("UTC").dt.to_string("%m-%d %H:%M:%S").to_list()


def around(zone: str, *texts: str) -> list[tuple[str, str]]:
    """`from` and `until` of instants in UTC."""
    times = pl.Series([naive(text) for text in texts], dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    return walls(times).select(pl.all().dt.to_string("%m-%d %H:%M:%S%.6f")).rows()


@pytest.mark.parametrize(
    ("zone", "wall", "instant"),
    [
        ("Europe/Paris", "2026-01-15 12:00", "01-15 11:00:00"),
        ("Europe/Paris", "2026-03-29 02:00", "03-29 01:00:00"),  # skipped, as all up to 03:00 is
        ("Europe/Paris", "2026-03-29 02:59:59", "03-29 01:00:00"),
        ("Europe/Paris", "2026-03-29 03:00", "03-29 01:00:00"),
        ("Europe/Paris", "2026-10-25 02:30", "10-25 00:30:00"),  # comes twice: the first
        ("Europe/Paris", "2026-10-25 03:00", "10-25 02:00:00"),
        ("Pacific/Apia", "2011-12-30 15:00", "12-30 10:00:00"),  # a whole day that never was
        ("America/Havana", "2026-11-01 00:30", "11-01 04:30:00"),  # a day with two midnights
        ("Australia/Lord_Howe", "2026-10-04 02:10", "10-03 15:30:00"),  # half an hour
        ("Asia/Kathmandu", "1986-01-01 00:10", "12-31 18:30:00"),  # a midnight that does not exist
    ],
)
def test_a_time_on_the_wall_is_one_instant(zone: str, wall: str, instant: str) -> None:
    assert shown(zone, wall) == [instant]


def test_an_instant_lies_between_bounds() -> None:
    """Most are what the clock shows. The hour that comes again is at the end of the first; the first instant after a
    gap is where all of the gap is."""
    assert around("Europe/Paris", "2026-01-15 11:00") == [("01-15 12:00:00.000000", "01-15 12:00:00.000000")]
    assert around("Europe/Paris", "2026-10-25 00:30", "2026-10-25 01:30") == [
        ("10-25 02:30:00.000000", "10-25 02:30:00.000000"),
        ("10-25 02:59:59.999999", "10-25 03:00:00.000000"),
    ]
    assert around("Europe/Paris", "2026-03-29 01:00", "2026-03-29 01:00:01") == [
        ("03-29 03:00:00.000000", "03-29 02:00:00.000000"),
        ("03-29 03:00:01.000000", "03-29 03:00:01.000000"),
    ]
