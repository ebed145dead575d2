"""Publishes staged Parquet files: a line in the log, then renames."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from arrowstream.connectors.manifest import (
    UNKNOWN,
    Entry,
    Held,
    Home,
    LogWriter,
    Manifest,
    Published,
    parquet_files,
    sync_directory,
)
from arrowstream.connectors.sink import Receipt
from arrowstream.connectors.view import TableView
from arrowstream.errors import SinkError
from arrowstream.sinks._parquet_files import FileFormat, plain_schema

_ROW_GROUP = 1 << 20


@dataclass(frozen=True, slots=True)
class Roll:
    """When rows that are held back become a file: at so many bytes, or so many seconds after the first."""

    bytes: float = float("inf")
    seconds: float = float("inf")


class ParquetCommitter:
    """Publishes batches into the directory. `view` is for any thread, the rest for the driver's.

    States of a batch: staged -> (a line in the log) -> committed -> (renames) -> published. A crash before the line
    leaves files that the next committer deletes; one after it leaves renames that the next committer makes.
    """

    def __init__(
        self,
        directory: Path,
        run: str,
        schema: pa.Schema,
        partition_by: tuple[str, ...],
        form: FileFormat,
        roll: Roll | None,
    ) -> None:
        self._home = Home(directory)
        self._run = run
        self._schema = schema
        self._form = form
        self._roll = roll
        self._held_since: dict[str, float] = {}
        self._dropped: list[str] = []
        self._moves: list[Published] = []
        self._lock = lock_home(self._home)
        try:
            self._manifest = self._home.manifest()
            self._check(self._manifest, partition_by)
            self._recover()
            self._manifest.schema, self._manifest.partition_by = schema, partition_by
            self._log = LogWriter(self._home, self._manifest)
        except BaseException:
            self._lock.close()
            raise
        self._files = self._paths()

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        with _writing(self._home, batch_id):
            self._finish_moves()
            last = self.last_batch()
            if last is not None and batch_id <= last:
                self.abort(batch_id, receipts)
                return
            staged = [Held(**facts) for receipt in receipts for facts in receipt.facts["staged"]]
            entry = Entry(run=self._run, batch=batch_id)
            if self._roll is None:
                entry.publish = self._named(staged)
            else:
                entry.hold = staged
            self._publish(entry)
            self._publish_full(self._roll or Roll())

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            for facts in receipt.facts.get("staged", ()):
                if facts["staged"] not in self._manifest.held:
                    (self._home.staging / facts["staged"]).unlink(missing_ok=True)

    def flush(self) -> None:
        with _writing(self._home, None):
            self._finish_moves()
            self._publish_full(Roll(bytes=0))

    def close(self) -> None:
        self._log.close()
        self._delete_dropped()
        self._lock.close()

    def view(self) -> TableView:
        return TableView(self._schema, files=self._files)

    def last_batch(self) -> int | None:
        return self._manifest.fences.get(self._run)

    def _recover(self) -> None:
        """Make the renames that a crash has left undone, delete what was staged and not committed, and take in
        files that came otherwise."""
        home, manifest = self._home, self._manifest
        self._moves = [new for new in manifest.files.values() if new.staged and (home.staging / new.staged).exists()]
        self._finish_moves()
        for name in parquet_files(home.staging):
            if name not in manifest.held:
                (home.staging / name).unlink()
        there = dict.fromkeys(parquet_files(home.directory))
        rows = {name: new.rows for name, new in manifest.files.items() if name in there}
        rows.update((name, UNKNOWN) for name in there if name not in rows)
        manifest.files = {name: Published("", name, count) for name, count in rows.items()}
        manifest.number = max(manifest.number, *(_number(name) + 1 for name in rows), 0)
        self._held_since = {held.directory: time.monotonic() for held in manifest.held.values()}

    def _check(self, manifest: Manifest, partition_by: tuple[str, ...]) -> None:
        """Refuse a directory whose rows have other types or other partitions than the stream."""
        where = f"the Parquet directory {str(self._home.directory)!r}"
        if manifest.schema is None or not (manifest.files or manifest.held):
            return
        if manifest.partition_by != partition_by:
            raise SinkError(f"{where} is partitioned by {manifest.partition_by}, the sink by {partition_by}")
        there, wanted = plain_schema(manifest.schema), plain_schema(self._schema)
        for column in wanted:
            if column.name in there.names and there.field(column.name).type != column.type:
                before = there.field(column.name).type
                raise SinkError(
                    f"column {column.name!r} is {before} in {where} and {column.type} in the stream: "
                    "cast it, or write to another directory"
                )

    def _publish(self, entry: Entry) -> None:
        self._log.append(entry)
        self._manifest.apply(entry)  # committed from here on, also where a rename fails
        self._moves = list(entry.publish)
        for held in entry.hold:
            self._held_since.setdefault(held.directory, time.monotonic())
        self._finish_moves()

    def _finish_moves(self) -> None:
        """Give committed files their names. What is done is done: a second call goes on where the first failed."""
        folders = set()
        while self._moves:
            new = self._moves[-1]
            target = self._home.directory / new.file
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._home.staging / new.staged, target)
            folders.add(target.parent)
            self._moves.pop()
        for folder in folders:
            sync_directory(folder)
        self._files = self._paths()

    def _named(self, staged: Sequence[Held]) -> list[Published]:
        number = self._manifest.number
        return [
            Published(held.staged, os.path.join(held.directory, f"part-{number:08d}-{part}.parquet"), held.rows)
            for part, held in enumerate(staged)
        ]

    def _publish_full(self, roll: Roll) -> None:
        """Make a file of every directory that holds enough rows, or has held them long enough."""
        by_directory: dict[str, list[Held]] = {}
        for held in self._manifest.held.values():
            by_directory.setdefault(held.directory, []).append(held)
        now = time.monotonic()
        full = {
            directory: held
            for directory, held in by_directory.items()
            if sum(each.bytes for each in held) >= roll.bytes or now - self._held_since[directory] >= roll.seconds
        }
        if not full:
            return
        self._delete_dropped()
        merged = [self._merged(directory, held) for directory, held in full.items()]
        drop = [each.staged for held in full.values() for each in held]
        self._publish(Entry(publish=self._named(merged), drop=drop))
        self._dropped = [name for name in drop if name not in {each.staged for each in merged}]
        for directory in full:
            del self._held_since[directory]

    def _merged(self, directory: str, held: Sequence[Held]) -> Held:
        if len(held) == 1:
            return held[0]
        name = os.path.join(directory, f"merged-{self._manifest.number:08d}.parquet")
        tables = [pq.read_table(self._home.staging / each.staged, partitioning=None) for each in held]
        table = pa.concat_tables(tables)
        self._form.write(table, self._home.staging / name)
        return Held(name, directory, table.num_rows, 0)

    def _delete_dropped(self) -> None:
        """Delete files whose rows went into a larger one; a roll later, because a query may still read them."""
        for name in self._dropped:
            (self._home.staging / name).unlink(missing_ok=True)
        self._dropped = []

    def _paths(self) -> tuple[str, ...]:
        files = [str(self._home.directory / name) for name in self._manifest.files]
        return (*files, *(str(self._home.staging / name) for name in self._manifest.held))


def lock_home(home: Home) -> IO[Any]:
    """Make the directory and the folder beside it, and lock them until the file that is returned is closed."""
    try:
        home.directory.mkdir(parents=True, exist_ok=True)
        home.staging.mkdir(parents=True, exist_ok=True)
        if home.directory.stat().st_dev != home.staging.stat().st_dev:
            raise SinkError(
                f"{str(home.directory)!r} is a volume of its own, and files are staged beside it, where they cannot be "
                f"renamed into it: write to a directory within, such as {str(home.directory / 'output')!r}"
            )
        file = (home.path / "lock").open("a")
    except OSError as error:
        raise SinkError(f"the Parquet directory {str(home.directory)!r} cannot be written: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SinkError(
            f"another sink is writing to the Parquet directory {str(home.directory)!r}: stop it, or write to another"
        ) from error
    return file


def clear_staging(home: Home) -> None:
    """Delete everything that is staged."""
    shutil.rmtree(home.staging, ignore_errors=True)
    home.staging.mkdir(parents=True, exist_ok=True)


def _number(name: str) -> int:
    parts = os.path.basename(name).removesuffix(".parquet").split("-")
    return int(parts[1]) if len(parts) == 3 and parts[0] == "part" and parts[1].isdecimal() else -1


@contextmanager
def _writing(home: Home, batch_id: int | None) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        what = f"batch {batch_id}" if batch_id is not None else "what was held back"
        raise SinkError(f"{what} could not be published in {str(home.directory)!r}: {error}") from error
