"""Cut a stream of bytes into buffers of whole lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LONGEST_LINE = 16 << 20
"""Bytes of a line, beyond which it is taken for garbage: a peer that sends no line end must not fill the memory."""

_KEPT = 64 << 10  # bytes of a line too long that go to the rejects


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines, and what they make of the position.

    data     the lines with their ends, fit for `Format.decode`; the last one may lack it
    count    how many lines the position moves by, those too long among them
    octets   how many bytes the position moves by
    refused  lines too long, cut off, with the reason
    """

    data: bytes = b""
    count: int = 0
    octets: int = 0
    refused: tuple[tuple[bytes, str], ...] = ()


class LineBuffer:
    """A buffer that is used again and again: bytes go in at its end, whole lines come out at its front.

    Give bytes with `room` and `filled`, take lines with `take`. A line of more than `longest` bytes is refused,
    however it is cut; no more of it than `longest` bytes is ever held.
    """

    def __init__(self, capacity: int = 4 << 20, longest: int = LONGEST_LINE) -> None:
        self._capacity, self.longest = capacity, longest
        self._bytes = bytearray(capacity)
        self._end = 0  # bytes held
        self._whole = 0  # bytes of whole lines among them
        self._head = b""  # the beginning of a line too long
        self._dropped = 0  # bytes of that line which are no longer here; 0 outside of such a line
        self._passed: tuple[bytes, int] | None = None  # such a line that has ended: its beginning, its bytes

    def room(self) -> memoryview:
        """Where the next bytes go; empty while lines have to be taken first."""
        if self._passed or (self._dropped and self._whole):
            return memoryview(b"")
        if self._end == len(self._bytes) and not self._whole:
            larger = bytearray(max(2 * self._end, 1 << 16))
            larger[: self._end] = self._bytes
            self._bytes = larger
        return memoryview(self._bytes)[self._end :]

    def filled(self, octets: int) -> None:
        """So many bytes have been put into the `room`."""
        start, self._end = self._end, self._end + octets
        if self._dropped:
            self._pass_over()
            start = 0
        self._whole = max(self._whole, self._bytes.rfind(b"\n", start, self._end) + 1)
        if self._end - self._whole > self.longest:
            self._head = bytes(self._bytes[self._whole : self._whole + min(_KEPT, self.longest)])
            self._dropped = self._end - self._whole
            self._end = self._whole

    def take(self, max_lines: int | None = None) -> Lines:
        """All whole lines, or the first `max_lines`; none may be at hand."""
        if self._passed:
            (head, octets), self._passed = self._passed, None
            return Lines(count=1, octets=octets, refused=((head, self._too_long(octets - 1)),))
        if not self._whole:
            return Lines()
        ends = np.flatnonzero(np.frombuffer(self._bytes, np.uint8, self._whole) == ord("\n"))
        if max_lines is not None:
            ends = ends[:max_lines]
        octets = int(ends[-1]) + 1
        data = bytes(memoryview(self._bytes)[:octets])
        self._drop(octets)
        lengths = np.diff(ends, prepend=-1) - 1
        if int(lengths.max()) <= self.longest:
            return Lines(data, len(ends), octets)
        return self._without_long(data, len(ends))

    def take_rest(self) -> Lines:
        """The last line, which has no end, when no more will come; nothing if there is none."""
        if self._dropped:
            octets, self._dropped = self._dropped, 0
            return Lines(count=1, octets=octets, refused=((self._head, self._too_long(octets)),))
        data = bytes(memoryview(self._bytes)[: self._end])
        self._drop(self._end)
        return Lines(data, 1 if data else 0, len(data))

    def _pass_over(self) -> None:
        """Forget bytes up to the end of a line too long."""
        end = self._bytes.find(b"\n", 0, self._end)
        if end < 0:
            self._dropped += self._end
            self._end = 0
            return
        self._passed = self._head, self._dropped + end + 1
        self._dropped = 0
        self._drop(end + 1)

    def _drop(self, octets: int) -> None:
        """Move what follows the first `octets` bytes to the front."""
        rest = self._end - octets
        if len(self._bytes) > self._capacity and rest <= self._capacity:
            smaller = bytearray(self._capacity)
            smaller[:rest] = memoryview(self._bytes)[octets : self._end]
            self._bytes = smaller
        elif rest:
            view = memoryview(self._bytes)
            view[:rest] = view[octets : self._end]
        self._end, self._whole = rest, max(self._whole - octets, 0)

    def _without_long(self, data: bytes, count: int) -> Lines:
        lines = data.removesuffix(b"\n").split(b"\n")
        good = b"".join(line + b"\n" for line in lines if len(line) <= self.longest)
        refused = tuple(
            (line[: min(_KEPT, self.longest)], self._too_long(len(line))) for line in lines if len(line) > self.longest
        )
        return Lines(good, count, len(data), refused)

    def _too_long(self, octets: int) -> str:
        return f"the line is {octets} bytes long, and {self.longest} are allowed; this is its beginning"
