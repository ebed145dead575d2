"""Joins of two streams without bounds: each side keeps its rows, and what comes meets what is kept of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from arrowstream import matching
from arrowstream.engine import JOINING
from arrowstream.frames import rows_at, rows_where
from arrowstream.names import inner
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, consolidated, gathered, signed
from arrowstream.operators.moment import Moment
from arrowstream.operators.pairing import Pairing
from arrowstream.operators.program import Parts
from arrowstream.state.extents import Ints
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable

_SIGN: Final = inner("sign")
_ONE: Final = inner("one")
_TWO: Final = inner("two")


class UnboundedJoin:
    """Both sides keep all their rows; a batch costs by its rows and by the pairs that they make or unmake.

    Where rows are shown for having matches or none, each row of that side has a counter of its matches: one that
    comes to its first match, or loses its last, is given or taken back.
    """

    def __init__(self, pairing: Pairing, weighted: tuple[bool, bool]) -> None:
        how = pairing.how
        self._pairing = pairing
        self._append = not any(weighted) and how in ("inner", "semi")
        # Once a row of a semi join has come out it stays, where nothing is ever taken back: it need not be kept.
        self._once = self._append and how == "semi"
        self._shows_pairs = how not in ("semi", "anti")
        options = pairing.nulls_equal
        self._left = _Side(
            pairing.left,
            pairing.left_on,
            weighted[0],
            options,
            how in ("left", "full", "anti", "semi") and not self._once,
        )
        self._right = _Side(pairing.right, pairing.right_on, weighted[1], options, how in ("right", "full"))

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"left": self._left.rows, "right": self._right.rows}

    def nothing(self) -> Changes:
        empty = self._pairing.output.to_frame()
        return Changes.of(empty, None if self._append else empty)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        left = self._left.take(gathered(inputs[0], ROWS_FRAME))
        right = self._right.take(gathered(inputs[1], ROWS_FRAME))
        if not left.rows.height and not right.rows.height:
            return self.nothing()
        pairs = [pair for pair in self._pairs(left, right) if len(pair.signs)]
        shown = _Shown()
        if self._shows_pairs:
            for pair in pairs:
                assert pair.frame is not None
                given = pl.Series(pair.signs > 0)
                shown.put(self._pairing.shown(pair.frame.filter(given).lazy()), 1, len(pair.signs))
                if not given.all():
                    shown.put(self._pairing.shown(pair.frame.filter(~given).lazy()), -1, len(pair.signs))
        if self._once:
            self._met_once(left, right, pairs, shown)
        else:
            self._bring_forward(self._left, left, [pair.of_left() for pair in pairs], shown)
            self._bring_forward(self._right, right, [pair.of_right() for pair in pairs], shown)
        return shown.changes(self._pairing.output, self._append)

    def _pairs(self, left: _Batch, right: _Batch) -> list[_Pairs]:
        """Pairs that the batch makes, and those that it unmakes: of what it brings with what stays, and among itself.

        None is both made and unmade, since what it takes out meets neither what it brings nor the reverse.
        """
        made: list[_Pairs] = []
        places, ids = self._right.lookup(left.rows, self._left.on)
        made.append(_Pairs(places, ids, left.signs[places], True, False))
        places, ids = self._left.lookup(right.rows, self._right.on)
        made.append(_Pairs(ids, places, right.signs[places], False, True))
        if left.rows.height and right.rows.height:
            one, two = _among(left, right, self._left.on, self._right.on, self._pairing.nulls_equal)
            made.append(_Pairs(one, two, left.signs[one], True, True))
        if not self._shows_pairs and not self._pairing.where:
            return made
        return [self._held_to_conditions(pair, left, right) for pair in made]

    def _held_to_conditions(self, pair: _Pairs, left: _Batch, right: _Batch) -> _Pairs:
        """The pairs with their columns, those of them that the conditions leave."""
        lefts, rights = self._pairing.reads
        one = (
            rows_at(left.rows.select_seq(lefts), pair.left)
            if pair.new_left
            else self._left.rows.gather(pair.left, lefts)
        )
        two = (
            rows_at(right.rows.select_seq(rights), pair.right)
            if pair.new_right
            else self._right.rows.gather(pair.right, rights)
        )
        names = self._pairing.renamed_right()
        frame = pl.concat([one, two.rename({name: names[name] for name in rights})], how="horizontal")
        if not self._pairing.where or not frame.height:
            return pair.with_frame(frame)
        holds = frame.select(pl.all_horizontal(self._pairing.where).fill_null(False).alias("holds"))["holds"]
        return pair.filtered(holds.to_numpy()).with_frame(rows_where(frame, holds))

    def _bring_forward(self, side: _Side, batch: _Batch, matches: Sequence[_Matches], shown: _Shown) -> None:
        """Add the rows of the batch and count matches; show the rows whose matches tell."""
        new = batch.rows.slice(batch.out)
        if not side.counted:
            side.add(new)
            return
        found = np.zeros(batch.rows.height, np.int64)
        for each in matches:
            if each.new:
                np.add.at(found, each.rows, np.maximum(each.signs, 0))
        found = found[batch.out :]
        ids = np.concatenate([np.empty(0, np.int64), *(each.rows for each in matches if not each.new)])
        signs = np.concatenate([np.empty(0, np.int64), *(each.signs for each in matches if not each.new)])
        ids, back = np.unique(ids, return_inverse=True)
        by = np.zeros(len(ids), np.int64)
        np.add.at(by, back, signs)
        before = side.rows.counts(ids)
        side.rows.add_counts(ids, by)
        side.rows.add_counts(side.add(new), found)
        to_first = side.gather(ids[(before == 0) & (by > 0)])
        to_none = side.gather(ids[(before > 0) & (before + by == 0)])
        out, was_met, is_met = batch.rows.head(batch.out), pl.Series(batch.was > 0), pl.Series(found > 0)
        if self._pairing.how == "semi":
            self._show(side, [rows_where(new, is_met), to_first], 1, shown)
            self._show(side, [rows_where(out, was_met), to_none], -1, shown)
        else:
            self._show(side, [rows_where(new, ~is_met), to_none], 1, shown)
            self._show(side, [rows_where(out, ~was_met), to_first], -1, shown)

    def _show(self, side: _Side, frames: Sequence[pl.DataFrame], sign: int, shown: _Shown) -> None:
        for rows in frames:
            if not rows.height:
                continue
            if self._pairing.how == "semi":
                shown.put(self._pairing.shown(rows.lazy()), sign, rows.height)
            elif side is self._left:
                shown.put(self._pairing.lonely_left(rows.lazy()), sign, rows.height)
            else:
                shown.put(self._pairing.lonely_right(rows.lazy()), sign, rows.height)

    def _met_once(self, left: _Batch, right: _Batch, pairs: Sequence[_Pairs], shown: _Shown) -> None:
        met = np.zeros(left.rows.height, np.bool_)
        kept = [np.empty(0, np.int64)]
        for pair in pairs:
            if pair.new_left:
                met[pair.left] = True
            else:
                kept.append(pair.left)
        first = np.unique(np.concatenate(kept))
        is_met = pl.Series(met)
        self._show(self._left, [rows_where(left.rows, is_met), self._left.gather(first)], 1, shown)
        self._left.rows.delete(first)
        self._left.add(rows_where(left.rows, ~is_met))
        self._right.add(right.rows if self._pairing.where else self._right.of_new_keys(right.rows))


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a batch does to a side: the first `out` of the rows are taken out, the rest is to be added.

    `was` has for those taken out how many matches they had.
    """

    rows: pl.DataFrame
    out: int
    was: Ints

    @property
    def signs(self) -> Ints:
        """-1 for each row that is taken out, 1 for the others."""
        return np.repeat(np.array([-1, 1]), [self.out, self.rows.height - self.out])


