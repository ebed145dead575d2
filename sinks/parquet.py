"""A sink that writes a directory of Parquet files, exactly once, for any reader at any moment."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pyarrow as pa

from arrowstream.connectors.changes import Append, ChangeKind, Upsert
from arrowstream.connectors.manifest import Home
from arrowstream.connectors.paths import local_path
from arrowstream.connectors.plain import plain_schema
from arrowstream.connectors.sink import Guarantee
from arrowstream.errors import ChangeKindError, PlanError, unknown_column
from arrowstream.names import refuse_twins
from arrowstream.sinks._handover import HandoverWriter, bound, one_word
from arrowstream.sinks._parquet_committer import ParquetCommitter, Roll
from arrowstream.sinks._parquet_complete import CompleteCommitter
from arrowstream.sinks._parquet_files import FileFormat, StagingWriter
from arrowstream.sinks._refusals import NOT_IN_FILES, NOT_IN_POLARS, refuse_types

_COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")


@dataclass(frozen=True, slots=True)
class ParquetSink:
    """The output as Parquet files in the directory `path`, on a local file system.

    Every file is whole and every row there once, whoever reads and when. A batch of several files is seen whole
    through `ctx.sql` and `arrowstream.connect`, which know what was published. Rows go after those of earlier runs.

    partition_by   columns that become hive directories (`day=2026-11-22/`): words, whole numbers, dates, booleans
    roll           how large ("128MB") or how old ("1m") a file becomes, or both; until then rows wait beside the
                   directory, where SQL finds them and a crash does not lose them. A graceful stop publishes them
    mode           "append"; "overwrite": the first batch of a new run takes the place of all that is there (Parquet
                   files that came otherwise, too); or "complete": the table as it stands, one file `part-0.parquet`
                   replaced every batch; this takes streams that update rows
    sort_by        columns by which the complete table is sorted, nulls last; `descending` for all of them or for each
    engine         "pyarrow", or "fastparquet"
    """

    path: str | os.PathLike[str]
    name: str = field(default="", kw_only=True)
    partition_by: str | Sequence[str] = field(default=(), kw_only=True)
    roll: str | timedelta | Sequence[str | timedelta] | None = field(default=None, kw_only=True)
    mode: Literal["append", "overwrite", "complete"] = field(default="append", kw_only=True)
    sort_by: str | Sequence[str] = field(default=(), kw_only=True)
    descending: bool | Sequence[bool] = field(default=False, kw_only=True)
    engine: Literal["pyarrow", "fastparquet"] = field(default="pyarrow", kw_only=True)
    compression: str = field(default="zstd", kw_only=True)
    schema: pa.Schema | None = field(default=None, kw_only=True, repr=False)
    kind: ChangeKind = field(default=Append(), kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _word_of(self.path))

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.EXACTLY_ONCE

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> ParquetSink:
        one_word(self.name)
        path = local_path(self.path, "a Parquet sink")
        self._check_options()
        if not isinstance(kind, Append) and self.mode != "complete":
            raise ChangeKindError(_refusal(kind))
        refuse_twins(schema.names, f"output {self.name!r}")
        refuse_types(schema, "Parquet", {**NOT_IN_POLARS, **NOT_IN_FILES})
        self._check_partitions(schema)
        self._check_order(schema)
        self._form.check(schema)
        return replace(self, path=path, schema=schema, kind=kind)

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> StagingWriter | HandoverWriter:
        schema = plain_schema(bound(self.schema, self.name))
        if self.mode == "complete":
            return HandoverWriter(schema)
        staging = Home(self._directory).staging
        stem = f"{batch_id:08d}-{task_id}"
        return StagingWriter(staging, stem, schema, self._partitions, self._form, hold=self.roll is not None)

    def committer(self, run: str | None = None) -> ParquetCommitter | CompleteCommitter:
        schema = plain_schema(bound(self.schema, self.name))
        run = run or uuid.uuid4().hex
        if self.mode == "complete":
            return CompleteCommitter(self._directory, run, schema, self.kind, self._form, self._order)
        roll = None if self.roll is None else parsed_roll(self.roll)
        overwrite = self.mode == "overwrite"
        return ParquetCommitter(self._directory, run, schema, self._partitions, self._form, roll, overwrite=overwrite)

    @property
    def _directory(self) -> Path:
        return Path(os.path.realpath(self.path))

    @property
    def _partitions(self) -> tuple[str, ...]:
        return (self.partition_by,) if isinstance(self.partition_by, str) else tuple(self.partition_by)

    @property
    def _order(self) -> list[tuple[str, bool]]:
        """Columns to sort by, and whether each is descending."""
        names = [self.sort_by] if isinstance(self.sort_by, str) else list(self.sort_by)
        down = [self.descending] * len(names) if isinstance(self.descending, bool) else list(self.descending)
        if len(down) != len(names):
            raise PlanError(f"descending has {len(down)} values, and sort_by {len(names)} columns")
        return list(zip(names, down, strict=True))

    @property
    def _form(self) -> FileFormat:
        return FileFormat(self.engine, self.compression)

    def _check_options(self) -> None:
        for option, value, known in (
            ("mode", self.mode, ("append", "overwrite", "complete")),
            ("engine", self.engine, ("pyarrow", "fastparquet")),
            ("compression", self.compression, _COMPRESSIONS),
        ):
            if value not in known:
                raise PlanError(f"{option}={value!r} of a Parquet sink: use one of {', '.join(known)}")
        if self.roll is not None:
            parsed_roll(self.roll)
        if self.mode == "complete" and (self.roll is not None or self.partition_by or self.engine != "pyarrow"):
            raise PlanError("mode='complete' keeps one file: roll=, partition_by= and engine= do not go with it")

    def _check_order(self, schema: pa.Schema) -> None:
        for column, _ in self._order:
            if self.mode != "complete":
                raise PlanError("sort_by= is for a complete result, which is sorted as a whole: mode='complete'")
            if column not in schema.names:
                raise unknown_column(column, f"the stream for {os.fspath(self.path)!r}", schema.names)

    def _check_partitions(self, schema: pa.Schema) -> None:
        for column in self._partitions:
            if column not in schema.names:
                raise unknown_column(column, f"the stream for {os.fspath(self.path)!r}", schema.names)
            if column.startswith(("_", ".")):
                raise PlanError(
                    f"partition_by={column!r}: readers take directories that begin so for hidden; rename it"
                )
            if len(quote(column, safe="")) > 200:
                raise PlanError(f"partition_by={column[:40]!r}…: too long for the name of a directory; rename it")
            kind = schema.field(column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (str(kind) in ("string", "large_string", "string_view", "bool", "date32[day]") or _is_integer(kind)):
                raise PlanError(
                    f"partition_by={column!r} of type {kind}: directories are named by words, whole numbers, dates and "
                    "booleans; cast the column, such as a time to its date"
                )
        if self._partitions and not set(schema.names) - set(self._partitions):
            raise PlanError("partition_by= names every column of the stream, so that nothing is left for the files")


def parsed_roll(roll: str | timedelta | Sequence[str | timedelta]) -> Roll:
    """A size, a duration, or both; raises `PlanError` for anything else."""
    limits: dict[str, float] = {}
    for part in (roll,) if isinstance(roll, str | timedelta) else roll:
        if isinstance(part, timedelta):
            limits["seconds"] = part.total_seconds()
        elif found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)", part):
            limits["bytes"] = float(found[1]) * _SIZES[found[2].replace("i", "")]
        elif re.fullmatch(r"(\d+(ms|s|m|h|d))+", part):
            limits["seconds"] = sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)(ms|s|m|h|d)", part))
        else:
            raise PlanError(f"roll={part!r}: use a size such as '128MB', a duration such as '1m', or a tuple of both")
    return Roll(**limits)


_SIZES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _refusal(kind: ChangeKind) -> str:
    of = (
        f"updates rows of {', '.join(f'`{key}`' for key in kind.keys)}"
        if isinstance(kind, Upsert) and kind.keys
        else None
    )
    return (
        f"Parquet takes append-only streams and this one {of or kind}: "
        "use mode='complete' for the table as it is now, or write to DuckDB, which updates rows in place"
    )


def _word_of(path: str | os.PathLike[str]) -> str:
    last = os.path.basename(os.path.abspath(path)).split(".")[0]
    word = re.sub(r"\W+", "_", last).strip("_") or "output"
    return word if not word[0].isdigit() else f"_{word}"


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))
