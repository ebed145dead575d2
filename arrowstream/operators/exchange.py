"""Whole rows through an exchange, for operators that keep rows."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from arrowstream.engine import engine
from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes
from arrowstream.operators.late import LateJudge
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Frames, Parts
from arrowstream.plan.aggregates import WEIGHT

ROWS_FRAME = "rows"


class RowsPartial:
    """The rows as they are; where rows can be taken back, with the Int64 weight +1 or -1 in `WEIGHT`."""

    def __init__(self, columns: Sequence[str], weighted: bool, judge: LateJudge | None = None) -> None:
        self._columns, self._weighted, self._judge = list(columns), weighted, judge

    @property
    def frames(self) -> Sequence[str]:
        return (ROWS_FRAME,)

    def partial(self, changes: Changes, moment: Moment) -> Frames:
        frame = self._rows(changes).collect(engine=engine(changes.rows))
        return {ROWS_FRAME: frame if self._judge is None else self._judge.in_time(frame, moment)}

    def _rows(self, changes: Changes) -> pl.LazyFrame:
        added = changes.added.select(self._columns)
        if not self._weighted:
            return added
        sides = [added.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT))]
        if changes.removed is not None:
            sides.insert(0, changes.removed.select(self._columns).with_columns(pl.lit(-1, pl.Int64).alias(WEIGHT)))
        return pl.concat(sides)


def gathered(parts: Parts, name: str = ROWS_FRAME) -> pl.DataFrame:
    """All parts of a frame, in order of arrival."""
    frames = parts[name]
    if len(frames) == 1:
        return frames[0]
    held = [frame for frame in frames if frame.height]
    if not held:
        return frames[0]
    return held[0] if len(held) == 1 else pl.concat(held)


def one_part(parts: Parts, name: str = ROWS_FRAME) -> bool:
    """Whether all rows come from one call of `partial`, so that what it found needs no merging."""
    return len(parts[name]) == 1


def consolidated(weighted: pl.DataFrame) -> pl.DataFrame:
    """Each row once with the sum of its weights, those of weight 0 left out; in the order in which they came."""
    columns = [name for name in weighted.columns if name != WEIGHT]
    if not weighted.height:
        return weighted
    total = weighted.lazy().group_by(columns, maintain_order=True).agg(pl.col(WEIGHT).sum())
    return total.filter(pl.col(WEIGHT) != 0).collect(engine=engine(weighted.height))


def signed(weighted: pl.DataFrame) -> Changes:
    """Rows with weights as changes: a row of weight 2 comes twice."""
    rows = weighted.drop(WEIGHT)
    weight = weighted[WEIGHT]
    return Changes.of(_times(rows, weight, 1), _times(rows, weight, -1))


def _times(rows: pl.DataFrame, weight: pl.Series, sign: int) -> pl.DataFrame:
    mask = weight > 0 if sign > 0 else weight < 0
    kept, often = rows_where(rows, mask), weight.filter(mask).abs()
    if kept.height and often.max() != 1:
        at = pl.int_range(kept.height, eager=True).repeat_by(often).explode()
        return kept[at]
    return kept


def difference(old: pl.DataFrame, new: pl.DataFrame) -> Changes:
    """What has to be taken back and given for `new` to stand in the place of `old`; rows are multisets."""
    if not old.height or not new.height:
        return Changes.of(new, old)
    weighted = pl.concat(
        [
            old.with_columns(pl.lit(-1, pl.Int64).alias(WEIGHT)),
            new.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT)),
        ]
    )
    return signed(consolidated(weighted))
