"""Joins of two streams: what matches, how long a row can still find a match, and which time the pairs have.

A row that is kept waits for rows of the other side. Where the other side has a watermark W and a condition bounds its
time from above by what the kept row says (`other.time <= row.expires`), no later row can match once that is false of
W: the kept row expires. Conditions come from `within`, from an equality of the two times, or from the comparisons
of `join_where`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

import polars as pl

from arrowstream import matching
from arrowstream.errors import PlanError
from arrowstream.names import inner
from arrowstream.plan.eventtime import EventTime, Later, duration_ticks, least, steps_of_tick
from arrowstream.plan.expressions import Call, Column, build, columns, parse, unaliased
from arrowstream.plan.expressions import Literal as Constant
from arrowstream.plan.expressions import Node as Tree
from arrowstream.plan.nodes import Node

How = Literal["inner", "left", "right", "full", "semi", "anti"]

HOWS: Final = ("inner", "left", "right", "full", "semi", "anti")

WATERMARK: Final = inner("watermark")
"""In a condition of expiry, the watermark of the other side, as a column of its time's type."""

_FLIPPED: Final = {"Lt": "Gt", "LtEq": "GtEq", "Gt": "Lt", "GtEq": "LtEq"}


@dataclass(frozen=True, slots=True)
class Bound:
    """A kept row can still match while `alive` is true of it and of the other side's watermark.

    `behind` says by how many ticks the row's own time may be below that watermark and the row still match; None
    where it may be any.
    """

    alive: pl.Expr
    behind: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Join(Node):
    """Pairs of rows of two inputs that match by key and by the conditions `where` over the pair.

    Of the pair, columns of the right whose names the left has too carry `suffix`. `left_bounds` and `right_bounds` say
    how long a row of that side is kept; without any it is kept for ever.
    """

    left: Node
    right: Node
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    suffix: str
    nulls_equal: bool
    coalesce: bool | None
    where: tuple[pl.Expr, ...] = ()
    left_bounds: tuple[Bound, ...] = ()
    right_bounds: tuple[Bound, ...] = ()

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def label(self) -> str:
        keys = ", ".join(
            left if left == right else f"{left} = {right}"
            for left, right in zip(self.left_on, self.right_on, strict=True)
        )
        where = " and ".join(" ".join(str(each).split()) for each in self.where)
        text = " where ".join(part for part in (f" on {keys}" if keys else "", where) if part)
        return f"Join {self.how}{text}"

    @property
    def bounded(self) -> bool:
        """Whether rows of a side are let go as time passes: then what comes out is final."""
        return bool(self.left_bounds or self.right_bounds)


