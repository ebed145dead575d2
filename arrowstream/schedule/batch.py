"""A batch: which blocks it takes, decided once and the same however often it runs."""

from __future__ import annotations

import msgspec

from arrowstream.blocks.block import BlockInfo
from arrowstream.schedule.watermarks import Standing


class Batch(msgspec.Struct, frozen=True):
    """An allotted batch. Batches of a unit are numbered from 0.

    `time` is the clock when it was allotted, and `standing` how event time stood: what a replay decides by;
    so are `tables`, the versions of tables that are read again.
    `blocks` are in order of arrival: (source, split, position); the order is part of the batch, and breaks all ties.
    """

    id: int
    time: float
    blocks: list[BlockInfo]
    standing: Standing = Standing()
    tables: list[float] = []

    @property
    def rows(self) -> int:
        """Rows in, without the rejected records."""
        return sum(info.rows for info in self.blocks if info.kind == "rows")

    @property
    def rejects(self) -> int:
        """Records that were no rows."""
        return sum(info.rows for info in self.blocks if info.kind == "rejects")
