"""Changes between operators: rows that came, and rows that were taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.engine import engine

NEWEST = pl.CompatLevel.newest()


@dataclass(frozen=True, slots=True)
class Changes:
    """A Z-set of whole rows with weights of +1 and -1, the two signs kept apart.

    Whatever is row-local can so be run on each side alone, with no weight column to carry through; streams that
    only ever grow have no `removed` side at all. Frames are lazy until somebody must see rows, so that
    neighbours fuse down into the scan of a file.
    """

    added: pl.LazyFrame
    removed: pl.LazyFrame | None = None
    rows: int | None = None
    """About how many rows they are made from, where that is known: by it the engine is chosen."""

    @classmethod
    def of(cls, added: pl.DataFrame, removed: pl.DataFrame | None = None) -> Changes:
        """Changes that are no longer lazy."""
        if removed is None:
            return cls(added.lazy(), rows=added.height)
        return cls(added.lazy(), removed.lazy(), added.height + removed.height)

    def map(self, function: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Changes:
        """The same row-local function over both sides."""
        return Changes(function(self.added), None if self.removed is None else function(self.removed), self.rows)

    def collect(self) -> Changes:
        """Run what is still lazy, so that several readers share one result."""
        if self.removed is None:
            return Changes.of(self.added.collect(engine=engine(self.rows)))
        return Changes.of(*pl.collect_all([self.added, self.removed], engine=engine(self.rows)))

    def to_batch(self, schema: pa.Schema | None = None) -> ChangeBatch:
        """For a sink: removed rows first, as a row that is replaced goes before it comes."""
        if self.removed is None:
            return ChangeBatch(to_arrow(self.added.collect(engine=engine(self.rows))))
        added, removed = pl.collect_all([self.added, self.removed], engine=engine(self.rows))
        weights = np.concatenate([np.full(removed.height, -1, np.int64), np.ones(added.height, np.int64)])
        return ChangeBatch(to_arrow(pl.concat([removed, added])), pa.array(weights))


def union(parts: Iterable[Changes]) -> Changes:
    """All of them together, in order."""
    each = list(parts)
    if len(each) == 1:
        return each[0]
    removed = [part.removed for part in each if part.removed is not None]
    sizes = [part.rows for part in each if part.rows is not None]
    rows = sum(sizes) if len(sizes) == len(each) else None
    return Changes(pl.concat([part.added for part in each]), pl.concat(removed) if removed else None, rows)


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """The frame as Arrow without copying its strings (they stay views)."""
    return frame.to_arrow(compat_level=NEWEST)
