"""From the logical plan to the steps that partitions run: one short function a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from typing import Final

import polars as pl

from arrowstream.connectors.changes import Append, ChangeKind
from arrowstream.operators.aggregate import MergeAggregate, PartialAggregate
from arrowstream.operators.appendjoin import AppendJoin
from arrowstream.operators.aside import SetAside
from arrowstream.operators.asof import AsofJoinOperator
from arrowstream.operators.boundedjoin import BoundedJoin, lonely_sides
from arrowstream.operators.closing import ClosingGroups
from arrowstream.operators.distinct import DistinctFirst, DistinctLast, DistinctPartial, DistinctWithin
from arrowstream.operators.exchange import RowsPartial
from arrowstream.operators.expiry import Expiring, Forgetful, Passing, TouchedPartial
from arrowstream.operators.join import UnboundedJoin
from arrowstream.operators.late import LateJudge
from arrowstream.operators.moment import Mark
from arrowstream.operators.pairing import Pairing
from arrowstream.operators.program import (
    Observe,
    Partial,
    PartialOperator,
    Program,
    ProgramStep,
    Scan,
    Stateful,
    StatefulOperator,
    Transform,
    Work,
    Write,
)
from arrowstream.operators.recompute import RecomputeGroups
from arrowstream.operators.rolling import NumberRows, RollingOperator
from arrowstream.operators.rows import MapBatchesOperator, RowsOperator, SqlOperator, UnionOperator
from arrowstream.operators.session import SessionMerge, SessionPartial
from arrowstream.operators.tablejoin import TableJoinOperator
from arrowstream.operators.topk import BestRows, TopOne, TopPartial, TopRows
from arrowstream.operators.window import WindowMerge
from arrowstream.operators.windowlate import JudgedPartial, WindowJudge
from arrowstream.operators.windowrows import WindowRows, WindowRowsPartial
from arrowstream.plan.eventtime import EventTime
from arrowstream.plan.joins import AsofJoin, Join
from arrowstream.plan.kinds import needs_removed
from arrowstream.plan.nodes import Aggregate, MapBatches, Node, Output, Rows, SourceNode, Sql, Step, Union, Watermark
from arrowstream.plan.prune import reads_of_join, required, rows_read, shown_of_join
from arrowstream.plan.ranks import Best, Distinct, TopK
from arrowstream.plan.recompute import Recompute
from arrowstream.plan.sessions import SessionAggregate
from arrowstream.plan.statenames import state_keys
from arrowstream.plan.tables import TableJoin, refreshed_tables
from arrowstream.plan.unit import Unit, consumers, topological, watermarks
from arrowstream.plan.windownodes import Numbered, Rolling, WindowAggregate

_LENIENT: Final = {"strict": False}


@dataclass(slots=True)
class _Builder:
    unit: Unit
    readers: dict[Node, list[Node]]
    steps: list[ProgramStep] = field(default_factory=list)
    made: dict[Node, int] = field(default_factory=dict)
    marks: dict[Watermark, int] = field(default_factory=dict)
    needs: Mapping[Node, frozenset[str]] = field(default_factory=dict)
    ordered: bool = False
    node: Node | None = None
    """The one that steps are being made for."""

    def mark(self, time: EventTime) -> Mark:
        """The event time of a node, for an operator."""
        return Mark.of(time, self.marks)

    def time(self, node: Node) -> tuple[Mark, pl.DataType]:
        """The event time of a node's rows, and its type."""
        assert node.time is not None
        return self.mark(node.time), node.schema[node.time.column]

    def judge(self, node: Node, by: Node) -> LateJudge | None:
        """Who turns away late rows of `node` before `by`."""
        if node.time is None:
            return None
        mark, dtype = self.time(node)
        return LateJudge(node.time.column, dtype, mark, by.label)

    def touching(self, node: Aggregate | Distinct | TopK | Recompute, inner: PartialOperator) -> PartialOperator:
        """With a time to live, the partial operator that also says which keys were touched when."""
        if node.ttl is None:
            return inner
        assert node.input.time is not None
        mark, dtype = self.time(node.input)
        judge = LateJudge(node.input.time.column, dtype, replace(mark, lateness=mark.lateness + node.ttl), node.label)
        by = node.decomposition.by if isinstance(node, Aggregate) else [pl.col(name) for name in state_keys(node)]
        return TouchedPartial(inner, by, judge)

    def expiring(
        self, node: Aggregate | Distinct | TopK | Recompute, make: Callable[[], Forgetful]
    ) -> Callable[[], StatefulOperator]:
        """With a time to live, the operator that lets keys go."""
        if node.ttl is None:
            return make
        schema = node.decomposition.keys if isinstance(node, Aggregate) else node.input.schema
        keys = pl.Schema({name: schema[name] for name in state_keys(node)})
        return partial(_expiring, make, keys, self.time(node.input)[0], node.ttl)

    def passing(self, node: Distinct, make: Callable[[], Forgetful]) -> Callable[[], StatefulOperator]:
        """The operator that lets keys go as time passes them."""
        mark, dtype = self.time(node.input)
        assert node.input.time is not None
        return partial(_passing, make, state_keys(node), node.input.time.column, dtype, mark)

    def merge(
        self, make: Callable[[], StatefulOperator], partials: tuple[int, ...], node: Node, waits: Sequence[Mark] = ()
    ) -> int:
        """The stateful step after these partial ones; `waits` are the event times by which it gives results."""
        stage = 1 + max(self.steps[number].stage for number in partials)
        if node.flagged:
            make = partial(_setting_aside, make, node.kind, _named(node), node.label)
        clocked = {number for mark, number in self.marks.items() if mark.then == "advance"}
        if not clocked.intersection(number for mark in waits for number, _ in mark.courses):
            waits = ()
        return self.add(Stateful(make, partials, tuple(waits)), *partials, stage=stage, shared=_shared(node, self))

    def add(self, work: Work, *inputs: int, stage: int | None = None, shared: bool = False) -> int:
        """A step, in the latest of its inputs' stages unless said otherwise; its number."""
        if stage is None:
            stage = max((self.steps[number].stage for number in inputs), default=0)
        assert self.node is not None
        self.steps.append(ProgramStep(len(self.steps), stage, inputs, work, shared, self.node))
        return len(self.steps) - 1


