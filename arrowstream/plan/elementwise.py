"""Which Polars operations answer row by row, and why the others do not.

`ELEMENTWISE` is an allow-list: a name that is not in it is refused, so that a new Polars cannot slip in a
function whose answer depends on the batch. Each name in it is tested by cutting (tests/plan/test_rowlocal.py):
evaluated on random cuts it must give what it gives in one shot.
"""

from __future__ import annotations

from dataclasses import dataclass


def _family(prefix: str, names: str) -> frozenset[str]:
    return frozenset(f"{prefix}.{name}" for name in names.split())


_ARRAY = """Concat Contains CountMatches Dot Get Join Length ToList ToStruct ArgMax ArgMin Max Mean Median Min Shift
    Sort Std Sum Var"""

_LIST = """ArgMax ArgMin Concat Contains CountMatches Diff DropNulls Gather GatherEvery Get Join Length Max Mean
    Median Min SetOperation Shift Slice Sort Std Sum ToArray ToStruct Var"""

_STRING = """ConcatHorizontal Contains ContainsAny CountMatches EndsWith EscapeRegex Extract ExtractAll ExtractGroups
    ExtractMany Find FindMany Format Head HexDecode HexEncode JsonDecode JsonPathMatch LenBytes LenChars
    Lowercase Normalize PadEnd PadStart Replace ReplaceMany Reverse Slice Split SplitExact SplitN StartsWith
    StripChars StripCharsEnd StripCharsStart StripPrefix StripSuffix Strptime Tail Titlecase ToDecimal ToInteger
    Uppercase ZFill"""

_TEMPORAL = """BaseUtcOffset CastTimeUnit Century Combine ConvertTimeZone DSTOffset Date DatetimeFunction Day
    DaysInMonth Duration Hour IsLeapYear IsoYear Microsecond Millennium Millisecond Minute Month MonthEnd MonthStart
    Nanosecond OffsetBy OrdinalDay Quarter Replace ReplaceTimeZone Round Second Time TimeStamp ToString TotalDays
    TotalHours TotalMicroseconds TotalMilliseconds TotalMinutes TotalNanoseconds TotalSeconds Truncate Week WeekDay
    Year"""

_PLAIN = """Abs AsStruct Atan2 Bin Ceil Clip Coalesce Erf Erfc Exp FillNull Floor Hash Log Log1p MaxHorizontal
    MeanHorizontal MinHorizontal Negate Reinterpret RepeatBy Replace ReplaceStrict Round RoundSF Sign SumHorizontal
    ToPhysical Truncate"""

ELEMENTWISE: frozenset[str] = frozenset().union(
    {"Alias", "Cast", "KeepName", "RenameAlias", "StructEval", "Ternary", "Field"},
    _family(
        "BinaryExpr",
        """And Eq EqValidity FloorDivide Gt GtEq Lt LtEq Minus Modulus Multiply NotEq NotEqValidity Or Plus
        TrueDivide TruncDivide Xor""",
    ),
    # The body works within the list of one row; rowlocal looks at what it may hold.
    _family("Eval", "Array ArrayAgg List ListAgg"),
    _family("Function", _PLAIN),
    _family("Function.ArrayExpr", _ARRAY),
    _family(
        "Function.BinaryExpr", "Contains EndsWith Get Head HexDecode HexEncode Reinterpret Size Slice StartsWith Tail"
    ),
    _family("Function.Bitwise", "CountOnes CountZeros LeadingOnes LeadingZeros TrailingOnes TrailingZeros"),
    _family(
        "Function.Boolean",
        """AllHorizontal AnyHorizontal IsBetween IsClose IsFinite IsIn IsInfinite IsNan IsNotNan IsNotNull IsNull
        Not""",
    ),
    _family("Function.Business", "AddBusinessDay BusinessDayCount IsBusinessDay"),
    _family("Function.Categorical", "EndsWith LenBytes LenChars Physical Slice StartsWith"),
    _family("Function.ListExpr", _LIST),
    _family("Function.Pow", "Cbrt Generic Sqrt"),
    _family("Function.Range", "DateRanges DatetimeRanges IntRanges LinearSpaces TimeRanges"),
    _family("Function.StringExpr", _STRING),
    _family("Function.StructExpr", "Drop FieldByName JsonEncode MapFieldNames PrefixFields RenameFields SuffixFields"),
    _family("Function.TemporalExpr", _TEMPORAL),
    _family(
        "Function.Trigonometry",
        "ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTanh Cos Cosh Cot Degrees Radians Sin Sinh Tan Tanh",
    ),
)

