"""A worker's blocks: in memory up to a limit, beyond that on disk as Arrow IPC."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
from pathlib import Path

import pyarrow as pa

from arrowstream.connectors.space import with_space
from arrowstream.errors import ArrowStreamError
from arrowstream.ids import BlockId
from arrowstream.settings import BlockSettings


class BlockNotFoundError(ArrowStreamError):
    """A block is not in this store (any more)."""


class SpillError(ArrowStreamError):
    """A block cannot be written to the folder for spilled blocks."""


class BlockStore:
    """Tables by block id; any thread may call.

    A block that would take the store past `memory` bytes goes to disk: the newest is the one that is needed
    last. It is read back by memory map.
    """

    def __init__(self, settings: BlockSettings) -> None:
        self._limit = settings.memory
        self._spill_parent = settings.spill
        self._lock = threading.Lock()
        self._memory: dict[BlockId, pa.Table] = {}
        self._disk: dict[BlockId, Path] = {}
        self._directory: Path | None = None
        self._bytes = 0
        self._closed = threading.Event()
        self._names = itertools.count()
        self.spilled = 0
        """Blocks that had to go to disk since the start."""

    def put(self, block_id: BlockId, table: pa.Table) -> None:
        """Keep a table under this id; one that is there already stays. Raises `SpillError`.

        Where the disk is full, the call waits until there is room on it, or in memory; so who sends is held up.
        """
        if not self._kept(block_id, table):
            self._spill(block_id, table)

    def _kept(self, block_id: BlockId, table: pa.Table) -> bool:
        """Whether the block is here, now that it was put into memory if there is room."""
        with self._lock:
            if block_id in self._memory or block_id in self._disk:
                return True
            if self._bytes + table.nbytes > self._limit:
                return False
            self._memory[block_id] = table
            self._bytes += table.nbytes
            return True

    def get(self, block_id: BlockId) -> pa.Table:
        """The table kept under this id. Raises `BlockNotFoundError`."""
        with self._lock:
            table = self._memory.get(block_id)
            path = self._disk.get(block_id)
        if table is not None:
            return table
        if path is None:
            raise BlockNotFoundError(f"block {block_id} is not here")
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()

    def __contains__(self, block_id: BlockId) -> bool:
        with self._lock:
            return block_id in self._memory or block_id in self._disk

    def drop(self, block_id: BlockId) -> None:
        """Forget a block; one that is not here is no error."""
        with self._lock:
            if (table := self._memory.pop(block_id, None)) is not None:
                self._bytes -= table.nbytes
            if (path := self._disk.pop(block_id, None)) is not None:
                path.unlink(missing_ok=True)

    def ids(self) -> list[BlockId]:
        with self._lock:
            return [*self._memory, *self._disk]

    @property
    def memory_bytes(self) -> int:
        return self._bytes

    def close(self) -> None:
        """Drop everything, also the folder of spilled blocks."""
        self._closed.set()
        with self._lock:
            self._memory.clear()
            self._disk.clear()
            self._bytes = 0
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

    def _spill(self, block_id: BlockId, table: pa.Table) -> None:
        """Write the block to disk, outside the lock: others are read and dropped meanwhile, which makes room."""
        where = self._spill_parent or tempfile.gettempdir()
        path: Path | None = None

        def write() -> bool:
            """Whether it went to disk; in memory there may be room by now."""
            if self._kept(block_id, table):
                return False
            assert path is not None
            try:
                with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            return True

        try:
            directory = self._spill_directory()
            where, path = str(directory), directory / f"{next(self._names):08d}.arrow"
            if not with_space(path, write, table.nbytes, over=self._closed):
                return
        except OSError as error:  # not to be taken for a broken connection, which is tried again
            raise SpillError(f"a block of {table.nbytes:,} bytes cannot be spilled to {where}: {error}") from error
        with self._lock:
            if self._closed.is_set() or block_id in self._memory or block_id in self._disk:
                path.unlink(missing_ok=True)
                return
            self.spilled += 1
            self._disk[block_id] = path

    def _spill_directory(self) -> Path:
        with self._lock:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="arrowstream-spill-", dir=self._spill_parent))
            return self._directory
