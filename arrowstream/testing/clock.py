"""A clock held in the hand: time passes only when the test says so."""

from __future__ import annotations

import threading
import weakref
from datetime import timedelta

from arrowstream.settings import parse_duration


class ManualClock:
    """Reads what it was set to; `advance` moves it and wakes everyone whose time may have come.

        clock = ManualClock()
        ctx = StreamingContext(batch_interval="1s", clock=clock)
        ...
        clock.advance("1s")          # the batch is due

    Any thread may call. Works inside one process (`workers=0`).
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._waiting: weakref.WeakSet[threading.Condition] = weakref.WeakSet()

    def now(self) -> float:
        return self._now

    def advance(self, duration: str | timedelta | float) -> None:
        """Let this much time pass: "1s", a timedelta, or seconds."""
        self._now += parse_duration(duration, "duration")
        for condition in list(self._waiting):
            with condition:
                condition.notify_all()

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        self._waiting.add(condition)
        if until is None or self._now < until:
            condition.wait()
