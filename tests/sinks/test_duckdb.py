"""The DuckDB sink, read back by another process or another connection."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pytest

from arrowstream.catalog import Catalog
from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract, Upsert
from arrowstream.connectors.sink import Committer, Sink
from arrowstream.errors import ColumnError, PlanError, SinkError
from arrowstream.query import run_sql
from arrowstream.sinks.duckdb import DuckDBCommitter, DuckDBSink
from arrowstream.testing.sink_suite import SCHEMA, SinkSuite, rows


class TestDuckDBSink(SinkSuite):
    kinds = (Append(), Upsert(("key",)), Retract())
    refused = ("float16", "decimal256", "duration_ms", "duration_us", "duration_ns", "null")
    lock: Literal["hold", "release"] = "hold"

    def make(self, tmp_path: Path) -> DuckDBSink:
        return DuckDBSink(tmp_path / "out.duckdb", "output", lock=self.lock)

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table:
        assert isinstance(committer, DuckDBCommitter)
        table = committer.view().database
        assert table is not None
        with table.cursor() as cursor:
            return cursor.sql(f"FROM {table.qualified_name}").to_arrow_table()


class TestDuckDBSinkReleased(TestDuckDBSink):
    """Between batches another connection opens the file by itself."""

    lock: Literal["hold", "release"] = "release"

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table:
        with duckdb.connect(tmp_path / "out.duckdb", read_only=True) as connection:
            return connection.sql("FROM output").to_arrow_table()


def write(sink: Sink, batch_id: int, table: pa.Table, committer: Committer) -> None:
    writer = sink.open(batch_id, "0-0", table.schema)
    writer.write(ChangeBatch(table))
    committer.commit(batch_id, [writer.finish()])


def elsewhere(path: Path, statement: str) -> str:
    """What another process gets."""
    code = f"import duckdb; print(duckdb.connect({str(path)!r}, read_only=True).sql({statement!r}).fetchall())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_appended_rows_with_keys_are_upserted(tmp_path: Path) -> None:
    """Readings of devices: only the last of each is wanted."""
    sink = DuckDBSink(tmp_path / "out.duckdb", "last", keys=("key",)).bind(SCHEMA, Append())
    with closing(sink.committer()) as committer:
        write(sink, 0, pa.concat_tables([rows(a=1, b=2), rows(a=3)]), committer)
        write(sink, 1, rows(b=4), committer)
    assert elsewhere(tmp_path / "out.duckdb", "FROM last ORDER BY ALL") == "[('a', 3), ('b', 4)]"


def test_a_crash_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    """Killed after the rows and before COMMIT: neither the rows nor the number of the batch are there."""
    code = f"""
import os
from arrowstream.connectors.changes import Append, ChangeBatch
from arrowstream.sinks import _duckdb_table
from arrowstream.sinks.duckdb import DuckDBSink
from arrowstream.testing.sink_suite import SCHEMA, rows
sink = DuckDBSink({str(tmp_path / "out.duckdb")!r}, "output").bind(SCHEMA, Append())
committer = sink.committer("run")
for batch in range(2):
    writer = sink.open(batch, "0-0", SCHEMA)
    writer.write(ChangeBatch(rows(a=batch)))
    if batch == 1:
        _duckdb_table.DuckDBTable.remember = lambda *_: os._exit(9)
    committer.commit(batch, [writer.finish()])
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    sink = DuckDBSink(tmp_path / "out.duckdb", "output").bind(SCHEMA, Append())
    with closing(sink.committer("run")) as committer:
        assert committer.last_batch() == 0
        for batch in range(3):
            write(sink, batch, rows(a=batch), committer)
    assert elsewhere(tmp_path / "out.duckdb", "FROM output ORDER BY ALL") == "[('a', 0), ('a', 1), ('a', 2)]"


