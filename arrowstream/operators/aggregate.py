"""Running aggregates: partial per task, exchanged by key, merged into keyed state.

The cost of a batch follows the groups that it touches, not those that exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from arrowstream.engine import engine
from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.operators.ordering import Ints, group_numbers
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.aggregates import GROUP, MAIN, ROWS, VALUE, WEIGHT, Decomposition, Pairs
from arrowstream.plan.groupwise import flagged
from arrowstream.state.pairs import PairTable
from arrowstream.state.protocol import StateTable
from arrowstream.state.table import KeyedTable


class PartialAggregate:
    """One row per group and task: keys and accumulators; and the distinct values that are to be counted.

    These have `GROUP` besides, if `numbered`: see `Decomposition.partials`.
    """

    def __init__(self, decomposition: Decomposition, weighted: bool, *, numbered: bool = False) -> None:
        self._decomposition, self._weighted, self._numbered = decomposition, weighted, numbered

    @property
    def frames(self) -> Sequence[str]:
        return [MAIN, *(pairs.name for pairs in self._decomposition.pairs)]

    def partial(self, changes: Changes, moment: Moment, alike: Mapping[str, pl.Expr] | None = None) -> Frames:
        """`alike` are values of keys that all rows, of which there are some, have in common."""
        plan, frame, weight = self._decomposition, changes.added, None
        if self._weighted:
            weight = WEIGHT
            sides = [changes.added.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT))]
            if changes.removed is not None:
                sides.append(changes.removed.with_columns(pl.lit(-1, pl.Int64).alias(WEIGHT)))
            frame = pl.concat(sides)
        if not plan.pairs:
            return {MAIN: plan.partial(frame, weight, alike).collect(engine=engine(changes.rows))}
        frames = plan.partials(frame, weight, changes.rows)
        return frames if self._numbered else {name: found.drop(GROUP) for name, found in frames.items()}


class MergeAggregate:
    """The state of one partition's groups.

    `main` has a row of accumulators per group; for distinct values that are counted there is a table of pairs
    (group, value). Where `emit_removed`, a group's former row is taken back as its new
    one comes, and nothing is said of groups whose row is the same as before; else new rows are enough.
    """

    def __init__(self, decomposition: Decomposition, weighted: bool, emit_removed: bool) -> None:
        self._plan, self._weighted, self._emit_removed = decomposition, weighted, emit_removed
        self._keys = list(decomposition.keys)
        self._columns = list(decomposition.accumulators)
        self._main = KeyedTable(decomposition.keys, decomposition.accumulators)
        self._pairs = {pairs.name: PairTable(pairs.keys, pairs.columns, weighted) for pairs in decomposition.pairs}

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {MAIN: self._main, **self._pairs}

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        parts = inputs[0]
        touched = self._touched(parts[MAIN])
        if touched.is_empty():
            return self._first_row() if not self._keys and not len(self._main) else self.nothing()
        for pairs in self._plan.pairs:
            touched = self._count_pairs(touched, pairs, parts[pairs.name])
        keys = touched.select_seq(self._keys)
        slots = self._main.upsert(keys)
        old = self._main.gather(slots.slots)
        new = self._plan.combine(old, touched.select_seq(self._columns))
        self._main.put(slots.slots, new)
        known = ~pl.Series(slots.fresh)
        alive = new[ROWS] > 0 if self._weighted and self._keys else None
        if alive is not None and not alive.all():
            self._main.delete(slots.slots[(~alive).to_numpy()])
        return self._changes(keys, old, new, known, alive)

    def forget(self, keys: pl.DataFrame) -> None:
        """Let these groups go, as if none of their rows had come."""
        slots = self._main.find(keys)
        self._main.delete(slots[slots >= 0])
        for table in self._pairs.values():
            table.forget(keys)

    def _touched(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """One row per group that has rows in this batch."""
        if len(frames) == 1:
            return frames[0]
        together = pl.concat(frames)
        return self._plan.merge(together.lazy()).collect(engine=engine(together.height))

    def _count_pairs(self, touched: pl.DataFrame, pairs: Pairs, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Bring a table of pairs forward, and write into its columns by how much the counts changed."""
        if len(frames) == 1:
            found = frames[0]
            groups = _places(touched[GROUP].to_numpy(), found[GROUP].to_numpy())
        else:
            together = pl.concat(frames)
            found = pairs.merge(together.lazy()).collect(engine=engine(together.height))
            groups = _same_keys(touched, found, self._keys)
        changed = self._pairs[pairs.name].add(
            touched.select_seq(self._keys), groups, found.select_seq(VALUE, *pairs.columns)
        )
        return touched.with_columns(map(pl.Series, pairs.columns, changed))

    def _changes(
        self, keys: pl.DataFrame, old: pl.DataFrame, new: pl.DataFrame, known: pl.Series, alive: pl.Series | None
    ) -> Changes:
        """The rows of the touched groups: as they are now, and, where asked for, as they were."""
        added = self._rows(keys, new)
        if not self._emit_removed:
            if alive is None:
                return Changes.of(added)
            gone = known & ~alive
            return Changes.of(rows_where(added, alive), self._rows(rows_where(keys, gone), rows_where(old, gone)))
        removed = self._rows(keys, old)
        same = known if alive is None else known & alive
        same &= pl.select(
            pl.all_horizontal(pl.lit(True), *(added[name].eq_missing(removed[name]) for name in added.columns))
        ).to_series()
        after = ~same if alive is None else alive & ~same
        return Changes.of(rows_where(added, after), rows_where(removed, known & ~same))

    def _rows(self, keys: pl.DataFrame, accumulators: pl.DataFrame) -> pl.DataFrame:
        return self._plan.final(pl.concat([keys, accumulators], how="horizontal"))

    def _first_row(self) -> Changes:
        """A global aggregate has one row even of nothing; it is kept, so that it can be taken back."""
        nothing = self._plan.accumulators.to_frame().clear(1)
        self._main.put(self._main.upsert(nothing.select(self._keys)).slots, nothing)
        added = self._plan.final_of_nothing()
        return Changes.of(added, added.clear() if self._weighted or self._emit_removed else None)

    def nothing(self) -> Changes:
        empty = flagged(self._plan.output, self._plan.flagged).to_frame()
        return Changes.of(empty, empty if self._weighted or self._emit_removed else None)


def _places(numbers: Ints, asked: Ints) -> Ints:
    """Where each of the asked ones is among the numbers, in which all are, once."""
    if not len(numbers):
        return np.empty(0, np.int64)
    places = np.empty(int(numbers.max()) + 1, np.int64)
    places[numbers] = np.arange(len(numbers))
    return places[asked]


def _same_keys(groups: pl.DataFrame, rows: pl.DataFrame, keys: Sequence[str]) -> Ints:
    """For each of these rows the row of `groups`, in which all keys are once, that has its keys. No join: it does not
    always match NaN with NaN."""
    if not keys:
        return np.zeros(rows.height, np.int64)
    numbers = group_numbers(pl.concat([groups.select(keys), rows.select(keys)]), keys)
    return _places(numbers[: groups.height], numbers[groups.height :])
