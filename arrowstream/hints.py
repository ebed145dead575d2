"""What to write in place of a name that Spark, Polars or pandas has and a stream has not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from arrowstream.errors import PlanError

_CAMEL: Final = {
    "groupBy": "group_by(...).agg(...)",
    "groupby": "group_by(...).agg(...)",
    "withColumn": "with_columns(name=expression)",
    "withColumns": "with_columns(name=expression, ...)",
    "withColumnRenamed": 'rename({"old": "new"})',
    "withWatermark": 'with_watermark("column", "10s")',
    "selectExpr": 'sql("SELECT ... FROM self"), or select(...)',
    "where": "filter(predicate)",
    "query": "filter(predicate)",
    "distinct": "unique()",
    "dropDuplicates": "unique([columns])",
    "drop_duplicates": "unique([columns])",
    "dropDuplicatesWithinWatermark": 'unique([columns], within="10m")',
    "dropna": "drop_nulls(...)",
    "fillna": "fill_null(...)",
    "union": "arrowstream.concat([frame, other])",
    "unionAll": "arrowstream.concat([frame, other])",
    "unionByName": "arrowstream.concat([frame, other])",
    "vstack": "arrowstream.concat([frame, other])",
    "merge": "join(other, on=...)",
    "merge_asof": "join_asof(other, by=...)",
    "crossJoin": 'join(other, how="cross") with a table',
    "orderBy": "top_k(k, by=...), or an order in SQL: ctx.sql('... ORDER BY ...')",
    "sort_values": "top_k(k, by=...), or an order in SQL: ctx.sql('... ORDER BY ...')",
    "mapInPandas": "map_batches(function, schema={...})",
    "mapInArrow": "map_batches(function, schema={...})",
    "apply": "map_batches(function, schema={...})",
    "map_rows": "map_batches(function, schema={...})",
    "assign": "with_columns(name=expression)",
    "printSchema": "schema",
    "toPandas": "preview(), or ctx.sql('...').df() of an output",
    "to_pandas": "preview(), or ctx.sql('...').df() of an output",
    "foreach": "write.foreach_batch(function)",
    "foreachBatch": "write.foreach_batch(function)",
    "writeStream": "write.parquet(path), write.console() and the like; then ctx.start()",
    "isStreaming": "nothing: every frame of a context is a stream",
    "write_parquet": "write.parquet(path)",
    "write_csv": "write.foreach_batch(lambda frame, batch: frame.write_csv(...))",
    "write_ndjson": "write.foreach_batch(lambda frame, batch: frame.write_ndjson(...))",
    "write_json": "write.foreach_batch(lambda frame, batch: frame.write_json(...))",
    "write_database": "write.duckdb(path, table), or write.foreach_batch(function)",
    "to_parquet": "write.parquet(path)",
    "start": "ctx.start(), of the context",
    "take": "top_k(k, by=...), or preview() for a look",
    "display": "preview() for a look, or write.console()",
    "to_dicts": "preview().to_dicts() for a look",
    "rows": "preview().rows() for a look",
    "height": "agg(pl.len()): a stream has no length",
    "shape": "agg(pl.len()): a stream has no length",
    "window": "group_by_dynamic(column, every=...).agg(...)",
}

FRAME: Final[Mapping[str, str]] = MappingProxyType(_CAMEL)
"""Of a frame: the name, and the call that does it here."""

GROUPED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "count": "len(), or agg(pl.len())",
        "size": "len()",
        "avg": "mean()",
        "median": "agg(pl.col(...).median())",
        "apply": "map_groups(function, schema={...})",
        "applyInPandas": "map_groups(function, schema={...})",
        "applyInPandasWithState": "map_groups(function, schema={...})",
        "pivot": "agg(...) with one pl.col(...).filter(...) for each new column",
        "head": "frame.top_k(k, by=..., group_by=...)",
        "tail": "frame.bottom_k(k, by=..., group_by=...)",
        "transform": "frame.with_columns(pl.col(...).sum().over(...))",
        "std": "agg(pl.col(...).std())",
        "var": "agg(pl.col(...).var())",
    }
)

READ: Final[Mapping[str, str]] = MappingProxyType(
    {
        "format": "the call of its name: ctx.read.parquet(path), .ndjson(path), .csv(path), .socket(address)",
        "load": "ctx.read.parquet(path), or another format by its name",
        "option": "keyword arguments: ctx.read.csv(path, separator=';')",
        "options": "keyword arguments: ctx.read.csv(path, separator=';')",
        "schema": "the argument schema=: ctx.read.ndjson(path, schema={...})",
        "table": "ctx.read.parquet(path), or arrowstream.table(...) to join with",
        "feather": "ctx.read.ipc(path)",
        "jsonl": "ctx.read.ndjson(path)",
        "read_parquet": "ctx.read.parquet(path)",
        "scan_parquet": "ctx.read.parquet(path)",
    }
)

WRITE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "format": "the call of its name: frame.write.parquet(path), .duckdb(path, table), .console()",
        "option": "keyword arguments: frame.write.parquet(path, roll='128MB')",
        "options": "keyword arguments: frame.write.parquet(path, roll='128MB')",
        "trigger": "StreamingContext(batch_interval='10s'), or ctx.run() for all there is and then an end",
        "outputMode": "frame.write.parquet(path, mode='complete') for the whole table; else the frame's kind decides",
        "mode": "the argument mode=: frame.write.parquet(path, mode='complete')",
        "start": "ctx.start(), of the context",
        "awaitTermination": "ctx.await_termination(), of the context",
        "queryName": "the argument name=: frame.write.parquet(path, name='orders')",
        "partitionBy": "the argument partition_by=: frame.write.parquet(path, partition_by='day')",
        "foreach": "frame.write.foreach_batch(function)",
        "foreachBatch": "frame.write.foreach_batch(function)",
        "toTable": "frame.write.memory(name), or frame.write.duckdb(path, table)",
        "csv": "frame.write.foreach_batch(lambda frame, batch: frame.write_csv(...))",
        "json": "frame.write.foreach_batch(lambda frame, batch: frame.write_ndjson(...))",
    }
)

CONTEXT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "readStream": "ctx.read.socket(...), ctx.read.parquet(...) and the like",
        "awaitTermination": "ctx.await_termination()",
        "awaitTerminationOrTimeout": "ctx.await_termination(timeout=...)",
        "processAllAvailable": "ctx.process_all_available()",
        "socketTextStream": "ctx.read.socket(address)",
        "textFileStream": "ctx.read.open(...), or ctx.read.csv(path)",
        "isActive": "ctx.is_running",
        "exception": "ctx.error",
        "recentProgress": "ctx.progress.reports",
        "lastProgress": "ctx.progress.last",
        "table": "ctx.sql('FROM name')",
        "streams": "arrowstream.contexts()",
        "trigger": "StreamingContext(batch_interval='10s')",
        "close": "ctx.stop()",
        "wait": "ctx.await_termination()",
    }
)


class NoSuchCallError(PlanError, AttributeError):
    """A name of another library's; the message says what to write."""


def no_such_call(what: str, name: str, hints: Mapping[str, str], known: Iterable[str]) -> AttributeError:
    """The error for an attribute that is not there, with what to write in its place."""
    if name in hints:
        return NoSuchCallError(f"{what} has no {name!r}: write {hints[name]}")
    near = difflib.get_close_matches(name, [each for each in known if not each.startswith("_")], n=1)
    return AttributeError(f"{what} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
