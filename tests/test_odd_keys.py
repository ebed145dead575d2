"""Keys that are NaN, -0.0 or null, in rows that trickle in one by one: NaN = NaN and -0.0 = 0.0, in every call.

Sensors send NaN where they measured nothing. Polars itself does not match one row with one row by NaN, so the oracles
here are plain Python.
"""

from __future__ import annotations

import ast
import datetime as dt
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrowstream as ars
from arrowstream import matching
from arrowstream.check import run_pieces
from arrowstream.frame import StreamFrame

DAY = dt.datetime(2026, 1, 1)
SCHEMA: Any = {"k": pl.Float64, "t": pl.Datetime("us"), "n": pl.Int64}
_NOT_A_NUMBER = "NaN"

Row = tuple[float | None, int]
rows_of = st.lists(
    st.tuples(st.sampled_from([math.nan, math.nan, 0.0, -0.0, None, 1.5]), st.integers(0, 20)), max_size=7
)


def plain(key: Any) -> Any:
    """The key as Python compares it as it should be."""
    if isinstance(key, float) and math.isnan(key):
        return _NOT_A_NUMBER
    return 0.0 if key == 0 and isinstance(key, float) else key


def bag(rows: Iterable[Iterable[Any]]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(map(plain, row)) for row in rows)


def frame(rows: list[Row]) -> pl.DataFrame:
    """`n` is the number of the row."""
    made = [(key, DAY + dt.timedelta(seconds=second), n) for n, (key, second) in enumerate(rows)]
    return pl.DataFrame(made, schema=SCHEMA, orient="row")


def source(name: str = "s", *, timed: bool = False) -> StreamFrame:
    made = ars.StreamingContext().read.memory(SCHEMA, name=name)
    return made.with_watermark("t", "60s") if timed else made


def two(*, timed: bool = False) -> tuple[StreamFrame, StreamFrame]:
    ctx = ars.StreamingContext()
    left, right = ctx.read.memory(SCHEMA, name="left"), ctx.read.memory(SCHEMA, name="right")
    return (left.with_watermark("t", "60s"), right.with_watermark("t", "60s")) if timed else (left, right)


def trickle(rows: pl.DataFrame) -> list[dict[str, pl.DataFrame]]:
    """Each row a batch of its own."""
    return [{"s": rows[n : n + 1]} for n in range(max(rows.height, 1))]


def in_turns(left: pl.DataFrame, right: pl.DataFrame, order: list[str]) -> list[dict[str, pl.DataFrame]]:
    """Each row a batch of its own, or one of each side; what the order leaves over comes at the end."""
    made, a, b = [], 0, 0
    for which in [*order, *["left"] * left.height, *["right"] * right.height]:
        to, until = a + (which != "right"), b + (which != "left")
        made.append({"left": left[a:to], "right": right[b:until]})
        a, b = to, until
    return made


def joined(left: list[Row], right: list[Row], how: str, meets: Callable[[Any, Any], bool]) -> list[tuple[Any, ...]]:
    """The numbers of the rows that are together in a join."""
    pairs = [
        (i, j)
        for i, one in enumerate(left)
        for j, another in enumerate(right)
        if meets(plain(one[0]), plain(another[0]))
    ]
    lefts, rights = {i for i, _ in pairs}, {j for _, j in pairs}
    alone = [(i, None) for i in range(len(left)) if i not in lefts]
    match how:
        case "inner":
            return list(pairs)
        case "left":
            return [*pairs, *alone]
        case "right":
            return [*pairs, *((None, j) for j in range(len(right)) if j not in rights)]
        case "full":
            return [*pairs, *alone, *((None, j) for j in range(len(right)) if j not in rights)]
        case "semi":
            return [(i,) for i in range(len(left)) if i in lefts]
    return [(i,) for i in range(len(left)) if i not in lefts]


def equal(nulls_equal: bool) -> Callable[[Any, Any], bool]:
    return lambda one, another: one == another and (nulls_equal or one is not None)


turns = st.lists(st.sampled_from(["left", "right", "both"]), max_size=8)


