"""From the logical plan to the steps that partitions run: one short function a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial, singledispatch

from arrowstream.connectors.changes import Append
from arrowstream.operators.aggregate import MergeAggregate, PartialAggregate
from arrowstream.operators.moment import Mark
from arrowstream.operators.program import Observe, Partial, Program, ProgramStep, Scan, Stateful, Transform, Work, Write
from arrowstream.operators.rows import MapBatchesOperator, RowsOperator, SqlOperator, UnionOperator
from arrowstream.plan.eventtime import EventTime
from arrowstream.plan.kinds import needs_removed
from arrowstream.plan.nodes import Aggregate, MapBatches, Node, Output, Rows, SourceNode, Sql, Union, Watermark
from arrowstream.plan.unit import Unit, consumers, topological, watermarks


@dataclass(slots=True)
class _Builder:
    unit: Unit
    readers: dict[Node, list[Node]]
    steps: list[ProgramStep] = field(default_factory=list)
    made: dict[Node, int] = field(default_factory=dict)
    marks: dict[Watermark, int] = field(default_factory=dict)
    ordered: bool = False

    def mark(self, time: EventTime) -> Mark:
        """The event time of a node, for an operator."""
        return Mark(tuple(self.marks[each] for each in time.marks), time.behind, time.lateness)

    def add(self, work: Work, *inputs: int, stage: int | None = None, shared: bool = False) -> int:
        """A step, in the latest of its inputs' stages unless said otherwise; its number."""
        if stage is None:
            stage = max((self.steps[number].stage for number in inputs), default=0)
        self.steps.append(ProgramStep(len(self.steps), stage, inputs, work, shared))
        return len(self.steps) - 1


def compile_unit(unit: Unit) -> Program:
    """The program of a unit. Making it does no I/O; it is made anew in every worker."""
    nodes = topological(unit.outputs)
    builder = _Builder(unit, consumers(nodes))
    builder.marks = {node: number for number, node in enumerate(watermarks(unit))}
    for node in nodes:
        builder.made[node] = _compile(node, builder)
    stages = 1 + max(step.stage for step in builder.steps)
    return Program(tuple(builder.steps), stages, builder.ordered)


def _inputs(node: Node, to: _Builder) -> tuple[int, ...]:
    return tuple(to.made[child] for child in node.inputs)


def _shared(node: Node, to: _Builder) -> bool:
    return len(to.readers.get(node, [])) > 1


@singledispatch
def _compile(node: Node, to: _Builder) -> int:
    raise NotImplementedError(type(node).__name__)


@_compile.register
def _(node: SourceNode, to: _Builder) -> int:
    source = next(source_id for source_id, each in to.unit.sources if each is node)
    return to.add(Scan(source), shared=_shared(node, to))


@_compile.register
def _(node: Watermark, to: _Builder) -> int:
    work = Observe(to.marks[node], node.column, node.max_ahead, node.label)
    return to.add(work, *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Rows, to: _Builder) -> int:
    return to.add(Transform(partial(RowsOperator, node.steps)), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Sql, to: _Builder) -> int:
    make = partial(SqlOperator, node.statement, node.schema)
    return to.add(Transform(make), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: MapBatches, to: _Builder) -> int:
    make = partial(MapBatchesOperator, node.function, node.schema)
    return to.add(Transform(make), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Union, to: _Builder) -> int:
    make = partial(UnionOperator, node.schema.names())
    return to.add(Transform(make), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Aggregate, to: _Builder) -> int:
    weighted = not isinstance(node.input.kind, Append)
    plan = node.decomposition
    before = to.add(Partial(PartialAggregate(plan, weighted), node.keys), *_inputs(node, to))
    make = partial(MergeAggregate, plan, weighted, needs_removed(to.readers, node))
    to.ordered = to.ordered or plan.ordered
    return to.add(Stateful(make, (before,)), before, stage=to.steps[before].stage + 1, shared=_shared(node, to))


@_compile.register
def _(node: Output, to: _Builder) -> int:
    return to.add(Write(node.sink, to.unit.outputs.index(node)), *_inputs(node, to))
