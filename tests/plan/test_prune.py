"""Only columns that somebody reads are taken out of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import arrowstream as ars
from arrowstream.connectors.changes import ChangeKind
from arrowstream.frame import StreamFrame
from arrowstream.plan.nodes import Output, Watermark
from arrowstream.plan.prune import required
from arrowstream.plan.unit import topological
from arrowstream.sinks.memory import MemorySink

SCHEMA: Any = {"t": pl.Datetime("us"), "k": pl.String, "a": pl.Int64, "b": pl.Int64, "wide": pl.String}


def stream() -> StreamFrame:
    return ars.StreamingContext().read.memory(SCHEMA, name="s").with_watermark("t", "1s")


def read_by(frame: StreamFrame) -> set[str]:
    """The columns that are read above the watermark."""
    node = frame._node
    kind: ChangeKind = node.kind
    output = Output(schema=node.schema, kind=kind, input=node, sink=MemorySink("o"))
    (mark,) = (each for each in topological([output]) if isinstance(each, Watermark))
    return set(required([output])[mark])


@pytest.mark.parametrize(
    ("plan", "wanted"),
    [
        (lambda f: f, {"t", "k", "a", "b", "wide"}),
        (lambda f: f.select("k", x=pl.col("a") + 1), {"k", "a"}),
        (lambda f: f.filter(pl.col("b") > 1, k="x").select("a"), {"a", "b", "k"}),
        (lambda f: f.with_columns(a=pl.col("b")).select("a"), {"b"}),
        (lambda f: f.rename({"a": "c"}).select("c"), {"a"}),
        (lambda f: f.select(pl.all()), {"t", "k", "a", "b", "wide"}),
        (lambda f: f.drop("wide").select("a"), {"a"}),
        (lambda f: f.drop("wide", "b"), {"t", "k", "a"}),
        (lambda f: f.join(f.select("k", z="b"), on="k").select("a", "z"), {"k", "a", "b"}),
        (lambda f: f.join(f.select("k", "b"), on="k", how="left").select("b_right"), {"k", "b"}),
        (lambda f: f.join(f.drop("a"), on="k", how="semi").select("b"), {"k", "b"}),
        (lambda f: f.join(f, on="k", how="semi").select("a"), {"k", "a"}),
        (lambda f: f.join(f.select("k", "b"), on="k", how="full").select("a"), {"t", "k", "a", "b", "wide"}),
        (lambda f: f.join(f.drop("wide"), on="k", within="1s").select("a"), {"t", "k", "a"}),
        (lambda f: f.join_where(f, pl.col("a") == pl.col("b_right")).agg(pl.len()), {"a", "b", "t"}),
        (lambda f: f.group_by("k").agg(pl.col("a").filter(pl.col("b") > 1).n_unique()), {"k", "a", "b"}),
        (lambda f: f.group_by("k").agg(pl.col("a").median()), {"k", "a"}),
        (lambda f: f.group_by_dynamic("t", every="1s", group_by="k").agg(pl.col("a").sum()), {"t", "k", "a"}),
        (lambda f: f.group_by_session("t", gap="1s", group_by="k").agg(pl.len()), {"t", "k"}),
        (lambda f: f.join(pl.DataFrame({"k": ["x"], "y": [1]}), on="k").select("y", "a"), {"k", "a"}),
        (lambda f: f.join(pl.DataFrame({"k": ["x"], "a": [1]}), on="k").select("a"), {"t", "k", "a", "b", "wide"}),
    ],
)
def test_columns_that_nobody_reads_are_left_out(plan: Any, wanted: set[str]) -> None:
    assert read_by(plan(stream())) == wanted


def test_results_are_the_same_out_of_files(tmp_path: Path) -> None:
    rows = pl.select(
        t=pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 1, 1), "1s"), wide=pl.lit("x" * 100)
    ).with_columns(a=pl.int_range(pl.len()), k=(pl.int_range(pl.len()) % 7).cast(pl.String))
    rows.write_parquet(tmp_path / "rows.parquet")
    ctx = ars.StreamingContext(batch_interval="10ms")
    timed = ctx.read.parquet(str(tmp_path), watch=False).with_watermark("t", "1s")
    timed.group_by_dynamic("t", every="10m", group_by="k").agg(pl.col("a").sum()).write.memory("sums")
    ctx.run()
    wanted = rows.group_by("k", pl.col("t").dt.truncate("10m")).agg(pl.col("a").sum())
    assert sorted(ctx.sql("FROM sums").fetchall()) == sorted(wanted.rows())
