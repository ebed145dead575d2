"""Columns by slot: what a keyed table keeps of its keys, and of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from arrowstream.errors import StateError
from arrowstream.state.growing import GrowingArray
from arrowstream.state.physical import Cells, canonical, decode, encode, storage
from arrowstream.state.segments import Segments

SlotArray: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Image:
    """What columns hold at some slots, row by row: the cells of each fixed column, and ids of the payload."""

    cells: tuple[Cells, ...]
    ids: npt.NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame on its way into columns: the cells of each fixed column, and the payload as it came."""

    cells: tuple[Cells, ...]
    payload: pl.DataFrame

    def __getitem__(self, rows: Any) -> Encoded:
        """Some of the rows."""
        cells = tuple(Cells(c.data[rows], None if c.nulls is None else c.nulls[rows]) for c in self.cells)
        return Encoded(cells, self.payload[rows] if self.payload.width else self.payload)


class Columns:
    """A frame's columns by slot, overwritten in place.

    Types with a fixed width lie in growing arrays, the rest in `Segments` by row id. A slot holds whatever
    was last put there; which slots mean anything, the table knows. `keys` keeps floats in the form of keys.
    """

    def __init__(self, schema: pl.Schema, *, keys: bool = False) -> None:
        self.schema = schema
        self._keys = keys
        self._fixed: list[_Fixed] = []
        payload: dict[str, pl.DataType] = {}
        for name, dtype in schema.items():
            slot = storage(dtype)
            if slot is None:
                check_payload(name, dtype)
                payload[name] = dtype
            else:
                self._fixed.append(_Fixed(name, dtype, slot))
        self._payload = list(payload)
        self._segments = Segments(pl.Schema(payload)) if payload else None
        self._ids = GrowingArray(np.int64)
        self._size = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        segments = self._segments.nbytes if self._segments else 0
        return segments + self._ids.nbytes + sum(column.nbytes for column in self._fixed)

    def grow(self, size: int) -> None:
        """Make room for slots up to `size`."""
        self._size = max(self._size, size)
        for column in self._fixed:
            column.grow(size)
        if self._segments:
            self._ids.grow(size)

    def encode(self, frame: pl.DataFrame) -> Encoded:
        """The frame in the form in which columns take it; checked against the schema."""
        check_schema(frame, self.schema)
        cells = (encode(frame.get_column(column.name)) for column in self._fixed)
        return Encoded(
            tuple(map(canonical, cells) if self._keys else cells),
            frame.select_seq(self._payload) if self._payload else pl.DataFrame(),
        )

    def decode(self, encoded: Encoded) -> pl.DataFrame:
        """The frame that was encoded, with floats in the form of keys."""
        return self._frame(encoded.cells, encoded.payload, None)

    def read(self, slots: SlotArray) -> Image:
        """What is at these slots; a negative slot reads some other."""
        return Image(
            tuple(column.read(slots) for column in self._fixed),
            self._ids.values.take(slots, mode="clip") if self._segments else None,
        )

    def frame(self, image: Image, absent: Mask | None = None) -> pl.DataFrame:
        """The image as a frame; rows that are `absent` are null in all columns. It shares the memory."""
        if image.ids is None or self._segments is None:
            return self._frame(image.cells, pl.DataFrame(), absent)
        ids = image.ids if absent is None else np.where(absent, 0, image.ids)
        return self._frame(image.cells, self._segments.gather(ids), absent)

    def write(self, slots: SlotArray, encoded: Encoded) -> None:
        """Put rows at these slots, no slot twice."""
        for column, cells in zip(self._fixed, encoded.cells, strict=True):
            column.write(slots, cells, self._size)
        if self._segments:
            self._ids.values[slots] = self._segments.append(encoded.payload, slots)

    def undo(self, slots: SlotArray, image: Image) -> None:
        """Put back what was read from these slots; the rows written since become garbage."""
        for column, cells in zip(self._fixed, image.cells, strict=True):
            column.write(slots, cells, self._size)
        if self._segments and image.ids is not None:
            self._segments.free(self._ids.values[slots])
            self._ids.values[slots] = image.ids

    def free(self, slots: SlotArray) -> None:
        """Let go of what these slots hold."""
        if self._segments:
            self._segments.free(self._ids.values[slots])
            self._ids.values[slots] = 0

    def overwritten(self, image: Image) -> None:
        """Let go of what was read before a `write` that now stands."""
        if self._segments and image.ids is not None:
            self._segments.free(image.ids)

    def vacuum(self) -> None:
        """Move payload out of segments that are mostly garbage; no image read before is good afterwards."""
        if self._segments:
            self._segments.vacuum(self._ids.values.take, self._ids.values.__setitem__)

    def same(self, slots: SlotArray, encoded: Encoded, rows: Any) -> Mask:
        """Whether the slots hold those rows of `encoded`; null is equal to null."""
        same = np.ones(len(slots), np.bool_)
        for column, cells in zip(self._fixed, encoded.cells, strict=True):
            column.compare(slots, cells, rows, same)
        if self._segments:
            held = self._segments.gather(self._ids.values[slots])
            asked = encoded.payload if isinstance(rows, slice) else encoded.payload[rows]
            for mine, theirs in zip(held.get_columns(), asked.get_columns(), strict=True):
                same &= mine.eq_missing(theirs).to_numpy()
        return same

    def alike(self, encoded: Encoded, rows: SlotArray, others: SlotArray) -> Mask:
        """Whether rows of `encoded` are the same as others of it; null is equal to null."""
        same = np.ones(len(rows), np.bool_)
        for cells in encoded.cells:
            data = bits(cells.data)
            equal = data[rows] == data[others]
            same &= equal.all(axis=1) if equal.ndim == 2 else equal
            if cells.nulls is not None:
                same &= cells.nulls[rows] == cells.nulls[others]
        if encoded.payload.width:
            for mine, theirs in zip(encoded.payload[rows], encoded.payload[others], strict=True):
                same &= mine.eq_missing(theirs).to_numpy()
        return same

    def gather(self, slots: SlotArray, names: Sequence[str]) -> pl.DataFrame:
        """Some columns of what is at these slots."""
        fixed = {column.name: column for column in self._fixed}
        texts = [name for name in names if name not in fixed]
        payload = (
            self._segments.gather(self._ids.values.take(slots), texts) if self._segments and texts else pl.DataFrame()
        )
        return pl.DataFrame(
            [
                fixed[name].decode(fixed[name].read(slots), None) if name in fixed else payload.get_column(name)
                for name in names
            ]
        )

    def _frame(self, cells: tuple[Cells, ...], payload: pl.DataFrame, absent: Mask | None) -> pl.DataFrame:
        fixed = {column.name: column.decode(c, absent) for column, c in zip(self._fixed, cells, strict=True)}
        return pl.DataFrame([fixed[name] if name in fixed else payload.get_column(name) for name in self.schema])


