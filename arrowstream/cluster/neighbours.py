"""The other workers, over Arrow Flight."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.flight as flight

from arrowstream.blocks.block import Block
from arrowstream.blocks.store import BlockNotFoundError
from arrowstream.cluster.executor import StateCopy
from arrowstream.cluster.wire import StateHeader, call_options, encode
from arrowstream.errors import WorkerLostError
from arrowstream.ids import BlockId, WorkerId

NOT_FOUND = "block not found"
"""How a worker's server says that it does not hold a block."""

TAKEN = b"taken"
"""How a worker's server says that it holds a block from now on; anything else is why it does not."""

SUSPECT_SECONDS = 0.5
"""How long a worker that did not answer is left out: to ask it for every block would take the receiver's time, and to
forget it would leave all that comes with one copy."""

CALL_SECONDS = 60.0
"""A call between workers of one machine that takes longer is as good as lost."""


class FlightNeighbours:
    """Copies blocks to other workers and fetches theirs; any thread may call.

    Blocks go out through one open stream per worker and schema: a call costs 0.4 ms, a block in an open stream next to
    nothing. A worker that does not answer is left out for a moment, and then tried again: the driver says whether it is
    gone.
    """

    def __init__(self, worker: WorkerId, token: str) -> None:
        self._worker, self._token = worker, token
        self._lock = threading.Lock()
        self._locations: dict[WorkerId, str] = {}
        self._clients: dict[WorkerId, flight.FlightClient] = {}
        self._streams: dict[tuple[WorkerId, str], _PutStream] = {}
        self._suspects: dict[WorkerId, float] = {}

    def update(self, locations: Mapping[WorkerId, str]) -> None:
        """The workers that are there now."""
        with self._lock:
            self._locations = {WorkerId(worker): location for worker, location in locations.items()}
            self._suspects.clear()

    def alive(self) -> Sequence[WorkerId]:
        now = time.monotonic()
        with self._lock:
            return [worker for worker in self._locations if self._suspects.get(worker, now) <= now]

    def send(self, worker: WorkerId, block: Block, done: Callable[[str], None]) -> None:
        assert block.data is not None
        try:
            self._stream(worker, block.data.schema).send(block, done)
        except (pa.ArrowException, WorkerLostError) as error:
            self._suspect(worker)
            done(_first_line(error))

    def fetch(self, worker: WorkerId, block: BlockId) -> pa.Table:
        try:
            client = self._client(worker)
            return client.do_get(flight.Ticket(block.encode()), call_options(self._token, CALL_SECONDS)).read_all()
        except pa.ArrowException as error:
            if NOT_FOUND in str(error):
                raise BlockNotFoundError(f"worker {worker} no longer holds {block}") from error
            self._suspect(worker)
            raise WorkerLostError(f"worker {worker} did not give {block}: {error}") from error

    def copy_state(self, worker: WorkerId, state: StateCopy) -> None:
        header = StateHeader(state.unit, state.partition, state.name, state.version, state.snapshot, state.keys)
        descriptor = flight.FlightDescriptor.for_command(b"state" + encode(header))
        try:
            options = call_options(self._token, CALL_SECONDS)
            writer, _ = self._client(worker).do_put(descriptor, state.table.schema, options)
            writer.write_table(state.table)
            writer.close()
        except pa.ArrowException as error:
            self._suspect(worker)
            raise WorkerLostError(f"worker {worker} did not take a copy of state: {error}") from error

    def close(self) -> None:
        with self._lock:
            streams, self._streams = list(self._streams.values()), {}
            clients, self._clients = list(self._clients.values()), {}
        for stream in streams:
            stream.close()
        for client in clients:
            client.close()

    def _client(self, worker: WorkerId) -> flight.FlightClient:
        with self._lock:
            if worker not in self._clients:
                if worker not in self._locations:
                    raise WorkerLostError(f"worker {worker} is gone")
                self._clients[worker] = flight.FlightClient(self._locations[worker])
            return self._clients[worker]

    def _stream(self, worker: WorkerId, schema: pa.Schema) -> _PutStream:
        client = self._client(worker)
        key = (worker, schema.to_string())
        with self._lock:
            if key not in self._streams:
                self._streams[key] = _PutStream(client, schema, self._token)
            return self._streams[key]

    def _suspect(self, worker: WorkerId) -> None:
        """Leave a worker out for a moment; the driver will say whether it is really gone."""
        with self._lock:
            self._suspects[worker] = time.monotonic() + SUSPECT_SECONDS
            self._clients.pop(worker, None)
            streams = [self._streams.pop(key) for key in list(self._streams) if key[0] == worker]
        for stream in streams:
            stream.close()


class _PutStream:
    """One open `DoPut`: blocks out, acknowledgements back in the same order, heard by a thread of its own."""

    def __init__(self, client: flight.FlightClient, schema: pa.Schema, token: str) -> None:
        descriptor = flight.FlightDescriptor.for_command(b"blocks")
        self._writer, self._acks = client.do_put(descriptor, schema, call_options(token))
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[str], None]] = deque()
        self._broken = False
        threading.Thread(target=self._hear, name="replication", daemon=True).start()

    def send(self, block: Block, done: Callable[[str], None]) -> None:
        """Raises an Arrow error, without a call of `done`, when the stream is broken."""
        with self._lock:
            if self._broken:
                raise pa.ArrowException("the stream is broken")
            self._waiting.append(done)
            try:
                self._writer.write_with_metadata(block.data, encode(block.info))
            except BaseException:
                if not self._broken:
                    self._waiting.pop()
                    raise
                # `_hear` has answered already.

    def close(self) -> None:
        """End the stream; one that is broken is only let go of."""
        with contextlib.suppress(pa.ArrowException):
            self._writer.done_writing()  # a close would wait for the thread that hears the answers

    def _hear(self) -> None:
        problem = "the connection ended"
        try:
            while (answer := self._acks.read()) is not None:
                said = answer.to_pybytes()
                self._waiting.popleft()("" if said == TAKEN else said.decode())
        except (pa.ArrowException, StopIteration) as error:
            problem = _first_line(error) or problem
        with self._lock:
            self._broken = True
            unanswered, self._waiting = list(self._waiting), deque()
        for done in unanswered:
            done(problem)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