@dataclass(frozen=True, slots=True)
class _Matches:
    """One side of pairs: places in the batch where they are `new`, else ids of kept rows."""

    rows: Ints
    signs: Ints
    new: bool


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs that are made (sign 1) or unmade (-1), and their columns where they are read."""

    left: Ints
    right: Ints
    signs: Ints
    new_left: bool
    new_right: bool
    frame: pl.DataFrame | None = None

    def of_left(self) -> _Matches:
        return _Matches(self.left, self.signs, self.new_left)

    def of_right(self) -> _Matches:
        return _Matches(self.right, self.signs, self.new_right)

    def with_frame(self, frame: pl.DataFrame) -> _Pairs:
        return _Pairs(self.left, self.right, self.signs, self.new_left, self.new_right, frame)

    def filtered(self, kept: Ints) -> _Pairs:
        return _Pairs(self.left[kept], self.right[kept], self.signs[kept], self.new_left, self.new_right)


class _Side:
    """The rows of one side, by key."""

    def __init__(self, schema: pl.Schema, on: Sequence[str], weighted: bool, nulls_equal: bool, counted: bool) -> None:
        self.on, self.counted = list(on), counted
        self._names, self._weighted, self._nulls_equal = schema.names(), weighted, nulls_equal
        self.rows = MultiMap(
            pl.Schema({name: schema[name] for name in on}),
            pl.Schema({name: dtype for name, dtype in schema.items() if name not in on}),
            matches=counted,
        )

    def take(self, rows: pl.DataFrame) -> _Batch:
        """Take out what is taken back; what comes is still to be added."""
        if not self._weighted:
            return _Batch(rows.select_seq(self._names), 0, np.empty(0, np.int64))
        each = signed(consolidated(rows))
        assert each.removed is not None
        ids = self.rows.remove(each.removed.collect())
        was = self.rows.counts(ids) if self.counted else np.zeros(len(ids), np.int64)
        return _Batch(pl.concat([self.gather(ids), each.added.collect().select(self._names)]), len(ids), was)

    def lookup(self, rows: pl.DataFrame, on: Sequence[str]) -> tuple[Ints, Ints]:
        """For rows of the other side with the keys `on`: pairs of a row's place there and of an id here."""
        if not rows.height:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        keys = rows.select(pl.col(theirs).alias(mine) for theirs, mine in zip(on, self.on, strict=True)) if on else rows
        return self.rows.lookup(keys, nulls_equal=self._nulls_equal)

    def add(self, rows: pl.DataFrame) -> Ints:
        """Keep these rows; their ids. Those that nothing can match are left out where nobody will ask for them."""
        if not (self._weighted or self.counted or self._nulls_equal) and self.on:
            rows = rows.drop_nulls(self.on)
        return self.rows.append(rows)

    def of_new_keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The first row of each key that is not there yet."""
        if not self.on or not rows.height:
            return rows.head(0 if len(self.rows) else 1)
        places, _ = self.rows.lookup(rows)
        known = np.zeros(rows.height, np.bool_)
        known[places] = True
        return rows_where(rows, ~known).unique(self.on, keep="first")

    def gather(self, ids: Ints) -> pl.DataFrame:
        """The rows with these ids, in the columns of the side."""
        return self.rows.gather(ids, self._names)


class _Shown:
    """What a batch gives and takes back, piece by piece."""

    def __init__(self) -> None:
        self._given: list[pl.LazyFrame] = []
        self._taken: list[pl.LazyFrame] = []
        self._rows = 0

    def put(self, rows: pl.LazyFrame, sign: int, count: int) -> None:
        """About so many rows, with this sign."""
        (self._given if sign > 0 else self._taken).append(rows)
        self._rows += count

    def changes(self, output: pl.Schema, append: bool) -> Changes:
        empty = [output.to_frame().lazy()]
        removed = None if append else pl.concat(self._taken or empty)
        return Changes(pl.concat(self._given or empty), removed, self._rows)


def _among(
    left: _Batch, right: _Batch, left_on: Sequence[str], right_on: Sequence[str], nulls_equal: bool
) -> tuple[Ints, Ints]:
    """Pairs within a batch, as places: of what is taken out on both sides, and of what is added on both."""
    one, two = (
        batch.rows.select(
            *(pl.col(name).alias(inner(f"key_{number}")) for number, name in enumerate(on)),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(place),
            pl.Series(_SIGN, batch.signs),
        ).lazy()
        for batch, on, place in ((left, left_on, _ONE), (right, right_on, _TWO))
    )
    keys = [inner(f"key_{number}") for number in range(len(left_on))]
    if left.out or right.out or not keys:
        keys.append(_SIGN)
    types = {key: left.rows.schema[name] for key, name in zip(keys, left_on, strict=False)}
    joined = matching.join(one, two, keys, types | {_SIGN: pl.Int64()}, nulls_equal=nulls_equal).select(_ONE, _TWO)
    found = joined.collect(engine=JOINING)
    return found[_ONE].to_numpy(), found[_TWO].to_numpy()
