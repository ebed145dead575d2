"""The order of rows within their groups, found by sorting numbers in place of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from arrowstream.engine import engine
from arrowstream.names import inner

Ints: TypeAlias = npt.NDArray[np.int64]

_WORD: Final = 63
_SIGN: Final = np.int64(np.iinfo(np.int64).min)
_PLACE: Final = inner("ordering_place")
# Up to so many times the rows there may be numbers of groups, for a table of them all to be worth it.
_SPARSE: Final = 8


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows in a new order: each group together, its best first. `places` are the rows, `ranks` count up from 0 in each
    group."""

    places: Ints
    ranks: Ints

    def head(self, k: int) -> Ranking:
        """The first `k` of each group."""
        kept = self.ranks < k
        return self if kept.all() else Ranking(self.places[kept], self.ranks[kept])


def ranked(rows: pl.DataFrame, groups: Sequence[str], by: Sequence[str], descending: Sequence[bool]) -> Ranking:
    """The ranking of rows that stand in order of arrival: of equal ones those that came first are better, nulls come
    last, as `sort(by, descending=, nulls_last=True, maintain_order=True)` within each group has it.

    Where groups and values fit into 63 bits together with a row's place, one sort of such words does it: 6 ms for
    100,000 rows, where Polars' sort by two columns takes 45.
    """
    return _sorted(*_words(rows, groups, by, descending))


def first_ranked(rows: pl.DataFrame, groups: Sequence[str], by: Sequence[str], descending: Sequence[bool]) -> Ranking:
    """The first of each group of the ranking. Where the groups' numbers lie close together nothing is sorted."""
    group, keys = _words(rows, groups, by, descending)
    height = len(group)
    if not height:
        return _sorted(group, keys)
    low, high = int(group.min()), int(group.max())
    if high - low > _SPARSE * height:
        telling = _telling(rows, groups)
        if telling is None:
            return _sorted(group, keys).head(1)
        group, low, high = telling, int(telling.min()), int(telling.max())
    group = group - low
    left = np.arange(height)
    for codes in keys:
        least = np.full(high - low + 1, np.iinfo(np.int64).max)
        mine, at = codes[left], group[left]
        np.minimum.at(least, at, mine)
        left = left[mine == least[at]]
    first = np.full(high - low + 1, height)
    np.minimum.at(first, group[left], left)
    places = first[first < height]
    return Ranking(places, np.zeros(len(places), np.int64))


def _words(
    rows: pl.DataFrame, groups: Sequence[str], by: Sequence[str], descending: Sequence[bool]
) -> tuple[Ints, list[Ints]]:
    """The number of each row's group, and numbers that rise as rows get worse, the first the most important."""
    if not rows.height:
        return np.empty(0, np.int64), []
    keys = [code for name, down in zip(by, descending, strict=True) for code in _codes(rows[name], down)]
    while keys and _rises(keys[-1]):  # so it is in order of arrival
        keys.pop()
    if not groups:
        return np.zeros(rows.height, np.int64), keys
    whole = _packed([_whole(rows[name]) for name in groups], _WORD - _bits(rows.height - 1))
    return (group_numbers(rows, groups) if whole is None else whole), keys


def _sorted(group: Ints, keys: Sequence[Ints]) -> Ranking:
    height = len(group)
    if not height:
        return Ranking(group, group)
    low = _bits(height - 1)
    words = _packed([group, *keys], _WORD - low)
    order = None
    if words is None:
        order = np.lexsort(_joined(keys)[::-1])
        standing = np.empty(height, np.int64)
        standing[order] = np.arange(height)
        words = _packed([group, standing], _WORD)
        assert words is not None, "a group number and a place take 60 bits at most"
    else:
        words = (words << low) | np.arange(height)
    words.sort()
    places = words & ((1 << low) - 1)
    if order is not None:
        places = order[places]
    starts = np.flatnonzero(np.diff(group[places], prepend=group[places[0]] - 1))
    return Ranking(places, np.arange(height) - np.repeat(starts, np.diff(starts, append=height)))


def _bits(highest: int) -> int:
    """How many bits hold the numbers from 0 to this."""
    return max(int(highest).bit_length(), 1)


def _rises(numbers: Ints) -> bool:
    return bool((numbers[1:] >= numbers[:-1]).all())


