"""A source that always has more."""

from __future__ import annotations

import pyarrow as pa

from arrowstream.connectors.source import EndOfStream, Offset


class Firehose:
    """`batches` record batches of `rows` numbers each, as fast as they are taken. Cannot be read again."""

    replayable = False
    schema = pa.schema([("n", pa.int64())])

    def __init__(self, batches: int, rows: int) -> None:
        self.batches, self.rows = batches, rows

    def splits(self) -> list[str]:
        return ["all"]

    def bounded(self) -> Firehose:
        return self

    def open(self, split: str, resume: Offset | None) -> _Reader:
        return _Reader(self, resume if isinstance(resume, int) else 0)


class _Reader:
    def __init__(self, source: Firehose, position: int) -> None:
        self._source, self._next = source, position

    def poll(self, timeout: float) -> pa.RecordBatch:
        if self._next >= self._source.batches:
            raise EndOfStream
        first = self._next * self._source.rows
        self._next += 1
        return pa.record_batch([pa.array(range(first, first + self._source.rows), pa.int64())], names=["n"])

    def position(self) -> Offset:
        return self._next

    def acknowledge(self, offset: Offset) -> None:
        pass

    def close(self) -> None:
        pass
