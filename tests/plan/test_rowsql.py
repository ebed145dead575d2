"""Which SQL goes into a row-local node: what is allowed is proved by cutting, what is refused has a cure."""

from __future__ import annotations

from datetime import date

import duckdb
import polars as pl
import pytest
from apart import source

from arrowstream.errors import NotRowLocalError, PlanError
from arrowstream.plan.rowsql import check_row_sql

SCHEMA = pl.Schema(
    {
        "a": pl.Int64(),
        "b": pl.Float64(),
        "s": pl.String(),
        "l": pl.List(pl.Int64()),
        "t": pl.Date(),
        "p": pl.Struct({"x": pl.Int64(), "y": pl.String()}),
    }
)
ROWS = pl.DataFrame(
    {
        "a": [1, 2, None, -4, 5, 5],
        "b": [0.5, float("nan"), None, -0.0, 1e9, 2.0],
        "s": ["x y", "", None, "z", "Ä", "x y"],
        "l": [[1, 2], [], None, [3, None], [4], [1]],
        "t": [date(2024, 1, day) for day in range(1, 7)],
        "p": [
            {"x": 1, "y": "a"},
            {"x": None, "y": None},
            None,
            {"x": 4, "y": "b"},
            {"x": 5, "y": ""},
            {"x": 1, "y": "a"},
        ],
    },
    schema=SCHEMA,
)

ALLOWED = [
    "SELECT * FROM self",
    "FROM self",
    "FROM self SELECT a, b",
    "SELECT a + 1 AS c, upper(s) FROM self WHERE a > 1 AND s IS NOT NULL",
    "SELECT * EXCLUDE (a) FROM self",
    "SELECT * REPLACE (a * 2 AS a) FROM self",
    "SELECT COLUMNS('a|b') FROM self",
    "SELECT unnest(l) AS x, a FROM self",
    "SELECT a, x FROM self, unnest(l) AS u(x)",
    "SELECT a, x FROM self CROSS JOIN unnest(l) AS u(x)",
    "SELECT unnest(string_split(s, ' ')) AS word FROM self",
    "SELECT p.x, p.y FROM self",
    "SELECT unnest(p) FROM self",
    "SELECT CASE WHEN a > 1 THEN 'big' ELSE 'small' END AS size FROM self",
    "SELECT coalesce(a, 0) AS a, greatest(a, b) AS g, a IN (1, 2) AS few FROM self",
    "SELECT list_sum(l) AS n, list_transform(l, lambda x: x + 1) AS m, [x * 2 FOR x IN l IF x > 1] AS d FROM self",
    "SELECT list_aggregate(l, 'max') AS m FROM self",
    "SELECT strftime(t, '%Y-%m') AS month, t + INTERVAL 1 DAY AS next, date '2024-01-03' - t AS days FROM self",
    "SELECT age(t, DATE '2024-01-01')::VARCHAR AS age FROM self",
    "SELECT {'a': a, 's': s} AS made FROM self",
    "SELECT x FROM (SELECT a AS x, s FROM self WHERE a > 0) WHERE s <> ''",
    "WITH big AS (SELECT * FROM self WHERE a > 1) SELECT a, s FROM big WHERE s IS NOT NULL",
    "SELECT name, v FROM self UNPIVOT (v FOR name IN (a, b))",
    "SELECT hash(a) % 2 AS half, md5(s) AS m FROM self",
    "SELECT a, b FROM self WHERE b BETWEEN -1 AND 10",
    "SELECT TRY_CAST(s AS INTEGER) AS i FROM self",
]


@pytest.mark.parametrize("statement", ALLOWED)
def test_an_allowed_statement_gives_the_same_however_it_is_cut(statement: str) -> None:
    """A user knows SQL better than Polars: each statement is cut at random, and is DuckDB's own answer in one shot."""
    frame = source(schema=SCHEMA).sql(statement)
    frame.check(ROWS, tries=5)


