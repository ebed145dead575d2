"""NEXMark: make data, run queries, check and compare them.

python -m benchmarks.nexmark generate --events 10_000_000 --out DIR
python -m benchmarks.nexmark run --query q5 --data DIR --out RESULT
python -m benchmarks.nexmark check
python -m benchmarks.nexmark compare --data DIR
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.nexmark.data import Dataset
from benchmarks.nexmark.queries import NAMES

PEERS = ["polars", "polars_in_memory", "duckdb", "spark"]


def generate(options: argparse.Namespace) -> None:
    """Write the files of a data set."""
    began = time.monotonic()
    data = Dataset(options.events, options.rate, options.rows_per_file, options.seed, options.disorder)
    data.write(options.out)
    took = time.monotonic() - began
    print(f"{data.events:,} events in {data.files} files of each stream at {options.out}, {took:.1f} s")


def run(options: argparse.Namespace) -> None:
    """Run one query; a line of JSON."""
    from benchmarks.nexmark.runner import run

    limits = {"files_per_batch": options.files_per_batch, "workers": options.workers}
    print(run(options.query, options.data, out=options.out, **limits).json(), flush=True)


def check(options: argparse.Namespace) -> None:
    """Compare results with the batch reading."""
    from benchmarks.nexmark.check import SETTINGS, check

    settings = [setting for setting in SETTINGS if options.workers or not setting.workers]
    found = check(options.queries, events=options.events, data=options.data, settings=settings)
    print(f"{len(found)} differences" if found else f"all {len(options.queries)} equal")
    if found:
        raise SystemExit(1)


def compare(options: argparse.Namespace) -> None:
    """Measure beside others."""
    from benchmarks.nexmark.compare import compare

    rows = compare(
        options.queries,
        options.data,
        peers=options.peers,
        times=options.times,
        files_per_batch=options.files_per_batch,
        spark_data=options.spark_data,
        out=options.out,
    )
    if any("failed" in row for row in rows):
        raise SystemExit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nexmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("generate", help="write the files of a data set")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--events", type=int, default=1_000_000)
    command.add_argument("--rate", type=float, default=10_000, help="events a second of event time")
    command.add_argument("--rows-per-file", type=int, default=100_000, help="events a file, of the three streams")
    command.add_argument("--disorder", type=float, default=0, help="seconds that events come late at most")
    command.add_argument("--seed", type=int, default=42)
    command.set_defaults(call=generate)

    command = commands.add_parser("run", help="run one query")
    command.add_argument("--query", choices=NAMES, required=True)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--files-per-batch", type=int, default=1)
    command.add_argument("--workers", type=int, default=0)
    command.add_argument("--out", type=Path, help="where the result goes, as Parquet; nowhere unless given")
    command.set_defaults(call=run)

    command = commands.add_parser("check", help="compare results with the batch reading")
    command.add_argument("--queries", nargs="+", choices=NAMES, default=NAMES, metavar="QUERY")
    command.add_argument("--events", type=int, default=200_000)
    command.add_argument("--data", type=Path, help="a data set to check with; made anew unless given")
    command.add_argument("--no-workers", dest="workers", action="store_false", help="embedded only")
    command.set_defaults(call=check)

    command = commands.add_parser("compare", help="measure beside Polars, DuckDB and PySpark")
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--queries", nargs="+", choices=NAMES, default=NAMES, metavar="QUERY")
    command.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, metavar="PEER")
    command.add_argument("--times", type=int, default=3, help="runs of each, of which the median counts")
    command.add_argument("--files-per-batch", type=int, default=1)
    command.add_argument("--spark-data", type=Path, help="a smaller data set for PySpark, of files as large")
    command.add_argument("--out", type=Path, help="where all figures go, as JSON")
    command.set_defaults(call=compare)

    options = parser.parse_args(arguments)
    options.call(options)


if __name__ == "__main__":
    logging.getLogger("arrowstream").setLevel(logging.ERROR)  # that some state has no bound is known here
    main()
