"""Files that are not quite of the stream's schema: every value that can be kept is, and every other one is named."""

from __future__ import annotations

import datetime
import json
import os
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import polars.testing
import pyarrow as pa
import pytest

from arrowstream.connectors.source import Offset
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources.files import FileSource
from arrowstream.testing.source_suite import polled, reading

UTC = datetime.UTC
NOON = datetime.datetime(2026, 7, 1, 12)


def write(rows: pl.DataFrame, path: Path) -> None:
    rows.write_ipc(path) if path.suffix == ".arrow" else rows.write_parquet(path)


def read(source: FileSource) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """All rows of a source, and what it refused."""
    refused: list[pa.RecordBatch] = []
    with reading(source.bounded()) as reader:
        rows = polled(source, reader, None, refused)
    return rows, [row for batch in refused for row in batch.to_pylist()]


S, L = pl.Struct, pl.List
KEPT: list[tuple[Any, list[Any], Any, list[Any]]] = [
    (pl.Int32, [1, None], pl.Int64, [1, None]),
    (pl.Int64, [1, -1], pl.Int8, [1, -1]),
    (pl.Int64, [1, 2**53], pl.Float64, [1.0, 2.0**53]),
    (pl.Float64, [1.0, None], pl.Int64, [1, None]),
    (pl.Float64, [0.1, float("inf")], pl.Float32, [pl.Series([0.1], dtype=pl.Float32)[0], float("inf")]),
    (pl.UInt64, [7], pl.Int64, [7]),
    (pl.Float64, [0.25], pl.Decimal(6, 2), [Decimal("0.25")]),
    (pl.Decimal(10, 4), [Decimal("1.5000")], pl.Decimal(6, 2), [Decimal("1.50")]),
    (pl.Decimal(10, 1), [Decimal("1.5")], pl.Float64, [1.5]),
    (pl.Int64, [12], pl.Decimal(6, 2), [Decimal(12)]),
    (pl.Datetime("ms"), [NOON], pl.Datetime("us"), [NOON]),
    (pl.Datetime("ns"), [NOON], pl.Datetime("ms"), [NOON]),
    (
        pl.Datetime("us", "Europe/Oslo"),
        [NOON.replace(tzinfo=UTC)],
        pl.Datetime("ms", "UTC"),
        [NOON.replace(tzinfo=UTC)],
    ),
    (pl.Date, [NOON.date()], pl.Datetime("us"), [NOON.replace(hour=0)]),
    (pl.Datetime("us"), [NOON.replace(hour=0)], pl.Date, [NOON.date()]),
    (pl.Duration("ms"), [datetime.timedelta(seconds=1)], pl.Duration("us"), [datetime.timedelta(seconds=1)]),
    (pl.Categorical, ["a", None], pl.String, ["a", None]),
    (pl.String, ["a"], pl.Categorical, ["a"]),
    (pl.String, ["a"], pl.Enum(["a", "b"]), ["a"]),
    (pl.Enum(["a"]), ["a"], pl.Categorical, ["a"]),
    (pl.Binary, [b"a"], pl.String, ["a"]),
    (pl.String, ["a"], pl.Binary, [b"a"]),
    (pl.Null, [None], pl.Int64, [None]),
    (pl.Null, [None], S({"a": pl.Int64}), [None]),
    (S({"a": pl.Int64}), [{"a": 1}, None], S({"a": pl.Int64, "b": L(pl.String)}), [{"a": 1, "b": None}, None]),
    (S({"b": pl.Int64, "a": pl.Int64}), [{"b": 2, "a": 1}], S({"a": pl.Int64, "b": pl.Int64}), [{"a": 1, "b": 2}]),
    (S({"a": pl.Int32, "z": pl.Int8}), [{"a": 1, "z": 0}], S({"a": pl.Int64}), [{"a": 1}]),
    (S({"A": pl.Int64}), [{"A": 1}], S({"a": pl.Int64}), [{"a": 1}]),
    (L(pl.Int32), [[1, None], None, []], L(pl.Int64), [[1, None], None, []]),
    (pl.Array(pl.Int64, 2), [[1, 2], None], L(pl.Int64), [[1, 2], None]),
    (L(S({"a": pl.Int32})), [[{"a": 1}, None]], L(S({"a": pl.Int64, "b": pl.Int8})), [[{"a": 1, "b": None}, None]]),
    (S({"s": S({"a": pl.Int32})}), [{"s": {"a": 1}}], S({"s": S({"a": pl.Float64})}), [{"s": {"a": 1.0}}]),
]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_can_be_kept_is_read(tmp_path: Path, suffix: str) -> None:
    """The writer of last year, of another language or of the next release: given the schema that holds all."""
    found = {f"c{place}": pl.Series(values, dtype=dtype) for place, (dtype, values, _, _) in enumerate(KEPT)}
    wanted = {f"c{place}": pl.Series(values, dtype=dtype) for place, (_, _, dtype, values) in enumerate(KEPT)}
    for name, series in found.items():
        (tmp_path / name).mkdir()
        write(pl.DataFrame({"x": series}), tmp_path / name / f"a.{suffix}")
        source = FileSource(
            tmp_path / name / f"*.{suffix}", "ipc" if suffix == "arrow" else None, {"x": wanted[name].dtype}
        )
        rows, refused = read(source)
        assert refused == [], name
        polars.testing.assert_series_equal(rows["x"], wanted[name].alias("x"), check_exact=True)


