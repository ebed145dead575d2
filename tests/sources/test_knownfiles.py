"""The files that were read, compactly."""

from __future__ import annotations

import json
import random
import time

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from arrowstream.sources import _knownfiles
from arrowstream.sources._knownfiles import KnownFiles, Stamp
from arrowstream.sources._listing import Entry

stamps = st.builds(Stamp, *[st.integers(0, 3)] * 3, st.integers(0, (1 << 64) - 1))


def entry(name: str, stamp: Stamp) -> Entry:
    return Entry(stamp.mtime_ns, name, stamp.size, stamp.inode)


@given(st.lists(st.tuples(st.text(max_size=2), stamps)), st.lists(st.tuples(st.text(max_size=2), stamps)), st.data())
def test_it_knows_what_a_dict_knows(
    added: list[tuple[str, Stamp]], asked: list[tuple[str, Stamp]], data: st.DataObject
) -> None:
    """Also after it was packed in pieces, some of whose names come again with another stamp."""
    known, model, pieces = KnownFiles(), {}, []
    for name, stamp in added:
        known.add(name, stamp)
        model[name] = stamp
        if data.draw(st.booleans()):
            pieces.append(known.packed())
            known = KnownFiles()
    known = KnownFiles.unpacked(json.loads(json.dumps([*pieces, known.packed()])))
    entries = [entry(name, stamp) for name, stamp in asked]
    new, changed = known.sort_out(entries)
    assert len(known) == len(model)
    assert new == [each for each in entries if each.name not in model]
    looks = [each for each in entries if each.name in model and not model[each.name].is_of(each)]
    assert changed == [(each, model[each.name]) for each in looks]


def test_digests_that_share_their_first_half_are_told_apart() -> None:
    """Once in a few hundred million files."""
    known = KnownFiles()
    records = np.zeros(4, _knownfiles._RECORD)
    records["high"], records["low"] = [5, 5, 5, 7], [1, 3, 9, 2]
    known._take_in(records)
    asked = [(5, 9), (5, 1), (5, 4), (7, 2), (8, 1), (7, 3), (0, 0)]
    digests = [high.to_bytes(8, "little") + low.to_bytes(8, "little") for high, low in asked]
    assert known._places(digests) == [2, 0, -1, 3, -1, -1, -1]


def test_a_file_is_found_by_its_inode_under_another_name() -> None:
    known = KnownFiles()
    known.add("app.log", Stamp(10, 7, 42, 5))
    for name in range(2000):
        known.add(f"{name}", Stamp(1, 1, 1000 + name, 1))
    renamed, grown = Entry(7, "app.log.1", 10, 42), Entry(8, "app.log.1", 11, 42)
    assert known.of_inode([renamed]) == [(renamed, Stamp(10, 7, 42, 5))]
    assert known.of_inode([grown]) == []


def test_a_million_files_are_known_in_48_megabytes() -> None:
    """A directory that has been filled for a year: each look asks for all of them."""
    known = KnownFiles()
    numbers = np.random.default_rng(7).integers(0, 1 << 63, (1_000_000, 2), dtype=np.int64).astype(np.uint64)
    records = np.zeros(len(numbers), _knownfiles._RECORD)
    records["high"], records["low"] = numbers[:, 0], numbers[:, 1]
    known._take_in(records)
    assert known._sorted.nbytes == 48_000_000
    asked = [numbers[place].tobytes() for place in random.Random(7).sample(range(len(numbers)), 10_000)]
    began = time.perf_counter()
    assert min(known._places(asked)) >= 0
    assert time.perf_counter() - began < 5


def test_a_stamp_is_text_in_positions() -> None:
    stamp = Stamp(1 << 40, 1_800_000_000_000_000_000, 1 << 63, (1 << 64) - 1)
    assert Stamp.parse(str(stamp)) == stamp
