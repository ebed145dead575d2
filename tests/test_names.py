"""Columns of a user may be called anything, and never meet the engine's own."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest

import arrowstream as ars
from arrowstream.errors import ColumnError
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


def _modules() -> list[tuple[str, ast.Module]]:
    paths = [path for room in _ROOMS for path in sorted((_ROOT / room).rglob("*.py"))]
    parts = {path.resolve().relative_to(_ROOT.resolve()).as_posix(): path for path in paths}
    assert len(parts) > 150
    return [(name, ast.parse(path.read_text(encoding="utf-8"))) for name, path in parts.items()]
