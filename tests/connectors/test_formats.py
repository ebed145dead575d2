"""Formats: what becomes of each line, against a strict reading in Python, however the lines are cut."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arrowstream.connectors.formats.format import Decoded, Format, count_lines
from arrowstream.connectors.formats.make import make_format
from arrowstream.connectors.formats.records import QuotedRecords
from arrowstream.connectors.source import REJECT_SCHEMA
from arrowstream.errors import PlanError

SCHEMA: dict[str, Any] = {
    "i": pl.Int8,
    "u": pl.UInt64,
    "x": pl.Float64,
    "y": pl.Float32,
    "b": pl.Boolean,
    "s": pl.String,
    "t": pl.Datetime("us"),
    "z": pl.Datetime("ms", "UTC"),
    "d": pl.Date,
    "p": pl.Decimal(6, 2),
    "l": pl.List(pl.Int64),
    "r": pl.Struct({"a": pl.Int64, "t": pl.List(pl.Datetime("us"))}),
}
NDJSON = make_format("ndjson", SCHEMA)

NAIVE = {
    "2026-01-02": datetime(2026, 1, 2),
    "2026-01-02T03:04": datetime(2026, 1, 2, 3, 4),
    "2026-01-02 03:04:05": datetime(2026, 1, 2, 3, 4, 5),
    "2026-01-02T03:04:05.6": datetime(2026, 1, 2, 3, 4, 5, 600_000),
    "2026-01-02T03:04:05.678901": datetime(2026, 1, 2, 3, 4, 5, 678_901),
    "0001-01-01T00:00:00": datetime(1, 1, 1),
}
ZONED = {
    "2026-01-02T03:04:05Z": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "2026-01-02 03:04:05.678+01:00": datetime(2026, 1, 2, 2, 4, 5, 678_000, tzinfo=UTC),
    "2026-01-02T03:04-0130": datetime(2026, 1, 2, 4, 34, tzinfo=UTC),
}
NO_TIME = ["", "now", "2026-02-30", "2026-1-2", "2026-01-02T24:00", "2026-01-02T03:04:05.1234567", " 2026-01-02"]


class Number(str):
    """The text of a JSON number."""


class Refuse(Exception):
    """The line is no row."""


def oracle(line: bytes, schema: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a line, by the standard library and strict conversion; None for a blank line."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise Refuse from error
    if not text.strip(" \t\r\n"):
        return None
    try:
        record = json.loads(
            text, object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=refuse_constant
        )
    except ValueError as error:
        raise Refuse from error
    check_everywhere(record)
    return struct_of(record, schema)


class Pairs(list[tuple[str, Any]]):
    """A JSON object, its fields as they were given."""


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def check_everywhere(value: Any) -> None:
    """What no field may hold, asked for or not."""
    if isinstance(value, Number):
        if not math.isfinite(float(value)):
            raise Refuse
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Refuse from error
    elif isinstance(value, list):
        for item in value:
            check_everywhere(item)
    elif isinstance(value, tuple):
        check_everywhere(list(value))


def struct_of(value: Any, schema: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Pairs):
        raise Refuse
    names = [name for name, _ in value]
    if any(names.count(name) > 1 for name in schema):
        raise Refuse
    fields = dict(value)
    return {name: value_of(fields.get(name), dtype) for name, dtype in schema.items()}


def value_of(value: Any, dtype: Any) -> Any:
    if value is None:
        return None
    if isinstance(dtype, pl.Struct):
        return struct_of(value, {field.name: field.dtype for field in dtype.fields})
    if isinstance(dtype, pl.List):
        if not isinstance(value, list) or isinstance(value, Pairs):
            raise Refuse
        return [value_of(item, dtype.inner) for item in value]
    if isinstance(dtype, pl.Decimal):
        return decimal_of(value, dtype)
    wants_number = dtype in (pl.Int8, pl.Int64, pl.UInt64, pl.Float32, pl.Float64)
    if isinstance(value, bool) != (dtype == pl.Boolean) or isinstance(value, Number) != wants_number:
        raise Refuse
    if isinstance(value, list):
        raise Refuse
    if dtype in (pl.Float32, pl.Float64):
        found = float(value)
        if dtype == pl.Float32 and abs(found) > 3.4028235e38:
            raise Refuse
        return found
    if wants_number:
        least, most = {pl.Int8: (-128, 127), pl.Int64: (-(2**63), 2**63 - 1), pl.UInt64: (0, 2**64 - 1)}[dtype]
        if not value.lstrip("-").isdigit() or not least <= int(value) <= most or (value == "-0" and least == 0):
            raise Refuse
        return int(value)
    if isinstance(dtype, pl.Datetime):
        known = NAIVE if dtype.time_zone is None else ZONED
        if value not in known:
            raise Refuse
        return known[value]
    if dtype == pl.Date:
        if value != "2026-01-02":
            raise Refuse
        return date(2026, 1, 2)
    return value


def decimal_of(value: Any, dtype: pl.Decimal) -> Decimal:
    if not isinstance(value, str):
        raise Refuse
    try:
        found = Decimal(value)
    except ArithmeticError as error:
        raise Refuse from error
    exponent = found.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > dtype.scale or abs(found) >= 10000:
        raise Refuse
    return found


def raw(text: str) -> st.SearchStrategy[str]:
    return st.just(text)


integers = st.integers(-(2**65), 2**65).map(str) | st.integers(-130, 130).map(str)
floats = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.sampled_from(["1e39", "1e400", "-1E+2", "0.5"])
strings = st.text(st.characters(codec="utf-8"), max_size=15).map(lambda text: json.dumps(text, ensure_ascii=False))
escaped = st.sampled_from(
    [r'"\u00e9\ud83d\ude00"', r'"\ud800"', r'"\udc00"', r'"\u0000"', '"a\x00b"', '"a\tb"', r'"\q"']
)
times = st.sampled_from([json.dumps(text) for text in [*NAIVE, *ZONED, *NO_TIME]])
decimals = st.sampled_from(
    ["1.5", '"1.5"', "12.345", "99999", "-9999.99", "9" * 38, "9" * 40, "1e3", '"NaN"', '"x"', "1E400", "1.50", "0"]
)
odd = st.sampled_from(["null", "true", "1.0", "NaN", "-Infinity", "[]", "{}", '"1"', "01", "+1", "", "[1,null]", "nul"])
nested = st.sampled_from(
    [
        '{"a": 1, "t": ["2026-01-02"], "more": {}}',
        '{"a": 1.5}',
        '{"t": ["2026-01-02", "never"]}',
        '{"a": 1, "a": 2}',
        "{}",
        "[1]",
    ]
)
fitting: dict[str, st.SearchStrategy[str]] = {
    "i": integers,
    "u": integers,
    "x": floats,
    "y": floats,
    "b": st.sampled_from(["true", "false"]),
    "s": strings | escaped,
    "t": times,
    "z": times,
    "d": times,
    "p": decimals,
    "l": st.lists(integers, max_size=3).map(lambda items: f"[{','.join(items)}]"),
    "r": nested,
    "other": strings | escaped | floats | raw('{"i": [1, {"s": 2}]}'),
}


@st.composite
def json_lines(draw: st.DrawFn) -> bytes:
    """A line: mostly an object that could be a row, sometimes with a slip in it."""
    names = draw(st.lists(st.sampled_from(list(fitting)), max_size=4, unique=draw(st.integers(0, 5)) > 0))
    fields = [f'"{name}":{draw(fitting[name] if draw(st.integers(0, 9)) else odd)}' for name in names]
    line = ("{" + ", ".join(fields) + "}").encode()
    slip = draw(st.integers(0, 30))
    if slip == 0:
        return draw(
            st.sampled_from([b"", b" ", b"null", b"[1]", b"5", b'"x"', line + line, line + b" x", b"\xef\xbb\xbf{}"])
        )
    if slip == 1:
        place = draw(st.integers(0, len(line)))
        octet = draw(st.integers(0, 255)).to_bytes(1, "big")
        return (line[:place] + octet + line[place + draw(st.integers(0, 1)) :]).replace(b"\n", b"")
    if slip == 2:
        return b" " + line + b"\t\r"
    return line


def refusals(decoded: Decoded) -> list[bytes]:
    if decoded.rejects is None:
        return []
    assert decoded.rejects.schema == REJECT_SCHEMA
    assert decoded.rejects.num_rows
    assert all(decoded.rejects["reason"].to_pylist())
    raws: list[bytes] = decoded.rejects["raw"].to_pylist()
    return raws


def table(decoded: Decoded, format: Format) -> pl.DataFrame:
    decoded.rows.validate(full=True)
    assert decoded.rows.schema == format.schema
    return pl.DataFrame(decoded.rows)


@settings(max_examples=400)
@given(st.lists(json_lines(), max_size=8))
@example([b'{"i":1}', b"}{"])
@example([b'{"s":"a', b'b"}'])
@example([b'{"r":{"a":1}', b"}"])
@example([b'{"x":NaN}', b'{"other":Infinity}'])
@example([b'{"other":1e400}', b'{"other":"Infinity, NaN"}'])
@example([b"{" * 5000])
@example([b'{"other":' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"i":"x"}'])
def test_ndjson_is_what_a_strict_reading_gives(lines: list[bytes]) -> None:
    expected, refused = [], []
    for line in lines:
        try:
            row = oracle(line, SCHEMA)
        except Refuse:
            refused.append(line.strip(b" \t\r"))
        except RecursionError:  # the oracle's own limit
            if line.startswith(b"{{"):
                refused.append(line)
                continue
            row = dict.fromkeys(SCHEMA)
            expected.append(row)
        else:
            expected.extend([row] if row is not None else [])
    decoded = NDJSON.decode(b"".join(line + b"\n" for line in lines))
    got = table(decoded, NDJSON)
    wanted = pl.DataFrame(expected, schema=SCHEMA, strict=False)
    assert refusals(decoded) == refused
    assert got.rows() == wanted.rows()


@settings(max_examples=100)
@given(st.lists(json_lines(), max_size=12), st.integers(0, 12), st.sampled_from([b"\n", b"\r\n"]))
def test_what_becomes_of_a_line_does_not_depend_on_its_neighbours(lines: list[bytes], cut: int, end: bytes) -> None:
    """Where a buffer ends is chance: the network's, or the block interval's."""
    assert_cut_invariant(NDJSON, lines, cut, end)


def assert_cut_invariant(format: Format, lines: list[bytes], cut: int, end: bytes) -> None:
    whole = format.decode(end.join(lines))
    parts = [format.decode(end.join(part)) for part in (lines[:cut], lines[cut:])]
    singly = [format.decode(line + end) for line in lines] or [whole]
    for pieces in (parts, singly):
        assert pl.concat([table(piece, format) for piece in pieces]).rows() == table(whole, format).rows()
        assert [raw for piece in pieces for raw in refusals(piece)] == refusals(whole)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"i": "x"}', "i: expected int, got str"),
        (b'{"i": 1.0}', "i: expected int, got float"),
        (b'{"i": 128}', "i: expected int <= 127"),
        (b'{"u": 18446744073709551616}', "u: '18446744073709551616' is no uint64"),
        (b'{"x": 1e400}', "x: number out of range"),
        (b'{"y": 1e39}', "y: the number is too large for float"),
        (b'{"b": 1}', "b: expected bool, got int"),
        (b'{"t": "2026-01-01T00:00:00Z"}', "give the column pl.Datetime(time_zone='UTC')"),
        (b'{"z": "2026-01-01T00:00:00"}', "it has no time zone and the column has one"),
        (b'{"d": "2026-13-01"}', "d: '2026-13-01' is no date"),
        (b'{"p": 1.234}', "p: 1.234 requires scale 3"),
        (b'{"l": [1, null, "x"]}', "l[2]: expected int, got str"),
        (b'{"r": {"a": true}}', "r.a: expected int, got bool"),
        (b'{"i": 1, "i": 1}', "i: the field is given twice"),
        (b'{"r": {"a": 1, "a": 1}}', "r.a: the field is given twice"),
        (b'{"i": 1', "not JSON: "),
        (b'{"i": NaN}', "not JSON: "),
        (b"[1]", "not a JSON object, got array"),
        (b"null", "not a JSON object, got null"),
        (b'{"s": "caf\xe9"}', "not UTF-8: byte 0xe9 at position 10"),
    ],
)
def test_the_reason_names_the_field_and_what_is_wrong_with_it(line: bytes, reason: str) -> None:
    """Whoever reads the dead letters has to find the sender's bug."""
    decoded = NDJSON.decode(b'{"i": 1}\n' + line + b'\n{"i": 2}\n')
    assert table(decoded, NDJSON)["i"].to_list() == [1, 2]
    assert decoded.rejects is not None
    assert reason in decoded.rejects["reason"][0].as_py()


