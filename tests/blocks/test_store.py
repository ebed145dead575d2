"""Blocks in memory, and on disk beyond the limit."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from arrowstream.blocks.store import BlockNotFoundError, BlockStore, SpillError
from arrowstream.ids import BlockId
from arrowstream.settings import BlockSettings

TABLE = pa.table({"n": pa.array(range(100), pa.int64())})  # 800 bytes


def ids(*names: str) -> list[BlockId]:
    return [BlockId(name) for name in names]


def test_what_does_not_fit_goes_to_disk_and_comes_back(tmp_path: Path) -> None:
    """A backlog larger than memory: the newest blocks, which are needed last, are spilled."""
    store = BlockStore(BlockSettings(memory=2000, spill=str(tmp_path)))
    for block in ids("a", "b", "c", "d"):
        store.put(block, TABLE)
    assert (store.memory_bytes, store.spilled) == (1600, 2)
    assert len(list(tmp_path.rglob("*.arrow"))) == 2
    for block in ids("a", "b", "c", "d"):
        assert block in store
        assert store.get(block).equals(TABLE)
    read = store.get(BlockId("c"))
    store.drop(BlockId("c"))
    store.drop(BlockId("a"))
    assert len(list(tmp_path.rglob("*.arrow"))) == 1
    assert store.memory_bytes == 800
    assert read.equals(TABLE)  # who reads it still has it
    store.put(BlockId("e"), TABLE)
    assert (store.memory_bytes, store.spilled) == (1600, 2)
    assert sorted(store.ids()) == ["b", "d", "e"]
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_is_there_stays() -> None:
    """The same copy arrives twice."""
    store = BlockStore(BlockSettings(memory=2000))
    store.put(BlockId("a"), TABLE)
    store.put(BlockId("a"), TABLE.slice(0, 1))
    assert store.get(BlockId("a")).num_rows == 100
    assert store.memory_bytes == 800


def test_a_block_that_is_not_there() -> None:
    """Its batch was committed in the meantime."""
    store = BlockStore(BlockSettings())
    store.drop(BlockId("a"))
    with pytest.raises(BlockNotFoundError, match="block a is not here"):
        store.get(BlockId("a"))


def test_a_disk_that_cannot_be_written_is_no_broken_connection(tmp_path: Path) -> None:
    """The folder for spilled blocks is gone: an OSError would be taken for a source that wants another try."""
    store = BlockStore(BlockSettings(memory=1, spill=str(tmp_path / "gone")))
    with pytest.raises(SpillError, match=r"800 bytes cannot be spilled to .*gone"):
        store.put(BlockId("a"), TABLE)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a file system is mounted by root")
def test_a_full_disk_holds_up_who_puts_until_a_block_is_dropped(tmp_path: Path) -> None:
    """Blocks that are done make room for those that wait; meanwhile the store answers, and no block is lost."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    store = BlockStore(BlockSettings(memory=1, spill=str(tmp_path)))
    first, second = ids("first", "second")
    tables = [pa.table({"x": pa.array(range(start, start + 150_000), pa.int64())}) for start in (0, 1)]
    try:
        store.put(first, tables[0])
        waiting = threading.Thread(target=store.put, args=(second, tables[1]))
        waiting.start()
        waiting.join(0.4)
        assert waiting.is_alive()
        assert store.get(first).equals(tables[0])
        store.drop(first)
        waiting.join(20)
        assert store.get(second).equals(tables[1])
    finally:
        store.close()
        subprocess.run(["umount", "-l", tmp_path], check=True)
