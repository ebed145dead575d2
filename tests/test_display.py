"""Tables for people: text and HTML."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from html.parser import HTMLParser

import polars as pl
import pyarrow as pa
import pytest

from arrowstream.connectors.texttable import text_table
from arrowstream.display import as_html, as_text, html_schema


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    frame = pl.DataFrame({"word": ["a", None], "count": [7, 1000], "share": [0.5, 1e20], "good": [True, None]})
    assert as_text(frame, width=80).splitlines() == [
        "╭──────┬───────┬─────────┬──────╮",
        "│ word │ count │   share │ good │",
        "│ str  │ int64 │ float64 │ bool │",
        "├──────┼───────┼─────────┼──────┤",
        "│ a    │     7 │     0.5 │ true │",
        "│ null │  1000 │   1e+20 │ null │",
        "╰──────┴───────┴─────────┴──────╯",
    ]


@pytest.mark.parametrize("width", [20, 37, 80, 200])
def test_a_table_fits_the_terminal(width: int) -> None:
    """Long cells are cut, and columns left out where that is not enough; wide characters count twice."""
    frame = pl.DataFrame({f"column {i}": ["日本語の長い文字列" * i, "short"] for i in range(12)})
    lines = as_text(frame, width=width).splitlines()
    widths = {len(line) + sum(ord(char) > 0x2FFF for char in line) for line in lines}
    assert len(widths) == 1
    assert widths.pop() <= width


def test_rows_that_are_left_out_are_counted() -> None:
    frame = pl.DataFrame({"x": range(1234567)})
    assert as_text(frame, rows=2).endswith("\n… 1,234,565 more rows")
    assert as_text(frame.head(3), rows=2).endswith("\n… 1 more row")
    assert as_text(frame.clear()).count("\n") == 4
    assert text_table(pa.table({"x": [1, 2]}), rows=5, total=10).endswith("… 8 more rows")


def test_values_of_every_kind_can_be_read() -> None:
    frame = pl.DataFrame(
        {
            "line": ["two\nlines\x1b[31m"],
            "time": [dt.datetime(2026, 11, 22, 1, 2, 3, 450000)],
            "zone": pl.Series([dt.datetime(2026, 11, 22)], dtype=pl.Datetime("ns", "UTC")),
            "span": [dt.timedelta(seconds=5)],
            "price": pl.Series([Decimal("1.50")]),
            "nested": [[{"a": 1.5, "b": None}]],
            "big": pl.Series([2**100], dtype=pl.Int128),
            "kind": pl.Series(["x"], dtype=pl.Categorical),
            "bytes": [b"\x00a"],
            "nothing": [None],
        }
    )
    text = as_text(frame, width=400)
    for shown in (
        r"two\nlines\x1b[31m", "2026-11-22 01:02:03.45 ", "2026-11-22 00:00:00Z", "0:00:05", "1.50",
        "[{a: 1.5, b: null}]", str(2**100), "│ cat", r"b'\x00a'",
    ):  # fmt: skip
        assert shown in text, text


class Checker(HTMLParser):
    """Tags that are closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_is_escaped_and_whole() -> None:
    """A stream from the internet, shown in a notebook."""
    frame = pl.DataFrame({"<b>name</b>": ["<script>alert(1)</script>", "&amp;", "x"]})
    checker = Checker()
    checker.feed(as_html(frame, rows=2, caption="a & b"))
    assert checker.open == []
    assert "<b>name</b>" in checker.texts
    assert "<script>alert(1)</script>" in checker.texts
    assert "… 1 more row · a & b" in checker.texts


def test_html_can_be_read_on_light_and_dark() -> None:
    """No colour of its own but half-transparent grey."""
    html = as_html(pa.table({"x": [1]})) + html_schema(pl.Schema({"x": pl.Int64()}), "append-only", "Source\n  Rows")
    assert "color:inherit" in html
    assert "#" not in html
    assert "white" not in html
