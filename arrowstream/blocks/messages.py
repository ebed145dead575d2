"""What is said about blocks: events are past, instructions imperative."""

from __future__ import annotations

import msgspec

from arrowstream.blocks.block import BlockInfo
from arrowstream.ids import BlockId, UnitId, WorkerId


class BlockAdded(msgspec.Struct, frozen=True, tag=True):
    """A block has been sealed by a receiver: `workers` hold it, the first of them made it. Where they are fewer than
    there should be, `problem` says why."""

    unit: UnitId
    info: BlockInfo
    workers: list[WorkerId]
    problem: str = ""


class BlockCopied(msgspec.Struct, frozen=True, tag=True):
    """A `CopyBlock` has been carried out: `worker` holds the block now."""

    unit: UnitId
    block: BlockId
    worker: WorkerId


class BlockNotCopied(msgspec.Struct, frozen=True, tag=True):
    """A `CopyBlock` could not be carried out: `worker` did not take the block, or it is no longer where it was."""

    unit: UnitId
    block: BlockId
    worker: WorkerId
    problem: str


class CopyBlock(msgspec.Struct, frozen=True, tag=True):
    """Copy a block you hold to another worker."""

    unit: UnitId
    block: BlockId
    to: WorkerId


class DropBlocks(msgspec.Struct, frozen=True, tag=True):
    """Let these blocks go: their batch is committed."""

    blocks: list[BlockId]
