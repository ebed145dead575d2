"""What a running aggregate keeps for each group: columns that are gathered, merged and combined.

An accumulator answers in Polars expressions, for all groups at once:

- `gather` makes its columns from the rows of each group, inside an `agg`; `settle` then works on what
  `gather` gave, one row per group;
- `merge` brings several rows of a group together, in order of arrival, inside an `agg`, and `carry` works on
  what `merge` gave;
- `combine` adds new columns to old ones, row by row. A null is a group that was not seen.

All that crosses processes and lies in state has a type that Arrow knows, so 128-bit sums are two columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from arrowstream.names import inner
from arrowstream.plan.expressions import Column, Node, build, describe

ROWS = inner("rows")
"""The accumulator that every group has: how many rows it holds."""

OLD = inner("old")
"""What the names of the state's columns end in while `combine` runs."""

WORD = 2**32
LIMB = 2**44

INTO: Final[Mapping[type[pl.DataType], tuple[int, int]]] = {
    pl.Int64: (-(2**63), 2**63 - 1),
    pl.UInt64: (0, 2**64 - 1),
    pl.Int128: (-(2**127), 2**127 - 1),
    pl.Decimal: (1 - 10**38, 10**38 - 1),
}
"""The least and the greatest value of the types of sums; of decimals, of their digits as a whole number."""

Expressions = dict[str, pl.Expr]
Columns = Callable[[str], pl.Expr]


@dataclass(frozen=True, slots=True)
class Operand:
    """What is aggregated: a row-local tree and its type.

    `sparse` says that the tree leaves rows out, so that a group may have none. `where` is given where rows
    carry a weight: then the rows that count are those where it is true, and `node` leaves out none.
    """

    node: Node
    dtype: pl.DataType
    sparse: bool = False
    where: Node | None = None

    @property
    def value(self) -> pl.Expr:
        """The expression of the rows that are aggregated."""
        return build(self.node)


class Accumulator(ABC):
    """The columns of one aggregate, by role; equal ones are kept once."""

    __slots__ = ()

    operand: Operand

    @property
    @abstractmethod
    def columns(self) -> dict[str, pl.DataType]:
        """The type of each column."""

    @property
    def word(self) -> str:
        """The aggregate that it is kept for, as people call it."""
        return type(self).__name__.removeprefix("Whole").removeprefix("Float").removeprefix("Wide").lower()

    def described(self, role: str) -> str:
        """What a column holds: `sum(price)`, or one part of it, `sum(price).high`."""
        node = self.operand.node
        of = node.name if isinstance(node, Column) else describe(node, 40)
        return f"{self.word}({of})" + (f".{role}" if len(self.columns) > 1 else "")

    @abstractmethod
    def gather(self, weight: str | None) -> Expressions:
        """Each column from the rows of a group; `weight` names their weight, where they have one."""

    def settle(self, column: Columns) -> Expressions:
        """Each column from what `gather` gave."""
        return {role: column(role) for role in self.columns}

    @abstractmethod
    def merge(self, column: Columns) -> Expressions:
        """Each column from the group's rows of several parts."""

    def carry(self, column: Columns) -> Expressions:
        """Each column from what `merge` gave."""
        return {role: column(role) for role in self.columns}

    @abstractmethod
    def combine(self, old: Columns, new: Columns) -> Expressions:
        """Each column from the state's and the batch's, of which either may be null."""

    def overflows(self, column: Columns) -> pl.Expr | None:
        """Where a sum no longer fits the type that it is given out as; None if that cannot be."""
        return None


