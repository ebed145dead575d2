"""A file of lines, read from any byte on; positions are bytes of what the file holds once decompressed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from arrowstream.connectors.formats.encoding import RecodedFile, without_mark
from arrowstream.connectors.formats.format import Format, make_rejects
from arrowstream.connectors.source import REJECT_SCHEMA
from arrowstream.errors import SourceError
from arrowstream.sources._filelog import Place
from arrowstream.sources._knownfiles import Stamp, begins_with, end_mark
from arrowstream.sources._lines import LineBuffer, Lines
from arrowstream.sources._unfinished import Replaced, Unfinished

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class LineFile:
    """Rows of the lines from a byte of a file to the byte `last`, or to the end that it has now.

    `at` is the byte where the next line begins, `row` and `line` count the rows and lines before it; `format` is what
    decodes the lines (it knows the file's header, which is passed over). Raises `FileNotFoundError` where there is no
    file, `Unfinished` where its compressed data are cut off, and `SourceError`, with its name, where it is shorter,
    cannot be decompressed or has a header that does not fit.
    """

    def __init__(
        self, path: str, format: Format, first: int, last: int | None, longest: int, encoding: str | None = None
    ) -> None:
        self.path = path
        self.format, header, lines = with_header(path, format, encoding)
        self.at = max(first, header)
        self.row, self.line = 0, lines if first < header else 0
        self._bytes = _Bytes(path, self.at, last, encoding)
        self._buffer = LineBuffer(self._bytes.capacity, longest, format.cutter())
        self._failure: SourceError | None = None

    @classmethod
    def at_place(cls, path: str, format: Format, place: Place, longest: int, encoding: str | None = None) -> LineFile:
        """Go on with a file that was read in part, and may have grown; raises `Replaced` if it is another one."""
        if not begins_with(path, Stamp.parse(place.stamp)):
            raise Replaced(f"{path} was replaced after line {place.line} was read")
        file = cls(path, format, place.at, None, longest, encoding)
        file.row, file.line = place.row, max(place.line, file.line)
        return file

    @property
    def stamp(self) -> Stamp:
        """What the file was when it was opened; of one that is compressed its mark is of the compressed bytes."""
        return self._bytes.stamp

    @property
    def place(self) -> Place:
        return Place(self.at, self.row, self.line, str(self.stamp))

    def take(self, max_lines: int | None = None) -> Lines:
        """The next lines, at most a buffer of them; none at the end."""
        lines = _next_lines(self._buffer, self._bytes, max_lines)
        if self.at == 0:
            lines = without_first_mark(self.path, lines)
        self.at += lines.octets
        return lines

    def rows(self, max_lines: int | None = None) -> tuple[pa.RecordBatch, list[pa.RecordBatch]] | None:
        """The next lines as rows, and the refused ones (`REJECT_SCHEMA`) with their places; None at the end."""
        if self._failure is not None:
            raise self._failure
        at = self.at
        lines = self.take(max_lines)
        if not lines.count:
            return None
        decoded = self.format.decode(lines.data)
        refused = []
        if decoded.rejects is not None:
            refused.append(placed(decoded.rejects, lines, self.path, at, self.line))
        if lines.refused:
            alone = lines.count == len(lines.refused)
            numbers = [self.line + 1 + place if alone else None for place in range(len(lines.refused))]
            offsets = [at if alone and place == 0 else None for place in range(len(lines.refused))]
            refused += filter(None, [make_rejects(lines.refused, path=self.path, lines=numbers, offsets=offsets)])
        self.row += decoded.rows.num_rows
        self.line += lines.count
        return decoded.rows, refused

    def ended(self) -> bool:
        """Has the last line been taken? False where it is not known yet."""
        if self._failure is not None or not self._buffer.empty:
            return False
        try:
            octets = self._bytes.readinto(self._buffer.room())
        except SourceError as error:
            self._failure = error  # for who takes the next line
            return False
        self._buffer.filled(octets)
        return not octets

    def close(self) -> None:
        self._bytes.close()


def placed(rejects: pa.RecordBatch, lines: Lines, path: str, at: int, line: int) -> pa.RecordBatch:
    """Refused records of a buffer of lines with their places: it begins at byte `at`, after line number `line`.

    They are in order, and each is one of the lines (or begins with it) but for the blanks around it. Where lines too
    long were taken out of the buffer, or a record is not found as it was, the place stays open.
    """
    numbers: list[int | None] = []
    offsets: list[int | None] = []
    walk = iter(()) if lines.refused else _walk(lines.data)
    at += 0 if lines.refused else lines.octets - len(lines.data)  # a byte order mark was taken away
    for raw in rejects.column("raw").to_pylist():
        wanted = raw.split(b"\n", 1)[0].strip(b" \t\r")
        number, start = next(((number, start) for number, start, text in walk if text == wanted), (None, None))
        numbers.append(None if number is None else line + number)
        offsets.append(None if start is None else at + start)
    columns = [
        rejects.column("raw"),
        rejects.column("reason"),
        pa.array([path] * rejects.num_rows, pa.large_string()),
        pa.array(numbers, pa.int64()),
        pa.array(offsets, pa.int64()),
    ]
    return pa.record_batch(columns, REJECT_SCHEMA)


def _walk(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each line's number from 1, first byte, and text without blanks around it."""
    start = 0
    for number, text in enumerate(data.split(b"\n"), 1):
        yield number, start, text.strip(b" \t\r")
        start += len(text) + 1


class _Bytes:
    """The bytes of a file, decompressed and in UTF-8, from `first` to `last`."""

    def __init__(self, path: str, first: int, last: int | None, encoding: str | None = None) -> None:
        self._path, self._at = path, first
        compression = COMPRESSIONS.get(os.path.splitext(path)[1])
        self._file: Any = open(path, "rb", buffering=0)  # noqa: SIM115
        status = os.fstat(self._file.fileno())
        self.stamp = Stamp.of(status, end_mark(self._file.fileno(), status.st_size))
        self._last: int | None
        if compression is None and encoding is None:
            self._last = status.st_size if last is None else last
            self._file.seek(first)
        else:
            self._file.close()
            self._file = pa.input_stream(path, compression=compression)
            if encoding is not None:
                self._file = RecodedFile(self._file, encoding)
            self._last = last
            self._at = 0
            self._pass_over(first)

    @property
    def capacity(self) -> int:
        """A fit size of buffer: small for a small file, of which there may be thousands."""
        return 4 << 20 if self._last is None else min(max(self._last - self._at, 1 << 10), 4 << 20)

    def readinto(self, room: memoryview) -> int:
        """Read some bytes; 0 at the end, or where there is no room."""
        if self._last is not None:
            room = room[: max(self._last - self._at, 0)]
        if not len(room):
            return 0
        try:
            octets = int(self._file.readinto(room))
        except UnicodeError as error:
            raise SourceError(
                f"{self._path}: after byte {self._at} (as UTF-8) it is not of its encoding=: {error}"
            ) from error
        except (OSError, pa.ArrowException) as error:
            if "Truncated" in str(error):
                raise Unfinished(
                    f"{self._path} is not whole: its compressed data break off after {self._at} bytes of what it holds;"
                    " it is still being written, or was cut off"
                ) from None
            raise SourceError(f"{self._path} is damaged at byte {self._at}: {error}") from error
        if not octets and self._last is not None:
            raise SourceError(f"{self._path} has shrunk: byte {self._at} of {self._last} is its end")
        self._at += octets
        return octets

    def close(self) -> None:
        self._file.close()

    def _pass_over(self, first: int) -> None:
        """A compressed file, or one of another encoding, can be read from its beginning only."""
        waste = memoryview(bytearray(1 << 20))
        while self._at < first:
            if not self.readinto(waste[: first - self._at]):
                raise SourceError(f"{self._path} has shrunk: byte {self._at} is its end, and byte {first} was read")


def with_header(path: str, format: Format, encoding: str | None) -> tuple[Format, int, int]:
    """The format for what follows the file's header, and how many bytes and lines that is."""
    if not format.header:
        return format, 0, 0
    octets, at, lines = _Bytes(path, 0, None, encoding), 0, 0
    buffer = LineBuffer(capacity=1 << 16, cutter=format.cutter())
    try:
        while format.header and (line := _next_lines(buffer, octets, 1)).count:
            if at == 0:
                line = without_first_mark(path, line)
            format, at, lines = format.with_header(line.data), at + line.octets, lines + line.count
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    finally:
        octets.close()
    return format, at, lines


def without_first_mark(path: str, lines: Lines) -> Lines:
    try:
        return replace(lines, data=without_mark(lines.data))
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None


def _next_lines(buffer: LineBuffer, octets: _Bytes, max_lines: int | None) -> Lines:
    while not (lines := buffer.take(max_lines)).count:
        filled = octets.readinto(buffer.room())
        if not filled:
            return buffer.take_rest()
        buffer.filled(filled)
    return lines
