"""NDJSON: one JSON object a line, decoded by Arrow in bulk and checked against a strict reading.

The bulk reader (pyarrow.json) is fast but loose: it takes several objects a line, an object over several lines, NaN
and Infinity, text that is not UTF-8, floats that overflow to infinity, and it crashes on a line `null`. So a buffer
goes there only after cheap looks at the whole of it, and what comes back is looked at again. Where a look fails, each
line of that buffer is examined by msgspec (5 million lines a second, one call a line), and only the good ones go.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from arrowstream.connectors.formats.convert import USUAL, Spelling, convert, convert_each, type_name
from arrowstream.connectors.formats.dates import of_column, spelled_formats
from arrowstream.connectors.formats.format import Decoded, is_utf8, not_utf8
from arrowstream.connectors.formats.records import Cutter
from arrowstream.connectors.formats.rest import rest_of
from arrowstream.connectors.formats.schema import (
    NewColumns,
    NewColumnsError,
    check_new_columns,
    is_scalar,
    refuse_types,
    with_rescued,
)
from arrowstream.connectors.formats.sift import Parsed, Refused, sift
from arrowstream.errors import PlanError

_BLOCK = 1 << 20
"""Bytes that one thread parses at a time; one large block costs twice the time of many small."""


@dataclass(frozen=True, slots=True)
class NdjsonFormat:
    r"""One JSON object a line.

    A missing field is null, a field that is not in the schema is ignored. Dates and timestamps are ISO 8601
    strings, decimals are numbers or strings. Nothing is guessed: a value of another JSON type than the column's
    (`"1"` or `1.0` for an integer), a number that overflows, a field given twice, NaN and what else is not JSON
    refuse the line. Blank lines are skipped; `\r\n` ends a line too.

    strict        False: a String column takes any value, as the text that stands in the JSON (`1.50`, `[1, 2]`)
    date_formats  how dates and times are written, where not by ISO 8601: formats as `str.to_date` takes them, tried in
                  this order, for all columns or by the name of the column; dates within lists and structs are ISO 8601
    new_columns   what becomes of fields that the schema lacks, within structs too: "ignore", "rescue" (they are a JSON
                  object in the column `_rescued`) or "fail"
    """

    schema: pa.Schema
    strict: bool = True
    date_formats: Mapping[str, Sequence[str] | str] | Sequence[str] | str = ()
    new_columns: NewColumns = "ignore"
    header: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_new_columns(self.new_columns)
        if self.new_columns == "rescue":
            object.__setattr__(self, "schema", with_rescued(self.schema))
        refuse_types(self.schema, "ndjson", _readable)
        object.__setattr__(self, "date_formats", spelled_formats(self.date_formats, self.schema))
        try:
            _examiner(self._fields())
        except ValueError as error:
            raise PlanError(f"format 'ndjson' cannot find a field of such a name: {error}") from error

    def with_header(self, line: bytes) -> NdjsonFormat:
        raise ValueError("NDJSON has no header")

    def cutter(self) -> Cutter | None:
        return None

    def decode(self, data: bytes) -> Decoded:
        """The objects of `data` as rows, in bulk where every line of it is good."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if (lines := _count_objects(data)) is not None:
            try:
                columns = [convert(*each) for each in self._columns(_read(data, lines, self._fields()))]
                return Decoded(self._batch(columns, data.split(b"\n") if self.new_columns != "ignore" else []))
            except (Refused, pa.ArrowInvalid):
                pass
        return self.decode_records(data.split(b"\n"))

    def decode_records(self, records: Sequence[bytes], refused: Mapping[int, str] | None = None) -> Decoded:
        """Records of one object each, without line ends, as rows; those at the places of `refused` are refused so."""
        reasons = dict(refused or {})
        kept = [(place, line) for place, part in enumerate(records) if (line := part.strip(b" \t\r"))]
        raw = [line for _, line in kept]
        lines = raw
        found: dict[int, str] = {}
        for place, (number, line) in enumerate(kept):
            if number in reasons:
                found[place] = reasons[number]
            elif (examined := self._examined(line)) is not line:
                if isinstance(examined, str):
                    found[place] = examined
                else:
                    lines = list(raw) if lines is raw else lines
                    lines[place] = examined
        return sift(lines, found, self._parse_lines, self._suspect, raw)

    def _examined(self, line: bytes) -> bytes | str:
        """The line as it can be parsed, or why it cannot."""
        if reason := not_utf8(line):
            return reason
        examine = _examiner(self._fields()).decode
        try:
            examine(line)
        except msgspec.MsgspecError as error:
            if not self.strict:
                with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeError):
                    examine(texts := _with_texts(line, self._fields()))
                    return texts
            return _reason(str(error))
        except RecursionError:
            pass  # msgspec's limit of nesting, not ours: the bulk reader decides
        return line

    def _parse_lines(self, lines: list[bytes]) -> Parsed:
        if not lines:
            return pa.record_batch([pa.array([], field.type) for field in self.schema], self.schema), {}
        data = b"\n".join(lines)
        try:
            table = _read(data, len(lines), self._fields(), threads=False)
        except Refused as error:
            if len(lines) > 1:
                raise
            raise Refused(_blame(data, self._fields(), str(error))) from error
        columns: list[pa.Array] = []
        bad: dict[int, str] = {}
        for wire, target, spelling in self._columns(table):
            name = self.schema.names[len(columns)]
            column, reasons = convert_each(wire, target, spelling)
            columns.append(column)
            bad.update((row, f"{name}: {reason}") for row, reason in reasons.items())
        return self._batch(columns, lines), bad

    def _fields(self) -> pa.Schema:
        """The schema of what is looked for in the objects."""
        return self.schema if self.new_columns != "rescue" else _all_but_last(self.schema)

    def _columns(self, table: pa.Table) -> list[tuple[pa.Array, pa.DataType, Spelling]]:
        """Each column as it was read, its type, and how its values are spelled."""
        formats = self.date_formats
        return [
            (
                wire,
                field.type,
                USUAL if not formats else Spelling(tuple(of_column(formats, field.name))),
            )
            for wire, field in zip(_columns(table), self._fields(), strict=True)
        ]

    def _batch(self, columns: list[pa.Array], lines: Sequence[bytes]) -> pa.RecordBatch:
        """The rows; with what the schema lacks, where that is rescued."""
        if self.new_columns != "ignore":
            new = [rest_of(line, self._fields()) for line in lines if line]
            if self.new_columns == "rescue":
                columns = [
                    *columns,
                    pa.array([None if rest is None else rest.decode() for rest in new], pa.string_view()),
                ]
            elif (rest := next(filter(None, new), None)) is not None:
                raise NewColumnsError(f"a record has fields ({rest.decode():.200})")
        return pa.record_batch(columns, self.schema)

    def _suspect(self, line: bytes) -> bool:
        """Is it a line that msgspec takes and the bulk reader may not: a field twice, a decimal with more digits?"""
        for name in _quoted_names(self.schema):
            if line.count(name) > 1:
                return True
        decimals = [place for place, field in enumerate(self.schema) if pa.types.is_decimal(field.type)]
        if not decimals:
            return False
        record = _examiner(self._fields()).decode(line)
        for place in decimals:
            target, value = self.schema.field(place).type, getattr(record, f"f{place}")
            if value is not None and (
                not value.is_finite()
                or -value.as_tuple().exponent > target.scale
                or value.adjusted() >= target.precision - target.scale
            ):
                return True
        return False


