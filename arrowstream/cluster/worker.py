"""A worker process: `python -m arrowstream.cluster.worker`, an executor behind an Arrow Flight server.

The driver writes a `WorkerConfig` as the first line of standard input, in MessagePack and hex; the worker answers
with its port as the first line of standard output. It ends when its standard input does, so that no worker
outlives its driver.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

import cloudpickle
import msgspec
import pyarrow as pa
import pyarrow.flight as flight

from arrowstream.blocks.messages import DropBlocks
from arrowstream.blocks.store import BlockNotFoundError
from arrowstream.clock import SystemClock
from arrowstream.cluster.executor import Event, Executor, StateCopy
from arrowstream.cluster.lastwords import Notebook, die_with_parent
from arrowstream.cluster.neighbours import NOT_FOUND, TAKEN, FlightNeighbours
from arrowstream.cluster.wire import (
    StateHeader,
    TokenFactory,
    WorkerConfig,
    decode_info,
    decode_instruction,
    encode,
)
from arrowstream.errors import ArrowStreamError
from arrowstream.ids import BlockId, UnitId, WorkerId
from arrowstream.schedule.messages import CommitState, RunTask, ShowState, TaskSlow
from arrowstream.usercode import running_line

HEARTBEAT_SECONDS = 1.0
"""How often a worker without news says that it is there."""


class WorkerServer(flight.FlightServerBase):  # type: ignore[misc]
    """The wire around an executor; handlers only pass on.

    DoAction instruct, unit, end_unit, peers, events (a stream for as long as the worker lives); DoPut blocks, state;
    DoGet a block or shuffle part by id.
    """

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__("grpc://127.0.0.1:0", middleware={"token": TokenFactory(config.token)})
        self._neighbours = FlightNeighbours(config.worker, config.token)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._notebook = Notebook(config.notebook)
        self._executor = Executor(
            config.worker, config.settings, SystemClock(), self._neighbours, self._events.put, self._notebook.note
        )
        self._tasks: dict[UnitId, _TaskThread] = {}
        self._slow = config.settings.batches.slow

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[bytes]:
        body = action.body.to_pybytes()
        match action.type:
            case "instruct":
                return self._instruct(body)
            case "events":
                return self._stream_events()
            case "unit":
                unit, partitions = cloudpickle.loads(body)
                self._tasks[unit.id] = _TaskThread(self._executor, self._slow, self._notebook)
                self._executor.start_unit(unit, partitions)
            case "end_unit":
                unit_id = UnitId(body.decode())
                if (tasks := self._tasks.pop(unit_id, None)) is not None:
                    tasks.end()
                self._executor.stop_unit(unit_id)
            case "peers":
                self._neighbours.update(msgspec.msgpack.decode(body, type=dict[WorkerId, str]))
            case other:
                raise flight.FlightServerError(f"unknown action {other}")
        return iter(())

    def do_put(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        command = descriptor.command
        if command.startswith(b"state"):
            header = msgspec.msgpack.decode(command[len(b"state") :], type=StateHeader)
            self._executor.keep_state(
                StateCopy(
                    UnitId(header.unit),
                    header.partition,
                    header.name,
                    header.version,
                    header.snapshot,
                    header.keys,
                    reader.read_all(),
                )
            )
            return
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                return
            info = decode_info(chunk.app_metadata.to_pybytes())
            try:
                self._executor.store.put(info.id, pa.Table.from_batches([chunk.data]))
                writer.write(TAKEN)
            except (OSError, ArrowStreamError) as error:  # no room on the disk: this block is not here, others may be
                writer.write(str(error).encode())

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.RecordBatchStream:
        try:
            table = self._executor.get(BlockId(ticket.ticket.decode()))
        except BlockNotFoundError as error:
            raise flight.FlightServerError(f"{NOT_FOUND}: {error}") from error
        return flight.RecordBatchStream(table)

    def close(self) -> None:
        for tasks in self._tasks.values():
            tasks.end()
        self._executor.close()
        self._neighbours.close()

    def _instruct(self, body: bytes) -> Iterator[bytes]:
        instruction = decode_instruction(body)
        if isinstance(instruction, RunTask | CommitState | ShowState):
            unit = instruction.task.unit if isinstance(instruction, RunTask) else instruction.unit
            if (tasks := self._tasks.get(unit)) is not None:
                tasks.put(instruction)
        elif isinstance(instruction, DropBlocks) or instruction.unit in self._tasks:
            self._executor.handle(instruction)
        return iter(())

    def _stream_events(self) -> Iterator[bytes]:
        while True:
            events: list[Event] = [slow for tasks in list(self._tasks.values()) if (slow := tasks.slow()) is not None]
            try:
                events.append(self._events.get(timeout=HEARTBEAT_SECONDS))
                while len(events) < 100:
                    events.append(self._events.get_nowait())
            except queue.Empty:
                pass
            yield encode(events)


class _TaskThread:
    """Runs a unit's tasks in the order in which they were ordered."""

    def __init__(self, executor: Executor, slow: float, notebook: Notebook) -> None:
        self._executor, self._slow, self._notebook = executor, slow, notebook
        self._orders: queue.SimpleQueue[RunTask | CommitState | ShowState | None] = queue.SimpleQueue()
        self._now: tuple[RunTask, float] | None = None
        self._limit = slow
        self._thread = threading.Thread(target=self._run, name="tasks", daemon=True)
        self._thread.start()

    def put(self, order: RunTask | CommitState | ShowState) -> None:
        self._orders.put(order)

    def end(self) -> None:
        self._orders.put(None)

    def slow(self) -> TaskSlow | None:
        """That the task under way takes long, and where it is; once it has taken so long, and twice, and so on."""
        if (now := self._now) is None:
            return None
        order, since = now
        seconds = time.monotonic() - since
        if seconds < self._limit:
            return None
        self._limit = 2 * seconds
        return TaskSlow(order.task, self._executor.worker, seconds, running_line([self._thread.ident]))

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            if not isinstance(order, RunTask):
                self._executor.handle(order)
                continue
            self._limit, self._now = self._slow, (order, time.monotonic())
            die_with_parent(True)
            self._executor.handle(order)
            die_with_parent(False)
            self._notebook.note("", 0, 0)
            self._now = None


def main() -> None:
    config = msgspec.msgpack.decode(bytes.fromhex(sys.stdin.readline()), type=WorkerConfig)
    if os.getppid() != config.parent:
        os._exit(0)  # the driver went while this process was starting
    server = WorkerServer(config)
    try:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)  # the driver went while this process was starting
    # What the user's functions print on a worker is seen where the driver's errors are, and line by line.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    sys.stdin.read()
    server.close()
    # A thread in a native call must not keep the process: the driver is gone or has said all is done.
    os._exit(0)


if __name__ == "__main__":
    main()
