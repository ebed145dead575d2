"""The law over plans that mix everything: windows, joins, ranks, aggregates of each other, in any order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import arrowstream as ars
from arrowstream.check import run_pieces

DAY = dt.datetime(2026, 1, 1)
SCHEMA: Any = {"k": pl.Int64, "t": pl.Datetime("us"), "v": pl.Int64}
"""All steps keep these columns; those of the second kind leave out the time."""


@dataclass(frozen=True)
class Step:
    """One step, on a stream and in one shot: `call(frame, other)`, where `other` is the second source."""

    name: str
    stream: Callable[[Any, Any], Any]
    oracle: Callable[[Any, Any], Any]

    def __repr__(self) -> str:
        return self.name


def same(name: str, call: Callable[[Any, Any], Any]) -> Step:
    return Step(name, call, call)


def near(a: pl.LazyFrame, b: pl.LazyFrame) -> pl.LazyFrame:
    span = pl.duration(seconds=4)
    pairs = a.join(b, on="k").filter(
        (pl.col("t_right") >= pl.col("t") - span) & (pl.col("t_right") <= pl.col("t") + span)
    )
    return paired(pairs)  # type: ignore[no-any-return]


def paired(pairs: Any) -> Any:
    return pairs.select("k", "t", v=pl.col("v") + pl.col("v_right"))


def near_or_none(a: pl.LazyFrame, b: pl.LazyFrame) -> pl.LazyFrame:
    span = pl.duration(seconds=4)
    pairs = a.join(b, on="k").filter(
        (pl.col("t_right") >= pl.col("t") - span) & (pl.col("t_right") <= pl.col("t") + span)
    )
    # Whether a row has a match goes by its key and time.
    alone = a.join(pairs.select("k", "t"), on=["k", "t"], how="anti")
    return pl.concat([paired(pairs), alone.select("k", "t", "v")])  # type: ignore[no-any-return]


def hopping(a: pl.LazyFrame) -> pl.LazyFrame:
    start = pl.col("t").dt.truncate("5s")
    return pl.concat([a.with_columns(t=start), a.with_columns(t=start - pl.duration(seconds=5))])


def sessions(a: pl.LazyFrame) -> pl.LazyFrame:
    begins = (pl.col("t").diff() >= pl.duration(seconds=4)).fill_null(False)
    numbered = a.sort("t").with_columns(session=begins.cast(pl.Int64).cum_sum().over("k"))
    return numbered.group_by("k", "session").agg(pl.col("t").min(), pl.col("v").sum()).drop("session")


def summed(at: Any) -> Any:
    return at.agg(pl.col("v").sum())


def kinds(at: Any) -> Any:
    return at.agg(pl.col("v").n_unique().cast(pl.Int64))


def joined(a: Any, b: Any, how: str) -> Any:
    totals = b.group_by("k").agg(w=pl.col("v").sum())
    both = a.join(totals, on="k", how=how, coalesce=True)
    return both.select("k", v=pl.col("v").fill_null(0) + pl.col("w").fill_null(0))


TABLE = pl.DataFrame({"k": [0, 1, 1], "w": [10, 20, 30]})

TIMED = [
    same("filter", lambda a, b: a.filter(pl.col("v") % 3 != 0)),
    same("derive", lambda a, b: a.with_columns(v=pl.col("v") * 2 - pl.col("k").fill_null(7))),
    same("table", lambda a, b: a.join(TABLE, on="k", how="left") if not isinstance(a, pl.LazyFrame)
         else a.join(TABLE.lazy(), on="k", how="left")),
    Step("within", lambda a, b: paired(a.join(b, on="k", within="4s")), near),
    Step(
        "within, or none",
        lambda a, b: a.join(b, on="k", within="4s", how="left").select(
            "k", "t", v=pl.col("v") + pl.col("v_right").fill_null(0)
        ),
        near_or_none,
    ),
    Step(
        "hop",
        lambda a, b: summed(a.group_by_dynamic("t", every="5s", period="10s", group_by="k")),
        lambda a, b: summed(hopping(a).group_by("k", "t")),
    ),
    Step(
        "hop of sets",
        lambda a, b: kinds(a.group_by_dynamic("t", every="5s", period="10s", group_by="k")),
        lambda a, b: kinds(hopping(a).group_by("k", "t")),
    ),
    Step(
        "best of a time",
        lambda a, b: a.top_k(2, by=["v", "k"], group_by="t"),
        lambda a, b: a.sort("v", "k", descending=True, nulls_last=True).group_by("t", maintain_order=True).head(2),
    ),
    same("over time", lambda a, b: a.with_columns(pl.col("v").max().over("k", "t"))),
    same("unique", lambda a, b: a.unique(["k", "t", "v"])),
    Step(
        "window",
        lambda a, b: summed(a.group_by_dynamic("t", every="10s", group_by="k")),
        lambda a, b: summed(a.group_by("k", pl.col("t").dt.truncate("10s"))),
    ),
    Step(
        "median",
        lambda a, b: a.group_by_dynamic("t", every="5s", group_by="k").agg(pl.col("v").median().cast(pl.Int64)),
        lambda a, b: a.group_by("k", pl.col("t").dt.truncate("5s")).agg(pl.col("v").median().cast(pl.Int64)),
    ),
    same("rolling", lambda a, b: a.rolling("t", period="6s", group_by="k").agg(pl.col("v").max())
         if not isinstance(a, pl.LazyFrame)
         else a.sort("t").rolling("t", period="6s", group_by="k").agg(pl.col("v").max())),
]  # fmt: skip

# How long a session becomes nobody knows, so that no watermark goes on from its start.
SESSION = Step(
    "session", lambda a, b: summed(a.group_by_session("t", gap="4s", group_by="k")), lambda a, b: sessions(a)
)

PLAIN = [
    same("filter", lambda a, b: a.filter(pl.col("v") > 2)),
    same("sum", lambda a, b: a.group_by("k").agg(pl.col("v").sum())),
    same("max", lambda a, b: a.group_by("k").agg(pl.col("v").max())),
    same("median", lambda a, b: a.group_by("k").agg(pl.col("v").median().cast(pl.Int64))),
    same("kinds", lambda a, b: a.group_by("k").agg(pl.col("v").n_unique().cast(pl.Int64))),
    same("by value", lambda a, b: a.group_by("v").agg(k=pl.len().cast(pl.Int64)).select("k", "v")),
    same("over", lambda a, b: a.select("k", v=pl.col("v").sum().over("k"))),
    same("rank", lambda a, b: a.select("k", v=pl.col("v").rank("dense").over("k").cast(pl.Int64))),
    same("unique", lambda a, b: a.unique(["k", "v"])),
    Step(
        "top",
        lambda a, b: a.top_k(2, by=["v", "k"], group_by="k"),
        lambda a, b: a.sort("v", "k", descending=True, nulls_last=True).group_by("k", maintain_order=True).head(2),
    ),
    same("inner", lambda a, b: joined(a, b, "inner")),
    same("left", lambda a, b: joined(a, b, "left")),
    same("full", lambda a, b: joined(a, b, "full")),
    same("semi", lambda a, b: a.join(b.select("k").unique(), on="k", how="semi")),
    same("anti", lambda a, b: a.join(b.select("k").unique(), on="k", how="anti")),
]  # fmt: skip

rows = st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.integers(0, 30), st.integers(0, 9)), max_size=12)


def frame(table: list[tuple[int | None, int, int]]) -> pl.DataFrame:
    made = [(k, DAY + dt.timedelta(seconds=second), v) for k, second, v in table]
    return pl.DataFrame(made, schema=SCHEMA, orient="row")


def cut(left: pl.DataFrame, right: pl.DataFrame, shares: list[tuple[float, float]]) -> list[dict[str, pl.DataFrame]]:
    pieces, at = [], (0, 0)
    for one, two in [*sorted(shares), (1.0, 1.0)]:
        to = (max(at[0], int(one * left.height)), max(at[1], int(two * right.height)))
        pieces.append({"left": left[at[0] : to[0]], "right": right[at[1] : to[1]]})
        at = to
    return pieces


@given(
    timed=st.lists(st.sampled_from(TIMED), max_size=3),
    ending=st.sampled_from([[], [SESSION]]),
    plain=st.lists(st.sampled_from(PLAIN), max_size=4),
    left=rows,
    right=rows,
    shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
)
@settings(max_examples=250)
def test_any_mixture_is_what_one_shot_gives(
    timed: list[Step], ending: list[Step], plain: list[Step], left: Any, right: Any, shares: Any
) -> None:
    ctx = ars.StreamingContext()
    a: Any = ctx.read.memory(SCHEMA, name="left").with_watermark("t", "30s")  # so that no row is late
    b: Any = ctx.read.memory(SCHEMA, name="right").with_watermark("t", "30s")
    one, two = frame(left), frame(right)
    x: Any = one.lazy()
    for step in [*timed, *ending]:
        a, x = step.stream(a, b).select("k", "t", "v"), step.oracle(x, two.lazy()).select("k", "t", "v")
    a, x = a.select("k", "v"), x.select("k", "v")
    for step in plain:
        a, x = step.stream(a, b), step.oracle(x, two.lazy())
        a, x = a.select("k", "v"), x.select("k", "v")
    # A plan over the first source alone has one input.
    pieces = cut(one, two, shares)
    sources = {name for name in ("left", "right") if name in a.explain()}
    found = run_pieces(a._node, [{name: piece[name] for name in sources} for piece in pieces])
    wanted = x.collect().cast(dict(a.schema))
    assert_frame_equal(found, wanted, check_row_order=False)
    assert_frame_equal(
        a.collect({"left": one, "right": two} if len(sources) == 2 else dict.fromkeys(sources, one)),
        wanted,
        check_row_order=False,
    )
