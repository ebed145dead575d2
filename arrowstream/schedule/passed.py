"""What a pass of some blocks through a stage has given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.ids import SourceId
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Late, Moment
from arrowstream.plan.eventtime import BEGINNING, FOREVER
from arrowstream.plan.nodes import Watermark

_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Seen:
    """The lowest and the highest time of a split's rows, in ticks."""

    low: int
    high: int


@dataclass(slots=True)
class Passed:
    """What a pass gives.

    `frames` go through the exchange, by step and name; `writes` into outputs. `values` are those of all steps, some
    still lazy. `times` are by watermark, source and split.

    Stage 0 keeps no state, so a pass over a block is the same whenever it is made, but for rows that the watermark or
    the clock of the batch would turn away: `holds` says that there are none.
    """

    frames: dict[tuple[int, str], pl.DataFrame] = field(default_factory=dict)
    writes: dict[int, ChangeBatch] = field(default_factory=dict)
    values: dict[int, Changes] = field(default_factory=dict)
    times: dict[tuple[int, SourceId, str], Seen] = field(default_factory=dict)
    turned_away: Sequence[Late] = ()

    def holds(self, marks: Sequence[Watermark], moment: Moment) -> bool:
        """Whether a pass that was made at no time in particular (`anytime`) would be the same at this moment.

        No row below lies before any of its watermarks, so none can be late for whatever comes after.
        """
        return all(
            moment.before[number] <= seen.low and seen.high <= latest(marks[number].max_ahead, moment)
            for (number, _, _), seen in self.times.items()
        )


def anytime(marks: Sequence[Watermark]) -> Moment:
    """The moment of a pass that is made before its batch: nothing is late yet, and nothing too far ahead."""
    return Moment(now=_NEVER, before=[BEGINNING] * len(marks), after=[BEGINNING] * len(marks))


def latest(max_ahead: int | None, moment: Moment) -> int:
    """The highest time, in ticks, that is not too far ahead."""
    return FOREVER if max_ahead is None or moment.now == _NEVER else int(moment.now * 1_000_000) + max_ahead
