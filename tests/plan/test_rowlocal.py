"""What may be recorded as row-local, shown by cutting the data."""

from __future__ import annotations

import html
import math
import random
import threading
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from arrowstream.errors import ColumnError, NotRowLocalError
from arrowstream.plan.elementwise import ELEMENTWISE
from arrowstream.plan.expressions import Call, expand, parse, walk
from arrowstream.plan.rowlocal import check_outputs, check_row_local

SCHEMA = pl.Schema(
    {
        "i": pl.Int64(),
        "j": pl.Int64(),
        "f": pl.Float64(),
        "g": pl.Float64(),
        "s": pl.String(),
        "s2": pl.String(),
        "d": pl.Date(),
        "ts": pl.Datetime("us"),
        "dur": pl.Duration("us"),
        "tm": pl.Time(),
        "b": pl.Boolean(),
        "b2": pl.Boolean(),
        "l": pl.List(pl.Int64()),
        "l2": pl.List(pl.Int64()),
        "ls": pl.List(pl.String()),
        "lb": pl.List(pl.Boolean()),
        "ar": pl.Array(pl.Int64(), 2),
        "ar2": pl.Array(pl.Int64(), 2),
        "as": pl.Array(pl.String(), 2),
        "st": pl.Struct({"x": pl.Int64(), "y": pl.String()}),
        "bin": pl.Binary(),
        "cat": pl.Categorical(),
        "en": pl.Enum(["a", "b"]),
        "dec": pl.Decimal(20, 2),
    }
)
i, j, f, g, s, s2, d, ts, dur, tm, b, b2, ll, l2, ls, lb, ar, ar2, asx, st, bn, cat, en, dec = (
    pl.col(name) for name in SCHEMA
)

