"""Compare each query's result with the batch reading of it: as multisets of rows, in several settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from arrowstream.cluster.cluster import Cluster
from arrowstream.cluster.local import LocalCluster
from arrowstream.settings import ClusterSettings, Settings
from benchmarks.nexmark.batch import by_duckdb, by_polars
from benchmarks.nexmark.data import Dataset
from benchmarks.nexmark.runner import context, read, result

SHOWN = 5
"""Rows of a difference that are shown, of each side."""

MINUTE_BEFORE_MIDNIGHT = 1_437_004_740_000
"""2015-07-15T23:59:00Z: so that some queries see two days."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a query is run. `files_per_batch` None takes all files in one batch."""

    files_per_batch: int | None = 1
    workers: int = 0

    def __str__(self) -> str:
        files = "all files" if self.files_per_batch is None else f"{self.files_per_batch} file(s)"
        return f"{files} a batch, {f'{self.workers} workers' if self.workers else 'embedded'}"


SETTINGS = [Setting(1), Setting(3), Setting(None), Setting(1, workers=2), Setting(3, workers=2)]


def check(
    queries: Sequence[str],
    *,
    events: int = 200_000,
    data: Path | None = None,
    settings: Sequence[Setting] = SETTINGS,
    say: Callable[[str], object] = print,
) -> list[str]:
    """Run the queries in each setting, over `data`, or over data made for it, in order and out of order.

    Gives the differences, none where all is equal; also where the two batch readings differ from each other.
    """
    with TemporaryDirectory() as folder:
        places = [data] if data is not None else [*made(Path(folder), events)]
        found: list[str] = []
        with Workers(settings) as clusters:
            for query in queries:
                began = time.monotonic()
                wrong = list(differences(query, places, settings, clusters))
                verdict = f"{len(wrong)} DIFFERENT" if wrong else "equal"
                say(f"{query:>4}  {verdict}  ({time.monotonic() - began:.1f} s)")
                for each in wrong:
                    say(each)
                found += wrong
    return found


def made(folder: Path, events: int) -> Iterable[Path]:
    """One data set in order, and one with rows up to 3 s late; both some 40 s long, over midnight."""
    for name, disorder in (("in order", 0.0), ("out of order", 3.0)):
        rate = events / 40
        start = MINUTE_BEFORE_MIDNIGHT + 40_000
        Dataset(events, rate, -(-events // 8), disorder=disorder, start_ms=start).write(folder / name)
        yield folder / name


def differences(query: str, places: Sequence[Path], settings: Sequence[Setting], clusters: Workers) -> Iterable[str]:
    """What is not as the batch reading has it, over each data set and in each setting."""
    for data in places:
        expected = by_duckdb(query, data)
        if text := difference(by_polars(query, data).collect(), expected):
            yield f"{query}, {data.name}: Polars and DuckDB differ\n{text}"
        for setting in settings:
            where = f"{query}, {data.name}, {setting}"
            files = setting.files_per_batch or len(list((data / "bid").iterdir()))
            try:
                found = result(query, data, files_per_batch=files, cluster=clusters[setting.workers])
            except Exception as error:  # the other settings are told all the same
                yield f"{where}: {type(error).__name__}: {error}"
                continue
            if text := difference(found, expected):
                yield f"{where}\n{text}"
        if query == "q10":
            yield from _partitioned(data, expected)


def _partitioned(data: Path, expected: pl.DataFrame) -> Iterable[str]:
    """q10 into files by day and minute, read back by Polars."""
    with TemporaryDirectory() as folder:
        with context() as ctx:
            target = Path(folder) / "bids"
            read(ctx, "q10", data, 1).write.parquet(target, partition_by=["dt", "hm"])
            ctx.run(timeout=600)
        written = pl.scan_parquet(target, hive_schema={"dt": pl.String, "hm": pl.String}).collect()
    if text := difference(written, expected):
        yield f"q10, {data.name}, partitioned files\n{text}"


class Workers:
    """The clusters that settings need, each started once."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._counts = sorted({setting.workers for setting in settings} - {0})
        self._clusters: dict[int, LocalCluster] = {}

    def __enter__(self) -> Workers:
        for count in self._counts:
            cluster = LocalCluster(Settings(cluster=ClusterSettings(count, min(2, count))))
            cluster.start()
            self._clusters[count] = cluster
        return self

    def __exit__(self, *_: object) -> None:
        for cluster in self._clusters.values():
            cluster.close()

    def __getitem__(self, workers: int) -> Cluster | None:
        return self._clusters[workers] if workers else None


def difference(found: pl.DataFrame, expected: pl.DataFrame) -> str:
    """What the first has that the second has not, and the other way round; empty where both are the same multiset.

    Columns go by name, and numbers by value: a UInt32 is as good as an Int64.
    """
    missing, strange = set(expected.columns) - set(found.columns), set(found.columns) - set(expected.columns)
    if missing or strange:
        return (
            f"    columns: {', '.join(sorted(missing)) or 'none'} missing, {', '.join(sorted(strange)) or 'none'} extra"
        )
    found, expected = _canonical(found.select(expected.columns)), _canonical(expected)
    if found.schema != expected.schema:
        return f"    types: {dict(found.schema)} in place of {dict(expected.schema)}"
    if digest(found) == digest(expected):
        return ""
    lines = [f"    {found.height:,} rows in place of {expected.height:,}"]
    for name, rows in (("extra", _less(found, expected)), ("missing", _less(expected, found))):
        lines.append(f"    {rows['times'].sum():,} {name}" + (":" if rows.height else ""))
        lines += [f"        {row}" for row in rows.head(SHOWN).rows(named=True)]
    return "\n".join(lines)


def digest(frame: pl.DataFrame) -> tuple[int, int, int]:
    """Equal for equal multisets of rows, and else hardly ever: rows, and two sums of hashes."""
    sums = [int(frame.hash_rows(seed).to_numpy().sum(dtype=np.uint64)) for seed in (1, 2)]
    return (frame.height, sums[0], sums[1])


def _canonical(frame: pl.DataFrame) -> pl.DataFrame:
    whole = [name for name, dtype in frame.schema.items() if dtype.is_integer() or isinstance(dtype, pl.Decimal)]
    return frame.with_columns(pl.col(whole).cast(pl.Int64))


def _less(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Rows that the first has more often, with how much more often in `times`."""
    counts = [frame.group_by(frame.columns).agg(times=pl.len().cast(pl.Int64)) for frame in (one, other)]
    both = counts[0].join(counts[1], on=one.columns, how="left", nulls_equal=True, suffix="_other")
    more = both.with_columns(times=pl.col("times") - pl.col("times_other").fill_null(0)).drop("times_other")
    return more.filter(pl.col("times") > 0).sort(one.columns)
