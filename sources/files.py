"""Files of a directory as a stream: Parquet, Arrow IPC, NDJSON, CSV and text, each file as it appears."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, get_args

import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.encoding import check_encoding
from arrowstream.connectors.formats.format import Format
from arrowstream.connectors.formats.guess import INFER_BYTES, INFER_ROWS, guess_schema, sample_format
from arrowstream.connectors.formats.make import current_options, make_format
from arrowstream.connectors.formats.schema import (
    NewColumns,
    SchemaLike,
    check_new_columns,
    polars_schema,
    with_rescued,
)
from arrowstream.connectors.paths import local_path
from arrowstream.connectors.source import Offset, Reader
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources._columnar import Footer, read_footer, reading, scan_file
from arrowstream.sources._drift import Fit, fit
from arrowstream.sources._filecolumns import FileColumns, literals
from arrowstream.sources._filelog import FileLog, Part, Place, join, parts_between, remember
from arrowstream.sources._filereader import FileReader
from arrowstream.sources._hive import guessed
from arrowstream.sources._knownfiles import Stamp, begins_with
from arrowstream.sources._linefile import COMPRESSIONS, LineFile
from arrowstream.sources._lines import LONGEST_LINE
from arrowstream.sources._listing import IGNORED, Entry, Listing
from arrowstream.sources._refusals import OnBad, check_on_bad
from arrowstream.sources._tail import TailReader
from arrowstream.sources._unfinished import Unfinished

_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
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
_ALSO = {"csv": (".tsv", ".psv", ".txt")}
_COLUMNAR = ("parquet", "ipc")

BadFiles = Literal["dead_letter", "fail", "wait"]
OnReplaced = Literal["error", "read", "ignore"]


class FileSource:
    """Rows of the files that are in a directory, and of those that come to it.

    path               a directory with all below it, a file, or a glob ("in/*.parquet", "in/**/*.csv")
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
    longest_line       bytes; a longer line goes to the rejects, cut off
    encoding           of the lines, where it is not UTF-8: "utf-16", "latin-1" ...
    on_bad             what to do with a record that is refused: "dead_letter", or "fail" to end the stream
    infer_rows         of how many records of lines a schema is guessed; None for all of the file
    try_parse_dates    guess dates and times in CSV
    hive               `day=2026-11-22/` in a file's directories is a column; of the type that `schema` says, else a
                       guess out of the directories there are now
    recursive          of a directory, all files below it; False: only those in it
    endings            of a directory, only files whose names end so; unless given, by the format. "*" for all
    ignore             patterns of names of files and directories that are not finished or hold no rows
    bad_files          a file that cannot be read goes to the rejects ("dead_letter"), ends the stream ("fail"), or is
                       left until it changes ("wait")
    patience           how long a file that is not whole (Parquet without a footer, `.gz` cut off) may be as it is
                       before it is a bad file
    on_replaced        a file that was read has changed: "error", "read" it again as a new one, or "ignore" it
    tail               follow files of lines as they grow, through rotation; a last line without an end waits
    include_path, include_modified, include_row_number
                       names of columns for a file's path, time of last change and the row's number in it (from 0)

    and the options of the format, such as `separator` and `has_header`. NDJSON, CSV and text may be compressed (`.gz`,
    `.zst`). In directories hidden files (`_...`, `.../.x`) are left alone, and empty ones everywhere. A file must not
    change once it is there, but for `tail`: write it under a hidden name and rename it.

    Replayable (but for `tail`, since a rotated log is gone). Files are read oldest first, by modification time and then
    name; one that appears later is read later, whatever its time. A position names the files that were read since the
    position before (`SupportsSteps`); all that were ever read are known by digests, 48 bytes each.
    """

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
        longest_line: int = LONGEST_LINE,
        encoding: str = "utf-8",
        on_bad: OnBad = "dead_letter",
        infer_rows: int | None = INFER_ROWS,
        try_parse_dates: bool = True,
        hive: bool = True,
        recursive: bool = True,
        endings: str | Sequence[str] | None = None,
        ignore: str | Sequence[str] = IGNORED,
        bad_files: BadFiles = "dead_letter",
        patience: str | timedelta = "1m",
        on_replaced: OnReplaced = "error",
        tail: bool = False,
        include_path: str | None = None,
        include_modified: str | None = None,
        include_row_number: str | None = None,
        **options: Any,
    ) -> None:
        self.path = local_path(path, "a source of files")
        self.format = _known_format(format or _format_of(self.path))
        self.max_rows_per_batch = max_rows_per_batch
        _at_least_one(max_rows_per_poll=max_rows_per_poll, splits=splits, max_rows_per_batch=max_rows_per_batch)
        _one_of(BadFiles, bad_files=bad_files)
        _one_of(OnReplaced, on_replaced=on_replaced)
        if options.pop("remember", None) is not None:
            warnings.warn("remember= has no effect: all files that were read are known; leave it out", stacklevel=2)
        self.bad_files, self.on_replaced, self.tail = bad_files, on_replaced, tail
        self.watch = watch
        self.poll_interval, self.patience = _seconds(poll_interval), _seconds(patience, least=0)
        self.max_rows_per_poll = min(max_rows_per_poll, max_rows_per_batch or max_rows_per_poll)
        self.longest_line = longest_line
        patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        self.listing = Listing.of(self.path, splits, _endings(endings, self.format), patterns, recursive)
        self.encoding, self.on_bad = check_encoding(encoding), check_on_bad(on_bad)
        if tail and self.encoding is not None:
            raise PlanError(
                f"tail=True follows UTF-8, and encoding={encoding!r} is asked for: convert the log, or leave tail"
            )
        self._infer_rows, self._try_parse_dates = infer_rows, try_parse_dates
        if self.format in _COLUMNAR:
            self._hive, self._options = hive, {}
            self._take_options(**options | ({"tail": True} if tail else {}))
            found = polars_schema(schema) if schema is not None else self._schema_of_first_file()
        else:
            self._hive, self._options = hive, current_options(self.format, options)
            self._new_columns: NewColumns = self._options.get("new_columns", "ignore")
            found = self._schema_of_lines(schema)
        if self._new_columns == "rescue":
            found = polars_schema(with_rescued(found.to_arrow()))
        self.columns = FileColumns(found, hive, include_path, include_modified, include_row_number)
        self._plain: pl.Schema | None = None
        self._formats: dict[frozenset[str], Format] = {}
        self.lines: Format | None = None if self.format in _COLUMNAR else self._format_without(frozenset())
        self.frame_schema = self.columns.stream_schema()
        self.schema: pa.Schema = self.frame_schema.to_arrow()

    def _take_options(self, *, new_columns: NewColumns = "ignore", strict: bool = True, **others: Any) -> None:
        """The options of columnar formats."""
        for option in others:
            raise PlanError(f"format {self.format!r} has no option {option!r}; it has: new_columns, strict")
        check_new_columns(new_columns)
        self._new_columns, self._strict = new_columns, strict

    @property
    def replayable(self) -> bool:
        """Lines of a log that is followed may be gone once it was rotated: the engine keeps them itself."""
        return not self.tail

    def splits(self) -> Sequence[str]:
        return [f"files-{split}" for split in range(self.listing.splits)]

    def open(self, split: str, resume: Offset | None) -> Reader:
        """Raises `FileNotFoundError` where not even the directory is there."""
        if not os.path.isdir(self.listing.root):
            raise FileNotFoundError(
                f"there is no directory {self.listing.root}: make it first, or is it spelled right?"
            )
        number, log = int(split.removeprefix("files-")), FileLog.at_offset(resume)
        return TailReader(self, number, log) if self.tail else FileReader(self, number, log)

    def bounded(self) -> FileSource:
        """This source, ending after the files that are there when it is opened."""
        bounded = copy.copy(self)
        bounded.watch = False
        return bounded

    def joined(self, earlier: Offset | None, later: Offset) -> Offset:
        return join(earlier, later)

    def remembered(self, memory: Offset | None, later: Offset) -> Offset:
        return remember(memory, later)

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        """Parquet and IPC are scanned lazily; lines are decoded now, without those that are no rows."""
        frames = []
        for part in parts_between(start, stop):
            path = self.listing.path(part.name)
            try:
                frames.append(self._scan_lines(part) if self.lines is not None else self._scan_columns(part))
            except (FileNotFoundError, Unfinished) as error:
                raise SourceError(f"{path} was there when the stream read it, and is gone: {error}") from error
        return pl.concat(frames) if frames else pl.LazyFrame(schema=self.frame_schema)

    def _scan_lines(self, part: Part) -> pl.LazyFrame:
        path, stamp = self.listing.path(part.name), Stamp.parse(part.stamp)
        if not begins_with(path, stamp):
            raise SourceError(f"{path} was replaced, or has shrunk, after it was read: write files under new names")
        file = LineFile(path, self.format_of_file(part.name), part.first, part.last, self.longest_line, self.encoding)
        constants = self.constants(part.name, stamp)
        with contextlib.closing(file):
            batches = []
            row = part.row
            while (found := file.rows()) is not None:
                batches.append(self.columns.dressed(found[0], constants, row))
                row += found[0].num_rows
        return pl.DataFrame(pa.Table.from_batches(batches, self.schema)).lazy()

    def _scan_columns(self, part: Part) -> pl.LazyFrame:
        path, stamp = self.listing.path(part.name), Stamp.parse(part.stamp)
        footer = read_footer(path, self.format)
        if not footer.stamp.same_bytes(stamp):
            raise SourceError(
                f"{path} was replaced after {part.last} rows of it were taken: it had {stamp.size} bytes then, and has"
                f" {footer.stamp.size} now; write files under new names"
            )
        frame = scan_file(path, self.format, self.columns.row_number)
        if (part.first, part.last) != (0, footer.num_rows):  # a slice keeps filters from the file
            frame = frame.slice(part.first, part.last - part.first)
        constants = self.constants(part.name, stamp)
        if footer.schema == self.frame_schema and not constants:
            return frame
        how = self._fit(part.name, footer.schema)
        more = literals(constants)
        if (number := self.columns.row_number) is not None:
            more.append(pl.col(number).cast(pl.Int64))
        return how.apply(frame, *more).select(self.frame_schema.names())

    # What a reader asks of a file.

    def footer(self, name: str) -> Footer:
        """The footer of a columnar file that has the stream's columns; raises `SourceError` where it has not."""
        path = self.listing.path(name)
        footer = read_footer(path, self.format)
        self.constants(name, footer.stamp)
        if not self._is_plain(footer.schema):
            self._fit(name, footer.schema)
        return footer

    def refused_rows(self, name: str, footer: Footer, first: int, last: int) -> pa.RecordBatch | None:
        """The rows of a columnar file that have a value which the stream cannot keep (`REJECT_SCHEMA`)."""
        if self._is_plain(footer.schema) or not (how := self._fit(name, footer.schema)).misfits:
            return None
        path = self.listing.path(name)
        with reading(path):
            rows = scan_file(path, self.format).slice(first, last - first)
            return how.refused(rows, path, first, self.columns.schema)

    def _is_plain(self, found: pl.Schema) -> bool:
        """Has a file the columns of the stream as they are? Files alike share their schema, and are looked at once."""
        if found is not self._plain:
            if found != self.columns.schema:
                return False
            self._plain = found
        return True

    def _fit(self, name: str, found: pl.Schema) -> Fit:
        """How the columns of the stream are made of those of a file, but for those that its directories tell."""
        told = self.columns.partitions(name)
        own = pl.Schema({each: dtype for each, dtype in found.items() if each not in told})
        wanted = pl.Schema({each: dtype for each, dtype in self.columns.schema.items() if each not in told})
        return fit(self.listing.path(name), own, wanted, self._new_columns, self._strict)

    def known_ranges(self, name: str, footer: Footer, first: int, last: int) -> Mapping[str, tuple[int, int]]:
        """The ranges of columns that the stream has as the file has them."""
        found, schema, told = footer.ranges_of(first, last), self.columns.schema, self.columns.partitions(name)
        if self._is_plain(footer.schema) and not told:
            return found
        return {
            each: found[each]
            for each in found
            if each in schema and schema[each] == footer.schema[each] and each not in told
        }

    def line_file(self, name: str, place: Place | None) -> LineFile:
        """A file of lines, from its beginning or a place on."""
        path, format = self.listing.path(name), self.format_of_file(name)
        if place is None:
            return LineFile(path, format, 0, None, self.longest_line, self.encoding)
        return LineFile.at_place(path, format, place, self.longest_line, self.encoding)

    def constants(self, name: str, stamp: Stamp) -> Mapping[str, pl.Series]:
        """The columns that have one value for all rows of a file."""
        return self.columns.constants(name, self.listing.path(name), stamp)

    def format_of_file(self, name: str) -> Format:
        """The format of a file of lines, without the columns that its directories tell."""
        told = frozenset(self.columns.partitions(name))
        if self.format == "text" and (lacking := set(self.columns.schema) - told - {"line"}):
            raise SourceError(f"{self.listing.path(name)} is text, and its directories tell no column {min(lacking)!r}")
        return self._format_without(told)

    def _format_without(self, told: frozenset[str]) -> Format:
        """The format of files whose directories tell these columns."""
        if told not in self._formats:
            columns = {name: dtype for name, dtype in self.columns.schema.items() if name not in told}
            self._formats[told] = make_format(self.format, None if self.format == "text" else columns, **self._options)
        return self._formats[told]

    def _schema_of_first_file(self) -> pl.Schema:
        bad: SourceError | None = None
        for path in self._paths_now():
            try:
                return self._with_partitions(read_footer(path, self.format).schema)
            except (Unfinished, FileNotFoundError):
                continue
            except SourceError as error:
                bad = bad or error
        raise bad or self._no_file()

    def _with_partitions(self, schema: pl.Schema) -> pl.Schema:
        """The columns of a file, and those that the directories tell."""
        told = guessed(entry.name for entry in self._entries_now()) if self._hive else {}
        return pl.Schema({**schema, **{name: dtype for name, dtype in told.items() if name not in schema}})

    def _schema_of_lines(self, schema: SchemaLike | None) -> pl.Schema:
        """The columns of text, or of the first file that has a line to guess from."""
        if self.format == "text":
            line = make_format("text", **self._options)
            if schema is None:
                return self._with_partitions(polars_schema(line.schema))
            given = polars_schema(schema)
            if "line" not in given:
                make_format("text", given, **self._options)
            return given
        if schema is not None:
            return polars_schema(make_format(self.format, schema, **self._options).schema)
        if self.format != "csv":
            self._options.setdefault("strict", False)
        return self._with_partitions(polars_schema(self._guess_schema()))

    def _guess_schema(self) -> SchemaLike:
        if self._infer_rows is not None and self._infer_rows < 1:
            raise PlanError(f"infer_rows={self._infer_rows} is below 1: give None for all of the file")
        bad: PlanError | None = None
        for path in self._paths_now():
            try:
                data = self._sample(path)
                if data.strip():
                    return guess_schema(self.format, data, self._options, try_parse_dates=self._try_parse_dates)
            except FileNotFoundError:
                continue
            except (OSError, PlanError, SourceError) as error:
                bad = bad or PlanError(f"the schema cannot be guessed from {path}: {error}; give schema=")
        raise bad or self._no_file()

    def _sample(self, path: str) -> bytes:
        """The first records of a file, of which a schema is guessed, and its header."""
        rows = self._infer_rows
        left = 1 << 62 if rows is None else rows + 1 + int(self._options.get("skip_rows", 0))
        most = INFER_BYTES if rows == INFER_ROWS else 1 << 62
        pieces: list[bytes] = []
        format = sample_format(self.format, self._options)
        with contextlib.closing(LineFile(path, format, 0, None, self.longest_line, self.encoding)) as file:
            while left > 0 and file.at < most and (lines := file.take(max_lines=left)).count:
                pieces.append(lines.data)
                left -= lines.count
        return b"".join(pieces)

    def _paths_now(self) -> list[str]:
        return [self.listing.path(entry.name) for entry in self._entries_now()]

    def _entries_now(self) -> list[Entry]:
        return [entry for entry in replace(self.listing, splits=1).entries() if entry.size]

    def _no_file(self) -> PlanError:
        return PlanError(
            f"there is no file at {self.path!r} yet to take the schema from: give the columns and their types,"
            " e.g. schema={'user': pl.String, 'amount': pl.Float64}"
        )

    def __repr__(self) -> str:
        return f"FileSource({self.path!r}, {self.format!r})"


