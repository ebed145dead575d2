"""What a source does about records that are refused: end the stream, or say aloud that nearly all of them are."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

import pyarrow as pa

from arrowstream.errors import PlanError, SourceError

OnBad: TypeAlias = Literal["dead_letter", "fail"]
"""What becomes of a record that is refused: it goes to the dead letters, or it ends the stream."""

_FIRST_RECORDS = 1000  # by which a source is judged
_FEW_RECORDS = 10  # judged already when it pauses
_MOST_REFUSED = 0.9
_LOOKED_AT = 100  # reasons of one buffer that are counted

_log = logging.getLogger(__name__)


def check_on_bad(on_bad: str) -> OnBad:
    """Raises `PlanError` for what is no such choice."""
    if on_bad == "dead_letter":
        return "dead_letter"
    if on_bad == "fail":
        return "fail"
    raise PlanError(f"on_bad={on_bad!r} is none of 'dead_letter', 'fail'")


class Refusals:
    """Watches the first records of a source.

    One that is given a wrong schema refuses all of them, and nobody looks into the dead letters of a stream that runs:
    so where more than 90 % of the first 1,000 records are refused, a warning says so, once, with the commonest reason,
    which has the cure. Where fewer come, they are judged when the source pauses or ends.
    """

    def __init__(self, source: str, on_bad: OnBad) -> None:
        self._source, self._on_bad = source, on_bad
        self._records = self._refused = 0
        self._judged = False
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def note(self, rows: int, refused: Sequence[pa.RecordBatch], where: str | None = None) -> None:
        """So many records were rows, and these were not; `where` is what a user knows the place by."""
        count = sum(batch.num_rows for batch in refused)
        if count and self._on_bad == "fail":
            raw, reason = refused[0]["raw"][0].as_py(), refused[0]["reason"][0].as_py()
            raise SourceError(
                f"{where or self._source}: a record is refused: {reason}; it is {raw!r:.200}"
                " (on_bad='dead_letter' goes on without it)"
            )
        if self._judged:
            return
        self._records, self._refused = self._records + rows + count, self._refused + count
        for batch in refused:
            for reason in batch["reason"][:_LOOKED_AT].to_pylist():
                kind = _kind(reason)
                self._kinds[kind] += 1
                self._examples.setdefault(kind, reason)
        if self._records >= _FIRST_RECORDS:
            self._judge()
            self._judged = True

    def pause(self) -> None:
        """Nothing is at hand for now, or ever."""
        if not self._judged and self._records >= _FEW_RECORDS:
            self._judge()

    def _judge(self) -> None:
        if self._refused <= _MOST_REFUSED * self._records:
            return
        self._judged = True
        [(kind, _)] = self._kinds.most_common(1)
        _log.warning(
            "%s: %d of the first %d records are refused, and are in the dead letters; most often: %s. Is it the right"
            " schema? on_bad='fail' ends the stream at such a record",
            self._source,
            self._refused,
            self._records,
            self._examples[kind],
        )


def _kind(reason: str) -> str:
    """A reason without what it says of the one value."""
    return re.sub(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|\d+", "?", reason)
