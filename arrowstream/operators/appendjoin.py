"""Inner joins without bounds of two streams that only grow: nothing that is kept, or given, is ever taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from arrowstream.frames import rows_at
from arrowstream.operators.changes import Changes
from arrowstream.operators.exchange import ROWS_FRAME, gathered
from arrowstream.operators.moment import Moment
from arrowstream.operators.pairing import Pairing
from arrowstream.operators.program import Parts
from arrowstream.state.numbers import KeyNumbers
from arrowstream.state.pile import Pile
from arrowstream.state.protocol import StateTable


class AppendJoin:
    """Both sides keep all their rows; a batch costs by its rows and by the pairs that they make."""

    def __init__(self, pairing: Pairing) -> None:
        self._pairing = pairing
        self._reads = pairing.reads
        self._names = pairing.renamed_right()
        numbers = KeyNumbers(pl.Schema({name: pairing.left[name] for name in pairing.left_on}))
        self._left, self._right = (
            Pile(pl.Schema({name: dtype for name, dtype in schema.items() if name in {*on, *reads}}), on, numbers)
            for schema, on, reads in zip(
                (pairing.left, pairing.right), (pairing.left_on, pairing.right_on), self._reads, strict=True
            )
        )

    @property
    def tables(self) -> Mapping[str, StateTable]:
        return {"left": self._left, "right": self._right}

    def nothing(self) -> Changes:
        return Changes.of(self._pairing.output.to_frame())

    def process(self, inputs: Sequence[Parts], moment: Moment) -> Changes:
        left = self._that_match(gathered(inputs[0], ROWS_FRAME), self._pairing.left_on)
        right = self._that_match(gathered(inputs[1], ROWS_FRAME), self._pairing.right_on)
        lefts, rights = self._left.numbers(left), self._right.numbers(right)
        reads_left, reads_right = self._reads
        pairs = []
        # What comes meets what was there and, so that no pair is made twice, on one side only also what comes with it.
        places, ids = self._left.find(rights)
        if len(ids):
            pairs.append(self._side_by_side(self._left.gather(ids, reads_left), rows_at(right[reads_right], places)))
        self._right.append(right, rights)
        places, ids = self._right.find(lefts)
        if len(ids):
            pairs.append(self._side_by_side(rows_at(left[reads_left], places), self._right.gather(ids, reads_right)))
        self._left.append(left, lefts)
        if not pairs:
            return self.nothing()
        found = Changes.of(pairs[0] if len(pairs) == 1 else pairs[0].vstack(pairs[1]))
        if self._pairing.where:
            found = found.map(lambda rows: rows.filter(self._pairing.where))
        return found.map(self._pairing.shown)

    def _that_match(self, rows: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
        """The rows without those that no row can ever match."""
        if self._pairing.nulls_equal or not any(rows[name].null_count() for name in on):
            return rows
        return rows.drop_nulls(on)

    def _side_by_side(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        right.columns = [self._names[name] for name in self._reads[1]]
        return left.hstack(right)
