"""Guessed schemas: what was written by others is read back the same, and the guess promises nothing that is refused."""

from __future__ import annotations

import csv
import datetime
import io
import json
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.connectors.formats.csv import CsvFormat
from arrowstream.connectors.formats.guess import guess_schema
from arrowstream.connectors.formats.make import make_format
from arrowstream.errors import PlanError


def read(name: str, data: bytes, **options: Any) -> pl.DataFrame:
    """All rows, by the schema guessed of them; nothing may be refused."""
    if name != "csv":
        options.setdefault("strict", False)
    format = make_format(name, guess_schema(name, data, options), **options)
    if format.header:
        assert isinstance(format, CsvFormat)
        first, _, data = data.partition(b"\n")
        format = format.with_header(first + b"\n")
    decoded = format.decode(data)
    assert decoded.rejects is None
    return pl.DataFrame(decoded.rows)


words = st.text(st.sampled_from("abc é\n,;\"'{}[]:"), min_size=1, max_size=8).map(lambda text: f"w{text}")
days = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
moments = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))
columns: dict[Any, st.SearchStrategy[Any]] = {
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Float64: st.floats(allow_nan=False, allow_infinity=False),
    pl.Boolean: st.booleans(),
    pl.String: words,
    pl.Date: days,
    pl.Datetime("us"): moments,
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    dtypes = draw(st.lists(st.sampled_from(list(columns)), min_size=2, max_size=5))
    height = draw(st.integers(1, 6))
    drawn = [[draw(columns[dtype])] + [draw(st.none() | columns[dtype]) for _ in range(height - 1)] for dtype in dtypes]
    return pl.DataFrame(
        [pl.Series(f"c{place}", values, dtype) for place, (values, dtype) in enumerate(zip(drawn, dtypes, strict=True))]
    )


@settings(max_examples=100)
@given(frames())
def test_csv_of_polars_is_read_as_it_was(frame: pl.DataFrame) -> None:
    got = read("csv", frame.write_csv().encode(), has_header=True)
    assert got.rows() == frame.rows()
    assert [dtype.is_float() or dtype for dtype in got.dtypes] == [dtype.is_float() or dtype for dtype in frame.dtypes]


@settings(max_examples=100)
@given(frames())
def test_csv_of_the_standard_library_is_read_as_it_was(frame: pl.DataFrame) -> None:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(frame.columns)
    for row in frame.rows():
        writer.writerow([value.isoformat() if isinstance(value, datetime.date) else value for value in row])
    assert read("csv", file.getvalue().encode(), has_header=True).rows() == frame.rows()


scalars = st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)


def plain(value: Any, like: pl.DataType | Any) -> Any:
    """A JSON value as a column of a type shows it: what is text there is the JSON, fields that lack are null."""
    if value is None:
        return None
    if like == pl.String and not isinstance(value, str):
        return value
    if isinstance(like, pl.List):
        return [plain(item, like.inner) for item in value]
    if isinstance(like, pl.Struct):
        return {field.name: plain(value.get(field.name), field.dtype) for field in like.fields}
    return value


def unwrapped(got: Any, value: Any, like: Any) -> Any:
    """What was read, its JSON texts as the values that they are."""
    if got is None:
        return None
    if like == pl.String:
        return got if isinstance(value, str) else json.loads(got)
    if isinstance(like, pl.List):
        return [unwrapped(item, own, like.inner) for item, own in zip(got, value, strict=True)]
    if isinstance(like, pl.Struct):
        return {field.name: unwrapped(got[field.name], value.get(field.name), field.dtype) for field in like.fields}
    return got


