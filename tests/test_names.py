"""Columns of a user may be called anything, and never meet the engine's own."""

from __future__ import annotations

import ast
import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.cli import main
from arrowstream.errors import ColumnError, QueryError
from arrowstream.frame import StreamFrame
from arrowstream.names import PREFIX, inner, is_inner, readable

_ROOT = Path(__file__).parent.parent
_ROOMS = ("arrowstream", "sources", "sinks")


def test_an_inner_name_is_told_from_all_that_users_write() -> None:
    assert is_inner(inner("row"))
    assert not any(map(is_inner, ["row", "__row", "__deleted", "_weight", "", " ", "é", "\x00row", "row" + PREFIX]))
    assert readable(f"drop({inner('key_0')})") == "drop(__key_0)"


def test_each_inner_name_is_made_in_one_module() -> None:
    """Rows of one room pass through another: names that two rooms make would meet there."""
    makers: dict[str, set[str]] = defaultdict(set)
    for path, tree in _modules():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "inner":
                makers[ast.unparse(call.args[0])].add(path)
    assert len(makers) > 40
    assert {name: paths for name, paths in makers.items() if len(paths) > 1} == {}


def test_no_module_makes_a_column_that_begins_with_underscores() -> None:
    """Debezium has `__deleted`, somebody else `__row`: the engine's own names come out of one room."""
    found = []
    for path, tree in _modules():
        for text in ast.walk(tree):
            value = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
            if value.startswith("__") and not value.endswith("__"):
                found.append(f"{path}: {value!r}")
    assert found == []


@pytest.mark.parametrize("way", ["source", "rename", "alias", "group", "function", "sql", "table", "unpivot", "rank"])
def test_a_reserved_name_is_refused_where_it_comes_in(way: str) -> None:
    """Nobody types U+FDD0; a program that makes names out of bytes may."""
    name = inner("row")
    ctx = ars.StreamingContext()
    frame = ctx.read.memory({"a": pl.Int64, "b": pl.Int64})
    table = pl.DataFrame({"a": [1], name: [2]})
    calls = {
        "source": lambda: ctx.read.memory({name: pl.Int64}),
        "rename": lambda: frame.rename({"a": name}),
        "alias": lambda: frame.select(pl.col("a").alias(name)),
        "group": lambda: frame.group_by(pl.col("a").alias(name)).agg(pl.len()),
        "function": lambda: frame.map_batches(lambda rows: rows, schema={name: pl.Int64}),
        "sql": lambda: frame.sql(f'SELECT a AS "{name}" FROM self'),
        "table": lambda: frame.join(table, on="a", how="semi"),
        "unpivot": lambda: frame.unpivot(["a", "b"], variable_name=name),
        "rank": lambda: frame.top_k(1, by="a", rank=name),
    }
    with pytest.raises(ColumnError, match=r"begins with U\+FDD0.*call it 'row'"):
        calls[way]()


ODD = [
    "__deleted", "a b", " lead", "a.b", 'a"b', "a'b", "a\nb", "a%20b", "a/b", "a=b", "{x}", "$1", "\\", "🦆", "x" * 300,
    "select", "order", "at", "self", "NULL", "1",
]  # fmt: skip
"""Names that people give, or that come out of other systems."""

DAY = dt.datetime(2026, 1, 1)


def sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", ODD)
def test_a_column_of_any_name_goes_from_source_to_sink_and_back(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spreadsheets, change data capture and other people's databases call columns as they like."""
    rows = pl.DataFrame({name: ["p", "q", "p"], "n_": [1, 2, 3]})
    wanted, sums = [("p", 1), ("p", 3), ("q", 2)], [("p", 4), ("q", 2)]
    seen: list[pl.DataFrame] = []
    ctx = ars.StreamingContext(batch_interval="10s")
    frame = ctx.read.memory(dict(rows.schema), name="s")
    total = frame.group_by(name).agg(pl.col("n_").sum())
    hidden = name.startswith("_") or len(name) > 200
    if hidden:
        with pytest.raises(ars.ArrowStreamError, match="rename it"):
            frame.write.parquet(tmp_path / "refused", partition_by=name)
    frame.write.parquet(tmp_path / "files")
    frame.write.parquet(tmp_path / "parts", partition_by=() if hidden else name)
    frame.write.parquet(tmp_path / "held", partition_by=() if hidden else name, roll="1GB")
    total.write.parquet(tmp_path / "whole", mode="complete", sort_by=name)
    frame.sql(f"SELECT {sql_name(name)}, n_ FROM self").write.duckdb(tmp_path / "all.duckdb", "added")
    total.write.duckdb(tmp_path / "all.duckdb", "updated")
    frame.top_k(9, by="n_").write.duckdb(tmp_path / "all.duckdb", "taken")
    frame.write.memory("rows")
    frame.join(frame.select(name, "n_"), on=[name, "n_"]).write.memory("joined")
    total.write.memory("sums")
    total.write.foreach_batch(lambda batch, _: seen.append(batch))
    total.write.console()
    answers = dict.fromkeys(["files", "parts", "held", "added", "taken", "rows", "joined"], wanted)
    answers |= dict.fromkeys(["whole", "updated", "sums"], sums)
    with ctx:
        ctx.start()
        for piece in (rows[:2], rows[2:]):
            frame.source.send(piece)
            ctx.process_all_available(30)
        for table, answer in answers.items():
            found = ctx.sql(f"SELECT {sql_name(name)}, n_ FROM {table}").pl()
            assert (table, found.columns, sorted(found.rows())) == (table, [name, "n_"], answer)
        assert name in ctx.state(f"group_by {name}").columns
    assert {name, "n_"} < {*seen[-1].columns}
    assert "p" in capsys.readouterr().out
    answers = {table: answer for table, answer in answers.items() if table not in ("rows", "joined", "sums")}
    with ars.connect(tmp_path) as outputs:
        assert sorted(outputs.tables) == sorted(answers)
        for table, answer in answers.items():
            assert sorted(outputs.sql(f"SELECT {sql_name(name)}, n_ FROM {table}").fetchall()) == answer
    again = ars.StreamingContext(batch_interval="10s")
    back = again.read.parquet(tmp_path / "files")
    assert back.columns == [name, "n_"]
    back.write.memory("back")
    again.run(30)
    assert sorted(again.sql("FROM back").fetchall()) == wanted


def test_the_command_line_asks_for_any_name(tmp_path: Path) -> None:
    ctx = ars.StreamingContext(batch_interval="10s")
    frame = ctx.read.memory({"a b": pl.Int64})
    frame.write.parquet(tmp_path / "out")
    ctx.start()
    frame.source.send([{"a b": 7}])
    ctx.stop()
    shown = CliRunner().invoke(main, ["sql", "--at", str(tmp_path / "out"), 'SELECT "a b" FROM out'])
    assert (shown.exit_code, "a b" in shown.output, "7" in shown.output) == (0, True, True)


_AGGS: Any = {"m_": pl.len()}
_CALLS: dict[str, Callable[[StreamFrame, str, str, str], StreamFrame]] = {
    "rows": lambda s, k, t, v: s.filter(pl.col(v) > 0).with_columns(pl.col(v) + 1, y_=pl.col(k)),
    "group_by": lambda s, k, t, v: s.group_by(k).agg(pl.col(v).sum(), pl.col(t).max(), d_=pl.col(v).n_unique()),
    "group_by computed": lambda s, k, t, v: s.group_by(pl.col(k) + "!", v).agg(pl.len()),
    "group_by of rows": lambda s, k, t, v: s.group_by(k).agg(pl.col(v).sort().last(), m_=pl.col(v).median()),
    "aggregates of it": lambda s, k, t, v: s.group_by(k, v).agg(pl.len()).group_by(k).agg(pl.col(v).sum()),
    "join": lambda s, k, t, v: s.join(s.select(k, z_=v), on=k, how="full"),
    "join of more": lambda s, k, t, v: s.join(s, on=[k, v], how="left"),
    "join computed": lambda s, k, t, v: s.join(s, left_on=pl.col(k) + "!", right_on=pl.col(k) + "!"),
    "join of sums": lambda s, k, t, v: s.group_by(k).agg(pl.col(v).sum()).join(s.group_by(k).agg(**_AGGS), on=k),
    "join_where": lambda s, k, t, v: s.join_where(
        s, pl.col(k) == pl.col(f"{k}_right"), pl.col(v) > pl.col(f"{v}_right")
    ),
    "join within": lambda s, k, t, v: s.join(s, on=k, within="5s", how="left"),
    "join_asof": lambda s, k, t, v: s.join_asof(s.select(k, t, z_=v), by=k),
    "join_asof computed": lambda s, k, t, v: s.join_asof(s.select(k, t, z_=v), by=pl.col(k) + "!"),
    "join_temporal": lambda s, k, t, v: s.join_temporal(s.select(k, t, z_=v), on=k, how="inner"),
    "table": lambda s, k, t, v: s.join(pl.DataFrame({k: ["a"], "z_": [1]}), on=k, how="left"),
    "windows": lambda s, k, t, v: s.group_by_dynamic(t, every="5s", group_by=k).agg(pl.col(v).sum(), **_AGGS),
    "windows over": lambda s, k, t, v: s.group_by_dynamic(t, every="2s", period="20s", group_by=k).agg(pl.col(v).max()),
    "windows of rows": lambda s, k, t, v: s.group_by_dynamic(t, every="2s", period="6s", group_by=k).agg(
        pl.col(v).median()
    ),
    "sessions": lambda s, k, t, v: s.group_by_session(t, gap="3s", group_by=k).agg(pl.col(v).sum()),
    "sessions of rows": lambda s, k, t, v: s.group_by_session(t, gap="3s", group_by=k).agg(pl.col(v).median()),
    "rolling": lambda s, k, t, v: s.rolling(t, period="5s", group_by=k).agg(m_=pl.col(v).sum()),
    "unique": lambda s, k, t, v: s.unique([k, v]),
    "unique, the last": lambda s, k, t, v: s.unique(k, keep="last"),
    "unique, none": lambda s, k, t, v: s.unique(k, keep="none"),
    "unique within": lambda s, k, t, v: s.unique(k, within="4s"),
    "top_k": lambda s, k, t, v: s.top_k(2, by=[v, t], group_by=k, rank="r_"),
    "top_k computed": lambda s, k, t, v: s.top_k(3, by=[-pl.col(v), pl.col(t)]),
    "over": lambda s, k, t, v: s.with_columns(o_=pl.col(v).sum().over(k) + pl.col(v)),
    "sql": lambda s, k, t, v: s.sql(f"SELECT {sql_name(v)} + 1 AS {sql_name(k)} FROM self WHERE {sql_name(v)} > 0"),
    "with a time to live": lambda s, k, t, v: s.group_by(k, ttl="1h").agg(pl.col(v).sum()),
}  # fmt: skip

_rows = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 30), st.integers(-2, 2)), max_size=8)
_MORE = [
    "trail ", "\t", "a,b", "[x]", "?", "--", ";", "é", "group", "rowid", "true", "row", "key", "batch", "holds",
    "alive", "filename", "_", "_value", "start", "end", "window", "n",
    "__deleted", "__row", "__matches", "__out", "__order", "__arrival", "__session", "__weight", "_weight", "__rank",
    "__bin", "__start", "__end", "__first", "__last", "__ticks", "__group", "__place", "__rows", "__old", "__id",
    "__window", "__level", "__run", "__count", "__before", "__left_id", "__right_id", "__sign", "__one", "__two",
    "__key_0", "__key_left_0", "__by_0", "__over", "__value0", "__0_sum", "__watermark", "__known", "__kept", "__mask",
]  # fmt: skip


