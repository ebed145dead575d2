"""Each of Polars' aggregates as running values: which accumulators it keeps, and what is made of them.

`AGGREGATES` is the table; `Taker` walks the trees, replaces each aggregate by the column of its value, and keeps equal
accumulators once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from arrowstream.errors import NotRowLocalError, PlanError
from arrowstream.names import inner
from arrowstream.plan.accumulators import (
    ROWS,
    Accumulator,
    Collected,
    Columns,
    Count,
    Distinct,
    Edge,
    Extreme,
    FloatSum,
    Moments,
    Operand,
    Product,
    WholeSum,
    WideSum,
)
from arrowstream.plan.custom import custom, custom_payload
from arrowstream.plan.elementwise import ELEMENTWISE
from arrowstream.plan.expressions import Call, Column, Node, build, columns, describe, parse, resolve, walk
from arrowstream.plan.groupwise import passes
from arrowstream.plan.rowlocal import Height, height


class NotDecomposable(PlanError):
    """An aggregate that no few running values can hold; it can be recomputed from the group's rows."""


@dataclass(eq=False)
class Taker:
    """Takes trees apart, gathering accumulators, the values made of them, and where these overflow."""

    schema: pl.Schema
    grouped: bool
    weighted: bool
    accumulators: dict[Accumulator, int] = field(default_factory=dict)
    values: dict[str, pl.Expr] = field(default_factory=dict)
    guards: dict[str, pl.Expr] = field(default_factory=dict)
    _leaves: dict[Node, str] = field(default_factory=dict)

    def take(self, tree: Node) -> Node:
        """The tree with each aggregate replaced by the column of its value."""
        if not any(_is_aggregate(node) for node in walk(tree)) and columns(tree):
            # Polars gives a list of the group's values for an expression that is no aggregate.
            if not self.grouped:
                raise _undecomposable(tree, "is not an aggregate", "select(...) for rows, or an aggregate of it")
            try:
                height("agg", tree, self.schema)
            except NotRowLocalError as error:
                raise _undecomposable(tree, _AT_ONCE, _RUNNING) from error
            return self._leaf(Call("Agg.Implode", b"\x81\xaemaintain_order\xc3", (tree,)))
        rest = self._replaced(tree)
        leaves = resolve(pl.LazyFrame(schema=self._kept_schema()).select(*self._values()), self.schema)
        try:
            if height("agg", rest, leaves) is Height.CHANGED:
                raise _undecomposable(tree, "changes the number of rows", "frame.explode(...) on the result")
        except NotRowLocalError as error:
            raise NotDecomposable(str(error)) from error
        return rest

    def add(self, accumulator: Accumulator) -> Columns:
        """Keep an accumulator, or find the equal one that is kept already; the way to its columns."""
        return columns_of(self.accumulators.setdefault(accumulator, len(self.accumulators)))

    def operand(self, call: Call) -> Operand:
        """What an aggregate is of; raises NotDecomposable where that is not row-local itself."""
        (node,) = call.inputs
        try:
            found = height("agg", node, self.schema)
        except NotRowLocalError as error:
            raise _undecomposable(call, _AT_ONCE, _RUNNING) from error
        if found is Height.SCALAR:
            raise _undecomposable(call, "reads no column", "pl.len(), or a column in its place")
        (dtype,) = resolve(pl.LazyFrame(schema=self.schema).select(build(node).alias("_")), self.schema).values()
        sparse = found is Height.CHANGED
        if not self.weighted and call.op != "Agg.NUnique":
            return Operand(node, dtype, sparse)
        dense, where = _dense(node)
        if dense is None:
            raise _undecomposable(call, "changes the number of rows", "frame.explode(...) before the group_by")
        return Operand(dense, dtype, sparse, where)

    def guard(self, call: Call, accumulator: Accumulator, at: Columns) -> None:
        """Note where the value of an aggregate passes the type that it is given out in."""
        if (over := accumulator.overflows(at)) is not None:
            self.guards[passes(call, accumulator.operand.dtype)] = over

    def refuse_weights(self, call: Call, why: str = "cannot take a row back") -> None:
        """Raise where rows have weights."""
        if self.weighted:
            raise _undecomposable(call, why, "an append-only input, or recompute the groups from their rows")

    def _replaced(self, node: Node) -> Node:
        if isinstance(node, Column):
            why = "is a column beside an aggregate, so it gives one value a row"
            raise _undecomposable(node, why, ".first() for a key, or join the aggregate to the rows")
        if not isinstance(node, Call):
            return node
        if _is_aggregate(node):
            return self._leaf(node)
        if node.op not in ELEMENTWISE and node.op != "AnonymousFunction":
            raise _undecomposable(node, _AT_ONCE, _RUNNING)
        return replace(node, inputs=tuple(self._replaced(child) for child in node.inputs))

    def _leaf(self, call: Call) -> Column:
        if call not in self._leaves:
            value = AGGREGATES.get(call.op, _custom)(self, call)
            self._leaves[call] = name = inner(f"value_{len(self._leaves)}")
            self.values[name] = value
        return Column(self._leaves[call])

    def _values(self) -> Iterable[pl.Expr]:
        return (expr.alias(name) for name, expr in self.values.items())

    def _kept_schema(self) -> pl.Schema:
        kept: dict[str, pl.DataType] = {ROWS: pl.Int64()}
        for accumulator, number in self.accumulators.items():
            kept.update({column_name(number, role): dtype for role, dtype in accumulator.columns.items()})
        return pl.Schema(kept)


