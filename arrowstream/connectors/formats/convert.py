"""Columns of text as columns of another type, and which values are none."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from arrowstream.connectors.formats.search import single_out


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the values of a column are spelled, where it is not the usual way.

    date_formats   dates and times instead of ISO 8601, tried in this order (`%d/%m/%Y`, as `str.to_date` takes them)
    decimal_comma  floats and decimals have a comma for a point
    """

    date_formats: tuple[str, ...] = ()
    decimal_comma: bool = False

    def formats_for(self, target: pa.DataType) -> tuple[str, ...]:
        """The formats that can make a value of the type: a date has no time, a time zone is there or is not."""
        if pa.types.is_date32(target):
            return tuple(text for text in self.date_formats if not has_time(text))
        if pa.types.is_timestamp(target):
            return tuple(text for text in self.date_formats if ("%z" in text) == (target.tz is not None))
        return ()


USUAL = Spelling()


def has_time(date_format: str) -> bool:
    """Does a format of dates go on to hours?"""
    return re.search(r"%(?:[-_0]?[HIklMSTRXrcsfp]|[.:]|[369]f|\+)", date_format.replace("%%", "")) is not None


def convert(column: pa.Array, target: pa.DataType, spelling: Spelling = USUAL) -> pa.Array:
    """`column` as `target`, in bulk; raises `ArrowInvalid` if a single value cannot be converted.

    Dates and times are ISO 8601 unless spelled otherwise; a time zone must be in the text where `target` has one, and
    must not be where it has none. Integers may be hexadecimal (`0x1f`); a number that overflows the type cannot be
    converted.
    """
    if column.type == target:
        return column
    if pa.types.is_string_view(target):  # Arrow has no such cast; Polars' is a view of the same memory
        return pl.Series(column).to_arrow(compat_level=pl.CompatLevel.newest())
    if formats := spelling.formats_for(target):
        read = _by_formats(column, target, formats)
        if read.null_count != column.null_count:
            raise pa.ArrowInvalid(f"a value is none of {', '.join(formats)}")
        return read
    if spelling.decimal_comma:
        column = _with_points(column, target)
    cast = column.cast(target)
    if pa.types.is_floating(target) and _overflows(column, cast):
        raise pa.ArrowInvalid("the number is too large for the type")
    return cast


def convert_each(column: pa.Array, target: pa.DataType, spelling: Spelling = USUAL) -> tuple[pa.Array, dict[int, str]]:
    """`column` as `target`, and for each row that cannot be converted the reason; such a row is null."""
    if column.type != target and (formats := spelling.formats_for(target)):
        read = _by_formats(column, target, formats)
        lost = np.flatnonzero(pc.and_(pc.is_valid(column), pc.is_null(read)).to_numpy(zero_copy_only=False))
        said = f"is no {type_name(target)} in the form {' or '.join(formats)}"
        return read, {int(row): f"{column[int(row)].as_py()!r:.100} {said}" for row in lost}
    try:
        return convert(column, target, spelling), {}
    except pa.ArrowInvalid:
        pass
    text = _with_points(column, target) if spelling.decimal_comma else column
    bad: dict[int, str] = {}

    def converts(places: Sequence[int]) -> bool:
        try:
            convert(text.take(pa.array(places)), target)
        except pa.ArrowInvalid as error:
            if len(places) == 1:
                bad[places[0]] = _reason(column[places[0]].as_py(), target, str(error))
            return False
        return True

    suspect = np.ones(len(text), np.bool_)
    if len(text) > 64:
        suspect = _suspects(text, target)
        hopeless = suspect & _hopeless(text, target)
        bad.update((row, _reason(column[row].as_py(), target, "")) for row in np.flatnonzero(hopeless).tolist())
        suspect &= ~hopeless
        text = pc.if_else(pa.array(~hopeless), text, pa.scalar(None, text.type)) if hopeless.any() else text
    single_out(np.flatnonzero(suspect).tolist(), converts, 1)
    single_out(np.flatnonzero(~suspect).tolist(), converts, len(text))
    keep = np.ones(len(text), np.bool_)
    keep[list(bad)] = False
    return convert(pc.if_else(pa.array(keep), text, pa.scalar(None, text.type)), target), bad


def type_name(target: pa.DataType) -> str:
    """How users know a type."""
    return str(target).replace("double", "float64").replace("date32[day]", "date")


