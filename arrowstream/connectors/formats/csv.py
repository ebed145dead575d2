"""CSV, decoded by Arrow in bulk; every field is read as text and then converted."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from arrowstream.connectors.formats.convert import Spelling, convert, convert_each
from arrowstream.connectors.formats.dates import of_column, spelled_formats
from arrowstream.connectors.formats.format import Decoded, is_utf8, not_utf8
from arrowstream.connectors.formats.names import match_names, unique_names
from arrowstream.connectors.formats.records import Cutter, LineRecords, QuotedRecords
from arrowstream.connectors.formats.schema import (
    RESCUED,
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
_NEWLINE = ord("\n")
_RETURN = ord("\r")


@dataclass(frozen=True, slots=True)
class CsvFormat:
    r"""One record a line, or over several where a quoted field holds line ends.

    separator       the character between fields
    has_header      the first record of each file or connection names the columns: they are found by name, in any order
                    and case. One that is missing is null; without a header, fields stand in the order of the schema
    quote_char      the character around fields that hold a separator or a line end; doubled within them. None for none
    null_values     what stands for null, unquoted; an empty field unless given. A quoted field is never null
    comment_prefix  lines that begin so are skipped
    skip_rows       so many records are skipped at the beginning of each file or connection, before the header
    decimal_comma   floats and decimals have a comma for a point
    date_formats    how dates and times are written, where not by ISO 8601: formats as `str.to_date` takes them, tried
                    in this order, for all columns or by the name of the column
    new_columns     what becomes of columns that the schema lacks: "ignore", "rescue" (their fields are a JSON object in
                    the column `_rescued`) or "fail"

    A wrong number of fields, a quote that is left open, text after a closing quote and a value that is not of the
    column's type refuse the record, whole. Booleans are true/false or 1/0. Blank lines are skipped, so that a null
    alone in a line has to be written otherwise; `\r\n` ends a line too.
    """

    schema: pa.Schema
    separator: str = ","
    has_header: bool = False
    quote_char: str | None = '"'
    null_values: tuple[str, ...] = ("",)
    comment_prefix: str | None = None
    skip_rows: int = 0
    decimal_comma: bool = False
    date_formats: Mapping[str, Sequence[str] | str] | Sequence[str] | str = ()
    new_columns: NewColumns = "ignore"
    columns: tuple[str, ...] = ()
    """The names of the fields of a line, where a header has told them."""

    def __post_init__(self) -> None:
        check_new_columns(self.new_columns)
        if self.new_columns == "rescue":
            object.__setattr__(self, "schema", with_rescued(self.schema))
        refuse_types(self.schema, "csv", is_scalar)
        quote = self.quote_char or None
        for option, character in (("separator", self.separator), ("quote_char", quote)):
            if character is not None and (len(character) != 1 or not character.isascii() or character in ("\r", "\n")):
                raise PlanError(f"{option}={character!r} is not one ASCII character")
        if quote == self.separator:
            raise PlanError(f"quote_char={quote!r} is not one ASCII character other than the separator")
        nulls = (self.null_values,) if isinstance(self.null_values, str) else tuple(self.null_values)
        object.__setattr__(self, "quote_char", quote)
        object.__setattr__(self, "null_values", nulls)
        object.__setattr__(self, "date_formats", spelled_formats(self.date_formats, self.schema))
        if self.skip_rows < 0:
            raise PlanError(f"skip_rows={self.skip_rows} is below 0")
        if self.comment_prefix == "" or (self.comment_prefix and "\n" in self.comment_prefix):
            raise PlanError(f"comment_prefix={self.comment_prefix!r} is no beginning of a line")

    @property
    def header(self) -> bool:
        return self.has_header or self.skip_rows > 0

    def cutter(self) -> Cutter | None:
        return QuotedRecords(self.quote_char, self.separator) if self.quote_char else None

    def with_header(self, line: bytes) -> CsvFormat:
        """This format for what follows the record `line`; raises `ValueError` where it names none of the columns."""
        if self.skip_rows:
            return replace(self, skip_rows=self.skip_rows - 1)
        if self.is_comment(line) or line in (b"\n", b"\r\n"):
            return self
        names = read_names(line, self.separator, self.quote_char)
        wanted = [name for name in self.schema.names if not self._rescues(name)]
        found = match_names(names, wanted)
        if not found:
            raise ValueError(
                f"the header names none of the columns {', '.join(map(repr, wanted))}; it has: {', '.join(names)}"
            )
        new = [name for place, name in enumerate(names) if place not in found]
        if new and self.new_columns == "fail":
            raise NewColumnsError(f"the header names columns ({', '.join(map(repr, new))})")
        taken = set(found.values())
        columns = [found.get(place) or _other_than(name, taken) for place, name in enumerate(names)]
        return replace(self, has_header=False, columns=tuple(columns))

    def decode(self, data: bytes) -> Decoded:
        """The records of `data` as rows, in bulk where every one of them is good."""
        if (bulk := self._tidy(data)) is not None:
            records, longest, lines, tidy = bulk
            try:
                table = self._read(tidy, records, longest, lines)
                return Decoded(self._batch([convert(*each) for each in self._columns(table)], table))
            except (Refused, pa.ArrowInvalid):
                pass
        return self._decode_records(data)

    def _decode_records(self, data: bytes) -> Decoded:
        octets = np.frombuffer(data, np.uint8)
        ends = (self.cutter() or LineRecords()).feed(octets).tolist()
        if not ends or ends[-1] != len(data):
            ends.append(len(data))
        records = [data[begin:end].removesuffix(b"\n").removesuffix(b"\r") for begin, end in pairwise([0, *ends])]
        records = [record for record in records if record and not self.is_comment(record)]
        refused = {}
        for place, record in enumerate(records):
            if reason := not_utf8(record) or self._malformed(record):
                refused[place] = reason
        return sift(records, refused, self._parse_records)

    def _malformed(self, record: bytes) -> str | None:
        """What is wrong with a single record; None where the number of its fields, and its quotes, are right."""
        width = len(self._fields())
        if not self.quote_char or self.quote_char.encode() not in record:
            found = record.count(self.separator.encode()) + 1
            if b"\r" in record:
                return "a carriage return within the line"
        else:
            whole, field, quoted = _patterns(self.quote_char, self.separator)
            if whole.fullmatch(record) is None:
                cutter = QuotedRecords(self.quote_char, self.separator)
                cutter.feed(np.frombuffer(record, np.uint8))
                if cutter.open:
                    return "a quote is left open"
                stray = b"\r" in quoted.sub(b"", record)
                return "a carriage return within the line" if stray else "text after a closing quote"
            found = len(field.findall(record))
            found -= not record.endswith(self.separator.encode())  # the end matches once more, as an empty field
        return None if found == width else f"{found} fields instead of {width}"

    def _tidy(self, data: bytes) -> tuple[int, int, int, bytes] | None:
        """How many records `data` has, the most bytes of one, how many lines, and `data` with plain line ends; None
        where a closer look is needed: a blank line or a comment, a quote out of its place, a lone carriage return."""
        if not data or not is_utf8(data):
            return None
        octets = np.frombuffer(data, np.uint8)
        quoted = self.quote_char is not None and self.quote_char.encode() in data
        if b"\r" in data:
            if not quoted:
                data = data.replace(b"\r\n", b"\n")
            else:
                assert self.quote_char is not None
                ends = QuotedRecords(self.quote_char, self.separator).feed(octets) - 2
                data = np.delete(octets, ends[(ends >= 0) & (octets[ends] == _RETURN)]).tobytes()
            octets = np.frombuffer(data, np.uint8)
        if not data.endswith(b"\n"):
            data += b"\n"  # Arrow loses an empty field before the end of the data
            octets = np.frombuffer(data, np.uint8)
        if quoted:
            assert self.quote_char is not None
            cutter = QuotedRecords(self.quote_char, self.separator)
            ends = cutter.feed(octets)
            if not cutter.tidy or not len(ends) or ends[-1] != len(data):
                return None
            returns = np.flatnonzero(octets == _RETURN)
            quotes = np.flatnonzero(octets == ord(self.quote_char))
            if bool((np.searchsorted(quotes, returns) % 2 == 0).any()):
                return None
            lines = int(np.count_nonzero(octets == _NEWLINE))
        else:
            if b"\r" in data:
                return None
            ends = np.flatnonzero(octets == _NEWLINE) + 1
            lines = len(ends)
        lengths = np.diff(ends, prepend=0)
        if int(lengths.min()) == 1:
            return None
        if self.comment_prefix is not None:
            first = ord(self.comment_prefix.encode()[:1])
            if octets[0] == first or bool((octets[ends[:-1]] == first).any()):
                return None
        return len(ends), int(lengths.max()), lines, data

    def _parse_records(self, records: list[bytes]) -> Parsed:
        if not records:
            return pa.record_batch([pa.array([], field.type) for field in self.schema], self.schema), {}
        data = b"\n".join(records) + b"\n"
        table = self._read(data, len(records), max(map(len, records)) + 1, data.count(b"\n"))
        columns: list[pa.Array] = []
        bad: dict[int, str] = {}
        for text, target, spelling in self._columns(table):
            column, reasons = convert_each(text, target, spelling)
            name = self.schema.names[len(columns)] if len(columns) < len(self.schema.names) else RESCUED
            columns.append(column)
            bad.update((row, f"{name}: {reason}") for row, reason in reasons.items())
        return self._batch(columns, table), bad

    def _read(self, data: bytes, records: int, longest: int, lines: int) -> pa.Table:
        """One row a record, all fields as text; raises `Refused` where that cannot be."""
        fields = self._fields()
        include = list(fields) if self.new_columns == "rescue" else []
        include += [name for name in self.schema.names if name not in include and not self._rescues(name)]
        converting = pc.ConvertOptions(
            column_types={name: pa.large_string() for name in [*fields, *include]},
            include_columns=include,
            include_missing_columns=True,
            null_values=list(self.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        threads = len(data) > _BLOCK and longest <= _BLOCK  # a record has to be within one block, or two neighbours
        reading = pc.ReadOptions(
            use_threads=threads, block_size=_BLOCK if threads else len(data) + 1, column_names=fields
        )
        parsing = pc.ParseOptions(
            delimiter=self.separator, quote_char=self.quote_char or False, newlines_in_values=lines > records
        )
        try:
            table = pc.read_csv(pa.BufferReader(data), reading, parsing, converting)
        except pa.ArrowInvalid as error:
            raise Refused(_reason(str(error), len(fields))) from error
        if table.num_rows != records:
            raise Refused("a quote is left open")
        return table

    def _columns(self, table: pa.Table) -> list[tuple[pa.Array, pa.DataType, Spelling]]:
        """The texts of each column, its type, and how it is spelled."""
        return [
            (table.column(field.name).combine_chunks(), field.type, self._spelling(field.name))
            for field in self.schema
            if not self._rescues(field.name)
        ]

    def _batch(self, columns: list[pa.Array], table: pa.Table) -> pa.RecordBatch:
        """The rows; with what the schema lacks, where that is rescued."""
        if self.new_columns == "rescue":
            known = set(self.schema.names)
            new = table.select([name for name in table.column_names if name not in known])
            columns = [*columns, _as_json(new)]
        return pa.record_batch(columns, self.schema)

    def _spelling(self, name: str) -> Spelling:
        return Spelling(tuple(of_column(self.date_formats, name)), self.decimal_comma)

    def _rescues(self, name: str) -> bool:
        return self.new_columns == "rescue" and name == RESCUED

    def is_comment(self, record: bytes) -> bool:
        """Is this no record but a comment?"""
        return self.comment_prefix is not None and record.startswith(self.comment_prefix.encode())

    def _fields(self) -> list[str]:
        return list(self.columns) or [name for name in self.schema.names if not self._rescues(name)]


@cache
def _patterns(quote: str, separator: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
    """A record whose quotes are in their places, a field of it with what ends it, and a quoted text."""
    marks = re.escape(quote.encode()), re.escape(separator.encode())

    def pattern(text: bytes) -> re.Pattern[bytes]:
        return re.compile(
            text.replace(b"F", field).replace(b"T", quoted).replace(b"Q", marks[0]).replace(b"S", marks[1])
        )

    quoted = rb"Q(?:[^Q]++|QQ)*+Q"
    field = rb"(?:T(?=[S\r]|\Z)|(?!Q)[^S\r]*+)"
    return pattern(rb"(?:FS)*+F"), pattern(rb"F(?:S|\Z)"), pattern(b"T")


def read_names(line: bytes, separator: str, quote: str | None) -> list[str]:
    """The names of a header, each of them once, as Polars makes them; raises `ValueError` for what is no header."""
    try:
        text = line.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r").decode()
        if quote:
            names = next(csv.reader([text], delimiter=separator, quotechar=quote), [])
        else:
            names = text.split(separator)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the header cannot be read: {error}") from error
    if not names:
        raise ValueError("the header is empty")
    return unique_names(names)


def _as_json(columns: pa.Table) -> pa.Array:
    """Each row as a JSON object of its texts; null where it has none."""
    frame = pl.DataFrame(columns)
    if not frame.width:
        return pa.nulls(columns.num_rows, pa.string_view())
    found = pl.when(pl.any_horizontal(pl.all().is_not_null())).then(pl.struct(pl.all()).struct.json_encode())
    return frame.select(found.alias(RESCUED)).to_series().rechunk().to_arrow(compat_level=pl.CompatLevel.newest())


def _other_than(name: str, taken: set[str]) -> str:
    """A name for a field that nobody asked for: not one of those asked for."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _reason(message: str, width: int) -> str:
    if found := re.search(r"Expected \d+ columns, got (\d+)", message):
        return f"{found[1]} fields instead of {width}"
    return f"not CSV: {message.removeprefix('CSV parse error: ')}"
