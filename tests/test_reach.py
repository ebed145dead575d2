"""What statements over outputs can reach: the outputs, and nothing else that the process can."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner

import arrowstream as ars
from arrowstream.catalog import Catalog
from arrowstream.cli import main
from arrowstream.errors import ArrowStreamError, QueryError
from arrowstream.export import write_csv, write_json
from arrowstream.query import run_sql

READS = (
    "FROM read_text('secret.txt')",
    "FROM read_blob('/etc/passwd')",
    "FROM glob('*')",
    "FROM 'foreign.parquet'",
    "FROM 'foreign.csv'",
    "FROM read_csv('foreign.csv')",
    "FROM read_json('secret.txt')",
    "FROM sniff_csv('foreign.csv')",
    "FROM parquet_metadata('foreign.parquet')",
    "FROM read_parquet('http://127.0.0.1:1/x.parquet')",
    "FROM 'http://127.0.0.1:1/x.csv'",
    "FROM read_text('files/../secret.txt')",
    "FROM query('FROM read_text(''secret.txt'')')",
    "WITH x AS (FROM read_text('secret.txt')) FROM x",
    "SELECT (SELECT content FROM read_text('secret.txt'))",
    "PIVOT (FROM 'foreign.csv') ON a USING count(*)",
    "SUMMARIZE 'foreign.parquet'",
    "DESCRIBE FROM 'foreign.parquet'",
    "((FROM read_text('secret.txt')))",
    "EXPLAIN ANALYZE FROM read_text('secret.txt')",
    "FROM read_duckdb('other.duckdb', table_name='t')",
    "SELECT getenv('HOME')",
    "FROM outputs",
)
WRITES = (
    "COPY tab TO 'out.csv'",
    "EXPLAIN ANALYZE COPY tab TO 'out.csv'",
    "/*x*/ EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'",
    "EXPLAIN /*y*/ ANALYZE -- z\n COPY tab TO 'out.csv'",
    "EXPLAIN (ANALYZE) COPY tab TO 'out.csv'",
    "EXPLAIN (FORMAT json, ANALYZE) COPY tab TO 'out.csv'",
    "COPY (PIVOT (SELECT 1 a, 2 b) ON a USING sum(b)) TO 'out.csv'",
    "EXPLAIN ANALYZE COPY (PIVOT (SELECT 1 a, 2 b) ON a USING sum(b)) TO 'out.csv'",
    "/* a */ (COPY tab TO 'out.csv')",
    "SELECT 1; COPY tab TO 'out.csv'",
    "EXPORT DATABASE 'exported'",
    "ATTACH 'new.duckdb'",
    "EXPLAIN ANALYZE ATTACH 'new.duckdb'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE VIEW v AS FROM 'foreign.parquet'",
    "CREATE MACRO m() AS TABLE FROM read_text('secret.txt')",
    "INSERT INTO tab VALUES (9, 'z')",
    "EXPLAIN ANALYZE INSERT INTO tab VALUES (9, 'z')",
    "WITH x AS (INSERT INTO tab VALUES (9, 'z') RETURNING *) FROM x",
    "UPDATE tab SET k = 3",
    "DELETE FROM tab",
    "DROP TABLE tab",
    "DETACH output",
    "CHECKPOINT",
    "BEGIN",
    "",
    ";",
    "()",
    "\x00",
    "SELECT '\ud800'",
)


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ars.StreamingContext]:
    """Outputs of all kinds, in a place where other files lie."""
    monkeypatch.chdir(tmp_path)
    Path("secret.txt").write_text("secret")
    pl.DataFrame({"a": [1]}).write_parquet("foreign.parquet")
    pl.DataFrame({"a": [1]}).write_csv("foreign.csv")
    with duckdb.connect("other.duckdb") as other:
        other.execute("CREATE TABLE t AS SELECT 1 AS a")
    with ars.StreamingContext("50ms") as ctx:
        frame = ctx.read.memory({"k": pl.Int64, "s": pl.String})
        frame.write.parquet("files")
        frame.write.parquet("odd 'name' ü", name="odd", partition_by="k")
        frame.write.duckdb("o'd.duckdb", table="tab")
        frame.write.memory("mem")
        ctx.start()
        frame.source.send([{"k": 1, "s": "a"}, {"k": 2, "s": "b"}])
        ctx.process_all_available(30)
        yield ctx


def test_statements_reach_the_outputs_alone(ctx: ars.StreamingContext) -> None:
    """An open dashboard: whoever may ask for counts must not read other files, nor write any."""
    before = sorted(Path().iterdir())
    with ars.connect("files") as files:
        for ask in (ctx.sql, files.sql):
            for statement in READS + WRITES:
                with pytest.raises(QueryError):
                    ask(statement)
    assert sorted(Path().iterdir()) == before
    for _ in range(2):
        counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in ("files", "odd", "tab", "mem"))
        assert ctx.sql(f"SELECT {counts}").fetchall() == [(2, 2, 2, 2)]


def test_a_locked_database_is_written_all_the_same(ctx: ars.StreamingContext) -> None:
    """The sink goes on in the instance in which statements of users have run."""
    assert ctx.sql("SELECT count(*) FROM tab, files").fetchone() == (4,)
    source = next(driver.unit.sources[0][1].source for driver in ctx._drivers)
    source.send([{"k": 3, "s": "c"}])  # type: ignore[attr-defined]
    ctx.process_all_available(30)
    assert ctx.sql("SELECT max(tab.k), max(odd.k) FROM tab, odd").fetchone() == (3, 3)


def test_files_can_be_allowed(ctx: ars.StreamingContext) -> None:
    """Who wants to join an output with a file of their own says so; writing is refused as ever."""
    both = "SELECT content, count(*) FROM read_text('secret.txt'), tab, files GROUP BY content"
    assert ctx.sql(both, allow_files=True).fetchall() == [("secret", 4)]
    with pytest.raises(QueryError, match="say allow_files=True"):
        ctx.sql(both)
    with pytest.raises(QueryError, match="outputs can be read, not changed"):
        ctx.sql("COPY tab TO 'out.csv'", allow_files=True)
    with ars.connect("files", allow_files=True) as files:
        assert files.sql("SELECT content FROM read_text('secret.txt')").fetchone() == ("secret",)


ANSWERS = (
    "1::TINYINT", "1.5", "'inf'::DOUBLE", "'nan'::FLOAT", "'a,\"b'", "'\\x00\\xFF'::BLOB", "[1, NULL]", "{'a': [1.5]}",
    "MAP {'a': 1}", "INTERVAL 1 DAY", "INTERVAL 1 MONTH", "[INTERVAL 1 MONTH]", "uuid()", "'101'::BIT", "NULL", "true",
    "'12:00:00+02'::TIMETZ", "union_value(a := 1)", "170141183460469231731687303715884105727::HUGEINT",
    "1::UHUGEINT",
    "'a'::ENUM('a', 'b')",
    "'2026-01-01'::DATE", "'infinity'::DATE", "'infinity'::TIMESTAMP", "TIMESTAMP '290000-01-01'",
    "TIMESTAMP_NS '2026-01-01 00:00:00.000000001'", "TIMESTAMPTZ '2026-01-01'", "TIME '12:00:00'", "1::DECIMAL(38, 3)",
    "struct_pack(a := 1, \"A b\" := 2)", "[]", "row(1, 2)", "'{\"a\": 1}'::JSON",
)  # fmt: skip


@pytest.mark.parametrize("value", ANSWERS)
def test_every_answer_can_be_taken_or_says_why_not(value: str) -> None:
    """A frame, Python values, pandas, text: the value, or an error of ours, and never a panic of a library."""
    answer = run_sql(f"SELECT {value} AS x", Catalog())
    assert "x" in repr(answer)
    for take in (answer.pl, answer.fetchall, answer.fetchone, answer.df, answer._repr_html_):
        with contextlib.suppress(ArrowStreamError):
            take()
    as_csv, as_json = io.StringIO(), io.StringIO()
    write_csv(answer.to_arrow_table(), as_csv)
    write_json(answer.to_arrow_table(), as_json)
    assert len(list(csv.reader(io.StringIO(as_csv.getvalue())))) == 2
    json.loads(as_json.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_answers_on_the_command_line(ctx: ars.StreamingContext) -> None:
    """Lists, bytes, spans and infinity, as CSV and as JSON; files only where they are allowed."""

    def call(*args: str) -> str:
        done = CliRunner().invoke(main, ["sql", *args, "--at", "files"])
        return done.output

    query = (
        "SELECT [1, 2] AS l, '\\xC3\\xA9'::BLOB AS b, INTERVAL 1 DAY AS d, 'inf'::DOUBLE AS f, 1.50::DECIMAL(9, 2) AS n"
    )
    assert call(query, "--format", "csv") == 'l,b,d,f,n\n"[1,2]",w6k=,P1DT0S,Infinity,1.50\n'
    assert json.loads(call(query, "--format", "json")) == {
        "l": [1, 2], "b": "w6k=", "d": "P1DT0S", "f": "Infinity", "n": "1.50",
    }  # fmt: skip
    assert "allow_files" in call("FROM read_text('secret.txt')")
    assert "secret" in call("SELECT content FROM read_text('secret.txt')", "--allow-files")
