"""One partition of a unit on a worker: its operators and their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import polars as pl

from arrowstream.connectors.sink import Sink
from arrowstream.connectors.source import Source
from arrowstream.ids import SourceId
from arrowstream.operators.changes import Changes
from arrowstream.operators.program import (
    Operator,
    Partial,
    Program,
    Scan,
    Stateful,
    StatefulOperator,
    Transform,
    Waiting,
)
from arrowstream.plan.nodes import Watermark
from arrowstream.plan.unit import Unit, sources_below, watermarks
from arrowstream.schedule.passed import Passed
from arrowstream.state.protocol import StateTable


class Partition:
    """What runs a partition's tasks, batch after batch; belongs to one thread.

    Committed -> (tasks of batch N) -> Open(N) -> (`commit` | `rollback`) -> Committed. `values` holds what later
    stages of the batch under way will read, `nothing` what stage 0 gives of no rows, once somebody has asked.
    """

    def __init__(self, number: int, partitions: int, program: Program, unit: Unit) -> None:
        self.number, self.partitions, self.program = number, partitions, program
        self.begins: Callable[[int, int], None] = lambda batch, step: None
        """Called with the batch and the number of each step that begins."""
        self.names: Mapping[SourceId, str] = {source: node.name for source, node in unit.sources}
        self.sources: Mapping[SourceId, Source] = {source: node.source for source, node in unit.sources}
        self.sinks: Sequence[Sink] = [output.sink for output in unit.outputs]
        self.schemas: Mapping[SourceId, pl.Schema] = {source: node.schema for source, node in unit.sources}
        self.transforms: dict[int, Operator] = {}
        self.stateful: dict[int, StatefulOperator] = {}
        self.waiting: list[tuple[int, Waiting]] = []
        for step in program.steps:
            if isinstance(step.work, Transform):
                self.transforms[step.number] = step.work.make()
            elif isinstance(step.work, Stateful):
                operator = self.stateful[step.number] = step.work.make()
                if step.work.waits:
                    self.waiting.append((step.number, cast(Waiting, operator)))
        self.marks: Sequence[Watermark] = watermarks(unit)
        self.below: Sequence[Sequence[SourceId]] = [sources_below(unit, mark) for mark in self.marks]
        self.meets: Mapping[SourceId, set[SourceId]] = {
            source: {source}.union(*(below for below in self.below if source in below)) for source, _ in unit.sources
        }
        self.feeding: dict[int, set[SourceId]] = {}
        for step in program.steps:
            own = {step.work.source} if isinstance(step.work, Scan) else set()
            self.feeding[step.number] = own.union(*(self.feeding[number] for number in step.inputs))
        self.values: dict[int, Changes] = {}
        self.nothing: Passed | None = None
        self.version = -1
        self.open_batch: int | None = None

    @property
    def ordered(self) -> bool:
        """Whether rows must be put back into the order of arrival after an exchange."""
        return self.program.ordered and self.partitions > 1

    def read_later(self, stage: int) -> set[int]:
        """The steps of a stage whose results a later stage of this partition reads as they are."""
        steps = self.program.steps
        return {
            number
            for step in steps
            if step.stage > stage
            for number in step.inputs
            if steps[number].stage == stage and not isinstance(steps[number].work, Partial)
        }

    def tables(self, stage: int | None = None) -> Iterator[tuple[str, StateTable]]:
        """The tables of state by name: those of one stage, or all."""
        for number, operator in self.stateful.items():
            if stage is None or self.program.steps[number].stage == stage:
                for name, table in operator.tables.items():
                    yield f"{number}/{name}", table

    def commit(self, batch: int) -> None:
        """State up to this batch is final. A batch that is not open, or was committed before, does nothing."""
        if self.open_batch is not None and self.open_batch <= batch:
            for _, table in self.tables():
                table.commit()
            self.open_batch = None
        self.version = max(self.version, batch)
        self.values.clear()

    def rollback(self) -> None:
        """State as it was after the last committed batch."""
        for _, table in self.tables():
            table.rollback()
        self.open_batch = None
        self.values.clear()
