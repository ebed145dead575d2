"""Texts by the column, cut out of a pool of letters as Arrow string views: no byte is copied."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers: TypeAlias = npt.NDArray[np.int64]

_INLINE = 12  # bytes that a string view holds itself


class Letters:
    """Bytes that strings are cut out of."""

    def __init__(self, data: bytes) -> None:
        self._buffer = pa.py_buffer(data)
        text = np.frombuffer(data + bytes(_INLINE), np.uint8)
        self._blank = text == ord(" ")
        wide = text.astype(np.uint64)
        self._head = np.zeros(len(data), np.uint64)  # the first four bytes from each place on, and the eight after
        self._tail = np.zeros(len(data), np.uint64)
        for byte in range(_INLINE):
            part = wide[byte : byte + len(data)]
            if byte < 4:
                self._head |= part << np.uint64(8 * byte)
            else:
                self._tail |= part << np.uint64(8 * (byte - 4))

    def cut(self, start: Numbers, length: Numbers) -> pa.Array:
        """Strings of these lengths (bytes) from these places on, as Arrow string views."""
        return self.array(self.views(start, length))

    def views(self, start: Numbers, length: Numbers) -> npt.NDArray[np.uint64]:
        """Two words a string: length and first bytes; then the next eight bytes, or buffer 0 and the place in it."""
        short = np.minimum(length, _INLINE)
        views = np.empty((len(start), 2), np.uint64)
        views[:, 0] = length.astype(np.uint64) | ((self._head[start] & _HEADS[short]) << np.uint64(32))
        inline = self._tail[start] & _TAILS[short]
        views[:, 1] = np.where(length <= _INLINE, inline, start.astype(np.uint64) << np.uint64(32))
        return views

    def array(self, views: npt.NDArray[np.uint64]) -> pa.Array:
        return pa.Array.from_buffers(pa.string_view(), len(views), [None, pa.py_buffer(views), self._buffer])

    def stripped(self, start: Numbers, length: Numbers) -> tuple[pa.Array, Numbers]:
        """The strings without blanks at their ends, and their lengths."""
        first, last = self._ends
        begin = first[start]
        length = np.maximum(np.minimum(last[start + length - 1] + 1, start + length) - begin, 0)
        return self.cut(np.where(length > 0, begin, 0), length), length

    @cached_property
    def _ends(self) -> tuple[Numbers, Numbers]:
        """For each place, the next that is no blank, and the last that is none."""
        places = np.arange(len(self._blank), dtype=np.int64)
        last = np.maximum.accumulate(np.where(self._blank, -1, places))
        first = np.minimum.accumulate(np.where(self._blank, len(places), places)[::-1])[::-1]
        return first, last


def _mask(count: int) -> int:
    return (1 << 8 * max(count, 0)) - 1


_HEADS = np.array([_mask(min(length, 4)) for length in range(_INLINE + 1)], np.uint64)
_TAILS = np.array([_mask(min(length - 4, 8)) for length in range(_INLINE + 1)], np.uint64)


class Words:
    """A list of strings to take from."""

    def __init__(self, words: list[str]) -> None:
        data = [word.encode() for word in words]
        self._lengths = np.array([len(word) for word in data], np.int64)
        self._letters = Letters(b"".join(data))
        self._views = self._letters.views(np.cumsum(self._lengths) - self._lengths, self._lengths)

    def take(self, places: Numbers) -> tuple[pa.Array, Numbers]:
        """The strings at these places, and their lengths in bytes."""
        return self._letters.array(self._views[places]), self._lengths[places]
