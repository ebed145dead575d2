"""Which worker reads which split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from arrowstream.blocks.master import SplitPosition
from arrowstream.blocks.placement import least_loaded
from arrowstream.ids import SourceId, UnitId, WorkerId
from arrowstream.receive.messages import StartReceiver

Split = tuple[SourceId, str]


class ReceiverSupervisor:
    """Keeps every split that has not ended with one receiver; does no I/O.

    Unassigned -> (`assign`) -> Running on a worker -> (`ended`) -> Ended, or (`lost`) -> Running on another. Splits of
    the sources `first` are read to their end as of now, since others wait for that.
    """

    def __init__(
        self,
        unit: UnitId,
        splits: Iterable[Split],
        position: Callable[[SourceId, str], SplitPosition],
        *,
        bounded: bool,
        first: Collection[SourceId] = (),
    ):
        self._unit, self._position, self._bounded, self._first = unit, position, bounded, first
        self._worker: dict[Split, WorkerId | None] = dict.fromkeys(splits)
        self._ended: dict[Split, WorkerId] = {}

    def assign(
        self, workers: Sequence[WorkerId], waiting: Collection[SourceId] = ()
    ) -> list[tuple[WorkerId, StartReceiver]]:
        """Give each split that nobody reads to the worker with the fewest, from where its blocks end; but for those of
        sources that are `waiting`."""
        orders = []
        for split, worker in self._worker.items():
            if worker is None and split[0] not in waiting:
                chosen = least_loaded(workers, [busy for busy in self._worker.values() if busy is not None])
                self._worker[split] = chosen
                where, first = self._position(*split), split[0] in self._first
                orders.append(
                    (
                        chosen,
                        StartReceiver(
                            self._unit, *split, where.offset, where.next_block, self._bounded or first, first
                        ),
                    )
                )
        return orders

    def lost(self, worker: WorkerId) -> list[Split]:
        """A worker is gone; its splits, which wait to be assigned."""
        splits = [split for split, reader in self._worker.items() if reader == worker]
        self._worker.update(dict.fromkeys(splits))
        return splits

    def abandon(self) -> None:
        """Splits that nobody reads are not read again: the unit is stopping."""
        self._worker = {split: worker for split, worker in self._worker.items() if worker is not None}

    def ended(self, source: SourceId, split: str, worker: WorkerId) -> None:
        """A split has ended on the worker that reads it."""
        if self._worker.get((source, split)) == worker:
            del self._worker[source, split]
            self._ended[source, split] = worker

    def reader(self, source: SourceId, split: str) -> WorkerId | None:
        """Who reads a split, or has read it to its end: whoever can acknowledge its rows."""
        return self._worker.get((source, split)) or self._ended.get((source, split))

    @property
    def running(self) -> int:
        """Splits that have not ended."""
        return len(self._worker)