@pytest.mark.parametrize("call", _CALLS)
@given(
    names=st.lists(st.sampled_from(ODD + _MORE), min_size=3, max_size=3, unique=True),
    rows=_rows,
    at=st.integers(0, 8),
)
@settings(max_examples=6)
def test_names_do_not_change_an_answer(call: str, names: list[str], rows: Any, at: int) -> None:
    """The same calls over the same rows under plain names; only the names differ."""
    times = [DAY + dt.timedelta(seconds=second) for _, second, _ in rows]
    data = pl.DataFrame(
        {"k": [key for key, _, _ in rows], "t": times, "v": [value for _, _, value in rows]},
        schema={"k": pl.String, "t": pl.Datetime("us"), "v": pl.Int64},
    )
    answers = []
    for columns in (["k", "t", "v"], names):
        given_rows = data.rename(dict(zip(data.columns, columns, strict=True)))
        key, time, value = columns
        frame = ars.StreamingContext().read.memory(dict(given_rows.schema), name="s").with_watermark(time, "1h")
        made = _CALLS[call](frame, key, time, value)
        made.explain()
        found = run_pieces(made._node, [{"s": given_rows[:at]}, {"s": given_rows[at:]}])
        answers.append(found)
    plain, odd = answers
    assert sorted(map(repr, odd.rows())) == sorted(map(repr, plain.rows()))
    known = dict(zip(["k", "t", "v"], names, strict=True)) | {
        f"{p}_right": f"{o}_right" for p, o in zip("ktv", names, strict=True)
    }
    assert odd.columns == [known.get(name, name) for name in plain.columns]


