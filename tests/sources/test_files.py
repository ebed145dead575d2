"""The files source: the files of a directory, each as it appears."""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import random
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import polars.testing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import arrowstream as ars
from arrowstream.connectors.source import EndOfStream, Offset, Reader, Reference, SupportsRejects, batch_limit
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources.files import FileSource
from arrowstream.testing.source_suite import SourceSuite, Supply, assert_rows, polled, reading

SCHEMA = {"n": pl.Int64, "name": pl.String}


def frame(first: int, count: int) -> pl.DataFrame:
    numbers = range(first, first + count)
    return pl.DataFrame({"n": numbers, "name": [f"the name number {n}" for n in numbers]}, schema=SCHEMA)


def write(rows: pl.DataFrame, path: Path) -> None:
    """Write a file of the kind its name says, whole at once."""
    hidden = path.with_name(f".{path.name}")
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(rows.to_arrow(), hidden, row_group_size=3)
    elif kind == "arrow":
        rows.write_ipc(hidden)
    else:
        text = rows.write_ndjson() if kind == "ndjson" else rows.write_csv(include_header=False)
        data = text.encode()
        hidden.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    hidden.rename(path)


class FileSupply(Supply):
    def __init__(self, directory: Path, suffix: str) -> None:
        self._directory, self._suffix = directory, suffix
        self.malformed = 2 if suffix == "ndjson" else 0

    def source(self) -> FileSource:
        name = {"parquet": "parquet", "arrow": "ipc", "ndjson": "ndjson", "csv": "csv", "csv.gz": "csv"}[self._suffix]
        return FileSource(self._directory, name, SCHEMA, poll_interval="10ms")

    def feed(self, first: int, count: int) -> pl.DataFrame:
        rows = frame(first, count)
        write(rows, self._directory / f"{first:04}.{self._suffix}")
        return rows

    def feed_malformed(self) -> None:
        (self._directory / f"0001-bad.{self._suffix}").write_bytes(b'{"n": "one"}\n{"n":\n')

    def end(self) -> None:
        """A directory has no end but that of the bounded source."""


class TestFiles(SourceSuite):
    @pytest.fixture(params=["parquet", "arrow", "ndjson", "csv", "csv.gz"])
    def supply(self, request: pytest.FixtureRequest, tmp_path: Path) -> FileSupply:
        return FileSupply(tmp_path, request.param)


def in_order_of_age(*paths: Path) -> None:
    """Give the files times of change, oldest first, a second apart."""
    for age, path in enumerate(paths):
        os.utime(path, (1_700_000_000 + age, 1_700_000_000 + age))


def rejects(reader: Reader) -> list[dict[str, Any]]:
    """What the reader has refused since it was asked last."""
    assert isinstance(reader, SupportsRejects)
    found = reader.rejects()
    return [] if found is None else found.to_pylist()


def numbers(source: FileSource, resume: Offset | None = None) -> list[int]:
    """Column `n` of all there is, by a bounded reading."""
    with reading(source.bounded(), resume) as reader:
        found: list[int] = polled(source, reader, None)["n"].to_list()
        return found


def test_files_are_read_oldest_first(tmp_path: Path) -> None:
    for name, first in (("b", 0), ("c", 2), ("a", 4)):
        write(frame(first, 2), tmp_path / f"{name}.parquet")
    in_order_of_age(*(tmp_path / f"{name}.parquet" for name in "bca"))
    assert numbers(FileSource(tmp_path, "parquet")) == [0, 1, 2, 3, 4, 5]


def test_a_file_that_comes_late_with_an_early_time_is_read_all_the_same(tmp_path: Path) -> None:
    """`mv` and `cp -p` keep the time of change: what comes now may be older than all that was read."""
    source = FileSource(tmp_path, "parquet", SCHEMA, poll_interval="10ms")
    with reading(source) as reader:
        write(frame(0, 2), tmp_path / "new.parquet")
        polled(source, reader, 2)
        before = json.loads(json.dumps(reader.position()))
        write(frame(2, 2), tmp_path / "_old.parquet")
        in_order_of_age(tmp_path / "_old.parquet")
        (tmp_path / "_old.parquet").rename(tmp_path / "old.parquet")
        assert_rows([polled(source, reader, 2)], [frame(2, 2)])
        after = reader.position()
    assert_rows([source.scan("files-0", None, source.joined(before, after)).collect()], [frame(0, 4)])
    assert_rows([source.scan("files-0", before, after).collect()], [frame(2, 2)])
    assert numbers(source, before) == [2, 3]
    assert numbers(source, source.remembered(before, after)) == []


