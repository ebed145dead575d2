"""Aggregates of the user's own: a small class that says what is kept of rows, how that is merged, and what it gives.

In an expression such an aggregate is a call of Polars' `map_batches`, whose first input is a literal with the pickled
class: so it is still one in plain Polars, which then runs it group by group, and can be found in the tree here, where
it becomes an accumulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import cloudpickle
import polars as pl

from arrowstream.errors import NotRowLocalError, PlanError
from arrowstream.plan.accumulators import ROWS, Accumulator, Columns, Expressions, Operand
from arrowstream.plan.expressions import PANIC, Call, Literal, Node, as_expressions, build, parse, plan_error
from arrowstream.plan.groupwise import counted
from arrowstream.plan.rowlocal import height

_MAGIC: Final = b"arrowstream.aggregate:"


class Aggregator(Protocol):
    """An aggregate of your own, for all groups at once: three functions from Polars expressions to expressions.

    What is kept of a group are named parts. `merge` of the parts of two halves of some rows must be the parts of
    all of them, and rows may come in any number of pieces; `frame.check` tries that.

        class GeometricMean:
            def partial(self, x):
                return {"logs": x.log().sum(), "n": x.count()}

            def merge(self, parts):
                return {name: part.sum() for name, part in parts.items()}

            def final(self, parts):
                return (parts["logs"] / parts["n"]).exp()

        frame.group_by("shop").agg(ars.aggregate(GeometricMean(), "price").alias("typical"))
    """

    @property
    def partial(self) -> Callable[..., Mapping[str, pl.Expr]]:
        """A method with an argument for each column: the parts of the rows of a group, aggregates of one value each."""

    def merge(self, parts: Mapping[str, pl.Expr]) -> Mapping[str, pl.Expr]:
        """The same parts, from several rows of them, in order of arrival: aggregates again."""

    def final(self, parts: Mapping[str, pl.Expr]) -> pl.Expr:
        """The answer from the parts of a group, row by row."""


def aggregate(aggregator: Aggregator, *exprs: Any) -> pl.Expr:
    """An aggregate of your own (see `Aggregator`) of columns or row-local expressions, for `agg(...)` of groups,
    windows, sessions, and `rolling`; there may be arithmetic and other aggregates around it.

    It is kept as running values. In plain Polars the expression means the same, computed group by group. Raises
    `PlanError` for what is no such class or cannot be pickled.
    """
    name = type(aggregator).__name__
    for method in ("partial", "merge", "final"):
        if not callable(getattr(aggregator, method, None)):
            raise PlanError(f"aggregate: {name} has no method {method}; it takes a class with partial, merge and final")
    if not exprs:
        raise PlanError(f"aggregate: of which columns? give them after the class, as in aggregate({name}(), 'price')")
    try:
        payload = _MAGIC + cloudpickle.dumps(aggregator)
    except Exception as error:
        raise PlanError(f"aggregate: {name} cannot be pickled: {type(error).__name__}: {error}") from error
    inputs = as_expressions(exprs, {})
    _check_shape(aggregator, len(inputs))
    called = pl.map_batches([pl.lit(payload), *inputs], _OneShot(payload), returns_scalar=True)
    return called.alias(inputs[0].meta.output_name(raise_if_undetermined=False) or name)


def _check_shape(aggregator: Aggregator, count: int) -> None:
    """Raises `PlanError` where the three functions do not fit each other; types are seen when columns are known."""
    name = type(aggregator).__name__
    made = _checked(aggregator.partial(*(pl.col(str(number)) for number in range(count))), f"{name}.partial")
    parts = {role: pl.col(role) for role in made}
    merged = _checked(aggregator.merge(parts), f"{name}.merge")
    if set(merged) != set(made):
        raise PlanError(f"aggregate: {name}.merge gives {sorted(merged)}, and partial {sorted(made)}")
    answer = aggregator.final(parts)
    if not isinstance(answer, pl.Expr):
        raise PlanError(f"aggregate: {name}.final gives {type(answer).__name__}, it must give a Polars expression")


def _checked(exprs: object, where: str) -> dict[str, pl.Expr]:
    if not isinstance(exprs, Mapping) or not exprs or not all(isinstance(expr, pl.Expr) for expr in exprs.values()):
        raise PlanError(f"aggregate: {where} must give a dict from names to Polars expressions")
    return dict(exprs)


@dataclass(frozen=True, slots=True)
class _OneShot:
    """The aggregate of one group, as Polars calls it; also of nothing, to learn the type."""

    payload: bytes

    def __call__(self, inputs: Sequence[pl.Series]) -> pl.Series:
        aggregator = _load(self.payload)
        values = pl.DataFrame([series.alias(str(number)) for number, series in enumerate(inputs[1:])])
        parts = values.select(**_partial(aggregator, *map(pl.col, values.columns)))
        return parts.select(aggregator.final({name: pl.col(name) for name in parts.columns})).to_series()


def _partial(aggregator: Aggregator, *values: pl.Expr) -> dict[str, pl.Expr]:
    """The parts of some rows; counts in them do not wrap."""
    return {role: counted(expr) for role, expr in aggregator.partial(*values).items()}


@cache
def _load(payload: bytes) -> Aggregator:
    aggregator: Aggregator = cloudpickle.loads(payload[len(_MAGIC) :])
    return aggregator


def custom_payload(tree: Node) -> bytes | None:
    """The pickled class of an aggregate of the user's own; None for all other trees."""
    match tree:
        case Call(op="AnonymousFunction", inputs=(Literal() as first, *_)):
            value = pl.select(build(first)).item()
            return value if isinstance(value, bytes) and value.startswith(_MAGIC) else None
    return None


