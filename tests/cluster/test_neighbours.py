"""Workers that do not take a copy: of this block, or for a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from books import info

from arrowstream.blocks.block import Block
from arrowstream.blocks.store import BlockNotFoundError
from arrowstream.cluster.lastwords import new_notebook
from arrowstream.cluster.neighbours import SUSPECT_SECONDS, FlightNeighbours
from arrowstream.cluster.wire import WorkerConfig
from arrowstream.cluster.worker import WorkerServer
from arrowstream.ids import WorkerId
from arrowstream.settings import BlockSettings, Settings

OTHER = WorkerId("w1")
ROWS = pa.record_batch([pa.array(range(1000), pa.int64())], names=["n"])


class Copied:
    """Blocks on their way to another worker, and what came of them."""

    def __init__(self, neighbours: FlightNeighbours) -> None:
        self.neighbours, self.answers = neighbours, list[str]()

    def send(self, number: int) -> str:
        """The answer for one block: "" where it is there."""
        before = len(self.answers)
        self.neighbours.send(OTHER, Block(info(number), ROWS), self.answers.append)
        until = time.monotonic() + 10
        while len(self.answers) == before:
            assert time.monotonic() < until, "no answer"
            time.sleep(0.001)
        return self.answers[-1]


def server_of(spill: Path, port: int = 0) -> WorkerServer:
    settings = Settings(BlockSettings(memory=1, spill=str(spill)))
    return WorkerServer(WorkerConfig(OTHER, "token", settings, new_notebook(), os.getpid()))


@pytest.fixture
def neighbours() -> Iterator[FlightNeighbours]:
    made = FlightNeighbours(WorkerId("w0"), "token")
    yield made
    made.close()


def test_a_block_for_which_there_is_no_room_is_refused_alone(tmp_path: Path, neighbours: FlightNeighbours) -> None:
    """The neighbour's disk is full for one block; the next twenty had one copy, and nobody was told."""
    spill = tmp_path / "spill"
    server = server_of(spill)
    neighbours.update({OTHER: f"grpc://127.0.0.1:{server.port}"})
    copied = Copied(neighbours)
    assert "cannot be spilled" in copied.send(0)
    assert list(neighbours.alive()) == [OTHER]
    spill.mkdir()
    for number in range(1, 21):
        assert copied.send(number) == ""
        assert neighbours.fetch(OTHER, info(number).id).num_rows == 1000
    with pytest.raises(BlockNotFoundError):
        neighbours.fetch(OTHER, info(0).id)
    server.close()


def test_a_worker_that_did_not_answer_is_asked_again(tmp_path: Path, neighbours: FlightNeighbours) -> None:
    """A connection broke: the worker is left out for a moment, not for good."""
    neighbours.update({OTHER: "grpc://127.0.0.1:1"})
    copied = Copied(neighbours)
    assert copied.send(0) != ""
    assert list(neighbours.alive()) == []
    until = time.monotonic() + 10 * SUSPECT_SECONDS
    while not neighbours.alive():
        assert time.monotonic() < until
        time.sleep(0.01)
    server = server_of(tmp_path)
    neighbours.update({OTHER: f"grpc://127.0.0.1:{server.port}"})
    assert copied.send(1) == ""
    server.close()
