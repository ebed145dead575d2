"""The best rows of each group of a stream that only grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, difference, gathered
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.ranks import Best, TopK
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.table import KeyedTable

_PLACE = "__place"


def _in_order_of_arrival(best: Best, rows: pl.LazyFrame) -> pl.LazyFrame:
    """The best rows, not best first but as they came."""
    return best.chosen(rows.with_row_index(_PLACE)).sort(_PLACE).drop(_PLACE)


class TopPartial:
    """Only the best of a task's rows can be the best of all."""

    def __init__(self, best: Best) -> None:
        self._best = best

    @property
    def frames(self) -> Sequence[str]:
        return (ROWS_FRAME,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        return {ROWS_FRAME: _top(self._best, changes.added).collect()}


def _top(best: Best, rows: pl.LazyFrame) -> pl.LazyFrame:
    if best.k == 1 and best.by and best.keys:
        # One row of each group: found by its place, with no sort of whole rows.
        names = rows.collect_schema().names()
        rest = [pl.col(name) for name in names if name not in best.keys]
        chosen = [
            expr.sort_by(best.by, descending=list(best.descending), nulls_last=True, maintain_order=True).first()
            for expr in rest
        ]
        return rows.group_by(best.keys, maintain_order=True).agg(chosen).select(names)
    return _in_order_of_arrival(best, rows)


class TopOne:
    """The best row of each group: a slot a group."""

    def __init__(self, node: TopK, emit_removed: bool) -> None:
        self._best, self._emit_removed = node.best(), emit_removed
        self._keys = list(node.keys)
        schema = node.input.schema
        self._names = schema.names()
        self._values = [name for name in schema if name not in node.keys]
        self._table = KeyedTable(
            pl.Schema({name: schema[name] for name in self._keys}),
            pl.Schema({name: schema[name] for name in self._values}),
        )
        self._output = node.schema

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"best": self._table}

    def nothing(self) -> Changes:
        empty = self._output.to_frame().lazy()
        return Changes(empty, empty if self._emit_removed else None)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        frames = [frame for frame in inputs[0][ROWS_FRAME] if frame.height]
        if not frames:
            return self.nothing()
        new = frames[0] if len(frames) == 1 else _top(self._best, pl.concat(frames).lazy()).collect()
        slots = self._table.upsert(new.select(self._keys))
        old = self._table.gather(slots.slots)
        fresh = pl.Series(slots.fresh)
        better = fresh | self._better(new, old)
        values = new.select(self._values)
        if better.all():
            self._table.put(slots.slots, values)
            winners, losers = new, pl.concat([new.select(self._keys), old], how="horizontal").filter(~fresh)
        else:
            winners = new.filter(better)
            beaten = better & ~fresh
            losers = pl.concat([new.select(self._keys), old], how="horizontal").filter(beaten)
            self._table.put(slots.slots[better.to_numpy()], values.filter(better))
        removed = losers.select(self._names).lazy() if self._emit_removed else None
        return Changes(self._shown(winners).lazy(), None if removed is None else self._shown(removed.collect()).lazy())

    def _shown(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self._best.rank is None:
            return rows.select(self._names)
        return rows.select(*self._names, pl.lit(1, pl.Int64).alias(self._best.rank))

    def _better(self, new: pl.DataFrame, old: pl.DataFrame) -> pl.Series:
        """Where the new row comes before the old one; equal ones do not. Nulls come last."""
        better: pl.Series | None = None
        equal: pl.Series | None = None
        for name, down in zip(self._best.by, self._best.descending, strict=True):
            one, two = new[name], old[name]
            wins = (one > two) if down else (one < two)
            if one.null_count() or two.null_count():
                wins = wins.fill_null(False) | (one.is_not_null() & two.is_null())
            better = wins if better is None or equal is None else better | (equal & wins)
            same = one.eq_missing(two)
            equal = same if equal is None else equal & same
        return pl.Series([False]).new_from_index(0, new.height) if better is None else better


class TopRows:
    """The best rows of each group, a few each: what is beaten by them all is forgotten."""

    def __init__(self, node: TopK) -> None:
        self._best = node.best()
        self._keys = list(node.keys)
        schema = node.input.schema
        self._names = schema.names()
        self._rows = MultiMap(
            pl.Schema({name: schema[name] for name in self._keys}),
            pl.Schema({name: dtype for name, dtype in schema.items() if name not in self._keys}),
        )
        self._output = node.schema

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"best": self._rows}

    def nothing(self) -> Changes:
        empty = self._output.to_frame().lazy()
        return Changes(empty, empty)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = gathered(inputs[0], ROWS_FRAME)
        if not new.height:
            return self.nothing()
        place = pl.int_range(pl.len(), dtype=pl.Int64).alias(_PLACE)
        ids = self._rows.ids_of(new.select(self._keys).unique() if self._keys else pl.DataFrame(height=1))
        held = self._rows.gather(ids).select(self._names)
        rows = pl.concat([held, new.select(self._names)]).with_columns(place)
        best = self._best.chosen(rows.lazy()).collect()
        places = best[_PLACE].to_numpy()
        kept = places[places < len(ids)]
        gone = np.delete(ids, kept)
        added = best.filter(pl.col(_PLACE) >= len(ids)).sort(_PLACE).drop(_PLACE)
        if not added.height:
            return self.nothing()
        self._rows.delete(gone)
        self._rows.append(added)
        if self._best.rank is None:
            beaten = rows.filter(pl.col(_PLACE) < len(ids)).filter(~pl.col(_PLACE).is_in(pl.Series(kept).implode()))
            return Changes(added.lazy(), beaten.drop(_PLACE).lazy())
        return difference(self._best(held.lazy()).collect(), self._best(rows.drop(_PLACE).lazy()).collect())
