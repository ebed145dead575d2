"""The key hash: golden values, and equal keys hash equal however they are written and laid out."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.errors import StateError
from arrowstream.state.keyhash import hash_rows, key_groups


def one(values: list[Any], dtype: pl.DataType | type[pl.DataType] | None = None) -> list[int]:
    hashes: list[int] = hash_rows(pl.DataFrame({"k": pl.Series(values, dtype=dtype, strict=False)})).tolist()
    return hashes


GOLDEN: list[tuple[list[Any], pl.DataType | type[pl.DataType]]] = [
    ([0, 1, -1, None], pl.Int64),
    ([2**64 - 1], pl.UInt64),
    ([2**100, -(2**127)], pl.Int128),
    ([0.0, 1.5, float("nan"), float("inf")], pl.Float64),
    (["", "a", "abcdefgh", "abcdefghi", "ß" * 30, None], pl.String),
    ([b"", b"a", b"\x00"], pl.Binary),
    ([True, False], pl.Boolean),
    ([dt.date(2024, 2, 29)], pl.Date),
    ([dt.datetime(2024, 2, 29, 1, 2, 3)], pl.Datetime("us")),
    ([Decimal("1.25")], pl.Decimal(10, 2)),
    ([[1, 2], [2, 1], [], [None]], pl.List(pl.Int64)),
    ([{"a": 1, "b": "x"}], pl.Struct({"a": pl.Int64, "b": pl.String})),
]
EXPECTED = [
    [14018390650859482040, 5830368955410675974, 9062792106810597834, 5605643989665415947],
    [9062792106810597834],
    [9817620115869136233, 6319774241511206265],
    [14018390650859482040, 17037490209060540542, 5231575127078903363, 10404555484675728455],
    [
        5410725823605273801,
        4418198248636386227,
        12352425061288106376,
        5841741611405812906,
        4538608879477767823,
        5605643989665415947,
    ],
    [5410725823605273801, 4418198248636386227, 4013276945079196332],
    [5830368955410675974, 14018390650859482040],
    [7754072551376781918],
    [11577394416397500242],
    [14914691451639560370],
    [14608753262555190234, 5688505756165229708, 14018390650859482040, 6219056038234262230],
    [13054172903990561022],
]
BOTH = [5040580287226058442, 11269398246003068324]
BOTH_GROUPS = [84, 26]


def test_golden_values() -> None:
    """Key groups live in checkpoints: these numbers may never change."""
    assert [one(values, dtype) for values, dtype in GOLDEN] == EXPECTED
    both = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    assert hash_rows(both).tolist() == BOTH
    assert key_groups(both).tolist() == BOTH_GROUPS
    assert hash_rows(pl.DataFrame()).tolist() == [0x243F6A8885A308D3]


@given(st.lists(st.none() | st.integers(-128, 127), max_size=20))
def test_the_width_of_an_integer_does_not_count(values: list[int | None]) -> None:
    """One side of a join has Int32 ids, the other Int64."""
    expected = one(values, pl.Int8)
    for dtype in (pl.Int16, pl.Int32, pl.Int64, pl.Int128):
        assert one(values, dtype) == expected
    positive = [None if value is None else abs(value) for value in values]
    for unsigned in (pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128):
        assert one(positive, unsigned) == one(positive, pl.Int64)


def test_wide_integers_hash_as_their_narrow_twins() -> None:
    """A sum widened to 128 bits is still the same key."""
    assert one([-(2**63), 2**63 - 1], pl.Int128) == one([-(2**63), 2**63 - 1], pl.Int64)
    assert one([2**64 - 1], pl.Int128) == one([2**64 - 1], pl.UInt64) == one([2**64 - 1], pl.UInt128)
    assert len(set(one([0, 2**64, -(2**64), 2**127 - 1], pl.Int128))) == 4


def test_floats_as_keys() -> None:
    """-0.0 is 0.0 and every NaN is NaN, in both widths, also inside lists."""
    strange = np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64)
    assert len(set(hash_rows(pl.DataFrame({"k": strange})).tolist())) == 1
    assert one([-0.0, float("nan"), 0.5], pl.Float32) == one([0.0, float("nan"), 0.5], pl.Float64)
    assert one([[-0.0]], pl.List(pl.Float64)) == one([[0.0]], pl.List(pl.Float64))


def test_strings_by_any_other_type() -> None:
    """A categorical in one batch is a string in the next."""
    words = ["b", None, "a", "b"]
    assert one(words, pl.Categorical) == one(words, pl.Enum(["a", "b"])) == one(words, pl.String)


@given(st.lists(st.none() | st.text(max_size=40), min_size=1, max_size=30), st.data())
def test_the_layout_does_not_count(words: list[str | None], data: st.DataObject) -> None:
    """Slices, chunks and order of rows are accidents of the batch."""
    series = pl.Series("k", words, dtype=pl.String)
    hashes = one(words, pl.String)
    start = data.draw(st.integers(0, len(words)))
    stop = data.draw(st.integers(start, len(words)))
    assert hash_rows(series[start:stop].to_frame()).tolist() == hashes[start:stop]
    chunked = pl.concat([series[:start], series[start:]], rechunk=False)
    assert hash_rows(chunked.to_frame()).tolist() == hashes
    lists = pl.Series("k", [words, [], None, words[::-1]], dtype=pl.List(pl.String))
    assert hash_rows(lists[3:].to_frame()).tolist() == hash_rows(lists.to_frame()).tolist()[3:]


@given(st.lists(st.binary(max_size=30), unique=True, max_size=60))
@settings(max_examples=50)
def test_different_bytes_hash_apart(values: list[bytes]) -> None:
    """Zeros at the end, swapped words, empty values: none may be lost."""
    swapped = [value[8:16] + value[:8] + value[16:] for value in values]
    distinct = list(set(values) | set(swapped) | {value + b"\x00" for value in values})
    assert len(set(one(distinct, pl.Binary))) == len(distinct)


def test_nulls_are_told_apart_by_where_they_are() -> None:
    """(null, 1) and (1, null), a null struct and a struct of nulls, a null list and a list of null."""
    assert len(set(hash_rows(pl.DataFrame({"a": [None, 1], "b": [1, None]})).tolist())) == 2
    struct = pl.Struct({"a": pl.Int64})
    assert len(set(one([None, {"a": None}], struct))) == 2
    assert len(set(one([None, [], [None], [None, None]], pl.List(pl.Null)))) == 4


def test_groups_are_even() -> None:
    """A worker owns ranges of groups, so each should get its share, also of consecutive ids."""
    counts = np.bincount(key_groups(pl.DataFrame({"k": range(128_000)})), minlength=128)
    assert counts.min() > 800
    assert counts.max() < 1200
    assert set(key_groups(pl.DataFrame({"k": ["a", "b", "c"] * 9}), 7).tolist()) <= set(range(7))


def test_python_objects_cannot_be_keys() -> None:
    """Their equality is unknown."""
    with pytest.raises(StateError, match="'k' holds Python objects"):
        hash_rows(pl.DataFrame({"k": pl.Series([object()], dtype=pl.Object)}))
