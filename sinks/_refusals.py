"""Types that a sink cannot keep, refused when the plan is made, with the cast that helps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl
import pyarrow as pa

from arrowstream.errors import PlanError

NOT_IN_POLARS = {
    "decimal256": "cast it to decimal128",
    "list_view": "cast it to a list",
    "large_list_view": "cast it to a list",
    "month_day_nano_interval": "cast it to a duration",
    "dense_union": "split it into columns",
    "sparse_union": "split it into columns",
    "run_end_encoded": "decode it",
    "fixed_size_list[0]": "an array of no width holds nothing: drop the column",
}
"""Arrow types that Polars 2.1 cannot read (it panics on some), with the cure."""

NOT_IN_FILES = {
    "struct<>": "a struct without fields holds nothing: drop the column, or give the struct a field",
    "struct<a, A>": "SQL takes {} for one field: rename them apart, with .struct.rename_fields([...])",
}
"""Structs that Parquet or DuckDB cannot keep, with the cure."""

_INSTEAD = {"halffloat": pa.float32(), "duration": pa.int64(), "null": pa.string_view()}
"""What to cast to, of the types that something else can stand for."""


def refuse_types(schema: pa.Schema, sink: str, refused: Mapping[str, str]) -> None:
    """Raise `PlanError` naming the first column with a type, at any depth, that the sink cannot keep.

    `refused` maps a type to the cure: the beginning of its Arrow name (such as "decimal256"), or one of
    "fixed_size_list[0]", "struct<>" and "struct<a, A>" (fields that differ in upper and lower case only). A "{}" in the
    cure is filled with the type to cast to, or with the fields.
    """
    for column in schema:
        for kind in _types_within(column.type):
            if (found := _refused(kind, refused)) is not None:
                cure = refused[found].format(_instead(column.type, kind, refused))
                raise PlanError(f"{sink} cannot keep column {column.name!r} of type {_shown(column.type)}: {cure}")


def _refused(kind: pa.DataType, refused: Collection[str]) -> str | None:
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            return "struct<>" if "struct<>" in refused else None
        return "struct<a, A>" if "struct<a, A>" in refused and _alike(kind) else None
    if pa.types.is_fixed_size_list(kind) and not kind.list_size and "fixed_size_list[0]" in refused:
        return "fixed_size_list[0]"
    return next((start for start in refused if str(kind).startswith(start) and not start.startswith("struct")), None)


def _alike(kind: pa.StructType) -> list[str]:
    """The names of fields that differ from another's in upper and lower case only."""
    names = [child.name for child in kind]
    lower = [name.lower() for name in names]
    return [name for name in names if lower.count(name.lower()) > 1]


def _instead(column: pa.DataType, kind: pa.DataType, refused: Collection[str]) -> str:
    if pa.types.is_struct(kind):
        return " and ".join(map(repr, _alike(kind)))
    return _shown(_replaced(column, refused))


def _replaced(kind: pa.DataType, refused: Collection[str]) -> pa.DataType:
    for start, instead in _INSTEAD.items():
        if start in refused and str(kind).startswith(start):
            return instead
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(_replaced(child.type, refused)) for child in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_replaced(kind.value_type, refused), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_replaced(kind.value_type, refused))
    return kind


def _shown(kind: pa.DataType) -> str:
    """The type in Polars' words, where Polars has it."""
    if any(_refused(inner, NOT_IN_POLARS) for inner in _types_within(kind)):
        return str(kind)
    return repr(pl.Series(pl.from_arrow(pa.array([], kind))).dtype)


def _types_within(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_dictionary(kind):
        return [kind, *_types_within(kind.value_type)]
    return [kind, *(inner for i in range(kind.num_fields) for inner in _types_within(kind.field(i).type))]
