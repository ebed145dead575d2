"""An array that grows without moving what it holds."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

# Below this, copying costs less than a system call and a page of its own.
_MAPPED = 1 << 20


class GrowingArray:
    """A NumPy array by slot, zero where nothing was written, grown in place.

    `values` is the array; growing replaces it, so hold the `GrowingArray` and never a view of its `values`.
    Past 1 MiB the memory is an anonymous mapping, which the kernel makes longer by moving page-table entries:
    growing 1 GiB takes 0.1 ms where a copy takes 300. Fresh pages are zero and cost nothing until touched.
    """

    __slots__ = ("_map", "_size", "_type", "values")

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._type = np.dtype(dtype)
        self._map: mmap.mmap | None = None
        self._size = 0
        self.values: npt.NDArray[Any] = np.zeros(0, self._type)

    @property
    def nbytes(self) -> int:
        """Bytes of the slots asked for; the room behind them is address space, not memory."""
        return self._size * self._type.itemsize

    def grow(self, size: int) -> None:
        """Make room for at least `size` slots; at least doubles, so that growing is rare."""
        self._size = max(self._size, size)
        held = len(self.values)
        if size <= held:
            return
        size = max(size, 2 * held, 64)
        length = -(-size * self._type.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        if length < _MAPPED:
            self._copy_into(np.zeros(size, self._type))
        elif self._map is None or not self._remap(length):
            fresh = _mapping(length)
            self._copy_into(self._view(fresh))
            self._map = fresh

    def _remap(self, length: int) -> bool:
        """Lengthen the mapping in place; False where the system cannot, or a view is still alive."""
        assert self._map is not None
        self.values = np.zeros(0, self._type)
        try:
            self._map.resize(length)
        except (BufferError, OSError, SystemError, ValueError):
            self.values = self._view(self._map)
            return False
        self.values = self._view(self._map)
        return True

    def _copy_into(self, values: npt.NDArray[Any]) -> None:
        values[: len(self.values)] = self.values
        self.values = values

    def _view(self, mapping: mmap.mmap) -> npt.NDArray[Any]:
        base = self._type.base
        flat = np.frombuffer(mapping, base)
        if not self._type.shape:
            return flat
        width = self._type.shape[0]
        return flat[: len(flat) // width * width].reshape(-1, width)


def _mapping(length: int) -> mmap.mmap:
    """Zeroed memory; private where there is a choice, since a shared mapping cannot be lengthened."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, length)
