"""Expressions over the rows of a group: which are a function of these rows, and the form in which each is computed.

An aggregate must give the same alone and beside others, taken apart or computed anew from the rows, whatever else is in
the batch. So every expression of `agg`, of windows, of `over` is first brought to one form:

- what counts or numbers rows is Int64, where Polars gives UInt32, which wraps below zero and above 2**32;
- sums of whole numbers are made in 128 bits, and `too_large` tells where one does not fit the type that it is given in;
  means of whole numbers and times are made of these sums;
- what has no order of its own (`unique`, `mode`, `value_counts`) gets one.

`GROUPWISE` has a word for every operation of Polars that is not row-local; what is not in it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

import polars as pl

from arrowstream.errors import ColumnError, PlanError
from arrowstream.names import inner
from arrowstream.plan.accumulators import INTO
from arrowstream.plan.comparable import check_comparisons
from arrowstream.plan.elementwise import ELEMENTWISE, LENGTH_CHANGING
from arrowstream.plan.expressions import PANIC, Call, Node, build, describe, parse, resolve, unaliased, walk

TOO_LARGE: Final = inner("too_large")
"""Column of results: why the row has to be set aside; null for one that can be given out."""


class Answer(StrEnum):
    """What the answer of an operation over a group's rows depends on."""

    ROWS = "the rows, in whatever order they came"
    ARRIVAL = "the rows and their order of arrival"
    REFUSED = "more than the rows of the group"


_WORDS: Final[Mapping[Answer, str]] = {
    Answer.ROWS: """Agg.Count Agg.Max Agg.Mean Agg.Median Agg.Min Agg.NUnique Agg.NullCount Agg.Quantile Agg.Std Agg.Sum
        Agg.Var Len Product NullCount Quantile ApproxQuantile ApproxNUnique Skew Kurtosis Entropy Correlation Hist
        Boolean.Any Boolean.All Boolean.HasNulls Boolean.IsEmpty Bitwise.And Bitwise.Or Bitwise.Xor Sort TopK
        BinQuantiles QCut Boolean.IsUnique Boolean.IsDuplicated Mode ValueCounts Range.IntRange Range.DateRange
        Range.DatetimeRange Range.TimeRange Range.LinearSpace Repeat Cut""",
    Answer.ARRIVAL: """Agg.First Agg.FirstNonNull Agg.Last Agg.LastNonNull Agg.Implode Agg.Item Agg.Groups Agg.AggGroups
        ArgMax ArgMin MinBy MaxBy UniqueCounts IndexOf SearchSorted LowerBound UpperBound Boolean.IsSorted
        StringExpr.ConcatVertical Shift Diff PctChange CumSum CumProd CumMin CumMax CumCount EwmMean EwmMeanBy EwmStd
        EwmVar EwmSum EwmSumBy Interpolate InterpolateBy FillNullWithStrategy RLE RLEID PeakMin PeakMax Eval.Cumulative
        Rolling RollingExpr RollingExprBy SortBy Rank TopKBy ArgSort BinRanks Unique ArgUnique Boolean.IsFirstDistinct
        Boolean.IsLastDistinct Slice Gather GatherEvery Reverse ExtendConstant Append Reshape ArgWhere Over
        AnonymousFunction AnonymousAgg FfiPlugin FoldHorizontal ReduceHorizontal CumFoldHorizontal CumReduceHorizontal
        Explode ArrayExpr.Explode""",
    Answer.REFUSED: "Random ListExpr.Sample SetSortedFlag",
}

GROUPWISE: Final[Mapping[str, Answer]] = {name: answer for answer, names in _WORDS.items() for name in names.split()}
"""Each operation of Polars that is not row-local, by what it depends on over the rows of a group."""

