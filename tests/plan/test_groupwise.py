"""Expressions over the rows of a group: what is one, and that it gives the same in whatever company."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from apart import source
from polars.testing import assert_frame_equal, assert_series_equal

from arrowstream.check import run_pieces
from arrowstream.errors import PlanError
from arrowstream.plan.elementwise import ELEMENTWISE, LENGTH_CHANGING
from arrowstream.plan.expressions import Call, Opaque, parse, unaliased, walk
from arrowstream.plan.groupwise import GROUPWISE, groupwise, in_order_of_arrival

SCHEMA = pl.Schema(
    {
        "i": pl.Int64(),
        "j": pl.Int64(),
        "f": pl.Float64(),
        "s": pl.String(),
        "b": pl.Boolean(),
        "t": pl.Datetime("us"),
        "d": pl.Date(),
        "xs": pl.List(pl.Int64()),
        "ar": pl.Array(pl.Int64(), 2),
        "st": pl.Struct({"x": pl.Int64(), "y": pl.String()}),
        "by": pl.Binary(),
        "c": pl.Categorical(),
    }
)

# What each method of an expression is tried with, until one is taken: nothing, values, columns.
ARGUMENTS: list[tuple[Any, ...]] = [
    (),
    (1,),
    (2,),
    (0.5,),
    ("a",),
    ([1, 2],),
    (pl.col("j"),),
    ([0.5],),
    ("1d",),
    (["a"],),
]

# Calls that need more than one plain argument.
CALLS: dict[str, pl.Expr] = {
    "clip": pl.col("i").clip(0, 3),
    "bin_intervals": pl.col("f").bin_intervals([0.0, 1.0], labels=False),
    "cumulative_eval": pl.col("i").cumulative_eval(pl.element().sum()),
    "ewm_mean": pl.col("f").ewm_mean(alpha=0.5),
    "ewm_std": pl.col("f").ewm_std(alpha=0.5),
    "ewm_var": pl.col("f").ewm_var(alpha=0.5),
    "ewm_sum": pl.col("f").ewm_sum(alpha=0.5),
    "ewm_mean_by": pl.col("f").ewm_mean_by("t", half_life="1d"),
    "ewm_sum_by": pl.col("f").ewm_sum_by("t", half_life="1d"),
    "is_between": pl.col("i").is_between(0, 3),
    "is_close": pl.col("f").is_close(1.0),
    "extend_constant": pl.col("i").extend_constant(1, 2),
    "over": pl.col("i").sum().over("s"),
    "rolling": pl.col("i").sum().rolling("t", period="1d"),
    "rolling_map": pl.col("f").rolling_map(lambda s: s.sum(), 2),
    "rolling_rank_by": pl.col("i").rolling_rank_by("t", "1d"),
    "replace": pl.col("i").replace({1: 2}),
    "replace_strict": pl.col("i").replace_strict({1: 2}, default=0),
    "map_batches": pl.col("i").map_batches(lambda s: s * 2, return_dtype=pl.Int64),
    "map_elements": pl.col("i").map_elements(lambda v: v, return_dtype=pl.Int64),
    "map": pl.col("i").map_batches(lambda s: s * 2, return_dtype=pl.Int64),
    "rolling_quantile": pl.col("f").rolling_quantile(0.5, window_size=2),
    "rolling_quantile_by": pl.col("f").rolling_quantile_by("t", "1d", quantile=0.5),
    "quantile": pl.col("f").quantile(0.5),
    "approx_quantile": pl.col("f").quantile(0.5),
    "top_k_by": pl.col("i").top_k_by("j", 2),
    "bottom_k_by": pl.col("i").bottom_k_by("j", 2),
    "gather_every": pl.col("i").gather_every(2),
    "slice": pl.col("i").slice(0, 1),
    "reshape": pl.col("i").reshape((-1, 1)),
    "index_of": pl.col("i").index_of(1),
    "cast": pl.col("i").cast(pl.Float64),
    "reinterpret": pl.col("i").reinterpret(signed=False),
    "mode": pl.col("i").mode(),
    "pipe_with_dtype": pl.col("i").abs(),
    "str.split_exact": pl.col("s").str.split_exact("a", 1),
    "str.splitn": pl.col("s").str.splitn("a", 2),
    "str.replace": pl.col("s").str.replace("a", "b"),
    "str.replace_all": pl.col("s").str.replace_all("a", "b"),
    "str.replace_many": pl.col("s").str.replace_many(["a"], ["b"]),
    "str.pad_start": pl.col("s").str.pad_start(3),
    "str.pad_end": pl.col("s").str.pad_end(3),
    "str.strptime": pl.col("s").str.strptime(pl.Date, "%Y", strict=False),
    "str.to_date": pl.col("s").str.to_date("%Y", strict=False),
    "str.to_datetime": pl.col("s").str.to_datetime("%Y-%m-%d", strict=False),
    "str.to_time": pl.col("s").str.to_time("%H", strict=False),
    "str.decode": pl.col("s").str.decode("hex", strict=False),
    "str.encode": pl.col("s").str.encode("hex"),
    "str.json_decode": pl.col("s").str.json_decode(pl.Int64),
    "str.normalize": pl.col("s").str.normalize(),
    "str.to_integer": pl.col("s").str.to_integer(strict=False),
    "str.to_decimal": pl.col("s").str.to_decimal(scale=2),
    "dt.combine": pl.col("d").dt.combine(pl.time(1)),
    "dt.convert_time_zone": pl.col("t").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Paris"),
    "dt.replace_time_zone": pl.col("t").dt.replace_time_zone("UTC"),
    "dt.base_utc_offset": pl.col("t").dt.replace_time_zone("UTC").dt.base_utc_offset(),
    "dt.dst_offset": pl.col("t").dt.replace_time_zone("UTC").dt.dst_offset(),
    "dt.cast_time_unit": pl.col("t").dt.cast_time_unit("ms"),
    "dt.strftime": pl.col("t").dt.strftime("%Y"),
    "dt.to_string": pl.col("t").dt.to_string("%Y"),
    "list.eval": pl.col("xs").list.eval(pl.element() + 1),
    "list.agg": pl.col("xs").list.agg(pl.element().sum()),
    "list.filter": pl.col("xs").list.filter(pl.element() > 1),
    "list.slice": pl.col("xs").list.slice(0, 1),
    "list.gather": pl.col("xs").list.gather([0], null_on_oob=True),
    "list.get": pl.col("xs").list.get(0, null_on_oob=True),
    "list.to_array": pl.col("xs").list.head(0).list.to_array(0),
    "list.to_struct": pl.col("xs").list.to_struct(fields=["a"]),
    "list.join": pl.col("xs").cast(pl.List(pl.String)).list.join("-"),
    "list.any": pl.col("xs").list.eval(pl.element() > 1).list.any(),
    "list.all": pl.col("xs").list.eval(pl.element() > 1).list.all(),
    "list.item": pl.col("xs").list.first(),
    "list.to_map": pl.col("xs").list.len(),
    "list.sample": pl.col("xs").list.sample(1),
    "arr.eval": pl.col("ar").arr.eval(pl.element() + 1),
    "arr.agg": pl.col("ar").arr.agg(pl.element().sum()),
    "arr.slice": pl.col("ar").arr.slice(0, 1),
    "arr.any": pl.col("ar").arr.eval(pl.element() > 1).arr.any(),
    "arr.all": pl.col("ar").arr.eval(pl.element() > 1).arr.all(),
    "arr.join": pl.col("ar").cast(pl.Array(pl.String, 2)).arr.join("-"),
    "arr.dot": pl.col("ar").arr.dot(pl.col("ar")),
    "struct.with_fields": pl.col("st").struct.with_fields(z=1),
    "struct.rename_fields": pl.col("st").struct.rename_fields(["p", "q"]),
    "struct.field": pl.col("st").struct.field("x"),
    "struct.drop": pl.col("st").struct.drop(["x"]),
    "struct.eval": pl.col("st").struct.with_fields(z=1),
    "struct.unnest": pl.col("st").struct.field("x"),
    "bin.reinterpret": pl.col("by").bin.reinterpret(dtype=pl.Int32, endianness="little"),
    "bin.decode": pl.col("by").bin.encode("hex").str.decode("hex"),
    "bin.encode": pl.col("by").bin.encode("hex"),
    "bin.slice": pl.col("by").bin.slice(0, 1),
    "cat.to": pl.col("c").cast(pl.String),
    "ext.to": pl.col("i"),
    "ext.storage": pl.col("i"),
    "drop_nans": pl.col("f").drop_nans(),
    "is_in": pl.col("i").is_in([1, 2]),
    "fill_null": pl.col("i").fill_null(0),
    "fill_nan": pl.col("f").fill_nan(0.0),
    "filter": pl.col("i").filter(pl.col("b")),
    "explode": pl.col("xs").explode(),
    "get": pl.col("i").get(0, null_on_oob=True),
    "gather": pl.col("i").gather([0]),
    "item": pl.col("i").max(),
    "bin_ranks": pl.col("i").bin_ranks(2, labels=False),
    "bin_quantiles": pl.col("f").bin_quantiles([0.5], labels=False),
    "lower_bound": pl.col("i").lower_bound(),
    "upper_bound": pl.col("i").upper_bound(),
    "interpolate_by": pl.col("f").interpolate_by("t"),
    "search_sorted": pl.col("i").sort().search_sorted(1),
    "bitwise_and": pl.col("i").bitwise_and(),
    "hist": pl.col("f").hist([0.0, 1.0]),
    "entropy": pl.col("f").abs().entropy(),
}
NO_OPERATION = {
    "meta",
    "name",
    "alias",
    "exclude",
    "deserialize",
    "pipe",
    "inspect",
    "str",
    "dt",
    "list",
    "arr",
}
NO_OPERATION |= {"struct", "bin", "cat", "ext"}
OF_NAMESPACE = {"str": "s", "dt": "t", "list": "xs", "arr": "ar", "struct": "st", "bin": "by", "cat": "c", "ext": "i"}
BOOLEAN = {"all", "any", "not_", "and_", "or_", "xor", "arg_true", "add_business_days", "is_business_day"}


def methods() -> Iterator[tuple[str, str, str]]:
    """Every method of Polars' expressions: its full name, namespace and name."""
    for name in dir(pl.Expr):
        if not name.startswith("_") and name not in NO_OPERATION:
            yield name, "", name
    for space, column in OF_NAMESPACE.items():
        for name in dir(getattr(pl.col(column), space)):
            if not name.startswith("_"):
                yield f"{space}.{name}", space, name


