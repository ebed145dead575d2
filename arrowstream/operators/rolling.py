"""Aggregates of what lies just before each row; and the number of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from arrowstream.engine import engine
from arrowstream.names import inner
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.plan.groupwise import flagged
from arrowstream.plan.windownodes import Numbered, Rolling
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable
from arrowstream.state.table import KeyedTable

_COUNT: Final = inner("count")
_BEFORE: Final = inner("before")


class RollingOperator:
    """Keeps the rows that wait for the watermark, and those before them that count."""

    def __init__(self, node: Rolling, mark: Mark, rows: pl.Schema) -> None:
        self._node, self._mark = node, mark
        self._rows = RowTable(rows)
        self._output = flagged(node.schema, node.flagged)
        self._time = ticks(pl.col(node.index), node.input.schema[node.index])

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"rows": self._rows}

    def nothing(self) -> Changes:
        return Changes.of(self._output.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        self._rows.append(gathered(inputs[0], ROWS_FRAME))
        # Rows up to the lateness that is allowed may still come between.
        low, high = moment.late_before(self._mark), moment.forgotten(self._mark)
        if high <= low or not len(self._rows):
            return self.nothing()
        certain = (self._time >= low) & (self._time < high) if low != BEGINNING else self._time < high
        if high == FOREVER:
            certain = self._time >= low
        known = self._rows.frame.lazy().drop(ID)
        if high != FOREVER:
            known = known.filter(self._time < high)
        found = self._node.rolled(known).filter(certain).collect(engine=engine(len(self._rows)))
        kept = pl.lit(False) if high == FOREVER else self._time >= high - self._node.reach
        self._rows.keep(kept)
        return Changes.of(found.select(self._output.names()))

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the watermark passes the next row that waits for it."""
        end = moment.forgotten(self._mark)
        if end == FOREVER:
            return [None]
        first = self._rows.frame.select(self._time.filter(self._time >= end).min()).item()
        return [None if first is None else int(first) + 1]


class NumberRows:
    """How many rows each key has had."""

    def __init__(self, node: Numbered) -> None:
        self._node, self._keys = node, list(node.keys)
        schema = node.input.schema
        self._counts = KeyedTable(
            pl.Schema({name: schema[name] for name in self._keys}), pl.Schema({_COUNT: pl.Int64()})
        )

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"counts": self._counts}

    def nothing(self) -> Changes:
        return Changes.of(self._node.schema.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        rows = gathered(inputs[0], ROWS_FRAME)
        if not rows.height:
            return self.nothing()
        place, size = pl.int_range(pl.len(), dtype=pl.Int64), pl.len().cast(pl.Int64)
        if self._keys:
            place, size = place.over(self._keys), size.over(self._keys)
        numbered = rows.with_columns(place.alias(self._node.name), size.alias(_COUNT))
        touched = numbered.filter(pl.col(self._node.name) == 0)
        slots = self._counts.upsert(touched.select(self._keys)).slots
        before = self._counts.gather(slots)[_COUNT].fill_null(0)
        self._counts.put(slots, (before + touched[_COUNT]).alias(_COUNT).to_frame())
        # No join: it does not always match NaN with NaN. The first row of a key is where its count is known.
        first = numbered.filter(pl.col(self._node.name) == 0).with_columns(before.alias(_BEFORE))
        rest = numbered.filter(pl.col(self._node.name) > 0).with_columns(pl.lit(None, pl.Int64).alias(_BEFORE))
        together = pl.concat([first, rest])
        known = pl.col(_BEFORE).max()
        known = known.over(self._keys) if self._keys else known
        shown = together.with_columns(pl.col(self._node.name) + known)
        return Changes.of(shown.select(self._node.schema.names()))
