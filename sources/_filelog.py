"""Which files have been read, in which order, and how far: the positions in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arrowstream.connectors.source import Offset
from arrowstream.errors import SourceError
from arrowstream.sources._knownfiles import KnownFiles, Stamp

_PACKED = 1000  # names that a memory holds before they are packed


class Part(NamedTuple):
    """Rows of a columnar file, or bytes of a file of lines, from `first` up to `last`.

    `row` counts the rows of the file before them; `stamp` is what the file was then. Of a file that gave nothing `last`
    is 0.
    """

    name: str
    first: int
    last: int
    row: int
    stamp: str


class Place(NamedTuple):
    """How far a file has been read that has not come to its end: rows or bytes, and the rows and lines before."""

    at: int
    row: int
    line: int
    stamp: str


@dataclass(slots=True)
class FileLog:
    """What a reader has read.

    A position is one *step*: the parts read since the position before, and the files that are open after it. So it
    stays small, names all that a range holds, and is found again whatever became of the files' times.

        {"since": 4, "step": 5, "read": [["a.csv", 0, 88, 0, "88/17.../12/9f3c"]], "open": {"b.csv": [20, 7, 9, "..."]}}

    A file has been read to its end when a step names it and it is not open. What was read of all steps is the memory
    (`remember`), in which names are digests.
    """

    step: int = 0
    open: dict[str, Place] = field(default_factory=dict)
    known: KnownFiles = field(default_factory=KnownFiles)
    _parts: list[Part] = field(default_factory=list)
    _given: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at_offset(cls, resume: Offset | None) -> FileLog:
        """Go on after a memory, or after a step that begins at the very beginning."""
        memory = _nothing() if resume is None else remember(None, resume)
        log = cls(memory["step"], {name: Place(*place) for name, place in memory["open"].items()})
        log.known = KnownFiles.unpacked(memory["known"])
        for name, stamp in memory["names"]:
            log.known.add(name, Stamp.parse(stamp))
        log._given = _step(log.step, log.step, [], log.open)
        return log

    def offset(self) -> dict[str, Any]:
        """The last step that was taken."""
        return self._given

    def read(self, name: str, first: int, last: int, row: int, stamp: Stamp) -> None:
        """This part was read, by the step that is under way."""
        part = Part(name, first, last, row, str(stamp))
        before = self._parts[-1] if self._parts else None
        if before is not None and (before.name, before.last, before.stamp) == (name, first, part.stamp) and first:
            self._parts[-1] = before._replace(last=last)
        else:
            self._parts.append(part)

    def finish(self, name: str, stamp: Stamp) -> None:
        """The file is not read any further; it may have given nothing."""
        self.open.pop(name, None)
        self.known.add(name, stamp)
        if not any(part.name == name for part in self._parts[-1:]):
            self._parts.append(Part(name, 0, 0, 0, str(stamp)))
        elif self._parts[-1].stamp != str(stamp):
            self._parts[-1] = self._parts[-1]._replace(stamp=str(stamp))

    def take_step(self) -> None:
        """What was read since the last step is one."""
        self._given = _step(self.step, self.step + 1, self._parts, self.open)
        self.step += 1
        self._parts = []


def _step(since: int, step: int, parts: list[Part], open_files: dict[str, Place]) -> dict[str, Any]:
    places = {name: list(place) for name, place in open_files.items()}
    return {"since": since, "step": step, "read": [list(part) for part in parts], "open": places}


def _nothing() -> dict[str, Any]:
    """The memory before the first step."""
    return {"step": 0, "open": {}, "known": [], "names": []}


def join(earlier: Offset | None, later: Offset) -> Offset:
    """Two steps that follow each other, as one; of a memory the place where it ends."""
    assert isinstance(later, dict)
    if "known" in later:
        return {"since": later["step"], "step": later["step"], "read": [], "open": later["open"]}
    if earlier is None:
        return later
    assert isinstance(earlier, dict)
    if earlier["step"] != later["since"]:
        raise SourceError(f"positions of files do not follow each other: {earlier['step']} and {later['since']}")
    return {**later, "since": earlier["since"], "read": earlier["read"] + later["read"]}


def remember(memory: Offset | None, later: Offset) -> dict[str, Any]:
    """The memory after a step, of the memory before it."""
    assert isinstance(later, dict)
    if "known" in later:
        return later
    before: dict[str, Any] = memory if isinstance(memory, dict) else _nothing()
    if "known" not in before:
        before = remember(None, before)
    if later["step"] <= before["step"]:
        return before
    if later["since"] > before["step"]:
        raise SourceError(
            f"this position of a directory of files follows another one, step {later['since']}: open the source with"
            " what source.remembered(memory, position) makes of all positions, not with the last alone"
        )
    finished = {part[0]: part[4] for part in later["read"] if part[0] not in later["open"]}
    names, known = [*before["names"], *([name, stamp] for name, stamp in finished.items())], before["known"]
    if len(names) > _PACKED:
        packed = KnownFiles()
        for name, stamp in names:
            packed.add(name, Stamp.parse(stamp))
        known, names = [*known, packed.packed()], []
    return {"step": later["step"], "open": later["open"], "known": known, "names": names}


def parts_between(start: Offset | None, stop: Offset) -> Iterator[Part]:
    """What lies between two positions, in order. Raises `SourceError` where `stop` does not begin at `start`."""
    assert isinstance(stop, dict)
    since = start["step"] if isinstance(start, dict) else 0
    if "read" not in stop or stop["since"] != since:
        raise SourceError(
            f"the range from step {since} is asked for, and this position begins at step {stop.get('since', 0)}: join"
            " positions that follow each other with source.joined"
        )
    return (part for part in (Part(*each) for each in stop["read"]) if part.last > part.first)
