"""What SQL sees of a sink's output at one instant."""

from __future__ import annotations

import os
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
    database    for an output that lives in DuckDB; `rows` and `files` are then empty
    directory   where the files lie, at any depth, also those to come; statements can read all of it
    """

    schema: pa.Schema
    rows: tuple[pa.Table, ...] = ()
    files: tuple[str, ...] = ()
    database: DatabaseTable | None = None
    partitions: tuple[str, ...] = ()
    directory: str | None = None

    @property
    def directories(self) -> frozenset[str]:
        """Where the files lie."""
        if self.directory is not None:
            return frozenset((self.directory,))
        return frozenset(os.path.dirname(file) for file in self.files)


@dataclass(frozen=True, slots=True)
class DatabaseTable:
    """A table of a DuckDB database that this process has open, or opens for the length of a query.

    `with table.cursor() as cursor:` the database stays attached to the instance behind the cursor, where the table has
    the quoted, qualified name. With a `key`, that of the hub for the database, the statement of a user runs in that
    instance, locked down; without one, the rows are copied.
    """

    path: str
    qualified_name: str
    cursor: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]] = field(compare=False)
    key: str | None = None