@dataclass(frozen=True, slots=True)
class Count(Accumulator):
    """How many rows, or how many whose value is of a kind: `rows`, `values`, `nulls`, `true` or `false`."""

    operand: Operand
    kind: str

    @property
    def word(self) -> str:
        return {"rows": "len", "values": "count", "nulls": "null_count"}.get(self.kind, f"count_{self.kind}")

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {self.kind: pl.Int64()}

    def gather(self, weight: str | None) -> Expressions:
        value = self.operand.value
        if weight is None:
            count = {
                "rows": value.len,
                "values": value.count,
                "nulls": value.null_count,
                "true": value.sum,
                "false": (~value).sum if self.operand.dtype == pl.Boolean else value.len,
            }[self.kind]()
            return {self.kind: count.cast(pl.Int64)}
        chosen = {
            "rows": pl.lit(True),
            "values": value.is_not_null(),
            "nulls": value.is_null(),
            "true": value,
            "false": ~value if self.operand.dtype == pl.Boolean else value,
        }[self.kind]
        if self.operand.where is not None:
            chosen = chosen & build(self.operand.where)
        return {self.kind: pl.when(chosen).then(pl.col(weight)).otherwise(0).sum().cast(pl.Int64)}

    def merge(self, column: Columns) -> Expressions:
        return {self.kind: column(self.kind).sum()}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        return {self.kind: _added(old, new, self.kind)}


@dataclass(frozen=True, slots=True)
class Distinct(Accumulator):
    """How many distinct values; the operator adds to it, from the pairs that it keeps beside."""

    operand: Operand

    @property
    def word(self) -> str:
        return "n_unique"

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"distinct": pl.Int64()}

    def gather(self, weight: str | None) -> Expressions:
        return {}

    def settle(self, column: Columns) -> Expressions:
        return {"distinct": pl.lit(0, pl.Int64)}

    def merge(self, column: Columns) -> Expressions:
        return {"distinct": column("distinct").sum()}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        return {"distinct": _added(old, new, "distinct")}


@dataclass(frozen=True, slots=True)
class WholeSum(Accumulator):
    """The exact sum of whole numbers: `high * 2**32 + low`, with `low` from 0 to 2**32 - 1.

    Both are Int64, which Arrow and NumPy know and Int128 is not; sums up to 2**95 are exact, so they may leave
    the output's range and come back. Dates, times and durations are summed as the numbers they are.
    """

    operand: Operand

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"high": pl.Int64(), "low": pl.Int64()}

    def gather(self, weight: str | None) -> Expressions:
        value = self.operand.value.to_physical() if self.operand.dtype.is_temporal() else self.operand.value
        # A batch's sum of values up to 32 bits cannot pass 64.
        narrow = self.operand.dtype in (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32, pl.Date)
        if weight is None:
            return {"high": value.sum().cast(pl.Int128) if narrow else value.cast(pl.Int128).sum()}
        weighted = value.cast(pl.Int128) * pl.col(weight)
        if self.operand.where is not None:
            weighted = pl.when(build(self.operand.where)).then(weighted)
        return {"high": weighted.sum()}

    def settle(self, column: Columns) -> Expressions:
        total = column("high")
        high = total // WORD
        return {"high": high.cast(pl.Int64), "low": (total - high * WORD).cast(pl.Int64)}

    def merge(self, column: Columns) -> Expressions:
        return {"high": column("high").sum(), "low": column("low").sum()}

    def carry(self, column: Columns) -> Expressions:
        return _carried(column("high"), column("low"))

    def combine(self, old: Columns, new: Columns) -> Expressions:
        return _carried(_added(old, new, "high"), _added(old, new, "low"))

    def total(self, column: Columns, dtype: pl.DataType) -> pl.Expr:
        """The sum as `dtype`, which is Int64, UInt64 or Int128; nothing is a sum of 0. Modulo its size, where it
        `overflows`."""
        high, low = column("high").fill_null(0), column("low").fill_null(0)
        return high.cast(dtype, wrap_numerical=True) * pl.lit(WORD, dtype) + low.cast(dtype)

    def overflows(self, column: Columns) -> pl.Expr | None:
        high = column("high")
        if self.operand.dtype == pl.UInt64:
            return (high < 0) | (high >= WORD)
        return (high < -WORD // 2) | (high >= WORD // 2)


@dataclass(frozen=True, slots=True)
class FloatSum(Accumulator):
    """A sum of floats with what rounding lost beside it (Neumaier, ZAMM 54, 1974); both are Float64.

    A sum that is infinite or NaN stays so, as in Polars; what was lost no longer counts then.
    """

    operand: Operand

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"sum": pl.Float64(), "lost": pl.Float64()}

    def gather(self, weight: str | None) -> Expressions:
        return {"sum": self.operand.value.cast(pl.Float64).sum()}

    def settle(self, column: Columns) -> Expressions:
        return {"sum": column("sum"), "lost": pl.lit(0.0)}

    def merge(self, column: Columns) -> Expressions:
        return {"sum": column("sum").sum(), "lost": column("lost").sum()}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        a, b = old("sum").fill_null(0.0), new("sum").fill_null(0.0)
        total = a + b
        lost = pl.when(a.abs() >= b.abs()).then((a - total) + b).otherwise((b - total) + a)
        kept = _added(old, new, "lost") + lost
        return {"sum": total, "lost": pl.when(total.is_finite()).then(kept).otherwise(0.0)}

    def total(self, column: Columns) -> pl.Expr:
        """The sum, Float64; nothing is a sum of 0."""
        return column("sum").fill_null(0.0) + column("lost").fill_null(0.0)


