"""The slot index against a dict, above all while it grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowstream.errors import StateError
from arrowstream.state.index import Hashes, Rows, SlotArray, SlotIndex


class Store:
    """The keys an index points to, by slot, with a hash that keeps only some bits."""

    def __init__(self, mask: int = 2**64 - 1) -> None:
        self.index = SlotIndex()
        self.keys = np.zeros(0, np.int64)
        self.mask = np.uint64(mask)

    def hashes(self, keys: SlotArray) -> Hashes:
        return (keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) & self.mask

    def add(self, keys: SlotArray) -> None:
        slots = np.arange(len(self.keys), len(self.keys) + len(keys))
        self.keys = np.concatenate([self.keys, keys])
        self.index.insert(self.hashes(keys), slots)

    def find(self, keys: SlotArray) -> SlotArray:
        def match(rows: Rows, slots: SlotArray) -> npt.NDArray[np.bool_]:
            same: npt.NDArray[np.bool_] = self.keys[slots] == keys[rows]
            return same

        return self.index.find(self.hashes(keys), match)

    def remove(self, keys: SlotArray) -> None:
        self.index.remove(self.hashes(keys), self.find(keys))


steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(1, 400), st.integers(0, 2**32)), max_size=40)


@given(steps, st.sampled_from([2**64 - 1, 0xFF << 56, 0xF << 32, 0xFFFFFF0000000000]), st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_an_index_is_a_dict(steps: list[tuple[str, int, int]], mask: int, small: int) -> None:
    """Keys come and go; some hashes are so weak that most keys share a tag or a home near the end."""
    store, model = Store(mask), dict[int, int]()
    if mask != 2**64 - 1:
        # Equal tags make one long run, which costs its square: keep that small.
        steps = [(what, 1 + count % 30, seed) for what, count, seed in steps]
    for what, count, seed in steps:
        rng = np.random.default_rng(seed)
        if what == "add":
            new = np.setdiff1d(rng.integers(0, 1 << 12 + small, count), np.array(list(model), np.int64))
            model |= dict(zip(new.tolist(), range(len(store.keys), len(store.keys) + len(new)), strict=True))
            store.add(new)
        elif model:
            gone = rng.choice(np.array(list(model), np.int64), min(count, len(model)), replace=False)
            store.remove(gone)
            for key in gone.tolist():
                del model[key]
        asked = np.concatenate([np.array(list(model), np.int64), rng.integers(0, 1 << 13 + small, 50)])
        assert store.find(asked).tolist() == [model.get(key, -1) for key in asked.tolist()]
        assert len(store.index) == len(model)


@pytest.mark.parametrize("mask", [2**64 - 1, 0xFFFFF << 44])
def test_growing_goes_piece_by_piece(mask: int) -> None:
    """Millions of keys in a table are not moved in one batch, and every key is found at every moment."""
    store = Store(mask)
    store.add(np.arange(300_000))
    both = 0
    for start in range(300_000, 600_000, 1000):
        store.add(np.arange(start, start + 1000))
        both += store.index._old is not None
        if start % 10_000 == 0:
            asked = np.arange(0, start + 3000)
            assert (store.find(asked) == np.where(asked < start + 1000, asked, -1)).all()
    assert both > 20


def test_keys_removed_while_growing_stay_away() -> None:
    """Expiry goes on while the table grows; what it removed must not be carried over."""
    store = Store()
    store.add(np.arange(200_000))
    while store.index._old is None:
        top = len(store.keys)
        store.add(np.arange(top, top + 500))
    top = len(store.keys)
    store.remove(np.arange(0, top, 2))
    for start in range(top, top + 300_000, 500):
        store.add(np.arange(start, start + 500))
    asked = np.arange(len(store.keys))
    expected = np.where((asked < top) & (asked % 2 == 0), -1, asked)
    assert (store.find(asked) == expected).all()


def test_a_run_over_the_end_goes_on_at_the_beginning() -> None:
    """Hashes at the upper end of the range all want the last cells."""
    store = Store()
    store.hashes = lambda keys: np.full(len(keys), 2**64 - 1, np.uint64)  # type: ignore[method-assign]
    for start in range(0, 1500, 100):
        store.add(np.arange(start, start + 100))
    assert (store.find(np.arange(1600)) == np.where(np.arange(1600) < 1500, np.arange(1600), -1)).all()


def test_keys_that_come_and_go_do_not_fill_the_table() -> None:
    """Removed cells are swept when the table is laid anew, at the size its keys need."""
    store = Store()
    for start in range(0, 400_000, 2000):
        store.add(np.arange(start, start + 2000))
        store.remove(np.arange(start, start + 2000))
    assert len(store.index) == 0
    assert store.index.nbytes < 200_000


def test_removing_what_is_not_there_is_an_error() -> None:
    """Only a bug can do this; it must not loop."""
    store = Store()
    store.add(np.arange(10))
    with pytest.raises(StateError, match="damaged"):
        store.index.remove(store.hashes(np.array([3])), np.array([4]))
