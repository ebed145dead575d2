"""Run a task: one partition's part of a stage. Blocks or parts in, receipts and parts out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.sink import Receipt, Writer
from arrowstream.frames import rows_where
from arrowstream.ids import KEY_GROUPS, SourceId, partition_of_group
from arrowstream.operators.changes import Changes, union
from arrowstream.operators.moment import Late, Moment
from arrowstream.operators.program import Partial
from arrowstream.schedule.messages import TaskBlock, TaskId, TaskStats
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.passed import Passed
from arrowstream.schedule.stage import ORDER, Fetch, Load, StagePass
from arrowstream.schedule.watermarks import SplitTime, Wait
from arrowstream.state.keyhash import key_groups

Ahead: TypeAlias = Callable[[TaskBlock], "Passed | None"]
"""What stage 0 gave of a block before its batch came; None where nobody has run it."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task leaves: receipts by output, parts by (step, frame, partition they are for), its figures, and rows
    that it turned away."""

    receipts: dict[int, Receipt]
    parts: dict[tuple[int, str, int], pl.DataFrame]
    stats: TaskStats
    turned_away: Sequence[Late] = ()


def run_task(
    partition: Partition,
    task: TaskId,
    blocks: Sequence[TaskBlock],
    load: Load,
    fetch: Fetch,
    moment: Moment,
    ahead: Ahead | None = None,
) -> TaskResult:
    """Run one stage of one partition. What it stages in sinks and changes in state is not final yet."""
    run = _Run(partition, task, load, fetch, moment, ahead)
    try:
        return run.all(blocks)
    finally:
        run.close()


class _Run:
    """One task under way."""

    def __init__(
        self, partition: Partition, task: TaskId, load: Load, fetch: Fetch, moment: Moment, ahead: Ahead | None
    ) -> None:
        self._partition, self._task, self._load, self._fetch = partition, task, load, fetch
        self._moment, self._ahead = moment, ahead
        self._times: dict[tuple[int, SourceId, str], int] = {}
        self._turned_away: list[Late] = []
        self._frames: dict[tuple[int, str], list[pl.DataFrame]] = defaultdict(list)
        self._writers: dict[int, Writer] = {}
        self._rows_out: dict[int, int] = defaultdict(int)

    def all(self, blocks: Sequence[TaskBlock]) -> TaskResult:
        started = time.perf_counter()
        self._partition.open_batch = self._task.batch
        later = self._partition.read_later(self._task.stage)
        kept: dict[int, list[Changes]] = defaultdict(list)
        for passed in self._passes(blocks):
            self._take(passed)
            for number in later:
                kept[number].append(passed.values[number].collect())
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
            waits=list(self._waits()),
        )
        return TaskResult(receipts, parts, stats, self._turned_away)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _passes(self, blocks: Sequence[TaskBlock]) -> Iterator[Passed]:
        """All blocks through the stage; those that have been through it before the batch came need not go again."""
        waiting: list[TaskBlock] = []
        for block in blocks:
            passed = None if self._ahead is None else self._ahead(block)
            if passed is None or not passed.holds(self._partition.marks, self._moment):
                waiting.append(block)
                continue
            if waiting:
                yield from self._pass_all(waiting)
                waiting = []
            yield passed
        if waiting or not blocks:
            yield from self._pass_all(waiting)

    def _pass_all(self, blocks: Sequence[TaskBlock]) -> Iterator[Passed]:
        for chunk in self._chunks(blocks):
            yield StagePass(self._partition, self._task.stage, self._load, self._fetch, self._moment.again()).run(chunk)

    def _chunks(self, blocks: Sequence[TaskBlock]) -> Sequence[Sequence[TaskBlock]]:
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

    def _take(self, passed: Passed) -> None:
        for at, frame in passed.frames.items():
            self._frames[at].append(frame)
        for output, batch in passed.writes.items():
            self._write(output, batch)
        for split, seen in passed.times.items():
            self._times[split] = max(seen.high, self._times.get(split, seen.high))
        self._turned_away += passed.turned_away

    def _fates(self) -> dict[str, int]:
        fates: dict[str, int] = defaultdict(int)
        for late in self._turned_away:
            fates[late.fate] += late.rows.height
        return dict(fates)

    def _waits(self) -> Iterator[Wait]:
        """At which watermarks the operators of this stage would give something without more rows."""
        for number, operator in self._partition.waiting:
            if self._partition.program.steps[number].stage == self._task.stage:
                for place, ticks in enumerate(operator.waits(self._moment)):
                    if ticks is not None:
                        yield Wait(number, place, ticks)

    def _write(self, output: int, batch: ChangeBatch) -> None:
        if output not in self._writers:
            task = f"{self._partition.number}-{self._task.attempt}"
            sink = self._partition.sinks[output]
            self._writers[output] = sink.open(self._task.batch, task, batch.rows.schema)
        elif not batch.num_rows:
            return
        self._rows_out[output] += batch.num_rows
        self._writers[output].write(batch)

    def _split(self) -> list[tuple[tuple[int, str, int], pl.DataFrame]]:
        """The frames of this stage's exchanges, cut by the partition that owns each row's key group."""
        partitions = self._partition.partitions
        owner = np.asarray(partition_of_group(partitions))
        split: list[tuple[tuple[int, str, int], pl.DataFrame]] = []
        passes: dict[int, set[int]] = defaultdict(set)
        for (number, _), frames in self._frames.items():
            passes[number] |= {place for place, frame in enumerate(frames) if frame.height}
        for (number, name), frames in self._frames.items():
            frame = _together(frames, several=len(passes[number]) > 1)
            work = self._partition.program.steps[number].work
            assert isinstance(work, Partial)
            if partitions == 1 or not work.keys:
                split += [((number, name, to), frame if to == 0 else frame.clear()) for to in range(partitions)]
                continue
            owners = pl.Series(owner[key_groups(frame.select(work.keys), KEY_GROUPS)])
            split += [((number, name, to), rows_where(frame, owners == to)) for to in range(partitions)]
        return split


def _together(frames: Sequence[pl.DataFrame], several: bool) -> pl.DataFrame:
    """What the passes gave for one exchange. Where `several` of them gave rows for its step, `ORDER` says that these
    are still to be merged: a group may have a row of each."""
    held = [frame for frame in frames if frame.height] or frames[:1]
    frame = held[0] if len(held) == 1 else pl.concat(held)
    return frame.with_columns(pl.lit(0, pl.Int64).alias(ORDER)) if several and ORDER not in frame.columns else frame
