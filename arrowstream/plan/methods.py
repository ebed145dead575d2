"""What each LazyFrame method means on a stream: rows as they are, another call of ours, or a refusal.

`METHODS` has an entry for every public method of the installed Polars; a test keeps it so. The calls
marked `Rows` are recorded and replayed on each batch, and each is tested by cutting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import polars as pl

from arrowstream.errors import ColumnError, NotRowLocalError, PlanError
from arrowstream.plan.elementwise import BY_SQL
from arrowstream.plan.expressions import PANIC, as_expressions, expand, plan_error, resolve
from arrowstream.plan.rowlocal import check_outputs, check_row_local

Check = Callable[[str, tuple[Any, ...], dict[str, Any], pl.Schema], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Row-local: recorded as it is, once `check` has looked at the arguments."""

    check: Check


@dataclass(frozen=True, slots=True)
class Node:
    """Done by another call of a stream frame; `call` shows how to write it."""

    call: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not done on a stream: `why`, and what to write in its place."""

    why: str
    cure: str


def check_call(method: str, args: Sequence[Any], kwargs: Mapping[str, Any], schema: pl.Schema) -> None:
    """Raise unless `LazyFrame.<method>(*args, **kwargs)` is row-local over a frame of `schema`.

    Raises NotRowLocalError for an answer that would depend on the cut, ColumnError for an unknown column,
    and PlanError otherwise. Iterators among the arguments would be used up: pass them through `settle` first.
    """
    match METHODS.get(method):
        case Rows(check):
            check(method, tuple(args), dict(kwargs), schema)
        case Node(call):
            raise PlanError(f"{method} is not recorded row by row; on a stream it is {call}")
        case Refused(why, cure):
            raise NotRowLocalError(f"{method} is refused: {why}; use {cure}")
        case None:
            known = ", ".join(sorted(name for name, entry in METHODS.items() if isinstance(entry, Rows)))
            raise PlanError(f"{method!r} is not a known call of a frame; row by row there are {known}")


def output_schema(method: str, args: Sequence[Any], kwargs: Mapping[str, Any], schema: pl.Schema) -> pl.Schema:
    """The schema that the call gives, found by running it on no rows, so that a wrong type fails at its line.

    Raises ColumnError for an unknown column, and PlanError with the cause chained for all else.
    """
    try:
        plan: pl.LazyFrame = getattr(pl.LazyFrame(schema=schema), method)(*args, **kwargs)
        promised = plan.collect_schema()
        found = plan.collect().schema
    except PANIC as error:
        raise plan_error(error, schema, f"the input of {method}") from None
    except Exception as error:
        # A wrong argument, or a function of the user's that cannot take an empty column.
        raise PlanError(f"{method} failed on an empty frame of {_columns(schema)}: {error}") from error
    if promised != found:
        raise PlanError(f"{method} promises {_columns(promised)} but gives {_columns(found)}: declare return_dtype")
    return found


def settle(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with iterators turned into lists, so that a recorded call can be replayed."""
    return (
        tuple(list(value) if isinstance(value, Iterator) else value for value in args),
        {name: list(value) if isinstance(value, Iterator) else value for name, value in kwargs.items()},
    )


def _columns(schema: pl.Schema) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in schema.items()) or "no columns"


