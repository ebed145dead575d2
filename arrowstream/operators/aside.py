"""Results that cannot be given out are set aside: they go to the dead letters, and the run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import polars as pl

from arrowstream.connectors.changes import ChangeKind, Upsert
from arrowstream.frames import rows_where
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Parts, StatefulOperator, Waiting
from arrowstream.plan.groupwise import TOO_LARGE
from arrowstream.state.protocol import StateTable


class SetAside:
    """An operator whose rows may have a reason, in `TOO_LARGE`, not to be shown.

    What has one is not there for anybody after: where it stood in the place of a row that could be shown, that one is
    taken back. The group is kept and counts on, so it is shown again once its sums fit again. Each batch that touches
    the group tells of it anew, by the columns `named`: no dead letter shows a wrong sum.
    """

    def __init__(self, inner: StatefulOperator, kind: ChangeKind, named: Sequence[str], label: str) -> None:
        self._inner, self._label = inner, label
        self._named = [pl.col(name) for name in named] or [pl.repeat("all rows", pl.len()).alias("group")]
        self._by_key = isinstance(kind, Upsert)

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return self._inner.tables

    def nothing(self) -> Changes:
        return self._inner.nothing().map(_unflagged)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        changes = self._inner.process(inputs, moment)
        added, removed = changes.frames()
        if added[TOO_LARGE].null_count() < added.height:
            over = added[TOO_LARGE].is_not_null()
            aside, added = rows_where(added, over), rows_where(added, ~over)
            self._tell(aside, moment)
            if removed is None and self._by_key:
                removed = aside.with_columns(pl.lit(None, pl.String).alias(TOO_LARGE))
        if removed is not None and removed[TOO_LARGE].null_count() < removed.height:
            removed = rows_where(removed, removed[TOO_LARGE].is_null())
        return Changes.of(added.drop(TOO_LARGE), None if removed is None else removed.drop(TOO_LARGE))

    def waits(self, moment: Moment) -> Sequence[int | None]:
        """When the operator's next result comes out."""
        return cast(Waiting, self._inner).waits(moment)

    def _tell(self, rows: pl.DataFrame, moment: Moment) -> None:
        time = pl.Series([None], dtype=pl.Int64)
        for (why,), some in rows.partition_by(TOO_LARGE, maintain_order=True, as_dict=True).items():
            moment.turn_away(some.select(self._named), self._label, "too large", f"too large: {why}", time=time)


def _unflagged(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.drop(TOO_LARGE)
