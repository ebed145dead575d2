"""What is said about receivers."""

from __future__ import annotations

from typing import Any

import msgspec

from arrowstream.ids import SourceId, UnitId, WorkerId


class StartReceiver(msgspec.Struct, frozen=True, tag=True):
    """Read this split after the position `resume`; the first block gets the number `next_block`. Where `bounded`, what
    the source has now, and then end. Where others wait for it (`first`), it does not wait for room that theirs take."""

    unit: UnitId
    source: SourceId
    split: str
    resume: Any
    next_block: int
    bounded: bool
    first: bool = False


class SealBlocks(msgspec.Struct, frozen=True, tag=True):
    """Take in what the sources have at hand, seal it, and say `ReceiversSealed` with this token."""

    unit: UnitId
    token: int


class StopReceivers(msgspec.Struct, frozen=True, tag=True):
    """Stop reading, after what the sources have at hand is taken in (`drain`); what has arrived is sealed, then
    each receiver says `ReceiverEnded`."""

    unit: UnitId
    drain: bool


class AcknowledgeRows(msgspec.Struct, frozen=True, tag=True):
    """All rows of this split up to `offset` are safe: tell the source."""

    unit: UnitId
    source: SourceId
    split: str
    offset: Any


class ReceiverStarted(msgspec.Struct, frozen=True, tag=True):
    """The source is open."""

    unit: UnitId
    source: SourceId
    split: str
    worker: WorkerId


class ReceiverFailed(msgspec.Struct, frozen=True, tag=True):
    """Reading broke. Where `fatal`, it is of no use to try again; else the receiver tries with back-off."""

    unit: UnitId
    source: SourceId
    split: str
    worker: WorkerId
    reason: str
    fatal: bool


class ReceiverEnded(msgspec.Struct, frozen=True, tag=True):
    """No more rows will come: the split has come to its end (`exhausted`), or the receiver was stopped before. All its
    blocks are known."""

    unit: UnitId
    source: SourceId
    split: str
    worker: WorkerId
    exhausted: bool


class ReceiversSealed(msgspec.Struct, frozen=True, tag=True):
    """The answer to `SealBlocks`: all blocks of what was at hand are known."""

    unit: UnitId
    worker: WorkerId
    token: int
