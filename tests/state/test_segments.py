"""Segments against a dict of rows, with segments so small that they fill, empty and split appends."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.state.segments import Segments

SCHEMA = pl.Schema({"s": pl.String(), "l": pl.List(pl.Int64)})


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2**32)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_rows_stay_what_they_were_through_vacuum(steps: list[tuple[int, int]]) -> None:
    """Owners overwrite their rows over and over, by ones and by dozens; old rows go, kept ones only move."""
    segments, held = Segments(SCHEMA, segment_rows=8), dict[int, tuple[str, list[int]]]()
    ids = np.zeros(20, np.int64)
    for count, seed in steps:
        owners = np.random.default_rng(seed).permutation(20)[:count]
        rows = [(f"{seed}-{owner}", [int(owner)] * (seed % 3)) for owner in owners]
        segments.free(ids[owners])
        ids[owners] = segments.append(pl.DataFrame(rows, SCHEMA, orient="row"), owners)
        held |= dict(zip(owners.tolist(), rows, strict=True))
        segments.vacuum(ids.take, ids.__setitem__)
        expected = [held.get(owner, (None, None)) for owner in range(20)]
        assert segments.gather(ids).rows() == expected
        assert segments.gather(ids[[3, 3, 0]]).rows() == [expected[3], expected[3], expected[0]]
        assert len(segments.gather(ids[:0])) == 0


def test_garbage_stays_below_the_rest() -> None:
    """With every batch overwriting, what is held is at most about twice what lives, and one open segment."""
    segments, ids = Segments(SCHEMA, segment_rows=64), np.zeros(1000, np.int64)
    rng = np.random.default_rng(1)
    for _ in range(300):
        owners = rng.permutation(1000)[:100]
        segments.free(ids[owners])
        ids[owners] = segments.append(pl.DataFrame({"s": ["x"] * 100, "l": [[1]] * 100}, SCHEMA), owners)
        segments.vacuum(ids.take, ids.__setitem__)
    assert segments.garbage < 1500
