"""Copies that share no memory with what they were made from."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from polars import CompatLevel

from arrowstream.frames import rows_at

_FLAT: Final = (pl.Boolean, pl.Date, pl.Time, pl.Datetime, pl.Duration)
# So much more than the rows need may stay alive with them.
_TIMES: Final = 2
_BESIDES: Final = 1 << 12


def copied(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows in memory of their own, in one chunk.

    A slice of a frame keeps the whole alive, also over Arrow and back; Polars' texts refer to the buffers they
    were cut from, also when gathered.
    """
    return _rewritten(_gathered(frame))


def released(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows in one chunk, with their texts copied only if they keep alive more than twice what they need.

    The copy is most of the cost of keeping rows with texts: 7 ms for 100,000 rows with three, 0.5 without.
    """
    return texts_released(_gathered(frame))


def texts_released(frame: pl.DataFrame) -> pl.DataFrame:
    """The same, for rows of which no slice is taken, or all slices are kept: numbers stay where they are."""
    frame = frame.rechunk()
    texts = _texts(frame)
    if not texts.width:
        return frame
    held = texts.to_arrow(compat_level=CompatLevel.newest()).get_total_buffer_size()
    return _rewritten(frame) if held > _TIMES * texts.estimated_size() + _BESIDES else frame


def _gathered(frame: pl.DataFrame) -> pl.DataFrame:
    return rows_at(frame, np.arange(frame.height)) if frame.width else frame


def _rewritten(frame: pl.DataFrame) -> pl.DataFrame:
    texts = _texts(frame)
    if not texts.width:
        return frame
    # Without views: these are written anew, end to end.
    fresh = pl.DataFrame(texts.to_arrow(compat_level=CompatLevel.oldest()))
    return frame.with_columns((fresh if fresh.schema == texts.schema else fresh.cast(texts.schema)).get_columns())


def _texts(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that are not flat arrays of numbers."""
    return frame.select_seq(
        name for name, dtype in frame.schema.items() if not (dtype.is_numeric() or isinstance(dtype, _FLAT))
    )