@dataclass(frozen=True, slots=True)
class WideSum(Accumulator):
    """The exact sum of decimals (of their digits) or of numbers of 128 bits: `top * 2**88 + middle * 2**44 + low`.

    All three are Int64, and the lower two from 0 to 2**44 - 1. So the sum may leave the 38 digits or the 128 bits in
    which it is given out, by a factor of 2**23, and come back.
    """

    operand: Operand

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"top": pl.Int64(), "middle": pl.Int64(), "low": pl.Int64()}

    def gather(self, weight: str | None) -> Expressions:
        value = self.operand.value.to_physical().cast(pl.Int128)
        if weight is not None:
            value = value * pl.col(weight)
            if self.operand.where is not None:
                value = pl.when(build(self.operand.where)).then(value)
        # So many digits that a batch's sum fits into 128 bits are added at once.
        if isinstance(self.operand.dtype, pl.Decimal) and self.operand.dtype.precision <= 28:
            return {"top": value.sum()}
        return {role: part.sum() for role, part in _limbs(value).items()}

    def settle(self, column: Columns) -> Expressions:
        if isinstance(self.operand.dtype, pl.Decimal) and self.operand.dtype.precision <= 28:
            parts = _limbs(column("top"))
        else:
            parts = _settled(column("top"), column("middle"), column("low"))
        return {role: part.cast(pl.Int64) for role, part in parts.items()}

    def merge(self, column: Columns) -> Expressions:
        return {role: column(role).sum() for role in self.columns}

    def carry(self, column: Columns) -> Expressions:
        return _settled(column("top"), column("middle"), column("low"))

    def combine(self, old: Columns, new: Columns) -> Expressions:
        return _settled(_added(old, new, "top"), _added(old, new, "middle"), _added(old, new, "low"))

    def total(self, column: Columns) -> pl.Expr:
        """The sum, a Decimal of 38 digits or Int128; nothing is a sum of 0. Where it `overflows`, it is something."""
        top, middle, low = (column(role).fill_null(0).cast(pl.Int128) for role in self.columns)
        word = pl.lit(LIMB, pl.Int128)
        total = (top * word + middle) * word + low
        if not isinstance(self.operand.dtype, pl.Decimal):
            return total
        least, most = (pl.lit(bound, pl.Int128) for bound in INTO[pl.Decimal])
        return total.clip(least, most).reinterpret(dtype=pl.Decimal(38, self.operand.dtype.scale))

    def as_float(self, column: Columns) -> pl.Expr:
        """The sum as Float64."""
        top, middle, low = (column(role).cast(pl.Float64) for role in self.columns)
        scale = self.operand.dtype.scale if isinstance(self.operand.dtype, pl.Decimal) else 0
        return ((top * float(LIMB) + middle) * float(LIMB) + low) / 10.0**scale

    def overflows(self, column: Columns) -> pl.Expr | None:
        least, most = INTO[pl.Decimal if isinstance(self.operand.dtype, pl.Decimal) else pl.Int128]
        top, middle, low = (column(role) for role in self.columns)

        def beyond(bound: int, past: Callable[[pl.Expr, int], pl.Expr]) -> pl.Expr:
            at = (bound // LIMB**2, bound // LIMB % LIMB, bound % LIMB)
            return past(top, at[0]) | ((top == at[0]) & (past(middle, at[1]) | ((middle == at[1]) & past(low, at[2]))))

        return beyond(most, lambda value, bound: value > bound) | beyond(least, lambda value, bound: value < bound)


@dataclass(frozen=True, slots=True)
class Moments(Accumulator):
    """Count, mean and sum of squared distances from it, merged as by Chan, Golub and LeVeque (1979).

    Sums of squares would lose the variance of large values that differ little.
    """

    operand: Operand

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"n": pl.Int64(), "mean": pl.Float64(), "squares": pl.Float64()}

    def gather(self, weight: str | None) -> Expressions:
        value = self.operand.value.cast(pl.Float64)
        return {"n": value.count().cast(pl.Int64), "mean": value.mean(), "squares": value.var(ddof=0)}

    def settle(self, column: Columns) -> Expressions:
        squares = (column("squares") * column("n")).fill_null(0.0)
        return {"n": column("n"), "mean": column("mean").fill_null(0.0), "squares": squares}

    def merge(self, column: Columns) -> Expressions:
        n, mean = column("n"), column("mean")
        # An infinite mean of one part must not become NaN by a part of no values.
        middle = pl.when(n.sum() > 0).then((n * mean).sum() / n.sum()).otherwise(0.0)
        distances = pl.when(n > 0).then(n * (mean - middle) ** 2).otherwise(0.0)
        return {"n": n.sum(), "mean": middle, "squares": (column("squares") + distances).sum()}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        a, b = old("n").fill_null(0), new("n").fill_null(0)
        n = a + b
        apart = new("mean") - old("mean")
        mean = old("mean") + apart * b / n
        squares = old("squares") + new("squares") + apart**2 * a * b / n

        def chosen(role: str, both: pl.Expr) -> pl.Expr:
            return pl.when(a == 0).then(new(role)).when(b == 0).then(old(role)).otherwise(both)

        return {"n": n, "mean": chosen("mean", mean), "squares": chosen("squares", squares)}


