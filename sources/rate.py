"""Rows made up at a steady rate, to try things with: what row n holds depends on n alone."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import polars as pl
import pyarrow as pa

from arrowstream.connectors.source import EndOfStream, Offset
from arrowstream.errors import PlanError, SourceError

Generate: TypeAlias = Callable[[int, int], pl.DataFrame]
"""Rows `first` to `first + count - 1`, counted from 0: exactly `count` of them, the same each time."""

_MOST = 1_000_000  # rows of one poll, so that a pause is made up for in pieces

_SPLIT = "rate"


class RateSource:
    """Rows `timestamp` (Datetime, UTC, microseconds) and `value` (Int64): row n is `start + n / rate` and n.

    rows_per_second     how many rows become due in a second, by the wall clock
    rows                the stream ends after so many; without it, never
    start               the event time of row 0; now unless given. It is fixed here, so that a replay gives the same
    max_rows_per_batch  the most rows that one batch takes
    generate            a function of (first, count) that gives the rows instead. It is called with (0, 0) now, to
                        learn the schema, and has to be a function of its arguments alone

    Replayable: the position is the number of rows. After a stop, rows are due from the moment of the new opening.
    """

    replayable = True

    def __init__(
        self,
        rows_per_second: float,
        rows: int | None = None,
        *,
        start: datetime | None = None,
        max_rows_per_batch: int | None = None,
        generate: Generate | None = None,
    ) -> None:
        if not 0 < rows_per_second < float("inf"):
            raise PlanError(f"rows_per_second={rows_per_second} is not above 0")
        if rows is not None and rows < 0:
            raise PlanError(f"rows={rows} is below 0")
        if max_rows_per_batch is not None and max_rows_per_batch < 1:
            raise PlanError(f"max_rows_per_batch={max_rows_per_batch} is below 1")
        self.rows_per_second, self.rows, self.max_rows_per_batch = rows_per_second, rows, max_rows_per_batch
        self.start = (start or datetime.now(UTC)).astimezone(UTC)
        self._generate = generate
        self._paced = True
        self._frame_schema = self._make(0, 0).schema
        self.schema: pa.Schema = self._frame_schema.to_arrow()

    def splits(self) -> Sequence[str]:
        return [_SPLIT]

    def open(self, split: str, resume: Offset | None) -> RateReader:
        return RateReader(self, _row(resume))

    def bounded(self) -> RateSource:
        """All `rows` at once, without waiting for the clock; raises `PlanError` where their number is not given."""
        if self.rows is None:
            raise PlanError("this rate source never ends: give rows=, the number of rows after which it does")
        bounded = copy.copy(self)
        bounded._paced = False
        return bounded

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        first = _row(start)
        return self.frame(first, _row(stop) - first).lazy()

    def frame(self, first: int, count: int) -> pl.DataFrame:
        """Rows `first` to `first + count - 1`. Raises `SourceError` where `generate` gives something else."""
        frame = self._make(first, count)
        if frame.height != count or frame.schema != self._frame_schema:
            raise SourceError(
                f"generate({first}, {count}) gave {frame.height} rows of {dict(frame.schema)};"
                f" {count} of {dict(self._frame_schema)} are asked for"
            )
        return frame

    def due(self, seconds: float) -> int:
        """How many rows are due so many seconds after the opening."""
        return int(seconds * self.rows_per_second) if self._paced else self.rows or 0

    def _make(self, first: int, count: int) -> pl.DataFrame:
        if self._generate is not None:
            return self._generate(first, count)
        value = pl.int_range(first, first + count, dtype=pl.Int64, eager=True).alias("value")
        rate = self.rows_per_second
        if rate == int(rate):
            micros = value * 1_000_000 // int(rate)
        else:
            micros = (value * (1_000_000 / rate)).cast(pl.Int64)
        epoch = (self.start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        timestamp = (micros + epoch).cast(pl.Datetime("us", "UTC")).alias("timestamp")
        return pl.DataFrame([timestamp, value])

    def __repr__(self) -> str:
        return f"RateSource({self.rows_per_second:g} rows/s)"


class RateReader:
    """The rows that have become due since the opening, by the clock `now` (seconds)."""

    def __init__(self, source: RateSource, position: int, now: Callable[[], float] = time.monotonic) -> None:
        self._source, self._now = source, now
        self._first = self._next = position
        self._opened = now()
        self._closed = threading.Event()

    def poll(self, timeout: float) -> pa.RecordBatch | None:
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            if self._source.rows is not None and self._next >= self._source.rows:
                break
            seconds = self._now() - self._opened
            if count := self._due(seconds):
                table = self._source.frame(self._next, count).to_arrow(compat_level=pl.CompatLevel.newest())
                self._next += count
                return pa.record_batch([column.combine_chunks() for column in table.columns], self._source.schema)
            if (left := deadline - time.monotonic()) <= 0:
                return None
            # Rounded up by a millisecond: a wait that ends just before the row is due would spin.
            to_next = (self._next - self._first + 1) / self._source.rows_per_second - seconds + 0.001
            self._closed.wait(min(left, to_next))
        raise EndOfStream

    def position(self) -> Offset:
        return self._next

    def acknowledge(self, offset: Offset) -> None:
        """Nothing to let go of."""

    def close(self) -> None:
        self._closed.set()

    def _due(self, seconds: float) -> int:
        last = self._first + self._source.due(seconds)
        if self._source.rows is not None:
            last = min(last, self._source.rows)
        return min(max(last - self._next, 0), self._source.max_rows_per_batch or _MOST, _MOST)


def _row(position: Offset | None) -> int:
    return position if isinstance(position, int) else 0
