"""Random rows for random programs: nulls, NaN, both zeros, many duplicates, and disorder within the delay."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import polars as pl
from spans import Span

_VALUES: Mapping[str, Callable[[random.Random], Any]] = {
    "k": lambda chance: chance.choice(["a", "b", "c", "", None]),
    "g": lambda chance: chance.choice([0.0, -0.0, float("nan"), 1.5, None]),
    "i": lambda chance: chance.choice([None, *range(-3, 5)]),
    "j": lambda chance: chance.choice([None, *range(-2, 3)]),
    "f": lambda chance: chance.choice([None, float("nan"), -0.0, *(n / 4 for n in range(-8, 9))]),
    "h": lambda chance: chance.choice([None, 0.0, *(n / 2 for n in range(-4, 5))]),
    "b": lambda chance: chance.choice([None, True, False]),
    "l": lambda chance: chance.choice([None, [], [1], [2, None], [0, 1, 1]]),
    "m": lambda chance: chance.choice([None, *(Decimal(n) / 4 for n in range(-4, 9))]),
    "e": lambda chance: chance.choice([None, "x", "y", "z"]),
}


def random_rows(
    schema: pl.Schema, span: Span, chance: random.Random, *, most: int = 25, delay: int = 3
) -> pl.DataFrame:
    """Up to so many rows; no time is more than `delay` units below one that came before."""
    count = chance.choice([0, 1, 2, 5, most, most])
    counts = [chance.randint(0, chance.choice([3, 20, 60])) for _ in range(count)]
    counts = sorted(counts, key=lambda each: each + chance.uniform(0, delay * 0.99))
    columns: dict[str, Any] = {}
    for name, dtype in schema.items():
        if name == "t":
            columns[name] = span.times([None if chance.random() < 0.03 else each for each in counts])
        else:
            columns[name] = pl.Series([_VALUES[name](chance) for _ in counts], dtype=dtype)
    return pl.DataFrame(columns, schema=schema)


def random_cut(rows: Mapping[str, pl.DataFrame], chance: random.Random) -> list[dict[str, pl.DataFrame]]:
    """The same rows in random pieces, some of them empty."""
    count = chance.choice([1, 2, 3, 5, 8])
    pieces: list[dict[str, pl.DataFrame]] = [{} for _ in range(count)]
    for name, frame in rows.items():
        at = [0, *sorted(chance.randint(0, frame.height) for _ in range(count - 1)), frame.height]
        for number in range(count):
            pieces[number][name] = frame.slice(at[number], at[number + 1] - at[number])
    return pieces
