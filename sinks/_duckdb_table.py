"""The statements that keep one table of a DuckDB database, and the number of its last batch beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import polars as pl
import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Upsert
from arrowstream.connectors.database import quoted, table_name
from arrowstream.errors import SinkError
from arrowstream.sinks._tables import WEIGHT, as_arrow, deletions_first, net, newest, repeated, weighted

BATCHES = "_arrowstream_batches"


class DuckDBTable:
    """A table of the database that a lease has. Every call is given its cursor and leaves transactions to the caller.

    Rows are replaced by deleting and inserting, without an index. Measured with 10,000 random keys in a table of 4 M
    rows: 47 ms (integer keys) and 110 ms (strings), against 130 and 195 ms with a primary key and ON CONFLICT, 82 and
    177 ms with MERGE on a primary key, 70 and 290 ms with an index; and a primary key takes no nulls, a UNIQUE one
    doubles them.
    """

    def __init__(self, table: str, schema: pa.Schema, kind: ChangeKind) -> None:
        self._name = table
        self._schema = schema
        self._kind = kind
        self._batches = table_name(BATCHES)
        self.qualified_name = table_name(table)

    def __str__(self) -> str:
        return f"table {self._name!r}"

    def prepare(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Make the table, or check that the one that is there fits; raises `SinkError` where it does not."""
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {self._batches} "
            "(sink VARCHAR, run VARCHAR, batch BIGINT, committed_at TIMESTAMP)"
        )
        with _registered(cursor, pa.Table.from_batches([], self._schema)) as rows:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.qualified_name} AS FROM {rows}")
            there, wanted = (_columns(cursor, table) for table in (self.qualified_name, rows))
        for column, kind in wanted.items():
            if column not in there:
                raise SinkError(f"{self} has no column {column!r}, which the stream has; it has: {', '.join(there)}")
            if there[column] != kind:
                raise SinkError(
                    f"column {column!r} of {self} is {there[column]} and of the stream {kind}: "
                    "cast the stream's column, or write to another table"
                )
        for column in there:
            if column not in wanted:
                raise SinkError(
                    f"{self} has a column {column!r}, which the stream has not; it has: {', '.join(wanted)}"
                )

    def last_batch(self, cursor: duckdb.DuckDBPyConnection, run: str) -> int | None:
        found = cursor.execute(
            f"SELECT max(batch) FROM {self._batches} WHERE sink = ? AND run = ?", [self._name, run]
        ).fetchone()
        return None if found is None or found[0] is None else int(found[0])

    def remember(self, cursor: duckdb.DuckDBPyConnection, run: str, batch_id: int) -> None:
        cursor.execute(f"DELETE FROM {self._batches} WHERE sink = ? AND run = ?", [self._name, run])
        cursor.execute(f"INSERT INTO {self._batches} VALUES (?, ?, ?, now()::TIMESTAMP)", [self._name, run, batch_id])

    def rows(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """How many rows there are."""
        found = cursor.execute(f"SELECT count(*) FROM {self.qualified_name}").fetchone()
        return 0 if found is None else int(found[0])

    def empty(self, cursor: duckdb.DuckDBPyConnection) -> None:
        cursor.execute(f"DELETE FROM {self.qualified_name}")

    def apply(self, cursor: duckdb.DuckDBPyConnection, batch: Sequence[ChangeBatch]) -> None:
        if not batch:
            return
        match self._kind:
            case Append():
                self._insert(cursor, pa.concat_tables([changes.rows for changes in batch]))
            case Upsert(keys):
                self._replace(cursor, newest(pl.concat(deletions_first(batch)), keys), keys)
            case _:
                self._add_up(cursor, net(pl.concat([weighted(changes) for changes in batch])))

    def _insert(self, cursor: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
        if table.num_rows:
            with _registered(cursor, table) as rows:
                cursor.execute(f"INSERT INTO {self.qualified_name} BY NAME FROM {rows}")

    def _replace(self, cursor: duckdb.DuckDBPyConnection, touched: pl.DataFrame, keys: Sequence[str]) -> None:
        live = touched.filter(pl.col(WEIGHT) > 0).drop(WEIGHT)
        if keys:
            self._delete_keys(cursor, as_arrow(touched.select(keys), _selected(self._schema, keys)), keys)
        else:
            self.empty(cursor)
        self._insert(cursor, as_arrow(live, self._schema))

    def _delete_keys(self, cursor: duckdb.DuckDBPyConnection, table: pa.Table, keys: Sequence[str]) -> None:
        with _registered(cursor, table) as rows:
            cursor.execute(f"DELETE FROM {self.qualified_name} AS t USING {rows} AS r WHERE {_same('t', 'r', keys)}")

    def _add_up(self, cursor: duckdb.DuckDBPyConnection, changes: pl.DataFrame) -> None:
        gone = changes.filter(pl.col(WEIGHT) < 0)
        if gone.height:
            self._delete_rows(cursor, gone)
        added = repeated(changes.filter(pl.col(WEIGHT) > 0))
        self._insert(cursor, as_arrow(added, self._schema))

    def _delete_rows(self, cursor: duckdb.DuckDBPyConnection, gone: pl.DataFrame) -> None:
        """Delete each row as often as its weight says; which of several equal ones does not matter."""
        columns = self._schema.names
        table = as_arrow(gone, self._schema.append(pa.field(WEIGHT, pa.int64())))
        each = ", ".join(f"t.{quoted(column)}" for column in columns)
        with _registered(cursor, table) as rows:
            cursor.execute(
                f"DELETE FROM {self.qualified_name} WHERE rowid IN ("
                f"SELECT t.rowid FROM {self.qualified_name} AS t JOIN {rows} AS r ON {_same('t', 'r', columns)} "
                f"QUALIFY row_number() OVER (PARTITION BY {each}) <= -r.{quoted(WEIGHT)})"
            )


@contextmanager
def _registered(cursor: duckdb.DuckDBPyConnection, table: pa.Table) -> Iterator[str]:
    """The name under which the cursor's statements find `table`."""
    name = "arrowstream_rows"
    cursor.register(name, table)
    yield name
    cursor.unregister(name)  # not after an error: it would be refused, and hide the error; the cursor is closed then


def _columns(cursor: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {str(row[0]): str(row[1]) for row in cursor.execute(f"DESCRIBE {table}").fetchall()}


def _same(left: str, right: str, columns: Sequence[str]) -> str:
    return " AND ".join(f"{left}.{quoted(c)} IS NOT DISTINCT FROM {right}.{quoted(c)}" for c in columns)


def _selected(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(column) for column in columns])
