"""The rate source: rows made up at a steady rate."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import polars as pl
import polars.testing
import pytest

from arrowstream.connectors.source import EndOfStream, Offset, batch_limit
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources.rate import RateReader, RateSource
from arrowstream.testing.source_suite import SourceSuite, Supply, polled, reading

START = datetime(2026, 1, 1, tzinfo=UTC)


class HandClock:
    seconds = 0.0

    @classmethod
    def now(cls) -> float:
        return cls.seconds


class HandRateSource(RateSource):
    """A rate source whose rows become due by hand."""

    def open(self, split: str, resume: Offset | None) -> RateReader:
        return RateReader(self, resume if isinstance(resume, int) else 0, HandClock.now)


class RateSupply(Supply):
    def __init__(self) -> None:
        self._source = HandRateSource(8, rows=8, start=START)

    def source(self) -> RateSource:
        return self._source

    def feed(self, first: int, count: int) -> pl.DataFrame:
        HandClock.seconds += count / 8
        times = [START + timedelta(seconds=n / 8) for n in range(first, first + count)]
        return pl.DataFrame(
            {"timestamp": times, "value": range(first, first + count)},
            schema={"timestamp": pl.Datetime("us", "UTC"), "value": pl.Int64},
        )

    def again(self, count: int) -> None:
        HandClock.seconds += count / 8

    def end(self) -> None:
        """It ends by itself."""


class TestRateSource(SourceSuite):
    @pytest.fixture
    def supply(self) -> RateSupply:
        return RateSupply()


def test_rows_come_at_the_rate_of_the_clock_on_the_wall() -> None:
    source = RateSource(2000, rows=200)
    began = time.monotonic()
    with reading(source) as reader:
        got = polled(source, reader, 200)
        took = time.monotonic() - began
        with pytest.raises(EndOfStream):
            reader.poll(1)
    assert got["value"].to_list() == list(range(200))
    assert took >= 0.1


def test_a_pause_is_made_up_for_in_pieces() -> None:
    """A context that was suspended for an hour must not get an hour's rows in one batch."""
    source = HandRateSource(1000, start=START)
    with reading(source) as reader:
        HandClock.seconds += 3600
        sizes = []
        while (rows := reader.poll(0)) is not None:
            sizes.append(rows.num_rows)
    assert sizes == [1_000_000] * 3 + [600_000]
    limited = RateSource(1000, rows=25, max_rows_per_batch=10)
    assert batch_limit(limited) == 10
    with reading(limited.bounded()) as reader:
        polls = [reader.poll(0) for _ in range(3)]
    assert [rows.num_rows for rows in polls if rows is not None] == [10, 10, 5]


def test_a_rate_that_is_no_whole_number_keeps_its_times() -> None:
    source = RateSource(2.5, rows=4, start=START)
    frame = source.scan("rate", None, 4).collect()
    assert frame["timestamp"].to_list() == [START + timedelta(milliseconds=400 * n) for n in range(4)]


def numbers(first: int, count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"n": range(first, first + count), "half": [n / 2 for n in range(first, first + count)]},
        schema={"n": pl.Int64, "half": pl.Float64},
    )


def test_columns_of_ones_own() -> None:
    source = RateSource(1e6, rows=100, generate=numbers)
    assert source.schema.names == ["n", "half"]
    with reading(source.bounded()) as reader:
        polars.testing.assert_frame_equal(polled(source, reader, 100), numbers(0, 100))
    polars.testing.assert_frame_equal(source.scan("rate", 5, 9).collect(), numbers(5, 4))


def test_a_generator_that_gives_something_else_is_an_error() -> None:
    source = RateSource(1e6, rows=10, generate=lambda first, count: numbers(first, min(count, 3)))
    with reading(source.bounded()) as reader, pytest.raises(SourceError, match=r"gave 3 rows .* 10 of"):
        reader.poll(0)


def test_what_cannot_be_is_refused() -> None:
    for rate in (0, -1, float("inf"), float("nan")):
        with pytest.raises(PlanError, match="rows_per_second"):
            RateSource(rate)
    with pytest.raises(PlanError, match="give rows="):
        RateSource(1).bounded()
