"""Lines over loopback TCP: a running word count against the simplest Python loop, and JSON lines to Parquet."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl

import arrowstream as ars
from benchmarks.sender import sending
from benchmarks.table import median, row

FIELDS = {"id": pl.Int64, "user": pl.String, "amount": pl.Float64, "ok": pl.Boolean, "ts": pl.Int64}


def python_word_count(port: int) -> tuple[float, int]:
    """Seconds and words of the loop that anyone would write first."""
    counts: dict[str, int] = {}
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as file:
        for line in file:
            for word in line.decode().split():
                counts[word] = counts.get(word, 0) + 1
    return time.perf_counter() - started, sum(counts.values())


def arrowstream_word_count(port: int) -> tuple[float, int]:
    """The same with a stream frame, into memory; from start() to the last commit."""
    with ars.StreamingContext(batch_interval="200ms") as ctx:
        lines = ctx.read.socket(f"127.0.0.1:{port}")
        counts = (
            lines.select(pl.col("line").str.split(" ").alias("word"))
            .explode("word")
            .group_by("word")
            .agg(pl.len().alias("count"))
        )
        counts.write.memory("counts")
        started = time.perf_counter()
        ctx.run(timeout=300)
        seconds = time.perf_counter() - started
        return seconds, ctx.sql("SELECT sum(count) FROM counts").fetchall()[0][0]


def python_json(port: int) -> float:
    """Seconds to read and parse the same lines with the standard library, kept nowhere."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - started


def json_to_parquet(port: int, lines: int, roll: str | None = None) -> float:
    """Seconds until all rows are in Parquet files."""
    folder = Path(tempfile.mkdtemp(prefix="arrowstream-bench-"))
    try:
        with ars.StreamingContext(batch_interval="200ms") as ctx:
            rows = ctx.read.socket(f"127.0.0.1:{port}", format="ndjson", schema=FIELDS)
            rows.write.parquet(folder / "rows", roll=roll)
            started = time.perf_counter()
            ctx.run(timeout=300)
            seconds = time.perf_counter() - started
        found = pl.scan_parquet(folder / "rows").select(pl.len()).collect().item()
        assert found == lines, found
        return seconds
    finally:
        shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    runs = 1 if quick else 3
    lines = 2_000_000 if quick else 12_000_000
    with sending("words", lines) as port:
        pairs = [(python_word_count(port), arrowstream_word_count(port)) for _ in range(runs)]
    for (_, words), (_, found) in pairs:
        assert words == found == lines * 8
    loop, ours = median([theirs for (theirs, _), _ in pairs]), median([mine for _, (mine, _) in pairs])
    ratio = median([theirs / mine for (theirs, _), (mine, _) in pairs])
    row("word count, Python loop", f"{lines / loop:,.0f} lines/s")
    row("word count, running, embedded", f"{lines / ours:,.0f} lines/s")
    row("word count against the loop", f"{ratio:.1f} x", "at least 3 x", ratio >= 3)
    lines //= 4
    with sending("json", lines) as port:
        plain = median([python_json(port) for _ in range(runs)])
        written = median([json_to_parquet(port, lines) for _ in range(runs)])
        rolled = median([json_to_parquet(port, lines, roll="64MB") for _ in range(runs)])
    row("JSON, json.loads in a loop, kept nowhere", f"{lines / plain:,.0f} rows/s")
    row(
        "JSON lines of five fields to Parquet",
        f"{lines / written:,.0f} rows/s",
        "at least 500,000",
        lines / written >= 5e5,
    )
    row("the same with roll='64MB'", f"{lines / rolled:,.0f} rows/s")
    row("JSON to Parquet against the loop", f"{plain / written:.1f} x")


if __name__ == "__main__":
    main()