_AT_ONCE = "needs all the rows of a group at once"
_RUNNING = (
    "sum, count, mean, min, max and the like, or ask an output: ctx.sql('SELECT k, median(x) FROM rows GROUP BY k')"
)


def _undecomposable(node: Node, why: str, cure: str) -> NotDecomposable:
    return NotDecomposable(f"agg: {describe(node)} {why}, so it cannot be kept as a running value; use {cure}")


def _dense(node: Node) -> tuple[Node | None, Node | None]:
    """A tree that leaves rows out, as one that does not and the predicate of the rows it keeps.

    `(x.filter(p) * 2)` is `x * 2` where `p`: the tree is row-local, so at most one of its branches
    leaves rows out. None for a tree that adds rows.
    """
    if not isinstance(node, Call):
        return node, None
    if node.op == "Explode":
        return None, None
    inputs, wheres = [], []
    for child in node.inputs:
        dense, where = _dense(child)
        if dense is None:
            return None, None
        inputs.append(dense)
        wheres += [where] if where is not None else []
    if node.op == "Filter":
        wheres.append(inputs[1])
    elif node.op in ("Function.DropNulls", "Function.DropNans"):
        value = build(inputs[0])
        wheres.append(parse(value.is_not_null() if node.op == "Function.DropNulls" else value.is_not_nan()))
    else:
        return (replace(node, inputs=tuple(inputs)) if wheres else node), (wheres[0] if wheres else None)
    both = wheres[0] if len(wheres) == 1 else parse(build(wheres[0]) & build(wheres[1]))
    return inputs[0], both


def _is_aggregate(node: Node) -> bool:
    return isinstance(node, Call) and (node.op in AGGREGATES or custom_payload(node) is not None)


