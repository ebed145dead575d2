"""Where copies go."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from arrowstream.ids import WorkerId


def next_workers(owner: WorkerId, workers: Sequence[WorkerId], copies: int) -> list[WorkerId]:
    """The workers that keep copies of what `owner` makes: those that follow it in the ring of all workers.

    `copies` counts the owner's own. Fewer come back where there are not that many workers. A ring spreads the
    copies evenly, and everyone can work it out alone.
    """
    ring = sorted({*workers, owner})
    start = ring.index(owner) + 1
    return [*ring[start:], *ring[: start - 1]][: max(copies - 1, 0)]


def least_loaded(workers: Sequence[WorkerId], load: Collection[WorkerId]) -> WorkerId:
    """The worker that occurs least often in `load`; the first of equals."""
    taken = list(load)
    return min(workers, key=lambda worker: (taken.count(worker), worker))
