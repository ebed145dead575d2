"""Where the engine reads the time, so that a test can hold it in its hand."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the epoch that never run backwards, and a way to wait for them."""

    def now(self) -> float: ...

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Wait, with the condition held, until it is notified or the clock reads `until` (None: for ever).

        May return early; the caller looks again.
        """


class SystemClock:
    """The machine's clock: its wall time when made, and from there on its monotonic one."""

    def __init__(self) -> None:
        self._base = time.time() - time.monotonic()

    def now(self) -> float:
        return self._base + time.monotonic()

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        timeout = None if until is None else max(0.0, until - self.now())
        condition.wait(timeout)
