"""Run a task: one partition's part of a stage. Blocks or parts in, receipts and parts out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.connectors.sink import Receipt, Sink, Writer
from arrowstream.connectors.source import SupportsRange
from arrowstream.errors import SourceError
from arrowstream.ids import KEY_GROUPS, SourceId, partition_of_group
from arrowstream.operators.changes import Changes, union
from arrowstream.operators.moment import Late, Moment
from arrowstream.operators.program import Observe, Partial, ProgramStep, Scan, Stateful, Transform, Write
from arrowstream.plan.eventtime import FOREVER, ticks
from arrowstream.schedule.messages import TaskBlock, TaskId, TaskStats
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.watermarks import SplitTime
from arrowstream.state.keyhash import key_groups

ORDER = "__order"
"""Hidden column of an exchange in an ordered program: the ordinal of the block that a row comes from."""

Load: TypeAlias = Callable[[TaskBlock], "pa.Table | None"]
"""The rows of a block; None where they are to be scanned from its source."""

Fetch: TypeAlias = Callable[[int, str], Sequence[pl.DataFrame]]
"""The parts of a step's frame that all partitions have made for this one, in the partitions' order."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task leaves: receipts by output, parts by (step, frame, partition they are for), its figures, and rows
    that it turned away."""

    receipts: dict[int, Receipt]
    parts: dict[tuple[int, str, int], pl.DataFrame]
    stats: TaskStats
    turned_away: Sequence[Late] = ()


def run_task(
    partition: Partition, task: TaskId, blocks: Sequence[TaskBlock], load: Load, fetch: Fetch, moment: Moment
) -> TaskResult:
    """Run one stage of one partition. What it stages in sinks and changes in state is not final yet."""
    run = _Run(partition, task, load, fetch, moment)
    try:
        return run.all(blocks)
    finally:
        run.close()


class _Run:
    """One task under way."""

    def __init__(self, partition: Partition, task: TaskId, load: Load, fetch: Fetch, moment: Moment) -> None:
        self._partition, self._task, self._load, self._fetch = partition, task, load, fetch
        self._moment = moment
        self._times: dict[tuple[int, SourceId, str], int] = {}
        self._steps = [step for step in partition.program.steps if step.stage == task.stage]
        self._frames: dict[tuple[int, str], list[pl.DataFrame]] = defaultdict(list)
        self._writers: dict[int, Writer] = {}
        self._rows_out: dict[int, int] = defaultdict(int)
        self._origins: set[tuple[SourceId, str]] = set()

    def all(self, blocks: Sequence[TaskBlock]) -> TaskResult:
        started = time.perf_counter()
        self._partition.open_batch = self._task.batch
        later = self._partition.read_later(self._task.stage)
        kept: dict[int, list[Changes]] = defaultdict(list)
        for chunk in self._chunks(blocks):
            self._origins = {(block.info.source, block.info.split) for block in chunk}
            values = dict(self._partition.values)
            for step in self._steps:
                self._step(step, chunk, values)
            for number in later:
                kept[number].append(values[number].collect())
        self._partition.values |= {number: union(each) for number, each in kept.items()}
        receipts = {output: writer.finish() for output, writer in self._writers.items()}
        parts = dict(self._split())
        tables = [table for _, table in self._partition.tables(self._task.stage)]
        stats = TaskStats(
            rows_out=dict(self._rows_out),
            state_rows=sum(len(table) for table in tables),
            state_bytes=sum(table.memory_bytes() for table in tables),
            seconds=time.perf_counter() - started,
            times=[SplitTime(*at, ticks) for at, ticks in self._times.items()],
            turned_away=self._fates(),
        )
        return TaskResult(receipts, parts, stats, self._moment.turned_away)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _chunks(self, blocks: Sequence[TaskBlock]) -> list[Sequence[TaskBlock]]:
        """What goes through the stage at once: the whole batch, or, where order counts, block by block."""
        if self._task.stage > 0 or not blocks:
            return [blocks]
        if self._partition.ordered:
            return [[block] for block in blocks]
        if self._partition.marks:
            return self._by_split(blocks)
        return [blocks]

    def _by_split(self, blocks: Sequence[TaskBlock]) -> list[Sequence[TaskBlock]]:
        """Chunks in which each watermark sees one split only; splits of sources that do not meet go together."""
        rounds: list[list[TaskBlock]] = []
        place: dict[tuple[SourceId, str], int] = {}
        taken: dict[SourceId, int] = {}
        for block in blocks:
            split = (block.info.source, block.info.split)
            if split not in place:
                meets = self._partition.meets[block.info.source]
                place[split] = max((taken.get(source, 0) for source in meets), default=0)
                for source in meets:
                    taken[source] = place[split] + 1
            while place[split] >= len(rounds):
                rounds.append([])
            rounds[place[split]].append(block)
        return list(rounds)

    def _name_origin(self, step: ProgramStep) -> None:
        """Rows that this step turns away come from here."""
        origins = {at for at in self._origins if at[0] in self._partition.feeding[step.number]}
        source, split = next(iter(origins)) if len(origins) == 1 else (None, "")
        self._moment.source = "" if source is None else self._partition.names[source]
        self._moment.split = split

    def _fates(self) -> dict[str, int]:
        fates: dict[str, int] = defaultdict(int)
        for late in self._moment.turned_away:
            fates[late.fate] += late.rows.height
        return dict(fates)

    def _step(self, step: ProgramStep, chunk: Sequence[TaskBlock], values: dict[int, Changes]) -> None:
        self._name_origin(step)
        match step.work:
            case Partial(operator):
                for name, frame in operator.partial(values[step.inputs[0]], self._moment).items():
                    if self._partition.ordered and self._task.stage == 0:
                        ordinal = chunk[0].ordinal if chunk else 0
                        frame = frame.with_columns(pl.lit(ordinal, pl.Int64).alias(ORDER))
                    self._frames[step.number, name].append(frame)
                return
            case Write(sink, output):
                self._write(sink, output, values[step.inputs[0]])
                return
            case Scan(source):
                mine = [block for block in chunk if block.info.source == source and block.info.kind == "rows"]
                value = Changes(self._scan(source, mine))
            case Observe():
                value = self._observe(step.work, values[step.inputs[0]])
            case Transform():
                value = self._partition.transforms[step.number].process(
                    [values[number] for number in step.inputs], self._moment
                )
            case Stateful():
                value = self._merge(step)
        values[step.number] = value.collect() if step.shared else value

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
        first, last = blocks[0].info, blocks[-1].info
        if not isinstance(source, SupportsRange):
            raise SourceError(f"block {first.id} is held by no worker, and {source} cannot be read again")
        return source.scan(first.split, first.start, last.stop)

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
            if frames and ORDER in frames[0].columns:
                frames = [pl.concat(frames).sort(ORDER, maintain_order=True).drop(ORDER)]
                # still to be merged: a group has a row for every block
                frames = [frames[0], frames[0].clear()]
            parts[name] = frames
        return parts

    def _observe(self, work: Observe, changes: Changes) -> Changes:
        """Note the highest time of each split, and turn away rows without a time or from the future."""
        frame = changes.added.collect()
        origins = {at for at in self._origins if at[0] in self._partition.below[work.number]}
        if frame.is_empty() or not origins:
            return Changes(frame.lazy())
        assert len(origins) == 1, "a watermark sees one split at a time"
        dtype = frame.schema[work.column]
        temporal = dtype.is_temporal()
        limit = FOREVER if work.max_ahead is None else int(self._moment.now * 1_000_000) + work.max_ahead
        column = frame[work.column]
        highest = pl.select(ticks(pl.lit(column.max(), dtype), dtype)).item()
        if column.null_count() or highest > limit:
            times = frame.select(ticks(pl.col(work.column), dtype)).to_series()
            for fate, reason, gone in (
                ("no event time", f"no event time: {work.column} is null", times.is_null()),
                ("too far ahead", f"too far ahead: {work.column} is beyond max_ahead of the clock", times > limit),
            ):
                gone = gone.fill_null(False)
                if gone.any():
                    turned = frame.filter(gone)
                    self._moment.turn_away(
                        turned, work.operator, fate, reason, time=times.filter(gone), temporal=temporal
                    )
            kept = (times <= limit).fill_null(False)
            frame, highest = frame.filter(kept), times.filter(kept).max()
        if highest is not None:
            source, split = next(iter(origins))
            at = (work.number, source, split)
            self._times[at] = max(highest, self._times.get(at, highest))
        return Changes(frame.lazy())

    def _write(self, sink: Sink, output: int, changes: Changes) -> None:
        batch = changes.to_batch()
        if output not in self._writers:
            task = f"{self._partition.number}-{self._task.attempt}"
            self._writers[output] = sink.open(self._task.batch, task, batch.rows.schema)
        self._rows_out[output] += batch.num_rows
        self._writers[output].write(batch)

    def _split(self) -> list[tuple[tuple[int, str, int], pl.DataFrame]]:
        """The frames of this stage's exchanges, cut by the partition that owns each row's key group."""
        partitions = self._partition.partitions
        owner = np.asarray(partition_of_group(partitions))
        split: list[tuple[tuple[int, str, int], pl.DataFrame]] = []
        for (number, name), frames in self._frames.items():
            frame = frames[0] if len(frames) == 1 else pl.concat(frames)
            work = self._partition.program.steps[number].work
            assert isinstance(work, Partial)
            if partitions == 1 or not work.keys:
                split += [((number, name, to), frame if to == 0 else frame.clear()) for to in range(partitions)]
                continue
            owners = pl.Series(owner[key_groups(frame.select(work.keys), KEY_GROUPS)])
            split += [((number, name, to), frame.filter(owners == to)) for to in range(partitions)]
        return split


def _from_arrow(tables: Sequence[pa.Table], schema: pl.Schema) -> pl.LazyFrame:
    frame = pl.from_arrow(tables[0] if len(tables) == 1 else pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return (frame if frame.schema == schema else frame.cast(dict(schema))).lazy()  # type: ignore[arg-type]
