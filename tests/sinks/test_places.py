"""Where outputs lie, and what happens to them: two runs, other people's files, full disks, rows that are refused."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

import arrowstream as ars
from arrowstream.connectors.changes import Append, ChangeBatch
from arrowstream.connectors.manifest import Home
from arrowstream.connectors.sink import Committer, Receipt, Sink
from arrowstream.connectors.space import PAUSE
from arrowstream.errors import SinkError
from arrowstream.sinks.duckdb import DuckDBSink
from arrowstream.sinks.parquet import ParquetSink
from arrowstream.testing.sink_suite import SCHEMA, rows

MODES = ("append", "complete")


def write(sink: Sink, committer: Committer, batch: int, table: pa.Table) -> Receipt:
    writer = sink.open(batch, "0-0", table.schema)
    writer.write(ChangeBatch(table))
    receipt = writer.finish()
    committer.commit(batch, [receipt])
    return receipt


@pytest.mark.parametrize("mode", MODES)
def test_a_directory_has_one_sink_whatever_it_is_called(tmp_path: Path, mode: str) -> None:
    """Through a symbolic link two runs would write files of equal names: the second does not start."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first = ParquetSink(tmp_path / "real" / "out", mode=mode).bind(SCHEMA, Append())  # type: ignore[arg-type]
    second = ParquetSink(tmp_path / "link" / "out").bind(SCHEMA, Append())
    with closing(first.committer()), pytest.raises(SinkError, match="another sink is writing"):
        second.committer()
    second.committer().close()


@pytest.mark.parametrize("lock", ["hold", "release"])
def test_a_table_has_one_sink(tmp_path: Path, lock: str) -> None:
    """Two runs on one table, in one process or in two: the second does not start, and another table is another."""
    (tmp_path / "link.duckdb").symlink_to(tmp_path / "out.duckdb")
    first = DuckDBSink(tmp_path / "out.duckdb", "t", lock=lock).bind(SCHEMA, Append())  # type: ignore[arg-type]
    other = DuckDBSink(tmp_path / "out.duckdb", "u", lock=lock).bind(SCHEMA, Append())  # type: ignore[arg-type]
    with closing(first.committer()), closing(other.committer()):
        with pytest.raises(SinkError, match="another sink is writing to the table 't'"):
            DuckDBSink(tmp_path / "link.duckdb", "t").bind(SCHEMA, Append()).committer()
        code = (
            "import sys\nfrom arrowstream.sinks.duckdb import DuckDBSink\n"
            "from arrowstream.connectors.changes import Append\n"
            "from arrowstream.testing.sink_suite import SCHEMA\n"
            "DuckDBSink(sys.argv[1], 't', lock='release').bind(SCHEMA, Append()).committer()"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "out.duckdb"], capture_output=True, text=True)
        assert "another sink is writing to the table 't'" in done.stderr


def test_no_output_lies_within_another(tmp_path: Path) -> None:
    """Readers of a Parquet directory take every file below it."""
    outer, inner = (ParquetSink(tmp_path / name).bind(SCHEMA, Append()) for name in ("out", "out/in"))
    with closing(outer.committer()):
        for within in (inner, DuckDBSink(tmp_path / "out" / "x.duckdb", "t").bind(SCHEMA, Append())):
            with pytest.raises(SinkError, match="lies within the Parquet output"):
                within.committer()
    shutil.rmtree(tmp_path / ".out.arrowstream")
    with closing(inner.committer()), pytest.raises(SinkError, match=r"another output, .*/out/in', lies within"):
        outer.committer()


@pytest.mark.parametrize("what", ["out", ".out.arrowstream"])
def test_a_directory_that_is_deleted_ends_the_run(tmp_path: Path, what: str) -> None:
    """Somebody tidies up: the next batch says so, rather than write where nobody looks."""
    sink = ParquetSink(tmp_path / "out").bind(SCHEMA, Append())
    with closing(sink.committer()) as committer:
        write(sink, committer, 0, rows(a=1))
        shutil.rmtree(tmp_path / what)
        with pytest.raises(SinkError, match=r"was deleted|was replaced"):
            write(sink, committer, 1, rows(b=2))


@pytest.mark.parametrize("lock", ["hold", "release"])
def test_a_database_that_is_deleted_ends_the_run(tmp_path: Path, lock: str) -> None:
    sink = DuckDBSink(tmp_path / "out.duckdb", "t", lock=lock).bind(SCHEMA, Append())  # type: ignore[arg-type]
    with closing(sink.committer()) as committer:
        write(sink, committer, 0, rows(a=1))
        (tmp_path / "out.duckdb").unlink()
        with pytest.raises(SinkError, match=r"the database .* was deleted"):
            write(sink, committer, 1, rows(b=2))


