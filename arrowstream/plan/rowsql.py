"""Which SQL statements are row-local: SELECT, WHERE and UNNEST over the one table `self`.

What SQL itself leaves open, or what would depend on the cut, is refused with the call that does it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from arrowstream.errors import NotRowLocalError, PlanError

if TYPE_CHECKING:
    from sqlglot import expressions as sg

_CHANGING = """
    random rand setseed uuid gen_random_uuid uuidv4 uuidv7 nextval currval txid_current
    now today current_timestamp current_date current_time get_current_timestamp transaction_timestamp
    localtimestamp localtime getenv
"""
"""Functions that sqlglot has under names of its own, or DuckDB only in its shell; the others are in its catalog."""

_OF_TODAY = frozenset({"now", "today", "tomorrow", "yesterday", "current_date", "current_timestamp", "current_time"})
"""Words that DuckDB casts into a time that depends on the clock."""


def check_row_sql(statement: str) -> None:
    """Raise unless the statement gives for each row of `self` the same, whatever rows stand beside it.

    Raises `NotRowLocalError` with the cure, `PlanError` where it is no single SELECT over `self`.
    """
    import sqlglot
    from sqlglot import expressions as exp

    try:
        trees = [tree for tree in sqlglot.parse(statement, dialect="duckdb") if tree is not None]
    except sqlglot.errors.ParseError as error:
        first = error.errors[0] if error.errors else {}
        where = f" at line {first['line']}, column {first['col']}" if "line" in first else ""
        raise PlanError(f"frame.sql: {first.get('description') or error}{where}: {statement!r}") from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise PlanError('frame.sql takes one statement of the form "SELECT ... FROM self [WHERE ...]"')
    tree = trees[0]
    tables = [table.name for table in tree.find_all(exp.Table)]
    named = {cte.alias for cte in tree.find_all(exp.CTE)}
    if "self" in (name.lower() for name in named):
        raise PlanError("frame.sql: self is the frame; give the WITH query another name")
    if unknown := [name for name in tables if name.lower() != "self" and name not in named]:
        raise PlanError(f"frame.sql: the one table is self, found {unknown[0]!r}; to add another table, join it")
    if "self" not in [name.lower() for name in tables]:
        raise PlanError('frame.sql: say which rows: "SELECT ... FROM self"')
    for node in tree.walk():
        _check(node)


@cache
def _catalog() -> tuple[frozenset[str], frozenset[str]]:
    """DuckDB's aggregates, and its functions whose value is not made of their arguments alone, by name."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        rows = connection.execute("SELECT DISTINCT function_name, function_type, stability FROM duckdb_functions()")
        found = rows.fetchall()
    aggregates = {name for name, kind, _ in found if kind == "aggregate"}
    how: dict[str, set[str | None]] = {}
    for name, kind, stability in found:
        if kind == "scalar":
            how.setdefault(name, set()).add(stability)
    # Of `day`, `strftime` and their like only the variant that goes by the session's zone is not called consistent.
    constant = {None, "CONSISTENT"}
    changing = {name for name, each in how.items() if "VOLATILE" in each or not each & constant}
    return frozenset(aggregates), frozenset(changing - {"error"})


def _check(node: sg.Expr) -> None:
    from sqlglot import expressions as exp

    def refuse(what: str, cure: str) -> None:
        raise NotRowLocalError(f"frame.sql: {what} looks at other rows of the batch, so it depends on the cut; {cure}")

    text = node.sql(dialect="duckdb")
    if isinstance(node, exp.Window):
        refuse(f"the window function {text}", "aggregate by key with group_by(...).agg(...)")
    if isinstance(node, exp.AggFunc) and not isinstance(node, exp.List):
        refuse(f"the aggregate {text}", "use group_by(...).agg(...), or frame.agg(...) for all rows")
    if isinstance(node, exp.Join):
        if isinstance(node.this, exp.Unnest | exp.Lateral):
            return
        refuse(f"the join {text}", "join frames instead")
    if isinstance(node, exp.SetOperation):
        refuse(f"{type(node).__name__.upper()}", "use concat([...]) of frames")
    if isinstance(node, exp.Select):
        for part, name, cure in (
            ("group", "GROUP BY", "use group_by(...).agg(...)"),
            ("having", "HAVING", "use group_by(...).agg(...).filter(...)"),
            ("distinct", "DISTINCT", "group by the columns: group_by(...).agg(pl.len())"),
            ("order", "ORDER BY", "order the outputs instead: ctx.sql('... ORDER BY ...')"),
            ("limit", "LIMIT", "limit the outputs instead: ctx.sql('... LIMIT ...')"),
            ("offset", "OFFSET", "limit the outputs instead"),
            ("qualify", "QUALIFY", "use group_by(...).agg(...)"),
            ("sample", "SAMPLE", "filter by a hash of a column"),
        ):
            if node.args.get(part) is not None:
                refuse(name, cure)
    if isinstance(node, exp.TableSample):
        refuse("SAMPLE", "filter by a hash of a column")
    if isinstance(node, exp.Subquery | exp.Exists) and not isinstance(node.parent, exp.From):
        refuse(f"the subquery {text}", "join the frames instead")
    if isinstance(node, exp.Select) and not isinstance(node.parent, exp.Subquery | exp.CTE | None):
        refuse(f"the subquery {text}", "join the frames instead")
    if isinstance(node, exp.Func):
        name = (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()
        aggregates, changing = _catalog()
        if name in aggregates:
            refuse(f"the aggregate {text}", "use group_by(...).agg(...), or frame.agg(...) for all rows")
        of_today = (name == "age" and len(node.expressions) < 2) or (
            isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal) and node.this.name.lower() in _OF_TODAY
        )
        if name in _CHANGING.split() or name in changing or of_today:
            raise NotRowLocalError(
                f"frame.sql: {text} gives another value each time, so a batch run again would differ; "
                "put the value into the rows at the source"
            )
