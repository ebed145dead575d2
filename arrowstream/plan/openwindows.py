"""How windows hold time back: which of them are still open, and so what time the next to come may have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from arrowstream.plan.eventtime import ticks_of
from arrowstream.plan.windows import Windows


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
    return ticks_of(windows.opening(watermark, label_right=label_right), windows.dtype)
