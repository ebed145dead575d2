"""The Parquet sink: four readers, at any moment, whatever crashes."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import fastparquet
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import arrowstream
from arrowstream.catalog import Catalog
from arrowstream.connectors.changes import Append, ChangeBatch, Retract, Upsert
from arrowstream.connectors.manifest import Home, parquet_files
from arrowstream.connectors.sink import Committer, Sink
from arrowstream.errors import ChangeKindError, PlanError, SinkError
from arrowstream.query import run_sql
from arrowstream.sinks._parquet_committer import ParquetCommitter
from arrowstream.sinks._parquet_files import NULL_PARTITION
from arrowstream.sinks.parquet import ParquetSink, parsed_roll
from arrowstream.testing.sink_suite import SCHEMA, TYPES, SinkSuite, multiset, rows

NOT_READ_BY_POLARS = ("decimal256",)


class TestParquetSink(SinkSuite):
    refused: tuple[str, ...] = NOT_READ_BY_POLARS

    def make(self, tmp_path: Path) -> ParquetSink:
        return ParquetSink(tmp_path / "out")

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table:
        return pq.read_table(tmp_path / "out") if parquet_files(tmp_path / "out") else pa.Table.from_batches([], SCHEMA)


class TestParquetSinkRolling(TestParquetSink):
    """Rows wait for larger files, and nothing else changes."""

    def make(self, tmp_path: Path) -> ParquetSink:
        return ParquetSink(tmp_path / "out", roll=("1MB", "1h"))


class TestParquetSinkPartitioned(TestParquetSink):
    def make(self, tmp_path: Path) -> ParquetSink:
        return ParquetSink(tmp_path / "out", partition_by=("key",))

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table:
        if not parquet_files(tmp_path / "out"):
            return pa.Table.from_batches([], SCHEMA)
        frame = pl.read_parquet(tmp_path / "out")
        return frame.select("key", pl.exclude("key")).to_arrow(compat_level=pl.CompatLevel.newest())


class TestParquetSinkComplete(TestParquetSink):
    kinds = (Upsert(("key",)), Retract(), Append())

    def make(self, tmp_path: Path) -> ParquetSink:
        return ParquetSink(tmp_path / "out", mode="complete")

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table:
        assert os.listdir(tmp_path / "out") == ["part-0.parquet"]
        return pq.read_table(tmp_path / "out")

    def test_a_new_run_goes_on_after_the_old(self, tmp_path: Path) -> None:
        """The table of a new run takes the place of the old one."""
        sink = self.make(tmp_path).bind(SCHEMA, Upsert(("key",)))
        for run in range(2):
            with closing(sink.committer()) as committer:
                write(sink, 0, rows(**{f"k{run}": 1}), committer)
                assert multiset(self.read_back(tmp_path, committer)) == [repr((f"k{run}", 1))]


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # fastparquet 2026.9 with pandas 3.1
class TestParquetSinkFastparquet(TestParquetSink):
    refused = (
        *NOT_READ_BY_POLARS, "float16", "decimal", "date", "time", "duration_ms", "duration_us", "duration_ns", "null",
        "list", "list_string", "array", "struct", "nested", "list_categorical",
    )  # fmt: skip

    def make(self, tmp_path: Path) -> ParquetSink:
        return ParquetSink(tmp_path / "out", engine="fastparquet", compression="snappy")

    @pytest.mark.parametrize("case", sorted(TYPES.keys() - {"float64_nan"}))
    def test_types_are_kept_or_refused(self, tmp_path: Path, case: str) -> None:
        super().test_types_are_kept_or_refused(tmp_path, case)

    def test_nan_is_an_error_and_not_a_null(self, tmp_path: Path) -> None:
        """What fastparquet would change without a word."""
        schema = pa.schema([("value", pa.float64())])
        sink = self.make(tmp_path).bind(schema, Append())
        with closing(sink.committer()):
            writer = sink.open(0, "0-0", schema)
            writer.write(ChangeBatch(pa.table({"value": [1.0, float("nan")]})))
            with pytest.raises(SinkError, match="fill_nan"):
                writer.finish()
            writer.close()
        assert parquet_files(Home(tmp_path / "out").staging) == []


READERS: dict[str, Callable[[Path], Any]] = {
    "pyarrow": lambda path: ds.dataset(path, partitioning="hive").to_table(),
    "polars": lambda path: pl.scan_parquet(path).collect().to_arrow(),
    "polars_glob": lambda path: pl.scan_parquet(path / "**/*.parquet", hive_partitioning=True).collect().to_arrow(),
    "duckdb": lambda path: duckdb.read_parquet(f"{path}/**/*.parquet", hive_partitioning=True).to_arrow_table(),
    "fastparquet": lambda path: read_fastparquet(path),
}


def read_fastparquet(path: Path) -> pa.Table:
    """All rows; it is not fastparquet's habit to close the files it opens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return pa.Table.from_pandas(fastparquet.ParquetFile(str(path)).to_pandas())


