"""Count the words of a live TCP stream, and query the counts with SQL while it runs.

python examples/wordcount.py                          feeds itself for three seconds
python examples/wordcount.py --address localhost:9999 reads a server of yours, such as `nc -lk 9999`
"""

from __future__ import annotations

import argparse
import threading
import time

import polars as pl

import arrowstream as ars
from arrowstream.testing.line_server import LineServer

TEXT = """the quick brown fox jumps over the lazy dog
a stream is a dataframe that never ends
the fox reads the stream and the dog counts the words""".splitlines()


def main() -> None:
    options = arguments()
    with LineServer() as server:
        if options.address is None:
            threading.Thread(target=feed, args=(server, options.seconds), daemon=True).start()

        ctx = ars.StreamingContext(batch_interval=options.batch_interval, workers=options.workers)
        lines = ctx.read.socket(options.address or server.address)
        word_counts(lines).write.memory("counts")

        with ctx:
            first = threading.Event()
            ctx.listen(lambda report: first.set())
            ctx.start()
            first.wait(30)
            print("first batch:", ctx.progress)
            if not options.until_first_batch:
                wait(options.seconds)
            ctx.stop()
        print(ctx.sql("SELECT word, count FROM counts ORDER BY count DESC, word LIMIT 10"))
        print(ctx.progress)


def word_counts(lines: ars.StreamFrame) -> ars.StreamFrame:
    """Each word, and how often it has come."""
    return (
        lines.select(pl.col("line").str.split(" ").alias("word"))
        .explode("word")
        .group_by("word")
        .agg(pl.len().alias("count"))
    )


def feed(server: LineServer, seconds: float) -> None:
    """Send lines as they would come from a live source: some every few milliseconds."""
    server.send(TEXT)  # waits for the first reader
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        server.send(TEXT * 100)
        time.sleep(0.005)


def wait(seconds: float) -> None:
    print(f"counting for {seconds:g} s (Ctrl-C stops sooner) ...", flush=True)
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        print()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--address", help="host:port of a TCP server that sends lines; without it, feeds itself")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to count")
    parser.add_argument("--batch-interval", default="500ms")
    parser.add_argument("--workers", type=int, default=None, help="worker processes; 0 runs inside this one")
    parser.add_argument("--until-first-batch", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
