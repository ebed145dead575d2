"""Row ids by slot: sorted runs, merged in ever larger steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]

MAX_RUN: Final = 1 << 21
"""Runs of this size are not merged any more, so that no merge is a long pause."""


@dataclass(frozen=True, slots=True)
class Run:
    """Ids sorted by slot, of one slot by id; `starts` has, where slots are dense, where each begins."""

    slots: Ints
    ids: Ints
    low: int
    high: int
    starts: Ints | None

    @classmethod
    def of(cls, slots: Ints, ids: Ints) -> Run:
        """A run of unsorted slots."""
        order = np.argsort(slots, kind="stable")
        slots, ids = slots[order], ids[order]
        low, high = int(slots[0]), int(slots[-1])
        starts = None
        if high - low < 4 * len(slots):
            starts = np.zeros(high - low + 2, np.int64)
            np.cumsum(np.bincount(slots - low, minlength=high - low + 1), out=starts[1:])
        return cls(slots, ids, low, high, starts)

    def span(self, slots: Ints) -> tuple[Ints, Ints]:
        """Where each slot begins in this run, and how often it is there."""
        if self.starts is None:
            begin = np.searchsorted(self.slots, slots, "left")
            return begin, np.searchsorted(self.slots, slots, "right") - begin
        at = slots - self.low
        inside = (at >= 0) & (at <= self.high - self.low)
        at = np.where(inside, at, 0)
        begin = self.starts[at]
        return begin, np.where(inside, self.starts[at + 1] - begin, 0)

    @property
    def nbytes(self) -> int:
        return self.slots.nbytes + self.ids.nbytes + (0 if self.starts is None else self.starts.nbytes)


class SlotRuns:
    """Which ids belong to a slot. A version is the tuple of its runs, which never change."""

    def __init__(self) -> None:
        self.runs: tuple[Run, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self.runs)

    def append(self, slots: Ints, ids: Ints) -> None:
        """More ids, each higher than all before."""
        if not len(slots):
            return
        merged = [(slots, ids)]
        rows, runs = len(slots), list(self.runs)
        while runs and len(runs[-1].ids) <= 2 * rows and len(runs[-1].ids) + rows <= MAX_RUN:
            last = runs.pop()
            merged.append((last.slots, last.ids))
            rows += len(last.ids)
        merged.reverse()
        run = Run.of(np.concatenate([slots for slots, _ in merged]), np.concatenate([ids for _, ids in merged]))
        self.runs = (*runs, run)

    def find(self, slots: Ints) -> tuple[Ints, Ints]:
        """All pairs (place in `slots`, id) of these slots, -1 among them for none; ids of a place rise."""
        places: list[Ints] = []
        found: list[Ints] = []
        known = np.flatnonzero(slots >= 0)
        if len(known):
            wanted = slots[known]
            low, high = int(wanted.min()), int(wanted.max())
            for run in self.runs:
                if run.high < low or run.low > high:
                    continue
                begin, count = run.span(wanted)
                hit = np.flatnonzero(count)
                if not len(hit):
                    continue
                count = count[hit]
                total = int(count.sum())
                # Counting up from each begin: 0..total less where each stretch began.
                offset = np.repeat(begin[hit] - (np.cumsum(count) - count), count)
                places.append(np.repeat(known[hit], count))
                found.append(run.ids[offset + np.arange(total)])
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        if len(found) == 1:
            return places[0], found[0]
        return np.concatenate(places), np.concatenate(found)
