"""A source that is faster than the sink: memory stays bounded, nothing is lost."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest
from firehose import Firehose

from arrowstream import StreamingContext
from arrowstream.cluster.embedded import EmbeddedCluster
from arrowstream.schedule.progress import BatchReport

MEMORY = 2_000_000
BATCHES, ROWS = 60, 20_000  # 9.6 MB in all, five times what may be kept


@pytest.mark.parametrize("workers", [0, 2])
def test_a_firehose_waits_for_a_slow_sink(tmp_path: Path, workers: int) -> None:
    """A backlog after an outage: the receiver is held up rather than memory filled, and every row comes through."""
    ctx = StreamingContext(
        batch_interval="20ms",
        block_interval="10ms",
        workers=workers,
        memory=MEMORY,
        max_batch_size="500KB",
        spill=tmp_path,
    )
    kept: list[int] = []
    total: list[int] = []
    waiting: list[int] = []

    def slow(frame: pl.DataFrame, batch: int) -> None:
        total.append(int(frame["n"].sum()))
        time.sleep(0.3 if batch < 3 else 0.002)  # an outage, then what has piled up

    def look(report: BatchReport) -> None:
        waiting.append(report.waiting_bytes)
        if isinstance(cluster := ctx._cluster, EmbeddedCluster):
            kept.extend(executor.store.memory_bytes for executor in cluster._executors.values())

    ctx.read.open(Firehose(BATCHES, ROWS)).write.foreach_batch(slow)
    ctx.listen(look)
    ctx.run(timeout=120)
    count = BATCHES * ROWS
    assert ctx.progress.rows_in == count
    assert sum(total) == count * (count - 1) // 2
    assert max(waiting) > 0  # there was a backlog
    assert max(waiting) <= MEMORY
    assert all(size <= MEMORY for size in kept)
    assert not list(tmp_path.iterdir())
