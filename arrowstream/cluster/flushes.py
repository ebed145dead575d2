"""Who waits until all that the sources have now is committed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from arrowstream.ids import UnitId, WorkerId
from arrowstream.receive.messages import SealBlocks


@dataclass(eq=False, slots=True)
class Flush:
    """Somebody waits; `done` says that it is so, or that the unit has ended."""

    done: threading.Event = field(default_factory=threading.Event)


class Flushes:
    """Asked -> (all workers have sealed what was at hand) -> sealed -> (all of it is committed) -> answered.

    Belongs to the driver's thread.
    """

    def __init__(self, unit: UnitId) -> None:
        self._unit = unit
        self._sealing: dict[int, tuple[Flush, set[WorkerId]]] = {}
        self._sealed: list[Flush] = []
        self._token = 0

    @property
    def waiting(self) -> bool:
        """Whether somebody waits only for what is sealed to be committed."""
        return bool(self._sealed)

    def ask(self, flushes: Iterable[Flush], workers: Sequence[WorkerId]) -> list[tuple[WorkerId, SealBlocks]]:
        """Have all workers seal what their receivers have at hand."""
        orders = []
        for flush in flushes:
            self._token += 1
            self._sealing[self._token] = (flush, set(workers))
            orders += [(worker, SealBlocks(self._unit, self._token)) for worker in workers]
        return orders

    def sealed(self, token: int, worker: WorkerId) -> None:
        """A worker has done so."""
        if token not in self._sealing:
            return
        flush, missing = self._sealing[token]
        missing.discard(worker)
        if not missing:
            del self._sealing[token]
            self._sealed.append(flush)

    def take(self, *, sealed: bool) -> list[Flush]:
        """Those that are to be asked again, since receivers have moved; with `sealed` those too that had all sealed."""
        taken = [flush for flush, _ in self._sealing.values()]
        self._sealing = {}
        if sealed:
            taken += self._sealed
            self._sealed = []
        return taken

    def answer(self) -> None:
        """All that was sealed is committed."""
        for flush in self._sealed:
            flush.done.set()
        self._sealed.clear()
