"""Tables in place of sources: what may be given, and what is said where it does not fit."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import arrowstream as ars
from arrowstream.errors import PlanError

ROWS = pl.DataFrame({"shop": ["a", "b", "a"], "price": [1.5, 2.0, 4.0]})


def revenue() -> ars.StreamFrame:
    orders = ars.StreamingContext().read.memory(ROWS.schema, name="orders")
    return orders.group_by("shop").agg(pl.col("price").sum(), orders=pl.len())


@pytest.mark.parametrize("engine", ["auto", "in-memory", "streaming"])
@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        ROWS.lazy(),
        ROWS.to_arrow(),
        {"orders": ROWS},
        {"orders": ROWS.to_arrow()},
        ROWS.select("price", "shop"),
    ],
    ids=["DataFrame", "LazyFrame", "pyarrow", "dict", "dict of pyarrow", "columns in another order"],
)
def test_a_table_of_any_make_stands_in_for_the_source(given: Any, engine: Any) -> None:
    """A unit test has a DataFrame, a backfill scans Parquet, another library hands over Arrow."""
    frame = revenue()
    found = frame.collect(given, engine=engine)
    assert found.schema == frame.schema
    assert sorted(found.rows()) == [("a", 5.5, 2), ("b", 2.0, 1)]


def test_a_join_takes_the_rows_of_each_source() -> None:
    ctx = ars.StreamingContext()
    orders = ctx.read.memory({"id": pl.Int64, "shop": pl.String}, name="orders")
    paid = ctx.read.memory({"id": pl.Int64, "sum": pl.Float64}, name="paid")
    rows = {
        "orders": pl.DataFrame({"id": [1, 2], "shop": ["a", "b"]}),
        "paid": pl.DataFrame({"id": [2, 2, 3], "sum": [1.0, 2.0, 3.0]}),
    }
    both = orders.join(paid, on="id", how="left")
    assert sorted(both.collect(rows).rows(), key=str) == [(1, "a", None), (2, "b", 1.0), (2, "b", 2.0)]


def test_no_rows_give_what_one_shot_gives_of_nothing() -> None:
    """A test of the empty case: a total has one row even so, groups have none."""
    frame = revenue()
    assert frame.collect(ROWS.clear()).is_empty()
    assert frame.agg(pl.col("orders").sum()).collect(ROWS.clear()).rows() == [(0,)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"a stream has no end.*frame\.collect\(rows\)"),
        (ROWS.drop("price"), r"column 'price' is missing"),
        (ROWS.with_columns(tax=1), r"column 'tax' is too many"),
        (ROWS.with_columns(pl.col("price").cast(pl.Int64)), r"'price' is Int64 and should be Float64.*cast"),
        ({"order": ROWS}, r"'order', which is no source of the frame; it has orders"),
        ({}, r"no rows are given for source 'orders'.*\{'orders': "),
        ([("a", 1.5)], r"rows of source 'orders' are list; give a DataFrame"),
        (dt.date(2026, 1, 1), r"are date; give a DataFrame"),
    ],
)
def test_what_does_not_fit_is_said_with_the_cure(rows: Any, message: str) -> None:
    with pytest.raises(PlanError, match="(?s)collect: .*" + message):
        revenue().collect(rows)
    if rows is not None:
        with pytest.raises(PlanError, match="(?s)check: .*" + message):
            revenue().check(rows)


def test_one_table_for_two_sources_is_refused() -> None:
    ctx = ars.StreamingContext()
    one, two = (ctx.read.memory(ROWS.schema, name=name) for name in ("one", "two"))
    both = ars.concat([one, two])
    with pytest.raises(PlanError, match=r"2 sources; give the rows of each, collect\(\{'one': \.\.\., 'two': \.\.\.\}"):
        both.collect(ROWS)
    with pytest.raises(PlanError, match=r"frame\.collect\(\{'one': rows, 'two': rows\}\)"):
        both.collect()


def test_rows_that_the_stream_sets_aside_are_left_out() -> None:
    """A sensor sends no time, another one from the year 2099: they are dead letters, and no part of the answer."""
    rows = pl.DataFrame({"at": [dt.datetime(2026, 1, 1), None, dt.datetime(2199, 1, 1)], "v": [1, 2, 4]})
    readings = ars.StreamingContext().read.memory(rows.schema, name="readings")
    timed = readings.with_watermark("at", "1s", max_ahead="1d").agg(pl.col("v").sum())
    assert timed.collect(rows).item() == 1
    timed.check(rows)
    assert readings.with_watermark("at", "1s").agg(pl.col("v").sum()).collect(rows).item() == 5


def test_times_of_every_type_are_held_to_the_clock() -> None:
    for dtype in (pl.Date(), pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "Asia/Tokyo")):
        times = pl.Series([dt.datetime(2026, 1, 1), dt.datetime(2199, 1, 1)])
        if getattr(dtype, "time_zone", None):
            times = times.dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
        rows = pl.DataFrame({"at": times.cast(dtype)})
        frame = ars.StreamingContext().read.memory(rows.schema, name="s").with_watermark("at", "1d", max_ahead="1d")
        assert frame.collect(rows).height == 1


def test_a_shared_part_is_read_once() -> None:
    """A model is costly to ask: two readers of one node ask it once."""
    asked: list[int] = []

    def model(frame: pl.DataFrame) -> pl.DataFrame:
        asked.append(frame.height)
        return frame

    orders = ars.StreamingContext().read.memory(ROWS.schema, name="orders")
    scored = orders.map_batches(model, schema=ROWS.schema)
    both = ars.concat([scored.filter(pl.col("price") > 1.8), scored.filter(pl.col("price") < 1.8)])
    assert_frame_equal(both.collect(ROWS), ROWS, check_row_order=False)
    assert asked == [3]
