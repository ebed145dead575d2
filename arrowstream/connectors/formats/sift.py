"""Find the lines that a bulk decoder refuses, at a cost that follows how many they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.format import Decoded, make_rejects
from arrowstream.connectors.formats.search import single_out

Parsed: TypeAlias = tuple[pa.RecordBatch, dict[int, str]]
"""One row a line, and the reasons for those rows that are none after all, by their place."""


class Refused(Exception):
    """A bulk decoder cannot read a buffer, and does not know which line of it is at fault."""


def sift(
    lines: Sequence[bytes],
    refused: dict[int, str],
    parse: Callable[[list[bytes]], Parsed],
    suspect: Callable[[bytes], bool] = lambda line: False,
    raw: Sequence[bytes] | None = None,
) -> Decoded:
    """Decode all of `lines` but those already `refused` (by their place), and refuse those that `parse` does.

    `parse` decodes lines in bulk and raises `Refused`; then groups of lines are tried until those at fault stand alone.
    Lines that are `suspect` are kept apart, so that they do not spoil the others: a guess, of which nothing but the
    speed depends. `raw` are the lines as they came, where they were changed since. The order is kept.
    """
    reasons = dict(refused)
    found: list[tuple[Sequence[int], pa.RecordBatch]] = []

    def decodes(places: Sequence[int]) -> bool:
        try:
            rows, bad = parse([lines[place] for place in places])
        except Refused as error:
            if len(places) == 1:
                reasons[places[0]] = str(error)
            return False
        reasons.update((places[row], reason) for row, reason in bad.items())
        kept = [place for row, place in enumerate(places) if row not in bad]
        if kept:
            found.append((kept, _without(rows, bad) if bad else rows))
        return True

    left = [place for place in range(len(lines)) if place not in refused]
    if left and not decodes(left):
        suspects = {place for place in left if suspect(lines[place])}
        others = [place for place in left if place not in suspects]
        single_out(sorted(suspects), decodes, 1)
        single_out(others, decodes, len(others))
    rows = _in_order(found) if found else parse([])[0]
    return Decoded(rows, make_rejects([((raw or lines)[place], reasons[place]) for place in sorted(reasons)]))


def _in_order(found: list[tuple[Sequence[int], pa.RecordBatch]]) -> pa.RecordBatch:
    """All rows, in the order of their lines."""
    rows = pa.concat_batches([rows for _, rows in found])
    places = np.concatenate([places for places, _ in found])
    if bool((np.diff(places) > 0).all()):
        return rows
    return _polars_batch(pl.DataFrame(rows)[np.argsort(places)], rows.schema)


def _without(rows: pa.RecordBatch, places: Iterable[int]) -> pa.RecordBatch:
    """All rows but those at `places`; by Polars, since Arrow's own kernels do not take string views."""
    keep = np.ones(rows.num_rows, np.bool_)
    keep[list(places)] = False
    return _polars_batch(pl.DataFrame(rows).filter(pl.Series(keep)), rows.schema)


def _polars_batch(frame: pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    return pa.record_batch([column.combine_chunks() for column in table.columns], schema)
