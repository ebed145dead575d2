"""Running aggregates: groups that come, change and vanish, and aggregates of aggregates."""

from __future__ import annotations

import polars as pl
import pytest
from apart import source

from arrowstream import StreamFrame
from arrowstream.check import run_pieces


def batches(frame: StreamFrame, *pieces: list[tuple[str | None, int]]) -> list[tuple[object, ...]]:
    """The live rows after these batches, sorted."""
    schema = {"k": pl.String, "v": pl.Int64}
    inputs = [{"rows": pl.DataFrame(piece, schema=schema, orient="row")} for piece in pieces]
    return sorted(run_pieces(frame._node, inputs).rows(), key=repr)


def test_counts_of_counts_move_their_groups() -> None:
    """How many words were seen once, twice, ...: a word that is seen again leaves one group for the next."""
    histogram = source().group_by("k").agg(n=pl.len()).group_by("n").agg(words=pl.len())
    assert batches(histogram, [("a", 0), ("b", 0)]) == [(1, 2)]
    assert batches(histogram, [("a", 0), ("b", 0)], [("a", 0)]) == [(1, 1), (2, 1)]
    assert batches(histogram, [("a", 0), ("b", 0)], [("a", 0), ("b", 0)]) == [(2, 2)]  # nobody is left in group 1


def test_three_aggregates_one_on_the_other() -> None:
    """The most common frequency's spread: each level takes back what the one below takes back."""
    first = source().group_by("k").agg(total=pl.col("v").sum())
    second = first.group_by("total").agg(keys=pl.len())
    third = second.agg(groups=pl.len(), keys=pl.col("keys").sum())
    assert batches(third, [("a", 1), ("b", 1), ("c", 2)]) == [(2, 3)]
    assert batches(third, [("a", 1), ("b", 1), ("c", 2)], [("a", 1)]) == [(2, 3)]
    assert batches(third, [("a", 1), ("b", 1), ("c", 2)], [("a", 1)], [("b", 1)]) == [(1, 3)]


def test_a_group_that_is_filtered_out_later_vanishes() -> None:
    """Alarms for accounts in the red: one that is paid is taken from the list."""
    alarms = source().group_by("k").agg(balance=pl.col("v").sum()).filter(pl.col("balance") < 0)
    assert batches(alarms, [("a", -5), ("b", -1)], [("a", 7)]) == [("b", -1)]
    assert batches(alarms, [("a", -5), ("b", -1)], [("a", 7)], [("a", -9)]) == [("a", -7), ("b", -1)]


@pytest.mark.parametrize("pieces", [[[]], [[], []], [[], [], [("a", 1)]], [[("a", 1)], []]])
def test_a_global_aggregate_has_its_row_also_of_nothing(pieces: list[list[tuple[str | None, int]]]) -> None:
    """A total on a dashboard before the first sale: 0, not an empty page; and never two rows."""
    total = source().agg(n=pl.len(), sum=pl.col("v").sum(), most=pl.col("v").max())
    sold = any(pieces)
    row = (1, 1, 1) if sold else (0, 0, None)
    assert batches(total, *pieces) == [row]
    long = total.unpivot(["n", "sum"])
    assert batches(long, *pieces) == [("n", row[0]), ("sum", row[1])]


def test_the_one_row_may_be_filtered_out_and_come_back() -> None:
    """A light that is on while there is more out than in."""
    light = source().agg(sum=pl.col("v").sum()).filter(pl.col("sum") > 0)
    assert batches(light, [("a", 1)]) == [(1,)]
    assert batches(light, [("a", 1)], [("a", -1)]) == []
    assert batches(light, [("a", 1)], [("a", -1)], [("a", 3)]) == [(3,)]


def test_distinct_values_are_counted_also_where_they_are_taken_back() -> None:
    """How many different balances there are."""
    different = source().group_by("k").agg(v=pl.col("v").sum()).agg(n=pl.col("v").n_unique())
    assert batches(different, [("a", 1), ("b", 2), ("c", 2)]) == [(2,)]
    assert batches(different, [("a", 1), ("b", 2), ("c", 2)], [("a", 1)]) == [(1,)]
    assert batches(different, [("a", 1), ("b", 2), ("c", 2)], [("a", 1)], [("b", 1)]) == [(2,)]


@pytest.mark.parametrize("pieces", [[[]], [[], [("a", 1)], []]])
def test_distinct_values_of_nothing_are_none(pieces: list[list[tuple[str | None, int]]]) -> None:
    """Visitors before the first one came, and in a quiet minute."""
    total = source().agg(n=pl.col("v").n_unique(), other=pl.col("v").filter(pl.col("k") == "b").n_unique())
    assert batches(total, *pieces) == [(int(any(pieces)), 0)]


def test_null_is_a_key_like_any_other() -> None:
    """Orders without a shop are a group too, as in Polars."""
    counts = source().group_by("k").agg(n=pl.len())
    assert batches(counts, [(None, 1), ("a", 1)], [(None, 2)]) == [("a", 1), (None, 2)]
