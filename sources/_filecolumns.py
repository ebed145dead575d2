"""Columns that are not in a file, and which its place tells: partitions, path, time of change, row number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from arrowstream.errors import PlanError
from arrowstream.sources._hive import partitions, typed
from arrowstream.sources._knownfiles import Stamp

_MODIFIED = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class FileColumns:
    """What to add to the rows of each file.

    `schema` are the columns of the stream that files (or, where `hive`, directories) have. `path`, `modified` and
    `row_number` name the columns for those, None where they are not asked for.
    """

    schema: pl.Schema
    hive: bool = True
    path: str | None = None
    modified: str | None = None
    row_number: str | None = None

    def stream_schema(self) -> pl.Schema:
        """The columns of the stream; raises `PlanError` where one would be there twice."""
        added = {self.path: pl.String(), self.modified: _MODIFIED, self.row_number: pl.Int64()}
        found = dict(self.schema)
        names = [name for name in (self.path, self.modified, self.row_number) if name is not None]
        for option, name in (
            ("include_path", self.path),
            ("include_modified", self.modified),
            ("include_row_number", self.row_number),
        ):
            if name is not None and (name in self.schema or names.count(name) > 1):
                raise PlanError(f"{option}={name!r}: there is a column of that name already; choose another")
        return pl.Schema(found | {name: added[name] for name in names})

    def partitions(self, name: str) -> dict[str, str | None]:
        """The columns of the stream whose values the directories of this file tell."""
        return {each: text for each, text in partitions(name).items() if each in self.schema} if self.hive else {}

    def constants(self, name: str, path: str, stamp: Stamp) -> dict[str, pl.Series]:
        """The columns that have one value for all of a file; raises `SourceError` for a value that is none."""
        found = typed(path, self.partitions(name), self.schema)
        if self.path is not None:
            found[self.path] = pl.Series([path])
        if self.modified is not None:
            found[self.modified] = pl.Series([stamp.mtime_ns // 1000]).cast(_MODIFIED)
        return found

    def dressed(self, rows: pa.RecordBatch, constants: Mapping[str, pl.Series], first_row: int) -> pa.RecordBatch:
        """Decoded rows with these columns, in the stream's order; `first_row` is the first one's number in the file."""
        if not constants and self.row_number is None:
            return rows
        frame = pl.DataFrame(rows).with_columns(*literals(constants))
        if self.row_number is not None:
            numbers = pl.int_range(first_row, first_row + rows.num_rows, dtype=pl.Int64, eager=True)
            frame = frame.with_columns(numbers.alias(self.row_number))
        schema = self.stream_schema()
        table = frame.select(schema.names()).rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
        return pa.record_batch([column.combine_chunks() for column in table.columns], schema.to_arrow())


def literals(constants: Mapping[str, pl.Series]) -> list[pl.Expr]:
    return [pl.lit(series.item(), dtype=series.dtype).alias(name) for name, series in constants.items()]
