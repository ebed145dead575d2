"""Dead letters: records and rows that are no part of any result, with the reason."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.plain import whole
from arrowstream.connectors.sink import Receipt, Refused
from arrowstream.connectors.view import TableView
from arrowstream.operators.moment import Late

DEAD_LETTERS = "dead_letters"
"""The name under which SQL finds them."""

_TIME = pa.timestamp("us", "UTC")

DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("batch", pa.int64()),
        ("source", pa.large_string()),
        ("split", pa.large_string()),
        ("raw", pa.large_binary()),
        ("reason", pa.large_string()),
        ("operator", pa.large_string()),
        ("event_time", _TIME),
        ("watermark", _TIME),
        ("window_start", _TIME),
        ("window_end", _TIME),
    ]
)
"""The batch that met the record, where it came from, its bytes (of a row its JSON), and why it is part of no result.

Of a row that an operator turned away: which one, and the row's time, the watermark it was judged by and the window
that had closed. Times on integer columns are in the reason only.
"""

KEPT_ROWS = 100_000
"""Dead letters kept for queries; beyond, the oldest go (their count stays)."""

KEPT_BYTES = 32 << 20
"""Bytes of dead letters kept: a file that is no table must not fill the memory with its lines."""


def dead_letters(batch: int, source: str, split: str, rejects: pa.Table) -> pa.Table:
    """Rejected records of one block as `DEAD_LETTER_SCHEMA`."""
    rows = rejects.num_rows
    columns = [
        pa.repeat(pa.scalar(batch, pa.int64()), rows),
        pa.repeat(pa.scalar(source, pa.large_string()), rows),
        pa.repeat(pa.scalar(split, pa.large_string()), rows),
        rejects.column("raw").cast(pa.large_binary()),
        rejects.column("reason").cast(pa.large_string()),
        *(pa.nulls(rows, field.type) for field in list(DEAD_LETTER_SCHEMA)[5:]),
    ]
    return pa.table(columns, schema=DEAD_LETTER_SCHEMA)


def late_letters(batch: int, late: Late) -> pa.Table:
    """Rows that an operator turned away as `DEAD_LETTER_SCHEMA`."""
    times = [late.details[name] for name in ("time", "watermark", "window_start", "window_end")]
    if late.temporal:
        reasons = pl.Series([late.reason]).new_from_index(0, late.rows.height)
        shown = [series.cast(pl.Datetime("us", "UTC")) for series in times]
    else:
        names = ("time {}", "watermark {}", "window from {}", "to {}")
        parts = [
            pl.when(pl.col(series.name).is_not_null()).then(pl.lit(", ") + pl.format(name, pl.col(series.name)))
            for name, series in zip(names, times, strict=True)
        ]
        reasons = (
            late.details.rechunk().select(pl.concat_str(pl.lit(late.reason), *parts, ignore_nulls=True)).to_series()
        )
        shown = [pl.Series([None], dtype=pl.Datetime("us", "UTC")).new_from_index(0, late.rows.height)] * 4
    frame = pl.select(
        pl.lit(batch, pl.Int64).alias("batch"),
        pl.lit(late.source).alias("source"),
        pl.lit(late.split).alias("split"),
        as_json(late.rows).cast(pl.Binary).alias("raw"),
        reasons.alias("reason"),
        pl.lit(late.operator).alias("operator"),
        *(series.alias(name) for name, series in zip(DEAD_LETTER_SCHEMA.names[6:], shown, strict=True)),
    )
    return frame.to_arrow().cast(DEAD_LETTER_SCHEMA)


def refused_letters(batch: int, output: str, refused: Refused) -> pa.Table:
    """Rows that the target of an output did not take as `DEAD_LETTER_SCHEMA`; the output stands in `operator`."""
    frame = pl.select(
        pl.lit(batch, pl.Int64).alias("batch"),
        as_json(pl.DataFrame(pl.from_arrow(whole(refused.rows)))).cast(pl.Binary).alias("raw"),
        pl.Series("reason", refused.reasons, pl.String),
        pl.lit(f"output {output}").alias("operator"),
    )
    rows = frame.to_arrow()
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in DEAD_LETTER_SCHEMA
    ]
    return pa.table(columns, schema=DEAD_LETTER_SCHEMA)


def as_json(rows: pl.DataFrame) -> pl.Series:
    """Each row as a JSON object; types that JSON does not know as text."""
    known = (pl.String, pl.Boolean, pl.List, pl.Struct)
    plain = [
        pl.col(name)
        if (dtype.is_numeric() and not dtype.is_decimal()) or isinstance(dtype, known)
        else _text(name, dtype)
        for name, dtype in rows.schema.items()
    ]
    return rows.select(pl.struct(plain).struct.json_encode()).to_series()


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Binary):
        return pl.col(name).bin.encode("base64")
    return pl.col(name).cast(pl.String, strict=False)


class DeadLetters:
    """The dead letters of a context's units; any thread may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: deque[pa.Table] = deque()
        self._kept = self._bytes = 0
        self.total = 0
        """Dead letters since the start, also those no longer kept."""

    def commit(self, receipts: Sequence[Receipt]) -> None:
        """Take in those of a committed batch."""
        tables = [changes.rows for receipt in receipts for changes in receipt.changes]
        with self._lock:
            for table in tables:
                self.total += table.num_rows
                self._keep(_last_of(table))

    def _keep(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._kept += table.num_rows
        self._bytes += table.nbytes
        while (self._kept > KEPT_ROWS or self._bytes > KEPT_BYTES) and len(self._tables) > 1:
            oldest = self._tables.popleft()
            self._kept -= oldest.num_rows
            self._bytes -= oldest.nbytes

    def view(self) -> TableView:
        with self._lock:
            return TableView(DEAD_LETTER_SCHEMA, tuple(self._tables))


def _last_of(table: pa.Table) -> pa.Table:
    """As many of the last rows as are kept; a copy, so that the others are let go."""
    if table.num_rows <= KEPT_ROWS and table.nbytes <= KEPT_BYTES:
        return table
    rows = max(1, min(KEPT_ROWS, table.num_rows * KEPT_BYTES // max(table.nbytes, 1)))
    return pa.concat_tables([table.slice(table.num_rows - rows).combine_chunks()]).take(pa.array(range(rows)))


def receipt_of(tables: Sequence[pa.Table]) -> Receipt:
    """The receipt that carries a task's dead letters to the driver."""
    return Receipt(changes=tuple(ChangeBatch(table) for table in tables))
