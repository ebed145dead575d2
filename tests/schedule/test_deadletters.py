"""Dead letters: rows of any type are told as JSON."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from arrowstream.schedule.deadletters import as_json

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
