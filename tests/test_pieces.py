"""Pieces stay few, and no row is moved often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arrowstream.pieces import FAN_IN, worth_merging


@given(st.lists(st.integers(0, 1000), max_size=400))
def test_pieces_stay_few_and_rows_are_moved_a_few_times(sizes: list[int]) -> None:
    """Thousands of batches of any sizes: what is kept beside each other is bounded, and so is the work."""
    pieces: list[int] = []
    moved = 0
    for size in sizes:
        pieces.append(size)
        if (start := worth_merging(pieces)) is not None:
            moved += sum(pieces[start:])
            pieces[start:] = [sum(pieces[start:])]
        assert len(pieces) <= FAN_IN + 11  # the logarithm of all rows there can be
    total = sum(sizes)
    assert sum(pieces) == total
    assert moved <= total * (total.bit_length() + 1)
