"""The answer to a query: rows as they were at one instant, kept as Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.display import as_html, as_text
from arrowstream.errors import QueryError, missing_extra

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


class Snapshot:
    """Rows that do not change any more, whatever the stream does.

        top = ctx.sql("SELECT * FROM counts ORDER BY count DESC LIMIT 5")
        top.pl()                # also .df(), .to_arrow_table(), .fetchall(); or just look at it

    Times with a zone come in UTC. Columns of equal names are told apart by a number behind.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = _plain(table)

    @property
    def columns(self) -> list[str]:
        return list(self._table.column_names)

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    def pl(self) -> pl.DataFrame:
        """The rows as a Polars frame, without a copy."""
        for column in self._table.schema:
            if pa.types.is_interval(column.type):
                raise QueryError(
                    f"column {column.name!r} holds intervals with months, for which Polars has no type: "
                    "take another unit in the query, such as epoch(...)"
                )
        return pl.DataFrame(pl.from_arrow(self._table))

    def df(self) -> pd.DataFrame:
        """The rows as a pandas frame; raises `MissingExtraError` without pandas."""
        try:
            import pandas as pd  # noqa: F401
        except ImportError as error:
            raise missing_extra("pandas", "pandas") from error
        return self._table.to_pandas()

    def to_arrow_table(self) -> pa.Table:
        return self._table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """So that Polars, DuckDB, pandas and PyArrow take it as a table: `duckdb.sql("FROM top")`."""
        return self._table.__arrow_c_stream__(requested_schema)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows as tuples of Python values."""
        return list(self)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row, if there is one; each call gives the same."""
        return next(iter(self), None)

    def show(self, rows: int = 20) -> None:
        """Print the first rows as a table."""
        print(as_text(self._table, rows=rows))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*(column.to_pylist() for column in self._table.columns), strict=True)

    def __repr__(self) -> str:
        return as_text(self._table)

    def _repr_html_(self) -> str:
        return as_html(self._table, caption=f"{len(self):,} row{'s' * (len(self) != 1)}")


def _plain(table: pa.Table) -> pa.Table:
    """DuckDB's answer with unique column names, durations where it has intervals, and UTC under its usual name."""
    names: list[str] = []
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        number = 1
        while name in names or (number > 1 and name in table.column_names):
            name = f"{name.removesuffix(f'_{number - 1}')}_{number}"
            number += 1
        names.append(name)
        if pa.types.is_interval(column.type):
            column = _durations(column)
        elif pa.types.is_timestamp(column.type) and column.type.tz == "Etc/UTC":
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))
        columns.append(column)
    return pa.table(columns, names=names)


_INTERVAL = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])


def _durations(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Intervals of days and less as durations in microseconds; intervals with months stay as they are."""
    chunks = []
    for chunk in column.chunks:
        parts = np.frombuffer(chunk.buffers()[1], _INTERVAL, count=len(chunk), offset=chunk.offset * _INTERVAL.itemsize)
        valid = ~np.asarray(chunk.is_null())
        if parts["months"][valid].any():
            return column
        microseconds = parts["days"].astype(np.int64) * 86_400_000_000 + parts["nanoseconds"] // 1000
        chunks.append(pa.array(microseconds, pa.int64(), mask=~valid).cast(pa.duration("us")))
    return pa.chunked_array(chunks, pa.duration("us"))
