"""The first of each group, found without sorting, is that of the sorted order."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.operators.ordering import first_ranked, ranked


@given(
    ids=st.lists(st.integers(-3, 4), min_size=1, max_size=40),
    base=st.sampled_from([0, 10**12, -(10**12)]),
    far=st.integers(1, 10**9),
    values=st.lists(st.sampled_from([None, 1, 2, 3]), min_size=40, max_size=40),
    stray=st.none() | st.integers(0, 39),
    words=st.booleans(),
    order=st.permutations(["id", "seller"]),
)
@settings(max_examples=200)
def test_the_first_of_each_group_where_one_key_tells_the_other_or_does_not(
    ids: list[int],
    base: int,
    far: int,
    values: list[int | None],
    stray: int | None,
    words: bool,
    order: list[str],
) -> None:
    sellers = [key % 3 * far for key in ids]
    if stray is not None and stray < len(ids):
        sellers[stray] += 1
    rows = pl.DataFrame({"id": ids, "seller": sellers, "value": values[: len(ids)]}).with_columns(pl.col("id") + base)
    if words:
        rows = rows.with_columns(pl.col("seller").cast(pl.String))
    found = first_ranked(rows, order, ["value"], [True])
    wanted = ranked(rows, order, ["value"], [True]).head(1)
    assert sorted(found.places.tolist()) == sorted(wanted.places.tolist())
    assert not found.ranks.any()
