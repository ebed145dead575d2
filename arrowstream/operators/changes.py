"""Changes between operators: rows that came, and rows that were taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.connectors.changes import ChangeBatch

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

    def map(self, function: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Changes:
        """The same row-local function over both sides."""
        return Changes(function(self.added), None if self.removed is None else function(self.removed))

    def collect(self) -> Changes:
        """Run what is still lazy, so that several readers share one result."""
        if self.removed is None:
            return Changes(self.added.collect().lazy())
        added, removed = pl.collect_all([self.added, self.removed])
        return Changes(added.lazy(), removed.lazy())

    def to_batch(self, schema: pa.Schema | None = None) -> ChangeBatch:
        """For a sink: removed rows first, as a row that is replaced goes before it comes."""
        if self.removed is None:
            return ChangeBatch(to_arrow(self.added.collect()))
        added, removed = pl.collect_all([self.added, self.removed])
        weights = np.concatenate([np.full(removed.height, -1, np.int64), np.ones(added.height, np.int64)])
        return ChangeBatch(to_arrow(pl.concat([removed, added])), pa.array(weights))


def union(parts: Iterable[Changes]) -> Changes:
    """All of them together, in order."""
    each = list(parts)
    removed = [part.removed for part in each if part.removed is not None]
    return Changes(pl.concat([part.added for part in each]), pl.concat(removed) if removed else None)


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """The frame as Arrow without copying its strings (they stay views)."""
    return frame.to_arrow(compat_level=NEWEST)