_WHY: Final[Mapping[str, tuple[str, str]]] = {
    "Random": ("is random, so each computation would give another answer", "a hash of a column: pl.col(...).hash()"),
    "ListExpr.Sample": ("is random, so each computation would give another answer", "list.head(...)"),
    "SetSortedFlag": ("is a promise that the next batch may break", "the expression without set_sorted()"),
    "Rank": ("is random among equals, so each computation would give another answer", "method='ordinal', or 'min'"),
    "StringExpr.Strptime": (
        "infers the format from the first value of the batch, which may be another group's",
        'format="%Y-%m-%d" or the like',
    ),
    "ToPhysical": ("shows the codes of a Categorical, which follow the order of arrival", "cast(pl.Enum([...])) first"),
    "Categorical.Physical": (
        "shows the codes of a Categorical, which follow the order of arrival",
        "cast(pl.Enum([...])) first",
    ),
}

# They give Polars' index type.
_COUNTS: Final = frozenset(
    [
        "Len",
        "Agg.Count",
        "Agg.NUnique",
        "Agg.NullCount",
        "Function.NullCount",
        "Function.ApproxNUnique",
        "Function.ArgMax",
        "Function.ArgMin",
        "Function.ArgUnique",
        "Function.ArgSort",
        "Function.ArgWhere",
        "Function.CumCount",
        "Function.Rank",
        "Function.RLEID",
        "Function.IndexOf",
        "Function.SearchSorted",
        "Function.LowerBound",
        "Function.UpperBound",
        "Function.UniqueCounts",
    ]
)
# The field of their structs that counts.
_COUNT_FIELDS: Final = {"Function.RLE": 0, "Function.ValueCounts": -1, "Function.Hist": -1}
_SMALL: Final = (pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32)
_WORD: Final = 2**62


def groupwise(call: str, outputs: Sequence[tuple[str, pl.Expr]], schema: pl.Schema) -> list[tuple[str, pl.Expr]]:
    """The outputs of an `agg` or `over` in the form in which they are computed.

    Raises `PlanError` for what is no function of a group's rows, and for an aggregate of a type that it does not take.
    """
    return [(name, _groupwise(call, expr, schema)) for name, expr in outputs]


def _groupwise(call: str, expr: pl.Expr, schema: pl.Schema) -> pl.Expr:
    tree = parse(expr)
    for node in walk(tree):
        if isinstance(node, Call):
            _check(call, node, schema)
    check_comparisons(call, tree, schema)
    stable = _stable(tree, schema)
    return expr if stable == tree else build(stable)


def flagged(schema: pl.Schema, there: bool = True) -> pl.Schema:
    """These columns, and, if it is `there`, the one that says which rows are to be set aside."""
    return pl.Schema({**schema, TOO_LARGE: pl.String()}) if there else schema


def in_order_of_arrival(expr: pl.Expr) -> bool:
    """Whether the answer depends on the order in which the rows of a group came."""
    return any(
        isinstance(node, Call) and GROUPWISE.get(_name(node)) is Answer.ARRIVAL and not _at_rest(node)
        for node in walk(parse(expr))
    )


def counted(expr: pl.Expr) -> pl.Expr:
    """The expression with its counts as Int64, where no schema is known to tell more."""
    tree = parse(expr)
    always = ("Len", "Agg.Count", "Agg.NUnique", "Agg.NullCount", "Function.NullCount")
    made = _mapped(tree, lambda node: _cast(node, pl.Int64()) if node.op in always else node)
    return expr if made == tree else build(made)


def too_large(outputs: Sequence[tuple[str, pl.Expr]], schema: pl.Schema) -> pl.Expr | None:
    """In words, why the results of a group cannot be given out: a sum or product in them that passes its type. Null
    where all fit; no expression at all where that cannot be. `outputs` are as the user gave them."""
    found: dict[str, pl.Expr] = {}
    for _, expr in outputs:
        for guard, words in _guards(parse(expr), schema):
            found.setdefault(words, build(guard))
    if not found:
        return None
    return pl.coalesce(pl.when(guard).then(pl.lit(words)) for words, guard in found.items())


