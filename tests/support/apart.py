"""Stream frames of no context, for tests of the plan."""

from __future__ import annotations

import polars as pl

from arrowstream.connectors.changes import Append
from arrowstream.connectors.source import Offset, Reader
from arrowstream.frame import StreamFrame
from arrowstream.plan.nodes import Node, Output, SourceNode


class Apart:
    """Plans of no context: nothing runs."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []

    def add_output(self, output: Output) -> None:
        self.outputs.append(output)

    def preview(self, node: Node, seconds: float) -> pl.DataFrame:
        raise NotImplementedError


class NoRows:
    """A source of which only the columns matter."""

    def __init__(self, schema: pl.Schema, *, replayable: bool = False) -> None:
        self.schema = schema.to_arrow()
        self.replayable = replayable

    def splits(self) -> list[str]:
        return []

    def open(self, split: str, resume: Offset | None) -> Reader:
        raise NotImplementedError


PLANS = Apart()


def source(name: str = "rows", schema: pl.Schema | None = None, plans: Apart = PLANS) -> StreamFrame:
    """A frame of these columns that reads nothing."""
    schema = pl.Schema({"k": pl.String(), "v": pl.Int64()}) if schema is None else schema
    return StreamFrame(SourceNode(schema=schema, kind=Append(), name=name, source=NoRows(schema)), plans)