def test_a_name_that_is_taken_is_not_replaced(tmp_path: Path) -> None:
    """Another program puts a file under the very name that comes next."""
    sink = ParquetSink(tmp_path / "out").bind(SCHEMA, Append())
    taken = tmp_path / "out" / "part-00000000-0.parquet"
    with closing(sink.committer()) as committer:
        taken.write_bytes(b"theirs")
        with pytest.raises(SinkError, match="is there already"):
            write(sink, committer, 0, rows(a=1))
        assert taken.read_bytes() == b"theirs"
        taken.unlink()
        write(sink, committer, 1, rows(b=2))
    assert sorted(pl.read_parquet(tmp_path / "out")["key"]) == ["a", "b"]


def test_what_is_wrong_in_the_directory_is_said_at_the_start(tmp_path: Path) -> None:
    """A damaged line of the log, a file that is no Parquet, one with another type: with its path, before a batch."""
    sink = ParquetSink(tmp_path / "out").bind(SCHEMA, Append())
    with closing(sink.committer()) as committer:
        write(sink, committer, 0, rows(a=1))
    pl.DataFrame({"key": ["x"], "value": ["words"]}).write_parquet(tmp_path / "out" / "theirs.parquet")
    with pytest.raises(SinkError, match=r"theirs\.parquet.* column 'value' as .*string.* int64"):
        sink.committer()
    (tmp_path / "out" / "theirs.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(SinkError, match=r"theirs\.parquet.* is no whole Parquet file"):
        sink.committer()
    (tmp_path / "out" / "theirs.parquet").unlink()
    log = Home(tmp_path / "out").log
    log.write_bytes(b'{"batch": nonsense}\n' + log.read_bytes())
    with pytest.raises(SinkError, match=r"line 1 of '.*\.out\.arrowstream/log' is damaged"):
        sink.committer()


def test_a_batch_under_a_number_that_is_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same call again is no news; other rows under an old number are not written, and not silently."""
    for sink in (
        ParquetSink(tmp_path / "out").bind(SCHEMA, Append()),
        ParquetSink(tmp_path / "whole", mode="complete").bind(SCHEMA, Append()),
        DuckDBSink(tmp_path / "out.duckdb", "t").bind(SCHEMA, Append()),
    ):
        caplog.clear()
        with closing(sink.committer()) as committer:
            receipt = write(sink, committer, 0, rows(a=1))
            committer.commit(0, [receipt])
            assert not caplog.records
            write(sink, committer, 0, rows(b=2, c=3))
            assert "batch 0 is not written" in caplog.text
            assert "2 rows" in caplog.text


# --- another run


@pytest.mark.parametrize("options", [{}, {"roll": "1h"}, {"partition_by": "key"}])
def test_overwrite_takes_the_place_of_an_earlier_run(tmp_path: Path, options: dict[str, str]) -> None:
    """The nightly run over the same files; a run that is resumed goes on with its own rows."""
    (tmp_path / "out").mkdir()
    pl.DataFrame({"key": ["theirs"], "value": [0]}).write_parquet(tmp_path / "out" / "theirs.parquet")
    sink = ParquetSink(tmp_path / "out", mode="overwrite", **options).bind(SCHEMA, Append())  # type: ignore[arg-type]
    for run in ("one", "two"):
        with closing(sink.committer(run)) as committer:
            write(sink, committer, 0, rows(a=1))
        with closing(sink.committer(run)) as committer:
            write(sink, committer, 1, rows(b=2))
            committer.flush()
    found = pl.read_parquet(tmp_path / "out", hive_partitioning=True).select("key", "value")
    assert sorted(found.rows()) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("to", ["parquet", "duckdb"])
def test_a_second_run_over_the_same_rows_is_warned_of(
    tmp_path: Path, to: str, caplog: pytest.LogCaptureFixture
) -> None:
    """801 rows become 1,602 without a word; with mode="overwrite" they stay 801."""
    pl.DataFrame({"n": range(801)}).write_parquet(tmp_path / "in.parquet")

    def run(mode: str | None) -> list[str]:
        ctx = ars.StreamingContext("50ms")
        numbers = ctx.read.parquet(tmp_path / "in.parquet")
        options = {} if mode is None else {"mode": mode}
        if to == "parquet":
            numbers.write.parquet(tmp_path / "out", **options)  # type: ignore[arg-type]
        else:
            numbers.write.duckdb(tmp_path / "x.duckdb", "out", **options)  # type: ignore[arg-type]
        ctx.run(timeout=60)
        counted.append(ctx.sql("SELECT count(*) FROM out").fetchall()[0][0])
        return [note for note in ctx.progress.notes if "earlier runs" in note]

    counted: list[int] = []
    caplog.set_level(logging.WARNING)
    assert run(None) == []
    (note,) = run(None)
    assert "output out holds 801 rows of earlier runs" in note
    assert "mode='overwrite'" in caplog.text
    assert run("overwrite") == []
    assert counted == [801, 1602, 801]


# --- rows that are refused


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("CREATE TABLE t(id BIGINT PRIMARY KEY, name VARCHAR)", "uplicate key"),
        ("CREATE TABLE t(id BIGINT, name VARCHAR CHECK (name <> 'n7'))", "CHECK constraint failed"),
        ("CREATE TABLE t(id BIGINT, name VARCHAR NOT NULL)", "NOT NULL constraint failed"),
    ],
)
def test_a_row_that_a_constraint_forbids_is_a_dead_letter(tmp_path: Path, table: str, reason: str) -> None:
    """The other rows of the batch are written, and the run goes on."""
    with duckdb.connect(tmp_path / "x.duckdb") as connection:
        connection.execute(table)
    with ars.StreamingContext("50ms") as ctx:
        frame = ctx.read.memory({"id": pl.Int64, "name": pl.String})
        frame.write.duckdb(tmp_path / "x.duckdb", "t")
        ctx.start()
        frame.source.send(pl.DataFrame({"id": [0, *range(50)], "name": ["n7", *(f"n{i}" for i in range(49)), None]}))
        ctx.process_all_available(30)
        frame.source.send([{"id": 100, "name": "later"}])
        ctx.process_all_available(30)
        letters = ctx.sql("SELECT operator, reason, decode(raw) FROM dead_letters").fetchall()
        (rows_there,) = ctx.sql("SELECT count(*) FROM t").fetchall()
        assert rows_there[0] + len(letters) == 52
        assert 1 <= len(letters) <= 2
        assert all(operator == "output t" and reason in said and '"id"' in raw for operator, said, raw in letters)


def test_a_target_that_refuses_everything_ends_the_run(tmp_path: Path) -> None:
    """Thousands of refused rows are no bad rows but a table that does not fit: the error is the constraint's."""
    with duckdb.connect(tmp_path / "x.duckdb") as connection:
        connection.execute("CREATE TABLE t(key VARCHAR, value BIGINT CHECK (value < 0))")
    sink = DuckDBSink(tmp_path / "x.duckdb", "t").bind(SCHEMA, Append())
    with closing(sink.committer()) as committer, pytest.raises(SinkError, match="CHECK constraint failed"):
        write(sink, committer, 0, rows(**{f"k{i}": i for i in range(1000)}))


def test_a_partition_value_that_no_directory_can_have(tmp_path: Path) -> None:
    """A text of 300 characters, and Hive's word for null: dead letters, and the rest is written."""
    with ars.StreamingContext("50ms") as ctx:
        frame = ctx.read.memory({"word": pl.String, "n": pl.Int64})
        frame.write.parquet(tmp_path / "out", partition_by="word")
        ctx.start()
        words = ["good", "x" * 300, "__HIVE_DEFAULT_PARTITION__"]
        frame.source.send([{"word": word, "n": n} for n, word in enumerate(words)])
        ctx.process_all_available(30)
        assert ctx.sql("SELECT word FROM out").fetchall() == [("good",)]
        reasons = [row[0] for row in ctx.sql("SELECT reason FROM dead_letters ORDER BY reason").fetchall()]
        assert len(reasons) == 2
        assert "too long" in reasons[0]
        assert "cannot be told from a null" in reasons[1]


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a file system is mounted by root")
@pytest.mark.parametrize("to", ["append", "roll", "complete", "hold", "release"])
def test_a_full_disk_is_waited_for(small_disk: Path, to: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says which path and how much is missing; when there is room it goes on, and no row is lost or doubled."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_750_000))
    freed = threading.Event()

    class Frees(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is full" in record.getMessage() and not freed.is_set():
                freed.set()
                threading.Timer(PAUSE, ballast.unlink).start()

    handler = Frees()
    logging.getLogger("arrowstream").addHandler(handler)
    try:
        ctx = ars.StreamingContext("50ms")
        numbers = ctx.read.memory({"k": pl.Int64, "x": pl.Float64})
        match to:
            case "hold" | "release":
                numbers.write.duckdb(small_disk / "x.duckdb", "out", lock=to)
            case "roll":
                numbers.write.parquet(small_disk / "out", roll="1h")
            case _:
                numbers.write.parquet(small_disk / "out", mode=to, compression="none")  # type: ignore[arg-type]
        ctx.start()
        for first in (0, 20_000, 40_000):
            some = pl.DataFrame({"k": range(first, first + 20_000)}).with_columns(x=pl.col("k").hash().cast(pl.Float64))
            numbers.source.send(some)
        ctx.process_all_available(60)
        assert freed.is_set()
        assert ctx.sql("SELECT count(*), count(DISTINCT k) FROM out").fetchall() == [(60_000, 60_000)]
        ctx.stop()
    finally:
        logging.getLogger("arrowstream").removeHandler(handler)
    assert "MB are to be written" in caplog.text
    assert str(small_disk) in caplog.text
