"""How two frames are put together: a join without any state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream import matching
from arrowstream.names import inner
from arrowstream.plan.joins import How, Join, pair_names

LEFT: Final = inner("left_id")
RIGHT: Final = inner("right_id")
"""In pairs, which rows of the sides they are of."""


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
    def of(cls, node: Join, left: pl.Schema, right: pl.Schema, output: pl.Schema) -> Pairing:
        """How a join does it, with those columns of its sides and of its result that somebody reads."""
        return cls(
            node.left_on,
            node.right_on,
            node.how,
            node.suffix,
            node.nulls_equal,
            node.coalesce,
            node.where,
            left,
            right,
            output,
        )

    def pairs(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """All columns of both sides of all pairs that match, the right's renamed where they clash."""
        if self.left_on:
            joined = matching.join(
                left,
                right,
                self.left_on,
                self.left,
                right_on=self.right_on,
                suffix=self.suffix,
                nulls_equal=self.nulls_equal,
                coalesce=False,
            )
        else:
            joined = matching.cross(left, right, self.suffix)
        return joined.filter(self.where) if self.where else joined

    @property
    def reads(self) -> tuple[list[str], list[str]]:
        """The columns of the left, and of the right, that pairs need: for the output and for the conditions.

        One each at least, since a frame without columns has no rows.
        """
        names = pair_names(self.left, self.right, self.suffix)
        asked = {name for each in self.where for name in each.meta.root_names()}
        if self.how == "right":
            return list(self.left), list(self.right)
        if self.how not in ("semi", "anti"):
            asked |= set(self.output)
        lefts = [name for name in self.left if name in asked]
        rights = [own for own, name in names.items() if name in asked]
        return lefts or self.left.names()[:1], rights or self.right.names()[:1]

    def renamed_right(self) -> dict[str, str]:
        """What the right's columns are called in a pair."""
        return pair_names(self.left, self.right, self.suffix)

    def shown(self, pairs: pl.LazyFrame, *more: str) -> pl.LazyFrame:
        """The pairs in the columns of the output, and `more`."""
        if self.how in ("semi", "anti"):
            return pairs.select(*self.output, *more)
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
            return rows.select(*self.output, *more)
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