def write(sink: Sink, batch_id: int, table: pa.Table, committer: Committer) -> None:
    writer = sink.open(batch_id, "0-0", table.schema)
    writer.write(ChangeBatch(table))
    committer.commit(batch_id, [writer.finish()])
    writer.close()


@contextmanager
def opened(sink: Sink, schema: pa.Schema = SCHEMA, run: str | None = None) -> Iterator[tuple[Sink, Any]]:
    bound = sink.bind(schema, Append())
    with closing(bound.committer(run)) as committer:
        yield bound, committer


@pytest.mark.parametrize("reader", READERS)
def test_partitions_with_odd_values_are_right_for_every_reader(tmp_path: Path, reader: str) -> None:
    """Null, nothing, slashes, quotes and percent signs as names of directories (fastparquet shows the bare names)."""
    words = ["plain", None, "", "a/b", "a=b", "50%", "ä ö", "..", "x:y", "q%20z", "it's", "[x]", "*", "a+b"]
    table = pa.table({"key": words, "value": range(len(words))}, schema=SCHEMA)
    with opened(ParquetSink(tmp_path / "out", partition_by="key")) as (sink, committer):
        write(sink, 0, table, committer)
        catalog = Catalog()
        catalog.register("output", committer.view)
        assert sorted(run_sql("SELECT value, key FROM output", catalog)) == list(enumerate(words))
    read = READERS[reader](tmp_path / "out")
    found = dict(zip(read["value"].to_pylist(), read["key"].to_pylist(), strict=True))
    if reader == "fastparquet":
        found = {value: None if word == NULL_PARTITION else unquote(word) for value, word in found.items()}
    assert found == dict(enumerate(words))


def test_partitions_of_other_types(tmp_path: Path) -> None:
    """SQL gives them back with the types they had."""
    schema = pa.schema([("day", pa.date32()), ("hour", pa.uint8()), ("good", pa.bool_()), ("value", pa.int64())])
    table = pa.table(
        {"day": [dt.date(2026, 11, 22), None], "hour": [7, None], "good": [True, False], "value": [1, 2]}, schema=schema
    )
    with opened(ParquetSink(tmp_path / "out", partition_by=("day", "hour", "good")), schema) as (sink, committer):
        write(sink, 0, table, committer)
    assert (tmp_path / "out/day=2026-11-22/hour=7/good=true/part-00000000-0.parquet").exists()
    with arrowstream.connect(tmp_path / "out") as outputs:
        answer = outputs.sql("SELECT * FROM out ORDER BY value")
    assert answer.fetchall() == [(dt.date(2026, 11, 22), 7, True, 1), (None, None, False, 2)]
    assert answer.schema.types == schema.types


