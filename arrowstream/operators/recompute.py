"""The general rule: touched groups are computed as they were and as they are, and the difference goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import polars as pl

from arrowstream import matching
from arrowstream.engine import JOINING, engine
from arrowstream.errors import StateError
from arrowstream.names import inner
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, consolidated, difference, gathered, signed
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.aggregates import WEIGHT
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.plan.groupwise import flagged
from arrowstream.plan.recompute import Recompute
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable
from arrowstream.state.table import KeyedTable

_OUT: Final = inner("recompute_out")


class RecomputeGroups:
    """The rows of each group, and what they give."""

    def __init__(self, node: Recompute, weighted: bool, time: tuple[Mark, pl.DataType] | None) -> None:
        schema = pl.Schema({name: node.input.schema[name] for name in node.columns})
        self._keys, self._whole, self._weighted = list(node.keys), node.whole, weighted
        self._output, self._time = flagged(node.schema, node.flagged), time
        self._rows: _Rows = (
            _Everlasting(schema, self._keys)
            if time is None or node.input.time is None
            else _Passing(schema, self._keys, node.input.time.column)
        )
        self._shown = KeyedTable(pl.Schema({}), pl.Schema({"shown": pl.Boolean()}))

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"rows": self._rows.table} if self._keys else {"rows": self._rows.table, "shown": self._shown}

    def nothing(self) -> Changes:
        empty = self._output.to_frame()
        return Changes.of(empty, empty)

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        new = gathered(inputs[0], ROWS_FRAME)
        first = not self._keys and not len(self._shown)
        weighted = self._weighted
        if weighted and (new[WEIGHT] == 1).all():
            new, weighted = new.drop(WEIGHT), False
        if weighted:
            new = consolidated(new)
        if not new.height and not first:
            self._forget(moment)
            return self.nothing()
        touched = new.select(self._keys).unique() if self._keys else new.select([])
        before = self._rows.of(touched)
        if weighted:
            each = signed(new)
            assert each.removed is not None
            new, out = each.added.collect(), each.removed.collect()
            gone = _oldest_like(out, before)
            # Groups that time has closed are not there any more.
            if gone.len() != out.height and self._time is None:
                raise StateError(f"{out.height - gone.len()} rows were taken back that were never there")
            self._rows.remove(gone)
            kept = before.filter(~pl.col(ID).is_in(gone.implode()))
        else:
            kept = before
        self._rows.append(new)
        before = before.drop(ID)
        after = pl.concat([kept.drop(ID), new.select(before.columns)])
        old = self._output.to_frame() if first else self._result(before)
        change = difference(old, self._result(after))
        if first:
            shown = self._shown.upsert(pl.DataFrame()).slots
            self._shown.put(shown, pl.DataFrame({"shown": [True]}))
        self._forget(moment)
        return change

    def forget(self, keys: pl.DataFrame) -> None:
        """Let these groups go, as if none of their rows had come."""
        self._rows.let_go(keys)

    def _result(self, rows: pl.DataFrame) -> pl.DataFrame:
        if not rows.height and self._keys:
            return self._output.to_frame()
        return self._whole(rows.lazy()).collect(engine=engine(rows.height))

    def _forget(self, moment: Moment) -> None:
        if self._time is None:
            return
        mark, dtype = self._time
        limit = moment.forgotten(mark)
        if limit > moment.late_before(mark):
            self._rows.forget(limit, dtype)


class _Rows(Protocol):
    """The rows of groups, by key."""

    @property
    def table(self) -> StateTable: ...

    def of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of these groups, in order of arrival, with their numbers in `ID`."""

    def append(self, rows: pl.DataFrame) -> None: ...

    def remove(self, ids: pl.Series) -> None:
        """Take out the rows with these numbers."""

    def forget(self, limit: int, dtype: pl.DataType) -> None:
        """Let groups go whose time is below."""

    def let_go(self, keys: pl.DataFrame) -> None:
        """Let these groups go."""


class _Everlasting:
    """Rows that are kept for ever, found by key."""

    def __init__(self, schema: pl.Schema, keys: Sequence[str]) -> None:
        self._keys, self._names = list(keys), schema.names()
        values = pl.Schema({name: dtype for name, dtype in schema.items() if name not in keys})
        self.table = MultiMap(pl.Schema({name: schema[name] for name in keys}), values)

    def of(self, keys: pl.DataFrame) -> pl.DataFrame:
        ids = self.table.ids_of(keys if self._keys else pl.DataFrame(height=1))
        return self.table.gather(ids, self._names).insert_column(0, pl.Series(ID, ids))

    def append(self, rows: pl.DataFrame) -> None:
        self.table.append(rows)

    def remove(self, ids: pl.Series) -> None:
        self.table.delete(ids.to_numpy())

    def forget(self, limit: int, dtype: pl.DataType) -> None:
        """They stay."""

    def let_go(self, keys: pl.DataFrame) -> None:
        self.table.delete(self.table.ids_of(keys))


class _Passing:
    """Rows of groups that time closes: few enough to be looked through in each batch."""

    def __init__(self, schema: pl.Schema, keys: Sequence[str], time: str) -> None:
        self._keys, self._time = list(keys), time
        self.table = RowTable(schema)

    def of(self, keys: pl.DataFrame) -> pl.DataFrame:
        frame = self.table.frame
        if not frame.height:
            return frame
        options: dict[str, Any] = {"how": "semi", "nulls_equal": True, "maintain_order": "left"}
        found = matching.join(frame.lazy(), keys.lazy(), self._keys, keys.schema, **options)
        return found.collect(engine=JOINING)

    def append(self, rows: pl.DataFrame) -> None:
        self.table.append(rows)

    def remove(self, ids: pl.Series) -> None:
        self.table.keep(~pl.col(ID).is_in(ids.implode()))

    def let_go(self, keys: pl.DataFrame) -> None:
        """Time does."""

    def forget(self, limit: int, dtype: pl.DataType) -> None:
        if limit == FOREVER:
            self.table.keep(pl.lit(False))
        elif limit > BEGINNING:
            self.table.keep(ticks(pl.col(self._time), dtype) >= limit)


def _oldest_like(rows: pl.DataFrame, held: pl.DataFrame) -> pl.Series:
    """The numbers of rows of `held` that are equal to these, one each, the oldest first.

    Rows are equal as in a Polars group. Of those that are not there, none is given.
    """
    if not rows.height:
        return held[ID].clear()
    names = held.columns[1:]
    marked = [
        held.with_columns(pl.lit(False).alias(_OUT)),
        rows.select(pl.lit(None, pl.Int64).alias(ID), *names, pl.lit(True).alias(_OUT)),
    ]
    return (
        pl.concat(marked)
        .lazy()
        .group_by(names)
        .agg(pl.col(ID).filter(~pl.col(_OUT)), pl.col(_OUT).sum().cast(pl.Int64))
        .filter(pl.col(_OUT) > 0)
        .select(pl.col(ID).list.head(pl.col(_OUT)))
        .explode(ID)
        .drop_nulls()
        .collect()[ID]
    )


__all__ = ["WEIGHT", "RecomputeGroups"]
