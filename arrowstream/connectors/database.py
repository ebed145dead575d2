"""The one DuckDB instance of a process, to which database files are attached while somebody uses them.

A DuckDB file belongs to one process, and within it to one instance. So all sinks and all queries of a process share
an instance in memory, the hub, and attach their files there: sinks on one file share one attachment, and a query can
name tables of several files at once.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import RLock

import duckdb
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from arrowstream.errors import ArrowStreamError

IN_MEMORY = ":memory:"


class DatabaseHeldError(ArrowStreamError):
    """Another process has the file open; the message says which."""


@dataclass(slots=True)
class _Attachment:
    alias: str
    users: int = 0
    read_only: bool = False


class DatabaseHub:
    """Attaches a file when its first user comes and detaches it when the last has gone. Any thread."""

    def __init__(self) -> None:
        self._instance = duckdb.connect()
        # Event times are UTC; without this the zone of the machine would decide what `date_trunc` gives.
        self._instance.execute("SET GLOBAL TimeZone = 'UTC'")
        # A name that is no table must be an error, not a variable of whoever calls.
        self._instance.execute("SET GLOBAL python_enable_replacements = false")
        self._attachments: dict[str, _Attachment] = {}
        self._lock = RLock()
        self._closed = False

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A new cursor on the instance; the caller closes it."""
        with self._lock:
            return self._instance.cursor()

    def qualified_name(self, path: str, table: str) -> str:
        """The name of a table of the database at `path` in statements; the same for the life of the process."""
        with self._lock:
            return f"{quoted(self._known(path).alias)}.main.{quoted(table)}"

    def alias(self, path: str) -> str:
        """The name under which the database is attached."""
        with self._lock:
            return self._known(path).alias

    def close(self) -> None:
        """End the instance; for the end of the process."""
        with self._lock:
            self._closed = True
            self._instance.close()

    @contextmanager
    def lease(
        self, path: str, *, read_only: bool = False, timeout: float = 10.0
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor, and the database at `path` (a key from `database_key`) attached as long as it is open.

        Waits up to `timeout` seconds for a process that holds the file, then raises `DatabaseHeldError`; what else is
        wrong with the file is duckdb's own error.
        """
        self._attach(path, read_only, timeout)
        try:
            cursor = self.cursor()
            try:
                yield cursor
            finally:
                cursor.close()
        finally:
            self._release(path)

    def _attach(self, path: str, read_only: bool, timeout: float) -> None:
        attempts = Retrying(
            retry=retry_if_exception(_is_held),
            stop=stop_after_delay(timeout),
            wait=wait_random(0.002, 0.02),
            reraise=True,
        )
        try:
            attempts(self._attach_once, path, read_only)
        except duckdb.IOException as error:
            if _is_held(error):
                raise DatabaseHeldError(_holder(path, error)) from error
            raise

    def _attach_once(self, path: str, read_only: bool) -> None:
        with self._lock:
            known = self._known(path)
            if known.users and known.read_only and not read_only:
                raise duckdb.IOException(f"{_CONFLICT} this process (PID {os.getpid()}), for reading")
            if not known.users:
                target = IN_MEMORY if path.startswith(IN_MEMORY) else path
                option = " (READ_ONLY)" if read_only else ""
                self._instance.execute(f"ATTACH {literal(target)} AS {quoted(known.alias)}{option}")
                known.read_only = read_only
            known.users += 1

    def _release(self, path: str) -> None:
        with self._lock:
            known = self._known(path)
            known.users -= 1
            if not known.users and not self._closed:
                self._instance.execute(f"DETACH {quoted(known.alias)}")

    def _known(self, path: str) -> _Attachment:
        if path not in self._attachments:
            self._attachments[path] = _Attachment(f"arrowstream_{len(self._attachments)}")
        return self._attachments[path]


@cache
def hub() -> DatabaseHub:
    """The hub of this process; made when it is first needed."""
    made = DatabaseHub()
    atexit.register(made.close)
    return made


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