class _Fixed:
    """One column of fixed width. Nulls are marked in an array of their own from the first null on."""

    __slots__ = ("_data", "_dtype", "_nulls", "name")

    def __init__(self, name: str, dtype: pl.DataType, slot: np.dtype[Any]) -> None:
        self.name = name
        self._dtype = dtype
        self._data = GrowingArray(slot)
        self._nulls: GrowingArray | None = None

    @property
    def nbytes(self) -> int:
        return self._data.nbytes + (self._nulls.nbytes if self._nulls else 0)

    def grow(self, size: int) -> None:
        self._data.grow(size)
        if self._nulls:
            self._nulls.grow(size)

    def read(self, slots: SlotArray) -> Cells:
        nulls = self._nulls.values.take(slots, mode="clip") if self._nulls else None
        return Cells(self._data.values.take(slots, axis=0, mode="clip"), nulls)

    def write(self, slots: SlotArray, cells: Cells, size: int) -> None:
        self._data.values[slots] = cells.data
        if cells.nulls is not None and self._nulls is None:
            self._nulls = GrowingArray(np.bool_)
            self._nulls.grow(size)
        if self._nulls:
            self._nulls.values[slots] = False if cells.nulls is None else cells.nulls

    def decode(self, cells: Cells, absent: Mask | None) -> pl.Series:
        nulls = cells.nulls
        if absent is not None:
            nulls = absent if nulls is None else nulls | absent
        return decode(self.name, self._dtype, Cells(cells.data, nulls))

    def compare(self, slots: SlotArray, cells: Cells, rows: Any, same: Mask) -> None:
        """Clear `same` where the slots hold something else; floats by their bits."""
        held, asked = self._data.values.take(slots, axis=0), cells.data[rows]
        if held.ndim == 2:
            same &= (held == asked).all(axis=1)
        else:
            same &= bits(held) == bits(asked)
        if self._nulls:
            nulls = self._nulls.values.take(slots)
            same &= ~nulls if cells.nulls is None else nulls == cells.nulls[rows]
        elif cells.nulls is not None:
            same &= ~cells.nulls[rows]


def bits(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Floats as their bits, so that a NaN is equal to itself; all else as it is."""
    return data.view(f"u{data.dtype.itemsize}") if data.dtype.kind == "f" else data


def check_schema(frame: pl.DataFrame, schema: pl.Schema) -> None:
    """Raise `StateError` unless the frame has these columns in this order."""
    if frame.schema != schema:
        raise StateError(f"keyed state takes rows of {_shown(schema)}; these are of {_shown(frame.schema)}")


def _shown(schema: pl.Schema) -> str:
    return "(" + ", ".join(f"{name}: {dtype}" for name, dtype in schema.items()) + ")"


def check_payload(name: str, dtype: pl.DataType) -> None:
    """Refuse what cannot be copied by way of Arrow: Python objects, and 128-bit integers inside others."""
    inner: list[pl.DataType] = [dtype]
    while inner:
        part = inner.pop()
        if isinstance(part, (pl.Object, pl.Int128, pl.UInt128)):
            raise StateError(f"column {name!r} of type {dtype} cannot be kept as state: {part} inside; cast it first")
        if isinstance(part, (pl.List, pl.Array)):
            inner.append(pl.Series(dtype=part.inner).dtype)
        elif isinstance(part, pl.Struct):
            inner.extend(pl.Series(dtype=field.dtype).dtype for field in part.fields)
