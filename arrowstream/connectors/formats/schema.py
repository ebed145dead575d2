"""Schemas as users write them, as the Arrow schema that a source speaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa

from arrowstream.connectors.plain import refuse_wide_integers
from arrowstream.errors import PlanError

SchemaLike: TypeAlias = Mapping[str, Any] | pa.Schema
"""A `pl.Schema`, a mapping of names to Polars (or Python) types, or a `pa.Schema`."""


def arrow_schema(schema: SchemaLike) -> pa.Schema:
    """The Arrow schema of what Polars makes of `schema`: string views, large lists, no metadata.

    Raises `PlanError` for what is no schema.
    """
    return polars_schema(schema).to_arrow()


def polars_schema(schema: SchemaLike) -> pl.Schema:
    """The Polars schema of what a user gave as one; raises `PlanError` for what is none."""
    try:
        if isinstance(schema, pa.Schema):
            found = pl.DataFrame(schema.empty_table()).schema
        else:
            found = pl.DataFrame(schema=schema).schema
    except (TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise PlanError(
            f"this is no schema: {schema!r} ({error}); give names and types, e.g."
            " {'user': pl.String, 'amount': pl.Float64}"
        ) from error
    for name, dtype in found.items():
        if dtype in (pl.Unknown, pl.Object, pl.Null):
            raise PlanError(f"column {name!r} of the schema has no type that can be read: {dtype}")
    refuse_wide_integers(found)
    return found


def refuse_types(schema: pa.Schema, format_name: str, readable: Callable[[pa.DataType], bool]) -> None:
    """Raise `PlanError` for the first column whose type a format cannot read."""
    if not schema.names:
        raise PlanError(f"format {format_name!r} needs a schema with at least one column")
    for field in schema:
        if not readable(field.type):
            raise PlanError(
                f"format {format_name!r} cannot read column {field.name!r} as {field.type}; read it as pl.String and"
                " convert it in the stream (cast, str.to_time, str.decode ...)"
            )


def is_scalar(target: pa.DataType) -> bool:
    """Is it a type whose values every line format can write and read without loss?"""
    types = pa.types
    return bool(
        types.is_boolean(target)
        or types.is_integer(target)
        or types.is_float32(target)
        or types.is_float64(target)
        or types.is_decimal128(target)
        or types.is_string_view(target)
        or types.is_date32(target)
        or types.is_timestamp(target)
    )
