"""NEXMark's q0 to q22 and the Yahoo query, in the dataframe API.

Each takes the three streams, with a watermark on `dateTime` (the Yahoo query: on `event_time`), and the side table,
and gives the frame of its result. Times in results are milliseconds since the epoch, averages of integers are cut off,
and a price in another currency is exact, in thousandths: so a result is equal to the batch reading of it (`batch.py`),
or it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import polars as pl

from arrowstream.frame import StreamFrame

Query: TypeAlias = Callable[[StreamFrame, StreamFrame, StreamFrame, pl.DataFrame], StreamFrame]

TEN_SECONDS = 10_000  # milliseconds


def q0(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """All bids, as they come: what reading and writing costs."""
    return bid.select("auction", "bidder", "price", ms("dateTime", "ts"), "extra")


def q1(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """All bids, with the price in another currency."""
    return bid.select("auction", "bidder", euros(), ms("dateTime", "ts"), "extra")


def q2(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Bids on some auctions."""
    return bid.filter(pl.col("auction") % 123 == 0).select("auction", "price")


def q3(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Who sells in category 10 in three states: a join without an end."""
    sellers = person.filter(pl.col("state").is_in(["OR", "ID", "CA"])).select("id", "name", "city", "state")
    offers = auction.filter(pl.col("category") == 10).select("id", "seller")
    return offers.join(sellers, left_on="seller", right_on="id").select("name", "city", "state", "id")


def q4(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The average over categories of the prices that auctions end at."""
    ended = bids_in_time(auction, bid).group_by("id", "category").agg(final=pl.col("price").max())
    average = pl.col("final").sum() // pl.len()
    return ended.group_by("category").agg(average.cast(pl.Int64).alias("final"))


def q5(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The auctions with the most bids of the last ten seconds, every two seconds."""
    counts = bid.group_by_dynamic("dateTime", every="2s", period="10s", group_by="auction").agg(count("num"))
    most = counts.with_columns(pl.col("num").max().over("dateTime").alias("most"))
    return most.filter(pl.col("num") == pl.col("most")).select("auction", "num", ms("dateTime", "starttime"))


def q6(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The average selling price of each seller over the last ten auctions and this one."""
    order = ["dateTime_right", "id"]
    won = winning(auction, bid, "id", "seller").with_columns(one=pl.lit(1, pl.Int64))
    sums = won.with_columns(
        pl.col("price").rolling_sum(window_size=11, min_samples=1).over("seller", order_by=order).alias("total"),
        pl.col("one").rolling_sum(window_size=11, min_samples=1).over("seller", order_by=order).alias("number"),
    )
    return sums.select("seller", (pl.col("total") // pl.col("number")).alias("avg_price"))


def q7(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The bids of the highest price of each ten seconds; one at the very end of a window counts for it too."""
    highest = bid.group_by_dynamic("dateTime", every="10s").agg(maxprice=pl.col("price").max())
    start = pl.col("dateTime_right")
    bids = bid.select("auction", "bidder", "price", "dateTime", "extra").join_where(
        highest,
        pl.col("price") == pl.col("maxprice"),
        pl.col("dateTime") >= start,
        pl.col("dateTime") <= start + pl.duration(milliseconds=TEN_SECONDS),
    )
    return bids.select("auction", "bidder", "price", ms("dateTime", "ts"), "extra")


def q8(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Who came and began to sell within the same ten seconds."""
    came = person.group_by_dynamic("dateTime", every="10s", group_by=["id", "name"]).agg(count("persons"))
    sold = auction.group_by_dynamic("dateTime", every="10s", group_by="seller").agg(count("auctions"))
    both = came.join(sold, left_on=["id", "dateTime"], right_on=["seller", "dateTime"])
    return both.select("id", "name", ms("dateTime", "starttime"))


def q9(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The winning bid of each auction."""
    won = winning(auction, bid, "id")
    return won.select("id", "seller", "category", "price", ms("dateTime_right", "bid_ts"))


def q10(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """All bids with day and minute, for files by both (`write.parquet(path, partition_by=["dt", "hm"])`)."""
    time = pl.col("dateTime").dt
    return bid.select(
        "auction",
        "bidder",
        "price",
        ms("dateTime", "ts"),
        "extra",
        time.strftime("%Y-%m-%d").alias("dt"),
        time.strftime("%H:%M").alias("hm"),
    )


def q11(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """How often each bidder bids until there is none for ten seconds."""
    sessions = bid.group_by_session("dateTime", gap="10s", group_by="bidder", include_boundaries=True)
    return sessions.agg(count("bid_count")).select(
        "bidder", "bid_count", ms("_lower_boundary", "starttime"), ms("_upper_boundary", "endtime")
    )


def q12(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """How often each bidder bids in ten seconds (of event time, so that the result can be repeated)."""
    counts = bid.group_by_dynamic("dateTime", every="10s", group_by="bidder").agg(count("bid_count"))
    start = ms("dateTime", "starttime")
    return counts.select("bidder", "bid_count", start, (start + TEN_SECONDS).alias("endtime"))


def q13(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Bids, with what a table says of them."""
    keyed = bid.with_columns(key=pl.col("auction") % 10_000)
    return keyed.join(side, on="key").select("auction", "bidder", "price", ms("dateTime", "ts"), "value")


def q14(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Bids of a middling price, by day or by night, with a count of letters."""
    hour = pl.col("dateTime").dt.hour()
    time = (
        pl.when(hour.is_between(8, 18))
        .then(pl.lit("dayTime"))
        .when((hour <= 6) | (hour >= 20))
        .then(pl.lit("nightTime"))
        .otherwise(pl.lit("otherTime"))
    )
    price = pl.col("price") * 908
    return bid.filter((price > 1_000_000_000) & (price < 50_000_000_000)).select(
        "auction",
        "bidder",
        euros(),
        time.alias("bidTimeType"),
        ms("dateTime", "ts"),
        "extra",
        pl.col("extra").str.count_matches("c", literal=True).cast(pl.Int64).alias("c_counts"),
    )


def q15(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Bids, bidders and auctions of each day, by price."""
    return bid.group_by(day()).agg(*counts_by_price(), *distinct_by_price("bidder"), *distinct_by_price("auction"))


def q16(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The same of each channel, and the minute of the last bid."""
    minute = pl.col("dateTime").dt.strftime("%H:%M").max().alias("minute")
    return bid.group_by("channel", day()).agg(
        minute, *counts_by_price(), *distinct_by_price("bidder"), *distinct_by_price("auction")
    )


def q17(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Bids of each auction and day, and their prices."""
    price = pl.col("price")
    return bid.group_by("auction", day()).agg(
        *counts_by_price(),
        price.min().alias("min_price"),
        price.max().alias("max_price"),
        (price.sum() // pl.len()).cast(pl.Int64).alias("avg_price"),
        price.sum().alias("sum_price"),
    )


def q18(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The last bid of each bidder on each auction."""
    last = bid.top_k(1, by=["dateTime", "seq"], group_by=["bidder", "auction"])
    return last.select("auction", "bidder", "price", "channel", "url", ms("dateTime", "ts"), "extra")


def q19(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The ten highest bids of each auction; of equal ones the earlier ranks first."""
    bids = bid.select("auction", "price", "seq")
    best = bids.top_k(10, by=["price", "seq"], reverse=[False, True], group_by="auction", rank="rank_number")
    return best.select("auction", "price", pl.col("rank_number").cast(pl.Int64))


def q20(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """Bids with the auction, of category 10: a join without an end, of wide rows."""
    offers = auction.filter(pl.col("category") == 10).drop("seq")
    return (
        bid.drop("seq")
        .join(offers, left_on="auction", right_on="id", suffix="_auction")
        .select(
            "auction",
            "bidder",
            "price",
            "channel",
            "url",
            ms("dateTime", "ts"),
            "extra",
            "itemName",
            "description",
            "initialBid",
            "reserve",
            ms("dateTime_auction", "ats"),
            ms("expires", "expires"),
            "seller",
            "category",
            pl.col("extra_auction").alias("aextra"),
        )
    )


def q21(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The number of each bid's channel: known, or out of the address."""
    known = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}
    found = pl.col("url").str.extract("(?:&|^)channel_id=([^&]*)")
    named = pl.col("channel").str.to_lowercase().replace_strict(known, default=None, return_dtype=pl.String)
    channel_id = pl.coalesce(named, pl.when(found != "").then(found)).alias("channel_id")
    return bid.select("auction", "bidder", "price", "channel", channel_id).filter(pl.col("channel_id").is_not_null())


def q22(person: StreamFrame, auction: StreamFrame, bid: StreamFrame, side: pl.DataFrame) -> StreamFrame:
    """The directories of each bid's address."""
    parts = pl.col("url").str.split("/").list
    directories = [parts.get(place + 2, null_on_oob=True).fill_null("").alias(f"dir{place}") for place in (1, 2, 3)]
    return bid.select("auction", "bidder", "price", "channel", *directories)


def ysb(events: StreamFrame, campaigns: pl.DataFrame) -> StreamFrame:
    """The Yahoo benchmark: views of each campaign in ten seconds."""
    views = events.filter(pl.col("event_type") == "view").select("ad_id", "event_time")
    counts = (
        views.join(campaigns, on="ad_id")
        .group_by_dynamic("event_time", every="10s", group_by="campaign_id")
        .agg(count("cnt"))
    )
    return counts.select("campaign_id", ms("event_time", "starttime"), "cnt")


QUERIES: dict[str, Query] = {
    query.__name__: query
    for query in (
        *(q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11),
        *(q12, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22),
    )
}
"""By name; the Yahoo query has other streams."""

NAMES = [*QUERIES, "ysb"]


def bids_in_time(auction: StreamFrame, bid: StreamFrame) -> StreamFrame:
    """Auctions with the bids that came before they expired."""
    offers = auction.select("id", "seller", "category", "dateTime", "expires")
    return offers.join_where(
        bid.select("auction", "price", "dateTime", "seq"),
        pl.col("id") == pl.col("auction"),
        pl.col("dateTime_right") >= pl.col("dateTime"),
        pl.col("dateTime_right") <= pl.col("expires"),
    )


def winning(auction: StreamFrame, bid: StreamFrame, *keys: str) -> StreamFrame:
    """The highest bid of each auction; of equal ones the earliest."""
    by = ["price", "dateTime_right", "seq"]
    return bids_in_time(auction, bid).top_k(1, by=by, reverse=[False, True, True], group_by=list(keys))


def ms(column: str, name: str) -> pl.Expr:
    """A time as milliseconds since the epoch."""
    return pl.col(column).dt.timestamp("ms").alias(name)


def day() -> pl.Expr:
    return pl.col("dateTime").dt.strftime("%Y-%m-%d").alias("day")


def euros() -> pl.Expr:
    """0.908 of the price, in thousandths."""
    return (pl.col("price") * 908).alias("price_milli")


def count(name: str) -> pl.Expr:
    return pl.len().cast(pl.Int64).alias(name)


def price_classes() -> dict[str, pl.Expr]:
    price = pl.col("price")
    return {"rank1": price < 10_000, "rank2": price.is_between(10_000, 999_999), "rank3": price >= 1_000_000}


def counts_by_price() -> list[pl.Expr]:
    ranks = [(cond.sum().cast(pl.Int64)).alias(f"{rank}_bids") for rank, cond in price_classes().items()]
    return [count("total_bids"), *ranks]


def distinct_by_price(column: str) -> list[pl.Expr]:
    values = pl.col(column)
    ranks = [
        values.filter(cond).n_unique().cast(pl.Int64).alias(f"{rank}_{column}s")
        for rank, cond in price_classes().items()
    ]
    return [values.n_unique().cast(pl.Int64).alias(f"total_{column}s"), *ranks]
