"""Lines from a TCP server: `nc -lk 9999`, and whatever else writes lines to whoever connects."""

from __future__ import annotations

import contextlib
import copy
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from arrowstream.connectors.formats.encoding import Recoder, check_encoding, without_mark
from arrowstream.connectors.formats.format import Format, make_rejects
from arrowstream.connectors.formats.make import make_format
from arrowstream.connectors.formats.schema import SchemaLike
from arrowstream.connectors.source import EndOfStream, Offset
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources._lines import LONGEST_LINE, LineBuffer, Lines
from arrowstream.sources._refusals import OnBad, Refusals, check_on_bad

_CONNECT_SECONDS = 10.0


class SocketSource:
    """Rows from the lines that a TCP server sends.

    address       "host:port"; an IPv6 address in brackets, "[::1]:9999"
    format        "text" (one String column `line`), "ndjson" or "csv", with `schema` and the format's own options
    reconnect     connect again, with back-off, when the server closes; False ends the stream there
    ack           answer on the same connection: the line "ACK n" says that the first n lines that came over this
                  connection are safe. Coalesced, so not every n is named
    longest_line  bytes; a longer line goes to the rejects, cut off
    encoding      of what is sent, where it is not UTF-8: "utf-16", "latin-1" ...
    on_bad        what to do with a record that is refused: "dead_letter", or "fail" to end the stream

    Not replayable: lines that were sent while nobody was connected, or were lost with a process before they were
    safe, are gone, unless the sender minds "ACK" and sends them again. The position counts lines.
    """

    replayable = False

    def __init__(
        self,
        address: str,
        format: str = "text",
        schema: SchemaLike | None = None,
        *,
        reconnect: bool = True,
        ack: bool = False,
        longest_line: int = LONGEST_LINE,
        encoding: str = "utf-8",
        on_bad: OnBad = "dead_letter",
        **options: Any,
    ) -> None:
        self.address = address
        self.host, self.port = _parse_address(address)
        self.format: Format = make_format(format, schema, **options)
        self.reconnect, self.ack, self.longest_line = reconnect, ack, longest_line
        self.encoding, self.on_bad = check_encoding(encoding), check_on_bad(on_bad)
        if ack and self.format.cutter() is not None and format == "json":
            raise PlanError("ack=True counts lines, and JSON over several lines has none: take format='ndjson'")
        if longest_line < 1:
            raise PlanError(f"longest_line={longest_line} is no number of bytes")

    @property
    def schema(self) -> pa.Schema:
        return self.format.schema

    def splits(self) -> Sequence[str]:
        return [self.address]

    def open(self, split: str, resume: Offset | None) -> SocketReader:
        """Connect; lines are counted on from `resume`. An `OSError` says that the server is not there (yet)."""
        return SocketReader(self, self._connect(), resume if isinstance(resume, int) else 0)

    def bounded(self) -> SocketSource:
        """This source, ending when the server closes."""
        bounded = copy.copy(self)
        bounded.reconnect = False
        return bounded

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection((self.host, self.port), timeout=_CONNECT_SECONDS)
        except ConnectionRefusedError as error:
            raise ConnectionRefusedError(
                f"nothing listens at {self.address} (connection refused): start the server first,"
                f" e.g. `nc -lk {self.port}`"
            ) from error
        except socket.gaierror as error:
            raise OSError(
                f"the host of {self.address} is not known ({error.strerror}): is it spelled right?"
            ) from error
        except OSError as error:
            raise OSError(f"{self.address} cannot be reached: {error}") from error

    def __repr__(self) -> str:
        return f"SocketSource({self.address!r})"


