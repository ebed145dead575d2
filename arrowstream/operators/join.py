"""Joins of two streams: each side keeps its rows, and what comes on one meets what is kept of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, consolidated, difference, gathered, signed
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.aggregates import WEIGHT
from arrowstream.plan.eventtime import BEGINNING, FOREVER, from_ticks
from arrowstream.plan.joins import WATERMARK, Bound, How, Join, pair_names
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable

LEFT: Final = "__left_id"
RIGHT: Final = "__right_id"
MATCHED: Final = "matched"


@dataclass(frozen=True, slots=True)
class Pairing:
    """How two frames are put together: the join itself, without any state."""

    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    suffix: str
    nulls_equal: bool
    coalesce: bool | None
    where: tuple[pl.Expr, ...]
    left: pl.Schema
    right: pl.Schema
    output: pl.Schema

    @classmethod
    def of(cls, node: Join) -> Pairing:
        return cls(
            node.left_on,
            node.right_on,
            node.how,
            node.suffix,
            node.nulls_equal,
            node.coalesce,
            node.where,
            node.left.schema,
            node.right.schema,
            node.schema,
        )

    def pairs(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """All columns of both sides of all pairs that match, the right's renamed where they clash."""
        if self.left_on:
            joined = left.join(
                right,
                left_on=self.left_on,
                right_on=self.right_on,
                suffix=self.suffix,
                nulls_equal=self.nulls_equal,
                coalesce=False,
            )
        else:
            joined = left.join(right, how="cross", suffix=self.suffix)
        return joined.filter(self.where) if self.where else joined

    def shown(self, pairs: pl.LazyFrame, *more: str) -> pl.LazyFrame:
        """The pairs in the columns of the output, and `more`."""
        if self.how in ("semi", "anti"):
            return pairs.select(*self.left, *more)
        names = pair_names(self.left, self.right, self.suffix)
        if self.how != "right":
            return pairs.select(*self.output, *more)
        # Polars puts a right join's columns as: the left's without its keys, then the right's.
        rest = [name for name in self.left if name not in self.left_on or self.coalesce is False]
        own = dict(zip(self.output.names()[len(rest) :], self.right, strict=True))
        picked = [pl.col(names[own[name]]).alias(name) if name in own else pl.col(name) for name in self.output]
        return pairs.select(*picked, *more)

    def lonely_left(self, rows: pl.LazyFrame, *more: str) -> pl.LazyFrame:
        """Rows of the left without a match, as the output shows them."""
        if self.how == "anti":
            return rows.select(*self.left, *more)
        nulls = [pl.lit(None, dtype).alias(name) for name, dtype in self.output.items() if name not in self.left]
        return rows.with_columns(nulls).select(*self.output, *more)

    def lonely_right(self, rows: pl.LazyFrame, *more: str) -> pl.LazyFrame:
        """Rows of the right without a match, as the output shows them."""
        names = pair_names(self.left, self.right, self.suffix)
        if self.how == "right":
            rest = [name for name in self.left if name not in self.left_on or self.coalesce is False]
            own = dict(zip(self.output.names()[len(rest) :], self.right, strict=True))
            picked = [pl.col(own[n]).alias(n) if n in own else pl.lit(None, d).alias(n) for n, d in self.output.items()]
            return rows.select(*picked, *more)
        own = {name: mine for mine, name in names.items()}
        if self.coalesce:
            own |= dict(zip(self.left_on, self.right_on, strict=True))
        picked = [pl.col(own[n]).alias(n) if n in own else pl.lit(None, d).alias(n) for n, d in self.output.items()]
        return rows.select(*picked, *more)

    def whole(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        """The join of two frames in one shot."""
        one, two = left.lazy().with_row_index(LEFT), right.lazy().with_row_index(RIGHT)
        pairs = self.pairs(one, two).collect()
        if self.how == "semi":
            return one.join(pairs.lazy(), on=LEFT, how="semi").select(*self.left).collect()
        if self.how == "anti":
            return one.join(pairs.lazy(), on=LEFT, how="anti").select(*self.left).collect()
        found = [self.shown(pairs.lazy())]
        if self.how in ("left", "full"):
            found.append(self.lonely_left(one.join(pairs.lazy(), on=LEFT, how="anti")))
        if self.how in ("right", "full"):
            found.append(self.lonely_right(two.join(pairs.lazy(), on=RIGHT, how="anti")))
        return pl.concat(found).collect()


class UnboundedJoin:
    """Both sides keep all their rows.

    Where rows only come and pairs are all that is asked for, what comes is joined with what is kept. Else the
    groups of the touched keys are joined as they were and as they are, and the difference goes on.
    """

    def __init__(self, pairing: Pairing, weighted: tuple[bool, bool]) -> None:
        self._pairing, self._weighted = pairing, weighted
        self._append = pairing.how == "inner" and not any(weighted)
        self._sides = [
            _Kept(pairing.left, pairing.left_on),
            _Kept(pairing.right, pairing.right_on),
        ]

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"left": self._sides[0].rows, "right": self._sides[1].rows}

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = [gathered(parts, ROWS_FRAME) for parts in inputs]
        if not new[0].height and not new[1].height:
            return self.nothing()
        return self._appended(new[0], new[1]) if self._append else self._recomputed(new[0], new[1])

    def nothing(self) -> Changes:
        empty = self._pairing.output.to_frame().lazy()
        return Changes(empty, None if self._append else empty)

    def _appended(self, left: pl.DataFrame, right: pl.DataFrame) -> Changes:
        pairing, (lefts, rights) = self._pairing, self._sides
        with_old = rights.of_keys(left, pairing.left_on)
        found = [pairing.shown(pairing.pairs(left.lazy(), pl.concat([with_old, right]).lazy()))]
        with_old = lefts.of_keys(right, pairing.right_on)
        if with_old.height:
            found.append(pairing.shown(pairing.pairs(with_old.lazy(), right.lazy())))
        lefts.append(left)
        rights.append(right)
        return Changes(pl.concat(found))

    def _recomputed(self, left: pl.DataFrame, right: pl.DataFrame) -> Changes:
        pairing, (lefts, rights) = self._pairing, self._sides
        changed = [
            consolidated(each) if weighted else each.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT))
            for each, weighted in zip((left, right), self._weighted, strict=True)
        ]
        names = list(pairing.left_on)
        theirs = changed[1].select(pl.col(two).alias(one) for one, two in zip(names, pairing.right_on, strict=True))
        keys = pl.concat([changed[0].select(names), theirs]).unique() if names else pl.DataFrame(height=1)
        before = [lefts.of_keys(keys, names), rights.of_keys(keys, names)]
        for side, change in zip(self._sides, changed, strict=True):
            side.apply(change)
        after = [lefts.of_keys(keys, names), rights.of_keys(keys, names)]
        old, new = pairing.whole(*before), pairing.whole(*after)
        return difference(old, new)