def _packed(columns: Sequence[Ints | None], bits: int) -> Ints | None:
    """Columns of whole numbers as one that has their order; None where they do not fit into so many bits."""
    total: Ints | None = None
    for numbers in columns:
        if numbers is None:
            return None
        low, high = int(numbers.min()), int(numbers.max())
        width = _bits(high - low)
        bits -= width
        if bits < 0:
            return None
        shifted = numbers.astype(np.int64) - low
        total = shifted if total is None else (total << width) | shifted
    return total


def _joined(columns: Sequence[Ints]) -> list[Ints]:
    """The same order in fewer columns: neighbours that fit into one word become one."""
    joined = [columns[0]]
    for numbers in columns[1:]:
        both = _packed([joined[-1], numbers], _WORD)
        if both is None:
            joined.append(numbers)
        else:
            joined[-1] = both
    return joined


def _whole(keys: pl.Series) -> Ints | None:
    """A key column as whole numbers, where it is such and has no nulls."""
    if keys.null_count() or not (keys.dtype.is_integer() or keys.dtype.is_temporal()):
        return None
    return None if keys.dtype in (pl.UInt64, pl.Int128, pl.UInt128) else keys.to_physical().to_numpy().astype(np.int64)


def _telling(rows: pl.DataFrame, groups: Sequence[str]) -> Ints | None:
    """The key, of several, that tells all others, as an auction tells its seller, if its numbers lie close together."""
    columns = [_whole(rows[name]) for name in groups]
    for place, numbers in enumerate(columns):
        if numbers is None or int(numbers.max()) - int(numbers.min()) > _SPARSE * len(numbers):
            continue
        at = numbers - numbers.min()
        told = np.empty(int(at.max()) + 1, np.int64)
        for other in columns[:place] + columns[place + 1 :]:
            if other is None:
                break
            told[at] = other
            if (told[at] != other).any():
                break
        else:
            return numbers
    return None


def group_numbers(rows: pl.DataFrame, groups: Sequence[str]) -> Ints:
    """The number of each row's group, in any order; equal keys as in a Polars group."""
    grouped = rows.lazy().select(groups).with_row_index(_PLACE).group_by(groups).agg(_PLACE)
    found = grouped.select(_PLACE).collect(engine=engine(rows.height))
    numbers = np.empty(rows.height, np.int64)
    places = found[_PLACE].explode(empty_as_null=False, keep_nulls=False).to_numpy()
    numbers[places] = np.repeat(np.arange(found.height), found[_PLACE].list.len().to_numpy())
    return numbers


def _codes(values: pl.Series, down: bool) -> list[Ints]:
    """Numbers that rise as rows get worse; a column with nulls first has whether a value is there."""
    numbers = _numbers(values)
    if down:
        numbers = ~numbers
    if not values.null_count():
        return [numbers]
    null = values.is_null().to_numpy()
    numbers[null] = 0
    return [null.astype(np.int64), numbers]


def _numbers(values: pl.Series) -> Ints:
    """Whole numbers in the order of the values; anything where there is a null. A copy."""
    dtype = values.dtype
    if dtype == pl.UInt64:
        return _filled(values).view(np.int64) ^ _SIGN
    if dtype.is_float():
        # The bits of floats, the negative turned, are in order; 0.0 is -0.0, and NaN is the greatest.
        floats = _filled(values).astype(np.float64) + 0.0
        floats[np.isnan(floats)] = np.nan
        bits = floats.view(np.int64)
        return bits ^ ((bits >> 63) & ~_SIGN)
    if (dtype.is_integer() and dtype not in (pl.Int128, pl.UInt128)) or dtype == pl.Boolean or dtype.is_temporal():
        return _filled(values).astype(np.int64)
    order = values.arg_sort(nulls_last=True)
    ordered = values.gather(order)
    steps = (ordered.ne_missing(ordered.shift())).to_numpy()
    numbers = np.empty(values.len(), np.int64)
    numbers[order.to_numpy()] = np.cumsum(steps)
    return numbers


def _filled(values: pl.Series) -> npt.NDArray[Any]:
    physical = values.to_physical()
    if physical.null_count():
        physical = physical.fill_null(False) if physical.dtype == pl.Boolean else physical.fill_null(0)
    return physical.to_numpy(writable=True)
