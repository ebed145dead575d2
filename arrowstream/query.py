"""SQL over the outputs, all of one instant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from urllib.parse import quote

import duckdb
import polars as pl
import pyarrow as pa

from arrowstream.catalog import Catalog, unknown_table
from arrowstream.connectors.database import DatabaseHeldError, hub, literal, quoted
from arrowstream.connectors.plain import for_duckdb
from arrowstream.connectors.view import TableView
from arrowstream.errors import ArrowStreamError, QueryError
from arrowstream.names import twins
from arrowstream.snapshot import Snapshot


def run_sql(
    statement: str,
    catalog: Catalog,
    frozen: AbstractContextManager[object] | None = None,
    *,
    allow_files: bool = False,
) -> Snapshot:
    """The answer to one reading statement over the outputs of `catalog`.

    While `frozen` is held no batch commits, so that all outputs are seen at the same batch; it is let go before the
    query runs. The statement runs in a DuckDB that cannot reach files but those of the outputs; with `allow_files` it
    can read whatever this process can. Raises `QueryError`.
    """
    inner = _reading(statement)
    used = tables_used(inner, catalog.names())
    try:
        with ExitStack() as leases:
            with frozen or nullcontext():
                views = {name: catalog.view(name) for name in used}
                cursor, host = _place(leases, views, catalog, allow_files)
                for name, view in views.items():
                    _bind(cursor, name, view, host)
                _begin_snapshot(cursor, [name for name, view in views.items() if _is_at(view, host)])
                leases.callback(cursor.rollback)  # before the databases are let go
            return Snapshot(_answer(cursor.sql(statement)))
    except DatabaseHeldError as error:
        raise QueryError(f"{error}; a sink lets others read between its batches with lock='release'") from error
    except duckdb.PermissionException as error:
        raise QueryError(
            f"{_first_line(error)}; statements over outputs reach the outputs alone: read it with polars.read_* or "
            "duckdb, or say allow_files=True"
        ) from None
    except duckdb.Error as error:
        raise _explained(error, catalog.names()) from None
    except (pa.ArrowException, pl.exceptions.PolarsError, UnicodeError, OverflowError) as error:
        raise QueryError(f"the answer cannot be taken: {_first_line(error)}") from None


def tables_used(statement: str, names: list[str]) -> list[str]:
    """Those of `names` that a statement reads; also those it only seems to, where it is beyond the parser."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        trees = sqlglot.parse(statement, dialect="duckdb")
    except SqlglotError:
        trees = []
    if not trees or any(tree is None or isinstance(tree, exp.Command | exp.Show) for tree in trees):
        words = {word.lower() for word in re.findall(r"\w+", statement)}
        return [name for name in names if name.lower() in words] or names
    found = {table.name.lower() for tree in trees if tree for table in tree.find_all(exp.Table)}
    return [name for name in names if name.lower() in found]


_READING = frozenset(
    ("SELECT", "FROM", "WITH", "VALUES", "TABLE", "PIVOT", "UNPIVOT", "DESCRIBE", "DESC", "SHOW", "SUMMARIZE")
)


def _reading(statement: str) -> str:
    """The statement, or what it explains, if that only reads: the outputs belong to the stream. Raises `QueryError`.

    Judged by its first word as well as by its kind: DuckDB calls a `COPY (PIVOT ...)` several statements, as it calls a
    `PIVOT`, and an `EXPLAIN ANALYZE` runs what it explains.
    """
    try:
        statements = duckdb.extract_statements(statement)
    except (duckdb.Error, UnicodeError, TypeError) as error:  # a text that is not Unicode is a TypeError
        raise QueryError(_first_line(error)) from None
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, and this has {len(statements)}: {statement!r}")
    kind, word, rest = statements[0].type, *_first_word(statement)
    if kind == duckdb.StatementType.EXPLAIN and word == "EXPLAIN":
        return _reading(_explained_by(rest))
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI) or word not in _READING:
        raise QueryError(
            f"outputs can be read, not changed, and this is a statement of the kind {kind.name}: use SELECT, WITH, "
            "DESCRIBE, SUMMARIZE or EXPLAIN; a stream is changed before its `.write`"
        )
    return statement


def _first_word(statement: str) -> tuple[str, str]:
    """The first word of a statement, behind comments and brackets, in upper case, and what follows it."""
    text = statement.encode()  # places are in bytes
    for start, kind in duckdb.tokenize(statement):
        if kind != duckdb.token_type.comment and not text[start:].startswith(b"("):
            found = re.match(rb"\w+", text[start:])
            word = found[0] if found else b""
            return word.decode().upper(), text[start + len(word) :].decode()
    return "", ""