def test_one_poll_gives_rows_of_several_files_up_to_its_most(tmp_path: Path) -> None:
    for first in range(0, 40, 10):
        write(frame(first, 10), tmp_path / f"{first:02}.parquet")
    source = FileSource(tmp_path, "parquet", max_rows_per_batch=25).bounded()
    assert batch_limit(source) == 25
    sizes: list[int] = []
    with reading(source) as reader:
        while sum(sizes) < 40:
            before = reader.position()
            found = reader.poll(0)
            assert isinstance(found, Reference)
            assert found.nbytes > 0
            scanned = source.scan("files-0", before, reader.position()).collect()
            assert scanned["n"].to_list() == list(range(sum(sizes), sum(sizes) + found.num_rows))
            sizes.append(found.num_rows)
    # Row groups have three rows: of the third file, only one fits.
    assert sizes == [23, 17]


def test_lines_are_cut_at_the_most_rows_of_a_poll(tmp_path: Path) -> None:
    write(frame(0, 10), tmp_path / "a.ndjson")
    source = FileSource(tmp_path, "ndjson", SCHEMA, max_rows_per_poll=4).bounded()
    with reading(source) as reader:
        sizes = [rows.num_rows for _ in range(3) if isinstance(rows := reader.poll(0), pa.RecordBatch)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "ndjson", "csv", "csv.gz"])
def test_any_cut_gives_every_row_once(tmp_path: Path, suffix: str) -> None:
    """Positions from all over the files, resumed from and scanned between."""
    chance = random.Random(7)
    first = 0
    for name in range(6):
        count = chance.randrange(1, 9)
        write(frame(first, count), tmp_path / f"{name}.{suffix}")
        first += count
    source = FileSource(tmp_path / f"*.{suffix}", "ipc" if suffix == "arrow" else None, SCHEMA, max_rows_per_poll=2)
    seen: list[tuple[int, Offset | None]] = [(0, None)]
    with reading(source.bounded()) as reader:
        while seen[-1][0] < first:
            found = reader.poll(0)
            assert found is not None
            seen.append((seen[-1][0] + found.num_rows, json.loads(json.dumps(reader.position()))))
    memory: Offset | None = None
    for place, (count, position) in enumerate(seen):
        memory = memory if position is None else source.remembered(memory, position)
        assert numbers(source, json.loads(json.dumps(memory))) == list(range(count, first))
        stop: Offset | None = None
        for later, step in seen[place + 1 :]:
            assert step is not None
            stop = step if stop is None else source.joined(stop, step)
            if chance.random() < 0.3:
                scanned = source.scan("files-0", position, stop).collect()
                assert scanned["n"].to_list() == list(range(count, later))


def test_projection_and_filters_reach_a_parquet_file(tmp_path: Path) -> None:
    write(frame(0, 10), tmp_path / "a.parquet")
    source = FileSource(tmp_path, "parquet")
    with reading(source) as reader:
        reader.poll(0)
        plan = source.scan("files-0", None, reader.position()).filter(pl.col("n") > 7).select("n").explain()
    assert "PROJECT 1/2 COLUMNS" in plan
    assert "SELECTION" in plan


def test_hidden_and_empty_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").write_bytes(b"x")
    (tmp_path / ".tmp.parquet").write_bytes(b"x")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "directory").mkdir()
    write(frame(0, 1), tmp_path / "a.parquet")
    assert numbers(FileSource(tmp_path, "parquet")) == [0]


def test_a_glob_finds_files_in_directories(tmp_path: Path) -> None:
    for place, directory in enumerate(("x", "y/z", "_hidden")):
        (tmp_path / directory).mkdir(parents=True)
        write(frame(place, 1), tmp_path / directory / "a[1].parquet")
        (tmp_path / directory / "notes.txt").write_text("no rows")
    in_order_of_age(tmp_path / "x" / "a[1].parquet", tmp_path / "y" / "z" / "a[1].parquet")
    assert numbers(FileSource(f"{tmp_path}/**/*.parquet")) == [0, 1]


def test_one_file_that_is_not_there_yet(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "later.ndjson", schema=SCHEMA, poll_interval="10ms")
    with reading(source) as reader:
        assert reader.poll(0) is None
        write(frame(0, 2), tmp_path / "later.ndjson")
        write(frame(2, 2), tmp_path / "other.ndjson")
        assert_rows([polled(source, reader, 2)], [frame(0, 2)])


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "inn", "parquet", SCHEMA)
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*inn"):
        source.open("files-0", None)


