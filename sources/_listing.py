"""The files of a path: a directory, one file, or a glob."""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A file as a listing found it; entries sort by the time of their last change, then by name."""

    mtime_ns: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files a path means. Names are relative to `root`, with `/` between their parts.

    Hidden files, whose name or a directory of whose name (below the root) begins with `_` or `.`, are not among
    them, nor are directories. Of `splits` parts, each file belongs to the one that a hash of its name says.
    """

    root: str
    pattern: str | None
    splits: int = 1

    @classmethod
    def of(cls, path: str, splits: int) -> Listing:
        """The listing of a path as users write it; does no I/O but to look whether it is a directory.

        What is not there yet is taken for a file if it ends like one, else for a directory.
        """
        if glob.has_magic(path) and not os.path.exists(path):
            parts = os.path.abspath(path).split(os.sep)
            first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
            return cls(os.sep.join(parts[:first]) or os.sep, os.sep.join(parts[first:]), splits)
        path = os.path.abspath(path)
        if not os.path.isdir(path) and (os.path.isfile(path) or os.path.splitext(path)[1]):
            return cls(os.path.dirname(path), glob.escape(os.path.basename(path)), splits)
        return cls(path, None, splits)

    def entries(self, split: int = 0) -> list[Entry]:
        """The files there are now, oldest first; none where there is no such directory (yet)."""
        found = []
        for name in self._names():
            if _hidden(name) or (self.splits > 1 and zlib.crc32(name.encode()) % self.splits != split):
                continue
            try:
                status = os.stat(self.path(name))
            except FileNotFoundError:
                continue  # removed or renamed while we looked
            found.append(Entry(status.st_mtime_ns, name, status.st_size))
        return sorted(found)

    def path(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))

    def _names(self) -> Iterator[str]:
        if self.pattern is None:
            try:
                with os.scandir(self.root) as entries:
                    yield from (entry.name for entry in entries if entry.is_file())
            except FileNotFoundError:
                return
            return
        for name in glob.iglob(self.pattern, root_dir=self.root, recursive=True):
            if os.path.isfile(os.path.join(self.root, name)):
                yield name.replace(os.sep, "/")


def _hidden(name: str) -> bool:
    return any(part.startswith(("_", ".")) for part in name.split("/"))
