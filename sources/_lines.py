"""Cut a stream of bytes into buffers of whole lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arrowstream.connectors.formats.records import Cutter, Places

LONGEST_LINE = 16 << 20
"""Bytes of a line, beyond which it is taken for garbage: a peer that sends no line end must not fill the memory."""

_KEPT = 64 << 10  # bytes of a line too long that go to the rejects


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole records, and what they make of the position.

    data     the records with their ends, fit for `Format.decode`; the last one may lack it
    count    how many lines the position moves by, those too long among them; at least 1 where there is a record
    octets   how many bytes the position moves by
    refused  lines too long, cut off, with the reason
    """

    data: bytes = b""
    count: int = 0
    octets: int = 0
    refused: tuple[tuple[bytes, str], ...] = ()


class LineBuffer:
    """A buffer that is used again and again: bytes go in at its end, whole records come out at its front.

    Give bytes with `room` and `filled`, take records with `take`. A line is a record unless a `cutter` says otherwise.
    A record of more than `longest` bytes is refused, however it is cut; no more of it than that is ever held.
    """

    def __init__(self, capacity: int = 4 << 20, longest: int = LONGEST_LINE, cutter: Cutter | None = None) -> None:
        self._capacity, self.longest = capacity, longest
        self._cutter = cutter
        self._ends = np.zeros(0, np.intp)  # where records end, if a cutter says it
        self._bytes = bytearray(capacity)
        self._end = 0  # bytes held
        self._whole = 0  # bytes of whole records among them
        self._head = b""  # the beginning of a record too long
        self._dropped = 0  # bytes of that record which are no longer here; 0 outside of such a record
        self._lines = 0  # line ends within them
        self._passed: Lines | None = None  # such a record that has ended

    @property
    def empty(self) -> bool:
        """Is nothing at hand, not even a part of a record?"""
        return not (self._end or self._dropped or self._passed)

    def room(self) -> memoryview:
        """Where the next bytes go; empty while records have to be taken first."""
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
        if self._cutter is None:
            last = self._bytes.rfind(b"\n", start, self._end) + 1
        else:
            found = self._cutter.feed(np.frombuffer(self._bytes, np.uint8, octets, start)) + start
            self._ends = np.concatenate((self._ends, found)) if len(self._ends) else found
            last = int(found[-1]) if len(found) else 0
        self._whole = max(self._whole, last)
        if self._dropped:
            self._pass_over()
        if self._end - self._whole > self.longest:
            self._head = bytes(self._bytes[self._whole : self._whole + min(_KEPT, self.longest)])
            self._dropped = self._end - self._whole
            self._lines = self._bytes.count(b"\n", self._whole, self._end)
            self._end = self._whole

    def take(self, max_lines: int | None = None) -> Lines:
        """All whole records, or the first `max_lines`; none may be at hand."""
        if self._passed:
            passed, self._passed = self._passed, None
            return passed
        if not self._whole:
            return Lines()
        if self._cutter is None:
            ends = np.flatnonzero(np.frombuffer(self._bytes, np.uint8, self._whole) == ord("\n")) + 1
        else:
            ends = self._ends
        if max_lines is not None:
            ends = ends[:max_lines]
        octets = int(ends[-1])
        data = bytes(memoryview(self._bytes)[:octets])
        self._drop(octets)
        count = len(ends) if self._cutter is None else max(data.count(b"\n"), 1)
        lengths = np.diff(ends, prepend=0)
        if int(lengths.max()) <= self.longest:
            return Lines(data, count, octets)
        return self._without_long(data, ends, count)

    def take_rest(self) -> Lines:
        """The last record, which has no end, when no more will come; nothing if there is none."""
        if self._dropped:
            octets, self._dropped = self._dropped, 0
            return Lines(count=self._lines + 1, octets=octets, refused=((self._head, self._too_long(octets)),))
        data = bytes(memoryview(self._bytes)[: self._end])
        self._drop(self._end)
        return Lines(data, data.count(b"\n") + (not data.endswith(b"\n")) if data else 0, len(data))

    def _pass_over(self) -> None:
        """Forget bytes up to the end of a record too long."""
        if self._cutter is None:
            end = self._bytes.find(b"\n", 0, self._end) + 1
        else:
            end = int(self._ends[0]) if len(self._ends) else 0
        inner = self._bytes.count(b"\n", 0, end or self._end)
        if not end:
            self._dropped, self._lines = self._dropped + self._end, self._lines + inner
            self._end = 0
            return
        octets = self._dropped + end
        refused = (self._head, self._too_long(octets - (self._bytes[end - 1] == ord("\n"))))
        self._passed = Lines(count=max(self._lines + inner, 1), octets=octets, refused=(refused,))
        self._dropped = 0
        self._drop(end)

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
        if len(self._ends):
            self._ends = self._ends[np.searchsorted(self._ends, octets, "right") :] - octets

    def _without_long(self, data: bytes, ends: Places, count: int) -> Lines:
        records = [data[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        good, refused = [], []
        for record in records:
            length = len(record.removesuffix(b"\n"))
            if length <= self.longest:
                good.append(record)
            else:
                refused.append((record[: min(_KEPT, self.longest)], self._too_long(length)))
        return Lines(b"".join(good), count, len(data), tuple(refused))

    def _too_long(self, octets: int) -> str:
        kind = "line" if self._cutter is None else "record"
        return (
            f"the {kind} is {octets} bytes long, and {self.longest} are allowed; this is its beginning"
            " (longest_line= allows more)"
        )