def sample(full: str, space: str, name: str) -> pl.Expr | None:
    """An expression with this method; None where no arguments were found for it."""
    if full in CALLS:
        return CALLS[full]
    column = (
        pl.col(OF_NAMESPACE[space]) if space else pl.col("b" if name in BOOLEAN else "f" if "rolling" in name else "i")
    )
    if space == "dt" and name in ("add_business_days", "is_business_day", "days_in_month"):
        column = pl.col("d")
    if name.startswith("total_"):
        column = pl.col("t") - pl.datetime(2020, 1, 1)
    for arguments in ARGUMENTS:
        if name.endswith("_by") and space == "":
            arguments = ("t", "1d") if "rolling" in name else ("j",)
        if "rolling" in name and not name.endswith("_by"):
            arguments = (2,)
        try:
            made = getattr(getattr(column, space) if space else column, name)(*arguments)
            if isinstance(made, pl.Expr) and not isinstance(parse(made), Opaque):
                made = made.alias("out")
                pl.LazyFrame(schema=SCHEMA).select(made).collect_schema()
                return made
        except Exception:
            continue
    return None


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SAMPLES = {full: sample(full, space, name) for full, space, name in methods()}


def rows(seed: int, count: int = 12) -> pl.DataFrame:
    chance = random.Random(seed)

    def one() -> tuple[Any, ...]:
        def maybe(value: Any) -> Any:
            return value if chance.random() < 0.85 else None

        return (
            maybe(chance.randint(-3, 5)),
            maybe(chance.randint(0, 4)),
            maybe(chance.choice([0.5, 1.5, -2.0, 0.0])),
            maybe(chance.choice(["1", "7", "2021", "42"])),
            maybe(chance.random() < 0.5),
            datetime(2024, 1, 1) + timedelta(hours=chance.randint(0, 99)),
            date(2024, 1, 1) + timedelta(days=chance.randint(0, 99)),
            maybe([chance.randint(0, 3) for _ in range(chance.randint(0, 3))]),
            [chance.randint(0, 3), 1],
            {"x": chance.randint(0, 3), "y": chance.choice("ab")},
            b"abcd",
            chance.choice("pq"),
        )

    return pl.DataFrame([one() for _ in range(count)], schema=SCHEMA, orient="row")


