"""Joins: what the stream gives, however it is cut, is what Polars gives in one shot."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.connectors.changes import Append
from arrowstream.errors import PlanError
from arrowstream.frame import StreamFrame
from arrowstream.schedule.batch import Batch
from arrowstream.schedule.logs import MemoryLog
from arrowstream.testing.clock import ManualClock

DAY = dt.datetime(2026, 1, 1)
SCHEMA: Any = {"k": pl.Int64, "t": pl.Datetime("us"), "v": pl.Int64}
HOWS = ["inner", "left", "right", "full", "semi", "anti"]


def frame(rows: list[tuple[int | None, int, int]]) -> pl.DataFrame:
    at = [(k, DAY + dt.timedelta(seconds=second), v) for k, second, v in rows]
    return pl.DataFrame(at, schema=SCHEMA, orient="row")


def streams(delay: str | None = None) -> tuple[StreamFrame, StreamFrame]:
    ctx = ars.StreamingContext()
    left, right = ctx.read.memory(SCHEMA, name="left"), ctx.read.memory(SCHEMA, name="right")
    if delay is None:
        return left, right
    return left.with_watermark("t", delay), right.with_watermark("t", delay)


def pieces(left: pl.DataFrame, right: pl.DataFrame, cuts: list[tuple[float, float]]) -> list[dict[str, pl.DataFrame]]:
    """Both sides cut at shares of their rows."""
    made = []
    at = (0, 0)
    for one, two in [*sorted(cuts), (1.0, 1.0)]:
        to = (max(at[0], int(one * left.height)), max(at[1], int(two * right.height)))
        made.append({"left": left[at[0] : to[0]], "right": right[at[1] : to[1]]})
        at = to
    return made


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert_frame_equal(found, wanted, check_row_order=False)


rows = st.lists(
    st.tuples(st.sampled_from([None, 1, 2, 3]), st.integers(0, 40), st.integers(0, 9)), min_size=0, max_size=14
)
shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4)


@pytest.mark.parametrize("how", HOWS)
@given(left=rows, right=rows, cuts=shares, nulls_equal=st.booleans())
@settings(max_examples=25)
def test_a_join_by_key_is_that_of_polars(how: Any, left: Any, right: Any, cuts: Any, nulls_equal: bool) -> None:
    one, two = streams()
    joined = one.join(two, on="k", how=how, nulls_equal=nulls_equal)
    assert isinstance(joined.kind, Append) == (how in ("inner", "semi"))
    a, b = frame(left), frame(right)
    wanted = a.join(b, on="k", how=how, nulls_equal=nulls_equal)
    assert joined.schema == wanted.schema
    assert_same(run_pieces(joined._node, pieces(a, b, cuts)), wanted)
    assert_same(joined.collect({"left": a, "right": b}), wanted)


def bounded(a: pl.DataFrame, b: pl.DataFrame, how: str, seconds: int) -> pl.DataFrame:
    """A join within a distance in time, by Polars in one shot."""
    one, two = a.with_row_index("one"), b.with_row_index("two")
    span = dt.timedelta(seconds=seconds)
    pairs = one.join(two, on="k", how="inner").filter(
        (pl.col("t_right") >= pl.col("t") - span) & (pl.col("t_right") <= pl.col("t") + span)
    )
    if how in ("semi", "anti"):
        return one.join(pairs, on="one", how=how).drop("one")  # type: ignore[arg-type]
    columns = ["k", "t", "v", "t_right", "v_right"]
    found = [pairs.select(columns)]
    if how == "left":
        alone = one.join(pairs, on="one", how="anti")
        found.append(
            alone.with_columns(
                pl.lit(None, pl.Datetime("us")).alias("t_right"), pl.lit(None, pl.Int64).alias("v_right")
            ).select(columns)
        )
    return pl.concat(found)


def less(rows: pl.DataFrame, letters: list[pa.Table], source: str, by: str = "v") -> pl.DataFrame:
    """The rows that did not come too late; `by` names a row here."""
    late = [
        json.loads(raw)[by]
        for table in letters
        for raw, where in zip(table["raw"].to_pylist(), table["source"].to_pylist(), strict=True)
        if where == source
    ]
    named = (
        pl.Series(late, dtype=pl.String).str.to_datetime(time_unit="us")
        if by == "t"
        else pl.Series(late, dtype=pl.Int64)
    )
    return rows.filter(~pl.col(by).is_in(named.implode()))


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
@given(left=rows, right=rows, cuts=shares, delay=st.sampled_from(["0s", "5s", "60s"]))
@settings(max_examples=25)
def test_a_join_within_a_distance_comes_once_and_final(how: Any, left: Any, right: Any, cuts: Any, delay: str) -> None:
    one, two = streams(delay)
    joined = one.join(two, on="k", how=how, within="5s")
    assert isinstance(joined.kind, Append)
    # Each row has a time of its own: of the right a semi join reads nothing else.
    a, b = (
        frame(side).with_columns(pl.col("t") + pl.duration(microseconds=pl.int_range(pl.len())))
        for side in (left, right)
    )
    letters: list[pa.Table] = []
    found = run_pieces(joined._node, pieces(a, b, cuts), letters=letters)
    a, b = less(a, letters, "left", "t"), less(b, letters, "right", "t")
    assert_same(found, bounded(a, b, how, 5))
    assert_same(joined.collect({"left": a, "right": b}), bounded(a, b, how, 5))


@pytest.mark.parametrize(
    ("dtype", "within", "steps"),
    [
        (pl.Datetime("ns"), "1us", 1000),
        (pl.Datetime("ns", "Europe/Paris"), "3us", 3000),
        (pl.Datetime("us"), "70us", 70),
        (pl.Datetime("ms"), "70ms", 70),
        (pl.Date(), "2d", 2),
        (pl.Int8(), 3, 3),
        (pl.UInt32(), 3, 3),
    ],
)
def test_a_distance_is_as_fine_as_the_column(dtype: pl.DataType, within: Any, steps: int) -> None:
    """Quotes and trades in nanoseconds: within a microsecond means 1000 of them, also before 1970."""
    low, high = (-100, 100) if not dtype.is_unsigned_integer() else (0, 200)
    wide = max(1, steps // 20)
    sides = [sorted(random.Random(seed).sample(range(low * wide, high * wide), 40)) for seed in (1, 2)]
    narrow = pl.Int32 if dtype == pl.Date() else pl.Int64
    data = [pl.DataFrame({"k": 1, "t": pl.Series(side, dtype=pl.Int64).cast(narrow).cast(dtype)}) for side in sides]
    ctx = ars.StreamingContext()
    delay = 0 if dtype.is_integer() else "0s"
    one, two = (ctx.read.memory(data[0].schema, name=name).with_watermark("t", delay) for name in ("left", "right"))
    joined = one.join(two, on="k", within=within).select("t", "t_right")
    wanted = [(a, b) for a in sides[0] for b in sides[1] if abs(a - b) <= steps]
    for count in (1, 9, 40):
        cuts = [(number / count, number / count) for number in range(1, count)]
        found = run_pieces(joined._node, pieces(*data, cuts)).select(pl.all().to_physical().cast(pl.Int64))
        assert sorted(found.rows()) == sorted(wanted)


@pytest.mark.parametrize("how", HOWS)
@given(
    left=rows,
    right=rows,
    cuts=shares,
    read=st.sets(st.sampled_from(["k", "t", "v", "t_right", "v_right", "x"])),
    totals=st.booleans(),
    within=st.booleans(),
)
@settings(max_examples=40)
def test_a_join_of_which_some_columns_are_read(
    how: Any, left: Any, right: Any, cuts: Any, read: set[str], totals: bool, within: bool
) -> None:
    one, two = streams("60s" if within else None)
    if totals and not within:
        one = one.group_by("k", "t").agg(pl.col("v").sum())
    a, b = frame(left), frame(right)
    limit: dict[str, Any] = {"within": "100s"} if within and how not in ("right", "full") else {}
    joined = one.join(two.with_columns(x="v"), on="k", how=how, **limit)
    wanted = (a.group_by("k", "t").agg(pl.col("v").sum()) if totals and not within else a).join(
        b.with_columns(x="v"), on="k", how=how
    )
    columns = [name for name in wanted.columns if name in read]
    picked = joined.select(columns) if columns else joined.agg(pl.len())
    found = run_pieces(picked._node, pieces(a, b, cuts))
    assert_same(found, wanted.select(columns) if columns else wanted.select(pl.len().cast(pl.Int64)))


@given(left=rows, right=rows, cuts=shares)
@settings(max_examples=25)
def test_join_where_with_bounds_on_both_times(left: Any, right: Any, cuts: Any) -> None:
    one, two = streams("3s")
    ends = one.with_columns(end=pl.col("t") + pl.duration(seconds=pl.col("v")))
    joined = ends.join_where(
        two, pl.col("k") == pl.col("k_right"), pl.col("t_right") >= pl.col("t"), pl.col("t_right") <= pl.col("end")
    )
    assert joined._node.time is not None
    assert joined._node.time.column == "t_right"
    a, b = (
        frame([(k, t, n) for n, (k, t, _) in enumerate(left)]),
        frame([(k, t, n) for n, (k, t, _) in enumerate(right)]),
    )
    letters: list[pa.Table] = []
    found = run_pieces(joined._node, pieces(a, b, cuts), letters=letters)
    a, b = less(a, letters, "left"), less(b, letters, "right")
    wanted = (
        a.with_columns(end=pl.col("t") + pl.duration(seconds=pl.col("v")))
        .join_where(
            b, pl.col("k") == pl.col("k_right"), pl.col("t_right") >= pl.col("t"), pl.col("t_right") <= pl.col("end")
        )
        .select(joined.columns)
    )
    assert_same(found, wanted)
    assert_same(joined.collect({"left": a, "right": b}), wanted)


ONE_SIDED: dict[str, tuple[pl.Expr, str]] = {
    # A condition, and the side whose rows it lets go.
    "t >= t_right": (pl.col("t") >= pl.col("t_right"), "left"),
    "t_right < t": (pl.col("t_right") < pl.col("t"), "left"),
    "t_right - 3s <= t": (pl.col("t_right") - pl.duration(seconds=3) <= pl.col("t"), "left"),
    "t_right <= t + v": (pl.col("t_right") <= pl.col("t") + pl.duration(seconds=pl.col("v")), "left"),
    "t <= t_right": (pl.col("t") <= pl.col("t_right"), "right"),
    "t_right > t": (pl.col("t_right") > pl.col("t"), "right"),
    "t + 3s < t_right": (pl.col("t") + pl.duration(seconds=3) < pl.col("t_right"), "right"),
    "t <= t_right + v": (pl.col("t") <= pl.col("t_right") + pl.duration(seconds=pl.col("v_right")), "right"),
}


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
@pytest.mark.parametrize("condition", list(ONE_SIDED))
@given(left=rows, right=rows, cuts=shares, keyed=st.booleans(), delay=st.sampled_from(["0s", "5s"]))
@settings(max_examples=10)
def test_join_where_with_a_bound_of_time_on_one_side(
    condition: str, how: Any, left: Any, right: Any, cuts: Any, keyed: bool, delay: str
) -> None:
    """All that was ordered before a delivery: the deliveries are let go, and the orders stay."""
    one, two = streams(delay)
    asked, side = ONE_SIDED[condition]
    keys = [pl.col("k") == pl.col("k_right")] if keyed else []
    joined = one.join_where(two, *keys, asked, how=how)
    final = how in ("inner", "semi") or side == "left"
    assert isinstance(joined.kind, Append) == final
    kept = f"the rows of the {'right' if side == 'left' else 'left'} side" if final else "the rows of both sides"
    assert f"{kept}, unbounded" in joined.explain()
    a, b = (
        frame([(k, t, n) for n, (k, t, _) in enumerate(side)]).with_columns(
            pl.col("t") + pl.duration(microseconds=pl.int_range(pl.len()))
        )
        for side in (left, right)
    )
    letters: list[pa.Table] = []
    found = run_pieces(joined._node, pieces(a, b, cuts), letters=letters)
    late = {where for table in letters for where in table["source"].to_pylist()}
    assert late <= ({"right"} if side == "left" else {"left"} if final else set())  # who drives out the other
    a, b = less(a, letters, "left", "t"), less(b, letters, "right", "t")
    pairs = a.with_row_index("n").join(b, how="cross").filter(asked, *keys)
    if how in ("semi", "anti"):
        wanted = a.with_row_index("n").join(pairs, on="n", how=how).drop("n")
    else:
        wanted = pairs.drop("n")
        if how == "left":
            alone = a.with_row_index("n").join(pairs, on="n", how="anti").drop("n")
            wanted = pl.concat([wanted, alone], how="diagonal")
    assert_same(found, wanted.select(joined.columns))


def test_rows_of_the_side_with_a_bound_go_and_a_row_that_has_matched_is_not_kept() -> None:
    ctx = ars.StreamingContext(batch_interval="10ms")
    sides = [ctx.read.memory(SCHEMA, name=name) for name in ("left", "right")]
    one, two = (side.with_watermark("t", "0s") for side in sides)
    one.join_where(two, pl.col("k") == pl.col("k_right"), pl.col("t") >= pl.col("t_right")).write.memory("pairs")
    one.join_where(two, pl.col("k") == pl.col("k_right"), pl.col("t") <= pl.col("t_right"), how="semi").write.memory(
        "semi"
    )
    with ctx:
        ctx.start()
        for second in range(0, 100, 5):
            for side in sides:
                side.source.send(frame([(1, second, 0), (2, second, 0)]))
            ctx.process_all_available()
        rows_of = {row["name"]: row["rows"] for row in ctx.state().pl().to_dicts()}
        assert sorted(rows_of.values())[:3] == [0, 2, 2], rows_of
        assert sorted(rows_of.values())[3] == 40, rows_of


@given(
    left=rows,
    right=rows,
    cuts=shares,
    strategy=st.sampled_from(["backward", "forward", "nearest"]),
    exact=st.booleans(),
    keyed=st.booleans(),
    delay=st.sampled_from(["0s", "5s", "60s"]),
)
@settings(max_examples=80)
def test_a_join_as_of_a_time(
    left: Any, right: Any, cuts: Any, strategy: Any, exact: bool, keyed: bool, delay: str
) -> None:
    one, two = streams(delay)
    options: Any = {"on": "t", "strategy": strategy, "allow_exact_matches": exact, "by": "k" if keyed else None}
    if strategy != "backward":
        options["tolerance"] = "7s"
    joined = one.join_asof(two, **options)
    a, b = (frame([(k or 0, t, n) for n, (k, t, _) in enumerate(side)]) for side in (left, right))
    letters: list[pa.Table] = []
    found = run_pieces(joined._node, pieces(a, b, cuts), letters=letters)
    a, b = (less(side, letters, name).sort("t", maintain_order=True) for side, name in ((a, "left"), (b, "right")))
    wanted = a.join_asof(b, **options)
    assert joined.schema == wanted.schema
    assert_same(found, wanted)
    assert_same(joined.collect({"left": a, "right": b}), wanted)


@given(left=rows, right=rows, cuts=shares, how=st.sampled_from(["left", "inner"]))
@settings(max_examples=25)
def test_a_row_meets_the_version_of_its_time(left: Any, right: Any, cuts: Any, how: str) -> None:
    one, two = streams("60s")
    joined = one.join_temporal(two, on="k", how=how)
    a, b = (frame([(k or 0, t, v) for k, t, v in side]) for side in (left, right))
    wanted = a.sort("t").join_asof(b.sort("t", maintain_order=True), on="t", by="k")
    if how == "inner":
        wanted = wanted.filter(pl.col("v_right").is_not_null())
    assert_same(run_pieces(joined._node, pieces(a, b, cuts)), wanted)
    assert_same(joined.collect({"left": a, "right": b}), wanted)


def test_the_right_of_a_join_as_of_keeps_the_last_of_each_key() -> None:
    ctx = ars.StreamingContext(batch_interval="10ms")
    left, right = ctx.read.memory(SCHEMA, name="left"), ctx.read.memory(SCHEMA, name="right")
    joined = left.with_watermark("t", "1s").join_asof(right.with_watermark("t", "1s"), on="t", by="k")
    joined.write.memory("found")
    with ctx:
        ctx.start()
        for second in range(0, 200, 10):
            right.source.send(frame([(1, second, second), (2, second, second)]))
            left.source.send(frame([(1, second + 2, second)]))
            ctx.process_all_available()
        assert ctx.progress.last is not None
        assert ctx.progress.last.state_rows <= 6
        assert ctx.sql("SELECT count(*) FROM found WHERE v = v_right").fetchall() == [(19,)]


@pytest.mark.parametrize("how", HOWS)
@given(left=rows, right=rows, cuts=shares)
@settings(max_examples=15)
def test_aggregates_of_both_sides_can_be_joined(how: Any, left: Any, right: Any, cuts: Any) -> None:
    one, two = streams()

    def plan(a: Any, b: Any) -> Any:
        count = pl.len().cast(pl.Int64).alias("n")
        return a.group_by("k").agg(count).join(b.group_by("k").agg(pl.col("v").sum()), on="k", how=how)

    a, b = frame(left), frame(right)
    assert_same(run_pieces(plan(one, two)._node, pieces(a, b, cuts)), plan(a.lazy(), b.lazy()).collect())


def test_state_of_a_bounded_join_goes_as_time_passes() -> None:
    ctx = ars.StreamingContext(batch_interval="10ms")
    left, right = ctx.read.memory(SCHEMA, name="left"), ctx.read.memory(SCHEMA, name="right")
    joined = left.with_watermark("t", "1s").join(right.with_watermark("t", "1s"), on="k", within="5s")
    joined.write.memory("pairs")
    with ctx:
        ctx.start()
        for second in range(0, 200, 10):
            left.source.send(frame([(1, second, second)]))
            right.source.send(frame([(1, second + 2, second)]))
            ctx.process_all_available()
        assert ctx.progress.last is not None
        assert ctx.progress.last.state_rows <= 4
        assert ctx.sql("SELECT count(*) FROM pairs").fetchall() == [(20,)]


@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
@given(left=rows, cuts=shares)
@settings(max_examples=10)
def test_a_table_is_joined_row_by_row(how: Any, left: Any, cuts: Any) -> None:
    one, _ = streams()
    held = pl.DataFrame({"k": [1, 2, 2, None], "name": ["a", "b", "c", "d"]})
    a = frame(left)
    joined = one.join(held, on="k", how=how)
    found = run_pieces(joined._node, [{"left": part["left"]} for part in pieces(a, a, cuts)])
    assert_same(found, a.join(held, on="k", how=how))


def test_a_table_is_read_again_when_it_is_old() -> None:
    versions = iter(["first look", "one", "two"])
    names = ars.table(lambda: pl.DataFrame({"k": [1], "name": [next(versions)]}), refresh="10s")
    clock = ManualClock()
    ctx = ars.StreamingContext(clock=clock)
    rows = ctx.read.memory(SCHEMA, name="left")
    rows.join(names, on="k").write.memory("named")
    with ctx:
        ctx.start()
        for seconds in (0, 5, 6):
            clock.advance(seconds)
            rows.source.send(frame([(1, 0, 0)]))
            ctx.process_all_available()
        assert ctx.sql("SELECT name FROM named").pl()["name"].to_list() == ["one", "one", "two"]


class Shelf:
    """A table in a file, which other programs change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> pl.DataFrame:
        return pl.DataFrame({"k": [1], "name": [self.path.read_text()]})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_table_is_read_again_when_asked(tmp_path: Path, workers: int) -> None:
    """A price list is changed now and then, and whoever changes it says so: no row after that sees the old one,
    on whichever worker."""
    shelf = Shelf(tmp_path / "name")
    shelf.path.write_text("one")
    names = ars.table(shelf, refresh="asked")
    ctx = ars.StreamingContext("20ms", workers=workers)
    rows = ctx.read.memory(SCHEMA, name="left")
    named = rows.join(names, on="k")
    assert "read again when asked" in named.explain()
    named.write.memory("named")
    with ctx:
        ctx.start()
        for number in range(3):
            if number == 1:
                shelf.path.write_text("two")
                ctx.process_all_available(timeout=60)
                ctx.refresh(names)
            rows.source.send(frame([(1, number, 0)]))
            ctx.process_all_available(timeout=60)
        assert [name for (name,) in ctx.sql("SELECT name FROM named ORDER BY t").fetchall()] == ["one", "two", "two"]
        with pytest.raises(ars.ArrowStreamError, match="reads DataFrame of 1 rows again"):
            ctx.refresh(ars.table(pl.DataFrame({"k": [1]})))


