"""Where records end: against a reading byte by byte, however the bytes come."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arrowstream.connectors.formats.records import Cutter, JsonRecords, QuotedRecords


def fed(cutter: Cutter, data: bytes, cuts: list[int]) -> list[int]:
    """The ends that a cutter finds in `data`, given to it in pieces."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = []
    for first, last in pairwise(places):
        found += [first + int(end) for end in cutter.feed(np.frombuffer(data, np.uint8)[first:last])]
    return found


def csv_ends(data: bytes) -> list[int]:
    """Field by field: a quote opens a field at its beginning alone, and doubled it stands for itself."""
    ends, state = [], "start"
    for place, octet in enumerate(data):
        letter = chr(octet)
        if state == "quoted":
            state = "closing" if letter == '"' else "quoted"
        elif state == "closing" and letter == '"':
            state = "quoted"
        elif letter in ",\n":
            state = "start"
            if letter == "\n":
                ends.append(place + 1)
        else:
            state = "quoted" if state == "start" and letter == '"' else "plain"
    return ends


cuts = st.lists(st.integers(0, 40), max_size=6)


@settings(max_examples=500)
@given(st.text(st.sampled_from('a",\n\r'), max_size=40).map(str.encode), cuts)
@example(b'"a\n""b\n",c\n', [3])
@example(b'"a""\nb"\n', [3, 4])
@example(b'a"b\n"c"d\n', [])
def test_csv_records_end_where_no_quote_is_open(data: bytes, cuts: list[int]) -> None:
    """Where a `recv` or a `read` ends is chance, and so is where quotes stand in garbage."""
    assert fed(QuotedRecords('"', ","), data, cuts) == csv_ends(data)


def json_ends(data: bytes) -> list[int]:
    ends, depth, within, escaped = [], 0, False, False
    for place, octet in enumerate(data):
        letter = chr(octet)
        if letter == "\n":
            within = False
        elif letter == '"' and not escaped:
            within = not within
        elif letter == "{" and not within:
            depth += 1
        elif letter == "}" and not within:
            depth = max(depth - 1, 0)
            if not depth:
                ends.append(place + 1)
        escaped = letter == "\\" and not escaped
    return ends


@settings(max_examples=500)
@given(st.text(st.sampled_from('a"{}[,\n\\'), max_size=40).map(str.encode), cuts)
@example(b'{"\\\\\\"}"}', [4, 5])
@example(b'}{"a\n}', [])
def test_json_records_end_with_their_brace(data: bytes, cuts: list[int]) -> None:
    assert fed(JsonRecords(), data, cuts) == json_ends(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=4), st.booleans(), cuts)
def test_each_object_of_an_array_is_a_record(objects: list[dict[str, object]], pretty: bool, cuts: list[int]) -> None:
    """What `json.dump(rows, file, indent=2)` writes."""
    data = json.dumps(objects, indent=2 if pretty else None, ensure_ascii=False).encode()
    ends = fed(JsonRecords(), data, cuts)
    assert [json.loads(data[first:last].lstrip(b"[ ,\n")) for first, last in pairwise([0, *ends])] == objects


def test_a_record_that_never_ends_is_looked_at_once() -> None:
    """A quote left open in a file of gigabytes, which comes in pieces: what each costs does not grow."""
    cutter = QuotedRecords('"', ",")
    piece = np.frombuffer(b"no quote, " * 100, np.uint8)
    assert not len(cutter.feed(np.frombuffer(b'"', np.uint8)))
    for _ in range(10_000):
        assert not len(cutter.feed(piece))
    assert cutter.open
    assert cutter.feed(np.frombuffer(b'"\n', np.uint8)).tolist() == [2]
