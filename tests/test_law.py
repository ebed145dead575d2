"""The law: whatever the plan, the rows and the cut, the stream's answer is that of Polars in one shot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import lawful
import polars as pl
import pytest
from apart import source
from hypothesis import given, note, settings
from hypothesis import strategies as st

import arrowstream
from arrowstream import StreamingContext
from arrowstream.check import run_pieces
from arrowstream.cluster.local import LocalCluster
from arrowstream.connectors.changes import Append
from arrowstream.settings import BlockSettings, ClusterSettings, Settings


def cut(data: st.DataObject, rows: pl.DataFrame, most: int = 5) -> list[pl.DataFrame]:
    """The rows in random pieces, some of them empty."""
    cuts = data.draw(st.lists(st.integers(0, rows.height), max_size=most).map(sorted), label="cuts")
    return [rows.slice(start, stop - start) for start, stop in pairwise([0, *cuts, rows.height])]


@given(st.data())
@settings(max_examples=150)
def test_any_pipeline_cut_anywhere_answers_as_in_one_shot(data: st.DataObject) -> None:
    """A user moves a Polars script to a stream and expects the same numbers, however the rows come in."""
    pipeline = data.draw(lawful.pipelines(source(schema=lawful.SCHEMA)), label="pipeline")
    rows = data.draw(lawful.frames(), label="rows")
    pieces = [{"rows": piece} for piece in cut(data, rows)]
    note(pipeline.frame.explain())
    oracle = pipeline.oracle(rows)
    lawful.assert_same_rows(run_pieces(pipeline.frame._node, pieces), oracle)
    lawful.assert_same_rows(pipeline.frame.collect(rows), oracle)


@given(st.data())
@settings(max_examples=40)
def test_the_law_holds_whatever_columns_are_called(data: st.DataObject) -> None:
    """Change data capture has a `__deleted`, and a spreadsheet blanks and quotes in its names."""
    count = len(lawful.SCHEMA)
    names = data.draw(
        st.lists(st.sampled_from(lawful.ODD_NAMES), min_size=count, max_size=count, unique=True), label="names"
    )
    renamed = dict(zip(lawful.SCHEMA, names, strict=True))
    schema = pl.Schema({renamed[name]: dtype for name, dtype in lawful.SCHEMA.items()})
    pipeline = data.draw(lawful.pipelines(source(schema=schema)), label="pipeline")
    rows = data.draw(lawful.frames(), label="rows").rename(renamed)
    pieces = [{"rows": piece} for piece in cut(data, rows)]
    lawful.assert_same_rows(run_pieces(pipeline.frame._node, pieces), pipeline.oracle(rows))


def run(ctx: StreamingContext, data: st.DataObject) -> None:
    """Run a random pipeline through a whole context, and compare what SQL shows at the end."""
    frame = ctx.read.memory(lawful.SCHEMA)
    pipeline = data.draw(lawful.pipelines(frame), label="pipeline")
    rows = data.draw(lawful.frames(), label="rows")
    pipeline.frame.write.memory("answer")
    with ctx:
        ctx.start()
        for piece in cut(data, rows, most=3):
            frame.source.send(piece)
            ctx.process_all_available(timeout=60)
        answer = ctx.sql("SELECT * FROM answer").pl()
    if rows.is_empty():
        return  # nothing has come, so no batch has run, and a global aggregate is not there yet
    assert ctx.progress.rows_in == rows.height
    lawful.assert_same_rows(answer.cast(dict(pipeline.frame.schema)), pipeline.oracle(rows))  # type: ignore[arg-type]


@given(st.data())
@settings(max_examples=40)
def test_the_law_holds_from_source_to_sink(data: st.DataObject) -> None:
    """The same script, with receivers, batches and a table that is queried."""
    most = data.draw(st.sampled_from([None, 3]), label="max_batch_rows")
    run(StreamingContext(batch_interval="10s", block_interval="10ms", max_batch_rows=most), data)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalCluster]:
    cluster = LocalCluster(Settings(blocks=BlockSettings(interval=0.01), cluster=ClusterSettings(2, 2)))
    cluster.start()
    yield cluster
    cluster.close()


@given(st.data())
@settings(max_examples=25)
def test_the_law_holds_on_two_workers(two_workers: LocalCluster, data: st.DataObject) -> None:
    """The script outgrows one process; rows are exchanged by key, and nobody can tell."""
    run(StreamingContext(batch_interval="10s", cluster=two_workers), data)


@given(st.data())
@settings(max_examples=25)
def test_the_law_holds_in_outputs_asked_by_sql(data: st.DataObject) -> None:
    """The same numbers, whoever asks for them: `ctx.sql` while it runs, and `connect` when the program is over."""
    names = data.draw(st.permutations(lawful.ODD_NAMES), label="names")
    renamed = dict(zip(lawful.SCHEMA, names, strict=False))
    schema = pl.Schema({renamed[name]: dtype for name, dtype in lawful.SCHEMA.items()})
    rows = data.draw(lawful.frames(), label="rows").rename(renamed)
    with tempfile.TemporaryDirectory() as place:
        ctx = StreamingContext(batch_interval="10s", block_interval="10ms")
        frame = ctx.read.memory(schema)
        pipeline = data.draw(lawful.pipelines(frame), label="pipeline")
        grows = isinstance(pipeline.frame.kind, Append)
        pipeline.frame.write.parquet(f"{place}/files", mode="append" if grows else "complete")
        pipeline.frame.write.duckdb(f"{place}/tables.duckdb", table="answer")
        with ctx:
            ctx.start()
            for piece in cut(data, rows, most=3):
                frame.source.send(piece)
                ctx.process_all_available(timeout=60)
            found = [ctx.sql(f"FROM {table}").pl() for table in ("files", "answer") if rows.height]
        if rows.is_empty():
            return
        for path, table in ((place, "files"), (f"{place}/tables.duckdb", "answer")):
            with arrowstream.connect(path) as outputs:
                found.append(outputs.sql(f"FROM {table}").pl())
    oracle = pipeline.oracle(rows)
    for answer in found:
        lawful.assert_same_rows(answer.cast(dict(pipeline.frame.schema)), oracle)  # type: ignore[arg-type]


@given(left=lawful.frames(20), right=lawful.frames(20), data=st.data())
@settings(max_examples=30)
def test_two_sources_in_one_plan_are_one_set_of_rows(
    left: pl.DataFrame, right: pl.DataFrame, data: st.DataObject
) -> None:
    """Orders come from two shops; how their rows mix on the way does not show in the sums."""
    shops = source("left", lawful.SCHEMA), source("right", lawful.SCHEMA)

    def totals(frame: Any) -> Any:
        return frame.group_by("k").agg(n=pl.len(), i=pl.col("i").sum(), f=pl.col("f").min(), b=pl.col("b").any())

    stream = totals(arrowstream.concat([shops[0], shops[1].filter(pl.col("i") > 0)]))
    oracle = totals(pl.concat([left.lazy(), right.lazy().filter(pl.col("i") > 0)])).collect()
    lefts, rights = cut(data, left), cut(data, right)
    empty = left.clear()
    pieces = [
        {
            "left": lefts[at] if at < len(lefts) else empty,
            "right": rights[at] if at < len(rights) else empty,
        }
        for at in range(max(len(lefts), len(rights)))
    ]
    lawful.assert_same_rows(run_pieces(stream._node, pieces), oracle.cast(dict(stream.schema)))
    lawful.assert_same_rows(stream.collect({"left": left, "right": right}), oracle.cast(dict(stream.schema)))
