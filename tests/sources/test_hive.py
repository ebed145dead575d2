"""Columns that the names of directories tell."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import arrowstream as ars
from arrowstream.errors import SourceError
from arrowstream.sources._hive import guessed, partitions, typed
from arrowstream.sources.files import FileSource
from arrowstream.testing.source_suite import polled, reading
from tests.sources.test_files import numbers, rejects

NULL = "__HIVE_DEFAULT_PARTITION__"


def test_names_and_values_are_decoded() -> None:
    assert partitions("day=2026-11-22/a%2Fb=x%20%3D%20y/n=/plain/k=v.parquet") == {
        "day": "2026-11-22",
        "a/b": "x = y",
        "n": None,
    }
    assert partitions(f"d={NULL}/a.parquet") == {"d": None}
    assert partitions("a=b.parquet") == {}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", "-20", "0"], pl.Int64),
        (["1", NULL], pl.Int64),
        (["007", "1"], pl.String),
        (["9223372036854775808"], pl.String),
        (["2026-11-22", "2024-02-29"], pl.Date),
        (["2026-02-30"], pl.String),
        (["2026-11-22", "unknown"], pl.String),
        (["true", "false"], pl.Boolean),
        ([NULL], pl.String),
        (["1.5"], pl.String),
    ],
)
def test_a_type_is_guessed_that_holds_every_value_as_it_is_written(values: list[str], dtype: pl.DataType) -> None:
    assert guessed(f"k={value}/a.csv" for value in values) == {"k": dtype}


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("7", pl.Int8, 7),
        ("7", pl.String, "7"),
        ("2026-11-22", pl.Date, dt.date(2026, 11, 22)),
        ("2026-11-22 10:00:00", pl.Datetime("us"), dt.datetime(2026, 11, 22, 10)),
        ("1.5", pl.Float64, 1.5),
        ("True", pl.Boolean, True),
        (None, pl.Date, None),
    ],
)
def test_a_value_gets_the_type_of_the_schema(text: str | None, dtype: Any, value: object) -> None:
    assert typed("p", {"k": text, "other": "x"}, {"k": dtype})["k"].to_list() == [value]


@pytest.mark.parametrize(("text", "dtype"), [("300", pl.Int8), ("x", pl.Date), ("yes", pl.Boolean), ("1.5", pl.Int64)])
def test_a_value_that_is_none_of_the_type_is_named(text: str, dtype: Any) -> None:
    with pytest.raises(SourceError, match=rf"k='{text}', which is no .*pl.String"):
        typed("p", {"k": text}, {"k": dtype})


def tree(root: Path, ending: str, **files: list[int]) -> None:
    """Files of a column `n`, by the directory they are in."""
    for directory, values in files.items():
        (root / directory).mkdir(parents=True)
        rows = pl.DataFrame({"n": values})
        path = root / directory / f"a.{ending}"
        if ending == "parquet":
            rows.write_parquet(path)
        elif ending == "arrow":
            rows.write_ipc(path)
        elif ending == "csv":
            rows.write_csv(path)
        else:
            rows.write_ndjson(path)


@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "ndjson"])
def test_every_format_has_partition_columns(tmp_path: Path, ending: str) -> None:
    tree(tmp_path, ending, **{"k=1/d=2026-11-22": [1, 2], f"k={NULL}/d=2026-11-23": [3]})
    options = {"has_header": True} if ending == "csv" else {}
    source = FileSource(tmp_path, "ipc" if ending == "arrow" else ending, **options)  # type: ignore[arg-type]
    assert pl.DataFrame(source.schema.empty_table()).schema == {"n": pl.Int64, "k": pl.Int64, "d": pl.Date}
    with reading(source.bounded()) as reader:
        rows = polled(source, reader, None)
    assert sorted(rows.rows()) == [
        (1, 1, dt.date(2026, 11, 22)),
        (2, 1, dt.date(2026, 11, 22)),
        (3, None, dt.date(2026, 11, 23)),
    ]


def test_a_schema_says_which_columns_there_are_in_which_order(tmp_path: Path) -> None:
    """Given before the first file is there; a partition that it does not name is not looked at."""
    source = FileSource(tmp_path, "ndjson", {"k": pl.String, "n": pl.Int64})
    tree(tmp_path, "ndjson", **{"k=01/unasked=5": [1]})
    with reading(source.bounded()) as reader:
        assert polled(source, reader, None).rows() == [("01", 1)]
    assert numbers(FileSource(tmp_path, "ndjson", {"n": pl.Int64, "k": pl.Int8}, hive=False)) == [1]


def test_a_file_whose_partition_is_none_of_the_type_is_a_bad_file(tmp_path: Path) -> None:
    tree(tmp_path, "parquet", **{"k=1": [1], "k=one": [2], "k=3": [3]})
    source = FileSource(tmp_path, "parquet", {"n": pl.Int64, "k": pl.Int64})
    with reading(source.bounded()) as reader:
        refused: list[Any] = []
        assert sorted(polled(source, reader, None, refused)["n"]) == [1, 3]
        assert not rejects(reader)
    assert [letter["path"] for batch in refused for letter in batch.to_pylist()] == [str(tmp_path / "k=one/a.parquet")]


@pytest.mark.parametrize("ending", ["parquet", "csv", "ndjson"])
def test_new_columns_are_rescued_beside_partitions(tmp_path: Path, ending: str) -> None:
    """The directory's value holds, and is no new column."""
    options = {"has_header": True} if ending == "csv" else {}
    tree(tmp_path, ending, **{"k=1": [1]})
    source = FileSource(tmp_path, ending, new_columns="rescue", **options)  # type: ignore[arg-type]
    assert source.schema.names == ["n", "k", "_rescued"]
    with reading(source.bounded()) as reader:
        assert polled(source, reader, None).rows() == [(1, 1, None)]


def test_text_has_the_partitions_beside_its_line(tmp_path: Path) -> None:
    (tmp_path / "host=web-1").mkdir()
    (tmp_path / "host=web-1" / "access.log.1").write_text("GET /\n")
    source = FileSource(tmp_path, "text")
    with reading(source.bounded()) as reader:
        assert polled(source, reader, None).rows() == [("GET /", "web-1")]


def test_what_the_parquet_sink_writes_is_read_again(tmp_path: Path) -> None:
    """Values with blanks, slashes, a null and a date; held rows and the log of the sink are no data."""
    rows = [
        {"v": 1, "region": "north / south", "day": dt.date(2026, 11, 22), "ok": True},
        {"v": 2, "region": "a=b%", "day": None, "ok": False},
        {"v": 3, "region": None, "day": dt.date(2026, 11, 23), "ok": None},
    ]
    schema = {"v": pl.Int64, "region": pl.String, "day": pl.Date, "ok": pl.Boolean}
    with ars.StreamingContext() as ctx:
        frame = ctx.read.memory(schema)
        frame.write.parquet(tmp_path / "out", partition_by=["region", "day", "ok"])
        ctx.start()
        frame.source.send(rows)
        frame.source.end()
        ctx.await_termination(60)
    for path in (tmp_path / "out", f"{tmp_path}/out/**/*.parquet", tmp_path):
        with ars.StreamingContext() as ctx:
            back = ctx.read.parquet(path)
            assert back.schema == schema
            back.filter(pl.col("region").is_null() | (pl.col("region") != "")).write.memory("back")
            ctx.run(timeout=60)
            assert ctx.sql("SELECT v, region, day, ok FROM back ORDER BY v").pl().rows(named=True) == rows
