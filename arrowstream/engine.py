"""Which of Polars' engines runs a query over frames."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Engine: TypeAlias = Literal["in-memory", "auto"]

JOINING: Final[Engine] = "in-memory"
"""For joins and sorts of frames: it is the faster one up to millions of rows."""

_FEW: Final = 1 << 15


def few(rows: int | None) -> bool:
    """Whether so many rows are few: then what it takes to begin counts more than what each row takes."""
    return rows is not None and rows <= _FEW


def engine(rows: int | None) -> Engine:
    """The engine for a query over so many rows; None where nobody knows how many.

    The streaming engine, which Polars takes by itself, needs 0.2 to 0.4 ms to get going; beyond some 50,000 rows it
    groups faster than the one in memory.
    """
    return "in-memory" if few(rows) else "auto"
