"""The three streams of the NEXMark benchmark, made up as they are read: bids, auctions, and the persons in them."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from arrowstream.connectors.source import EndOfStream, Offset, Reference
from arrowstream.errors import PlanError
from arrowstream.sources._nexmark import (
    ROW_BYTES,
    SCHEMAS,
    START_MS,
    Generator,
    event_of_row,
    rows_before,
)

Stream = Literal["person", "auction", "bid"]

_MOST = 1_000_000  # rows of one poll, so that a pause is made up for in pieces

_PIECE = 250_000  # events that a scan makes at a time


class NexmarkSource:
    """Rows of one of NEXMark's streams: of every fifty events one is a person, three are auctions, and the rest bids.

    stream              "person", "auction" or "bid". The three of the same `rate`, `seed` and `start` belong together
    rate                events of all three streams in a second, of event time and by the wall clock
    events              the streams end after so many events, together; without it, never
    seed                other seeds give other events
    start               the event time of event 0; 2015-07-15 unless given
    max_rows_per_batch  the most rows that one batch takes

    The column `seq` is the event's number, and what event n holds depends on it, the rate and the seed alone: the
    source is replayable, and its position an event number. Rows are made where they are needed, and only the columns
    that are used. After a stop, events are due from the moment of the new opening.
    """

    replayable = True

    def __init__(
        self,
        stream: Stream,
        rate: float = 10_000,
        events: int | None = None,
        seed: int = 42,
        *,
        start: datetime | None = None,
        max_rows_per_batch: int | None = None,
    ) -> None:
        if stream not in get_args(Stream):
            raise PlanError(f"NEXMark has no stream {stream!r}; it has: {', '.join(get_args(Stream))}")
        if not 0 < rate < float("inf"):
            raise PlanError(f"rate={rate} is not above 0")
        if events is not None and events < 0:
            raise PlanError(f"events={events} is below 0")
        if max_rows_per_batch is not None and max_rows_per_batch < 1:
            raise PlanError(f"max_rows_per_batch={max_rows_per_batch} is below 1")
        self.stream, self.rate, self.events, self.max_rows_per_batch = stream, rate, events, max_rows_per_batch
        self.generator = Generator(seed, rate, START_MS if start is None else _milliseconds(start))
        self._paced = True
        self.frame_schema = SCHEMAS[stream]
        self.schema: pa.Schema = self.frame_schema.to_arrow()

    def splits(self) -> Sequence[str]:
        return [self.stream]

    def open(self, split: str, resume: Offset | None) -> NexmarkReader:
        return NexmarkReader(self, _event(resume))

    def bounded(self) -> NexmarkSource:
        """All `events` at once, without waiting for the clock; raises `PlanError` where their number is not given."""
        if self.events is None:
            raise PlanError("this stream never ends: give events=, the number of events after which it does")
        bounded = copy.copy(self)
        bounded._paced = False
        return bounded

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        first, last = _event(start), _event(stop)

        def pieces(
            columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, size: int | None
        ) -> Iterator[pl.DataFrame]:
            for event in range(first, max(last, first + 1), _PIECE):
                frame = self.generator.frame(self.stream, event, min(event + _PIECE, last), columns)
                if rows is not None:
                    frame = frame.head(rows)
                    rows -= frame.height
                yield frame if predicate is None else frame.filter(predicate)
                if rows == 0:
                    return

        return register_io_source(pieces, schema=self.frame_schema, is_pure=True, explain_name=repr(self))

    def due(self, seconds: float) -> int:
        """How many events are due so many seconds after the opening."""
        return int(seconds * self.rate) if self._paced else self.events or 0

    def __repr__(self) -> str:
        return f"NexmarkSource({self.stream}, {self.rate:g} events/s)"


class NexmarkReader:
    """The rows that have become due since the opening, by the clock `now` (seconds)."""

    def __init__(self, source: NexmarkSource, position: int, now: Callable[[], float] = time.monotonic) -> None:
        self._source, self._now = source, now
        self._first = self._next = position
        self._opened = now()
        self._closed = threading.Event()

    def poll(self, timeout: float) -> Reference | None:
        source, deadline = self._source, time.monotonic() + timeout
        while not self._closed.is_set():
            row = rows_before(source.stream, self._next)
            next_event = event_of_row(source.stream, row)
            if source.events is not None and next_event >= source.events:
                break
            seconds = self._now() - self._opened
            due = self._first + source.due(seconds)
            if source.events is not None:
                due = min(due, source.events)
            if next_event < due:
                limit = min(source.max_rows_per_batch or _MOST, _MOST)
                self._next = min(due, event_of_row(source.stream, row + limit))
                count = rows_before(source.stream, self._next) - row
                return Reference(count, count * ROW_BYTES[source.stream])
            if (left := deadline - time.monotonic()) <= 0:
                return None
            # Rounded up by a millisecond: a wait that ends just before the event is due would spin.
            self._closed.wait(min(left, (next_event + 1 - self._first) / source.rate - seconds + 0.001))
        raise EndOfStream

    def position(self) -> Offset:
        return self._next

    def acknowledge(self, offset: Offset) -> None:
        """Nothing to let go of."""

    def close(self) -> None:
        self._closed.set()


def _event(position: Offset | None) -> int:
    return position if isinstance(position, int) else 0


def _milliseconds(time: datetime) -> int:
    """Since the epoch; a time without a zone is taken for UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
