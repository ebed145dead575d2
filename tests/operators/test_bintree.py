"""Runs of bins: a window made of them is the window made of its bins, however time goes on."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.operators.bintree import BinTree
from arrowstream.operators.windowshape import WINDOW
from arrowstream.plan.aggregates import ROWS, decompose
from arrowstream.plan.bins import Bins, Even
from arrowstream.plan.grid import Grid
from arrowstream.plan.groupwise import TOO_LARGE
from arrowstream.plan.windows import BIN
from arrowstream.state.rows import ID

SCHEMA = pl.Schema({BIN: pl.Int64(), "k": pl.Int64(), "v": pl.Int64()})
PLAN = decompose(
    [("k", pl.col("k")), (BIN, pl.col(BIN))],
    [("sum", pl.col("v").sum()), ("max", pl.col("v").max())],
    SCHEMA,
)


@given(
    rows=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 2), st.integers(0, 6)), max_size=60),
    stops=st.lists(st.integers(0, 260), max_size=6).map(sorted),
    length=st.integers(8, 70),
    stride=st.integers(1, 5),
    grows=st.booleans(),
)
@settings(max_examples=150)
def test_windows_of_runs_are_windows_of_bins(
    rows: list[tuple[int, int, int]], stops: list[int], length: int, stride: int, grows: bool
) -> None:
    """Rows come in any batch, also for bins of which runs were made, as long as a window with the bin is open."""
    grid = Grid(Bins(Even(1, 0)), 1 if grows else stride, length, grows)
    tree = BinTree(PLAN, grid, ["k"])
    known = SCHEMA.to_frame()
    bins = PLAN.partial(known.lazy()).collect()
    found, wanted = [], []
    for batch, (before, end) in enumerate(itertools.pairwise([-1000, *stops, 1000])):
        came = [(b, k, n) for n, (b, k, at) in enumerate(rows) if at == batch or (at > len(stops) and end == 1000)]
        new = pl.DataFrame(came, schema=SCHEMA, orient="row").filter(pl.col(BIN) >= grid.needed(before))
        known = pl.concat([known, new])
        partial = PLAN.partial(new.lazy()).collect()
        bins = pl.concat([bins, partial])
        numbers = np.unique(known[BIN].to_numpy())
        tree.grow(partial, bins, numbers, before, end)
        spans = grid.closing(numbers, before, end)
        made = PLAN.merge(tree.rows(bins, spans), ["k", WINDOW]).collect()
        for k, place, total, most in PLAN.final(made, ["k", WINDOW]).drop(TOO_LARGE).iter_rows():
            found.append((int(spans.starts[place]), int(spans.stops[place]), k, total, most))
        for start, stop in zip(spans.starts.tolist(), spans.stops.tolist(), strict=True):
            for (k,), group in known.filter(pl.col(BIN).is_between(start, stop - 1)).group_by("k"):
                wanted.append((start, stop, k, group["v"].sum(), group["v"].max()))
        tree.forget(end)
    assert sorted(found) == sorted(wanted)


def test_a_long_window_is_made_of_few_runs() -> None:
    grid = Grid(Bins(Even(1, 0)), 1, 4096)
    frame = pl.DataFrame({BIN: np.arange(8192), "k": 0, "v": 1}, schema=SCHEMA)
    bins = PLAN.partial(frame.lazy()).collect()
    tree = BinTree(PLAN, grid, ["k"])
    numbers = np.arange(8192)
    tree.grow(bins.clear(), bins, numbers, 0, 8000)
    spans = grid.closing(numbers, 7999, 8000)
    assert len(spans) == 1
    pieces = tree.rows(bins, spans).collect()
    assert pieces[ROWS].sum() == 4096
    assert pieces.height < 50
    tree.forget(8000)
    assert ID in tree.table.frame.columns
