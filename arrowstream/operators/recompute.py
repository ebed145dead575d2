"""The general rule: touched groups are computed as they were and as they are, and the difference goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import polars as pl

from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, consolidated, difference, gathered, signed
from arrowstream.operators.moment import Mark, Moment
from arrowstream.operators.program import Parts
from arrowstream.plan.aggregates import WEIGHT
from arrowstream.plan.eventtime import BEGINNING, FOREVER, ticks
from arrowstream.plan.recompute import Recompute
from arrowstream.state.multimap import MultiMap
from arrowstream.state.protocol import StateTable
from arrowstream.state.rows import ID, RowTable
from arrowstream.state.table import KeyedTable

_OUT: Final = "__out"


class RecomputeGroups:
    """The rows of each group, and what they give."""

    def __init__(self, node: Recompute, weighted: bool, time: tuple[Mark, pl.DataType] | None) -> None:
        schema = pl.Schema({name: node.input.schema[name] for name in node.columns})
        self._keys, self._whole, self._weighted = list(node.keys), node.whole, weighted
        self._output, self._time = node.schema, time
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
        empty = self._output.to_frame().lazy()
        return Changes(empty, empty)

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
            self._rows.remove(each.removed.collect())
            self._rows.append(each.added.collect())
            after = self._rows.of(touched)
        else:
            self._rows.append(new)
            after = pl.concat([before, new.select(before.columns)])
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
        return self._whole(rows.lazy()).collect()

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
        """The rows of these groups, in order of arrival."""

    def append(self, rows: pl.DataFrame) -> None: ...

    def remove(self, rows: pl.DataFrame) -> None: ...

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
        rows = self.table.of_keys(keys) if self._keys else self.table.scan()
        return rows.select(self._names)

    def append(self, rows: pl.DataFrame) -> None:
        self.table.append(rows)

    def remove(self, rows: pl.DataFrame) -> None:
        if rows.height:
            self.table.remove(rows)

    def forget(self, limit: int, dtype: pl.DataType) -> None:
        """They stay."""

    def let_go(self, keys: pl.DataFrame) -> None:
        self.table.delete(self.table.ids_of(keys))


class _Passing:
    """Rows of groups that time closes: few enough to be looked through in each batch."""

    def __init__(self, schema: pl.Schema, keys: Sequence[str], time: str) -> None:
        self._keys, self._names, self._time = list(keys), schema.names(), time
        self.table = RowTable(schema)

    def of(self, keys: pl.DataFrame) -> pl.DataFrame:
        frame = self.table.frame
        if not frame.height:
            return frame.select(self._names)
        return frame.join(keys, on=self._keys, how="semi", nulls_equal=True, maintain_order="left").select(self._names)

    def append(self, rows: pl.DataFrame) -> None:
        self.table.append(rows)

    def remove(self, rows: pl.DataFrame) -> None:
        if not rows.height:
            return
        held = self.table.frame.with_columns(pl.lit(False).alias(_OUT))
        out = rows.select(self._names).with_columns(pl.lit(None, pl.Int64).alias(ID), pl.lit(True).alias(_OUT))
        gone = (
            pl.concat([held, out.select(held.columns)])
            .lazy()
            .group_by(self._names)
            .agg(pl.col(ID).filter(~pl.col(_OUT)), pl.col(_OUT).sum().cast(pl.Int64))
            .filter(pl.col(_OUT) > 0)
            .select(pl.col(ID).list.head(pl.col(_OUT)))
            .explode(ID)
            .drop_nulls()
            .collect()[ID]
        )
        self.table.keep(~pl.col(ID).is_in(gone.implode()))

    def let_go(self, keys: pl.DataFrame) -> None:
        """Time does."""

    def forget(self, limit: int, dtype: pl.DataType) -> None:
        if limit == FOREVER:
            self.table.keep(pl.lit(False))
        elif limit > BEGINNING:
            self.table.keep(ticks(pl.col(self._time), dtype) >= limit)


__all__ = ["WEIGHT", "RecomputeGroups"]
