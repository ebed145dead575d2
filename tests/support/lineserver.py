"""A TCP server of lines that minds acknowledgements, for receivers that may die."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class LineServer:
    """Sends lines to whoever connects, and those again that were not acknowledged when the connection broke.

    `with LineServer() as server:` listens at `server.address`. One client at a time.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._acknowledged = 0
        self._client: socket.socket | None = None
        self._over = False
        self._thread = threading.Thread(target=self._serve, name="line-server")
        self._thread.start()

    def send(self, *lines: str) -> None:
        """Lines for whoever is connected, now or later."""
        with self._changed:
            self._lines += lines
            self._changed.notify_all()

    def wait_acknowledged(self, timeout: float = 30.0) -> None:
        """Wait until all lines sent so far are acknowledged."""
        with self._changed:
            wanted = len(self._lines)
            done = self._changed.wait_for(lambda: self._acknowledged >= wanted, timeout)
        assert done, f"{self._acknowledged} of {wanted} lines are acknowledged"

    def __enter__(self) -> LineServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _serve(self) -> None:
        while not self._over:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            with self._client as client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        broken = threading.Event()
        hearing = threading.Thread(
            target=self._hear, args=(client, self._acknowledged, broken), name="line-server-acks"
        )
        hearing.start()
        sent = self._acknowledged
        while lines := self._wait_for_lines(sent, broken):
            with contextlib.suppress(OSError):
                client.sendall("".join(f"{line}\n" for line in lines).encode())
            sent += len(lines)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        hearing.join()

    def _wait_for_lines(self, sent: int, broken: threading.Event) -> list[str]:
        """Lines that this connection has not had; none once it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or broken.is_set() or len(self._lines) > sent)
            return [] if self._over or broken.is_set() else self._lines[sent:]

    def _hear(self, client: socket.socket, first: int, broken: threading.Event) -> None:
        with contextlib.suppress(OSError), client.makefile("r") as answers:
            for answer in answers:
                with self._changed:
                    self._acknowledged = first + int(answer.removeprefix("ACK "))
                    self._changed.notify_all()
        with self._changed:
            broken.set()
            self._changed.notify_all()
