"""The log of batches, and the sums of their reports."""

from __future__ import annotations

from typing import Any

import pytest

from arrowstream.ids import UnitId
from arrowstream.schedule.batch import Batch
from arrowstream.schedule.logs import MemoryLog
from arrowstream.schedule.progress import KEPT_REPORTS, BatchReport, Progress


def test_batches_are_written_ahead_one_at_a_time() -> None:
    """The protocol: a batch is logged before it runs, and the next only after its commit."""
    log = MemoryLog()
    log.allotted(Batch(0, 0.0, []))
    with pytest.raises(ValueError, match="batch 1 allotted"):
        log.allotted(Batch(1, 1.0, []))
    log.committed(0)
    assert (log.running, log.last_committed) == (None, 0)
    with pytest.raises(ValueError, match="batch 0 allotted"):
        log.allotted(Batch(0, 1.0, []))
    log.allotted(Batch(1, 1.0, []))


def report(batch: int, **figures: Any) -> BatchReport:
    zero = dict.fromkeys(["seconds", "run_seconds", "lag", "time"], 0.0)
    none = dict.fromkeys(["waiting_rows", "waiting_bytes", "state_rows", "state_bytes"], 0)
    rows = {"rows_in": 10, "dead_letters": 1, "rows_out": {"t": 5}}
    given: dict[str, Any] = {**zero, **none, **rows, **figures}
    return BatchReport(unit=UnitId("u0"), batch=batch, attempts=1, **given)


def test_sums_outlive_the_reports() -> None:
    """A context that runs for weeks keeps the last reports only; its sums are of all."""
    progress = Progress()
    assert progress.last is None
    for batch in range(KEPT_REPORTS + 5):
        progress.add(report(batch))
    progress.add(report(KEPT_REPORTS + 5, rows_out={"t": 1, "u": 2}))
    assert len(list(progress)) == KEPT_REPORTS
    assert progress.batches == KEPT_REPORTS + 6
    assert progress.rows_in == 10 * progress.batches
    assert progress.dead_letters == progress.batches
    assert progress.rows_out == {"t": 5 * (KEPT_REPORTS + 5) + 1, "u": 2}
    assert progress.last is not None
    assert progress.last.batch == KEPT_REPORTS + 5
    assert "dead letters" in repr(progress)
