"""ArrowStream: a dataframe that never ends.

    import arrowstream as ars, polars as pl

    with ars.StreamingContext(batch_interval="1s") as ctx:
        ctx.read.socket("localhost:9999").group_by("line").agg(pl.len()).write.console()
        ctx.start()
        ctx.await_termination()

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from arrowstream.concatenation import concat, concat_history
    from arrowstream.connection import connect
    from arrowstream.connectors.retries import Retries
    from arrowstream.context import StreamingContext, contexts
    from arrowstream.errors import (
        ArrowStreamError,
        BatchError,
        ChangeKindError,
        ClusterError,
        ColumnError,
        ContextError,
        NotRowLocalError,
        PlanError,
        QueryError,
        SinkError,
        SourceError,
        StateError,
    )
    from arrowstream.frame import StreamFrame
    from arrowstream.joining import table
    from arrowstream.plan.custom import Aggregator, aggregate
    from arrowstream.running import stop_all

__all__ = [
    "Aggregator",
    "ArrowStreamError",
    "BatchError",
    "ChangeKindError",
    "ClusterError",
    "ColumnError",
    "ContextError",
    "NotRowLocalError",
    "PlanError",
    "QueryError",
    "Retries",
    "SinkError",
    "SourceError",
    "StateError",
    "StreamFrame",
    "StreamingContext",
    "__version__",
    "aggregate",
    "concat",
    "concat_history",
    "connect",
    "contexts",
    "stop_all",
    "table",
]

_HOME = {
    "Aggregator": "arrowstream.plan.custom",
    "Retries": "arrowstream.connectors.retries",
    "StreamFrame": "arrowstream.frame",
    "StreamingContext": "arrowstream.context",
    "aggregate": "arrowstream.plan.custom",
    "concat": "arrowstream.concatenation",
    "concat_history": "arrowstream.concatenation",
    "connect": "arrowstream.connection",
    "contexts": "arrowstream.context",
    "stop_all": "arrowstream.running",
    "table": "arrowstream.joining",
} | {name: "arrowstream.errors" for name in __all__ if name.endswith("Error")}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'arrowstream' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