@dataclass(frozen=True, slots=True)
class Extreme(Accumulator):
    """The least or greatest value; NaN only where there is nothing else, or at once where `nans` is set."""

    operand: Operand
    greatest: bool
    nans: bool = False

    @property
    def word(self) -> str:
        return "max" if self.greatest else "min"

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"value": self.operand.dtype}

    def gather(self, weight: str | None) -> Expressions:
        return {"value": self._of(self.operand.value)}

    def merge(self, column: Columns) -> Expressions:
        return {"value": self._of(column("value"))}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        a, b = old("value"), new("value")
        # The horizontal ones take the other where one is null or NaN, as min and max do.
        value = pl.max_horizontal(a, b) if self.greatest else pl.min_horizontal(a, b)
        if self.nans:
            value = pl.when(a.is_nan()).then(a).when(b.is_nan()).then(b).otherwise(value)
        return {"value": value}

    def _of(self, values: pl.Expr) -> pl.Expr:
        if self.nans:
            return values.nan_max() if self.greatest else values.nan_min()
        return values.max() if self.greatest else values.min()


@dataclass(frozen=True, slots=True)
class Edge(Accumulator):
    """The first or last value in order of arrival, a null counted as a value unless `skip_nulls`.

    Where the operand leaves rows out, `seen` says whether a group had any: a null may be the first value.
    """

    operand: Operand
    last: bool
    skip_nulls: bool

    @property
    def word(self) -> str:
        return "last" if self.last else "first"

    @property
    def columns(self) -> dict[str, pl.DataType]:
        seen = {"seen": pl.Boolean()} if self.operand.sparse and not self.skip_nulls else {}
        return {"value": self.operand.dtype, **seen}

    def gather(self, weight: str | None) -> Expressions:
        value = self.operand.value
        found = {"value": self._of(value)}
        return {**found, "seen": value.len() > 0} if "seen" in self.columns else found

    def merge(self, column: Columns) -> Expressions:
        if "seen" in self.columns:
            return {"value": self._of(column("value").filter(column("seen"))), "seen": column("seen").any()}
        return {"value": self._of(column("value"))}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        first, second = (new, old) if self.last else (old, new)
        if self.skip_nulls:
            return {"value": pl.coalesce(first("value"), second("value"))}
        if "seen" in self.columns:
            seen = first("seen").fill_null(False)
            value = pl.when(seen).then(first("value")).otherwise(second("value"))
            return {"value": value, "seen": seen | second("seen").fill_null(False)}
        # Without `seen`, every row counts, and a side that has rows has a value.
        there = pl.col(ROWS if self.last else ROWS + OLD).is_not_null()
        return {"value": pl.when(there).then(first("value")).otherwise(second("value"))}

    def _of(self, values: pl.Expr) -> pl.Expr:
        return values.last(ignore_nulls=self.skip_nulls) if self.last else values.first(ignore_nulls=self.skip_nulls)


