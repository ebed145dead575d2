"""Keys that are let go when no rows of them come: a time to live in event time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest
from apart import source
from hypothesis import given
from hypothesis import strategies as st

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.errors import PlanError
from arrowstream.frame import StreamFrame
from arrowstream.operators.changes import Changes
from arrowstream.operators.expiry import Expiring

SCHEMA = pl.Schema({"k": pl.Float64(), "v": pl.Int64(), "t": pl.Int64()})
TTL = 10

Calls = Callable[[StreamFrame, "int | None"], StreamFrame]

FORMS: dict[str, Calls] = {
    "running": lambda f, ttl: f.group_by("k", ttl=ttl).agg(pl.len(), pl.col("v").sum(), pl.col("v").last().alias("l")),
    "distinct": lambda f, ttl: f.group_by("k", ttl=ttl).agg(pl.col("v").n_unique()),
    "recomputed": lambda f, ttl: f.group_by("k", ttl=ttl).agg(pl.col("v").median()),
    "first": lambda f, ttl: f.unique("k", ttl=ttl),
    "last": lambda f, ttl: f.unique("k", keep="last", ttl=ttl),
    "one": lambda f, ttl: f.top_k(1, by="v", group_by="k", ttl=ttl),
    "few": lambda f, ttl: f.top_k(2, by="v", group_by="k", ttl=ttl),
}


def timed(name: str = "rows") -> StreamFrame:
    return source(name, SCHEMA).with_watermark("t", 0)


def batch(*rows: tuple[Any, ...]) -> dict[str, pl.DataFrame]:
    return {"rows": pl.DataFrame(rows, schema=SCHEMA, orient="row")}


keys = st.sampled_from([0.0, -0.0, 1.0, float("nan"), None])
batches = st.lists(
    st.lists(st.tuples(keys, st.integers(0, 3), st.integers(0, 60)), max_size=5).map(lambda rows: batch(*rows)),
    min_size=1,
    max_size=12,
)


def sizes(ctx: ars.StreamingContext) -> list[int]:
    """Rows of each table of state."""
    return [int(rows) for rows in ctx.state().pl()["rows"]]


def label(key: Any) -> str:
    return "nan" if key != key else str(key + 0.0 if key is not None else None)


def by_hand(pieces: Sequence[dict[str, pl.DataFrame]]) -> dict[str, tuple[int, int]]:
    """Count and sum by key: groups are dropped as soon as the watermark at a batch's begin is past their time."""
    shown: dict[str, tuple[int, int]] = {}
    live: dict[str, tuple[int, int, int]] = {}
    watermark: int | None = None
    for piece in pieces:
        if watermark is not None:
            live = {key: entry for key, entry in live.items() if entry[2] + TTL >= watermark}
        for key, value, time in piece["rows"].iter_rows():
            if watermark is not None and time + TTL < watermark:
                continue
            count, total, last = live.get(label(key), (0, 0, time))
            live[label(key)] = (count + 1, total + value, max(last, time))
            shown[label(key)] = live[label(key)][:2]
        times: Any = piece["rows"]["t"].max()
        if times is not None:
            watermark = times if watermark is None else max(watermark, times)
    return shown


@given(batches, st.integers(1, 3))
def test_a_group_begins_anew_after_its_time(pieces: list[dict[str, pl.DataFrame]], partitions: int) -> None:
    """Running counts and sums, by hand with a dict, at any cut and number of partitions."""
    frame = timed().group_by("k", ttl=TTL).agg(n=pl.len(), total=pl.col("v").sum())
    # What came before stays in the sink, and a row by key replaces it: of equal keys the last one stands.
    found = run_pieces(frame._node, pieces, partitions=partitions)
    assert {label(k): (n, total) for k, n, total in found.iter_rows()} == by_hand(pieces)


