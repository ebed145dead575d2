"""The NEXMark source: three streams that are a function of the event's number."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from typing import Any, get_args

import polars as pl
import polars.testing
import pytest

import arrowstream
from arrowstream.connectors.source import EndOfStream, Offset, batch_limit
from arrowstream.errors import PlanError
from arrowstream.sources._nexmark import CYCLE, SCHEMAS, SHARE, Generator, event_of_row, rows_before
from arrowstream.sources.nexmark import NexmarkReader, NexmarkSource, Stream
from arrowstream.testing.source_suite import SourceSuite, Supply, polled, reading

LEAD = SHARE["bid"][0]  # events before the first bid


class HandClock:
    seconds = 0.0

    @classmethod
    def now(cls) -> float:
        return cls.seconds


class HandNexmarkSource(NexmarkSource):
    """A source whose events become due by hand."""

    def open(self, split: str, resume: Offset | None) -> NexmarkReader:
        return NexmarkReader(self, resume if isinstance(resume, int) else 0, HandClock.now)


class BidSupply(Supply):
    """The first eight bids, at one event a second."""

    def __init__(self) -> None:
        self._source = HandNexmarkSource("bid", 1, events=LEAD + 8)
        self._fed = False

    def source(self) -> NexmarkSource:
        return self._source

    def feed(self, first: int, count: int) -> pl.DataFrame:
        HandClock.seconds += count if self._fed else LEAD + count
        self._fed = True
        return Generator(42, 1).frame("bid", LEAD + first, LEAD + first + count)

    def again(self, count: int) -> None:
        HandClock.seconds += LEAD + count

    def end(self) -> None:
        """It ends by itself."""


class TestNexmarkSource(SourceSuite):
    @pytest.fixture
    def supply(self) -> BidSupply:
        return BidSupply()


@pytest.fixture(scope="module")
def streams() -> dict[str, pl.DataFrame]:
    generator = Generator(7, 10_000)
    return {name: generator.frame(name, 0, 100_000) for name in SHARE}


def test_a_row_depends_on_its_number_alone(streams: dict[str, pl.DataFrame]) -> None:
    """A block is scanned again on another worker, over another range, for other columns."""
    generator = Generator(7, 10_000)
    for name, whole in streams.items():
        assert whole.schema == SCHEMAS[name]
        cuts = [0, 1, 2, 49, 50, 51, 1_234, 5_000]
        pieces = [generator.frame(name, start, stop) for start, stop in itertools.pairwise(cuts)]
        polars.testing.assert_frame_equal(pl.concat(pieces), whole.filter(pl.col("seq") < 5_000))
        few = whole.filter(pl.col("seq").is_between(300, 399)).select("extra")
        polars.testing.assert_frame_equal(generator.frame(name, 300, 400, ["extra"]), few)
    other = Generator(8, 10_000).frame("bid", 0, 1000)
    assert (other["price"] != streams["bid"]["price"][: other.height]).mean() > 0.99  # type: ignore[operator]


def test_strings_are_whole(streams: dict[str, pl.DataFrame]) -> None:
    """They are made as views by hand: lengths, first bytes and places must agree."""
    for frame in streams.values():
        for name, dtype in frame.schema.items():
            if dtype == pl.String:
                frame[name].to_arrow(compat_level=pl.CompatLevel.newest()).validate(full=True)
                # a copy through Python compares the bytes themselves with what the views say
                polars.testing.assert_series_equal(pl.Series(name, frame[name].to_list(), pl.String), frame[name])


def test_events_come_in_the_known_proportions_and_order(streams: dict[str, pl.DataFrame]) -> None:
    assert {name: frame.height for name, frame in streams.items()} == {"person": 2000, "auction": 6000, "bid": 92000}
    numbers = pl.concat([frame["seq"] for frame in streams.values()])
    assert numbers.sort().equals(pl.int_range(0, 100_000, eager=True, dtype=pl.Int64))
    for name, frame in streams.items():
        assert frame["dateTime"].is_sorted()
        assert frame["dateTime"][-1] < datetime(2015, 7, 15, 0, 0, 10)
        for row in (0, 1, 45, 46, 1999):
            event = event_of_row(name, row)
            assert frame["seq"][row] == event
            assert rows_before(name, event) == row
            assert rows_before(name, event + 1) == row + 1
    assert streams["person"]["id"].equals(pl.int_range(1000, 3000, eager=True, dtype=pl.Int64), check_names=False)
    assert streams["auction"]["id"].equals(pl.int_range(1000, 7000, eager=True, dtype=pl.Int64), check_names=False)


def mean(values: Any) -> float:
    """Of numbers, or the share of what is true."""
    return float(values.mean())


def test_values_are_distributed_as_in_nexmark(streams: dict[str, pl.DataFrame]) -> None:
    bid, auction, person = streams["bid"], streams["auction"], streams["person"]
    newest = bid["seq"] // CYCLE * 3 + 2 + 1000
    assert 0.49 < mean(bid["auction"] == (newest - 1000) // 100 * 100 + 1000) < 0.52
    assert (newest - bid["auction"]).min() == -10
    assert (newest - bid["auction"]).max() == 100
    thirds = [bid["price"] < 10_000, bid["price"].is_between(10_000, 999_999), bid["price"] >= 1_000_000]
    assert all(0.32 < mean(third) < 0.35 for third in thirds)
    assert bid["price"].is_between(100, 100_000_000).all()
    assert 0.74 < mean(bid["bidder"] == bid["seq"] // CYCLE // 100 * 100 + 1001) < 0.77
    lasting = (auction["expires"] - auction["dateTime"]).dt.total_milliseconds()
    assert lasting.is_between(1, 333).all()
    assert 160 < mean(lasting) < 174
    assert (auction["reserve"] > auction["initialBid"]).all()
    assert set(auction["category"].unique()) == {10, 11, 12, 13, 14}
    assert [person[name].n_unique() for name in ("state", "city", "name")] == [6, 10, 99]
    assert person["emailAddress"].str.contains(r"^[a-z ]*@[a-z ]*\.com$").all()
    assert person["creditCard"].str.contains(r"^\d{4} \d{4} \d{4} \d{4}$").all()
    description = auction["description"]
    assert description.equals(description.str.strip_chars(" "))
    assert description.str.len_bytes().max() == 99


@pytest.mark.parametrize(("stream", "numbers", "size"), [("person", 8, 200), ("auction", 48, 500), ("bid", 32, 100)])
def test_rows_have_their_size(streams: dict[str, pl.DataFrame], stream: str, numbers: int, size: int) -> None:
    """`extra` fills them up; a bid counts its channel and address as nothing."""
    strings = [name for name, dtype in SCHEMAS[stream].items() if dtype == pl.String and name not in ("channel", "url")]
    found = numbers + sum(mean(streams[stream][name].str.len_bytes()) for name in strings)
    assert abs(found - size) < 2


def test_channels_and_their_addresses(streams: dict[str, pl.DataFrame]) -> None:
    """Half of the bids come by one of four channels; nine in ten of the other addresses name their channel."""
    bid = streams["bid"]
    big = bid["channel"].is_in(["Google", "Facebook", "Baidu", "Apple"])
    assert 0.49 < mean(big) < 0.51
    assert bid.group_by("channel").agg(pl.col("url").n_unique())["url"].max() == 1
    address = r"^https://www\.nexmark\.com/[a-z_]{3,4}/[a-z_]{3,4}/[a-z_]{3,4}/item\.htm\?query=1($|&channel_id=\d+$)"
    assert bid["url"].str.contains(address).all()
    assert 0.88 < mean(bid.filter(~big)["url"].str.contains("&channel_id=")) < 0.92
    # 2 with its bits from last to first is 2 ** 30
    of_two = bid.filter(pl.col("channel") == "channel-2")["url"].str.extract("channel_id=(.*)")
    assert set(of_two) <= {None, "1073741824"}


def test_events_come_at_the_rate_of_the_clock_on_the_wall() -> None:
    source = NexmarkSource("bid", 2000, events=250)
    began = time.monotonic()
    with reading(source) as reader:
        got = polled(source, reader, 230)
        took = time.monotonic() - began
        with pytest.raises(EndOfStream):
            reader.poll(1)
    assert got["seq"][-1] == 249
    assert took >= 0.1


def test_a_pause_is_made_up_for_in_pieces() -> None:
    """A context that was suspended for an hour must not get an hour's rows in one batch."""
    source = HandNexmarkSource("person", 50_000)
    with reading(source) as reader:
        HandClock.seconds += 3600
        sizes = []
        while (rows := reader.poll(0)) is not None:
            sizes.append(rows.num_rows)
    assert sizes == [1_000_000] * 3 + [600_000]
    limited = NexmarkSource("auction", 1000, events=420, max_rows_per_batch=10)
    assert batch_limit(limited) == 10
    with reading(limited.bounded()) as reader:
        polls = [reader.poll(0) for _ in range(3)]
    assert [rows.num_rows for rows in polls if rows is not None] == [10, 10, 7]


