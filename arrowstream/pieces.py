"""Pieces that come one by one: which of them to merge, so that they stay few and none is merged often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FAN_IN: Final = 64
"""So many pieces may stand beside each other before some are merged: a merge of a few rows costs a millisecond, and to
walk over that many costs nothing beside a batch."""


def worth_merging(sizes: Sequence[int], fan_in: int = FAN_IN) -> int | None:
    """From which piece on all are to become one; None while they are few.

    `sizes` are the rows of each, oldest first. A piece joins those after it unless it is more than twice their size. So
    sizes fall at least by half from piece to piece, there are at most `fan_in` and the logarithm of all rows of them,
    and a row is moved as often (the tiers of a log-structured merge-tree, O'Neil et al. 1996).
    """
    if len(sizes) < fan_in:
        return None
    total, start = 0, len(sizes)
    while start and (start == len(sizes) or sizes[start - 1] <= 2 * total + 1):
        start -= 1
        total += sizes[start]
    return start if start < len(sizes) - 1 else None
