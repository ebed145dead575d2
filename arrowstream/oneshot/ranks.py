"""The best rows, each row once, and numbers of rows: by plain Polars, over rows in order of arrival."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import polars as pl

from arrowstream.oneshot.once import Once, unused
from arrowstream.oneshot.sessions import group_numbers, steps
from arrowstream.plan.ranks import Distinct


def best(
    rows: pl.LazyFrame,
    k: int,
    by: Sequence[str],
    descending: Sequence[bool],
    keys: Sequence[str],
    rank: str | None,
    schema: pl.Schema,
) -> pl.LazyFrame:
    """The first `k` rows of each group in the order of `by`."""
    place = rank or unused("place", schema)
    ordered = rows.sort(by, descending=list(descending), nulls_last=True, maintain_order=True) if by else rows
    numbered = ordered.with_columns(numbers(keys).alias(place) + 1).filter(pl.col(place) <= k)
    return numbered if rank else numbered.drop(place)


def numbers(keys: Sequence[str]) -> pl.Expr:
    """The number of each row among those of its key, from 0."""
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    return place.over(list(keys)) if keys else place


def distinct(node: Distinct, rows: pl.LazyFrame, once: Once) -> pl.LazyFrame:
    """One row of those that are equal."""
    if node.within is None:
        return rows.unique(list(node.subset), keep="last" if node.keep == "last" else "first", maintain_order=True)
    assert node.input.time is not None
    whole = once.rows(rows)
    time = node.input.schema[node.input.time.column]
    size, within = steps(time, node.within)
    times = [each * size for each in whole[node.input.time.column].to_physical().to_list()]
    groups = group_numbers(whole, [pl.col(name) for name in node.subset])
    return whole.lazy().filter(pl.Series(_far_from_all(groups, times, within), dtype=pl.Boolean))


def _far_from_all(groups: Sequence[int], times: Sequence[int], within: int) -> list[bool]:
    """Whether a row is so far in time from all rows of its group before it that were let through, that it is too."""
    passed: dict[int, list[int]] = defaultdict(list)
    found = []
    for group, time in zip(groups, times, strict=True):
        kept = passed[group]
        at = bisect_left(kept, time)
        near = any(abs(time - each) < within for each in kept[max(at - 1, 0) : at + 1])
        found.append(not near)
        if not near:
            insort(kept, time)
    return found
