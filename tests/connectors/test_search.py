"""The search for the few that do not work."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from arrowstream.connectors.formats.search import single_out


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(1, 70))
def test_each_is_in_one_group_that_worked_or_is_singled_out(all_: set[int], bad: set[int], group: int) -> None:
    worked: list[int] = []

    def works(places: Sequence[int]) -> bool:
        if bad.intersection(places):
            return False
        worked.extend(places)
        return True

    places = sorted(all_)
    assert single_out(places, works, group) == [place for place in places if place in bad]
    assert worked == [place for place in places if place not in bad]


def test_it_is_quick_where_all_are_bad_and_where_hardly_one_is() -> None:
    for bad, most in ((set(range(10_000)), 10_000), ({4321}, 60), (set(), 20)):
        tries = 0

        def works(places: Sequence[int], bad: set[int] = bad) -> bool:
            nonlocal tries
            tries += 1
            return not bad.intersection(places)

        single_out(range(10_000), works, 1)
        assert tries <= most
