"""Joins of two streams that the watermark bounds: rows are let go when nothing to come can match them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import polars as pl

from arrowstream.engine import JOINING
from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, gathered
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.pairing import LEFT, RIGHT, Pairing
from arrowstream.operators.program import Parts
from arrowstream.plan.eventtime import BEGINNING, FOREVER, from_ticks, lowest
from arrowstream.plan.joins import WATERMARK, Bound
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable

MATCHED: Final = "matched"
_Holds: TypeAlias = Callable[[pl.DataFrame], pl.Series]


class BoundedJoin:
    """A row is let go as the watermark of the other side passes what it can match; what is given is never taken back.

    Rows without a match come out, where the kind of join shows them, when they expire. `matched` remembers which of the
    kept rows have had one. A side without bounds keeps its rows by key, for ever.
    """

    def __init__(
        self,
        pairing: Pairing,
        bounds: tuple[tuple[Bound, ...], tuple[Bound, ...]],
        marks: Sequence[tuple[Mark, pl.DataType] | None],
    ) -> None:
        self._pairing, self._bounds, self._marks = pairing, bounds, marks
        self._left = _side(pairing.left, pairing.left_on, bounds[0])
        self._right = _side(pairing.right, pairing.right_on, bounds[1])
        how = pairing.how
        self._lonely = [how in ("left", "full", "anti", "semi"), how in ("right", "full")]
        self._alive_rows = [
            pl.all_horizontal(bound.alive for bound in each).fill_null(False).alias("alive") for each in bounds
        ]
        self._matched = [RowTable(pl.Schema({"row": pl.Int64()})) for _ in bounds]

    @property
    def tables(self) -> Mapping[str, StateTable]:
        tables: dict[str, StateTable] = {"left": self._left.table, "right": self._right.table}
        for name, lonely, table in zip(("left", "right"), self._lonely, self._matched, strict=True):
            if lonely:
                tables[f"{name}_{MATCHED}"] = table
        return tables

    def nothing(self) -> Changes:
        return Changes.of(self._pairing.output.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        left, right = (gathered(parts, ROWS_FRAME) for parts in inputs)
        return self._with_lonely(left, right, moment) if any(self._lonely) else self._pairs_alone(left, right, moment)

    def _pairs_alone(self, left: pl.DataFrame, right: pl.DataFrame, moment: Moment) -> Changes:
        """Pairs of what comes with what is kept, and with what comes. Rows that have expired by now are never kept."""
        pairing, joins = self._pairing, []
        if left.height and (old := self._right.that_match(left, pairing.left_on)).height:
            joins.append(pairing.pairs(left.lazy(), old.select_seq(pairing.right.names()).lazy()))
        if right.height:
            both, old = left, self._left.that_match(right, pairing.right_on)
            if old.height:
                names = pairing.left.names()
                both = old.select_seq(names).vstack(left.select_seq(names))
            joins.append(pairing.pairs(both.lazy(), right.lazy()))
        found = [pairing.shown(each) for each in joins]
        for number, (side, new) in enumerate(((self._left, left), (self._right, right))):
            alive = self._alive(number, moment)
            if alive is not None and isinstance(side, _Passing):
                if len(side.table):
                    side.table.keep(alive(side.table.frame))
                if new.height:
                    new = rows_where(new, alive(new))
            if new.height:
                side.append(new)
        if not found:
            return self.nothing()
        return Changes.of((found[0] if len(found) == 1 else pl.concat(found)).collect(engine=JOINING))

    def _with_lonely(self, left: pl.DataFrame, right: pl.DataFrame, moment: Moment) -> Changes:
        """Pairs, and rows that expire without one."""
        pairing, joins, out = self._pairing, [], []
        if left.height and (old := self._right.that_match(left, pairing.left_on)).height:
            new = self._left.append(left)
            joins.append(pairing.pairs(new.lazy().rename({ID: LEFT}), old.lazy().rename({ID: RIGHT})))
        else:
            self._left.append(left)
        if right.height:
            new, old = self._right.append(right), self._left.that_match(right, pairing.right_on)
            if old.height:
                joins.append(pairing.pairs(old.lazy().rename({ID: LEFT}), new.lazy().rename({ID: RIGHT})))
        pairs = pl.concat(joins).collect(engine=JOINING) if joins else None
        if pairs is not None:
            for lonely, column, matched in zip(self._lonely, (LEFT, RIGHT), self._matched, strict=True):
                if not lonely:
                    continue
                hit = pairs[column].unique()
                fresh = hit.filter(~hit.is_in(matched.frame["row"].implode()))
                if pairing.how == "semi":
                    out.append(self._left.gather(fresh).lazy().select(*pairing.left))
                matched.append(fresh.alias("row").to_frame())
            if pairing.how not in ("semi", "anti"):
                out.append(pairing.shown(pairs.lazy()))
        for number, gone in enumerate(self._expire(moment)):
            if not self._lonely[number] or gone is None or not gone.height:
                continue
            matched = self._matched[number]
            alone = gone.filter(~pl.col(ID).is_in(matched.frame["row"].implode())).lazy()
            matched.keep(~pl.col("row").is_in(gone[ID].implode()))
            if pairing.how != "semi":
                out.append(pairing.lonely_left(alone) if number == 0 else pairing.lonely_right(alone))
        if not out:
            return self.nothing()
        return Changes.of(pl.concat(out).collect(engine=JOINING))

    def _expire(self, moment: Moment) -> list[pl.DataFrame | None]:
        """Let rows go that nothing to come can match; the rows of each side that went."""
        gone: list[pl.DataFrame | None] = []
        for number, side in enumerate((self._left, self._right)):
            alive = self._alive(number, moment)
            if alive is None or not isinstance(side, _Passing):
                gone.append(None)
                continue
            frame = side.table.frame
            kept = alive(frame)
            gone.append(rows_where(frame, ~kept) if self._lonely[number] else None)
            side.table.keep(kept)
        return gone

    def _alive(self, number: int, moment: Moment) -> _Holds | None:
        """Which rows of a side something to come can match; None where it may match any."""
        driven_by = self._marks[1 - number]
        if not self._bounds[number] or driven_by is None:
            return None
        mark, dtype = driven_by
        watermark = moment.forgotten(mark)
        if watermark == FOREVER:
            return lambda rows: pl.Series([False]).new_from_index(0, rows.height)
        if watermark == BEGINNING or watermark < lowest(dtype):
            return None
        now = from_ticks(pl.lit(watermark, pl.Int64), dtype).alias(WATERMARK)
        return lambda rows: rows.with_columns_seq(now).select_seq(self._alive_rows[number]).to_series()


class _Side(Protocol):
    """The rows that are kept of one side, with their numbers in `ID`."""

    @property
    def table(self) -> StateTable: ...

    def append(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Keep these rows; they, with their numbers."""

    def that_match(self, rows: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
        """All rows that may match some of these, which have the keys `on`."""

    def gather(self, ids: pl.Series) -> pl.DataFrame:
        """The rows with these numbers."""


def _side(schema: pl.Schema, on: Sequence[str], bounds: Sequence[Bound]) -> _Side:
    return _Passing(schema) if bounds else _Staying(schema, on)


class _Passing:
    """Rows that are let go in time: few enough for Polars to join them all."""

    def __init__(self, schema: pl.Schema) -> None:
        self.table = RowTable(schema)

    def append(self, rows: pl.DataFrame) -> pl.DataFrame:
        ids = self.table.append(rows, whole=True)
        return rows.clone().insert_column(0, ids)

    def that_match(self, rows: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
        return self.table.frame

    def gather(self, ids: pl.Series) -> pl.DataFrame:
        return self.table.frame.filter(pl.col(ID).is_in(ids.implode()))


class _Staying:
    """Rows by key, for ever."""

    def __init__(self, schema: pl.Schema, on: Sequence[str]) -> None:
        self._on, self._names = list(on), schema.names()
        self.table = MultiMap(
            pl.Schema({name: schema[name] for name in on}),
            pl.Schema({name: dtype for name, dtype in schema.items() if name not in on}),
        )

    def append(self, rows: pl.DataFrame) -> pl.DataFrame:
        ids = self.table.append(rows)
        return rows.select_seq(self._names).insert_column(0, pl.Series(ID, ids))

    def that_match(self, rows: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
        keys = pl.DataFrame(height=1)
        if on:
            keys = rows.select(pl.col(theirs).alias(mine) for theirs, mine in zip(on, self._on, strict=True))
        return self.gather(pl.Series(self.table.ids_of(keys)))

    def gather(self, ids: pl.Series) -> pl.DataFrame:
        numbers = ids.to_numpy()
        return self.table.gather(numbers, self._names).insert_column(0, pl.Series(ID, numbers))
