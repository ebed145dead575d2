"""Groups by event time come out once, when the watermark has passed them."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from lawful import assert_same_rows

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.connectors.changes import Append, Retract

DAY = dt.datetime(2026, 1, 1)
SCHEMA = pl.Schema({"t": pl.Datetime("us"), "k": pl.Int64(), "v": pl.Int64()})


def frame(rows: list[tuple[int, int | None]]) -> pl.DataFrame:
    """Rows of (second, key); `v` is the number of the row."""
    table = [(DAY + dt.timedelta(seconds=second), key, number) for number, (second, key) in enumerate(rows)]
    return pl.DataFrame(table, schema=SCHEMA, orient="row")


def pieces(rows: pl.DataFrame, cuts: list[float]) -> list[dict[str, pl.DataFrame]]:
    edges = [0, *sorted(int(cut * rows.height) for cut in cuts), rows.height]
    return [{"s": rows[low:high]} for low, high in itertools.pairwise(edges)]


def late(letters: list[pa.Table]) -> list[int]:
    """The numbers of the rows that were turned away."""
    raw = pl.Series([value.decode() for table in letters for value in table["raw"].to_pylist()], dtype=pl.String)
    numbers: list[int] = raw.str.json_decode(pl.Struct({"v": pl.Int64})).struct.field("v").to_list()
    return numbers


rows_of = st.lists(st.tuples(st.integers(0, 20), st.sampled_from([None, 1, 2])), max_size=20)
cuts_of = st.lists(st.floats(0, 1), max_size=5)


@given(rows=rows_of, cuts=cuts_of, delay=st.sampled_from(["0s", "4s", "60s"]))
@settings(max_examples=100)
def test_ranks_at_each_time_are_final(rows: Any, cuts: Any, delay: str) -> None:
    """Out of order, cut anywhere: what comes out is what Polars gives of the rows in time, and never taken back."""
    timed = ars.StreamingContext().read.memory(SCHEMA, name="s").with_watermark("t", delay)
    place = pl.col("v").rank("ordinal").over("t").alias("place")
    several = pl.col("v").sum().over("t", "k").alias("sum")
    data = frame(rows)
    for expr in (place, several):
        ranked = timed.with_columns(expr)
        assert isinstance(ranked.kind, Append)
        letters: list[pa.Table] = []
        found = run_pieces(ranked._node, pieces(data, cuts), letters=letters)
        in_time = data.filter(~pl.col("v").is_in(late(letters)))
        assert_same_rows(found, in_time.with_columns(expr).cast(dict(found.schema)))  # type: ignore[arg-type]


@given(rows=rows_of, cuts=cuts_of, label=st.sampled_from(["left", "right"]), closed=st.sampled_from(["left", "right"]))
@settings(max_examples=60)
def test_the_best_of_each_window(rows: Any, cuts: Any, label: Any, closed: Any) -> None:
    """Windows that close together are compared in the same batch, whichever end names them."""
    timed = ars.StreamingContext().read.memory(SCHEMA, name="s").with_watermark("t", "60s")
    windows = timed.group_by_dynamic("t", every="2s", period="6s", label=label, closed=closed, group_by="k")
    counts = windows.agg(pl.len().alias("n"))
    best = counts.with_columns(most=pl.col("n").max().over("t")).filter(pl.col("n") == pl.col("most"))
    assert isinstance(best.kind, Append)
    data = frame(rows)
    whole = run_pieces(counts._node, [{"s": data}])
    wanted = whole.with_columns(most=pl.col("n").max().over("t")).filter(pl.col("n") == pl.col("most"))
    assert_same_rows(run_pieces(best._node, pieces(data, cuts)), wanted)


def test_they_come_in_the_batch_that_closes_their_window(tmp_path: Path) -> None:
    """And go into files, which take nothing back. Windows that are still corrected are another matter."""
    with ars.StreamingContext("10ms") as ctx:
        clicks = ctx.read.memory(SCHEMA)
        timed = clicks.with_watermark("t", "0s")
        counts = timed.group_by_dynamic("t", every="10s", group_by="k").agg(pl.len().alias("n"))
        best = counts.with_columns(place=pl.col("n").rank("ordinal", descending=True).over("t"))
        best.filter(pl.col("place") == 1).write.parquet(tmp_path / "best", name="best")
        ctx.start()
        clicks.source.send(frame([(0, 1), (1, 2), (2, 2)]))
        ctx.process_all_available()
        assert ctx.sql("FROM best").pl().is_empty()
        clicks.source.send(frame([(10, 1)]))
        ctx.process_all_available()
        assert ctx.sql("SELECT k, n FROM best").fetchall() == [(2, 2)]
        assert ctx.progress.last is not None
        assert ctx.progress.last.state_rows == 1, "only the new window's bin is kept"
    updated = timed.group_by_dynamic("t", every="10s", group_by="k", emit="update").agg(pl.len().alias("n"))
    assert isinstance(updated.with_columns(most=pl.col("n").max().over("t")).kind, Retract)
