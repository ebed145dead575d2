"""Distinct values by group: what counts of them remember."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.frames import rows_where
from arrowstream.names import inner
from arrowstream.state.delta import DELETED, from_delta, to_delta
from arrowstream.state.index import SlotArray
from arrowstream.state.table import KeyedTable

_GROUP: Final = inner("pairs_group")
_MASK: Final = inner("mask")
_PAIRS: Final = inner("pairs")
_MASKS: Final = (pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64())

Counts = npt.NDArray[np.int64]


class PairTable:
    """Pairs (group, value) with a column for each count that they are for.

    The last of `keys` is the value, the others are the group's. A column says whether the pair counts (Boolean; it
    does for ever), or, where `weighted`, how often it is there (Int64; it counts above 0). From outside it is a table
    of such rows. Inside, the keys of a group, often texts, are kept once, and pairs are found by the number of their
    group, with a bit for each Boolean: 30 bytes or so a pair.
    """

    def __init__(self, keys: pl.Schema, columns: Sequence[str], weighted: bool) -> None:
        *of_group, self._value = keys.names()
        self._columns, self._weighted = list(columns), weighted
        self._keys = keys
        self._schema = pl.Schema({**keys, **dict.fromkeys(columns, pl.Int64() if weighted else pl.Boolean())})
        held: dict[str, pl.DataType] = dict.fromkeys(columns, pl.Int64())
        if not weighted:
            mask = next((dtype for dtype in _MASKS if 8 * _width(dtype) >= len(columns)), None)
            if mask is None:
                raise StateError(f"pairs take at most 64 counts each; these are {len(columns)}")
            held = {_MASK: mask}
        self._groups = KeyedTable(
            pl.Schema({name: keys[name] for name in of_group}), pl.Schema({_PAIRS: pl.Int64()} if weighted else {})
        )
        self._pairs = KeyedTable(pl.Schema({_GROUP: pl.UInt32(), self._value: keys[self._value]}), pl.Schema(held))

    @property
    def keys(self) -> pl.Schema:
        """The group's keys and the value."""
        return self._keys

    def __len__(self) -> int:
        return len(self._pairs)

    def memory_bytes(self) -> int:
        """Bytes held for groups and pairs."""
        return self._groups.memory_bytes() + self._pairs.memory_bytes()

    def add(self, groups: pl.DataFrame, rows: npt.NDArray[np.integer[Any]], pairs: pl.DataFrame) -> list[Counts]:
        """Bring pairs to those that are there; by how much each count of each group has changed, column by column.

        `groups` are keys, each once; `pairs` are the value and the columns, each pair once, and `rows` says of each
        which row of `groups` it is of. Of Booleans one at least is true.
        """
        owners = self._groups.upsert(groups).slots
        found = self._pairs.upsert(self._pair_keys(owners[rows], pairs[self._value]))
        old = self._pairs.gather(found.slots)
        if not self._weighted:
            return self._mark(rows, len(owners), found.slots, old, pairs)
        counts, changes = [], []
        for name in self._columns:
            before = old[name].fill_null(0).to_numpy()
            after = before + pairs[name].to_numpy()
            counts.append(pl.Series(name, after))
            changes.append(_tally(rows, after > 0, len(owners)) - _tally(rows, before > 0, len(owners)))
        new = pl.DataFrame(counts)
        self._pairs.put(found.slots, new)
        gone = ~np.any([count.to_numpy() != 0 for count in counts], axis=0)
        self._pairs.delete(found.slots[gone])
        held = self._groups.gather(owners)[_PAIRS].fill_null(0).to_numpy()
        held = held + _tally(rows, found.fresh, len(owners)) - _tally(rows, gone, len(owners))
        self._groups.put(owners, pl.DataFrame({_PAIRS: held}))
        self._groups.delete(owners[held == 0])
        return changes

    def forget(self, groups: pl.DataFrame) -> None:
        """Let these groups go with all their pairs; looks through all pairs."""
        owners = self._groups.find(groups)
        owners = owners[owners >= 0]
        if not len(owners):
            return
        pairs = self._pairs.scan().select(self._pairs.keys.names())
        gone = rows_where(pairs, np.isin(pairs[_GROUP].to_numpy(), owners))
        self._pairs.delete(self._pairs.find(gone))
        self._groups.delete(owners)

    def delta(self) -> pa.Table:
        """The pairs that the open version touched, as `KeyedTable.delta` has it."""
        return self._outside(self._pairs.delta())

    def snapshot(self) -> pa.Table:
        """All pairs, in the form of a delta."""
        return self._outside(self._pairs.snapshot())

    def commit(self) -> None:
        """Make the open version the state."""
        self._pairs.commit()
        self._groups.commit()

    def rollback(self) -> None:
        """Be again as at the last commit."""
        self._pairs.rollback()
        self._groups.rollback()

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then apply a snapshot and deltas, oldest first."""
        self._pairs.restore([])
        self._groups.restore([])
        names = self._groups.keys.names()
        for table in tables:
            rows, deleted = from_delta(table, self._schema)
            # Without keys there is one group, and a frame without columns asks for it once.
            owners = self._groups.intern(rows.select(names)) if rows.height else np.empty(0, np.int64)
            owners = owners if names else np.repeat(owners, rows.height)
            keys, kept = self._pair_keys(owners, rows[self._value]), ~deleted
            if kept.any():
                held = rows.filter(kept).select(self._columns)
                self._pairs.put(
                    self._pairs.upsert(keys.filter(kept)).slots, held if self._weighted else self._masked(held)
                )
            slots = self._pairs.find(keys.filter(deleted))
            self._pairs.delete(slots[slots >= 0])
            self._pairs.commit()
        if self._weighted:
            self._count_groups()
        self._groups.commit()

    # -- helpers ----------------------------------------------------------------------------------------

    def _mark(
        self,
        rows: npt.NDArray[np.integer[Any]],
        groups: int,
        slots: SlotArray,
        old: pl.DataFrame,
        pairs: pl.DataFrame,
    ) -> list[Counts]:
        """Set the bits of pairs that count from now on."""
        before = old[_MASK].fill_null(0).to_numpy()
        after = before | self._masked(pairs)[_MASK].to_numpy()
        changed = np.flatnonzero(after != before)
        if len(changed) == len(slots):
            self._pairs.put(slots, pl.DataFrame({_MASK: after}))
        elif len(changed):
            self._pairs.put(slots[changed], pl.DataFrame({_MASK: after[changed]}))
        gained, rows = (after ^ before)[changed], rows[changed]
        bit = gained.dtype.type
        return [_tally(rows, gained & bit(1 << number) != 0, groups) for number in range(len(self._columns))]

    def _masked(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The Booleans as bits."""
        dtype = self._pairs.values[_MASK]
        bits = [pairs[name].cast(dtype).to_numpy() << number for number, name in enumerate(self._columns)]
        return (
            pl.DataFrame({_MASK: np.bitwise_or.reduce(bits)}) if pairs.height else pl.Schema({_MASK: dtype}).to_frame()
        )

    def _pair_keys(self, owners: SlotArray, values: pl.Series) -> pl.DataFrame:
        return pl.DataFrame([pl.Series(_GROUP, owners.astype(np.uint32)), values])

    def _outside(self, table: pa.Table) -> pa.Table:
        """Rows of the inner table with the keys of their groups, and Booleans for bits."""
        rows = pl.DataFrame(table)
        keys = self._groups.gather_keys(rows[_GROUP].to_numpy().astype(np.int64))
        held = rows.select(self._columns) if self._weighted else self._unmasked(rows[_MASK])
        return to_delta(pl.DataFrame([*keys, rows[self._value], *held]), rows[DELETED])

    def _unmasked(self, masks: pl.Series) -> pl.DataFrame:
        return masks.to_frame().select(
            (pl.col(_MASK) & pl.lit(1 << number, masks.dtype) != 0).alias(name)
            for number, name in enumerate(self._columns)
        )

    def _count_groups(self) -> None:
        """Count each group's pairs, and let go of groups without any."""
        if not len(self._groups):
            return
        owners = self._pairs.scan()[_GROUP].to_numpy().astype(np.int64)
        slots = self._groups.find(self._groups.scan().select(self._groups.keys.names()))
        held = np.bincount(owners, minlength=int(slots.max(initial=-1)) + 1).astype(np.int64)[slots]
        self._groups.put(slots, pl.DataFrame({_PAIRS: held}))
        self._groups.delete(slots[held == 0])


def _tally(rows: npt.NDArray[np.integer[Any]], chosen: npt.NDArray[np.bool_], groups: int) -> Counts:
    """How many of the chosen rows each group has."""
    return np.bincount(rows[chosen], minlength=groups).astype(np.int64)


def _width(dtype: pl.DataType) -> int:
    return int(pl.Series(dtype=dtype).to_numpy().dtype.itemsize)
