"""Schemas as users write them, as the Arrow schema that a source speaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import polars as pl
import pyarrow as pa

from arrowstream.connectors.plain import refuse_wide_integers
from arrowstream.errors import PlanError, SourceError
from arrowstream.names import check_names

SchemaLike: TypeAlias = Mapping[str, Any] | pa.Schema
"""A `pl.Schema`, a mapping of names to Polars (or Python) types, or a `pa.Schema`."""

NewColumns: TypeAlias = Literal["ignore", "rescue", "fail"]
"""What becomes of columns that a file has and the schema lacks."""


class NewColumnsError(SourceError):
    """There are columns that the schema lacks, and the user wants the stream to end then."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} that the schema lacks; give them in schema=, or new_columns='ignore' (leaves them out) or 'rescue'"
            f" (keeps them as JSON in the column {RESCUED!r})"
        )


RESCUED = "_rescued"
"""The String column that holds them, as a JSON object, where they are rescued."""


def check_new_columns(new_columns: str) -> None:
    """Raise `PlanError` for what says nothing of new columns."""
    if new_columns not in ("ignore", "rescue", "fail"):
        raise PlanError(f"new_columns={new_columns!r} is none of 'ignore', 'rescue', 'fail'")


def with_rescued(schema: pa.Schema) -> pa.Schema:
    """The schema with the column of what is rescued, at its end; raises `PlanError` if it has another of that name."""
    if RESCUED not in schema.names:
        return schema.append(pa.field(RESCUED, pa.string_view()))
    if not pa.types.is_string_view(schema.field(RESCUED).type) or schema.names[-1] != RESCUED:
        raise PlanError(f"new_columns='rescue' needs the name {RESCUED!r} for itself: a String column, the last one")
    return schema


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
    check_names(schema.names if isinstance(schema, pa.Schema) else schema, "schema")
    for name, dtype in found.items():
        if dtype in (pl.Unknown, pl.Object):
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
