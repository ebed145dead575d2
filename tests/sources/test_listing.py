"""Which files a path means."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from arrowstream.sources._listing import Listing


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def names(listing: Listing) -> list[str]:
    return sorted(entry.name for entry in listing.entries())


def test_a_directory_is_all_files_below_it_that_are_data(tmp_path: Path) -> None:
    """What Spark, Flink, rsync, a browser, an editor and a checksum leave beside the data."""
    put(tmp_path, "a.csv", "day=1/b.CSV", "x/y/c.csv.gz", "_col=1/d.csv")
    put(tmp_path, "_SUCCESS", ".a.csv.crc", "a.csv.crc", "a.csv~", "a.csv.part", "a.csv.tmp", "b.csv.crdownload")
    put(tmp_path, "_temporary/0/d.csv", ".hidden/e.csv", "_delta_log/0.csv", "part-0.inprogress.7f3.csv", ".f.csv")
    put(tmp_path, "README.md", "LICENSE")
    found = Listing.of(str(tmp_path), 1, (".csv", ".csv.gz")).look()
    assert sorted(entry.name for entry in found.entries) == ["_col=1/d.csv", "a.csv", "day=1/b.CSV", "x/y/c.csv.gz"]
    assert found.total == 4
    assert found.others == {".md": 1, "no ending": 1, "": 12}


def test_patterns_of_what_is_ignored_can_be_given(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "a.tmp", "old-a.csv", "archive/b.csv")
    assert names(Listing.of(str(tmp_path), 1, None, ("old-*", "archive"))) == ["a.csv", "a.tmp"]
    assert names(Listing.of(str(tmp_path), 1, None, (), recursive=False)) == ["a.csv", "a.tmp", "old-a.csv"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("_a.csv", ["_a.csv"]),
        (".a.csv", [".a.csv"]),
        ("a.tmp", ["a.tmp"]),
        ("_*.csv", ["_a.csv"]),
        ("[_.]*.csv", [".a.csv", "_a.csv"]),
        ("*.csv", ["a.csv"]),
        ("*.tmp", ["a.tmp"]),
        ("*", ["_x=1/e.csv", "a.csv", "b.txt", "d/f.csv"]),
        ("**/*.csv", ["_x=1/e.csv", "a.csv", "d/f.csv"]),
        ("_h/*.csv", ["_h/c.csv"]),
        ("d/*", ["d/f.csv"]),
        ("d*", ["d/f.csv"]),
    ],
)
def test_what_the_user_names_is_taken_whatever_its_name(tmp_path: Path, path: str, wanted: Iterable[str]) -> None:
    """A file or a glob that spells a hidden name out means it; the rules are for what a directory holds."""
    put(tmp_path, "_a.csv", ".a.csv", "a.csv", "a.tmp", "b.txt", "_h/c.csv", "d/f.csv", "d/_g.csv", "_x=1/e.csv")
    listing = Listing.of(f"{tmp_path}/{path}", 1)
    below = os.path.relpath(listing.root, tmp_path)
    assert [os.path.normpath(os.path.join(below, name)) for name in names(listing)] == list(wanted)


def test_links_are_followed_and_no_directory_is_walked_twice(tmp_path: Path) -> None:
    """A link to the directory above, one to a neighbour, one to a file, one to nowhere, and a pipe."""
    put(tmp_path, "in/a.csv", "in/x/b.csv", "out/c.csv")
    inbox = tmp_path / "in"
    (inbox / "x" / "up").symlink_to(inbox)
    (inbox / "also-x").symlink_to(inbox / "x")
    (inbox / "other").symlink_to(tmp_path / "out")
    (inbox / "d.csv").symlink_to(tmp_path / "out" / "c.csv")
    (inbox / "nowhere.csv").symlink_to(tmp_path / "gone")
    (inbox / "circle.csv").symlink_to(inbox / "circle.csv")
    os.mkfifo(inbox / "pipe.csv")
    assert names(Listing.of(str(inbox), 1, (".csv",))) == ["a.csv", "d.csv", "other/c.csv", "x/b.csv"]


def test_what_cannot_be_listed_is_left_out(tmp_path: Path) -> None:
    listing = Listing.of(str(tmp_path / "in"), 1)
    assert names(listing) == []
    put(tmp_path, "in/a.csv")
    assert names(listing) == ["a.csv"]


def test_a_name_that_is_not_utf8_is_counted_and_left_out(tmp_path: Path) -> None:
    """Positions are JSON, which has no such names."""
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv"))).write_text("x")
    found = Listing.of(str(tmp_path), 1).look()
    assert not found.entries
    assert found.others == {"a name that is not UTF-8": 1}