@given(batches, st.sampled_from(sorted(FORMS)), st.integers(1, 3))
def test_a_long_life_is_the_law(pieces: list[dict[str, pl.DataFrame]], form: str, partitions: int) -> None:
    """Where no key is ever gone, the answer is that without a time to live."""
    call = FORMS[form]
    letters: list[Any] = []
    found = run_pieces(call(timed(), 1000)._node, pieces, partitions=partitions, letters=letters)
    plain = run_pieces(call(timed(), None)._node, pieces, partitions=partitions)
    assert found.sort(pl.all()).equals(plain.sort(pl.all()))
    assert not letters


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_state_shrinks(form: str, workers: int) -> None:
    """Sessions of a web shop: users come, and most do not come back. A batch of one late user lets the others go."""
    if workers and form not in ("running", "few"):
        pytest.skip("one of each kind of table is enough")
    ctx = ars.StreamingContext("10ms", workers=workers)
    rows = ctx.read.memory(SCHEMA)
    FORMS[form](rows.with_watermark("t", 0), TTL).write.memory("out")
    with ctx:
        ctx.start()
        rows.source.send(pl.DataFrame({"k": [float(i) for i in range(100)], "v": [1] * 100, "t": [5] * 100}))
        ctx.process_all_available()
        assert min(sizes(ctx)) == 100
        rows.source.send(pl.DataFrame({"k": [0.0], "v": [1], "t": [15]}))
        ctx.process_all_available()
        assert min(sizes(ctx)) >= 100
        rows.source.send(pl.DataFrame({"k": [0.0], "v": [1], "t": [16]}))
        ctx.process_all_available()
        assert max(sizes(ctx)) <= 3
        assert len(ctx.sql("FROM out")) >= 100  # what was given stays


@given(batches, st.sampled_from(sorted(FORMS)))
def test_a_batch_that_is_run_again_gives_the_same(pieces: list[dict[str, pl.DataFrame]], form: str) -> None:
    """A worker died in the middle: each batch is rolled back once and run again."""
    node = FORMS[form](timed(), TTL)._node
    plain = run_pieces(node, pieces)
    process = Expiring.process

    def twice(self: Expiring, inputs: Any, moment: Any) -> Changes:
        tables = dict(self.tables)
        process(self, inputs, moment)
        for table in tables.values():
            table.rollback()
        return process(self, inputs, moment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Expiring, "process", twice)
        assert run_pieces(node, pieces).sort(pl.all()).equals(plain.sort(pl.all()))


def test_rows_that_are_too_late_are_dead_letters() -> None:
    """Its group may have been let go: a row more than the time to live behind the watermark is not counted anew."""
    ctx = ars.StreamingContext("10ms")
    rows = ctx.read.memory(SCHEMA)
    rows.with_watermark("t", 0).group_by("k", ttl=TTL).agg(pl.len()).write.memory("out")
    with ctx:
        ctx.start()
        for time in (100, 89, 90):
            rows.source.send(pl.DataFrame({"k": [1.0], "v": [1], "t": [time]}))
            ctx.process_all_available()
        assert ctx.sql("SELECT len FROM out").fetchall() == [(2,)]
        assert len(ctx.dead_letters) == 1


def test_what_is_needed_is_said() -> None:
    """No event time; a stream that takes back; one group of all; a key that is the time."""
    plain, known = source("rows", SCHEMA), timed()
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: plain.group_by("k", ttl=1).agg(pl.len()), r"group_by: ttl= goes by event time; call with_watermark"),
        (lambda: plain.unique("k", ttl=1), r"unique: ttl= goes by event time"),
        (lambda: plain.top_k(1, by="v", group_by="k", ttl=1), r"top_k: ttl= goes by event time"),
        (lambda: known.top_k(1, by="v", ttl=1), r"without keys there is but one"),
        (lambda: known.group_by("t", ttl=1).agg(pl.len()), r"leave out ttl=: 't' is a key"),
        (lambda: known.unique("k", ttl=1, within=1), r"within= lets keys go already"),
        (lambda: known.group_by("k", ttl=0).agg(pl.len()), r"ttl=0 must be above zero"),
    ]
    for frame, message in refused:
        with pytest.raises(PlanError, match=message):
            frame()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_check_minds_all_but_the_time_to_live(form: str) -> None:
    """Which keys are gone when depends on the batches, by the user's choice; `check` looks for other mistakes."""
    rows = pl.DataFrame({"k": [0.0, 1.0, 0.0, 0.0], "v": [1, 2, 3, 4], "t": [0, 50, 60, 61]}, schema=SCHEMA)
    FORMS[form](timed(), TTL).check(rows)


def test_explain_says_when_keys_go() -> None:
    text = timed().group_by("k", ttl=TTL).agg(pl.len()).explain()
    assert "let go after 10 without rows" in text
    assert "unbounded" not in text
