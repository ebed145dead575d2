"""Rows by key that only come, against a plain list of rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.errors import StateError
from arrowstream.state import pile as module
from arrowstream.state.numbers import KeyNumbers
from arrowstream.state.pile import Pile

KEYS = pl.Schema({"key": pl.String()})
SCHEMA = pl.Schema({**KEYS, "value": pl.Int64()})
rows = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 99)), max_size=30)
steps = st.lists(st.tuples(rows, st.sampled_from(["commit", "rollback", "go on", "restore"])), max_size=15)


def frame(rows: list[tuple[str | None, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, SCHEMA, orient="row")


def found(pile: Pile, keys: list[str | None]) -> list[tuple[str | None, int]]:
    asked = pile.numbers(pl.DataFrame({"key": keys}, KEYS))
    places, ids = pile.find(asked)
    got = pile.gather(ids, ["key", "value"])
    assert [keys[place] for place in places] == got["key"].to_list()
    return sorted(got.rows(), key=str)


@given(steps=steps, large=st.sampled_from([1, 8, 40, 1 << 14]))
@settings(max_examples=150)
def test_it_is_a_list_of_rows_that_can_be_rolled_back_and_restored(
    steps: list[tuple[list[tuple[str | None, int]], str]], large: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LARGE", large)
        pile = Pile(SCHEMA, ["key"], KeyNumbers(KEYS))
        wanted: list[tuple[str | None, int]] = []
        committed = wanted
        log: list[pa.Table] = []
        for some, then in steps:
            batch = frame(some)
            pile.append(batch, pile.numbers(batch))
            wanted = wanted + some
            if then == "commit":
                log.append(pile.delta())
                assert log[-1].num_rows == len(wanted) - len(committed)
                pile.commit()
                committed = wanted
            elif then == "rollback":
                pile.rollback()
                wanted = committed
            elif then == "restore":
                pile = Pile(SCHEMA, ["key"], KeyNumbers(KEYS))
                pile.restore(log)
                wanted = committed
            assert pile.scan().rows() == wanted
            assert len(pile) == len(wanted)
            keys: list[str | None] = ["b", None, "z", "b"]
            assert found(pile, keys) == sorted((row for key in keys for row in wanted if row[0] == key), key=str)
        other = Pile(SCHEMA, ["key"], KeyNumbers(KEYS))
        other.restore([pile.snapshot()])
        assert other.scan().rows() == wanted


def test_small_batches_do_not_make_many_pieces() -> None:
    pile = Pile(SCHEMA, ["key"], KeyNumbers(KEYS))
    heights = np.random.default_rng(1).integers(1, 300, 2000)
    for height in heights:
        batch = pl.DataFrame({"key": [f"key {height}"] * height, "value": np.arange(height)})
        pile.append(batch, pile.numbers(batch))
        pile.commit()
    assert len(pile) == heights.sum()
    assert len(pile._pieces) < 60
    assert pile.scan()["value"].sum() == (heights * (heights - 1) // 2).sum()


def test_few_rows_keep_only_the_last_few_batches_alive() -> None:
    pile = Pile(SCHEMA, ["key"], KeyNumbers(KEYS))
    for number in range(100):
        batch = pl.DataFrame({"key": [f"a long text, number {number}-{row}" for row in range(2000)]})
        some = batch.with_columns(value=pl.lit(1, pl.Int64)).filter(pl.int_range(pl.len()) % 500 == 0)
        pile.append(some, pile.numbers(some))
    held = pile.scan().to_arrow(compat_level=pl.CompatLevel.newest()).get_total_buffer_size()
    assert held < 8 * 2000 * 40 < 100 * 2000 * 20 / 4


def test_a_delta_that_is_missing_is_an_error() -> None:
    pile, log = Pile(SCHEMA, ["key"], KeyNumbers(KEYS)), []
    for number in range(3):
        batch = frame([("a", number)])
        pile.append(batch, pile.numbers(batch))
        log.append(pile.delta())
        pile.commit()
    with pytest.raises(StateError, match="1 rows are in none of the deltas"):
        pile.restore([log[0], log[2]])