def operations(expr: pl.Expr) -> set[str]:
    return {node.op for node in walk(parse(expr)) if isinstance(node, Call)}


def test_every_operation_of_polars_has_its_word() -> None:
    """A new Polars brings new methods: somebody has to say what each depends on before a stream takes it."""
    assert [full for full, expr in SAMPLES.items() if expr is None] == []
    used = set().union(*(operations(expr) for expr in SAMPLES.values() if expr is not None))
    named = {op.removeprefix("Function.") for op in used - ELEMENTWISE - LENGTH_CHANGING}
    unknown = {name for name in named if name not in GROUPWISE and name.split(".")[0] not in GROUPWISE}
    assert unknown == set()


def accepted() -> Iterator[tuple[str, pl.Expr]]:
    for full, expr in SAMPLES.items():
        assert expr is not None
        try:
            ((_, stable),) = groupwise("agg", [("out", expr)], SCHEMA)
        except PlanError:
            continue
        yield full, stable.alias("out")


def test_a_group_does_not_see_the_others() -> None:
    """A batch touches three groups, the next one only the first: its answer is the same both times."""
    parts = [rows(seed).with_columns(pl.lit(seed).alias("g")) for seed in range(3)]
    together = pl.concat(parts)
    differ = []
    for full, expr in accepted():
        try:
            alone = parts[1].group_by("g", maintain_order=True).agg(expr)["out"]
            beside = together.group_by("g", maintain_order=True).agg(expr).filter(pl.col("g") == 1)["out"]
        except pl.exceptions.PolarsError:
            continue  # of these values it cannot be computed at all
        try:
            assert_series_equal(alone, beside, categorical_as_str=True)
        except AssertionError:
            differ.append(full)
    assert differ == []


