"""A worker's block manager: keep a block, copy it to others, and only then report it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from arrowstream.blocks.block import Block, BlockInfo
from arrowstream.blocks.messages import BlockAdded, BlockCopied, BlockNotCopied, CopyBlock
from arrowstream.blocks.placement import next_workers
from arrowstream.blocks.store import BlockNotFoundError, BlockStore
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId
from arrowstream.settings import BlockSettings


class Peers(Protocol):
    """The other workers, as the block manager sees them."""

    def alive(self) -> Sequence[WorkerId]:
        """All workers of the cluster that are not known to be lost, this one among them."""

    def send(self, worker: WorkerId, block: Block, done: Callable[[str], None]) -> None:
        """Copy a block to a worker; `done` is called, in the order of the calls, with "" once it is there, or with why
        it is not. May return before, so that several blocks are on their way."""


@dataclass(slots=True)
class _Pending:
    """A block whose copies are on their way."""

    info: BlockInfo
    workers: list[WorkerId]
    missing: int
    problem: str = ""
    ready: bool = False


@dataclass(slots=True)
class _Line:
    """The blocks of one split, to be reported in order, and what is to be done in between."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    waiting: deque[_Pending | Callable[[], None]] = field(default_factory=deque)


class BlockManager:
    """Takes blocks from receivers and from other workers; any thread may call.

    A block is reported (`BlockAdded`) when its copies are there, blocks of a split in order. Where there are not
    enough other workers, or they do not take it, it is reported with the copies it has: the driver counts them, and has
    others made. Blocks that can be scanned from their source again are not copied.
    """

    def __init__(
        self,
        worker: WorkerId,
        store: BlockStore,
        peers: Peers,
        replication: int,
        settings: BlockSettings,
        emit: Callable[[BlockAdded | BlockCopied | BlockNotCopied], None],
    ) -> None:
        self.store = store
        self._worker, self._peers, self._replication = worker, peers, replication
        self._settings, self._emit = settings, emit
        self._room = threading.Condition()
        self._backlog: dict[BlockId, int] = {}
        self._backlog_bytes = 0
        self._lines: dict[tuple[UnitId, SourceId, str], _Line] = {}

    def put(self, unit: UnitId, block: Block) -> None:
        """Take in a receiver's block. Does not wait, neither for room nor for copies."""
        info = block.info
        copies = self._replication if info.held and not info.replayable else 1
        # Of a block that stays in its source this worker holds no rows, but is told when it is worked off.
        pending = _Pending(info, [self._worker], copies - 1)
        with self._room:
            self._backlog[info.id] = info.nbytes
            self._backlog_bytes += info.nbytes
        if block.data is not None:
            self.store.put(info.id, pa.Table.from_batches([block.data]))
        line = self._lines.setdefault((unit, info.source, info.split), _Line())
        with line.lock:
            line.waiting.append(pending)
        self._copy(unit, line, pending, block, tried=[])

    def after(self, unit: UnitId, source: SourceId, split: str, action: Callable[[], None]) -> None:
        """Call `action` once all blocks of this split that were put before are reported; perhaps at once, perhaps
        from another thread."""
        line = self._lines.setdefault((unit, source, split), _Line())
        with line.lock:
            line.waiting.append(action)
        self._report(unit, line)

    def wait_for_room(self, stop: threading.Event, own: str = "") -> None:
        """Wait while the blocks that are not worked off take more than the backlog may (or `stop` is set); with `own`
        those whose ids begin so."""
        with self._room:
            while self._taken(own) >= self._settings.backlog and not stop.is_set():
                self._room.wait(0.05)

    def _taken(self, own: str) -> int:
        if not own:
            return self._backlog_bytes
        return sum(nbytes for block, nbytes in self._backlog.items() if block.startswith(own))

    @property
    def backlog_bytes(self) -> int:
        """Bytes of this worker's receivers' blocks that are not worked off."""
        return self._backlog_bytes

    def copy(self, order: CopyBlock) -> None:
        """Carry out the driver's order to copy a block; it hears what became of it."""
        try:
            table = self.store.get(order.block)
        except BlockNotFoundError as error:  # its batch was committed in the meantime
            self._emit(BlockNotCopied(order.unit, order.block, order.to, str(error)))
            return
        info = BlockInfo(order.block, SourceId(""), "", 0, None, None, table.num_rows, table.nbytes, 0.0)

        def done(problem: str) -> None:
            if problem:
                self._emit(BlockNotCopied(order.unit, order.block, order.to, problem))
            else:
                self._emit(BlockCopied(order.unit, order.block, order.to))

        self._peers.send(order.to, Block(info, table.combine_chunks().to_batches()[0]), done)

    def drop(self, blocks: Sequence[BlockId]) -> None:
        """These blocks are worked off."""
        for block in blocks:
            self.store.drop(block)
        self.settle(blocks)

    def forget(self, unit: UnitId) -> None:
        """A unit is over: its blocks go, whether worked off or not. Their ids begin with the unit's."""
        with self._room:
            known = {*self.store.ids(), *self._backlog}
        self.drop([block for block in known if block.startswith(f"{unit}/")])
        for key in [key for key in self._lines if key[0] == unit]:
            del self._lines[key]

    def settle(self, blocks: Sequence[BlockId]) -> None:
        """These blocks no longer count as backlog."""
        with self._room:
            for block in blocks:
                self._backlog_bytes -= self._backlog.pop(block, 0)
            self._room.notify_all()

    def _copy(self, unit: UnitId, line: _Line, pending: _Pending, block: Block, tried: list[WorkerId]) -> None:
        """Send a block to the next worker in the ring that has not been tried, until there are enough copies."""
        alive = self._peers.alive()
        others = [w for w in next_workers(self._worker, alive, len(alive) + 1) if w not in tried and w in alive]
        if pending.missing <= 0 or not others:
            if pending.missing > 0:
                pending.problem = pending.problem or "no other worker takes copies"
            pending.ready = True
            self._report(unit, line)
            return
        other = others[0]

        def done(problem: str) -> None:
            if problem:
                pending.problem = f"{other}: {problem}"
            else:
                pending.workers.append(other)
                pending.missing -= 1
            self._copy(unit, line, pending, block, [*tried, other])

        self._peers.send(other, block, done)

    def _report(self, unit: UnitId, line: _Line) -> None:
        with line.lock:
            while line.waiting:
                first = line.waiting[0]
                if isinstance(first, _Pending) and not first.ready:
                    return
                line.waiting.popleft()
                if isinstance(first, _Pending):
                    self._emit(BlockAdded(unit, first.info, first.workers, first.problem if first.missing > 0 else ""))
                else:
                    first()
