"""What a reading in one shot goes by: the clock, Polars' engine, and names that meet no column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import polars as pl

Engine: TypeAlias = Literal["auto", "in-memory", "streaming"]


@dataclass(frozen=True, slots=True)
class Once:
    """`now` is what the clock shows, in microseconds since the epoch."""

    now: int
    engine: Engine

    def rows(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """The rows in hand, for what is a loop or somebody else's function."""
        return frame.collect(engine=self.engine)


def unused(word: str, *taken: Iterable[str]) -> str:
    """A name that is none of these."""
    names = {name for each in taken for name in each}
    while word in names:
        word += "_"
    return word
