"""Texts that are not UTF-8, made UTF-8 before anything else looks at them; and byte order marks."""

from __future__ import annotations

import codecs
from typing import Any

from arrowstream.errors import PlanError

_MARK = codecs.BOM_UTF8
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PIECE = 1 << 16


def check_encoding(encoding: str) -> str | None:
    """What `Recoder` takes for an encoding; None for UTF-8, which needs none. Raises `PlanError` for what is none."""
    try:
        name = "utf8-lossy" if encoding == "utf8-lossy" else codecs.lookup(encoding).name
        "".encode(name if name != "utf8-lossy" else "utf-8")
    except (LookupError, TypeError):
        raise PlanError(
            f"encoding={encoding!r} is not known: give 'utf-8', 'utf8-lossy', or what Python calls it, such as"
            " 'utf-16', 'latin-1', 'windows-1252'"
        ) from None
    return None if name == "utf-8" else name


class Recoder:
    """Bytes of an encoding as UTF-8, piece by piece, however they are cut; "utf8-lossy" is UTF-8 whose bad bytes become
    the replacement character."""

    def __init__(self, encoding: str) -> None:
        name, errors = ("utf-8", "replace") if encoding == "utf8-lossy" else (encoding, "strict")
        self._decoder = codecs.getincrementaldecoder(name)(errors)

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """Raises `UnicodeError` for what is not of the encoding."""
        return self._decoder.decode(data, final).encode("utf-8", "surrogatepass")


class RecodedFile:
    """A binary file read as UTF-8, from its beginning on."""

    def __init__(self, file: Any, encoding: str) -> None:
        self._file, self._recoder = file, Recoder(encoding)
        self._waiting = b""
        self._ended = False

    def readinto(self, room: memoryview) -> int:
        while not self._waiting and not self._ended:
            data = self._file.read(_PIECE)
            self._ended = not data
            self._waiting = self._recoder.feed(data, final=self._ended)
        count = min(len(room), len(self._waiting))
        room[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count

    def close(self) -> None:
        self._file.close()


def without_mark(data: bytes) -> bytes:
    """The first bytes of a file or connection without its byte order mark; raises `ValueError` for that of UTF-16."""
    if data.startswith(_OTHER_MARKS):
        raise ValueError("this is UTF-16 (it begins with a byte order mark of it): give encoding='utf-16'")
    return data.removeprefix(_MARK)
