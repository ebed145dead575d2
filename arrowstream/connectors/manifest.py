"""Which files of a Parquet directory belong to whole batches: a log beside the directory.

    words/part-00000012-0.parquet            what any reader of Parquet sees: whole files, each row once
    .words.arrowstream/log                   what was published, one JSON line a batch
    .words.arrowstream/staging/...           files that wait to be published, and rows that wait for a larger file

The log lies beside the directory and not in it, because `pl.scan_parquet("words")` takes every file below, hidden ones
too (Polars 2.1), and refuses a directory that holds anything else.

A line in the log is the commit: it names the staged files and the names they get, and then they are renamed. Who finds
them not renamed (after a crash) can finish the work. A line that is not whole was never written.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa

from arrowstream.errors import SinkError

UNKNOWN = -1
"""The rows of a file that came otherwise than by us."""


class Published(msgspec.Struct, frozen=True):
    """A file of the directory: where it was staged (below `staging`), and its name below the directory."""

    staged: str
    file: str
    rows: int


class Held(msgspec.Struct, frozen=True):
    """A staged file whose rows are committed and wait, in `staging`, to become part of a larger file.

    It is an Arrow IPC file: ten times faster to write than Parquet, into which its rows are encoded only once. It has
    all columns, also those by which the directory is named.
    """

    staged: str
    directory: str
    rows: int
    bytes: int


class Entry(msgspec.Struct, omit_defaults=True):
    """One line of the log."""

    run: str = ""
    batch: int | None = None
    publish: list[Published] = []
    hold: list[Held] = []
    drop: list[str] = []
    remove: list[str] = []
    schema: str = ""
    partition_by: list[str] = []
    fences: dict[str, int] = {}
    number: int = 0


@dataclass(slots=True)
class Manifest:
    """What the log says, line by line.

    files   published files by name, in the order in which they came, with where they were staged
    held    staged files that wait, by name
    removed published files that are no part of the output any more, and may still be there
    fences  the last batch of each run
    number  how many times files were published: the next file's number
    """

    schema: pa.Schema | None = None
    partition_by: tuple[str, ...] = ()
    files: dict[str, Published] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    fences: dict[str, int] = field(default_factory=dict)
    number: int = 0

    def apply(self, entry: Entry) -> None:
        if entry.schema:
            self.schema = decoded_schema(entry.schema)
            self.partition_by = tuple(entry.partition_by)
        self.fences.update(entry.fences)
        if entry.batch is not None:
            self.fences[entry.run] = entry.batch
        self.number = max(self.number + bool(entry.publish), entry.number)
        for name in entry.drop:
            self.held.pop(name, None)
        for name in entry.remove:
            self.files.pop(name, None)
        self.removed.update(entry.remove)
        self.held.update((held.staged, held) for held in entry.hold)
        self.files.update((published.file, published) for published in entry.publish)

    def whole(self) -> list[Entry]:
        """Entries that say the same as all before, for a log that begins anew."""
        schema = encoded_schema(self.schema) if self.schema is not None else ""
        return [
            Entry(
                publish=list(self.files.values()),
                hold=list(self.held.values()),
                schema=schema,
                partition_by=list(self.partition_by),
                fences=dict(self.fences),
                number=self.number,
            )
        ]


@dataclass(frozen=True, slots=True)
class Home:
    """The folder beside a Parquet directory that holds its log and its staged files."""

    directory: Path

    @property
    def path(self) -> Path:
        return self.directory.parent / f".{self.directory.name}.arrowstream"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def staging(self) -> Path:
        return self.path / "staging"

    def rows(self, held: Held) -> pa.Table:
        """The rows of a held file; mapped, so that they stay when the file is deleted."""
        with pa.memory_map(str(self.staging / held.staged)) as file, pa.ipc.open_file(file) as reader:
            return reader.read_all()

    def entries(self) -> Iterator[Entry]:
        """The whole lines of the log; none where there is no log. Raises `SinkError` for a damaged one."""
        try:
            lines = self.log.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, 1):
            try:
                yield msgspec.json.decode(line, type=Entry)
            except (msgspec.DecodeError, UnicodeError) as error:
                raise SinkError(
                    f"line {number} of {str(self.log)!r} is damaged ({error}), and with it what is known of "
                    f"{str(self.directory)!r}: restore the file, or delete {str(self.path)!r} to go on with all whole "
                    "files that are there (rows that were held for larger ones are lost then)"
                ) from error

    def manifest(self) -> Manifest:
        """All that was committed, also where the last files still bear their staged names."""
        manifest = Manifest()
        for entry in self.entries():
            manifest.apply(entry)
        return manifest

    def visible(self) -> Manifest | None:
        """What a reader in another process may read now: the batches whose files are all in place.

        None where there is no log. Files that somebody has deleted are left out.
        """
        entries = list(self.entries())
        if not entries:
            return None
        while entries and any((self.staging / new.staged).exists() for new in entries[-1].publish if new.staged):
            entries.pop()
        there = set(parquet_files(self.directory))  # after the look at what is staged: the other way round misses files
        manifest = Manifest()
        for entry in entries:
            manifest.apply(entry)
        manifest.files = {name: published for name, published in manifest.files.items() if name in there}
        return manifest


class LogWriter:
    """Appends entries to the log so that they survive a crash. One writer at a time."""

    def __init__(self, home: Home, manifest: Manifest) -> None:
        """Begin the log anew with what `manifest` says."""
        temporary = home.path / "log.new"
        with temporary.open("wb") as file:
            for entry in manifest.whole():
                file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(home.log)
        sync_directory(home.path)
        self._file = home.log.open(
            "r+b", buffering=0
        )  # a buffer would keep, and write again, what could not be written
        self._end = self._file.seek(0, os.SEEK_END)
        self._clean = True

    def append(self, entry: Entry) -> None:
        """Write one line; when it raises, the line is not there."""
        line = msgspec.json.encode(entry) + b"\n"
        self._cut()
        self._clean = False
        try:
            self._write(line)
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):  # then the next call cuts
                self._cut()
            raise
        self._clean = True
        self._end += len(line)

    def close(self) -> None:
        self._file.close()

    def _write(self, line: bytes) -> None:
        self._file.seek(self._end)
        while line:
            line = line[self._file.write(line) :]

    def _cut(self) -> None:
        """Take away what is left of a line that could not be written."""
        if not self._clean:
            self._file.truncate(self._end)
            self._clean = True


def write_rows(table: pa.Table, path: Path) -> None:
    """Write a file for `Home.rows` and make it durable."""
    with path.open("wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())


def parquet_files(directory: Path) -> list[str]:
    """The Parquet files below a directory, as names relative to it; hidden ones are left out."""
    found = []
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        relative = os.path.relpath(folder, directory)
        found += [
            os.path.normpath(os.path.join(relative, name))
            for name in sorted(files)
            if name.endswith((".parquet", ".pq")) and not name.startswith((".", "_"))
        ]
    return found


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encoded_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decoded_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
