"""Sessions by a loop over the rows in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from arrowstream.oneshot.aggregates import grouped
from arrowstream.oneshot.once import Once, unused
from arrowstream.plan.sessions import SessionAggregate

_DAY: Final = 86_400_000_000


def sessions(node: SessionAggregate, rows: pl.LazyFrame, once: Once) -> pl.LazyFrame:
    """The groups of sessions and keys."""
    taken = (node.input.schema, node.schema)
    number, first, last = (unused(word, *taken) for word in ("session", "first", "last"))
    whole = once.rows(rows)
    dtype = node.input.schema[node.index]
    size, gap = steps(dtype, node.gap)
    times = [time * size for time in whole[node.index].to_physical().to_list()]
    places = _sessions(group_numbers(whole, node.by), times, gap)
    found = grouped(
        whole.lazy().with_columns(pl.Series(number, places, pl.Int64)),
        [*node.by, pl.col(number)],
        [*node.aggs, pl.col(node.index).min().alias(first), pl.col(node.index).max().alias(last)],
        node.too_large,
    )
    shown = {}
    if node.boundaries:
        end = (pl.col(last).to_physical().cast(pl.Int64) * size + gap).floordiv(size)
        whole_number = end.cast(pl.Int32) if isinstance(dtype, pl.Date) else end
        shown = {"_lower_boundary": pl.col(first), "_upper_boundary": whole_number.cast(dtype)}
    return found.with_columns(**shown | {node.index: pl.col(first)})


def steps(dtype: pl.DataType, gap: int) -> tuple[int, int]:
    """How many units of `gap`, which is in microseconds or plain numbers, a step of the column is; and the gap."""
    match dtype:
        case pl.Datetime(time_unit="ms"):
            return 1_000, gap
        case pl.Datetime(time_unit="ns"):
            return 1, gap * 1_000
        case pl.Date():
            return _DAY, gap
    return 1, gap


def _sessions(groups: Sequence[int], times: Sequence[int], gap: int) -> list[int]:
    """The number of each row's session."""
    found = [0] * len(times)
    session, before = -1, (-1, 0)
    for at in sorted(range(len(times)), key=lambda row: (groups[row], times[row])):
        group, time = groups[at], times[at]
        if group != before[0] or time - before[1] >= gap:
            session += 1
        found[at], before = session, (group, time)
    return found


def group_numbers(rows: pl.DataFrame, by: Sequence[pl.Expr]) -> list[int]:
    """Which of the groups of these keys each row is in: the number of the group's first row."""
    if not by:
        return [0] * rows.height
    row = unused("row", rows.columns, [each.meta.output_name() for each in by])
    numbered = rows.lazy().with_columns(by).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(row))
    keys = [each.meta.output_name() for each in by]
    return numbered.select(pl.col(row).first().over(keys)).collect().to_series().to_list()
