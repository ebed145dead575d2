"""A sum that is too large for its type: the group is set aside, and all others go on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from apart import source
from hypothesis import given, settings
from hypothesis import strategies as st

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.frame import StreamFrame

MOST = 2**63 - 1
DAY = dt.datetime(2026, 3, 2)


def ledger(rows: list[tuple[str, int]], second: int = 0) -> pl.DataFrame:
    """Amounts by account, all at the same second."""
    at = DAY + dt.timedelta(seconds=second)
    return pl.DataFrame([(k, at, v) for k, v in rows], schema=SCHEMA, orient="row")


SCHEMA: Any = {"k": pl.String, "at": pl.Datetime("us"), "v": pl.Int64}
GROUPS: dict[str, Callable[[StreamFrame], StreamFrame]] = {
    "running": lambda frame: frame.group_by("k").agg(pl.col("v").sum()),
    "recomputed": lambda frame: frame.group_by("k").agg(pl.col("v").sum(), m=pl.col("v").median()).select("k", "v"),
    "over": lambda frame: frame.select("k", v=pl.col("v").sum().over("k")),
}


@pytest.mark.parametrize("way", GROUPS)
def test_one_poison_group_is_not_the_end(way: str) -> None:
    """An account overflows in the second batch and comes back in the third; the other is right all the time."""
    ctx = ars.StreamingContext(batch_interval="10s")
    rows = ctx.read.memory(SCHEMA, name="rows")
    GROUPS[way](rows).write.memory("out")
    seen = []
    with ctx:
        ctx.start()
        for batch in ([("a", MOST), ("b", 1)], [("a", 5), ("b", 2)], [("a", -7), ("b", 3)]):
            rows.source.send(ledger(batch))
            ctx.process_all_available(timeout=30)
            seen.append(sorted(set(ctx.sql("SELECT k, v FROM out").pl().rows())))
        letters = ctx.dead_letters.pl()
    assert seen == [[("a", MOST), ("b", 1)], [("b", 3)], [("a", MOST - 2), ("b", 6)]]
    assert set(letters["reason"]) == {
        'too large: col("v").sum() passes 64 bits; take .cast(pl.Float64) of its column first'
    }
    assert {raw.decode() for raw in letters["raw"]} == {'{"k":"a"}'}
    assert ctx.progress.reports[1].fates == {"too large": letters.height}


def test_what_is_made_of_the_groups_sees_the_same() -> None:
    """Accounts are counted: while one cannot be shown it is not there, and it is counted again when it comes back."""
    ctx = ars.StreamingContext(batch_interval="10s")
    rows = ctx.read.memory(SCHEMA, name="rows")
    totals = rows.group_by("k").agg(pl.col("v").sum())
    totals.agg(accounts=pl.len(), most=pl.col("v").max()).write.memory("out")
    seen = []
    with ctx:
        ctx.start()
        for batch in ([("a", MOST), ("b", 1)], [("a", 5)], [("a", -7)]):
            rows.source.send(ledger(batch))
            ctx.process_all_available(timeout=30)
            seen += ctx.sql("SELECT * FROM out").pl().rows()
    assert seen == [(2, MOST), (1, 1), (2, MOST - 2)]


WINDOWS: dict[str, Callable[[StreamFrame, list[pl.Expr]], StreamFrame]] = {
    "window": lambda frame, aggs: frame.group_by_dynamic("at", every="1m", group_by="k").agg(aggs),
    "session": lambda frame, aggs: frame.group_by_session("at", gap="1m", group_by="k").agg(aggs),
    "rolling": lambda frame, aggs: frame.rolling("at", period="1m", group_by="k").agg(aggs),
}


@pytest.mark.parametrize("also", [[], [pl.col("v").median().alias("m")]], ids=["bins", "rows"])
@pytest.mark.parametrize("way", WINDOWS)
def test_a_window_is_judged_when_it_closes(way: str, also: list[pl.Expr]) -> None:
    """On the way the sum was too large, at the end it fits; another window's does not."""
    frame = source(schema=pl.Schema(SCHEMA)).with_watermark("at", "0s")
    plan = WINDOWS[way](frame, [pl.col("v").sum(), *also])
    pieces = [ledger([("a", MOST), ("b", MOST)]), ledger([("a", 5), ("b", 5)]), ledger([("a", -7)])]
    letters: list[Any] = []
    found = run_pieces(plan._node, [{"rows": piece} for piece in pieces], letters=letters)
    shown = set(found.select("k", "v").rows())
    assert shown == {("a", MOST - 2)}
    assert {reason for table in letters for reason in table["reason"].to_pylist()} == {
        'too large: col("v").sum() passes 64 bits; take .cast(pl.Float64) of its column first'
    }


