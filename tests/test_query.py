"""SQL over the outputs, snapshots, and connecting from outside."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

import arrowstream
from arrowstream.catalog import Catalog
from arrowstream.connectors.changes import Append, ChangeBatch
from arrowstream.connectors.sink import Sink
from arrowstream.connectors.view import DatabaseTable, TableView
from arrowstream.errors import PlanError, QueryError
from arrowstream.query import run_sql, tables_used
from arrowstream.sinks.duckdb import DuckDBSink
from arrowstream.sinks.parquet import ParquetSink
from arrowstream.testing.sink_suite import SCHEMA, rows


def catalog_of(**tables: pa.Table | pl.DataFrame) -> Catalog:
    catalog = Catalog()
    for name, table in tables.items():
        arrow = table.to_arrow(compat_level=pl.CompatLevel.newest()) if isinstance(table, pl.DataFrame) else table
        catalog.register(name, partial(TableView, arrow.schema, rows=(arrow,)))
    return catalog


def write(sink: Sink, *tables: pa.Table) -> None:
    bound = sink.bind(tables[0].schema, Append())
    committer = bound.committer()
    for batch_id, table in enumerate(tables):
        writer = bound.open(batch_id, "0-0", table.schema)
        writer.write(ChangeBatch(table))
        committer.commit(batch_id, [writer.finish()])
    committer.close()


COUNTS = pl.DataFrame({"word": ["a", "b", "c"], "count": [3, 1, 2]})


# --- statements


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM counts",
        "FROM counts SELECT count(*);",
        "WITH c AS (FROM counts) SELECT count(*) FROM c -- counts",
        'SELECT count(*) FROM "Counts"',
        "SELECT count(*) FROM (SELECT * FROM counts QUALIFY row_number() OVER (ORDER BY word) < 9)",
    ],
)
def test_statements_that_read(statement: str) -> None:
    assert run_sql(statement, catalog_of(counts=COUNTS)).fetchall() == [(3,)]


def test_statements_that_describe() -> None:
    catalog = catalog_of(counts=COUNTS, others=COUNTS)
    assert run_sql("DESCRIBE counts", catalog).pl()["column_type"].to_list() == ["VARCHAR", "BIGINT"]
    assert run_sql("SUMMARIZE counts", catalog).pl()["count"].to_list() == [3, 3]
    assert run_sql("SHOW TABLES", catalog).fetchall() == [("counts",), ("others",)]
    assert len(run_sql("EXPLAIN ANALYZE SELECT * FROM counts", catalog)) == 1
    assert len(run_sql("/* how? */ EXPLAIN SELECT * FROM counts", catalog)) == 1
    assert run_sql("PIVOT counts ON word USING sum(count)", catalog).columns == ["a", "b", "c"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO counts VALUES ('d', 1)",
        "WITH x AS (SELECT 1) DELETE FROM counts",
        "DROP TABLE counts",
        "CREATE TABLE more AS FROM counts",
        "COPY counts TO 'counts.csv'",
        "ATTACH 'x.duckdb'",
        "SET threads = 1",
        "PRAGMA threads = 1",
        "EXPLAIN ANALYZE INSERT INTO counts VALUES ('d', 1)",
        "BEGIN",
    ],
)
def test_statements_that_write_are_refused(statement: str) -> None:
    """The outputs belong to the stream; its files and tables stay as they were committed."""
    with pytest.raises(QueryError, match="can be read, not changed"):
        run_sql(statement, catalog_of(counts=COUNTS))


def test_errors_say_what_would_work() -> None:
    catalog = catalog_of(counts=COUNTS, prices=COUNTS)
    with pytest.raises(QueryError, match="no table 'count'; there are: counts, prices"):
        run_sql("SELECT * FROM count", catalog)
    with pytest.raises(QueryError, match='"wort" not found'):
        run_sql("SELECT wort FROM counts", catalog)
    with pytest.raises(QueryError, match="syntax error"):
        run_sql("SELEC 1", catalog)
    with pytest.raises(QueryError, match="one statement at a time, and this has 2"):
        run_sql("SELECT 1; SELECT 2", catalog)
    with pytest.raises(QueryError, match="one statement at a time, and this has 0"):
        run_sql(" ", catalog)
    with pytest.raises(QueryError, match="nothing has been written yet"):
        run_sql("SELECT * FROM counts", Catalog())


def test_a_variable_of_ours_is_no_table() -> None:
    """DuckDB would find the caller's frames by the names of its variables."""
    with pytest.raises(QueryError, match="no table 'views'"):
        run_sql("SELECT * FROM views", catalog_of(counts=COUNTS))


