"""A process that sends prepared lines over loopback TCP as fast as they are taken, to one client after the other.

`python -m benchmarks.sender words|json LINES`: the port on standard output, then for every client the same lines.
"""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from collections.abc import Iterator

PIECE = 100_000
"""Lines prepared once and sent again and again."""


def piece(kind: str) -> bytes:
    """100,000 lines: of eight words each out of 1,000, or of JSON with five fields."""
    chance = random.Random(1)
    if kind == "words":
        words = [f"word{number}" for number in range(1_000)]
        return b"".join((" ".join(chance.choices(words, k=8)) + "\n").encode() for _ in range(PIECE))
    lines = (
        f'{{"id": {number}, "user": "user-{chance.randrange(10_000)}", "amount": {chance.uniform(0, 1000):.2f}, '
        f'"ok": {chance.choice(("true", "false"))}, "ts": {1_700_000_000_000 + number}}}\n'
        for number in range(PIECE)
    )
    return "".join(lines).encode()


@contextlib.contextmanager
def sending(kind: str, lines: int) -> Iterator[int]:
    """The port of a sender in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sender", kind, str(lines)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(10)
        process.stdout.close()


def main() -> None:
    kind, lines = sys.argv[1], int(sys.argv[2])
    data = piece(kind)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                for _ in range(lines // PIECE):
                    client.sendall(data)


if __name__ == "__main__":
    main()