def test_a_table_that_is_there_must_fit(tmp_path: Path) -> None:
    """The error names the column and both types, before the first batch."""
    path = tmp_path / "out.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE narrow (key VARCHAR, value INTEGER)")
        connection.execute("CREATE TABLE short (key VARCHAR)")
        connection.execute("CREATE TABLE long (key VARCHAR, value BIGINT, more DATE)")
        connection.execute("CREATE TABLE turned (value BIGINT, key VARCHAR)")
    for table, message in (
        ("narrow", "column 'value' of table 'narrow' is INTEGER and of the stream BIGINT"),
        ("short", "no column 'value'"),
        ("long", "a column 'more'"),
    ):
        with pytest.raises(SinkError, match=message):
            DuckDBSink(path, table).bind(SCHEMA, Append()).committer()
    sink = DuckDBSink(path, "turned").bind(SCHEMA, Append())
    with closing(sink.committer()) as committer:
        write(sink, 0, rows(a=1), committer)
    assert elsewhere(path, "SELECT key, value FROM turned") == "[('a', 1)]"


def test_options_are_checked_when_the_plan_is_made(tmp_path: Path) -> None:
    with pytest.raises(ColumnError, match="did you mean 'key'"):
        DuckDBSink("x", "t", keys=("keys",)).bind(SCHEMA, Append())
    with pytest.raises(PlanError, match="one word"):
        DuckDBSink("x", "my table").bind(SCHEMA, Append())
    with pytest.raises(PlanError, match="leave keys= out"):
        DuckDBSink("x", "t", keys=("value",)).bind(SCHEMA, Upsert(("key",)))
    with pytest.raises(PlanError, match="would be lost"):
        DuckDBSink(":memory:", "t", lock="release").bind(SCHEMA, Append())


def test_a_file_that_another_process_holds(tmp_path: Path) -> None:
    """Somebody has the database open in a shell: the error says who."""
    path = tmp_path / "out.duckdb"
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        sink = DuckDBSink(path, "output").bind(SCHEMA, Append())
        with pytest.raises(SinkError, match=f"held by process {holder.pid}.*close it there"):
            sink.committer()
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database\n" * 1000)
    with pytest.raises(SinkError, match="not a valid DuckDB database"):
        DuckDBSink(tmp_path / "notes.txt", "output").bind(SCHEMA, Append()).committer()


def test_other_processes_read_between_batches(tmp_path: Path) -> None:
    """lock='release': a reader that tries again finds whole batches while the stream runs."""
    path = tmp_path / "out.duckdb"
    sink = DuckDBSink(path, "output", lock="release").bind(SCHEMA, Append())
    code = f"""
import duckdb
seen = []
while not seen or seen[-1] < 120:
    try:
        with duckdb.connect({str(path)!r}, read_only=True) as connection:
            seen += connection.execute("SELECT count(*) FROM output").fetchone()
    except (duckdb.IOException, duckdb.CatalogException):
        pass
assert seen == sorted(seen) and not any(count % 3 for count in seen)
print(len(set(seen)))
"""
    with closing(sink.committer()) as committer:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
            for batch in range(40):
                write(sink, batch, rows(a=1, b=2, c=3), committer)
                time.sleep(0.03)
            assert reader.stdout is not None
            assert int(reader.stdout.read()) > 1
        assert reader.returncode == 0


def test_a_held_file_stays_locked_whatever_others_look_at(tmp_path: Path) -> None:
    """POSIX locks go away when the process closes any descriptor of the file; nothing of ours may do that."""
    import arrowstream

    path = tmp_path / "out.duckdb"
    sink = DuckDBSink(path, "output").bind(SCHEMA, Append())
    with closing(sink.committer()) as committer:
        write(sink, 0, rows(a=1), committer)
        with arrowstream.connect(tmp_path) as here:
            assert here.sql("FROM output").fetchall() == [("a", 1)]
        assert "Conflicting lock" in elsewhere(path, "FROM output")
    assert elsewhere(path, "FROM output") == "[('a', 1)]"


