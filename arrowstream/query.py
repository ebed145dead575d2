"""SQL over the outputs, all of one instant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import duckdb
import pyarrow as pa

from arrowstream.catalog import Catalog, unknown_table
from arrowstream.connectors.database import DatabaseHeldError, hub, literal, quoted
from arrowstream.connectors.plain import for_duckdb
from arrowstream.connectors.view import DatabaseTable, TableView
from arrowstream.errors import QueryError
from arrowstream.snapshot import Snapshot


def run_sql(statement: str, catalog: Catalog, frozen: AbstractContextManager[object] | None = None) -> Snapshot:
    """The answer to one reading statement over the outputs of `catalog`.

    While `frozen` is held no batch commits, so that all outputs are seen at the same batch; it is let go before the
    query runs. Raises `QueryError`.
    """
    _refuse_writing(statement)
    used = tables_used(statement, catalog.names())
    try:
        with ExitStack() as leases:
            with frozen or nullcontext():
                views = {name: catalog.view(name) for name in used}
                hosted = _hosted(views)
                cursor = _cursor(leases, hosted)
                for name, view in views.items():
                    _bind(cursor, name, view, hosted)
                _begin_snapshot(cursor, hosted)
                leases.callback(cursor.rollback)  # before the databases are let go
            return Snapshot(_answer(cursor.sql(statement)))
    except DatabaseHeldError as error:
        raise QueryError(f"{error}; a sink lets others read between its batches with lock='release'") from error
    except duckdb.Error as error:
        raise _explained(error, catalog.names()) from error


def tables_used(statement: str, names: list[str]) -> list[str]:
    """Those of `names` that a statement reads; also those it only seems to, where it is beyond the parser."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        trees = sqlglot.parse(_EXPLAIN.sub("", statement), dialect="duckdb")
    except SqlglotError:
        trees = []
    if not trees or any(tree is None or isinstance(tree, exp.Command | exp.Show) for tree in trees):
        words = {word.lower() for word in re.findall(r"\w+", statement)}
        return [name for name in names if name.lower() in words] or names
    found = {table.name.lower() for tree in trees if tree for table in tree.find_all(exp.Table)}
    return [name for name in names if name.lower() in found]


_EXPLAIN = re.compile(r"(?is)^\s*explain(\s+analyze|\s*\([^)]*\))?\s")


def _refuse_writing(statement: str) -> None:
    """Only statements that read: the outputs belong to the stream."""
    try:
        statements = duckdb.extract_statements(statement)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, and this has {len(statements)}: {statement!r}")
    kind = statements[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        explained = _EXPLAIN.sub("", statement)
        if explained != statement:  # else a comment stands before it; the transaction only reads, whatever it says
            _refuse_writing(explained)
    elif kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI):  # a PIVOT is several statements
        raise QueryError(
            f"outputs can be read, not changed, and this is a statement of the kind {kind.name}: use SELECT, WITH, "
            "DESCRIBE, SUMMARIZE or EXPLAIN; a stream is changed before its `.write`"
        )


def _answer(relation: duckdb.DuckDBPyRelation) -> pa.Table:
    """The result as Arrow. A HUGEINT, which is what the sum of integers gives, has no like in Arrow: it comes as Int64
    where all values fit, else as the decimal of 38 digits that DuckDB makes of it."""
    table: pa.Table = relation.to_arrow_table()
    for number, kind in enumerate(relation.types):
        if str(kind) in ("HUGEINT", "UHUGEINT"):
            try:
                column = table.column(number).cast(pa.int64())
            except pa.ArrowInvalid:
                continue
            table = table.set_column(number, table.field(number).with_type(pa.int64()), column)
    return table


def _cursor(leases: ExitStack, hosted: Sequence[DatabaseTable]) -> duckdb.DuckDBPyConnection:
    """A cursor on the instance of the outputs that live in DuckDB, with all their databases attached."""
    cursors = [leases.enter_context(table.cursor()) for table in hosted]
    if cursors:
        return cursors[0]
    cursor = hub().cursor()
    leases.callback(cursor.close)
    return cursor


def _hosted(views: Mapping[str, TableView]) -> list[DatabaseTable]:
    """The tables of one instance, that of the first."""
    tables = [view.database for view in views.values() if view.database is not None]
    return [table for table in tables if table.instance == tables[0].instance]


