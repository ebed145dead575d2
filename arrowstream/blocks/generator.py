"""Cut what a reader polls into blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

import pyarrow as pa

from arrowstream.blocks.block import Block, BlockInfo, BlockKind
from arrowstream.connectors.source import Offset, Reference
from arrowstream.ids import BlockId, SourceId
from arrowstream.settings import BlockSettings


class BlockGenerator:
    """Cut incoming record batches into blocks by rows, bytes or age.

    Belongs to one receiver thread. Rows leave in the order they came; what one `append` brings stays in one
    block, so that a block always ends at a position of its reader. A reference is a block of its own. `join` makes
    one position of two that follow each other in a block.
    """

    def __init__(
        self,
        source: SourceId,
        split: str,
        *,
        settings: BlockSettings,
        replayable: bool,
        start: Offset | None,
        position: int,
        new_id: Callable[[], BlockId],
        join: Callable[[Offset | None, Offset], Offset] = lambda earlier, later: later,
    ) -> None:
        self._source, self._split = source, split
        self._settings, self._replayable, self._new_id = settings, replayable, new_id
        self._position, self._join = count(position), join
        self._start: Offset | None = start
        self._stop: Offset | None = start
        self._rows: list[pa.RecordBatch] = []
        self._rejects: list[pa.RecordBatch] = []
        self._count = self._bytes = 0
        self._created: float | None = None

    @property
    def due(self) -> float | None:
        """The clock at which the open block must be sealed; None while there is no row in it."""
        return None if self._created is None else self._created + self._settings.interval

    def append(
        self, rows: pa.RecordBatch | Reference | None, rejects: pa.RecordBatch | None, stop: Offset, now: float
    ) -> list[Block]:
        """Take in what one poll gave, up to the position `stop`; the blocks that are full now."""
        sealed: list[Block] = []
        if isinstance(rows, Reference):
            sealed += self.seal()
            if rejects is not None and rejects.num_rows:  # before the rows, as in `seal`
                at = self._start
                info = self._info("rejects", rejects.num_rows, rejects.nbytes, at, at, now, held=True)
                sealed.append(Block(info, rejects))
                rejects = None
            start, self._start = self._start, stop
            info = self._info("rows", rows.num_rows, rows.nbytes, start, stop, now, held=False, ranges=rows.ranges)
            sealed.append(Block(info, None))
        elif rows is not None and rows.num_rows:
            large = self._bytes + rows.nbytes > self._settings.bytes
            long = self._count + rows.num_rows > self._settings.rows
            if large or long:  # rather two blocks than one that is too large and has to be copied together
                sealed += self.seal()
            self._rows.append(rows)
            self._count += rows.num_rows
            self._bytes += rows.nbytes
        if rejects is not None and rejects.num_rows:
            self._rejects.append(rejects)
            self._bytes += rejects.nbytes
        self._stop = stop if self._created is None else self._join(self._stop, stop)
        if self._created is None and (self._rows or self._rejects):
            self._created = now
        if self._count >= self._settings.rows or self._bytes >= self._settings.bytes:
            sealed += self.seal()
        return sealed

    def tick(self, now: float) -> list[Block]:
        """The open block, if its time has come."""
        return self.seal() if self.due is not None and now >= self.due else []

    def seal(self) -> list[Block]:
        """The open block, whatever its age; nothing where it is empty.

        Rejects are a block of their own, before the rows. It does not move the position: where a worker is lost between
        the two, the whole stretch is read again.
        """
        if self._created is None:
            return []
        start, self._start = self._start, self._stop
        sealed = []
        kinds: tuple[tuple[BlockKind, list[pa.RecordBatch]], ...] = (("rejects", self._rejects), ("rows", self._rows))
        for kind, batches in kinds:
            if batches:
                data = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
                stop = start if kind == "rejects" and self._rows else self._stop
                info = self._info(kind, data.num_rows, data.nbytes, start, stop, self._created, held=True)
                sealed.append(Block(info, data))
        self._rows, self._rejects = [], []
        self._count = self._bytes = 0
        self._created = None
        return sealed

    def _info(
        self,
        kind: BlockKind,
        rows: int,
        nbytes: int,
        start: Offset | None,
        stop: Offset | None,
        created: float,
        held: bool,
        ranges: Mapping[str, tuple[int, int]] | None = None,
    ) -> BlockInfo:
        return BlockInfo(
            id=self._new_id(),
            source=self._source,
            split=self._split,
            position=next(self._position),
            start=start,
            stop=stop,
            rows=rows,
            nbytes=nbytes,
            created=created,
            kind=kind,
            held=held,
            replayable=self._replayable and kind == "rows",
            ranges=dict(ranges or {}),
        )
