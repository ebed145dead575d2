"""Who asks for the state of a unit while it runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from arrowstream.ids import UnitId, WorkerId
from arrowstream.schedule.messages import ShownTable, ShowState, StateShown


@dataclass(eq=False, slots=True)
class Question:
    """An answer of each worker that has some of the state, with the rows of `tables`, or why there is none."""

    tables: Sequence[str]
    done: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    missing: set[WorkerId] = field(default_factory=set)
    found: list[ShownTable] = field(default_factory=list)
    failed: str = ""

    def end(self) -> None:
        """There will be no answer any more."""
        self.ended = True
        self.done.set()


class Questions:
    """Waiting -> (no batch is under way) -> asked -> (all workers that have some have answered) -> done.

    Belongs to the driver's thread.
    """

    def __init__(self, unit: UnitId) -> None:
        self._unit = unit
        self._waiting: list[Question] = []
        self._asked: dict[int, Question] = {}
        self._token = 0

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def put(self, question: Question) -> None:
        self._waiting.append(question)

    def ask(self, placement: Sequence[WorkerId], committed: int) -> list[tuple[WorkerId, ShowState]]:
        """Ask the workers; `placement` says which has which partition. One answers before it runs the next batch."""
        orders = []
        for question in self._waiting:
            self._token += 1
            self._asked[self._token] = question
            question.missing, question.found = set(placement), []
            for worker in sorted(question.missing):
                mine = [number for number, at in enumerate(placement) if at == worker]
                orders.append((worker, ShowState(self._unit, self._token, committed, mine, list(question.tables))))
        self._waiting = []
        return orders

    def answered(self, event: StateShown) -> None:
        """A worker has answered."""
        question = self._asked.get(event.token)
        if question is None:
            return
        question.missing.discard(event.worker)
        question.found += event.tables
        question.failed = question.failed or event.failed
        if not question.missing or question.failed:
            del self._asked[event.token]
            question.done.set()

    def again(self) -> None:
        """A worker is lost: what was asked of it is asked of its heir."""
        self._waiting += self._asked.values()
        self._asked = {}

    def end(self) -> None:
        """There will be no answers any more."""
        for question in (*self._waiting, *self._asked.values()):
            question.end()
