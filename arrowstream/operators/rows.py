"""Row-local operators: no state, the same on rows that come and on rows that are taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import duckdb
import polars as pl

from arrowstream.connectors.retries import NO_RETRIES, Retries
from arrowstream.errors import PlanError, kind_of
from arrowstream.operators.changes import Changes, to_arrow, union
from arrowstream.operators.moment import Moment
from arrowstream.plan.nodes import Step
from arrowstream.usercode import point_at


class RowsOperator:
    """Recorded LazyFrame calls, replayed on the batch; it stays lazy."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return inputs[0].map(self._replay)

    def _replay(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        for step in self.steps:
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

    def __init__(
        self, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pl.Schema, retries: Retries = NO_RETRIES
    ) -> None:
        self._function, self._schema, self._retries = function, schema, retries

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return inputs[0].map(lambda frame: self._run(frame.collect()).lazy())

    def _run(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.is_empty():
            return self._schema.to_frame()
        try:
            result = self._retries.call(self._function, frame)
        except Exception as error:
            point_at(error, at_fault(frame, self._function))
            raise
        if not isinstance(result, pl.DataFrame):
            raise PlanError(f"map_batches: the function gave {kind_of(result)}, it must give a DataFrame")
        if result.schema != self._schema:
            raise PlanError(f"map_batches: the function gave {dict(result.schema)}, at first {dict(self._schema)}")
        return result


def at_fault(frame: pl.DataFrame, function: Callable[[pl.DataFrame], object]) -> pl.DataFrame:
    """Up to five rows for which a row-local function fails, found by trying it on ever fewer rows; where it does not
    fail again, or the search takes long, the first rows of those among which it failed."""
    until = time.monotonic() + SEARCH_SECONDS

    def fails(rows: pl.DataFrame) -> bool:
        try:
            function(rows)
        except BaseException:  # a panic of a native library is none of `Exception`
            return True
        return False

    found: list[pl.DataFrame] = []
    rest = frame
    while rest.height and len(found) < FAULTS and (not found or fails(rest)):
        start, size = 0, rest.height
        while size > 1 and time.monotonic() < until:
            half = size // 2
            if fails(rest.slice(start, half)):
                size = half
            elif fails(rest.slice(start + half, size - half)):
                start, size = start + half, size - half
            else:
                break
        if size > 1:  # not by one row alone, or not again
            return pl.concat([*found, rest.slice(start, size)]).head(FAULTS)
        found.append(rest.slice(start, 1))
        rest = rest.slice(start + 1)
    return pl.concat(found) if found else frame


FAULTS: Final = 5
"""Rows that an error shows at most."""

SEARCH_SECONDS: Final = 1.0
"""How long the rows at fault are looked for: the function may be slow, and the run has failed already."""


class UnionOperator:
    """All inputs together, in the order in which they were named."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)

    def process(self, inputs: Sequence[Changes], moment: Moment) -> Changes:
        return union(part.map(lambda frame: frame.select(self._columns)) for part in inputs)
