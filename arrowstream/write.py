"""Where a frame's rows go: `frame.write.<sink>(...)`. A thin skin: each call makes one output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from arrowstream import hints
from arrowstream.connectors.plain import refuse_wide_integers
from arrowstream.connectors.registry import load
from arrowstream.connectors.retries import Retries
from arrowstream.connectors.sink import Sink
from arrowstream.operators.changes import to_arrow
from arrowstream.plan.nodes import Node, Output

if TYPE_CHECKING:
    from os import PathLike

    from arrowstream.frame import Plans


class WriteTo:
    """The outputs of a frame. Each call checks that the sink can take this kind of change, and registers it; the
    output runs when the context starts, and SQL finds it by its name."""

    def __init__(self, node: Node, plans: Plans) -> None:
        self._node, self._plans = node, plans

    def parquet(
        self,
        path: str | PathLike[str],
        *,
        name: str | None = None,
        partition_by: str | Sequence[str] = (),
        roll: str | Sequence[str] | None = None,
        mode: Literal["append", "overwrite", "complete"] = "append",
        engine: Literal["pyarrow", "fastparquet"] = "pyarrow",
        **options: Any,
    ) -> None:
        """A directory of Parquet files, which any reader may open at any moment.

        `roll="128MB"` or `"1m"` holds rows until there is enough for one file. `mode="overwrite"` has a new run take
        the place of what is there. `mode="complete"` keeps one file with the whole table as it is now, for frames that
        update rows. Raises `ChangeKindError`, `PlanError`.
        """
        self.to("parquet", path, name=name, partition_by=partition_by, roll=roll, mode=mode, engine=engine, **options)

    def duckdb(
        self,
        path: str | PathLike[str],
        table: str,
        *,
        keys: str | Sequence[str] | None = None,
        mode: Literal["complete", "overwrite"] | None = None,
        lock: Literal["hold", "release"] = "hold",
        **options: Any,
    ) -> None:
        """A table of a DuckDB file: appended to, or updated in place by key where the frame updates rows.

        `mode="overwrite"` has a new run begin with an empty table. `lock="release"` lets the file go between batches,
        so that other processes can read it.
        """
        self.to("duckdb", path, table, keys=keys, mode=mode, lock=lock, **options)

    def console(self, **options: Any) -> None:
        """A table on the terminal, after every batch."""
        self.to("console", **options)

    def memory(self, name: str, **options: Any) -> None:
        """A table in the driver's memory, for `ctx.sql`, notebooks and tests."""
        self.to("memory", name, **options)

    def foreach_batch(
        self, function: Callable[[pl.DataFrame, int], object], *, retries: int | Retries = 2, **options: Any
    ) -> None:
        """`function(frame, batch_id)` on the driver, for every batch; at least once.

        When it raises an `OSError`, as connections do, it is called again, `retries` times; an `arrowstream.Retries`
        names other exceptions.
        """
        self.to("foreach_batch", function, retries=retries, **options)

    def null(self, *, name: str | None = None) -> None:
        """Nowhere: rows of any kind are made in full and dropped, to measure what leads to them."""
        self.to("null", **({} if name is None else {"name": name}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise hints.no_such_call("frame.write", name, hints.WRITE, dir(type(self)))

    def to(self, connector: str | Sink, *args: Any, **options: Any) -> None:
        """Any registered sink by name, or a `Sink` of your own. Raises `PlanError` for a type that it cannot keep."""
        refuse_wide_integers(self._node.schema)
        made = load("sinks", connector)(*args, **options) if isinstance(connector, str) else connector
        bound = made.bind(to_arrow(self._node.schema.to_frame()).schema, self._node.kind)
        node = Output(schema=self._node.schema, kind=self._node.kind, input=self._node, sink=bound)
        self._plans.add_output(node)
