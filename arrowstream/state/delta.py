"""What one version changed, as an Arrow table that any process can apply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from polars import CompatLevel

from arrowstream.errors import StateError
from arrowstream.names import inner
from arrowstream.state.physical import encode, words_to_bytes

# True for a key that the version removed; its values are null.
DELETED: Final = inner("deleted")
_WORDS: Final = (pl.Int128, pl.UInt128)


def to_delta(rows: pl.DataFrame, deleted: pl.Series | None = None) -> pa.Table:
    """Key and value columns and `DELETED`; 128-bit integers, unknown to Arrow, as 16 bytes, lowest first."""
    if deleted is None:
        deleted = pl.Series(np.zeros(rows.height, np.bool_))
    columns = [_to_bytes(column) if isinstance(column.dtype, _WORDS) else column for column in rows]
    return pl.DataFrame([*columns, deleted.alias(DELETED)]).to_arrow(compat_level=CompatLevel.oldest())


def from_delta(delta: pa.Table, schema: pl.Schema) -> tuple[pl.DataFrame, pl.Series]:
    """The rows of a delta in the types of `schema`, and which of them are deleted."""
    missing = [name for name in [*schema, DELETED] if name not in delta.column_names]
    if missing:
        raise StateError(
            f"not a delta of this table: no column {', '.join(missing)} in {', '.join(delta.column_names)}"
        )
    frame = pl.DataFrame(delta.select([*schema, DELETED]))
    rows = frame.drop(DELETED)
    if rows.schema != schema:
        rows = rows.with_columns(_cast(rows[name], dtype) for name, dtype in schema.items())
    return rows, frame[DELETED]


def merge_deltas(tables: Iterable[pa.Table], schema: pl.Schema, key: str) -> tuple[pl.DataFrame, int]:
    """The rows that are left of a snapshot and deltas, oldest first, by rising `key`; the highest key of all."""
    parts = [rows.with_columns(deleted) for rows, deleted in (from_delta(table, schema) for table in tables)]
    if not parts:
        return schema.to_frame(), 0
    rows = pl.concat(parts)
    last = rows[key].max()
    rows = rows if len(parts) == 1 else rows.unique(key, keep="last")
    return rows.filter(~pl.col(DELETED)).drop(DELETED).sort(key), last if isinstance(last, int) else 0


def _cast(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, _WORDS) and column.dtype == pl.Binary:
        return column.bin.reinterpret(dtype=dtype, endianness="little")
    return column.cast(dtype)


def _to_bytes(column: pl.Series) -> pl.Series:
    return words_to_bytes(encode(column)).alias(column.name)
