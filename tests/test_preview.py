"""A look at a frame before it has an output."""

from __future__ import annotations

import polars as pl

import arrowstream as ars


def test_a_preview_shows_the_rows_and_leaves_the_context_alone() -> None:
    """In a notebook: what does this source give? The context can still be given its outputs afterwards."""
    ctx = ars.StreamingContext()
    numbers = ctx.read.rate(1000, rows=50)
    assert numbers.filter(pl.col("value") % 2 == 0).preview()["value"].to_list() == list(range(0, 50, 2))
    numbers.write.memory("numbers")
    ctx.run(timeout=30)
    assert len(ctx.sql("SELECT * FROM numbers")) == 50


def test_a_preview_of_a_frame_that_updates_rows_shows_them_as_they_are() -> None:
    """The running count of a stream that ends: one row per key, the last one."""
    counts = ars.StreamingContext().read.rate(1000, rows=10).group_by(pl.col("value") % 2).agg(pl.len().alias("rows"))
    assert counts.preview().sort("value").rows() == [(0, 5), (1, 5)]


def test_a_preview_ends_when_its_time_is_over() -> None:
    """A source that never ends: after the given time there is an answer."""
    frame = ars.StreamingContext().read.memory({"a": pl.Int64})
    frame.source.send([{"a": 1}])
    assert frame.preview(seconds=0.5)["a"].to_list() == [1]
