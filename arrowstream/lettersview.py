"""Dead letters for people: each with its place, its reason in full, and its text."""

from __future__ import annotations

import html
import shutil
from typing import Any

import polars as pl
import pyarrow as pa

from arrowstream.connectors.texttable import more_rows
from arrowstream.connectors.view import TableView
from arrowstream.display import as_html
from arrowstream.schedule.deadletters import DEAD_LETTER_SCHEMA, decoded, letter_place
from arrowstream.snapshot import Snapshot

SHOWN = 10
"""Dead letters that are printed at most."""


class DeadLetterSnapshot(Snapshot):
    """The dead letters as they were at one instant; a `Snapshot` that is printed one below the other, so that a reason
    is never cut off."""

    def __init__(self, view: TableView) -> None:
        super().__init__(pa.concat_tables([DEAD_LETTER_SCHEMA.empty_table(), *view.rows]))

    def show(self, rows: int = SHOWN) -> None:
        """Print the first of them."""
        print(self._text(rows))

    def __repr__(self) -> str:
        return self._text(SHOWN)

    def _text(self, rows: int) -> str:
        count = len(self)
        lines = [f"{count:,} dead letter{'s' * (count != 1)}"]
        width = max(shutil.get_terminal_size().columns - 9, 20)
        for letter in self._letters(rows):
            lines.append(f"{letter['place']} · batch {letter['batch']}")
            lines.append(f"  reason {letter['reason']}")
            text = letter["raw"]
            lines.append(f"  raw    {text if len(text) <= width else text[: width - 1] + '…'}")
        if more := more_rows(count - rows):
            lines.append(more)
        return "\n".join(lines)

    def _letters(self, rows: int) -> list[dict[str, Any]]:
        return [
            {
                "batch": letter["batch"],
                "place": letter_place(letter),
                "reason": letter["reason"],
                "raw": decoded(letter["raw"]),
            }
            for letter in self._table.slice(0, rows).to_pylist()
        ]

    def _repr_html_(self) -> str:
        schema = {"batch": pl.Int64, "place": pl.String, "reason": pl.String, "raw": pl.String}
        shown = pl.DataFrame(self._letters(SHOWN), schema=schema)
        below = more_rows(len(self) - SHOWN)
        foot = f"<div>{html.escape(below)}</div>" if below else ""
        return as_html(shown, rows=SHOWN, caption=f"{len(self):,} dead letter{'s' * (len(self) != 1)}") + foot
