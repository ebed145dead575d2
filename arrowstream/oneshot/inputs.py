"""Tables in place of the sources of a plan: which rows are whose, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import polars as pl
import pyarrow as pa

from arrowstream.errors import PlanError
from arrowstream.plan.nodes import Node, SourceNode
from arrowstream.plan.unit import topological

TableLike: TypeAlias = pl.DataFrame | pl.LazyFrame | pa.Table
"""What may stand in the place of a source."""

Tables: TypeAlias = TableLike | Mapping[str, TableLike]
"""The rows of the one source, or of each by its name."""


def rows_of_sources(node: Node, rows: Tables, where: str) -> dict[str, pl.LazyFrame]:
    """The rows of each source below `node`, by name, with the source's columns in their order.

    `where` is the call that an error names. Raises `PlanError` where the rows do not fit.
    """
    sources = {at.name: at.schema for at in topological([node]) if isinstance(at, SourceNode)}
    names = ", ".join(sources)
    if not isinstance(rows, Mapping):
        if len(sources) > 1:
            shape = ", ".join(f"{name!r}: ..." for name in sources)
            raise PlanError(
                f"{where}: the frame has {len(sources)} sources; give the rows of each, {where}({{{shape}}})"
            )
        rows = dict.fromkeys(sources, rows)
    if unknown := [name for name in rows if name not in sources]:
        raise PlanError(f"{where}: rows are given for {unknown[0]!r}, which is no source of the frame; it has {names}")
    if missing := [name for name in sources if name not in rows]:
        empty = f"{missing[0]!r}: frame.schema.to_frame()"
        raise PlanError(f"{where}: no rows are given for source {missing[0]!r}; if it has none, give {{{empty}}}")
    return {name: _fitting(_lazy(rows[name], name, where), schema, name, where) for name, schema in sources.items()}


def _lazy(rows: object, name: str, where: str) -> pl.LazyFrame:
    match rows:
        case pl.LazyFrame():
            return rows
        case pl.DataFrame():
            return rows.lazy()
        case pa.Table():
            found = pl.from_arrow(rows)
            assert isinstance(found, pl.DataFrame)
            return found.lazy()
    raise PlanError(
        f"{where}: the rows of source {name!r} are {type(rows).__name__}; give a DataFrame, a LazyFrame or a "
        "pyarrow.Table (of anything else make one first, pl.DataFrame(...))"
    )


def _fitting(rows: pl.LazyFrame, schema: pl.Schema, name: str, where: str) -> pl.LazyFrame:
    """The rows with exactly these columns."""
    found = rows.collect_schema()
    wrong = [
        *(f"column {column!r} is missing" for column in schema if column not in found),
        *(f"column {column!r} is too many" for column in found if column not in schema),
        *(
            f"column {column!r} is {found[column]} and should be {dtype}"
            for column, dtype in schema.items()
            if column in found and found[column] != dtype
        ),
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise PlanError(
            f"{where}: the rows do not fit source {name!r}: {wrong[0]}{more}; it has {dict(schema)}: "
            "select and cast before"
        )
    return rows if found.names() == schema.names() else rows.select(schema.names())
