"""Dead letters: records and rows that are no part of any result, with the reason."""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.plain import whole
from arrowstream.connectors.sink import Receipt, Refused
from arrowstream.connectors.source import REJECT_SCHEMA
from arrowstream.connectors.view import TableView
from arrowstream.errors import SHOWN_CHARACTERS
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
        ("path", pa.large_string()),
        ("line", pa.int64()),
        ("offset", pa.int64()),
        ("operator", pa.large_string()),
        ("event_time", _TIME),
        ("watermark", _TIME),
        ("window_start", _TIME),
        ("window_end", _TIME),
    ]
)
"""The batch that met the record, where it came from, its bytes (of a row its JSON), and why it is part of no result.

Of a record out of a file: the file, its line from 1 and the bytes before it, where the source knows them. Of a row
that an operator turned away: which one, and the row's time, the watermark it was judged by, and from the start of the
first to the end of the last of its windows that had closed. A row that is "partly late" counts in its other windows all
the same. Times on integer columns are in the reason only.
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
        *(rejects.column(field.name).cast(field.type) for field in REJECT_SCHEMA),
        *(pa.nulls(rows, field.type) for field in list(DEAD_LETTER_SCHEMA)[8:]),
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
        pl.lit(None, pl.String).alias("path"),
        pl.lit(None, pl.Int64).alias("line"),
        pl.lit(None, pl.Int64).alias("offset"),
        pl.lit(late.operator).alias("operator"),
        *(series.alias(name) for name, series in zip(DEAD_LETTER_SCHEMA.names[9:], shown, strict=True)),
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
    plain = [_plain(pl.col(name), dtype).alias(name) for name, dtype in rows.schema.items()]
    return rows.select(pl.struct(plain).struct.json_encode()).to_series()


def _plain(values: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Values as JSON has them; what it does not know as text, also in nests."""
    match dtype:
        case pl.String() | pl.Boolean() | pl.Null():
            return values
        case pl.Binary():
            return values.bin.encode("base64")
        case pl.Duration():
            return values.dt.to_string("iso")
        case pl.List(inner=inner):
            return values.list.eval(_plain(pl.element(), inner))  # type: ignore[arg-type]
        case pl.Array(inner=inner):
            return values.arr.to_list().list.eval(_plain(pl.element(), inner))  # type: ignore[arg-type]
        case pl.Struct(fields=fields):
            parts = [_plain(values.struct.field(at.name), at.dtype).alias(at.name) for at in fields]  # type: ignore[arg-type]
            return pl.when(values.is_not_null()).then(pl.struct(parts)) if parts else values.is_not_null()
    if dtype.is_float() or (dtype.is_integer() and not isinstance(dtype, pl.Int128 | pl.UInt128)):
        return values
    return values.cast(pl.String, strict=False)