def _explained_by(rest: str) -> str:
    """The statement behind EXPLAIN and its options."""
    word, behind = _first_word(rest)
    if word in ("ANALYZE", "ANALYSE"):
        return _explained_by(behind)
    tokens = [start for start, kind in duckdb.tokenize(rest) if kind != duckdb.token_type.comment]
    text = rest.encode()
    if tokens and text[tokens[0] :].startswith(b"(") and word not in (*_READING, "EXPLAIN"):  # (FORMAT json), (ANALYZE)
        closing = next((start for start in tokens if text[start:].startswith(b")")), len(text))
        return _explained_by(text[closing + 1 :].decode())
    return rest


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


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


def _place(
    leases: ExitStack, views: Mapping[str, TableView], catalog: Catalog, allow_files: bool
) -> tuple[duckdb.DuckDBPyConnection, str | None]:
    """The cursor on which the statement runs, and the database that it has at hand, if any.

    That is the first one, as its instance can read the files of the other outputs, too: which ones is decided once,
    before the first statement of a user, so all outputs of the catalog are asked then. Others are copied.
    """
    needed = _directories(views.values())
    tables = [view.database for view in views.values() if view.database is not None and view.database.key is not None]
    if tables and not allow_files:
        key = tables[0].key
        assert key is not None
        cursor = leases.enter_context(tables[0].cursor())
        if needed <= hub().lock_down(key, lambda: _directories(_all_views(catalog))):
            return cursor, key
    return leases.enter_context(hub().open_cursor() if allow_files else hub().cursor(needed)), None


def _directories(views: Iterable[TableView]) -> frozenset[str]:
    return frozenset(directory for view in views for directory in view.directories)


def _all_views(catalog: Catalog) -> Iterator[TableView]:
    for name in catalog.names():
        with suppress(ArrowStreamError, OSError):  # one that cannot be read now is not what was asked for
            yield catalog.view(name)


def _is_at(view: TableView, host: str | None) -> bool:
    return host is not None and view.database is not None and view.database.key == host


def _bind(cursor: duckdb.DuckDBPyConnection, name: str, view: TableView, host: str | None) -> None:
    """Make an output known to the cursor by its name."""
    if found := twins(view.schema.names):
        raise QueryError(
            f"the columns {found[0]!r} and {found[1]!r} of {name} differ by case only, and SQL cannot tell them apart: "
            "read the files otherwise, such as with Polars"
        )
    if view.database is not None and _is_at(view, host):
        cursor.execute(f"CREATE TEMP VIEW {quoted(name)} AS FROM {view.database.qualified_name}")
        return
    if view.database is not None:
        with view.database.cursor() as elsewhere:
            cursor.register(name, elsewhere.sql(f"FROM {view.database.qualified_name}").to_arrow_table())
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


def _files(view: TableView, types: Mapping[str, str]) -> str:
    """The query that reads the files, with the columns that are only in the names of directories."""
    encoded = {column: quote(column, safe="") for column in view.partitions if column in types}
    hive = ", ".join(f"{literal(key)}: {literal(types[column])}" for column, key in encoded.items())
    files = ", ".join(literal(file) for file in view.files)
    option = f"hive_partitioning = true, hive_types = {{{hive}}}" if encoded else "hive_partitioning = false"
    durations = ", ".join(
        f"({_with_intervals(column.type, quoted(column.name))})::{types[column.name]} AS {quoted(column.name)}"
        for column in view.schema
        if _holds_durations(column.type)
    )
    renamed = ", ".join(f"{quoted(key)} AS {quoted(column)}" for column, key in encoded.items() if key != column)
    columns = f"SELECT * REPLACE ({durations}) " if durations else ""
    if renamed:  # DuckDB decodes the values in the names of directories, and not the names of the columns
        columns = columns.replace("SELECT *", f"SELECT * RENAME ({renamed})") or f"SELECT * RENAME ({renamed}) "
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


def _begin_snapshot(cursor: duckdb.DuckDBPyConnection, hosted: Iterable[str]) -> None:
    """Begin a transaction that sees every table of the database as it is now.

    DuckDB takes its snapshot of an attached database at the first touch, so each is touched here.
    """
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    for name in hosted:
        cursor.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 0")


def _explained(error: duckdb.Error, names: list[str]) -> QueryError:
    missing = re.search(r"Table with name (.+?) does not exist", str(error))
    if missing and missing[1].strip('"').lower() not in {name.lower() for name in names}:
        return unknown_table(missing[1].strip('"'), names)
    return QueryError(str(error))
