"""What row-local work does to the kind of change, and who must be shown what was there before."""

from __future__ import annotations

import polars as pl
import pytest
from apart import source

import arrowstream
from arrowstream.connectors.changes import Append, ChangeKind, Retract, Upsert
from arrowstream.frame import StreamFrame
from arrowstream.plan.kinds import needs_removed
from arrowstream.plan.nodes import Aggregate, Node
from arrowstream.plan.unit import consumers, topological

SCHEMA = pl.Schema({"k": pl.String(), "v": pl.Int64(), "xs": pl.List(pl.Int64())})


def counts() -> StreamFrame:
    return source(schema=SCHEMA).group_by("k").agg(n=pl.len(), xs=pl.col("v").implode())


def total() -> StreamFrame:
    return source(schema=SCHEMA).agg(n=pl.len(), m=pl.col("v").count(), xs=pl.col("v").implode())


def shown(frame: StreamFrame) -> bool:
    """Whether the aggregate in this frame must take back the rows that it replaces."""
    nodes = topological([frame._node])
    (aggregate,) = (node for node in nodes if isinstance(node, Aggregate))
    return needs_removed(consumers(nodes), aggregate)


KEYED: list[tuple[str, StreamFrame, ChangeKind, bool]] = [
    ("as it is", counts(), Upsert(("k",)), False),
    ("columns added", counts().with_columns(m=pl.col("n") * 2), Upsert(("k",)), False),
    ("the key renamed", counts().rename({"k": "word"}), Upsert(("word",)), False),
    ("names swapped", counts().rename({"k": "n", "n": "k"}), Upsert(("n",)), False),
    ("the key selected under another name", counts().select(word="k", m="n"), Upsert(("word",)), False),
    ("the key selected twice", counts().select("k", k2="k"), Upsert(("k",)), False),
    ("the key copied, then overwritten", counts().with_columns(k2="k", k=pl.lit("x")), Upsert(("k2",)), False),
    ("some groups left out", counts().filter(pl.col("n") > 1), Upsert(("k",)), True),
    ("some groups removed", counts().remove(pl.col("n") > 1), Upsert(("k",)), True),
    ("groups with nulls left out", counts().drop_nulls(), Upsert(("k",)), True),
    ("another column cast", counts().cast({"n": pl.Float64}), Upsert(("k",)), False),
    ("the key cast", counts().cast({"k": pl.Binary}), Retract(), True),
    ("the key overwritten", counts().with_columns(pl.col("k").str.to_uppercase()), Retract(), True),
    ("the key dropped", counts().drop("k"), Retract(), True),
    ("the key not selected", counts().select("n"), Retract(), True),
    ("keys filled", counts().fill_null("none"), Retract(), True),
    ("lists exploded", counts().explode("xs"), Retract(), True),
    ("a select that explodes", counts().select(pl.col("xs").list.explode()), Retract(), True),
    ("SQL", counts().sql("SELECT k, n FROM self"), Retract(), True),
    ("a function", counts().map_batches(lambda frame: frame), Retract(), True),
    ("counted again", counts().group_by("n").agg(words=pl.len()), Upsert(("n",)), True),
]

GLOBAL: list[tuple[str, StreamFrame, ChangeKind, bool]] = [
    ("as it is", total(), Upsert(()), False),
    ("some columns", total().select("n"), Upsert(()), False),
    ("filtered", total().filter(pl.col("n") > 1), Upsert(()), True),
    ("exploded into many rows", total().explode("xs"), Retract(), True),
    ("unpivoted into many rows", total().unpivot(["n", "m"]), Retract(), True),
    ("a select that explodes", total().select(pl.col("xs").list.explode()), Retract(), True),
]


@pytest.mark.parametrize(("frame", "kind", "removed"), [case[1:] for case in KEYED], ids=[case[0] for case in KEYED])
def test_updates_by_key_stay_so_only_where_the_key_goes_through_whole(
    frame: StreamFrame, kind: ChangeKind, removed: bool
) -> None:
    """Running counts are trimmed before they are written: the sink must still know which row is replaced."""
    nodes = topological([frame._node])
    assert frame.kind == kind
    first = next(node for node in nodes if isinstance(node, Aggregate))
    assert needs_removed(consumers(nodes), first) is removed


@pytest.mark.parametrize(("frame", "kind", "removed"), [case[1:] for case in GLOBAL], ids=[case[0] for case in GLOBAL])
def test_the_one_row_of_a_global_aggregate_may_become_many(frame: StreamFrame, kind: ChangeKind, removed: bool) -> None:
    """A dashboard wants the totals from wide to long: a row for each is not "the one row" any more."""
    assert frame.kind == kind
    assert shown(frame) is removed


def test_rows_that_only_come_go_through_anything_as_such() -> None:
    """Most streams are append-only, and pay nothing for what they never do."""
    frame = source(schema=SCHEMA).filter(pl.col("v") > 0).explode("xs").select("k", "xs").map_batches(lambda at: at)
    assert frame.kind == Append()


def test_a_reader_further_down_is_seen() -> None:
    """Columns are added to the counts, and only what comes after that leaves rows out, or counts again."""
    frame = counts().with_columns(m=pl.col("n") * 2)
    assert shown(frame.filter(pl.col("m") > 2))
    assert shown(arrowstream.concat([frame, frame]))
    assert not shown(frame.select("k", "m"))


def test_an_aggregate_that_one_output_filters_takes_back_for_both() -> None:
    """Two outputs of one count: one keeps all, one the frequent ones."""
    frame = counts()
    roots: list[Node] = [frame._node, frame.filter(pl.col("n") > 1)._node]
    assert needs_removed(consumers(topological(roots)), frame._node)
