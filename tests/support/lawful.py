"""Random pipelines and random rows, for the law: the stream's answer is that of Polars in one shot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import arrowstream
from arrowstream.frame import StreamFrame

SCHEMA = pl.Schema(
    {
        "k": pl.String(),
        "g": pl.Float64(),
        "i": pl.Int64(),
        "j": pl.Int32(),
        "f": pl.Float64(),
        "b": pl.Boolean(),
        "l": pl.List(pl.Int64()),
    }
)
"""A source with a bit of everything: two keys, one of them a float with every trap in it."""

ODD_NAMES = [
    "__deleted", "__row", "__out", "__order", "__arrival", "__weight", "_weight", "__bin", "__rows", "__id", "__value0",
    "__0_sum", "__over", "a b", " ", "a.b", 'a"b', "a'b", "a\nb", "a%20b", "select", "at", "self", "rowid", "🦆", "1",
    "x" * 300,
]  # fmt: skip
"""What people and other systems call columns: nothing of it may change an answer."""

Apply = Callable[[Any], Any]


@dataclass(frozen=True, repr=False)
class Call:
    """One call, on the stream and on the LazyFrame; mostly the same one. `text` is what a failure shows."""

    text: str
    stream: Apply
    oracle: Apply


class Pipeline:
    """A stream frame, and the calls that lead from a LazyFrame to the same rows.

    `ordered` says whether rows still come in the order of the source, so that `first` and `last` mean something.
    """

    def __init__(self, frame: StreamFrame) -> None:
        self.frame = frame
        self.calls: list[Call] = []
        self.ordered = True
        self.aggregated = 0

    def add(self, call: Call) -> None:
        self.frame = call.stream(self.frame)
        self.calls.append(call)

    def aggregate(self, call: Call) -> None:
        """An aggregate, whose counts and small sums the stream widens: where Polars wraps, the oracle must not."""
        self.add(call)
        types = dict(self.frame.schema)
        self.calls[-1] = Call(call.text, call.stream, lambda at: call.oracle(at).cast(types))

    def oracle(self, rows: pl.DataFrame) -> pl.DataFrame:
        """All rows in one shot, in the types that the stream has promised."""
        frame = rows.lazy()
        for call in self.calls:
            frame = call.oracle(frame)
        answer = frame.collect()
        assert answer.columns == self.frame.columns
        return answer.cast(dict(self.frame.schema))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return "\n    ".join(["Pipeline:", *(f".{call.text}" for call in self.calls)])


def assert_same_rows(stream: pl.DataFrame, oracle: pl.DataFrame) -> None:
    """Equal as multisets, floats within the error that sums of them have."""
    exact = [name for name, dtype in oracle.schema.items() if not dtype.is_float()]
    names = [*exact, *(name for name in oracle.columns if name not in exact)]
    assert stream.schema == oracle.schema
    if not names:
        assert stream.height == oracle.height
        return
    # -0.0 and 0.0 are one value: give both one sign, so that they sort alike.
    plain = pl.selectors.float()
    left, right = (
        each.select(names).with_columns(pl.when(plain == 0).then(0.0).otherwise(plain).name.keep())
        for each in (stream, oracle)
    )
    assert_frame_equal(left.sort(names), right.sort(names), check_exact=False, rel_tol=1e-8, abs_tol=1e-8)


floats = st.one_of(st.sampled_from([0.0, -0.0, float("nan"), 1.5, -2.25]), st.floats(-1000, 1000, width=32))


def frames(max_rows: int = 40) -> st.SearchStrategy[pl.DataFrame]:
    """Rows of `SCHEMA` with nulls, NaN, both zeros, empty lists and many duplicates."""
    row = st.tuples(
        st.sampled_from(["a", "b", "c", "", None]),
        st.sampled_from([0.0, -0.0, float("nan"), 1.0, None]),
        st.none() | st.integers(-5, 5),
        st.none() | st.integers(-3, 3),
        st.none() | floats,
        st.none() | st.booleans(),
        st.none() | st.lists(st.none() | st.integers(0, 3), max_size=3),
    )
    return st.lists(row, max_size=max_rows).map(lambda rows: pl.DataFrame(rows, schema=SCHEMA, orient="row"))


def _of(schema: pl.Schema, *kinds: str) -> list[str]:
    tests: dict[str, Callable[[pl.DataType], bool]] = {
        "int": lambda dtype: dtype.is_integer(),
        "float": lambda dtype: dtype.is_float(),
        "str": lambda dtype: dtype == pl.String,
        "bool": lambda dtype: dtype == pl.Boolean,
        "list": lambda dtype: isinstance(dtype, pl.List),
    }
    return [name for name, dtype in schema.items() if any(tests[kind](dtype) for kind in kinds)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _same(text: str, apply: Apply) -> Call:
    return Call(text, apply, apply)


def _predicate(draw: st.DrawFn, schema: pl.Schema) -> tuple[str, pl.Expr]:
    name = draw(st.sampled_from(schema.names()))
    column, dtype = pl.col(name), schema[name]
    if dtype.is_numeric():
        bound = draw(st.integers(-2, 3))
        return f"{name} > {bound}", column > bound
    if dtype == pl.String:
        return f"{name} != 'a'", column != "a"
    if dtype == pl.Boolean:
        return name, column
    return f"{name} is not null", column.is_not_null()


def _value(draw: st.DrawFn, schema: pl.Schema) -> tuple[str, pl.Expr]:
    """An elementwise expression over some column."""
    name = draw(st.sampled_from(schema.names()))
    column, dtype = pl.col(name), schema[name]
    made: list[tuple[str, pl.Expr]] = [(f"{name}.is_null()", column.is_null())]
    if dtype.is_numeric():
        made += [
            (f"{name}.cast(f64) * 2", column.cast(pl.Float64) * 2),
            (f"when({name} > 0)", pl.when(column > 0).then(column).otherwise(-1)),
            (f"{name}.fill_null(0)", column.fill_null(0)),
        ]
    if dtype.is_integer():
        made += [(f"{name} * 3 - 1", column * 3 - 1), (f"{name} % 3", column % 3), (f"-{name}", -column.cast(pl.Int64))]
    if dtype == pl.String:
        made += [
            (f"{name}.upper()", column.str.to_uppercase()),
            (f"{name} + '!'", column + "!"),
            (f"{name}.len", column.str.len_bytes().cast(pl.Int64)),
        ]
    if dtype == pl.Boolean:
        made += [(f"~{name}", ~column)]
    if isinstance(dtype, pl.List):
        made += [(f"{name}.list.len", column.list.len().cast(pl.Int64)), (f"{name}.list.sort", column.list.sort())]
    return draw(st.sampled_from(made))


@st.composite
def row_calls(draw: st.DrawFn, schema: pl.Schema) -> Call:
    """A row-local call that fits these columns."""
    names = schema.names()
    kinds = ["filter", "with_columns", "select", "rename", "drop_nulls", "cast", "fill_null", "map_batches", "remove"]
    ints = _of(schema, "int")
    if _of(schema, "list"):
        kinds += ["explode", "explode"]
    if len(ints) > 1:
        kinds += ["unpivot"]
    if ints:
        kinds += ["sql"]
    if len(names) > 2:
        kinds += ["drop"]
    kind = draw(st.sampled_from(kinds))
    fresh = next(name for name in (f"n{number}" for number in range(100)) if not {name, f"v{name}"} & {*names})
    match kind:
        case "filter" | "remove":
            text, predicate = _predicate(draw, schema)
            return _same(f"{kind}({text})", lambda at: getattr(at, kind)(predicate))
        case "with_columns":
            text, value = _value(draw, schema)
            target = draw(st.sampled_from([fresh, names[0]]))
            return _same(f"with_columns({target}={text})", lambda at: at.with_columns(value.alias(target)))
        case "select":
            kept = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
            text, value = _value(draw, schema)
            return _same(f"select({kept}, {fresh}={text})", lambda at: at.select(*kept, value.alias(fresh)))
        case "rename":
            old = draw(st.sampled_from(names))
            return _same(f"rename({old}->{fresh})", lambda at: at.rename({old: fresh}))
        case "drop":
            old = draw(st.sampled_from(names))
            return _same(f"drop({old})", lambda at: at.drop(old))
        case "drop_nulls":
            subset = draw(st.sampled_from([None, *names]))
            return _same(f"drop_nulls({subset})", lambda at: at.drop_nulls(subset))
        case "cast":
            name = draw(st.sampled_from(ints or names))
            into = pl.Float64 if name in ints else schema[name]
            return _same(f"cast({name}: {into})", lambda at: at.cast({name: into}))
        case "fill_null":
            return _same("fill_null(7)", lambda at: at.fill_null(7))
        case "explode":
            name = draw(st.sampled_from(_of(schema, "list")))
            return _same(f"explode({name})", lambda at: at.explode(name))
        case "unpivot":
            index = [name for name in names if name not in ints[:2]]
            return _same(
                f"unpivot({ints[:2]})",
                lambda at: at.unpivot(ints[:2], index=index, variable_name=f"v{fresh}", value_name=fresh),
            )
        case "map_batches":
            text, value = _value(draw, schema)

            def function(frame: pl.DataFrame) -> pl.DataFrame:
                return frame.with_columns(value.alias(fresh))

            return Call(
                f"map_batches({fresh}={text})",
                lambda at: at.map_batches(function),
                lambda at: function(at.collect()).lazy(),
            )
        case _:
            name = ints[0]
            listed, own = ", ".join(map(_quoted, names)), _quoted(name)
            statement = f"SELECT {listed}, {own} + 1 AS {fresh} FROM self WHERE {own} IS NULL OR {own} < 4"

            def oracle(at: pl.LazyFrame) -> pl.LazyFrame:
                kept = at.filter(pl.col(name).is_null() | (pl.col(name) < 4))
                return kept.with_columns((pl.col(name).cast(pl.Int64) + 1).alias(fresh))

            return Call(f"sql({statement})", lambda at: at.sql(statement), oracle)


def _aggregate(draw: st.DrawFn, schema: pl.Schema, name: str, *, ordered: bool, again: bool) -> tuple[str, pl.Expr]:
    """An aggregate of one column; `again` of rows that may be taken back."""
    column, dtype, where = pl.col(name), schema[name], ""
    if draw(st.integers(0, 3)) == 0:
        text, predicate = _predicate(draw, schema)
        column, where = column.filter(predicate), f".filter({text})"
    kinds = ["count", "n_unique"] if not dtype.is_nested() else ["count"]
    if dtype.is_integer() or (dtype.is_float() and not again):
        kinds += ["sum", "mean", "sum_over_len"]
    if not again:
        if dtype.is_numeric():
            kinds += ["min", "max", "var", "std", "range"]
        if dtype == pl.String:
            kinds += ["min", "max"]
        if ordered:
            kinds += ["first", "last", "implode"]
    if dtype == pl.Boolean:
        kinds += ["any", "all"]
    kind = draw(st.sampled_from(kinds))
    text = f"{name}{where}.{kind}"
    match kind:
        case "sum_over_len":
            return text, column.sum() / pl.len() + 1
        case "range":
            return text, column.max() - column.min()
    return text, getattr(column, kind)()


@st.composite
def aggregate_calls(draw: st.DrawFn, schema: pl.Schema, *, ordered: bool, again: bool) -> Call:
    """A group_by, or a global aggregate."""
    names = schema.names()
    groupable = [name for name in names if not isinstance(schema[name], pl.List)]
    keys = draw(st.lists(st.sampled_from(groupable), max_size=2, unique=True)) if groupable else []
    texts, aggs = [], [pl.len().alias("len")]
    for number in range(draw(st.integers(1, 3))):
        text, expr = _aggregate(draw, schema, draw(st.sampled_from(names)), ordered=ordered, again=again)
        texts.append(text)
        aggs.append(expr.alias(f"a{number}"))
    if keys:
        text = f"group_by({keys}).agg(len, {', '.join(texts)})"
        by: Sequence[pl.Expr] = [pl.col(name) for name in keys]
        if clash := {f"a{number}" for number in range(3)} & set(keys):
            by = [pl.col(name).alias(f"k_{name}" if name in clash else name) for name in keys]
        by = [expr.alias("k_len") if name == "len" else expr for name, expr in zip(keys, by, strict=True)]
        return _same(text, lambda at: at.group_by(*by).agg(*aggs))
    return Call(f"agg(len, {', '.join(texts)})", lambda at: at.agg(*aggs), lambda at: at.select(*aggs))


def _doubled(draw: st.DrawFn, schema: pl.Schema) -> Call:
    text, predicate = _predicate(draw, schema)
    return Call(
        f"concat(itself, filter({text}))",
        lambda at: arrowstream.concat([at, at.filter(predicate)]),
        lambda at: pl.concat([at, at.filter(predicate)]),
    )


@st.composite
def pipelines(draw: st.DrawFn, start: StreamFrame, *, aggregates: int = 2, most_rows: int = 3) -> Pipeline:
    """Row-local chains, concats and up to so many aggregates, one on the other."""
    made = Pipeline(start)

    def rows() -> None:
        for _ in range(draw(st.integers(0, most_rows))):
            if draw(st.integers(0, 7)) == 0:
                made.add(_doubled(draw, made.frame.schema))
                made.ordered = False
            else:
                call = draw(row_calls(made.frame.schema))
                made.ordered = made.ordered and not call.text.startswith("unpivot")
                made.add(call)

    rows()
    for _ in range(draw(st.integers(0, aggregates))):
        made.aggregate(
            draw(
                aggregate_calls(
                    made.frame.schema, ordered=made.ordered and not made.aggregated, again=bool(made.aggregated)
                )
            )
        )
        made.aggregated += 1
        rows()
    return made
