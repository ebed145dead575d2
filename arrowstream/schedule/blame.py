"""Who is at fault when a step fails: the node of the plan, the line of the user's code, the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import polars as pl

from arrowstream.errors import BatchError, failure_text
from arrowstream.operators.changes import Changes
from arrowstream.operators.moment import Moment
from arrowstream.operators.program import Program, ProgramStep, Transform, Write
from arrowstream.operators.rows import FAULTS, RowsOperator, at_fault
from arrowstream.plan.nodes import Step
from arrowstream.schedule.deadletters import as_json
from arrowstream.schedule.partition import Partition
from arrowstream.usercode import line_of, rows_pointed_at

UNKNOWN_FILE = "<dynamic-code>"
"""What cloudpickle says a function is from."""

_LONGEST = 100
"""Characters of a node's label in a message."""


def blamed(
    error: BaseException, partition: Partition, step: ProgramStep, values: Mapping[int, Changes], moment: Moment
) -> BatchError:
    """The error of a batch for what a step raised.

    Frames are lazy, so it may have been raised far from where the fault is: by whoever first looked at the rows. What
    leads to the step is therefore run again, node by node, until one fails.
    """
    culprit = next((each for each in _before(partition.program, step) if _fails(values.get(each.number))), step)
    where, line, rows = _name(culprit), line_of(error) or culprit.node.line, rows_pointed_at(error)
    call_line = ""
    operator = partition.transforms.get(culprit.number)
    if rows is None and isinstance(operator, RowsOperator):
        found = _call_at_fault(operator.steps, values[culprit.inputs[0]])
        if found is not None:
            call, rows = found
            call_line = call.line
            where, line = _cut(str(call)), line_of(error) or call_line
    if line.startswith(UNKNOWN_FILE):  # a function within an expression, on a worker: Polars has pickled it
        used = call_line or culprit.node.line
        line = f"line {line.removeprefix(UNKNOWN_FILE + ':')}, used at {used}"
    shown = [] if rows is None else [text for text in as_json(rows.head(FAULTS)) if text is not None]
    return BatchError(failure_text(error, where, line, shown)).located(
        batch_id=moment.batch, where=where, line=line, rows=shown
    )


def _before(program: Program, step: ProgramStep) -> list[ProgramStep]:
    """The row-local steps of the same stage from which this one gets its rows, in order."""
    steps = program.steps
    found: set[int] = set()
    ways = list(step.inputs)
    while ways:
        at = steps[ways.pop()]
        if at.stage == step.stage and at.number not in found:
            found.add(at.number)
            ways += at.inputs
    return [steps[number] for number in sorted(found) if isinstance(steps[number].work, Transform)]


def _fails(changes: Changes | None) -> bool:
    if changes is None:
        return False
    try:
        changes.collect()
    except BaseException:
        return True
    return False


def _call_at_fault(steps: Sequence[Step], rows: Changes) -> tuple[Step, pl.DataFrame] | None:
    """Which of several calls fails, one after the other, and the rows for which it does."""
    try:
        collected = rows.collect()
    except BaseException:
        return None
    for lazy in (collected.added, collected.removed):
        frame = None if lazy is None else lazy.collect()
        for call in steps if frame is not None else ():
            assert frame is not None
            try:
                frame = _run(call, frame)
            except BaseException:
                return call, at_fault(frame, partial(_run, call))
    return None


def _run(call: Step, frame: pl.DataFrame) -> pl.DataFrame:
    return call(frame.lazy()).collect()


def step_name(program: Program, number: int) -> str:
    """The node, or the output, of a step that somebody was in; before it what is row-local and run together with it."""
    step = program.steps[number]
    before = [_name(each) for each in _before(program, step)]
    return " -> ".join([*before, _name(step)])


def _name(step: ProgramStep) -> str:
    if isinstance(step.work, Write):
        return f"output {step.work.sink.name}"
    return _cut(step.node.label)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
