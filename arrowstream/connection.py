"""The outputs of a context at a path, read by whoever has the path."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from urllib.parse import unquote

import duckdb
import pyarrow as pa

from arrowstream.catalog import Catalog, UnknownTable
from arrowstream.connectors.database import ALIAS, DatabaseHeldError, database_key, hub, table_name
from arrowstream.connectors.manifest import Home, parquet_files
from arrowstream.connectors.view import DatabaseTable, TableView
from arrowstream.errors import QueryError
from arrowstream.query import run_sql
from arrowstream.snapshot import Snapshot


def connect(path: str | os.PathLike[str], *, allow_files: bool = False) -> Connection:
    """The outputs of a finished or a running context, by name, from any process.

    `path` is a DuckDB file, a directory that a Parquet sink writes, or one that holds several of them. Statements
    reach no other files; with `allow_files=True` they read whatever this process can. Raises
    `QueryError` where there is nothing to read, or where a running sink holds the file.

        with arrowstream.connect("words.duckdb") as outputs:
            print(outputs.tables)
            outputs.sql("SELECT * FROM counts ORDER BY count DESC").show()
    """
    return Connection(path, allow_files=allow_files)


class Connection:
    """The outputs at a path. Every query looks anew, so that a running context is followed.

    Of several outputs in a directory, those that a running sink holds are left out.

    Open -> (`close`, or the end of `with`) -> Closed. Nothing stays open between queries: a sink with lock="release"
    is not held up.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_files: bool = False) -> None:
        self._allow_files = allow_files
        self._path = Path(os.path.abspath(path))
        self._closed = False
        self._left_out: list[str] = []
        self._catalog()

    @property
    def tables(self) -> list[str]:
        """The names that `sql` knows."""
        return self._catalog().names()

    def sql(self, statement: str) -> Snapshot:
        """The answer to a reading statement; raises `QueryError`; of a table that is not there with a note
        of the places that could not be read."""
        catalog = self._catalog()
        try:
            return run_sql(statement, catalog, allow_files=self._allow_files)
        except UnknownTable as error:  # it may be in a place that was left out; other errors have nothing to do with it
            for left_out in self._left_out:
                error.add_note(left_out)
            raise

    def close(self) -> None:
        """End the use. Twice is once."""
        self._closed = True

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Connection {str(self._path)!r}: {', '.join(self.tables)}>"

    def _catalog(self) -> Catalog:
        if self._closed:
            raise QueryError(f"the connection to {str(self._path)!r} is closed")
        if not self._path.exists():
            raise QueryError(f"there is nothing at {str(self._path)!r}")
        catalog = Catalog()
        self._left_out = []
        places = _places(self._path)
        for place in places:
            taken = {name.lower() for name in catalog.names()}
            try:
                outputs = list(_outputs(place))
            except QueryError as error:
                if len(places) == 1:
                    raise
                self._left_out.append(str(error))
                continue
            for name, provider in outputs:
                catalog.register(f"{word_of(place)}_{name}" if name.lower() in taken else name, provider)
        if not catalog.names():
            if self._left_out:
                raise QueryError("; ".join(self._left_out))
            raise QueryError(f"there are neither Parquet files nor DuckDB tables at {str(self._path)!r}")
        return catalog


def _places(path: Path) -> list[Path]:
    """The DuckDB files and Parquet directories at a path, or in it."""
    if path.is_file() or _is_parquet_directory(path):
        return [path]
    return [
        child
        for child in sorted(path.iterdir())
        if not child.name.startswith(".") and (_is_database(child) or (child.is_dir() and _is_parquet_directory(child)))
    ]


def _outputs(place: Path) -> Iterator[tuple[str, Callable[[], TableView]]]:
    if place.is_dir():
        yield word_of(place), partial(_parquet_view, place)
    else:
        for table, schema in _database_tables(place):
            yield table, partial(_database_view, place, table, schema)


def _is_parquet_directory(path: Path) -> bool:
    if Home(path).log.exists():
        return True
    return any(child.suffix == ".parquet" or "=" in child.name for child in path.iterdir())


def _is_database(path: Path) -> bool:
    """By its name: to open a database file and close it again would take away the lock of a sink in this process.

    (POSIX locks belong to process and file, and the first `close` of any descriptor drops them.)
    """
    return path.suffix in (".duckdb", ".ddb", ".db") and path.is_file()


def _parquet_view(directory: Path) -> TableView:
    """By the log where there is one, else all files that are there."""
    manifest = Home(directory).visible()
    if manifest is not None and manifest.schema is not None:
        files = tuple(str(directory / name) for name in manifest.files)
        rows = tuple(Home(directory).rows(held) for held in manifest.held.values())
        return TableView(
            manifest.schema, rows, files, partitions=tuple(manifest.partition_by), directory=str(directory)
        )
    names = tuple(str(directory / name) for name in parquet_files(directory))
    if not names:
        raise QueryError(f"there are no Parquet files in {str(directory)!r} yet")
    import pyarrow.dataset as ds  # imports pandas where it is installed: 0.1 s

    schema = ds.dataset(list(names), partitioning="hive", partition_base_dir=str(directory)).schema
    partitions = _partitions(parquet_files(directory))
    return TableView(schema, files=names, partitions=partitions, directory=str(directory))


def _partitions(files: Iterable[str]) -> tuple[str, ...]:
    """The columns that are in the names of directories, of files named from the output's directory on."""
    first = next(iter(files), "")
    return tuple(unquote(part.split("=")[0]) for part in PurePath(first).parts[:-1] if "=" in part)


def _database_tables(path: Path) -> list[tuple[str, pa.Schema]]:
    """The tables of a DuckDB file, without the sinks' own."""
    try:
        with hub().lease(database_key(path), read_only=True, timeout=2.0) as cursor:
            found = cursor.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'main'", [ALIAS]
            ).fetchall()
            names = [str(row[0]) for row in found if not str(row[0]).startswith("_arrowstream_")]
            return [(name, cursor.sql(f"FROM {table_name(name)} LIMIT 0").to_arrow_table().schema) for name in names]
    except DatabaseHeldError as error:
        raise QueryError(
            f"{error}, which writes to it: ask there, with ctx.sql, or write it with lock='release', "
            "so that others can read between batches"
        ) from error
    except duckdb.Error as error:
        raise QueryError(f"{str(path)!r} cannot be read: {error}") from error


def _database_view(path: Path, table: str, schema: pa.Schema) -> TableView:
    key = database_key(path)
    lease = partial(hub().lease, key, read_only=True)
    return TableView(schema, database=DatabaseTable(str(path), table_name(table), lease, key))


def word_of(path: Path) -> str:
    """The name of an output at a path: its last part as a word."""
    word = re.sub(r"\W+", "_", path.name.split(".")[0]).strip("_") or "output"
    return word if not word[0].isdigit() else f"_{word}"