LOST: list[tuple[Any, list[Any], Any, list[int]]] = [
    (pl.Int64, [1, 300, None, -129], pl.Int8, [1, 3]),
    (pl.Int64, [1, 2**53 + 1, 2**63 - 1], pl.Float64, [1, 2]),
    (pl.Float64, [1.0, 1.5, float("nan"), 1e300], pl.Int64, [1, 2, 3]),
    (pl.Float64, [1.0, 1e300], pl.Float32, [1]),
    (pl.UInt64, [7, 2**63], pl.Int64, [1]),
    (pl.Float64, [0.25, 0.125, 1e9], pl.Decimal(6, 2), [1, 2]),
    (pl.Decimal(10, 4), [Decimal("1.5"), Decimal("1.5001")], pl.Decimal(6, 2), [1]),
    (pl.Int64, [12, 10**9], pl.Decimal(6, 2), [1]),
    (pl.Datetime("us"), [NOON, NOON.replace(microsecond=1)], pl.Datetime("ms"), [1]),
    (pl.Datetime("us"), [NOON, NOON.replace(year=3000)], pl.Datetime("ns"), [1]),
    (pl.Datetime("us"), [NOON.replace(hour=0), NOON], pl.Date, [1]),
    (pl.Duration("us"), [datetime.timedelta(0), datetime.timedelta(microseconds=1)], pl.Duration("ms"), [1]),
    (pl.String, ["a", "c", None], pl.Enum(["a", "b"]), [1]),
    (pl.Binary, [b"a", b"\xff"], pl.String, [1]),
    (pl.Int64, [None, 1], pl.Null, [1]),
    (S({"a": pl.Int64}), [{"a": 1}, {"a": 300}, None], S({"a": pl.Int8}), [1]),
    (L(S({"a": pl.Int64})), [[{"a": 1}], [{"a": 1}, {"a": 300}], [], None], L(S({"a": pl.Int8})), [1]),
]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_each_value_that_cannot_be_kept_is_a_reject_and_its_neighbours_are_rows(tmp_path: Path, suffix: str) -> None:
    for place, (found, values, wanted, lost) in enumerate(LOST):
        path = tmp_path / f"{place}.{suffix}"
        write(pl.DataFrame({"n": range(len(values)), "x": pl.Series(values, dtype=found)}), path)
        source = FileSource(path, "ipc" if suffix == "arrow" else None, {"n": pl.Int64, "x": wanted})
        rows, refused = read(source)
        assert rows["n"].to_list() == [n for n in range(len(values)) if n not in lost], (found, wanted)
        assert [(row["path"], row["line"]) for row in refused] == [(str(path), n + 1) for n in lost], (found, wanted)
        for row in refused:
            assert row["reason"].startswith("x: ")
            assert json.loads(row["raw"])["n"] == row["line"] - 1


