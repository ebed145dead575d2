"""The one way into a loop thread: events from anywhere, taken in the order they came."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from arrowstream.clock import Clock

EventT = TypeVar("EventT")


class Inbox(Generic[EventT]):
    """A queue that waits on the engine's clock, so that a hand-driven clock can end the wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._events: deque[EventT] = deque()

    def put(self, event: EventT) -> None:
        """Add an event; any thread may call."""
        with self._condition:
            self._events.append(event)
            self._condition.notify()

    def take(self, until: float | None) -> list[EventT]:
        """All events there are; waits for the first until the clock reads `until` (None: for ever)."""
        with self._condition:
            while not self._events and (until is None or self._clock.now() < until):
                self._clock.wait(self._condition, until)
            return self._drain()

    def take_now(self) -> list[EventT]:
        """All events there are, perhaps none."""
        with self._condition:
            return self._drain()

    def _drain(self) -> list[EventT]:
        events = list(self._events)
        self._events.clear()
        return events
