"""Comparisons that Polars plans and cannot run are refused at the line."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from apart import source

from arrowstream.errors import PlanError
from arrowstream.frame import StreamFrame

SCHEMA = pl.Schema(
    {
        "t": pl.Datetime("us"),
        "tokyo": pl.Datetime("us", "Asia/Tokyo"),
        "utc": pl.Datetime("us", "Etc/UTC"),
        "n": pl.Int64(),
        "e": pl.Enum(["x", "y"]),
        "k": pl.String(),
    }
)
BAD = pl.col("tokyo") <= pl.col("utc")

CALLS: dict[str, Callable[[StreamFrame, StreamFrame, pl.Expr], object]] = {
    "filter": lambda plain, timed, e: plain.filter(e),
    "with_columns": lambda plain, timed, e: plain.with_columns(z=e),
    "group_by": lambda plain, timed, e: plain.group_by(z=e).agg(pl.len()),
    "agg": lambda plain, timed, e: plain.group_by("k").agg(pl.col("n").filter(e).sum()),
    "agg of a median": lambda plain, timed, e: plain.group_by("k").agg(pl.col("n").filter(e).median()),
    "any": lambda plain, timed, e: plain.agg(e.any()),
    "over": lambda plain, timed, e: plain.with_columns(z=pl.col("n").filter(e).sum().over("k")),
    "top_k": lambda plain, timed, e: plain.top_k(1, by=e),
    "windows": lambda plain, timed, e: timed.group_by_dynamic("t", every="1s").agg(pl.col("n").filter(e).sum()),
    "sessions": lambda plain, timed, e: timed.group_by_session("t", gap="1s").agg(pl.col("n").filter(e).sum()),
    "rolling": lambda plain, timed, e: timed.rolling("t", period="1s").agg(pl.col("n").filter(e).sum()),
    "join": lambda plain, timed, e: plain.join(plain, left_on=e, right_on=e),
}


@pytest.mark.parametrize("call", CALLS)
def test_times_of_two_zones_are_refused_wherever_they_are_compared(call: str) -> None:
    plain = source(schema=SCHEMA)
    timed = plain.with_watermark("t", "1s")
    with pytest.raises(PlanError, match=r"compare|comparison"):
        CALLS[call](plain, timed, BAD)
    for good in (
        pl.col("tokyo").dt.convert_time_zone("Etc/UTC") <= pl.col("utc"),
        pl.col("e") == "x",
        pl.col("n") > 2.5,
        pl.col("k") == pl.col("e"),
        pl.col("n").eq_missing(None),
    ):
        CALLS[call](plain, timed, good)