@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
@given(left=rows_of, right=rows_of, order=turns, nulls_equal=st.booleans(), twice=st.booleans())
@settings(max_examples=20)
def test_joins(how: Any, left: Any, right: Any, order: Any, nulls_equal: bool, twice: bool) -> None:
    """A calibration table arrives as a stream, one value at a time."""
    one, another = two()
    if twice:  # rows that are taken back must find the matches that they had
        one = one.unique("n", keep="last")
    found = one.join(another, on="k", how=how, nulls_equal=nulls_equal)
    read = ["n"] if how in ("semi", "anti") else ["n", "n_right"]
    rows = run_pieces(found.select(read)._node, in_turns(frame(left), frame(right), order))
    assert bag(rows.rows()) == bag(joined(left, right, how, equal(nulls_equal)))


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
@given(left=rows_of, right=rows_of, order=turns)
@settings(max_examples=15)
def test_joins_within_a_time(how: Any, left: Any, right: Any, order: Any) -> None:
    one, another = two(timed=True)
    found = one.join(another, on="k", how=how, within="100s")
    read = ["n"] if how in ("semi", "anti") else ["n", "n_right"]
    rows = run_pieces(found.select(read)._node, in_turns(frame(left), frame(right), order))
    assert bag(rows.rows()) == bag(joined(left, right, how, equal(False)))


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
@given(left=rows_of, right=rows_of, nulls_equal=st.booleans())
@settings(max_examples=20)
def test_joins_with_a_table(how: Any, left: Any, right: Any, nulls_equal: bool) -> None:
    """A table of one row too."""
    held = frame(right).select("k", other="n")
    found = source().join(held, on="k", how=how, nulls_equal=nulls_equal)
    read = ["n"] if how in ("semi", "anti") else ["n", "other"]
    rows = run_pieces(found.select(read)._node, trickle(frame(left)))
    assert bag(rows.rows()) == bag(joined(left, right, how, equal(nulls_equal)))


@given(left=rows_of, right=rows_of, order=turns)
@settings(max_examples=20)
def test_joins_as_of_a_time(left: Any, right: Any, order: Any) -> None:
    one, another = two(timed=True)
    found = one.join_asof(another, on="t", by="k").select("n", "n_right")
    wanted = []
    for n, (key, second) in enumerate(left):
        before = [
            (when, m)
            for m, (k, when) in enumerate(right)
            if k is not None and plain(k) == plain(key) and when <= second
        ]
        wanted.append((n, max(before)[1] if before else None))
    rows = run_pieces(found._node, in_turns(frame(left), frame(right), order))
    assert bag(rows.rows()) == bag(wanted)


@pytest.mark.parametrize("keep", ["any", "last", "none", "within"])
@given(rows=rows_of)
@settings(max_examples=20)
def test_duplicates(keep: Any, rows: list[Row]) -> None:
    """With one NaN among its keys `unique(within=)` never ended."""
    numbers = defaultdict(list)
    for n, (key, _) in enumerate(rows):
        numbers[plain(key)].append(n)
    wanted = {
        "any": [each[0] for each in numbers.values()],
        "last": [each[-1] for each in numbers.values()],
        "none": [each[0] for each in numbers.values() if len(each) == 1],
    }
    wanted["within"] = wanted["any"]
    options = {"within": "100s"} if keep == "within" else {"keep": keep}
    found = source(timed=True).unique("k", **options).select("n")
    assert sorted(run_pieces(found._node, trickle(frame(rows)))["n"].to_list()) == sorted(wanted[keep])


Groups = dict[Any, list[tuple[int, int]]]

_CALLS: dict[str, tuple[Callable[[StreamFrame], Any], Callable[[Groups], list[tuple[Any, ...]]]]] = {
    "group_by": (
        lambda s: s.group_by("k").agg(m=pl.col("n").max()),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items()],
    ),
    "group_by of its rows": (
        lambda s: s.group_by("k").agg(m=pl.col("n").median()),
        lambda groups: [(key, sorted([n for n, _ in each])[len(each) // 2]) for key, each in groups.items()],
    ),
    "top_k": (
        lambda s: s.top_k(1, by="n", group_by="k").select("k", "n"),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items()],
    ),
    "over": (
        lambda s: s.with_columns(m=pl.col("n").max().over("k")).select("k", "m"),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items() for _ in each],
    ),
    "map_groups": (
        lambda s: s.group_by("k").map_groups(
            lambda rows: rows.select(pl.col("k").first(), pl.col("n").max()), {"k": pl.Float64, "n": pl.Int64}
        ),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items()],
    ),
    "windows": (
        lambda s: s.group_by_dynamic("t", every="1h", group_by="k").agg(m=pl.col("n").max()).select("k", "m"),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items()],
    ),
    "windows of rows": (
        lambda s: s.group_by_dynamic("t", every="1h", group_by="k").agg(m=pl.col("n").sort().last()).select("k", "m"),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items()],
    ),
    "sessions": (
        lambda s: s.group_by_session("t", gap="1h", group_by="k").agg(m=pl.col("n").max()).select("k", "m"),
        lambda groups: [(key, max(n for n, _ in each)) for key, each in groups.items()],
    ),
    "rolling": (
        lambda s: s.rolling("t", period="1h", group_by="k").agg(m=pl.len()).select("k", "m"),
        lambda groups: [
            (key, sum(other <= second for _, other in each)) for key, each in groups.items() for _, second in each
        ],
    ),
    "group_by_count": (
        lambda s: s.group_by_count(2, group_by="k").agg(m=pl.len()).select("k", "m"),
        lambda groups: [
            (key, min(2, len(each) - start)) for key, each in groups.items() for start in range(0, len(each), 2)
        ],
    ),
    "ranks of counts": (
        lambda s: s.group_by("k").agg(m=pl.len()).top_k(9, by="m").select("k", "m"),
        lambda groups: [(key, len(each)) for key, each in groups.items()],
    ),
}