def _expiring(make: Callable[[], Forgetful], keys: pl.Schema, mark: Mark, ttl: int) -> StatefulOperator:
    return Expiring(make(), keys, mark, ttl)


def _passing(
    make: Callable[[], Forgetful], keys: Sequence[str], time: str, dtype: pl.DataType, mark: Mark
) -> StatefulOperator:
    return Passing(make(), keys, time, dtype, mark)


def _setting_aside(
    make: Callable[[], StatefulOperator], kind: ChangeKind, named: Sequence[str], label: str
) -> StatefulOperator:
    return SetAside(make(), kind, named, label)


def _named(node: Node) -> list[str]:
    """The columns of a result that say which it is: its keys and its time."""
    time = [node.index] if isinstance(node, WindowAggregate | SessionAggregate | Rolling) else []
    return [name for name in (*state_keys(node), *time) if name in node.schema]


def compile_unit(unit: Unit) -> Program:
    """The program of a unit. Making it does no I/O; it is made anew in every worker."""
    nodes = topological(unit.outputs)
    builder = _Builder(unit, consumers(nodes))
    builder.marks = {node: number for number, node in enumerate(watermarks(unit))}
    builder.needs = required(unit.outputs)
    for node in nodes:
        builder.node = node
        builder.made[node] = _compile(node, builder)
    stages = 1 + max(step.stage for step in builder.steps)
    keepers = {at: node for node, at in builder.made.items() if isinstance(builder.steps[at].work, Stateful)}
    return Program(tuple(builder.steps), stages, builder.ordered, keepers)


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
    below = to.made[node.input]
    read = [name for name in node.schema if name in to.needs[node] or name == node.column]
    if len(read) < len(node.schema):
        # Rows are looked at here, so only what is read later should be there: Polars asks the file for no more.
        below = to.add(Transform(partial(RowsOperator, (Step("select", (read,)),)), anytime=True), below)
    return to.add(Observe(to.marks[node], node.column, node.max_ahead, node.label), below, shared=_shared(node, to))


