"""Lines of a benchmark's report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def row(name: str, value: str, target: str = "", reached: bool | None = None) -> None:
    """One line: what was measured, the figure, the target and whether it was reached."""
    mark = "" if reached is None else ("  reached" if reached else "  MISSED")
    print(f"  {name:<58} {value:>18}  {target:<24}{mark}", flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
