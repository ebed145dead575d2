"""Each row once: what was seen is remembered by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream import matching
from arrowstream.engine import engine
from arrowstream.frames import rows_where
from arrowstream.names import inner
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, gathered, one_part
from arrowstream.operators.expiry import forget
from arrowstream.operators.late import LateJudge
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.eventtime import FOREVER, steps, steps_of_tick
from arrowstream.plan.ranks import Distinct
from arrowstream.plan.sessions import STEPS
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import RowTable
from arrowstream.state.table import KeyedTable

_PLACE = inner("distinct_place")
_KEPT = inner("kept")


class DistinctPartial:
    """Of a task's rows that are in time and equal, one goes on; all of them where distances in time count."""

    def __init__(self, node: Distinct, judge: LateJudge | None) -> None:
        self._subset, self._keep, self._judge = list(node.subset), node.keep, judge
        self._within = node.within

    @property
    def frames(self) -> Sequence[str]:
        return (ROWS_FRAME,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        added, way = changes.added, engine(changes.rows)
        if self._judge is not None:
            added = self._judge.in_time(added.collect(engine=way), moment).lazy()
        if self._within is None:
            added = _once(added, self._subset, self._keep)
        return {ROWS_FRAME: added.collect(engine=way)}


def _once(rows: pl.LazyFrame, subset: Sequence[str], keep: str) -> pl.LazyFrame:
    return rows.unique(list(subset), keep="last" if keep == "last" else "first", maintain_order=True)


def _gathered_once(parts: Parts, subset: Sequence[str], keep: str) -> pl.DataFrame:
    """What the partials let through, put together where there are several."""
    rows = gathered(parts)
    if one_part(parts) or not rows.height:
        return rows
    return _once(rows.lazy(), subset, keep).collect(engine=engine(rows.height))


class DistinctFirst:
    """The first row of each key: only the keys are remembered."""

    def __init__(self, node: Distinct) -> None:
        self._subset = list(node.subset)
        self._output = node.schema
        self._seen = KeyedTable(pl.Schema({name: node.input.schema[name] for name in node.subset}), pl.Schema({}))

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"seen": self._seen}

    def nothing(self) -> Changes:
        return Changes.of(self._output.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = _gathered_once(inputs[0], self._subset, "first")
        if not new.height:
            return self.nothing()
        slots = self._seen.upsert(new.select_seq(self._subset))
        return Changes.of(rows_where(new, slots.fresh))

    def forget(self, keys: pl.DataFrame) -> None:
        """Let these keys go."""
        forget(self._seen, keys)


class DistinctLast:
    """The last row of each key, replaced as another comes."""

    def __init__(self, node: Distinct, emit_removed: bool) -> None:
        schema = node.input.schema
        self._subset, self._names, self._emit_removed = list(node.subset), schema.names(), emit_removed
        self._values = [name for name in schema if name not in node.subset]
        self._table = KeyedTable(
            pl.Schema({name: schema[name] for name in self._subset}),
            pl.Schema({name: schema[name] for name in self._values}),
        )
        self._output = node.schema

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"last": self._table}

    def nothing(self) -> Changes:
        empty = self._output.to_frame()
        return Changes.of(empty, empty if self._emit_removed else None)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = _gathered_once(inputs[0], self._subset, "last")
        if not new.height:
            return self.nothing()
        slots = self._table.upsert(new.select_seq(self._subset))
        removed = None
        if self._emit_removed:
            old = pl.concat([new.select_seq(self._subset), self._table.gather(slots.slots)], how="horizontal")
            removed = rows_where(old, ~slots.fresh).select_seq(self._names)
        self._table.put(slots.slots, new.select_seq(self._values))
        return Changes.of(new.select_seq(self._names), removed)

    def forget(self, keys: pl.DataFrame) -> None:
        """Let these keys go."""
        forget(self._table, keys)


class DistinctWithin:
    """The first row of each key, and again one that is far enough in time from all that were let through.

    Rows are looked at in order of arrival; a round lets the first of each key through and drops what is near it, so
    there are as many rounds as one key has rows let through in a batch.
    """

    def __init__(self, node: Distinct, mark: Mark) -> None:
        assert node.within is not None
        assert node.input.time is not None
        schema = node.input.schema
        self._subset, self._within, self._mark = list(node.subset), node.within, mark
        self._time, self._dtype = node.input.time.column, schema[node.input.time.column]
        self._fine = steps_of_tick(self._dtype)
        self._kept = RowTable(pl.Schema({**{name: schema[name] for name in node.subset}, STEPS: pl.Int64()}))
        self._output = node.schema

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"kept": self._kept}

    def nothing(self) -> Changes:
        return Changes.of(self._output.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = gathered(inputs[0], ROWS_FRAME)
        given = self._let_through(new) if new.height else new
        limit = moment.forgotten(self._mark)
        if limit > moment.late_before(self._mark):
            self._kept.keep(
                pl.lit(False) if limit == FOREVER else pl.col(STEPS) + self._within * self._fine > limit * self._fine
            )
        return Changes.of(given)

    def _let_through(self, new: pl.DataFrame) -> pl.DataFrame:
        left = new.select(*self._subset, steps(pl.col(self._time), self._dtype).alias(STEPS)).with_row_index(_PLACE)
        left = self._far(left, self._kept.frame.select(*self._subset, STEPS))
        places = []
        while left.height:
            first = left.unique(self._subset, keep="first", maintain_order=True)
            places.append(first[_PLACE])
            kept = first.select(*self._subset, STEPS)
            self._kept.append(kept)
            others = left.filter(~pl.col(_PLACE).is_in(first[_PLACE].implode()))
            left = self._far(others, kept)
        if not places:
            return new.clear()
        return new[pl.concat(places).sort()]

    def _far(self, rows: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
        """The rows that are far enough from each of the kept ones of their key."""
        if not kept.height:
            return rows
        kept = kept.rename({STEPS: _KEPT})
        pairs = matching.join(rows.lazy(), kept.lazy(), self._subset, kept.schema, nulls_equal=True)
        near = pairs.filter((pl.col(STEPS) - pl.col(_KEPT)).abs() < self._within * self._fine).select(_PLACE)
        far = matching.join_numbers(rows.lazy(), near, _PLACE, how="anti", maintain_order="left")
        return far.collect(engine=engine(rows.height))
