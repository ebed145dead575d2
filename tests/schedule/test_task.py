"""Tasks of several partitions in one process: rows meet by key, and in order of arrival."""

from __future__ import annotations

from functools import partial

import polars as pl
import pyarrow as pa
from apart import Apart, NoRows
from books import info
from hypothesis import given, settings
from hypothesis import strategies as st
from lawful import assert_same_rows

from arrowstream.connectors.changes import Append
from arrowstream.frame import StreamFrame
from arrowstream.ids import BlockId
from arrowstream.operators.changes import to_arrow
from arrowstream.operators.compile import compile_unit
from arrowstream.operators.moment import Moment
from arrowstream.plan.nodes import SourceNode
from arrowstream.plan.unit import units
from arrowstream.schedule.messages import TaskBlock, TaskId
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.task import run_task

SCHEMA = pl.Schema({"k": pl.Int64(), "v": pl.Int64()})

rows = st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(0, 9)), max_size=8).map(
    lambda each: pl.DataFrame(each, schema=SCHEMA, orient="row")
)


Parts = dict[tuple[int, str, int, int], pl.DataFrame]
"""What an exchange carries, by step, frame, giver and taker."""


def held(tables: dict[BlockId, pa.Table], block: TaskBlock) -> pa.Table:
    return tables[block.info.id]


def brought(parts: Parts, givers: int, to: int, step: int, name: str) -> list[pl.DataFrame]:
    return [parts[step, name, giver, to] for giver in range(givers)]


@given(
    batches=st.lists(st.lists(st.tuples(rows, st.integers(0, 2)), min_size=1, max_size=5), min_size=1, max_size=3),
    partitions=st.integers(1, 3),
)
@settings(max_examples=60)
def test_order_of_arrival_is_kept_across_partitions(
    batches: list[list[tuple[pl.DataFrame, int]]], partitions: int
) -> None:
    """Blocks of one split lie on several workers; the first and last value of a key are those that came first and
    last all the same, and lists are in order."""
    plans = Apart()
    node = SourceNode(schema=SCHEMA, kind=Append(), name="rows", source=NoRows(SCHEMA))
    aggs = [
        pl.col("v").first().alias("first"),
        pl.col("v").filter(pl.col("v") > 4).last().alias("last"),
        pl.col("v").implode().alias("all"),
        pl.col("v").n_unique().cast(pl.Int64).alias("distinct"),
        pl.col("v").sum().alias("sum"),
    ]
    StreamFrame(node, plans).group_by("k").agg(*aggs).write.memory("t")
    unit = units(plans.outputs)[0]
    program = compile_unit(unit)
    parts = [Partition(number, partitions, program, unit) for number in range(partitions)]
    live: dict[int | None, tuple[object, ...]] = {}
    for batch, blocks in enumerate(batches):
        tables: dict[BlockId, pa.Table] = {}
        mine: list[list[TaskBlock]] = [[] for _ in parts]
        for ordinal, (frame, owner) in enumerate(blocks):
            block = info(100 * batch + ordinal, frame.height)
            tables[block.id] = to_arrow(frame)
            mine[owner % partitions].append(TaskBlock(ordinal, block, []))
        exchanged: Parts = {}
        for stage in range(program.stages):
            made: Parts = {}
            for part in parts:
                result = run_task(
                    part,
                    TaskId(unit.id, batch, 0, stage, part.number),
                    mine[part.number] if stage == 0 else [],
                    partial(held, tables),
                    partial(brought, exchanged, partitions, part.number),
                    Moment(batch),
                )
                for (step, name, to), frame in result.parts.items():
                    made[step, name, part.number, to] = frame
                for receipt in result.receipts.values():
                    for changes in receipt.changes:
                        live |= {row[0]: row for row in pl.DataFrame(changes.rows).iter_rows()}
            exchanged = made
        for part in parts:
            part.commit(batch)
    sent = pl.concat([frame for blocks in batches for frame, _ in blocks])
    schema = plans.outputs[0].schema
    expected = sent.lazy().group_by("k").agg(*aggs).collect().cast(dict(schema))  # type: ignore[arg-type]
    assert_same_rows(pl.DataFrame(list(live.values()), schema=schema, orient="row"), expected)
