"""Orders as JSON over TCP, into a Parquet directory and a DuckDB table, both queried together while they grow.

python examples/orders.py                      feeds itself for three seconds; now and then a line is malformed
python examples/orders.py --into shop          keeps the outputs in ./shop, which must be new
python examples/orders.py --workers 2          the same in two worker processes
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl

import arrowstream as ars
from arrowstream.testing.line_server import LineServer

ORDER = {"id": pl.Int64, "shop": pl.String, "price": pl.Float64, "ts": pl.Datetime("us", "UTC")}
TOGETHER = """
    SELECT shop, r.orders, count(*) AS in_parquet, r.revenue, max(o.price) AS dearest
    FROM orders AS o JOIN revenue AS r USING (shop)
    GROUP BY ALL ORDER BY r.revenue DESC"""
SHOPS = ("Bergen", "Kyoto", "Lima", "Oslo", "Porto")


def main() -> None:
    options = arguments()
    into = Path(options.into or tempfile.mkdtemp(prefix="orders-"))
    if into.exists() and any(into.iterdir()):
        sys.exit(f"{into} is not empty: files of another run would be counted, too; give a new directory")
    with LineServer() as server:
        threading.Thread(target=feed, args=(server, options.seconds), daemon=True).start()

        ctx = ars.StreamingContext(batch_interval="250ms", workers=options.workers)
        orders = ctx.read.socket(server.address, format="ndjson", schema=ORDER, name="orders")
        orders.write.parquet(into / "orders")
        revenue_of(orders).write.duckdb(into / "revenue.duckdb", table="revenue")

        with ctx:
            ctx.start()
            print(f"taking orders for {options.seconds:g} s ...\n", flush=True)
            ctx.await_termination(timeout=options.seconds)
            ctx.process_all_available()  # what has come so far, also on a slow machine

            print("while it runs, at one instant: the Parquet directory joined with the DuckDB table")
            print(ctx.sql(TOGETHER))
            ctx.stop()

    print("\nlines that were no orders are not lost: they are dead letters, with the reason")
    print(ctx.sql("SELECT count(*) AS lines, decode(raw) AS raw, reason FROM dead_letters GROUP BY ALL"))
    print(ctx.progress)
    print("\nthe outputs are plain files, for any reader, and for the command line:")
    print(f"  arrowstream sql --at {into} 'SELECT shop, count(*) FROM orders GROUP BY shop'")


def revenue_of(orders: ars.StreamFrame) -> ars.StreamFrame:
    """Orders and revenue of each shop."""
    return orders.group_by("shop").agg(orders=pl.len(), revenue=pl.col("price").sum().round(2))


def feed(server: LineServer, seconds: float) -> None:
    """Send orders as a till would, some every few milliseconds, and sometimes a line that is none."""
    server.send([])  # waits for the first reader
    chance, numbers, until = random.Random(1), itertools.count(1), time.monotonic() + seconds
    while time.monotonic() < until:
        lines = []
        for _ in range(100):
            order = {
                "id": next(numbers),
                "shop": chance.choice(SHOPS),
                "price": round(chance.uniform(1, 100), 2),
                "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            lines.append(json.dumps(order))
        if chance.random() < 0.05:
            lines.append(chance.choice(('{"id": 7, "price": "cheap"}', '{"id": 8, "shop": "Li')))
        server.send(lines)
        time.sleep(0.01)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", help="new directory for the outputs; a temporary one unless given")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to take orders")
    parser.add_argument("--workers", type=int, default=None, help="worker processes; 0 runs inside this one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
