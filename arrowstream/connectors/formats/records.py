"""Where records end in a stream of bytes, where a line end does not say it: quoted CSV, and JSON over several lines.

A cutter is fed all bytes in turn, cut anywhere, and says where records end. It looks at each byte once, so that a
record that never ends costs no more than its bytes.
"""

from __future__ import annotations

import re
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Octets: TypeAlias = npt.NDArray[np.uint8]
Places: TypeAlias = npt.NDArray[np.intp]

_NEWLINE, _RETURN, _STRING, _ESCAPE = b'\n\r"\\'
_MARK = b"\xef\xbb\xbf"  # a byte order mark is not part of the first field
_NONE = np.zeros(0, np.intp)


class Cutter(Protocol):
    """Finds the ends of records in bytes that come piece by piece, from the beginning of a record on."""

    def feed(self, octets: Octets) -> Places:
        """The places in this piece after which a record ends, in order."""


class LineRecords:
    """A line is a record."""

    def feed(self, octets: Octets) -> Places:
        return np.flatnonzero(octets == _NEWLINE) + 1


_START, _PLAIN, _QUOTED, _CLOSING = "start", "plain", "quoted", "closing"


class QuotedRecords:
    """A line is a record, but for line ends within quotes.

    As in the csv module and in Arrow, only a field that begins with a quote is quoted; it ends at the next quote that
    is not doubled, and what follows up to the delimiter belongs to the field as it is. Start (of a field) -> Quoted ->
    Closing (a quote was seen within quotes: the next byte says whether it is doubled) -> Plain -> Start.
    """

    def __init__(self, quote: str, delimiter: str) -> None:
        self._quote, self._delimiter = ord(quote), ord(delimiter)
        self._state = _START
        self._fresh = True
        self.tidy = True
        """Whether all quotes so far stood at the edges of fields, or doubled within them."""

    @property
    def open(self) -> bool:
        """Would more bytes belong to a quoted field that was begun?"""
        return self._state == _QUOTED

    def feed(self, octets: Octets) -> Places:
        if not len(octets):
            return _NONE
        first = 0
        if self._fresh:
            self._fresh = False
            first = len(_MARK) * (octets[: len(_MARK)].tobytes() == _MARK)
        if self._state == _CLOSING:
            doubled = octets[0] == self._quote
            self._state = _QUOTED if doubled else _PLAIN
            self.tidy &= bool(doubled or octets[0] in (self._delimiter, _NEWLINE, _RETURN))
            first = int(doubled)
        rest = octets[first:]
        if not len(rest):
            return _NONE
        quotes = np.flatnonzero(rest == self._quote)
        found = self._by_parity(rest, quotes)
        if found is None:
            self.tidy = False
            found = self._by_walking(rest)
        return found + first

    def _by_parity(self, octets: Octets, quotes: Places) -> Places | None:
        """The ends where each quote stands where one opens or closes a field; else None, and nothing is changed."""
        within = self._state == _QUOTED
        count = len(quotes)
        if count:
            opens = (np.arange(count) + within) % 2 == 0
            begin, end = quotes[opens], quotes[~opens]
            before = octets[np.maximum(begin - 1, 0)]
            good = (before == self._delimiter) | (before == _NEWLINE) | (before == self._quote)
            if len(begin) and begin[0] == 0:
                good[0] = self._state == _START
            after = octets[np.minimum(end + 1, len(octets) - 1)]
            closed = (after == self._delimiter) | (after == _NEWLINE) | (after == _RETURN) | (after == self._quote)
            if not good.all() or not closed.all():
                return None
        ends = np.flatnonzero(octets == _NEWLINE)
        if count or within:
            ends = ends[(np.searchsorted(quotes, ends) + within) % 2 == 0]
        last = octets[-1]
        if (count + within) % 2:
            self._state = _QUOTED
        elif last == self._quote:
            self._state = _CLOSING
        else:
            self._state = _START if last in (self._delimiter, _NEWLINE) else _PLAIN
        return ends + 1

    def _by_walking(self, octets: Octets) -> Places:
        """The ends, field by field."""
        data = octets.tobytes()
        quote, newline = bytes([self._quote]), bytes([_NEWLINE])
        edge = re.compile(b"[" + re.escape(bytes([self._delimiter])) + b"\n]")
        ends = []
        at, state = 0, self._state
        while at < len(data):
            if state == _START:
                state = _QUOTED if data[at] == self._quote else _PLAIN
                at += state == _QUOTED
            elif state == _PLAIN:
                if (found := edge.search(data, at)) is None:
                    break
                at, state = found.end(), _START
                if found[0] == newline:
                    ends.append(at)
            elif state == _QUOTED:
                if (place := data.find(quote, at)) < 0:
                    break
                at, state = place + 1, _CLOSING
            else:
                state = _QUOTED if data[at] == self._quote else _PLAIN
                at += state == _QUOTED
        self._state = state
        return np.array(ends, np.intp)


class JsonRecords:
    """A record is a JSON object, over as many lines as it takes; what stands between objects belongs to the next.

    So the objects of an array are records, whether the array is begun in the same piece or not. Strings cannot hold
    line ends in JSON, so that one left open ends with its line.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._within = False
        self._escaped = False

    def feed(self, octets: Octets) -> Places:
        if not len(octets):
            return _NONE
        if self._escaped:
            octets = octets.copy()
            octets[0] = ord("x") if octets[0] != _NEWLINE else _NEWLINE
        quotes = self._quotes(octets)
        lines = np.flatnonzero(octets == _NEWLINE)
        braces = np.flatnonzero((octets == ord("{")) | (octets == ord("}")))
        depths = self._depth + np.cumsum(
            np.where(octets[braces] == ord("{"), 1, -1) * ~self._quoted(braces, quotes, lines)
        )
        depths = depths - np.minimum(np.minimum.accumulate(depths), 0) if len(depths) else depths
        closing = (octets[braces] == ord("}")) & (depths == 0) & ~self._quoted(braces, quotes, lines)
        self._within = bool(self._quoted(np.array([len(octets)]), quotes, lines)[0])
        self._depth = int(depths[-1]) if len(depths) else self._depth
        ends: Places = braces[closing] + 1
        return ends

    def _quotes(self, octets: Octets) -> Places:
        """Where strings begin and end: quotes after an even number of backslashes. Notes what the last byte escapes."""
        quotes = np.flatnonzero(octets == _STRING)
        slashes = np.flatnonzero(octets == _ESCAPE)
        self._escaped = False
        if not len(slashes):
            return quotes
        starts = np.flatnonzero(np.diff(slashes, prepend=-2) != 1)
        lengths = np.diff(starts, append=len(slashes))
        after = slashes[starts] + lengths  # the byte after each run of backslashes
        escaped = after[lengths % 2 == 1]
        self._escaped = bool(len(escaped) and escaped[-1] == len(octets))
        kept: Places = quotes[~np.isin(quotes, escaped)]
        return kept

    def _quoted(self, places: Places, quotes: Places, lines: Places) -> npt.NDArray[np.bool_]:
        """Which places are within a string: after an odd number of quotes in their line."""
        line = np.searchsorted(lines, places)
        begins = np.concatenate(([0], lines))[line]
        count = np.searchsorted(quotes, places) - np.searchsorted(quotes, begins)
        quoted: npt.NDArray[np.bool_] = (count + (self._within & (line == 0))) % 2 == 1
        return quoted