BIG = 9 * 10**37
KINDS: dict[str, tuple[pl.DataType, list[Any], str]] = {
    "Int64": (pl.Int64(), [MOST, 5, -7], "cast(pl.Float64)"),
    "UInt64": (pl.UInt64(), [2**64 - 1, 2, 3], "cast(pl.Float64)"),
    "Decimal": (pl.Decimal(38, 0), [Decimal(BIG), Decimal(BIG), Decimal(-BIG)], "cast(pl.Float64)"),
    "small Decimal": (pl.Decimal(20, 2), [Decimal("1.25"), Decimal("-2.75"), Decimal("900.05")], "cast(pl.Float64)"),
    "Duration": (pl.Duration("us"), [MOST, 5, -7], "dt.total_seconds()"),
}


@pytest.mark.parametrize("beside", [[], [pl.len().alias("n"), pl.col("v").count().alias("c")]], ids=["alone", "beside"])
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_may_leave_their_type_and_come_back(kind: str, recomputed: bool, beside: list[pl.Expr]) -> None:
    """However the rows are cut, what fits at the end is the exact sum; what does not is set aside with a cure."""
    dtype, values, cure = KINDS[kind]
    rows = pl.DataFrame({"v": pl.Series(values, dtype=dtype)})
    also = [pl.col("v").sort().first().alias("low")] if recomputed else []
    plan = source(schema=rows.schema).agg(pl.col("v").sum(), *beside, *also)
    digits = [int(value) for value in rows["v"].to_physical()]
    for count in (1, 2, 3):
        for size in (1, 3):
            letters: list[Any] = []
            pieces = [{"rows": rows[at : min(at + size, count)]} for at in range(0, count, size)]
            found = run_pieces(plan._node, pieces, letters=letters)
            total = sum(digits[:count])
            low, high = {
                "UInt64": (0, 2**64 - 1), "Decimal": (1 - 10**38, 10**38 - 1),
            }.get(kind.split()[-1], (-(2**63), MOST))  # fmt: skip
            if low <= total <= high:
                assert [int(value) for value in found["v"].to_physical()] == [total]
            else:
                assert found.is_empty()
                assert cure in letters[-1]["reason"][-1].as_py()
                (cured,) = ([eval(f"pl.col('v').{cure}")],)  # the cure is one that Polars takes
                assert rows.select(cured).height == rows.height


@pytest.mark.parametrize("beside", [[], [pl.col("v").median().alias("m")]], ids=["running", "recomputed"])
def test_sums_of_128_bits_too(beside: list[pl.Expr]) -> None:
    """Whole numbers of 128 bits, on the way to smaller ones: Arrow does not know them."""
    rows = pl.DataFrame({"v": [MOST, MOST, -MOST]})
    total = ((pl.col("v").cast(pl.Int128) * 2**64).sum() // 2**64).cast(pl.Int64)
    plan = source(schema=rows.schema).agg(*beside, total=total, n=pl.len())
    letters: list[Any] = []
    found = run_pieces(plan._node, [{"rows": rows[at : at + 1]} for at in range(3)], letters=letters)
    assert found.select("total", "n").rows() == [(MOST, 3)]
    assert [table["reason"].to_pylist() for table in letters if "128 bits" in table["reason"][0].as_py()]


wide = st.integers(-(10**38) + 1, 10**38 - 1)


@given(values=st.lists(wide | st.sampled_from([BIG, -BIG, 0, 1, -1]), max_size=12), cuts=st.sets(st.integers(0, 12)))
@settings(max_examples=60)
def test_decimal_sums_are_exact_at_their_edges(values: list[int], cuts: set[int]) -> None:
    """Sums around 38 digits, cut anywhere: shown where they fit, and not where they do not."""
    rows = pl.DataFrame({"v": pl.Series([Decimal(value) for value in values], dtype=pl.Decimal(38, 0))})
    plan = source(schema=rows.schema).agg(pl.col("v").sum(), n=pl.len())
    edges = [0, *sorted(cut for cut in cuts if cut < len(values)), len(values)]
    found = run_pieces(plan._node, [{"rows": rows[a:b]} for a, b in pairwise(edges)])
    total = sum(values)
    assert found["v"].to_list() == ([Decimal(total)] if abs(total) < 10**38 else [])
