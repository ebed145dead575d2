"""Changes: what flows from operator to operator and at last into a sink.

A change batch is an Arrow table and, only where rows can be taken back, a signed weight per row: +1 the row
is there, -1 it is gone (a Z-set, as in DBSP, Budiu et al. 2023). What weights can mean is known when the plan
is made, and is called the change kind:

    Append          rows only ever come; there is no weight column
    Upsert(keys)    at most one row per key is live; a row of weight +1 (or of no weight) replaces the row of
                    its key, a row of weight -1 whose key has no +1 row in the same batch removes it
    Retract         any row may be taken back
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Append:
    """Rows only ever come."""

    def __str__(self) -> str:
        return "append-only"


@dataclass(frozen=True, slots=True)
class Upsert:
    """At most one row per key is live; a new one replaces it.

    `keys` are names of columns of the stream; none at all means that there is one row only (a global
    aggregate).
    """

    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"updates rows of {', '.join(self.keys)}" if self.keys else "updates its one row"


@dataclass(frozen=True, slots=True)
class Retract:
    """Any row may be taken back."""

    def __str__(self) -> str:
        return "takes rows back"


ChangeKind: TypeAlias = Append | Upsert | Retract


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Rows and what happened to them.

    `weights` is None where every row is new (+1), else an int64 array as long as the table, without nulls or
    zeros.
    """

    rows: pa.Table
    weights: pa.Array | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != self.rows.num_rows:
            raise ValueError(f"{len(self.weights)} weights for {self.rows.num_rows} rows")

    @property
    def num_rows(self) -> int:
        return int(self.rows.num_rows)