@dataclass(frozen=True, slots=True)
class Collected(Accumulator):
    """All values, as a list in order of arrival."""

    operand: Operand

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {"values": pl.List(self.operand.dtype)}

    def gather(self, weight: str | None) -> Expressions:
        return {"values": self.operand.value.implode()}

    def merge(self, column: Columns) -> Expressions:
        return {"values": column("values").explode(empty_as_null=False, keep_nulls=False).implode()}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        a, b = old("values"), new("values")
        return {"values": pl.when(a.is_null()).then(b).when(b.is_null()).then(a).otherwise(a.list.concat(b))}


@dataclass(frozen=True, slots=True)
class Product(Accumulator):
    """The product; of whole numbers also as a float, which shows where 64 bits did not suffice."""

    operand: Operand

    @property
    def columns(self) -> dict[str, pl.DataType]:
        if self.operand.dtype.is_float():
            return {"size": pl.Float64()}
        exact = pl.UInt64() if self.operand.dtype == pl.UInt64 else pl.Int64()
        return {"size": pl.Float64(), "exact": exact}

    def gather(self, weight: str | None) -> Expressions:
        value = self.operand.value
        return {
            role: value.cast(pl.Int8 if self.operand.dtype == pl.Boolean else self.operand.dtype).cast(dtype).product()
            for role, dtype in self.columns.items()
        }

    def merge(self, column: Columns) -> Expressions:
        return {role: column(role).product() for role in self.columns}

    def combine(self, old: Columns, new: Columns) -> Expressions:
        return {role: old(role).fill_null(1) * new(role).fill_null(1) for role in self.columns}

    def overflows(self, column: Columns) -> pl.Expr | None:
        if "exact" not in self.columns:
            return None
        limit = 2.0**64 if self.operand.dtype == pl.UInt64 else 2.0**63
        # NaN is an infinite product times zero; comparisons hold NaN to be the greatest.
        return column("size").abs() >= limit


def _added(old: Columns, new: Columns, role: str) -> pl.Expr:
    return old(role).fill_null(0) + new(role).fill_null(0)


def _limbs(value: pl.Expr) -> Expressions:
    """Whole numbers of 128 bits in parts of 44: the lower two are not negative."""
    mask, word = pl.lit(LIMB - 1, pl.Int128), pl.lit(LIMB, pl.Int128)
    return {"top": value // (word * word), "middle": value // word & mask, "low": value & mask}


def _settled(top: pl.Expr, middle: pl.Expr, low: pl.Expr) -> Expressions:
    """The same sum with the lower two parts between 0 and 2**44 - 1."""
    middle = middle + low // LIMB
    return {"top": top + middle // LIMB, "middle": middle & (LIMB - 1), "low": low & (LIMB - 1)}


def _carried(high: pl.Expr, low: pl.Expr) -> Expressions:
    return {"high": high + low // WORD, "low": low & (WORD - 1)}
