"""How far event time has come: watermarks by split, and who may hold them back. No I/O, time as an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from arrowstream.blocks.block import BlockInfo
from arrowstream.ids import SourceId
from arrowstream.operators.moment import Mark
from arrowstream.plan.eventtime import BEGINNING, FOREVER
from arrowstream.plan.handover import floors
from arrowstream.plan.nodes import Watermark
from arrowstream.plan.unit import Unit, sources_below, watermarks

Split: TypeAlias = tuple[SourceId, str]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

DRIFT: Final = 60_000_000
"""Ticks (a minute) that a split may be ahead of another that has rows waiting, before it waits for it."""


class SplitTime(msgspec.Struct, frozen=True):
    """The highest time (ticks) that a task has seen in a split, at the watermark `number`."""

    number: int
    source: SourceId
    split: str
    ticks: int


class Wait(msgspec.Struct, frozen=True):
    """A result of the stateful step `step` comes out once the event time number `place`, by which it gives results, has
    passed `ticks`."""

    step: int
    place: int
    ticks: int


class Standing(msgspec.Struct, frozen=True):
    """What is decided about time when a batch is allotted, so that a replay decides the same.

    `before` are the watermarks at its begin; `ended` the splits of which nothing comes after it, `idle` those that hold
    nobody back in it. `clock` are the watermarks that go on with the clock, since all is silent: what it says, and
    BEGINNING where it has no say.
    """

    before: list[int] = []
    ended: list[Split] = []
    idle: list[Split] = []
    clock: list[int] = []


@dataclass(slots=True)
class _Progress:
    """One split at one watermark: its highest time, and by how much its last batch moved it."""

    highest: int | None = None
    advance: int = 0


class WatermarkTracker:
    """The watermarks of a unit.

    For each batch: `stand` as it is allotted, `after` once its rows were seen, `commit` when it is through. The
    watermark of a split is the highest time seen, less the delay; the least of those that neither have ended nor
    are idle rules; where all that are left are idle, the highest, or, if it is to go on with the clock, that and the
    time since. A watermark never goes back. A live split that follows a history stands at the time of the handover from
    the start.

    A split is idle when no row of it has come for so long; the clock counts this as silence only while it is open
    (`opened`, `closed`): of a source that is away, rows may be waiting. `waits` are the event times by which steps give
    results.
    """

    def __init__(self, unit: Unit, waits: Mapping[int, Sequence[Mark]] | None = None) -> None:
        self._marks: Sequence[Watermark] = watermarks(unit)
        self._below = [sources_below(unit, mark) for mark in self._marks]
        self._of: list[dict[Split, _Progress]] = [{} for _ in self._marks]
        self._floors = floors(unit)
        self._now = [BEGINNING] * len(self._marks)
        self._ended: set[Split] = set()
        self._settled: frozenset[Split] = frozenset()
        self._idle: frozenset[Split] = frozenset()
        self._seen: dict[Split, float] = {}
        self._open: set[Split] = set()
        self._waits, self._next = waits or {}, list[tuple[Mark, int]]()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def expect(self, splits: Iterable[Split]) -> None:
        """Rows will come from these; until each has brought some or is idle, there is no watermark."""
        for source, split in splits:
            for below, of in zip(self._below, self._of, strict=True):
                if source in below:
                    of.setdefault((source, split), _Progress())

    def end(self, source: SourceId, split: str) -> None:
        """A split has ended: after what still waits of it, nothing comes."""
        if any((source, split) in of for of in self._of):
            self._ended.add((source, split))

    def opened(self, source: SourceId, split: str, now: float) -> None:
        """A split is read, perhaps again: rows that have waited for that come now."""
        self._open.add((source, split))
        self._seen[source, split] = now

    def closed(self, source: SourceId, split: str) -> None:
        """A split cannot be read for now."""
        self._open.discard((source, split))

    def due(self, now: float, waiting: Collection[Split]) -> bool:
        """Whether a batch without rows would do something: splits have ended, or have become idle and let a watermark
        move; or the clock has come so far that a result would come out."""
        if not self._marks:
            return False
        ended = {split for split in self._ended if split not in waiting}
        if ended - self._settled:
            return True
        idle = self._idle_now(now, waiting)
        if idle - self._idle and any(new > old for new, old in zip(self._moved(ended, idle), self._now, strict=True)):
            return True
        clock = self._by_clock(now, waiting) if self._next else []
        if not any(ticks > BEGINNING for ticks in clock):
            return False
        moved = self._moved(ended, idle, clock=clock)
        return any(mark.least(self._now) < ticks <= mark.least(moved) for mark, ticks in self._next)

    def held(self, waiting: Collection[Split]) -> set[Split]:
        """Splits that are too far ahead of others that have rows waiting: they wait, or state would pile up."""
        reached: dict[Split, tuple[int, int]] = {}
        for mark, of in zip(self._marks, self._of, strict=True):
            if not mark.schema[mark.column].is_temporal():
                continue  # numbers of two sources need not mean the same
            for split, at in of.items():
                if split in waiting and at.highest is not None:
                    reached[split] = min(reached.get(split, (at.highest, at.advance)), (at.highest, at.advance))
        if len(reached) < 2:
            return set()
        slowest, advance = min(reached.values())
        return {split for split, (highest, _) in reached.items() if highest - slowest > max(DRIFT, 2 * advance)}

    def stand(self, now: float, blocks: Iterable[BlockInfo], waiting: Collection[Split]) -> Standing:
        """How time stands for a batch of these blocks; `waiting` are the splits of those that are left."""
        taken = {(info.source, info.split) for info in blocks}
        for split in taken:
            self._seen[split] = now
        ended = sorted(split for split in self._ended if split not in waiting)
        busy = {*waiting, *taken}
        return Standing(list(self._now), ended, sorted(self._idle_now(now, busy)), self._by_clock(now, busy))

    def after(self, standing: Standing, times: Iterable[SplitTime]) -> list[int]:
        """The watermarks at the end of a batch, in which these times were seen."""
        seen: dict[tuple[int, Split], int] = {}
        for time in times:
            at = (time.number, (time.source, time.split))
            seen[at] = max(time.ticks, seen.get(at, time.ticks))
        return self._moved(set(standing.ended), set(standing.idle), seen, standing.clock)

    def commit(self, standing: Standing, times: Iterable[SplitTime], waits: Iterable[Wait] = ()) -> None:
        """The batch is through; these are the results that come next without more rows."""
        times = list(times)
        first: dict[tuple[int, int], int] = {}
        for wait in waits:
            at_ = (wait.step, wait.place)
            first[at_] = min(wait.ticks, first.get(at_, wait.ticks))
        self._next = [(self._waits[step][place], ticks) for (step, place), ticks in first.items()]
        self._now = self.after(standing, times)
        self._settled, self._idle = frozenset(standing.ended), frozenset(standing.idle)
        before = {(number, split): at.highest for number, of in enumerate(self._of) for split, at in of.items()}
        for time in times:
            at = self._of[time.number][time.source, time.split]
            at.highest = time.ticks if at.highest is None else max(at.highest, time.ticks)
        for (number, split), was in before.items():
            at = self._of[number][split]
            if at.highest is not None and at.highest != was:
                at.advance = at.highest - was if was is not None else 0

    @property
    def now(self) -> Sequence[int]:
        """The watermarks after the last batch."""
        return self._now

    def least(self) -> datetime | int | None:
        """The least watermark, for people: a UTC time, or a number on an integer column; None where there is none."""
        held = [(ticks, mark) for ticks, mark in zip(self._now, self._marks, strict=True) if ticks < FOREVER]
        if not held:
            return None
        ticks, mark = min(held, key=lambda each: each[0])
        if ticks == BEGINNING:
            return None
        if not mark.schema[mark.column].is_temporal():
            return ticks
        return EPOCH + timedelta(microseconds=ticks)

    def _idle_now(self, now: float, busy: Collection[Split]) -> set[Split]:
        idle: set[Split] = set()
        for mark, of in zip(self._marks, self._of, strict=True):
            if mark.idle is None:
                continue
            for split in of:
                since = self._seen.setdefault(split, now)
                if split not in busy and split not in self._ended and now - since >= mark.idle:
                    idle.add(split)
        return idle

    def _by_clock(self, now: float, busy: Collection[Split]) -> list[int]:
        """What the clock says of each watermark; BEGINNING where it is not asked."""
        return [self._clock_of(number, now, busy) for number in range(len(self._marks))]

    def _clock_of(self, number: int, now: float, busy: Collection[Split]) -> int:
        mark, of = self._marks[number], self._of[number]
        if mark.then != "advance" or mark.idle is None or any(split in busy for split in of):
            return BEGINNING
        live = [split for split in of if split not in self._ended]
        if not live or not self._open.issuperset(live):
            return BEGINNING
        silent = now - max(self._seen.setdefault(split, now) for split in live) - mark.idle
        reached = max(self._reached(number, {}).values())
        return BEGINNING if silent < 0 or reached == BEGINNING else reached + int(silent * 1_000_000)

    def _reached(self, number: int, seen: Mapping[tuple[int, Split], int]) -> dict[Split, int]:
        """The watermark of each split; BEGINNING before its first row."""
        reached = {}
        for split, at in self._of[number].items():
            highest = max((t for t in (at.highest, seen.get((number, split))) if t is not None), default=None)
            floor = self._floors[number].get(split[0], BEGINNING)
            reached[split] = floor if highest is None else max(floor, highest - self._marks[number].delay)
        return reached

    def _moved(
        self,
        ended: Collection[Split],
        idle: Collection[Split],
        seen: Mapping[tuple[int, Split], int] | None = None,
        clock: Sequence[int] = (),
    ) -> list[int]:
        moved = []
        for number, of in enumerate(self._of):
            reached = self._reached(number, seen or {})
            ruling = [ticks for split, ticks in reached.items() if split not in ended and split not in idle]
            if ruling:
                new = min(ruling)
            elif all(split in ended for split in of):
                new = FOREVER
            else:
                new = max(reached.values())
            moved.append(max(new, self._now[number], clock[number] if clock else BEGINNING))
        return moved
