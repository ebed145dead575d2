"""The console sink: what a person sees."""

from __future__ import annotations

import pyarrow as pa
import pytest

from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract, Upsert
from arrowstream.connectors.sink import Receipt
from arrowstream.errors import PlanError
from arrowstream.sinks.console import ConsoleSink
from arrowstream.testing.sink_suite import SCHEMA, rows


def printed(capsys: pytest.CaptureFixture[str], kind: ChangeKind, *batches: ChangeBatch, rows: int = 20) -> str:
    committer = ConsoleSink(rows=rows, width=60).bind(SCHEMA, kind).committer()
    for batch_id, changes in enumerate(batches):
        committer.commit(batch_id, [Receipt({}, (changes,))])
        committer.commit(batch_id, [Receipt({}, (changes,))])
    return capsys.readouterr().out


def test_appended_rows_are_shown_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    """Each batch once, with how many rows it has, and no more of them than asked for."""
    nothing = ChangeBatch(pa.Table.from_batches([], SCHEMA))
    out = printed(capsys, Append(), ChangeBatch(rows(a=1)), nothing, ChangeBatch(rows(b=1, c=2, d=3)), rows=2)
    assert out == (
        "console · batch 0 · 1 row\n"
        "╭─────┬───────╮\n"
        "│ key │ value │\n"
        "│ str │ int64 │\n"
        "├─────┼───────┤\n"
        "│ a   │     1 │\n"
        "╰─────┴───────╯\n"
        "console · batch 2 · 3 rows\n"
        "╭─────┬───────╮\n"
        "│ key │ value │\n"
        "│ str │ int64 │\n"
        "├─────┼───────┤\n"
        "│ b   │     1 │\n"
        "│ c   │     2 │\n"
        "╰─────┴───────╯\n"
        "… 1 more row\n"
    )


@pytest.mark.parametrize("kind", [Upsert(("key",)), Retract()], ids=["upsert", "retract"])
def test_updated_rows_are_shown_as_the_table_now(capsys: pytest.CaptureFixture[str], kind: ChangeKind) -> None:
    """A running count: everybody wants the counts, not the corrections."""
    second = ChangeBatch(rows(a=1, b=2), pa.array([-1, 1]))
    out = printed(capsys, kind, ChangeBatch(rows(a=1, c=3)), second)
    assert "console · batch 1 · 2 changes, 2 rows now\n" in out
    table = out[out.index("batch 1") :]
    assert "│ c   │     3 │" in table
    assert "│ b   │     2 │" in table
    assert "│ a " not in table


def test_options_are_checked_when_the_plan_is_made() -> None:
    with pytest.raises(PlanError, match="rows=0"):
        ConsoleSink(rows=0).bind(SCHEMA, Append())
    with pytest.raises(PlanError, match="one word"):
        ConsoleSink(name="my console").bind(SCHEMA, Append())
