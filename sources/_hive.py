"""Columns that the names of directories tell: `day=2026-11-22/region=north/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import polars as pl

from arrowstream.errors import SourceError

NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions(name: str) -> dict[str, str | None]:
    """The values in the directories of a file's name, in order; names and values are percent-encoded."""
    if "=" not in name:
        return {}
    found = {}
    for part in name.split("/")[:-1]:
        column, equals, value = part.partition("=")
        if equals and column:
            found[unquote(column)] = None if value in (NULL, "") else unquote(value)
    return found


def guessed(names: Iterable[str]) -> dict[str, pl.DataType]:
    """A type for each partition column of these files: whole numbers, dates and booleans where all values are such.

    A number that is not written as it is shown (`007`) is text.
    """
    values: dict[str, set[str]] = {}
    for name in names:
        for column, value in partitions(name).items():
            values.setdefault(column, set()).update(() if value is None else (value,))
    return {column: _type_of(texts) for column, texts in values.items()}


def _type_of(texts: set[str]) -> pl.DataType:
    for pattern, dtype in _GUESSES:
        if texts and all(re.fullmatch(pattern, text) for text in texts):
            whole = pl.Series(sorted(texts)).cast(pl.String)
            if dtype == pl.Boolean or whole.str.strptime(pl.Date, strict=False).is_not_null().all():
                return dtype
            if dtype == pl.Int64 and whole.cast(pl.Int64, strict=False).is_not_null().all():
                return dtype
    return pl.String()


_GUESSES = ((r"0|-?[1-9]\d{0,18}", pl.Int64()), (r"\d{4}-\d\d-\d\d", pl.Date()), (r"true|false", pl.Boolean()))


def typed(path: str, values: Mapping[str, str | None], schema: Mapping[str, pl.DataType]) -> dict[str, pl.Series]:
    """Each value as one of its column's type, for the columns of `schema`; raises `SourceError` where it is none."""
    return {name: _typed(path, name, text, schema[name]) for name, text in values.items() if name in schema}


def _typed(path: str, name: str, text: str | None, dtype: pl.DataType) -> pl.Series:
    try:
        if text is None:
            return pl.Series(name, [None], dtype)
        if dtype == pl.Boolean:
            return pl.Series(name, [{"true": True, "false": False}[text.lower()]], dtype)
        series = pl.Series(name, [text], pl.String)
        if dtype == pl.Date:
            return series.str.to_date("%Y-%m-%d")
        if isinstance(dtype, pl.Datetime):
            return series.str.to_datetime(time_unit=dtype.time_unit, time_zone=dtype.time_zone)
        return series.cast(dtype)
    except (KeyError, pl.exceptions.PolarsError) as error:
        raise SourceError(
            f"{path}: the directory says {name}={text!r}, which is no {dtype}; give schema= another type for"
            f" {name!r}, such as pl.String"
        ) from error
