"""What a running context tells of itself: a report per batch, and sums."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from arrowstream.ids import UnitId

KEPT_REPORTS = 1000
"""Reports kept per context: a few minutes at the usual intervals, and small."""


_COLUMNS: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "unit": pl.String,
    "batch": pl.Int64,
    "time": pl.Float64,
    "rows_in": pl.Int64,
    "dead_letters": pl.Int64,
    "rows_out": pl.Int64,
    "seconds": pl.Float64,
    "run_seconds": pl.Float64,
    "lag": pl.Float64,
    "waiting_rows": pl.Int64,
    "waiting_bytes": pl.Int64,
    "state_rows": pl.Int64,
    "state_bytes": pl.Int64,
    "attempts": pl.Int64,
    "lost_rows": pl.Int64,
    "degraded_blocks": pl.Int64,
    "degraded_partitions": pl.Int64,
    "watermark": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One committed batch.

    `rows_in` came from the sources. `dead_letters` are records that were no rows and rows that were turned away;
    `fates` counts them by the reason: "malformed", "no event time", "too far ahead", "late". Beside these it counts as
    "partly late" rows that came too late for some of their windows, and are no less part of the result. `rows_out` are
    changes written, by output. `seconds` from allotment to commit, `run_seconds` of it in tasks; `lag` from the arrival
    of the batch's first row to the commit. `waiting_rows` were not worked off when it was committed. `lost_rows` were
    on workers that died, with no copy anywhere (only with replication=1, or before they were acknowledged).
    `degraded_blocks` were on fewer workers than `replication` asks for when it was committed, and so was the state of
    `degraded_partitions`: one more loss could lose them.
    `watermark` is the least of the unit after the batch, None before there is one and when all inputs have ended.
    """

    unit: UnitId
    batch: int
    time: float
    rows_in: int
    dead_letters: int
    rows_out: Mapping[str, int]
    seconds: float
    run_seconds: float
    lag: float
    waiting_rows: int
    waiting_bytes: int
    state_rows: int
    state_bytes: int
    attempts: int
    lost_rows: int = 0
    degraded_blocks: int = 0
    degraded_partitions: int = 0
    fates: Mapping[str, int] = field(default_factory=dict)
    watermark: datetime | int | None = None


@dataclass(slots=True)
class Progress:
    """The reports of the last batches and the sums of all; `notes` are what a user should know (a source that is
    tried again, a worker lost). `lost_rows` counts at once, also before a batch reports them."""

    reports: deque[BatchReport] = field(default_factory=lambda: deque(maxlen=KEPT_REPORTS))
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_REPORTS))
    batches: int = 0
    rows_in: int = 0
    dead_letters: int = 0
    rows_out: dict[str, int] = field(default_factory=dict)
    lost_rows: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, report: BatchReport) -> None:
        """Take in a batch; each unit's driver calls it from its own thread."""
        with self._lock:
            self.reports.append(report)
            self.batches += 1
            self.rows_in += report.rows_in
            self.dead_letters += report.dead_letters
            for name, rows in report.rows_out.items():
                self.rows_out[name] = self.rows_out.get(name, 0) + rows

    @property
    def last(self) -> BatchReport | None:
        """The newest batch."""
        return self.reports[-1] if self.reports else None

    def to_frame(self) -> pl.DataFrame:
        """The reports as a table, a row per batch, to look at or to plot; `rows_out` is summed over outputs."""
        rows = [
            {name: getattr(report, name) for name in _COLUMNS}
            | {"rows_out": sum(report.rows_out.values())}
            | {"watermark": report.watermark if isinstance(report.watermark, datetime) else None}
            for report in list(self.reports)
        ]
        return pl.DataFrame(rows, schema=_COLUMNS)

    def __iter__(self) -> Iterator[BatchReport]:
        return iter(list(self.reports))

    def __repr__(self) -> str:
        last = self.last
        line = f"{self.batches} batches, {self.rows_in:,} rows in, {sum(self.rows_out.values()):,} out"
        if self.dead_letters:
            line += f", {self.dead_letters:,} dead letters"
        if self.lost_rows:
            line += f", {self.lost_rows:,} LOST"
        if last is not None:
            line += f"; last batch {last.seconds * 1000:.1f} ms, lag {last.lag * 1000:.0f} ms"
        return f"<Progress: {line}>"
