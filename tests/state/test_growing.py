"""GrowingArray: what was written stays, what was not is zero, small and mapped."""

from __future__ import annotations

import numpy as np
import pytest

from arrowstream.state.growing import GrowingArray


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", np.dtype(("<u8", (2,)))])
def test_growing_keeps_what_was_written(dtype: str) -> None:
    """From a few slots to millions, across the change from a copied array to a mapped one."""
    array, top = GrowingArray(dtype), 0
    for size in (1, 100, 70_000, 300_000, 2_000_000, 3_000_000):
        array.grow(size)
        assert not array.values[top:].any()
        array.values[top:size] = 1
        top = size
        assert array.values[:top].all()
    array.grow(10)
    assert len(array.values) >= top
    assert array.nbytes == top * array.values[:1].nbytes


def test_a_forgotten_view_costs_a_copy_not_a_crash() -> None:
    """The mapping cannot be moved under somebody's feet."""
    array = GrowingArray("i8")
    array.grow(1 << 20)
    view = array.values[:3]
    array.values[:3] = 7
    array.grow(1 << 22)
    assert array.values[:4].tolist() == [7, 7, 7, 0]
    assert view.tolist() == [7, 7, 7]