@_compile.register
def _(node: Rows, to: _Builder) -> int:
    # What nobody reads need not be there to be dropped.
    steps = tuple(replace(each, kwargs=_LENIENT) if each.method == "drop" else each for each in node.steps)
    work = Transform(partial(RowsOperator, steps), anytime=True)
    return to.add(work, *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Sql, to: _Builder) -> int:
    make = partial(SqlOperator, node.statement, node.schema)
    return to.add(Transform(make), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: MapBatches, to: _Builder) -> int:
    make = partial(MapBatchesOperator, node.function, node.schema, node.retries)
    return to.add(Transform(make), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Union, to: _Builder) -> int:
    make = partial(UnionOperator, node.schema.names())
    return to.add(Transform(make, anytime=True), *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Aggregate, to: _Builder) -> int:
    weighted = not isinstance(node.input.kind, Append)
    plan = node.decomposition
    rows = to.touching(node, PartialAggregate(plan, weighted, numbered=True))
    before = to.add(Partial(rows, node.keys), *_inputs(node, to))
    make = partial(MergeAggregate, plan, weighted, needs_removed(to.readers, node))
    to.ordered = to.ordered or plan.ordered
    return to.merge(to.expiring(node, make), (before,), node)


@_compile.register
def _(node: WindowAggregate, to: _Builder) -> int:
    mark, _ = to.time(node.input)
    judge = WindowJudge(node.index, node.windows, mark, node.label)
    if node.decomposition is None:
        read = rows_read(node)
        rows = Partial(WindowRowsPartial(judge, node.windows, read.names()), node.keys)
        before = to.add(rows, *_inputs(node, to))
        to.ordered = True
        return to.merge(partial(WindowRows, node, mark, read), (before,), node, [mark])
    inner = PartialAggregate(node.decomposition, weighted=False)
    before = to.add(Partial(JudgedPartial(judge, inner), node.keys), *_inputs(node, to))
    to.ordered = to.ordered or node.decomposition.ordered
    return to.merge(partial(WindowMerge, node, mark), (before,), node, [mark])


@_compile.register
def _(node: SessionAggregate, to: _Builder) -> int:
    mark, _ = to.time(node.input)
    read = rows_read(node)
    rows = SessionPartial(node, read.names(), to.judge(node.input, node))
    before = to.add(Partial(rows, node.keys), *_inputs(node, to))
    to.ordered = to.ordered or node.decomposition is None
    return to.merge(partial(SessionMerge, node, mark, read), (before,), node, [mark])


@_compile.register
def _(node: Rolling, to: _Builder) -> int:
    mark, _ = to.time(node.input)
    read = rows_read(node)
    rows = RowsPartial(read.names(), False, to.judge(node.input, node))
    before = to.add(Partial(rows, node.keys), *_inputs(node, to))
    to.ordered = True
    return to.merge(partial(RollingOperator, node, mark, read), (before,), node, [mark.settled()])


@_compile.register
def _(node: Numbered, to: _Builder) -> int:
    before = to.add(Partial(RowsPartial(node.input.schema.names(), False), node.keys), *_inputs(node, to))
    to.ordered = True
    return to.merge(partial(NumberRows, node), (before,), node)


@_compile.register
def _(node: Recompute, to: _Builder) -> int:
    weighted = not isinstance(node.input.kind, Append)
    # A group whose time has passed is not there any more: a row that came late would begin it anew.
    judge = to.judge(node.input, node) if node.timed and not weighted else None
    plain = RowsPartial(node.columns, weighted, judge)
    rows = BestRows(node.whole, plain) if node.final and isinstance(node.whole, Best) else to.touching(node, plain)
    before = to.add(Partial(rows, node.keys), *_inputs(node, to))
    to.ordered = True
    if node.final:
        mark, _ = to.time(node.input)
        return to.merge(partial(ClosingGroups, node, mark), (before,), node, [mark.settled()])
    time = to.time(node.input) if node.timed else None
    return to.merge(to.expiring(node, partial(RecomputeGroups, node, weighted, time)), (before,), node)