def test_only_tables_that_are_used_are_looked_at() -> None:
    names = ["counts", "Prices", "other"]
    assert tables_used("SELECT * FROM counts JOIN prices USING (word)", names) == ["counts", "Prices"]
    assert tables_used("SELECT 'other' FROM counts", names) == ["counts"]
    assert tables_used("EXPLAIN SELECT * FROM other", names) == ["other"]
    assert tables_used("SHOW TABLES", names) == names


def test_names_differ_in_more_than_case() -> None:
    with pytest.raises(PlanError, match="an output 'counts' already"):
        catalog_of(counts=COUNTS).register("COUNTS", lambda: TableView(SCHEMA))


# --- views


def test_one_query_over_memory_files_and_foreign_databases(tmp_path: Path) -> None:
    """An output may be anything; a third party's may live in a DuckDB instance of its own."""
    COUNTS.write_parquet(tmp_path / "part.parquet")
    schema = COUNTS.to_arrow(compat_level=pl.CompatLevel.newest()).schema
    files = (str(tmp_path / "part.parquet"),)
    foreign = duckdb.connect()
    foreign.execute("CREATE TABLE t AS SELECT 'a' AS word, 10::BIGINT AS count")

    @contextmanager
    def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
        with foreign.cursor() as own:
            yield own

    catalog = catalog_of(memory=COUNTS)
    held = pa.table({"word": ["held"], "count": [5]}).cast(schema)
    catalog.register("files", lambda: TableView(schema, rows=(held,), files=files))
    catalog.register("foreign_one", lambda: TableView(schema, database=DatabaseTable("", "t", cursor)))
    write(DuckDBSink(tmp_path / "own.duckdb", "own"), pa.table({"word": ["a"], "count": [100]}))
    own = arrowstream.connect(tmp_path / "own.duckdb")._catalog()
    catalog.register("own", lambda: own.view("own"))
    answer = run_sql(
        "SELECT memory.count + files.count + foreign_one.count + own.count FROM memory JOIN files USING (word) "
        "JOIN own USING (word) JOIN foreign_one USING (word)",
        catalog,
    )
    assert answer.fetchall() == [(116,)]
    assert run_sql("SELECT sum(count) FROM files", catalog).fetchone() == (11,)
    foreign.close()


def test_types_come_back_as_polars_knows_them(tmp_path: Path) -> None:
    """Through memory and through files alike: durations, zones, categories, times, unsigned and nested."""
    frame = pl.DataFrame(
        {
            "span": [dt.timedelta(days=40, microseconds=1), -dt.timedelta(hours=1), None],
            "zone": pl.Series([dt.datetime(2026, 7, 1)] * 3, dtype=pl.Datetime("us", "Europe/Berlin")),
            "kind": pl.Series(["x", None, "y"], dtype=pl.Categorical),
            "time": [dt.time(1, 2, 3), None, None],
            "id": pl.Series([2**64 - 1, 0, None], dtype=pl.UInt64),
            "nested": [[{"a": 1}], [], None],
        }
    )
    table = frame.to_arrow(compat_level=pl.CompatLevel.newest())
    write(ParquetSink(tmp_path / "files"), table)
    with arrowstream.connect(tmp_path / "files") as outputs:
        for found in (run_sql("FROM memory", catalog_of(memory=frame)).pl(), outputs.sql("FROM files").pl()):
            expected = frame.with_columns(frame["zone"].dt.convert_time_zone("UTC"), frame["kind"].cast(pl.String))
            assert found.equals(expected)


def test_all_outputs_are_of_one_instant() -> None:
    """Views are taken while no batch commits, and the lock is let go before the query runs."""
    instant, states = threading.Lock(), list[bool]()
    catalog = Catalog()
    table = pa.table({"x": [1]})

    def view() -> TableView:
        states.append(instant.locked())
        return TableView(table.schema, rows=(table,))

    catalog.register("one", view)
    catalog.register("two", view)
    assert run_sql("SELECT one.x FROM one, two", catalog, instant).fetchall() == [(1,)]
    assert states == [True, True]
    assert not instant.locked()


