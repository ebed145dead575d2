"""Rows that the program itself sends: for tests, notebooks, and time by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.schema import SchemaLike, polars_schema
from arrowstream.connectors.source import EndOfStream, Offset
from arrowstream.errors import ColumnError, ContextError, PlanError, SourceError, kind_of, unknown_column
from arrowstream.sources._handover import Address, HeldRows, Rows

_SPLIT = "memory"


class MemorySource:
    """A stream of what is given to `send`.

    schema              names and Polars types, a `pl.Schema`, or a `pa.Schema`
    max_rows_per_batch  the most rows that one batch takes

    Replayable: all that was sent is kept, in this process; the position is the number of rows. The description can
    be pickled: worker processes read the rows from this one, over loopback, for as long as it lives. Only here,
    where the source was made, can rows be sent.

        clicks = MemorySource({"user": pl.String, "n": pl.Int64})
        clicks.send([{"user": "ann", "n": 1}])
        clicks.end()
    """

    replayable = True

    def __init__(self, schema: SchemaLike, *, max_rows_per_batch: int | None = None) -> None:
        if max_rows_per_batch is not None and max_rows_per_batch < 1:
            raise PlanError(f"max_rows_per_batch={max_rows_per_batch} is below 1")
        self.max_rows_per_batch = max_rows_per_batch
        self._frame_schema = polars_schema(schema)
        self.schema: pa.Schema = self._frame_schema.to_arrow()
        self._held: HeldRows | None = HeldRows(self.schema)
        self._address: Address | None = None
        self._bounded = False

    def send(self, rows: pl.DataFrame | pa.Table | Sequence[Mapping[str, Any]]) -> int:
        """Append rows; gives the number of rows sent so far. Any thread may call it.

        Columns are found by name; a dict may leave some out (null). Raises `ColumnError` for a column that is
        not there or has another type, `ContextError` after `end`, in another process, and once the run that reads
        the source has failed (until another begins).
        """
        if self._held is None:
            raise ContextError("this is a copy of a MemorySource: send where the source was made")
        frame = self._checked(rows)
        try:
            return self._held.append(frame)
        except ValueError as error:
            raise ContextError(f"nothing can be sent to this MemorySource: {error}") from error

    def end(self) -> None:
        """No more rows will be sent: the stream ends after those that were. Twice is once."""
        if self._held is None:
            raise ContextError("this is a copy of a MemorySource: end it where it was made")
        self._held.end()

    def run_failed(self, reason: str | None) -> None:
        if self._held is not None:
            self._held.failed = reason

    def splits(self) -> Sequence[str]:
        return [_SPLIT]

    def open(self, split: str, resume: Offset | None) -> MemoryReader:
        return MemoryReader(self._rows(), _row(resume), self.max_rows_per_batch, bounded=self._bounded)

    def bounded(self) -> MemorySource:
        """This source, ending once all is read that was sent by then. Rows sent to either go to both."""
        bounded = MemorySource.__new__(MemorySource)
        bounded.__dict__.update(self.__dict__, _bounded=True)
        return bounded

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        first, last = _row(start), _row(stop)
        rows = self._rows()
        try:
            found, _ = rows.read(first, last, 0) if last > first else (None, False)
        finally:
            rows.close()
        if (found.num_rows if found is not None else 0) != last - first:
            raise SourceError(f"rows {first} to {last} of a MemorySource are not there: what it held has gone with it")
        return pl.DataFrame(found, schema=self._frame_schema).lazy()

    def _rows(self) -> Rows:
        if self._held is not None:
            return self._held
        assert self._address is not None  # a copy has one
        return self._address.connect()

    def _checked(self, rows: pl.DataFrame | pa.Table | Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        schema = self._frame_schema
        if isinstance(rows, pl.DataFrame | pa.Table):
            frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows)
            for name in [*schema, *frame.columns]:
                if name not in frame.columns:
                    raise unknown_column(name, "the rows sent", frame.columns)
                if name not in schema:
                    raise unknown_column(name, "the source", schema)
                if frame.schema[name] != schema[name]:
                    raise ColumnError(f"column {name!r} is {frame.schema[name]} in the rows sent; it is {schema[name]}")
            return frame.select(schema.names())
        if not isinstance(rows, Sequence):
            raise ColumnError(f"{kind_of(rows)} is neither a Polars DataFrame, nor an Arrow table, nor a list of dicts")
        for name in {name: None for row in rows for name in row}:
            if name not in schema:
                raise unknown_column(name, "the source", schema)
        try:
            return pl.DataFrame(list(rows), schema=schema, strict=True)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise ColumnError(f"these rows are not of the source's types {dict(schema)}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        address = self._held.serve() if self._held is not None else self._address
        state = {**self.__dict__, "_held": None, "_address": address}
        return _copy, (state,)


def _copy(state: dict[str, Any]) -> MemorySource:
    """A `MemorySource` out of its pickle; in the process that made it, one that holds the same rows."""
    source = MemorySource.__new__(MemorySource)
    source.__dict__.update(state, _held=state["_address"].held())
    return source


class MemoryReader:
    """What was sent, from a position on."""

    def __init__(self, rows: Rows, position: int, most: int | None, *, bounded: bool) -> None:
        self._rows, self._next, self._most, self._bounded = rows, position, most, bounded
        self._closed = threading.Event()
        self._polling = threading.Lock()
        self._woken = False

    def poll(self, timeout: float) -> pa.RecordBatch | None:
        deadline = time.monotonic() + timeout
        with self._polling:
            while not self._closed.is_set():
                left = 0.0 if self._bounded or self._woken else max(deadline - time.monotonic(), 0.0)
                stop = None if self._most is None else self._next + self._most
                found, ended = self._rows.read(self._next, stop, left)
                if found is not None:
                    self._next += found.num_rows
                    return found
                if ended or self._bounded:
                    break
                if self._woken or time.monotonic() >= deadline:
                    self._woken = False
                    return None
        raise EndOfStream

    def position(self) -> Offset:
        return self._next

    def wake(self) -> None:
        """Have a poll that waits return; over a connection it hears so at the end of its step."""
        self._woken = True
        if isinstance(self._rows, HeldRows):
            self._rows.interrupt()

    def acknowledge(self, offset: Offset) -> None:
        """Nothing is let go of: the rows may be replayed."""

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._rows.interrupt()
        with self._polling:
            self._rows.close()


def _row(position: Offset | None) -> int:
    return position if isinstance(position, int) else 0