def test_columns_may_have_any_name() -> None:
    format = make_format("json", {"the user": pl.Int64, "class": pl.Int64, "é'": pl.Int64})
    decoded = format.decode('{"the user": 1, "class": 2, "é\\u0027": 3}\n{"é\'": "x"}\n'.encode())
    assert table(decoded, format).rows() == [(1, 2, 3)]
    assert decoded.rejects is not None
    assert decoded.rejects["reason"].to_pylist() == ["é': expected int, got str"]


def test_ten_in_a_hundred_bad_lines_do_not_bring_decoding_down() -> None:
    """Counted in calls to the bulk reader, not in seconds: it must not be called line by line."""
    lines = [b'{"i": %d, "t": "2026-01-02T03:04:05"}' % (n % 100) for n in range(20_000)]
    for place in range(0, len(lines), 10):
        lines[place] = random.Random(place).choice([b'{"i": "x"}', b'{"i"', b'{"t": "never"}', b"\xff"])
    decoded = NDJSON.decode(b"\n".join(lines))
    assert decoded.rows.num_rows == 18_000
    assert len(refusals(decoded)) == 2_000


texts = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20)


@given(st.lists(texts, max_size=10), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_text_is_its_lines(lines: list[str], ended: bool, end: str) -> None:
    if lines and not ended and not lines[-1]:
        lines = lines[:-1]  # an empty last line without an end is no line
        ended = True
    data = end.join(lines).encode() + (end.encode() if ended and lines else b"")
    format = make_format("text")
    decoded = format.decode(data)
    assert table(decoded, format)["line"].to_list() == lines
    assert decoded.rejects is None
    assert count_lines(data) == len(lines)


@given(st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")), max_size=8))
def test_text_that_is_not_utf8_is_refused_line_by_line(lines: list[bytes]) -> None:
    format = make_format("text")
    decoded = format.decode(b"".join(line + b"\n" for line in lines))
    good, bad = [], []
    for line in lines:
        try:
            good.append(line.decode().removesuffix("\r"))
        except UnicodeDecodeError:
            bad.append(line)
    assert table(decoded, format)["line"].to_list() == good
    assert refusals(decoded) == bad


CSV_SCHEMA: dict[str, Any] = {
    "i": pl.Int16,
    "x": pl.Float64,
    "b": pl.Boolean,
    "s": pl.String,
    "z": pl.Datetime("us", "UTC"),
    "p": pl.Decimal(6, 2),
}
CSV = make_format("csv", CSV_SCHEMA)

csv_rows = st.tuples(
    st.none() | st.integers(-(2**15), 2**15 - 1),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.booleans(),
    st.none() | texts,
    st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)),
    st.none() | st.decimals(-9999, 9999, places=2),
)