class SocketReader:
    """A connection being read.

    Open -> (the server closes) -> Ended; `close` may come at any time and from any thread, and ends a `poll` that
    waits with `EndOfStream`. Each poll takes what the kernel has at hand, up to 4 MiB, and decodes it at once:
    batches are small while lines trickle and large when they pour. What follows the last line end is a row
    when the server closes, and a reject when the connection breaks.
    """

    def __init__(self, source: SocketSource, connection: socket.socket, position: int) -> None:
        self._source, self._connection = source, connection
        self._format = source.format
        self._buffer = LineBuffer(longest=source.longest_line, cutter=source.format.cutter())
        self._recoder = Recoder(source.encoding) if source.encoding is not None else None
        self._recoded = b""
        self._fresh = True
        self._judge = Refusals(source.address, source.on_bad)
        self._position = self._first = position
        self._refused: list[pa.RecordBatch] = []
        self._ended = False
        self._error: OSError | None = None
        self._closed = False
        self._polling = threading.Lock()
        self._answering = threading.Lock()
        self._safe = self._told = 0
        self._unsent = b""
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def poll(self, timeout: float) -> pa.RecordBatch | None:
        deadline = time.monotonic() + timeout
        with self._polling:
            while not self._closed:
                self._tell()
                self._receive()
                lines = self._take()
                if lines.count:
                    rows = self._decode(lines)
                    if rows is not None or self._refused:
                        return rows
                elif self._ended and not self._closed:
                    self._judge.pause()
                    self._raise_end()
                elif (left := deadline - time.monotonic()) <= 0:
                    self._judge.pause()
                    return None
                else:
                    self._selector.select(left)
        raise EndOfStream

    def position(self) -> Offset:
        return self._position

    def acknowledge(self, offset: Offset) -> None:
        """Tell the sender, if it wants to know. Never blocks: a sender that does not listen is not told."""
        safe = offset - self._first if isinstance(offset, int) else 0
        if not self._source.ack or safe <= 0:
            return
        with self._answering:
            self._safe = max(self._safe, safe)
        self._tell()

    def rejects(self) -> pa.RecordBatch | None:
        refused, self._refused = self._refused, []
        return pa.concat_batches(refused) if refused else None

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes a poll that waits
        with self._polling:
            self._selector.close()
            self._connection.close()

    def _tell(self) -> None:
        """Send the newest number, after what is left of the one before; what the kernel does not take waits."""
        with self._answering:
            if not self._unsent and self._told < self._safe:
                self._unsent, self._told = b"ACK %d\n" % self._safe, self._safe
            if self._unsent:
                with contextlib.suppress(OSError):
                    self._unsent = self._unsent[self._connection.send(self._unsent) :]

    def _receive(self) -> None:
        """Take what is at hand, without waiting."""
        while not self._ended and len(room := self._buffer.room()):
            try:
                octets = self._receive_into(room)
            except BlockingIOError:
                return
            except OSError as error:
                self._ended, self._error = True, error
                return
            if octets:
                self._buffer.filled(octets)
            else:
                self._ended = True

    def _receive_into(self, room: memoryview) -> int:
        """So many bytes were put into `room`, at least one unless the connection has ended."""
        if self._recoder is None:
            return self._connection.recv_into(room)
        ended = False
        while not self._recoded and not ended:
            data = self._connection.recv(1 << 16)
            ended = not data
            try:
                self._recoded = self._recoder.feed(data, final=ended)
            except UnicodeError as error:
                raise SourceError(f"{self._source.address} sends what is not of its encoding=: {error}") from error
        count = min(len(room), len(self._recoded))
        room[:count] = self._recoded[:count]
        self._recoded = self._recoded[count:]
        return count

    def _take(self) -> Lines:
        try:
            while self._format.header:
                header = self._without_mark(self._buffer.take(max_lines=1))
                if not header.count:
                    break
                self._format = self._format.with_header(header.data)
                self._position += header.count
            lines = Lines() if self._format.header else self._without_mark(self._buffer.take())
            if lines.count or not self._ended:
                return lines
            rest = self._without_mark(self._buffer.take_rest())
        except ValueError as error:
            raise SourceError(f"{self._source.address}: {error}") from error
        if self._error is not None and rest.data:
            return Lines(count=1, refused=((rest.data, f"the connection broke within this line: {self._error}"),))
        return rest

    def _without_mark(self, lines: Lines) -> Lines:
        """Lines without the byte order mark that the first of them may have."""
        if not self._fresh or not lines.count:
            return lines
        self._fresh = False
        return replace(lines, data=without_mark(lines.data))

    def _decode(self, lines: Lines) -> pa.RecordBatch | None:
        decoded = self._format.decode(lines.data)
        self._position += lines.count
        refused = [each for each in (decoded.rejects, make_rejects(lines.refused)) if each is not None]
        self._judge.note(decoded.rows.num_rows, refused)
        self._refused += refused
        return decoded.rows if decoded.rows.num_rows else None

    def _raise_end(self) -> None:
        if self._error is not None:
            raise ConnectionError(f"the connection to {self._source.address} broke: {self._error}") from self._error
        if self._source.reconnect:
            raise ConnectionError(f"{self._source.address} closed the connection")
        raise EndOfStream


def _parse_address(address: str) -> tuple[str, int]:
    """Host and port; raises `PlanError` where they are not both there."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise PlanError(f"the address {address!r} is ambiguous: write an IPv6 host in brackets, '[{host}]:{port}'")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise PlanError(f"the address {address!r} is not 'host:port', such as 'localhost:9999'")
    return host, int(port)