LENGTH_CHANGING: frozenset[str] = frozenset({"Explode", "Filter", "Function.DropNulls", "Function.DropNans"})
"""Row-local, but they give more or fewer rows: allowed only as the sole output of a select."""

WHOLE_INPUT: dict[str, tuple[int, ...]] = {
    "Function.Boolean.IsIn": (1,),
    "Function.Business.AddBusinessDay": (2,),
    "Function.Business.BusinessDayCount": (2,),
    "Function.Business.IsBusinessDay": (1,),
    "Function.ListExpr.Gather": (1,),
    "Function.Replace": (1, 2),
    "Function.ReplaceStrict": (1, 2),
    "Function.StringExpr.ContainsAny": (1,),
    "Function.StringExpr.ExtractMany": (1,),
    "Function.StringExpr.FindMany": (1,),
    "Function.StringExpr.ReplaceMany": (1, 2),
}
"""Inputs that are read as one set of values: a column there would be read whole, so a constant is asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an operation is not row-local, and the call that does it on a stream."""

    why: str
    cure: str


BY_SQL = "an output, asked by SQL: ctx.sql('SELECT *, lag(x) OVER (ORDER BY t) FROM rows ORDER BY t LIMIT 10')"
"""The cure for what looks at rows in their order: outputs can be ordered and ranked, streams cannot yet."""

_AGGREGATE = Refusal(
    "is an aggregate of all rows of the batch", "group_by(...).agg(...), or frame.agg(...) for one row"
)
_NEIGHBOURS = Refusal("looks at neighbouring rows, which may be in another batch", BY_SQL)
_RANKED = Refusal("orders all rows of the batch", BY_SQL)
_DISTINCT = Refusal("compares a row with all others of the batch", "group_by(...).agg(pl.len())")
_POSITION = Refusal("depends on the position of a row in its batch", BY_SQL)
_RANDOM = Refusal(
    "is random, so a batch that runs again would answer differently", "a hash of a column: pl.col(...).hash()"
)
_OVER = Refusal("looks at all rows of a partition", "group_by(...).agg(...)")
_CALLBACK = Refusal("is Python that Polars does not call row by row", "frame.map_batches(...), where you vouch for it")

_REFUSED: dict[Refusal, str] = {
    _AGGREGATE: """Len Product NullCount Quantile ApproxQuantile ApproxNUnique ArgMax ArgMin MinBy MaxBy Skew Kurtosis
        Entropy Correlation Mode Hist UniqueCounts ValueCounts IndexOf SearchSorted LowerBound UpperBound
        Boolean.Any Boolean.All Boolean.HasNulls Boolean.IsEmpty Boolean.IsSorted Bitwise.And Bitwise.Or Bitwise.Xor
        StringExpr.ConcatVertical""",
    _NEIGHBOURS: """Rolling RollingExpr RollingExprBy Shift Diff PctChange CumSum CumProd CumMin CumMax CumCount EwmMean
        EwmMeanBy EwmStd EwmVar EwmSum EwmSumBy Interpolate InterpolateBy FillNullWithStrategy RLE RLEID PeakMin PeakMax
        Eval.Cumulative""",
    _RANKED: "Sort SortBy Rank TopK TopKBy ArgSort BinQuantiles BinRanks QCut",
    _DISTINCT: """Unique ArgUnique Boolean.IsUnique Boolean.IsDuplicated Boolean.IsFirstDistinct
        Boolean.IsLastDistinct""",
    _POSITION: """Slice Gather GatherEvery Reverse ExtendConstant Append Reshape Repeat Range.IntRange Range.DateRange
        Range.DatetimeRange Range.TimeRange Range.LinearSpace ArgWhere SetSortedFlag""",
    _RANDOM: "Random",
    _OVER: "Over",
    _CALLBACK: "AnonymousFunction FoldHorizontal ReduceHorizontal CumFoldHorizontal CumReduceHorizontal",
}
_BY_NAME = {name: refusal for refusal, names in _REFUSED.items() for name in names.split()}
_UNKNOWN = Refusal(
    "is not on the list of operations known to work row by row", "frame.map_batches(...), where you vouch for it"
)


def refusal(op: str) -> Refusal:
    """Why `op` is refused; for a name that nobody has looked at, that it is unknown."""
    if op.startswith("Agg."):
        return _AGGREGATE
    name = op.removeprefix("Function.")
    return _BY_NAME.get(name) or _BY_NAME.get(name.split(".")[0], _UNKNOWN)
