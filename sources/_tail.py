"""Files of lines that grow: followed line by line, through rotation by renaming and by copying and truncating."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from arrowstream.connectors.formats.format import Format, make_rejects
from arrowstream.connectors.formats.schema import NewColumnsError
from arrowstream.connectors.source import EndOfStream, Offset
from arrowstream.errors import SourceError
from arrowstream.sources._filelog import FileLog, Place
from arrowstream.sources._knownfiles import NO_MARK, Stamp, end_mark, mark_of
from arrowstream.sources._linefile import COMPRESSIONS, placed, with_header, without_first_mark
from arrowstream.sources._lines import LineBuffer, Lines
from arrowstream.sources._listing import Entry
from arrowstream.sources._refusals import Refusals

if TYPE_CHECKING:
    from arrowstream.sources.files import FileSource

_BUFFER = 256 << 10  # of each file that is followed: there may be hundreds
_REMEMBERED = 4096  # bytes before the place of reading, by which a file is known again
_MOST_FOLLOWED = 256  # files whose handles are held at once

_log = logging.getLogger("arrowstream")


class GrowingFile:
    """A file of lines that is held open, whatever becomes of its name.

    `at` is the byte where the next line begins. The bytes before it tell whether the file is still the one that was
    read: where they have changed, it was truncated (`is_cut`), and is read from its beginning.
    """

    def __init__(self, path: str, name: str, format: Format, longest: int, place: Place | None = None) -> None:
        self.path, self.name, self._longest = path, name, longest
        self.described = self.format = format
        self._file: Any = open(path, "rb", buffering=0)  # noqa: SIM115
        self.inode = os.fstat(self._file.fileno()).st_ino
        self.at, self.row, self.line = (0, 0, 0) if place is None else (place.at, place.row, place.line)
        if self.at:
            self.format, _, _ = with_header(path, format, None)
        self._begin_at(self.at)

    def _begin_at(self, at: int) -> None:
        self.at = self._filled = at
        self._buffer = LineBuffer(_BUFFER, self._longest, self.format.cutter())
        self._last = os.pread(self._file.fileno(), min(at, _REMEMBERED), max(at - _REMEMBERED, 0))

    @property
    def key(self) -> str:
        """What positions call it."""
        return f"{self.name}#{self.inode}"

    @property
    def status(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    @property
    def stamp(self) -> Stamp:
        """Its mark is of what was read, so that a file that has grown on is known again."""
        status = self.status
        return Stamp(self.at, status.st_mtime_ns, status.st_ino, mark_of(self._last))

    @property
    def whole_stamp(self) -> Stamp:
        """The stamp of all that the file has now, read or not."""
        status = self.status
        return Stamp.of(status, end_mark(self._file.fileno(), status.st_size))

    @property
    def place(self) -> Place:
        return Place(self.at, self.row, self.line, str(self.stamp))

    def is_cut(self) -> bool:
        """Was it truncated, or written anew, since it was read?"""
        size = self.status.st_size
        before = os.pread(self._file.fileno(), len(self._last), self.at - len(self._last))
        return size < self._filled or before != self._last

    def is_whole(self) -> bool:
        """Has it been read to its end, with no line begun?"""
        return self.at == self.status.st_size

    def beginning(self) -> bytes:
        return os.pread(self._file.fileno(), 1024, 0)

    def begin_again(self) -> None:
        """Read a file that was truncated from its beginning."""
        self.row = self.line = 0
        self.format = self.described
        self._begin_at(0)

    def lines(self, max_lines: int, rest: bool) -> Lines:
        """The next whole lines, and at the end with `rest` the one that has no end; none may be at hand."""
        while not (lines := self._buffer.take(max_lines)).count:
            room = self._buffer.room()
            octets = os.preadv(self._file.fileno(), [room], self._filled) if len(room) else 0
            if not octets:
                return self._moved_by(self._buffer.take_rest()) if rest else Lines()
            self._filled += octets
            self._buffer.filled(octets)
        return self._moved_by(lines)

    def _moved_by(self, lines: Lines) -> Lines:
        if lines.count:
            first, self.at = self.at, self.at + lines.octets
            start = max(self.at - _REMEMBERED, 0)
            self._last = os.pread(self._file.fileno(), self.at - start, start)
            if first == 0:
                return without_first_mark(self.path, lines)
        return lines

    def rows(self, max_lines: int, rest: bool) -> tuple[pa.RecordBatch, list[pa.RecordBatch]] | None:
        """The next lines as rows, and the refused ones with their places; None where there are none now."""
        while self.format.header:
            line = self.lines(1, rest)
            if not line.count:
                return None
            self.line += line.count
            try:
                self.format = self.format.with_header(line.data)
            except ValueError as error:
                raise SourceError(f"{self.path}: {error}") from error
        at = self.at
        lines = self.lines(max_lines, rest)
        if not lines.count:
            return None
        decoded = self.format.decode(lines.data)
        refused = [placed(decoded.rejects, lines, self.path, at, self.line)] if decoded.rejects is not None else []
        refused += filter(None, [make_rejects(lines.refused, path=self.path)])
        self.row += decoded.rows.num_rows
        self.line += lines.count
        return decoded.rows, refused

    def close(self) -> None:
        self._file.close()


class TailReader:
    """The growing files of one split, each followed by lines.

    A file is known by its inode. Renamed (`app.log` to `app.log.1`) it is followed on by its handle, and what then
    bears its name is another file. One that is truncated in its place is read from its beginning; what was written
    between the last look and that moment is taken from the copy beside it, where there is one (logrotate's
    copytruncate).

    New -> Followed <-> Asleep (read to its end, and quiet for the source's `patience`: its handle is closed) -> Left,
    when no name of the source leads to it any more. Of a file that is left the last line may lack its end. Compressed
    files are left alone: they are old ones. In positions files are called by name and inode, `app.log#1234`.
    """

    def __init__(self, source: FileSource, split: int, log: FileLog) -> None:
        self._source, self._split, self._log = source, split, log
        self._followed: list[GrowingFile] = []
        self._waiting: list[Entry] = []
        self._asleep: dict[int, tuple[str, Place]] = {}
        self._leaving: set[int] = set()
        self._told: set[str] = set()
        self._refused: list[pa.RecordBatch] = []
        self._judge = Refusals(source.path, source.on_bad)
        self._warned = False
        self._polling = threading.Lock()
        self._closed = threading.Event()
        for key, place in log.open.items():
            name, _, inode = key.rpartition("#")
            self._asleep[int(inode)] = (name, place)
        self._look()

    def poll(self, timeout: float) -> pa.RecordBatch | None:
        deadline, last_look = time.monotonic() + timeout, False
        with self._polling:
            while not self._closed.is_set():
                found = self._read()
                if found is not None or self._refused:
                    self._log.take_step()
                    return found
                self._judge.pause()
                if not self._source.watch:
                    if last_look:
                        break
                    self._look()
                    last_look = True
                    continue
                now = time.monotonic()
                if now >= self._next_look:
                    self._look()
                elif now >= deadline:
                    return None
                else:
                    self._closed.wait(min(deadline, self._next_look) - now)
        raise EndOfStream

    def position(self) -> Offset:
        return self._log.offset()

    def rejects(self) -> pa.RecordBatch | None:
        refused, self._refused = self._refused, []
        return pa.concat_batches(refused) if refused else None

    def acknowledge(self, offset: Offset) -> None:
        """The files themselves are let go of by who rotates them."""

    def close(self) -> None:
        self._closed.set()
        with self._polling:
            for file in self._followed:
                file.close()
            self._followed = []

    # Lines.

    def _read(self) -> pa.RecordBatch | None:
        """Rows of the first file that has grown; files take turns."""
        while self._waiting and len(self._followed) < _MOST_FOLLOWED:
            self._begin(self._waiting.pop(0))
        for file in list(self._followed):
            self._followed.remove(file)
            self._followed.append(file)
            if file.is_cut():
                file = self._rescued(file) or file
            rows = self._rows_of(file)
            if rows is not None or self._refused:
                return rows
        return None

    def _rows_of(self, file: GrowingFile) -> pa.RecordBatch | None:
        first, row, leaving = file.at, file.row, file.inode in self._leaving
        try:
            found = file.rows(self._source.max_rows_per_poll, rest=leaving or not self._source.watch)
            constants = self._source.constants(file.name, Stamp.of(file.status))
        except NewColumnsError as error:
            raise SourceError(f"{file.path}: {error}") from None
        except SourceError as error:
            self._set_aside(file, str(error))
            return None
        if found is None:
            if leaving:
                self._leave(file, file.stamp)
            elif file.is_whole() and self._is_quiet(file):
                self._followed.remove(file)
                self._asleep[file.inode] = (file.name, file.place)
                file.close()
            return None
        rows, refused = found
        self._judge.note(rows.num_rows, refused, file.path)
        self._refused += refused
        self._log.read(file.key, first, file.at, row, file.stamp)
        self._log.open[file.key] = file.place
        return self._source.columns.dressed(rows, constants, row) if rows.num_rows else None

    def _rescued(self, file: GrowingFile) -> GrowingFile | None:
        """A file was truncated: it begins again; its copy, if one is beside it, is read on where the file was."""
        copy = self._beside(file.path, file.place, other_than=file.inode)
        rescued = None
        if copy is not None:
            rescued = GrowingFile(copy, file.name, file.described, self._source.longest_line, file.place)
            self._leaving.add(rescued.inode)
            self._followed.insert(0, rescued)
        file.begin_again()
        self._log.open.pop(file.key, None)
        _log.info("%s was truncated; it is read from its beginning%s", file.path, f", after {copy}" if copy else "")
        return rescued

    def _set_aside(self, file: GrowingFile, reason: str) -> None:
        if self._source.bad_files == "fail":
            raise SourceError(f"{reason} (bad_files='dead_letter' would set it aside and go on)")
        _log.warning("%s; it is in the dead letters, and the stream goes on without it", reason)
        refused = make_rejects([(file.beginning(), reason)], path=file.path)
        self._refused += [refused] if refused is not None else []
        self._leave(file, file.whole_stamp)

    def _leave(self, file: GrowingFile, stamp: Stamp) -> None:
        """Nothing more will come of a file. Found again it is known, by more than its inode, which is used again."""
        self._followed.remove(file)
        self._leaving.discard(file.inode)
        if stamp.size:
            self._log.finish(file.key, stamp)
        file.close()

    # Which files there are.

    def _look(self) -> None:
        """See which files have come, which were renamed, and which are gone."""
        began = time.monotonic()
        found = self._source.listing.look(self._split)
        entries = {entry.inode: entry for entry in found.entries if not entry.name.endswith(tuple(COMPRESSIONS))}
        if not found.total and not self._warned:
            self._warned = True
            _log.warning("no file at %s yet", self._source.path)
        for file in self._followed:
            entry = entries.pop(file.inode, None)
            if entry is not None:
                self._rename(file, entry.name)
            elif self._is_quiet(file):
                self._leaving.add(file.inode)
        for inode, (name, place) in list(self._asleep.items()):
            self._look_after(inode, name, place, entries)
        new = sorted(entry for entry in entries.values() if entry.size and not self._is_known(entry))
        self._waiting = [entry for entry in new if not self._is_copy(entry)]
        self._next_look = time.monotonic() + max(self._source.poll_interval, time.monotonic() - began)

    def _look_after(self, inode: int, name: str, place: Place, entries: dict[int, Entry]) -> None:
        """A file that is asleep: has it grown, was it renamed, truncated, or taken away?"""
        entry, path = entries.get(inode), self._source.listing.path(name)
        if entry is not None:
            path = self._source.listing.path(entry.name)
            if entry.size >= place.at and _is_at(path, place):
                del entries[inode]
                if entry.size > place.at or entry.name != name:
                    self._wake(inode, path, entry.name)
                return
        moved = self._beside(path, place, other_than=None if entry is None else inode)
        if moved is not None:
            self._leaving.add(self._wake(inode, moved, name).inode)
            return
        del self._asleep[inode]
        self._log.open.pop(f"{name}#{inode}", None)
        if entry is None and not os.path.exists(path):
            _log.warning("%s was followed up to byte %d, and is gone", path, place.at)

    def _wake(self, inode: int, path: str, name: str) -> GrowingFile:
        old, place = self._asleep.pop(inode)
        file = GrowingFile(path, name, self._format(name), self._source.longest_line, place)
        self._log.open.pop(f"{old}#{inode}", None)
        self._log.open[file.key] = file.place
        self._followed.append(file)
        return file

    def _rename(self, file: GrowingFile, name: str) -> None:
        if name != file.name:
            place = self._log.open.pop(file.key, None)
            file.name, file.path = name, self._source.listing.path(name)
            if place is not None:
                self._log.open[file.key] = place

    def _begin(self, entry: Entry) -> None:
        """Follow a file that has come."""
        path = self._source.listing.path(entry.name)
        try:
            file = GrowingFile(path, entry.name, self._format(entry.name), self._source.longest_line)
        except FileNotFoundError:
            return
        except (OSError, SourceError) as error:
            if path not in self._told:
                self._told.add(path)
                _log.warning("%s cannot be followed: %s; it is tried again", path, error)
            return
        self._followed.append(file)

    def _format(self, name: str) -> Format:
        return self._source.format_of_file(name)

    def _is_known(self, entry: Entry) -> bool:
        """Was the file followed to its end, and left?"""
        path = self._source.listing.path(entry.name)
        stamps = self._log.known.with_inode([entry.inode]) if len(self._log.known) else []
        return any(stamp.size <= entry.size and _mark(path, stamp.size) == stamp.mark for stamp in stamps)

    def _is_copy(self, entry: Entry) -> bool:
        """Is it a copy of a log that is followed, made to truncate that one, or to keep? Then its lines are known."""
        places = {file.name: file.place for file in self._followed} | dict(self._asleep.values())
        path = self._source.listing.path(entry.name)
        for end, letter in enumerate(entry.name):
            place = places.get(entry.name[:end]) if letter in ".-_~" else None
            if place is not None and 0 < place.at <= entry.size and _is_at(path, place):
                mark = _mark(path, entry.size) or NO_MARK
                stamp = Stamp(entry.size, entry.mtime_ns, entry.inode, mark)
                self._log.finish(f"{entry.name}#{entry.inode}", stamp)
                return True
        return False

    def _is_quiet(self, file: GrowingFile) -> bool:
        return time.time() - file.status.st_mtime > self._source.patience

    def _beside(self, path: str, place: Place, other_than: int | None) -> str | None:
        """The longest file in the same directory, of a like name, that begins with what was read up to this place."""
        directory, base = os.path.split(path)
        followed = {file.inode for file in self._followed} | {other_than}
        found: list[tuple[int, str]] = []
        try:
            with os.scandir(directory) as members:
                for member in members:
                    if member.name.startswith(base.split(".")[0]) and member.is_file():
                        status = member.stat()
                        if status.st_size >= place.at > 0 and status.st_ino not in followed:
                            found.append((status.st_size, member.path))
        except OSError:
            return None
        return next((candidate for _, candidate in sorted(found, reverse=True) if _is_at(candidate, place)), None)


def _mark(path: str, size: int) -> int | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return end_mark(file.fileno(), size)
    except OSError:
        return None


def _is_at(path: str, place: Place) -> bool:
    """Does the file begin with what was read up to this place?"""
    return _mark(path, place.at) == Stamp.parse(place.stamp).mark