@_compile.register
def _(node: TopK, to: _Builder) -> int:
    best = to.touching(node, TopPartial(node.best(), node.input.schema.names()))
    before = to.add(Partial(best, node.keys), *_inputs(node, to))
    to.ordered = True
    if node.k == 1 and node.keys:
        return to.merge(to.expiring(node, partial(TopOne, node, needs_removed(to.readers, node))), (before,), node)
    return to.merge(to.expiring(node, partial(TopRows, node)), (before,), node)


@_compile.register
def _(node: Distinct, to: _Builder) -> int:
    judge = to.judge(node.input, node) if node.timed or node.within is not None else None
    before = to.add(Partial(to.touching(node, DistinctPartial(node, judge)), node.subset), *_inputs(node, to))
    to.ordered = True
    if node.within is not None:
        mark, _ = to.time(node.input)
        return to.merge(partial(DistinctWithin, node, mark), (before,), node)
    make: Callable[[], Forgetful] = partial(DistinctFirst, node)
    if node.keep == "last":
        make = partial(DistinctLast, node, needs_removed(to.readers, node))
    return to.merge(to.passing(node, make) if node.timed else to.expiring(node, make), (before,), node)


@_compile.register
def _(node: Join, to: _Builder) -> int:
    weighted = (not isinstance(node.left.kind, Append), not isinstance(node.right.kind, Append))
    # Rows are late where the watermark that they are behind has let rows of the other side go.
    bounds = (node.left_bounds, node.right_bounds)
    judges = [to.judge(side, node) if other else None for side, other in zip(node.inputs, bounds[::-1], strict=True)]
    left, right = (
        pl.Schema({name: dtype for name, dtype in side.schema.items() if name in names})
        for side, names in zip(node.inputs, reads_of_join(node, to.needs[node]), strict=True)
    )
    before = tuple(
        to.add(Partial(RowsPartial(list(read), weights, judge), keys), to.made[side])
        for side, read, keys, weights, judge in zip(
            node.inputs, (left, right), (node.left_on, node.right_on), weighted, judges, strict=True
        )
    )
    pairing = Pairing.of(node, left, right, shown_of_join(node, to.needs[node]))
    waits: list[Mark] = []
    if node.bounded:
        times = [None if side.time is None else (side.time.column, to.mark(side.time)) for side in node.inputs]
        make: Callable[[], StatefulOperator] = partial(BoundedJoin, pairing, bounds, times)
        # Rows of the one side expire by the watermark of the other.
        waits = [other[1].settled() for number in lonely_sides(node.how) if (other := times[1 - number]) is not None]
    elif node.how == "inner" and not any(weighted):
        make = partial(AppendJoin, pairing)
    else:
        make = partial(UnboundedJoin, pairing, weighted)
    return to.merge(make, before, node, waits)


@_compile.register
def _(node: AsofJoin, to: _Builder) -> int:
    before = tuple(
        to.add(Partial(RowsPartial(side.schema.names(), False, to.judge(side, node)), keys), to.made[side])
        for side, keys in zip(node.inputs, (node.by_left, node.by_right), strict=True)
    )
    to.ordered = True
    left, right = to.time(node.left)[0], to.time(node.right)[0]
    make = partial(AsofJoinOperator, node, left, right)
    return to.merge(make, before, node, [left.settled().and_(right.settled())])


@_compile.register
def _(node: TableJoin, to: _Builder) -> int:
    tables = refreshed_tables(to.unit)
    number = tables.index(node.table) if node.table in tables else None
    work = Transform(partial(TableJoinOperator, node, number), anytime=number is None)
    return to.add(work, *_inputs(node, to), shared=_shared(node, to))


@_compile.register
def _(node: Output, to: _Builder) -> int:
    return to.add(Write(node.sink, to.unit.outputs.index(node)), *_inputs(node, to))
