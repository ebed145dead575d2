"""The law: whatever the plan, the rows and the cut, the stream's answer is that of Polars in one shot."""

from __future__ import annotations

from itertools import pairwise

import lawful
from apart import source
from hypothesis import given, note, settings
from hypothesis import strategies as st

from arrowstream.check import run_pieces


@given(st.data())
@settings(max_examples=150)
def test_any_pipeline_cut_anywhere_answers_as_in_one_shot(data: st.DataObject) -> None:
    """A user moves a Polars script to a stream and expects the same numbers, however the rows come in."""
    pipeline = data.draw(lawful.pipelines(source(schema=lawful.SCHEMA)), label="pipeline")
    rows = data.draw(lawful.frames(), label="rows")
    cuts = data.draw(st.lists(st.integers(0, rows.height), max_size=5).map(sorted), label="cuts")
    at = [0, *cuts, rows.height]
    pieces = [{"rows": rows.slice(start, stop - start)} for start, stop in pairwise(at)]
    answer = run_pieces(pipeline.frame._node, pieces)
    note(pipeline.frame.explain())
    lawful.assert_same_rows(answer, pipeline.oracle(rows))
