"""Keys that are let go: those of which no row has come for a time to live, in event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import polars as pl

from arrowstream.engine import engine
from arrowstream.frames import rows_where
from arrowstream.names import inner
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import gathered, one_part
from arrowstream.operators.late import LateJudge
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames, PartialOperator, Parts, StatefulOperator
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.state.protocol import StateTable
from arrowstream.state.table import KeyedTable

TOUCHED: Final = "touched"
_TICKS: Final = inner("touched_ticks")

_SWEEPS: Final = 16
"""Times within a time to live that all keys are looked through, so that what is kept is at most a sixteenth more than
must be."""


# So few keys are looked through in every batch.
_FEW: Final = 1 << 12


class Forgetful(StatefulOperator, Protocol):
    """An operator that can let keys go."""

    def forget(self, keys: pl.DataFrame) -> None:
        """Be as if no row of these keys had come; what was given out for them is not taken back."""


class TouchedPartial:
    """Before the exchange: the rows that are not late, and the highest time of each of their keys.

    A row that is more than the time to live behind the watermark is late: its key may have been let go. (`judge`
    allows for the time to live.)
    """

    def __init__(self, inner: PartialOperator, by: Sequence[pl.Expr], judge: LateJudge) -> None:
        self._inner, self._by, self._judge = inner, list(by), judge

    @property
    def frames(self) -> Sequence[str]:
        return (*self._inner.frames, TOUCHED)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = self._judge.in_time(changes.added.collect(engine=engine(changes.rows)), moment)
        time = ticks(pl.col(self._judge.column), self._judge.dtype).max().alias(_TICKS)
        touched = rows.lazy().group_by(self._by).agg(time).collect(engine=engine(rows.height))
        return {**self._inner.partial(Changes.of(rows), moment), TOUCHED: touched}


class Expiring:
    """An operator with keys that live as long as rows of them come.

    A key is gone once the watermark with which a batch begins is more than `ttl` past its last row: then it begins anew
    if it comes in that batch. So it depends on the batches and their watermarks alone, which a replay repeats.
    Keys that do not come again are found by looking through all of them, `_SWEEPS` times within a `ttl`, at multiples
    of a fixed part of event time.
    """

    def __init__(self, inner: Forgetful, keys: pl.Schema, mark: Mark, ttl: int) -> None:
        self._inner, self._mark, self._ttl = inner, mark, ttl
        self._keys = keys.names()
        self._step = max(1, ttl // _SWEEPS)
        self._times = KeyedTable(keys, pl.Schema({_TICKS: pl.Int64()}))

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {**self._inner.tables, TOUCHED: self._times}

    def nothing(self) -> Changes:
        return self._inner.nothing()

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        touched = gathered(inputs[0], TOUCHED)
        if not one_part(inputs[0], TOUCHED):
            touched = touched.group_by(self._keys).agg(pl.col(_TICKS).max())
        keys = touched.select(self._keys)
        if touched.height:
            slots = self._times.upsert(keys).slots
            last = self._times.gather(slots)[_TICKS]
            gone = (last + self._ttl < moment.start(self._mark)).fill_null(False)
            if gone.any():
                self._inner.forget(rows_where(keys, gone))
            self._times.put(slots, pl.select(pl.max_horizontal(last, touched[_TICKS]).alias(_TICKS)))
        changes = self._inner.process(inputs, moment)
        self._sweep(moment)
        return changes

    def _sweep(self, moment: Moment) -> None:
        """Let all keys go that the end of this batch leaves behind."""
        start, end = moment.start(self._mark), moment.end(self._mark)
        if end in (BEGINNING, FOREVER) or (start != BEGINNING and start // self._step == end // self._step):
            return
        gone = self._times.scan().filter(pl.col(_TICKS) + self._ttl < end).select(self._keys)
        if gone.height:
            self._inner.forget(gone)
            forget(self._times, gone)


class Passing:
    """An operator whose keys tell their time: they are let go as the watermark passes it.

    Rows behind the watermark are late, so none would be found among what is gone. Keys are looked through in batches in
    which the watermark moves, if they are few, or as many again as were left the last time.
    """

    def __init__(self, inner: Forgetful, keys: Sequence[str], time: str, dtype: pl.DataType, mark: Mark) -> None:
        self._inner, self._keys, self._mark = inner, list(keys), mark
        self._ticks = ticks(pl.col(time), dtype)
        ((_, table),) = inner.tables.items()
        assert isinstance(table, KeyedTable)
        self._table, self._left = table, 0

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return self._inner.tables

    def nothing(self) -> Changes:
        return self._inner.nothing()

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        changes = self._inner.process(inputs, moment)
        limit = moment.forgotten(self._mark)
        if limit > moment.late_before(self._mark) and (len(self._table) <= _FEW or len(self._table) > 2 * self._left):
            passed = pl.lit(True) if limit == FOREVER else self._ticks < limit
            gone = self._table.scan().select(self._keys).filter(passed)
            if gone.height:
                self._inner.forget(gone)
            self._left = len(self._table)
        return changes


def forget(table: KeyedTable, keys: pl.DataFrame) -> None:
    """Take these keys out of a table, where they are in it."""
    slots = table.find(keys)
    table.delete(slots[slots >= 0])
