"""Take `group_by(...).agg(...)` apart into what a batch gives, what is kept, and what is shown.

`decompose` finds the aggregates in each expression, whatever arithmetic is around them, and gives each its
accumulators; equal ones are kept once. What is left is elementwise over the aggregates' values. So
`(pl.col("a").sum() / pl.len()).round(2)` needs no special case. What cannot be kept as a few running values
(a median, a user's function of a group) raises NotDecomposable, and can still be recomputed from rows.

The order of calls, for a batch that arrived in several parts:

    partial(part) for each -> merge(all of them) -> combine(state, merged) -> final(keys and state)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from arrowstream import matching
from arrowstream.engine import engine, few
from arrowstream.errors import PlanError
from arrowstream.frames import rows_at
from arrowstream.names import inner
from arrowstream.plan.accumulators import OLD, ROWS, Accumulator, Collected, Columns, Distinct, Edge, Operand
from arrowstream.plan.custom import Custom
from arrowstream.plan.expressions import PANIC, Node, build, parse, plan_error, resolve, unaliased
from arrowstream.plan.groupwise import TOO_LARGE, flagged
from arrowstream.plan.rowlocal import check_row_local
from arrowstream.plan.running import NotDecomposable, Taker, column_name, columns_of

MAIN = "main"
VALUE = inner("value")
WEIGHT = inner("weight")
GROUP = inner("group")
_PLACE = inner("group_place")
# So many conditions fit into the mask that is kept of a value.
_CONDITIONS = 64
_PRESENT = inner("present")

__all__ = [
    "GROUP",
    "MAIN",
    "ROWS",
    "VALUE",
    "WEIGHT",
    "Decomposition",
    "NotDecomposable",
    "Pairs",
    "canonical",
    "decompose",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Distinct values to be counted by whoever keeps state, since no running value can tell what was seen.

    `keys` are the group's keys and `VALUE`. Counts of the same values under several conditions share their pairs:
    each has a column, named as its accumulator, one of `columns`. It says whether the value was seen (Boolean), or,
    where rows have weights, how often (Int64). For each batch, bring the pairs of `partial` together by key, as
    `merge` does, and bring these to those that are kept: where a Boolean becomes true, or a number comes above 0, the
    group has one value more; where a number comes to 0, one less. The change in the number of values goes into the
    accumulator's column of the merged partials, which is 0 there, before `combine` adds it to the state. A null is a
    value, as in `n_unique`; floats are canonical. A group may have no pairs at all.
    """

    keys: pl.Schema
    columns: tuple[str, ...]
    weighted: bool
    _by: tuple[pl.Expr, ...]
    _value: pl.Expr
    _wheres: tuple[pl.Expr | None, ...]

    @property
    def name(self) -> str:
        """What its frames and its table are called."""
        return self.columns[0]

    @property
    def schema(self) -> pl.Schema:
        """The keys and a column for each count."""
        return pl.Schema({**self.keys, **dict.fromkeys(self.columns, pl.Int64() if self.weighted else pl.Boolean())})

    @property
    def reads(self) -> list[pl.Expr]:
        """The expressions over the rows themselves."""
        return [*self._by, self._value, *(where for where in self._wheres if where is not None)]

    def partial(
        self, frame: pl.LazyFrame, weight: str | None = None, by: Sequence[pl.Expr] | None = None
    ) -> pl.LazyFrame:
        """The distinct pairs of these rows. `by` is another way to tell the groups, in place of the keys."""
        wheres = [where for where in self._wheres if where is not None]
        rows = frame.filter(pl.any_horizontal(wheres)) if len(wheres) == len(self._wheres) else frame
        seen = (self._seen(where, weight).alias(name) for name, where in zip(self.columns, self._wheres, strict=True))
        return rows.group_by(*(self._by if by is None else by), self._value).agg(seen)

    def merge(self, frame: pl.LazyFrame, by: Sequence[str] | None = None) -> pl.LazyFrame:
        """Each pair once; `by` are other columns than the keys to tell it by."""
        columns = pl.col(self.columns)
        return frame.group_by(list(self.keys) if by is None else by).agg(
            columns.sum() if self.weighted else columns.any()
        )

    def _seen(self, where: pl.Expr | None, weight: str | None) -> pl.Expr:
        if not self.weighted:
            return pl.len() > 0 if where is None else where.any()
        each = pl.lit(1, pl.Int64) if weight is None else pl.col(weight)
        return (each if where is None else pl.when(where).then(each).otherwise(0)).sum().cast(pl.Int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """Aggregates by key, taken apart. It pickles, and holds no data.

    `keys` are the group's columns, empty for one group of everything; `accumulators` what is kept for a group,
    under names of their own, with the Int64 `ROWS` always among them; `output` the keys and results, exactly as
    `final` gives them. `pairs` are the tables of distinct values that go with it.

    `ordered` says that a value depends on the order of arrival (first, last, implode).

    With `weighted` a row carries an Int64 weight, +1 for one that comes and -1 for one that is taken back;
    `ROWS` is then the sum of weights, and a group at 0 has vanished.
    """

    keys: pl.Schema
    accumulators: pl.Schema
    output: pl.Schema
    pairs: tuple[Pairs, ...]
    weighted: bool
    ordered: bool
    _by: tuple[pl.Expr, ...]
    _gather: tuple[pl.Expr, ...]
    _settle: tuple[pl.Expr, ...]
    _merge: tuple[pl.Expr, ...]
    _carry: tuple[pl.Expr, ...]
    _combine: tuple[pl.Expr, ...]
    _stacked: tuple[pl.Expr, ...]
    _values: tuple[pl.Expr, ...]
    _outputs: tuple[pl.Expr, ...]
    _guards: Mapping[str, pl.Expr]
    readable: Mapping[str, str] = field(default_factory=dict)
    """What each of the accumulators holds, in words."""

    @property
    def flagged(self) -> bool:
        """Whether there is anything that may not fit the type in which it is given out."""
        return bool(self._guards)

    @property
    def by(self) -> Sequence[pl.Expr]:
        """The keys, canonical, of the rows themselves."""
        return self._by

    @property
    def reads(self) -> list[pl.Expr]:
        """The expressions over the rows themselves."""
        of_pairs = [expr for pairs in self.pairs for expr in pairs.reads]
        return [*self._by, *self._gather, *of_pairs]

    def partial(
        self, frame: pl.LazyFrame, weight: str | None = None, alike: Mapping[str, pl.Expr] | None = None
    ) -> pl.LazyFrame:
        """One row per group of these rows: the keys, canonical, and the accumulators.

        `weight` names the column of weights; without it each row counts once. No rows give no row, also
        where there are no keys. `alike` are values of keys that all rows, of which there are some, have in common.
        """
        by = self._by
        if alike:
            by = tuple(
                alike[name].alias(name) if name in alike else expr for name, expr in zip(self.keys, by, strict=True)
            )
        return self._grouped(frame, by, self._gather, self._settle, weight)

    def partials(
        self, frame: pl.LazyFrame, weight: str | None = None, size: int | None = None
    ) -> dict[str, pl.DataFrame]:
        """What `partial` gives of these rows, as `main`, and their pairs by name, each with the key columns.
        `size` is about how many rows they are, if that is known.

        All have `GROUP` besides, which numbers the groups: within this call it tells them as the keys do. Keys, often
        texts, are so looked at once; pairs are found by numbers.
        """
        exprs = self.reads
        names = sorted({name for expr in exprs for name in expr.meta.root_names()} | ({weight} if weight else set()))
        rows = frame.select(names).with_row_index(_PLACE).collect(engine=engine(size))
        way = engine(rows.height)
        if not self.keys:
            lazy = [self.partial(rows.lazy(), weight), *(pairs.partial(rows.lazy(), weight) for pairs in self.pairs)]
            whole = [one.with_columns(pl.lit(0, pl.UInt32).alias(GROUP)) for one in pl.collect_all(lazy, engine=way)]
            return dict(zip((MAIN, *(pairs.name for pairs in self.pairs)), whole, strict=True))
        places = pl.col(_PLACE)
        gather, settle = [*self._gather, places], [*self._settle, places]
        main = self._grouped(rows.lazy(), self._by, gather, settle, weight).collect(engine=way)
        groups = np.empty(rows.height, np.uint32)
        of_groups = main[_PLACE]
        groups[of_groups.explode(empty_as_null=False, keep_nulls=False).to_numpy()] = np.repeat(
            np.arange(main.height, dtype=np.uint32), of_groups.list.len().to_numpy()
        )
        numbered = rows.lazy().with_columns(pl.Series(GROUP, groups))
        found = pl.collect_all([pairs.partial(numbered, weight, [pl.col(GROUP)]) for pairs in self.pairs], engine=way)
        keys = main.select(self.keys.names())
        frames = {MAIN: main.drop(_PLACE).with_row_index(GROUP)}
        for pairs, one in zip(self.pairs, found, strict=True):
            frames[pairs.name] = pl.concat([rows_at(keys, one[GROUP].to_numpy()), one], how="horizontal")
        return frames

    def merge(self, frame: pl.LazyFrame, by: Sequence[str] | None = None) -> pl.LazyFrame:
        """One row per group of several partials, which stand in their order of arrival.

        `by` are other columns to group them by, as windows are put together from bins.
        """
        if by:
            return frame.group_by(by).agg(self._merge).select(*by, *self._carry)
        return self._grouped(frame, tuple(pl.col(name) for name in self.keys), self._merge, self._carry, WEIGHT)

    def combine(self, old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        """The new state of the accumulators, row by row, from the state's and the batch's.

        Both have exactly the columns of `accumulators`; a row of nulls stands for a group not seen.
        """
        before = old.rename({name: name + OLD for name in old.columns})
        both = pl.concat([before, new], how="horizontal")
        combined = both.select_seq(self._combine) if few(both.height) else both.select(self._combine)
        return combined if not self._stacked else combined.with_columns(self._merged_stack(old, new))

    def _merged_stack(self, old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        """What can only be merged as rows of a group: the state's above the batch's."""
        both = pl.concat([old.with_row_index(_PLACE), new.with_row_index(_PLACE)]).filter(pl.col(ROWS).is_not_null())
        merged = both.group_by(_PLACE, maintain_order=True).agg(self._stacked)
        places = pl.DataFrame({_PLACE: pl.int_range(new.height, dtype=pl.UInt32, eager=True)})
        return (
            matching.join_numbers(places.lazy(), merged.lazy(), _PLACE, how="left", maintain_order="left")
            .drop(_PLACE)
            .collect(engine=engine(new.height))
        )

    def final(self, frame: pl.DataFrame, by: Sequence[str] | None = None) -> pl.DataFrame:
        """The output rows of keys and accumulators, in their order; a row of nulls is a group of no rows.

        `by` are the columns that stand for the keys, where `merge` was given other ones. Where `flagged`, the column
        `TOO_LARGE` says of a sum or product that it passes the type it is given out as, and the row is not to be shown.
        """
        if not frame.height and by is None:
            return flagged(self.output, self.flagged).to_frame()
        # Polars 2.1 panics in `format` over some frames whose chunks are empty.
        frame = frame.rechunk()
        keys = [pl.col(name) for name in (self.keys if by is None else by)]
        shown = [*keys, *self._outputs]
        values = [*keys, pl.col(ROWS), *self._values]
        if self.flagged:
            values.append(
                pl.coalesce(pl.when(over).then(pl.lit(why)) for why, over in self._guards.items()).alias(TOO_LARGE)
            )
            shown.append(pl.col(TOO_LARGE))
        if few(frame.height):
            return frame.select_seq(values).select_seq(shown)
        return frame.lazy().select(values).select(shown).collect()

    def final_of_nothing(self) -> pl.DataFrame:
        """The one row that aggregates without keys give of no rows; no row where there are keys."""
        return self.final(self.accumulators.to_frame().clear(0 if self.keys else 1))

    def _grouped(
        self,
        frame: pl.LazyFrame,
        by: Sequence[pl.Expr],
        aggs: Sequence[pl.Expr],
        after: Sequence[pl.Expr],
        weight: str | None,
    ) -> pl.LazyFrame:
        if self.weighted and weight != WEIGHT:
            frame = frame.with_columns((pl.lit(1, pl.Int64) if weight is None else pl.col(weight)).alias(WEIGHT))
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
    taker = Taker(schema, grouped=bool(keys), weighted=weighted)
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


def _paired(by: Sequence[pl.Expr], keys: pl.Schema, taker: Taker) -> Iterator[Pairs]:
    """The pairs that the counts of distinct values need: one table for all counts of the same values."""
    counts: dict[Node, list[tuple[str, Operand]]] = {}
    for accumulator, number in taker.accumulators.items():
        if isinstance(accumulator, Distinct):
            operand = accumulator.operand
            counts.setdefault(operand.node, []).append((column_name(number, "distinct"), operand))
    for every in counts.values():
        for some in (every[at : at + _CONDITIONS] for at in range(0, len(every), _CONDITIONS)):
            operand = some[0][1]
            yield Pairs(
                keys=pl.Schema({**keys, VALUE: operand.dtype}),
                columns=tuple(name for name, _ in some),
                weighted=taker.weighted,
                _by=tuple(by),
                _value=canonical(operand.value, operand.dtype).alias(VALUE),
                _wheres=tuple(None if one.where is None else build(one.where) for _, one in some),
            )


def _assembled(
    by: Sequence[tuple[str, pl.Expr]], keys: pl.Schema, trees: Sequence[tuple[str, Node]], taker: Taker
) -> Decomposition:
    """Put the parts together: number the accumulators, and try the result on a group of nothing."""
    held = [(accumulator, columns_of(number)) for accumulator, number in taker.accumulators.items()]
    weight = WEIGHT if taker.weighted else None
    rows = pl.len() if weight is None else pl.col(weight).sum()
    by_expr = tuple(canonical(expr, keys[name]).alias(name) for name, expr in by)
    pairs = tuple(_paired(by_expr, keys, taker))
    kept: dict[str, pl.DataType] = {ROWS: pl.Int64()}
    for accumulator, number in taker.accumulators.items():
        kept.update({column_name(number, role): dtype for role, dtype in accumulator.columns.items()})
    readable = {ROWS: "rows"}
    for accumulator, number in taker.accumulators.items():
        readable.update({column_name(number, role): accumulator.described(role) for role in accumulator.columns})

    def every(step: Callable[[Accumulator, Columns], Mapping[str, pl.Expr]], first: pl.Expr) -> tuple[pl.Expr, ...]:
        return (
            first.alias(ROWS),
            *(
                expr.alias(column_name(number, role))
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
        ordered=any(isinstance(accumulator, Collected | Custom | Edge) for accumulator in taker.accumulators),
        _by=by_expr,
        _gather=every(lambda one, at: one.gather(weight), rows.cast(pl.Int64)),
        _settle=every(lambda one, at: one.settle(at), pl.col(ROWS)),
        _merge=every(lambda one, at: one.merge(at), pl.col(ROWS).sum()),
        _carry=every(lambda one, at: one.carry(at), pl.col(ROWS)),
        _combine=every(
            lambda one, at: one.combine(lambda role: at(role + OLD), at),
            pl.col(ROWS + OLD).fill_null(0) + pl.col(ROWS).fill_null(0),
        ),
        _stacked=tuple(
            expr.alias(column_name(number, role))
            for accumulator, number in taker.accumulators.items()
            if isinstance(accumulator, Custom)
            for role, expr in accumulator.merge(columns_of(number)).items()
        ),
        _values=tuple(expr.alias(leaf) for leaf, expr in taker.values.items()),
        _outputs=tuple(build(tree).alias(name) for name, tree in trees),
        _guards=taker.guards,
        readable=readable,
    )
    try:
        # A group of nothing, so that functions are really called.
        output = plan.final(pl.Schema({**keys, **kept}).to_frame().clear(1)).drop(TOO_LARGE, strict=False).schema
    except PANIC as error:
        raise plan_error(error, keys, "the results of agg") from None
    return replace(plan, output=output)
