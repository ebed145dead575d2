"""What a replica keeps of a table: a base, and the deltas since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.pieces import worth_merging
from arrowstream.state.delta import DELETED

# Deltas below this many rows are not worth merging.
FEW: Final = 1 << 14


class ChangeLog:
    """The deltas of one partition's table by version, from which `KeyedTable.restore` makes it again.

    Versions come in rising order. The newest may still be uncommitted: it can be discarded, and is never
    merged. Merging keeps the last row of each key, and into the base no deleted ones; because deltas
    hold after-images, a table that already has some of them may take them again. Deltas of no rows are not kept, only
    their version is.
    """

    def __init__(self, keys: Sequence[str], few: int = FEW) -> None:
        self._keys = list(keys)
        self._few = few
        self._base: tuple[int, pa.Table] | None = None
        self._deltas: list[tuple[int, pa.Table]] = []
        self._through: int | None = None  # the newest version that can no longer be dropped, also one without rows

    @property
    def version(self) -> int | None:
        """The newest version, None before the first."""
        known = [self._through] if self._through is not None else []
        return max([*known, *(number for number, _ in self._deltas[-1:])], default=None)

    def append(self, version: int, delta: pa.Table) -> None:
        """Keep the delta of the next version."""
        if self.version is not None and version <= self.version:
            raise StateError(f"version {version} comes after {self.version}: discard the versions after it first")
        if self._deltas:
            self._through = self._deltas[-1][0]
            if not self._deltas[-1][1].num_rows and self._size() > 1:
                self._deltas.pop()
        self._deltas.append((version, delta))

    def tables(self) -> list[pa.Table]:
        """The base and all deltas in the order in which they are restored."""
        base = [self._base[1]] if self._base else []
        return base + [delta for _, delta in self._deltas]

    def discard_after(self, version: int) -> None:
        """Drop every version newer than this one; one that is merged into the base cannot be dropped."""
        if self._through is not None and version < self._through:
            raise StateError(f"versions after {version} cannot be discarded: {self._through} is merged already")
        self._deltas = [(number, delta) for number, delta in self._deltas if number <= version]

    def compact(self) -> bool:
        """Merge all but the newest version into the base, when their rows exceed twice the base's, and small ones among
        themselves; whether the base has changed.

        Call it as often as you like: a row is merged a bounded number of times on the average.
        """
        base_rows = self._base[1].num_rows if self._base else 0
        sizes = [delta.num_rows for _, delta in self._deltas[:-1]]
        if sum(sizes) <= max(2 * base_rows, self._few):
            if (start := worth_merging(sizes)) is not None:
                some = [delta for _, delta in self._deltas[start:-1]]
                last = self._deltas[-2][0]
                self._deltas[start:-1] = [(last, self._newest(some).to_arrow())]
            return False
        *merged, newest = self._deltas
        tables = ([self._base[1]] if self._base else []) + [delta for _, delta in merged]
        self._base = (merged[-1][0], self._newest(tables).filter(~pl.col(DELETED)).to_arrow())
        self._deltas = [newest]
        return True

    def _size(self) -> int:
        """Of how many tables it consists."""
        return len(self._deltas) + (self._base is not None)

    def memory_bytes(self) -> int:
        """Bytes of all tables held."""
        return sum(table.nbytes for table in self.tables())

    def _newest(self, tables: list[pa.Table]) -> pl.DataFrame:
        """The last row of each key."""
        rows = pl.concat([pl.DataFrame(table) for table in tables])
        return rows.unique(self._keys, keep="last") if self._keys else rows.tail(1)
