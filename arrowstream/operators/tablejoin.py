"""Joins with a table that is there as a whole: nothing is kept but the table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.plan.tables import TableJoin


class TableJoinOperator:
    """The table is read when the first rows come, and again when it is older than it may be.

    Its age goes by the clock of the batches, so that all tasks of a batch decide the same, also a second time; what
    is read is what is there at that time.
    """

    def __init__(self, node: TableJoin) -> None:
        self._node = node
        self._table: pl.LazyFrame | None = None
        self._read_at = 0.0

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        refresh = self._node.table.refresh
        if self._table is None or (refresh is not None and moment.now - self._read_at >= refresh):
            rows = self._node.table.read()
            schema = self._node.table.schema
            self._table = (rows if rows.schema == schema else rows.select(list(schema)).cast(dict(schema))).lazy()  # type: ignore[arg-type]
            self._read_at = moment.now
        table = self._table
        return inputs[0].map(lambda rows: self._node.join(rows, table))
