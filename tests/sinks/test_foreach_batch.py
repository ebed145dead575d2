"""The foreach_batch sink: the user's own function, batch by batch."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import arrowstream
from arrowstream.connectors.changes import Append, ChangeBatch, Retract, Upsert
from arrowstream.connectors.sink import Committer, Guarantee, Receipt
from arrowstream.errors import PlanError
from arrowstream.sinks.foreach_batch import ForeachBatchSink
from arrowstream.testing.sink_suite import SCHEMA, SinkSuite, rows


class Keep:
    """A function that writes each batch to a file of its own, as users do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, frame: pl.DataFrame, batch_id: int) -> None:
        frame.write_ipc(self.folder / f"{batch_id:03}.arrow")


class TestForeachBatchSink(SinkSuite):
    refused = ("decimal256",)

    def make(self, tmp_path: Path) -> ForeachBatchSink:
        return ForeachBatchSink(Keep(tmp_path))

    def read_back(self, tmp_path: Path, committer: Committer) -> pl.DataFrame:
        return pl.concat([pl.read_ipc(file) for file in sorted(tmp_path.glob("*.arrow"))])

    def test_kinds_that_it_cannot_take_are_refused(self, tmp_path: Path) -> None:
        """It takes all, and leaves the rest to the function."""
        for kind in (Append(), Upsert(("key",)), Retract()):
            assert self.make(tmp_path).bind(SCHEMA, kind).guarantee is Guarantee.AT_LEAST_ONCE


def test_rows_that_are_updated_come_with_weights() -> None:
    """+1 is there now, -1 is gone; a batch without weights is all new."""
    seen: list[pl.DataFrame] = []
    sink = ForeachBatchSink(lambda frame, batch_id: seen.append(frame)).bind(SCHEMA, Upsert(("key",)))
    committer = sink.committer()
    receipt = Receipt({}, (ChangeBatch(rows(a=1)), ChangeBatch(rows(a=1, b=2), pa.array([-1, 1]))))
    committer.commit(0, [receipt])
    committer.commit(1, [])
    assert seen[0].rows() == [("a", 1, 1), ("a", 1, -1), ("b", 2, 1)]
    assert seen[0].schema["_weight"] == pl.Int64
    assert seen[1].is_empty()
    assert seen[1].schema == seen[0].schema


def test_an_error_of_the_function_is_its_own_and_the_batch_can_run_again() -> None:
    """The engine sees what was raised, so it knows whether another try is worth it."""
    calls: list[int] = []

    def post(frame: pl.DataFrame, batch_id: int) -> None:
        calls.append(batch_id)
        if len(calls) == 1:
            json.loads("no json")

    committer = ForeachBatchSink(post).bind(SCHEMA, Append()).committer()
    with pytest.raises(json.JSONDecodeError):
        committer.commit(7, [Receipt({}, (ChangeBatch(rows(a=1, b=2)),))])
    committer.commit(7, [])
    committer.commit(7, [])
    assert calls == [7, 7]


def test_what_is_no_function_is_refused_where_it_is_written() -> None:
    """A frame was given where the function belongs."""
    with pytest.raises(PlanError, match=r"polars.DataFrame is no function; give function\(frame, batch_id\)"):
        ForeachBatchSink(pl.DataFrame()).bind(SCHEMA, Append())  # type: ignore[arg-type]


def test_a_column_of_the_stream_is_not_hidden() -> None:
    schema = pa.schema([("_weight", pa.int64())])
    ForeachBatchSink(print).bind(schema, Append())
    with pytest.raises(PlanError, match="rename it"):
        ForeachBatchSink(print).bind(schema, Retract())


def test_a_function_that_cannot_leave_its_process_works_with_workers() -> None:
    """It writes into a database connection of the program: workers get the plan without it."""
    lock = threading.Lock()
    seen: list[int] = []

    def keep(frame: pl.DataFrame, batch_id: int) -> None:
        with lock:
            seen.append(frame.height)

    with arrowstream.StreamingContext(workers=2) as ctx:
        ctx.read.rate(1000, rows=40).write.foreach_batch(keep)
        ctx.run(timeout=60)
    assert sum(seen) == 40
