"""Every LazyFrame method is looked at, and those that are recorded survive cutting."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from arrowstream.errors import ColumnError, NotRowLocalError, PlanError
from arrowstream.plan.methods import METHODS, Node, Refused, Rows, check_call, output_schema, settle

SCHEMA = pl.Schema(
    {
        "a": pl.Int64(),
        "f": pl.Float64(),
        "s": pl.String(),
        "ok": pl.Boolean(),
        "xs": pl.List(pl.Int64()),
        "p": pl.Struct({"x": pl.Int64(), "y": pl.Int64()}),
        "cat": pl.Categorical(),
    }
)

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def call(method: str, *args: Any, **kwargs: Any) -> Call:
    return method, args, kwargs


RECORDED: list[Call] = [
    call("select", "a", pl.col("f") * 2, z=pl.col("a") + 1),
    call("select", pl.col("xs").explode()),
    call("select", pl.col("a").drop_nulls()),
    call("select", pl.col("a").filter(pl.col("f") > 0) + 1),
    call("select", ["a", "f"]),
    call("select", pl.all().name.suffix("_x")),
    call("select", "a", pl.lit(1)),
    call("select_seq", "a", pl.col("f") * 2),
    call("filter", pl.col("a") > 0, pl.col("f").is_not_nan()),
    call("filter", "ok", a=1),
    call("filter", True),
    call("remove", pl.col("a") > 0, s="x"),
    call("with_columns", b=pl.col("a") * 2, c=pl.lit("x")),
    call("with_columns", pl.col("a", "f") + 1),
    call("with_columns_seq", pl.col("a").cast(pl.String)),
    call("explode", "xs"),
    call("explode", "xs", empty_as_null=True, keep_nulls=False),
    call("unnest", "p"),
    call("unnest", "p", separator="_"),
    call("rename", {"a": "z"}),
    call("rename", str.upper),
    call("cast", {"a": pl.Float32}),
    call("cast", {"a": pl.String, "cat": pl.String}),
    call("drop", "a", "f"),
    call("drop_nulls"),
    call("drop_nulls", ["a", "s"]),
    call("drop_nans", "f"),
    call("fill_null", 0),
    call("fill_null", pl.lit(None)),
    call("fill_nan", 0.5),
    call("fill_nan", None),
    call("unpivot", ["a", "f"], index="s"),
    call("match_to_schema", dict(SCHEMA) | {"n": pl.Int64}, missing_columns={"n": pl.col("a") + 1}),
]

ints = st.none() | st.integers(-2, 3)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "a": ints,
            "f": st.none() | st.sampled_from([0.0, -0.0, 1.5, math.nan, -math.inf]),
            "s": st.none() | st.sampled_from(["", "x", "y"]),
            "ok": st.none() | st.booleans(),
            "xs": st.none() | st.lists(ints, max_size=3),
            "p": st.none() | st.fixed_dictionaries({"x": ints, "y": ints}),
            "cat": st.none() | st.sampled_from(["k", "l", "m"]),
        }
    ),
    max_size=12,
)


def run(frame: pl.DataFrame, recorded: Call) -> pl.DataFrame:
    method, args, kwargs = recorded
    step: Callable[..., pl.LazyFrame] = getattr(frame.lazy(), method)
    return step(*args, **kwargs).collect()


def test_every_public_method_is_in_the_table() -> None:
    """A new Polars brings a new method: someone has to decide what it means on a stream."""
    public = {name for name in dir(pl.LazyFrame) if not name.startswith("_")}
    assert public == set(METHODS)


def test_every_recorded_method_is_cut() -> None:
    """No method is called row-local on faith."""
    assert {name for name, entry in METHODS.items() if isinstance(entry, Rows)} == {name for name, *_ in RECORDED}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: f"{one[0]}-{str(one[1])[:30]}")
@given(rows=ROWS, marks=st.lists(st.integers(0, 12), max_size=4))
@settings(max_examples=20, deadline=None)
def test_cutting_changes_nothing(recorded: Call, rows: list[dict[str, Any]], marks: list[int]) -> None:
    """The recorded calls give the same rows, however these were cut into batches."""
    method, args, kwargs = recorded
    check_call(method, args, kwargs, SCHEMA)
    schema = output_schema(method, args, kwargs, SCHEMA)
    frame = pl.DataFrame(rows, schema=SCHEMA)
    bounds = [0, *sorted(marks), len(rows)]
    parts = [run(frame[low:high], recorded) for low, high in pairwise(bounds)]
    whole = run(frame, recorded)
    assert whole.schema == schema
    cut = pl.concat(parts)
    if method == "unpivot":
        cut, whole = cut.sort(pl.all()), whole.sort(pl.all())
    assert_frame_equal(cut, whole, check_exact=True, categorical_as_str=True)


@pytest.mark.parametrize(
    ("refused", "why", "cure"),
    [
        (call("select", pl.col("a").sum()), "aggregate", "group_by"),
        (call("select", pl.lit(1)), "reads no column", "with_columns"),
        (call("select", pl.col("xs").explode(), "a"), "number of rows", "explode"),
        (call("filter", pl.col("a") == pl.col("a").max()), "aggregate", "agg"),
        (call("with_columns", pl.col("a").shift()), "neighbouring", "ctx.sql"),
        (call("with_columns", pl.col("xs").explode()), "number of rows", "explode"),
        (call("fill_null", strategy="forward"), "other rows", "fill_null(0)"),
        (call("fill_null", None, "mean"), "other rows", "fill_null(0)"),
        (call("fill_null", pl.col("a").mean()), "aggregate", "agg"),
        (call("match_to_schema", SCHEMA, missing_columns=pl.len()), "aggregate", "agg"),
        (call("cast", {"cat": pl.UInt32}), "order of arrival", "Enum"),
        (call("head", 3), "position", "ctx.sql"),
        (call("with_row_index"), "position", "ctx.sql"),
        (call("shift"), "another batch", "ctx.sql"),
        (call("collect"), "no end", "preview"),
        (call("sink_parquet", "x"), "batch by batch", ".write"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_refused_with_the_cure(refused: Call, why: str, cure: str) -> None:
    """What cannot be right on a stream is said at the line that asks it."""
    method, args, kwargs = refused
    with pytest.raises(NotRowLocalError) as caught:
        check_call(method, args, kwargs, SCHEMA)
    assert method in str(caught.value)
    assert why in str(caught.value)
    assert cure in str(caught.value)


def test_other_nodes_are_named() -> None:
    """Someone who comes with a LazyFrame method that is a node of its own is shown its name."""
    with pytest.raises(PlanError, match=r"frame\.group_by"):
        check_call("group_by", ("a",), {}, SCHEMA)
    with pytest.raises(PlanError, match=r"sort is refused: .*sort_by="):
        check_call("sort", (), {}, SCHEMA)
    with pytest.raises(PlanError, match="not a known call"):
        check_call("selekt", (), {}, SCHEMA)
    for entry in METHODS.values():
        match entry:
            case Node(said):
                assert said
            case Refused(reason, remedy):
                assert reason
                assert remedy


def test_wrong_calls_fail_at_their_line() -> None:
    """A typo in a column, a type that does not fit, a wrong keyword: all before the stream starts."""
    with pytest.raises(ColumnError, match="'a' is Int64, and only lists"):
        check_call("explode", ("a",), {}, SCHEMA)
    with pytest.raises(ColumnError, match="'aa' is not in the input of select"):
        output_schema("select", ("aa",), {}, SCHEMA)
    with pytest.raises(ColumnError, match=r"'ff'.*did you mean 'f'"):
        check_call("filter", (pl.col("ff") > 1,), {}, SCHEMA)
    with pytest.raises(PlanError) as caught:
        output_schema("select", (pl.col("a").str.len_bytes(),), {}, SCHEMA)
    assert caught.value.__suppress_context__  # without the forty lines of its plan
    with pytest.raises(PlanError, match="'s' is String; compare"):
        check_call("filter", ("s",), {}, SCHEMA)
    with pytest.raises(PlanError, match="unexpected keyword"):
        output_schema("rename", (), {"nonsense": 1}, SCHEMA)
    with pytest.raises(PlanError, match="no columns are selected"):
        check_call("select", (), {}, SCHEMA)


def test_generators_are_settled() -> None:
    """A generator can be read once, a recorded call is replayed on each batch."""
    args, kwargs = settle(((name for name in ("a", "f")),), {})
    check_call("select", args, kwargs, SCHEMA)
    assert output_schema("select", args, kwargs, SCHEMA).names() == ["a", "f"]
