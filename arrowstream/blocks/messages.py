"""What is said about blocks: events are past, instructions imperative."""

from __future__ import annotations

import msgspec

from arrowstream.blocks.block import BlockInfo
from arrowstream.ids import BlockId, UnitId, WorkerId


class BlockAdded(msgspec.Struct, frozen=True, tag=True):
    """A block has been sealed by a receiver and is as safe as it is going to be: `workers` hold it, the first of them
    made it."""

    unit: UnitId
    info: BlockInfo
    workers: list[WorkerId]


class BlockCopied(msgspec.Struct, frozen=True, tag=True):
    """A `CopyBlock` has been carried out: `worker` holds the block now."""

    unit: UnitId
    block: BlockId
    worker: WorkerId


class CopyBlock(msgspec.Struct, frozen=True, tag=True):
    """Copy a block you hold to another worker."""

    unit: UnitId
    block: BlockId
    to: WorkerId


class DropBlocks(msgspec.Struct, frozen=True, tag=True):
    """Let these blocks go: their batch is committed."""

    blocks: list[BlockId]
