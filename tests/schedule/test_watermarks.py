"""How watermarks move: the least split rules, ended and idle ones hold nobody back, and they never go back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from arrowstream.blocks.block import BlockInfo
from arrowstream.connectors.changes import Append
from arrowstream.ids import BlockId, SourceId, UnitId
from arrowstream.operators.moment import Mark
from arrowstream.plan.eventtime import BEGINNING, FOREVER
from arrowstream.plan.nodes import Node, Output, SourceNode, Watermark
from arrowstream.plan.unit import Unit
from arrowstream.schedule.watermarks import DRIFT, Split, SplitTime, Wait, WatermarkTracker
from arrowstream.sinks.memory import MemorySink
from arrowstream.sources.memory import MemorySource

SCHEMA = pl.Schema({"t": pl.Datetime("us"), "x": pl.Int64()})
A, B = SourceId("s000"), SourceId("s001")


def tracker(
    *splits: Split, delay: int = 10, idle: float | None = None, then: str = "hold", waits: Sequence[Mark] = ()
) -> WatermarkTracker:
    """One watermark over each source, expecting these splits."""
    sources = sorted({source for source, _ in splits})
    marks: list[Node] = []
    nodes = []
    for source in sources:
        node = SourceNode(
            schema=SCHEMA, kind=Append(), name=source, source=MemorySource(SCHEMA.to_frame().to_arrow().schema)
        )
        nodes.append((source, node))
        marks.append(
            Watermark(
                schema=SCHEMA,
                kind=Append(),
                input=node,
                column="t",
                delay=delay,
                max_ahead=None,
                lateness=0,
                idle=idle,
                then=then,
            )
        )
    outputs = tuple(
        Output(schema=SCHEMA, kind=Append(), input=mark, sink=MemorySink(f"o{number}"))
        for number, mark in enumerate(marks)
    )
    made = WatermarkTracker(Unit(UnitId("u"), tuple(nodes), outputs), {7: waits})
    made.expect(splits)
    return made


def batch(times: WatermarkTracker, *seen: SplitTime, now: float = 0.0, waits: Sequence[Wait] = ()) -> list[int]:
    """A batch in which these times are seen; the watermarks at its end."""
    blocks = [BlockInfo(BlockId("b"), time.source, time.split, 0, None, None, 1, 0, now) for time in seen]
    standing = times.stand(now, blocks, [])
    after = times.after(standing, seen)
    times.commit(standing, seen, waits)
    assert list(times.now) == after
    return after


def at(ticks: int, split: str = "a", source: SourceId = A, number: int = 0) -> SplitTime:
    return SplitTime(number, source, split, ticks)


def test_watermark_is_the_highest_time_less_the_delay() -> None:
    times = tracker((A, "a"))
    assert list(times.now) == [BEGINNING]
    assert batch(times, at(100)) == [90]
    assert batch(times, at(150)) == [140]


def test_a_watermark_never_goes_back() -> None:
    times = tracker((A, "a"))
    batch(times, at(100))
    assert batch(times, at(20)) == [90]


def test_the_slowest_split_rules_and_a_silent_one_holds_all() -> None:
    times = tracker((A, "a"), (A, "b"))
    assert batch(times, at(100)) == [BEGINNING]
    assert batch(times, at(30, "b")) == [20]
    assert batch(times, at(200)) == [20]


def test_an_ended_split_holds_nobody_back_and_all_ended_is_for_ever() -> None:
    times = tracker((A, "a"), (A, "b"))
    batch(times, at(100), at(30, "b"))
    times.end(A, "b")
    assert times.due(0.0, [])
    assert not times.due(0.0, [(A, "b")])  # what still waits of it comes first
    assert batch(times) == [90]
    assert not times.due(0.0, [])
    times.end(A, "a")
    assert times.due(0.0, [])
    assert batch(times) == [FOREVER]
    assert times.least() is None


def test_an_idle_split_is_left_out_after_its_limit() -> None:
    times = tracker((A, "a"), (A, "b"), idle=5.0)
    batch(times, at(100), at(30, "b"), now=0.0)
    assert batch(times, at(200), now=3.0) == [20]
    assert not times.due(4.0, [])
    assert times.due(8.0, [])
    assert batch(times, now=8.0) == [190]


def test_when_all_are_idle_the_fastest_rules() -> None:
    times = tracker((A, "a"), (A, "b"), idle=5.0)
    batch(times, at(100), at(30, "b"), now=0.0)
    assert times.due(6.0, [])
    assert batch(times, now=6.0) == [90]
    assert not times.due(60.0, [])


SECOND = 1_000_000


def silent(*splits: Split) -> WatermarkTracker:
    """A watermark that goes on with the clock after five seconds, and a window that waits for it to be at 40 s."""
    times = tracker(*splits, delay=0, idle=5.0, then="advance", waits=[Mark(((0, ()),))])
    for split in splits:
        times.opened(*split, 0.0)
    return times


WAIT = Wait(7, 0, 40 * SECOND)


def test_a_watermark_goes_on_with_the_clock_after_the_silence() -> None:
    """A sensor is switched off; the last window is asked for all the same."""
    times = silent((A, "a"))
    batch(times, at(30 * SECOND), waits=[WAIT], now=100.0)
    assert not times.due(105.0, [])  # it is silent, and nothing would close yet
    assert not times.due(114.9, [])
    assert times.due(115.1, [])
    assert times.stand(115.5, [], []).clock == [40 * SECOND + SECOND // 2]
    assert batch(times, now=115.5) == [40 * SECOND + SECOND // 2]
    assert not times.due(10_000.0, [])  # nothing waits any more


def test_the_clock_is_not_asked_while_there_are_rows_or_a_source_is_away() -> None:
    """A broker that is down is not silence: what it has waits, and must not be late when it comes back."""
    times = silent((A, "a"), (A, "b"))
    batch(times, at(30 * SECOND), at(30 * SECOND, "b"), waits=[WAIT], now=100.0)
    assert times.due(200.0, [])
    assert not times.due(200.0, [(A, "b")])
    times.closed(A, "b")
    assert not times.due(200.0, [])
    times.opened(A, "b", 200.0)
    assert not times.due(214.0, [])
    assert times.due(216.0, [])
    times.end(A, "b")
    assert batch(times, now=200.0) == [125 * SECOND]  # one that has ended has no say


def test_time_begins_with_a_row() -> None:
    """Before the first row there is no time that could go on."""
    times = silent((A, "a"))
    batch(times, waits=[WAIT])
    assert times.stand(1e9, [], []).clock == [BEGINNING]


def test_rows_after_the_silence_do_not_turn_time_back() -> None:
    times = silent((A, "a"))
    batch(times, at(30 * SECOND), waits=[WAIT], now=100.0)
    assert batch(times, now=205.0) == [130 * SECOND]
    assert batch(times, at(50 * SECOND), now=206.0) == [130 * SECOND]
    assert batch(times, at(140 * SECOND), now=207.0) == [140 * SECOND]
    assert times.stand(213.0, [], []).clock == [141 * SECOND]


def test_a_split_with_rows_waiting_is_not_idle() -> None:
    times = tracker((A, "a"), (A, "b"), idle=5.0)
    batch(times, at(100), at(30, "b"), now=0.0)
    assert times.stand(100.0, [], [(A, "b")]).idle == [(A, "a")]


def test_a_batch_run_again_stands_as_before() -> None:
    times = tracker((A, "a"))
    batch(times, at(100))
    standing = times.stand(0.0, [], [])
    first = times.after(standing, [at(150)])
    assert times.after(standing, [at(120), at(150)]) == first == [140]
    assert list(times.now) == [90]


def test_a_source_that_is_far_ahead_waits_for_one_that_has_rows() -> None:
    times = tracker((A, ""), (B, ""))
    waiting = [(A, ""), (B, "")]
    assert times.held(waiting) == set()
    batch(times, SplitTime(0, A, "", 0), SplitTime(1, B, "", 0))
    batch(times, SplitTime(0, A, "", 10 * DRIFT))
    assert times.held(waiting) == {(A, "")}
    assert times.held([(A, "")]) == set()


def test_the_least_is_shown_as_a_time() -> None:
    times = tracker((A, "a"), delay=0)
    batch(times, at(5_000_000))
    assert times.least() == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=5)


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-50, 50)), max_size=4), max_size=8))
def test_watermarks_rise_and_stay_below_what_was_seen(batches: list[list[tuple[str, int]]]) -> None:
    times = tracker((A, "a"), (A, "b"))
    highest: dict[str, int] = {}
    before = BEGINNING
    for each in batches:
        (after,) = batch(times, *(at(ticks, split) for split, ticks in each))
        for split, ticks in each:
            highest[split] = max(ticks, highest.get(split, ticks))
        assert after >= before
        if len(highest) == 2:
            assert after == max(before, min(highest.values()) - 10)
        before = after