def passes(node: Node, dtype: pl.DataType) -> str:
    """What is said where the result of this aggregate passes its type."""
    bits = {pl.Decimal: "38 digits", pl.Int128: "128 bits"}.get(type(dtype), "64 bits")
    cure = {pl.Duration: "dt.total_seconds()", pl.Decimal: "cast(pl.Float64)", pl.Int128: "cast(pl.Float64)"}
    return f"{describe(node)} passes {bits}; take .{cure.get(type(dtype), 'cast(pl.Float64)')} of its column first"


def _name(node: Call) -> str:
    name = node.op.removeprefix("Function.")
    return name if name in GROUPWISE or name.split(".")[0] not in GROUPWISE else name.split(".")[0]


def _at_rest(node: Call) -> bool:
    """Whether an operation that goes by the order of rows does not here: `sort` makes its own."""
    return any(isinstance(each, Call) and each.op == "Sort" for each in node.inputs[:1])


def _check(call: str, node: Call, schema: pl.Schema) -> None:
    name = _name(node)
    detail = node.detail
    refused = (
        GROUPWISE.get(name) is Answer.REFUSED
        or (name == "Rank" and detail["function"]["Rank"]["options"]["method"] == "Random")
        or (name == "StringExpr.Strptime" and detail["function"]["StringExpr"]["Strptime"][1]["format"] is None)
        or (
            name in ("ToPhysical", "Categorical.Physical")
            and isinstance(_dtype(node.inputs[0], schema), pl.Categorical)
        )
    )
    if refused:
        why, cure = _WHY[name]
        raise PlanError(f"{call}: {describe(node)} {why}; use {cure}")
    if name not in GROUPWISE and node.op not in ELEMENTWISE | LENGTH_CHANGING:
        raise PlanError(
            f"{call}: {describe(node)} is not on the list of operations known to depend on a group's rows alone; "
            "use map_groups(...), where you vouch for it"
        )
    if name in _TYPED:
        _try(call, node, tuple(_dtype(each, schema) for each in node.inputs))


# What is tried with values of the types that it is given: Polars accepts some when it plans, and fails when it runs.
_TYPED: Final = frozenset(
    [
        "Agg.Max",
        "Agg.Mean",
        "Agg.Median",
        "Agg.Min",
        "Agg.NUnique",
        "Agg.Quantile",
        "Agg.Std",
        "Agg.Sum",
        "Agg.Var",
        "Product",
        "Skew",
        "Kurtosis",
        "Entropy",
        "Correlation",
        "Boolean.Any",
        "Boolean.All",
        "Bitwise.And",
        "Bitwise.Or",
        "Bitwise.Xor",
        "StringExpr.ConcatVertical",
        "ArgMax",
        "ArgMin",
        "ApproxNUnique",
        "CumSum",
        "CumProd",
        "CumMin",
        "CumMax",
        "Mode",
        "Sort",
    ]
)


def _try(call: str, node: Call, types: tuple[pl.DataType, ...]) -> None:
    columns = tuple(parse(pl.col(f"column_{at}")) for at in range(len(types)))
    problem = _problem(replace(node, inputs=columns), types)
    if problem is not None:
        found = ", ".join(map(str, types[:1]))
        raise PlanError(f"{call}: {describe(node)} is of {found}, which Polars refuses: {problem}")


@lru_cache(maxsize=1000)
def _problem(node: Call, types: tuple[pl.DataType, ...]) -> str | None:
    """What Polars says of the call on two rows of these types."""
    made = [_sample(dtype) for dtype in types]
    if any(one is None for one in made):
        return None
    rows = pl.DataFrame([one.alias(f"column_{at}") for at, one in enumerate(made) if one is not None])
    try:
        rows.group_by(pl.lit(0)).agg(build(node).alias("tried"))
        rows.select(build(node).alias("tried"))
    except PANIC as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None


