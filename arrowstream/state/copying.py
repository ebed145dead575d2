"""Copies that share no memory with what they were made from."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from polars import CompatLevel

_FLAT: Final = (pl.Boolean, pl.Date, pl.Time, pl.Datetime, pl.Duration)


def copied(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows in memory of their own, in one chunk.

    A slice of a frame keeps the whole alive, also over Arrow and back; Polars' texts refer to the buffers they
    were cut from, also when gathered.
    """
    if not frame.width:
        return frame
    frame = frame[np.arange(frame.height)]
    flat = [dtype.is_numeric() or isinstance(dtype, _FLAT) for dtype in frame.schema.values()]
    if all(flat):
        return frame
    texts = frame.select(name for name, is_flat in zip(frame.columns, flat, strict=True) if not is_flat)
    # Without views: these are written anew, end to end.
    fresh = pl.DataFrame(texts.to_arrow(compat_level=CompatLevel.oldest()))
    if fresh.schema != texts.schema:
        fresh = fresh.cast(texts.schema)
    return frame.with_columns(fresh.get_columns())
