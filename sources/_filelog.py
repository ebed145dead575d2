"""Which files have been read, in which order, and how far: the position in a directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from arrowstream.connectors.source import Offset
from arrowstream.errors import SourceError
from arrowstream.sources._listing import Entry


@dataclass(frozen=True, slots=True)
class Part:
    """Rows (or bytes) of a file, from `first` up to `last`."""

    name: str
    first: int
    last: int


@dataclass(slots=True)
class FileLog:
    """The files read, oldest first, each with the count of its rows (or bytes), and the place in the last one.

    A position names the files, because the order in which they were found cannot be found again: a file may
    appear with any modification time. So that positions stay small, the names of files that are long
    acknowledged are let go (`forget`), and a time stands for them: whatever was changed before, has been read.
    """

    done: list[Sequence[Any]] = field(default_factory=list)
    name: str | None = None
    at: int = 0
    before: tuple[int, str] | None = None

    @classmethod
    def at_offset(cls, offset: Offset | None) -> FileLog:
        if not isinstance(offset, dict):
            return cls()
        before = offset["before"]
        return cls(list(offset["done"]), offset["file"], offset["at"], (before[0], before[1]) if before else None)

    def offset(self) -> dict[str, Any]:
        return {
            "done": list(self.done),
            "file": self.name,
            "at": self.at,
            "before": list(self.before) if self.before else None,
        }

    def finish(self, end: int) -> None:
        """The file at hand has been read, all `end` of it."""
        assert self.name is not None
        self.done.append([self.name, end])  # as in a position that has been through JSON
        self.name, self.at = None, 0

    def new(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that have not been begun."""
        known = {name for name, _ in self.done} | {self.name}
        return [
            entry
            for entry in entries
            if entry.name not in known and (self.before is None or (entry.mtime_ns, entry.name) > self.before)
        ]

    def forget(self, acknowledged: Offset, keep: int, entries: Sequence[Entry], waiting: Sequence[Entry]) -> None:
        """Let go of the names of acknowledged files but the newest `keep`.

        `entries` are the files there are now, `waiting` those of them that have not been begun. Names stay where a
        waiting file is older, since the time that would stand for them would hide it.
        """
        last = _anchor(FileLog.at_offset(acknowledged))
        place = next((place for place, (name, _) in enumerate(self.done) if last and name == last[0]), 0)
        drop = place - keep
        if drop < keep:  # rarely, and many at once
            return
        keys = {entry.name: (entry.mtime_ns, entry.name) for entry in entries}
        dropped = [keys[name] for name, _ in self.done[:drop] if name in keys]
        before = max([*dropped, self.before or (0, "")])
        staying = {name for name, _ in self.done[drop:]} | {self.name}
        if all((entry.mtime_ns, entry.name) > before for entry in waiting if entry.name not in staying):
            self.done, self.before = self.done[drop:], before


def parts_between(start: Offset | None, stop: Offset) -> list[Part]:
    """What lies between two positions, in order. Raises `SourceError` where `start` has been let go of."""
    first, last = FileLog.at_offset(start), FileLog.at_offset(stop)
    files = [*last.done, *([(last.name, last.at)] if last.name is not None else [])]
    anchor = _anchor(first)
    if anchor is None:
        if last.before is not None:
            raise SourceError("the first files of this range were acknowledged long ago and cannot be named any more")
        return [Part(name, 0, end) for name, end in files if end]
    for place in reversed(range(len(files))):  # it is near the end
        name, end = files[place]
        if name == anchor[0]:
            parts = [Part(name, anchor[1], end), *(Part(name, 0, end) for name, end in files[place + 1 :])]
            return [part for part in parts if part.last > part.first]
    raise SourceError(f"file {anchor[0]!r} of the first position is not in the second: they are of different runs")


def _anchor(log: FileLog) -> tuple[str, int] | None:
    """The last file of a position, and the place in it."""
    if log.name is not None:
        return log.name, log.at
    return (log.done[-1][0], log.done[-1][1]) if log.done else None