# At least one expression for each name of the allow-list.
SAMPLES = [
    i + j,
    i - j,
    i * j,
    i / j,
    i // j,
    i % j,
    i.truncdiv(j),
    -i,
    i.abs(),
    i**2,
    i.pow(0.5),
    f.sqrt(),
    f.cbrt(),
    f.exp(),
    f.log(),
    f.log(j),
    f.log1p(),
    f.log10(),
    f.sign(),
    f.floor(),
    f.ceil(),
    f.round(2),
    f.round_sig_figs(2),
    f.truncate(),
    f.sin(),
    f.cos(),
    f.tan(),
    f.cot(),
    f.arcsin(),
    f.arccos(),
    f.arctan(),
    f.sinh(),
    f.cosh(),
    f.tanh(),
    f.arcsinh(),
    f.arccosh(),
    f.arctanh(),
    f.degrees(),
    f.radians(),
    pl.arctan2(f, g),
    f.erf(),
    f.erfc(),
    i == j,
    i != j,
    i < j,
    i <= j,
    i > j,
    i >= j,
    i.eq_missing(j),
    i.ne_missing(j),
    b & b2,
    b | b2,
    b ^ b2,
    ~b,
    b.and_(b2),
    f.is_nan(),
    f.is_not_nan(),
    f.is_finite(),
    f.is_infinite(),
    f.is_null(),
    f.is_not_null(),
    i.is_between(1, 3),
    f.is_close(g),
    i.is_in([1, 2]),
    i.is_in(ll),
    pl.all_horizontal(b, b2),
    pl.any_horizontal(b, b2),
    i.fill_null(0),
    f.fill_nan(0),
    i.clip(0, 3),
    pl.coalesce(i, j),
    pl.when(b).then(i).otherwise(j),
    i.cast(pl.String),
    i.cast(pl.Float32),
    pl.min_horizontal(i, j),
    pl.max_horizontal(i, j),
    pl.sum_horizontal(i, j),
    pl.mean_horizontal(i, j),
    pl.struct(i, j),
    pl.format("{}-{}", s, i),
    pl.concat_list(i, j),
    pl.concat_arr(i, j),
    i.bitwise_count_ones(),
    i.bitwise_count_zeros(),
    i.bitwise_leading_ones(),
    i.bitwise_leading_zeros(),
    i.bitwise_trailing_ones(),
    i.bitwise_trailing_zeros(),
    i.hash(),
    i.reinterpret(signed=False),
    i.to_physical(),
    d.to_physical(),
    i.repeat_by(2),
    i.replace({1: 2}),
    i.replace_strict({1: 2}, default=j),
    s.map_elements(html.escape, return_dtype=pl.String),
    i.map_batches(lambda x: x + 1, is_elementwise=True),
    pl.int_ranges(0, i.abs()),
    pl.date_ranges(d, d + pl.duration(days=2)),
    pl.datetime_ranges(ts, ts + pl.duration(days=2)),
    pl.time_ranges(tm, time(23), interval="10h"),
    pl.linear_spaces(f, g, 3),
    pl.date(2000 + i.abs(), 1, 1),
    pl.datetime(2000 + i.abs(), 1, 1),
    pl.duration(days=i),
    pl.time(i.abs(), 1),
    pl.business_day_count(d, d + pl.duration(days=9)),
    pl.from_epoch(i),
    s.str.contains("a"),
    s.str.contains("a", literal=True),
    s.str.contains_any(["a", "b"]),
    s.str.count_matches("a"),
    s.str.encode("hex"),
    s.str.encode("hex").str.decode("hex"),
    s.str.ends_with("a"),
    s.str.escape_regex(),
    s.str.extract("(a)"),
    s.str.extract_all("a"),
    s.str.extract_groups("(a)(b)"),
    s.str.extract_many(["a"]),
    s.str.find("a"),
    s.str.find_many(["a"]),
    s.str.head(2),
    s.str.tail(2),
    pl.concat_str(pl.lit('{"x":'), i, pl.lit("}")).str.json_decode(pl.Struct({"x": pl.Int64})),
    pl.concat_str(pl.lit('{"x":'), i, pl.lit("}")).str.json_path_match("$.x"),
    s.str.len_bytes(),
    s.str.len_chars(),
    s.str.normalize(),
    s.str.pad_end(5),
    s.str.pad_start(5),
    s.str.replace("a", "b"),
    s.str.replace_all("a", "b"),
    s.str.replace_many(["a"], ["b"]),
    s.str.reverse(),
    s.str.slice(1, 2),
    s.str.split("a"),
    s.str.split("a", inclusive=True),
    s.str.split_exact("a", 1),
    s.str.splitn("a", 2),
    s.str.starts_with("a"),
    s.str.strip_chars(),
    s.str.strip_chars_start("a"),
    s.str.strip_chars_end("a"),
    s.str.strip_prefix("a"),
    s.str.strip_suffix("a"),
    d.dt.to_string().str.to_date("%Y-%m-%d"),
    d.dt.to_string().str.to_datetime("%Y-%m-%d"),
    s.str.to_time("%H", strict=False),
    s.str.to_decimal(scale=2),
    i.cast(pl.String).str.to_integer(),
    s.str.to_lowercase(),
    s.str.to_uppercase(),
    s.str.to_titlecase(),
    s.str.zfill(4),
    d.dt.add_business_days(1),
    ts.dt.replace_time_zone("Europe/Berlin", ambiguous="earliest", non_existent="null").dt.base_utc_offset(),
    ts.dt.cast_time_unit("ms"),
    d.dt.century(),
    d.dt.combine(time(1)),
    ts.dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
    ts.dt.date(),
    d.dt.day(),
    d.dt.days_in_month(),
    ts.dt.replace_time_zone("UTC").dt.dst_offset(),
    ts.dt.epoch(),
    ts.dt.epoch("s"),
    ts.dt.hour(),
    d.dt.is_business_day(),
    d.dt.is_leap_year(),
    d.dt.iso_year(),
    ts.dt.microsecond(),
    d.dt.millennium(),
    ts.dt.millisecond(),
    ts.dt.minute(),
    d.dt.month(),
    d.dt.month_end(),
    d.dt.month_start(),
    ts.dt.nanosecond(),
    ts.dt.offset_by("1d"),
    d.dt.ordinal_day(),
    d.dt.quarter(),
    d.dt.replace(day=1),
    ts.dt.replace(hour=2),
    ts.dt.round("1h"),
    ts.dt.second(),
    ts.dt.strftime("%Y"),
    ts.dt.time(),
    ts.dt.timestamp(),
    ts.dt.to_string(),
    dur.dt.total_days(),
    dur.dt.total_hours(),
    dur.dt.total_microseconds(),
    dur.dt.total_milliseconds(),
    dur.dt.total_minutes(),
    dur.dt.total_nanoseconds(),
    dur.dt.total_seconds(),
    ts.dt.truncate("1d"),
    d.dt.week(),
    d.dt.weekday(),
    d.dt.year(),
    lb.list.all(),
    lb.list.any(),
    ll.list.arg_max(),
    ll.list.arg_min(),
    ll.list.concat(l2),
    ll.list.contains(i),
    ll.list.count_matches(1),
    ll.list.diff(),
    ll.list.drop_nulls(),
    ll.list.eval(pl.element() + 1),
    ll.list.eval(pl.element().rank()),
    ll.list.agg(pl.element().sum()),
    ll.list.filter(pl.element() > 1),
    ll.list.first(),
    ll.list.gather([0], null_on_oob=True),
    ll.list.gather_every(2),
    ll.list.get(0, null_on_oob=True),
    ll.list.head(2),
    ls.list.join("-"),
    ll.list.last(),
    ll.list.len(),
    ll.list.max(),
    ll.list.mean(),
    ll.list.median(),
    ll.list.min(),
    ll.list.n_unique(),
    ll.list.reverse(),
    ll.list.set_difference(l2),
    ll.list.set_intersection(l2),
    ll.list.set_symmetric_difference(l2),
    ll.list.set_union(l2),
    ll.list.shift(1),
    ll.list.slice(1, 1),
    ll.list.sort(),
    ll.list.std(),
    ll.list.sum(),
    ll.list.tail(1),
    ll.list.head(3).list.eval(pl.element()).list.to_struct(fields=["x", "y"]),
    pl.concat_list(i, j).list.to_array(2),
    ll.list.unique(maintain_order=True),
    ll.list.var(),
    ar.arr.first(),
    ar.arr.arg_max(),
    ar.arr.arg_min(),
    ar.arr.contains(i),
    ar.arr.count_matches(1),
    ar.arr.dot(ar2),
    ar.arr.eval(pl.element() + 1),
    ar.arr.agg(pl.element().sum()),
    ar.arr.get(0),
    ar.arr.head(2),
    asx.arr.join("-"),
    ar.arr.last(),
    ar.arr.len(),
    ar.arr.max(),
    ar.arr.mean(),
    ar.arr.median(),
    ar.arr.min(),
    ar.arr.n_unique(),
    ar.arr.reverse(),
    ar.arr.shift(1),
    ar.arr.slice(0, 1),
    ar.arr.sort(),
    ar.arr.std(),
    ar.arr.sum(),
    ar.arr.tail(1),
    ar.arr.to_list(),
    ar.arr.to_struct(),
    ar.arr.unique(maintain_order=True),
    ar.arr.var(),
    pl.concat_arr(b, b2).arr.all(),
    pl.concat_arr(b, b2).arr.any(),
    st.struct.field("x"),
    st.struct.json_encode(),
    st.struct.rename_fields(["p", "q"]),
    st.struct.with_fields(pl.field("x") + 1),
    st.struct.eval(pl.field("x") + 1),
    st.name.prefix_fields("a"),
    st.name.map_fields(str.upper),
    st.name.suffix_fields("a"),
    cat.cat.ends_with("a"),
    cat.cat.len_bytes(),
    cat.cat.len_chars(),
    cat.cat.slice(0, 1),
    cat.cat.starts_with("a"),
    en.cat.physical(),
    s.cast(pl.Categorical),
    cat.cast(pl.String),
    en.cast(pl.String),
    bn.bin.contains(b"a"),
    bn.bin.encode("hex"),
    bn.bin.encode("hex").str.decode("hex"),
    bn.bin.encode("hex").cast(pl.Binary).bin.decode("hex"),
    bn.bin.ends_with(b"a"),
    bn.bin.get(0, null_on_oob=True),
    bn.bin.head(1),
    bn.bin.size(),
    bn.bin.slice(0, 1),
    bn.bin.starts_with(b"a"),
    bn.bin.tail(1),
    i.name.suffix("z"),
    i.alias("zz"),
    pl.concat_str(s, s2),
    i.bin_intervals([1, 3], labels=["a", "b", "c"]),
    bn.bin.reinterpret(dtype=pl.Int8),
    pl.lit(1) + i,
    i.is_in(pl.Series([1, 2])),
    f.fill_null(f * 0),
    pl.when(b).then(i),
    pl.when(b).then(float("nan")).otherwise(f),
    pl.arctan2(f, pl.lit(math.inf)),
    st.struct.drop(["x"]),
    pl.sum_horizontal(pl.col("i", "j")),
]