def csv_line(row: tuple[Any, ...]) -> bytes:
    fields = []
    for value in row:
        if value is None:
            fields.append("")
        elif isinstance(value, str):
            fields.append('"' + value.replace('"', '""') + '"')
        else:
            fields.append(value.isoformat() if isinstance(value, datetime) else str(value))
    return ",".join(fields).encode()


@given(st.lists(csv_rows, max_size=8), st.sampled_from([b"\n", b"\r\n"]))
def test_csv_gives_the_values_that_were_written(rows: list[tuple[Any, ...]], end: bytes) -> None:
    decoded = CSV.decode(b"".join(csv_line(row) + end for row in rows))
    assert decoded.rejects is None
    assert table(decoded, CSV).rows() == rows


slips = st.sampled_from(
    [b"", b",", b'"', b'a"b', b"x,y", b"\xff", b"1,1.5,true,s,,0", b'1,,,"a,,', b',,,b",,', b"\r", b",,,,,"]
)


@settings(max_examples=300)
@given(st.lists(csv_rows.map(csv_line) | slips, max_size=8), st.integers(0, 8), st.sampled_from([b"\n", b"\r\n"]))
@example([b'1,,,ab"c,"d,', b'e","f",,,'], 1, b"\n")
@example([b'1,,,"a,,', b'1,,,b",,'], 1, b"\n")
@example([b'1,,,"a,,"x', b'1,,,b",,'], 1, b"\n")
def test_what_becomes_of_a_csv_record_does_not_depend_on_its_neighbours(
    lines: list[bytes], cut: int, end: bytes
) -> None:
    data = end.join(lines)
    ends = QuotedRecords('"', ",").feed(np.frombuffer(data, np.uint8)).tolist()
    records = [data[first:last] for first, last in pairwise([0, *ends, len(data)])]
    whole = CSV.decode(data)
    for pieces in ([b"".join(records[:cut]), b"".join(records[cut:])], records):
        decoded = [CSV.decode(piece) for piece in pieces]
        assert pl.concat([table(piece, CSV) for piece in decoded]).rows() == table(whole, CSV).rows()
        assert [raw for piece in decoded for raw in refusals(piece)] == refusals(whole)
    written = [record for record in records if record.removesuffix(b"\n").removesuffix(b"\r")]
    assert whole.rows.num_rows + len(refusals(whole)) == len(written)