def _format_of(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    if suffix in COMPRESSIONS:
        suffix = os.path.splitext(stem)[1]
    if suffix not in _SUFFIXES:
        known = ", ".join(dict.fromkeys(_SUFFIXES.values()))
        raise PlanError(f"what format the files at {path!r} have cannot be seen: give format=, one of {known}")
    return _SUFFIXES[suffix]


def _known_format(format: str) -> str:
    if format not in _SUFFIXES.values():
        raise PlanError(f"no format {format!r}; there are: {', '.join(dict.fromkeys(_SUFFIXES.values()))}")
    return format


def _endings(endings: str | Sequence[str] | None, format: str) -> tuple[str, ...] | None:
    """What names of files in a directory end with; None for anything."""
    if endings is None:
        if format == "text":
            return None
        own = [suffix for suffix, of in _SUFFIXES.items() if of == format or {of, format} == {"json", "ndjson"}]
        own += _ALSO.get(format, ())
        packed = [f"{suffix}{packing}" for suffix in own for packing in COMPRESSIONS]
        return (*own, *(packed if format not in _COLUMNAR else ()))
    given = (endings,) if isinstance(endings, str) else tuple(endings)
    if "*" in given:
        return None
    if not given or not all(isinstance(ending, str) and ending for ending in given):
        raise PlanError(f"endings={endings!r}: write what names end with, such as '.parquet', or '*' for all")
    return tuple(ending.lower().removeprefix("*") for ending in given)


def _at_least_one(**limits: int | None) -> None:
    for name, value in limits.items():
        if value is not None and value < 1:
            raise PlanError(f"{name}={value} is below 1")


def _one_of(known: Any, **given: str) -> None:
    for name, value in given.items():
        if value not in get_args(known):
            raise PlanError(f"{name}={value!r}: use one of {', '.join(map(repr, get_args(known)))}")


def _seconds(interval: str | timedelta, least: float | None = None) -> float:
    """A duration as users write it, in seconds."""
    if isinstance(interval, timedelta):
        seconds = interval.total_seconds()
    else:
        try:
            seconds = pl.select(pl.lit(0).cast(pl.Datetime("us")).dt.offset_by(interval).cast(pl.Int64)).item() / 1e6
        except pl.exceptions.PolarsError as error:
            raise PlanError(f"{interval!r} is no duration, such as '1s' or '200ms'") from error
    if seconds < 0 or (seconds == 0 and least is None):
        raise PlanError(f"a duration above zero is needed, and this is {interval!r}")
    return float(seconds)
