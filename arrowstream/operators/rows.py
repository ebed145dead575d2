"""Row-local operators: no state, the same on rows that come and on rows that are taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import duckdb
import polars as pl

from arrowstream.errors import PlanError
from arrowstream.operators.changes import Changes, to_arrow, union
from arrowstream.operators.moment import Moment
from arrowstream.plan.nodes import Step


class RowsOperator:
    """Recorded LazyFrame calls, replayed on the batch; it stays lazy."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return inputs[0].map(self._replay)

    def _replay(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        for step in self._steps:
            frame = step(frame)
        return frame


class SqlOperator:
    """A row-local statement over the batch, called `self`, by DuckDB."""

    def __init__(self, statement: str, schema: pl.Schema) -> None:
        self._statement, self._schema = statement, schema
        # A worker has its part of the cores, which Polars was told when the process started.
        self._connection = duckdb.connect(":memory:", config={"threads": pl.thread_pool_size()})

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return inputs[0].map(self._run)

    def _run(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return run_row_sql(self._connection, self._statement, frame.collect(), self._schema).lazy()


def run_row_sql(
    connection: duckdb.DuckDBPyConnection, statement: str, frame: pl.DataFrame, schema: pl.Schema | None
) -> pl.DataFrame:
    """The statement's result over `frame`, cast to `schema` (DuckDB changes zones, categories and the like)."""
    connection.register("self", to_arrow(frame))
    try:
        result = pl.from_arrow(connection.sql(statement).to_arrow_table())
    finally:
        connection.unregister("self")
    assert isinstance(result, pl.DataFrame)
    return result if schema is None or result.schema == schema else result.cast(dict(schema))  # type: ignore[arg-type]


class MapBatchesOperator:
    """The user's function over the batch as a DataFrame; its columns are held to what it gave at the start."""

    def __init__(self, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pl.Schema) -> None:
        self._function, self._schema = function, schema

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return inputs[0].map(lambda frame: self._run(frame.collect()).lazy())

    def _run(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.is_empty():
            return self._schema.to_frame()
        result = self._function(frame)
        if not isinstance(result, pl.DataFrame):
            raise PlanError(f"map_batches: the function gave {type(result).__name__}, it must give a DataFrame")
        if result.schema != self._schema:
            raise PlanError(f"map_batches: the function gave {dict(result.schema)}, at first {dict(self._schema)}")
        return result


class UnionOperator:
    """All inputs together, in the order in which they were named."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return union(part.map(lambda frame: frame.select(self._columns)) for part in inputs)
