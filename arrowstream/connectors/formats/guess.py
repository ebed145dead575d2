"""The schema of a file of lines that nobody has given one: what holds all its first records, as the decoder reads them.

A column is guessed by converting its texts, so that the guess says nothing that the decoder refuses.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.convert import Spelling, convert
from arrowstream.connectors.formats.csv import CsvFormat, read_names
from arrowstream.connectors.formats.dates import of_column, spelled_formats
from arrowstream.connectors.formats.format import Format
from arrowstream.connectors.formats.json import JsonFormat
from arrowstream.connectors.formats.ndjson import NdjsonFormat
from arrowstream.connectors.formats.records import LineRecords
from arrowstream.errors import PlanError

INFER_ROWS = 100_000
"""Records that a guess looks at unless told otherwise (it takes half a second for 20 columns)."""

INFER_BYTES = 32 << 20
"""Bytes beyond which a guess looks at no more records, unless told how many."""

_TEXT = pa.string_view()
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def sample_format(name: str, options: dict[str, Any]) -> Format:
    """A format that cuts records as the one to be guessed will; raises `PlanError` for options that do not fit."""
    schema = pa.schema([("any", _TEXT)])
    if name == "csv":
        return CsvFormat(
            schema, **{option: options[option] for option in ("separator", "quote_char") if option in options}
        )
    return JsonFormat(schema) if name == "json" else NdjsonFormat(schema)


def guess_schema(name: str, data: bytes, options: dict[str, Any], *, try_parse_dates: bool = True) -> pa.Schema:
    """The schema of whole records; raises `PlanError` where there is none to be seen. Records that are malformed, and
    will be refused, do not count."""
    if name == "csv":
        return _guess_csv(data, options, try_parse_dates)
    return _guess_json(data, name, strict=options.get("strict", False))


def _guess_csv(data: bytes, options: dict[str, Any], try_parse_dates: bool) -> pa.Schema:
    known = inspect.signature(CsvFormat).parameters
    reading = {
        name: value for name, value in options.items() if name in known and name not in ("date_formats", "new_columns")
    }
    shape = CsvFormat(pa.schema([("any", _TEXT)]), **reading)
    names, rest = _csv_names(data, shape)
    texts = CsvFormat(pa.schema([(name, _TEXT) for name in names]), **{**reading, "has_header": False, "skip_rows": 0})
    rows = texts.decode(rest).rows
    formats = spelled_formats(options.get("date_formats", ()), texts.schema)
    guessed = []
    for name, column in zip(names, rows.columns, strict=True):
        spelling = Spelling(tuple(of_column(formats, name)), shape.decimal_comma)
        guessed.append((name, _guess_texts(pl.Series(column), spelling, try_parse_dates)))
    schema = pa.schema(guessed)
    if "" in names:
        raise PlanError(_without_name(schema, names.index("")))
    return schema


def _without_name(schema: pa.Schema, place: int) -> str:
    """What to write for a header that lacks a name, as that of an index lacks it."""
    dtypes = pl.DataFrame(schema.empty_table()).schema
    named = {name or f"column_{place + 1}": dtype for name, dtype in dtypes.items()}
    spelled = ", ".join(f"{name!r}: pl.{dtype!r}" for name, dtype in named.items())
    return (
        f"the header has no name for column {place + 1}, and SQL could not name it either. To read it, give it one:"
        f" has_header=False, skip_rows=1, schema={{{spelled}}}; to read the others, leave it out of schema= alone"
    )


def _csv_names(data: bytes, shape: CsvFormat) -> tuple[list[str], bytes]:
    """The names of the columns, and the records after the header."""
    ends = (shape.cutter() or LineRecords()).feed(np.frombuffer(data, np.uint8)).tolist()
    if not ends or ends[-1] < len(data):
        ends.append(len(data))
    skip, begin = shape.skip_rows, 0
    for end in ends:
        record, begin = data[begin:end], end
        if skip:
            skip -= 1
        elif record.strip(b"\r\n") and not shape.is_comment(record):
            try:
                names = read_names(record, shape.separator, shape.quote_char)
            except ValueError as error:
                raise PlanError(str(error)) from None
            if shape.has_header:
                return names, data[end:]
            return [f"column_{place + 1}" for place in range(len(names))], data[end - len(record) :]
    raise PlanError("there is no record in it")


def _guess_texts(texts: pl.Series, spelling: Spelling, try_parse_dates: bool) -> pa.DataType:
    """The narrowest type that takes all of the texts; String where they are not all of one kind."""
    texts = texts.drop_nulls()
    if not len(texts):
        return _TEXT
    column = texts.to_arrow().cast(pa.large_string())
    times: list[pa.DataType] = [pa.date32()]
    times += [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("us", "ns")]
    candidates: list[pa.DataType] = [target for target in times if spelling.formats_for(target)]
    if texts.str.contains(r"^(?i:true|false)$").all():
        candidates.append(pa.bool_())
    elif texts.str.contains(r"^\s*[+-]?[0-9]+\s*$").all():
        candidates += [pa.int64(), pa.uint64()]  # more digits stay text: a float would lose some
    elif texts.str.contains("^[^xX]*[0-9]").any() and not texts.str.contains("[xX]").any():
        candidates.append(pa.float64())
    if try_parse_dates and texts.str.contains("^[0-9]{4}-").all():
        candidates += times
    for target in candidates:
        try:
            convert(column, target, spelling)
        except pa.ArrowInvalid:
            continue
        return target
    return _TEXT


def _guess_json(data: bytes, name: str, *, strict: bool) -> pa.Schema:
    cutter = JsonFormat(pa.schema([("any", _TEXT)])) if name == "json" else None
    records = cutter.records(data)[0] if cutter is not None else data.split(b"\n")
    columns: dict[str, list[Any]] = {}
    decoder = msgspec.json.Decoder(dict[str, Any])
    for record in records:
        try:
            fields = decoder.decode(record)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            continue
        for field, value in fields.items():
            columns.setdefault(field, []).append(value)
    if not columns:
        raise PlanError("none of its first records is a JSON object with a field in it")
    schema = pa.schema([(field, _guess_values(values)) for field, values in columns.items()])
    if strict:
        _check_strict(schema, columns)
    return schema


def _guess_values(values: Sequence[Any], *, in_list: bool = False) -> pa.DataType:
    """The type that takes all of the JSON values; String, which takes any where it is not strict, for a mixture, and
    for nothing at all within lists."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return _TEXT if in_list else pa.null()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return _guess_integers([value for value in values if value is not None])
    if kinds <= {int, float}:
        return pa.float64()
    if kinds == {list}:
        return pa.large_list(_guess_values(list(chain.from_iterable(filter(None, values))), in_list=True))
    if kinds == {dict}:
        fields: dict[str, list[Any]] = {}
        for value in filter(None, values):
            for name, item in value.items():
                fields.setdefault(name, []).append(item)
        if fields and all(_can_be_found(name) for name in fields):
            return pa.struct([(name, _guess_values(items, in_list=in_list)) for name, items in fields.items()])
    return _TEXT


def _guess_integers(values: Iterable[int]) -> pa.DataType:
    values = list(values)
    least, most = min(values), max(values)
    if least >= _LEAST and most <= _MOST:
        return pa.int64()
    return pa.uint64() if least >= 0 and most < 1 << 64 else _TEXT


def _can_be_found(name: str) -> bool:
    return not any(letter in '"\\' or ord(letter) < 32 for letter in name)


def _check_strict(schema: pa.Schema, columns: dict[str, list[Any]]) -> None:
    """Raise `PlanError` for a column of texts in which, at the top, other values stand."""
    for field in schema:
        kinds = {type(value).__name__ for value in columns[field.name] if value is not None}
        if field.type == _TEXT and kinds != {"str"}:
            raise PlanError(
                f"column {field.name!r} is {' and '.join(sorted(kinds))} in its first records: strict=False reads them"
                " as text"
            )
