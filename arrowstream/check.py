"""The law as a feature: a pipeline in one shot and cut at random must give the same."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
from polars.testing import assert_frame_equal

from arrowstream import matching
from arrowstream.blocks.block import BlockInfo
from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract
from arrowstream.connectors.sink import Committer, Guarantee, Receipt
from arrowstream.errors import BatchError, PlanError
from arrowstream.ids import BlockId
from arrowstream.names import inner
from arrowstream.oneshot.collect import collect
from arrowstream.oneshot.inputs import Tables, rows_of_sources
from arrowstream.operators.changes import Changes, to_arrow
from arrowstream.operators.compile import compile_unit
from arrowstream.operators.moment import Moment
from arrowstream.plan.nodes import Node, Output
from arrowstream.plan.unit import Unit, topological, units
from arrowstream.schedule.deadletters import late_letters
from arrowstream.schedule.messages import TaskBlock, TaskId
from arrowstream.schedule.partition import Partition
from arrowstream.schedule.task import TaskResult, run_task
from arrowstream.schedule.watermarks import SplitTime, WatermarkTracker

_WEIGHT = inner("check_weight")


def check(node: Node, rows: Tables, *, tries: int, seed: int) -> None:
    """Run the plan of `node` over `rows` in one piece and in random pieces, and compare each with the reading in one
    shot (`oneshot.collect`).

    Raises `AssertionError` with the cut and the differing frames, `PlanError` where the rows do not fit a source.
    """
    inputs = {name: each.collect() for name, each in rows_of_sources(node, rows, "check").items()}
    now = time.time()
    answer = collect(node, inputs, now=now)
    error_of_sums = 1e-9 * max(1.0, *(_largest(each) for each in inputs.values()))
    mortal = any(getattr(each, "ttl", None) is not None for each in topological([node]))
    chance = random.Random(seed)
    for cuts in [[inputs], *(_cuts(inputs, chance) for _ in range(tries))]:
        letters: list[pa.Table] = []
        pieces = run_pieces(node, cuts, letters=letters, now=now)
        if len(cuts) > 1 and (letters or mortal):
            # Which rows are late, and which keys are gone, depends on the cut; all else must not.
            pieces = run_pieces(node, cuts, patient=True, now=now)
        try:
            assert_frame_equal(
                *(_plain(each) for each in (answer, pieces)),
                check_row_order=False,
                check_exact=False,
                rel_tol=1e-9,
                abs_tol=error_of_sums,
            )
        except AssertionError as error:
            sizes = [{name: part.height for name, part in cut.items()} for cut in cuts]
            how = f"cut into pieces of {sizes} rows" if len(cuts) > 1 else "run as a stream, all rows in one batch,"
            raise AssertionError(
                f"{how} the answer differs from one shot: {error}\none shot: {answer}\nstream: {pieces}"
            ) from None


def _largest(rows: pl.DataFrame) -> float:
    """The greatest of the finite floats, without their signs: sums of such lose what is small beside them."""
    floats = rows.select(cs.float().cast(pl.Float64)).to_numpy()
    finite = np.abs(floats[np.isfinite(floats)])
    return float(finite.max()) if finite.size else 0.0


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with both zeros as one, so that they sort alike."""
    return frame.with_columns(pl.when(cs.float() == 0).then(0.0).otherwise(cs.float()).name.keep())


def run_pieces(
    node: Node,
    pieces: Sequence[Mapping[str, pl.DataFrame]],
    *,
    letters: list[pa.Table] | None = None,
    patient: bool = False,
    partitions: int = 1,
    now: float = 0.0,
) -> pl.DataFrame:
    """What the plan of `node` gives, taken together, when each piece is a batch: the rows that are live after
    the last, in no certain order. Pieces are rows by source name.

    With several `partitions` each piece is cut into twice as many blocks, and the keys are spread.

    `now` is what the clock shows at each batch. With the last piece all sources have ended. Rows that were turned away
    go into `letters`. With `patient` no watermark moves before the end, so that no row can be late.
    """
    taken = [Changes.of(node.schema.to_frame())]
    for changes in batch_by_batch(node, pieces, letters=letters, patient=patient, partitions=partitions, now=now):
        taken += changes
    return live_rows(taken, node.kind)


