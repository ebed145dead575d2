"""What a sink promises to the engine.

A sink is a picklable description. Tasks, on whichever worker, open a `Writer` from it, which stages the rows of
one task of one batch and hands back a `Receipt`; the driver opens one `Committer`, which publishes all
receipts of a batch at once. Writing is repeatable, committing is idempotent; together that is exactly once.

    Sink.bind(schema, kind) -> Sink        when the plan is made: may refuse
    Sink.open(...)          -> Writer      per task and batch: write*, finish -> Receipt, or close to give up
    Sink.committer(run)     -> Committer   one per run: commit(batch, receipts), or abort(batch, receipts)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch, ChangeKind
from arrowstream.connectors.retries import Retries
from arrowstream.connectors.view import TableView


class Guarantee(StrEnum):
    """What is true of the output after any crash."""

    EXACTLY_ONCE = "exactly once"
    AT_LEAST_ONCE = "at least once"


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that the target of an output does not take, each with the reason: they become dead letters."""

    rows: pa.Table
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a writer has staged, for the committer: small facts, and rows where they are handed over in memory.

    `facts` is made of what JSON can hold (file names, row counts); `changes` travels with the receipt from the
    worker to the driver, so it is for outputs that the driver itself keeps. `refused` rows are in neither.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    changes: tuple[ChangeBatch, ...] = ()
    refused: tuple[Refused, ...] = ()


@runtime_checkable
class Sink(Protocol):
    """A description of where a stream's output goes. It can be pickled, and making it does no I/O."""

    @property
    def name(self) -> str:
        """The name by which SQL finds the output; one word, unique in a context."""

    @property
    def guarantee(self) -> Guarantee: ...

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> Sink:
        """This sink, made ready for a stream of these columns and this kind of change.

        Raises `ChangeKindError` or `PlanError`, with the cure, where it cannot take them. Does no I/O but may
        look whether the place can be written. Every other call is made on what `bind` has returned.
        """

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> Writer:
        """Begin to stage a task's part of a batch. `task_id` is unique within the batch (it holds the
        partition and the attempt) and fit for a file name. Called on workers, one writer a task."""

    def committer(self, run: str | None = None) -> Committer:
        """The one live thing on the driver; opens connections and folders, and cleans up what a run before
        has left unpublished (receipts of before are void). Raises `SinkError`.

        `run` names the run: batch ids count within it. A run resumed from a checkpoint comes with the name it had,
        and what was published under it is not published again; any other name, or None, begins a new run, whose
        batches go after what is there."""


class Writer(Protocol):
    """One task's part of one batch, by one thread. Nothing it does can be seen before the commit."""

    def write(self, changes: ChangeBatch) -> None: ...

    def finish(self) -> Receipt:
        """Everything is staged and safe. Called once, after the last `write`, also where there was none."""

    def close(self) -> None:
        """Let go of everything; without a `finish` before, also of what was staged. Twice is once."""


class Committer(Protocol):
    """Publishes whole batches, on the driver's thread. `view`, for those that have it, is called by others."""

    def commit(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Publish a batch. A batch that has been published does nothing (twice = once), also after a crash of
        the process between staging and commit. Batches come in order of their numbers."""

    def abort(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """Drop what these receipts have staged; the batch will run again."""

    def flush(self) -> None:
        """Publish what is held back for larger files (`roll=`); called at a graceful stop."""

    def close(self) -> None:
        """Let go of connections. Twice is once."""


@runtime_checkable
class SupportsView(Protocol):
    """A committer whose output SQL can query."""

    def view(self) -> TableView:
        """The output as it stands after the last whole batch. Called from any thread."""


@runtime_checkable
class SupportsRetries(Protocol):
    """A committer that says itself how often a commit that failed is tried again."""

    @property
    def retries(self) -> Retries: ...


@runtime_checkable
class SupportsLastBatch(Protocol):
    """A committer that knows which batch it published last, also across runs (a fence)."""

    def last_batch(self) -> int | None: ...


@runtime_checkable
class SupportsRefused(Protocol):
    """A committer whose target may refuse a row, such as by a constraint of a table."""

    def refused(self) -> list[Refused]:
        """The rows that were left out of the commits since the last call."""


@runtime_checkable
class SupportsEarlierRows(Protocol):
    """A committer that adds to what earlier runs have written."""

    def earlier_rows(self) -> int:
        """How many rows of earlier runs there are, which this one leaves there; asked before the first commit."""