@settings(max_examples=200)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=5), st.booleans())
def test_json_of_any_kind_is_read_without_a_refusal(records: list[dict[str, Any]], pretty: bool) -> None:
    """Fields that are a number here and a text, a list or an object there: they are text, and nothing is lost."""
    if pretty:
        got = read("json", json.dumps(records, indent=1).encode())
    else:
        got = read("ndjson", b"".join(json.dumps(record).encode() + b"\n" for record in records))
    for row, record in zip(got.iter_rows(named=True), records, strict=True):
        for name, dtype in got.schema.items():
            value = record.get(name)
            assert unwrapped(row[name], value, dtype) == plain(value, dtype)


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (["31/12/2025"], pl.String),
        (["31-12-2025"], pl.String),
        (["2025/12/31 06:07:08"], pl.String),
        (["2025-12-31", "2025-02-30"], pl.String),
        (["2025-12-31T06:07:08Z"], pl.Datetime("us", "UTC")),
        (["2025-12-31T06:07:08.123456789"], pl.Datetime("ns")),
        (["2025-12-31", "2025-12-31 06:00"], pl.Datetime("us")),
        (["1", "x"], pl.String),
        (["1", "1.5"], pl.Float64),
        (["18446744073709551615"], pl.UInt64),
        (["18446744073709551616"], pl.String),
        (["0x1f"], pl.String),
        (["nan", "inf"], pl.String),
        (["1.5", "NaN"], pl.Float64),
        (["1e400"], pl.String),
        (["True", "false"], pl.Boolean),
        (["0", "1"], pl.Int64),
        (["", ""], pl.String),
    ],
)
def test_texts_are_of_the_narrowest_type_that_reads_them_all(texts: list[str], dtype: Any) -> None:
    """Half the world writes the day first: such a column is text, until its format is told."""
    got = read("csv", "".join(f"{n},{text}\n" for n, text in enumerate(texts)).encode())
    assert got["column_2"].dtype == dtype


def test_dates_in_the_forms_that_are_told() -> None:
    data = b"when;at;n\n31/12/2025;31.12.2025 06:07;1,5\n1/2/2026;;2\n"
    got = read(
        "csv", data, has_header=True, separator=";", decimal_comma=True, date_formats=["%d/%m/%Y", "%d.%m.%Y %H:%M"]
    )
    assert got.rows() == [
        (datetime.date(2025, 12, 31), datetime.datetime(2025, 12, 31, 6, 7), 1.5),
        (datetime.date(2026, 2, 1), None, 2.0),
    ]
    got = read("csv", b"a,b\n01/02/2026,01/02/2026\n", has_header=True, date_formats={"a": "%m/%d/%Y"})
    assert got.rows() == [(datetime.date(2026, 1, 2), "01/02/2026")]


def test_a_field_that_is_null_throughout_has_the_type_of_null() -> None:
    """`transaction` in what Debezium writes: nobody reads it, and everybody has it."""
    data = b'{"op": "c", "transaction": null, "tags": []}\n' * 3
    schema = guess_schema("ndjson", data, {})
    assert schema.field("transaction").type == pa.null()
    format = make_format("ndjson", schema, strict=False)
    decoded = format.decode(data + b'{"op": "u", "transaction": {"id": 1}}\n')
    assert decoded.rows.num_rows == 3
    assert decoded.rejects is not None
    assert "give it one in schema=" in decoded.rejects["reason"][0].as_py()


@pytest.mark.parametrize(
    ("name", "data", "options", "said"),
    [
        ("csv", b",a\n1,2\n", {"has_header": True}, "no name for column 1.*has_header=False, skip_rows=1, schema="),
        ("csv", b"\xff,a\n", {"has_header": True}, "the header cannot be read"),
        ("csv", b"#only\n#comments\n", {"comment_prefix": "#"}, "no record"),
        ("csv", b"a\n1\n", {"has_header": True, "date_formats": {"b": "%Y"}}, "column 'b', which is not in the schema"),
        ("ndjson", b"nothing\n[1]\n", {}, "none of its first records is a JSON object"),
        ("ndjson", b'{"a": 1}\n{"a": "x"}\n', {"strict": True}, "column 'a' is int and str .* strict=False"),
    ],
)
def test_what_cannot_be_guessed_is_said_with_the_cure(
    name: str, data: bytes, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        guess_schema(name, data, options)


def test_names_given_twice_are_told_apart_as_polars_does() -> None:
    assert read("csv", b"x,x,y,x\n1,2,3,4\n", has_header=True).columns == ["x", "x_duplicated_0", "y", "x_duplicated_1"]
