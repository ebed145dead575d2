"""Pairs of group and value against dicts: what counts, what a copy is made from, what is undone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.errors import StateError
from arrowstream.state.pairs import PairTable

COLUMNS = ["all", "cheap"]
GROUPS = [("a", 1), ("b", 1), (None, 2), ("a", None)]
KEYS = pl.Schema({"k": pl.String(), "n": pl.Int64()})

Row = tuple[int, int | None, int, int]
ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, 1, 2, 3]), st.integers(-2, 2), st.integers(-2, 2)))
SCRIPT = st.lists(st.tuples(ROWS, st.sampled_from(["commit", "rollback", "copy", "snapshot"])), max_size=8)


def frame_of(rows: list[Row], weighted: bool) -> tuple[pl.DataFrame, np.ndarray[Any, Any], pl.DataFrame]:
    """Groups, places and pairs of a batch; each pair once."""
    totals: dict[tuple[int, int | None], list[int]] = {}
    for group, value, *more in rows:
        held = totals.setdefault((group, value), [0, 0])
        held[:] = [one + other for one, other in zip(held, more, strict=True)]
    if not weighted:  # a pair that does not count is not given
        totals = {pair: held for pair, held in totals.items() if max(held) > 0}
    touched = sorted({group for group, _ in totals})
    columns = [[held[at] for held in totals.values()] for at in (0, 1)]
    pairs = pl.DataFrame(
        {"v": [value for _, value in totals], **dict(zip(COLUMNS, columns, strict=True))},
        schema={"v": pl.Int64, **dict.fromkeys(COLUMNS, pl.Int64)},
    )
    if not weighted:
        pairs = pairs.with_columns(pl.col(COLUMNS) > 0)
    groups = pl.DataFrame([GROUPS[group] for group in touched], schema=KEYS, orient="row")
    return groups, np.array([touched.index(group) for group, _ in totals], np.int64), pairs


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted(pl.DataFrame(table).rows(), key=repr)


@given(script=SCRIPT, weighted=st.booleans())
@settings(max_examples=150, deadline=None)
def test_counts_copies_and_undone_versions(script: list[tuple[list[Row], str]], weighted: bool) -> None:
    """Whatever comes: counts change as those of dicts, a copy made of deltas is the table, what is undone is gone."""
    keys = pl.Schema({**KEYS, "v": pl.Int64()})
    table = PairTable(keys, COLUMNS, weighted)
    model: dict[tuple[Any, ...], list[int]] = {}
    deltas = [table.snapshot()]
    for rows, end in script:
        groups, at, pairs = frame_of(rows, weighted)
        after = {key: list(held) for key, held in model.items()}
        before = [Counter(key[:2] for key, held in model.items() if held[column] > 0) for column in (0, 1)]
        for place, (value, *more) in zip(at, pairs.rows(), strict=True):
            key = (*groups.row(int(place)), value)
            held = after.get(key, [0, 0])
            after[key] = [int(a) + int(b) if weighted else int(a or b) for a, b in zip(held, more, strict=True)]
            if weighted and after[key] == [0, 0]:
                del after[key]
        now = [Counter(key[:2] for key, held in after.items() if held[column] > 0) for column in (0, 1)]
        changes = table.add(groups, at, pairs)
        assert [change.tolist() for change in changes] == [
            [now[column][group] - before[column][group] for group in groups.rows()] for column in (0, 1)
        ]
        if end == "rollback":
            table.rollback()
        else:
            deltas.append(table.delta())
            table.commit()
            model = after
        if end == "snapshot":
            deltas = [table.snapshot()]
        if end == "copy":
            table = PairTable(keys, COLUMNS, weighted)
            table.restore(deltas)
        want = [(*key, *(held if weighted else map(bool, held)), False) for key, held in model.items()]
        assert rows_of(table.snapshot()) == sorted(want, key=repr)
        assert len(table) == len(model)


@pytest.mark.parametrize("weighted", [False, True])
def test_one_group_of_everything_needs_no_keys(weighted: bool) -> None:
    """Visitors of a whole site, none of them yet at first."""
    schema = pl.Schema({"v": pl.String()})
    table, deltas = PairTable(schema, ["n"], weighted), []
    dtype = pl.Int64 if weighted else pl.Boolean
    for values, more in (([], 0), (["x", "y"], 2), (["y", "z"], 1), ([], 0)):
        pairs = pl.DataFrame({"v": values, "n": [1] * len(values)}, schema={"v": pl.String, "n": pl.Int64})
        changes = table.add(pl.DataFrame(height=1), np.zeros(len(values), np.int64), pairs.cast({"n": dtype}))
        assert [change.tolist() for change in changes] == [[more]]
        deltas.append(table.delta())
        table.commit()
        copy = PairTable(schema, ["n"], weighted)
        copy.restore(deltas)
        assert rows_of(copy.snapshot()) == rows_of(table.snapshot())
    assert [(value, int(n)) for value, n, _ in rows_of(table.snapshot())] == [("x", 1), ("y", 1 + weighted), ("z", 1)]


def test_a_group_without_pairs_is_forgotten() -> None:
    """Carts that are emptied, for ever new customers: memory follows the carts that are."""
    table = PairTable(pl.Schema({"k": pl.Int64(), "v": pl.Int64()}), ["n"], weighted=True)
    for customer in range(40):
        for weight in (1, -1):
            groups = pl.DataFrame({"k": np.arange(100) + 100 * customer})
            table.add(groups, np.arange(100), pl.DataFrame({"v": [1] * 100, "n": [weight] * 100}))
            table.commit()
    assert len(table) == 0
    assert len(table._groups) == 0
    assert table._groups._top <= 200


def test_a_mask_has_64_bits() -> None:
    """More counts than that are shared out to several tables by the plan."""
    with pytest.raises(StateError, match="at most 64"):
        PairTable(pl.Schema({"v": pl.Int64()}), [f"c{at}" for at in range(65)], weighted=False)
