"""NEXMark: every query's result is that of the batch reading, and the tools around it do what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import polars.testing
import pytest

from arrowstream.plan.nodes import SourceNode
from arrowstream.plan.unit import topological
from arrowstream.sources._nexmark import SCHEMAS, Generator
from benchmarks.nexmark import __main__ as command
from benchmarks.nexmark.batch import LAZY, SQL, by_duckdb
from benchmarks.nexmark.check import Setting, Workers, difference, differences, made
from benchmarks.nexmark.data import Dataset
from benchmarks.nexmark.queries import NAMES
from benchmarks.nexmark.runner import context, read, result, run

EVENTS = 20_000
SETTINGS = [Setting(1), Setting(None), Setting(3, workers=2)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Data in order and out of order."""
    return list(made(tmp_path_factory.mktemp("nexmark"), EVENTS))


@pytest.fixture(scope="module")
def clusters() -> Iterator[Workers]:
    with Workers(SETTINGS) as workers:
        yield workers


@pytest.mark.parametrize("query", NAMES)
def test_a_query_is_equal_to_the_batch_reading(query: str, places: list[Path], clusters: Workers) -> None:
    """In one file a batch and in all at once, embedded and with workers, in order and out of order."""
    assert "\n".join(differences(query, places, SETTINGS, clusters)) == ""


@pytest.mark.parametrize("query", NAMES)
def test_a_query_over_tables_is_equal_to_the_batch_reading(query: str, places: list[Path]) -> None:
    """`collect` of the files, in order and out of order; and a random sample of them, cut anywhere."""
    for number, place in enumerate(places):
        with context() as ctx:
            frame = read(ctx, query, place, 1)
            streams = [at.name for at in topological([frame._node]) if isinstance(at, SourceNode)]
            tables = {name: pl.scan_parquet(sorted((place / name).iterdir())) for name in streams}
            assert difference(frame.collect(tables), by_duckdb(query, place)) == ""
            # In the order of the files, since `first` and ties go by it.
            sample = {
                name: table.filter(pl.int_range(pl.len()).hash(number) % 12 == 0) for name, table in tables.items()
            }
            frame.check(sample, tries=2, seed=number)


def test_every_query_has_its_batch_readings() -> None:
    assert len(NAMES) == 24
    assert set(SQL) == set(LAZY) == set(NAMES)


def test_no_result_is_empty(places: list[Path]) -> None:
    """Equality of nothing with nothing would say nothing."""
    assert [query for query in NAMES if by_duckdb(query, places[0]).is_empty()] == []


# --- data


def test_files_hold_what_the_source_gives(tmp_path: Path) -> None:
    """Cut anywhere, they are the same events."""
    Dataset(5_000, 1_000, 777).write(tmp_path)
    for name, schema in SCHEMAS.items():
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == [f"part-{number:05}.parquet" for number in range(7)]
        frame = pl.read_parquet(files)
        assert frame.schema == schema
        polars.testing.assert_frame_equal(frame, Generator(42, 1_000).frame(name, 0, 5_000))
    assert pl.read_parquet(tmp_path / "ysb").height == 5_000
    assert pl.read_parquet(tmp_path / "ysb_campaigns.parquet").select(pl.all().n_unique()).row(0) == (1000, 100)
    assert pl.read_parquet(tmp_path / "side_input.parquet")["value"][1234] == "1234"
    assert json.loads((tmp_path / "meta.json").read_text())["rate"] == 1_000


def test_files_are_plain_parquet(tmp_path: Path) -> None:
    """Other engines read them: no string views, no time zones."""
    Dataset(500, 1_000, 500).write(tmp_path)
    with duckdb.connect() as connection:
        described = connection.sql(f"DESCRIBE FROM '{tmp_path}/bid/*.parquet'").fetchall()
    types = {name: dtype for name, dtype, *_ in described}
    assert types["dateTime"] in ("TIMESTAMP", "TIMESTAMP_MS")
    assert types["url"] == "VARCHAR"