class DeadLetters:
    """The dead letters of a context's units; any thread may read and ask for news."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: deque[pa.Table] = deque()
        self._kept = self._bytes = 0
        self.total = 0
        """Dead letters since the start, also those no longer kept."""
        self._reasons: Counter[str] = Counter()
        self._first: pa.Table | None = None
        self._since: float | None = None
        self._told = 0
        self._told_at: float | None = None

    def commit(self, receipts: Sequence[Receipt]) -> None:
        """Take in those of a committed batch."""
        tables = [changes.rows for receipt in receipts for changes in receipt.changes if changes.num_rows]
        if not tables:
            return
        with self._lock:
            for table in tables:
                self.total += table.num_rows
                self._count(table)
                self._keep(_last_of(table))
            self._first = self._first or tables[0].slice(0, 1)

    def _keep(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._kept += table.num_rows
        self._bytes += table.nbytes
        while (self._kept > KEPT_ROWS or self._bytes > KEPT_BYTES) and len(self._tables) > 1:
            oldest = self._tables.popleft()
            self._kept -= oldest.num_rows
            self._bytes -= oldest.nbytes

    def _count(self, table: pa.Table) -> None:
        counted = pl.Series("reason", table.column("reason")).value_counts(sort=True)
        for reason, count in counted.head(KEPT_REASONS).iter_rows():
            known = reason is not None and (reason in self._reasons or len(self._reasons) < KEPT_REASONS)
            self._reasons[reason if known else ""] += count
        self._reasons[""] += int(counted["count"].slice(KEPT_REASONS).sum())
        self._reasons += Counter()  # without those that are none

    def view(self) -> TableView:
        with self._lock:
            return TableView(DEAD_LETTER_SCHEMA, tuple(self._tables))

    def news(self, now: float, *, last: bool = False) -> str | None:
        """One line that says how many there are, why, and shows the first, if more have come since the line before.

        While it runs at most every `NEWS_SECONDS`, and not for what came just now: a short run says it once, at its
        `last`. `now` in seconds of a clock that goes steadily.
        """
        with self._lock:
            if self.total == self._told or self._first is None:
                return None
            self._since = now if self._since is None else self._since
            early = now - self._since < FIRST_NEWS_SECONDS
            if not last and (early or (self._told_at is not None and now - self._told_at < NEWS_SECONDS)):
                return None
            self._told, self._told_at = self.total, now
            return _sentence(self.total, self._reasons, self._first.to_pylist()[0])


KEPT_REASONS = 1000
"""Different reasons that are counted apart; each may hold a value of its record."""

FIRST_NEWS_SECONDS = 1.0
"""How long after the first dead letter a running context says so."""

NEWS_SECONDS = 60.0
"""How often a running context says that there are more."""

_SHOWN_REASONS = 3
_VALUES = re.compile(r"""'[^']*'|"[^"]*"|\b\d[\d.,:]*""")


def _sentence(total: int, reasons: Counter[str], first: dict[str, Any]) -> str:
    if len(reasons) > _SHOWN_REASONS:  # with the values of records in them: by what they have in common
        common: Counter[str] = Counter()
        for reason, count in reasons.items():
            common[_VALUES.sub("…", reason)] += count
        reasons = common
    shown = [
        f"{count:,} × {_short(reason or 'other reasons')}" for reason, count in reasons.most_common(_SHOWN_REASONS)
    ]
    if len(reasons) > _SHOWN_REASONS:
        shown.append(f"{total - sum(count for _, count in reasons.most_common(_SHOWN_REASONS)):,} others")
    them = "row is" if total == 1 else "rows are"
    place = letter_place(first)
    example = _short(decoded(first["raw"]))
    return (
        f"dead letters: {total:,} {them} in no result: {'; '.join(shown)}; the first, of {place}: {example} "
        "(all are in ctx.dead_letters)"
    )


def letter_place(letter: Mapping[str, Any]) -> str:
    """Where a dead letter came from: its source, and its place in a file where it is known."""
    place = str(letter["source"] or "several sources")
    if letter["path"] is not None:
        place += f", {letter['path']}"
    elif letter["split"] not in (None, "", letter["source"]):
        place += f", {letter['split']}"
    if letter["line"] is not None:
        return f"{place}, line {letter['line']}"
    return place if letter["offset"] is None else f"{place}, byte {letter['offset']}"


def decoded(raw: bytes | None) -> str:
    """The bytes of a record as text on one line; what is no UTF-8, or cannot be printed, is escaped."""
    text = (raw or b"").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _last_of(table: pa.Table) -> pa.Table:
    """As many of the last rows as are kept; a copy, so that the others are let go."""
    if table.num_rows <= KEPT_ROWS and table.nbytes <= KEPT_BYTES:
        return table
    rows = max(1, min(KEPT_ROWS, table.num_rows * KEPT_BYTES // max(table.nbytes, 1)))
    return pa.concat_tables([table.slice(table.num_rows - rows).combine_chunks()]).take(pa.array(range(rows)))


def receipt_of(tables: Sequence[pa.Table]) -> Receipt:
    """The receipt that carries a task's dead letters to the driver."""
    return Receipt(changes=tuple(ChangeBatch(table) for table in tables))
