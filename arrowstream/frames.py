"""Rows of a frame, taken in the thread that asks.

Polars' own ways hand the columns to its pool of threads. That costs 50 to 100 microseconds, several times what the few
thousand rows of a batch take, and has to wait where the pool is busy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

# Beyond, the pool pays.
_MANY: Final = 1 << 18
_INDEX: Final = np.uint32 if pl.get_index_type() == pl.UInt32 else np.uint64


def rows_at(frame: pl.DataFrame, places: npt.NDArray[np.int64]) -> pl.DataFrame:
    """The rows at these places, counted from 0, in the order of the places."""
    if not frame.width:
        return pl.DataFrame(height=len(places))
    at = pl.Series(places.astype(_INDEX))
    if len(places) > _MANY:
        return frame[at]
    return pl.DataFrame([column[at] for column in frame.iter_columns()])


def rows_where(frame: pl.DataFrame, mask: pl.Series | npt.NDArray[np.bool_]) -> pl.DataFrame:
    """The rows for which this is true, in their order; null is not true."""
    mask = mask if isinstance(mask, pl.Series) else pl.Series(mask)
    if mask.all() and not mask.null_count():
        return frame
    if not frame.width or frame.height > _MANY:
        return frame.filter(mask)
    return pl.DataFrame([column.filter(mask) for column in frame.iter_columns()])