def test_what_goes_by_the_rows_alone_does_not_see_their_order() -> None:
    """Rows of several splits come in turns that nobody can foresee."""
    frame = rows(5, 30)
    other = frame.sample(fraction=1.0, shuffle=True, seed=1)
    differ = []
    for full, expr in accepted():
        tree = unaliased(parse(expr))
        outer = tree.inputs[0] if isinstance(tree, Call) and tree.op == "Cast" else tree
        if in_order_of_arrival(expr) or not isinstance(outer, Call) or outer.op in ELEMENTWISE | LENGTH_CHANGING:
            continue
        try:
            one, two = (each.group_by(pl.lit(0)).agg(expr)["out"] for each in (frame, other))
        except pl.exceptions.PolarsError:
            continue
        values = [series.explode() if isinstance(series.dtype, pl.List) else series for series in (one, two)]
        if isinstance(one.dtype, pl.List):
            values = [
                series.sort() if not series.dtype.is_nested() else series.cast(pl.String) if 0 else series
                for series in values
            ]
        try:
            assert_frame_equal(*(series.to_frame() for series in values), check_row_order=False)
        except AssertionError:
            differ.append(full)
    assert differ == []


@pytest.mark.parametrize(
    ("expr", "why", "cure"),
    [
        (pl.col("i").sample(1), "is random", "hash"),
        (pl.col("i").sample(1, seed=7), "is random", "hash"),
        (pl.col("i").shuffle().first(), "is random", "hash"),
        (pl.col("i").rank("random"), "random among equals", "ordinal"),
        (pl.col("i").set_sorted().max(), "promise", "without set_sorted"),
        (pl.col("s").str.to_date().max(), "infers the format", "format="),
        (pl.col("c").to_physical().max(), "codes of a Categorical", "Enum"),
        (pl.col("s").any(), "is of String", "refuses"),
        (pl.col("s").mean(), "mean", "not supported for dtype `str`"),
        (pl.col("xs").sum(), "sum", "not supported for dtype `list"),
        (pl.col("xs").list.sample(1), "is random", "head"),
    ],
)
def test_what_is_no_function_of_the_group_is_refused_at_its_line(expr: pl.Expr, why: str, cure: str) -> None:
    """Polars would run each of these, and a stream give another answer in each batch, or fail in the first one."""
    frame = source(schema=SCHEMA)
    with pytest.raises(PlanError, match=f"{why}.*{cure}"):
        frame.group_by("j").agg(out=expr)
    with pytest.raises(PlanError, match=f"{why}.*{cure}"):
        frame.with_columns(out=expr.over("j"))


