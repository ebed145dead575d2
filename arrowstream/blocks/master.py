"""Which block is where, and which still wait for a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from arrowstream.blocks.block import BlockInfo
from arrowstream.blocks.messages import BlockAdded, BlockCopied, BlockNotCopied, CopyBlock, DropBlocks
from arrowstream.blocks.placement import next_workers
from arrowstream.connectors.source import Offset
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId


@dataclass(slots=True)
class _Entry:
    """A block, who holds it, and to whom copies have been ordered."""

    info: BlockInfo
    workers: set[WorkerId]
    ordered: set[WorkerId] = field(default_factory=set)

    @property
    def copied(self) -> bool:
        """Whether it has to be on several workers, since nobody else has its rows."""
        return self.info.held and not self.info.replayable


@dataclass(frozen=True, slots=True)
class SplitPosition:
    """How far the master knows a split: what opens it after its last block's last row, and the next block's number."""

    offset: Offset | None = None
    next_block: int = 0


@dataclass(slots=True)
class BlockMaster:
    """Keeps the book of a unit's blocks; does no I/O and belongs to the driver's thread.

    A block is Waiting -> (`allot`) -> Allotted -> (`committed`) -> gone. The copies of each are counted: what has fewer
    than `replication` is not `safe`, and copies are ordered from those that hold it until it has (`missing_copies`).
    """

    unit: UnitId
    replication: int
    remember: Callable[[SourceId, Offset | None, Offset], Offset] = lambda source, memory, later: later
    """What a split is opened with again after a position, given the same of the position before."""
    _blocks: dict[BlockId, _Entry] = field(default_factory=dict)
    _waiting: dict[BlockId, None] = field(default_factory=dict)
    _splits: dict[tuple[SourceId, str], SplitPosition] = field(default_factory=dict)
    _unsafe: dict[tuple[SourceId, str], deque[tuple[BlockId, Offset | None]]] = field(default_factory=dict)
    waiting_rows: int = 0
    waiting_bytes: int = 0

    def added(self, event: BlockAdded, lost: Collection[WorkerId] = ()) -> None:
        """A receiver's block is known from now on; `lost` workers hold it no more. Blocks of a split come in order."""
        info = event.info
        self._blocks[info.id] = _Entry(info, set(event.workers).difference(lost))
        self._waiting[info.id] = None
        self.waiting_rows += info.rows
        self.waiting_bytes += info.nbytes
        memory = self.position(info.source, info.split).offset
        offset = memory if info.stop is None else self.remember(info.source, memory, info.stop)
        self._splits[info.source, info.split] = SplitPosition(offset, info.position + 1)
        if not info.replayable:
            self._unsafe.setdefault((info.source, info.split), deque()).append((info.id, info.stop))

    def copied(self, event: BlockCopied) -> list[tuple[WorkerId, DropBlocks]]:
        """A copy that was ordered is there; one of a block that is worked off by now goes at once."""
        if event.block not in self._blocks:
            return [(event.worker, DropBlocks([event.block]))]
        self._blocks[event.block].workers.add(event.worker)
        self._blocks[event.block].ordered.discard(event.worker)
        return []

    def not_copied(self, event: BlockNotCopied) -> None:
        """A copy that was ordered has not been made: the next `missing_copies` orders one again."""
        if event.block in self._blocks:
            self._blocks[event.block].ordered.discard(event.worker)

    def safe(self, copies: int) -> list[tuple[SourceId, str, Offset]]:
        """For each split the position up to which all of its rows are on so many workers, or in committed batches; only
        where that has moved on since the last call. Up to there a source that cannot replay is acknowledged.
        """
        found: list[tuple[SourceId, str, Offset]] = []
        for (source, split), blocks in self._unsafe.items():
            reached: Offset | None = None
            while blocks and self._is_safe(blocks[0][0], copies):
                reached = blocks.popleft()[1] or reached
            if reached is not None:
                found.append((source, split, reached))
        return found

    def _is_safe(self, block: BlockId, copies: int) -> bool:
        entry = self._blocks.get(block)
        return entry is None or not entry.info.held or len(entry.workers) >= copies

    @property
    def degraded(self) -> int:
        """Blocks with fewer copies than there should be."""
        return sum(1 for entry in self._blocks.values() if entry.copied and len(entry.workers) < self.replication)

    def position(self, source: SourceId, split: str) -> SplitPosition:
        """Where a receiver of this split begins, or goes on after another one was lost."""
        return self._splits.get((source, split), SplitPosition())

    def workers(self, block: BlockId) -> Sequence[WorkerId]:
        """Who holds a block (or, where it stays in its source, has made it), in a fixed order."""
        return sorted(self._blocks[block].workers)

    @property
    def waiting(self) -> int:
        """Blocks that wait for a batch."""
        return len(self._waiting)

    @property
    def waiting_splits(self) -> set[tuple[SourceId, str]]:
        """The splits of which blocks wait."""
        return {(info.source, info.split) for info in (self._blocks[block].info for block in self._waiting)}

    @property
    def oldest(self) -> float | None:
        """When the first row of the oldest waiting block came."""
        return min((self._blocks[block].info.created for block in self._waiting), default=None)

    def allot(
        self,
        max_rows: int | None,
        max_bytes: int,
        max_rows_of: Mapping[SourceId, int] | None = None,
        held: Collection[tuple[SourceId, str]] = (),
    ) -> list[BlockInfo]:
        """Take blocks for a batch, in the order they came, up to the limits but at least one.

        Blocks of the splits `held` go on waiting. `max_rows_of` limits the rows of single sources, again to at least
        one block. They come back in order of arrival: by source, split and position.
        """
        taken: list[BlockInfo] = []
        rows = nbytes = 0
        limits = max_rows_of or {}
        left = dict(limits)
        for block in self._waiting:
            info = self._blocks[block].info
            if (info.source, info.split) in held:
                continue
            if info.source in left:
                first = left[info.source] == limits[info.source]
                if not first and info.rows > left[info.source]:
                    left[info.source] = -1  # nor what comes after it, so that its order stays
                    continue
                left[info.source] -= info.rows
            full = nbytes + info.nbytes > max_bytes or (max_rows is not None and rows + info.rows > max_rows)
            if taken and full:
                break
            taken.append(info)
            rows += info.rows
            nbytes += info.nbytes
        for info in taken:
            del self._waiting[info.id]
        self.waiting_rows -= rows
        self.waiting_bytes -= nbytes
        return sorted(taken, key=lambda info: (info.source, info.split, info.position))

    def committed(self, blocks: Iterable[BlockInfo]) -> list[tuple[WorkerId, DropBlocks]]:
        """The batch of these blocks is committed: whoever holds them lets them go."""
        drops: dict[WorkerId, list[BlockId]] = {}
        for info in blocks:
            for worker in self._blocks.pop(info.id).workers:
                drops.setdefault(worker, []).append(info.id)
        return [(worker, DropBlocks(ids)) for worker, ids in drops.items()]

    def lost(
        self, worker: WorkerId, alive: Sequence[WorkerId]
    ) -> tuple[list[tuple[WorkerId, CopyBlock]], list[BlockInfo]]:
        """A worker is gone: copies to order, and the blocks of which no copy is left anywhere.

        Blocks that can be scanned from their source again are never lost.
        """
        gone: list[BlockInfo] = []
        for entry in self._blocks.values():
            if worker in entry.workers:
                entry.workers.discard(worker)
                entry.ordered.clear()  # it may be the one that was to make the copies
            entry.ordered.discard(worker)
            if entry.copied and not entry.workers:
                gone.append(entry.info)
        return self.missing_copies(alive), gone

    def missing_copies(self, alive: Sequence[WorkerId]) -> list[tuple[WorkerId, CopyBlock]]:
        """Copies to order, for blocks that fewer workers hold than should: one was lost, a copy could not be made, or a
        new one has come. What is ordered already is not ordered twice.
        """
        orders: list[tuple[WorkerId, CopyBlock]] = []
        for entry in self._blocks.values():
            taken = entry.workers | entry.ordered
            missing = min(self.replication, len(alive)) - len(taken)
            if missing > 0 and entry.workers and entry.copied:
                holder = min(entry.workers)
                spare = [other for other in next_workers(holder, alive, len(alive)) if other not in taken][:missing]
                entry.ordered.update(spare)
                orders += [(holder, CopyBlock(self.unit, entry.info.id, to)) for to in spare]
        return orders

    def forget(self, blocks: Iterable[BlockInfo]) -> None:
        """These blocks are lost for good; the caller has said so to the user."""
        for info in blocks:
            self._blocks.pop(info.id, None)
            if self._waiting.pop(info.id, 1) is None:
                self.waiting_rows -= info.rows
                self.waiting_bytes -= info.nbytes
