"""One stage of a partition over some of its blocks: what it gives for the exchange, for sinks and for later stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TypeAlias

import polars as pl
import pyarrow as pa

from arrowstream.blocks.store import BlockNotFoundError
from arrowstream.connectors.source import SupportsRange, joined
from arrowstream.engine import engine
from arrowstream.errors import SourceError, WorkerLostError
from arrowstream.frames import rows_where
from arrowstream.ids import SourceId
from arrowstream.names import inner
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Observe, Partial, ProgramStep, Scan, Stateful, Transform, Write
from arrowstream.plan.eventtime import ticks, ticks_of
from arrowstream.plan.nodes import SourceNode
from arrowstream.schedule.blame import blamed
from arrowstream.schedule.messages import TaskBlock
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.passed import Passed, Seen, anytime, latest

ORDER = inner("order")
"""Hidden column of an exchange where several passes gave rows: in an ordered program the ordinal of the row's block,
else 0."""

Load: TypeAlias = Callable[[TaskBlock], "pa.Table | None"]
"""The rows of a block; None where they are to be scanned from its source."""

Fetch: TypeAlias = Callable[[int, str], Sequence[pl.DataFrame]]
"""The parts of a step's frame that all partitions have made for this one, in the partitions' order."""


class StagePass:
    """Runs the steps of one stage over some blocks; changes nothing but the state of the stage's operators."""

    def __init__(self, partition: Partition, stage: int, load: Load, fetch: Fetch, moment: Moment) -> None:
        self._partition, self._stage, self._load, self._fetch = partition, stage, load, fetch
        self._moment, self._found = moment, Passed()
        self._origins: set[tuple[SourceId, str]] = set()

    def run(self, blocks: Sequence[TaskBlock]) -> Passed:
        """The pass over these blocks, which go through the stage together.

        Steps that none of them feeds are not run: what they give of nothing is known.
        """
        partition, found = self._partition, self._found
        self._origins = {(block.info.source, block.info.split) for block in blocks}
        sources = {source for source, _ in self._origins}
        found.values = dict(partition.values) if self._stage else {}
        for step in partition.program.steps:
            if step.stage != self._stage:
                continue
            if sources and not partition.feeding[step.number] & sources:
                self._give_nothing(step)
            else:
                self._blamed_step(step, blocks)
        found.turned_away = self._moment.turned_away
        return found

    def _give_nothing(self, step: ProgramStep) -> None:
        nothing = _nothing(self._partition)
        if step.number in nothing.values:
            self._found.values[step.number] = nothing.values[step.number]
        for at, frame in nothing.frames.items():
            if at[0] == step.number:
                self._found.frames[at] = frame
        if isinstance(step.work, Write):
            self._found.writes[step.work.output] = nothing.writes[step.work.output]

    def _blamed_step(self, step: ProgramStep, blocks: Sequence[TaskBlock]) -> None:
        """Run a step; what it raises says in which node, at which line and with which rows."""
        self._partition.begins(self._moment.batch, step.number)
        try:
            self._step(step, blocks)
        except (WorkerLostError, BlockNotFoundError, KeyboardInterrupt):  # the task can be run again
            raise
        except BaseException as error:  # a panic of a native library is none of `Exception`
            raise blamed(error, self._partition, step, self._found.values, self._moment) from error

    def _step(self, step: ProgramStep, blocks: Sequence[TaskBlock]) -> None:
        values = self._found.values
        self._name_origin(step)
        match step.work:
            case Partial(operator):
                for name, frame in operator.partial(values[step.inputs[0]], self._moment).items():
                    if self._partition.ordered and self._stage == 0:
                        ordinal = blocks[0].ordinal if blocks else 0
                        frame = frame.with_columns(pl.lit(ordinal, pl.Int64).alias(ORDER))
                    self._found.frames[step.number, name] = frame
                return
            case Write(_, output):
                self._found.writes[output] = values[step.inputs[0]].to_batch()
                return
            case Scan(source):
                mine = [block for block in blocks if block.info.source == source and block.info.kind == "rows"]
                value = Changes(self._scan(source, mine), rows=sum(block.info.rows for block in mine))
            case Observe():
                value = self._observe(step.work, values[step.inputs[0]], blocks)
            case Transform():
                value = self._partition.transforms[step.number].process(
                    [values[number] for number in step.inputs], self._moment
                )
            case Stateful():
                value = self._merge(step)
        values[step.number] = value.collect() if step.shared else value

    def _name_origin(self, step: ProgramStep) -> None:
        """Rows that this step turns away come from here."""
        origins = {at for at in self._origins if at[0] in self._partition.feeding[step.number]}
        source, split = next(iter(origins)) if len(origins) == 1 else (None, "")
        self._moment.source = "" if source is None else self._partition.names[source]
        self._moment.split = split

    def _scan(self, source_id: SourceId, blocks: Sequence[TaskBlock]) -> pl.LazyFrame:
        """The rows of these blocks, in order; neighbours that are not held are scanned as one range."""
        schema = self._partition.schemas[source_id]
        frames: list[pl.LazyFrame] = []
        held: list[pa.Table] = []
        ranges: list[list[TaskBlock]] = []

        def close_held() -> None:
            if held:
                frames.append(_from_arrow(held, schema))
                held.clear()

        def close_range() -> None:
            for run in ranges:
                frames.append(self._scan_range(source_id, run))
            ranges.clear()

        for block in blocks:
            table = self._load(block)
            if table is not None:
                close_range()
                held.append(table)
                continue
            close_held()
            last = ranges[-1][-1].info if ranges else None
            if last is not None and (last.split, last.position + 1) == (block.info.split, block.info.position):
                ranges[-1].append(block)
            else:
                ranges.append([block])
        close_held()
        close_range()
        if not frames:
            return schema.to_frame().lazy()
        return frames[0] if len(frames) == 1 else pl.concat(frames)

    def _scan_range(self, source_id: SourceId, blocks: Sequence[TaskBlock]) -> pl.LazyFrame:
        source = self._partition.sources[source_id]
        first = blocks[0].info
        if not isinstance(source, SupportsRange):
            raise SourceError(f"block {first.id} is held by no worker, and {source} cannot be read again")
        stop = reduce(partial(joined, source), (block.info.stop for block in blocks))
        return source.scan(first.split, first.start, stop)

    def _merge(self, step: ProgramStep) -> Changes:
        assert isinstance(step.work, Stateful)
        operator = self._partition.stateful[step.number]
        inputs = [self._parts(self._partition.program.steps[number]) for number in step.work.partials]
        keyed = all(self._exchanged(number).keys for number in step.work.partials)
        return operator.process(inputs, self._moment) if keyed or self._partition.number == 0 else operator.nothing()

    def _exchanged(self, number: int) -> Partial:
        work = self._partition.program.steps[number].work
        assert isinstance(work, Partial)
        return work

    def _parts(self, before: ProgramStep) -> dict[str, list[pl.DataFrame]]:
        """What the exchange brings for this partition from the step `before`."""
        parts: dict[str, list[pl.DataFrame]] = {}
        for name in self._exchanged(before.number).operator.frames:
            frames = list(self._fetch(before.number, name))
            if any(ORDER in frame.columns for frame in frames):
                if self._partition.ordered:
                    frames = [pl.concat(frames).sort(ORDER, maintain_order=True)]
                frames = [frame.drop(ORDER, strict=False) for frame in frames]
                if len(frames) == 1:
                    frames.append(frames[0].clear())  # still to be merged: a group has a row of every pass
            parts[name] = frames
        return parts

    def _origins_of(self, work: Observe) -> set[tuple[SourceId, str]]:
        return {at for at in self._origins if at[0] in self._partition.below[work.number]}

    def _known(self, work: Observe, blocks: Sequence[TaskBlock]) -> Seen | None:
        """The times of these blocks' rows as their source told them; None where rows must be looked at.

        Then nothing is read for the watermark's sake, and filters reach down into the file.
        """
        mark = self._partition.marks[work.number]
        if not isinstance(mark.input, SourceNode):
            return None
        (source,) = self._partition.below[work.number]
        mine = [block.info for block in blocks if block.info.source == source and block.info.kind == "rows"]
        if not mine or any(work.column not in info.ranges for info in mine):
            return None
        dtype = mark.schema[work.column]
        low = min(info.ranges[work.column][0] for info in mine)
        high = max(info.ranges[work.column][1] for info in mine)
        return Seen(ticks_of(low, dtype), ticks_of(high, dtype))

    def _observe(self, work: Observe, changes: Changes, blocks: Sequence[TaskBlock]) -> Changes:
        """Note the times of each split, and turn away rows without a time or from the future."""
        if (known := self._known(work, blocks)) is not None and known.high <= latest(work.max_ahead, self._moment):
            self._found.times[(work.number, *next(iter(self._origins_of(work))))] = known
            return changes
        frame = changes.added.collect(engine=engine(changes.rows))
        origins = self._origins_of(work)
        if frame.is_empty() or not origins:
            return Changes.of(frame)
        assert len(origins) == 1, "a watermark sees one split at a time"
        column, dtype = frame[work.column], frame.schema[work.column]
        limit = latest(work.max_ahead, self._moment)
        low, high = _edges(column)
        if column.null_count() or (high is not None and high > limit):
            times = frame.select(ticks(pl.col(work.column), dtype)).to_series()
            for fate, reason, gone in (
                ("no event time", f"no event time: {work.column} is null", times.is_null()),
                ("too far ahead", f"too far ahead: {work.column} is beyond max_ahead of the clock", times > limit),
            ):
                gone = gone.fill_null(False)
                if gone.any():
                    self._moment.turn_away(
                        frame.filter(gone),
                        work.operator,
                        fate,
                        reason,
                        time=times.filter(gone),
                        temporal=dtype.is_temporal(),
                    )
            frame = rows_where(frame, (times <= limit).fill_null(False))
            low, high = _edges(frame[work.column])
        if low is not None and high is not None:
            self._found.times[(work.number, *next(iter(origins)))] = Seen(low, high)
        return Changes.of(frame)


def _edges(column: pl.Series) -> tuple[int | None, int | None]:
    """The lowest and the highest time of a column, in ticks."""
    values, dtype = column.cast(pl.Int64), column.dtype
    low, high = (None if edge is None else ticks_of(int(edge), dtype) for edge in (values.min(), values.max()))  # type: ignore[arg-type]
    return low, high


def _nothing(partition: Partition) -> Passed:
    """What stage 0 gives of no rows at all, with all values collected."""
    if partition.nothing is None:
        passed = StagePass(partition, 0, lambda _: None, lambda *_: [], anytime(partition.marks)).run([])
        passed.values = {number: value.collect() for number, value in passed.values.items()}
        partition.nothing = passed
    return partition.nothing


def _from_arrow(tables: Sequence[pa.Table], schema: pl.Schema) -> pl.LazyFrame:
    frame = pl.from_arrow(tables[0] if len(tables) == 1 else pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return (frame if frame.schema == schema else frame.cast(dict(schema))).lazy()  # type: ignore[arg-type]
