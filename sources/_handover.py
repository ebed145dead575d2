"""Rows that one process holds and others read: what makes a `MemorySource` work across workers.

The process that holds the rows listens on loopback once a description of them is pickled, and copies of the description
connect to it. Both sides prove that they know a key that travels with the pickle (the challenge of
`multiprocessing.connection`). Requests are JSON, rows travel as an Arrow IPC stream; nothing that came over the
wire is unpickled.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Protocol

import polars as pl
import pyarrow as pa

_STEP = 0.05  # seconds of one remote wait: how fast a reader in another process hears that it is closed


class Rows(Protocol):
    """Rows in the order in which they were appended."""

    def read(self, first: int, stop: int | None, timeout: float) -> tuple[pa.RecordBatch | None, bool]:
        """Rows from `first` (to `stop`), waiting up to `timeout` seconds for one, and: is that all, for ever?"""

    def interrupt(self) -> None:
        """End all waiting in `read`; each gives what there is."""

    def close(self) -> None: ...


class HeldRows:
    """Rows kept in this process; any thread may append and read."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.token = secrets.token_hex(16)
        self._frames: list[pl.DataFrame] = []
        self._ends: list[int] = []
        self._ended = False
        self.failed: str | None = None
        """Why the run that reads the rows has ended, if it failed: then no more are taken."""
        self._changed = threading.Condition()
        self._interrupts = 0
        self._server: _Server | None = None
        _held[self.token] = self

    def append(self, rows: pl.DataFrame) -> int:
        """Add rows; gives the number of all. Raises `ValueError` after `end`, and where their run has failed."""
        with self._changed:
            if self._ended:
                raise ValueError("the stream has ended")
            if self.failed is not None:
                raise ValueError(f"the run that reads it has failed: {self.failed}")
            if rows.height:
                self._frames.append(rows)
                self._ends.append(self._count + rows.height)
            self._changed.notify_all()
            return self._count

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self, first: int, stop: int | None, timeout: float) -> tuple[pa.RecordBatch | None, bool]:
        with self._changed:
            seen = self._interrupts
            self._changed.wait_for(lambda: self._count > first or self._ended or self._interrupts != seen, timeout)
            last = self._count if stop is None else min(stop, self._count)
            place = bisect.bisect_right(self._ends, first)
            frames, starts = self._frames[place : bisect.bisect_left(self._ends, last) + 1], self._start(place)
            ended = self._ended and last == self._count
        if last <= first:
            return None, ended
        found = pl.concat(frames).slice(first - starts, last - first)
        return pl_batch(found, self.schema), ended

    def interrupt(self) -> None:
        with self._changed:
            self._interrupts += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing: the rows stay for other readers."""

    def serve(self) -> Address:
        """Where other processes find these rows; listens from the first call on, until nobody holds the rows."""
        with self._changed:
            if self._server is None:
                self._server = _Server(self)
            return self._server.address

    @property
    def _count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _start(self, place: int) -> int:
        return self._ends[place - 1] if place else 0


_held: weakref.WeakValueDictionary[str, HeldRows] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Address:
    """How to come to the rows of a process."""

    token: str
    port: int
    key: bytes

    def held(self) -> HeldRows | None:
        """The rows themselves, if it is this process that holds them."""
        return _held.get(self.token)

    def connect(self) -> Rows:
        """The rows over a connection; raises `OSError` where the process that holds them is gone."""
        return _RemoteRows(self)


class _RemoteRows:
    """Rows of another process; for one thread, but for `interrupt`. An `OSError` says that the process is gone."""

    def __init__(self, address: Address) -> None:
        self._connection = Client(("127.0.0.1", address.port), authkey=address.key)
        self._interrupted = False

    def read(self, first: int, stop: int | None, timeout: float) -> tuple[pa.RecordBatch | None, bool]:
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            request = {"first": first, "stop": stop, "timeout": min(left, _STEP)}
            try:
                self._connection.send_bytes(json.dumps(request).encode())
                ended = self._connection.recv_bytes() == b"ended"
                body = self._connection.recv_bytes()
            except EOFError as error:
                raise ConnectionError("the process that holds the rows of a MemorySource is gone") from error
            if body:
                with pa.ipc.open_stream(body) as stream:
                    return stream.read_next_batch(), ended
            if ended or self._interrupted or left <= _STEP:
                return None, ended

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        self._connection.close()


class _Server:
    """Answers readers of other processes, each in a thread of its own, for as long as the rows are held."""

    def __init__(self, rows: HeldRows) -> None:
        key = secrets.token_bytes(32)
        listener = Listener(("127.0.0.1", 0))
        port = int(listener.address[1])
        self.address = Address(rows.token, port, key)
        held = weakref.ref(rows)
        threading.Thread(target=_accept, args=(listener, held, key), name="memory-source", daemon=True).start()
        weakref.finalize(rows, _wake, port)


def _wake(port: int) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def _accept(listener: Listener, held: Callable[[], HeldRows | None], key: bytes) -> None:
    with listener:
        while True:
            connection = listener.accept()
            if held() is None:
                connection.close()
                return
            name = "memory-source-reader"
            threading.Thread(target=_answer, args=(connection, held, key), name=name, daemon=True).start()


def _answer(connection: Connection, held: Callable[[], HeldRows | None], key: bytes) -> None:
    # The other side hangs up, or does not know the key: either way it is served no more.
    with connection, contextlib.suppress(OSError, EOFError, AuthenticationError):
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        while (rows := held()) is not None:
            del rows
            request = json.loads(connection.recv_bytes())
            if (rows := held()) is None:
                return
            found, ended = rows.read(request["first"], request["stop"], request["timeout"])
            connection.send_bytes(b"ended" if ended else b"open")
            connection.send_bytes(_ipc(found) if found is not None else b"")
            del rows


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(memoryview(sink.getvalue()))


def pl_batch(frame: pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """A frame as one record batch."""
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    return pa.record_batch([column.combine_chunks() for column in table.columns], schema)
