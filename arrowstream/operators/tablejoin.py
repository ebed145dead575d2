"""Joins with a table that is there as a whole: nothing is kept but the table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.plan.tables import TableJoin


class TableJoinOperator:
    """The table is read when the first rows come, and again when the batch has another version of it.

    The version is in the batch, so that all tasks decide the same, also a second time; what is read is what is there
    at that time. `number` is that of the table among those that are read again.
    """

    def __init__(self, node: TableJoin, number: int | None) -> None:
        self._node, self._number = node, number
        self._table: pl.LazyFrame | None = None
        self._version = 0.0

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        known = self._number is not None and self._number < len(moment.tables)
        version = moment.tables[self._number] if known and self._number is not None else 0.0
        if self._table is None or version != self._version:
            rows = self._node.table.read()
            schema = self._node.table.schema
            self._table = (rows if rows.schema == schema else rows.select(list(schema)).cast(dict(schema))).lazy()  # type: ignore[arg-type]
            self._version = version
        table = self._table
        return inputs[0].map(lambda rows: self._node.join(rows, table))