def test_streams_that_update_rows_are_refused_with_the_cure() -> None:
    with pytest.raises(ChangeKindError) as refused:
        ParquetSink("out").bind(SCHEMA, Upsert(("word",)))
    assert str(refused.value) == (
        "Parquet takes append-only streams and this one updates rows of `word`: "
        "use mode='complete' for the table as it is now, or write to DuckDB, which updates rows in place"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roll": "often"}, "roll='often'"),
        ({"mode": "upsert"}, "mode='upsert'"),
        ({"engine": "arrow"}, "engine='arrow'"),
        ({"compression": "zip"}, "compression='zip'"),
        ({"partition_by": "kez"}, "did you mean 'key'"),
        ({"partition_by": ("key", "value")}, "nothing is left"),
        ({"mode": "complete", "roll": "1m"}, "do not go with it"),
        ({"sort_by": "key"}, "mode='complete'"),
        ({"mode": "complete", "sort_by": "kez"}, "did you mean 'key'"),
        ({"mode": "complete", "sort_by": "key", "descending": [True, False]}, "2 values"),
        ({"name": "two words"}, "one word"),
    ],
)
def test_wrong_options_are_found_when_the_plan_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ParquetSink("out", **options).bind(SCHEMA, Append())


def test_names_of_outputs_come_from_the_path() -> None:
    assert ParquetSink("data/my words.parquet").name == "my_words"
    assert ParquetSink("2026-11").name == "_2026_11"
    assert parsed_roll(("1.5KB", "1m30s")) == parsed_roll((dt.timedelta(seconds=90), "1536B"))


