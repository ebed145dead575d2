"""The null sink: rows of any kind are made and dropped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import arrowstream
from arrowstream.connectors.changes import Append, ChangeBatch, Retract, Upsert
from arrowstream.connectors.sink import Committer, Sink
from arrowstream.errors import PlanError
from arrowstream.sinks.null import NullSink
from arrowstream.testing.sink_suite import SCHEMA, SinkSuite, rows


class TestNullSink(SinkSuite):
    """What the suite asks of every sink, but that there is nothing to read back."""

    kinds = (Append(), Upsert(("key",)), Retract())
    durable = False

    def make(self, tmp_path: Path) -> NullSink:
        return NullSink()

    def _check(self, tmp_path: Path, committer: Committer, expected: Iterable[tuple[object, ...]]) -> None:
        committer.flush()
        assert list(tmp_path.iterdir()) == []

    def _check_types(self, place: Path, sink: Sink, table: pa.Table, keyed: bool) -> None:
        writer = sink.open(0, "0-0", table.schema)
        writer.write(ChangeBatch(table))
        assert writer.finish().facts == {"rows": table.num_rows}

    def test_odd_keys_are_one_key_each(self, tmp_path: Path) -> None:
        """It keeps no keys."""


def test_receipts_count_and_carry_no_rows() -> None:
    """Workers must not send what is dropped."""
    writer = NullSink().bind(SCHEMA, Append()).open(0, "0-0", SCHEMA)
    writer.write(ChangeBatch(rows(a=1, b=2)))
    writer.write(ChangeBatch(rows(c=3)))
    receipt = writer.finish()
    assert receipt.facts == {"rows": 3}
    assert receipt.changes == ()


def test_a_pipeline_without_an_output() -> None:
    """Two outputs, as two names; the reports count what was dropped."""
    with arrowstream.StreamingContext("10ms") as ctx:
        ticks = ctx.read.rate(1000, rows=40)
        ticks.write.null()
        ticks.group_by(pl.col("value") % 4).agg(pl.len()).write.null(name="counts")
        ctx.run(timeout=60)
    assert ctx.progress.rows_out == {"null": 40, "counts": 4}


def test_its_name_is_one_word() -> None:
    with arrowstream.StreamingContext() as ctx, pytest.raises(PlanError, match="one word"):
        ctx.read.rate(1).write.null(name="no where")
