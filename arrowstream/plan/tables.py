"""Tables that a stream is joined with: frames, files, queries, functions; read once, or again every so often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import polars as pl

from arrowstream import matching
from arrowstream.errors import PlanError
from arrowstream.plan.nodes import Node
from arrowstream.plan.unit import Unit, topological


@dataclass(frozen=True, eq=False)
class Table:
    """Rows that are there as a whole: `read` gives them; `refresh` seconds later, by the clock of the batches, again;
    infinitely many, where that is only when somebody asks.

    Made by `arrowstream.table(...)`.
    """

    read: Callable[[], pl.DataFrame]
    schema: pl.Schema
    text: str
    refresh: float | None = None

    def __str__(self) -> str:
        if self.refresh is None:
            return self.text
        return f"{self.text}, read again " + ("when asked" if self.refresh == inf else f"every {self.refresh:g} s")


@dataclass(frozen=True, slots=True)
class FrameRead:
    """A frame that is there already."""

    frame: pl.DataFrame

    def __call__(self) -> pl.DataFrame:
        return self.frame


@dataclass(frozen=True, slots=True)
class ParquetRead:
    """Parquet files by path, directory or pattern."""

    path: str

    def __call__(self) -> pl.DataFrame:
        return pl.scan_parquet(self.path).collect()


@dataclass(frozen=True, slots=True)
class DuckDBRead:
    """A query over a DuckDB file (or over none: DuckDB reads CSV, JSON and more by name)."""

    database: str | None
    query: str

    def __call__(self) -> pl.DataFrame:
        import duckdb

        with duckdb.connect(self.database or ":memory:", read_only=self.database is not None) as connection:
            found = pl.from_arrow(connection.sql(self.query).to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class TableJoin(Node):
    """Each row with its matches in a table, as the table is when the row comes."""

    input: Node
    table: Table
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        on = ", ".join(self.left_on)
        return f"Join {self.how} with table {self.table}" + (f" on {on}" if on else "")

    def join(self, rows: pl.LazyFrame, table: pl.LazyFrame) -> pl.LazyFrame:
        """The join itself."""
        if self.how == "cross":
            return matching.cross(rows, table, **self.options)
        types = self.input.schema
        return matching.join(rows, table, self.left_on, types, right_on=self.right_on, how=self.how, **self.options)


def refreshed_tables(unit: Unit) -> list[Table]:
    """The tables of a unit that are read again; their place here is their number."""
    tables = [node.table for node in topological(unit.outputs) if isinstance(node, TableJoin)]
    return list(dict.fromkeys(table for table in tables if table.refresh is not None))


def as_table(other: object) -> Table | None:
    """A frame, or a path of Parquet files, as a table; None for what is none."""
    match other:
        case Table():
            return other
        case pl.DataFrame():
            return Table(FrameRead(other), other.schema, f"DataFrame of {other.height} rows")
        case pl.LazyFrame():
            made = other.collect()
            return Table(FrameRead(made), made.schema, f"LazyFrame of {made.height} rows")
        case str() | Path():
            try:
                schema = pl.scan_parquet(str(other)).collect_schema()
            except (pl.exceptions.PolarsError, OSError) as error:
                raise PlanError(f"join: {str(other)!r} cannot be read as Parquet: {error}") from None
            return Table(ParquetRead(str(other)), schema, Path(str(other)).name)
    return None
