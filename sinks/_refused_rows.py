"""Find the rows of a batch that a target refuses, by trying groups of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from arrowstream.connectors.changes import ChangeBatch
from arrowstream.connectors.sink import Refused
from arrowstream.sinks._tables import WEIGHT, as_arrow, weighted

TRIES = 1_000
"""Groups that are tried for one batch: some sixty rows among ten thousand are found. More are the sign of a target that
does not fit, for which a run should end."""


class TooManyRefused(Exception):
    """More rows are refused than can be found one by one."""


def without_refused(
    batch: Sequence[ChangeBatch], refusal: Callable[[Sequence[ChangeBatch]], str | None]
) -> tuple[list[ChangeBatch], Refused]:
    """The batch without the rows at fault, and those. Raises `TooManyRefused`.

    `refusal(rows)` says why the target refuses some rows, or None where it takes them. Rows are tried together with
    those before them that were taken: of two that exclude each other the first stays.
    """
    schema = batch[0].rows.schema
    frame = pl.concat([weighted(changes) for changes in batch])
    weights = any(changes.weights is not None for changes in batch)
    taken: list[int] = []
    reasons: dict[int, str] = {}
    tries = 0

    def rows_at(places: Sequence[int]) -> list[ChangeBatch]:
        picked = frame[np.array(sorted(places), np.int64)]
        rows = as_arrow(picked.drop(WEIGHT), schema)
        return [ChangeBatch(rows, picked[WEIGHT].to_arrow() if weights else None)]

    waiting = [range(frame.height)]
    while waiting:
        group = waiting.pop()
        tries += 1
        if tries > TRIES:
            raise TooManyRefused
        reason = refusal(rows_at([*taken, *group])) if len(group) else None
        if reason is None:
            taken.extend(group)
        elif len(group) == 1:
            reasons[group[0]] = reason
        else:
            middle = len(group) // 2
            waiting += [group[middle:], group[:middle]]
    refused = sorted(reasons)
    rows = as_arrow(frame[np.array(refused, np.int64)].drop(WEIGHT), schema)
    return rows_at(taken), Refused(rows, [reasons[place] for place in refused])
