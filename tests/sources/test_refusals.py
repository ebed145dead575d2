"""Records that are refused: the end of the stream where that is wanted, and a loud word where nearly all are."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from arrowstream.connectors.formats.make import make_format
from arrowstream.connectors.source import EndOfStream
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources.files import FileSource
from arrowstream.sources.socket import SocketSource
from arrowstream.testing.line_server import LineServer
from arrowstream.testing.source_suite import polled, reading

NAIVE: dict[str, Any] = {"t": pl.Datetime("us")}
ZONED = '{"t": "2026-01-02T03:04:05Z"}\n'


def drain(source: FileSource) -> int:
    """Read to the end; how many records were refused."""
    refused: list[pa.RecordBatch] = []
    with reading(source.bounded()) as reader:
        polled(source, reader, None, refused)
    return sum(batch.num_rows for batch in refused)


def test_a_source_that_refuses_nearly_all_says_so_once_with_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`"...Z"` into a column without a time zone: a stream that runs, and gives nothing."""
    (tmp_path / "a.ndjson").write_text(ZONED * 3000 + '{"t": null}\n')
    with caplog.at_level(logging.WARNING):
        assert drain(FileSource(tmp_path, "ndjson", NAIVE, max_rows_per_poll=600)) == 3000
    [record] = caplog.records
    assert "1200 of the first 1200 records are refused" in record.message
    assert "give the column pl.Datetime(time_zone='UTC')" in record.message


