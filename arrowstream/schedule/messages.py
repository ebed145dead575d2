"""What is said about batches and tasks."""

from __future__ import annotations

import msgspec
import pyarrow as pa

from arrowstream.blocks.block import BlockInfo
from arrowstream.connectors.sink import Receipt
from arrowstream.ids import UnitId, WorkerId
from arrowstream.schedule.batch import Batch
from arrowstream.schedule.watermarks import SplitTime, Wait


class TaskId(msgspec.Struct, frozen=True):
    """One partition of one stage of one attempt at a batch."""

    unit: UnitId
    batch: int
    attempt: int
    stage: int
    partition: int

    def __str__(self) -> str:
        return f"batch {self.batch} stage {self.stage} partition {self.partition} attempt {self.attempt}"


class TaskBlock(msgspec.Struct, frozen=True):
    """A block that a task reads: its place in the batch's order, and who holds it."""

    ordinal: int
    info: BlockInfo
    workers: list[WorkerId]


class RunTask(msgspec.Struct, frozen=True, tag=True):
    """Run a task.

    `time` is the batch's; `before` and `after` are the watermarks at its begin and end (not yet known in stage 0);
    `tables` are the versions of tables.
    `placement` has the worker of each partition, for the exchange. State is first brought to the version
    `committed` (what a former attempt did is rolled back); changes are copied to `replicas` before it is done.
    """

    task: TaskId
    blocks: list[TaskBlock]
    placement: list[WorkerId]
    committed: int
    replicas: list[WorkerId]
    time: float = 0.0
    before: list[int] = []
    after: list[int] = []
    tables: list[float] = []


class TaskStats(msgspec.Struct, frozen=True):
    """What a task has to tell: rows written per output, state rows and bytes, seconds; the highest times seen;
    how many rows it turned away, by the reason why; and at which watermarks results would come without more rows."""

    rows_out: dict[int, int]
    state_rows: int
    state_bytes: int
    seconds: float
    times: list[SplitTime] = []
    turned_away: dict[str, int] = {}
    waits: list[Wait] = []


class TaskDone(msgspec.Struct, frozen=True, tag=True):
    """A task is through; `receipts` by the number of the output. `rejects` are dead letters: its blocks' records that
    were no rows, and rows that it turned away."""

    task: TaskId
    worker: WorkerId
    receipts: dict[int, Receipt]
    rejects: Receipt
    stats: TaskStats


class FaultPlace(msgspec.Struct, frozen=True):
    """Where an error came from: node or output, the line of the user's code, rows as JSON."""

    where: str = ""
    line: str = ""
    rows: list[str] = []


class TaskFailed(msgspec.Struct, frozen=True, tag=True):
    """A task broke. `retry` where another attempt may help (something was lost on the way); `error` is the
    pickled exception, `reason` its text, `place` where it came from."""

    task: TaskId
    worker: WorkerId
    reason: str
    retry: bool
    error: bytes | None = None
    place: FaultPlace | None = None


class TaskSlow(msgspec.Struct, frozen=True, tag=True):
    """A task has been running for so many seconds, and is at this line of the user's code now (empty: in none)."""

    task: TaskId
    worker: WorkerId
    seconds: float
    line: str


class CommitState(msgspec.Struct, frozen=True, tag=True):
    """Batch `batch` is committed: state of it can no longer be rolled back, and its shuffle parts can go."""

    unit: UnitId
    batch: int


class ShowState(msgspec.Struct, frozen=True, tag=True):
    """Say what these partitions keep, as of the batch `committed`: rows and bytes of each table, and all rows of those
    in `tables`. Between two batches, in the order of `RunTask` and `CommitState`."""

    unit: UnitId
    token: int
    committed: int
    partitions: list[int]
    tables: list[str]


class ShownTable(msgspec.Struct, frozen=True):
    """A table of one partition's state by its name there; `content` where it was asked for."""

    name: str
    rows: int
    bytes: int
    content: pa.Table | None = None


class StateShown(msgspec.Struct, frozen=True, tag=True):
    """The answer to `ShowState`; or why there is none."""

    unit: UnitId
    worker: WorkerId
    token: int
    tables: list[ShownTable]
    failed: str = ""


class LogBatch(msgspec.Struct, frozen=True):
    """Write the batch ahead."""

    batch: Batch


class CommitBatch(msgspec.Struct, frozen=True):
    """Publish the batch in every sink, log it, then say `batch_committed`."""

    batch: Batch
    done: list[TaskDone]


class AbortReceipts(msgspec.Struct, frozen=True):
    """Drop what these receipts have staged: their attempt is given up."""

    batch_id: int
    done: list[TaskDone]


class FailUnit(msgspec.Struct, frozen=True):
    """The unit cannot go on."""

    batch_id: int | None
    reason: str
    error: bytes | None = None
    place: FaultPlace | None = None
