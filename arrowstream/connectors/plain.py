"""Rows in plain types: those that every writer and every reader of Arrow takes, at any depth.

Three things are not plain, though Polars makes them:

    dictionary                     a category or enum; PyArrow 26 writes none of string views, and DuckDB 2.0 reads
                                   numbers in place of words where one stands in an array
    string_view, binary_view       within a list, an array or a struct: PyArrow 26 cannot slice them there
                                   ("Slicing not implemented for StringView")
    halffloat                      where DuckDB reads it from memory, which it cannot

What is rebuilt is whole: an array that was a slice of a larger one, or a list of nothing but nulls, of which Polars
and PyArrow disagree about the length, does not trouble the next reader.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa
from polars.datatypes import DataTypeClass

from arrowstream.errors import PlanError

_WIDE: tuple[tuple[DataTypeClass, str], ...] = (
    (pl.Int128, "Int64, or to Decimal(38, 0)"),
    (pl.UInt128, "UInt64, or to Decimal(38, 0)"),
)


def refuse_wide_integers(schema: pl.Schema) -> None:
    """Raise `PlanError` for the first column with integers of 128 bits, at any depth, which Arrow does not have."""
    for name, dtype in schema.items():
        for kind in _dtypes_within(dtype):
            if (instead := next((cure for wide, cure in _WIDE if kind == wide), None)) is not None:
                raise PlanError(
                    f"column {name!r} of type {dtype}: Arrow, in which rows are moved and written, has no integers of "
                    f"128 bits; cast it to {instead}"
                )


def _dtypes_within(dtype: pl.DataType | DataTypeClass) -> list[pl.DataType | DataTypeClass]:
    inner: list[pl.DataType | DataTypeClass] = []
    if isinstance(dtype, pl.List | pl.Array):
        inner = [dtype.inner]
    elif isinstance(dtype, pl.Struct):
        inner = [field.dtype for field in dtype.fields]
    return [dtype, *(deeper for kind in inner for deeper in _dtypes_within(kind))]


def plain_type(kind: pa.DataType, *, within: bool = False) -> pa.DataType:
    """The plain type that holds the same values; `within` is for a type inside another: only there views become
    copies."""
    if within and pa.types.is_string_view(kind):
        return pa.large_string()
    if within and pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type, within=within)
    return _mapped(kind, lambda inner: plain_type(inner, within=True))


def duckdb_type(kind: pa.DataType) -> pa.DataType:
    """The type in which DuckDB reads the same values from memory; views may stay."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return _mapped(kind, duckdb_type)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The same columns in plain types."""
    return pa.schema([pa.field(column.name, plain_type(column.type), column.nullable) for column in schema])


def plain(table: pa.Table) -> pa.Table:
    """The same rows with `plain_schema`; columns that are plain are not copied."""
    return rebuilt(table, plain_schema(table.schema))


def for_duckdb(table: pa.Table) -> pa.Table:
    """The same rows in types that DuckDB 2.0 reads right."""
    fields = [f if pa.types.is_dictionary(f.type) else f.with_type(duckdb_type(f.type)) for f in table.schema]
    return rebuilt(table, pa.schema(fields))


def rebuilt(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with `schema`, which differs from theirs in dictionaries, views, intervals and half floats only."""
    columns = [_column(column, kind) for column, kind in zip(table.columns, schema.types, strict=True)]
    return pa.table(columns, schema=schema)


def with_durations(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with durations where it has intervals, at any depth, or as it is where one of them has months."""
    try:
        return _column(column, _duration_type(column.type))
    except pa.ArrowInvalid:
        return column


def _duration_type(kind: pa.DataType) -> pa.DataType:
    return pa.duration("us") if pa.types.is_interval(kind) else _mapped(kind, _duration_type)


def whole(table: pa.Table) -> pa.Table:
    """The same rows, and no column with arrays inside is a slice: Polars 2.1 cannot take those."""
    if not any(_has(kind, pa.types.is_fixed_size_list) for kind in table.schema.types):
        return table
    columns = [
        pa.chunked_array([_rebuilt(chunk, kind) for chunk in column.chunks], kind)
        if _has(kind, pa.types.is_fixed_size_list) and any(chunk.offset for chunk in column.chunks)
        else column
        for column, kind in zip(table.columns, table.schema.types, strict=True)
    ]
    return pa.table(columns, schema=table.schema)


def _column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind and not (pa.types.is_nested(kind) and _has(kind, pa.types.is_null)):
        return column
    return pa.chunked_array([_rebuilt(chunk, kind) for chunk in column.chunks], kind)


def _mapped(kind: pa.DataType, inner: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with `inner` of the types inside it."""
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, inner(child.type), child.nullable) for child in kind])
    if pa.types.is_large_list(kind):
        return pa.large_list(inner(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(inner(kind.value_type))
    return kind


def _has(kind: pa.DataType, what: Callable[[pa.DataType], bool]) -> bool:
    return bool(what(kind)) or any(_has(kind.field(i).type, what) for i in range(kind.num_fields))


def _rebuilt(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """`array` as `kind`, of which only dictionaries, views and half floats differ; no part of it is a slice."""
    if pa.types.is_dictionary(array.type):
        if pa.types.is_dictionary(kind):
            return array
        return _words(array, kind)
    if pa.types.is_null(kind):
        return pa.nulls(len(array))
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            return array
        children = [_rebuilt(array.field(i), kind.field(i).type) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if pa.types.is_fixed_size_list(kind):
        values = _slice(array.values, array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_rebuilt(values, kind.value_type), type=kind, mask=array.is_null())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy()  # those of the slice
        first, last = int(offsets[0]), int(offsets[-1])
        values = _rebuilt(_slice(array.values, first, last - first), kind.value_type)
        wide = pa.types.is_large_list(kind)
        made = pa.LargeListArray if wide else pa.ListArray
        starts = pa.array((offsets - first).astype(np.int64 if wide else np.int32))
        return made.from_arrays(starts, values, type=kind, mask=array.is_null())
    if pa.types.is_interval(array.type) and pa.types.is_duration(kind):
        return _durations(array)
    return array if array.type == kind else array.cast(kind)


def _slice(values: pa.Array, start: int, length: int) -> pa.Array:
    return pa.nulls(length) if pa.types.is_null(values.type) else values.slice(start, length)


def _words(array: pa.DictionaryArray, kind: pa.DataType) -> pa.Array:
    """The values of a dictionary; by way of a copy, since PyArrow 26 takes no values out of views."""
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    words = array.dictionary.cast(views.get(array.dictionary.type, array.dictionary.type))
    return words.take(array.indices).cast(kind)


_INTERVAL = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])


def _durations(array: pa.Array) -> pa.Array:
    """Intervals of days and less as durations in microseconds; raises `pa.ArrowInvalid` where one has months."""
    parts = np.frombuffer(array.buffers()[1] or b"", _INTERVAL, len(array), array.offset * _INTERVAL.itemsize)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    if parts["months"][~missing].any():
        raise pa.ArrowInvalid("an interval has months, of which nobody knows how long they are")
    microseconds = parts["days"].astype(np.int64) * 86_400_000_000 + parts["nanoseconds"] // 1000
    return pa.array(microseconds, pa.int64(), mask=missing).cast(pa.duration("us"))