def test_disorder_stays_within_its_bound(tmp_path: Path) -> None:
    """No row comes after one that is more than the disorder later than it, and none is lost or doubled."""
    data = Dataset(20_000, 1_000, 3_000, disorder=2.0)
    data.write(tmp_path / "late")
    replace(data, disorder=0).write(tmp_path / "in_time")
    for name, time in (("person", "dateTime"), ("auction", "dateTime"), ("bid", "dateTime"), ("ysb", "event_time")):
        late, in_time = (pl.read_parquet(sorted((tmp_path / order / name).iterdir())) for order in ("late", "in_time"))
        assert not late["seq"].is_sorted()
        polars.testing.assert_frame_equal(late.sort("seq"), in_time)
        behind = (late[time].cum_max() - late[time]).dt.total_milliseconds()
        assert behind.max() <= 2_000  # type: ignore[operator]
        assert behind.max() > 1_000  # type: ignore[operator]


# --- running


def test_a_run_writes_its_result(places: list[Path], tmp_path: Path) -> None:
    """Rows that are appended, and the live rows of a result that updates them; a second run takes the place."""
    for query in ("q2", "q17"):
        for _ in range(2):
            measured = run(query, places[0], files_per_batch=2, out=tmp_path / query)
        assert difference(pl.read_parquet(tmp_path / query), by_duckdb(query, places[0])) == ""
        assert measured.batches == 4
        assert measured.events == EVENTS
        assert measured.dead_letters == 0
        assert measured.seconds > 0
        assert measured.peak_rss_mb > 20
        assert (measured.state_rows > 0) == (query == "q17")
        assert json.loads(measured.json())["query"] == query
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"notes\.txt"):
        run("q2", places[0], out=other)
    assert (other / "notes.txt").read_text() == "mine"


def test_files_are_read_in_the_order_of_their_names(places: list[Path], tmp_path: Path) -> None:
    """Copied data has any times of modification, and a whole run of late rows would come of it."""
    for name in ("person", "auction", "bid"):
        (tmp_path / name).mkdir()
        for file in sorted((places[0] / name).iterdir(), reverse=True):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "side_input.parquet").write_bytes((places[0] / "side_input.parquet").read_bytes())
    assert difference(result("q12", tmp_path), by_duckdb("q12", places[0])) == ""


def test_the_command(tmp_path: Path) -> None:
    """Generate, run and check, as the README says; a line of JSON is all that a run prints."""
    arguments = ["generate", "--events", "2000", "--rate", "500", "--rows-per-file", "1000", "--out", str(tmp_path)]
    command.main(arguments)
    line = [sys.executable, "-m", "benchmarks.nexmark", "run", "--query", "ysb", "--data", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batches"] == 2
    command.main(["check", "--queries", "q2", "q14", "--data", str(tmp_path), "--no-workers"])


# --- comparing


def test_differences_are_shown() -> None:
    one = pl.DataFrame({"a": [1, 1, None], "b": ["x", "x", None]})
    same = pl.DataFrame({"b": [None, "x", "x"], "a": [None, 1, 1]}, schema_overrides={"a": pl.UInt32})
    assert difference(same, one) == ""
    text = difference(pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}), one)
    assert "2 rows in place of 3" in text
    assert "1 extra:\n        {'a': 2, 'b': 'y', 'times': 1}" in text
    assert "2 missing:" in text
    assert "{'a': 1, 'b': 'x', 'times': 1}" in text
    assert "columns: b missing, c extra" in difference(pl.DataFrame({"a": [1], "c": [1]}), one)
    assert "types" in difference(pl.DataFrame({"a": [1.5], "b": ["x"]}), one)


def test_a_check_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dataset(2_000, 500, 1_000).write(tmp_path)
    monkeypatch.setitem(SQL, "q2", "SELECT auction, price + 1 AS price FROM bid WHERE auction % 123 = 0")
    with pytest.raises(SystemExit):
        command.main(["check", "--queries", "q2", "--data", str(tmp_path), "--no-workers"])