def _bind(cursor: duckdb.DuckDBPyConnection, name: str, view: TableView, hosted: Sequence[DatabaseTable]) -> None:
    """Make an output known to the cursor by its name."""
    if view.database is not None:
        _bind_database(cursor, name, view.database, view.database in hosted)
        return
    rows = for_duckdb(pa.concat_tables([pa.Table.from_batches([], view.schema), *view.rows]))
    if not view.files:
        cursor.register(name, rows)
        return
    in_memory = f"{name} in memory"
    cursor.register(in_memory, rows)
    types = {str(row[0]): str(row[1]) for row in cursor.execute(f"DESCRIBE {quoted(in_memory)}").fetchall()}
    kept = f"FROM {quoted(in_memory)}"
    if not rows.num_rows:  # nothing but the types is needed, and SHOW TABLES shows one table less
        cursor.unregister(in_memory)
        kept = "SELECT " + ", ".join(f"NULL::{kind} AS {quoted(column)}" for column, kind in types.items()) + " LIMIT 0"
    columns = ", ".join(quoted(column) for column in view.schema.names)
    cursor.execute(
        f"CREATE TEMP VIEW {quoted(name)} AS SELECT {columns} FROM (({kept}) UNION ALL BY NAME {_files(view, types)})"
    )


def _bind_database(cursor: duckdb.DuckDBPyConnection, name: str, table: DatabaseTable, hosted: bool) -> None:
    if hosted:
        cursor.execute(f"CREATE TEMP VIEW {quoted(name)} AS FROM {table.qualified_name}")
        return
    with table.cursor() as elsewhere:
        cursor.register(name, elsewhere.sql(f"FROM {table.qualified_name}").to_arrow_table())


def _files(view: TableView, types: Mapping[str, str]) -> str:
    """The query that reads the files, with the columns that are only in the names of directories."""
    partitions = [column for column in view.schema.names if f"/{column}=" in view.files[0]]
    hive = ", ".join(f"{literal(column)}: {literal(types[column])}" for column in partitions)
    files = ", ".join(literal(file) for file in view.files)
    option = f"hive_partitioning = true, hive_types = {{{hive}}}" if partitions else "hive_partitioning = false"
    durations = ", ".join(
        f"({_with_intervals(column.type, quoted(column.name))})::{types[column.name]} AS {quoted(column.name)}"
        for column in view.schema
        if _holds_durations(column.type)
    )
    columns = f"SELECT * REPLACE ({durations}) " if durations else ""
    return f"{columns}FROM read_parquet([{files}], union_by_name = true, {option})"


def _holds_durations(kind: pa.DataType) -> bool:
    inner = (kind.field(i).type for i in range(kind.num_fields))
    return bool(pa.types.is_duration(kind)) or any(map(_holds_durations, inner))


def _with_intervals(kind: pa.DataType, value: str, depth: int = 0) -> str:
    """The SQL for a value of a Parquet file, with intervals for the numbers that are durations."""
    if pa.types.is_duration(kind):
        return _FROM_UNIT[kind.unit].format(value)
    if not _holds_durations(kind):
        return value
    if pa.types.is_struct(kind):
        fields = (f"{quoted(f.name)} := {_with_intervals(f.type, f'{value}.{quoted(f.name)}', depth)}" for f in kind)
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(fields)}) END"
    each = f"each_{depth}"
    return f"list_transform({value}, lambda {each}: {_with_intervals(kind.value_type, each, depth + 1)})"


_FROM_UNIT = {
    "s": "to_seconds({})",
    "ms": "to_milliseconds({})",
    "us": "to_microseconds({})",
    "ns": "to_microseconds({} // 1000)",
}
"""How DuckDB makes an interval of a duration, which in a Parquet file is a mere number."""


def _begin_snapshot(cursor: duckdb.DuckDBPyConnection, hosted: Sequence[DatabaseTable]) -> None:
    """Begin a transaction that sees every database as it is now.

    DuckDB takes its snapshot of an attached database at the first touch, so each is touched here.
    """
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    for table in hosted:
        cursor.execute(f"SELECT 1 FROM {table.qualified_name} LIMIT 0")


def _explained(error: duckdb.Error, names: list[str]) -> QueryError:
    missing = re.search(r"Table with name (.+?) does not exist", str(error))
    if missing and missing[1].strip('"').lower() not in {name.lower() for name in names}:
        return unknown_table(missing[1].strip('"'), names)
    return QueryError(str(error))
