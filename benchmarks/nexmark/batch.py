"""The same queries over finished files, in one shot: SQL for DuckDB, and lazy frames of Polars.

They say what a streaming result has to be, taken together, and how fast the two engines are that need not hurry. Both
give the columns of `queries.py` by the same names, in any order of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import duckdb
import polars as pl

from benchmarks.nexmark.queries import counts_by_price, day, distinct_by_price, euros, ms

# --- DuckDB

_TEN = "epoch_ms(dateTime) // 10000 * 10000"

_COUNTS = """
    count(*) AS total_bids,
    count(*) FILTER (price < 10000) AS rank1_bids,
    count(*) FILTER (price BETWEEN 10000 AND 999999) AS rank2_bids,
    count(*) FILTER (price >= 1000000) AS rank3_bids"""

_DISTINCT = ",\n".join(
    f"""
    count(DISTINCT {column}) AS total_{column}s,
    count(DISTINCT {column}) FILTER (price < 10000) AS rank1_{column}s,
    count(DISTINCT {column}) FILTER (price BETWEEN 10000 AND 999999) AS rank2_{column}s,
    count(DISTINCT {column}) FILTER (price >= 1000000) AS rank3_{column}s"""
    for column in ("bidder", "auction")
)

_IN_TIME = """
    FROM auction JOIN bid ON auction.id = bid.auction
    AND bid.dateTime >= auction.dateTime AND bid.dateTime <= auction.expires"""

_WON = f"""
    SELECT id, seller, category, price, bid.dateTime AS moment {_IN_TIME}
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY price DESC, bid.dateTime, bid.seq) = 1"""

SQL = {
    "q0": "SELECT auction, bidder, price, epoch_ms(dateTime) AS ts, extra FROM bid",
    "q1": "SELECT auction, bidder, price * 908 AS price_milli, epoch_ms(dateTime) AS ts, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """
        SELECT name, city, state, auction.id FROM auction JOIN person ON seller = person.id
        WHERE category = 10 AND state IN ('OR', 'ID', 'CA')""",
    "q4": f"""
        WITH ended AS (SELECT id, category, max(price) AS final {_IN_TIME} GROUP BY ALL)
        SELECT category, (sum(final) // count(*))::BIGINT AS final FROM ended GROUP BY category""",
    "q5": """
        WITH slices AS (
            SELECT auction, epoch_ms(dateTime) // 2000 * 2000 AS slice, count(*) AS bids FROM bid GROUP BY ALL
        ), windows AS (
            SELECT auction, slice - back AS starttime, sum(bids)::BIGINT AS num
            FROM slices, range(0, 10000, 2000) AS backs(back) GROUP BY ALL
        )
        SELECT auction, num, starttime FROM windows QUALIFY num = max(num) OVER (PARTITION BY starttime)""",
    "q6": f"""
        WITH won AS ({_WON})
        SELECT seller, (sum(price) OVER last // count(*) OVER last)::BIGINT AS avg_price FROM won
        WINDOW last AS (PARTITION BY seller ORDER BY moment, id ROWS 10 PRECEDING)""",
    "q7": f"""
        WITH highest AS (SELECT {_TEN} AS start, max(price) AS maxprice FROM bid GROUP BY ALL)
        SELECT auction, bidder, price, epoch_ms(dateTime) AS ts, extra FROM bid JOIN highest
        ON price = maxprice AND epoch_ms(dateTime) BETWEEN start AND start + 10000""",
    "q8": f"""
        WITH came AS (SELECT DISTINCT id, name, {_TEN} AS starttime FROM person),
        sold AS (SELECT DISTINCT seller, {_TEN} AS starttime FROM auction)
        SELECT id, name, came.starttime FROM came JOIN sold ON id = seller AND came.starttime = sold.starttime""",
    "q9": f"WITH won AS ({_WON}) SELECT id, seller, category, price, epoch_ms(moment) AS bid_ts FROM won",
    "q10": """
        SELECT auction, bidder, price, epoch_ms(dateTime) AS ts, extra,
        strftime(dateTime, '%Y-%m-%d') AS dt, strftime(dateTime, '%H:%M') AS hm FROM bid""",
    "q11": """
        WITH gaps AS (
            SELECT bidder, epoch_ms(dateTime) AS moment,
            moment - lag(moment) OVER (PARTITION BY bidder ORDER BY moment, seq) >= 10000 AS first, seq FROM bid
        ), numbered AS (
            SELECT bidder, moment, count(*) FILTER (first) OVER (PARTITION BY bidder ORDER BY moment, seq) AS session
            FROM gaps
        )
        SELECT bidder, count(*) AS bid_count, min(moment) AS starttime, max(moment) + 10000 AS endtime
        FROM numbered GROUP BY bidder, session""",
    "q12": f"""
        SELECT bidder, count(*) AS bid_count, {_TEN} AS starttime, starttime + 10000 AS endtime
        FROM bid GROUP BY bidder, {_TEN}""",
    "q13": """
        SELECT auction, bidder, price, epoch_ms(dateTime) AS ts, value
        FROM bid JOIN side_input ON auction % 10000 = key""",
    "q14": """
        SELECT auction, bidder, price * 908 AS price_milli,
        CASE WHEN hour(dateTime) BETWEEN 8 AND 18 THEN 'dayTime'
             WHEN hour(dateTime) <= 6 OR hour(dateTime) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS bidTimeType,
        epoch_ms(dateTime) AS ts, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
        FROM bid WHERE price * 908 > 1000000000 AND price * 908 < 50000000000""",
    "q15": f"SELECT strftime(dateTime, '%Y-%m-%d') AS day, {_COUNTS}, {_DISTINCT} FROM bid GROUP BY day",
    "q16": f"""
        SELECT channel, strftime(dateTime, '%Y-%m-%d') AS day, max(strftime(dateTime, '%H:%M')) AS minute,
        {_COUNTS}, {_DISTINCT} FROM bid GROUP BY channel, day""",
    "q17": f"""
        SELECT auction, strftime(dateTime, '%Y-%m-%d') AS day, {_COUNTS}, min(price) AS min_price,
        max(price) AS max_price, (sum(price) // count(*))::BIGINT AS avg_price, sum(price)::BIGINT AS sum_price
        FROM bid GROUP BY auction, day""",
    "q18": """
        SELECT auction, bidder, price, channel, url, epoch_ms(dateTime) AS ts, extra FROM bid
        QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC, seq DESC) = 1""",
    "q19": """
        SELECT auction, price, row_number() OVER (PARTITION BY auction ORDER BY price DESC, seq) AS rank_number
        FROM bid QUALIFY rank_number <= 10""",
    "q20": """
        SELECT bid.auction, bidder, price, channel, url, epoch_ms(bid.dateTime) AS ts, bid.extra, itemName, description,
        initialBid, reserve, epoch_ms(auction.dateTime) AS ats, epoch_ms(expires) AS expires, seller, category,
        auction.extra AS aextra
        FROM bid JOIN auction ON bid.auction = auction.id WHERE category = 10""",
    "q21": """
        SELECT auction, bidder, price, channel, CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1'
        WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
        ELSE nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '') END AS channel_id
        FROM bid WHERE channel_id IS NOT NULL""",
    "q22": """
        SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
        split_part(url, '/', 6) AS dir3 FROM bid""",
    "ysb": """
        SELECT campaign_id, epoch_ms(event_time) // 10000 * 10000 AS starttime, count(*) AS cnt
        FROM ysb JOIN ysb_campaigns USING (ad_id) WHERE event_type = 'view' GROUP BY ALL""",
}


