"""Tables for people: text for terminals, HTML for notebooks.

print(as_text(frame))
as_html(frame)          # what `_repr_html_` gives
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from arrowstream.connectors.texttable import cell_texts, is_number, more_rows, text_table, type_name

if TYPE_CHECKING:
    from arrowstream.schedule.progress import Progress

_TABLE = "border-collapse:collapse;border:none;font-size:0.9em;background:transparent;color:inherit"
_HEAD = "padding:0.25em 0.8em;border-bottom:1px solid rgba(128,128,128,0.6);background:transparent;color:inherit"
_CELL = "padding:0.2em 0.8em;border-bottom:1px solid rgba(128,128,128,0.2);background:transparent;color:inherit"
_FAILURE = (
    "border-left:3px solid currentColor;padding:0.2em 0.6em;margin:0.3em 0;white-space:pre-wrap;overflow-wrap:anywhere"
)
_FAINT = "opacity:0.6;font-weight:normal;font-size:0.85em"


def as_text(frame: pl.DataFrame | pa.Table, *, rows: int = 20, width: int | None = None) -> str:
    """A box of at most `rows` rows, as wide as the terminal (or `width` characters)."""
    return text_table(_head(frame, rows), rows=rows, width=width, total=len(frame))


def as_html(frame: pl.DataFrame | pa.Table, *, rows: int = 20, caption: str = "") -> str:
    """A table element of at most `rows` rows, everything escaped.

    Its style is its own and without a colour, so that it can be read on a light page and on a dark one.
    """
    table = _head(frame, rows)
    columns = [cell_texts(column) for column in table.columns]
    sides = ["right" if is_number(kind) else "left" for kind in table.schema.types]
    heads = "".join(
        f'<th style="{_HEAD};text-align:{side}">{html.escape(field.name)}'
        f'<div style="{_FAINT}">{html.escape(type_name(field.type))}</div></th>'
        for field, side in zip(table.schema, sides, strict=True)
    )
    lines = (
        "".join(
            f'<td style="{_CELL};text-align:{side}">{html.escape(text)}</td>'
            for text, side in zip(row, sides, strict=True)
        )
        for row in zip(*columns, strict=True)
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    below = " · ".join(filter(None, (more_rows(len(frame) - table.num_rows), caption)))
    foot = f'<div style="{_FAINT}">{html.escape(below)}</div>' if below else ""
    return f'<div><table style="{_TABLE}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{foot}</div>'


def html_schema(schema: pl.Schema, kind: str, plan: str) -> str:
    """A stream frame for a notebook: its columns and types, what kind of changes it makes, the picture of its plan."""
    rows = "".join(
        f'<tr><td style="{_CELL};text-align:left">{html.escape(name)}</td>'
        f'<td style="{_CELL};text-align:left;opacity:0.7">{html.escape(str(dtype))}</td></tr>'
        for name, dtype in schema.items()
    )
    return (
        f'<div><div style="{_FAINT}">stream · {html.escape(kind)}</div>'
        f'<table style="{_TABLE}"><tbody>{rows}</tbody></table>'
        f"{_folded(plan)}</div>"
    )


def _folded(plan: str) -> str:
    """The picture of a plan, shown when it is asked for."""
    return f'<details><summary style="{_FAINT}">plan</summary>{plan}</details>' if plan else ""


def html_context(
    name: str, state: str, tables: Sequence[str], progress: Progress, plan: str = "", failure: str = ""
) -> str:
    """A context for a notebook: its state, why it failed if it did, what SQL can ask for, how far it is, what it wants
    to be known, its plan."""
    last = progress.last
    facts = {
        "batches": f"{progress.batches:,}",
        "rows in": f"{progress.rows_in:,}",
        "changes out": f"{sum(progress.rows_out.values()):,}",
        "dead letters": f"{progress.dead_letters:,}" if progress.dead_letters else "",
        "rows lost": f"{progress.lost_rows:,}" if progress.lost_rows else "",
        "last batch": f"{last.seconds * 1000:,.1f} ms" if last is not None else "",
        "lag": f"{last.lag * 1000:,.0f} ms" if last is not None else "",
        "waiting": f"{last.waiting_rows:,} rows" if last is not None and last.waiting_rows else "",
        "tables": ", ".join(tables) or "none yet",
    }
    rows = "".join(
        f'<tr><td style="{_CELL};opacity:0.7">{html.escape(fact)}</td>'
        f'<td style="{_CELL};text-align:left">{html.escape(value)}</td></tr>'
        for fact, value in facts.items()
        if value
    )
    notes = "".join(f'<div style="{_FAINT}">{html.escape(note)}</div>' for note in list(progress.notes)[-5:])
    title = f"<b>{html.escape(name)}</b> · {f'<b>{html.escape(state)}</b>' if failure else html.escape(state)}"
    if failure:
        title += f'<div style="{_FAILURE}">{html.escape(failure)}</div>'
    return f'<div>{title}<table style="{_TABLE}"><tbody>{rows}</tbody></table>{notes}{_folded(plan)}</div>'


def _head(frame: pl.DataFrame | pa.Table, rows: int) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame.slice(0, rows)
    wide = pl.selectors.by_dtype(pl.Int128, pl.UInt128)  # Arrow has no such integers
    return frame.head(rows).with_columns(wide.cast(pl.String)).to_arrow(compat_level=pl.CompatLevel.newest())