def _by_formats(column: pa.Array, target: pa.DataType, formats: Sequence[str]) -> pa.Array:
    """Texts as dates or times by the first format that fits; null where none does."""
    text = pl.Series(column).alias("text").to_frame()
    dtype = pl.DataFrame(pa.schema([("x", target)]).empty_table()).schema["x"]
    readings = []
    for form in formats:
        if has_time(form):
            unit, zone = ("us", None) if not isinstance(dtype, pl.Datetime) else (dtype.time_unit, dtype.time_zone)
            reading = pl.col("text").str.to_datetime(form, time_unit=unit, strict=False)
            readings.append(reading.dt.convert_time_zone(zone) if zone is not None else reading)
        else:
            readings.append(pl.col("text").str.to_date(form, strict=False).cast(dtype))
    read = text.select(pl.coalesce(readings)).to_series()
    return read.to_arrow(compat_level=pl.CompatLevel.newest()).cast(target)


def check_date_formats(formats: Sequence[str]) -> None:
    """Raises `ValueError` for what is no format of whole dates, with or without a time."""
    moment = pl.Series([datetime.datetime(2026, 11, 22, 13, 14, 15, tzinfo=datetime.UTC)])
    for form in formats:
        said = f"{form!r} is no format of dates, such as '%d/%m/%Y' or '%d.%m.%Y %H:%M'"
        if not isinstance(form, str) or "%" not in form:
            raise ValueError(said)
        target = pa.timestamp("us", "UTC" if "%z" in form else None) if has_time(form) else pa.date32()
        try:
            written = moment.dt.strftime(form).cast(pl.String).to_arrow()
            read = _by_formats(written.cast(pa.large_string()), target, [form]).cast(pa.date32())
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{said}: {str(error).splitlines()[0]}") from None
        if read[0].as_py() != datetime.date(2026, 11, 22):
            raise ValueError(f"{said}: it lacks the day, the month, the year or the minutes")


def _with_points(column: pa.Array, target: pa.DataType) -> pa.Array:
    """Numbers with a decimal comma as numbers with a point; one that has a point is no number then."""
    if not (pa.types.is_floating(target) or pa.types.is_decimal(target)):
        return column
    pointed = pc.match_substring(column, ".")
    text = pc.replace_substring(column, ",", ".")
    return pc.if_else(pointed, pa.scalar("a point", text.type), text) if pc.any(pointed).as_py() else text


def _overflows(text: pa.Array, numbers: pa.Array) -> bool:
    """Is there an infinity that the text does not spell out?"""
    infinite = pc.is_inf(numbers)
    if not pc.any(infinite).as_py():
        return False
    return not pc.all(pc.match_substring(text.filter(infinite), "inf", ignore_case=True)).as_py()


_NUMBER = r"0x[0-9a-f]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan(?:\(.*\))?"
_LOOKS_LIKE: Final = {
    "number": rf"(?i)^\s*[+-]?(?:{_NUMBER})\s*$",
    "time": r"^\s*[+-]?[0-9]{4,}-",
    "Boolean": r"(?i)^\s*(?:true|false|t|f|yes|no|y|n|on|off|1|0)\s*$",
}
"""What Arrow may make a value of, and more."""


def _hopeless(column: pa.Array, target: pa.DataType) -> npt.NDArray[np.bool_]:
    """The rows that nobody would make a value of the type of, so that they need not be tried: each try costs 15 us, and
    a source may send nothing else."""
    if not pa.types.is_large_string(column.type):
        return np.zeros(len(column), np.bool_)
    if pa.types.is_boolean(target):
        kind = "Boolean"
    elif pa.types.is_timestamp(target) or pa.types.is_date32(target):
        kind = "time"
    elif pa.types.is_integer(target) or pa.types.is_floating(target) or pa.types.is_decimal(target):
        kind = "number"
    else:
        return np.zeros(len(column), np.bool_)
    return (~pl.Series(column).str.contains(_LOOKS_LIKE[kind])).fill_null(False).to_numpy()


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
    if not isinstance(value, str) or not (pa.types.is_timestamp(target) or pa.types.is_date32(target)):
        return reason
    if re.fullmatch(_TIME, value) is None:
        return f"{reason}: it is not in the form of ISO 8601 (date_formats= reads others)"
    try:
        datetime.date.fromisoformat(value[:10])
    except ValueError:
        return f"{reason}: there is no such day"
    if "expected no zone offset" in error:
        return f"{reason}: it has a time zone and the column has none; give the column pl.Datetime(time_zone='UTC')"
    if "expected a zone offset" in error:
        return f"{reason}: it has no time zone and the column has one; take time_zone away from the column's type"
    return reason
