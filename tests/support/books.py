"""Blocks for those who only keep books of them."""

from __future__ import annotations

from collections.abc import Sequence

from arrowstream.blocks.block import BlockInfo, BlockKind
from arrowstream.blocks.messages import BlockAdded
from arrowstream.ids import BlockId, SourceId, UnitId, WorkerId

UNIT = UnitId("u0")
SOURCE = SourceId("s000")


def workers(*numbers: int) -> list[WorkerId]:
    return [WorkerId(f"w{number}") for number in numbers]


def info(
    number: int,
    rows: int = 10,
    nbytes: int = 100,
    *,
    split: str = "a",
    kind: BlockKind = "rows",
    held: bool = True,
    replayable: bool = False,
) -> BlockInfo:
    """The block of this number in its split, which ends at the position of the same number."""
    return BlockInfo(
        id=BlockId(f"{split}/{number}"),
        source=SOURCE,
        split=split,
        position=number,
        start=number - 1 if number else None,
        stop=number,
        rows=rows,
        nbytes=nbytes,
        created=float(number),
        kind=kind,
        held=held,
        replayable=replayable,
    )


def added(block: BlockInfo, holders: Sequence[WorkerId]) -> BlockAdded:
    return BlockAdded(UNIT, block, list(holders))
