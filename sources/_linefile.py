"""A file of lines, read from any byte on; positions are bytes of what the file holds once decompressed."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pyarrow as pa

from arrowstream.connectors.formats.encoding import RecodedFile, without_mark
from arrowstream.connectors.formats.format import Format
from arrowstream.errors import SourceError
from arrowstream.sources._lines import LineBuffer, Lines

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class LineFile:
    """Lines from the byte `first` of a file to the byte `last`, or to the end that it has now.

    `at` is the byte where the next line begins, `format` what decodes the lines (it knows the file's header, which is
    passed over). Raises `FileNotFoundError` where there is no file, and `SourceError`, with its name, where it is
    shorter, cannot be decompressed or has a header that does not fit.
    """

    def __init__(
        self, path: str, format: Format, first: int, last: int | None, longest: int, encoding: str | None = None
    ) -> None:
        self.path = path
        self.format, header = _with_header(path, format, encoding)
        self.at = max(first, header)
        self._bytes = _Bytes(path, self.at, last, encoding)
        self._buffer = LineBuffer(self._bytes.capacity, longest, format.cutter())

    def take(self, max_lines: int | None = None) -> Lines:
        """The next lines, at most a buffer of them; none at the end."""
        lines = _next_lines(self._buffer, self._bytes, max_lines)
        if self.at == 0:
            lines = _without_mark(self.path, lines)
        self.at += lines.octets
        return lines

    def close(self) -> None:
        self._bytes.close()


class _Bytes:
    """The bytes of a file, decompressed and in UTF-8, from `first` to `last`."""

    def __init__(self, path: str, first: int, last: int | None, encoding: str | None = None) -> None:
        self._path, self._at = path, first
        compression = COMPRESSIONS.get(os.path.splitext(path)[1])
        self._file: Any
        self._last: int | None
        if compression is None and encoding is None:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115
            self._last = os.fstat(self._file.fileno()).st_size if last is None else last
            self._file.seek(first)
        else:
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


def _with_header(path: str, format: Format, encoding: str | None) -> tuple[Format, int]:
    """The format for what follows the file's header, and how many bytes that is."""
    if not format.header:
        return format, 0
    octets, at = _Bytes(path, 0, None, encoding), 0
    buffer = LineBuffer(capacity=1 << 16, cutter=format.cutter())
    try:
        while format.header and (line := _next_lines(buffer, octets, 1)).count:
            if at == 0:
                line = _without_mark(path, line)
            format, at = format.with_header(line.data), at + line.octets
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    finally:
        octets.close()
    return format, at


def _without_mark(path: str, lines: Lines) -> Lines:
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
