"""Replication: blocks received by one of two workers and copied to the other, against a bare Flight `DoPut` loop of
the same batches.

The stream's own work is next to nothing (a filter that keeps no row), so that what is measured is receive, keep, copy,
acknowledge, report, allot and let go.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.flight as flight

import arrowstream as ars
from arrowstream.connectors.source import EndOfStream, Offset
from benchmarks.table import median, row

ROWS = 200_000
SCHEMA = pa.schema([(name, pa.int64()) for name in "abcde"])


def batch() -> pa.RecordBatch:
    """8 MB of numbers: 200,000 rows of five."""
    return pa.record_batch([pa.array(np.arange(ROWS)) for _ in SCHEMA], schema=SCHEMA)


@dataclass(frozen=True)
class Firehose:
    """A source that always has a batch at hand and cannot be read again."""

    batches: int

    @property
    def schema(self) -> pa.Schema:
        return SCHEMA

    @property
    def replayable(self) -> bool:
        return False

    def splits(self) -> Sequence[str]:
        return ["0"]

    def bounded(self) -> Firehose:
        return self

    def open(self, split: str, resume: Offset | None) -> _Reader:
        return _Reader(self.batches)


class _Reader:
    def __init__(self, batches: int) -> None:
        self._left, self._batch = batches, batch()

    def poll(self, timeout: float) -> pa.RecordBatch:
        if not self._left:
            raise EndOfStream
        self._left -= 1
        return self._batch

    def position(self) -> Offset:
        return self._left

    def acknowledge(self, offset: Offset) -> None:
        pass

    def close(self) -> None:
        pass


def bare(batches: int) -> float:
    """Seconds for a plain loop of `DoPut` into a server in a process of its own that only counts."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.replication", "--serve"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        client = flight.FlightClient(f"grpc://127.0.0.1:{server.stdout.readline().strip()}")
        one = batch()
        started = time.perf_counter()
        writer, _ = client.do_put(flight.FlightDescriptor.for_command(b"x"), SCHEMA)
        for _ in range(batches):
            writer.write_batch(one)
        writer.close()
        return time.perf_counter() - started
    finally:
        server.stdin.close()
        server.wait(10)


def replicated(batches: int) -> tuple[float, int]:
    """Seconds from the first block to the last commit, and blocks that had to be spilled."""
    with ars.StreamingContext(batch_interval="50ms", workers=2, memory="1GB") as ctx:
        frame = ctx.read.open(Firehose(batches))
        frame.filter(pl.col("a") < 0).write.memory("none")
        ctx.run(timeout=300)
        first = min(report.time + report.seconds - report.lag for report in ctx.progress)
        last = max(report.time + report.seconds for report in ctx.progress)
        assert ctx.progress.rows_in == batches * ROWS
        return last - first, ctx.progress.batches


def serve() -> None:
    class Counter(flight.FlightServerBase):  # type: ignore[misc]
        def do_put(self, context: object, descriptor: object, reader: object, writer: object) -> None:
            for _ in reader:  # type: ignore[attr-defined]
                pass

    server = Counter("grpc://127.0.0.1:0")
    print(server.port, flush=True)
    sys.stdin.read()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args(arguments)
    if options.serve:
        serve()
        return
    batches = 60 if options.quick else 250
    megabytes = batches * batch().nbytes / 1e6
    ours: list[float] = []
    loop: list[float] = []
    for _ in range(1 if options.quick else 5):
        loop.append(bare(batches))
        ours.append(replicated(batches)[0])
    row(f"bare DoPut loop, {megabytes:,.0f} MB", f"{megabytes / median(loop):,.0f} MB/s")
    row("received, copied, acknowledged, worked off", f"{megabytes / median(ours):,.0f} MB/s")
    ratio = median([theirs / mine for theirs, mine in zip(loop, ours, strict=True)])
    row("share of the bare loop", f"{ratio:.2f}", "at least 0.60", ratio >= 0.6)


if __name__ == "__main__":
    main()
