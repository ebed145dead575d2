"""A running count and sum by key: what a batch costs, by the number of keys, their type and the batch's size.

    python -m benchmarks.running_count
    python -m benchmarks.running_count --keys 10_000 1_000_000 --batches 20

Every batch is grouped by Polars (that alone is the yardstick, `ratio` is the whole over it), then upserted,
gathered, added, put, its delta taken and committed. Medians, and the worst batch; compare within a run only.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from arrowstream.state.table import KeyedTable

VALUES = pl.Schema({"count": pl.Int64, "total": pl.Float64})
ROWS = 100_000


@dataclass
class Times:
    """Seconds of each step, a number a batch."""

    group: list[float] = field(default_factory=list)
    upsert: list[float] = field(default_factory=list)
    gather: list[float] = field(default_factory=list)
    put: list[float] = field(default_factory=list)
    delta: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)

    def whole(self) -> list[float]:
        steps = (self.group, self.upsert, self.gather, self.put, self.delta, self.commit)
        return [sum(batch) for batch in zip(*steps, strict=True)]


def make_keys(kind: str, numbers: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Key columns for these numbers: `int`, `string`, or `pair` (two integers)."""
    series = pl.Series("key", numbers)
    if kind == "int":
        return series.to_frame()
    if kind == "string":
        return pl.select("key-" + series.cast(pl.String).str.zfill(9)).rename({"literal": "key"})
    return pl.DataFrame({"key": series % 1009, "other": series // 1009})


def run_batch(table: KeyedTable, batch: pl.DataFrame, times: Times) -> None:
    """Count and sum one batch into the table."""
    names = table.keys.names()
    marks = [time.perf_counter()]
    part = batch.group_by(names).agg(pl.len().cast(pl.Int64).alias("count"), pl.col("value").sum().alias("total"))
    marks.append(time.perf_counter())
    at = table.upsert(part.select(names))
    marks.append(time.perf_counter())
    held = table.gather(at.slots)
    marks.append(time.perf_counter())
    if at.fresh.any():
        held = held.fill_null(0)
    table.put(at.slots, pl.DataFrame({name: held[name] + part[name] for name in VALUES}))
    marks.append(time.perf_counter())
    table.delta()
    marks.append(time.perf_counter())
    table.commit()
    marks.append(time.perf_counter())
    steps = (times.group, times.upsert, times.gather, times.put, times.delta, times.commit)
    for step, start, stop in zip(steps, marks, marks[1:], strict=False):
        step.append(stop - start)


def batches(kind: str, held: int, rows: int, count: int, growth: float) -> Iterator[pl.DataFrame]:
    """Random rows over `held` keys, of which a part is new in every batch."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        new = int(rows * growth)
        numbers = np.concatenate([rng.integers(0, held, rows - new), np.arange(held, held + new)])
        held += new
        rng.shuffle(numbers)
        yield make_keys(kind, numbers).with_columns(pl.Series("value", rng.random(rows)))


def fill(kind: str, keys: int) -> tuple[KeyedTable, Times]:
    """A table of so many keys, made in batches of new keys, and what those cost."""
    table = KeyedTable(make_keys(kind, np.empty(0, np.int64)).schema, VALUES)
    times = Times()
    for start in range(0, keys, ROWS):
        numbers = np.arange(start, min(start + ROWS, keys))
        np.random.default_rng(start).shuffle(numbers)
        run_batch(table, make_keys(kind, numbers).with_columns(pl.lit(1.0).alias("value")), times)
    return table, times


def line(name: str, times: Times) -> str:
    whole, group = times.whole(), statistics.median(times.group)
    middle = statistics.median(whole)
    steps = (times.group, times.upsert, times.gather, times.put, times.delta, times.commit)
    parts = "".join(f"{statistics.median(step) * 1e3:8.2f}" for step in steps)
    return f"{name:34s}{middle * 1e3:9.2f}{max(whole) * 1e3:9.1f}{middle / group:7.2f}{parts}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--others", type=int, default=1_000_000, help="keys of the string and pair tables")
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="few batches, at most a million keys")
    options = parser.parse_args(arguments)
    if options.quick:
        options.keys, options.batches = [10_000, 1_000_000], 10
    print(
        f"{'ms per batch':34s}{'median':>9s}{'worst':>9s}{'ratio':>7s}{'group':>8s}{'upsert':>8s}{'gather':>8s}"
        f"{'put':>8s}{'delta':>8s}{'commit':>8s}"
    )
    cases = [("int", keys) for keys in options.keys] + [("string", options.others), ("pair", options.others)]
    for kind, keys in cases:
        table, growing = fill(kind, keys)
        print(line(f"{kind}, growing from 0 to {keys:,}", growing))
        print(f"    {table.memory_bytes() / max(len(table), 1):.0f} bytes a key")
        largest = kind == "int" and keys == max(options.keys)
        for rows in (100, 1_000, 10_000, ROWS) if largest else (1_000, ROWS):
            times = Times()
            for batch in batches(kind, keys, rows, options.batches, 0.0):
                run_batch(table, batch, times)
            print(line(f"{kind}, {keys:,} keys, {rows:,} rows", times))
        times = Times()
        for batch in batches(kind, keys, ROWS, options.batches, 0.05):
            run_batch(table, batch, times)
        print(line(f"{kind}, {keys:,} keys, 5% new", times), flush=True)
        del table
        gc.collect()


if __name__ == "__main__":
    main()
