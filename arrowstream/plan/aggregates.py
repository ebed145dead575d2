"""Take `group_by(...).agg(...)` apart into what a batch gives, what is kept, and what is shown.

`decompose` finds the aggregates in each expression, whatever arithmetic is around them, and gives each its
accumulators; equal ones are kept once. What is left is elementwise over the aggregates' values. So
`(pl.col("a").sum() / pl.len()).round(2)` needs no special case. What cannot be kept as a few running values
(a median, a user's function of a group) raises NotDecomposable, and can still be recomputed from rows.

The order of calls, for a batch that arrived in several parts:

    partial(part) for each -> merge(all of them) -> combine(state, merged) -> final(keys and state)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from arrowstream.errors import BatchError, NotRowLocalError, PlanError
from arrowstream.plan.accumulators import (
    OLD,
    ROWS,
    Accumulator,
    Collected,
    Columns,
    Count,
    DecimalSum,
    Distinct,
    Edge,
    Extreme,
    FloatSum,
    Moments,
    Operand,
    Product,
    WholeSum,
)
from arrowstream.plan.elementwise import ELEMENTWISE
from arrowstream.plan.expressions import Call, Column, Node, build, columns, describe, parse, resolve, unaliased, walk
from arrowstream.plan.rowlocal import Height, check_row_local, height

VALUE = "__value"
WEIGHT = "__weight"
_PRESENT = "__present"

__all__ = ["ROWS", "VALUE", "WEIGHT", "Decomposition", "NotDecomposable", "Pairs", "canonical", "decompose"]


class NotDecomposable(PlanError):
    """An aggregate that no few running values can hold; it can be recomputed from the group's rows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Distinct values to be counted by whoever keeps state, since no running value can tell what was seen.

    Keep a table keyed by `keys` (the group's keys and `__value`) that sums `__weight`. For each batch, sum up the
    weights of `partial` by key and add them: a pair whose sum comes above 0 is new, one whose sum comes to 0 is
    gone. The change in the number of pairs of a group goes into the column `accumulator` of the merged
    partials, which is 0 there, before `combine` adds it to the state. A null is a value, as in `n_unique`; floats
    are canonical. A group may have no pairs at all.
    """

    accumulator: str
    keys: pl.Schema
    _by: tuple[pl.Expr, ...]
    _where: pl.Expr | None

    def partial(self, frame: pl.LazyFrame, weight: str | None = None) -> pl.LazyFrame:
        """The distinct pairs of these rows: keys, `__value`, and the Int64 `__weight`, their number or weight."""
        rows = frame if self._where is None else frame.filter(self._where)
        total = pl.len() if weight is None else pl.col(weight).sum()
        return rows.group_by(self._by).agg(total.cast(pl.Int64).alias(WEIGHT))


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """Aggregates by key, taken apart. It pickles, and holds no data.

    `keys` are the group's columns, empty for one group of everything; `accumulators` what is kept for a group,
    under names of their own, with the Int64 `__rows` always among them; `output` the keys and results, exactly as
    `final` gives them. `pairs` are the tables of distinct values that go with it.

    With `weighted` a row carries an Int64 weight, +1 for one that comes and -1 for one that is taken back;
    `__rows` is then the sum of weights, and a group at 0 has vanished.
    """

    keys: pl.Schema
    accumulators: pl.Schema
    output: pl.Schema
    pairs: tuple[Pairs, ...]
    weighted: bool
    _by: tuple[pl.Expr, ...]
    _gather: tuple[pl.Expr, ...]
    _settle: tuple[pl.Expr, ...]
    _merge: tuple[pl.Expr, ...]
    _carry: tuple[pl.Expr, ...]
    _combine: tuple[pl.Expr, ...]
    _values: tuple[pl.Expr, ...]
    _outputs: tuple[pl.Expr, ...]
    _guards: Mapping[str, pl.Expr]

    def partial(self, frame: pl.LazyFrame, weight: str | None = None) -> pl.LazyFrame:
        """One row per group of these rows: the keys, canonical, and the accumulators.

        `weight` names the column of weights; without it each row counts once. No rows give no row, also
        where there are no keys.
        """
        if self.weighted and weight != WEIGHT:
            frame = frame.with_columns((pl.lit(1, pl.Int64) if weight is None else pl.col(weight)).alias(WEIGHT))
        return self._grouped(frame, self._by, self._gather, self._settle)

    def merge(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """One row per group of several partials, which stand in their order of arrival."""
        return self._grouped(frame, tuple(pl.col(name) for name in self.keys), self._merge, self._carry)

    def combine(self, old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        """The new state of the accumulators, row by row, from the state's and the batch's.

        Both have exactly the columns of `accumulators`; a row of nulls stands for a group not seen.
        """
        before = old.rename({name: name + OLD for name in old.columns})
        return pl.concat([before, new], how="horizontal").select(self._combine)

    def final(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The output rows of keys and accumulators, in their order; a row of nulls is a group of no rows.

        Raises BatchError, naming the expression, where a sum or product passes the type it is given out as.
        """
        if self._guards and frame.height:
            found = frame.select(guard.any().alias(text) for text, guard in self._guards.items())
            for text, over in found.row(0, named=True).items():
                if over:
                    raise BatchError(f"{text} passes 64 bits; cast its column to Float64 or Decimal first")
        keys = [pl.col(name) for name in self.keys]
        return frame.select(*keys, ROWS, *self._values).select(*keys, *self._outputs)

    def final_of_nothing(self) -> pl.DataFrame:
        """The one row that aggregates without keys give of no rows; no row where there are keys."""
        return self.final(self.accumulators.to_frame().clear(0 if self.keys else 1))

    def _grouped(
        self, frame: pl.LazyFrame, by: Sequence[pl.Expr], aggs: Sequence[pl.Expr], after: Sequence[pl.Expr]
    ) -> pl.LazyFrame:
        if by:
            return frame.group_by(by).agg(aggs).select(*self.keys, *after)
        return frame.select(pl.len().alias(_PRESENT), *aggs).filter(pl.col(_PRESENT) > 0).select(after)


def decompose(
    keys: Sequence[tuple[str, pl.Expr]],
    aggs: Sequence[tuple[str, pl.Expr]],
    schema: pl.Schema,
    *,
    weighted: bool = False,
) -> Decomposition:
    """Take aggregates apart; `keys` and `aggs` come from `expressions.expand_grouped`.

    Raises NotDecomposable for what can only be recomputed, NotRowLocalError for a key that is not row-local, and
    PlanError or ColumnError for what Polars refuses. With `weighted`, only what can be taken back exactly is
    decomposable: counts, sums and means of whole numbers, decimals and durations, any, all, distinct counts.
    """
    for name, key in keys:
        check_row_local("group_by", key.alias(name), schema)
    by = [(name, build(unaliased(parse(key)))) for name, key in keys]
    names = [name for name, _ in (*keys, *aggs)]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise PlanError(f"agg: the name {min(doubled)!r} is given twice; rename one by .alias(...)")
    found = resolve(pl.LazyFrame(schema=schema).select(expr.alias(name) for name, expr in by), schema)
    taker = _Taker(schema, grouped=bool(keys), weighted=weighted)
    trees = [(name, taker.take(unaliased(parse(agg)))) for name, agg in aggs]
    return _assembled(by, found, trees, taker)


def canonical(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The expression with one label for equal keys: -0.0 becomes 0.0 and every NaN the same NaN, also in nests."""
    match dtype:
        case pl.Float16() | pl.Float32() | pl.Float64():
            # Not `expr + 0.0`: Polars leaves a column alone when 0.0 is added, and -0.0 stays.
            zero, nan = pl.lit(0.0, dtype), pl.lit(float("nan"), dtype)
            return pl.when(expr.is_nan()).then(nan).when(expr == zero).then(zero).otherwise(expr)
        case pl.List(inner=inner) if _holds_floats(dtype):
            return expr.list.eval(canonical(pl.element(), inner))  # type: ignore[arg-type]
        case pl.Array(inner=inner) if _holds_floats(dtype):
            return expr.arr.eval(canonical(pl.element(), inner))  # type: ignore[arg-type]
        case pl.Struct(fields=fields) if _holds_floats(dtype):
            parts = [canonical(expr.struct.field(one.name), one.dtype).alias(one.name) for one in fields]  # type: ignore[arg-type]
            return pl.when(expr.is_not_null()).then(pl.struct(parts))
    return expr


def _holds_floats(dtype: pl.DataType) -> bool:
    match dtype:
        case pl.List(inner=inner) | pl.Array(inner=inner):
            return _holds_floats(inner)  # type: ignore[arg-type]
        case pl.Struct(fields=fields):
            return any(_holds_floats(one.dtype) for one in fields)  # type: ignore[arg-type]
    return dtype.is_float()


def _assembled(
    by: Sequence[tuple[str, pl.Expr]], keys: pl.Schema, trees: Sequence[tuple[str, Node]], taker: _Taker
) -> Decomposition:
    """Put the parts together: number the accumulators, and try the result on no rows."""
    held = [(accumulator, _at(number)) for accumulator, number in taker.accumulators.items()]
    weight = WEIGHT if taker.weighted else None
    rows = pl.len() if weight is None else pl.col(weight).sum()
    by_expr = tuple(canonical(expr, keys[name]).alias(name) for name, expr in by)
    pairs = tuple(
        Pairs(
            accumulator=_name(number, "distinct"),
            keys=pl.Schema({**keys, VALUE: accumulator.operand.dtype}),
            _by=(*by_expr, canonical(accumulator.operand.value, accumulator.operand.dtype).alias(VALUE)),
            _where=None if accumulator.operand.where is None else build(accumulator.operand.where),
        )
        for accumulator, number in taker.accumulators.items()
        if isinstance(accumulator, Distinct)
    )
    kept: dict[str, pl.DataType] = {ROWS: pl.Int64()}
    for accumulator, number in taker.accumulators.items():
        kept.update({_name(number, role): dtype for role, dtype in accumulator.columns.items()})
    if clash := set(kept) & set(keys):
        raise PlanError(f"group_by: the name {min(clash)!r} is used inside; rename the key by .alias(...)")

    def every(step: Callable[[Accumulator, Columns], Mapping[str, pl.Expr]], first: pl.Expr) -> tuple[pl.Expr, ...]:
        return (
            first.alias(ROWS),
            *(
                expr.alias(_name(number, role))
                for (accumulator, at), number in zip(held, taker.accumulators.values(), strict=True)
                for role, expr in step(accumulator, at).items()
            ),
        )

    plan = Decomposition(
        keys=keys,
        accumulators=pl.Schema(kept),
        output=pl.Schema(),
        pairs=pairs,
        weighted=taker.weighted,
        _by=by_expr,
        _gather=every(lambda one, at: one.gather(weight), rows.cast(pl.Int64)),
        _settle=every(lambda one, at: one.settle(at), pl.col(ROWS)),
        _merge=every(lambda one, at: one.merge(at), pl.col(ROWS).sum()),
        _carry=every(lambda one, at: one.carry(at), pl.col(ROWS)),
        _combine=every(
            lambda one, at: one.combine(lambda role: at(role + OLD), at),
            pl.col(ROWS + OLD).fill_null(0) + pl.col(ROWS).fill_null(0),
        ),
        _values=tuple(expr.alias(leaf) for leaf, expr in taker.values.items()),
        _outputs=tuple(build(tree).alias(name) for name, tree in trees),
        _guards=taker.guards,
    )
    try:
        output = plan.final(pl.Schema({**keys, **kept}).to_frame()).schema
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"agg: Polars cannot compute this: {str(error).splitlines()[0]}") from error
    return replace(plan, output=output)


def _name(number: int, role: str) -> str:
    return f"__{number}_{role}"


def _at(number: int) -> Columns:
    return lambda role: pl.col(_name(number, role))


@dataclass(eq=False)
class _Taker:
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
        if not any(isinstance(node, Call) and node.op in _AGGREGATES for node in walk(tree)) and columns(tree):
            # Polars gives a list of the group's values for an expression that is no aggregate.
            if not self.grouped:
                raise _undecomposable(tree, "is not an aggregate", "select(...) for rows, or an aggregate of it")
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
        return _at(self.accumulators.setdefault(accumulator, len(self.accumulators)))

    def operand(self, call: Call) -> Operand:
        """What an aggregate is of; raises NotDecomposable where that is not row-local itself."""
        (node,) = call.inputs
        try:
            found = height("agg", node, self.schema)
        except NotRowLocalError as error:
            raise NotDecomposable(
                f"agg: {describe(call)} cannot be kept as a running value, because it is of something that needs all "
                f"the rows of a group at once. {error}"
            ) from error
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
        if node.op in _AGGREGATES:
            return self._leaf(node)
        if node.op not in ELEMENTWISE and node.op != "AnonymousFunction":
            raise _undecomposable(
                node, "needs all the rows of a group at once", "sum, count, mean, min, max and the like"
            )
        return replace(node, inputs=tuple(self._replaced(child) for child in node.inputs))

    def _leaf(self, call: Call) -> Column:
        if call not in self._leaves:
            value = _AGGREGATES[call.op](self, call)
            self._leaves[call] = name = f"__value{len(self._leaves)}"
            self.values[name] = value
        return Column(self._leaves[call])

    def _values(self) -> Iterable[pl.Expr]:
        return (expr.alias(name) for name, expr in self.values.items())

    def _kept_schema(self) -> pl.Schema:
        kept: dict[str, pl.DataType] = {ROWS: pl.Int64()}
        for accumulator, number in self.accumulators.items():
            kept.update({_name(number, role): dtype for role, dtype in accumulator.columns.items()})
        return pl.Schema(kept)


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


def _length(taker: _Taker, call: Call) -> pl.Expr:
    return pl.col(ROWS).fill_null(0)


def _count(taker: _Taker, call: Call) -> pl.Expr:
    operand = taker.operand(call)
    if not call.detail["include_nulls"]:
        return _counted(taker, operand, "values")
    return _counted(taker, operand, "rows") if operand.sparse else pl.col(ROWS).fill_null(0)


def _null_count(taker: _Taker, call: Call) -> pl.Expr:
    return _counted(taker, taker.operand(call), "nulls")


def _has_nulls(taker: _Taker, call: Call) -> pl.Expr:
    return _counted(taker, taker.operand(call), "nulls") > 0


def _counted(taker: _Taker, operand: Operand, kind: str) -> pl.Expr:
    return taker.add(Count(operand, kind))(kind).fill_null(0)


def _sum(taker: _Taker, call: Call) -> pl.Expr:
    operand = taker.operand(call)
    match operand.dtype:
        case pl.Boolean():
            return _counted(taker, operand, "true")
        case pl.Float16() | pl.Float32() | pl.Float64():
            taker.refuse_weights(call, "is a sum of floats, which cannot be subtracted exactly")
            return FloatSum(operand).total(taker.add(FloatSum(operand))).cast(operand.dtype)
        case pl.Decimal():
            return taker.add(DecimalSum(operand))("sum").fill_null(0)
        case pl.Duration() | pl.UInt64() | pl.Int128():
            into = pl.Int64() if isinstance(operand.dtype, pl.Duration) else operand.dtype
        case dtype if dtype.is_integer() and dtype != pl.UInt128:
            into = pl.Int64()
        case _:
            raise _undecomposable(call, f"adds up {operand.dtype}", "a column of numbers or durations")
    whole = WholeSum(operand)
    at = taker.add(whole)
    if (over := whole.overflows(at)) is not None:
        taker.guards[describe(call)] = over
    total = whole.total(at, into)
    return total.cast(operand.dtype) if isinstance(operand.dtype, pl.Duration) else total


def _mean(taker: _Taker, call: Call) -> pl.Expr:
    operand = taker.operand(call)
    n = _counted(taker, operand, "values")
    match operand.dtype:
        case pl.Boolean():
            total = _counted(taker, operand, "true").cast(pl.Float64)
        case pl.Float16() | pl.Float32() | pl.Float64():
            taker.refuse_weights(call, "is a mean of floats, which cannot be subtracted exactly")
            total = FloatSum(operand).total(taker.add(FloatSum(operand)))
        case pl.Decimal():
            total = taker.add(DecimalSum(operand))("sum").cast(pl.Float64)
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


def _spread(taker: _Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand, (ddof,) = taker.operand(call), call.detail
    if not (operand.dtype.is_numeric() or operand.dtype == pl.Boolean):
        raise _undecomposable(call, f"is of {operand.dtype}", "a column of numbers")
    at = taker.add(Moments(operand))
    free = at("n").fill_null(0) - ddof
    variance = pl.when(free > 0).then(at("squares") / free)
    result = variance.sqrt() if call.op == "Agg.Std" else variance
    return result.cast(operand.dtype) if operand.dtype.is_float() else result


def _extreme(taker: _Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand = taker.operand(call)
    if operand.dtype.is_nested() or operand.dtype.is_object():
        raise _undecomposable(call, f"is of {operand.dtype}", "a column of single values")
    nans = bool(call.detail["propagate_nans"]) and operand.dtype.is_float()
    return taker.add(Extreme(operand, greatest=call.op == "Agg.Max", nans=nans))("value")


def _edge(taker: _Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    edge = Edge(taker.operand(call), last="Last" in call.op, skip_nulls="NonNull" in call.op)
    return taker.add(edge)("value")


def _implode(taker: _Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand = taker.operand(call)
    return pl.coalesce(taker.add(Collected(operand))("values"), pl.lit([], pl.List(operand.dtype)))


def _product(taker: _Taker, call: Call) -> pl.Expr:
    taker.refuse_weights(call)
    operand = taker.operand(call)
    small = operand.dtype.is_integer() and operand.dtype not in (pl.Int128, pl.UInt128)
    if not (small or operand.dtype.is_float() or operand.dtype == pl.Boolean):
        raise _undecomposable(call, f"multiplies {operand.dtype}", "a column of numbers of 64 bits")
    product = Product(operand)
    at = taker.add(product)
    if operand.dtype.is_float():
        return at("size").fill_null(1).cast(operand.dtype)
    if (over := product.overflows(at)) is not None:
        taker.guards[describe(call)] = over
    return at("exact").fill_null(1)


def _distinct(taker: _Taker, call: Call) -> pl.Expr:
    return taker.add(Distinct(taker.operand(call)))("distinct").fill_null(0)


def _any_or_all(taker: _Taker, call: Call) -> pl.Expr:
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


_AGGREGATES: Mapping[str, Callable[[_Taker, Call], pl.Expr]] = {
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
