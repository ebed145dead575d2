"""The best rows of each group of a stream that only grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from arrowstream.engine import engine
from arrowstream.frames import rows_at, rows_where
from arrowstream.names import inner
from arrowstream.operators.changes import Changes, union
from arrowstream.operators.exchange import ROWS_FRAME, RowsPartial, gathered, one_part
from arrowstream.operators.expiry import forget
from arrowstream.operators.moment import Moment
from arrowstream.operators.ordering import Ints, Ranking, first_ranked, ranked
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.ranks import Best, TopK
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.table import KeyedTable

_RANK: Final = inner("rank")
_GROUP: Final = inner("rank_group")


def _top(best: Best, rows: pl.DataFrame) -> Ranking:
    """The best of rows that stand in order of arrival, by group."""
    if best.k == 1:
        return first_ranked(rows, best.keys, best.by, best.descending)
    return ranked(rows, best.keys, best.by, best.descending).head(best.k)


class TopPartial:
    """Only the best of a task's rows can be the best of all: by group, the best first, with their rank from 0.

    Of equal rows those that came first stand first, as in order of arrival.
    """

    def __init__(self, best: Best, columns: Sequence[str]) -> None:
        self._best, self._columns = best, list(columns)

    @property
    def frames(self) -> Sequence[str]:
        return (ROWS_FRAME,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = changes.added.select(self._columns).collect(engine=engine(changes.rows))
        return {ROWS_FRAME: _picked(rows, _top(self._best, rows))}


class BestRows:
    """Before the exchange, of groups that are given once: only the best rows of a task can be the best of all. They
    stay in order of arrival."""

    def __init__(self, best: Best, inner: RowsPartial) -> None:
        self._best, self._inner = best, inner

    @property
    def frames(self) -> Sequence[str]:
        return self._inner.frames

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        rows = self._inner.partial(changes, moment)[ROWS_FRAME]
        return {ROWS_FRAME: rows_at(rows, np.sort(_top(self._best, rows).places))}


def _picked(rows: pl.DataFrame, ranking: Ranking) -> pl.DataFrame:
    return rows_at(rows, ranking.places).with_columns(pl.Series(_RANK, ranking.ranks, pl.Int64))


def _best_of_all(best: Best, parts: Parts) -> pl.DataFrame:
    """What the partials have found, put together where there are several."""
    rows = gathered(parts, ROWS_FRAME)
    return rows if one_part(parts, ROWS_FRAME) else _picked(rows, _top(best, rows))


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
        empty = self._output.to_frame()
        return Changes.of(empty, empty if self._emit_removed else None)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = _best_of_all(self._best, inputs[0]).select_seq(self._names)
        if not new.height:
            return self.nothing()
        found = self._table.upsert(new.select_seq(self._keys))
        slots, known = found.slots, np.flatnonzero(~found.fresh)
        losers = new.clear()
        if len(known):
            held = self._table.pick(slots[known], self._best.by)
            better = self._better(rows_at(new, known), held)
            beaten = known[better]
            if self._emit_removed and len(beaten):
                old = self._table.gather(slots[beaten])
                losers = pl.concat([rows_at(new, beaten).select_seq(self._keys), old], how="horizontal").select_seq(
                    self._names
                )
            if len(beaten) < len(known):
                kept = np.sort(np.concatenate([np.flatnonzero(found.fresh), beaten]))
                new, slots = rows_at(new, kept), slots[kept]
        self._table.put(slots, new.select_seq(self._values))
        return Changes.of(self._shown(new), self._shown(losers) if self._emit_removed else None)

    def forget(self, keys: pl.DataFrame) -> None:
        """Let these groups go."""
        forget(self._table, keys)

    def _shown(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self._best.rank is None:
            return rows
        return rows.with_columns(pl.lit(1, pl.Int64).alias(self._best.rank))

    def _better(self, new: pl.DataFrame, old: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Where the new row comes before the old one; equal ones do not. Nulls come last."""
        better = pl.Series([False]).new_from_index(0, new.height)
        equal = ~better
        for name, down in zip(self._best.by, self._best.descending, strict=True):
            one, two = new[name], old[name]
            wins = (one > two) if down else (one < two)
            if one.null_count() or two.null_count():
                wins = wins.fill_null(False) | (one.is_not_null() & two.is_null())
            better |= equal & wins
            equal &= one.eq_missing(two)
        return better.to_numpy()


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
        empty = self._output.to_frame()
        return Changes.of(empty, empty)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = _best_of_all(self._best, inputs[0])
        if not new.height:
            return self.nothing()
        # The rows of a group stand together: a group begins where a rank is 0.
        groups = np.cumsum(new[_RANK].to_numpy() == 0) - 1
        firsts = new.filter(pl.col(_RANK) == 0).select_seq(self._keys) if self._keys else pl.DataFrame(height=1)
        asked, ids = self._rows.lookup(firsts)
        if not len(ids):
            self._rows.append(new)
            return Changes.of(self._shown(new, new[_RANK]), self._output.to_frame())
        met = np.isin(groups, asked)
        alone = rows_where(new, ~met)
        change = self._merged(self._rows.gather(ids), asked, ids, rows_where(new, met), groups[met])
        self._rows.append(alone)
        return union([change, Changes.of(self._shown(alone, alone[_RANK]))])

    def forget(self, keys: pl.DataFrame) -> None:
        """Let these groups go."""
        self._rows.delete(self._rows.ids_of(keys))

    def _merged(self, held: pl.DataFrame, held_groups: Ints, ids: Ints, new: pl.DataFrame, new_groups: Ints) -> Changes:
        """The change of groups that have rows already."""
        # Those that are held came first, in the order of their ids.
        rows = pl.concat([held.select_seq(self._names), new.select_seq(self._names)])
        groups = np.concatenate([held_groups, new_groups])
        numbered = pl.DataFrame([*(rows[name] for name in self._best.by), pl.Series(_GROUP, groups)])
        order = ranked(numbered, [_GROUP], self._best.by, self._best.descending)
        count = len(ids)
        before = np.zeros(len(groups), np.int64)
        after = np.empty(len(groups), np.int64)
        after[order.places] = order.ranks
        before[order.places[order.places < count]] = _counted(held_groups)
        lost = np.flatnonzero(after[:count] >= self._best.k)
        won = np.flatnonzero(after[count:] < self._best.k) + count
        won = won[np.lexsort((after[won], groups[won]))]
        self._rows.delete(ids[lost])
        self._rows.append(rows_at(rows, won))
        if self._best.rank is None:
            return Changes.of(rows_at(rows, won), rows_at(rows, lost))
        moved = np.flatnonzero((after[:count] < self._best.k) & (after[:count] != before[:count]))
        come, gone = np.concatenate([moved, won]), np.concatenate([moved, lost])
        return Changes.of(
            self._shown(rows_at(rows, come), pl.Series(after[come])),
            self._shown(rows_at(rows, gone), pl.Series(before[gone])),
        )

    def _shown(self, rows: pl.DataFrame, ranks: pl.Series) -> pl.DataFrame:
        rows = rows.select_seq(self._names)
        return rows if self._best.rank is None else rows.with_columns((ranks + 1).alias(self._best.rank))


def _counted(groups: Ints) -> Ints:
    """For rows of groups that stand together: a count up from 0 in each."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
