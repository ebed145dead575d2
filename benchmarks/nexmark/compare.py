"""ArrowStream beside Polars and DuckDB in one shot, and beside PySpark Structured Streaming: each run a process."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from arrowstream.settings import cores
from benchmarks.nexmark import spark
from benchmarks.nexmark.runner import count_events

TIMEOUT = 1800

_ONE_SHOT = ("polars", "polars_in_memory", "duckdb")
"""Of Polars both engines run, and the faster one counts."""


def compare(
    queries: Sequence[str],
    data: Path,
    *,
    peers: Sequence[str],
    times: int = 3,
    files_per_batch: int = 1,
    spark_data: Path | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Run every engine `times` times on each query, in turns; a row per query with the medians.

    PySpark may have a smaller data set, since its rate is by the batch. Prints a table, and writes JSON to `out`.
    """
    peers = list(peers)
    if "spark" in peers and (reason := spark.available()):
        print(f"without PySpark: {reason}")
        peers.remove("spark")
    _warm(data)
    print(
        f"{count_events('q0', data):,} events, {files_per_batch} file(s) a batch, {cores()} cores, medians of {times}"
    )
    print(_HEAD, flush=True)
    rows = []
    for query in queries:
        rows.append(_row(query, data, peers, times, files_per_batch, spark_data or data))
        print(_line(rows[-1]), flush=True)
        if out is not None:
            out.write_text(
                json.dumps({"machine": machine(), "queries": rows, "summary": summary(rows)}, indent=1) + "\n"
            )
    for line in _summary_lines(summary(rows)):
        print(line, flush=True)
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric means over q0 to q22 and the lowest ratios, of those that were measured."""
    found: dict[str, Any] = {}
    for name in ("ratio_to_limit", "ratio_to_spark"):
        ratios = {row["query"]: row[name] for row in rows if row["query"] != "ysb" and row.get(name)}
        if ratios:
            mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values()))
            worst = min(ratios, key=ratios.__getitem__)
            found[name] = {"mean": mean, "queries": len(ratios), "lowest": ratios[worst], "lowest_query": worst}
    rates = {row["query"]: row["events_per_second"] for row in rows if "events_per_second" in row}
    if rates:
        slowest = min(rates, key=rates.__getitem__)
        found["slowest"] = {"query": slowest, "events_per_second": rates[slowest]}
    return found


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    versions = {}
    for package in ("arrowstream", "polars", "duckdb", "pyarrow", "pyspark"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cores": str(cores()), "system": platform.platform(), "python": platform.python_version(), **versions}


def _row(
    query: str, data: Path, peers: Sequence[str], times: int, files_per_batch: int, spark_data: Path
) -> dict[str, Any]:
    row: dict[str, Any] = {"query": query}
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ("arrowstream", *peers)}
    for _ in range(times):
        for engine, found in runs.items():
            if engine == "spark" and query not in spark.SQL:
                continue
            try:
                found.append(json.loads(_output(engine, query, data, files_per_batch, spark_data)))
            except (subprocess.SubprocessError, json.JSONDecodeError, IndexError) as error:
                row.setdefault("failed", {})[engine] = _reason(error)
    ours = runs.pop("arrowstream")
    if ours:
        middle = sorted(ours, key=lambda run: run["seconds"])[len(ours) // 2]
        row |= {name: value for name, value in middle.items() if name != "query"}
    for peer, found in runs.items():
        if found and peer in _ONE_SHOT:
            row[f"{peer}_seconds"] = statistics.median(run["seconds"] for run in found)
        elif found:
            row["spark_batch_ms"] = statistics.median(run["median_ms"] for run in found)
    one_shot = [row[f"{peer}_seconds"] for peer in _ONE_SHOT if f"{peer}_seconds" in row]
    if ours and one_shot:
        row["ratio_to_limit"] = min(one_shot) / row["seconds"]
    if ours and "spark_batch_ms" in row:
        # events a second of the whole run, against the events of one batch over the median batch
        events_a_batch = count_events(query, spark_data) / len(list((spark_data / "bid").glob("*.parquet")))
        spark_rate = events_a_batch * files_per_batch / (row["spark_batch_ms"] / 1000)
        row["spark_events_per_second"] = round(spark_rate)
        row["ratio_to_spark"] = row["events_per_second"] / spark_rate
    return row


def _output(engine: str, query: str, data: Path, files_per_batch: int, spark_data: Path) -> str:
    """The last line that a run prints."""
    each = ["--files-per-batch", str(files_per_batch)]
    module = "benchmarks.nexmark"
    match engine:
        case "arrowstream":
            arguments = [module, "run", "--query", query, "--data", str(data), *each]
        case "spark":
            arguments = [f"{module}.spark", query, str(spark_data), *each]
        case _:
            arguments = [f"{module}.peers", engine, query, str(data)]
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=True, env=os.environ
    )
    return done.stdout.splitlines()[-1]


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        return lines[-1][:500] if lines else f"ended with {error.returncode}"
    return str(error)[:500]


def _warm(data: Path) -> None:
    """Have all files in the page cache, so that nobody pays for the disk."""
    for file in data.rglob("*.parquet"):
        file.read_bytes()


_HEAD = (
    f"{'':5}{'M events/s':>11}{'Polars':>8}{'DuckDB':>8}{'limit':>8}{'PySpark':>9}"
    f"{'p50 ms':>9}{'p99':>8}{'tenths':>15}{'state MB':>10}{'RSS MB':>8}"
)


def _line(row: Mapping[str, Any]) -> str:
    if "seconds" not in row:
        return f"{row['query']:5}  failed: {row.get('failed')}"
    millions = row["events"] / 1e6

    def rate(*names: str) -> str:
        found = [row[f"{name}_seconds"] for name in names if f"{name}_seconds" in row]
        return f"{millions / min(found):8.2f}" if found else f"{'-':>8}"

    def ratio(name: str, digits: int) -> str:
        return f"{row[name]:.{digits}f}" if name in row else "-"

    tenths = f"{row['first_tenth_ms']:.1f} / {row['last_tenth_ms']:.1f}"
    spark_ratio = f"{ratio('ratio_to_spark', 1)}x" if "ratio_to_spark" in row else "-"
    return (
        f"{row['query']:5}{row['events_per_second'] / 1e6:11.2f}{rate('polars', 'polars_in_memory')}{rate('duckdb')}"
        f"{ratio('ratio_to_limit', 2):>8}{spark_ratio:>9}"
        f"{row['p50_ms']:9.1f}{row['p99_ms']:8.1f}{tenths:>15}{row['state_bytes'] / 1e6:10.1f}{row['peak_rss_mb']:8}"
        + (f"  failed: {', '.join(row['failed'])}" if row.get("failed") else "")
    )


def _summary_lines(found: Mapping[str, Any]) -> Iterator[str]:
    names = {"ratio_to_limit": "of the faster of Polars and DuckDB", "ratio_to_spark": "times PySpark"}
    for name, words in names.items():
        if name in found:
            each = found[name]
            yield (
                f"{each['mean']:.2f} {words} (geometric mean of {each['queries']}),"
                f" the lowest {each['lowest']:.2f} ({each['lowest_query']})"
            )
    if "slowest" in found:
        yield f"slowest: {found['slowest']['query']}, {found['slowest']['events_per_second']:,} events/s"
