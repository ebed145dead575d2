"""ChangeLog: what a replica restores from is what the table was."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from arrowstream.errors import StateError
from arrowstream.state.changelog import ChangeLog
from arrowstream.state.table import KeyedTable

KEYS = pl.Schema({"k": pl.Int64})
VALUES = pl.Schema({"n": pl.Int64})


def test_a_replica_stays_small_and_true() -> None:
    """Ten thousand keys, a hundred batches, a replica that merges as it goes; then the first worker dies."""
    table, log = KeyedTable(KEYS, VALUES), ChangeLog(["k"])
    rng = np.random.default_rng(3)
    merges = 0
    for version in range(1, 101):
        at = table.upsert(pl.DataFrame({"k": np.unique(rng.integers(0, 10_000, 3000))}))
        table.put(at.slots, pl.DataFrame({"n": np.full(len(at.slots), version)}))
        if version % 3 == 0:
            gone = table.find(pl.DataFrame({"k": np.unique(rng.integers(0, 10_000, 500))}))
            table.delete(gone[gone >= 0])
        log.append(version, table.delta())
        table.commit()
        merges += log.compact()
    assert 3 < merges < 30
    assert sum(part.num_rows for part in log.tables()) < 4 * 10_000 + 3000
    assert log.memory_bytes() < 17 * (4 * 10_000 + 3000)
    replica = KeyedTable(KEYS, VALUES)
    replica.restore(log.tables())
    assert replica.scan().sort("k").equals(table.scan().sort("k"))


def test_the_newest_version_can_be_dropped_also_after_merging() -> None:
    """The batch failed after its delta was copied: the replica must not have it."""
    table, log = KeyedTable(KEYS, VALUES), ChangeLog(["k"])
    rows = pl.DataFrame({"k": range(30_000)})
    for version in (1, 2):
        table.put(table.upsert(rows).slots, pl.DataFrame({"n": np.full(30_000, version)}))
        log.append(version, table.delta())
        table.commit()
    assert log.compact()
    assert log.version == 2
    log.discard_after(1)
    assert log.version == 1
    replica = KeyedTable(KEYS, VALUES)
    replica.restore(log.tables())
    assert replica.scan()["n"].unique().to_list() == [1]
    with pytest.raises(StateError, match="merged already"):
        log.discard_after(0)


def test_versions_come_in_order() -> None:
    """A repeated batch is a new attempt: the old one is discarded first."""
    log, delta = ChangeLog(["k"]), KeyedTable(KEYS, VALUES).delta()
    assert log.version is None
    assert log.tables() == []
    log.append(5, delta)
    with pytest.raises(StateError, match="version 5 comes after 5"):
        log.append(5, delta)
    log.discard_after(4)
    log.append(5, delta)
    assert not log.compact()


def test_a_global_aggregate_has_one_row() -> None:
    """Without keys, the last delta is the state."""
    table, log = KeyedTable(pl.Schema(), VALUES), ChangeLog([], few=20)
    for version in range(60):
        at = table.upsert(pl.DataFrame())
        table.put(at.slots, pl.DataFrame({"n": [version]}))
        log.append(version, table.delta())
        table.commit()
    log.compact()
    assert [part.num_rows for part in log.tables()] == [1, 1]
    assert len(table) == 1


@pytest.mark.parametrize("rows", [0, 1], ids=["silent", "one key"])
def test_small_changes_do_not_add_up(rows: int) -> None:
    """One key for a month, or the side of a join that nothing comes from: the log walks over a few tables, not all."""
    table, log = KeyedTable(KEYS, VALUES), ChangeLog(["k"])
    most = 0
    for version in range(1, 2001):
        at = table.upsert(pl.DataFrame({"k": [7] * rows}, schema=KEYS))
        table.put(at.slots, pl.DataFrame({"n": [version] * rows}, schema=VALUES))
        log.discard_after(version - 1)
        log.append(version, table.delta())
        table.commit()
        log.compact()
        assert log.version == version
        most = max(most, len(log.tables()))
    assert most <= 64 + 2
    assert sum(part.num_rows for part in log.tables()) <= 128 * rows
    replica = KeyedTable(KEYS, VALUES)
    log.discard_after(2000)
    replica.restore(log.tables())
    assert replica.scan().equals(table.scan())


def test_a_version_without_rows_can_be_dropped_and_said_again() -> None:
    """A batch that changed nothing is tried again, and then changes something."""
    table, log = KeyedTable(KEYS, VALUES), ChangeLog(["k"])
    for version in range(1, 5):
        log.append(version, table.delta())
    log.discard_after(3)
    assert log.version == 3
    with pytest.raises(StateError, match="cannot be discarded"):
        log.discard_after(2)
    table.put(table.upsert(pl.DataFrame({"k": [1]})).slots, pl.DataFrame({"n": [4]}))
    log.append(4, table.delta())
    replica = KeyedTable(KEYS, VALUES)
    replica.restore(log.tables())
    assert replica.scan().rows() == [(1, 4)]
