"""What SQL sees of a sink's output at one instant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class TableView:
    """The rows of an output: those of whole Parquet files and those in memory, together.

    schema      the columns
    rows        Arrow tables in memory (an output that is held, or kept there at all)
    files       absolute paths of Parquet files, complete and never changed again
    partitions  columns that are in the names of the files' directories only, as Hive spells them (`day=2026-11-22/`)
    database    for an output that lives in DuckDB: opens a new cursor on the instance that holds it, and has the
                quoted, qualified name of the table there; `rows` and `files` are then empty
    """

    schema: pa.Schema
    rows: tuple[pa.Table, ...] = ()
    files: tuple[str, ...] = ()
    database: DatabaseTable | None = None
    partitions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabaseTable:
    """A table of a DuckDB database that this process has open, or opens for the length of a query.

    `with table.cursor() as cursor:` the database stays attached to the instance behind the cursor. Tables of equal
    `instance` can be named in one statement, on the cursor of any of them, while all their cursors are open.
    """

    path: str
    qualified_name: str
    cursor: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]] = field(compare=False)
    instance: int = 0
