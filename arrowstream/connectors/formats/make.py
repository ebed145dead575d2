"""Formats by name: `make_format("ndjson", {"user": pl.String, "amount": pl.Float64})`."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any

from arrowstream.connectors.formats.csv import CsvFormat
from arrowstream.connectors.formats.format import Format
from arrowstream.connectors.formats.json import JsonFormat
from arrowstream.connectors.formats.ndjson import NdjsonFormat
from arrowstream.connectors.formats.schema import SchemaLike, arrow_schema
from arrowstream.connectors.formats.text import TextFormat
from arrowstream.errors import PlanError

_MAKERS: dict[str, Callable[..., Format]] = {
    "text": TextFormat,
    "ndjson": NdjsonFormat,
    "json": JsonFormat,
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
    options = current_options(name, options)
    known = [option for option in inspect.signature(maker).parameters if option not in ("schema", "columns")]
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


_FORMER = {"delimiter": "separator", "header": "has_header", "quote": "quote_char"}


def current_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a format by the names that they have now; warns of former ones, raises `PlanError` for both."""
    current = dict(options)
    for former, option in _FORMER.items() if name == "csv" else ():
        if former in current:
            if option in current:
                raise PlanError(f"{former}= is the former name of {option}=: give {option}= alone")
            warnings.warn(
                f"{former}= of CSV is called {option}= now, as in Polars; the former name goes with the next release",
                DeprecationWarning,
                stacklevel=_outside(),
            )
            current[option] = current.pop(former)
    return current


def _outside() -> int:
    """How far up the user's line is that a warning is about."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("arrowstream."):
        frame, level = frame.f_back, level + 1
    return level
