"""Dead letters: rows of any type are told as JSON; a bounded sample is kept, and the exact count."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from arrowstream.connectors.source import REJECT_SCHEMA
from arrowstream.schedule.deadletters import KEPT_BYTES, KEPT_ROWS, DeadLetters, as_json, dead_letters, receipt_of

VALUES: dict[str, tuple[Any, Any, Any]] = {
    "integer": (pl.Int64, 7, 7),
    "float": (pl.Float32, 1.5, 1.5),
    "text": (pl.String, "ä", "ä"),
    "Boolean": (pl.Boolean, True, True),
    "bytes": (pl.Binary, b"\x00\xff", "AP8="),
    "Decimal": (pl.Decimal(10, 2), Decimal("1.25"), "1.25"),
    "date": (pl.Date, dt.date(2026, 1, 2), "2026-01-02"),
    "time": (pl.Time, dt.time(1, 2, 3), "01:02:03"),
    "datetime": (pl.Datetime("us"), dt.datetime(2026, 1, 2, 3), "2026-01-02 03:00:00.000000"),
    "Duration": (pl.Duration("us"), dt.timedelta(hours=1), "PT1H"),
    "Categorical": (pl.Categorical, "a", "a"),
    "Enum": (pl.Enum(["a"]), "a", "a"),
    "Int128": (pl.Int128, 2**100, str(2**100)),
    "Null": (pl.Null, None, None),
}


@pytest.mark.parametrize("kind", VALUES)
def test_each_type_alone_and_in_nests(kind: str) -> None:
    """A late row with a Duration among its columns ended the run."""
    dtype, value, shown = VALUES[kind]
    rows = pl.DataFrame(
        {
            "plain": pl.Series([value, None], dtype=dtype),
            "list": pl.Series([[value], None], dtype=pl.List(dtype)),
            "array": pl.Series([[value], None], dtype=pl.Array(dtype, 1)),
            "struct": pl.Series([{"x": value}, None], dtype=pl.Struct({"x": dtype})),
            "deep": pl.Series([[{"x": [value]}], []], dtype=pl.List(pl.Struct({"x": pl.List(dtype)}))),
        }
    )
    first, second = (json.loads(text) for text in as_json(rows))
    assert first == {
        "plain": shown,
        "list": [shown],
        "array": [shown],
        "struct": {"x": shown},
        "deep": [{"x": [shown]}],
    }
    assert second == {"plain": None, "list": None, "array": None, "struct": None, "deep": []}


def test_a_million_lines_of_garbage_do_not_fill_the_memory() -> None:
    """A video is put where NDJSON is read: every line is counted, and the last ones can be looked at."""
    letters = DeadLetters()
    for batch in range(10):
        raw = pa.array([b"x" * 200] * KEPT_ROWS, pa.large_binary())
        columns = {"raw": raw, "reason": pa.array(["no JSON"] * KEPT_ROWS, pa.large_string())}
        rejects = pa.table(
            [columns.get(f.name, pa.nulls(KEPT_ROWS, f.type)) for f in REJECT_SCHEMA], schema=REJECT_SCHEMA
        )
        letters.commit([receipt_of([dead_letters(batch, "files", "a", rejects)])])
    rows = letters.view().rows
    kept = sum(table.num_rows for table in rows)
    assert letters.total == 10 * KEPT_ROWS
    assert 1_000 < kept <= KEPT_ROWS
    assert sum(table.nbytes for table in rows) <= 1.1 * KEPT_BYTES
    assert {batch for table in rows for batch in table["batch"].to_pylist()} == {9}
