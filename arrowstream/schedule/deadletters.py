"""Dead letters: records and rows that are no part of any result, with the reason."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.sink import Receipt
from arrowstream.connectors.view import TableView

DEAD_LETTERS = "dead_letters"
"""The name under which SQL finds them."""

DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("batch", pa.int64()),
        ("source", pa.large_string()),
        ("split", pa.large_string()),
        ("raw", pa.large_binary()),
        ("reason", pa.large_string()),
    ]
)
"""The batch that met the record, where it came from, its bytes, and why it is no row."""

KEPT_ROWS = 1_000_000
"""Dead letters kept for queries; beyond, the oldest go (their count stays)."""


def dead_letters(batch: int, source: str, split: str, rejects: pa.Table) -> pa.Table:
    """Rejected records of one block as `DEAD_LETTER_SCHEMA`."""
    rows = rejects.num_rows
    columns = [
        pa.repeat(pa.scalar(batch, pa.int64()), rows),
        pa.repeat(pa.scalar(source, pa.large_string()), rows),
        pa.repeat(pa.scalar(split, pa.large_string()), rows),
        rejects.column("raw").cast(pa.large_binary()),
        rejects.column("reason").cast(pa.large_string()),
    ]
    return pa.table(columns, schema=DEAD_LETTER_SCHEMA)


class DeadLetters:
    """The dead letters of a context's units; any thread may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: deque[pa.Table] = deque()
        self._kept = 0
        self.total = 0
        """Dead letters since the start, also those no longer kept."""

    def commit(self, receipts: Sequence[Receipt]) -> None:
        """Take in those of a committed batch."""
        tables = [changes.rows for receipt in receipts for changes in receipt.changes]
        with self._lock:
            for table in tables:
                self._tables.append(table)
                self._kept += table.num_rows
                self.total += table.num_rows
            while self._kept > KEPT_ROWS and len(self._tables) > 1:
                self._kept -= self._tables.popleft().num_rows

    def view(self) -> TableView:
        with self._lock:
            return TableView(DEAD_LETTER_SCHEMA, tuple(self._tables))


def receipt_of(tables: Sequence[pa.Table]) -> Receipt:
    """The receipt that carries a task's dead letters to the driver."""
    return Receipt(changes=tuple(ChangeBatch(table) for table in tables))
