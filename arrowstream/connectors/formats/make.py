"""Formats by name: `make_format("ndjson", {"user": pl.String, "amount": pl.Float64})`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from arrowstream.connectors.formats.csv import CsvFormat
from arrowstream.connectors.formats.format import Format
from arrowstream.connectors.formats.ndjson import NdjsonFormat
from arrowstream.connectors.formats.schema import SchemaLike, arrow_schema
from arrowstream.connectors.formats.text import TextFormat
from arrowstream.errors import PlanError

_MAKERS: dict[str, Callable[..., Format]] = {
    "text": TextFormat,
    "ndjson": NdjsonFormat,
    "json": NdjsonFormat,
    "csv": CsvFormat,
}


def make_format(name: str, schema: SchemaLike | None = None, **options: Any) -> Format:
    """The format called `name` ("text", "ndjson" or "json", "csv") for rows of `schema`.

    The schema is a mapping of column names to Polars data types, a `pl.Schema` or a `pa.Schema`; text has its own, one
    String column `line`. Raises `PlanError` for a name, schema or option that does not fit.
    """
    if name not in _MAKERS:
        raise PlanError(f"no format {name!r}; there are: {', '.join(_MAKERS)}")
    maker = _MAKERS[name]
    known = [option for option in inspect.signature(maker).parameters if option != "schema"]
    for option in options:
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise PlanError(f"format {name!r} has no option {option!r}; {has}")
    if maker is TextFormat:
        if schema is not None and arrow_schema(schema) != TextFormat().schema:
            raise PlanError(
                "format 'text' has a schema of its own, one String column 'line'; leave schema= out, or take"
                " format='ndjson' or 'csv' to read columns"
            )
        return TextFormat()
    if schema is None:
        raise PlanError(
            f"format {name!r} needs a schema; give the columns and their types, e.g."
            " schema={'user': pl.String, 'amount': pl.Float64}"
        )
    return maker(arrow_schema(schema), **options)
