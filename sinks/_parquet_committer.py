"""Publishes staged Parquet files: a line in the log, then renames."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

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
from arrowstream.connectors.plain import plain_schema
from arrowstream.connectors.sink import Receipt
from arrowstream.connectors.view import TableView
from arrowstream.errors import SinkError
from arrowstream.sinks._parquet_files import FileFormat


@dataclass(frozen=True, slots=True)
class Roll:
    """When rows that are held back become a file: at so many bytes, or so many seconds after the first."""

    bytes: float = float("inf")
    seconds: float = float("inf")


class ParquetCommitter:
    """Publishes batches into the directory. `view` is for any thread, the rest for the driver's.

    States of a batch: staged -> (a line in the log) -> committed -> (renames) -> published. A crash before the line
    leaves files that the next committer deletes; one after it leaves renames that the next committer makes.

    With a roll, what is committed is held, and a thread of its own makes a larger file of it, which one of the next
    commits publishes: encoding 128 MB takes seconds, for which no batch should wait.
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
        self._rows: dict[str, pa.Table] = {}
        self._files: list[str] = []  # only ever grows
        self._shown: tuple[int, tuple[pa.Table, ...]] = (0, ())
        self._shrinks = 0.5  # bytes of Parquet for a byte that is held; learned from file to file
        self._merger = ThreadPoolExecutor(1, thread_name_prefix="arrowstream-parquet")
        self._merging: Future[list[_Merged]] | None = None
        self._partition_by = partition_by
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
        self._show()

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        with _writing(self._home, batch_id):
            if self._moves:
                self._finish_moves()
                self._show()
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
            if self._roll is not None:
                self._publish_merged(wait=False)
                self._merge_full(self._roll)

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        # Committed, and held or still to be renamed: that stays, whoever asks.
        committed = {*self._manifest.held, *(new.staged for new in self._moves)}
        for receipt in receipts:
            for facts in receipt.facts.get("staged", ()):
                if facts["staged"] not in committed:
                    (self._home.staging / facts["staged"]).unlink(missing_ok=True)

    def flush(self) -> None:
        with _writing(self._home, None):
            self._finish_moves()
            self._publish_merged(wait=True)
            self._merge_full(Roll(bytes=0))
            self._publish_merged(wait=True)

    def close(self) -> None:
        self._merger.shutdown()
        self._log.close()
        self._lock.close()

    def view(self) -> TableView:
        files, rows = self._shown
        return TableView(self._schema, rows, tuple(self._files[:files]))

    def last_batch(self) -> int | None:
        return self._manifest.fences.get(self._run)

    def _recover(self) -> None:
        """Make the renames that a crash has left undone, delete what was staged and not committed, and take in
        files that came otherwise."""
        home, manifest = self._home, self._manifest
        self._moves = [new for new in manifest.files.values() if new.staged and (home.staging / new.staged).exists()]
        self._finish_moves()
        for path in home.staging.rglob("*"):
            if path.is_file() and str(path.relative_to(home.staging)) not in manifest.held:
                path.unlink()
        there = dict.fromkeys(parquet_files(home.directory))
        rows = {name: new.rows for name, new in manifest.files.items() if name in there}
        rows.update((name, UNKNOWN) for name in there if name not in rows)
        manifest.files = {name: Published("", name, count) for name, count in rows.items()}
        self._files = [str(home.directory / name) for name in rows]
        manifest.number = max(manifest.number, *(_number(name) + 1 for name in rows), 0)
        self._held_since = {held.directory: time.monotonic() for held in manifest.held.values()}

    def _check(self, manifest: Manifest, partition_by: tuple[str, ...]) -> None:
        """Refuse a directory whose rows have other types or other partitions than the stream."""
        where = f"the Parquet directory {str(self._home.directory)!r}"
        if manifest.schema is None or not (manifest.files or manifest.held):
            return
        if manifest.partition_by != partition_by:
            raise SinkError(f"{where} is partitioned by {manifest.partition_by}, the sink by {partition_by}")
        there, wanted = plain_schema(manifest.schema), self._schema
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
        self._show()

    def _finish_moves(self) -> None:
        """Give committed files their names. What is done is done: a second call goes on where the first failed."""
        folders = set()
        while self._moves:
            new = self._moves[-1]
            target = self._home.directory / new.file
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._home.staging / new.staged, target)
            folders.add(target.parent)
            self._files.append(str(target))
            self._moves.pop()
        for folder in folders:
            sync_directory(folder)

    def _named(self, staged: Sequence[Held]) -> list[Published]:
        number = self._manifest.number
        return [
            Published(held.staged, os.path.join(held.directory, f"part-{number:08d}-{part}.parquet"), held.rows)
            for part, held in enumerate(staged)
        ]

    def _merge_full(self, roll: Roll) -> None:
        """Begin to make a file of every directory that holds enough rows, or has held them long enough."""
        if self._merging is not None:
            return
        by_directory: dict[str, list[Held]] = {}
        for held in self._manifest.held.values():
            by_directory.setdefault(held.directory, []).append(held)
        now = time.monotonic()
        full = [
            held
            for directory, held in by_directory.items()
            if sum(each.bytes for each in held) * self._shrinks >= roll.bytes
            or now - self._held_since[directory] >= roll.seconds
        ]
        if full:
            number = self._manifest.number
            self._merging = self._merger.submit(lambda: [self._merged(held, number) for held in full])

    def _merged(self, held: Sequence[Held], number: int) -> _Merged:
        """Encode held rows of one directory as one staged file; in the merger's thread."""
        directory = held[0].directory
        table = pa.concat_tables([self._home.rows(each) for each in held]).drop_columns(list(self._partition_by))
        path = self._home.staging / directory / f"merged-{number:08d}.parquet"
        self._form.write(table, path)
        name = os.path.join(directory, path.name)
        return _Merged(Held(name, directory, table.num_rows, path.stat().st_size), tuple(held))

    def _publish_merged(self, *, wait: bool) -> None:
        if self._merging is None or not (wait or self._merging.done()):
            return
        merging, self._merging = self._merging, None
        done = merging.result()
        gone = [held for merged in done for held in merged.parts]
        self._publish(Entry(publish=self._named([merged.file for merged in done]), drop=[held.staged for held in gone]))
        self._shrinks = sum(merged.file.bytes for merged in done) / sum(held.bytes for held in gone)
        waiting = {held.directory for held in self._manifest.held.values()}
        self._held_since = {directory: time.monotonic() for directory in waiting}
        for held in gone:
            (self._home.staging / held.staged).unlink(missing_ok=True)

    def _show(self) -> None:
        """Let `view` see what is published and held now, in one assignment."""
        held = self._manifest.held
        self._rows = {name: self._rows.get(name) or self._home.rows(held[name]) for name in held}
        self._shown = (len(self._files), tuple(self._rows.values()))


@dataclass(frozen=True, slots=True)
class _Merged:
    """A staged file and the held ones whose rows it has."""

    file: Held
    parts: tuple[Held, ...]


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
