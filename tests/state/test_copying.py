"""Copies against the buffers that they hold: what is kept must not keep more."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars import CompatLevel

from arrowstream.state.copying import copied
from arrowstream.state.segments import Segments

BATCH = pl.DataFrame(
    {
        "n": np.arange(5000),
        "s": ["x" * 100 + str(n) for n in range(5000)],
        "l": [[n] * 20 for n in range(5000)],
        "t": [{"a": n, "b": "y" * 50 + str(n)} for n in range(5000)],
        "f": [None if n % 2 else n / 2 for n in range(5000)],
        "e": pl.Series(["p", "q"] * 2500, dtype=pl.Enum(["p", "q"])),
        "c": pl.Series(["p", "q"] * 2500, dtype=pl.Categorical()),
        "ll": [[["z" * 30]]] * 5000,
    }
)


def buffers(frame: pl.DataFrame) -> int:
    """Bytes of the whole buffers that a frame refers to."""
    table = frame.to_arrow(compat_level=CompatLevel.newest())
    return int(table.get_total_buffer_size())


@pytest.mark.parametrize("column", BATCH.columns)
@pytest.mark.parametrize("how", ["slice", "gathered", "filtered"])
def test_a_copy_of_one_row_holds_one_row(column: str, how: str) -> None:
    """A key in five thousand is for this partition: its row is kept for a year, its batch is not."""
    batch = BATCH.select(column)
    row = {"slice": batch[17:18], "gathered": batch[[17]], "filtered": batch.filter(BATCH["n"] == 17)}[how]
    copy = copied(row)
    assert copy.equals(row)
    assert copy.schema == row.schema
    assert buffers(copy) < 600


def test_segments_hold_copies() -> None:
    """Rows go into segments by ones."""
    segments = Segments(BATCH.select("s", "l").schema)
    for n in range(20):
        segments.append(BATCH.select("s", "l")[n : n + 1], np.array([n]))
    assert buffers(segments.gather(np.arange(1, 21), ["l"])) < 10_000


@given(st.integers(0, 4999), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_copy_is_the_same(start: int, length: int) -> None:
    """Of chunks too, and of nothing."""
    part = BATCH[start : start + length]
    chunks = pl.concat([part, BATCH[:3], part], rechunk=False)
    assert copied(chunks).equals(chunks)
    assert copied(chunks).n_chunks() == 1