# --- snapshots


def test_a_snapshot_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_sql("SELECT * FROM counts ORDER BY word", catalog_of(counts=COUNTS))
    assert answer.pl().equals(COUNTS)
    assert answer.df()["count"].tolist() == [3, 1, 2]
    assert answer.to_arrow_table().num_rows == len(answer) == 3
    assert answer.fetchall() == list(answer) == COUNTS.rows()
    assert answer.fetchone() == answer.fetchone() == ("a", 3)
    assert answer.columns == ["word", "count"]
    assert "│ a    │     3 │" in repr(answer)
    assert "3 rows" in answer._repr_html_()
    answer.show(rows=1)
    assert capsys.readouterr().out.endswith("… 2 more rows\n")


def test_columns_of_equal_names_are_told_apart() -> None:
    answer = run_sql("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a", Catalog())
    assert len(set(answer.columns)) == 4
    assert answer.columns[0] == "a"
    assert answer.pl().row(0) == (1, 2, 3, 4)


def test_intervals_with_months_are_no_durations() -> None:
    answer = run_sql("SELECT INTERVAL 1 MONTH AS step", Catalog())
    with pytest.raises(QueryError, match=r"column .step. of type .* holds intervals with months"):
        answer.pl()
    assert len(answer.fetchall()) == 1


# --- connect


def test_connect_to_a_directory_of_several_outputs(tmp_path: Path) -> None:
    """What a context with three sinks leaves behind."""
    write(ParquetSink(tmp_path / "words"), rows(a=1))
    write(ParquetSink(tmp_path / "by_key", partition_by="key"), rows(a=1, b=2))
    write(DuckDBSink(tmp_path / "more.duckdb", "counts"), rows(c=3))
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "words" / "unknown.parquet")
    with arrowstream.connect(tmp_path) as outputs:
        assert sorted(outputs.tables) == ["by_key", "counts", "words"]
        assert outputs.sql("FROM words").fetchall() == [("a", 1)]  # by the log
        assert outputs.sql("FROM by_key ORDER BY value").fetchall() == [("a", 1), ("b", 2)]
        assert "counts" in repr(outputs)
    with pytest.raises(QueryError, match="is closed"):
        outputs.sql("FROM words")


def test_connect_to_files_without_a_log(tmp_path: Path) -> None:
    """A directory that was copied elsewhere: all whole files."""
    write(ParquetSink(tmp_path / "words", partition_by="key"), rows(a=1), rows(b=2))
    (tmp_path / "words").rename(tmp_path / "copied")
    with arrowstream.connect(tmp_path / "copied") as outputs:
        assert outputs.sql("SELECT key, value FROM copied ORDER BY value").fetchall() == [("a", 1), ("b", 2)]


def test_connect_leaves_out_what_is_held(tmp_path: Path) -> None:
    """One sink of a running context holds its file: the others can be read, and the error says why not all."""
    write(ParquetSink(tmp_path / "words"), rows(a=1))
    path = str(tmp_path / "held.duckdb")
    code = f"import duckdb, sys; c = duckdb.connect({path!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        with arrowstream.connect(tmp_path) as outputs:
            assert outputs.sql("FROM words").fetchall() == [("a", 1)]
            with pytest.raises(QueryError, match="no table 'counts'") as missing:
                outputs.sql("FROM counts")
        assert f"held by process {holder.pid}" in missing.value.__notes__[0]
        with pytest.raises(QueryError, match="lock='release'"):
            arrowstream.connect(path)
        holder.stdin.close()


def test_connect_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="nothing at"):
        arrowstream.connect(tmp_path / "nowhere")
    with pytest.raises(QueryError, match="neither Parquet files nor DuckDB tables"):
        arrowstream.connect(tmp_path)
    (tmp_path / "notes.db").write_text("text " * 5000)
    with pytest.raises(QueryError, match="not a valid DuckDB database"):
        arrowstream.connect(tmp_path / "notes.db")
