"""Where a worker's receiver puts its blocks, and whom it tells what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from arrowstream.blocks.block import Block
from arrowstream.blocks.manager import BlockManager
from arrowstream.ids import WorkerId
from arrowstream.receive.messages import ReceiverEnded, ReceiverFailed, ReceiverStarted, StartReceiver
from arrowstream.schedule.ahead import ReadAhead


class ReceiverOutlet:
    """A receiver's way into the block manager."""

    def __init__(self, order: StartReceiver, manager: BlockManager, ahead: ReadAhead | None) -> None:
        self._of, self._manager, self._ahead = (order.unit, order.source, order.split), manager, ahead
        self._own = f"{order.unit}/{order.source}/{order.split}/" if order.first else ""

    def put(self, block: Block) -> None:
        if self._ahead is not None:
            self._ahead.offer(block.info)
        self._manager.put(self._of[0], block)

    def after(self, action: Callable[[], None]) -> None:
        self._manager.after(*self._of, action)

    def wait_for_room(self, stop: threading.Event) -> None:
        self._manager.wait_for_room(stop, self._own)


class ReceiverEvents:
    """What becomes of a receiver, as events."""

    def __init__(
        self,
        order: StartReceiver,
        worker: WorkerId,
        emit: Callable[[ReceiverStarted | ReceiverFailed | ReceiverEnded], None],
    ) -> None:
        self._of = (order.unit, order.source, order.split, worker)
        self._emit = emit

    def started(self) -> None:
        self._emit(ReceiverStarted(*self._of))

    def failed(self, reason: str, fatal: bool) -> None:
        self._emit(ReceiverFailed(*self._of, reason, fatal))

    def ended(self, exhausted: bool) -> None:
        self._emit(ReceiverEnded(*self._of, exhausted))
