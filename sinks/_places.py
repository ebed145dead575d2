"""Where outputs lie: one writer to a place, no output within another, and a place that goes away is noticed.

Places are real paths: a directory that is reached through a symbolic link as well is one place.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from arrowstream.connectors.manifest import Home
from arrowstream.errors import SinkError


class WatchedPlace:
    """A file or directory that must stay what it was: one that was deleted, or replaced, gets no further batch."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._seen: tuple[int, int] | None = None

    def note(self) -> None:
        """It is there now, and is to stay."""
        self._seen = self._now()

    def check(self) -> None:
        """Raise `SinkError` where it is not what it was any more."""
        if (now := self._now()) != self._seen:
            raise SinkError(
                f"{self._what} {str(self._path)!r} was {'deleted' if now is None else 'replaced'} while the run writes "
                "to it: stop the run before; what was committed went with it"
            )

    def _now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino


@contextmanager
def lock_table(path: Path, table: str) -> Iterator[None]:
    """Be the only sink of a table of the DuckDB file at `path`, in any process; raises `SinkError`.

    DuckDB itself locks the file, but for one process only, and not between the batches of lock="release".
    """
    refuse_within(path)
    home = Home(path).path
    try:
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home / f"{quote(table, safe='')[:200]}.lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise SinkError(f"the database {str(path)!r} cannot be written: {error}") from error
    try:
        _lock(descriptor, f"the table {table!r} of {str(path)!r}")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Make the directory and be its only sink, in any process; raises `SinkError`. The lock is the directory's own."""
    refuse_within(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise SinkError(f"the Parquet directory {str(directory)!r} cannot be written: {error}") from error
    try:
        _lock(descriptor, f"the Parquet directory {str(directory)!r}")
        yield
    finally:
        os.close(descriptor)


def refuse_within(place: Path) -> None:
    """Raise `SinkError` for a place within the directory of a Parquet output: its readers take all that lies there."""
    for parent in place.parents:
        if Home(parent).log.exists():
            raise SinkError(
                f"{str(place)!r} lies within the Parquet output {str(parent)!r}, whose readers take every file below: "
                f"write beside it (if it is none any more, delete {str(Home(parent).path)!r})"
            )


def refuse_around(directory: Path) -> None:
    """Raise `SinkError` for a directory in which another output lies."""
    for folder, folders, _ in os.walk(directory):
        for name in folders:
            if name.startswith(".") and name.endswith(".arrowstream"):
                inner = os.path.join(folder, name[1:].removesuffix(".arrowstream"))
                raise SinkError(
                    f"another output, {inner!r}, lies within {str(directory)!r}, where a Parquet sink owns every file: "
                    f"write beside it (if it is none any more, delete {os.path.join(folder, name)!r})"
                )


def _lock(descriptor: int, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SinkError(f"another sink is writing to {what}: stop it, or write to another") from error