@dataclass(frozen=True, eq=False, kw_only=True)
class AsofJoin(Node):
    """Each row of the left with the row of the right that is nearest in time, of the same `by`.

    `tolerance` is in ticks. A left row comes out once no row to come can change its answer.
    """

    left: Node
    right: Node
    left_on: str
    right_on: str
    by_left: tuple[str, ...]
    by_right: tuple[str, ...]
    strategy: Literal["backward", "forward", "nearest"]
    tolerance: int | None
    suffix: str
    exact: bool
    coalesce: bool

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def label(self) -> str:
        by = f" by {', '.join(self.by_left)}" if self.by_left else ""
        return f"Join as of {self.left_on}, {self.strategy}{by}"

    def join(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """The join itself; both sides sorted by time."""
        tolerance: Any = self.tolerance
        if tolerance is not None and self.left.schema[self.left_on].is_temporal():
            tolerance = timedelta(microseconds=tolerance)
        return matching.asof(
            left,
            right,
            left_on=self.left_on,
            right_on=self.right_on,
            by_left=self.by_left or None,
            by_right=self.by_right or None,
            strategy=self.strategy,
            tolerance=tolerance,
            suffix=self.suffix,
            allow_exact_matches=self.exact,
            coalesce=self.coalesce,
            check_sortedness=False,
        )


def pair_names(left: pl.Schema, right: pl.Schema, suffix: str) -> dict[str, str]:
    """The names of the right's columns in a pair that keeps them all."""
    names = {name: name + suffix if name in left else name for name in right}
    if doubled := [name for name in names.values() if name in left or list(names.values()).count(name) > 1]:
        raise PlanError(f"join: both sides give a column {doubled[0]!r}; choose another suffix=")
    return names


@dataclass(frozen=True, slots=True)
class Conditions:
    """What `join_where` asks, taken apart: equal columns, other conditions over the pair, and what they bound."""

    equal: tuple[tuple[pl.Expr, pl.Expr], ...]
    where: tuple[pl.Expr, ...]


def conjuncts(predicates: Sequence[pl.Expr]) -> list[Tree]:
    """Predicates, taken apart at their ands."""
    found: list[Tree] = []

    def visit(tree: Tree) -> None:
        if isinstance(tree, Call) and tree.op == "BinaryExpr.And":
            for side in tree.inputs:
                visit(side)
        else:
            found.append(tree)

    for predicate in predicates:
        visit(unaliased(parse(predicate)))
    return found


def taken_apart(predicates: Sequence[pl.Expr], left: pl.Schema, names: Mapping[str, str]) -> Conditions:
    """Equalities of one side with the other become keys; `names` are the right's columns in a pair."""
    back = {name: own for own, name in names.items()}
    equal, where = [], []
    for tree in conjuncts(predicates):
        if isinstance(tree, Call) and tree.op == "BinaryExpr.Eq":
            one, two = tree.inputs
            if columns(two) and columns(one) and columns(one) <= set(back) and columns(two) <= set(left):
                one, two = two, one
            if columns(one) and columns(two) and columns(one) <= set(left) and columns(two) <= set(back):
                equal.append((build(one), build(_renamed(two, back))))
                continue
        where.append(build(tree))
    return Conditions(tuple(equal), tuple(where))


def bounds_of(
    where: Sequence[pl.Expr],
    left: Node,
    right: Node,
    names: Mapping[str, str],
    keys: Sequence[tuple[str, str]],
) -> tuple[tuple[Bound, ...], tuple[Bound, ...]]:
    """What lets rows of the left, and of the right, expire."""
    back = {name: own for own, name in names.items()}
    mine: dict[str, str] = {name: name for name in left.schema}
    left_bounds: list[Bound] = []
    right_bounds: list[Bound] = []
    for tree in conjuncts(where):
        if not (isinstance(tree, Call) and tree.op.removeprefix("BinaryExpr.") in _FLIPPED):
            continue
        op, (one, two) = tree.op.removeprefix("BinaryExpr."), tree.inputs
        if op in ("Gt", "GtEq"):
            op, one, two = _FLIPPED[op], two, one
        if right.time is not None and _by(one, names[right.time.column]) and columns(two) <= set(mine):
            left_bounds.append(_bound(op, one, two, right, left, mine))
        if left.time is not None and _by(one, left.time.column) and columns(two) <= set(back):
            right_bounds.append(_bound(op, one, two, left, right, back))
    if left.time is not None and right.time is not None and (left.time.column, right.time.column) in keys:
        left_bounds.append(Bound(pl.col(WATERMARK) <= pl.col(left.time.column), 0))
        right_bounds.append(Bound(pl.col(WATERMARK) <= pl.col(right.time.column), 0))
    return tuple(left_bounds), tuple(right_bounds)


def final(how: str, left_bounds: Sequence[Bound], right_bounds: Sequence[Bound]) -> bool:
    """Whether, with these bounds, whatever comes out is final: rows that are shown for having no match must expire.

    A side without bounds keeps its rows for ever, and each may find a match at any time.
    """
    match how:
        case "inner" | "semi":
            return bool(left_bounds or right_bounds)
        case "right":
            return bool(right_bounds)
        case "full":
            return bool(left_bounds and right_bounds)
    return bool(left_bounds)


def time_of(join: Join, left_name: str | None, right_name: str | None) -> EventTime | None:
    """The event time of the pairs, in the column under which the left's or the right's time comes out.

    A later pair has a later row on one side and a kept one on the other; of the kept one's time is known only what
    its bound says of it and of the other side's watermark.
    """
    left, right = join.left.time, join.right.time
    if left is None or right is None or join.how in ("right", "full"):
        return None
    sides = ((left_name, left, right, join.left_bounds), (right_name, right, left, join.right_bounds))
    for name, own, other, bounds in sides if join.how == "inner" else sides[:1]:
        kept = [bound.behind for bound in bounds if bound.behind is not None]
        if name is not None and kept:
            return least([own, other.held_back(Later(min(kept))) if min(kept) else other], name)
    return None


def within_conditions(
    within: object, left: EventTime, right: EventTime, right_name: str, dtype: pl.DataType
) -> list[pl.Expr]:
    """`right.time` between `left.time + low` and `left.time + high`; one duration means as far as that both ways."""
    low, high = _span(within, dtype)
    one, two = pl.col(left.column), pl.col(right_name)

    def later(ticks: int) -> pl.Expr:
        if dtype.is_integer():
            return one + pl.lit(ticks, pl.Int64)
        if steps_of_tick(dtype) > 1:
            return one + pl.duration(nanoseconds=ticks * steps_of_tick(dtype), time_unit="ns")
        return one + pl.duration(microseconds=ticks)

    return [two >= later(low), two <= later(high)]


def _span(within: object, dtype: pl.DataType) -> tuple[int, int]:
    if isinstance(within, tuple):
        if len(within) != 2:
            raise PlanError(f"join: within={within!r} is a duration, or a pair (from, to)")
        low, high = (_signed(end, dtype) for end in within)
        if low > high:
            raise PlanError(f"join: within={within!r} is empty: its first end comes after its second")
        return low, high
    span = _signed(within, dtype)
    return -span, span


def _signed(duration: object, dtype: pl.DataType) -> int:
    if isinstance(duration, str) and duration.startswith("-"):
        return -duration_ticks(duration[1:], dtype, "join: within")
    if isinstance(duration, int) and duration < 0:
        return -duration_ticks(-duration, dtype, "join: within")
    return duration_ticks(duration, dtype, "join: within")  # type: ignore[arg-type]


def _by(tree: Tree, column: str) -> bool:
    """Whether an expression is the column, or the column and a constant: it rises as the column does."""
    if isinstance(tree, Column):
        return tree.name == column
    if isinstance(tree, Call) and tree.op in ("BinaryExpr.Plus", "BinaryExpr.Minus"):
        one, two = tree.inputs
        if columns(two) or (isinstance(two, Constant) and not two.scalar):
            return False
        return isinstance(one, Column) and one.name == column
    return False


def _bound(op: str, one: Tree, two: Tree, other: Node, own: Node, names: Mapping[str, str]) -> Bound:
    """`one`, which rises with the other side's time, is below `two`, which the kept row says."""
    assert other.time is not None
    time_in_pair = next(iter(columns(one)))
    now = build(_renamed(one, {time_in_pair: WATERMARK}))
    limit = build(_renamed(two, names))
    alive = now < limit if op == "Lt" else now <= limit
    behind = None
    if own.time is not None and _by(_renamed(two, names), own.time.column):
        behind = _shift(_renamed(two, names), own.time.column, own) - _shift(one, time_in_pair, other)
    return Bound(alive, behind)


def _shift(tree: Tree, column: str, node: Node) -> int:
    """By how many ticks an expression `column + constant` lies after the column."""
    assert node.time is not None
    dtype = node.schema[node.time.column]
    if dtype.is_integer():
        base = pl.DataFrame({column: pl.Series([0], dtype=dtype)})
        return int(base.select(build(tree).cast(pl.Int64)).item())
    base = pl.DataFrame({column: pl.Series([0], dtype=pl.Int64).cast(pl.Datetime("us"))})
    return int(base.select(build(tree).cast(pl.Datetime("us")).to_physical()).item())


def _renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    match tree:
        case Column(name):
            return Column(names.get(name, name))
        case Call(op, options, inputs, inner):
            return Call(op, options, tuple(_renamed(each, names) for each in inputs), inner)
    return tree
