"""Windows in whole numbers: against counting each window one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arrowstream.plan.bins import Bins, Even
from arrowstream.plan.grid import Grid, Spans, cover, ranges

grids = st.builds(
    lambda stride, length, grows: Grid(Bins(Even(5, -7)), 1 if grows else stride, length, grows),
    st.integers(1, 6),
    st.integers(1, 12),
    st.booleans(),
)
bins_of = st.sets(st.integers(-30, 60), max_size=8).map(sorted)


def windows(grid: Grid) -> list[tuple[int, int]]:
    """All windows far around, from their first bin up to the bin that they end before."""
    if not grid.grows:
        return [(b, b + grid.length) for b in range(-200, 200) if b % grid.stride == 0]
    begins = [b for b in range(-200, 200) if b % grid.length == 0]
    return [(b, b + size) for b in begins for size in range(1, grid.length + 1)]


@given(grid=grids, bins=bins_of, low=st.integers(-50, 80), more=st.integers(-5, 60), touching=st.booleans())
def test_windows_that_close_are_those_with_a_bin_and_come_once(
    grid: Grid, bins: list[int], low: int, more: int, touching: bool
) -> None:
    touching = touching and not grid.grows  # windows that grow are closed on the left
    high = low + more
    found = grid.closing(np.array(bins, np.int64), low, high, touching=touching)
    wanted = [
        (begin, end)
        for begin, end in windows(grid)
        if low < end <= high and any(begin <= each < end + touching for each in bins)
    ]
    assert list(zip(found.starts.tolist(), found.stops.tolist(), strict=True)) == sorted(wanted)


@given(grid=grids, bins=bins_of, end=st.integers(-50, 80))
def test_what_is_needed_and_what_is_complete(grid: Grid, bins: list[int], end: int) -> None:
    needed, complete = grid.needed(end), grid.complete(end)
    every = windows(grid)
    for each in bins:
        later = any(begin <= each < stop for begin, stop in every if stop > end)
        assert later == (each >= needed) or (each > needed and not any(b <= each < s for b, s in every))
        if each < complete:  # all rows of such a bin are late: the first window with it has closed
            first = [stop for begin, stop in every if begin <= each < stop]
            assert not first or min(first) <= end


@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(0, 90)), max_size=6), st.integers(2, 5), st.integers(0, 3))
def test_a_cover_holds_each_bin_once_in_few_runs(pairs: list[tuple[int, int]], base: int, levels: int) -> None:
    spans = Spans(*(np.array([each[at] for each in pairs], np.int64) for at in (0, 1)))
    spans = Spans(spans.starts, spans.starts + spans.stops)
    held: Counter[tuple[int, int]] = Counter()
    runs: Counter[tuple[int, int]] = Counter()
    for level, (numbers, places) in enumerate(cover(spans, base, levels)):
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            held.update((place, each) for each in range(number * base**level, (number + 1) * base**level))
            runs[place, level] += 1
    wanted = {
        (place, each)
        for place, (begin, stop) in enumerate(zip(spans.starts, spans.stops, strict=True))
        for each in range(begin, stop)
    }
    assert held == Counter(wanted)
    assert all(count <= 2 * (base - 1) for (_, level), count in runs.items() if level < levels)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 20)), max_size=5), st.integers(1, 4))
def test_ranges_one_after_the_other(edges: list[tuple[int, int]], step: int) -> None:
    first, last = (np.array([each[at] for each in edges], np.int64) for at in (0, 1))
    assert ranges(first, last, step).tolist() == [n for a, b in edges for n in range(a, b + 1, step)]