def test_a_few_records_are_judged_when_no_more_come(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.ndjson").write_text(ZONED * 20)
    with caplog.at_level(logging.WARNING):
        drain(FileSource(tmp_path, "ndjson", NAIVE))
    assert ["20 of the first 20" in record.message for record in caplog.records] == [True]


def test_one_bad_line_in_ten_is_told_by_the_dead_letters_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.ndjson").write_text((ZONED + '{"t": null}\n' * 9) * 200)
    with caplog.at_level(logging.WARNING):
        assert drain(FileSource(tmp_path, "ndjson", NAIVE)) == 200
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_the_first_refusal_ends_the_stream_where_that_is_wanted(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pl.DataFrame({"n": [1, 300]}).write_parquet(path)
    else:
        path.write_text('{"n": 1}\n{"n": 300}\n')
    source = FileSource(path, schema={"n": pl.Int8}, on_bad="fail")
    with reading(source) as reader, pytest.raises(SourceError, match=rf"a\.{suffix}: a record is refused: n: .*300"):
        reader.poll(0)
    with pytest.raises(PlanError, match="on_bad='stop' is none of"):
        FileSource(path, schema={"n": pl.Int8}, on_bad="stop")  # type: ignore[arg-type]


def test_a_socket_may_end_at_the_first_refusal_too() -> None:
    with LineServer() as server:
        source = SocketSource(server.address, "ndjson", {"n": pl.Int8}, on_bad="fail")
        with reading(source) as reader:
            server.send(['{"n": "x"}'])
            with pytest.raises(SourceError, match=r"127\.0\.0\.1.*a record is refused: n: expected int, got str"):
                reader.poll(10)


MARKED = "a,b\r\n1,é\r\n2,ü\r\n"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"\xef\xbb\xbf" + MARKED.encode(), "utf-8"),
        (MARKED.encode("utf-16"), "utf-16"),
        (MARKED.encode("utf-16-le"), "utf-16-le"),
        (MARKED.encode("latin-1"), "latin-1"),
        (gzip.compress(MARKED.encode("windows-1252")), "windows-1252"),
    ],
)
def test_files_of_other_encodings_are_read_and_resumed(tmp_path: Path, data: bytes, encoding: str) -> None:
    """What Windows tools write. Positions are bytes of the text as UTF-8."""
    path = tmp_path / ("a.csv.gz" if data.startswith(b"\x1f\x8b") else "a.csv")
    path.write_bytes(data)
    source = FileSource(path, has_header=True, encoding=encoding, max_rows_per_poll=1)
    with reading(source) as reader:
        first = polled(source, reader, 1)
        middle = reader.position()
    assert first.rows() == [(1, "é")]
    with reading(source.bounded(), middle) as reader:
        assert polled(source, reader, None).rows() == [(2, "ü")]
    assert source.scan("files-0", None, middle).collect().rows() == [(1, "é")]


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "json", "txt"])
def test_utf16_without_a_word_is_refused_with_the_cure(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes("a,b\n".encode("utf-16"))
    schema = None if suffix == "txt" else {"a": pl.String}
    source = FileSource(tmp_path / f"a.{suffix}", schema=schema, bad_files="fail")
    with reading(source) as reader, pytest.raises(SourceError, match=r"this is UTF-16 .*give encoding='utf-16'"):
        reader.poll(0)


def test_bytes_that_are_not_of_the_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\xff\n")
    source = FileSource(tmp_path / "a.txt", encoding="ascii", bad_files="fail")
    with reading(source) as reader, pytest.raises(SourceError, match=r"a.txt: after byte 0 .* not of its encoding="):
        reader.poll(0)
    lossy = FileSource(tmp_path / "a.txt", encoding="utf8-lossy")
    with reading(lossy) as reader:
        assert polled(lossy, reader, 1).rows() == [("a�",)]
    with pytest.raises(PlanError, match="encoding='klingon' is not known: give 'utf-8'"):
        FileSource(tmp_path / "a.txt", encoding="klingon")


@pytest.mark.parametrize(
    ("format", "data", "options", "rows"),
    [
        ("ndjson", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', {}, [(1,), (2,)]),
        ("csv", b"\xef\xbb\xbfa\r\n1\r\n2\r\n", {"has_header": True}, [(1,), (2,)]),
        (
            "csv",
            b"note\n#c\nA,new\n1,x\n#c\n2,y\n",
            {"has_header": True, "skip_rows": 1, "comment_prefix": "#"},
            [(1,), (2,)],
        ),
        ("ndjson", '{"a": 1}\n{"a": 2}\n'.encode("utf-16"), {"encoding": "utf-16"}, [(1,), (2,)]),
        ("json", b'[\n {"a":\n 1},\n {"a": 2}\n]\n', {}, [(1,), (2,)]),
    ],
)
def test_connections_begin_as_files_do(
    format: str, data: bytes, options: dict[str, Any], rows: list[tuple[int]]
) -> None:
    with LineServer() as server:
        source = SocketSource(server.address, format, {"a": pl.Int64}, **options)
        with reading(source) as reader:
            for octet in data[:-1]:
                server.send_bytes(bytes([octet]))
            server.send_bytes(data[-1:])
            assert polled(source, reader, 2).rows() == rows


def test_a_quoted_field_over_several_lines_comes_whole_over_a_connection() -> None:
    """Positions, and so acknowledgements, count the lines that the sender sent."""
    with LineServer() as server:
        source = SocketSource(server.address, "csv", {"id": pl.Int64, "body": pl.String, "n": pl.Int64}).bounded()
        with reading(source) as reader:
            server.send_bytes(b'1,"dear all,\n2,please,3\n')
            assert reader.poll(0.05) is None
            server.send_bytes(b'thanks",4\n5,short,6\n7,"never')
            server.disconnect()
            rows = polled(source, reader, None, [])
            assert reader.position() == 5
            assert rows.rows() == [(1, "dear all,\n2,please,3\nthanks", 4), (5, "short", 6)]


def test_former_names_of_csv_options_work_for_a_release() -> None:
    with pytest.warns(DeprecationWarning, match="delimiter= of CSV is called separator= now") as warned:
        format = make_format("csv", {"a": pl.Int64, "b": pl.Int64}, delimiter=";")
    assert warned[0].filename == __file__
    assert pl.DataFrame(format.decode(b"1;2\n").rows).rows() == [(1, 2)]
    with pytest.raises(PlanError, match="quote= is the former name of quote_char=: give quote_char= alone"):
        make_format("csv", {"a": pl.Int64}, quote="'", quote_char="'")


def test_a_csv_record_of_many_megabytes_is_read(tmp_path: Path) -> None:
    """Sixteen are allowed, and Arrow reads in blocks of one."""
    rows = [("short", 1), ("x" * (9 << 20), 2), ("a\nb", 3)]
    (tmp_path / "a.csv").write_text("".join(f'"{text}",{n}\n' for text, n in rows))
    source = FileSource(tmp_path / "a.csv", schema={"t": pl.String, "n": pl.Int64})
    with reading(source.bounded()) as reader:
        assert polled(source, reader, None).rows() == rows


def test_json_files_hold_arrays_documents_and_lines(tmp_path: Path) -> None:
    (tmp_path / "array.json").write_text('[\n  {"a": 1},\n  {"a": 2, "b": ["x"]}\n]\n')
    (tmp_path / "document.json").write_text('{\n  "a": 3,\n  "b": [\n    "y"\n  ]\n}\n')
    (tmp_path / "lines.json").write_text('{"a": 4}\n{"a": 5}\n')
    source = FileSource(tmp_path / "*.json", schema={"a": pl.Int64, "b": pl.List(pl.String)}, max_rows_per_poll=1)
    with reading(source.bounded()) as reader:
        rows = polled(source, reader, None)
        with pytest.raises(EndOfStream):
            reader.poll(0)
    assert sorted(rows.rows()) == [(1, None), (2, ["x"]), (3, ["y"]), (4, None), (5, None)]