@pytest.mark.parametrize("kind", [Append(), Upsert(("key",))], ids=["append", "upsert"])
def test_complete_begins_every_run_with_an_empty_table(tmp_path: Path, kind: ChangeKind) -> None:
    """A result and nothing else; a run that is resumed goes on with its own."""
    path = tmp_path / "out.duckdb"
    sink = DuckDBSink(path, "output", mode="complete").bind(SCHEMA, kind)
    for run, expected in (("one", "[('a', 1)]"), ("two", "[('b', 2)]")):
        with closing(sink.committer(run)) as committer:
            write(sink, 0, rows(**({"a": 1} if run == "one" else {"b": 2})), committer)
        assert elsewhere(path, "FROM output ORDER BY ALL") == expected
    with closing(sink.committer("two")) as committer:
        write(sink, 1, rows(c=3), committer)
    assert elsewhere(path, "FROM output ORDER BY ALL") == "[('b', 2), ('c', 3)]"


def test_one_query_over_two_files_and_a_database_in_memory(tmp_path: Path) -> None:
    """The outputs of a context are tables of one database to whoever asks; also when it has stopped."""
    catalog, committers = Catalog(), []
    paths = [str(tmp_path / "a.duckdb"), str(tmp_path / "b.duckdb"), str(tmp_path / "b.duckdb"), ":memory:"]
    for number, path in enumerate(paths):
        sink = DuckDBSink(path, f"t{number}").bind(SCHEMA, Append())
        committer = sink.committer()
        write(sink, 0, rows(a=number), committer)
        catalog.register(sink.name, committer.view)
        committers.append(committer)
    joins = " ".join(f"JOIN t{number} USING (key)" for number in range(1, 4))
    statement = f"SELECT t0.value, t1.value, t2.value, t3.value FROM t0 {joins}"
    assert run_sql(statement, catalog).fetchall() == [(0, 1, 2, 3)]
    for committer in committers:
        committer.close()
    assert run_sql(statement, catalog).fetchall() == [(0, 1, 2, 3)]


def test_queries_see_two_databases_at_one_instant(tmp_path: Path) -> None:
    """Batches go into two files one after the other; a query never sees the one without the other."""
    instant, catalog, committers = threading.RLock(), Catalog(), []
    sinks = [
        DuckDBSink(tmp_path / f"{name}.duckdb", name).bind(SCHEMA, Append()) for name in ("left_side", "right_side")
    ]
    for sink in sinks:
        committers.append(sink.committer())
        catalog.register(sink.name, committers[-1].view)
    done, seen = threading.Event(), list[tuple[int, int]]()

    def look() -> None:
        while not done.is_set():
            statement = "SELECT (SELECT count(*) FROM left_side), (SELECT count(*) FROM right_side)"
            seen.extend(run_sql(statement, catalog, instant))

    reader = threading.Thread(target=look)
    reader.start()
    for batch in range(25):
        with instant:
            for sink, committer in zip(sinks, committers, strict=True):
                write(sink, batch, rows(a=batch), committer)
        time.sleep(0.002)
    done.set()
    reader.join()
    assert seen
    assert all(left == right for left, right in seen)
    for committer in committers:
        committer.close()


@pytest.mark.parametrize("path", ["out.duckdb", ":memory:"])
def test_a_process_that_ends_without_a_stop_is_silent(tmp_path: Path, path: str) -> None:
    """A script without `ctx.stop()`: what was committed stays, and nothing is printed at the end."""
    code = f"""
from arrowstream.connectors.changes import Append, ChangeBatch
from arrowstream.sinks.duckdb import DuckDBSink
from arrowstream.testing.sink_suite import SCHEMA, rows
sink = DuckDBSink({path!r}, "output").bind(SCHEMA, Append())
committer = sink.committer()
writer = sink.open(0, "0-0", SCHEMA)
writer.write(ChangeBatch(rows(a=1)))
committer.commit(0, [writer.finish()])
if {path!r} == ":memory:":
    committer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if path != ":memory:":
        assert elsewhere(tmp_path / path, "FROM output") == "[('a', 1)]"
