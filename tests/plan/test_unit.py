"""Connected plans, and the plan as text."""

from __future__ import annotations

import polars as pl
import pytest
from apart import Apart, source

import arrowstream
from arrowstream.plan.explain import explain
from arrowstream.plan.unit import consumers, topological, units


@pytest.fixture
def plans() -> Apart:
    return Apart()


def test_outputs_that_share_a_source_are_one_unit(plans: Apart) -> None:
    """Two outputs of one frame advance together; what shares nothing goes its own way."""
    a, b, c = (source(name, plans=plans) for name in "abc")
    a.write.memory("a1")
    b.write.memory("b1")
    a.filter(pl.col("v") > 0).write.memory("a2")
    c.write.memory("c1")
    made = units(plans.outputs)
    assert [[output.sink.name for output in unit.outputs] for unit in made] == [["a1", "a2"], ["b1"], ["c1"]]
    assert [unit.id for unit in made] == ["u0", "u1", "u2"]
    assert all([source_id for source_id, _ in unit.sources] == ["s000"] for unit in made)


def test_a_later_output_joins_units(plans: Apart) -> None:
    """The last line of a program reads from both plans that stood apart until then."""
    a, b = source("a", plans=plans), source("b", plans=plans)
    a.write.memory("left")
    b.write.memory("right")
    arrowstream.concat([b, a]).write.memory("both")
    (unit,) = units(plans.outputs)
    assert [output.sink.name for output in unit.outputs] == ["left", "right", "both"]
    assert [node.name for _, node in unit.sources] == ["a", "b"]


def test_nodes_come_after_what_they_read(plans: Apart) -> None:
    """A shared node is met once, before all its readers."""
    frame = source(plans=plans).filter(pl.col("v") > 0)
    arrowstream.concat([frame.group_by("k").agg(n=pl.len()), frame.group_by("k").agg(n=pl.len())]).write.memory("t")
    nodes = topological(plans.outputs)
    assert len(nodes) == len(set(nodes)) == 6
    for place, node in enumerate(nodes):
        assert all(nodes.index(child) < place for child in node.inputs)
    assert len(consumers(nodes)[frame._node]) == 2


def test_the_plan_as_text(plans: Apart) -> None:
    """Before a run that will take days: what is kept, what is updated, what runs once."""
    frame = source("orders", plans=plans).filter(pl.col("v") > 0)
    counts = frame.group_by("k").agg(n=pl.len(), d=pl.col("v").n_unique())
    arrowstream.concat([counts.sql("SELECT k, n FROM self"), counts.select("k", "n")]).write.memory("t")
    text = explain(plans.outputs[0])
    assert "Output t (MemorySink)" in text
    assert "exactly once | takes rows back" in text
    assert "duckdb | takes rows back" in text
    assert "Aggregate n=len(), d=" in text
    assert "updates rows of k | state group_by k: a row per k" in text
    assert "and a row per distinct value, 1x, unbounded" in text
    assert "(shared: runs once)" in text
    assert text.count("Source orders") == 1
    assert "NoRows, cannot be read again | append-only" in text