def _count_objects(data: bytes) -> int | None:
    """How many lines `data` has, if it is UTF-8 and each line is one `{...}`; None where a closer look is needed.

    `}` newline `{` cannot be within an object, so that as many rows as such lines means one object a line.
    """
    if not data or b"\r" in data or not is_utf8(data) or _may_have_nan(data):
        return None
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets == ord("\n"))
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    whole = (
        data[0] == ord("{")
        and ends[0] > 0
        and bool((octets[ends[:-1] + 1] == ord("{")).all())
        and bool((octets[ends - 1] == ord("}")).all())
    )
    return len(ends) if whole else None


def _may_have_nan(data: bytes) -> bool:
    """Could a `NaN` or `Infinity`, which is not JSON, stand outside of a string? Looks only where one is spelled."""
    for word in (b"NaN", b"Inf"):
        place = data.find(word) if word[:1] in data else -1  # one octet is looked up ten times as fast as three
        while place >= 0:
            if data[place - 1 : place] in (b":", b"[", b",", b"-", b" ", b"\t"):
                return True
            place = data.find(word, place + 1)
    return False


def _read(data: bytes, lines: int, schema: pa.Schema, *, threads: bool = True) -> pa.Table:
    """One row a line, dates and times still as text; raises `Refused` where that cannot be."""
    reading = pj.ReadOptions(use_threads=threads, block_size=_BLOCK if threads else len(data) + 1)
    parsing = pj.ParseOptions(explicit_schema=_wire_schema(schema), unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(pa.BufferReader(data), reading, parsing)
    except pa.ArrowInvalid as error:
        raise Refused(_reason(str(error))) from error
    if table.num_rows != lines:
        raise Refused("not one JSON object")
    for column, field in zip(_columns(table), schema, strict=True):
        if not _all_finite(column):
            raise Refused(f"{field.name}: the number is too large for {type_name(field.type)}")
    return table


def _columns(table: pa.Table) -> list[pa.Array]:
    return [column.combine_chunks() for column in table.columns]


def _all_finite(column: pa.Array) -> bool:
    """Has no float overflown? JSON cannot write an infinity, so that any there is was a number too large."""
    if pa.types.is_floating(column.type):
        return pc.all(pc.is_finite(column)).as_py() is not False
    if pa.types.is_list(column.type):
        return _all_finite(column.flatten())
    if pa.types.is_struct(column.type):
        return all(_all_finite(child) for child in column.flatten())
    return True


def _blame(line: bytes, schema: pa.Schema, reason: str) -> str:
    """The reason for a single line, with the field that is at fault where it is one."""
    if reason.startswith(tuple(f"{name}:" for name in schema.names)):
        return reason
    for field in schema:
        if not any(word in str(field.type) for word in ("decimal", "uint64", "float")):
            continue  # msgspec has checked it
        try:
            _read(line, 1, pa.schema([field]), threads=False)
        except Refused as error:
            alone = str(error)
            return alone if alone.startswith((f"{field.name}:", "not ")) else f"{field.name}: {alone}"
    return reason


@lru_cache(maxsize=4096)  # a source that sends no JSON is refused a million times for the same few reasons
def _reason(message: str) -> str:
    """What msgspec or Arrow says of a line, in words for who sent it."""
    if found := re.fullmatch(r"Expected `(.+?)`(.*) - at `\$\.(.*)`", message):
        expected, rest, path = found.groups()
        if expected == "null":
            return f"{path}: expected null{rest.replace('`', '')}: the column has no type; give it one in schema="
        return f"{path}: expected {expected.removesuffix(' | null')}{rest.replace('`', '')}"
    if found := re.fullmatch(r"(.+) - at `\$\.(.*)`", message):
        return f"{found[2]}: {found[1][0].lower()}{found[1][1:]}"
    if found := re.search(r"Column\(/(.*)\) was specified twice", message):
        return f"{found[1].replace('/', '.')}: the field is given twice"
    if found := re.search(r"Failed to convert JSON to ([^,:]+), couldn't parse:(.*)", message):
        return f"{found[2]!r:.100} is no {found[1]}"
    if found := re.search(r"Failed to convert JSON to .+?\): (.*)", message):
        return found[1]
    if found := re.search(r"JSON parse error: (.*?)\.?(?: in row \d+)?$", message):
        return f"not JSON: {found[1]}"
    if message.startswith("Expected `object`"):
        return f"not a JSON object{message.removeprefix('Expected `object`').replace('`', '')}"
    return f"not JSON: {message.removeprefix('JSON is malformed: ')}"


def _readable(target: pa.DataType, *, in_list: bool = False) -> bool:
    if pa.types.is_null(target):
        return not in_list  # Arrow's reader makes a list of nulls of another length
    if pa.types.is_large_list(target):
        return _readable(target.value_type, in_list=True)
    if pa.types.is_struct(target):
        return target.num_fields > 0 and all(_readable(field.type, in_list=in_list) for field in target)
    return is_scalar(target)


def _with_texts(line: bytes, schema: pa.Schema) -> bytes:
    """The line with a string for each value of a String column that is none: the text that stands there."""
    return _texts_of(msgspec.Raw(line), pa.struct(list(schema)))


def _texts_of(value: msgspec.Raw, target: pa.DataType) -> msgspec.Raw | bytes:
    head = bytes(value)[:1]
    if pa.types.is_string_view(target):
        return value if head in (b'"', b"n") else msgspec.json.encode(bytes(value).decode())
    if pa.types.is_large_list(target) and head == b"[":
        items = [_texts_of(item, target.value_type) for item in msgspec.json.decode(value, type=list[msgspec.Raw])]
        return b"[" + b",".join(map(bytes, items)) + b"]"
    if pa.types.is_struct(target) and head == b"{":
        known = {field.name: field.type for field in target}
        pairs = [
            msgspec.json.encode(name) + b":" + bytes(_texts_of(item, known[name]) if name in known else item)
            for name, item in msgspec.json.decode(value, type=dict[str, msgspec.Raw]).items()
        ]
        return b"{" + b",".join(pairs) + b"}"
    return value


@cache
def _all_but_last(schema: pa.Schema) -> pa.Schema:
    return pa.schema(list(schema)[:-1])


@cache
def _wire_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(field.name, _wire_type(field.type)) for field in schema])


