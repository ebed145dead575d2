"""The queries that PySpark Structured Streaming can run, in its SQL; one measurement a process.

    python -m benchmarks.nexmark.spark q5 DIR

local[2], two shuffle partitions, a no-op sink, `maxFilesPerTrigger` files a batch. Its rate is that of the median
batch, so that the first ones, in which the JVM warms up, do not count against it. It refuses q6, q9 and q19 (ranks),
q15 and q16 (distinct counts), and the second aggregation of q4.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

_WINDOW = "window(dateTime, '10 seconds')"

_COUNTS = """
    count(*) AS total_bids, count_if(price < 10000) AS rank1_bids,
    count_if(price >= 10000 AND price < 1000000) AS rank2_bids, count_if(price >= 1000000) AS rank3_bids"""

SQL: dict[str, str] = {
    "q0": "SELECT auction, bidder, price, unix_millis(dateTime) AS ts, extra FROM bid",
    "q1": "SELECT auction, bidder, price * 908 AS price_milli, unix_millis(dateTime) AS ts, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """
        SELECT P.name, P.city, P.state, A.id FROM auction A JOIN person P ON A.seller = P.id
        WHERE A.category = 10 AND P.state IN ('OR', 'ID', 'CA')""",
    "q5": """
        WITH counts AS (
            SELECT auction, window(dateTime, '10 seconds', '2 seconds') AS hop, count(*) AS num FROM bid GROUP BY 1, 2
        ), most AS (SELECT hop AS top, max(num) AS maxnum FROM counts GROUP BY hop)
        SELECT auction, num, unix_millis(hop.start) AS starttime FROM counts JOIN most
        ON hop = top AND num >= maxnum""",
    "q7": f"""
        WITH highest AS (SELECT {_WINDOW} AS tumble, max(price) AS maxprice FROM bid GROUP BY 1)
        SELECT B.auction, B.bidder, B.price, unix_millis(B.dateTime) AS ts, B.extra FROM bid B JOIN highest H
        ON B.price = H.maxprice AND B.dateTime BETWEEN H.tumble.start AND H.tumble.end""",
    "q8": f"""
        WITH came AS (SELECT id, name, {_WINDOW} AS w, count(*) AS n FROM person GROUP BY 1, 2, 3),
        sold AS (SELECT seller, {_WINDOW} AS w, count(*) AS n FROM auction GROUP BY 1, 2)
        SELECT id, name, unix_millis(came.w.start) AS starttime FROM came
        JOIN sold ON id = seller AND came.w = sold.w""",
    "q10": """
        SELECT auction, bidder, price, unix_millis(dateTime) AS ts, extra,
        date_format(dateTime, 'yyyy-MM-dd') AS dt, date_format(dateTime, 'HH:mm') AS hm FROM bid""",
    "q11": """
        SELECT bidder, count(*) AS bid_count, unix_millis(session.start) AS starttime,
        unix_millis(session.end) AS endtime FROM (
            SELECT bidder, session_window(dateTime, '10 seconds') AS session FROM bid) GROUP BY bidder, session""",
    "q12": f"""
        SELECT bidder, count(*) AS bid_count, unix_millis(w.start) AS starttime FROM (
            SELECT bidder, {_WINDOW} AS w FROM bid) GROUP BY bidder, w""",
    "q13": """
        SELECT B.auction, B.bidder, B.price, unix_millis(B.dateTime) AS ts, S.value FROM bid B JOIN side_input S
        ON B.auction % 10000 = S.key""",
    "q14": """
        SELECT auction, bidder, price * 908 AS price_milli,
        CASE WHEN hour(dateTime) BETWEEN 8 AND 18 THEN 'dayTime'
             WHEN hour(dateTime) <= 6 OR hour(dateTime) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS bidTimeType,
        unix_millis(dateTime) AS ts, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
        FROM bid WHERE price * 908 > 1000000000 AND price * 908 < 50000000000""",
    "q17": f"""
        SELECT auction, date_format(dateTime, 'yyyy-MM-dd') AS day, {_COUNTS}, min(price) AS min_price,
        max(price) AS max_price, sum(price) div count(*) AS avg_price, sum(price) AS sum_price
        FROM bid GROUP BY 1, 2""",
    "q18": """
        SELECT bidder, auction, max_by(struct(price, channel, url, dateTime, extra), struct(dateTime, seq)) AS last
        FROM bid GROUP BY bidder, auction""",
    "q20": """
        SELECT B.auction, B.bidder, B.price, B.channel, B.url, unix_millis(B.dateTime) AS ts, B.extra, A.itemName,
        A.description, A.initialBid, A.reserve, unix_millis(A.dateTime) AS ats, unix_millis(A.expires) AS expires,
        A.seller, A.category, A.extra AS aextra FROM bid B JOIN auction A ON B.auction = A.id WHERE A.category = 10""",
    "q21": """
        SELECT * FROM (SELECT auction, bidder, price, channel, CASE lower(channel) WHEN 'apple' THEN '0'
        WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
        ELSE nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '') END AS channel_id FROM bid)
        WHERE channel_id IS NOT NULL""",
    "q22": """
        SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
        split_part(url, '/', 6) AS dir3 FROM bid""",
    "ysb": """
        SELECT campaign_id, unix_millis(w.start) AS starttime, count(*) AS cnt FROM (
            SELECT campaign_id, window(event_time, '10 seconds') AS w FROM ysb JOIN ysb_campaigns USING (ad_id)
            WHERE event_type = 'view') GROUP BY campaign_id, w""",
}

UPDATE = ("q17", "q18")
"""Queries whose results are updated; the others append."""


def available() -> str:
    """Empty where PySpark can be used, else why not."""
    try:
        import pyspark
    except ImportError:
        return "PySpark is not installed (pip install arrowstream[bench])"
    return "" if pyspark.__version__ >= "4" else f"PySpark {pyspark.__version__} is too old"


def measure(query: str, data: Path, files_per_batch: int) -> dict[str, Any]:
    """Run a query to its end. The rate is by the median batch; batches without rows do not count."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.streaming.numRecentProgressUpdates": "100000",
        "spark.sql.streaming.metricsEnabled": "false",
        "spark.driver.memory": "4g",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[2]").appName(query)
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    for name, time in {"person": "dateTime", "auction": "dateTime", "bid": "dateTime", "ysb": "event_time"}.items():
        finished = spark.read.parquet(str(data / name))
        stream = spark.readStream.schema(finished.schema).option("maxFilesPerTrigger", files_per_batch)
        frame = stream.parquet(str(data / name))
        for column, dtype in finished.dtypes:
            if dtype.startswith("timestamp"):
                frame = frame.withColumn(column, frame[column].cast("timestamp"))
        frame.withWatermark(time, "4 seconds").createOrReplaceTempView(name)
    for name in ("side_input", "ysb_campaigns"):
        spark.read.parquet(str(data / f"{name}.parquet")).createOrReplaceTempView(name)
    with tempfile.TemporaryDirectory() as checkpoint:
        writer = spark.sql(SQL[query]).writeStream.format("noop").option("checkpointLocation", checkpoint)
        mode = "update" if query in UPDATE else "append"
        running = writer.outputMode(mode).trigger(availableNow=True).start()
        running.awaitTermination()
        progress = [json.loads(each.json) if hasattr(each, "json") else each for each in running.recentProgress]
    spark.stop()
    took = [each["durationMs"]["triggerExecution"] for each in progress if each["numInputRows"]]
    return {"engine": "spark", "query": query, "batches": len(took), "median_ms": statistics.median(took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", choices=SQL)
    parser.add_argument("data", type=Path)
    parser.add_argument("--files-per-batch", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(options.query, options.data, options.files_per_batch)), flush=True)


if __name__ == "__main__":
    main()
