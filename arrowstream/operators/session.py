"""Sessions that come out as the watermark passes their last row and the gap after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream.engine import engine
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, difference, gathered
from arrowstream.operators.late import LateJudge
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.eventtime import FOREVER, from_steps, steps, steps_of_tick
from arrowstream.plan.groupwise import TOO_LARGE, flagged
from arrowstream.plan.sessions import FIRST, LAST, SessionAggregate, sessions
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable


class SessionPartial:
    """Pieces of sessions: accumulators of what one task has of each, or the rows themselves."""

    def __init__(self, node: SessionAggregate, columns: Sequence[str], judge: LateJudge | None) -> None:
        self._node, self._columns, self._judge = node, list(columns), judge

    @property
    def frames(self) -> Sequence[str]:
        return (ROWS_FRAME,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        node = self._node
        rows = changes.added.select(self._columns)
        way = engine(changes.rows)
        if self._judge is not None:
            rows = self._judge.in_time(rows.collect(engine=way), moment).lazy()
        time = steps(pl.col(node.index), node.input.schema[node.index])
        if node.decomposition is None:
            return {ROWS_FRAME: rows.with_columns(time.alias(FIRST), time.alias(LAST)).collect(engine=way)}
        keyed = rows.with_columns(node.by).with_columns(time.alias(FIRST), time.alias(LAST))
        return {ROWS_FRAME: node.decomposition.partial(sessions(keyed, node.keys, node.steps)).collect(engine=way)}


class SessionMerge:
    """The open sessions: every batch puts together what it brings with what is there."""

    def __init__(self, node: SessionAggregate, mark: Mark, rows: pl.Schema) -> None:
        self._node, self._mark, self._plan = node, mark, node.decomposition
        if self._plan is None:
            kept = pl.Schema({**rows, FIRST: pl.Int64(), LAST: pl.Int64()})
        else:
            kept = pl.Schema({**self._plan.keys, **self._plan.accumulators})
        self._dtype = rows[node.index]
        self._open = RowTable(kept)
        guard = [] if node.too_large is None else [node.too_large.alias(TOO_LARGE)]
        self._aggs, self._output = [*node.aggs, *guard], flagged(node.schema, node.flagged)

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"open": self._open}

    @property
    def _corrects(self) -> bool:
        return self._node.update or bool(self._mark.lateness)

    def nothing(self) -> Changes:
        empty = self._output.to_frame()
        return Changes.of(empty, empty if self._corrects else None)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = gathered(inputs[0], ROWS_FRAME)
        low, high = moment.start(self._mark), moment.end(self._mark)
        before = self._given(low) if self._corrects else None
        if new.height:
            self._open.append(new)
            self._put_together()
        if before is not None:
            after = self._given(high)
            self._forget(moment.forgotten(self._mark))
            return difference(before, after)
        if high <= low or not len(self._open):
            return self.nothing()
        closed = self._given(high)
        self._forget(high)
        return Changes.of(closed)

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the next session is over."""
        end = moment.end(self._mark)
        if self._node.update or end == FOREVER:
            return [None]
        last = self._open.frame.filter(~self._over(end))[LAST].min()
        return [None if last is None else int(last) + self._node.gap]  # type: ignore[arg-type]

    def _put_together(self) -> None:
        node = self._node
        merged = sessions(self._open.frame.lazy(), node.keys, node.steps)
        way = engine(len(self._open))
        if self._plan is None:
            self._open.replace(merged.sort(ID).drop(ID).collect(engine=way))
        else:
            by = [*node.keys, FIRST, LAST]
            self._open.replace(self._plan.merge(merged.drop(ID), by).collect(engine=way))

    def _given(self, watermark: int) -> pl.DataFrame:
        """What sessions give that are over by this watermark, or with `update` all."""
        node = self._node
        over = self._open.frame.lazy()
        if not node.update:
            over = over.filter(self._over(watermark))
        rows = over.drop(ID).collect(engine=engine(len(self._open)))
        if not rows.height:
            return self._output.to_frame()
        if self._plan is None:
            groups = rows.lazy().group_by(*node.by, FIRST, LAST, maintain_order=True)
            found = groups.agg(self._aggs).collect(engine=engine(rows.height))
        else:
            found = self._plan.final(rows, [*node.keys, FIRST, LAST])
        start = from_steps(pl.col(FIRST), self._dtype)
        named = [start.alias(node.index)]
        if node.boundaries:
            end = from_steps(pl.col(LAST) + node.steps, self._dtype)
            named += [start.alias("_lower_boundary"), end.alias("_upper_boundary")]
        shown = found.with_columns(named).select(self._output.names())
        return shown if shown.schema == self._output else shown.cast(dict(self._output))  # type: ignore[arg-type]

    def _over(self, watermark: int) -> pl.Expr:
        return (
            pl.lit(True)
            if watermark == FOREVER
            else pl.col(LAST) + self._node.steps <= watermark * steps_of_tick(self._dtype)
        )

    def _forget(self, limit: int) -> None:
        self._open.keep(~self._over(limit))
