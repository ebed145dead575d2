"""Groups that are computed anew from their rows: right for whatever one shot over a group's rows can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import polars as pl

from arrowstream.connectors.retries import NO_RETRIES, Retries
from arrowstream.errors import PlanError, kind_of
from arrowstream.names import inner
from arrowstream.plan.expressions import Call, Column, build, columns, expand, parse, walk
from arrowstream.plan.expressions import Node as Tree
from arrowstream.plan.groupwise import TOO_LARGE
from arrowstream.plan.nodes import Node
from arrowstream.plan.rowlocal import check_row_local
from arrowstream.usercode import point_at

Whole: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]
"""From all rows of some groups, in order of arrival, to what these groups give."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Recompute(Node):
    """Keeps the rows of each group (`columns` of them). The groups that a batch touches are computed as they were and
    as they are, and the difference goes on. Without `keys` there is one group, and it gives rows even of nothing where
    `whole` does. With `final` a group is computed once, when the watermark has passed the time that is among its keys.
    """

    input: Node
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    whole: Whole
    description: str
    final: bool = False
    ttl: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"Recompute {self.description}{by}"

    @property
    def flagged(self) -> bool:
        return isinstance(self.whole, GroupAggs | Replayed) and self.whole.too_large is not None

    @property
    def timed(self) -> bool:
        """Whether the key tells the time of a group, so that the watermark says when nothing more comes for it."""
        return self.input.time is not None and self.input.time.column in self.keys


@dataclass(frozen=True, slots=True)
class GroupAggs:
    """`group_by(by).agg(aggs)`; with `too_large`, also the column of this name that says which cannot be shown."""

    by: tuple[pl.Expr, ...]
    aggs: tuple[pl.Expr, ...]
    too_large: pl.Expr | None

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        aggs = self.aggs if self.too_large is None else [*self.aggs, self.too_large.alias(TOO_LARGE)]
        return rows.group_by(self.by, maintain_order=True).agg(aggs) if self.by else rows.select(aggs)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A call with expressions of whole groups (`over`), on the rows of whole groups."""

    method: str
    exprs: tuple[pl.Expr, ...]
    too_large: pl.Expr | None

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        exprs = self.exprs if self.too_large is None else [*self.exprs, self.too_large.alias(TOO_LARGE)]
        result: pl.LazyFrame = getattr(rows, self.method)(*exprs)
        return result


@dataclass(frozen=True, slots=True)
class Unique:
    """`unique` over the rows of whole groups."""

    subset: tuple[str, ...]
    keep: str

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.unique(list(self.subset), keep=self.keep, maintain_order=True)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class MapGroups:
    """The user's function of each group's rows."""

    keys: tuple[str, ...]
    function: Callable[[pl.DataFrame], pl.DataFrame]
    output: pl.Schema
    retries: Retries = NO_RETRIES

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        groups = rows.collect().partition_by(self.keys, maintain_order=True)
        made = [self._one(group) for group in groups if group.height]
        return (pl.concat(made) if made else self.output.to_frame()).lazy()

    def _one(self, group: pl.DataFrame) -> pl.DataFrame:
        try:
            found = self.retries.call(self.function, group)
        except Exception as error:
            point_at(error, group)
            raise
        if not isinstance(found, pl.DataFrame):
            raise PlanError(f"map_groups: the function gave {kind_of(found)}, it must give a DataFrame")
        if found.schema != self.output:
            raise PlanError(f"map_groups: the function gave {dict(found.schema)}, the schema is {dict(self.output)}")
        return found


_OVER: Final = "Over"
_OVER_VALUE: Final = inner("over")


def is_over(tree: Tree) -> bool:
    """Whether a tree is an expression `.over(...)`."""
    return isinstance(tree, Call) and tree.op.split(".")[0] == _OVER


def has_over(exprs: Sequence[pl.Expr]) -> bool:
    """Whether any of these has an `.over(...)` in it."""
    return any(is_over(tree) for expr in exprs for tree in walk(parse(expr)))


def over_keys(method: str, exprs: Sequence[pl.Expr], schema: pl.Schema) -> tuple[str, ...]:
    """The columns that all `.over(...)` of these partition by. Raises `PlanError` where there are not such.

    What stands outside of them must be row-local.
    """
    found: dict[tuple[str, ...], None] = {}
    for name, expr in expand(schema, *exprs):
        plain = _without_over(parse(expr), found)
        extended = pl.Schema({**schema, _OVER_VALUE: schema.get(name, pl.Float64())})
        if _OVER_VALUE not in columns(plain):
            check_row_local(method, build(plain), extended)
    if len(found) > 1:
        several = " and ".join(f"over({', '.join(keys)})" for keys in found)
        raise PlanError(f"{method}: {several} in one call; make one call for each, .{method}(...).{method}(...)")
    (keys,) = found
    for key in keys:
        if key not in schema:
            raise PlanError(f"{method}: over({key!r}) is no column of the frame")
    return keys


def _without_over(tree: Tree, found: dict[tuple[str, ...], None]) -> Tree:
    if isinstance(tree, Call):
        if is_over(tree):
            keys = tree.inputs[1:]
            if not keys or not all(isinstance(key, Column) for key in keys):
                raise PlanError("over(...) on a stream partitions by columns; make one first: with_columns(key=...)")
            found[tuple(key.name for key in keys if isinstance(key, Column))] = None
            return Column(_OVER_VALUE)
        return Call(tree.op, tree.options, tuple(_without_over(each, found) for each in tree.inputs), tree.inner)
    return tree
