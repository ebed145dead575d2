"""Names of columns as files have them, and as the stream has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def unique_names(names: Iterable[str]) -> list[str]:
    """Each name once, as Polars makes them of a header: `x`, `x_duplicated_0`, `x_duplicated_1`."""
    count: Counter[str] = Counter()
    found: list[str] = []
    for name in names:
        own = name
        while own in found:
            own = f"{name}_duplicated_{count[name]}"
            count[name] += 1
        found.append(own)
    return found


def match_names(found: Sequence[str], wanted: Sequence[str]) -> dict[int, str]:
    """Which of `wanted` each place of `found` is: the same name, else the only one that differs by case alone."""
    places = {name: place for place, name in reversed(list(enumerate(found)))}
    matched = {places[name]: name for name in wanted if name in places}
    free = [place for place in range(len(found)) if place not in matched]
    left = [name for name in wanted if name not in places]
    for name in left:
        alike = [place for place in free if found[place].casefold() == name.casefold()]
        if len(alike) == 1 and sum(other.casefold() == name.casefold() for other in left) == 1:
            matched[alike[0]] = name
    return matched
