"""Where rows come from: `ctx.read.<source>(...)`. A thin skin: each call makes one source node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import polars as pl
import pyarrow as pa

from arrowstream import hints
from arrowstream.connectors.changes import Append
from arrowstream.connectors.registry import load
from arrowstream.connectors.source import Source
from arrowstream.errors import PlanError
from arrowstream.frame import StreamFrame
from arrowstream.names import check_names
from arrowstream.plan.nodes import SourceNode

if TYPE_CHECKING:
    from os import PathLike

    from arrowstream.frame import Plans

    Schema: TypeAlias = Mapping[str, Any] | pl.Schema | pa.Schema


class ReadFrom:
    """The sources of a context. Each call gives a `StreamFrame` whose columns are known at once."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._count: dict[str, int] = {}
        self._names: set[str] = set()

    def socket(self, address: str, format: str = "text", schema: Schema | None = None, **options: Any) -> StreamFrame:
        """Lines from a TCP server: `socket("localhost:9999")` has the one String column `line`.

        With `format="ndjson"` or `"csv"` and a `schema`, lines are decoded; what is no row of that schema is found
        in `ctx.dead_letters`. The connection is opened again with back-off when it breaks.
        """
        return self.open("socket", address, format=format, schema=schema, **options)

    def parquet(self, path: str | PathLike[str], **options: Any) -> StreamFrame:
        """A Parquet file, a directory or a glob; new files as they appear."""
        return self.open("files", path, format="parquet", **options)

    def ndjson(self, path: str | PathLike[str], schema: Schema | None = None, **options: Any) -> StreamFrame:
        """Files of JSON lines; new files as they appear."""
        return self.open("files", path, format="ndjson", schema=schema, **options)

    def json(self, path: str | PathLike[str], schema: Schema | None = None, **options: Any) -> StreamFrame:
        """Files of JSON: an array of objects, or objects one after the other, over as many lines as they take."""
        return self.open("files", path, format="json", schema=schema, **options)

    def text(self, path: str | PathLike[str], **options: Any) -> StreamFrame:
        """Files of text: each line is a row of the one String column `line`; new files as they appear."""
        return self.open("files", path, format="text", **options)

    def csv(self, path: str | PathLike[str], schema: Schema | None = None, **options: Any) -> StreamFrame:
        """CSV files; new files as they appear."""
        return self.open("files", path, format="csv", schema=schema, **options)

    def ipc(self, path: str | PathLike[str], **options: Any) -> StreamFrame:
        """Arrow IPC (Feather) files; new files as they appear."""
        return self.open("files", path, format="ipc", **options)

    def rate(self, rows_per_second: float, **options: Any) -> StreamFrame:
        """Made-up rows at a steady rate: `timestamp` and `value`, a number that counts up from 0."""
        return self.open("rate", rows_per_second, **options)

    def nexmark(
        self, stream: Literal["person", "auction", "bid"], *, name: str | None = None, **options: Any
    ) -> StreamFrame:
        """One of the three streams of the NEXMark benchmark: `rate=`, `events=`, `seed=`."""
        return self.open("nexmark", stream, name=name or self._numbered(str(stream)), **options)

    def memory(self, schema: Any, **options: Any) -> StreamFrame:
        """Rows that the program itself sends: `frame.source.send(rows)`; for tests and notebooks.

        `schema` may be a `MemorySource` made before.
        """
        if isinstance(schema, Source):
            return self.open(schema)
        return self.open("memory", schema, **options)

    def open(self, connector: str | Source, *args: Any, name: str | None = None, **options: Any) -> StreamFrame:
        """Any registered source by name, or a `Source` of your own; `name` is what reports call it."""
        source: Source = load("sources", connector)(*args, **options) if isinstance(connector, str) else connector
        if not isinstance(source, Source):
            raise PlanError(f"{source!r} is no source: it lacks schema, replayable, splits or open")
        if name is None:
            name = self._numbered(connector if isinstance(connector, str) else type(source).__name__)
        if name in self._names:
            raise PlanError(f"there is already a source {name!r}; give this one another name=")
        self._names.add(name)
        check_names(source.schema.names, f"source {name}")
        columns = pl.Schema(pl.DataFrame(source.schema.empty_table()).schema)
        node = SourceNode(schema=columns, kind=Append(), name=name, source=source)
        return StreamFrame(node, self._plans)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise hints.no_such_call("ctx.read", name, hints.READ, dir(type(self)))

    def _numbered(self, name: str) -> str:
        """The name, or with a number where it was given before."""
        number = self._count.get(name, 0)
        self._count[name] = number + 1
        return f"{name}-{number}" if number else name
