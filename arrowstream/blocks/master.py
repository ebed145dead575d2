"""Which block is where, and which still wait for a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from arrowstream.blocks.block import BlockInfo
from arrowstream.blocks.messages import BlockAdded, BlockCopied, CopyBlock, DropBlocks
from arrowstream.blocks.placement import next_workers
from arrowstream.connectors.source import Offset
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId


@dataclass(slots=True)
class _Entry:
    info: BlockInfo
    workers: set[WorkerId]


@dataclass(frozen=True, slots=True)
class SplitPosition:
    """How far the master knows a split: what opens it after its last block's last row, and the next block's number."""

    offset: Offset | None = None
    next_block: int = 0


@dataclass(slots=True)
class BlockMaster:
    """Keeps the book of a unit's blocks; does no I/O and belongs to the driver's thread.

    A block is Waiting -> (`allot`) -> Allotted -> (`committed`) -> gone. Where a worker is lost, copies are
    ordered from those that still hold its blocks.
    """

    unit: UnitId
    replication: int
    remember: Callable[[SourceId, Offset | None, Offset], Offset] = lambda source, memory, later: later
    """What a split is opened with again after a position, given the same of the position before."""
    _blocks: dict[BlockId, _Entry] = field(default_factory=dict)
    _waiting: dict[BlockId, None] = field(default_factory=dict)
    _splits: dict[tuple[SourceId, str], SplitPosition] = field(default_factory=dict)
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

    def copied(self, event: BlockCopied) -> list[tuple[WorkerId, DropBlocks]]:
        """A copy that was ordered is there; one of a block that is worked off by now goes at once."""
        if event.block not in self._blocks:
            return [(event.worker, DropBlocks([event.block]))]
        self._blocks[event.block].workers.add(event.worker)
        return []

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
            entry.workers.discard(worker)
            info = entry.info
            if info.replayable or not info.held:
                continue
            if not entry.workers:
                gone.append(info)
        return self.missing_copies(alive), gone

    def missing_copies(self, alive: Sequence[WorkerId]) -> list[tuple[WorkerId, CopyBlock]]:
        """Copies to order, for blocks that fewer workers hold than should: one was lost, or a new one has come."""
        orders: list[tuple[WorkerId, CopyBlock]] = []
        for entry in self._blocks.values():
            missing = min(self.replication, len(alive)) - len(entry.workers)
            if missing > 0 and entry.workers and entry.info.held and not entry.info.replayable:
                holder = min(entry.workers)
                spare = [other for other in next_workers(holder, alive, len(alive)) if other not in entry.workers]
                orders += [(holder, CopyBlock(self.unit, entry.info.id, to)) for to in spare[:missing]]
        return orders

    def forget(self, blocks: Iterable[BlockInfo]) -> None:
        """These blocks are lost for good; the caller has said so to the user."""
        for info in blocks:
            self._blocks.pop(info.id, None)
            if self._waiting.pop(info.id, 1) is None:
                self.waiting_rows -= info.rows
                self.waiting_bytes -= info.nbytes
