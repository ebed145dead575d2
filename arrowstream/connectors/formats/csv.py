"""CSV: one record a line, decoded by Arrow in bulk; every field is read as text and then converted."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from arrowstream.connectors.formats.convert import convert, convert_each
from arrowstream.connectors.formats.format import Decoded, is_utf8, not_utf8
from arrowstream.connectors.formats.schema import is_scalar, refuse_types
from arrowstream.connectors.formats.sift import Parsed, Refused, sift
from arrowstream.errors import PlanError

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class CsvFormat:
    r"""One record a line, its fields in the order of the schema.

    delimiter    the character between fields
    header       the first line of each file or connection names the columns: they are found by name, in any
                 order, others are ignored, and one that is missing is an error
    quote        the character around fields that hold a delimiter; doubled within them. "" for none
    null_values  what stands for null, unquoted; an empty field unless given. A quoted field is never null

    A record cannot go over several lines. A wrong number of fields, an open quote and a value that is not of the
    column's type refuse the line. Dates and timestamps are ISO 8601, booleans true/false or 1/0. Blank lines are
    skipped, so that a null alone in a line has to be written otherwise; `\r\n` ends a line too.
    """

    schema: pa.Schema
    delimiter: str = ","
    header: bool = False
    quote: str = '"'
    null_values: tuple[str, ...] = ("",)
    columns: tuple[str, ...] = ()
    """The names of the fields of a line, where a header has told them."""

    def __post_init__(self) -> None:
        refuse_types(self.schema, "csv", is_scalar)
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in "\r\n":
            raise PlanError(f"delimiter={self.delimiter!r} is not one ASCII character")
        if self.quote and (
            len(self.quote) != 1 or not self.quote.isascii() or self.quote in ("\r", "\n", self.delimiter)
        ):
            raise PlanError(f"quote={self.quote!r} is not one ASCII character other than the delimiter")
        if isinstance(self.null_values, str):
            object.__setattr__(self, "null_values", (self.null_values,))
        object.__setattr__(self, "null_values", tuple(self.null_values))

    def with_header(self, line: bytes) -> CsvFormat:
        """This format for the lines after the header `line`; raises `ValueError` where a column is missing."""
        try:
            text = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").decode()
            if self.quote:
                names = next(csv.reader([text], delimiter=self.delimiter, quotechar=self.quote), [])
            else:
                names = text.split(self.delimiter)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"the header cannot be read: {error}") from error
        for name in self.schema.names:
            if names.count(name) != 1:
                raise ValueError(
                    f"the header names column {name!r} {names.count(name)} times; it has: {', '.join(names)}"
                )
        return replace(self, header=False, columns=tuple(names))

    def decode(self, data: bytes) -> Decoded:
        """The records of `data` as rows, in bulk where every line of it is good."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if (lines := self._count_records(data)) is not None:
            try:
                table = self._read(data, lines)
                columns = [convert(_column(table, field), field.type) for field in self.schema]
                return Decoded(pa.record_batch(columns, self.schema))
            except (Refused, pa.ArrowInvalid):
                pass
        return self._decode_lines(data)

    def _decode_lines(self, data: bytes) -> Decoded:
        lines = [line for line in (part.removesuffix(b"\r") for part in data.split(b"\n")) if line]
        width, delimiter, quote = len(self._fields()), self.delimiter.encode(), self.quote.encode()
        refused: dict[int, str] = {}
        for place, line in enumerate(lines):
            if reason := not_utf8(line):
                refused[place] = reason
            elif b"\r" in line:
                refused[place] = "a carriage return within the line"
            elif quote and quote in line:
                if line.count(quote) % 2:
                    refused[place] = "a quote is left open"
            elif (found := line.count(delimiter) + 1) != width:
                refused[place] = f"{found} fields instead of {width}"
        return sift(lines, refused, self._parse_lines, self._suspect)

    def _suspect(self, line: bytes) -> bool:
        """Is it a line with quotes which the standard library does not find the right fields in?"""
        if not self.quote or self.quote.encode() not in line:
            return False
        reader = csv.reader([line.decode()], delimiter=self.delimiter, quotechar=self.quote, strict=True)
        try:
            return len(next(reader, [])) != len(self._fields())
        except csv.Error:
            return True

    def _count_records(self, data: bytes) -> int | None:
        """How many lines `data` has, if none is blank and no quote is open at a line's end; else None."""
        if not data or b"\r" in data or not is_utf8(data):
            return None
        octets = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(octets == ord("\n"))
        if not data.endswith(b"\n"):
            ends = np.append(ends, len(data))
        if ends[0] == 0 or bool((np.diff(ends) == 1).any()):
            return None
        if self.quote and self.quote.encode() in data:
            quotes = np.flatnonzero(octets == ord(self.quote))
            if bool((np.searchsorted(quotes, ends) % 2).any()):
                return None
        return len(ends)

    def _parse_lines(self, lines: list[bytes]) -> Parsed:
        if not lines:
            return pa.record_batch([pa.array([], field.type) for field in self.schema], self.schema), {}
        table = self._read(b"\n".join(lines), len(lines))
        columns: list[pa.Array] = []
        bad: dict[int, str] = {}
        for field in self.schema:
            column, reasons = convert_each(_column(table, field), field.type)
            columns.append(column)
            bad.update((row, f"{field.name}: {reason}") for row, reason in reasons.items())
        return pa.record_batch(columns, self.schema), bad

    def _read(self, data: bytes, lines: int) -> pa.Table:
        """One row a line, all fields as text; raises `Refused` where that cannot be."""
        if not data.endswith(b"\n"):
            data += b"\n"  # Arrow loses an empty field before the end of the data
        fields = self._fields()
        converting = pc.ConvertOptions(
            column_types={name: pa.large_string() for name in fields},
            include_columns=self.schema.names,
            null_values=list(self.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        threads = len(data) > _BLOCK
        reading = pc.ReadOptions(
            use_threads=threads, block_size=_BLOCK if threads else len(data) + 1, column_names=fields
        )
        try:
            table = pc.read_csv(pa.BufferReader(data), reading, self._parse_options(), converting)
        except pa.ArrowInvalid as error:
            raise Refused(_reason(str(error), len(fields))) from error
        if table.num_rows != lines:
            raise Refused("a quote is left open")
        return table

    def _fields(self) -> list[str]:
        return list(self.columns or self.schema.names)

    def _parse_options(self) -> pc.ParseOptions:
        return pc.ParseOptions(delimiter=self.delimiter, quote_char=self.quote or False)


def _column(table: pa.Table, field: pa.Field) -> pa.Array:
    return table.column(field.name).combine_chunks()


def _reason(message: str, width: int) -> str:
    if found := re.search(r"Expected \d+ columns, got (\d+)", message):
        return f"{found[1]} fields instead of {width}"
    return f"not CSV: {message.removeprefix('CSV parse error: ')}"
