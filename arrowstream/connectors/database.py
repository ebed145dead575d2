"""DuckDB in this process: an instance for each database file that somebody uses, and for queries over other outputs.

A DuckDB file belongs to one process, and within it to one instance. So all sinks and all queries of a process share the
instance of a file, which attaches it while somebody uses it.

Before the first statement of a user runs in an instance, it is locked down by DuckDB's own settings, for good: no
access to files but its database and the directories of the outputs, no extensions, no change of the configuration.
"""

from __future__ import annotations

import atexit
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from threading import RLock

import duckdb
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from arrowstream.errors import ArrowStreamError

IN_MEMORY = ":memory:"


class DatabaseHeldError(ArrowStreamError):
    """Another process has the file open; the message says which."""


ALIAS = "output"
"""The name under which an instance has its database attached."""

_KEPT = 8
"""Instances without a database that are kept for the next query: to make one costs some 10 ms."""


class _Instance:
    """A DuckDB in memory; with `path` the one that attaches this database, as long as it has users."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.users = 0
        self.keepers = 0
        self.read_only = False
        self.reach: frozenset[str] | None = None
        self.connection = duckdb.connect()
        # Event times are UTC; without this the zone of the machine would decide what `date_trunc` gives.
        self.connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # A name that is no table must be an error, not a variable of whoever calls.
        self.connection.execute("SET GLOBAL python_enable_replacements = false")

    def attach(self, read_only: bool) -> None:
        if self.users and self.read_only and not read_only:
            raise duckdb.IOException(f"{_CONFLICT} this process (PID {os.getpid()}), for reading")
        if not self.users:
            assert self.path is not None
            target = IN_MEMORY if self.path.startswith(IN_MEMORY) else self.path
            option = " (READ_ONLY)" if read_only else ""
            self.connection.execute(f"ATTACH {literal(target)} AS {ALIAS}{option}")
            self.read_only = read_only
        self.users += 1

    def release(self) -> None:
        self.users -= 1
        if not self.users:
            self.connection.execute(f"DETACH {ALIAS}")

    def lock_down(self, directories: frozenset[str]) -> None:
        """Leave it what it has attached (DuckDB adds that, and its log) and these directories, for good."""
        if self.reach is not None:
            return
        allowed = ", ".join(literal(os.path.join(os.path.realpath(path), "")) for path in sorted(directories))
        self.connection.execute(f"SET GLOBAL allowed_directories = [{allowed}]")
        self.connection.execute("SET GLOBAL enable_external_access = false")
        self.connection.execute("SET GLOBAL lock_configuration = true")
        self.reach = directories


class DatabaseHub:
    """The instances of a process. A file is attached when its first user comes and detached when the last has gone. Any
    thread."""

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}
        self._queries: OrderedDict[frozenset[str], _Instance] = OrderedDict()
        self._lock = RLock()
        self._closed = False

    @contextmanager
    def cursor(self, directories: frozenset[str]) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor without a database that can read the files of these directories and nothing else."""
        with self._lock:
            instance = self._queries.pop(directories, None) or _Instance()
            instance.lock_down(directories)
            self._queries[directories] = instance
            if len(self._queries) > _KEPT:
                self._queries.popitem(last=False)[1].connection.close()  # open cursors go on
            cursor = instance.connection.cursor()
        with closing(cursor):
            yield cursor

    @contextmanager
    def keep(self, path: str) -> Iterator[None]:
        """Keep the instance of a database, also while nobody uses it: to attach takes 2 ms, to make one ten."""
        with self._lock:
            instance = self._made(path)
            instance.keepers += 1
        try:
            yield
        finally:
            with self._lock:
                instance.keepers -= 1
                self._let_go(path, instance)

    @contextmanager
    def lease(
        self, path: str, *, read_only: bool = False, timeout: float = 10.0
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor, and the database at `path` (a key from `database_key`) attached as long as it is open.

        Waits up to `timeout` seconds for a process that holds the file, then raises `DatabaseHeldError`; what else is
        wrong with the file is duckdb's own error.
        """
        instance = self._attach(path, read_only, timeout)
        try:
            with closing(instance.connection.cursor()) as cursor:
                yield cursor
        finally:
            self._release(path, instance)

    def lock_down(self, path: str, directories: Callable[[], frozenset[str]]) -> frozenset[str]:
        """Make the instance of a database, which must be leased, fit for the statements of users.

        The first call decides which directories they can read beside the database; those are returned.
        """
        with self._lock:
            instance = self._instances[path]
        if instance.reach is None:
            found = directories()  # asks outputs, which may want a lease of their own
            with self._lock:
                instance.lock_down(found)
        assert instance.reach is not None
        return instance.reach

    @contextmanager
    def open_cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor of an instance of its own, which can read whatever the process can."""
        with closing(_Instance().connection) as connection:
            yield connection

    def close(self) -> None:
        """End all instances; for the end of the process."""
        with self._lock:
            self._closed = True
            for instance in (*self._instances.values(), *self._queries.values()):
                instance.connection.close()

    def _attach(self, path: str, read_only: bool, timeout: float) -> _Instance:
        attempts = Retrying(
            retry=retry_if_exception(_is_held),
            stop=stop_after_delay(timeout),
            wait=wait_random(0.002, 0.02),
            reraise=True,
        )
        try:
            return attempts(self._attach_once, path, read_only)
        except duckdb.IOException as error:
            if _is_held(error):
                raise DatabaseHeldError(_holder(path, error)) from error
            raise

    def _attach_once(self, path: str, read_only: bool) -> _Instance:
        with self._lock:
            instance = self._made(path)
            try:
                instance.attach(read_only)
            except duckdb.Error:
                self._let_go(path, instance)
                raise
            return instance

    def _release(self, path: str, instance: _Instance) -> None:
        with self._lock:
            if self._closed:
                return
            instance.release()
            self._let_go(path, instance)

    def _made(self, path: str) -> _Instance:
        if path not in self._instances:
            self._instances[path] = _Instance(path)
        return self._instances[path]

    def _let_go(self, path: str, instance: _Instance) -> None:
        if not instance.users and not instance.keepers and not self._closed:
            del self._instances[path]
            instance.connection.close()


@cache
def hub() -> DatabaseHub:
    """The hub of this process; made when it is first needed."""
    made = DatabaseHub()
    atexit.register(made.close)
    return made


def table_name(table: str) -> str:
    """The name of a table in the statements of a lease."""
    return f"{ALIAS}.main.{quoted(table)}"


def database_key(path: str | os.PathLike[str], owner: object = None) -> str:
    """The name of a database for the hub: its real path, or, in memory, one of the owner's own."""
    text = os.fspath(path)
    return f"{IN_MEMORY}{id(owner)}" if text == IN_MEMORY else os.path.realpath(text)


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


_CONFLICT = "Could not set lock on file: Conflicting lock is held in"


def _is_held(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and "Conflicting lock is held" in str(error)


def _holder(path: str, error: duckdb.IOException) -> str:
    found = re.search(r"held in (.+?) \(PID (\d+)\)", str(error))
    who = f"process {found[2]} ({os.path.basename(found[1])})" if found else "another process"
    return f"{path!r} is held by {who}"
