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
from arrowstream.plan.eventtime import BEGINNING, FOREVER, from_ticks, lowest, step_of, ticks
from arrowstream.plan.joins import WATERMARK, Bound, How
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable

MATCHED: Final = "matched"
# How far ahead one looks for the time when a row expires: a bit more than a year of microseconds.
_LONG: Final = 1 << 45
_Holds: TypeAlias = Callable[[pl.DataFrame], pl.Series]


def lonely_sides(how: How) -> Sequence[int]:
    """The sides of which rows without a match are shown: 0 is the left."""
    return [number for number, shown in enumerate((("left", "full", "anti"), ("right", "full"))) if how in shown]


class BoundedJoin:
    """A row is let go as the watermark of the other side passes what it can match; what is given is never taken back.

    Rows without a match come out, where the kind of join shows them, when they expire. `matched` remembers which of the
    kept rows have had one. A side without bounds keeps its rows by key, for ever.
    """

    def __init__(
        self,
        pairing: Pairing,
        bounds: tuple[tuple[Bound, ...], tuple[Bound, ...]],
        times: Sequence[tuple[str, Mark] | None],
    ) -> None:
        """`times` are the column of event time of each side and by which watermarks it goes, where it has one."""
        self._pairing, self._bounds, self._times = pairing, bounds, times
        self._left = _side(pairing.left, pairing.left_on, bounds[0])
        self._right = _side(pairing.right, pairing.right_on, bounds[1])
        self._lonely = [number in lonely_sides(pairing.how) for number in (0, 1)]
        # There is none for a side without bounds, whose rows stay.
        self._alive_rows = [
            pl.all_horizontal(bound.alive for bound in each).fill_null(False).alias("alive") if each else pl.lit(True)
            for each in bounds
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
        if any(self._lonely) or self._pairing.how == "semi":
            return self._row_by_row(left, right, moment)
        return self._pairs_alone(left, right, moment)

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

    def _row_by_row(self, left: pl.DataFrame, right: pl.DataFrame, moment: Moment) -> Changes:
        """Pairs, and rows that expire without one; or of the left each row that has one, which then is not kept."""
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
        if pairs is not None and pairing.how == "semi":
            hit = pairs[LEFT].unique()
            out.append(self._left.gather(hit).lazy().select(*pairing.left))
            self._left.drop(hit)
        elif pairs is not None:
            for lonely, column, matched in zip(self._lonely, (LEFT, RIGHT), self._matched, strict=True):
                if not lonely:
                    continue
                hit = pairs[column].unique()
                fresh = hit.filter(~hit.is_in(matched.frame["row"].implode()))
                matched.append(fresh.alias("row").to_frame())
            if pairing.how != "anti":
                out.append(pairing.shown(pairs.lazy()))
        for number, gone in enumerate(self._expire(moment)):
            if not self._lonely[number] or gone is None or not gone.height:
                continue
            matched = self._matched[number]
            alone = gone.filter(~pl.col(ID).is_in(matched.frame["row"].implode())).lazy()
            matched.keep(~pl.col("row").is_in(gone[ID].implode()))
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
        driven_by = self._times[1 - number]
        if not self._bounds[number] or driven_by is None:
            return None
        watermark = moment.forgotten(driven_by[1])
        if watermark == FOREVER:
            return lambda rows: pl.Series([False]).new_from_index(0, rows.height)
        if watermark == BEGINNING or watermark < lowest(self._type(1 - number)):
            return None
        return lambda rows: self._alive_at(number, rows, watermark)

    def _alive_at(self, number: int, rows: pl.DataFrame, watermark: int) -> pl.Series:
        now = from_ticks(pl.lit(watermark, pl.Int64), self._type(1 - number)).alias(WATERMARK)
        return rows.with_columns_seq(now).select_seq(self._alive_rows[number]).to_series()

    def _type(self, number: int) -> pl.DataType:
        """The type of a side's event time."""
        time = self._times[number]
        assert time is not None
        return (self._pairing.left, self._pairing.right)[number][time[0]]

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the next row without a match expires, of the sides that show such rows."""
        return [self._next(number, moment) for number in (0, 1) if self._lonely[number]]

    def _next(self, number: int, moment: Moment) -> int | None:
        """The watermark of the other side at which the first row of this side expires that has had no match."""
        other, side = self._times[1 - number], (self._left, self._right)[number]
        if other is None or not isinstance(side, _Passing):
            return None
        rows = side.table.frame.filter(~pl.col(ID).is_in(self._matched[number].frame["row"].implode()))
        own = self._times[number]
        if not rows.height:
            return None
        behind = [bound.behind for bound in self._bounds[number]]
        if own is not None and None not in behind:
            dtype = self._type(number)
            first = int(rows.select(ticks(pl.col(own[0]), dtype).min()).item())
            return first + min(each for each in behind if each is not None) + step_of(dtype)
        # What the row says is no distance from its time: look for it. Rows expire one after the other.
        low = moment.forgotten(other[1])
        if low in (BEGINNING, FOREVER):
            return None
        high = low + _LONG
        if self._alive_at(number, rows, high).all():
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._alive_at(number, rows, middle).all():
                low = middle
            else:
                high = middle
        return high


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

    def drop(self, ids: pl.Series) -> None:
        """Keep these rows no longer."""


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

    def drop(self, ids: pl.Series) -> None:
        self.table.keep(~pl.col(ID).is_in(ids.implode()))


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

    def drop(self, ids: pl.Series) -> None:
        self.table.delete(ids.to_numpy())