def batch_by_batch(
    node: Node,
    pieces: Sequence[Mapping[str, pl.DataFrame]],
    *,
    letters: list[pa.Table] | None = None,
    patient: bool = False,
    partitions: int = 1,
    end: bool = True,
    now: float = 0.0,
) -> Iterator[list[Changes]]:
    """What each piece gives, as in `run_pieces`; without `end` the sources go on after the last."""
    output = Output(schema=node.schema, kind=node.kind, input=node, sink=_CollectSink())
    unit = units([output])[0]
    program = compile_unit(unit)
    each = [Partition(number, partitions, program, unit) for number in range(partitions)]
    times = _Times(unit, len(pieces) if end else -1, patient)
    turned_away: list[pa.Table] = [] if letters is None else letters
    for batch, piece in enumerate(pieces):
        yield _run_batch(unit, each, batch, piece, times, turned_away, now)
        for partition in each:
            partition.commit(batch)


class _Times:
    """How event time stands while the pieces run."""

    def __init__(self, unit: Unit, pieces: int, patient: bool) -> None:
        self._tracker, self._last, self._patient = WatermarkTracker(unit), pieces - 1, patient
        self._splits = [(source, "") for source, _ in unit.sources]
        self._tracker.expect(self._splits)
        self.before: list[int] = list(self._tracker.now)

    def after(self, batch: int, seen: Sequence[SplitTime]) -> list[int]:
        """The watermarks at the end of a batch, which is through with that."""
        if batch == self._last:
            for split in self._splits:
                self._tracker.end(*split)
        elif self._patient:
            seen = []
        standing = self._tracker.stand(0.0, [], ())
        self._tracker.commit(standing, seen)
        return list(self._tracker.now)

    def next(self) -> None:
        """The next batch begins."""
        self.before = list(self._tracker.now)


def _run_batch(
    unit: Unit,
    partitions: Sequence[Partition],
    batch: int,
    piece: Mapping[str, pl.DataFrame],
    times: _Times,
    letters: list[pa.Table],
    now: float,
) -> list[Changes]:
    """One batch through all stages of all partitions; what it gives."""
    tables: dict[BlockId, pa.Table] = {}
    blocks: list[TaskBlock] = []
    for source, at in unit.sources:
        for number, rows in enumerate(_blocks(piece[at.name], len(partitions))):
            block = BlockId(f"{source}/{batch}/{number}")
            tables[block] = to_arrow(rows)
            info = BlockInfo(block, source, "", len(blocks), None, None, rows.height, 0, 0.0)
            blocks.append(TaskBlock(len(blocks), info, []))
    parts: dict[tuple[int, str, int], list[pl.DataFrame]] = defaultdict(list)
    changes: list[Changes] = []
    after = times.before
    for stage in range(partitions[0].program.stages):
        made: list[TaskResult] = []
        for partition in partitions:
            mine = [block for block in blocks if block.ordinal % len(partitions) == partition.number]
            try:
                made.append(
                    run_task(
                        partition,
                        TaskId(unit.id, batch, 0, stage, partition.number),
                        mine if stage == 0 else [],
                        lambda block: tables[block.info.id],
                        lambda step, name, to=partition.number: parts[step, name, to],  # type: ignore[misc]
                        Moment(batch, now, times.before, after),
                    )
                )
            except BatchError as error:  # what was raised is what one who tries a pipeline wants to see
                raise (error.__cause__ or error) from None
        if stage == 0:
            after = times.after(batch, [time for result in made for time in result.stats.times])
        for result in made:
            letters += [late_letters(batch, late) for late in result.turned_away]
            for at_part, frame in result.parts.items():
                parts[at_part].append(frame)
            changes += [_changes(each) for receipt in result.receipts.values() for each in receipt.changes]
    times.next()
    return changes


