"""A reader of the files of a split: which file is next, and what becomes of those that cannot be read."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.format import make_rejects
from arrowstream.connectors.formats.schema import NewColumnsError
from arrowstream.connectors.source import EndOfStream, Offset, Reference
from arrowstream.errors import SourceError
from arrowstream.sources._columnar import Footer, widest
from arrowstream.sources._filelog import FileLog, Place
from arrowstream.sources._knownfiles import NO_MARK, Stamp, end_mark
from arrowstream.sources._linefile import LineFile
from arrowstream.sources._listing import Entry
from arrowstream.sources._refusals import Refusals
from arrowstream.sources._unfinished import Replaced, Unfinished

if TYPE_CHECKING:
    from arrowstream.sources.files import FileSource

_FIRST_BYTES = 1024  # of a bad file, in its dead letter

_log = logging.getLogger("arrowstream")


@dataclass(slots=True)
class _Parked:
    """A file that cannot be read now: as it was found then, and why. `told` once the log has named it."""

    found: tuple[int, int, int]
    reason: str
    told: bool = False


@dataclass(slots=True)
class _Columns:
    """A columnar file at hand: rows before `at` have been given."""

    name: str
    footer: Footer
    at: int


@dataclass(slots=True)
class _Lines:
    """A file of lines at hand, with the columns that all its rows have alike."""

    name: str
    file: LineFile
    constants: Mapping[str, pl.Series]


class FileReader:
    """The files of one split, one after the other, oldest first.

    New -> waiting -> at hand -> known. A file that is not whole is parked until it changes; after the source's
    `patience` it is bad. A known file that looks otherwise at a later look was replaced. `acknowledge` may come from
    any thread, and so may `close`, which ends a `poll` that waits with `EndOfStream`.
    """

    def __init__(self, source: FileSource, split: int, log: FileLog) -> None:
        self._source, self._split, self._log = source, split, log
        self._waiting: deque[str] = deque()
        self._columns: _Columns | None = None
        self._lines: _Lines | None = None
        self._parked: dict[str, _Parked] = {}
        self._restless: dict[str, Entry] = {}  # replaced, and perhaps still being written
        self._refused: list[pa.RecordBatch] = []
        self._judge = Refusals(source.path, source.on_bad)
        self._warned = False
        self._polling = threading.Lock()
        self._closed = threading.Event()
        self._look()

    def poll(self, timeout: float) -> pa.RecordBatch | Reference | None:
        deadline = time.monotonic() + timeout
        with self._polling:
            while not self._closed.is_set():
                found = self._read_lines() if self._source.lines is not None else self._refer()
                if found is not None or self._refused:
                    self._log.take_step()
                    return found
                self._judge.pause()
                if not self._source.watch:
                    self._give_up({})
                    if not self._refused:
                        break
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
        """Nothing is let go of: what has been read must be known as long as it may be found again."""

    def close(self) -> None:
        self._closed.set()
        with self._polling:
            self._let_go()

    # Which files there are.

    def _look(self) -> None:
        """See which files have come, and what became of those that are known."""
        began = time.monotonic()
        found = self._source.listing.look(self._split)
        entries = {entry.name: entry for entry in found.entries}
        if not found.total:
            self._warn_of_nothing(dict(found.others))
        self._go_on_with_parked(entries)
        new, changed = self._log.known.sort_out(found.entries)
        at_hand = self._name_at_hand()
        waiting = [entry for entry in new if entry.size and entry.name != at_hand]
        # Renamed, or moved within the directory: the same file under another name.
        same = self._log.known.of_inode(waiting) if waiting else []
        moved = {entry.name: stamp for entry, stamp in same if self._mark(entry) == stamp.mark}
        for name, stamp in moved.items():
            self._log.finish(name, stamp)
        self._restless = {name: entry for name, entry in self._restless.items() if name in entries}
        again = [entry for entry, stamp in changed if self._is_replaced(entry, stamp)]
        started = [name for name in self._log.open if name not in self._parked and name != at_hand]
        taken = {at_hand, *started, *self._parked, *moved}
        self._waiting = deque([*started, *(entry.name for entry in [*waiting, *again] if entry.name not in taken)])
        # A directory of millions of files takes a while to look at: half of the time is for reading.
        self._next_look = time.monotonic() + max(self._source.poll_interval, time.monotonic() - began)

    def _warn_of_nothing(self, others: dict[str, int]) -> None:
        """A source that matches nothing says so, once."""
        if self._warned:
            return
        self._warned = True
        seen = [f"{count} {_ending(ending)}" for ending, count in sorted(others.items())]
        _log.warning(
            "no file at %s yet%s",
            self._source.path,
            f"; passed over: {', '.join(seen)} (see the options endings= and ignore=)" if seen else "",
        )

    def _is_replaced(self, entry: Entry, stamp: Stamp) -> bool:
        """Is a known file that looks otherwise to be read again?"""
        if not entry.size:
            return False  # about to be written, perhaps
        path = self._source.listing.path(entry.name)
        if stamp.mark != NO_MARK:
            mark = self._mark(entry)
            if mark is None:
                return False
            if (entry.size, mark) == (stamp.size, stamp.mark):  # touched, or copied onto itself
                self._log.finish(entry.name, Stamp(entry.size, entry.mtime_ns, entry.inode, mark))
                return False
            if self._source.on_replaced == "ignore":
                _log.warning("%s has changed after it was read; as on_replaced='ignore' says, it is left alone", path)
                self._log.finish(entry.name, Stamp(entry.size, entry.mtime_ns, entry.inode, mark))
                return False
            if self._source.on_replaced == "error":
                raise SourceError(self._said_of_replaced(entry, stamp))
        # What is written in place is taken once it has been the same for two looks.
        settled = self._restless.get(entry.name) == entry or not self._source.watch
        self._restless[entry.name] = entry
        return settled

    def _said_of_replaced(self, entry: Entry, stamp: Stamp) -> str:
        path = self._source.listing.path(entry.name)
        grown = entry.size > stamp.size and self._mark(entry, stamp.size) == stamp.mark
        cure = (
            "a file that grows is followed with tail=True"
            if grown and self._source.lines is not None
            else "on_replaced='read' reads it again as a new file, 'ignore' leaves it alone"
        )
        return (
            f"{path} has changed after it was read: {stamp.size} bytes then, {entry.size} now; {cure}, or write files"
            " under a hidden name and rename them when they are whole"
        )

    def _mark(self, entry: Entry, size: int | None = None) -> int | None:
        """The mark of a file as it is now; None where it is gone, or cannot be read."""
        try:
            with open(self._source.listing.path(entry.name), "rb", buffering=0) as file:
                return end_mark(file.fileno(), entry.size if size is None else size)
        except OSError:
            return None

    # Files that cannot be read.

    def _go_on_with_parked(self, entries: Mapping[str, Entry]) -> None:
        """Parked files that have changed are tried again; those that have been quiet for too long are bad."""
        for name, parked in list(self._parked.items()):
            entry = entries.get(name)
            if entry is None and name not in self._log.open:
                del self._parked[name]  # it is gone, and nothing of it was read
            elif entry is not None and (entry.size, entry.mtime_ns, entry.inode) != parked.found:
                del self._parked[name]
        self._give_up(entries)

    def _give_up(self, entries: Mapping[str, Entry]) -> None:
        """Files that have not changed within the source's patience are bad; all of them, where nothing more comes."""
        for name, parked in list(self._parked.items()):
            quiet = time.time() - parked.found[1] / 1e9
            if not self._source.watch or name not in entries or quiet > self._source.patience:
                self._bad(name, parked.reason, parked)

    def _trouble(self, name: str, error: Exception) -> None:
        """A file cannot be read, or not on: is it gone, not whole yet, or bad?"""
        self._let_go()
        place = self._log.open.get(name)
        path = self._source.listing.path(name)
        if isinstance(error, FileNotFoundError):
            if place is None:
                return  # gone before a row of it was read
            self._bad(name, f"{path} is gone, and was read up to {_how_far(place)}", None)
        elif isinstance(error, NewColumnsError):
            raise SourceError(f"{path}: {error}") from None
        elif isinstance(error, Replaced):
            self._replaced_midway(name, str(error))
        elif isinstance(error, Unfinished):
            self._parked[name] = _Parked(_found(path), str(error))
        elif isinstance(error, SourceError):
            self._bad(name, str(error), None)
        else:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._parked[name] = _Parked(_found(path), f"{path} cannot be read: {reason}")

    def _replaced_midway(self, name: str, reason: str) -> None:
        """Of a file that was read in part when the reader was lost, another one is there now."""
        if self._source.on_replaced == "error":
            raise SourceError(f"{reason}; on_replaced='read' reads what is there now from its beginning")
        _log.warning("%s; on_replaced=%r", reason, self._source.on_replaced)
        place = self._log.open.pop(name)
        if self._source.on_replaced == "read":
            self._waiting.append(name)
        else:
            self._log.finish(name, Stamp.parse(place.stamp))

    def _bad(self, name: str, reason: str, parked: _Parked | None) -> None:
        """A file that cannot be read: as the user wants it, the end, a dead letter, or left until it changes."""
        path = self._source.listing.path(name)
        if self._source.bad_files == "fail":
            raise SourceError(f"{reason} (bad_files='dead_letter' would set it aside and go on)")
        if self._source.bad_files == "wait":
            waits = self._parked.setdefault(name, _Parked(_found(path), reason))
            if not waits.told:
                waits.told = True
                _log.warning("%s; the stream goes on without it until it changes", reason)
            return
        if parked is not None:
            del self._parked[name]
            if self._source.watch:
                reason = f"{reason}; it has not changed for {self._source.patience:g} seconds"
        _log.warning("%s; it is in the dead letters, and the stream goes on without it", reason)
        place = self._log.open.get(name)
        refused = make_rejects(
            [(_first_bytes(path), reason)],
            path=path,
            lines=[place.line + 1 if place is not None and self._source.lines is not None else None],
            offsets=[place.at if place is not None and self._source.lines is not None else None],
        )
        assert refused is not None
        self._refused.append(refused)
        size, mtime_ns, inode = _found(path)
        mark = NO_MARK
        if place is not None:
            mark = self._mark(Entry(mtime_ns, name, size, inode)) or NO_MARK
        self._log.finish(name, Stamp(size, mtime_ns, inode, mark))

    def _name_at_hand(self) -> str | None:
        at_hand = self._columns or self._lines
        return None if at_hand is None else at_hand.name

    def _let_go(self) -> None:
        if self._lines is not None:
            self._lines.file.close()
        self._columns = self._lines = None

    # Columnar files.

    def _refer(self) -> Reference | None:
        """Rows of as many files as make up one poll."""
        rows = nbytes = 0
        ranges: list[Mapping[str, tuple[int, int]]] = []
        most = self._source.max_rows_per_poll
        while rows < most and (file := self._columns_at_hand()) is not None:
            footer, first = file.footer, file.at
            stop = footer.cut(first, most - rows)
            if rows and stop not in footer.ends:
                break  # the next poll can take the whole row group
            try:
                refused = self._source.refused_rows(file.name, footer, first, stop)
            except (OSError, SourceError) as error:
                self._trouble(file.name, error)
                break
            bad = 0 if refused is None else refused.num_rows
            rows, nbytes = rows + stop - first - bad, nbytes + footer.nbytes_of(stop - first)
            ranges.append({} if bad else self._source.known_ranges(file.name, footer, first, stop))
            self._judge.note(
                stop - first - bad, [] if refused is None else [refused], self._source.listing.path(file.name)
            )
            file.at = stop
            self._log.read(file.name, first, stop, first, footer.stamp)
            if stop == footer.num_rows:
                self._log.finish(file.name, footer.stamp)
                self._columns = None
            else:
                self._log.open[file.name] = Place(stop, stop, 0, str(footer.stamp))
            if refused is not None:
                self._refused.append(refused)
                break
        return Reference(rows, nbytes, widest(ranges)) if rows else None

    def _columns_at_hand(self) -> _Columns | None:
        """The file at hand, else the next one that can be read; None where there is none."""
        while self._columns is None and self._waiting:
            name = self._waiting.popleft()
            place = self._log.open.get(name)
            try:
                footer = self._source.footer(name)
                if place is not None and not footer.stamp.same_bytes(Stamp.parse(place.stamp)):
                    raise Replaced(f"{self._source.listing.path(name)} was replaced after row {place.at} was read")
            except (OSError, SourceError) as error:
                self._trouble(name, error)
                if self._refused:
                    break
                continue
            self._columns = _Columns(name, footer, 0 if place is None else place.at)
        return self._columns

    # Files of lines.

    def _read_lines(self) -> pa.RecordBatch | None:
        """Rows of the next lines; None where there are none, or none of them is a row."""
        while (at_hand := self._lines_at_hand()) is not None:
            file, name = at_hand.file, at_hand.name
            first, row = file.at, file.row
            try:
                found = file.rows(self._source.max_rows_per_poll)
            except (OSError, SourceError) as error:
                self._trouble(name, error)
                if self._refused:
                    return None
                continue
            if found is None:
                self._log.finish(name, file.stamp)
                self._let_go()
                continue
            rows, refused = found
            self._judge.note(rows.num_rows, refused, file.path)
            self._refused += refused
            self._log.read(name, first, file.at, row, file.stamp)
            self._log.open[name] = file.place
            if file.ended():  # at once, so that nobody writes to it while it is held
                self._log.finish(name, file.stamp)
                self._let_go()
            if rows.num_rows:
                return self._source.columns.dressed(rows, at_hand.constants, row)
            if self._refused:
                return None
        return None

    def _lines_at_hand(self) -> _Lines | None:
        while self._lines is None and self._waiting and not self._refused:
            name = self._waiting.popleft()
            place = self._log.open.get(name)
            try:
                file = self._source.line_file(name, place)
                try:
                    constants = self._source.constants(name, file.stamp)
                except SourceError:
                    file.close()
                    raise
            except (OSError, SourceError) as error:
                self._trouble(name, error)
                continue
            self._lines = _Lines(name, file, constants)
        return self._lines


def _found(path: str) -> tuple[int, int, int]:
    """Size, time of change and inode of a file; zeros where it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_FIRST_BYTES)
    except OSError:
        return b""


def _how_far(place: Place) -> str:
    return f"line {place.line}" if place.line else f"row {place.at}"


def _ending(ending: str) -> str:
    if ending.startswith("."):
        return f"ending in {ending}"
    return f"with {ending}" if ending else "hidden or not finished"