def _wire_type(target: pa.DataType) -> pa.DataType:
    """The type in which the bulk reader reads a column; `convert` makes the column's own of it."""
    if pa.types.is_large_list(target):
        return pa.list_(_wire_type(target.value_type))
    if pa.types.is_struct(target):
        return pa.struct([(field.name, _wire_type(field.type)) for field in target])
    if pa.types.is_date32(target) or pa.types.is_timestamp(target):
        return pa.large_string()
    if pa.types.is_decimal(target):
        return pa.decimal128(38, target.scale)  # the reader itself does not mind the precision
    return target


@cache
def _quoted_names(schema: pa.Schema) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in schema.names)


@cache
def _examiner(schema: pa.Schema) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_record_type(list(schema)))


def _record_type(fields: list[pa.Field]) -> Any:
    """A struct of nullable fields; the names it knows are `f0, f1 ...`, those in JSON may be any."""
    names = {f"f{place}": field.name for place, field in enumerate(fields)}
    types = [(f"f{place}", _json_type(field.type) | None, None) for place, field in enumerate(fields)]
    return msgspec.defstruct("Record", types, rename=names, gc=False)


def _json_type(target: pa.DataType) -> Any:
    if pa.types.is_large_list(target):
        return list[_json_type(target.value_type) | None]  # type: ignore[misc]
    if pa.types.is_struct(target):
        return _record_type(list(target))
    if pa.types.is_null(target):
        return type(None)
    if pa.types.is_boolean(target):
        return bool
    if pa.types.is_uint64(target):
        return Annotated[int, msgspec.Meta(ge=0)]  # msgspec has no bound above 2**63: the bulk reader refuses
    if pa.types.is_integer(target):
        bits = target.bit_width - pa.types.is_signed_integer(target)
        least = -(1 << bits) if pa.types.is_signed_integer(target) else 0
        return Annotated[int, msgspec.Meta(ge=least, le=(1 << bits) - 1)]
    if pa.types.is_floating(target):
        return float
    return Decimal if pa.types.is_decimal(target) else str
