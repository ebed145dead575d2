"""The best rows of each group, and each row once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream.names import inner
from arrowstream.plan.nodes import Node

ORDER: Final = inner("arrival")


@dataclass(frozen=True, eq=False, kw_only=True)
class TopK(Node):
    """The first `k` rows of each group in the order of `by`; of equal ones those that came first.

    `descending` has a sign for each of `by`. `rank` names a column with 1 for the best.
    """

    input: Node
    k: int
    by: tuple[str, ...]
    descending: tuple[bool, ...]
    keys: tuple[str, ...]
    rank: str | None
    ttl: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        order = ", ".join(
            f"{name} {'down' if down else 'up'}" for name, down in zip(self.by, self.descending, strict=True)
        )
        by = f" of each {', '.join(self.keys)}" if self.keys else ""
        return f"TopK {self.k} by {order}{by}"

    def best(self) -> Best:
        """The call itself."""
        return Best(self.k, self.by, self.descending, self.keys, self.rank)


@dataclass(frozen=True, slots=True)
class Best:
    """The best rows of groups whose rows stand in order of arrival."""

    k: int
    by: tuple[str, ...]
    descending: tuple[bool, ...]
    keys: tuple[str, ...]
    rank: str | None

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        best = self.chosen(rows)
        if self.rank is None:
            return best
        place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
        return best.with_columns((place.over(self.keys) if self.keys else place).alias(self.rank))

    def chosen(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Best first."""
        ordered = rows
        if self.by:
            ordered = rows.sort(self.by, descending=list(self.descending), nulls_last=True, maintain_order=True)
        if not self.keys:
            return ordered.head(self.k)
        names = rows.collect_schema().names()
        if set(names) <= set(self.keys):  # of groups without other columns `head` gives one row
            return ordered.filter(pl.int_range(pl.len()).over(self.keys) < self.k)
        return ordered.group_by(self.keys, maintain_order=True).head(self.k).select(names)


@dataclass(frozen=True, eq=False, kw_only=True)
class Distinct(Node):
    """One row of those that are equal in `subset`: the first, or the last to come.

    With `within` (ticks), a row that is less than that away in event time from one that was let through is dropped,
    and what was let through is forgotten as the watermark passes. So it is where the event time is in `subset`.
    """

    input: Node
    subset: tuple[str, ...]
    keep: str
    within: int | None
    ttl: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return f"Unique {', '.join(self.subset)}, {self.keep} kept"

    @property
    def timed(self) -> bool:
        """Whether equal rows have the same event time, so that the watermark says when no more of them come."""
        return self.within is None and self.input.time is not None and self.input.time.column in self.subset