@pytest.mark.parametrize("name", ["*", "^x$", "^.*$", "", "a\0b"])
def test_what_cannot_be_asked_for_is_refused(name: str) -> None:
    """`pl.col("*")` is every column, so a column called so could only be read by accident."""
    ctx = ars.StreamingContext()
    with pytest.raises(ColumnError, match=r"call it|give it|leave that out"):
        ctx.read.memory({name: pl.Int64})
    with pytest.raises(ars.ArrowStreamError):
        ctx.read.memory({"a": pl.Int64}).rename({"a": name})


class TestNamesThatDifferByCase:
    """`id` beside `ID`: Polars and files tell them apart, SQL gives one for the other."""

    def test_polars_keeps_both(self, tmp_path: Path) -> None:
        frame = self.frame()
        seen: list[pl.DataFrame] = []
        frame.write.foreach_batch(lambda batch, _: seen.append(batch))
        context = frame._plans
        assert isinstance(context, ars.StreamingContext)
        with context as ctx:
            ctx.start()
            frame.source.send([{"id": 1, "ID": 10}])
            ctx.process_all_available(30)
        assert seen[-1].rows(named=True) == [{"id": 1, "ID": 10}]

    @pytest.mark.parametrize("sink", ["memory", "duckdb", "parquet"])
    def test_sinks_that_sql_reads_refuse_them(self, sink: str, tmp_path: Path) -> None:
        frame = self.frame()
        writes: dict[str, Callable[[], None]] = {
            "memory": lambda: frame.write.memory("out"),
            "duckdb": lambda: frame.write.duckdb(tmp_path / "x.duckdb", "out"),
            "parquet": lambda: frame.write.parquet(tmp_path / "out"),
        }
        with pytest.raises(ColumnError, match=r"'id' and 'ID' differ by case only.*rename\(\{'ID': 'ID_2'\}\)"):
            writes[sink]()
        frame.rename({"ID": "ID_2"}).write.memory("out")

    def test_a_statement_over_a_frame_refuses_them(self) -> None:
        frame = self.frame()
        with pytest.raises(ColumnError, match="differ by case only"):
            frame.sql('SELECT "ID" AS big FROM self')
        assert frame.drop("id").sql('SELECT "ID" AS big FROM self').columns == ["big"]

    def test_files_of_others_are_not_misread(self, tmp_path: Path) -> None:
        pl.DataFrame({"id": [1], "ID": [10]}).write_parquet(tmp_path / "a.parquet")
        with ars.connect(tmp_path) as outputs, pytest.raises(QueryError, match="differ by case only"):
            outputs.sql(f"FROM {outputs.tables[0]}")

    def test_other_alphabets_are_told_apart(self) -> None:
        """DuckDB folds the letters A to Z only."""
        ctx = ars.StreamingContext(batch_interval="10s")
        frame = ctx.read.memory({"é": pl.Int64, "É": pl.Int64})
        frame.write.memory("out")
        with ctx:
            ctx.start()
            frame.source.send([{"é": 1, "É": 2}])
            ctx.process_all_available(30)
            assert ctx.sql('SELECT "É", "é" FROM out').fetchall() == [(2, 1)]

    def frame(self) -> StreamFrame:
        return ars.StreamingContext(batch_interval="10s").read.memory({"id": pl.Int64, "ID": pl.Int64})


def test_a_directory_above_an_output_is_no_column(tmp_path: Path) -> None:
    """An output inside `day=2026-01-01/` has its own idea of the day."""
    ctx = ars.StreamingContext(batch_interval="10s")
    frame = ctx.read.memory({"day": pl.String, "n": pl.Int64})
    frame.write.parquet(tmp_path / "day=1" / "out")
    with ctx:
        ctx.start()
        frame.source.send([{"day": "2", "n": 1}])
        ctx.process_all_available(30)
        assert ctx.sql("FROM out").fetchall() == [("2", 1)]
    with ars.connect(tmp_path / "day=1" / "out") as outputs:
        assert outputs.sql("FROM out").fetchall() == [("2", 1)]


@cache
def _modules() -> list[tuple[str, ast.Module]]:
    paths = [path for room in _ROOMS for path in sorted((_ROOT / room).rglob("*.py"))]
    parts = {path.resolve().relative_to(_ROOT.resolve()).as_posix(): path for path in paths}
    assert len(parts) > 150
    return [(name, ast.parse(path.read_text(encoding="utf-8"))) for name, path in parts.items()]