class _Kept:
    """The rows of one side, by key."""

    def __init__(self, schema: pl.Schema, on: Sequence[str]) -> None:
        self._on, self._names = list(on), schema.names()
        self._rest = [name for name in schema if name not in on]
        self.rows = MultiMap(
            pl.Schema({name: schema[name] for name in on}), pl.Schema({name: schema[name] for name in self._rest})
        )

    def of_keys(self, rows: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
        """All rows that are kept of the keys of these rows."""
        if not self._on:
            return self.rows.scan().select(self._names)
        keys = rows.select(pl.col(theirs).alias(mine) for theirs, mine in zip(on, self._on, strict=True))
        return self.rows.of_keys(keys).select(self._names)

    def append(self, rows: pl.DataFrame) -> None:
        self.rows.append(rows.select(*self._on, *self._rest))

    def apply(self, changes: pl.DataFrame) -> None:
        """Take rows out and in, by their weights."""
        each = signed(changes)
        assert each.removed is not None
        gone = each.removed.collect()
        if gone.height:
            self.rows.remove(gone.select(*self._on, *self._rest))
        self.append(each.added.collect())


class BoundedJoin:
    """Rows of both sides are let go as the watermark passes what they can match; pairs only ever come.

    Rows without a match come out, where the kind of join shows them, when they expire. `matched` remembers which of the
    kept rows have had one.
    """

    def __init__(
        self,
        pairing: Pairing,
        bounds: tuple[tuple[Bound, ...], tuple[Bound, ...]],
        times: tuple[tuple[Mark, pl.DataType], tuple[Mark, pl.DataType]],
    ) -> None:
        self._pairing, self._bounds, self._times = pairing, bounds, times
        self._sides = [RowTable(pairing.left), RowTable(pairing.right)]
        how = pairing.how
        self._lonely = [how in ("left", "full", "anti", "semi"), how in ("right", "full")]
        self._matched = [RowTable(pl.Schema({"row": pl.Int64()})) for _ in self._sides]

    @property
    def tables(self) -> Mapping[str, StateTable]:
        tables: dict[str, StateTable] = {"left": self._sides[0], "right": self._sides[1]}
        for name, lonely, table in zip(("left", "right"), self._lonely, self._matched, strict=True):
            if lonely:
                tables[f"{name}_{MATCHED}"] = table
        return tables

    def nothing(self) -> Changes:
        return Changes(self._pairing.output.to_frame().lazy())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        pairing = self._pairing
        kept = [side.frame for side in self._sides]
        new = [gathered(parts, ROWS_FRAME) for parts in inputs]
        for side, rows in zip(self._sides, new, strict=True):
            side.append(rows)
        all_left = self._sides[0].frame.lazy().rename({ID: LEFT})
        new_left = self._sides[0].frame.tail(new[0].height).lazy().rename({ID: LEFT})
        old_right = kept[1].lazy().rename({ID: RIGHT})
        new_right = self._sides[1].frame.tail(new[1].height).lazy().rename({ID: RIGHT})
        joins = []
        if new[0].height and kept[1].height:
            joins.append(pairing.pairs(new_left, old_right))
        if new[1].height:
            joins.append(pairing.pairs(all_left, new_right))
        ids = [name for name, lonely in zip((LEFT, RIGHT), self._lonely, strict=True) if lonely]
        if not ids:
            found = [pairing.shown(each) for each in joins] or [pairing.output.to_frame().lazy()]
            made = pl.concat(found).collect() if len(found) > 1 or self._expires(moment) else found[0].collect()
            self._expire(moment)
            return Changes(made.lazy())
        return self._with_lonely(joins, moment)

    def _expires(self, moment: Moment) -> bool:
        return any(moment.forgotten(mark) != BEGINNING for mark, _ in self._times)

    def _with_lonely(self, joins: Sequence[pl.LazyFrame], moment: Moment) -> Changes:
        """Pairs, and rows that expire without one."""
        pairing, out = self._pairing, []
        pairs = pl.concat(joins).collect() if joins else None
        if pairs is not None:
            for lonely, column, matched in zip(self._lonely, (LEFT, RIGHT), self._matched, strict=True):
                if not lonely:
                    continue
                hit = pairs[column].unique()
                fresh = hit.filter(~hit.is_in(matched.frame["row"].implode()))
                if pairing.how == "semi":
                    first = self._sides[0].frame.filter(pl.col(ID).is_in(fresh.implode()))
                    out.append(first.lazy().select(*pairing.left))
                matched.append(fresh.alias("row").to_frame())
            if pairing.how not in ("semi", "anti"):
                out.append(pairing.shown(pairs.lazy()))
        for number, gone in enumerate(self._expire(moment)):
            if not self._lonely[number] or gone is None:
                continue
            matched = self._matched[number]
            alone = gone.filter(~pl.col(ID).is_in(matched.frame["row"].implode())).lazy()
            matched.keep(~pl.col("row").is_in(gone[ID].implode()))
            if pairing.how != "semi":
                out.append(pairing.lonely_left(alone) if number == 0 else pairing.lonely_right(alone))
        if not out:
            return self.nothing()
        return Changes(pl.concat(out).collect().lazy())

    def _expire(self, moment: Moment) -> list[pl.DataFrame | None]:
        """Let rows go that nothing to come can match; the rows of each side that went."""
        gone: list[pl.DataFrame | None] = []
        for number, (side, bounds) in enumerate(zip(self._sides, self._bounds, strict=True)):
            mark, dtype = self._times[1 - number]
            watermark = moment.forgotten(mark)
            if watermark == BEGINNING or not len(side):
                gone.append(None)
                continue
            frame = side.frame
            if watermark == FOREVER:
                gone.append(frame)
                side.keep(pl.lit(False))
                continue
            now = from_ticks(pl.lit(watermark, pl.Int64), dtype).alias(WATERMARK)
            alive = pl.all_horizontal(bound.alive for bound in bounds).fill_null(False)
            kept = frame.lazy().with_columns(now).select(alive.alias("alive")).collect()["alive"]
            gone.append(frame.filter(~kept) if self._lonely[number] else None)
            side.keep(kept)
        return gone
