"""The stream frame: a dataframe that never ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from arrowstream import hints
from arrowstream.connectors.changes import Append, ChangeKind, Retract
from arrowstream.connectors.retries import Retries, as_retries
from arrowstream.errors import ArrowStreamError, NotRowLocalError, PlanError, kind_of, unknown_column
from arrowstream.names import check_names, refuse_twins
from arrowstream.plan.eventtime import check_time, duration_ticks
from arrowstream.plan.kinds import through, time_through
from arrowstream.plan.methods import METHODS, check_call, output_schema, settle
from arrowstream.plan.methods import Rows as RowsCall
from arrowstream.plan.nodes import MapBatches, Node, Output, Rows, SourceNode, Sql, Step, Union, Watermark
from arrowstream.plan.rowsql import check_row_sql
from arrowstream.plan.unit import topological
from arrowstream.usercode import calling_line

if TYPE_CHECKING:
    from polars._typing import ColumnNameOrSelector, IntoExpr

    from arrowstream.grouped import StreamGroupBy
    from arrowstream.oneshot.inputs import Tables
    from arrowstream.oneshot.once import Engine
    from arrowstream.windowed import StreamCounts, StreamRolling, StreamSessions, StreamWindows
    from arrowstream.write import WriteTo


class Plans(Protocol):
    """Who keeps the outputs (the context)."""

    def add_output(self, output: Output) -> None: ...

    def preview(self, node: Node, seconds: float) -> pl.DataFrame: ...


class StreamFrame:
    """Rows of a stream, and what is to be done with them; nothing runs until the context starts.

    Calls carry the names and arguments of `polars.LazyFrame`. Each is checked when it is made: a column that is
    not there, a wrong type, or an expression that would depend on how the stream is cut is an error at that
    line. A frame is never changed; every call gives a new one.
    """

    def __init__(self, node: Node, plans: Plans) -> None:
        check_names(node.schema, _call_of(node))
        self._node, self._plans = node, plans

    # --- what it is

    @property
    def schema(self) -> pl.Schema:
        """Column names and Polars types, known before any row has come."""
        return self._node.schema

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._node.schema.names()

    @property
    def kind(self) -> ChangeKind:
        """How rows change once they are out: append-only, updated by key, or taken back."""
        return self._node.kind

    @property
    def source(self) -> Any:
        """The source, of a frame that is just that: `ctx.read.memory(...).source.send(rows)`. Typed as Any, since what
        it can do is its connector's affair."""
        if not isinstance(self._node, SourceNode):
            raise PlanError("only the frame that ctx.read has given has a source")
        return self._node.source

    def explain(self, format: str = "text") -> str:
        """The plan: each node with its engine, the key it exchanges by, the kind of its changes, its event time and its
        state, by the name that `ctx.state` knows it by; state that grows for ever is called *unbounded*.

        As "text"; as "mermaid", a flowchart for Markdown pages; or as "svg", a picture by itself. A part that is
        read twice is there once. (Names are numbered where two are the same, so `ctx.explain` may count further.)
        """
        from arrowstream.diagram import draw

        return draw([self._node], format)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {dtype}" for name, dtype in self.schema.items())
        return f"<StreamFrame {columns}; {self.kind}>"

    def _repr_html_(self) -> str:
        from arrowstream.display import html_schema

        return html_schema(self.schema, str(self.kind), self.explain("svg"))

    # --- row-local calls

    def select(self, *exprs: IntoExpr | Iterable[IntoExpr], **named_exprs: IntoExpr) -> StreamFrame:
        """Choose and compute columns, row by row or over groups: `pl.col("x").rank().over("k")` keeps the rows of each
        group, and takes those back that change."""
        if over := self._over("select", exprs, named_exprs):
            return over
        return self._rows("select", *exprs, **named_exprs)

    def with_columns(self, *exprs: IntoExpr | Iterable[IntoExpr], **named_exprs: IntoExpr) -> StreamFrame:
        """Add or replace columns, row by row or over groups: `pl.col("x").sum().over("k")` keeps the rows of each
        group, and takes those back that change."""
        if over := self._over("with_columns", exprs, named_exprs):
            return over
        return self._rows("with_columns", *exprs, **named_exprs)

    def filter(self, *predicates: Any, **constraints: Any) -> StreamFrame:
        """Keep the rows for which all predicates are true."""
        return self._rows("filter", *predicates, **constraints)

    def remove(self, *predicates: Any, **constraints: Any) -> StreamFrame:
        """Leave out the rows for which all predicates are true."""
        return self._rows("remove", *predicates, **constraints)

    def explode(self, columns: Any, *more_columns: Any, **options: Any) -> StreamFrame:
        """A row for each element of list columns."""
        return self._rows("explode", columns, *more_columns, **options)

    def unnest(self, columns: Any, *more_columns: Any, **options: Any) -> StreamFrame:
        """The fields of struct columns as columns."""
        return self._rows("unnest", columns, *more_columns, **options)

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str], *, strict: bool = True) -> StreamFrame:
        """Give columns other names."""
        return self._rows("rename", mapping, strict=strict)

    def cast(self, dtypes: Any, *, strict: bool = True) -> StreamFrame:
        """Give columns other types."""
        return self._rows("cast", dtypes, strict=strict)

    def drop(self, *columns: ColumnNameOrSelector | Iterable[ColumnNameOrSelector], strict: bool = True) -> StreamFrame:
        """Leave columns out."""
        return self._rows("drop", *columns, strict=strict)

    def drop_nulls(self, subset: Any = None) -> StreamFrame:
        """Leave out rows with nulls."""
        return self._rows("drop_nulls", subset)

    def drop_nans(self, subset: Any = None) -> StreamFrame:
        """Leave out rows with NaN."""
        return self._rows("drop_nans", subset)

    def fill_null(
        self, value: Any = None, strategy: Any = None, limit: int | None = None, **options: Any
    ) -> StreamFrame:
        """Put a value in place of nulls; a `strategy` would depend on the cut and is refused."""
        if strategy is not None or limit is not None:
            options |= {"strategy": strategy, "limit": limit}
        return self._rows("fill_null", value, **options)

    def fill_nan(self, value: Any) -> StreamFrame:
        """Put a value in place of NaN."""
        return self._rows("fill_nan", value)

    def unpivot(
        self, on: Any = None, *, index: Any = None, variable_name: str | None = None, value_name: str | None = None
    ) -> StreamFrame:
        """From wide to long: a row for each of the columns `on`."""
        return self._rows("unpivot", on, index=index, variable_name=variable_name, value_name=value_name)

    def pipe(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function(frame, *args, **kwargs)`, for chains."""
        return function(self, *args, **kwargs)

    # --- event time

    def with_watermark(
        self,
        column: str,
        delay: str | timedelta | int,
        *,
        max_ahead: str | timedelta | int | None = None,
        allowed_lateness: str | timedelta | int | None = None,
        idle: str | timedelta | None = None,
        then: str = "hold",
    ) -> StreamFrame:
        """Name the column of event time, and how far rows may be out of order.

        The watermark is the highest time seen less `delay`, of each split of the sources; the least of them rules.
        It closes windows and lets state go. Rows that come after it has closed what they belong to are late: they
        are found in `ctx.dead_letters`, with the window and the watermark. `allowed_lateness` keeps what is closed
        so long that late rows can still correct it. Rows without a time, and those more than `max_ahead` ahead
        of the clock, go to the dead letters too, so that a time from the year 2099 closes nothing. A split that has
        brought no rows for `idle` (by the clock; None for ever) no longer holds the others back. When none has, the
        watermark stays where it is, so that what is open waits for rows; with `then="advance"` it goes on from there as
        fast as the clock, and what it passes closes in silence.

        Durations as in Polars: "10s", "1h30m"; a timedelta; on an integer column a number. Raises `ColumnError`
        for a column that is no time, `PlanError` after a call that needs state.
        """
        where = "with_watermark"
        if column not in self.schema:
            raise unknown_column(column, "the frame", self.columns)
        dtype = self.schema[column]
        check_time(column, dtype, where)
        for node in topological([self._node]):
            if not isinstance(node, SourceNode | Rows | Sql | MapBatches | Union | Watermark):
                raise PlanError(
                    f"{where}: call it before {node.label.split()[0].lower()}, on rows as they come from their source"
                )
        if then not in ("hold", "advance"):
            raise PlanError(f"{where}: then={then!r} is not hold or advance")
        if then == "advance" and idle is None:
            raise PlanError(f"{where}: then='advance' goes on after a silence; say how long it is: idle='30s'")
        if then == "advance" and not dtype.is_temporal():
            raise PlanError(
                f"{where}: then='advance' goes on with the clock, and {column!r} is {dtype}, which the clock says "
                f"nothing of; make a time of it first, with_columns(pl.from_epoch({column!r}, time_unit='s')), "
                "or leave then= out"
            )
        if max_ahead is not None and not dtype.is_temporal():
            raise PlanError(f"{where}: max_ahead compares with the clock, and {column!r} is {dtype}")
        node = Watermark(
            schema=self.schema,
            kind=self.kind,
            input=self._node,
            column=column,
            delay=duration_ticks(delay, dtype, f"{where}: delay"),
            max_ahead=None if max_ahead is None else duration_ticks(max_ahead, dtype, f"{where}: max_ahead"),
            lateness=(
                0 if allowed_lateness is None else duration_ticks(allowed_lateness, dtype, f"{where}: allowed_lateness")
            ),
            idle=None if idle is None else duration_ticks(idle, pl.Datetime("us"), f"{where}: idle") / 1_000_000,
            then=then,
        )
        return self._with(node)

    # --- functions and SQL

    def map_batches(
        self, function: Callable[[pl.DataFrame], pl.DataFrame], schema: Any = None, *, retries: int | Retries = 0
    ) -> StreamFrame:
        """Your own function from a DataFrame to a DataFrame: a model, a look-up, anything row-local.

        It is called with some rows at a time, never with none; what it gives for a row must not depend on the
        others (you vouch for that; `check` finds out). `schema` says what it gives; left out, the function is
        called once with an empty frame to see. With `retries=3` (or an `arrowstream.Retries`) it is called again
        with the same rows when it raises an `OSError` (or what you choose). Raises `PlanError`.
        """
        if schema is None:
            try:
                made = function(self.schema.to_frame())
            except Exception as error:
                message = f"map_batches: the function failed on an empty frame ({type(error).__name__}: {error})"
                raise PlanError(f"{message}; say what it gives: map_batches(function, schema={{...}})") from error
            if not isinstance(made, pl.DataFrame):
                raise PlanError(f"map_batches: the function gave {kind_of(made)}, it must give a DataFrame")
            found = made.schema
        else:
            found = pl.Schema(schema)
        kind = self.kind if isinstance(self.kind, Append) else Retract()
        return self._with(
            MapBatches(schema=found, kind=kind, input=self._node, function=function, retries=as_retries(retries))
        )

    def sql(self, statement: str) -> StreamFrame:
        """A row-local statement over this frame, by DuckDB: `frame.sql("SELECT a + 1 AS b FROM self WHERE a > 0")`.

        Values and types are DuckDB's. Aggregates, joins, DISTINCT, ORDER BY and the like are refused, with what
        to write instead. Raises `PlanError`.
        """
        import duckdb

        from arrowstream.operators.rows import run_row_sql

        check_row_sql(statement)
        refuse_twins(self.schema, "frame.sql")
        try:
            with duckdb.connect(":memory:") as connection:
                schema = run_row_sql(connection, statement, self.schema.to_frame(), None).schema
        except (duckdb.Error, pl.exceptions.PolarsError) as error:
            raise PlanError(f"frame.sql: {error}") from None
        kind = self.kind if isinstance(self.kind, Append) else Retract()
        return self._with(Sql(schema=schema, kind=kind, input=self._node, statement=statement))

    # --- several frames, groups, outputs

    def join(
        self,
        other: Any,
        on: Any = None,
        how: str = "inner",
        *,
        left_on: Any = None,
        right_on: Any = None,
        suffix: str = "_right",
        nulls_equal: bool = False,
        coalesce: bool | None = None,
        within: Any = None,
    ) -> StreamFrame:
        """Join with another stream or with a table, with the arguments and columns of `LazyFrame.join`.

        `other` is a StreamFrame; or a table: a DataFrame, a LazyFrame, a path of Parquet files, or
        `arrowstream.table(...)`, which can be read again every so often. Of a table all `how`s make sense but those
        that show its unmatched rows.

        Two streams keep their rows for each other, for ever unless time lets them go: `within="10s"`, or
        `within=("-5s", "1m")`, matches rows whose event time lies so far from that of the left; an equality of both
        event times bounds as well. Then rows without a match come once and final, as the watermark passes. Without
        a bound they come at once and are taken back when a match comes. Raises `PlanError`, `ColumnError`.
        """
        from arrowstream import joining

        left_on, right_on = (on, on) if on is not None else (left_on, right_on)
        node = joining.join(
            self, other, _listed(left_on), _listed(right_on), how, suffix, nulls_equal, coalesce, within
        )
        return self._with(node)

    def join_where(
        self, other: StreamFrame, *predicates: Any, how: str = "inner", suffix: str = "_right"
    ) -> StreamFrame:
        """All pairs of rows of two streams for which the predicates hold, as in `LazyFrame.join_where`.

        Columns of the right whose names the left has too are called with the suffix. Equalities become keys.
        Comparisons of one side's event time with what the other's row says (`pl.col("bid_time") <= pl.col("expires")`)
        let rows go as the watermarks pass. Raises `PlanError`.
        """
        from arrowstream import joining

        return self._with(joining.join_where(self, other, predicates, how, suffix))

    def join_asof(
        self,
        other: StreamFrame,
        *,
        left_on: str | None = None,
        right_on: str | None = None,
        on: str | None = None,
        by_left: Any = None,
        by_right: Any = None,
        by: Any = None,
        strategy: str = "backward",
        suffix: str = "_right",
        tolerance: Any = None,
        allow_exact_matches: bool = True,
        coalesce: bool = True,
    ) -> StreamFrame:
        """Each row with the row of another stream that is nearest in event time, as in `LazyFrame.join_asof`.

        Both streams need a watermark; their event times are compared (`on`, or `left_on` and `right_on`, only name
        them). A row comes out once, when the watermarks say that no row to come can change its answer, and of equal
        times the one that came last is the answer. State is bounded: of the right the last row per `by` and what the
        watermark has not passed. `forward` and `nearest` need a `tolerance`. Raises `PlanError`, `ColumnError`.
        """
        from arrowstream import joining

        left_on, right_on = (on, on) if on is not None else (left_on, right_on)
        by_left, by_right = (by, by) if by is not None else (by_left, by_right)
        node = joining.join_asof(
            self,
            other,
            left_on,
            right_on,
            _listed(by_left),
            _listed(by_right),
            strategy,
            suffix,
            tolerance,
            allow_exact_matches,
            coalesce,
        )
        return self._with(node)

    def join_temporal(
        self,
        versions: StreamFrame,
        on: Any = None,
        *,
        left_on: Any = None,
        right_on: Any = None,
        how: str = "left",
        suffix: str = "_right",
    ) -> StreamFrame:
        """Each row with the version of a changing table that was valid at the row's event time.

        `versions` is a stream in which a row says what its key (`on`) is from its event time on, until the next row
        of that key. Both streams need a watermark. `how="inner"` leaves out rows from before the first version of their
        key. Columns as in `join_asof`.
        """
        if how not in ("left", "inner"):
            raise PlanError(f"join_temporal: how={how!r} is not left or inner")
        keys = (on, on) if on is not None else (left_on, right_on)
        if keys[0] is None or keys[1] is None:
            raise PlanError("join_temporal: on which columns? give on=, or left_on= and right_on=")
        from arrowstream import joining

        return self._with(joining.join_temporal(self, versions, _listed(keys[0]), _listed(keys[1]), how, suffix))

    def group_by(
        self,
        *by: IntoExpr | Iterable[IntoExpr],
        maintain_order: bool = False,
        ttl: str | timedelta | int | None = None,
        **named_by: IntoExpr,
    ) -> StreamGroupBy:
        """Groups by key, for running aggregates: `group_by("word").agg(pl.len())`.

        One row per group, updated in place as rows come. `maintain_order` has no meaning on a stream and must
        stay False.

        With `ttl="1h"` a group is forgotten once the watermark is that much past its last row, so that state stays
        small where keys come and go. Its row stays in the outputs; when the key comes again, it begins anew, and the
        new row replaces it. This is your choice to differ from one shot over all rows. Rows that are more than `ttl`
        behind the watermark are late. Needs `with_watermark` before; raises `PlanError` without.
        """
        from arrowstream.grouped import StreamGroupBy

        if maintain_order:
            raise PlanError("group_by(maintain_order=True): a stream's groups have no order; order the output by SQL")
        return StreamGroupBy(self, by, named_by, ttl)

    def group_by_dynamic(
        self,
        index_column: str,
        *,
        every: Any,
        period: Any = None,
        offset: Any = None,
        include_boundaries: bool = False,
        closed: str = "left",
        label: str = "left",
        group_by: Any = None,
        emit: str = "final",
    ) -> StreamWindows:
        """Windows over event time, with the arguments of `LazyFrame.group_by_dynamic`; call `agg` on it.

        Windows begin at each multiple of `every` ("10s", "1d", "1mo", in the column's time zone) plus `offset` and are
        `period` long (left out: as long as `every`); a row belongs to every window that contains it. (Polars leaves
        out overlapping windows that begin before a group's first row; these do not.) With `emit="final"` a window comes
        once, in the batch in which the watermark passes its end; with `emit="update"` it comes at its first row, and
        again whenever it changes. Columns: the keys of `group_by`, `_lower_boundary` and `_upper_boundary` if asked
        for, the index column with the window's start (`label="right"`: its end), the aggregates. Raises `PlanError`.
        """
        from arrowstream.windowed import dynamic

        return dynamic(self, index_column, every, period, offset, include_boundaries, closed, label, group_by, emit)

    def group_by_cumulate(
        self,
        index_column: str,
        *,
        step: Any,
        every: Any,
        offset: Any = None,
        group_by: Any = None,
        emit: str = "final",
    ) -> StreamWindows:
        """Windows that grow: all begin at a multiple of `every`, and one ends at each `step` after it.

        `group_by_cumulate("ts", step="1h", every="1d")` gives every hour what came since midnight. Columns: the keys,
        `_lower_boundary` and `_upper_boundary`, the index column with the window's end, the aggregates.
        """
        from arrowstream.windowed import cumulate

        return cumulate(self, index_column, step, every, offset, group_by, emit)

    def group_by_session(
        self,
        index_column: str,
        *,
        gap: Any,
        group_by: Any = None,
        include_boundaries: bool = False,
        emit: str = "final",
    ) -> StreamSessions:
        """Sessions: rows of a key that follow each other in event time less than `gap` apart; call `agg` on it.

        A session comes once the watermark is `gap` past its last row; with `emit="update"` from its first row on, and
        what it was before is taken back. Columns: the keys, `_lower_boundary` (the first row's time) and
        `_upper_boundary` (the last one's and the gap) if asked for, the index column with the start, the aggregates.
        """
        from arrowstream.windowed import session

        return session(self, index_column, gap, group_by, include_boundaries, emit)

    def group_by_count(self, size: int, *, group_by: Any = None) -> StreamCounts:
        """Windows of `size` rows each, in order of arrival, of each key if given; call `agg` on it.

        Columns: the keys, `window` (from 0), the aggregates; a window comes at its first row and is updated until it
        is full. Raises `PlanError`.
        """
        from arrowstream.windowed import count

        return count(self, size, group_by)

    def rolling(self, index_column: str, *, period: Any, closed: str = "right", group_by: Any = None) -> StreamRolling:
        """For each row, aggregates of the rows of its key in the `period` before it, as in `LazyFrame.rolling`.

        A row comes out once, when the watermark has passed its time; rows of the same time see each other. Columns:
        the keys, the index column, the aggregates. Raises `PlanError`.
        """
        from arrowstream.windowed import rolling

        return rolling(self, index_column, period, closed, group_by)

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """Running aggregates over all rows: one row, updated as rows come."""
        from arrowstream.grouped import StreamGroupBy

        return StreamGroupBy(self, (), {}).agg(*aggs, **named_aggs)

    def unique(
        self, subset: Any = None, *, keep: str = "any", within: Any = None, ttl: str | timedelta | int | None = None
    ) -> StreamFrame:
        """Each row once, by the columns of `subset` (all, if left out).

        `keep="first"` (or "any") lets the first to come through and remembers the keys; "last" updates the row of its
        key; "none" takes rows back that turn out not to be alone. With `within="10m"` only rows less than that apart in
        event time are duplicates, and what was let through is forgotten as the watermark passes. With `ttl="1d"` a
        key is forgotten once no row of it, duplicate or not, has come for so long: see `group_by`. Raises `PlanError`.
        """
        from arrowstream.ranked import unique

        return self._with(unique(self._node, subset, keep, within, ttl))

    def top_k(
        self,
        k: int,
        *,
        by: Any,
        group_by: Any = None,
        reverse: bool | Sequence[bool] = False,
        rank: str | None = None,
        ttl: str | timedelta | int | None = None,
    ) -> StreamFrame:
        """The `k` largest rows by the columns `by`, of each group of `group_by` if given.

        Of equal rows those that came first are chosen; nulls come last. `reverse` turns the order of all or each of
        `by`. `rank` names a column that says which place a row has, from 1. Rows that drop out are taken back; but
        where the event time is among `group_by`, as after windows, the rows of a group are given once, when the
        watermark has passed. `ttl` lets groups go of which no row comes: see `group_by`.
        """
        from arrowstream.ranked import top_k

        return self._with(top_k(self._node, k, by, group_by, reverse, rank, "top_k", ttl))

    def bottom_k(
        self,
        k: int,
        *,
        by: Any,
        group_by: Any = None,
        reverse: bool | Sequence[bool] = False,
        rank: str | None = None,
        ttl: str | timedelta | int | None = None,
    ) -> StreamFrame:
        """The `k` smallest rows: see `top_k`."""
        from arrowstream.ranked import top_k

        return self._with(top_k(self._node, k, by, group_by, reverse, rank, "bottom_k", ttl))

    @property
    def write(self) -> WriteTo:
        """Outputs: `frame.write.parquet(...)`, `.duckdb(...)`, `.console()`, `.memory(...)`, `.foreach_batch(...)`."""
        from arrowstream.write import WriteTo

        return WriteTo(self._node, self._plans)

    def preview(self, seconds: float = 5.0) -> pl.DataFrame:
        """The rows that this frame gives in some seconds, or until its sources end: a look before there is an output.

        Runs just this frame, inside this process and apart from the context: sources are opened once more, and what a
        source that cannot be read again gives here is gone. Of a frame that updates rows, the rows as they are then.
        """
        return self._plans.preview(self._node, seconds)

    def collect(self, rows: Tables | None = None, *, engine: Engine = "auto") -> pl.DataFrame:
        """What this frame gives of a table, at once: the same pipeline in a unit test, a notebook or a backfill.

            revenue = orders.group_by("shop").agg(pl.col("price").sum())
            revenue.collect(pl.DataFrame({"shop": ["a", "a"], "price": [1.5, 2.0]}))

        `rows` stand in the place of the source: a DataFrame, a LazyFrame or a pyarrow.Table with exactly its columns;
        of several sources a dict from source name to rows. Columns and types are those of `frame.schema`; the order of
        rows is open. No context runs and nothing is written. Each node of the plan is read as plain Polars over all
        rows (`engine` is Polars', which streams what it can) or DuckDB, by nothing that the stream runs with: so it
        is also what `check` compares with.

        A table has no order of arrival but that of its rows, so none is late; those without an event time, and those
        beyond `max_ahead` of the clock, are left out, as the stream sets them aside. Keys with a `ttl` are kept;
        windows, whatever they `emit`, come once. Raises `PlanError` where the rows do not fit.
        """
        from arrowstream.oneshot.collect import collect

        if rows is None:
            names = [node.name for node in topological([self._node]) if isinstance(node, SourceNode)]
            given = "rows" if len(names) == 1 else "{" + ", ".join(f"{name!r}: rows" for name in names) + "}"
            raise PlanError(
                f"collect: a stream has no end at which to collect it; give a table in place of its source, "
                f"frame.collect({given}), or see its first rows by frame.preview(seconds)"
            )
        return collect(self._node, rows, engine=engine)

    def check(self, rows: Tables, *, tries: int = 20, seed: int = 0) -> None:
        """Try the law on your own pipeline: cut `rows` at random and compare with one shot.

        Runs what leads to this frame over the rows as a stream does, in one piece and `tries` times cut into random
        pieces, and compares each time with `collect`, which shares no code with that; whatever is not the same is an
        `AssertionError` that shows the cut and the rows. `rows` are as `collect` takes them. Nothing is written.
        """
        from arrowstream.check import check

        check(self._node, rows, tries=tries, seed=seed)

    def __getattr__(self, name: str) -> Callable[..., StreamFrame]:
        if name.startswith("_"):
            raise AttributeError(name)
        if isinstance(METHODS.get(name), RowsCall):
            return partial(self._rows, name)
        if name in METHODS:
            try:
                check_call(name, (), {}, self.schema)
            except ArrowStreamError as error:
                raise CallRefusedError(str(error)) from None
        if name in self.schema:
            raise hints.NoSuchCallError(f"a StreamFrame has no {name!r}: the column is pl.col({name!r})")
        raise hints.no_such_call("a StreamFrame", name, hints.FRAME, dir(type(self)))

    def __getitem__(self, key: Any) -> StreamFrame:
        column = repr(key) if isinstance(key, str) else "..."
        raise PlanError(f"a StreamFrame has no [{key!r}]: write select({column}) or filter(pl.col({column}) ...)")

    def _over(self, method: str, exprs: Sequence[Any], named: Mapping[str, Any]) -> StreamFrame | None:
        """The frame where an expression is over groups; None where all are row-local."""
        from arrowstream.plan.expressions import as_expressions
        from arrowstream.plan.recompute import has_over

        args, kwargs = settle(tuple(exprs), dict(named))
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, pl.Expr | list | tuple)]
        if not given or not has_over(as_expressions(given, {})):
            return None
        from arrowstream.ranked import over

        return self._with(over(self._node, method, as_expressions(args, kwargs)))

    def _rows(self, method: str, *args: Any, **kwargs: Any) -> StreamFrame:
        args, kwargs = settle(args, kwargs)
        check_call(method, args, kwargs, self.schema)
        schema = output_schema(method, args, kwargs, self.schema)
        step = Step(method, args, kwargs, calling_line())
        kind = through(step, self.schema, self.kind).kind
        node = self._node
        time = time_through(step, self.schema, node.time)
        if isinstance(node, Rows):
            return self._with(Rows(schema=schema, kind=kind, time=time, input=node.input, steps=(*node.steps, step)))
        return self._with(Rows(schema=schema, kind=kind, time=time, input=node, steps=(step,)))

    def _with(self, node: Node) -> StreamFrame:
        object.__setattr__(node, "line", calling_line())  # it is being made: nobody else has it yet
        return StreamFrame(node, self._plans)


def _call_of(node: Node) -> str:
    """What has named the columns of a node, for messages."""
    if isinstance(node, SourceNode):
        return f"source {node.name}"
    return node.steps[-1].method if isinstance(node, Rows) else node.label.split(maxsplit=1)[0].lower()


def _listed(keys: Any) -> list[Any]:
    if keys is None:
        return []
    return [keys] if isinstance(keys, str | pl.Expr) else list(keys)


class CallRefusedError(NotRowLocalError, AttributeError):
    """A LazyFrame method that a stream does not have; the message says which call does its work."""
