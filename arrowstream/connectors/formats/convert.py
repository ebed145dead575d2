"""Columns of text as columns of another type, and which values are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from arrowstream.connectors.formats.search import single_out


def convert(column: pa.Array, target: pa.DataType) -> pa.Array:
    """`column` as `target`, in bulk; raises `ArrowInvalid` if a single value cannot be converted.

    Dates and times are ISO 8601; a time zone must be in the text where `target` has one, and must not be where it
    has none. Integers may be hexadecimal (`0x1f`); a number that overflows the type cannot be converted.
    """
    if column.type == target:
        return column
    if pa.types.is_string_view(target):  # Arrow has no such cast; Polars' is a view of the same memory
        return pl.Series(column).to_arrow(compat_level=pl.CompatLevel.newest())
    cast = column.cast(target)
    if pa.types.is_floating(target) and _overflows(column, cast):
        raise pa.ArrowInvalid("the number is too large for the type")
    return cast


def convert_each(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """`column` as `target`, and for each row that cannot be converted the reason; such a row is null."""
    try:
        return convert(column, target), {}
    except pa.ArrowInvalid:
        pass
    bad: dict[int, str] = {}

    def converts(places: Sequence[int]) -> bool:
        try:
            convert(column.take(pa.array(places)), target)
        except pa.ArrowInvalid as error:
            if len(places) == 1:
                bad[places[0]] = _reason(column[places[0]].as_py(), target, str(error))
            return False
        return True

    suspect = _suspects(column, target) if len(column) > 64 else np.ones(len(column), np.bool_)
    single_out(np.flatnonzero(suspect).tolist(), converts, 1)
    single_out(np.flatnonzero(~suspect).tolist(), converts, len(column))
    keep = np.ones(len(column), np.bool_)
    keep[list(bad)] = False
    return convert(pc.if_else(pa.array(keep), column, pa.scalar(None, column.type)), target), bad


def type_name(target: pa.DataType) -> str:
    """How users know a type."""
    return str(target).replace("double", "float64").replace("date32[day]", "date")


def _overflows(text: pa.Array, numbers: pa.Array) -> bool:
    """Is there an infinity that the text does not spell out?"""
    infinite = pc.is_inf(numbers)
    if not pc.any(infinite).as_py():
        return False
    return not pc.all(pc.match_substring(text.filter(infinite), "inf", ignore_case=True)).as_py()


_TIME = r"^\d{4}-\d\d-\d\d(?:[T ]\d\d(?::?\d\d(?::?\d\d(?:\.\d{1,9})?)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?$"


def _suspects(column: pa.Array, target: pa.DataType) -> npt.NDArray[np.bool_]:
    """The rows that Polars cannot convert either: a guess in bulk, so that they do not spoil the others."""
    if not pa.types.is_large_string(column.type):
        return np.zeros(len(column), np.bool_)
    text = pl.Series(column)
    if pa.types.is_timestamp(target) or pa.types.is_date32(target):
        day = text.str.head(10).str.to_date("%Y-%m-%d", strict=False)
        zoned = text.str.contains(r"(?:Z|:\d.*[+-]\d\d(?::?\d\d)?)$")
        fits = day.is_not_null() & text.str.contains(_TIME)
        if pa.types.is_timestamp(target):
            fits &= zoned if target.tz is not None else ~zoned
        else:
            fits &= text.str.len_bytes() == 10
    elif pa.types.is_boolean(target):
        fits = text.str.contains(r"(?i)^(?:true|false|1|0)$")
    else:
        fits = text.cast(pl.DataFrame(pa.schema([("x", target)]).empty_table()).schema["x"], strict=False).is_not_null()
    return (text.is_not_null() & ~fits.fill_null(False)).to_numpy()


def _reason(value: object, target: pa.DataType, error: str) -> str:
    reason = f"{value!r:.100} is no {type_name(target)}"
    if "expected no zone offset" in error:
        return f"{reason}: it has a time zone and the column has none; give the column pl.Datetime(time_zone='UTC')"
    if "expected a zone offset" in error:
        return f"{reason}: it has no time zone and the column has one; take time_zone away from the column's type"
    return reason