def test_a_file_being_written_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A writer that does not rename: its file has no footer until it is closed. Others do not wait for it."""
    frame(0, 20).write_parquet(tmp_path / ".whole.parquet")
    whole = (tmp_path / ".whole.parquet").read_bytes()
    source = FileSource(tmp_path, "parquet", SCHEMA, poll_interval="10ms")
    with reading(source) as reader, caplog.at_level(logging.WARNING):
        growing = tmp_path / "growing.parquet"
        growing.write_bytes(whole[: len(whole) // 2])
        write(frame(20, 2), tmp_path / "other.parquet")
        assert_rows([polled(source, reader, 2)], [frame(20, 2)])
        assert reader.poll(0.05) is None
        assert not [record for record in caplog.records if "growing" in record.message]
        growing.write_bytes(whole)
        assert_rows([polled(source, reader, 20)], [frame(0, 20)])
    growing.write_bytes(whole[: len(whole) // 2])
    source = FileSource(tmp_path, "parquet", SCHEMA, bad_files="fail")
    with pytest.raises(SourceError, match=r"growing.parquet has no footer"):
        numbers(source)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"n,name\n1,x\n", "a.parquet is no Parquet file: it begins with b'n,na'"),
        ("a.parquet", b"PAR1" + b"rubbish" * 9 + b"\x10\0\0\0PAR1", "a.parquet is damaged"),
        ("a.arrow", b"ARROW1\0\0" + b"rubbish" * 9 + b"\x10\0\0\0ARROW1", "a.arrow is damaged"),
        ("a.csv.gz", b"\x1f\x8brubbish", "a.csv.gz is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """In the dead letters, with its first bytes, and the stream goes on; or its end says so, if the user wants that."""
    path = tmp_path / name
    path.write_bytes(content)
    source = FileSource(path, schema=SCHEMA)
    with reading(source) as reader:
        assert reader.poll(0) is None
        [letter] = rejects(reader)
        assert letter["raw"] == content
        assert letter["path"] == str(path)
        assert re.search(said, letter["reason"])
        assert reader.poll(0) is None
        assert not rejects(reader)
    source = FileSource(path, schema=SCHEMA, bad_files="fail")
    with pytest.raises(SourceError, match=said), reading(source) as reader:
        reader.poll(0)


def test_a_file_that_goes_before_it_is_read_is_forgotten(tmp_path: Path) -> None:
    source = FileSource(tmp_path, "parquet", SCHEMA)
    write(frame(0, 2), tmp_path / "a.parquet")
    write(frame(2, 2), tmp_path / "b.parquet")
    with reading(source) as reader:
        (tmp_path / "a.parquet").unlink()
        assert_rows([polled(source, reader, 2)], [frame(2, 2)])


@pytest.mark.parametrize("suffix", ["parquet", "ndjson", "csv.gz"])
def test_a_file_that_goes_or_shrinks_before_it_is_scanned_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write(frame(0, 9), path)
    source = FileSource(path, schema=SCHEMA)
    with reading(source) as reader:
        reader.poll(0)
        position = reader.position()
    write(frame(0, 2), path)
    with pytest.raises(SourceError, match=rf"a.{suffix} was replaced"):
        source.scan("files-0", None, position).collect()
    path.unlink()
    with pytest.raises(SourceError, match=rf"a.{suffix} was there when the stream read it, and is gone"):
        source.scan("files-0", None, position)


def test_a_file_of_lines_that_grows_after_it_was_read_is_an_error(tmp_path: Path) -> None:
    """A log that is appended to: the rows that came after would be lost without a word."""
    path = tmp_path / "a.ndjson"
    write(frame(0, 2), path)
    source = FileSource(tmp_path, "ndjson", SCHEMA, poll_interval="10ms")
    with reading(source) as reader:
        polled(source, reader, 2)
        with path.open("a") as file:
            file.write('{"n": 3}\n')
        with pytest.raises(SourceError, match=r"a.ndjson has changed after it was read"):
            reader.poll(10)


def test_the_schema_is_that_of_the_oldest_file(tmp_path: Path) -> None:
    write(frame(0, 2), tmp_path / "b.parquet")
    write(frame(0, 2).with_columns(extra=pl.lit(1)), tmp_path / "a.parquet")
    in_order_of_age(tmp_path / "b.parquet", tmp_path / "a.parquet")
    assert FileSource(tmp_path, "parquet").schema == pl.Schema(SCHEMA).to_arrow()


def test_the_schema_of_lines_is_guessed_from_the_oldest_file(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"n": 1, "x": 0.5, "l": [1], "s": {"t": "a"}}\n')
    (tmp_path / "b.csv").write_text("day;n;x\n2026-01-02;1;0.5\n")
    found = FileSource(tmp_path / "a.ndjson").schema
    nested = pl.Schema([("l", pl.List(pl.Int64)), ("s", pl.Struct({"t": pl.String}))])
    assert found == pl.Schema([("n", pl.Int64), ("x", pl.Float64), *nested.items()]).to_arrow()
    found = FileSource(tmp_path / "b.csv", has_header=True, separator=";").schema
    assert found == pl.Schema({"day": pl.Date, "n": pl.Int64, "x": pl.Float64}).to_arrow()


@pytest.mark.parametrize("name", ["*.parquet", "*.csv", "*.ndjson"])
def test_without_a_file_the_schema_has_to_be_given(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match=r"no file at .* give the columns and their types"):
        FileSource(tmp_path / name)
    assert FileSource(tmp_path / name, schema=SCHEMA).schema == pl.Schema(SCHEMA).to_arrow()


def test_a_footer_may_be_long(tmp_path: Path) -> None:
    """Hundreds of columns in many row groups: more than is read of a file at first."""
    wide = pl.DataFrame({f"column {number}": [number, 2 * number, 3] for number in range(500)})
    wide.write_parquet(tmp_path / "wide.parquet", row_group_size=1)
    source = FileSource(tmp_path, "parquet", watch=False)
    with reading(source) as reader:
        found = reader.poll(1)
        assert isinstance(found, Reference)
        assert found.num_rows == 3
        assert found.ranges["column 7"] == (3, 14)
        polars.testing.assert_frame_equal(source.scan("files-0", None, reader.position()).collect(), wide)


def test_columns_are_found_by_name_and_widened_without_loss(tmp_path: Path) -> None:
    """The writer of last year had a smaller type, another order, and a column more."""
    old = pl.DataFrame({"extra": [1], "name": ["a"], "n": [7]}, schema_overrides={"n": pl.Int16})
    write(old, tmp_path / "old.parquet")
    source = FileSource(tmp_path, "parquet", SCHEMA)
    with reading(source) as reader:
        got = polled(source, reader, 1)
    polars.testing.assert_frame_equal(got, pl.DataFrame({"n": [7], "name": ["a"]}, schema=SCHEMA))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (pl.DataFrame({"x": ["a"]}), "a.parquet: it has none of the columns 'n', 'name'; it has: x"),
        (pl.DataFrame({"n": ["1"], "name": ["a"]}), "a.parquet: column 'n' is String in it, and Int64 in the stream"),
        (pl.DataFrame({"n": [1], "name": [2]}), "column 'name' is Int64 in it, .*strict=False reads it as text"),
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_named(tmp_path: Path, other: pl.DataFrame, said: str) -> None:
    write(other, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=said):
        numbers(FileSource(tmp_path, "parquet", SCHEMA, bad_files="fail"))
    with reading(FileSource(tmp_path, "parquet", SCHEMA)) as reader:
        reader.poll(0)
        assert re.search(said, rejects(reader)[0]["reason"])


def test_each_csv_file_has_its_own_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,name\n1,a\n2,b\n")
    (tmp_path / "b.csv").write_text("name,extra,n\r\nc,x,3\r\n")
    in_order_of_age(tmp_path / "a.csv", tmp_path / "b.csv")
    source = FileSource(tmp_path, "csv", SCHEMA, has_header=True, max_rows_per_poll=1)
    steps: list[Offset] = []
    with reading(source.bounded()) as reader:
        rows = polled(source, reader, None, steps=steps)
    assert rows.rows() == [(1, "a"), (2, "b"), (3, "c")]
    assert numbers(source, source.joined(steps[0], steps[1])) == [3]
    assert source.scan("files-0", steps[1], steps[2]).collect().rows() == [(3, "c")]
    (tmp_path / "c.csv").write_text("who,what\n1,a\n")
    with pytest.raises(SourceError, match=r"c.csv: the header"):
        numbers(FileSource(tmp_path, "csv", SCHEMA, has_header=True, bad_files="fail"))


def test_splits_share_the_files(tmp_path: Path) -> None:
    for name in range(20):
        write(frame(name, 1), tmp_path / f"{name}.parquet")
    source = FileSource(tmp_path, "parquet", splits=3)
    assert list(source.splits()) == ["files-0", "files-1", "files-2"]
    found = []
    for split in source.splits():
        with closing(source.bounded().open(split, None)) as reader:
            reader.poll(0)
            part = source.scan(split, None, reader.position()).collect()["n"].to_list()
            with pytest.raises(EndOfStream):
                reader.poll(0)
        assert part
        found.extend(part)
    assert sorted(found) == list(range(20))


def test_positions_stay_small_however_many_files_were_read(tmp_path: Path) -> None:
    """A directory of ten thousand small files must not make ten thousand names of every batch's entry in the log."""
    source = FileSource(tmp_path, "parquet", SCHEMA, poll_interval="10ms")
    memory: Offset | None = None
    with reading(source) as reader:
        for name in range(30):
            write(frame(name, 1), tmp_path / f"{name:02}.parquet")
            polled(source, reader, 1)
            position = reader.position()
            assert isinstance(position, dict)
            assert [part[0] for part in position["read"]] == [f"{name:02}.parquet"]
            assert len(json.dumps(position)) < 200
            memory = source.remembered(memory, position)
    assert numbers(source, memory) == []
    write(frame(30, 1), tmp_path / "30.parquet")
    in_order_of_age(tmp_path / "30.parquet")
    assert numbers(source, memory) == [30]


