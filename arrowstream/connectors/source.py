"""What a source promises to the engine.

A connector is two classes: a picklable description (`Source`), and the live thing it opens from a resume
position (`Reader`). Batching, blocks, retries, back-off, rate and acknowledgement belong to the engine, so a
connector stays thin. Optional abilities are the small protocols below; the engine asks with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import polars as pl
import pyarrow as pa

Offset: TypeAlias = int | str | list[Any] | dict[str, Any]
"""A position in a split, made of what JSON can hold. Only the source reads meaning into it."""

REJECT_SCHEMA = pa.schema(
    [
        ("raw", pa.large_binary()),
        ("reason", pa.large_string()),
        ("path", pa.large_string()),
        ("line", pa.int64()),
        ("offset", pa.int64()),
    ]
)
"""The columns of rejected records: the raw bytes as they came, why they are no row, and where they were found.

`path` is the file's, `line` counts from 1 in it, `offset` is how many bytes (once decompressed) are before the record.
Each of the three may be null where it is not known, or means nothing.
"""


class EndOfStream(Exception):
    """Raised by `Reader.poll` when the split has ended and will never give another row."""


@runtime_checkable
class Source(Protocol):
    """A description of a stream. It can be pickled, and making it does no I/O.

    `replayable` says that `open(split, resume)` gives the same rows after the same position again, and that
    the source is a `SupportsRange`; its blocks need no copies.
    """

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def replayable(self) -> bool: ...

    def splits(self) -> Sequence[str]:
        """The names of the parts that can be read independently; may do I/O. Called once, at the start."""

    def open(self, split: str, resume: Offset | None) -> Reader:
        """Start to read after the position `resume` (`remembered`, for `SupportsSteps`), or from the beginning.

        Raises `SourceError` where trying again is of no use. An `OSError` is tried again with back-off, but for the
        very first time, when it makes `start()` fail: say in it what is wrong and what would help.
        """


class Reader(Protocol):
    """A split being read by one thread; `acknowledge` and `close` may come from another."""

    def poll(self, timeout: float) -> pa.RecordBatch | Reference | None:
        """Rows of the source's schema, as many as are at hand; waits up to `timeout` seconds for the first.

        None says that there was nothing in that time. Decode in bulk; never per record in Python. Raises
        `EndOfStream` once the split has ended or the reader is closed, and `OSError` when the connection broke: the
        engine then opens the split again from `position()`, with back-off.
        """

    def position(self) -> Offset:
        """Where the next row will come from: after the last row polled (or rejected)."""

    def acknowledge(self, offset: Offset) -> None:
        """All up to `offset` is safe with the engine; the source may forget it."""

    def close(self) -> None:
        """Let go of everything. A second call does nothing."""


class Reference:
    """A block's worth of rows that stays in the source until a task scans it (columnar files).

    Given by `poll` instead of rows; the rows are those between the position before the poll and the one after.
    `ranges` tells of columns without nulls their lowest and highest value, as Polars' physical integers, where the
    source knows them without reading; of times, so that the watermark moves on without reading them.
    """

    __slots__ = ("nbytes", "num_rows", "ranges")

    def __init__(self, num_rows: int, nbytes: int, ranges: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.num_rows = num_rows
        self.nbytes = nbytes
        self.ranges = ranges or {}


@runtime_checkable
class SupportsRange(Protocol):
    """A replayable source, whose rows between two positions can be read again at any time, by anyone."""

    def scan(self, split: str, start: Offset | None, stop: Offset) -> pl.LazyFrame:
        """The rows after `start` (None: from the beginning) up to `stop`, each time the same.

        The two are positions that a reader of this split has given (`joined` where the source `SupportsSteps` and
        others lie between). Columns are the source's schema; the engine pushes projection and filters into the frame.
        """


@runtime_checkable
class SupportsSteps(Protocol):
    """A source whose positions say only what came since the one before, so that they stay small however long it runs.

    (A position in a directory that named every file read so far would grow for ever.) The engine joins those that
    follow each other: of the polls of a block, of blocks that are scanned as one range, and, to open the split again,
    all since the beginning.
    """

    def joined(self, earlier: Offset | None, later: Offset) -> Offset:
        """`later`, saying also what `earlier` says, which it follows. With None: what `later` says of itself."""

    def remembered(self, memory: Offset | None, later: Offset) -> Offset:
        """What `open` takes to go on after `later`; `memory` is the same of the position before. Twice is once."""


def joined(source: Source, earlier: Offset | None, later: Offset) -> Offset:
    """The end of a range that begins where the one up to `earlier` does, and ends at `later`, which follows it."""
    return source.joined(earlier, later) if isinstance(source, SupportsSteps) else later


def remembered(source: Source, memory: Offset | None, later: Offset) -> Offset:
    """What `source.open` takes to go on after `later`; `memory` is the same of the position before it."""
    return source.remembered(memory, later) if isinstance(source, SupportsSteps) else later


@runtime_checkable
class SupportsWake(Protocol):
    """A reader whose poll can be called off."""

    def wake(self) -> None:
        """Have a poll that waits return now, with None; called from another thread."""


@runtime_checkable
class SupportsBatchLimit(Protocol):
    """A source that has a say in how much of it one batch takes."""

    @property
    def max_rows_per_batch(self) -> int | None:
        """Rows of it in a batch at most, None for no limit; its readers then give no more in one poll."""


def batch_limit(source: Source) -> int | None:
    """Rows of a source in a batch at most, None for no limit."""
    return source.max_rows_per_batch if isinstance(source, SupportsBatchLimit) else None


@runtime_checkable
class SupportsRejects(Protocol):
    """A reader that meets records which are no rows (malformed JSON, wrong type, not UTF-8)."""

    def rejects(self) -> pa.RecordBatch | None:
        """Records refused since the last call, as `REJECT_SCHEMA`; None where there are none."""


@runtime_checkable
class SupportsFailure(Protocol):
    """A source that the program itself feeds, and that can refuse what nobody will read."""

    def run_failed(self, reason: str | None) -> None:
        """The run that reads this source has failed, and why; None: a run begins that reads it. From any thread, in the
        process where the source was made."""


@runtime_checkable
class SupportsBounded(Protocol):
    """A source that can say: what there is now, then end (`ctx.run()`)."""

    def bounded(self) -> Source:
        """This source, but ending where it would otherwise wait for more."""
