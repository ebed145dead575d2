"""Running aggregates: partial per task, exchanged by key, merged into keyed state.

The cost of a batch follows the groups that it touches, not those that exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.aggregates import ROWS, VALUE, WEIGHT, Decomposition
from arrowstream.state.table import KeyedTable

MAIN = "main"


class PartialAggregate:
    """One row per group and task: keys and accumulators; and the distinct values that are to be counted."""

    def __init__(self, decomposition: Decomposition, weighted: bool) -> None:
        self._decomposition, self._weighted = decomposition, weighted

    @property
    def frames(self) -> Sequence[str]:
        return [MAIN, *(pairs.accumulator for pairs in self._decomposition.pairs)]

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
            return {MAIN: plan.partial(frame, weight, alike).collect()}
        frames = [plan.partial(frame, weight, alike), *(pairs.partial(frame, weight) for pairs in plan.pairs)]
        return dict(zip(self.frames, pl.collect_all(frames), strict=True))


class MergeAggregate:
    """The state of one partition's groups.

    `main` has a row of accumulators per group; for every count of distinct values there is a table of pairs
    (group, value) with how often it is there. Where `emit_removed`, a group's former row is taken back as its new
    one comes, and nothing is said of groups whose row is the same as before; else new rows are enough.
    """

    def __init__(self, decomposition: Decomposition, weighted: bool, emit_removed: bool) -> None:
        self._plan, self._weighted, self._emit_removed = decomposition, weighted, emit_removed
        self._keys = list(decomposition.keys)
        self._columns = list(decomposition.accumulators)
        self._main = KeyedTable(decomposition.keys, decomposition.accumulators)
        self._pairs = {
            pairs.accumulator: KeyedTable(pairs.keys, pl.Schema({WEIGHT: pl.Int64()})) for pairs in decomposition.pairs
        }

    @property
    def tables(self) -> Mapping[str, KeyedTable]:
        return {MAIN: self._main, **self._pairs}

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        parts = inputs[0]
        touched = self._touched(parts[MAIN])
        for name, table in self._pairs.items():
            touched = self._count_pairs(touched, name, table, parts[name])
        if touched.is_empty():
            return self._first_row() if not self._keys and not len(self._main) else self.nothing()
        keys = touched.select(self._keys)
        slots = self._main.upsert(keys)
        old = self._main.gather(slots.slots)
        new = self._plan.combine(old, touched.select(self._columns))
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
            pairs = table.scan().select(table.keys.names())
            gone = pairs.filter(pl.Series(self._main.find(pairs.select(self._keys)) < 0))
            table.delete(table.find(gone))

    def _touched(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """One row per group that has rows in this batch."""
        if len(frames) == 1:
            return frames[0]
        return self._plan.merge(pl.concat(frames).lazy()).collect()

    def _count_pairs(
        self, touched: pl.DataFrame, name: str, table: KeyedTable, frames: Sequence[pl.DataFrame]
    ) -> pl.DataFrame:
        """Bring a table of pairs forward, and write into the column `name` by how much the counts changed."""
        of = [*self._keys, VALUE]
        pairs = frames[0] if len(frames) == 1 else pl.concat(frames).group_by(of).agg(pl.col(WEIGHT).sum())
        slots = table.upsert(pairs.select(of)).slots
        old = table.gather(slots)[WEIGHT].fill_null(0)
        new = old + pairs[WEIGHT]
        table.put(slots, new.to_frame(WEIGHT))
        if self._weighted and (gone := new == 0).any():
            table.delete(slots[gone.to_numpy()])
        change = (new > 0).cast(pl.Int64) - (old > 0).cast(pl.Int64)
        if not self._keys:
            return touched.with_columns(pl.lit(change.sum(), pl.Int64).alias(name))
        # No join: it does not always match NaN with NaN. Every group of the pairs is among the touched, which come
        # first and so give the order.
        changes = pl.concat(
            [touched.select(*self._keys, name), pairs.select(self._keys).with_columns(change.alias(name))]
        )
        return touched.with_columns(changes.group_by(self._keys, maintain_order=True).agg(pl.col(name).sum())[name])

    def _changes(
        self, keys: pl.DataFrame, old: pl.DataFrame, new: pl.DataFrame, known: pl.Series, alive: pl.Series | None
    ) -> Changes:
        """The rows of the touched groups: as they are now, and, where asked for, as they were."""
        added = self._rows(keys, new)
        if not self._emit_removed:
            if alive is None:
                return Changes(added.lazy())
            gone = known & ~alive
            return Changes(added.filter(alive).lazy(), self._rows(keys.filter(gone), old.filter(gone)).lazy())
        removed = self._rows(keys, old)
        same = known if alive is None else known & alive
        same &= pl.select(
            pl.all_horizontal(pl.lit(True), *(added[name].eq_missing(removed[name]) for name in added.columns))
        ).to_series()
        after = ~same if alive is None else alive & ~same
        return Changes(added.filter(after).lazy(), removed.filter(known & ~same).lazy())

    def _rows(self, keys: pl.DataFrame, accumulators: pl.DataFrame) -> pl.DataFrame:
        return self._plan.final(pl.concat([keys, accumulators], how="horizontal"))

    def _first_row(self) -> Changes:
        """A global aggregate has one row even of nothing; it is kept, so that it can be taken back."""
        nothing = self._plan.accumulators.to_frame().clear(1)
        self._main.put(self._main.upsert(nothing.select(self._keys)).slots, nothing)
        added = self._plan.final_of_nothing()
        return Changes(added.lazy(), added.clear().lazy() if self._weighted or self._emit_removed else None)

    def nothing(self) -> Changes:
        empty = self._plan.output.to_frame().lazy()
        return Changes(empty, empty if self._weighted or self._emit_removed else None)
