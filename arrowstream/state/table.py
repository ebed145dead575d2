"""Rows by key: the one structure in which stateful operators remember."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from arrowstream.errors import StateError
from arrowstream.frames import rows_where
from arrowstream.state.columns import Columns, Encoded, Image, Mask, SlotArray
from arrowstream.state.delta import DELETED, from_delta, to_delta
from arrowstream.state.growing import GrowingArray
from arrowstream.state.index import MAX_SLOTS, Rows, SlotIndex
from arrowstream.state.keyhash import Hashes, first_alike, hash_rows

# What a slot is: free or deleted; a key without values yet; a key with values. The mark is for `_once`.
_DEAD: Final = 0
_BARE: Final = 1
_FULL: Final = 2
_MARK: Final = 4


@dataclass(frozen=True, slots=True)
class Slots:
    """Where the keys of a call are: `slots` row by row, `fresh` where the key was not there before."""

    slots: SlotArray
    fresh: Mask


@dataclass(frozen=True, slots=True)
class _Change:
    """What one call changed in the open version: slots with their status, and their values if it wrote any."""

    slots: SlotArray
    status: npt.NDArray[np.uint8]
    values: Image | None


class KeyedTable:
    """Value columns by key, changed a batch of keys at a time, a version at a time.

    Keys become slots once (`upsert`, `find`), then values are read and written by slot. A slot belongs to its
    key until the version in which the key is deleted is committed; then it is free for another. Changes since
    the last `commit` are the open version: `delta` shows it, `rollback` undoes it. Everything costs by the
    rows of the call, not of the table.

    Any Polars type can be key or value but Python objects and 128-bit integers inside other types. Keys are
    equal as in a Polars group: null = null, NaN = NaN, -0.0 = 0.0. Without key columns there is one key, and
    `upsert` and `find` take any frame without columns. Not for use by several threads. `hasher` is for tests.

    >>> table = KeyedTable(pl.Schema({"word": pl.String}), pl.Schema({"count": pl.Int64}))
    >>> at = table.upsert(pl.DataFrame({"word": ["a", "b"]}))
    >>> table.put(at.slots, table.gather(at.slots).select(pl.col("count").fill_null(0) + 1))
    >>> table.scan().sort("word").rows()
    [('a', 1), ('b', 1)]
    """

    def __init__(
        self, keys: pl.Schema, values: pl.Schema, *, hasher: Callable[[pl.DataFrame], Hashes] = hash_rows
    ) -> None:
        clash = [name for name in [*values, DELETED] if name in keys or (name == DELETED and name in values)]
        if clash:
            raise StateError(f"keys and values of a keyed table need names of their own, not {clash[0]!r} twice")
        self._schema = pl.Schema({**keys, **values})
        self._hasher = hasher
        self._clear(keys, values)

    def _clear(self, keys: pl.Schema, values: pl.Schema) -> None:
        self._index = SlotIndex()
        self._keys = Columns(keys, keys=True)
        self._values = Columns(values)
        self._status = GrowingArray(np.uint8)
        self._top = 0
        self._free: list[SlotArray] = []
        self._live = 0
        self._close()

    def _close(self) -> None:
        """Begin a new version."""
        self._changes: list[_Change] = []
        self._added: list[SlotArray] = []
        self._deleted: list[SlotArray] = []
        # The last upsert if nothing was changed before it, the last put, and the last gather.
        self._upserted: tuple[SlotArray, Encoded] | None = None
        self._put: tuple[SlotArray, pl.DataFrame] | None = None
        self._read: tuple[SlotArray, Image, npt.NDArray[np.uint8]] | None = None

    @property
    def keys(self) -> pl.Schema:
        """The key columns."""
        return self._keys.schema

    @property
    def values(self) -> pl.Schema:
        """The value columns."""
        return self._values.schema

    def __len__(self) -> int:
        return self._live

    def memory_bytes(self) -> int:
        """Bytes held for keys, values and index, without the open version's undo."""
        arrays = self._keys.nbytes + self._values.nbytes + self._status.nbytes
        return arrays + self._index.nbytes + sum(slots.nbytes for slots in self._free)

    # -- keys -------------------------------------------------------------------------------------------

    def upsert(self, keys: pl.DataFrame) -> Slots:
        """The slots of these keys, made where missing; no key may be there twice. The arrays are read-only.

        A fresh key is in the table from now on, with null in all values until it is `put`.
        """
        encoded, hashes = self._encode(keys)
        slots = self._index.find(hashes, self._match(encoded))
        fresh = slots < 0
        new = np.flatnonzero(fresh)
        if len(new):
            slots[new] = added = self._allocate(len(new))
            self._keys.write(added, encoded[new])
            self._index.insert(hashes[new], added)
            self._added.append(added)
        if self._deleted:
            fresh = self._status.values.take(slots) == _DEAD
            new = np.flatnonzero(fresh)
        self._upserted = None if self._changes else (slots, encoded)
        if len(new):
            self._set_status(slots[new], _BARE)
            self._live += len(new)
        slots.flags.writeable = fresh.flags.writeable = False
        return Slots(slots, fresh)

    def intern(self, keys: pl.DataFrame) -> SlotArray:
        """The slot of every row's key, made where missing; a key may be in many rows. Read-only."""
        encoded, hashes = self._encode(keys)
        slots = self._index.find(hashes, self._match(encoded))
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            unknown, hashes = encoded[missing], hashes[missing]
            first = first_alike(hashes, lambda rows, others: self._keys.alike(unknown, rows, others))
            new = np.flatnonzero(first == np.arange(len(first)))
            added = self._allocate(len(new))
            self._keys.write(added, unknown[new])
            self._index.insert(hashes[new], added)
            self._added.append(added)
            self._set_status(added, _BARE)
            self._live += len(added)
            place = np.empty(len(first), np.int64)
            place[new] = added
            slots[missing] = place[first]
        if self._deleted:
            dead = np.unique(slots[self._status.values.take(slots) == _DEAD])
            self._set_status(dead, _BARE)
            self._live += len(dead)
        self._upserted = None
        slots.flags.writeable = False
        return slots

    def find(self, keys: pl.DataFrame) -> SlotArray:
        """The slot of each key, -1 where it is not in the table; a key may be asked for twice. Read-only."""
        encoded, hashes = self._encode(keys)
        slots = self._index.find(hashes, self._match(encoded))
        if self._deleted:
            slots[self._status.values.take(slots, mode="clip") == _DEAD] = -1
        slots.flags.writeable = False
        return slots

    # -- values -----------------------------------------------------------------------------------------

    def gather(self, slots: SlotArray) -> pl.DataFrame:
        """The value columns at these slots, row by row; null where there is no value yet, or the slot is -1."""
        self._check(slots, -1)
        if not self._top:
            return self.values.to_frame().clear(len(slots))
        image, status = self._values.read(slots), self._status.values.take(slots, mode="clip")
        self._read = (slots, image, status)
        full = (status == _FULL) & (slots >= 0)
        return self._values.frame(image, None if full.all() else ~full)

    def pick(self, slots: SlotArray, columns: Sequence[str]) -> pl.DataFrame:
        """Some value columns at slots that have values, row by row."""
        self._check(slots, 0)
        return self._values.gather(slots, columns)

    def gather_keys(self, slots: SlotArray) -> pl.DataFrame:
        """The key columns at these slots, row by row."""
        self._check(slots, 0)
        return self._keys.frame(self._keys.read(slots))

    def put(self, slots: SlotArray, values: pl.DataFrame) -> None:
        """Write all value columns at these slots, row by row; no slot twice, and only slots of live keys.

        `slots` is kept for the undo: do not change an array of your own before the commit.
        """
        self._check(slots, 0)
        if values.width and values.height != len(slots):
            raise StateError(f"{len(slots)} slots cannot take {values.height} rows of values")
        encoded = self._values.encode(values)
        if self._read is not None and self._read[0] is slots and not slots.flags.writeable:
            # The same array as was gathered, and nobody can have changed it: that was the before-image.
            _, image, status = self._read
        else:
            image, status = self._values.read(slots), self._status.values.take(slots)
        if not status.all():
            raise StateError("values were put at the slot of a deleted key: upsert the key first")
        self._put = (slots, values)
        self._changes.append(_Change(slots, status, image))
        self._read = None
        self._values.write(slots, encoded)
        self._status.values[slots] = _FULL

    def delete(self, slots: SlotArray) -> None:
        """Take the keys of these slots out of the table; no slot twice."""
        self._check(slots, 0)
        if not len(slots):
            return
        if not self._status.values.take(slots).all():
            raise StateError("a key was deleted twice")
        self._set_status(slots, _DEAD)
        self._deleted.append(slots)
        self._live -= len(slots)

    def scan(self) -> pl.DataFrame:
        """Keys and values of all live rows, in no order to rely on."""
        slots = np.flatnonzero(self._status.values[: self._top])
        return self._rows(slots)

    # -- versions ---------------------------------------------------------------------------------------

    def delta(self) -> pa.Table:
        """What the open version changed: a row per touched key, its values now, and `DELETED`.

        Values are null where deleted. 128-bit integers are 16 bytes each: see `state.delta`.
        """
        if self._put is not None and self._upserted is not None and self._put[0] is self._upserted[0]:
            puts = sum(change.values is not None for change in self._changes)
            if puts == 1 and not self._deleted:
                # The usual batch: all that changed are the rows of one upsert, put once.
                keys = self._keys.decode(self._upserted[1])
                return to_delta(_beside(keys, self._put[1]))
        slots = self._once([change.slots for change in self._changes])
        if not len(slots):
            return to_delta(self._schema.to_frame())
        return to_delta(self._rows(slots), pl.Series(self._status.values[slots] == _DEAD))

    def commit(self) -> None:
        """Make the open version the state; slots of deleted keys become free. Without changes, nothing."""
        for change in self._changes:
            if change.values is not None:
                self._values.overwritten(change.values)
        if self._deleted:
            gone = self._once(self._deleted)
            self._drop(gone[self._status.values[gone] == _DEAD])
        self._close()
        self._values.vacuum()
        self._keys.vacuum()

    def rollback(self) -> None:
        """Be again exactly as at the last commit; slots given out since then are void."""
        for change in reversed(self._changes):
            was, now = change.status != _DEAD, self._status.values[change.slots] != _DEAD
            self._live += int(was.sum()) - int(now.sum())
            self._status.values[change.slots] = change.status
            if change.values is not None:
                self._values.undo(change.slots, change.values)
        for slots in self._added:
            self._drop(slots)
        self._close()

    def apply(self, delta: pa.Table) -> None:
        """Take over the changes of a delta and commit; a second time changes nothing."""
        if self._changes:
            raise StateError("a delta cannot be applied over an open version: commit or roll back first")
        rows, deleted = from_delta(delta, self._schema)
        kept, gone = rows_where(rows, ~deleted), rows_where(rows, deleted)
        if kept.height:
            self.put(self.upsert(kept.select(self.keys.names())).slots, kept.select(self.values.names()))
        if gone.height:
            slots = self.find(gone.select(self.keys.names()))
            self.delete(slots[slots >= 0])
        self.commit()

    def snapshot(self) -> pa.Table:
        """The whole state in the form of a delta."""
        return to_delta(self.scan())

    def restore(self, tables: Iterable[pa.Table]) -> None:
        """Forget everything, then apply a snapshot and deltas, oldest first."""
        self._clear(self.keys, self.values)
        for table in tables:
            self.apply(table)

    # -- helpers ----------------------------------------------------------------------------------------

    def _encode(self, keys: pl.DataFrame) -> tuple[Encoded, Hashes]:
        encoded = self._keys.encode(keys)
        return encoded, self._hasher(keys)

    def _match(self, encoded: Encoded) -> Callable[[Rows, SlotArray], Mask]:
        return lambda rows, slots: self._keys.same(slots, encoded, rows)

    def _allocate(self, count: int) -> SlotArray:
        """Slots for new keys: freed ones first, then from the top."""
        parts, left = [], count
        while left and self._free:
            freed = self._free.pop()
            if len(freed) > left:
                self._free.append(freed[left:])
                freed = freed[:left]
            parts.append(freed)
            left -= len(freed)
        top = self._top + left
        if top > MAX_SLOTS:
            raise StateError(f"a keyed table holds at most {MAX_SLOTS} keys: use more workers or partitions")
        parts.append(np.arange(self._top, top))
        self._top = top
        for part in (self._keys, self._values, self._status):
            part.grow(top)
        return np.concatenate(parts)

    def _set_status(self, slots: SlotArray, status: int) -> None:
        self._changes.append(_Change(slots, self._status.values.take(slots), None))
        self._status.values[slots] = status
        self._read = None

    def _drop(self, slots: SlotArray) -> None:
        """Take keys that are dead for good out of the index, and free their slots."""
        if not len(slots):
            return
        keys = self._keys.frame(self._keys.read(slots))
        self._index.remove(self._hasher(keys), slots)
        self._keys.free(slots)
        self._values.free(slots)
        self._free.append(slots)

    def _once(self, calls: list[SlotArray]) -> SlotArray:
        """Every slot of several calls, once; marking them is ten times as fast as sorting."""
        status, parts = self._status.values, [np.empty(0, np.int64)]
        for slots in calls:
            new = slots[status.take(slots) < _MARK]
            status[new] |= _MARK
            parts.append(new)
        once = np.concatenate(parts)
        status[once] &= _MARK - 1
        return once

    def _rows(self, slots: SlotArray) -> pl.DataFrame:
        full = self._status.values[slots] == _FULL
        keys = self._keys.frame(self._keys.read(slots))
        values = self._values.frame(self._values.read(slots), None if full.all() else ~full)
        return _beside(keys, values)

    def _check(self, slots: SlotArray, least: int) -> None:
        if len(slots) and (slots.min() < least or slots.max() >= self._top):
            raise StateError(f"slots outside of {least}..{self._top - 1}: not from this table, or of a key not found")


def _beside(keys: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([*keys.get_columns(), *values.get_columns()])
