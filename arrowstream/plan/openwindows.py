"""How windows hold time back: which of them are still open, and so what time the next to come may have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import polars as pl

from arrowstream.plan.eventtime import DAY, FOREVER, from_ticks, step_of, ticks_of
from arrowstream.plan.windows import Windows, physical

_QUARTER: Final = 900_000_000
# The most that a clock is changed by, and more.
_CHANGE: Final = DAY


@dataclass(frozen=True, slots=True)
class OpenWindows:
    """The least label that a window may have which is still open: its start, or its end (`label_right`).

    So a window of windows closes in the batch that closes the last of those in it, however the two lie: where the
    bounds of the outer are bounds of the inner nothing is held back; else what reaches beyond the end of the outer.
    """

    windows: Windows
    label_right: bool

    def __call__(self, watermark: int) -> int:
        return _least_label(self.windows, self.label_right, watermark)


@lru_cache(maxsize=1024)
def _least_label(windows: Windows, label_right: bool, watermark: int) -> int:
    last, grid = windows.last(watermark), windows.grid()
    if grid is None:
        return _by_calendar(windows, label_right, watermark)
    end = grid.end(last)
    number = grid.needed(end)
    if label_right:
        number = end + 1 if grid.grows else number + grid.length
    return ticks_of(number * grid.size + grid.origin, windows.dtype)


def _by_calendar(windows: Windows, label_right: bool, watermark: int) -> int:
    """All windows that begin not long before the watermark, and the first after it: the first that is open."""
    each, dtype = windows.period if windows.cumulate else windows.every, windows.dtype
    slack = 0 if dtype.is_integer() else _CHANGE
    first = watermark - windows.period.most - each.most - slack
    stop = watermark + 2 * each.most + slack
    step = max(min(each.least, DAY if each.least >= DAY else _QUARTER), step_of(dtype))
    points = pl.lit(pl.Series(np.arange(first, stop, step)))
    begins = pl.select(windows.floor(from_ticks(points, dtype), each.text)).to_series()
    open_ = windows.closing(physical(begins.unique().sort()), watermark, FOREVER)
    return ticks_of(int((open_.stops if label_right else open_.starts).min()), dtype)