def table(rows: int, seed: int) -> pl.DataFrame:
    """Rows with a null in one of seven cells, NaN, infinities and -0.0 among the floats."""
    rng = random.Random(seed)
    floats = [0.0, -0.0, math.nan, math.inf, -math.inf, 1.5, -2.25, 3.0, 0.5]

    def value(dtype: pl.DataType) -> Any:
        if rng.random() < 1 / 7:
            return None
        match dtype:
            case pl.Int64():
                return rng.randint(-3, 9)
            case pl.Float64():
                return rng.choice(floats)
            case pl.String() | pl.Categorical():
                return "".join(rng.choice("abAB é1") for _ in range(rng.randint(0, 5)))
            case pl.Enum():
                return rng.choice("ab")
            case pl.Date():
                return date(2020, 1, 1) + timedelta(days=rng.randint(0, 5) * 7)
            case pl.Datetime():
                return datetime(2024, 3, 29) + timedelta(hours=rng.randint(0, 100), microseconds=rng.randint(0, 9))
            case pl.Duration():
                return timedelta(hours=rng.randint(-50, 50), microseconds=rng.randint(0, 9))
            case pl.Time():
                return time(rng.randint(0, 22), rng.randint(0, 59))
            case pl.Boolean():
                return rng.random() < 0.5
            case pl.Binary():
                return bytes([rng.randrange(256)])
            case pl.Decimal():
                return Decimal(rng.randint(-999, 999)) / 100
            case pl.List(inner=inner):
                return [value(inner) for _ in range(rng.randint(0, 4))]  # type: ignore[arg-type]
            case pl.Array(inner=inner):
                return [value(inner) for _ in range(2)]  # type: ignore[arg-type]
            case pl.Struct():
                return {"x": value(pl.Int64()), "y": value(pl.String())}
        raise AssertionError(dtype)

    return pl.DataFrame({name: [value(dtype) for _ in range(rows)] for name, dtype in SCHEMA.items()}, schema=SCHEMA)


