"""The hunt: random programs of all kinds of nodes, cut at random, give what the reading in one shot gives."""

from __future__ import annotations

import random
from dataclasses import replace

import hunt
import polars as pl
import pytest
from programs import Program

PROGRAMS = 240


@pytest.mark.parametrize("part", range(6))
def test_random_programs_answer_as_in_one_shot(part: int) -> None:
    """Whatever users put together; `python tests/support/hunt.py` tries thousands."""
    told: list[str] = []
    first = part * 1_000
    assert not hunt.hunt(range(first, first + PROGRAMS // 6), told.append, shrink=20.0), "\n".join(told)


def test_a_fault_is_made_smaller_and_shown_as_a_program() -> None:
    """A function that is not row-local among others: what is left is the source and that line, and a few rows."""
    source = "f0 = ctx.read.memory({'t': pl.Int64(), 'k': pl.String(), 'i': pl.Int64()}, name='one')"
    lines = [
        source,
        "f1 = f0.with_watermark('t', 3)",
        "f2 = f1.filter(pl.col('i') > -10)",
        "f3 = f2.map_batches(lambda rows: rows.with_columns(r=pl.col('i').rank()))",
        "f4 = f3.select('t', 'r', 'i')",
        "f5 = f4.group_by('t').agg(pl.col('r').sum())",
    ]
    chance = random.Random(3)
    rows = [
        pl.DataFrame({"t": range(at, at + 6), "k": "a", "i": [chance.randint(0, 9) for _ in range(6)]}) for at in (0, 6)
    ]
    case = hunt.Case(Program(lines), [{"one": each} for each in rows], 2)
    assert hunt.fault_of(case) is not None
    least = hunt.smaller(case, seconds=20)
    assert least.program.lines == [source, "f3 = f0.map_batches(lambda rows: rows.with_columns(r=pl.col('i').rank()))"]
    assert (sum(piece["one"].height for piece in least.pieces), least.partitions) == (2, 1)
    assert "map_batches" in str(least)
    assert hunt.fault_of(replace(least, program=Program([source, "f1 = f0.select('i')"]))) is None