def test_a_quote_that_is_left_open_refuses_the_record_whole() -> None:
    """Nothing is made up of its inside: the lines after it may be text."""
    decoded = CSV.decode(b'7,,,"a,,\n8,,,b,,\n')
    assert decoded.rows.num_rows == 0
    assert decoded.rejects is not None
    assert decoded.rejects["reason"].to_pylist() == ["a quote is left open"]


fields = st.text(st.sampled_from('ab",;\n\r #'), max_size=6)


@settings(max_examples=300)
@given(st.lists(st.tuples(fields, fields, fields), max_size=6), st.sampled_from(["\n", "\r\n"]), st.sampled_from(",;"))
def test_fields_with_line_ends_are_read_as_they_were_written(
    rows: list[tuple[str, str, str]], end: str, separator: str
) -> None:
    """Mail, comments and addresses in exports: the csv module writes them in quotes, over several lines."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    format = make_format("csv", dict.fromkeys("abc", pl.String), separator=separator)
    decoded = format.decode(file.getvalue().encode())
    assert decoded.rejects is None
    assert table(decoded, format).rows() == rows


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2", "2 fields instead of 6"),
        (b"1,1.5,true,s,,0,7", "7 fields instead of 6"),
        (b'1,1.5,true,"s"t,,0', "text after a closing quote"),
        (b'1,1.5,true,"s\rt"\ru,,0', "a carriage return within the line"),
        (b"1.5,1.5,true,s,,0", "i: '1.5' is no int16"),
        (b"40000,1.5,true,s,,0", "i: '40000' is no int16"),
        (b"1,1e400,true,s,,0", "x: '1e400' is no float64"),
        (b"1,1.5,yes,s,,0", "b: 'yes' is no bool"),
        (b"1,1.5,true,s,2026-01-01,0", "it has no time zone and the column has one"),
        (b"1,1.5,true,s,,0.001", "p: '0.001' is no decimal128(6, 2)"),
        (b"1,1.5,true,\xff,,0", "not UTF-8: byte 0xff at position 11"),
    ],
)
def test_the_reason_names_the_csv_field(line: bytes, reason: str) -> None:
    good = b"7,1.5,true,s,2026-01-01T00:00:00Z,0"
    decoded = CSV.decode(good + b"\n" + line + b"\n" + good + b"\n")
    assert table(decoded, CSV)["i"].to_list() == [7, 7]
    assert decoded.rejects is not None
    assert reason in decoded.rejects["reason"][0].as_py()


def test_one_bad_line_among_many_that_look_like_it_is_found() -> None:
    """All lines have quotes, or a name twice, as the bad one has: the guess at who is at fault helps nothing."""
    lines = [b'%d,"a, b",' % n for n in range(5000)]
    lines[1234] = b'1,"a, b"'
    format = make_format("csv", {"n": pl.Int64, "s": pl.String, "x": pl.Float64})
    decoded = format.decode(b"\n".join(lines))
    assert (decoded.rows.num_rows, refusals(decoded)) == (4999, [lines[1234]])
    lines = [b'{"n": %d, "other": {"n": 1}}' % n for n in range(5000)]
    lines[1234] = b'{"n": 1, "n": 2}'
    format = make_format("ndjson", {"n": pl.Int64})
    decoded = format.decode(b"\n".join(lines))
    assert (decoded.rows.num_rows, refusals(decoded)) == (4999, [lines[1234]])


def test_a_column_that_is_not_read_may_refuse_the_line_all_the_same() -> None:
    """Else it would be refused only with another bad line beside it."""
    format = make_format("csv", {"a": pl.Int64}, has_header=True).with_header(b"a,other\n")
    decoded = format.decode(b"1,x\n2,\xff\n")
    assert table(decoded, format).rows() == [(1,)]
    assert refusals(decoded) == [b"2,\xff"]


def test_csv_options() -> None:
    format = make_format("csv", {"a": pl.String, "b": pl.Int64}, separator=";", quote_char="'", null_values=["-", "NA"])
    decoded = format.decode(b"'x;''y';1\n-;NA\n'-';2\n;3\n")
    assert table(decoded, format).rows() == [("x;'y", 1), (None, None), ("-", 2), ("", 3)]
    bare = make_format("csv", {"a": pl.String, "b": pl.Int64}, quote_char="")
    assert table(bare.decode(b'"x",1\n'), bare).rows() == [('"x"', 1)]


def test_a_csv_header_puts_the_columns_in_their_places() -> None:
    format = make_format("csv", {"a": pl.Int64, "b": pl.Int64}, has_header=True)
    assert format.header
    told = format.with_header(b'\xef\xbb\xbf"b",other,a\r\n')
    assert not told.header
    assert table(told.decode(b"1,x,2\n"), told).rows() == [(2, 1)]
    for header in (b"c,d\n", b"", b"\xff,a,b\n"):
        with pytest.raises(ValueError, match="header"):
            format.with_header(header)


@pytest.mark.parametrize(
    "schema",
    [
        {"a": pl.Int64, "b": pl.String},
        pl.Schema({"a": pl.Int64, "b": pl.String}),
        pa.schema([("a", pa.int64()), ("b", pa.string())]),
        pa.schema([("a", pa.int64()), ("b", pa.large_string())], metadata={"x": "y"}),
        {"a": int, "b": str},
    ],
)
@pytest.mark.parametrize("name", ["ndjson", "csv"])
def test_a_schema_is_taken_in_any_of_its_forms(schema: Any, name: str) -> None:
    assert make_format(name, schema).schema == pa.schema([("a", pa.int64()), ("b", pa.string_view())])


@pytest.mark.parametrize(
    ("name", "schema", "options", "said"),
    [
        ("xml", None, {}, "no format 'xml'; there are: text, ndjson, json, csv"),
        ("ndjson", None, {}, r"needs a schema; give the columns and their types, e.g. schema=\{'user'"),
        ("ndjson", {"a": pl.Int64}, {"delimiter": ";"}, "no option 'delimiter'; it has: strict, date_formats"),
        (
            "csv",
            {"a": pl.Int64},
            {"delimeter": ";"},
            "no option 'delimeter'; it has: separator, has_header, quote_char",
        ),
        ("text", {"a": pl.Int64}, {}, "a schema of its own"),
        ("csv", {"a": pl.List(pl.Int64)}, {}, "cannot read column 'a' as large_list"),
        ("ndjson", {"a": pl.Binary}, {}, "cannot read column 'a' as .*pl.String"),
        ("ndjson", {"a": pl.List(pl.Time)}, {}, "cannot read column 'a'"),
        ("ndjson", {"a": pl.List(pl.Null)}, {}, "cannot read column 'a'"),
        ("ndjson", {'a"': pl.Int64}, {}, "cannot find a field of such a name"),
        ("ndjson", {}, {}, "at least one column"),
        ("ndjson", {"a": "whatever"}, {}, "this is no schema"),
        ("ndjson", 7, {}, "this is no schema"),
        ("ndjson", {"a": pl.Object}, {}, "no type that can be read"),
        ("csv", {"a": pl.Null}, {}, "cannot read column 'a' as null"),
        ("csv", {"a": pl.Int64}, {"separator": "ab"}, "not one ASCII character"),
        ("csv", {"a": pl.Int64}, {"quote_char": ","}, "not one ASCII character other than"),
        ("csv", {"a": pl.Int64}, {"skip_rows": -1}, "skip_rows=-1 is below 0"),
        ("csv", {"a": pl.Int64}, {"comment_prefix": ""}, "no beginning of a line"),
        ("csv", {"a": pl.Int64}, {"new_columns": "drop"}, "none of 'ignore', 'rescue', 'fail'"),
        ("csv", {"a": pl.Date}, {"date_formats": "dd/mm/yyyy"}, "no format of dates, such as '%d/%m/%Y'"),
        ("csv", {"a": pl.Date}, {"date_formats": "%d/%m"}, "it lacks the day, the month, the year"),
        ("csv", {"a": pl.Date}, {"date_formats": {"b": "%d/%m/%Y"}}, "names column 'b', which is not in the schema: a"),
        ("ndjson", {"a": pl.Int64, "_rescued": pl.Int64}, {"new_columns": "rescue"}, "needs the name '_rescued'"),
    ],
)
def test_what_cannot_be_is_refused_when_the_format_is_made(
    name: str, schema: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        make_format(name, schema, **options)


@pytest.mark.parametrize("format", [make_format("text"), NDJSON, CSV])
def test_a_format_can_be_pickled_and_compared(format: Format) -> None:
    assert pickle.loads(pickle.dumps(format)) == format


@pytest.mark.parametrize("format", [make_format("text"), NDJSON, CSV])
def test_nothing_is_no_row(format: Format) -> None:
    decoded = format.decode(b"")
    assert table(decoded, format).height == 0
    assert decoded.rejects is None


@pytest.mark.parametrize("name", ["i", "u", "x", "b", "t", "z", "d", "p"])
def test_bad_values_among_many_are_found(name: str) -> None:
    """In a long column, those that are likely bad are looked for in bulk, and only they are tried one by one."""
    schema = {name: SCHEMA[name]}
    good = {"i": "7", "u": "7", "x": "0.5", "b": "true", "t": "2026-01-02T03:04:05", "z": "2026-01-02 03:04Z"}
    value = {**good, "d": "2026-01-02", "p": "1.5"}[name]
    bad = ["never", "2026-02-30", "-1e999", "0x", *NO_TIME[1:], *ZONED, *NAIVE]
    bad = [text for text in bad if text not in (ZONED if name == "z" else NAIVE if name == "t" else ["2026-01-02"])]
    lines = [value] * 3000
    places = random.Random(name).sample(range(3000), len(bad))
    for place, text in zip(sorted(places), bad, strict=True):
        lines[place] = text
    format = make_format("csv", schema)
    decoded = format.decode("\n".join(lines).encode())
    expected = bad if name != "d" else [text for text in bad if text != "2026-01-02"]
    assert [raw.decode() for raw in refusals(decoded)] == expected
    assert table(decoded, format).n_unique() == 1