def test_the_former_option_for_names_to_keep_does_nothing_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="remember= has no effect"):
        FileSource(tmp_path, "parquet", SCHEMA, remember=3)


def test_a_position_is_of_no_use_without_those_before_it(tmp_path: Path) -> None:
    """It names the files since the last one only; opened with it alone, the source would read the others twice."""
    source = FileSource(tmp_path, "parquet", SCHEMA, poll_interval="10ms")
    with reading(source) as reader:
        positions = []
        for name in range(2):
            write(frame(name, 1), tmp_path / f"{name}.parquet")
            polled(source, reader, 1)
            positions.append(reader.position())
    with pytest.raises(SourceError, match=r"source.remembered\(memory, position\)"):
        source.open("files-0", positions[1])
    with pytest.raises(SourceError, match=r"join positions .* with source.joined"):
        source.scan("files-0", None, positions[1])
    with pytest.raises(SourceError, match="do not follow each other"):
        source.joined(positions[1], positions[0])


def options(**given: object) -> Callable[[], FileSource]:
    return lambda: FileSource("/nowhere/in", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (options(schema=SCHEMA), "give format="),
        (options(format="xml", schema=SCHEMA), "no format 'xml'; there are: parquet, ipc, ndjson, json, csv, text"),
        (options(format="parquet", schema=SCHEMA, delimiter=";"), "has no option 'delimiter'"),
        (options(format="csv", schema=SCHEMA, delimeter=";"), "has no option 'delimeter'; it has: separator"),
        (options(format="csv", schema=SCHEMA, splits=0), "splits=0"),
        (options(format="csv", schema=SCHEMA, poll_interval="soon"), "no duration"),
        (options(format="csv", schema=SCHEMA, poll_interval="-1s"), "above zero"),
    ],
)
def test_what_cannot_be_is_refused_when_the_source_is_made(make: Callable[[], FileSource], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        make()


def test_the_description_keeps_its_place_in_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have another working directory."""
    write(frame(0, 1), tmp_path / "a.parquet")
    monkeypatch.chdir(tmp_path)
    copied = pickle.loads(pickle.dumps(FileSource("a.parquet")))
    monkeypatch.chdir("/")
    assert numbers(copied) == [0]


def test_a_closed_reader_has_ended(tmp_path: Path) -> None:
    reader = FileSource(tmp_path, "text").open("files-0", None)
    reader.close()
    with pytest.raises(EndOfStream):
        reader.poll(0)


def test_a_limit_per_batch_cuts_a_backlog_into_even_batches(tmp_path: Path) -> None:
    """A year of files is there at the first start: it is worked off in batches of a known size."""
    pl.DataFrame({"n": range(1000)}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"n": range(1000, 1300)}).write_parquet(tmp_path / "b.parquet")
    pl.DataFrame({"n": range(1300, 1400)}).write_ndjson(tmp_path / "c.ndjson")
    with ars.StreamingContext() as ctx:
        rows = ctx.read.parquet(tmp_path / "*.parquet", max_rows_per_batch=250)
        lines = ctx.read.ndjson(tmp_path / "*.ndjson", max_rows_per_batch=30)
        ars.concat([rows, lines]).write.memory("rows")
        ctx.run(timeout=60)
        assert sorted(ctx.sql("SELECT n FROM rows").pl()["n"]) == list(range(1400))
        assert max(report.rows_in for report in ctx.progress) <= 280
        assert ctx.progress.batches >= 6
