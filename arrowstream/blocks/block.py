"""A block: consecutive rows of one split, sealed.

A block's rows are those between the positions `start` and `stop` of its split. A block of a replayable source
need not hold them: whoever wants its rows and finds no copy scans them from the source. Records that are no rows
travel in blocks of their own (`kind="rejects"`), so that they are copied, allotted and counted like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pyarrow as pa

from arrowstream.ids import BlockId, SourceId

BlockKind = Literal["rows", "rejects"]


class BlockInfo(msgspec.Struct, frozen=True):
    """What the block master knows of a block.

    `position` counts the blocks of its split, of either kind, from 0; rows leave in this order. `nbytes` is what it
    takes in memory, `created` the clock when its first row came. `held` says whether the rows are in a block
    store; where not, they are scanned from the source. `replayable` says that they could be. `ranges` has the lowest
    and highest value of some columns without nulls, as physical integers, where the source knew them.
    """

    id: BlockId
    source: SourceId
    split: str
    position: int
    start: Any
    stop: Any
    rows: int
    nbytes: int
    created: float
    kind: BlockKind = "rows"
    held: bool = True
    replayable: bool = False
    ranges: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True, slots=True)
class Block:
    """A block and, where it is held, its rows."""

    info: BlockInfo
    data: pa.RecordBatch | None
