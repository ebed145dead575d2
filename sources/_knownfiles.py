"""The files that were read, compactly: 48 bytes a file, so that millions of them fit into memory."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from arrowstream.sources._listing import Entry

_RECORD = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("size", "<i8"), ("mtime", "<i8"), ("inode", "<u8"), ("mark", "<u8")]
)
"""A digest of the name in two words, and the file's stamp."""

_PRINT = 4096  # bytes at the end of a file that its mark is made of

NO_MARK = 0
"""The mark of a file of which nothing was taken: another one in its place is read."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was when it was read: bytes, time of change, inode, and a digest of its last 4 KiB (`end_mark`).

    In positions it is text, "size/time/inode/mark", the mark in hexadecimal.
    """

    size: int
    mtime_ns: int
    inode: int
    mark: int = NO_MARK

    @classmethod
    def of(cls, status: os.stat_result, mark: int = NO_MARK) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, mark)

    @classmethod
    def parse(cls, text: str) -> Stamp:
        size, mtime_ns, inode, mark = text.split("/")
        return cls(int(size), int(mtime_ns), int(inode), int(mark, 16))

    def __str__(self) -> str:
        return f"{self.size}/{self.mtime_ns}/{self.inode}/{self.mark:x}"

    def same_bytes(self, other: Stamp) -> bool:
        """Are they of one file, which may have been touched or moved in between?"""
        return (self.size, self.mark) == (other.size, other.mark)

    def is_of(self, entry: Entry) -> bool:
        """Does the file look unchanged from outside?"""
        return (self.size, self.mtime_ns, self.inode) == (entry.size, entry.mtime_ns, entry.inode)


def end_mark(file: int, size: int) -> int:
    """A digest of the last 4 KiB of the first `size` bytes of an open file; never `NO_MARK`."""
    return mark_of(os.pread(file, min(size, _PRINT), max(size - _PRINT, 0)))


def mark_of(end: bytes) -> int:
    """The mark of a file that ends so (`end` may be longer than what counts)."""
    return int.from_bytes(hashlib.blake2b(end[-_PRINT:], digest_size=8).digest(), "little") or 1


def begins_with(path: str, stamp: Stamp) -> bool:
    """Has the file all that another one had? It may be the same, and may have grown."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return size >= stamp.size and end_mark(file.fileno(), stamp.size) == stamp.mark


class KnownFiles:
    """Names of files with their stamps; a name that is added again has the new stamp."""

    def __init__(self) -> None:
        self._sorted: npt.NDArray[Any] = np.empty(0, _RECORD)
        self._recent: dict[bytes, Stamp] = {}

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    @classmethod
    def unpacked(cls, chunks: Iterable[str]) -> KnownFiles:
        """What `packed` has packed, in one piece or several, of which the later ones hold."""
        known = cls()
        records = [np.frombuffer(base64.b85decode(chunk), _RECORD) for chunk in chunks]
        known._take_in(np.concatenate(records) if records else known._sorted)
        return known

    def packed(self) -> str:
        """All of it as text."""
        self._settle()
        return base64.b85encode(self._sorted.tobytes()).decode()

    def add(self, name: str, stamp: Stamp) -> None:
        self._recent[_digest(name)] = stamp
        if len(self._recent) > max(1024, len(self._sorted) // 8):
            self._settle()

    def sort_out(self, entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, Stamp]]]:
        """Those of `entries` that are not known, and those whose stamp is no more what it was."""
        if not len(self):
            return list(entries), []
        digests = [_digest(entry.name) for entry in entries]
        places = np.array(self._places(digests), np.int64)
        new: list[Entry] = []
        changed: list[tuple[Entry, Stamp]] = []
        for number in np.flatnonzero(~self._look_the_same(entries, places) | self._are_recent(digests)).tolist():
            entry, stamp = entries[number], self._recent.get(digests[number])
            if stamp is None and places[number] < 0:
                new.append(entry)
                continue
            stamp = stamp or _stamp(self._sorted[places[number]])
            if not stamp.is_of(entry):
                changed.append((entry, stamp))
        return new, changed

    def _look_the_same(self, entries: Sequence[Entry], places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the entries are as the sorted records at these places have them."""
        if not len(self._sorted):
            return np.zeros(len(entries), np.bool_)
        records = self._sorted[places]
        same = places >= 0
        same &= records["size"] == np.fromiter((entry.size for entry in entries), np.int64, len(entries))
        same &= records["mtime"] == np.fromiter((entry.mtime_ns for entry in entries), np.int64, len(entries))
        same &= records["inode"] == np.fromiter((entry.inode for entry in entries), np.uint64, len(entries))
        return same

    def _are_recent(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        if not self._recent:
            return np.zeros(len(digests), np.bool_)
        return np.fromiter((digest in self._recent for digest in digests), np.bool_, len(digests))

    def of_inode(self, entries: Sequence[Entry]) -> list[tuple[Entry, Stamp]]:
        """Of `entries` those that have inode, size and time of change of a known file, and that file's stamp."""
        wanted = {entry.inode: entry for entry in entries}
        stamps = self.with_inode(wanted)
        return [(wanted[stamp.inode], stamp) for stamp in stamps if stamp.is_of(wanted[stamp.inode])]

    def with_inode(self, inodes: Collection[int]) -> list[Stamp]:
        """The stamps of known files that had one of these inodes."""
        found = [stamp for stamp in self._recent.values() if stamp.inode in inodes]
        if len(self._sorted):
            wanted = np.fromiter(inodes, np.uint64, len(inodes))
            found += [_stamp(record) for record in self._sorted[np.isin(self._sorted["inode"], wanted)]]
        return found

    def _places(self, digests: Sequence[bytes]) -> list[int]:
        """Where the digests are among the sorted ones; -1 where they are not."""
        if not len(self._sorted) or not digests:
            return [-1] * len(digests)
        words = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        high, low = self._sorted["high"], self._sorted["low"]
        places = np.searchsorted(high, words[:, 0])
        places[places == len(high)] = 0
        while bool((passed := (high[places] == words[:, 0]) & (low[places] < words[:, 1])).any()):
            places[passed] = (places[passed] + 1) % len(high)  # two digests that share their first half
        places[(high[places] != words[:, 0]) | (low[places] != words[:, 1])] = -1
        found: list[int] = places.tolist()
        return found

    def _settle(self) -> None:
        if self._recent:
            words = np.frombuffer(b"".join(self._recent), "<u8").reshape(-1, 2)
            records = np.empty(len(self._recent), _RECORD)
            records["high"], records["low"] = words[:, 0], words[:, 1]
            stamps = list(self._recent.values())
            records["size"] = [stamp.size for stamp in stamps]
            records["mtime"] = [stamp.mtime_ns for stamp in stamps]
            records["inode"] = [stamp.inode for stamp in stamps]
            records["mark"] = [stamp.mark for stamp in stamps]
            self._recent = {}
            self._take_in(records)

    def _take_in(self, records: npt.NDArray[Any]) -> None:
        """Put records among the sorted ones; of one name the last holds."""
        together = np.concatenate([self._sorted, records])
        order = np.lexsort((together["low"], together["high"]))  # a stable sort: the last of a name comes last
        together = together[order]
        last = np.ones(len(together), np.bool_)
        last[:-1] = (together["high"][1:] != together["high"][:-1]) | (together["low"][1:] != together["low"][:-1])
        self._sorted = together[last]


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _stamp(record: Any) -> Stamp:
    return Stamp(int(record["size"]), int(record["mtime"]), int(record["inode"]), int(record["mark"]))