def test_small_batches_become_one_file(tmp_path: Path) -> None:
    """A batch a second would be 86,400 files a day."""
    catalog = Catalog()
    with opened(ParquetSink(tmp_path / "out", roll="4KB")) as (sink, committer):
        catalog.register("output", committer.view)
        for batch in range(60):
            write(sink, batch, rows(a=batch), committer)
            assert run_sql("SELECT count(*), sum(value) FROM output", catalog).fetchall() == [
                (batch + 1, batch * (batch + 1) // 2)
            ]
        before = len(parquet_files(tmp_path / "out"))
        assert 1 <= before <= 15
        committer.flush()
        assert len(parquet_files(tmp_path / "out")) in (before, before + 1)
    assert pq.read_table(tmp_path / "out")["value"].to_pylist() == list(range(60))
    assert parquet_files(Home(tmp_path / "out").staging) == []


def test_rows_that_are_held_survive_a_crash(tmp_path: Path) -> None:
    """They were committed; the file they wait for comes from the next process."""
    crash(tmp_path, "ParquetSink(path, roll='1h')", batches=3, at="never")
    assert parquet_files(tmp_path / "out") == []
    with arrowstream.connect(tmp_path / "out") as outputs:
        assert outputs.sql("SELECT count(*) FROM out").fetchall() == [(3,)]
    with opened(ParquetSink(tmp_path / "out", roll="1h"), run="run") as (sink, committer):
        write(sink, 3, rows(a=3), committer)
        committer.flush()
    assert sorted(pq.read_table(tmp_path / "out")["value"].to_pylist()) == [0, 1, 2, 3]


CRASHES = {
    "while_staging": ("arrowstream.sinks._parquet_files.pq.write_table", False),
    "before_the_line": ("arrowstream.connectors.manifest.LogWriter.append", False),
    "after_the_line": ("arrowstream.connectors.manifest.LogWriter.append", True),
    "between_renames": ("os.replace", True),
    "after_a_merge": ("arrowstream.sinks._parquet_committer.ParquetCommitter._merged", True),
    "before_the_end": ("arrowstream.sinks._parquet_committer.ParquetCommitter._finish_moves", True),
    "never": ("os.nice", False),
}


def crash(tmp_path: Path, sink: str, batches: int, at: str, count: int = 1) -> None:
    """A process that writes batches 0, 1 ... and dies at the `count`-th call of something in the last one."""
    target, after = CRASHES[at]
    code = f"""
import importlib, os
from unittest import mock
from arrowstream.connectors.changes import Append, ChangeBatch
from arrowstream.sinks._parquet_files import NULL_PARTITION
from arrowstream.sinks.parquet import ParquetSink
from arrowstream.sinks import _parquet_committer
from arrowstream.testing.sink_suite import SCHEMA, rows
import pyarrow as pa

path = {str(tmp_path / "out")!r}
sink = ({sink}).bind(SCHEMA, Append())
committer = sink.committer("run")
real, calls = None, 0

def dying(*args, **options):
    global calls
    calls += 1
    if {after}:
        result = real(*args, **options)
    if calls == {count}:
        os._exit(9)
    return result if {after} else real(*args, **options)

for batch in range({batches}):
    if batch == {batches} - 1:
        from pkgutil import resolve_name
        owner, _, name = {target!r}.rpartition(".")
        owner = resolve_name(owner)
        real = getattr(owner, name)
        setattr(owner, name, dying)
    receipts = []
    for task in range(3):
        writer = sink.open(batch, f"{{task}}-0", SCHEMA)
        if task == 0 or batch:
            writer.write(ChangeBatch(pa.concat_tables([rows(a=batch), rows(b=batch)]) if task else rows(a=batch)))
        receipts.append(writer.finish())
    committer.commit(batch, receipts)
    if "roll='1B'" in {sink!r}:
        committer.flush()
os._exit(9)
"""
    if at == "never":
        code = code.replace("for task in range(3)", "for task in range(1)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize("options", ["", ", partition_by='key'", ", roll='1B'"], ids=["plain", "hive", "roll"])
@pytest.mark.parametrize("at", [at for at in CRASHES if at != "never"])
def test_killed_at_every_step(tmp_path: Path, at: str, options: str) -> None:
    """Batch 1 of three tasks is killed somewhere; whole files meanwhile, and in the end each row once."""
    if at == "after_a_merge" and "roll" not in options:
        pytest.skip("nothing is merged")
    crash(tmp_path, f"ParquetSink(path{options})", batches=2, at=at)
    with arrowstream.connect(tmp_path / "out") as outputs:
        assert outputs.sql("SELECT count(*) FROM out").fetchall() in ([(1,)], [(6,)])
    for reader in READERS.values():
        assert len(reader(tmp_path / "out")) in range(1, 7)
    sink = eval(f"ParquetSink(path{options})", {"ParquetSink": ParquetSink, "path": tmp_path / "out"})
    with opened(sink, run="run") as (bound, committer):
        assert committer.last_batch() in (0, 1)
        if committer.last_batch() == 1:
            assert len(committer.view().files) >= 1
        receipts = []
        for task in range(3):
            writer = bound.open(1, f"{task}-1", SCHEMA)
            writer.write(ChangeBatch(pa.concat_tables([rows(a=1), rows(b=1)]) if task else rows(a=1)))
            receipts.append(writer.finish())
        committer.commit(1, receipts)
        write(bound, 2, rows(c=2), committer)
        committer.flush()
    expected = [("a", 0), ("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1), ("c", 2)]
    for name, reader in READERS.items():
        read = reader(tmp_path / "out")
        assert sorted(zip(read["key"].to_pylist(), read["value"].to_pylist(), strict=True)) == expected, name
    assert not any(path.is_file() for path in Home(tmp_path / "out").staging.rglob("*"))


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_at_any_moment(tmp_path: Path, reader: str) -> None:
    """While batches are published and rolled: whole files, each row once, and none goes away."""
    seen: list[list[int]] = []
    done = threading.Event()
    with opened(ParquetSink(tmp_path / "out", roll="2KB", partition_by="key")) as (sink, committer):
        write(sink, 0, pa.concat_tables([rows(a=0), rows(b=0)]), committer)
        committer.flush()

        def look() -> None:
            while not done.is_set():
                seen.append(sorted(READERS[reader](tmp_path / "out")["value"].to_pylist()))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for batch in range(1, 60):
                write(sink, batch, rows(a=batch) if batch % 2 else rows(b=batch), committer)
            committer.flush()
        finally:
            done.set()
            thread.join()
    assert len(seen) > 1
    for earlier, later in itertools.pairwise(seen):
        assert set(earlier) <= set(later)
        assert len(later) == len(set(later)) + 1  # value 0 is there twice
    assert len(READERS[reader](tmp_path / "out")) == 61


def test_a_reader_of_a_file_that_is_replaced(tmp_path: Path) -> None:
    """mode='complete': whoever opens it sees one batch, whole."""
    sink = ParquetSink(tmp_path / "out", mode="complete").bind(SCHEMA, Upsert(("key",)))
    seen, done = set[tuple[int, int]](), threading.Event()
    with closing(sink.committer()) as committer:
        write(sink, 0, rows(**{f"k{i}": 0 for i in range(100)}), committer)

        def look() -> None:
            while not done.is_set():
                values = pq.read_table(tmp_path / "out")["value"].to_pylist()
                seen.add((len(values), len(set(values))))

        thread = threading.Thread(target=look)
        thread.start()
        for batch in range(1, 30):
            write(sink, batch, rows(**{f"k{i}": batch for i in range(100)}), committer)
        done.set()
        thread.join()
    assert seen == {(100, 1)}


def test_a_complete_table_is_sorted(tmp_path: Path) -> None:
    """A leader board: whoever opens the file finds the best on top."""
    sink = ParquetSink(tmp_path / "out", mode="complete", sort_by=["value", "key"], descending=[True, False])
    sink = sink.bind(SCHEMA, Upsert(("key",)))
    with closing(sink.committer()) as committer:
        write(sink, 0, rows(b=2, a=2, c=1), committer)
        assert pq.read_table(tmp_path / "out")["key"].to_pylist() == ["a", "b", "c"]
        write(sink, 1, rows(c=3), committer)
        assert pq.read_table(tmp_path / "out")["key"].to_pylist() == ["c", "a", "b"]


def test_connect_sees_whole_batches_from_another_process(tmp_path: Path) -> None:
    """Batches of three files; the log says which are whole."""
    code = f"""
import arrowstream
seen = []
with arrowstream.connect({str(tmp_path / "out")!r}) as outputs:
    while not seen or seen[-1] < 90:
        seen.append(outputs.sql("SELECT count(*) FROM out").fetchall()[0][0])
assert seen == sorted(seen) and not any(count % 3 for count in seen), seen
"""
    with opened(ParquetSink(tmp_path / "out")) as (sink, committer):
        process = None
        for batch in range(30):
            receipts = []
            for task in range(3):
                writer = sink.open(batch, f"{task}-0", SCHEMA)
                writer.write(ChangeBatch(rows(a=batch)))
                receipts.append(writer.finish())
            committer.commit(batch, receipts)
            process = process or subprocess.Popen([sys.executable, "-c", code])
        assert process is not None
        assert process.wait(60) == 0


def test_files_that_were_there_before_stay_and_count(tmp_path: Path) -> None:
    """A directory that Polars has written, and a retention job that deletes from it between runs."""
    (tmp_path / "out").mkdir()
    pl.DataFrame({"key": ["old"], "value": [1]}).write_parquet(tmp_path / "out/part-00000041-0.parquet")
    with opened(ParquetSink(tmp_path / "out")) as (sink, committer):
        write(sink, 0, rows(a=1), committer)
        assert parquet_files(tmp_path / "out") == ["part-00000041-0.parquet", "part-00000042-0.parquet"]
        assert len(committer.view().files) == 2
    (tmp_path / "out/part-00000041-0.parquet").unlink()
    with arrowstream.connect(tmp_path / "out") as outputs:
        assert outputs.sql("SELECT key FROM out").fetchall() == [("a",)]
    with opened(ParquetSink(tmp_path / "out")) as (sink, committer):
        assert len(committer.view().files) == 1


def test_columns_of_before_must_fit(tmp_path: Path) -> None:
    """A new version of the program: a new column is null in old rows, another type is refused."""
    with opened(ParquetSink(tmp_path / "out")) as (sink, committer):
        write(sink, 0, rows(a=1), committer)
    narrow = pa.schema([("key", pa.string_view()), ("value", pa.int32())])
    with pytest.raises(SinkError, match=r"column 'value' is int64 .* and int32 in the stream"):
        ParquetSink(tmp_path / "out").bind(narrow, Append()).committer()
    with pytest.raises(SinkError, match="partitioned by"):
        ParquetSink(tmp_path / "out", partition_by="key").bind(SCHEMA, Append()).committer()
    wider = SCHEMA.append(pa.field("more", pa.float64()))
    with opened(ParquetSink(tmp_path / "out"), wider) as (sink, committer):
        write(sink, 0, rows(b=2).append_column("more", pa.array([0.5])), committer)
    with arrowstream.connect(tmp_path / "out") as outputs:
        assert outputs.sql("FROM out ORDER BY key").fetchall() == [("a", 1, None), ("b", 2, 0.5)]


def test_two_sinks_on_one_directory(tmp_path: Path) -> None:
    """The second one is refused as long as the first is open, in this process and in others."""
    with opened(ParquetSink(tmp_path / "out")), pytest.raises(SinkError, match="another sink is writing"):
        ParquetSink(tmp_path / "out").bind(SCHEMA, Append()).committer()
    with opened(ParquetSink(tmp_path / "out")):
        pass


def test_a_torn_line_was_never_written(tmp_path: Path) -> None:
    """The power went while the last line was written."""
    with opened(ParquetSink(tmp_path / "out"), run="run") as (sink, committer):
        write(sink, 0, rows(a=1), committer)
    with Home(tmp_path / "out").log.open("ab") as log:
        log.write(b'{"run":"run","batch":1,"publ')
    with opened(ParquetSink(tmp_path / "out"), run="run") as (sink, committer):
        assert isinstance(committer, ParquetCommitter)
        assert committer.last_batch() == 0
        write(sink, 1, rows(b=1), committer)
    assert len(pq.read_table(tmp_path / "out")) == 2


def test_a_rename_that_fails_and_then_works(tmp_path: Path) -> None:
    """Something is in the way. The batch is committed already: asked again, it goes on and doubles nothing."""
    obstacle = tmp_path / "out" / "part-00000001-0.parquet"
    with opened(ParquetSink(tmp_path / "out")) as (sink, committer):
        write(sink, 0, rows(a=0), committer)
        obstacle.mkdir()
        with pytest.raises(SinkError, match="batch 1 could not be published"):
            write(sink, 1, rows(a=1), committer)
        assert len(committer.view().files) == 1
        obstacle.rmdir()
        write(sink, 1, rows(a=1), committer)
        write(sink, 2, rows(a=2), committer)
    assert pq.read_table(tmp_path / "out")["value"].to_pylist() == [0, 1, 2]


def test_a_table_that_could_not_be_replaced(tmp_path: Path) -> None:
    """mode='complete': the batch that failed is not in the next one twice."""
    sink = ParquetSink(tmp_path / "out", mode="complete").bind(SCHEMA, Retract())
    with closing(sink.committer()) as committer:
        write(sink, 0, rows(a=1), committer)
        obstacle = Home(tmp_path / "out").staging / "part-0.parquet"
        obstacle.mkdir()
        with pytest.raises(SinkError, match="batch 1 could not be written"):
            write(sink, 1, rows(b=2), committer)
        obstacle.rmdir()
        write(sink, 1, rows(b=2), committer)
    assert sorted(pq.read_table(tmp_path / "out")["key"].to_pylist()) == ["a", "b"]


def test_a_run_that_fails_between_the_log_and_the_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk goes away in the middle of a commit: the batch is in the log, so the next run must give it its files."""
    ctx = arrowstream.StreamingContext()
    ctx.read.rate(1000, rows=50).write.parquet(tmp_path / "out")
    link = os.link

    def gone(source: Path, target: Path) -> None:
        if Path(target).name.startswith("part-"):
            raise OSError("the disk is gone")
        link(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(os, "link", gone)
        with pytest.raises(SinkError, match="the disk is gone"):
            ctx.run(timeout=30)
    again = arrowstream.StreamingContext()
    again.read.rate(1000, rows=7).write.parquet(tmp_path / "out")
    again.run(timeout=30)
    assert pl.read_parquet(tmp_path / "out").height == 57
