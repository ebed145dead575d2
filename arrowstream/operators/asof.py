"""Joins with the row that is nearest in time: rows of the left wait until their answer is certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream.engine import JOINING
from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.plan.joins import AsofJoin
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable


class AsofJoinOperator:
    """`left` has the rows that wait, `right` those that may still be the answer to one.

    A row of the right counts for times from its own on (backward), so of those before all that wait or are to come
    only the last of each key is kept.
    """

    def __init__(self, node: AsofJoin, left: Mark, right: Mark) -> None:
        self._node, self._marks = node, (left, right)
        self._left, self._right = RowTable(node.left.schema), RowTable(node.right.schema)
        self._ahead = 0 if node.strategy == "backward" else node.tolerance or 0
        self._left_time = ticks(pl.col(node.left_on), node.left.schema[node.left_on])
        self._right_time = ticks(pl.col(node.right_on), node.right.schema[node.right_on])

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"left": self._left, "right": self._right}

    def nothing(self) -> Changes:
        return Changes.of(self._node.schema.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        self._left.append(gathered(inputs[0], ROWS_FRAME))
        self._right.append(gathered(inputs[1], ROWS_FRAME))
        ended = [moment.forgotten(mark) for mark in self._marks]
        certain = min(ended)
        if certain == BEGINNING:
            return self.nothing()
        if not len(self._left):
            self._let_go(ended[0])
            return self.nothing()
        # Strictly before: a row of the right at the watermark itself may still come.
        ready = self._left.frame.select(
            pl.lit(True) if certain == FOREVER else self._left_time + self._ahead < certain
        ).to_series()
        if ready.len() != len(self._left):
            ready = ready.new_from_index(0, len(self._left))
        rows = rows_where(self._left.frame, ready).drop(ID).sort(self._node.left_on, maintain_order=True)
        found = self._answers(rows) if rows.height else self._node.schema.to_frame()
        self._left.keep(~ready)
        self._let_go(ended[0])
        return Changes.of(found)

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the answer of the next row that waits is certain."""
        first = self._left.frame.select(self._left_time.min()).item()
        return [None if first is None else int(first) + self._ahead + 1]

    def _answers(self, rows: pl.DataFrame) -> pl.DataFrame:
        right = self._right.frame.drop(ID).sort(self._node.right_on, maintain_order=True)
        found = self._node.join(rows.lazy(), right.lazy()).collect(engine=JOINING)
        return found.select(self._node.schema.names())

    def _let_go(self, left_watermark: int) -> None:
        """Drop rows of the right that can be nobody's answer any more."""
        frame = self._right.frame
        if not frame.height:
            return
        if left_watermark == FOREVER and not len(self._left):
            self._right.keep(pl.lit(False))
            return
        waiting = self._left.frame.select(self._left_time.min()).item() if len(self._left) else None
        bound = left_watermark if waiting is None else min(left_watermark, waiting)
        if self._node.strategy == "forward":
            self._right.keep(self._right_time >= bound)
            return
        if self._node.tolerance is not None:
            self._right.keep(self._right_time >= bound - self._node.tolerance)
            frame = self._right.frame
        old = frame.filter(self._right_time < bound)
        if old.height < 2:
            return
        ordered = old.sort(self._node.right_on, maintain_order=True)
        last = (
            ordered.group_by(self._node.by_right).agg(pl.col(ID).last())[ID]
            if self._node.by_right
            else ordered[ID].tail(1)
        )
        self._right.keep((self._right_time >= bound) | pl.col(ID).is_in(last.implode()))
