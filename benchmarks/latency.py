"""Latency from a TCP socket through a stateless filter to a sink that notes the time, batch interval 10 ms.

A process of its own sends lines that carry the time they were sent at, evenly, some every millisecond. The latency of a
row is the time its batch is in the sink less the time in the line.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import polars as pl

import arrowstream as ars
from benchmarks.table import row


def send(rate: int, seconds: float) -> None:
    """Serve one client `rate` lines a second, each the nanoseconds since the epoch at which it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, contextlib.suppress(OSError):
            started = time.monotonic()
            sent = 0
            while (elapsed := time.monotonic() - started) < seconds:
                due = int(elapsed * rate)
                if due > sent:
                    client.sendall(f"{time.time_ns()}\n".encode() * (due - sent))
                    sent = due
                time.sleep(0.001)


def measure(rate: int, seconds: float) -> np.ndarray:
    """Milliseconds, of every row that came after a second of warming up."""
    command = [sys.executable, "-m", "benchmarks.latency", "--send", str(rate), "--seconds", str(seconds)]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    port = int(sender.stdout.readline())
    latencies: list[np.ndarray] = []

    def note(frame: pl.DataFrame, batch_id: int) -> None:
        latencies.append(time.time_ns() - frame["sent"].to_numpy())

    try:
        with ars.StreamingContext(batch_interval="10ms") as ctx:
            lines = ctx.read.socket(f"127.0.0.1:{port}")
            lines.select(pl.col("line").cast(pl.Int64).alias("sent")).filter(pl.col("sent") > 0).write.foreach_batch(
                note
            )
            ctx.run(timeout=seconds + 60)
    finally:
        sender.wait(30)
        sender.stdout.close()
    all_rows = np.concatenate(latencies) / 1e6
    return all_rows[rate:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    seconds = options.seconds or (10 if options.quick else 120)
    if options.send:
        send(options.send, seconds)
        return
    for rate in (10_000, 100_000):
        found = measure(rate, seconds)
        p50, p99, worst = np.percentile(found, [50, 99, 100])
        row(f"{rate:,} rows/s over {seconds:.0f} s, p50", f"{p50:.1f} ms")
        row(f"{rate:,} rows/s, p99", f"{p99:.1f} ms", "at most 25 ms", bool(p99 <= 25))
        row(f"{rate:,} rows/s, worst; rows", f"{worst:.0f} ms; {len(found):,}")


if __name__ == "__main__":
    main()