def _sample(dtype: pl.DataType) -> pl.Series | None:
    """Two values of a type; None for types of which there are none to be had."""
    match dtype:
        case pl.Struct(fields=fields):
            parts = [(field.name, _sample(field.dtype)) for field in fields]  # type: ignore[arg-type]
            if not parts or any(one is None for _, one in parts):
                return None
            return pl.DataFrame([one.alias(name) for name, one in parts if one is not None]).to_struct("s").cast(dtype)
        case pl.List(inner=inner) | pl.Array(inner=inner):
            one = _sample(inner)  # type: ignore[arg-type]
            if one is None or (isinstance(dtype, pl.Array) and (dtype.size == 0 or len(dtype.shape) > 1)):
                return None
            times = dtype.size if isinstance(dtype, pl.Array) else 1
            lists = pl.concat([one.head(1)] * times).implode()
            return pl.concat([lists, lists]).cast(dtype)
        case pl.String() | pl.Binary() | pl.Categorical():
            return pl.Series(["a", "b"]).cast(dtype)
        case pl.Enum(categories=categories):
            return pl.Series([categories[0]] * 2, dtype=dtype) if len(categories) else None
        case pl.Boolean():
            return pl.Series([True, False])
        case _ if dtype.is_numeric() or dtype.is_temporal():
            return pl.Series([1, 1], dtype=pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)
    return None


def _mapped(node: Node, change: Callable[[Call], Node]) -> Node:
    """The tree with each call changed, innermost first; inner scopes are left as they are."""
    if not isinstance(node, Call):
        return node
    inputs = tuple(_mapped(child, change) for child in node.inputs)
    return change(node if inputs == node.inputs else replace(node, inputs=inputs))


def _stable(tree: Node, schema: pl.Schema) -> Node:
    return _mapped(tree, lambda node: _one_form(node, schema))


def _one_form(node: Call, schema: pl.Schema) -> Node:
    match node.op:
        case "Function.Unique":
            return parse(build(node.inputs[0]).unique(maintain_order=True))
        case "Function.Mode":
            return parse(build(node.inputs[0]).mode(maintain_order=True))
        case "Agg.Sum":
            return _wide_sum(node, schema)
        case "Agg.Mean":
            return _exact_mean(node, schema)
        case "Function.CumSum" if isinstance(dtype := _dtype(node.inputs[0], schema), _SMALL):
            return node if dtype == pl.Int64 else replace(node, inputs=(_cast(node.inputs[0], pl.Int64()),))
        case op if op in _COUNTS:
            return _cast(node, pl.Int64()) if _dtype(node, schema) == pl.UInt32 else node
        case op if op in _COUNT_FIELDS:
            if op == "Function.ValueCounts":  # without sort=True the order is another one each time
                options = node.detail["function"]["ValueCounts"]
                values = build(node.inputs[0])
                node = parse(values.value_counts(sort=True, name=options["name"], normalize=options["normalize"]))  # type: ignore[assignment]
            return _with_long_count(node, _dtype(node, schema), _COUNT_FIELDS[op])
    return node


def _with_long_count(node: Node, dtype: pl.DataType, at: int) -> Node:
    if not isinstance(dtype, pl.Struct) or dtype.fields[at].dtype != pl.UInt32:
        return node
    fields = list(dtype.fields)
    fields[at] = pl.Field(fields[at].name, pl.Int64)
    return _cast(node, pl.Struct(fields))


def _wide_sum(node: Call, schema: pl.Schema) -> Node:
    """The sum in the type that it is given in, modulo its size: `too_large` says where that is not the sum."""
    of = node.inputs[0]
    dtype = _dtype(of, schema)
    match dtype:
        case pl.Boolean():
            return _cast(node, pl.Int64())
        case pl.Int32() | pl.UInt32():
            return replace(node, inputs=(_cast(of, pl.Int64()),))
        case pl.Int8() | pl.Int16() | pl.UInt8() | pl.UInt16():
            return _cast(node, pl.Int64())
        case pl.Int64() | pl.UInt64() if not _is_wide(of):
            total = build(replace(node, inputs=(_cast(of, pl.Int128()),)))
            return parse(total.cast(dtype, wrap_numerical=True))
        case pl.Duration():
            total = build(of).to_physical().cast(pl.Int128).sum()
            return parse(total.cast(pl.Int64, wrap_numerical=True).cast(dtype))
        case pl.Decimal(scale=scale):
            low, high = INTO[pl.Decimal]
            total = build(of).to_physical().sum().clip(pl.lit(low, pl.Int128), pl.lit(high, pl.Int128))
            return parse(total.reinterpret(dtype=pl.Decimal(38, scale)))
    return node


