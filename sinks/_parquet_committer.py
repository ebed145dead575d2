"""Publishes staged Parquet files: a line in the log, then renames."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from arrowstream.connectors.plain import plain_schema
from arrowstream.connectors.sink import Receipt
from arrowstream.connectors.space import with_space
from arrowstream.connectors.view import TableView
from arrowstream.errors import SinkError
from arrowstream.sinks._fence import Fence
from arrowstream.sinks._parquet_files import FileFormat
from arrowstream.sinks._places import WatchedPlace, lock_directory, refuse_around


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
        *,
        overwrite: bool = False,
    ) -> None:
        self._home = Home(directory)
        self._run = run
        self._overwrite = overwrite
        self._schema = schema
        self._form = form
        self._roll = roll
        self._held_since: dict[str, float] = {}
        self._rows: dict[str, pa.Table] = {}
        self._files: list[str] = []  # only ever grows; another takes its place where files are removed
        self._shown: tuple[list[str], int, tuple[pa.Table, ...]] = ([], 0, ())
        self._shrinks = 0.5  # bytes of Parquet for a byte that is held; learned from file to file
        self._merger = ThreadPoolExecutor(1, thread_name_prefix="arrowstream-parquet")
        self._merging: Future[list[_Merged]] | None = None
        self._partition_by = partition_by
        self._moves: list[Published] = []
        self._places = ExitStack()
        try:
            self._watched = self._places.enter_context(opened_home(self._home))
            self._manifest = self._home.manifest()
            self._check(self._manifest, partition_by)
            self._recover()
            self._manifest.schema, self._manifest.partition_by = schema, partition_by
            self._fence = Fence(f"the Parquet directory {str(directory)!r}", self._manifest.fences.get(run))
            self._log = LogWriter(self._home, self._manifest)
            self._watched.append(WatchedPlace(self._home.log, "the log of the Parquet directory"))
            for place in self._watched:
                place.note()
        except BaseException:
            self._places.close()
            raise
        self._show()

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        with _writing(self._home, batch_id):
            for place in self._watched:
                place.check()
            if self._moves:
                self._finish_moves()
                self._show()
            if self._fence.passed(batch_id, receipts):
                self.abort(batch_id, receipts)
                return
            staged = [Held(**facts) for receipt in receipts for facts in receipt.facts["staged"]]
            entry = Entry(run=self._run, batch=batch_id)
            if self._roll is None:
                entry.publish = self._named(staged)
            else:
                entry.hold = staged
            replaced = self._replaced(entry) if self._overwrite and self._fence.last is None else []
            with_space(self._home.log, lambda: self._log.append(entry))
            self._fence.through(batch_id, receipts)  # committed from here on, also where a rename fails
            self._publish(entry)
            self._delete(replaced)
            if self._roll is not None:
                self._publish_merged(wait=False)
                self._merge_full(self._roll)

    def _replaced(self, entry: Entry) -> list[Held]:
        """Have the first batch of a run take the place of all that is there."""
        entry.remove = list(self._manifest.files)
        replaced = list(self._manifest.held.values())
        entry.drop = [held.staged for held in replaced]
        self._files = []
        return replaced

    def _delete(self, held: Sequence[Held]) -> None:
        for each in held:
            (self._home.staging / each.staged).unlink(missing_ok=True)
        for name in self._manifest.removed:
            (self._home.directory / name).unlink(missing_ok=True)
        self._manifest.removed.clear()

    def earlier_rows(self) -> int:
        if self._overwrite or self._fence.last is not None:
            return 0
        published = sum(new.rows for new in self._manifest.files.values())
        return published + sum(held.rows for held in self._manifest.held.values())

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
        self._places.close()

    def view(self) -> TableView:
        files, count, rows = self._shown
        shown = tuple(files[:count])
        return TableView(self._schema, rows, shown, partitions=self._partition_by, directory=str(self._home.directory))

    def last_batch(self) -> int | None:
        return self._fence.last

    def _recover(self) -> None:
        """Make the renames that a crash has left undone, delete what was staged and not committed, and take in
        files that came otherwise."""
        home, manifest = self._home, self._manifest
        for name in manifest.removed:
            (home.directory / name).unlink(missing_ok=True)
        manifest.removed.clear()
        self._moves = [new for new in manifest.files.values() if new.staged and (home.staging / new.staged).exists()]
        self._finish_moves()
        for path in home.staging.rglob("*"):
            if path.is_file() and str(path.relative_to(home.staging)) not in manifest.held:
                path.unlink()
        there = dict.fromkeys(parquet_files(home.directory))
        rows = {name: new.rows for name, new in manifest.files.items() if name in there}
        for name in there:
            if rows.get(name, UNKNOWN) == UNKNOWN:
                rows[name] = foreign_rows(home.directory, name, self._schema)
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
            if column.name in there.names and not _alike(there.field(column.name).type, column.type):
                before = there.field(column.name).type
                raise SinkError(
                    f"column {column.name!r} is {before} in {where} and {column.type} in the stream: "
                    "cast it, or write to another directory"
                )

    def _publish(self, entry: Entry) -> None:
        """Do what an entry of the log says."""
        self._manifest.apply(entry)
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
            move(self._home.staging / new.staged, target)
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
        entry = Entry(publish=self._named([merged.file for merged in done]), drop=[held.staged for held in gone])
        with_space(self._home.log, lambda: self._log.append(entry))
        self._publish(entry)
        self._shrinks = sum(merged.file.bytes for merged in done) / sum(held.bytes for held in gone)
        waiting = {held.directory for held in self._manifest.held.values()}
        self._held_since = {directory: time.monotonic() for directory in waiting}
        for held in gone:
            (self._home.staging / held.staged).unlink(missing_ok=True)

    def _show(self) -> None:
        """Let `view` see what is published and held now, in one assignment."""
        held = self._manifest.held
        self._rows = {name: self._rows.get(name) or self._home.rows(held[name]) for name in held}
        self._shown = (self._files, len(self._files), tuple(self._rows.values()))


@dataclass(frozen=True, slots=True)
class _Merged:
    """A staged file and the held ones whose rows it has."""

    file: Held
    parts: tuple[Held, ...]


@contextmanager
def opened_home(home: Home) -> Iterator[list[WatchedPlace]]:
    """Make the directory and the folder beside it, and be the only sink there; gives what must not go away."""
    with lock_directory(home.directory):
        refuse_around(home.directory)
        try:
            home.staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"the Parquet directory {str(home.directory)!r} cannot be written: {error}") from error
        if home.directory.stat().st_dev != home.staging.stat().st_dev:
            raise SinkError(
                f"{str(home.directory)!r} is a volume of its own, and files are staged beside it, where they cannot be "
                f"renamed into it: write to a directory within, such as {str(home.directory / 'output')!r}"
            )
        yield [WatchedPlace(home.directory, "the Parquet directory")]


def move(staged: Path, target: Path) -> None:
    """Give a staged file its name; one that is taken is never replaced. What failed can be called again."""
    try:
        os.link(staged, target)
    except FileExistsError:
        if not (staged.exists() and os.path.samefile(staged, target)):
            raise _taken(target) from None
    except PermissionError:  # a file system without links
        if target.exists():
            raise _taken(target) from None
        os.rename(staged, target)
        return
    staged.unlink()


def _taken(target: Path) -> FileExistsError:
    return FileExistsError(f"{str(target)!r} is there already, and not by this sink: move it away, and start again")


def foreign_rows(directory: Path, name: str, schema: pa.Schema) -> int:
    """How many rows a file has that came otherwise; raises `SinkError` where it is no part of such a table."""
    path = directory / name
    where = f"the file {str(path)!r}, which lies in the directory of this Parquet sink,"
    try:
        with pq.ParquetFile(path) as file:
            found, rows = plain_schema(file.schema_arrow), int(file.metadata.num_rows)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise SinkError(f"{where} is no whole Parquet file ({error}): move it away") from error
    for column in schema:
        if column.name in found.names and not _alike(found.field(column.name).type, column.type):
            raise SinkError(
                f"{where} has the column {column.name!r} as {found.field(column.name).type}, and the stream as "
                f"{column.type}: cast it, or write to another directory"
            )
    return rows


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two types are the same but for how texts, bytes and lists are laid out."""
    return bool(_layout(found) == _layout(wanted))


def _layout(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _layout(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(pa.field("item", _layout(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("item", _layout(kind.value_type)), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, _layout(child.type)) for child in kind])
    return kind


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
