"""Groups whose key tells their time: each is computed once, when the watermark says that it is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream.engine import engine
from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.plan.groupwise import flagged
from arrowstream.plan.recompute import Recompute
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable


class ClosingGroups:
    """Keeps the rows of groups that are not whole yet; what it gives is final.

    Rows that come and are whole in the same batch, as those of windows that close, never go into state.
    """

    def __init__(self, node: Recompute, mark: Mark) -> None:
        assert node.input.time is not None
        self._whole, self._output = node.whole, flagged(node.schema, node.flagged)
        self._time, self._dtype = node.input.time.column, node.input.schema[node.input.time.column]
        self._mark = mark
        self._rows = RowTable(pl.Schema({name: node.input.schema[name] for name in node.columns}))

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"rows": self._rows}

    def nothing(self) -> Changes:
        return Changes.of(self._output.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = gathered(inputs[0], ROWS_FRAME)
        # Late rows that are allowed still belong to it: nothing that was given is taken back.
        begin, end = moment.late_before(self._mark), moment.forgotten(self._mark)
        if end == begin or not (len(self._rows) or new.height):
            self._rows.append(new, whole=True)
            return self.nothing()
        whole, open_ = self._parted(new, end)
        if len(self._rows):
            waited, _ = self._parted(self._rows.frame, end)
            if waited.height:
                self._rows.keep(~self._is_whole(end))
                whole = pl.concat([waited.drop(ID), whole])
        self._rows.append(open_, whole=True)
        if not whole.height:
            return self.nothing()
        return Changes.of(self._whole(whole.lazy()).collect(engine=engine(whole.height)))

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the watermark passes the next group."""
        first = self._rows.frame.select(ticks(pl.col(self._time), self._dtype).min()).item()
        return [None if first is None else int(first) + 1]

    def _parted(self, rows: pl.DataFrame, end: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows of groups that are whole, and the others."""
        if end in (BEGINNING, FOREVER) or not rows.height:
            return (rows, rows.clear()) if end == FOREVER else (rows.clear(), rows)
        whole = rows.select(self._is_whole(end)).to_series()
        return (rows, rows.clear()) if whole.all() else (rows_where(rows, whole), rows_where(rows, ~whole))

    def _is_whole(self, end: int) -> pl.Expr:
        return pl.lit(True) if end == FOREVER else ticks(pl.col(self._time), self._dtype) < end
