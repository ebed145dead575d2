"""The logical plan: what the user has said, as a tree of small frozen nodes.

Every node knows its columns (`schema`) and what kind of change it gives (`kind`) when it is made. Nodes are
compared by identity: one that two outputs share is one node, and its work is done once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from arrowstream.connectors.changes import ChangeKind
from arrowstream.connectors.retries import NO_RETRIES, Retries
from arrowstream.connectors.sink import Sink
from arrowstream.connectors.source import Source
from arrowstream.plan.aggregates import Decomposition
from arrowstream.plan.eventtime import Course, EventTime, show_ticks


@dataclass(frozen=True, eq=False, kw_only=True)
class Node(ABC):
    """A step of the plan. `schema` are its columns, `kind` the changes it gives, `time` the event time of its rows;
    `line` is that of the user's code which made it."""

    schema: pl.Schema
    kind: ChangeKind
    time: EventTime | None = None
    line: str = ""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Node, ...]:
        """The nodes it reads, in order."""

    @property
    @abstractmethod
    def label(self) -> str:
        """One line for `explain()`."""

    @property
    def flagged(self) -> bool:
        """Whether its operator marks rows that are to be set aside (`plan.groupwise.TOO_LARGE`)."""
        return False


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded call of a LazyFrame method."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    line: str = field(default="", compare=False)

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        result: pl.LazyFrame = getattr(frame, self.method)(*self.args, **self.kwargs)
        return result

    def __str__(self) -> str:
        words = [_short(value) for value in self.args] + [f"{key}={_short(v)}" for key, v in self.kwargs.items()]
        return f"{self.method}({', '.join(words)})"


def _short(value: object) -> str:
    text = " ".join(str(value).split()) if isinstance(value, pl.Expr) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(frozen=True, eq=False, kw_only=True)
class SourceNode(Node):
    """Rows as they arrive."""

    name: str
    source: Source

    @property
    def inputs(self) -> tuple[Node, ...]:
        return ()

    @property
    def label(self) -> str:
        return f"Source {self.name}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Watermark(Node):
    """Names the event time and how far rows may be out of order; durations in ticks (see `plan.eventtime`).

    The watermark of a split is the highest time seen, less `delay`; the least of all splits rules, without those
    that have ended or have been idle for more than `idle` seconds. Where all have been, it holds, or goes on with the
    clock (`then`). Rows without a time, and those more than
    `max_ahead` ticks ahead of the clock, go to the dead letters.
    """

    input: Node
    column: str
    delay: int
    max_ahead: int | None
    lateness: int
    idle: float | None
    then: str = "hold"

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", EventTime(self.column, (Course(self),), self.lateness))

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        dtype = self.schema[self.column]
        text = f"Watermark {self.column}, {show_ticks(self.delay, dtype)} behind"
        if self.then == "advance" and self.idle is not None:
            text += f", with the clock after {show_ticks(round(self.idle * 1_000_000), dtype)} of silence"
        return text


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows(Node):
    """Row-local LazyFrame calls, fused into one: Polars optimises them together, down into the source."""

    input: Node
    steps: tuple[Step, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return "Rows " + " . ".join(map(str, self.steps))


@dataclass(frozen=True, eq=False, kw_only=True)
class Sql(Node):
    """A row-local statement that DuckDB runs on each batch."""

    input: Node
    statement: str

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return f"Sql {' '.join(self.statement.split())}"


@dataclass(frozen=True, eq=False, kw_only=True)
class MapBatches(Node):
    """The user's function of a DataFrame; the user vouches that it is row-local."""

    input: Node
    function: Callable[[pl.DataFrame], pl.DataFrame]
    retries: Retries = NO_RETRIES

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return f"MapBatches {getattr(self.function, '__name__', type(self.function).__name__)}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Union(Node):
    """All rows of several inputs of the same columns."""

    parts: tuple[Node, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.parts

    @property
    def label(self) -> str:
        return "Union"


@dataclass(frozen=True, eq=False, kw_only=True)
class Aggregate(Node):
    """Running aggregates by key, kept as state; one row per group, updated in place.

    With `ttl` (ticks), a group of which no row has come for so long, by the watermark, is let go; a row that is
    further behind the watermark is late. So it is of `Distinct`, `TopK` and `Recompute`, too.

    `by` and `aggs` are what is computed, under the names of the output, and `too_large` says of which groups it cannot
    be shown, and why; `decomposition` is the same, taken apart.
    """

    input: Node
    keys: tuple[str, ...]
    by: tuple[pl.Expr, ...]
    aggs: tuple[pl.Expr, ...]
    too_large: pl.Expr | None
    description: str
    decomposition: Decomposition
    ttl: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Aggregate {self.description}{by}"

    @property
    def flagged(self) -> bool:
        return self.decomposition.flagged


@dataclass(frozen=True, eq=False, kw_only=True)
class Output(Node):
    """A bound sink and the frame that goes into it."""

    input: Node
    sink: Sink

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return f"Output {self.sink.name} ({type(self.sink).__name__})"
