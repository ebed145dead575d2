"""What the engine asks of every structure of state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import polars as pl
import pyarrow as pa


class StateTable(Protocol):
    """Rows that an operator remembers, changed a version at a time.

    `keys` are the columns by which the rows of a delta are put in or, marked `DELETED`, taken out. What was changed
    since the last `commit` is the open version: `delta` shows it, `rollback` undoes it.
    """

    @property
    def keys(self) -> pl.Schema: ...

    def __len__(self) -> int: ...

    def memory_bytes(self) -> int: ...

    def delta(self) -> pa.Table: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def snapshot(self) -> pa.Table: ...

    def restore(self, tables: Iterable[pa.Table]) -> None: ...
