"""Numbers of keys: the same for the same key, whether it is found by place or by hash."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.state.numbers import KeyNumbers

LOW, HIGH = -(1 << 63), (1 << 63) - 1
near = st.integers(-50, 50)
far = st.sampled_from([0, 1 << 17, -(1 << 17), 1 << 20, -(1 << 40), LOW + 50, HIGH - 50])
batches = st.lists(st.lists(st.none() | st.builds(lambda base, key: base + key, far, near), max_size=20), max_size=12)


@given(batches=batches)
@settings(max_examples=200)
def test_a_key_keeps_its_number_and_shares_it_with_no_other(batches: list[list[int | None]]) -> None:
    numbers = KeyNumbers(pl.Schema({"key": pl.Int64()}))
    known: dict[int | None, int] = {}
    for keys in batches:
        given_ = numbers.of(pl.DataFrame({"key": keys}, schema={"key": pl.Int64()})).tolist()
        for key, number in zip(keys, given_, strict=True):
            assert known.setdefault(key, number) == number
    assert sorted(known.values()) == list(range(len(known)))


@pytest.mark.parametrize("base", [0, -5_000_000, HIGH - 3_000_000, LOW])
@pytest.mark.parametrize("step", [1, -1])
def test_keys_that_count_up_or_down_are_found_by_place(base: int, step: int) -> None:
    numbers = KeyNumbers(pl.Schema({"key": pl.Int64()}))
    rows = [np.arange(base + at, base + at + 50_000) for at in range(0, 1_000_000, 50_000)][::step]
    first = [numbers.of(pl.DataFrame({"key": keys})) for keys in rows]
    assert np.array_equal(np.sort(np.concatenate(first)), np.arange(1_000_000))
    assert not len(numbers._hashed)
    for keys, found in zip(rows, first, strict=True):
        assert np.array_equal(numbers.of(pl.DataFrame({"key": keys})), found)


def test_one_key_far_away_does_not_make_all_be_hashed() -> None:
    numbers = KeyNumbers(pl.Schema({"key": pl.Int64()}))
    numbers.of(pl.DataFrame({"key": [0]}))
    ids = pl.DataFrame({"key": np.arange(1 << 20, (1 << 20) + 1000)})
    found = numbers.of(ids)
    assert len(numbers._hashed) == 1000
    numbers.of(pl.DataFrame({"key": np.arange(1 << 20)}))
    assert np.array_equal(numbers.of(ids), found)
    more = np.arange((1 << 20) + 1000, (1 << 20) + 2000)
    assert numbers.of(pl.DataFrame({"key": more})).min() == (1 << 20) + 1000
    assert len(numbers._hashed) == 1000


@pytest.mark.parametrize(
    ("dtype", "keys"),
    [
        (pl.String(), ["a", None, "b", "a"]),
        (pl.Float64(), [float("nan"), -0.0, 0.0, float("nan")]),
        (pl.Date(), [date(2020, 1, 1), None, date(2020, 1, 2), date(2020, 1, 1)]),
        (pl.UInt64(), [(1 << 64) - 1, 0, None, (1 << 64) - 1]),
        (pl.UInt8(), [255, None, 0, 255]),
    ],
)
def test_keys_of_any_type_are_equal_as_in_a_group(dtype: pl.DataType, keys: list[Any]) -> None:
    numbers = KeyNumbers(pl.Schema({"key": dtype}))
    frame = pl.DataFrame({"key": keys}, schema={"key": dtype})
    found = numbers.of(frame)
    assert found[0] == found[3]
    assert len(set(found.tolist())) == frame["key"].n_unique() - (
        1 if dtype == pl.Float64() and keys[1] != keys[2] else 0
    )
    both = KeyNumbers(pl.Schema({"one": dtype, "two": pl.Int64()}))
    pairs = frame.with_columns(two=pl.lit(1, pl.Int64))
    assert both.of(pairs)[0] == both.of(pairs.reverse())[0]


def test_without_keys_all_rows_have_one_number() -> None:
    assert KeyNumbers(pl.Schema({})).of(pl.DataFrame({"a": [1, 2]})).tolist() == [0, 0]
