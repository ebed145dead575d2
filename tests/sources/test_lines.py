"""The line buffer: the same lines, however the bytes come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arrowstream.sources._lines import LineBuffer, Lines

LONGEST = 5

pieces = st.lists(st.text("ab\n", min_size=1, max_size=9).map(str.encode), max_size=12)


def fed(data: list[bytes], cuts: list[int], max_lines: int | None) -> list[Lines]:
    """Feed pieces, taking lines whenever there is no room and at some other times."""
    buffer = LineBuffer(capacity=8, longest=LONGEST)
    taken = []
    for place, piece in enumerate(data):
        while piece:
            room = buffer.room()
            if not len(room):
                taken.append(buffer.take(max_lines))
                assert taken[-1].count
                continue
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            buffer.filled(count)
            piece = piece[count:]
        if place in cuts:
            taken.append(buffer.take(max_lines))
    while (lines := buffer.take(max_lines)).count:
        taken.append(lines)
    return [lines for lines in [*taken, buffer.take_rest()] if lines.count]


@given(pieces, st.lists(st.integers(0, 12)), st.none() | st.integers(1, 3))
def test_every_line_comes_out_once_and_whole(data: list[bytes], cuts: list[int], max_lines: int | None) -> None:
    """Where a `recv` or a `read` ends is chance."""
    taken = fed(data, cuts, max_lines)
    whole = b"".join(data)
    lines = whole.removesuffix(b"\n").split(b"\n") if whole else []
    good = [line for lines_ in taken for line in lines_.data.removesuffix(b"\n").split(b"\n") if lines_.data]
    assert good == [line for line in lines if len(line) <= LONGEST]
    assert sum(lines_.count for lines_ in taken) == len(lines)
    assert sum(lines_.octets for lines_ in taken) == len(whole)
    refused = [(raw, reason) for lines_ in taken for raw, reason in lines_.refused]
    assert refused == [
        (
            line[:LONGEST],
            f"the line is {len(line)} bytes long, and {LONGEST} are allowed; this is its beginning"
            " (longest_line= allows more)",
        )
        for line in lines
        if len(line) > LONGEST
    ]
    assert max_lines is None or all(lines_.count <= max_lines for lines_ in taken)


def test_a_buffer_that_grew_for_a_long_line_shrinks_again() -> None:
    buffer = LineBuffer(capacity=8, longest=1 << 20)
    for piece in (b"x" * 70_000, b"\nshort\n"):
        while piece:
            room = buffer.room()
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            buffer.filled(count)
            piece = piece[count:]
    assert buffer.take().octets == 70_007
    assert len(buffer.room()) == 8
