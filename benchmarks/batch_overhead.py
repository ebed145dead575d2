"""The fixed cost of a batch: 1,000 rows through filter, map and a running count into the memory sink, embedded."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import polars as pl

import arrowstream as ars
from benchmarks.table import percentile, row

ROWS = 1_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    batches = 200 if parser.parse_args(arguments).quick else 1_000
    random = np.random.default_rng(1)
    pieces = [
        pl.DataFrame({"key": random.integers(0, 100, ROWS), "value": random.normal(size=ROWS)}) for _ in range(50)
    ]
    whole: list[float] = []
    alone: list[float] = []
    with ars.StreamingContext(batch_interval="1s") as ctx:
        rows = ctx.read.memory(pieces[0].schema)
        counts = (
            rows.filter(pl.col("value") > 0)
            .with_columns(doubled=pl.col("value") * 2)
            .group_by("key")
            .agg(pl.len().alias("count"), pl.col("doubled").sum())
        )
        counts.write.memory("counts")
        ctx.start()
        for number in range(batches + 50):
            piece = pieces[number % len(pieces)]
            started = time.perf_counter()
            rows.source.send(piece)
            ctx.process_all_available()
            whole.append(time.perf_counter() - started)
            started = time.perf_counter()
            (
                piece.lazy()
                .filter(pl.col("value") > 0)
                .with_columns(doubled=pl.col("value") * 2)
                .group_by("key")
                .agg(pl.len().alias("count"), pl.col("doubled").sum())
                .collect()
            )
            alone.append(time.perf_counter() - started)
        inside = [report.seconds for report in ctx.progress][-batches:]
        assert ctx.progress.batches == batches + 50
    whole, alone = whole[50:], alone[50:]
    p50 = percentile(whole, 0.5)
    row(f"send to committed, p50 of {batches} batches", f"{p50 * 1000:.2f} ms", "at most 5 ms", p50 <= 0.005)
    row("send to committed, p99", f"{percentile(whole, 0.99) * 1000:.2f} ms")
    row("allotted to committed, p50", f"{percentile(inside, 0.5) * 1000:.2f} ms")
    row("the same query in Polars alone, p50", f"{percentile(alone, 0.5) * 1000:.2f} ms")
    row("the engine's share, as a multiple of Polars alone", f"{p50 / percentile(alone, 0.5):.1f} x")


if __name__ == "__main__":
    main()
