"""Answers as text for other programs: CSV, and one JSON object a line."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import json
import math
from collections.abc import Iterator
from typing import Any, TextIO

import pyarrow as pa

_STEP = 65_536


def write_csv(table: pa.Table, out: TextIO) -> None:
    """A header and the rows. A null is empty, and what is nested is JSON; other values are as `write_json` has them."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in _rows(table):
        writer.writerow([_cell(value) for value in row])


def write_json(table: pa.Table, out: TextIO) -> None:
    """One object a line.

    Decimals are texts, so that no digit is lost; numbers that JSON does not have are "Infinity", "-Infinity" and "NaN";
    bytes are Base64; times and spans of time are ISO 8601.
    """
    for row in _rows(table):
        out.write(_json(dict(zip(table.column_names, row, strict=True))) + "\n")


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for start in range(0, table.num_rows, _STEP):
        part = table.slice(start, _STEP)
        yield from zip(*(map(_of_scalar, column) for column in part.columns), strict=True)


def _of_scalar(scalar: pa.Scalar) -> Any:
    try:
        return _value(scalar.as_py())
    except (ValueError, OverflowError, pa.ArrowException):  # beyond what Python's own types hold
        return scalar.cast(pa.string()).as_py()


def _value(value: Any) -> Any:
    """A value that JSON has."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _BEYOND[repr(value)]
        case bytes():
            return base64.b64encode(value).decode()
        case pa.MonthDayNano():
            return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:g}S"
        case dt.timedelta():
            return f"P{value.days}DT{value.seconds + value.microseconds / 1e6:g}S"
        case dt.date() | dt.time():
            return value.isoformat()
        case dict():
            return {str(key): _value(inner) for key, inner in value.items()}
        case list():
            return [_value(inner) for inner in value]
        case tuple():  # an entry of a map
            return [_value(inner) for inner in value]
        case _:
            return str(value)


_BEYOND = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
