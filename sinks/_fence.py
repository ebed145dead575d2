"""The last batch that an output has, and what is said of one that comes again."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from arrowstream.connectors.sink import Receipt

log = logging.getLogger("arrowstream")


class Fence:
    """Lets each batch through once. A batch that comes again is not published again, and no row of it goes silently.

    The driver repeats a call when it does not know whether the first came through, and a run that is resumed repeats
    batches that were committed before: both have the rows that are there already. Should a batch bring other rows
    under a number that is taken, then the warning is all that tells.
    """

    def __init__(self, output: str, last: int | None = None) -> None:
        self.last = last
        self._output = output
        self._rows: int | None = None

    def passed(self, batch_id: int, receipts: Sequence[Receipt]) -> bool:
        """Whether this batch is published already."""
        if self.last is None or batch_id > self.last:
            return False
        rows = _rows(receipts)
        if rows and not (batch_id == self.last and rows == self._rows):
            log.warning(
                "%s: batch %d is not written, as batch %d is there already; it came with %s rows",
                self._output, batch_id, self.last, f"{rows:,}",
            )  # fmt: skip
        return True

    def through(self, batch_id: int, receipts: Sequence[Receipt]) -> None:
        """The batch is published."""
        self.last, self._rows = batch_id, _rows(receipts)


def _rows(receipts: Sequence[Receipt]) -> int:
    return sum(int(receipt.facts.get("rows", 0)) for receipt in receipts)
