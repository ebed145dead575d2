"""A TCP server that sends lines: what `ctx.read.socket` reads, for examples and tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from types import TracebackType


class LineServer:
    """Sends the same lines to every client that is connected; on the loopback interface, at a free port.

        with LineServer() as server:
            frame = ctx.read.socket(server.address)
            ...
            server.send(["one line", "another"])

    `send` waits until at least one client is there, and while the clients are slow to read. Any thread may call.
    """

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._clients: list[socket.socket] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="line-server", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port, as `ctx.read.socket` takes it."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def send(self, lines: Iterable[str]) -> None:
        """Send lines, each with a newline after it."""
        self.send_bytes("".join(f"{line}\n" for line in lines).encode())

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, to the clients there are; waits for the first one."""
        with self._changed:
            while not self._clients and not self._closed:
                self._changed.wait()
            clients = list(self._clients)
        for client in clients:
            try:
                client.sendall(data)
            except OSError:
                self._forget(client)

    def disconnect(self) -> None:
        """Close the connections; clients may connect again."""
        for client in list(self._clients):
            self._forget(client)

    def close(self) -> None:
        """Close everything. A second call does nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        # A close alone does not wake a thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self.disconnect()

    def __enter__(self) -> LineServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._clients.append(client)
                self._changed.notify_all()

    def _forget(self, client: socket.socket) -> None:
        with self._changed:
            if client in self._clients:
                self._clients.remove(client)
        client.close()