def cuts(frame: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    """The frame cut into one to five parts, empty ones among them."""
    rng = random.Random(seed)
    marks = sorted(rng.randint(0, frame.height) for _ in range(rng.randint(0, 4)))
    return [frame[low:high] for low, high in zip([0, *marks], [*marks, frame.height], strict=True)]


def name_of(expr: pl.Expr) -> str:
    return " ".join(str(expr).split())[:60]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expr", SAMPLES, ids=name_of)
def test_cutting_changes_nothing(expr: pl.Expr) -> None:
    """A batch may end anywhere: each allowed operation answers the same however the rows are cut."""
    ((_, one),) = expand(SCHEMA, expr)
    check_row_local("select", one, SCHEMA)
    for seed in range(3):
        frame = table(25, seed)
        whole = frame.select(one.alias("out"))
        parts = [part.select(one.alias("out")) for part in cuts(frame, seed) if part.height]
        assert_frame_equal(pl.concat(parts), whole, check_exact=True, categorical_as_str=True)


def test_every_allowed_operation_is_cut() -> None:
    """A name added to the allow-list comes with a sample, or this fails."""
    seen = {node.op for expr in SAMPLES for node in walk(parse(expr)) if isinstance(node, Call)}
    inner = {
        node.op
        for expr in SAMPLES
        for outer in walk(parse(expr))
        if isinstance(outer, Call)
        for body in outer.inner
        for node in walk(body)
        if isinstance(node, Call)
    }
    assert ELEMENTWISE - seen - inner - {"KeepName"} == set()


REFUSED = {
    "sum": (i.sum(), 'col("i").sum() is an aggregate', "group_by(...).agg(...)"),
    "len": (pl.len(), "aggregate", "frame.agg"),
    "below arithmetic": (i - i.mean(), 'col("i").mean()', "agg"),
    "below when": (pl.when(i == i.max()).then(1), 'col("i").max()', "agg"),
    "shift": (i.shift() + 1, "shift", "ctx.sql"),
    "diff": (i.diff(), "neighbouring", "ctx.sql"),
    "cum_sum": (i.cum_sum(), "neighbouring", "ctx.sql"),
    "forward fill": (i.fill_null(strategy="forward"), "neighbouring", "ctx.sql"),
    "rank": (i.rank(), "orders", "ctx.sql"),
    "sort": (i.sort(), "orders", "ctx.sql"),
    "over": (i.sum().over("s"), "partition", "group_by"),
    "unique": (i.unique(), "compares", "group_by"),
    "is_duplicated": (i.is_duplicated(), "compares", "group_by"),
    "head": (i.head(2), "position", "ctx.sql"),
    "reverse": (i.reverse(), "position", "ctx.sql"),
    "row index": (pl.int_range(pl.len()), "position", "ctx.sql"),
    "shuffle": (i.shuffle(), "random", "hash"),
    "list.sample": (ll.list.sample(1), "not on the list", "map_batches"),
    "map_batches": (i.map_batches(lambda x: x), "Python", "frame.map_batches"),
    "fold": (pl.fold(pl.lit(0), lambda x, y: x + y, [i, j]), "Python", "frame.map_batches"),
    "series": (i + pl.lit(pl.Series([1, 2])), "Series", "join"),
    "is_in a column": (i.is_in(pl.col("j").implode()), "aggregate", "agg"),
    "quantile bins": (f.bin_quantiles([0.5], labels=["a", "b"]), "limits of its bins", "bin_intervals"),
    "to_date without a format": (s.str.to_date(strict=False), "first value", "format="),
    "codes of a category": (cat.to_physical(), "order of arrival", "Enum"),
    "cast of a category": (cat.cast(pl.UInt32), "order of arrival", "Enum"),
    "explode beside arithmetic": (ll.explode() + i, "different lengths", "explode"),
    "explode": (ll.explode(), "number of rows", "explode"),
    "drop_nulls": (i.drop_nulls(), "number of rows", "drop_nulls"),
    "filter": (i.filter(i > 2), "number of rows", "filter"),
    "cumulative_eval": (i.cumulative_eval(pl.element().sum()), "neighbouring", "ctx.sql"),
    "random in list.eval": (ll.list.eval(pl.element().shuffle()), "one list", "map_batches"),
    "aggregate in with_fields": (st.struct.with_fields(pl.field("x").sum()), "aggregate", "agg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_reason_and_cure(case: str) -> None:
    """Whoever writes what a stream cannot do learns which part it is, why, and which call does it."""
    expr, why, cure = REFUSED[case]
    with pytest.raises(NotRowLocalError) as caught:
        check_row_local("with_columns", expr, SCHEMA)
    message = str(caught.value)
    assert message.startswith("with_columns: ")
    assert why in message
    assert cure in message


def test_a_function_that_cannot_be_shipped_is_refused() -> None:
    """A lambda that holds a lock or a socket cannot travel to a worker."""
    lock = threading.Lock()
    expr = i.map_elements(lambda x: x if lock else 0, return_dtype=pl.Int64)
    with pytest.raises(NotRowLocalError, match="cannot be serialized"):
        check_row_local("select", expr, SCHEMA)


def test_sole_output_may_change_the_length() -> None:
    """`select(pl.col("l").explode())` is row-local; beside another column it has no height to agree on."""
    check_row_local("select", ll.explode(), SCHEMA, sole=True)
    check_outputs("select", expand(SCHEMA, ll.explode() * 2), SCHEMA)
    with pytest.raises(NotRowLocalError, match="sole output"):
        check_outputs("select", expand(SCHEMA, ll.explode(), i), SCHEMA)


def test_select_of_constants_is_refused() -> None:
    """`select(pl.lit(1))` would give one row a batch."""
    with pytest.raises(NotRowLocalError, match=r"one row for every batch.*with_columns"):
        check_outputs("select", expand(SCHEMA, pl.lit(1), pl.lit("x").alias("y")), SCHEMA)
    check_outputs("select", expand(SCHEMA, pl.lit(1), i), SCHEMA)


def test_each_column_of_a_selector_is_checked() -> None:
    """`pl.all()` and selectors are expanded first."""
    check_row_local("select", pl.col("i", "j") + 1, SCHEMA)
    with pytest.raises(NotRowLocalError):
        check_row_local("select", pl.col("i", "j").sum(), SCHEMA)
    with pytest.raises(ColumnError, match="'zz' is not in the frame"):
        check_row_local("select", pl.col("zz"), SCHEMA)