def test_a_reason_tells_the_value_both_types_and_the_place(tmp_path: Path) -> None:
    pl.DataFrame({"n": [1.0, 1.5], "t": ["a", "b"]}).write_parquet(tmp_path / "a.parquet")
    _, [refused] = read(FileSource(tmp_path / "a.parquet", schema={"n": pl.Int64, "t": pl.String}))
    assert refused == {
        "raw": b'{"n":1.5,"t":"b"}',
        "reason": "n: 1.5 is no Int64, and the file has Float64",
        "path": str(tmp_path / "a.parquet"),
        "line": 2,
        "offset": None,
    }


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (pl.Series(["1"]), pl.Int64, "column 'x' is String in it, and Int64 in the stream"),
        (pl.Series([NOON]), pl.Datetime("us", "UTC"), "one has a time zone, the other has none"),
        (pl.Series([True]), pl.Int64, "is Boolean in it"),
        (pl.Series([1]), pl.String, "strict=False reads it as text"),
        (pl.Series([[1]]), pl.Int64, r"List\(Int64\)"),
        (pl.Series([{"a": "x"}]), S({"a": pl.Int64}), "its field 'a' is String, not Int64"),
        (pl.Series([[1, 2]], dtype=pl.Array(pl.Int8, 2)), pl.Array(pl.Int64, 2), "is Array"),
        (pl.Series([NOON.time()]), pl.Duration("us"), "is Time in it"),
    ],
)
def test_a_column_of_another_kind_ends_the_reading_with_file_and_cure(
    tmp_path: Path, found: pl.Series, wanted: Any, said: str
) -> None:
    found.alias("x").to_frame().write_parquet(tmp_path / "a.parquet")
    source = FileSource(tmp_path / "a.parquet", schema={"x": wanted}, bad_files="fail")
    with reading(source) as reader, pytest.raises(SourceError, match=rf"a\.parquet: .*{said}"):
        reader.poll(0)


def test_numbers_are_text_where_it_is_not_strict(tmp_path: Path) -> None:
    pl.DataFrame({"zip": [1234]}).write_parquet(tmp_path / "a.parquet")
    rows, _ = read(FileSource(tmp_path / "a.parquet", schema={"zip": pl.String}, strict=False))
    assert rows.rows() == [("1234",)]


WIDE = pl.DataFrame(
    {"a": [1, 2], "s": [{"b": 1, "new": {"x": 1.5}}, None], "more": ["x", None], "raw": [b"\xff", None]}
)


