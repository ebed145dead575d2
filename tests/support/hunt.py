"""Random programs over random rows, cut at random, against the reading in one shot: `python tests/support/hunt.py`."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import lawful
import polars as pl
import pyarrow as pa
from programs import Fault, Program, Writer
from randomrows import random_cut, random_rows

import arrowstream as ars
from arrowstream.check import run_pieces
from arrowstream.oneshot.collect import collect

Pieces = Sequence[dict[str, pl.DataFrame]]


@dataclass(frozen=True)
class Case:
    """A program, its rows in pieces, and how many partitions share the work."""

    program: Program
    pieces: Pieces
    partitions: int

    @property
    def rows(self) -> dict[str, pl.DataFrame]:
        """What came in all, by source."""
        return {name: pl.concat([piece[name] for piece in self.pieces]) for name in self.pieces[0]}

    def __str__(self) -> str:
        rows = "".join(
            f"    {number}: {name!r}: {frame.rows()!r},\n"
            for number, piece in enumerate(self.pieces)
            for name, frame in piece.items()
        )
        return "\n".join([*self.program.lines, f"pieces, on {self.partitions} partitions:", rows])


def case_of(seed: int) -> Case:
    """The case of this number, always the same. Raises `Fault` where its program cannot be planned."""
    chance = random.Random(seed)
    writer = Writer(chance)
    program = writer.write()
    rows = {name: random_rows(schema, writer.span, chance) for name, schema in writer.sources.items()}
    used = program.frame()
    known = _sources(used)
    return Case(program, random_cut({name: rows[name] for name in known}, chance), chance.choice([1, 1, 2, 3]))


def _sources(frame: ars.StreamFrame) -> list[str]:
    from arrowstream.plan.nodes import SourceNode
    from arrowstream.plan.unit import topological

    return [node.name for node in topological([frame._node]) if isinstance(node, SourceNode)]


def fault_of(case: Case) -> str | None:
    """What is wrong with the answer to this case; None where nothing is."""
    try:
        frame = case.program.frame()
        letters: list[pa.Table] = []
        stream = run_pieces(frame._node, case.pieces, letters=letters, partitions=case.partitions)
        reasons = [reason for table in letters for reason in table["reason"].to_pylist()]
        if late := [reason for reason in reasons if "no event time" not in reason and "null" not in reason]:
            return f"{len(late)} rows are turned away that were within the delay: {late[0]}"
        oracle = collect(frame._node, case.rows)
        lawful.assert_same_rows(stream, oracle)
    except AssertionError as error:
        return f"{error}\nstream: {stream}\none shot: {oracle}" if "oracle" in locals() else f"{error}"
    except Exception as error:
        where = "".join(traceback.format_exception(error)[-3:])
        return f"{type(error).__name__}: {error}\n{where}"
    except pl.exceptions.PanicException as error:
        return f"a panic: {error}"
    return None


def smaller(case: Case, *, seconds: float = 60.0) -> Case:
    """A case that is wrong too and has less: lines, rows, pieces, partitions."""
    until = time.monotonic() + seconds
    shrunk = True
    while shrunk and time.monotonic() < until:
        shrunk = False
        for candidate in _candidates(case):
            if time.monotonic() > until:
                break
            if _runs(candidate) and fault_of(candidate) is not None:
                case, shrunk = candidate, True
                break
    return case


def _runs(case: Case) -> bool:
    """Whether the program can be planned."""
    try:
        return set(_sources(case.program.frame())) <= set(case.pieces[0])
    except Exception:
        return False


def _candidates(case: Case) -> list[Case]:
    found: list[Case] = []
    lines = case.program.lines
    for number in range(len(lines) - 1, -1, -1):
        rest = lines[:number] + lines[number + 1 :]
        if not rest:
            continue
        # A line less: whoever reads it reads what it read, or it was the answer.
        name, code = lines[number].split(" = ", 1)
        reads = [other.split(" = ")[0] for other in lines[:number] if _mentions(code, other.split(" = ")[0])]
        for read in reads or [""]:
            renamed = [_renamed(line, name, read) if read else line for line in rest]
            found.append(_fitting(replace(case, program=Program(renamed))))
    if case.partitions > 1:
        found.append(replace(case, partitions=1))
    for number in range(len(case.pieces) - 1):
        one, two = case.pieces[number : number + 2]
        together = {name: pl.concat([one[name], two[name]]) for name in one}
        found.append(replace(case, pieces=[*case.pieces[:number], together, *case.pieces[number + 2 :]]))
    for number, piece in enumerate(case.pieces):
        for name, frame in piece.items():
            for size in (frame.height, frame.height // 2, 1):
                if not size:
                    continue
                for start in range(0, frame.height, size):
                    left = pl.concat([frame.head(start), frame.slice(start + size)])
                    pieces = [dict(each) for each in case.pieces]
                    pieces[number][name] = left
                    found.append(replace(case, pieces=pieces))
    return found


def _mentions(code: str, name: str) -> bool:
    return any(f"{name}{mark}" in code for mark in (".", ",", ")", "]")) and name.startswith("f")


def _renamed(line: str, old: str, new: str) -> str:
    for mark in (".", ",", ")", "]"):
        line = line.replace(f"{old}{mark}", f"{new}{mark}")
    return line


def _fitting(case: Case) -> Case:
    """With the rows of the sources that are still there."""
    try:
        names = _sources(case.program.frame())
    except Exception:
        return case
    return replace(case, pieces=[{name: piece[name] for name in piece if name in names} for piece in case.pieces])


def hunt(
    seeds: Sequence[int],
    tell: Callable[[str], None],
    *,
    most: int = 10,
    shrink: float = 60.0,
    known: Sequence[str] = (),
) -> list[int]:
    """Try the cases of these numbers; the numbers of those that are wrong, told as they are found.

    Faults with a text of `known` in their message are only counted.
    """
    wrong: list[int] = []
    skipped = 0
    calls: Counter[str] = Counter()
    began = time.monotonic()
    for done, seed in enumerate(seeds, 1):
        try:
            case = case_of(seed)
            calls.update({_call(line) for line in case.program.lines})
            fault = fault_of(case)
        except Fault as error:
            wrong.append(seed)
            tell(f"--- program {seed}: {error}")
            continue
        if fault is not None and any(text in fault for text in known):
            skipped += 1
        elif fault is not None:
            wrong.append(seed)
            least = smaller(case, seconds=shrink)
            found = fault_of(least) or f"not wrong each time; at first\n{case}\n{fault}"
            tell(f"--- program {seed}:\n{least}\n{found}")
            if len(wrong) >= most:
                break
        if done % 250 == 0:
            tell(f"{done} programs, {len(wrong)} wrong, {skipped} known, {time.monotonic() - began:.0f} s")
    tell("of them with " + ", ".join(f"{name} {count}" for name, count in sorted(calls.items())))
    return wrong


def _call(line: str) -> str:
    """The call that a line makes."""
    for name in ("concat_history", "concat"):
        if f"ars.{name}(" in line:
            return name
    code = line.split(" = ", 1)[1]
    return code.split("(")[0].split(".")[-1] if ".read." not in code else "source"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the programs of another seed are others")
    parser.add_argument("--only", type=int, help="the number of one program, as it was told")
    parser.add_argument("--most", type=int, default=10, help="stop after so many that are wrong")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds to make a wrong one smaller")
    parser.add_argument("--known", action="append", default=[], help="a text in the message of faults not to show")
    given = parser.parse_args(arguments)
    first = given.seed * 1_000_000
    seeds = [given.only] if given.only is not None else range(first, first + given.programs)

    def tell(text: str) -> None:
        print(text, flush=True)

    return 1 if hunt(seeds, tell, most=given.most, shrink=given.shrink, known=given.known) else 0


if __name__ == "__main__":
    sys.exit(main())
