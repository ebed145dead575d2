"""Joins of frames by key: the one place where the engine and its sinks have Polars join.

Equal keys are equal in every join: -0.0 = 0.0, NaN = NaN, and null = null where `nulls_equal` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from arrowstream.names import inner

_SECOND: Final = inner("second_key")
_ONE: Final = pl.lit(1, pl.Int8).alias(_SECOND)


def join(
    left: pl.LazyFrame,
    right: pl.LazyFrame,
    on: Sequence[str],
    types: Mapping[str, pl.DataType],
    *,
    right_on: Sequence[str] | None = None,
    **options: Any,
) -> pl.LazyFrame:
    """`left.join(right, ...)` with the keys `on`, called `right_on` on the right if that is given; `types` has the
    types of the left's keys, and may have others. `options` are those of `LazyFrame.join`.

    Polars 2.1 finds that one row does not match one row where their only key is NaN, if its engine in memory joins them
    (inner, left and right; semi, anti, full and several keys are right). So a second key, the same for all
    rows, stands beside a float that is alone: 0.1 ms for small frames, and 2.5 times the time for a million rows.
    """
    if len(on) != 1 or not types[on[0]].is_float():
        return left.join(right, left_on=on, right_on=on if right_on is None else right_on, **options)
    joined = left.with_columns(_ONE).join(
        right.with_columns(_ONE),
        left_on=[*on, _SECOND],
        right_on=[*(on if right_on is None else right_on), _SECOND],
        **options,
    )
    return joined.drop(_SECOND, _SECOND + str(options.get("suffix", "_right")), strict=False)


def join_numbers(left: pl.LazyFrame, right: pl.LazyFrame, on: str | Sequence[str], **options: Any) -> pl.LazyFrame:
    """`left.join(right, ...)` by whole numbers or times that the engine has made: places, bins, windows."""
    return left.join(right, on=on, **options)


def cross(left: pl.LazyFrame, right: pl.LazyFrame, suffix: str = "_right") -> pl.LazyFrame:
    """All pairs of rows."""
    return left.join(right, how="cross", suffix=suffix)


def asof(left: pl.LazyFrame, right: pl.LazyFrame, **options: Any) -> pl.LazyFrame:
    """`left.join_asof(right, ...)`: both sides sorted by time. NaN is NaN among its `by`, and null matches nothing."""
    return left.join_asof(right, **options)
