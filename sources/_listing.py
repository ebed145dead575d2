"""The files of a path: a directory with all below it, one file, or a glob."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

IGNORED = (
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.inprogress",
    "*.inprogress.*",
    "*.crdownload",
    "*.filepart",
    "*._COPYING_",
    "*.swp",
    "*~",
    "*.crc",
    "_temporary",
)
"""Names of files and directories that are not finished, or hold no rows, by the habit of who writes them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A file as a listing found it; entries sort by the time of their last change, then by name.

    `inode` tells files apart whatever their names; it goes with the file when it is renamed.
    """

    mtime_ns: int
    name: str
    size: int
    inode: int = 0


@dataclass(slots=True)
class Found:
    """The files there are now, oldest first, of a split, and of all splits (`total`); and how many others were seen, by
    their ending, or "" for ignored ones."""

    total: int = 0
    entries: list[Entry] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files a path means. Names are relative to `root`, with `/` between their parts.

    Of a directory these are all files below it (`recursive`) whose names end as `endings` say (None: whatever they end
    with), but for hidden ones, of which a part of the name begins with `_` or `.`, and those that a pattern of `ignore`
    matches. A file that the path names is taken whatever its name; so is what a glob spells out (`_*.csv`, `*.tmp`),
    and the endings are the glob's own. A directory that a glob matches stands for the files in it.

    Links are followed, and each directory is walked once, however many links lead there. Of `splits` parts, each file
    belongs to the one that a hash of its name says.
    """

    root: str
    pattern: str | None
    splits: int = 1
    endings: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = IGNORED
    recursive: bool = True
    single: bool = False
    """The path names one file."""

    @classmethod
    def of(
        cls,
        path: str,
        splits: int,
        endings: tuple[str, ...] | None = None,
        ignore: tuple[str, ...] = IGNORED,
        recursive: bool = True,
    ) -> Listing:
        """The listing of a path as users write it; does no I/O but to look whether it is a directory.

        What is not there yet is taken for a file if it ends like one, else for a directory.
        """
        how = (splits, endings, ignore, recursive)
        if glob.has_magic(path) and not os.path.exists(path):
            parts = os.path.abspath(path).split(os.sep)
            first = next(place for place, part in enumerate(parts) if glob.has_magic(part) or "=" in part)
            return cls(os.sep.join(parts[:first]) or os.sep, os.sep.join(parts[first:]), *how)
        path = os.path.abspath(path)
        if not os.path.isdir(path) and (os.path.isfile(path) or os.path.splitext(path)[1]):
            return cls(os.path.dirname(path), glob.escape(os.path.basename(path)), *how, single=True)
        return cls(path, None, *how)

    def entries(self, split: int = 0) -> list[Entry]:
        """The files there are now, oldest first; none where there is no such directory (yet)."""
        return self.look(split).entries

    def look(self, split: int = 0) -> Found:
        """The files there are now, and how many others; none where there is no such directory (yet)."""
        found = Found()
        for name, status in self._files(found.others):
            if not _is_utf8(name):
                found.others["a name that is not UTF-8"] += 1
                continue
            found.total += 1
            if self.splits == 1 or zlib.crc32(name.encode()) % self.splits == split:
                found.entries.append(Entry(status.st_mtime_ns, name, status.st_size, status.st_ino))
        found.entries.sort()
        return found

    def path(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))

    def _files(self, others: Counter[str]) -> Iterator[tuple[str, os.stat_result]]:
        walked: set[tuple[int, int]] = set()
        if self.pattern is None:
            yield from self._walk("", walked, others, self.recursive)
            return
        allowed = [part for part in self.pattern.split(os.sep) if part != "**"]
        for match in glob.iglob(self.pattern, root_dir=self.root, recursive=True, include_hidden=True):
            name = match.rstrip(os.sep).replace(os.sep, "/")
            if not name or (not self.single and any(self._passed_over(part, allowed) for part in name.split("/"))):
                others[""] += bool(name)
                continue
            try:
                status = os.stat(self.path(name))
            except OSError:
                continue  # removed or renamed while we looked, or not ours to see
            if stat.S_ISREG(status.st_mode):
                yield name, status
            elif stat.S_ISDIR(status.st_mode) and match[-1] != os.sep and "**" not in self.pattern:
                yield from self._walk(f"{name}/", walked, others, self.recursive)

    def _passed_over(self, part: str, allowed: list[str]) -> bool:
        """Is a part of a name hidden or ignored, and does the glob not spell that out?"""
        spelled = [pattern for pattern in allowed if fnmatch.fnmatchcase(part, pattern)]
        if _hidden(part) and not any(part[0] in _first_letters(pattern) for pattern in spelled):
            return True
        ignored = _matcher(self.ignore)
        return bool(ignored(part)) and not any(ignored(pattern) for pattern in spelled)

    def _walk(
        self, below: str, walked: set[tuple[int, int]], others: Counter[str], recursive: bool
    ) -> Iterator[tuple[str, os.stat_result]]:
        directory = self.path(below) if below else self.root
        try:
            status = os.stat(directory)
            if (here := (status.st_dev, status.st_ino)) in walked:
                return  # by a link, in a circle or a second time
            walked.add(here)
            with os.scandir(directory) as scanned:
                members = sorted(scanned, key=lambda member: (member.is_symlink(), member.name))
        except FileNotFoundError:
            return
        except OSError as error:
            _refused(directory, error)
            return
        ignored = _matcher(self.ignore)
        for member in members:
            name = member.name
            if _hidden(name) or ignored(name):
                others[""] += 1
                continue
            try:
                if member.is_dir():
                    if recursive:
                        yield from self._walk(f"{below}{name}/", walked, others, recursive)
                    continue
                status = member.stat()
            except OSError:
                continue  # a link that leads nowhere, or removed while we looked
            if not stat.S_ISREG(status.st_mode):
                continue  # to open a pipe would wait for its other end
            if self.endings is not None and not name.lower().endswith(self.endings):
                others[os.path.splitext(name)[1] or "no ending"] += 1
                continue
            yield f"{below}{name}", status


@lru_cache(maxsize=64)
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Whether a name is matched by one of the patterns."""
    if not patterns:
        return lambda name: None
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


def _first_letters(pattern: str) -> str:
    """The letters that a pattern spells out for a name to begin with."""
    return pattern[1 : pattern.find("]")] if pattern.startswith("[") else pattern[:1]


def _hidden(part: str) -> bool:
    """A name that begins with `_` or `.`, but for a directory of a partition column of such a name."""
    return part.startswith(".") or (part.startswith("_") and "=" not in part)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


_told: set[str] = set()


def _refused(directory: str, error: OSError) -> None:
    """A directory that cannot be listed is named in the log once."""
    if directory not in _told:
        _told.add(directory)
        _log.warning("directory %s cannot be listed: %s; the stream goes on without it", directory, error.strerror)