def _exact_mean(node: Call, schema: pl.Schema) -> Node:
    """The mean of whole numbers and of times from their exact sum; Polars adds up floats."""
    dtype = _dtype(node.inputs[0], schema)
    values = build(node.inputs[0])
    count = values.count().cast(pl.Int64)
    if dtype.is_integer() and not isinstance(dtype, pl.Int128 | pl.UInt128):
        return parse(pl.when(count > 0).then(values.cast(pl.Int128).sum().cast(pl.Float64) / count))
    if dtype.is_temporal():
        total = values.to_physical().cast(pl.Int128).sum()
        if isinstance(dtype, pl.Date):
            total, dtype = total * 86_400_000_000, pl.Datetime("us")
        # Towards zero, as Polars cuts off the fraction.
        return parse(pl.when(count > 0).then(total.truncdiv(count)).cast(pl.Int64).cast(dtype))
    return node


def _is_wide(node: Node) -> bool:
    """Whether values are of at most 32 bits, which 64 hold the sum of."""
    return isinstance(node, Call) and node.op == "Cast" and node.detail.get("dtype") == {"Literal": "Int64"}


def _guards(node: Node, schema: pl.Schema) -> Iterator[tuple[Node, str]]:
    """Where sums and products of whole numbers in a tree pass the type that they are given in, and the words for it."""
    if not isinstance(node, Call):
        return
    if node.op.startswith("Over"):
        for guard, words in _guards(node.inputs[0], schema):
            yield replace(node, inputs=(guard, *node.inputs[1:])), words
        return
    if node.op == "Agg.Sum":
        dtype = _dtype(node.inputs[0], schema)
        values = build(_stable(node.inputs[0], schema))
        if isinstance(dtype, pl.Decimal | pl.Duration):
            yield parse(_outside(values.to_physical().cast(pl.Int128), dtype)), passes(node, dtype)
        elif isinstance(dtype, pl.Int64 | pl.UInt64 | pl.Int128):
            yield parse(_outside(values.cast(pl.Int128), dtype)), passes(node, dtype)
    elif node.op == "Function.Product":
        dtype = _dtype(node, schema)
        if isinstance(dtype, pl.Int64 | pl.UInt64 | pl.Int128):
            size = build(_stable(node.inputs[0], schema)).cast(pl.Float64).product().abs()
            yield parse(size >= float(INTO[type(dtype)][1])), passes(node, dtype)
    for child in node.inputs:
        yield from _guards(child, schema)


def _outside(values: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether the sum of these whole numbers is outside of the type: exact, in two parts of 62 bits and more."""
    low, high = INTO[pl.Int64 if isinstance(dtype, pl.Duration) else type(dtype)]
    if high < 2**64:
        total = values.sum()
        return (total < pl.lit(low, pl.Int128)) | (total > pl.lit(high, pl.Int128))
    word = pl.lit(_WORD, pl.Int128)
    above, below = (values // word).sum(), (values % word).sum()
    upper, lower = above + below // word, below % word

    def part(bound: int) -> tuple[pl.Expr, pl.Expr]:
        return pl.lit(bound // _WORD, pl.Int128), pl.lit(bound % _WORD, pl.Int128)

    (most, rest), (least, more) = part(high), part(low)
    return (upper > most) | ((upper == most) & (lower > rest)) | (upper < least) | ((upper == least) & (lower < more))


def _cast(node: Node, dtype: pl.DataType) -> Node:
    return parse(build(unaliased(node)).cast(dtype))


def _dtype(node: Node, schema: pl.Schema) -> pl.DataType:
    try:
        found = resolve(pl.LazyFrame(schema=schema).select(build(node).alias("_")), schema)
    except ColumnError:
        return pl.Unknown()
    (dtype,) = found.values()
    return dtype