def _blocks(rows: pl.DataFrame, partitions: int) -> list[pl.DataFrame]:
    """The rows in as many blocks as one partition takes, or two for each of several."""
    count = 1 if partitions == 1 else 2 * partitions
    size = max(-(-rows.height // count), 1)
    return [rows.slice(start, size) for start in range(0, max(rows.height, 1), size)]


def _changes(batch: ChangeBatch) -> Changes:
    frame = pl.DataFrame(batch.rows)
    if batch.weights is None:
        return Changes.of(frame)
    signs = pl.Series(batch.weights)
    return Changes.of(frame.filter(signs > 0), frame.filter(signs < 0))


def live_rows(changes: Sequence[Changes], kind: ChangeKind) -> pl.DataFrame:
    """The rows that are there after all these changes, one after the other."""
    if isinstance(kind, Append):
        return pl.concat([each.added.collect() for each in changes])
    live = changes[0].added.collect()
    for each in changes[1:]:
        added = each.added.collect()
        removed = added.clear() if each.removed is None else each.removed.collect()
        if isinstance(kind, Retract):
            live = _consolidated(live, added, removed)
        elif kind.keys:
            gone = pl.concat([added, removed]).select(kind.keys)
            live = pl.concat([_without(live, gone, kind.keys), added])
        elif added.height or removed.height:
            live = added
    return live


def _without(live: pl.DataFrame, gone: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The rows whose keys are not among those that are gone."""
    return matching.join(live.lazy(), gone.lazy(), keys, live.schema, how="anti", nulls_equal=True).collect()


def _consolidated(live: pl.DataFrame, added: pl.DataFrame, removed: pl.DataFrame) -> pl.DataFrame:
    """Rows with how often they are there, as a multiset."""
    signed = [frame.with_columns(pl.lit(sign).alias(_WEIGHT)) for frame, sign in ((live, 1), (added, 1), (removed, -1))]
    counts = pl.concat(signed).group_by(live.columns).agg(pl.col(_WEIGHT).sum())
    times = counts[_WEIGHT].to_numpy()
    if (times < 0).any():
        raise AssertionError(f"rows are taken back that were never there: {counts.filter(pl.col(_WEIGHT) < 0)}")
    return counts.drop(_WEIGHT)[np.repeat(np.arange(counts.height), times)]


def _cuts(inputs: Mapping[str, pl.DataFrame], chance: random.Random) -> list[dict[str, pl.DataFrame]]:
    """The same rows in random pieces, some of them empty."""
    count = chance.randint(2, 6)
    pieces: list[dict[str, pl.DataFrame]] = [{} for _ in range(count)]
    for name, frame in inputs.items():
        at = [0, *sorted(chance.randint(0, frame.height) for _ in range(count - 1)), frame.height]
        for number in range(count):
            pieces[number][name] = frame.slice(at[number], at[number + 1] - at[number])
    return pieces


@dataclass(frozen=True, slots=True)
class _CollectSink:
    """Hands every change over as it is."""

    name: str = "check"
    guarantee: Guarantee = Guarantee.EXACTLY_ONCE

    def bind(self, schema: pa.Schema, kind: ChangeKind) -> _CollectSink:
        return self

    def open(self, batch_id: int, task_id: str, schema: pa.Schema) -> _CollectWriter:
        return _CollectWriter()

    def committer(self, run: str | None = None) -> Committer:
        raise PlanError("check writes nothing")


class _CollectWriter:
    def __init__(self) -> None:
        self._changes: list[ChangeBatch] = []

    def write(self, changes: ChangeBatch) -> None:
        self._changes.append(changes)

    def finish(self) -> Receipt:
        return Receipt(changes=tuple(self._changes))

    def close(self) -> None:
        pass
