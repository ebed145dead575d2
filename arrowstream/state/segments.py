"""Values of any length, kept by row id in append-only segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from arrowstream.frames import rows_at
from arrowstream.state.copying import copied, released

Ids: TypeAlias = npt.NDArray[np.int64]
Slots: TypeAlias = npt.NDArray[np.int64]

SEGMENT_ROWS: Final = 1 << 17
# Polars gathers from up to 8 chunks without joining them first.
_PIECES: Final = 8


class Segments:
    """Rows of a frame by id, written once: strings, lists, structs and whatever else has no fixed width.

    Ids count up from 1 and are never used again; 0 is no row. Each row has an owner, the slot that refers to
    it. A row that is no longer referred to is told to `free`; a full segment of which more than half is free
    is emptied by `vacuum`, which moves the rest to the end. What is kept is copied, so that no batch stays
    alive for a few of its rows.
    """

    def __init__(self, schema: pl.Schema, segment_rows: int = SEGMENT_ROWS) -> None:
        self._schema = schema
        self._rows = segment_rows
        self._sealed: dict[int, _Segment] = {}
        self._open = _Segment()
        self._open_number = 0
        self._appended = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, garbage included."""
        return sum(segment.nbytes for segment in [*self._sealed.values(), self._open])

    @property
    def garbage(self) -> int:
        """Rows that are freed and still held."""
        return sum(segment.freed for segment in [*self._sealed.values(), self._open])

    def append(self, frame: pl.DataFrame, owners: Slots) -> Ids:
        """Keep the rows of `frame`, each for its owner; their ids."""
        first = self._open_number * self._rows + self._open.rows + 1
        frame = released(frame)
        done = 0
        while done < len(owners):
            take = min(self._rows - self._open.rows, len(owners) - done)
            self._open.append(frame[done : done + take], owners[done : done + take])
            done += take
            if self._open.rows == self._rows:
                self._open.join()
                self._sealed[self._open_number] = self._open
                self._open, self._open_number = _Segment(), self._open_number + 1
        self._appended += len(owners)
        return np.arange(first, first + len(owners))

    def gather(self, ids: Ids, names: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows with these ids, in their order, or some columns of them; id 0 gives a row of nulls."""
        names = self._schema.names() if names is None else names
        numbers, within = np.divmod(ids - 1, self._rows)
        if not self._sealed and self._open.rows and (not len(ids) or numbers.min() >= 0):
            return rows_at(self._open.frame().select_seq(names), within)
        numbers = np.where(ids > 0, numbers, self._open_number + 1)
        order, parts = _by_number(numbers)
        gathered = [
            rows_at(self._segment(number).frame().select_seq(names), within[order[start:stop]])
            if number <= self._open_number
            else self._schema.to_frame().select(names).clear(stop - start)
            for number, start, stop in parts
        ]
        if not gathered:
            return self._schema.to_frame().select(names)
        back = np.empty(len(ids), np.int64)
        back[order] = np.arange(len(ids))
        # In one chunk first: from 60 a gather takes 88 ms, from one 5.
        return rows_at(pl.concat(gathered, rechunk=True), back)

    def free(self, ids: Ids) -> None:
        """Count the rows with these ids as garbage; 0 is left out."""
        ids = ids[ids > 0]
        for number, start, stop in _by_number((ids - 1) // self._rows)[1]:
            self._segment(number).freed += stop - start

    def vacuum(self, owned: Callable[[Slots], Ids], moved: Callable[[Slots, Ids], None]) -> None:
        """Empty segments that are more than half garbage, as many as keep up with what was appended since.

        `owned` gives the ids that slots refer to now, `moved` is told the slots whose rows have new ids. A
        call moves at most half a segment more than was appended since the last one.
        """
        budget, self._appended = self._appended, 0
        for number in [n for n, segment in self._sealed.items() if 2 * segment.freed > segment.rows]:
            segment = self._sealed[number]
            owners = segment.owners()
            ids = np.arange(number * self._rows + 1, number * self._rows + segment.rows + 1)
            kept = np.flatnonzero(owned(owners) == ids)
            if len(kept):
                moved(owners[kept], self.append(rows_at(segment.frame(), kept), owners[kept]))
            del self._sealed[number]
            budget -= len(kept)
            if budget < 0:
                break
        self._appended = 0

    def _segment(self, number: int) -> _Segment:
        return self._open if number == self._open_number else self._sealed[number]


class _Segment:
    """Rows with consecutive ids, in a few pieces while it is filled: a new piece joins a last one not twice
    its size, so that small appends are joined in ever larger steps."""

    __slots__ = ("_frame", "_owners", "_pieces", "freed", "rows")

    def __init__(self) -> None:
        self._pieces: list[pl.DataFrame] = []
        self._owners: list[Slots] = []
        self._frame: pl.DataFrame | None = None
        self.rows = 0
        self.freed = 0

    @property
    def nbytes(self) -> int:
        owners = sum(owners.nbytes for owners in self._owners)
        return owners + sum(int(piece.estimated_size()) for piece in self._pieces)

    def append(self, piece: pl.DataFrame, owners: Slots) -> None:
        pieces, tail = self._pieces, [piece]
        rows = piece.height
        while pieces and (pieces[-1].height <= 2 * rows or len(pieces) >= _PIECES):
            rows += pieces[-1].height
            tail.append(pieces.pop())
        pieces.append(piece if len(tail) == 1 else copied(pl.concat(tail[::-1])))
        self._owners.append(owners)
        self._frame = None
        self.rows += piece.height

    def join(self) -> None:
        """Make one piece of all."""
        self._pieces = [copied(pl.concat(self._pieces))]
        self._owners = [self.owners()]
        self._frame = None

    def frame(self) -> pl.DataFrame:
        if self._frame is None:
            self._frame = pl.concat(self._pieces, rechunk=False)
        return self._frame

    def owners(self) -> Slots:
        return np.concatenate(self._owners)


def _by_number(numbers: Ids) -> tuple[Ids, list[tuple[int, int, int]]]:
    """An order that brings equal numbers together, and each number with where it starts and stops in it."""
    if not len(numbers):
        return numbers, []
    least = int(numbers.min())
    spread = numbers - least
    # Sixteen bits are sorted by radix, ten times as fast.
    order = np.argsort(spread.astype(np.uint16) if spread.max() < 1 << 16 else spread, kind="stable")
    ordered = spread[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    stops = np.append(starts[1:], len(ordered))
    return order, [
        (int(ordered[start]) + least, int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)
    ]
