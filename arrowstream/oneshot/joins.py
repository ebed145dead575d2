"""Joins by pairs: all pairs of rows whose keys are equal, those of them for which the conditions hold, and then the
rows that are in none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import polars as pl

from arrowstream.oneshot.once import Once, unused
from arrowstream.plan.joins import AsofJoin, Join
from arrowstream.plan.tables import TableJoin


def joined(node: Join, left: pl.LazyFrame, right: pl.LazyFrame, once: Once) -> pl.LazyFrame:
    """Two streams, joined."""
    one, two = node.left.schema, node.right.schema
    keys = (node.left_on, node.right_on)
    pairs = _Pairs(one, two, keys, node.suffix, node.nulls_equal, node.where)
    return pairs.joined(left, right, node.how, node.coalesce, once)


def joined_with_table(node: TableJoin, rows: pl.LazyFrame, once: Once) -> pl.LazyFrame:
    """A stream, joined with what its table holds now."""
    table, options = node.table.read(), dict(node.options)
    keys = ((), ()) if node.how == "cross" else (node.left_on, node.right_on)
    nulls_equal = options.get("nulls_equal", False)
    pairs = _Pairs(node.input.schema, table.schema, keys, options["suffix"], nulls_equal)
    how = "inner" if node.how == "cross" else node.how
    return pairs.joined(rows, table.lazy(), how, options.get("coalesce"), once)


class _Pairs:
    """Pairs of rows of two sides; columns of the right whose names the left has carry `suffix`."""

    def __init__(
        self,
        left: pl.Schema,
        right: pl.Schema,
        keys: tuple[Sequence[str], Sequence[str]],
        suffix: str,
        nulls_equal: bool,
        where: Sequence[pl.Expr] = (),
    ) -> None:
        self._left, self._right, self._keys = left, right, keys
        self._suffix, self._nulls_equal, self._where = suffix, nulls_equal, where
        self._names = {name: name + suffix if name in left else name for name in right}
        taken = (left, self._names.values())
        self._row = unused("row", *taken)
        self._other_row = unused("row", *taken, (self._row,))

    def joined(
        self, left: pl.LazyFrame, right: pl.LazyFrame, how: str, coalesce: bool | None, once: Once
    ) -> pl.LazyFrame:
        """The join itself, with the columns that `LazyFrame.join` gives."""
        lefts, rights = left, right.rename(self._names)
        if how == "inner":
            return self._pairs(lefts, rights).select(self._columns(how, coalesce))
        # Rows that are numbered must be in hand: a query that is run again may give them in another order.
        lefts = once.rows(lefts).with_row_index(self._row).lazy()
        rights = once.rows(rights).with_row_index(self._other_row).lazy()
        pairs = once.rows(self._pairs(lefts, rights)).lazy()
        if how in ("semi", "anti"):
            return lefts.join(pairs, on=self._row, how=how, maintain_order="left").select(self._left.names())  # type: ignore[arg-type]
        found = [pairs]
        if how != "right":
            found.append(lefts.join(pairs, on=self._row, how="anti", maintain_order="left"))
        if how != "left":
            found.append(rights.join(pairs, on=self._other_row, how="anti", maintain_order="left"))
        return pl.concat(found, how="diagonal").select(self._columns(how, coalesce))

    def _pairs(self, lefts: pl.LazyFrame, rights: pl.LazyFrame) -> pl.LazyFrame:
        if not self._keys[0]:
            pairs = lefts.join(rights, how="cross", maintain_order="left_right")
        else:
            columns = [name for pair in zip(*self._keys, strict=True) for name in pair]
            taken = (self._left, self._names.values(), (self._row, self._other_row), columns)
            one: list[pl.Expr] = []
            two: list[pl.Expr] = []
            for mine, other in zip(*self._keys, strict=True):
                floats = self._left[mine].is_float() or self._right[other].is_float()
                one += _comparable(pl.col(mine), self._left[mine], floats=floats)
                two += _comparable(pl.col(self._names[other]), self._right[other], floats=floats)
            names = [unused(f"key{number}", *taken) for number in range(len(one))]
            pairs = lefts.with_columns(expr.alias(name) for name, expr in zip(names, one, strict=True)).join(
                rights.with_columns(expr.alias(name) for name, expr in zip(names, two, strict=True)),
                on=names,
                nulls_equal=self._nulls_equal,
                maintain_order="left_right",
            )
            pairs = pairs.drop(names)
        return pairs.filter(*self._where) if self._where else pairs

    def _columns(self, how: str, coalesce: bool | None) -> list[pl.Expr]:
        """The columns of the result. Keys of both sides are one column where `coalesce` says so, which left out means:
        but for a full join."""
        if not self._keys[0] or coalesce is False or (coalesce is None and how == "full"):
            return [pl.col(*self._left), *(pl.col(name) for name in self._names.values())]
        pairs = dict(zip(*self._keys, strict=True))
        if how == "right":
            kept = [name for name in self._left if name not in pairs]
            shown = {name: name + self._suffix if name in kept else name for name in self._right}
            return [*map(pl.col, kept), *(pl.col(self._names[name]).alias(shown[name]) for name in self._right)]
        rest = [pl.col(self._names[name]) for name in self._right if name not in pairs.values()]
        if how != "full":
            return [*map(pl.col, self._left), *rest]
        filled = [
            pl.coalesce(name, self._names[pairs[name]]).alias(name) if name in pairs else pl.col(name)
            for name in self._left
        ]
        return [*filled, *rest]


def _comparable(key: pl.Expr, dtype: pl.DataType, *, floats: bool) -> list[pl.Expr]:
    """A key as columns that are equal where the keys are. Of two NaN Polars does not say so when a side has one row, so
    a float is its value, with both zeros as one, and whether it is NaN."""
    if not floats:
        return [key]
    if not dtype.is_float():
        return [key, pl.when(key.is_not_null()).then(False)]
    return [key.fill_nan(0) + 0.0, key.is_nan()]


def joined_as_of(node: AsofJoin, left: pl.LazyFrame, right: pl.LazyFrame, once: Once) -> pl.LazyFrame:
    """Each row of the left with that of the right that is nearest in time."""
    one, two = once.rows(left), once.rows(right)
    taken = (one.columns, two.columns)
    group = unused("group", *taken)
    if node.by_left:
        numbers = _numbers(one.select(node.by_left), two.select(node.by_right))
        one, two = (side.with_columns(each.alias(group)) for side, each in zip((one, two), numbers, strict=True))
        two = two.drop(name for name in node.by_right)
    tolerance: Any = node.tolerance
    if tolerance is not None and node.left.schema[node.left_on].is_temporal():
        tolerance = timedelta(microseconds=tolerance)
    found = one.sort(node.left_on, maintain_order=True).join_asof(
        two.sort(node.right_on, maintain_order=True),
        left_on=node.left_on,
        right_on=node.right_on,
        by=group if node.by_left else None,
        strategy=node.strategy,
        tolerance=tolerance,
        suffix=node.suffix,
        allow_exact_matches=node.exact,
        coalesce=node.coalesce,
        check_sortedness=False,
    )
    return found.lazy().select(node.schema.names())


def _numbers(left: pl.DataFrame, right: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Keys of two sides as numbers, the same for equal ones; null where one of the key's columns is."""
    both = pl.concat([left, right.rename(dict(zip(right.columns, left.columns, strict=True)))])
    row = unused("row", both.columns)
    found = both.with_row_index(row).select(
        pl.when(pl.all_horizontal(pl.col(both.columns).is_not_null())).then(pl.col(row).first().over(both.columns))
    )[row]
    return found.head(left.height), found.tail(right.height)