def test_columns_that_the_schema_lacks_are_left_out_or_rescued_or_end_the_reading(tmp_path: Path) -> None:
    """The writer has a column more since yesterday."""
    WIDE.write_parquet(tmp_path / "a.parquet")
    schema = {"a": pl.Int64, "s": S({"b": pl.Int64})}
    rows, _ = read(FileSource(tmp_path / "a.parquet", schema=schema))
    assert rows.rows() == [(1, {"b": 1}), (2, None)]
    rows, _ = read(FileSource(tmp_path / "a.parquet", schema=schema, new_columns="rescue"))
    rescued = [None if text is None else json.loads(text) for text in rows["_rescued"]]
    assert rescued == [{"more": "x", "raw": "/w==", "s": {"new": {"x": 1.5}}}, None]
    source = FileSource(tmp_path / "a.parquet", schema=schema, new_columns="fail")
    with (
        reading(source) as reader,
        pytest.raises(SourceError, match=r"a.parquet: .*\('more', 'raw', 's'\), that the schema lacks"),
    ):
        reader.poll(0)
    with pytest.raises(PlanError, match="none of 'ignore', 'rescue', 'fail'"):
        FileSource(tmp_path / "a.parquet", schema=schema, new_columns="drop")


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "json", "parquet", "arrow"])
def test_all_kinds_of_files_take_the_same_drift(tmp_path: Path, suffix: str) -> None:
    """A column is missing, one has come, and one is spelled otherwise."""
    frame = pl.DataFrame({"b": [2.5], "new": ["x"], "A" if suffix not in ("ndjson", "json") else "a": [1]})
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        frame.write_csv(path)
    elif suffix in ("ndjson", "json"):
        path.write_text(json.dumps(frame.row(0, named=True)))
    else:
        write(frame, path)
    schema = {"a": pl.Int64, "b": pl.Float64, "gone": pl.Date}
    options: dict[str, Any] = {"has_header": True} if suffix == "csv" else {}
    rows, refused = read(FileSource(path, None, schema, new_columns="rescue", **options))
    assert refused == []
    assert rows.rows() == [(1, 2.5, None, '{"new":"x"}')]
    failing = FileSource(path, None, schema, new_columns="fail", **options)
    with reading(failing) as reader, pytest.raises(SourceError, match="new"):
        reader.poll(0)


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_what_is_rescued_stands_after_what_directories_tell(tmp_path: Path, suffix: str) -> None:
    """A schema that was guessed, partitions, and a column that came later."""
    for day, frame in enumerate([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2], "new": ["x"]})]):
        (tmp_path / f"day={day}").mkdir()
        path = tmp_path / f"day={day}" / f"{day}.{suffix}"
        frame.write_parquet(path) if suffix == "parquet" else frame.write_ndjson(path)
        os.utime(path, (1_700_000_000 + day, 1_700_000_000 + day))
    rows, refused = read(FileSource(tmp_path, suffix, new_columns="rescue"))
    assert refused == []
    assert rows.columns == ["a", "day", "_rescued"]
    assert rows.rows() == [(1, 0, None), (2, 1, '{"new":"x"}')]


def test_a_resumed_reading_refuses_the_same(tmp_path: Path) -> None:
    """Positions count the rows of the file, with those refused."""
    chance = random.Random(1)
    values = [chance.choice([n, 1000 + n]) for n in range(100)]
    pl.DataFrame({"n": values}).write_parquet(tmp_path / "a.parquet", row_group_size=7)
    source = FileSource(tmp_path / "a.parquet", schema={"n": pl.Int8}, max_rows_per_poll=10)
    good = [value for value in values if value < 1000]
    steps: list[Offset] = []
    refused: list[pa.RecordBatch] = []
    with reading(source.bounded()) as reader:
        assert polled(source, reader, None, refused, steps)["n"].to_list() == good
    assert sum(batch.num_rows for batch in refused) == len(values) - len(good)
    memory: Offset | None = None
    start: Offset | None = None
    count = 0
    for step in steps:
        memory = source.remembered(memory, step)
        count += source.scan("files-0", start, step).collect().height
        start = step
        with reading(source.bounded(), memory) as reader:
            assert polled(source, reader, None, [])["n"].to_list() == good[count:]


def test_filters_and_projection_reach_a_file_that_fits(tmp_path: Path) -> None:
    """Only files that differ cost anything."""
    pl.DataFrame({"n": range(5), "t": "x"}).write_parquet(tmp_path / "a.parquet")
    source = FileSource(tmp_path / "a.parquet", schema={"n": pl.Int64, "t": pl.String})
    with reading(source) as reader:
        reader.poll(0)
        plan = source.scan("files-0", None, reader.position()).filter(pl.col("n") > 3).select("n").explain()
    assert "PROJECT 1/2 COLUMNS" in plan
    assert "SELECTION" in plan