NOT_ROW_LOCAL = [
    "SELECT count(*) FROM self",
    "SELECT sum(a) FROM self",
    "SELECT a FROM self GROUP BY a",
    "SELECT s, max(a) FROM self GROUP BY ALL HAVING max(a) > 1",
    "SELECT DISTINCT a FROM self",
    "SELECT DISTINCT ON (a) * FROM self",
    "SELECT * FROM self ORDER BY a",
    "SELECT * FROM self LIMIT 3",
    "SELECT * FROM self OFFSET 3",
    "SELECT a FROM self FETCH FIRST 3 ROWS ONLY",
    "SELECT * FROM (SELECT * FROM self LIMIT 3)",
    "WITH few AS (SELECT * FROM self ORDER BY a) SELECT * FROM few",
    "(SELECT * FROM self) LIMIT 3",
    "SELECT row_number() OVER () FROM self",
    "SELECT sum(a) OVER (PARTITION BY s) FROM self",
    "SELECT a FROM self QUALIFY row_number() OVER () = 1",
    "SELECT a FROM self WINDOW w AS (ORDER BY a)",
    "SELECT * FROM self, self AS other",
    "SELECT * FROM self JOIN self AS other USING (a)",
    "SELECT * FROM self POSITIONAL JOIN self AS other",
    "SELECT * FROM self ASOF JOIN self AS other ON self.a >= other.a",
    "SELECT * FROM self SEMI JOIN self AS other USING (a)",
    "SELECT a FROM self UNION ALL SELECT a FROM self",
    "SELECT a FROM self EXCEPT SELECT a FROM self",
    "SELECT * FROM self USING SAMPLE 10%",
    "SELECT * FROM self TABLESAMPLE 3 ROWS",
    "SELECT * FROM self WHERE a IN (SELECT a FROM self)",
    "SELECT * FROM self WHERE a = (SELECT max(a) FROM self)",
    "SELECT * FROM self WHERE EXISTS (SELECT 1 FROM self)",
    "SELECT ARRAY(SELECT a FROM self) AS all_of_them FROM self",
    "SELECT * FROM self PIVOT (sum(a) FOR s IN ('x', 'y'))",
    "WITH RECURSIVE t AS (SELECT a FROM self UNION ALL SELECT a + 1 FROM t WHERE a < 3) SELECT * FROM t",
    "SELECT random() FROM self",
    "SELECT now(), a FROM self",
    "SELECT current_date, a FROM self",
    "SELECT CURRENT_TIMESTAMP, a FROM self",
    "SELECT age(t) FROM self",
    "SELECT 'today'::DATE AS today, a FROM self",
    "SELECT uuid(), a FROM self",
    "SELECT nextval('ids'), a FROM self",
    "SELECT getvariable('x'), a FROM self",
    "SELECT current_setting('threads'), a FROM self",
]


@pytest.mark.parametrize("statement", NOT_ROW_LOCAL)
def test_what_depends_on_the_cut_or_the_moment_is_refused(statement: str) -> None:
    """A query from the warehouse is pasted into a stream."""
    with pytest.raises(NotRowLocalError, match=r"frame\.sql: .*(cut|each time)"):
        check_row_sql(statement)


def test_every_aggregate_of_duckdb_is_refused() -> None:
    """DuckDB knows more aggregates than anybody; new versions bring new ones."""
    names = (
        duckdb.connect()
        .execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'")
        .fetchall()
    )
    assert len(names) > 50
    passed = []
    for (name,) in names:
        try:
            check_row_sql(f'SELECT "{name}"(a) FROM self')
            passed.append(name)
        except PlanError:  # some want two columns, and are refused for that
            pass
    assert passed == []


NO_SELECT = [
    "INSERT INTO self VALUES (1)",
    "SELECT 1; SELECT 2",
    "SELECT 1",
    "SELECT * FROM orders",
    "SELECT * FROM read_csv('orders.csv')",
    "SELECT * FROM 'orders.parquet'",
    "SELECT * FROM self, range(3)",
    "SUMMARIZE self",
    "PIVOT self ON s USING sum(a)",
    "DROP TABLE self",
    "COPY self TO 'x.csv'",
    "WITH self AS (SELECT 1 AS a) SELECT * FROM self",
    "SELECT FROM WHERE",
    "",
]


@pytest.mark.parametrize("statement", NO_SELECT)
def test_what_is_no_select_over_the_frame_is_refused(statement: str) -> None:
    """A statement for a database, not for a frame."""
    with pytest.raises(PlanError, match=r"frame\.sql"):
        check_row_sql(statement)
