"""The law: whatever the plan, the rows and the cut, the stream's answer is that of Polars in one shot."""

from __future__ import annotations

import lawful
import polars as pl
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from arrowstream.check import run_pieces
from arrowstream.connectors.changes import Append
from arrowstream.frame import StreamFrame
from arrowstream.plan.nodes import Output, SourceNode


class _Apart:
    """Plans of no context: the pieces are run by hand."""

    def add_output(self, output: Output) -> None:
        raise NotImplementedError


class _NoSource:
    """A source of which only the columns matter."""

    def __init__(self, schema: pl.Schema) -> None:
        self.schema = schema.to_frame().to_arrow().schema
        self.replayable = False

    def splits(self) -> list[str]:
        return []


def source(name: str = "rows", schema: pl.Schema = lawful.SCHEMA) -> StreamFrame:
    node = SourceNode(schema=schema, kind=Append(), name=name, source=_NoSource(schema))  # type: ignore[arg-type]
    return StreamFrame(node, _PLANS)


_PLANS = _Apart()


@given(st.data())
@settings(max_examples=150)
def test_any_pipeline_cut_anywhere_answers_as_in_one_shot(data: st.DataObject) -> None:
    """A user moves a Polars script to a stream and expects the same numbers, however the rows come in."""
    pipeline = data.draw(lawful.pipelines(source()), label="pipeline")
    rows = data.draw(lawful.frames(), label="rows")
    cuts = data.draw(st.lists(st.integers(0, rows.height), max_size=5).map(sorted), label="cuts")
    at = [0, *cuts, rows.height]
    pieces = [{"rows": rows.slice(start, stop - start)} for start, stop in zip(at, at[1:], strict=False)]
    answer = run_pieces(pipeline.frame._node, pieces)
    note(pipeline.frame.explain())
    lawful.assert_same_rows(answer, pipeline.oracle(rows))
