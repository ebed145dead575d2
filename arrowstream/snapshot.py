"""The answer to a query: rows as they were at one instant, kept as Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from arrowstream.connectors.plain import with_durations
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
        """The rows as a Polars frame, without a copy. Raises `QueryError` for a column of a type that Polars lacks."""
        try:
            return pl.DataFrame(pl.from_arrow(self._table))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, TypeError, ValueError):
            raise self._not_in_polars() from None

    def _not_in_polars(self) -> QueryError:
        for column in self._table.schema:
            if (unknown := _unknown_to_polars(column.type)) is not None:
                return QueryError(
                    f"column {column.name!r} of type {column.type} holds {unknown}, for which Polars has no type: "
                    "take something else in the query, such as epoch(...) of an interval or ::VARCHAR of any value; "
                    "to_arrow_table() and fetchall() give it as it is"
                )
        return QueryError(f"Polars cannot take these columns: {self._table.schema}")

    def df(self) -> pd.DataFrame:
        """The rows as a pandas frame; raises `MissingExtraError` without pandas."""
        try:
            import pandas as pd  # noqa: F401
        except ImportError as error:
            raise missing_extra("pandas", "pandas") from error
        try:
            return self._table.to_pandas()
        except (pa.ArrowException, ValueError, OverflowError, NotImplementedError) as error:
            raise QueryError(
                f"pandas cannot take these columns: {error}; to_arrow_table() gives them as they are"
            ) from None

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
        return zip(*map(self._values, self._table.column_names), strict=True)

    def _values(self, name: str) -> list[Any]:
        column = self._table.column(name)
        try:
            values: list[Any] = column.to_pylist()
            return values
        except (ValueError, OverflowError, pa.ArrowException) as error:
            raise QueryError(
                f"column {name!r} of type {column.type} holds what Python has no value for ({error}): take ::VARCHAR "
                "of it in the query, or to_arrow_table()"
            ) from None

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
        column = with_durations(column)
        if pa.types.is_timestamp(column.type) and column.type.tz == "Etc/UTC":
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))
        columns.append(column)
    return pa.table(columns, names=names)


def _unknown_to_polars(kind: pa.DataType) -> str | None:
    if pa.types.is_interval(kind):
        return "intervals with months"
    if pa.types.is_union(kind):
        return "values of several types"
    if pa.types.is_decimal256(kind):
        return "decimals of more than 38 digits"
    if isinstance(kind, pa.BaseExtensionType):
        return f"values of the type {kind.extension_name}"
    return next((found for i in range(kind.num_fields) if (found := _unknown_to_polars(kind.field(i).type))), None)
