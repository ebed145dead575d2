"""Polars columns as NumPy arrays of fixed width, and back.

A column whose type has a fixed width is kept as its physical numbers: integers, floats and booleans as they
are, dates, times and durations as their counts, an `Enum` as its codes, and 128-bit integers and decimals as
two 64-bit words, the lower first. Everything else (strings, binary, categoricals, lists, structs) has no such
form here: `storage` says None, and `segments` keeps it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

type_of_words = np.dtype("<u8")
_LOW = 2**64 - 1
_NARROW: dict[type[pl.DataType], str] = {
    pl.Boolean: "?",
    pl.Int8: "i1",
    pl.Int16: "i2",
    pl.Int32: "i4",
    pl.Int64: "i8",
    pl.UInt8: "u1",
    pl.UInt16: "u2",
    pl.UInt32: "u4",
    pl.UInt64: "u8",
    pl.Float16: "f2",
    pl.Float32: "f4",
    pl.Float64: "f8",
    pl.Date: "i4",
    pl.Time: "i8",
    pl.Datetime: "i8",
    pl.Duration: "i8",
}
_WIDE = (pl.Int128, pl.UInt128, pl.Decimal)


class Cells(NamedTuple):
    """One column's values: `data` by row (0 where null), `nulls` marks nulls, or is None if there are none."""

    data: npt.NDArray[Any]
    nulls: npt.NDArray[np.bool_] | None


def storage(dtype: pl.DataType) -> np.dtype[Any] | None:
    """The NumPy type of one slot, None for types without a fixed width; wide types are two words."""
    if isinstance(dtype, pl.Enum):
        codes: np.dtype[Any] = pl.Series(dtype=dtype).to_physical().to_numpy().dtype
        return codes
    if isinstance(dtype, _WIDE):
        return np.dtype((type_of_words, (2,)))
    narrow = _NARROW.get(type(dtype))
    return None if narrow is None else np.dtype(narrow)


def encode(column: pl.Series) -> Cells:
    """The cells of a column of a type with `storage`; without copying where the column has no nulls."""
    nulls = column.is_null().to_numpy() if column.null_count() else None
    if isinstance(column.dtype, _WIDE):
        data = _words(column)
        if nulls is not None:
            data[nulls] = 0
        return Cells(data, nulls)
    # Numbers are physical already; `to_physical` is a query, and costs 20 times a cast.
    physical = column
    if column.dtype.is_temporal():
        physical = column.cast(pl.Int32 if column.dtype == pl.Date else pl.Int64)
    elif column.dtype == pl.Enum:
        physical = column.to_physical()
    if nulls is not None:
        physical = physical.fill_null(False if column.dtype == pl.Boolean else 0)
    return Cells(physical.to_numpy(), nulls)


def decode(name: str, dtype: pl.DataType, cells: Cells) -> pl.Series:
    """The column of these cells; it shares their memory, so they must not change afterwards."""
    data, nulls = cells
    if isinstance(dtype, _WIDE):
        return _wide(dtype, data, nulls).alias(name)
    if nulls is None:
        column = pl.Series(name, data)
    else:
        values = np.packbits(data, bitorder="little") if data.dtype == np.bool_ else data
        array = pa.Array.from_buffers(
            pa.from_numpy_dtype(data.dtype), len(data), [_bitmap(nulls), pa.py_buffer(values)]
        )
        column = pl.Series(name, array)
    if isinstance(dtype, pl.Enum):
        return column.cat.to(dtype)
    return column if column.dtype == dtype else column.cast(dtype)


def canonical(cells: Cells) -> Cells:
    """Floats as keys have them: -0.0 is 0.0, and every NaN is the one NaN. Other cells stay as they are."""
    data, nulls = cells
    if data.dtype.kind != "f":
        return cells
    data = data + data.dtype.type(0)
    data[np.isnan(data)] = np.nan
    return Cells(data, nulls)


def _words(column: pl.Series) -> npt.NDArray[np.uint64]:
    if isinstance(column.dtype, pl.Decimal):
        array = column.to_arrow()
        words = np.frombuffer(array.buffers()[1], type_of_words) if len(array) else np.empty(0, type_of_words)
        return words.reshape(-1, 2)[array.offset : array.offset + len(array)].copy()
    # Neither NumPy nor Arrow knows 128-bit integers, so the two words are worked out.
    words = np.empty((len(column), 2), type_of_words)
    column = column.fill_null(0)
    words[:, 0] = (column & _LOW).cast(pl.UInt64).to_numpy()
    high = column // 2**64
    if column.dtype == pl.Int128:
        words[:, 1] = high.cast(pl.Int64).to_numpy().view(np.uint64)
    else:
        words[:, 1] = high.cast(pl.UInt64).to_numpy()
    return words


def _wide(dtype: pl.DataType, words: npt.NDArray[np.uint64], nulls: npt.NDArray[np.bool_] | None) -> pl.Series:
    if isinstance(dtype, pl.Decimal):
        buffers = [None if nulls is None else _bitmap(nulls), pa.py_buffer(np.ascontiguousarray(words))]
        arrow = pa.decimal128(dtype.precision or 38, dtype.scale)
        column = pl.Series(pa.Array.from_buffers(arrow, len(words), buffers))
        return column if column.dtype == dtype else column.cast(dtype)
    return words_to_bytes(Cells(words, nulls)).bin.reinterpret(dtype=dtype, endianness="little")


def words_to_bytes(cells: Cells) -> pl.Series:
    """Two-word cells as binaries of 16 bytes, the lowest first."""
    data, nulls = cells
    buffers = [None if nulls is None else _bitmap(nulls), pa.py_buffer(np.ascontiguousarray(data))]
    return pl.Series(pa.Array.from_buffers(pa.binary(16), len(data), buffers))


def _bitmap(nulls: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(~nulls, bitorder="little"))
