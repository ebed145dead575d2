"""Run blocks that stay in their source through stage 0 before their batch comes, on threads of their own."""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from arrowstream.blocks.block import BlockInfo
from arrowstream.ids import BlockId, SourceId
from arrowstream.operators.program import Transform
from arrowstream.schedule.messages import TaskBlock
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.passed import Passed, anytime
from arrowstream.schedule.stage import StagePass

CLOSE_SECONDS: Final = 5.0
"""How long the end of a run waits for blocks that are being read."""


@dataclass(slots=True)
class _Going:
    future: Future[Passed]
    nbytes: int


class ReadAhead:
    """Reads, filters and pre-aggregates the next blocks while a batch is in its later stages.

    Offered -> (a thread is free) -> going -> (`take`) -> gone; any thread may call. So the later stages of a batch and
    the first stage of the next share the cores. Only so many blocks, and bytes, are ahead at once.
    """

    def __init__(self, partition: Partition, threads: int, max_bytes: int) -> None:
        self._partition, self._max_bytes = partition, max_bytes
        self._most = threads * max(len(partition.sources), 1)
        # Not a pool of `concurrent.futures`: Python waits for its threads at the end of the program, also for one that
        # does not come back from a function of the user.
        self._work: queue.SimpleQueue[tuple[Future[Passed], BlockInfo] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"arrowstream-ahead-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._lock = threading.Lock()
        self._offered: dict[BlockId, BlockInfo] = {}
        self._order: list[tuple[int, SourceId, str, BlockId]] = []
        self._going: dict[BlockId, _Going] = {}
        self._closed = False

    @staticmethod
    def possible(partition: Partition) -> bool:
        """Whether nothing in stage 0 depends on when, and in which thread, it runs."""
        works = [step.work for step in partition.program.steps if step.stage == 0]
        return partition.partitions == 1 and all(work.anytime for work in works if isinstance(work, Transform))

    def offer(self, info: BlockInfo) -> None:
        """A block that is to come in a later batch."""
        if info.held or info.kind != "rows":
            return
        with self._lock:
            self._offered[info.id] = info
            # Of several sources the blocks come side by side, as batches take them.
            heapq.heappush(self._order, (info.position, info.source, info.split, info.id))
            self._go()

    def take(self, block: TaskBlock) -> Passed | None:
        """What stage 0 gave of this block, once; None where it is to be run now."""
        with self._lock:
            self._offered.pop(block.info.id, None)
            going = self._going.get(block.info.id)
        if going is None:
            return None
        failed = going.future.cancel() or going.future.exception() is not None
        self.drop([block.info.id])
        return None if failed else going.future.result()

    def drop(self, blocks: Iterable[BlockId]) -> None:
        """These blocks are worked off."""
        with self._lock:
            for block in blocks:
                self._offered.pop(block, None)
                if (going := self._going.pop(block, None)) is not None:
                    going.future.cancel()
            self._go()

    def close(self) -> None:
        """Begin nothing more, and wait for what has begun, but not for ever."""
        with self._lock:
            self._closed = True
            self._offered.clear()
            for going in self._going.values():
                going.future.cancel()
        for _ in self._threads:
            self._work.put(None)
        until = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._going.clear()

    def _go(self) -> None:
        """Begin with the next blocks, as far as there is room."""
        while self._order and not self._closed and len(self._going) < self._most:
            info = self._offered.get(self._order[0][3])
            if info is not None:
                ahead = sum(going.nbytes for going in self._going.values())
                if ahead and ahead + info.nbytes > self._max_bytes:
                    return
                del self._offered[info.id]
                future: Future[Passed] = Future()
                self._work.put((future, info))
                self._going[info.id] = _Going(future, info.nbytes)
            heapq.heappop(self._order)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, info = work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._pass(info))
                except BaseException as error:  # whoever takes the block runs it again, and tells
                    future.set_exception(error)

    def _pass(self, info: BlockInfo) -> Passed:
        moment = anytime(self._partition.marks)
        made = StagePass(self._partition, 0, lambda _: None, lambda *_: [], moment).run([TaskBlock(0, info, [])])
        later = self._partition.read_later(0)
        made.values = {number: value.collect() for number, value in made.values.items() if number in later}
        return made
