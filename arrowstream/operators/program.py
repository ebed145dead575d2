"""A compiled unit: the steps that each partition runs, stage by stage.

Between two stages lies an exchange: rows go to the partition that owns the key group of their key. Within a stage a
partition works alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import polars as pl

from arrowstream.connectors.sink import Sink
from arrowstream.ids import SourceId
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Mark, Moment
from arrowstream.plan.nodes import Node
from arrowstream.state.protocol import StateTable

Frames: TypeAlias = Mapping[str, pl.DataFrame]
"""What goes through an exchange: frames by name, each with the key columns."""

Parts: TypeAlias = Mapping[str, Sequence[pl.DataFrame]]
"""What comes out of it: each frame's parts, in order of arrival; several may hold rows of the same key."""


class Operator(Protocol):
    """Row-local: changes in, changes out, nothing kept."""

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes: ...


class PartialOperator(Protocol):
    """Before an exchange: make the batch small, by key. Keeps nothing; several threads may call it at once."""

    @property
    def frames(self) -> Sequence[str]:
        """The names of its frames."""

    def partial(self, changes: Changes, moment: Moment) -> Frames: ...


class StatefulOperator(Protocol):
    """After an exchange: bring the state of this partition's keys forward, say what changed."""

    @property
    def tables(self) -> Mapping[str, StateTable]:
        """The state, table by table; the caller commits, rolls back, copies and restores them."""

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        """The parts of each input. Called in every batch, also with empty frames: the watermark may have moved."""

    def nothing(self) -> Changes:
        """No change."""


class Waiting(Protocol):
    """A stateful operator of which results come out as time goes on, also without rows."""

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """For each of the step's `waits` the watermark, in ticks, at which the next result comes out; None where
        nothing waits. Asked when the batch is through, whose end is that of the moment."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The rows of a source in this batch."""

    source: SourceId


@dataclass(frozen=True, slots=True)
class Observe:
    """Rows go by and their highest time is noted, for the watermark `number`; `operator` names it in dead letters."""

    number: int
    column: str
    max_ahead: int | None
    operator: str


@dataclass(frozen=True, slots=True)
class Transform:
    """Row-local work; `anytime` where it may run in any thread, and before its batch has come."""

    make: Callable[[], Operator]
    anytime: bool = False


@dataclass(frozen=True, slots=True)
class Partial:
    """The end of a stage: its frames go through the exchange. `keys` are the columns that decide where to; with
    none, all goes to partition 0."""

    operator: PartialOperator
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stateful:
    """The begin of a stage: takes in what the exchange brings from the steps `partials`, one for each input.

    Where a watermark goes on with the clock, `waits` are the event times by which the operator (a `Waiting`) gives
    results.
    """

    make: Callable[[], StatefulOperator]
    partials: tuple[int, ...]
    waits: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """Changes into the unit's output number `output`."""

    sink: Sink
    output: int


Work: TypeAlias = Scan | Observe | Transform | Partial | Stateful | Write


@dataclass(frozen=True, slots=True)
class ProgramStep:
    """`inputs` are numbers of earlier steps; `shared` where more than one step reads the result. `node` is the one of
    the plan that it belongs to."""

    number: int
    stage: int
    inputs: tuple[int, ...]
    work: Work
    shared: bool
    node: Node


@dataclass(frozen=True, slots=True)
class Program:
    """`ordered` where something depends on the order of arrival across partitions (first, last, implode):
    then blocks go through stage 0 one by one, and what they give is put back in order after the exchange. `keepers` are
    the nodes that keep state, by the number of their step."""

    steps: tuple[ProgramStep, ...]
    stages: int
    ordered: bool
    keepers: Mapping[int, Node] = field(default_factory=dict)

    @property
    def stateful(self) -> bool:
        return any(isinstance(step.work, Stateful) for step in self.steps)

    @property
    def waits(self) -> Mapping[int, Sequence[Mark]]:
        """By which event times stateful steps give results in silence."""
        return {step.number: step.work.waits for step in self.steps if isinstance(step.work, Stateful)}