def connect(data: Path) -> duckdb.DuckDBPyConnection:
    """A connection of its own that sees the files of a directory as tables; the caller closes it."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    # A view over several files needs to hear that their order does not matter, as SQL has none.
    connection.execute("SET preserve_insertion_order = false")
    for name, files in tables(data).items():
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}')")
    return connection


def tables(data: Path) -> dict[str, str]:
    """What there is in a directory of data: table names, and the files of each as a glob."""
    folders = {name: f"{data}/{name}/*.parquet" for name in ("person", "auction", "bid", "ysb")}
    there = {name: files for name, files in folders.items() if (data / name).is_dir()}
    single = {name: f"{data}/{name}.parquet" for name in ("side_input", "ysb_campaigns")}
    return there | {name: file for name, file in single.items() if Path(file).is_file()}


def by_duckdb(query: str, data: Path) -> pl.DataFrame:
    """The result of a query by DuckDB."""
    with connect(data) as connection:
        return pl.DataFrame(connection.sql(SQL[query]).to_arrow_table())


# --- Polars

Lazy: TypeAlias = pl.LazyFrame
Scan: TypeAlias = Callable[[str], Lazy]


def by_polars(query: str, data: Path) -> pl.LazyFrame:
    """A query by Polars, to be collected."""
    files = tables(data)
    return LAZY[query](lambda name: pl.scan_parquet(files[name]))


def _start(column: str = "dateTime") -> pl.Expr:
    return pl.col(column).dt.truncate("10s").dt.timestamp("ms").alias("starttime")


def _in_time(scan: Scan) -> Lazy:
    offers = scan("auction").select("id", "seller", "category", "dateTime", "expires")
    bids = scan("bid").select("auction", "price", pl.col("dateTime").alias("at"), "seq")
    pairs = offers.join(bids, left_on="id", right_on="auction")
    return pairs.filter(pl.col("at").is_between(pl.col("dateTime"), pl.col("expires")))


def _won(scan: Scan) -> Lazy:
    ordered = _in_time(scan).sort(["price", "at", "seq"], descending=[True, False, False])
    return ordered.unique("id", keep="first", maintain_order=False)


def _q3(scan: Scan) -> Lazy:
    sellers = scan("person").filter(pl.col("state").is_in(["OR", "ID", "CA"])).select("id", "name", "city", "state")
    offers = scan("auction").filter(pl.col("category") == 10).select("id", "seller")
    return offers.join(sellers, left_on="seller", right_on="id").select("name", "city", "state", "id")


def _q4(scan: Scan) -> Lazy:
    ended = _in_time(scan).group_by("id", "category").agg(final=pl.col("price").max())
    return ended.group_by("category").agg(final=pl.col("final").sum() // pl.len())


def _q5(scan: Scan) -> Lazy:
    slices = (
        scan("bid")
        .group_by("auction", slice=pl.col("dateTime").dt.truncate("2s").dt.timestamp("ms"))
        .agg(bids=pl.len().cast(pl.Int64))
    )
    shifted = [slices.with_columns(starttime=pl.col("slice") - back) for back in range(0, 10_000, 2_000)]
    windows = pl.concat(shifted).group_by("auction", "starttime").agg(num=pl.col("bids").sum())
    most = windows.group_by("starttime").agg(most=pl.col("num").max())
    return (
        windows.join(most, on="starttime").filter(pl.col("num") == pl.col("most")).select("auction", "num", "starttime")
    )


def _q6(scan: Scan) -> Lazy:
    ordered = _won(scan).sort("seller", "at", "id")
    total = pl.col("price").rolling_sum(11, min_samples=1).over("seller")
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("seller")
    return ordered.select("seller", (total // place.clip(upper_bound=11)).alias("avg_price"))


def _q7(scan: Scan) -> Lazy:
    bid = scan("bid").select("auction", "bidder", "price", ms("dateTime", "ts"), "extra")
    start = pl.col("ts") // 10_000 * 10_000
    highest = bid.group_by(start=start).agg(maxprice=pl.col("price").max())
    ends = highest.with_columns(pl.col("start") + 10_000).rename({"start": "end"})
    inside = bid.with_columns(start=start).join(highest, on="start").filter(pl.col("price") == pl.col("maxprice"))
    at_end = bid.join(ends, left_on="ts", right_on="end").filter(pl.col("price") == pl.col("maxprice"))
    columns = ["auction", "bidder", "price", "ts", "extra"]
    return pl.concat([inside.select(columns), at_end.select(columns)])


def _q8(scan: Scan) -> Lazy:
    came = scan("person").select("id", "name", _start()).unique()
    sold = scan("auction").select("seller", _start()).unique()
    return came.join(sold, left_on=["id", "starttime"], right_on=["seller", "starttime"])


def _q10(scan: Scan) -> Lazy:
    time = pl.col("dateTime").dt
    dt, hm = time.strftime("%Y-%m-%d").alias("dt"), time.strftime("%H:%M").alias("hm")
    return scan("bid").select("auction", "bidder", "price", ms("dateTime", "ts"), "extra", dt, hm)


def _q11(scan: Scan) -> Lazy:
    bids = scan("bid").select("bidder", ms("dateTime", "at")).sort("bidder", "at")
    first = (pl.col("at").diff().over("bidder") >= 10_000).fill_null(True)
    sessions = bids.with_columns(session=first.cum_sum()).group_by("bidder", "session")
    counts = sessions.agg(bid_count=pl.len().cast(pl.Int64), starttime=pl.col("at").min(), end=pl.col("at").max())
    return counts.select("bidder", "bid_count", "starttime", (pl.col("end") + 10_000).alias("endtime"))


def _q12(scan: Scan) -> Lazy:
    counts = scan("bid").group_by("bidder", _start()).agg(bid_count=pl.len().cast(pl.Int64))
    return counts.select("bidder", "bid_count", "starttime", (pl.col("starttime") + 10_000).alias("endtime"))


def _q13(scan: Scan) -> Lazy:
    bids = scan("bid").with_columns(key=pl.col("auction") % 10_000)
    return bids.join(scan("side_input"), on="key").select("auction", "bidder", "price", ms("dateTime", "ts"), "value")


def _q14(scan: Scan) -> Lazy:
    hour, price = pl.col("dateTime").dt.hour(), pl.col("price") * 908
    time = pl.when(hour.is_between(8, 18)).then(pl.lit("dayTime"))
    time = time.when((hour <= 6) | (hour >= 20)).then(pl.lit("nightTime"))  # type: ignore[assignment]
    count = pl.col("extra").str.count_matches("c", literal=True).cast(pl.Int64).alias("c_counts")
    bids = scan("bid").filter((price > 1_000_000_000) & (price < 50_000_000_000))
    times = time.otherwise(pl.lit("otherTime")).alias("bidTimeType")
    return bids.select("auction", "bidder", euros(), times, ms("dateTime", "ts"), "extra", count)


def _q15(scan: Scan) -> Lazy:
    aggregates = [*counts_by_price(), *distinct_by_price("bidder"), *distinct_by_price("auction")]
    return scan("bid").group_by(day()).agg(aggregates)


def _q16(scan: Scan) -> Lazy:
    minute = pl.col("dateTime").max().dt.strftime("%H:%M").alias("minute")
    aggregates = [minute, *counts_by_price(), *distinct_by_price("bidder"), *distinct_by_price("auction")]
    return scan("bid").group_by("channel", day()).agg(aggregates)


def _q17(scan: Scan) -> Lazy:
    price = pl.col("price")
    return (
        scan("bid")
        .group_by("auction", day())
        .agg(
            *counts_by_price(),
            price.min().alias("min_price"),
            price.max().alias("max_price"),
            (price.sum() // pl.len()).alias("avg_price"),
            price.sum().alias("sum_price"),
        )
    )


def _q18(scan: Scan) -> Lazy:
    last = scan("bid").sort("dateTime", "seq").unique(["bidder", "auction"], keep="last")
    return last.select("auction", "bidder", "price", "channel", "url", ms("dateTime", "ts"), "extra")


def _q19(scan: Scan) -> Lazy:
    bids = scan("bid").select("auction", "price", "seq").sort("price", "seq", descending=[True, False])
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("auction").alias("rank_number")
    return bids.select("auction", "price", rank).filter(pl.col("rank_number") <= 10)


def _q20(scan: Scan) -> Lazy:
    offers = (
        scan("auction").filter(pl.col("category") == 10).with_columns(ms("dateTime", "ats"), ms("expires", "expires"))
    )
    offers = offers.drop("dateTime", "seq").rename({"extra": "aextra"})
    bids = scan("bid").with_columns(ms("dateTime", "ts")).drop("dateTime", "seq")
    columns = ["auction", "bidder", "price", "channel", "url", "ts", "extra", "itemName", "description", "initialBid"]
    columns += ["reserve", "ats", "expires", "seller", "category", "aextra"]
    return bids.join(offers, left_on="auction", right_on="id").select(columns)


def _q21(scan: Scan) -> Lazy:
    channel = pl.col("channel").str.to_lowercase()
    found = pl.col("url").str.extract("(?:&|^)channel_id=([^&]*)")
    number = pl.when(found != "").then(found)
    for name, code in (("apple", "0"), ("google", "1"), ("facebook", "2"), ("baidu", "3")):
        number = pl.when(channel == name).then(pl.lit(code)).otherwise(number)  # type: ignore[assignment]
    bids = scan("bid").select("auction", "bidder", "price", "channel", number.alias("channel_id"))
    return bids.filter(pl.col("channel_id").is_not_null())


def _q22(scan: Scan) -> Lazy:
    parts = pl.col("url").str.split("/").list
    directories = [parts.get(place + 2, null_on_oob=True).fill_null("").alias(f"dir{place}") for place in (1, 2, 3)]
    return scan("bid").select("auction", "bidder", "price", "channel", *directories)


def _ysb(scan: Scan) -> Lazy:
    views = scan("ysb").filter(pl.col("event_type") == "view").join(scan("ysb_campaigns"), on="ad_id")
    return views.group_by("campaign_id", _start("event_time")).agg(cnt=pl.len().cast(pl.Int64))


LAZY: dict[str, Callable[[Scan], Lazy]] = {
    "q0": lambda scan: scan("bid").select("auction", "bidder", "price", ms("dateTime", "ts"), "extra"),
    "q1": lambda scan: scan("bid").select("auction", "bidder", euros(), ms("dateTime", "ts"), "extra"),
    "q2": lambda scan: scan("bid").filter(pl.col("auction") % 123 == 0).select("auction", "price"),
    "q3": _q3,
    "q4": _q4,
    "q5": _q5,
    "q6": _q6,
    "q7": _q7,
    "q8": _q8,
    "q9": lambda scan: _won(scan).select("id", "seller", "category", "price", ms("at", "bid_ts")),
    "q10": _q10,
    "q11": _q11,
    "q12": _q12,
    "q13": _q13,
    "q14": _q14,
    "q15": _q15,
    "q16": _q16,
    "q17": _q17,
    "q18": _q18,
    "q19": _q19,
    "q20": _q20,
    "q21": _q21,
    "q22": _q22,
    "ysb": _ysb,
}