def test_when_a_table_was_read_is_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a replay of the log, or a worker that takes a partition over, decides the same."""
    log: list[Batch] = []
    monkeypatch.setattr(MemoryLog, "allotted", lambda self, batch: log.append(batch))
    clock = ManualClock()
    ctx = ars.StreamingContext(clock=clock)
    rows = ctx.read.memory(SCHEMA, name="left")
    old = ars.table(lambda: pl.DataFrame({"k": [1]}), refresh="10s")
    asked = ars.table(lambda: pl.DataFrame({"k": [1]}), refresh="asked")
    rows.join(old, on="k").join(asked, on="k").join(pl.DataFrame({"k": [1]}), on="k").write.memory("out")
    with ctx:
        ctx.start()
        for seconds in (0, 5, 6, 1):
            clock.advance(seconds)
            if seconds == 1:
                ctx.refresh(asked)
            rows.source.send(frame([(1, 0, 0)]))
            ctx.process_all_available()
    start = log[0].time
    assert [[version - start for version in batch.tables] for batch in log] == [[0, 0], [0, 0], [11, 0], [11, 12]]
    assert [batch.time - start for batch in log] == [0, 5, 11, 12]


def test_what_has_no_end_or_no_key_is_refused_with_the_cure() -> None:
    one, two = streams()
    with pytest.raises(ars.ArrowStreamError, match="cross join of two streams has no end"):
        one.join(two, how="cross")
    with pytest.raises(ars.ArrowStreamError, match="event time of both streams; call with_watermark"):
        one.join(two, on="k", within="5s")
    with pytest.raises(ars.ArrowStreamError, match="without a match"):
        one.join(pl.DataFrame({"k": [1]}), on="k", how="full")
    with pytest.raises(ars.ArrowStreamError, match="column 'q' is not in"):
        one.join(two, on="q")
    with pytest.raises(ars.ArrowStreamError, match="cast one"):
        one.join(two, left_on="k", right_on="t")
    with pytest.raises(ars.ArrowStreamError, match="with_watermark on"):
        one.join_asof(two, on="t")
    with pytest.raises(ars.ArrowStreamError, match="say how far"):
        one.with_watermark("t", "1s").join_asof(two.with_watermark("t", "1s"), on="t", strategy="nearest")
    with pytest.raises(ars.ArrowStreamError, match="another suffix"):
        one.join(two, on="k", suffix="")


@given(left=rows, right=rows, cuts=shares, how=st.sampled_from(["left", "full", "inner"]))
@settings(max_examples=20)
def test_an_order_that_is_named_does_not_depend_on_the_cut(left: Any, right: Any, cuts: Any, how: Any) -> None:
    """The last payment of each order: rows of a join, and rows that are updated, have no order of their own."""
    one, two = streams()

    def ordered(joined: Any) -> Any:
        by = ["v", "v_right"]
        column = pl.col("v_right").cast(pl.String).fill_null("-")
        last = pl.col("v_right").sort_by(by, nulls_last=True).last().alias("last")
        return joined.group_by("k").agg(
            last,
            column.sort_by(by, nulls_last=True).str.join(",").alias("text"),
            pl.col("v_right").sort_by(by, nulls_last=True).implode().alias("every"),
        )

    def counted(frame: Any) -> Any:
        totals = frame.group_by("v", "k").agg(n=pl.col("t").n_unique().cast(pl.Int64))
        return totals.group_by("k").agg(pl.col("n").sort_by("v").last(), pl.col("v").sort_by("v").implode())

    a, b = frame(left), frame(right)
    wanted = ordered(a.lazy().join(b.lazy(), on="k", how=how)).collect()
    assert_same(run_pieces(ordered(one.join(two, on="k", how=how))._node, pieces(a, b, cuts)), wanted)
    found = run_pieces(counted(one)._node, [{"left": piece["left"]} for piece in pieces(a, b, cuts)])
    assert_same(found, counted(a.lazy()).collect())


@pytest.mark.parametrize("how", ["semi", "anti"])
@pytest.mark.parametrize("totals", [True, False])
def test_rows_that_are_shown_for_their_matches_need_not_show_their_keys(how: Any, totals: bool) -> None:
    """Who never paid is counted: of the rows of a semi or anti join the key is not read any more."""
    one, two = streams()
    left = one.group_by("k", "t").agg(pl.col("v").sum()) if totals else one
    a, b = frame([(1, 0, 5), (None, 1, 6), (2, 2, 7)]), frame([(1, 3, 8)])
    joined = left.join(two, on="k", how=how)
    for found in (joined.agg(pl.col("v").sum()), joined.agg(pl.len()), joined.select("v")):
        found.check({"left": a, "right": b})


def test_times_of_two_zones_are_not_compared() -> None:
    """A statement of SQL gives times in another zone: said at the line, not in a batch."""
    ctx = ars.StreamingContext()
    schema = {"k": pl.Int64, "t": pl.Datetime("us", "Asia/Tokyo")}
    one, two = ctx.read.memory(schema, name="left"), ctx.read.memory(schema, name="right").sql("SELECT * FROM self")
    with pytest.raises(PlanError, match=r"join_where: .* compares .*Tokyo.* with .*UTC.*; cast one of them"):
        one.join_where(two, pl.col("k") == pl.col("k_right"), pl.col("t") <= pl.col("t_right"))