def _custom(taker: Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    payload = custom_payload(call)
    assert payload is not None
    accumulator, nothing = custom(payload, [taker.operand(replace(call, inputs=(each,))) for each in call.inputs[1:]])
    return accumulator.value(taker.add(accumulator), nothing)


def _length(taker: Taker, call: Call) -> pl.Expr:
    return pl.col(ROWS).fill_null(0)


def _count(taker: Taker, call: Call) -> pl.Expr:
    operand = taker.operand(call)
    if not call.detail["include_nulls"]:
        return _counted(taker, operand, "values")
    return _counted(taker, operand, "rows") if operand.sparse else pl.col(ROWS).fill_null(0)


def _null_count(taker: Taker, call: Call) -> pl.Expr:
    return _counted(taker, taker.operand(call), "nulls")


def _has_nulls(taker: Taker, call: Call) -> pl.Expr:
    return _counted(taker, taker.operand(call), "nulls") > 0


def _counted(taker: Taker, operand: Operand, kind: str) -> pl.Expr:
    return taker.add(Count(operand, kind))(kind).fill_null(0)


def _sum(taker: Taker, call: Call) -> pl.Expr:
    operand = taker.operand(call)
    match operand.dtype:
        case pl.Boolean():
            return _counted(taker, operand, "true")
        case pl.Float16() | pl.Float32() | pl.Float64():
            taker.refuse_weights(call, "is a sum of floats, which cannot be subtracted exactly")
            return FloatSum(operand).total(taker.add(FloatSum(operand))).cast(operand.dtype)
        case pl.Decimal() | pl.Int128():
            wide = WideSum(operand)
            at = taker.add(wide)
            taker.guard(call, wide, at)
            return wide.total(at)
        case pl.Duration() | pl.UInt64():
            into = pl.Int64() if isinstance(operand.dtype, pl.Duration) else operand.dtype
        case dtype if dtype.is_integer() and dtype != pl.UInt128:
            into = pl.Int64()
        case _:
            raise _undecomposable(call, f"adds up {operand.dtype}", "a column of numbers or durations")
    whole = WholeSum(operand)
    at = taker.add(whole)
    taker.guard(call, whole, at)
    total = whole.total(at, into)
    return total.cast(operand.dtype) if isinstance(operand.dtype, pl.Duration) else total


def _mean(taker: Taker, call: Call) -> pl.Expr:
    operand = taker.operand(call)
    n = _counted(taker, operand, "values")
    match operand.dtype:
        case pl.Boolean():
            total = _counted(taker, operand, "true").cast(pl.Float64)
        case pl.Float16() | pl.Float32() | pl.Float64():
            taker.refuse_weights(call, "is a mean of floats, which cannot be subtracted exactly")
            total = FloatSum(operand).total(taker.add(FloatSum(operand)))
        case pl.Decimal() | pl.Int128():
            total = WideSum(operand).as_float(taker.add(WideSum(operand)))
        case dtype if dtype.is_temporal():
            whole = WholeSum(operand)
            total = whole.total(taker.add(whole), pl.Int128())
            if isinstance(dtype, pl.Date):
                total, dtype = total * 86_400_000_000, pl.Datetime("us")
            # Towards zero, as Polars cuts off the fraction.
            return pl.when(n > 0).then(total.truncdiv(n)).cast(pl.Int64).cast(dtype)
        case dtype if dtype.is_integer() and dtype != pl.UInt128:
            at = taker.add(WholeSum(operand))
            total = at("high").cast(pl.Float64) * 2.0**32 + at("low").cast(pl.Float64)
        case _:
            raise _undecomposable(call, f"is a mean of {operand.dtype}", "a column of numbers or times")
    mean = pl.when(n > 0).then(total / n)
    return mean.cast(operand.dtype) if operand.dtype.is_float() else mean


def _spread(taker: Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand, (ddof,) = taker.operand(call), call.detail
    if not (operand.dtype.is_numeric() or operand.dtype == pl.Boolean):
        raise _undecomposable(call, f"is of {operand.dtype}", "a column of numbers")
    at = taker.add(Moments(operand))
    free = at("n").fill_null(0) - ddof
    variance = pl.when(free > 0).then(at("squares") / free)
    result = variance.sqrt() if call.op == "Agg.Std" else variance
    return result.cast(operand.dtype) if operand.dtype.is_float() else result


def _extreme(taker: Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand = taker.operand(call)
    if operand.dtype.is_nested() or operand.dtype.is_object():
        raise _undecomposable(call, f"is of {operand.dtype}", "a column of single values")
    nans = bool(call.detail["propagate_nans"]) and operand.dtype.is_float()
    return taker.add(Extreme(operand, greatest=call.op == "Agg.Max", nans=nans))("value")


def _edge(taker: Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    edge = Edge(taker.operand(call), last="Last" in call.op, skip_nulls="NonNull" in call.op)
    return taker.add(edge)("value")


def _implode(taker: Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand = taker.operand(call)
    return pl.coalesce(taker.add(Collected(operand))("values"), pl.lit([], pl.List(operand.dtype)))


def _product(taker: Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand = taker.operand(call)
    small = operand.dtype.is_integer() and operand.dtype not in (pl.Int128, pl.UInt128)
    if not (small or operand.dtype.is_float() or operand.dtype == pl.Boolean):
        raise _undecomposable(call, f"multiplies {operand.dtype}", "a column of numbers of 64 bits")
    product = Product(operand)
    at = taker.add(product)
    if operand.dtype.is_float():
        return at("size").fill_null(1).cast(operand.dtype)
    taker.guard(call, product, at)
    return at("exact").fill_null(1)


def _distinct(taker: Taker, call: Call) -> pl.Expr:
    return taker.add(Distinct(taker.operand(call)))("distinct").fill_null(0)


def _any_or_all(taker: Taker, call: Call) -> pl.Expr:
    """By counts, so that rows can be taken back: a decisive value decides, then a null, where it counts."""
    operand = taker.operand(call)
    if operand.dtype != pl.Boolean:
        raise _undecomposable(call, f"is of {operand.dtype}", "a Boolean, such as a comparison")
    is_any = call.op.endswith("Any")
    (options,) = call.detail["function"]["Boolean"].values()
    decided = _counted(taker, operand, "true" if is_any else "false") > 0
    result = decided if is_any else ~decided
    if options["ignore_nulls"]:
        return result
    return pl.when(decided | (_counted(taker, operand, "nulls") == 0)).then(result)


AGGREGATES: Mapping[str, Callable[[Taker, Call], pl.Expr]] = {
    "Agg.Count": _count,
    "Agg.First": _edge,
    "Agg.FirstNonNull": _edge,
    "Agg.Implode": _implode,
    "Agg.Last": _edge,
    "Agg.LastNonNull": _edge,
    "Agg.Max": _extreme,
    "Agg.Mean": _mean,
    "Agg.Min": _extreme,
    "Agg.NUnique": _distinct,
    "Agg.Std": _spread,
    "Agg.Sum": _sum,
    "Agg.Var": _spread,
    "Function.Boolean.All": _any_or_all,
    "Function.Boolean.Any": _any_or_all,
    "Function.Boolean.HasNulls": _has_nulls,
    "Function.NullCount": _null_count,
    "Function.Product": _product,
    "Len": _length,
}
"""The aggregates that can be taken apart: each adds its accumulators and says what value they make."""


def column_name(number: int, role: str) -> str:
    """The name of one column of the accumulator of this number."""
    return inner(f"{number}_{role}")


def columns_of(number: int) -> Columns:
    """The columns of the accumulator of this number, by role."""
    return lambda role: pl.col(column_name(number, role))
