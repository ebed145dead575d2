"""Our own hash of key rows: the same in every process, version and width of integer.

Key groups live in checkpoints, and Polars promises its hash neither across versions nor across types, so this
one is fixed: golden values in the tests hold it. Equal keys hash equal: -0.0 as 0.0, every NaN alike, nulls
alike, an integer whatever its width. What differs in type otherwise (1 and 1.0, "a" and b"a" apart) is the
caller's to cast first. Not a defence against keys chosen to collide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from polars import CompatLevel

from arrowstream.errors import StateError
from arrowstream.state.physical import canonical, encode

Hashes: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[np.int64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_ODD: Final = np.uint64(0xD6E8FEB86659FD93)
_SEED: Final = np.uint64(0x243F6A8885A308D3)
_NULL: Final = np.uint64(0x13198A2E03707344)
_EIGHT: Final = 8
_SINGLY: Final = 4
# The bytes of a word that belong to a string with 0..8 bytes left.
_KEEP: Final = np.array([(1 << 8 * left) - 1 for left in range(9)], np.uint64)


def key_groups(keys: pl.DataFrame, groups: int = 128) -> npt.NDArray[np.int32]:
    """The key group of every row, 0 up to `groups`; taken from the lower half of the hash.

    The index of a table uses the upper half, so that the keys of one group still spread over all of it.
    """
    low = hash_rows(keys) & np.uint64(0xFFFFFFFF)
    return ((low * np.uint64(groups)) >> np.uint64(32)).astype(np.int32)


def hash_rows(keys: pl.DataFrame) -> Hashes:
    """A 64-bit hash of every row over all columns, in their order; names do not count.

    A frame without columns is the key of a global aggregate: one row's hash, whatever the frame's height.
    """
    if not keys.width:
        return np.full(1, _SEED)
    return _hash_columns(keys.get_columns())


def first_alike(hashes: Hashes, alike: Callable[[Rows, Rows], npt.NDArray[np.bool_]]) -> Rows:
    """For each row one that stands for all rows like it, itself among them.

    `alike(rows, others)` says of rows with one hash whether they are the same; it is asked of each row that is
    like another once. A small hash table without chains: of the rows that meet in a cell one wins, those like it
    are done, the others go on.
    """
    stands, left = np.empty(len(hashes), np.int64), np.arange(len(hashes))
    bits = max(len(hashes), 1).bit_length() + 1
    cells, homes = np.empty(1 << bits, np.int64), (hashes >> np.uint64(64 - bits)).view(np.int64)
    while len(left):
        cells[homes[left]] = left
        winners = cells[homes[left]]
        same = hashes[winners] == hashes[left]
        others = np.flatnonzero(same & (winners != left))
        if len(others):
            same[others] = alike(left[others], winners[others])
        stands[left[same]] = winners[same]
        left = left[~same]
    return stands


def _hash_columns(columns: list[pl.Series]) -> Hashes:
    total = np.full(len(columns[0]), _SEED)
    for column in columns:
        total *= _ODD
        total += _hash_column(column)
        _mix(total)
    return total


def _hash_column(column: pl.Series) -> Hashes:
    """The hash of one column's values: nulls are one value of their own."""
    if not len(column):
        return np.empty(0, np.uint64)
    hashes = _hash_values(column, column.dtype)
    if column.null_count():
        hashes[column.is_null().to_numpy()] = _NULL
    return hashes


def _hash_values(column: pl.Series, dtype: pl.DataType) -> Hashes:
    if isinstance(dtype, (pl.String, pl.Binary)):
        return _hash_bytes(column)
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return _hash_bytes(column.cast(pl.String))
    if isinstance(dtype, pl.Struct):
        fields = column.struct.unnest().get_columns() if dtype.fields else []
        return _hash_columns(fields) if fields else np.full(len(column), _SEED)
    if isinstance(dtype, pl.Array):
        return _hash_lists(column.arr.to_list())
    if isinstance(dtype, pl.List):
        return _hash_lists(column)
    if isinstance(dtype, pl.Null):
        return np.full(len(column), _NULL)
    if isinstance(dtype, pl.Object):
        raise StateError(f"column {column.name!r} holds Python objects, which cannot be keys: cast it to a type")
    return _hash_numbers(canonical(encode(column)).data)


def _hash_numbers(data: npt.NDArray[Any]) -> Hashes:
    if data.ndim == 2:
        return _hash_wide(data)
    if data.dtype.kind == "f":
        return _mix(data.astype(np.float64).view(np.uint64))
    # By way of 64 bits with a sign, so that -1 is the same in every width.
    return _mix(data.astype(np.int64).view(np.uint64))


def _hash_wide(words: npt.NDArray[np.uint64]) -> Hashes:
    """128-bit integers; one that fits in 64 bits, signed or not, hashes as its 64-bit twin."""
    low, high = words[:, 0], words[:, 1].copy()
    high[(high == ~np.uint64(0)) & (low >= np.uint64(1 << 63))] = 0
    return _mix(low + _ODD * high)


def _hash_lists(column: pl.Series) -> Hashes:
    lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
    items = _hash_column(column.explode(empty_as_null=False, keep_nulls=False))
    _, position = _unfold(lengths)
    total = np.zeros(len(column), np.uint64)
    _add_runs(total, lengths, _mix(items + _GOLDEN * position.view(np.uint64)))
    return _mix(total ^ lengths.view(np.uint64))


def _hash_bytes(column: pl.Series) -> Hashes:
    """Strings and binaries, as lists of 8-byte words: a sum of words mixed with their position."""
    array = column.to_arrow(compat_level=CompatLevel.oldest())
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    # A word may be read up to 8 bytes past the last string.
    padded = np.zeros(last - first + _EIGHT, np.uint8)
    if last > first:
        padded[:-_EIGHT] = np.frombuffer(data_buffer, np.uint8, last - first, first)
    words = np.ndarray((last - first + 1,), "<u8", padded, strides=(1,))
    starts, lengths = offsets[:-1] - first, np.diff(offsets)

    def terms(rows: Any, position: npt.NDArray[np.int64]) -> Hashes:
        left = lengths[rows] - position * _EIGHT
        word = words[starts[rows] + position * _EIGHT] & _KEEP[np.minimum(left, _EIGHT)]
        return _mix(word + _GOLDEN * position.view(np.uint64))

    total = terms(slice(None), np.array([0]))
    # The next few words one by one, since most strings are short; then all the rest at once.
    for position in range(1, _SINGLY):
        rows = np.flatnonzero(lengths > position * _EIGHT)
        if not len(rows):
            break
        total[rows] += terms(rows, np.array([position]))
    else:
        more = np.maximum((lengths - 1) // _EIGHT - (_SINGLY - 1), 0)
        rows, beyond = _unfold(more)
        _add_runs(total, more, terms(rows, beyond + _SINGLY))
    return _mix(total ^ lengths.view(np.uint64))


def _unfold(lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For runs of these lengths laid end to end: the row and the position in its run, of every item."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    return rows, np.arange(len(rows)) - starts[rows]


def _add_runs(total: Hashes, lengths: npt.NDArray[np.int64], items: Hashes) -> None:
    """Add to each row's total the sum of its run of items; adding wraps, so order lies in the items alone."""
    if len(items):
        filled = np.flatnonzero(lengths)
        starts = (np.cumsum(lengths) - lengths)[filled]
        total[filled] += np.add.reduceat(items, starts)


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), in place."""
    x += _GOLDEN
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
