"""Values of text in bulk: the same as one by one, whatever they look like."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from arrowstream.connectors.formats.convert import convert, convert_each

SEEDS = [
    "1",
    "-5",
    "0x1f",
    "0XAB",
    "1.5",
    "1e5",
    "-1.5E-3",
    "inf",
    "-inf",
    "Infinity",
    "nan",
    "NaN",
    "true",
    "False",
    "T",
    "0",
    "2026-01-02",
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04",
    "2026-01-02T03:04:05+01:00",
    "12:30:00",
    "+5",
    "1_000",
    "1.",
    "-.5",
    ".5e3",
    "nan(1)",
    "1e400",
    "rubbish",
    "x0",
]
LETTERS = "0123456789+-.eExXaAbfFinNtTyrulsoYZ: _,/()"
TARGETS = [
    pa.int64(),
    pa.int8(),
    pa.uint64(),
    pa.float64(),
    pa.float32(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.decimal128(20, 3),
]


def texts(seed: int, count: int) -> list[str]:
    """Values, and values with some letters more, less or other."""
    chance = random.Random(seed)
    found = [*SEEDS, " 7", "7 ", ""]
    while len(found) < count:
        letters = list(chance.choice(SEEDS))
        for _ in range(chance.randint(0, 3)):
            place = chance.randint(0, len(letters))
            letters[place : place + chance.randint(0, 1)] = chance.choice([[], [chance.choice(LETTERS)]])
        found.append("".join(letters))
    return found


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_what_is_refused_in_bulk_is_refused_alone(target: pa.DataType) -> None:
    """A sender of rubbish is refused without a try for each value, and no value that is one goes with it."""
    column = pa.array(texts(7, 1500), pa.large_string())
    made, bad = convert_each(column, target)
    for row, text in enumerate(column):
        try:
            alone = convert(pa.array([text.as_py()], pa.large_string()), target)
        except pa.ArrowInvalid:
            assert row in bad, text
            assert made[row].as_py() is None
        else:
            assert row not in bad, text
            assert made[row].equals(alone[0]) or str(made[row]) == str(alone[0])  # NaN is not equal to itself
