"""Staging: rows become Parquet files under names that nobody looks at, one per directory of partition values."""

from __future__ import annotations

import datetime as dt
import os
import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.manifest import write_rows
from arrowstream.connectors.sink import Receipt, Refused
from arrowstream.connectors.space import with_space
from arrowstream.errors import PlanError, SinkError, missing_extra
from arrowstream.sinks._handover import conformed
from arrowstream.sinks._tables import as_arrow, frame_of

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_SPILL_ROWS = 2_000_000
_FASTPARQUET_TYPES = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer, pa.types.is_float32,
    pa.types.is_float64, pa.types.is_boolean, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How a table becomes a Parquet file."""

    engine: str
    compression: str

    def write(self, table: pa.Table, path: Path, metadata: dict[str, str] | None = None) -> None:
        """Write a whole file and make it durable. `metadata` is kept in its footer (pyarrow only)."""
        if self.engine == "fastparquet":
            _write_fastparquet(table, path, self.compression)
        else:
            if metadata:
                table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
            pq.write_table(table, path, compression=self.compression)
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def check(self, schema: pa.Schema) -> None:
        """Raise where the engine is not installed, or cannot write a column."""
        if self.engine != "fastparquet":
            return
        try:
            import fastparquet  # noqa: F401
        except ImportError as error:
            raise missing_extra("fastparquet", "fastparquet") from error
        for column in schema:
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            timestamp = pa.types.is_timestamp(kind) and kind.unit != "s"
            if not timestamp and not any(fits(kind) for fits in _FASTPARQUET_TYPES):
                raise PlanError(
                    f"fastparquet cannot write column {column.name!r} of type {column.type}: cast it, or leave "
                    "engine= out for pyarrow"
                )

    def check_values(self, table: pa.Table) -> None:
        """Raise where the engine would change a value without a word."""
        for column in table.schema if self.engine == "fastparquet" else ():
            if pa.types.is_floating(column.type) and pc.any(pc.is_nan(table[column.name])).as_py():
                raise SinkError(
                    f"column {column.name!r} holds NaN, which fastparquet writes as null: "
                    "fill_nan() before, or leave engine= out for pyarrow"
                )


@dataclass(slots=True)
class StagingWriter:
    """Stages one task's rows; the files are whole and durable when `finish` returns.

    They are Parquet, ready to be published, or, where rows are to be held back, Arrow IPC.

    Rows are kept until there are two million of them, or `finish`, so that a file is written in one piece.
    """

    staging: Path
    stem: str
    schema: pa.Schema
    partition_by: tuple[str, ...]
    form: FileFormat
    hold: bool = False
    _rows: list[pa.Table] = field(default_factory=list)
    _count: int = 0
    _staged: list[dict[str, Any]] = field(default_factory=list)
    _refused: list[Refused] = field(default_factory=list)
    _finished: bool = False

    def write(self, changes: ChangeBatch) -> None:
        if changes.weights is not None and pc.min(changes.weights).as_py() != 1:
            raise SinkError("an append-only Parquet sink was given rows to take back")
        self._rows.append(conformed(changes.rows, self.schema))
        self._count += changes.num_rows
        if self._count >= _SPILL_ROWS:
            self._spill()

    def finish(self) -> Receipt:
        self._spill()
        self._finished = True
        rows = sum(int(staged["rows"]) for staged in self._staged)
        return Receipt({"rows": rows, "staged": self._staged}, refused=tuple(self._refused))

    def close(self) -> None:
        if not self._finished:
            for staged in self._staged:
                (self.staging / staged["staged"]).unlink(missing_ok=True)
            self._staged = []
        self._rows = []

    def _spill(self) -> None:
        if not self._count:
            return
        table = pa.concat_tables(self._rows)
        self._rows, self._count = [], 0
        parts, refused = partitioned(table, self.partition_by)
        self._refused += refused
        for directory, part in parts.items():
            ending = "arrow" if self.hold else "parquet"
            name = os.path.join(directory, f"{self.stem}-{secrets.token_hex(4)}.{ending}")
            path = self.staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._staged.append({"staged": name, "directory": directory, "rows": part.num_rows, "bytes": 0})
            self.form.check_values(part)
            rows = part if self.hold else part.drop_columns(list(self.partition_by))
            write = partial(write_rows, rows, path) if self.hold else partial(self.form.write, rows, path)
            with_space(path, write, part.nbytes)
            self._staged[-1]["bytes"] = path.stat().st_size


def partitioned(table: pa.Table, partition_by: tuple[str, ...]) -> tuple[dict[str, pa.Table], list[Refused]]:
    """The table by hive directory ("" without partitions), and the rows whose values no directory can have."""
    if not partition_by:
        return {"": table}, []
    found: dict[str, pa.Table] = {}
    refused: list[Refused] = []
    for values, part in frame_of(table).partition_by(partition_by, as_dict=True, maintain_order=True).items():
        rows = as_arrow(part, table.schema)
        try:
            found[hive_directory(partition_by, values)] = rows
        except SinkError as error:
            refused.append(Refused(rows, [str(error)] * rows.num_rows))
    return found, refused


def hive_directory(columns: tuple[str, ...], values: tuple[object, ...]) -> str:
    """`year=2026/word=a%2Fb`: names and values in percent-encoding, null as Hive spells it.

    Raises `SinkError` for a value that no directory can be named by.
    """
    parts = [f"{quote(column, safe='')}={_hive_value(value)}" for column, value in zip(columns, values, strict=True)]
    if too_long := next((part for part in parts if len(part) > 255), None):
        raise SinkError(f"a partition value is too long for the name of a directory: {too_long[:80]}…")
    return os.path.join(*parts)


def _hive_value(value: object) -> str:
    match value:
        case None:
            return NULL_PARTITION
        case bool():
            return str(value).lower()
        case dt.date():
            return value.isoformat()
        case _ if value == NULL_PARTITION:
            raise SinkError(f"the value {NULL_PARTITION!r} cannot be told from a null in the name of a directory")
        case _:
            return quote(str(value), safe="")


def _write_fastparquet(table: pa.Table, path: Path, compression: str) -> None:
    import fastparquet
    import pandas as pd  # type: ignore[import-untyped]

    nullable = {pa.bool_(): pd.BooleanDtype()}
    for bits in (8, 16, 32, 64):
        nullable[getattr(pa, f"int{bits}")()] = getattr(pd, f"Int{bits}Dtype")()
        nullable[getattr(pa, f"uint{bits}")()] = getattr(pd, f"UInt{bits}Dtype")()
    views = {"string_view": pa.string(), "binary_view": pa.binary()}
    schema = pa.schema([pa.field(column.name, views.get(str(column.type), column.type)) for column in table.schema])
    frame = table.cast(schema).to_pandas(types_mapper=nullable.get)
    fastparquet.write(str(path), frame, compression=compression.upper(), write_index=False)