@pytest.mark.parametrize("call", _CALLS)
@given(rows=rows_of)
@settings(max_examples=15)
def test_groups(call: str, rows: list[Row]) -> None:
    groups: Groups = defaultdict(list)
    for n, (key, second) in enumerate(rows):
        groups[plain(key)].append((n, second))
    stream, oracle = _CALLS[call]
    wanted = oracle(groups)
    if call == "group_by of its rows":
        wanted = [(k, v) for k, v in wanted if len(groups[k]) % 2]
    found = run_pieces(stream(source(timed=True))._node, trickle(frame(rows))).rows()
    if call == "group_by of its rows":
        found = [row for row in found if len(groups[plain(row[0])]) % 2]
    assert bag(found) == bag(wanted)


@pytest.mark.parametrize("sink", ["memory", "duckdb"])
def test_tables_are_updated_by_such_keys(sink: str, tmp_path: Path) -> None:
    """One row for the NaN, however often it comes; and SQL finds it."""
    ctx = ars.StreamingContext(batch_interval="10s")
    rows = ctx.read.memory(SCHEMA, name="s")
    counts, best = rows.group_by("k").agg(n=pl.len()), rows.top_k(1, by="n")
    for name, made in {"counts": counts, "best": best}.items():
        if sink == "memory":
            made.write.memory(name)
        else:
            made.write.duckdb(tmp_path / f"{name}.duckdb", table=name)
    with ctx:
        ctx.start()
        for key in (math.nan, None, -0.0, math.nan, 0.0, math.nan, None):
            rows.source.send(frame([(key, 0)]))
            ctx.process_all_available(30)
        assert bag(ctx.sql("FROM counts").fetchall()) == bag([("NaN", 3), (None, 2), (0.0, 2)])
        assert ctx.sql("SELECT n FROM counts WHERE k = 'NaN'::DOUBLE").fetchall() == [(3,)]
        assert len(ctx.sql("FROM best").fetchall()) == 1


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
def test_one_row_is_joined_with_one_row(how: Any, dtype: Any) -> None:
    """What Polars gets wrong, straight at the helper; and no column too many comes out."""
    for coalesce in (None, True, False):
        one = pl.DataFrame({"k": [math.nan], "a": [1]}, schema_overrides={"k": dtype})
        another = pl.DataFrame({"k": [math.nan], "b": [2]}, schema_overrides={"k": dtype})
        options: dict[str, Any] = {"how": how, "coalesce": coalesce} if how not in ("semi", "anti") else {"how": how}
        found = matching.join(one.lazy(), another.lazy(), ["k"], one.schema, **options, suffix="_x").collect()
        plain_keys = one.with_columns(k=pl.lit(1.0)).join(
            another.with_columns(k=pl.lit(1.0)), on="k", suffix="_x", **options
        )
        assert found.columns == plain_keys.columns
        assert found.height == (how != "anti")
        if "b" in found.columns:
            assert found.select("a", "b").rows() == [(1, 2)]


def test_no_frames_are_joined_elsewhere() -> None:
    """Whoever adds a join has it here, or takes it out of `matching`."""
    root = Path(__file__).parent.parent
    joins = {"join", "join_asof", "join_where", "merge_sorted"}
    allowed = {
        ("arrowstream/joining.py", "matching.join"),
        ("arrowstream/frame.py", "joining.join"),
        ("arrowstream/frame.py", "joining.join_asof"),
        ("arrowstream/frame.py", "joining.join_where"),
        ("arrowstream/operators/asof.py", "self._node.join"),
        ("arrowstream/operators/tablejoin.py", "self._node.join"),
        ("arrowstream/joining.py", "empty.join"),
    }
    found = set()
    for path in [each for room in ("arrowstream", "sinks", "sources") for each in sorted((root / room).rglob("*.py"))]:
        name = path.resolve().relative_to(root.resolve()).as_posix()
        if name.startswith("arrowstream/oneshot/"):
            continue  # the reading in one shot shares nothing with the engine, and joins by numbers of its own
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in joins):
                continue
            text = ast.unparse(call.func)
            of_frames = call.func.attr != "join" or call.keywords or len(call.args) > 1
            if of_frames and not text.startswith(("matching.", "os.path.")) and name != "arrowstream/matching.py":
                found.add((name, text))
    assert found - allowed == set()