def test_a_rate_and_a_start_of_ones_own() -> None:
    source = NexmarkSource("bid", 2.5, events=8, start=datetime(2026, 1, 1, tzinfo=UTC))
    frame = source.scan("bid", None, 8).collect()
    assert frame["dateTime"].to_list() == [
        datetime(2026, 1, 1, 0, 0, second, ms * 1000) for second, ms in ((1, 600), (2, 0), (2, 400), (2, 800))
    ]


def test_filters_and_slices_of_a_scan() -> None:
    """What the engine pushes into a scan must not change what it gives."""
    whole = NexmarkSource("bid", events=1000).scan("bid", None, 600_000)
    frame = whole.collect()
    assert frame.height == 552_000
    few = whole.filter(pl.col("price") > 50_000_000).select("auction")
    polars.testing.assert_frame_equal(few.collect(), frame.filter(pl.col("price") > 50_000_000).select("auction"))
    polars.testing.assert_frame_equal(whole.head(300_000).collect(), frame.head(300_000))
    assert whole.select(pl.len()).collect().item() == 552_000


def test_three_streams_in_a_context() -> None:
    with arrowstream.StreamingContext("10ms") as ctx:
        for stream in get_args(Stream):
            ctx.read.nexmark(stream, events=10_000).agg(pl.len()).write.memory(stream)
        ctx.run(timeout=60)
        assert [ctx.sql(f"FROM {stream}").fetchall()[0][0] for stream in SHARE] == [200, 600, 9200]


def test_what_cannot_be_is_refused() -> None:
    for rate in (0, -1, float("inf"), float("nan")):
        with pytest.raises(PlanError, match="rate"):
            NexmarkSource("bid", rate)
    with pytest.raises(PlanError, match="person, auction, bid"):
        NexmarkSource("bids")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="events=-1"):
        NexmarkSource("bid", events=-1)
    with pytest.raises(PlanError, match="max_rows_per_batch"):
        NexmarkSource("bid", max_rows_per_batch=0)
    with pytest.raises(PlanError, match="give events="):
        NexmarkSource("bid").bounded()