@dataclass(frozen=True, slots=True)
class Custom(Accumulator):
    """The parts of an aggregate of the user's own.

    To merge them takes several rows of a group, so `combine` gives
    the new ones, and `Decomposition.combine` merges them with the old, one below the other.
    """

    operand: Operand
    others: tuple[Operand, ...]
    payload: bytes
    parts: tuple[tuple[str, pl.DataType], ...]

    @property
    def word(self) -> str:
        return type(_load(self.payload)).__name__

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return dict(self.parts)

    def gather(self, weight: str | None) -> Expressions:
        values = [operand.value for operand in (self.operand, *self.others)]
        return self._cast(_partial(_load(self.payload), *values))

    def merge(self, column: Columns) -> Expressions:
        return self._cast(_load(self.payload).merge({role: column(role) for role in self.columns}))

    def combine(self, old: Columns, new: Columns) -> Expressions:
        return {role: new(role) for role in self.columns}

    def value(self, column: Columns, nothing: Mapping[str, Any]) -> pl.Expr:
        """The answer; of a group without rows, from the parts of `nothing`."""
        empty = pl.col(ROWS).is_null()
        parts = {
            role: column(role) if nothing[role] is None else pl.when(empty).then(nothing[role]).otherwise(column(role))
            for role in self.columns
        }
        return _load(self.payload).final(parts)

    def _cast(self, exprs: Mapping[str, pl.Expr]) -> Expressions:
        return {role: exprs[role].cast(dtype) for role, dtype in self.parts}


def custom(payload: bytes, operands: Sequence[Operand]) -> tuple[Custom, Mapping[str, Any]]:
    """The accumulator of an aggregate over these operands, and its parts of no rows. Raises `PlanError` where the
    class does not do what it must."""
    aggregator = _load(payload)
    name = type(aggregator).__name__
    values = pl.Schema({str(number): operand.dtype for number, operand in enumerate(operands)})
    rows, partial = values.to_frame().lazy(), _partial(aggregator, *map(pl.col, values))
    try:
        made = rows.select(**partial)
        types, grouped = made.collect_schema(), rows.group_by(pl.lit(0)).agg(**partial).collect_schema()
        for role, dtype in types.items():
            if grouped[role] != dtype:
                raise PlanError(f"aggregate: {name}.partial: {role!r} is not one value of each group; aggregate it")
        parts = pl.Schema({role: _wide(dtype) for role, dtype in types.items()})
        kept = {role: pl.col(role) for role in parts}
        merged = [expr.cast(parts[role]).alias(role) for role, expr in aggregator.merge(kept).items()]
        parts.to_frame().lazy().group_by(pl.lit(0)).agg(merged).collect_schema()
        height("agg", parse(aggregator.final(kept)), parts)
        nothing = made.cast(dict(parts)).collect().row(0, named=True)  # type: ignore[arg-type]
    except NotRowLocalError as error:
        raise PlanError(f"aggregate: {name}.final must work on the parts of each group alone: {error}") from error
    except PANIC as error:
        raise plan_error(error, values, f"the values of {name}") from None
    return Custom(operands[0], tuple(operands[1:]), payload, tuple(parts.items())), nothing


def _wide(dtype: pl.DataType) -> pl.DataType:
    """Counts and small sums are kept in 64 bits: Polars' UInt32 would wrap."""
    small = (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32)
    return pl.Int64() if dtype in small else dtype
