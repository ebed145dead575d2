"""The memory sink: tables that are queried by name while the stream runs."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract, Upsert
from arrowstream.connectors.sink import Committer, Receipt
from arrowstream.sinks.memory import MemoryCommitter, MemorySink
from arrowstream.testing.sink_suite import SCHEMA, SinkSuite, rows


class TestMemorySink(SinkSuite):
    kinds = (Append(), Upsert(("key",)), Retract())
    refused = ("decimal256",)
    durable = False

    def make(self, tmp_path: Path) -> MemorySink:
        return MemorySink("memory")

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table:
        assert isinstance(committer, MemoryCommitter)
        view = committer.view()
        return pa.concat_tables([pa.Table.from_batches([], view.schema), *view.rows])


def commit(committer: MemoryCommitter, batch_id: int, *changes: ChangeBatch) -> None:
    committer.commit(batch_id, [Receipt({}, changes)])


def committer_of(kind: ChangeKind) -> MemoryCommitter:
    return MemorySink("memory").bind(SCHEMA, kind).committer()


def test_a_thousand_tiny_batches_are_few_pieces() -> None:
    """A stream of a batch a second, for hours: looking must not become slower with the number of batches."""
    committer = committer_of(Append())
    for batch in range(1000):
        commit(committer, batch, ChangeBatch(rows(a=batch)))
    view = committer.view()
    assert len(view.rows) <= 3 * 16
    assert [value for piece in view.rows for value in piece["value"].to_pylist()] == list(range(1000))


def test_a_million_rows_are_not_copied_again() -> None:
    """Pieces of a million rows stay as they are; order is kept through all levels."""
    committer = committer_of(Append())
    table = pa.table({"key": ["a"] * 70_000, "value": range(70_000)}, schema=SCHEMA)
    for batch in range(40):
        commit(committer, batch, ChangeBatch(table.slice(0, 70_000 - batch)))
    pieces = committer.view().rows
    large = max(pieces, key=len)
    commit(committer, 40, ChangeBatch(table))
    assert any(piece is large for piece in committer.view().rows)
    assert sum(map(len, pieces)) == sum(70_000 - batch for batch in range(40))


def test_random_updates_make_the_table_of_a_dict() -> None:
    """Looks between batches at random, so that the log is merged at all lengths."""
    chance = random.Random(7)
    committer, model = committer_of(Upsert(("key",))), dict[str | None, int]()
    for batch in range(200):
        keys = [chance.choice([None, *"abcdefghij"]) for _ in range(chance.randint(1, 5))]
        weights = [chance.choice([1, 1, -1]) for _ in keys]
        table = pa.table({"key": keys, "value": [batch * 10 + i for i in range(len(keys))]}, schema=SCHEMA)
        commit(committer, batch, ChangeBatch(table, pa.array(weights)))
        for key in {key for key, weight in zip(keys, weights, strict=True) if weight < 0}:
            model.pop(key, None)
        for i, (key, weight) in enumerate(zip(keys, weights, strict=True)):
            if weight > 0:
                model[key] = batch * 10 + i
        if chance.random() < 0.3:
            found = [row for piece in committer.view().rows for row in piece.to_pylist()]
            assert len(found) == len(model)
            assert {row["key"]: row["value"] for row in found} == model


def test_many_updates_of_a_large_table_are_seen_together() -> None:
    """A thousand keys out of two hundred thousand change in every batch; nobody looks until the end."""
    committer = committer_of(Upsert(("key",)))
    commit(committer, 0, ChangeBatch(rows(**{f"k{i}": i for i in range(200_000)})))
    committer.view()
    batch = ChangeBatch(rows(**{f"k{i}": -i for i in range(1000)}))
    for number in range(1, 60):
        commit(committer, number, batch)
    table = pa.concat_tables(committer.view().rows)
    assert duckdb.from_arrow(table).aggregate("count(*), min(value)").fetchall() == [(200_000, -999)]


@pytest.mark.parametrize("kind", [Upsert(("key",)), Upsert(()), Retract()], ids=["by key", "one row", "multiset"])
def test_a_thousand_changes_of_one_row_are_few_pieces(kind: ChangeKind) -> None:
    """A counter goes up every second and nobody looks: what is kept does not grow with the number of batches."""
    committer = committer_of(kind)
    for batch in range(1000):
        table = (
            rows(a=batch) if batch == 0 or kind != Retract() else pa.concat_tables([rows(a=batch - 1), rows(a=batch)])
        )
        weights = None if table.num_rows == 1 else pa.array([-1, 1])
        commit(committer, batch, ChangeBatch(table, weights))
        assert len(committer._table._log) <= 256 + 10  # type: ignore[attr-defined]
    found = [row for piece in committer.view().rows for row in piece.to_pylist()]
    assert found == [{"key": "a", "value": 999}]