def _plain(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    """Nothing to look at: columns and options only."""


def _explode(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    """On no rows Polars explodes a column of any type."""
    columns = [kwargs["columns"], *args] if "columns" in kwargs else list(args)
    for name, dtype in resolve(pl.LazyFrame(schema=schema).select(as_expressions(columns, {})), schema).items():
        if not isinstance(dtype, pl.List | pl.Array):
            raise ColumnError(f"{method}: column {name!r} is {dtype}, and only lists and arrays can be exploded")


def _select(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    outputs = expand(schema, *args, **kwargs)
    if not outputs:
        raise PlanError(f"{method}: no columns are selected; the frame has {_columns(schema)}")
    check_outputs(method, outputs, schema)


def _each(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    for _, expr in expand(schema, *args, **kwargs):
        check_row_local(method, expr, schema)


def _predicates(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    """Predicates are expressions, names of Boolean columns and True or False; keywords are equalities."""
    for predicate in as_expressions(args, {}):
        check_row_local(method, predicate, schema)
        # On no rows Polars takes a predicate of any type.
        for name, dtype in resolve(pl.LazyFrame(schema=schema).select(predicate), schema).items():
            if dtype not in (pl.Boolean, pl.Null):
                raise PlanError(f"{method}: a predicate is Boolean, and {name!r} is {dtype}; compare it with a value")
    for name, value in kwargs.items():
        check_row_local(method, pl.col(name).eq(value), schema)


def _fill(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    strategy = kwargs.get("strategy", args[1] if len(args) > 1 else None)
    if strategy is not None:
        raise NotRowLocalError(
            f"{method}: strategy={strategy!r} fills from other rows of the batch; "
            "use a value or an expression: fill_null(0), fill_null(pl.col(...))"
        )
    value = kwargs.get("value", args[0] if args else None)
    if isinstance(value, pl.Expr):
        check_row_local(method, value, schema)


def _match(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    missing = kwargs.get("missing_columns", "raise")
    for value in missing.values() if isinstance(missing, Mapping) else [missing]:
        if isinstance(value, pl.Expr):
            check_row_local(method, value, schema)


def _cast(method: str, args: tuple[Any, ...], kwargs: dict[str, Any], schema: pl.Schema) -> None:
    into = output_schema(method, args, kwargs, schema)
    for name, dtype in schema.items():
        if isinstance(dtype, pl.Categorical) and into[name].is_numeric():
            raise NotRowLocalError(
                f"{method}: the codes of the Categorical {name!r} follow the order of arrival, "
                "so they would depend on how the stream is cut; cast it to an Enum first"
            )


_ORDER = Refused("the position of a row depends on how the stream is cut", BY_SQL)
_FEW = Refused(
    "the position of a row depends on how the stream is cut",
    "top_k(k, by=...) for the best, preview(...) for a look, or an output asked by SQL: "
    "ctx.sql('SELECT * FROM rows LIMIT 10')",
)
_NEIGHBOURS = Refused("a row's neighbours may be in another batch", BY_SQL)
_SORTED = Refused(
    "a stream has no first row until it has ended",
    "top_k(k, by=...) for the best, .write.parquet(path, mode='complete', sort_by=...) for a sorted table, "
    "or an output asked by SQL: ctx.sql('... ORDER BY ...')",
)
_UPDATE = Refused(
    "it is a join", "join(other, on=..., how='left') and with_columns(pl.coalesce(pl.col('x_right'), pl.col('x')))"
)
_NO_END = Refused(
    "a stream has no end at which to collect it",
    "frame.collect(rows) for a table in place of its source, preview(...), or bind it to a sink by .write",
)
_SINK = Refused("sinks of a stream commit batch by batch", ".write.parquet(...), .write.duckdb(...) and the like")
_LOCAL = Refused("a stream frame is a plan already and has nothing of its own to copy", "the frame itself")
_AGG = Node("frame.agg(...), such as frame.agg(pl.all().sum())")

METHODS: Mapping[str, Rows | Node | Refused] = MappingProxyType(
    {
        "bottom_k": Node("frame.bottom_k(k, by=...)"),
        "cache": _LOCAL,
        "cast": Rows(_cast),
        "clear": _LOCAL,
        "clone": _LOCAL,
        "collect": _NO_END,
        "collect_async": _NO_END,
        "collect_batches": _NO_END,
        "collect_schema": Node("frame.schema"),
        "columns": Node("frame.columns"),
        "count": _AGG,
        "describe": _NO_END,
        "deserialize": _LOCAL,
        "drop": Rows(_plain),
        "drop_nans": Rows(_plain),
        "drop_nulls": Rows(_plain),
        "dtypes": Node("frame.schema.dtypes()"),
        "execute": _NO_END,
        "explain": Node("frame.explain()"),
        "explode": Rows(_explode),
        "fill_nan": Rows(_fill),
        "fill_null": Rows(_fill),
        "filter": Rows(_predicates),
        "first": _ORDER,
        "from_lazyframe_resolver": _LOCAL,
        "gather": _ORDER,
        "gather_every": _ORDER,
        "group_by": Node("frame.group_by(...).agg(...)"),
        "group_by_dynamic": Node("frame.group_by_dynamic(...).agg(...)"),
        "head": _FEW,
        "inspect": Refused("it would print every batch", "preview(...), or .write.console()"),
        "interpolate": _NEIGHBOURS,
        "join": Node("frame.join(other, on=...)"),
        "join_asof": Node("frame.join_asof(other, by=...)"),
        "join_where": Node("frame.join_where(other, predicate, ...)"),
        "last": _ORDER,
        "lazy": _LOCAL,
        "limit": _FEW,
        "map_batches": Node("frame.map_batches(function), where you vouch that it works row by row"),
        "match_to_schema": Rows(_match),
        "max": _AGG,
        "mean": _AGG,
        "median": _AGG,
        "merge_sorted": Refused("streams are not sorted", "arrowstream.concat([...]) of the two frames"),
        "min": _AGG,
        "null_count": _AGG,
        "pipe": Node("frame.pipe(function)"),
        "pipe_with_schema": Node("frame.pipe(lambda frame: function(frame, frame.schema))"),
        "pivot": Refused(
            "it is an aggregate",
            "group_by(...).agg(...) with one pl.col(...).filter(...) aggregate for each new column",
        ),
        "quantile": _AGG,
        "remote": _NO_END,
        "remove": Rows(_predicates),
        "rename": Rows(_plain),
        "reverse": _ORDER,
        "rolling": Node("frame.rolling(...).agg(...)"),
        "schema": Node("frame.schema"),
        "select": Rows(_select),
        "select_seq": Rows(_select),
        "serialize": _LOCAL,
        "set_sorted": Refused("batches arrive in no promised order", "nothing: streams need no such flag"),
        "shift": _NEIGHBOURS,
        "show": _NO_END,
        "show_graph": Node("frame.explain()"),
        "sink_batches": _SINK,
        "sink_csv": _SINK,
        "sink_delta": _SINK,
        "sink_iceberg": _SINK,
        "sink_ipc": _SINK,
        "sink_ndjson": _SINK,
        "sink_parquet": _SINK,
        "slice": _ORDER,
        "sort": _SORTED,
        "sql": Node('frame.sql("SELECT ... FROM self")'),
        "std": _AGG,
        "sum": _AGG,
        "tail": _ORDER,
        "top_k": Node("frame.top_k(k, by=...)"),
        "unique": Node("frame.unique(subset, keep=...)"),
        "unnest": Rows(_plain),
        "unpivot": Rows(_plain),
        "update": _UPDATE,
        "var": _AGG,
        "width": Node("len(frame.columns)"),
        "with_columns": Rows(_each),
        "with_columns_seq": Rows(_each),
        "with_row_index": _ORDER,
    }
)
"""Every public name of `pl.LazyFrame`, and what it means on a stream."""
