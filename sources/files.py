"""Files of a directory as a stream: Parquet, Arrow IPC, NDJSON, CSV and text, each file as it appears."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.encoding import check_encoding
from arrowstream.connectors.formats.format import Format, make_rejects
from arrowstream.connectors.formats.guess import INFER_BYTES, INFER_ROWS, guess_schema, sample_format
from arrowstream.connectors.formats.make import current_options, make_format
from arrowstream.connectors.formats.schema import (
    NewColumns,
    SchemaLike,
    check_new_columns,
    polars_schema,
    with_rescued,
)
from arrowstream.connectors.source import EndOfStream, Offset, Reference
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources._columnar import Footer, Unfinished, read_footer, reading, scan_file, widest
from arrowstream.sources._drift import Fit, fit
from arrowstream.sources._filelog import FileLog, parts_between
from arrowstream.sources._linefile import COMPRESSIONS, LineFile
from arrowstream.sources._lines import LONGEST_LINE
from arrowstream.sources._listing import Entry, Listing
from arrowstream.sources._refusals import OnBad, Refusals, check_on_bad

_SUFFIXES = {
    ".parquet": "parquet",
    ".arrow": "ipc",
    ".ipc": "ipc",
    ".feather": "ipc",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".csv": "csv",
    ".txt": "text",
    ".log": "text",
}
_COLUMNAR = ("parquet", "ipc")
_REPORT_SECONDS = 60.0  # after which a file without a footer is named in the log

_log = logging.getLogger(__name__)


class FileSource:
    """Rows of the files that are in a directory, and of those that come to it.

    path               a directory, a file, or a glob ("in/*.parquet", "in/**/*.csv")
    format             "parquet", "ipc", "ndjson", "csv" or "text"; unless given, by the ending of `path`
    schema             names and types; unless given, that of the oldest file there is now: as the file has it
                       (Parquet, IPC), or guessed of its first 100,000 records (NDJSON, CSV, JSON), so give it
                       where later files may differ
    watch              go on with files that appear; False ends the stream after those there are at the opening
    poll_interval      how often to look for new files
    max_rows_per_poll  the most rows that one poll gives
    max_rows_per_batch the most rows that one batch takes; unless given, what is there goes into as few batches as
                       the context allows
    splits             how many readers share the files, each those of its part of the names
    remember           how many names of acknowledged files a position keeps
    longest_line       bytes; a longer line goes to the rejects, cut off
    encoding           of the lines, where it is not UTF-8: "utf-16", "latin-1" ...
    on_bad             what to do with a record that is refused: "dead_letter", or "fail" to end the stream
    infer_rows         of how many records of lines a schema is guessed; None for all of the file
    try_parse_dates    guess dates and times in CSV

    and the options of the format, such as `separator` and `has_header`. NDJSON, CSV and text may be compressed (`.gz`,
    `.zst`). Hidden files (`_...`, `.../.x`) and empty ones are left alone. A file must not change once it is there:
    write it under a hidden name and rename it.

    Replayable. Files are read oldest first, by modification time and then name; one that appears later is read
    later, whatever its time. The position names the files in the order in which they were read.
    """

    replayable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        schema: SchemaLike | None = None,
        *,
        watch: bool = True,
        poll_interval: str | timedelta = "1s",
        max_rows_per_poll: int = 1_000_000,
        max_rows_per_batch: int | None = None,
        splits: int = 1,
        remember: int = 1000,
        longest_line: int = LONGEST_LINE,
        encoding: str = "utf-8",
        on_bad: OnBad = "dead_letter",
        infer_rows: int | None = INFER_ROWS,
        try_parse_dates: bool = True,
        **options: Any,
    ) -> None:
        self.path = os.fspath(path)
        self.format = format or _format_of(self.path)
        self.max_rows_per_batch = max_rows_per_batch
        limits = {"max_rows_per_poll": max_rows_per_poll, "splits": splits, "remember": remember}
        if max_rows_per_batch is not None:
            limits["max_rows_per_batch"] = max_rows_per_batch
        for name, value in limits.items():
            if value < 1:
                raise PlanError(f"{name}={value} is below 1")
        max_rows_per_poll = min(max_rows_per_poll, max_rows_per_batch or max_rows_per_poll)
        self.listing = Listing.of(self.path, splits)
        self.watch, self.poll_interval = watch, _seconds(poll_interval)
        self.max_rows_per_poll, self.remember, self.longest_line = max_rows_per_poll, remember, longest_line
        self.encoding, self.on_bad = check_encoding(encoding), check_on_bad(on_bad)
        if self.format in _COLUMNAR:
            self.lines: Format | None = None
            self._take_options(**options)
            self.frame_schema = polars_schema(schema) if schema is not None else self._schema_of_first_file()
            if self.new_columns == "rescue":
                self.frame_schema = polars_schema(with_rescued(self.frame_schema.to_arrow()))
        elif self.format not in _SUFFIXES.values():
            raise PlanError(f"no format {self.format!r}; there are: {', '.join(dict.fromkeys(_SUFFIXES.values()))}")
        else:
            options = current_options(self.format, options)
            if schema is None and self.format in ("ndjson", "json", "csv"):
                if self.format != "csv":
                    options.setdefault("strict", False)
                schema = self._guess_schema(options, infer_rows, try_parse_dates)
            self.lines = make_format(self.format, schema, **options)
            self.frame_schema = polars_schema(self.lines.schema)
        self.schema: pa.Schema = self.frame_schema.to_arrow()

    def _take_options(self, *, new_columns: NewColumns = "ignore", strict: bool = True, **others: Any) -> None:
        """The options of columnar formats."""
        for option in others:
            raise PlanError(f"format {self.format!r} has no option {option!r}; it has: new_columns, strict")
        check_new_columns(new_columns)
        self.new_columns, self.strict = new_columns, strict

    def splits(self) -> Sequence[str]:
        return [f"files-{split}" for split in range(self.listing.splits)]

    def open(self, split: str, resume: Offset | None) -> FileReader:
        """Raises `FileNotFoundError` where not even the directory is there."""
        if not os.path.isdir(self.listing.root):
            raise FileNotFoundError(
                f"there is no directory {self.listing.root}: make it first, or is it spelled right?"
            )
        return FileReader(self, int(split.removeprefix("files-")), FileLog.at_offset(resume))

    def bounded(self) -> FileSource:
        """This source, ending after the files that are there when it is opened."""
        bounded = copy.copy(self)
        bounded.watch = False
        return bounded

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        """Parquet and IPC are scanned lazily; lines are decoded now, without those that are no rows."""
        frames = []
        for part in parts_between(start, stop):
            path = self.listing.path(part.name)
            try:
                frames.append(self._scan_part(path, part.first, part.last))
            except (FileNotFoundError, Unfinished) as error:
                raise SourceError(f"{path} was there when the stream read it, and is gone: {error}") from error
        return pl.concat(frames) if frames else pl.LazyFrame(schema=self.frame_schema)

    def _scan_part(self, path: str, first: int, last: int) -> pl.LazyFrame:
        if self.lines is not None:
            file = LineFile(path, self.lines, first, last, self.longest_line, self.encoding)
            with contextlib.closing(file):
                batches = []
                while (lines := file.take()).count:
                    batches.append(file.format.decode(lines.data).rows)
            return pl.DataFrame(pa.Table.from_batches(batches, self.schema)).lazy()
        footer = read_footer(path, self.format)
        if footer.num_rows < last:
            raise SourceError(f"{path} has shrunk: it has {footer.num_rows} rows, and {last} were read of it")
        frame = scan_file(path, self.format)
        if (first, last) != (0, footer.num_rows):  # a slice keeps filters from the file
            frame = frame.slice(first, last - first)
        if footer.schema == self.frame_schema:
            return frame
        return self.fit(path, footer.schema).apply(frame)

    def fit(self, path: str, found: pl.Schema) -> Fit:
        """How the columns of the stream are made of those of a columnar file."""
        return fit(path, found, self.frame_schema, self.new_columns, self.strict)

    def _schema_of_first_file(self) -> pl.Schema:
        for path in self._paths_now():
            with contextlib.suppress(Unfinished, FileNotFoundError):
                return read_footer(path, self.format).schema
        raise self._no_file()

    def _guess_schema(self, options: dict[str, Any], infer_rows: int | None, try_parse_dates: bool) -> SchemaLike:
        if infer_rows is not None and infer_rows < 1:
            raise PlanError(f"infer_rows={infer_rows} is below 1: give None for all of the file")
        for path in self._paths_now():
            try:
                data = self._sample(path, options, infer_rows)
                if data.strip():
                    return guess_schema(self.format, data, options, try_parse_dates=try_parse_dates)
            except FileNotFoundError:
                continue
            except (OSError, PlanError, SourceError) as error:
                raise PlanError(f"the schema cannot be guessed from {path}: {error}; give schema=") from error
        raise self._no_file()

    def _sample(self, path: str, options: dict[str, Any], infer_rows: int | None) -> bytes:
        """The first records of a file, of which a schema is guessed, and its header."""
        left = 1 << 62 if infer_rows is None else infer_rows + 1 + int(options.get("skip_rows", 0))
        most = INFER_BYTES if infer_rows == INFER_ROWS else 1 << 62
        pieces: list[bytes] = []
        format = sample_format(self.format, options)
        with contextlib.closing(LineFile(path, format, 0, None, self.longest_line, self.encoding)) as file:
            while left > 0 and file.at < most and (lines := file.take(max_lines=left)).count:
                pieces.append(lines.data)
                left -= lines.count
        return b"".join(pieces)

    def _paths_now(self) -> list[str]:
        splits = range(self.listing.splits)
        entries = sorted(entry for split in splits for entry in self.listing.entries(split) if entry.size)
        return [self.listing.path(entry.name) for entry in entries]

    def _no_file(self) -> PlanError:
        return PlanError(
            f"there is no file at {self.path!r} yet to take the schema from: give the columns and their types,"
            " e.g. schema={'user': pl.String, 'amount': pl.Float64}"
        )

    def __repr__(self) -> str:
        return f"FileSource({self.path!r}, {self.format!r})"


class FileReader:
    """The files of one split, one after the other.

    `acknowledge` may come from any thread, and so may `close`, which ends a `poll` that waits with `EndOfStream`.
    """

    def __init__(self, source: FileSource, split: int, log: FileLog) -> None:
        self._source, self._split, self._log = source, split, log
        self._waiting: list[Entry] = []
        self._footer: Footer | None = None
        self._fits: pl.Schema | None = None  # files alike share it, and need not be looked at again
        self._file: LineFile | None = None
        self._refused: list[pa.RecordBatch] = []
        self._judge = Refusals(source.path, source.on_bad)
        self._unfinished: dict[str, float] = {}  # since when; infinite once it is reported
        self._acknowledged: Offset | None = None
        self._polling = threading.Lock()
        self._closed = threading.Event()
        self._look()

    def poll(self, timeout: float) -> pa.RecordBatch | Reference | None:
        deadline = time.monotonic() + timeout
        with self._polling:
            while not self._closed.is_set():
                found = self._read_lines() if self._source.lines is not None else self._refer()
                if found is not None or self._refused:
                    return found
                self._judge.pause()
                if not self._source.watch:
                    break
                now = time.monotonic()
                if now >= self._next_look:
                    self._look()
                elif now >= deadline:
                    return None
                else:
                    self._closed.wait(min(deadline, self._next_look) - now)
        raise EndOfStream

    def position(self) -> Offset:
        return self._log.offset()

    def rejects(self) -> pa.RecordBatch | None:
        refused, self._refused = self._refused, []
        return pa.concat_batches(refused) if refused else None

    def acknowledge(self, offset: Offset) -> None:
        self._acknowledged = offset

    def close(self) -> None:
        self._closed.set()
        with self._polling:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _look(self) -> None:
        """See which files have come, and let go of names that are no longer needed."""
        entries = self._source.listing.entries(self._split)
        self._check_unchanged(entries)
        self._waiting = [entry for entry in self._log.new(entries) if entry.size]
        if (acknowledged := self._acknowledged) is not None:
            self._acknowledged = None
            self._log.forget(acknowledged, self._source.remember, entries, self._waiting)
        self._next_look = time.monotonic() + self._source.poll_interval

    def _check_unchanged(self, entries: list[Entry]) -> None:
        """A file of lines that grew after it was read has rows that nobody would see."""
        if self._source.lines is None:
            return
        sizes = {entry.name: entry.size for entry in entries}
        for name, end in self._log.done:
            if os.path.splitext(name)[1] not in COMPRESSIONS and sizes.get(name, end) != end:
                raise SourceError(
                    f"{self._source.listing.path(name)} has changed after it was read: {end} bytes then,"
                    f" {sizes[name]} now; write files under a hidden name and rename them when they are whole"
                )

    def _refer(self) -> Reference | None:
        """Rows of as many files as make up one poll."""
        rows = nbytes = 0
        ranges: list[Mapping[str, tuple[int, int]]] = []
        most = self._source.max_rows_per_poll
        while rows < most and (footer := self._open_footer()) is not None:
            stop = footer.cut(self._log.at, most - rows)
            if rows and stop not in footer.ends:
                break  # the next poll can take the whole row group
            rows, nbytes = rows + stop - self._log.at, nbytes + footer.nbytes_of(stop - self._log.at)
            refused = self._refuse(footer, self._log.at, stop)
            rows -= refused
            ranges.append({} if refused else self._known(footer, self._log.at, stop))
            self._log.at = stop
            if stop == footer.num_rows:
                self._log.finish(stop)
                self._footer = None
        return Reference(rows, nbytes, widest(ranges)) if rows else None

    def _refuse(self, footer: Footer, first: int, last: int) -> int:
        """How many rows of a file have a value that the stream cannot keep; they become rejects."""
        source = self._source
        refused: pa.RecordBatch | None = None
        assert self._log.name is not None
        path = source.listing.path(self._log.name)
        if footer.schema is not self._fits and (fits := source.fit(path, footer.schema)).misfits:
            with reading(path, source.format):
                rows = scan_file(path, source.format).slice(first, last - first)
                refused = fits.refused(rows, path, first, source.frame_schema)
        count = 0 if refused is None else refused.num_rows
        self._judge.note(last - first - count, [] if refused is None else [refused], path)
        if refused is not None:
            self._refused.append(refused)
        return count

    def _known(self, footer: Footer, first: int, last: int) -> Mapping[str, tuple[int, int]]:
        """The ranges of columns that the stream has as the file has them."""
        schema, found = self._source.frame_schema, footer.ranges_of(first, last)
        if footer.schema is self._fits:
            return found
        return {name: found[name] for name in found if name in schema and schema[name] == footer.schema[name]}

    def _open_footer(self) -> Footer | None:
        """The footer of the file at hand, else of the next one; None where there is none that can be read yet."""
        if self._footer is None and self._log.name is not None:  # resumed within a file
            path = self._source.listing.path(self._log.name)
            try:
                self._footer = self._read_footer(path)
            except (FileNotFoundError, Unfinished) as error:
                raise SourceError(f"{path} was read in part, and cannot be read on: {error}") from error
            if self._footer.num_rows < self._log.at:
                raise SourceError(f"{path} has shrunk: {self._footer.num_rows} rows, and {self._log.at} were read")
        while self._footer is None and self._waiting:
            entry = self._waiting.pop(0)
            path = self._source.listing.path(entry.name)
            try:
                self._footer = self._read_footer(path)
            except FileNotFoundError:
                continue  # gone before a row of it was read
            except Unfinished as error:
                self._wait_for(entry.name, error)
                continue
            self._unfinished.pop(entry.name, None)
            self._log.name, self._log.at = entry.name, 0
        return self._footer

    def _read_footer(self, path: str) -> Footer:
        footer = read_footer(path, self._source.format)
        if footer.schema is not self._fits:
            self._source.fit(path, footer.schema)
            if footer.schema == self._source.frame_schema:
                self._fits = footer.schema
        return footer

    def _wait_for(self, name: str, error: Unfinished) -> None:
        """A file without a footer is tried again at every look, and named in the log after a while."""
        if not self._source.watch:
            raise SourceError(str(error)) from error
        now = time.monotonic()
        if now - self._unfinished.setdefault(name, now) > _REPORT_SECONDS:
            self._unfinished[name] = float("inf")
            _log.warning("%s, for %d seconds now; the stream goes on without it", error, _REPORT_SECONDS)

    def _read_lines(self) -> pa.RecordBatch | None:
        """Rows of the next lines; None where there are none, or none of them is a row."""
        while (file := self._open_lines()) is not None:
            lines = file.take(self._source.max_rows_per_poll)
            self._log.at = file.at
            if not lines.count:
                self._log.finish(file.at)
                file.close()
                self._file = None
                continue
            decoded = file.format.decode(lines.data)
            refused = [each for each in (decoded.rejects, make_rejects(lines.refused)) if each is not None]
            self._judge.note(decoded.rows.num_rows, refused, file.path)
            self._refused += refused
            if decoded.rows.num_rows or self._refused:
                return decoded.rows if decoded.rows.num_rows else None
        return None

    def _open_lines(self) -> LineFile | None:
        source = self._source
        assert source.lines is not None
        if self._file is None and self._log.name is not None:  # resumed within a file
            path = source.listing.path(self._log.name)
            try:
                self._file = LineFile(path, source.lines, self._log.at, None, source.longest_line, source.encoding)
            except FileNotFoundError as error:
                raise SourceError(f"{path} was read in part, and is gone") from error
        while self._file is None and self._waiting:
            entry = self._waiting.pop(0)
            with contextlib.suppress(FileNotFoundError):  # gone before a row of it was read
                self._file = LineFile(
                    source.listing.path(entry.name), source.lines, 0, None, source.longest_line, source.encoding
                )
                self._log.name, self._log.at = entry.name, self._file.at
        return self._file


def _format_of(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    if suffix in COMPRESSIONS:
        suffix = os.path.splitext(stem)[1]
    if suffix not in _SUFFIXES:
        known = ", ".join(dict.fromkeys(_SUFFIXES.values()))
        raise PlanError(f"what format the files at {path!r} have cannot be seen: give format=, one of {known}")
    return _SUFFIXES[suffix]


def _seconds(interval: str | timedelta) -> float:
    """A duration as users write it, in seconds."""
    if isinstance(interval, timedelta):
        seconds = interval.total_seconds()
    else:
        try:
            seconds = pl.select(pl.lit(0).cast(pl.Datetime("us")).dt.offset_by(interval).cast(pl.Int64)).item() / 1e6
        except pl.exceptions.PolarsError as error:
            raise PlanError(f"{interval!r} is no duration, such as '1s' or '200ms'") from error
    if seconds <= 0:
        raise PlanError(f"a duration above zero is needed, and this is {interval!r}")
    return float(seconds)