AGGREGATES: dict[str, pl.Expr] = {
    "len": pl.len() - 5,
    "count": pl.col("i").count() - 5,
    "difference": pl.col("i").filter(pl.col("b")).count() - pl.col("i").filter(~pl.col("b")).count(),
    "n_unique": pl.col("i").n_unique() - 5,
    "null_count": pl.col("i").null_count() - 5,
    "sum of Boolean": pl.col("b").sum() - 5,
    "sum of Int64": pl.col("i").sum(),
    "sum of Int32": pl.col("i").cast(pl.Int32).sum() * 3,
    "sum of UInt32": pl.col("j").cast(pl.UInt32).sum() - 100,
    "sum of Int8": pl.col("i").cast(pl.Int8).sum(),
    "sum of UInt64": pl.col("j").cast(pl.UInt64).sum(),
    "sum of Decimal": pl.col("f").cast(pl.Decimal(10, 2)).sum(),
    "sum of Int128": pl.col("i").cast(pl.Int128).sum().cast(pl.Int64),
    "sum of Duration": (pl.col("t") - datetime(2024, 1, 1)).sum(),
    "sum of Float32": pl.col("f").cast(pl.Float32).sum(),
    "mean": pl.col("i").mean(),
    "mean of Decimal": pl.col("f").cast(pl.Decimal(10, 2)).mean(),
    "mean of Date": pl.col("d").mean(),
    "var": pl.col("f").var(),
    "std": pl.col("i").std(),
    "min": pl.col("j").cast(pl.UInt32).min(),
    "max": pl.col("s").max(),
    "first": pl.col("s").first(),
    "last": pl.col("i").last(),
    "product": pl.col("i").product(),
    "any": pl.col("b").any(),
    "all": pl.col("b").all(ignore_nulls=False),
    "has_nulls": pl.col("i").has_nulls(),
    "implode": pl.col("i").implode(),
}
COMPANY = {
    "median": pl.col("f").median(),
    "sort_by": pl.col("s").sort_by("t").first(),
    "first": pl.col("b").first(),
    "unique": pl.col("i").unique().len(),
}


def answers(**aggs: pl.Expr) -> dict[str, pl.DataFrame]:
    """Aggregates of the same rows, through each of the calls that take aggregates."""
    schema = pl.Schema({"k": pl.String(), **SCHEMA})
    parts = [rows(seed).select(pl.lit(name).alias("k"), pl.all()) for seed, name in enumerate("xyz")]
    frame = pl.concat(parts).sort("t", maintain_order=True)
    stream = source(schema=schema).with_watermark("t", "0s")
    plans = {
        "groups": stream.group_by("k").agg(**aggs),
        "window": stream.group_by_dynamic("t", every="1000d", group_by="k").agg(**aggs),
        "hops": stream.group_by_dynamic("t", every="1d", period="2d", group_by="k").agg(**aggs),
        "session": stream.group_by_session("t", gap="10d", group_by="k").agg(**aggs),
        "rolling": stream.rolling("t", period="1000d", group_by="k").agg(**aggs),
        "all": stream.agg(**aggs),
    }
    pieces = [{"rows": frame[at : at + 9]} for at in range(0, frame.height, 9)]
    found = {name: run_pieces(plan._node, pieces) for name, plan in plans.items()}
    return {
        name: each.sort(pl.exclude(list(aggs)), maintain_order=True) if name != "all" else each
        for name, each in found.items()
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, pl.DataFrame]]:
    return {name: answers(**{name: expr}) for name, expr in AGGREGATES.items()}


@pytest.mark.parametrize("other", COMPANY)
def test_an_aggregate_is_the_same_in_any_company(other: str, alone: dict[str, dict[str, pl.DataFrame]]) -> None:
    """A median is added to a report, and every count in it changed its type: `len() - 5` became 4,294,967,291."""
    together = answers(**AGGREGATES, other=COMPANY[other])
    for ways in alone.values():
        for way, found in ways.items():
            assert_frame_equal(together[way].select(found.columns), found, rel_tol=1e-9)


def test_an_aggregate_has_one_type(alone: dict[str, dict[str, pl.DataFrame]]) -> None:
    """Of groups, of windows of every sort, and of rows before a row."""
    for name, ways in alone.items():
        (dtype,) = {found.schema[name] for found in ways.values()}
        assert dtype != pl.UInt32 or name == "min"


def test_counts_over_groups_do_not_wrap() -> None:
    """The place of a row, less the number of rows of its group, is below zero."""
    frame = source(schema=SCHEMA)
    plan = frame.select("j", less=pl.col("i").cum_count().over("j") - pl.len().over("j"))
    data = rows(3)
    found = run_pieces(plan._node, [{"rows": data[:5]}, {"rows": data[5:]}])
    assert found.schema["less"] == pl.Int64
    wanted = data.select("j", less=pl.col("i").cum_count().over("j").cast(pl.Int64) - pl.len().over("j").cast(pl.Int64))
    assert_frame_equal(found, wanted, check_row_order=False)
