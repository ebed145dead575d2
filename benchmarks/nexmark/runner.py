"""Run a query over files, as streams, and measure it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pyarrow.parquet as pq

import arrowstream as ars
from arrowstream.cluster.cluster import Cluster
from arrowstream.connectors.changes import Append
from arrowstream.frame import StreamFrame
from arrowstream.schedule.progress import BatchReport
from arrowstream.sources._listing import Found, Listing
from arrowstream.sources.files import FileSource
from benchmarks.nexmark.queries import QUERIES, ysb

DELAY = "4s"
"""By how much the watermark is behind the highest time seen."""

_STREAMS = ("person", "auction", "bid")

_RESULT = "result"


@dataclass(frozen=True, slots=True)
class Measured:
    """A run. Seconds count from when the sources are open; `cpu_seconds` and `peak_rss_mb` are of all its processes.

    Batches are those that had rows, in ms; the tenths are means of the first and of the last of them, `closing_ms` is
    what came after the last (windows that the end of the streams closes). State is that of the last batch with rows.
    """

    query: str
    events: int
    seconds: float
    events_per_second: int
    cpu_seconds: float
    peak_rss_mb: int
    batches: int
    p50_ms: float
    p99_ms: float
    first_tenth_ms: float
    last_tenth_ms: float
    closing_ms: float
    state_rows: int
    state_bytes: int
    rows_out: int
    dead_letters: int
    workers: int
    files_per_batch: int

    def json(self) -> str:
        return json.dumps(asdict(self))


def run(query: str, data: Path, *, files_per_batch: int = 1, workers: int = 0, out: Path | None = None) -> Measured:
    """Run a query to its end; the result goes to `out` as Parquet, the live rows of one that updates rows."""
    _warm_up()
    with context(workers) as ctx:
        frame = read(ctx, query, data, files_per_batch)
        if out is None:
            frame.write.null(name=_RESULT)
        elif isinstance(frame.kind, Append):
            empty(out)
            frame.write.parquet(out, name=_RESULT)
        else:
            frame.write.memory(_RESULT)
        measured = _measure(ctx, query, count_events(query, data), files_per_batch)
        if out is not None and not isinstance(frame.kind, Append):
            empty(out)
            ctx.sql(f"FROM {_RESULT}").pl().write_parquet(out / "part-00000.parquet")
    return measured


def result(query: str, data: Path, *, files_per_batch: int = 1, cluster: Cluster | None = None) -> pl.DataFrame:
    """What a query gives in the end; for comparisons. Raises `AssertionError` where rows were turned away."""
    with context(cluster=cluster) as ctx:
        read(ctx, query, data, files_per_batch).write.memory(_RESULT)
        ctx.run(timeout=600)
        if ctx.progress.dead_letters:
            raise AssertionError(f"{query} turned rows away: {ctx.dead_letters.pl().head(3).rows(named=True)}")
        return ctx.sql(f"FROM {_RESULT}").pl()


@contextmanager
def context(workers: int = 0, cluster: Cluster | None = None) -> Iterator[ars.StreamingContext]:
    """Batches follow each other at once, and nothing but the sources says how large they are."""
    limits = {"memory": "16GB", "max_batch_size": "1TB"}
    made = {"workers": workers} if cluster is None else {"cluster": cluster}
    with ars.StreamingContext("1ms", **limits, **made) as ctx:  # type: ignore[arg-type]
        yield ctx


def read(ctx: ars.StreamingContext, query: str, data: Path, files_per_batch: int) -> StreamFrame:
    """The frame of a query over the files of a directory."""

    def stream(name: str, time: str) -> StreamFrame:
        return ctx.read.open(FilesByName(data / name, files_per_batch), name=name).with_watermark(time, DELAY)

    if query == "ysb":
        return ysb(stream("ysb", "event_time"), pl.read_parquet(data / "ysb_campaigns.parquet"))
    person, auction, bid = (stream(name, "dateTime") for name in _STREAMS)
    return QUERIES[query](person, auction, bid, pl.read_parquet(data / "side_input.parquet"))


class FilesByName(FileSource):
    """The Parquet files of a directory in the order of their names, so many a batch.

    Copied files have any time of modification, by which a `FileSource` goes.
    """

    def __init__(self, directory: Path, files_per_batch: int) -> None:
        rows = rows_of_files(directory)
        most = max(sum(rows[place : place + files_per_batch]) for place in range(len(rows)))
        super().__init__(
            directory, watch=False, format="parquet", max_rows_per_poll=max(most, 1), max_rows_per_batch=max(most, 1)
        )
        self.listing = _ByName(self.listing.root, self.listing.pattern, endings=self.listing.endings)


class _ByName(Listing):
    def look(self, split: int = 0) -> Found:
        found = super().look(split)
        found.entries.sort(key=lambda entry: entry.name)
        return found


def rows_of_files(directory: Path) -> list[int]:
    """The number of rows of each file, in the order of their names."""
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise SystemExit(
            f"there are no files in {directory}: python -m benchmarks.nexmark generate --out {directory.parent}"
        )
    return [int(pq.read_metadata(file).num_rows) for file in files]


def count_events(query: str, data: Path) -> int:
    """The events of the data set, whether a query reads them all or not."""
    return sum(sum(rows_of_files(data / name)) for name in (("ysb",) if query == "ysb" else _STREAMS))


def empty(out: Path) -> None:
    """Make room for a result: what an earlier run has put there goes away. `SystemExit` where it is something else."""
    out.mkdir(parents=True, exist_ok=True)
    if strange := [path.name for path in out.iterdir() if path.suffix != ".parquet"]:
        raise SystemExit(f"{out} holds {strange[0]!r}, which is no result of a query: give another directory")
    log = out.parent / f".{out.name}.arrowstream"
    for path in [*out.iterdir(), *sorted(log.rglob("*"), reverse=True)]:
        path.rmdir() if path.is_dir() else path.unlink()


def _warm_up() -> None:
    """A trifle before the clock starts, as for the peers: modules are loaded when they are first used."""
    with context() as ctx:
        ctx.read.rate(1, rows=1).group_by("value").agg(pl.len()).write.null()
        ctx.run()


def _measure(ctx: ars.StreamingContext, query: str, events: int, files_per_batch: int) -> Measured:
    reports: list[BatchReport] = []
    ctx.listen(reports.append)
    cpu = _cpu_seconds(ctx)
    began = time.perf_counter()
    ctx.start()
    opened = time.perf_counter()
    if ctx.settings.cluster.workers:
        cpu = _cpu_seconds(ctx)  # the start of workers is none of the query's
    else:
        opened = began
    ctx.await_termination()
    seconds = time.perf_counter() - opened
    cpu, peak = _cpu_seconds(ctx) - cpu, _peak_bytes()
    ctx.stop()
    full = [report for report in reports if report.rows_in]
    took = [report.seconds * 1000 for report in full]
    tenth = max(len(took) // 10, 1)
    return Measured(
        query=query,
        events=events,
        seconds=round(seconds, 4),
        events_per_second=round(events / seconds),
        cpu_seconds=round(cpu, 3),
        peak_rss_mb=round(peak / 2**20),
        batches=len(full),
        p50_ms=round(float(np.percentile(took, 50)), 2),
        p99_ms=round(float(np.percentile(took, 99)), 2),
        first_tenth_ms=round(float(np.mean(took[:tenth])), 2),
        last_tenth_ms=round(float(np.mean(took[-tenth:])), 2),
        closing_ms=round(sum(report.seconds for report in reports[reports.index(full[-1]) + 1 :]) * 1000, 2),
        state_rows=full[-1].state_rows,
        state_bytes=full[-1].state_bytes,
        rows_out=ctx.progress.rows_out.get(_RESULT, 0),
        dead_letters=ctx.progress.dead_letters,
        workers=ctx.settings.cluster.workers,
        files_per_batch=files_per_batch,
    )


def _processes() -> Sequence[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_seconds(ctx: ars.StreamingContext) -> float:
    return float(sum(times.user + times.system for times in (process.cpu_times() for process in _processes())))


def _peak_bytes() -> int:
    """The highest memory of each process so far, summed."""
    total = 0
    for process in _processes():
        status = Path(f"/proc/{process.pid}/status").read_text()
        total += next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return total
