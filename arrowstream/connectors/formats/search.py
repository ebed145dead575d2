"""Search for the few among many that do not work, by trying groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def single_out(places: Sequence[int], works: Callable[[Sequence[int]], bool], group: int) -> list[int]:
    """Those of `places` that do not work even alone.

    Groups of neighbours are tried, the first of them `group` large: one that works is followed by one twice as large,
    one that does not is halved, and after a place that does not work the next is tried alone. So bad ones in a row
    cost one try each, and good ones in a row, or all but a few, next to nothing. Each place is in exactly one
    group that worked, or in the answer.
    """
    bad = []
    start = 0
    while start < len(places):
        tried = places[start : start + group]
        if works(tried):
            start, group = start + len(tried), 2 * group
        elif len(tried) > 1:
            group = len(tried) // 2
        else:
            bad.append(tried[0])
            start, group = start + 1, 1
    return bad
