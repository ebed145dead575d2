"""Windows read off plainly: a row at a time, with Python's numbers, dates and zones, as the documentation words it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = 86_400
_PART = re.compile(r"(\d+)(ns|us|ms|s|mo|m|h|d|w|q|y|i)")
_MONTHS = {"mo": 1, "q": 3, "y": 12}
_NANOS = {
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": DAY * 10**9,
    "w": 7 * DAY * 10**9,
}  # fmt: skip


@dataclass(frozen=True)
class Length:
    """So many months and so many steps of a column, of which `unit` nanoseconds are one (0: a plain number)."""

    months: int
    steps: int
    weeks: bool
    calendar: bool

    @classmethod
    def of(cls, text: str, unit: int) -> Length:
        sign = -1 if text.startswith("-") else 1
        parts = _PART.findall(text)
        months = sum(int(number) * _MONTHS.get(name, 0) for number, name in parts)
        steps = sum(int(number) * (_NANOS.get(name, 0) if unit else 1) for number, name in parts)
        if unit:
            assert steps % unit == 0
            steps //= unit
        names = {name for _, name in parts}
        return cls(sign * months, sign * steps, names == {"w"}, bool(names & {"d", "w", *_MONTHS}))


@dataclass(frozen=True)
class Reading:
    """Windows on a clock that is never changed; times are whole numbers of steps since 1970."""

    every: Length
    period: Length
    offset: Length
    closed: str
    day: int
    """Steps of a day."""

    @classmethod
    def of(cls, every: str, period: str, offset: str, closed: str, unit: int) -> Reading:
        day = DAY * 10**9 // unit if unit else 1
        return cls(Length.of(every, unit), Length.of(period, unit), Length.of(offset, unit), closed, day)

    def begin(self, number: int) -> int:
        """Where the window with this number begins."""
        if self.every.months:
            return self._month(number * self.every.months + self.offset.months) + self.offset.steps
        monday = 4 * self.day if self.every.weeks else 0
        return number * self.every.steps + self.offset.steps + monday

    def end(self, number: int) -> int:
        """Where it ends."""
        if self.every.months and not self.period.steps:
            months = number * self.every.months + self.offset.months + self.period.months
            return self._month(months) + self.offset.steps
        begin = self.begin(number)
        if self.period.months:
            begin = self._later(begin, self.period.months)
        return begin + self.period.steps

    def last(self, time: int) -> int:
        """The number of the last window that begins up to a time."""
        if not self.every.months:
            return (time - self.begin(0)) // self.every.steps
        date = _date((time - self.offset.steps) // self.day)
        return ((date.year - 1970) * 12 + date.month - 1 - self.offset.months) // self.every.months

    def holding(self, time: int) -> list[tuple[int, int]]:
        """The windows that contain a time."""
        longest = self.period.steps + 31 * self.day * self.period.months
        found, number = [], self.last(time)
        while (begin := self.begin(number)) >= time - longest:
            if self.holds(time, begin, end := self.end(number)):
                found.append((begin, end))
            number -= 1
        return sorted(found)

    def holds(self, time: int, begin: int, end: int) -> bool:
        low = begin <= time if self.closed in ("left", "both") else begin < time
        high = time <= end if self.closed in ("right", "both") else time < end
        return low and high

    def few(self, limit: int) -> bool:
        """Whether a time is in few windows."""
        longest, shortest = self.period.steps + 31 * self.day * self.period.months, self.every.steps
        return longest <= limit * (shortest + 28 * self.day * self.every.months)

    def _month(self, months: int) -> int:
        return _days(dt.date(1970 + months // 12, months % 12 + 1, 1)) * self.day

    def _later(self, time: int, months: int) -> int:
        days, rest = divmod(time, self.day)
        date = _date(days)
        month = date.year * 12 + date.month - 1 + months
        after = dt.date((month + 1) // 12, (month + 1) % 12 + 1, 1)
        last = (after - dt.timedelta(days=1)).day
        return _days(dt.date(month // 12, month % 12 + 1, min(date.day, last))) * self.day + rest


def _date(days: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=days)


def _days(date: dt.date) -> int:
    return (date - dt.date(1970, 1, 1)).days


@dataclass(frozen=True)
class ZonedReading:
    """Windows by the clock on the wall of a zone, in seconds; a change of the clock is at most some days away."""

    zone: ZoneInfo
    plain: Reading

    @classmethod
    def of(cls, zone: ZoneInfo, every: str, offset: str, period: str = "", closed: str = "left") -> ZonedReading:
        return cls(zone, Reading.of(every, period or every, offset, closed, 10**9))

    def window(self, time: int, change: int) -> tuple[int, int]:
        """Begin and end of the one window that holds an instant, where windows do not overlap."""
        if self.goes_on(change):
            return self._moved(self.plain.last(self.shown(time)), time)
        number = self._last(time)
        return self.first(self.plain.begin(number)), self.first(self.plain.begin(number + 1))

    def holding(self, time: int, change: int) -> list[tuple[int, int]]:
        """All windows that hold an instant."""
        plain = self.plain
        if self.goes_on(change):
            offset = self.offset(time)
            return [(begin - offset, end - offset) for begin, end in plain.holding(time + offset)]
        found, number = [], self._last(time) + 1
        longest = plain.period.steps + 31 * DAY * plain.period.months + 2 * DAY
        while (begin := self.first(plain.begin(number))) >= time - longest:
            end = self.first(plain.end(number))
            # Of those that begin at one instant the last is there.
            if plain.holds(time, begin, end) and begin < self.first(plain.begin(number + 1)):
                found.append((begin, end))
            number -= 1
        return sorted(found)

    def goes_on(self, change: int) -> bool:
        """Whether windows go on over a change as if nothing had happened."""
        every, period = self.plain.every, self.plain.period
        return not (every.calendar or period.calendar) and self.moved(change) % every.steps == 0

    def _moved(self, number: int, time: int) -> tuple[int, int]:
        offset = self.offset(time)
        return self.plain.begin(number) - offset, self.plain.end(number) - offset

    def _last(self, time: int) -> int:
        """The last window that begins up to an instant: in the hour that comes again, later ones have begun already."""
        number = self.plain.last(self.shown(time))
        while self.first(self.plain.begin(number + 1)) <= time:
            number += 1
        return number

    def moved(self, change: int) -> int:
        """By how much the clock is moved at an instant."""
        return self.offset(change) - self.offset(change - 1)

    def shown(self, time: int) -> int:
        """What the clock on the wall shows at an instant."""
        return time + self.offset(time)

    def first(self, shown: int) -> int:
        """The first instant at which the clock shows this; where it never does, the first after the gap."""
        low, high = sorted(shown - offset for offset in self._offsets(shown))
        for time in (low, high):
            if self.shown(time) == shown:
                return time
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.shown(middle) >= shown else (middle, high)
        return high

    def offset(self, time: int) -> int:
        return _offset(self.zone, time)

    def _offsets(self, shown: int) -> Iterator[int]:
        for fold in (0, 1):
            time = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=shown)
            offset = time.replace(tzinfo=self.zone, fold=fold).utcoffset()
            assert offset is not None
            yield round(offset.total_seconds())


@lru_cache(maxsize=1 << 16)
def _offset(zone: ZoneInfo, time: int) -> int:
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=time)
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())
