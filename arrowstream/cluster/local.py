"""Worker processes on this machine: started, watched, replaced when one dies."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count

import msgspec
import pyarrow as pa
import pyarrow.flight as flight

from arrowstream.cluster.cluster import ClusterEvent, WorkerJoined, WorkerLost, WorkerNotReplaced
from arrowstream.cluster.executor import Instruction
from arrowstream.cluster.lastwords import LastWords, by_itself, ending, last_words, new_notebook
from arrowstream.cluster.shipping import pickled
from arrowstream.cluster.wire import WorkerConfig, call_options, decode_events, encode
from arrowstream.errors import ClusterError, PlanError
from arrowstream.ids import UnitId, WorkerId
from arrowstream.plan.unit import Unit
from arrowstream.settings import Settings, cores

log = logging.getLogger("arrowstream")

START_SECONDS = 60.0
"""How long a worker may take to start: a second is usual, a busy machine may need many."""

END_SECONDS = 5.0
"""How long a worker that was told to end may take before it is killed."""

SILENT_SECONDS = 30.0
"""A worker says every second that it is there; one that has not for so long hangs (it was stopped, or a native call
holds it), and is ended, as one that is neither here nor gone would hold up every batch."""

LOSSES_AT_ONCE = 3
"""Workers lost within `LOSSES_SECONDS` that are replaced at once. More are replaced ever later, up to `LATEST_SECONDS`:
what kills each one as it starts is no accident, and what happens now and then must not use up a lifetime's number."""

LOSSES_SECONDS = 60.0
LATEST_SECONDS = 10.0


class LocalCluster:
    """N worker processes, each a Flight server on the loopback interface with a token made at the start.

    Workers share the machine's cores: each gets its part of Polars' threads. They start as a plain subprocess, never by
    forking and never by importing the user's script again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = secrets.token_urlsafe(32)
        self._lock = threading.RLock()
        self._workers: dict[WorkerId, _Process] = {}
        self._units: dict[UnitId, tuple[bytes, Callable[[ClusterEvent], None]]] = {}
        self._numbers = count()
        self._losses: deque[float] = deque()
        self._lost = threading.Event()
        self._replacement: _Process | None = None
        self._closed = False
        self._closing = threading.Event()
        self._spawner = _Spawner()

    def start(self) -> None:
        with self._lock:
            if self._closed:
                raise ClusterError("the cluster is closed")
            if self._workers:
                return
            starting = [self._spawn() for _ in range(self._settings.cluster.workers)]
            try:
                for process in starting:
                    self._join(process)
            except BaseException:
                for process in starting:
                    process.close()
                raise
            self._tell_peers()
            threading.Thread(target=self._watch, name="watch-workers", daemon=True).start()
            threading.Thread(target=self._replace_lost, name="replace-workers", daemon=True).start()

    @property
    def workers(self) -> Sequence[WorkerId]:
        with self._lock:
            return list(self._workers)

    def pid(self, worker: WorkerId) -> int:
        """The process of a worker, to look at or to kill in a test."""
        with self._lock:
            return self._workers[worker].process.pid

    def start_unit(self, unit: Unit, partitions: int, deliver: Callable[[ClusterEvent], None]) -> None:
        try:
            body = pickled((unit, partitions))
        except Exception as error:  # pickling raises whatever it likes
            raise PlanError(
                f"this plan cannot be sent to worker processes: {type(error).__name__}: {error}; make connections, "
                "locks and the like inside your functions, not outside them"
            ) from error
        with self._lock:
            self._units[unit.id] = (body, deliver)
            workers = list(self._workers.values())
        for worker in workers:
            worker.act("unit", body)

    def join_unit(self, unit: UnitId, worker: WorkerId) -> None:
        with self._lock:
            process, entry = self._workers.get(worker), self._units.get(unit)
        if process is not None and entry is not None:
            process.act("unit", entry[0])

    def send(self, unit: UnitId, worker: WorkerId, instruction: Instruction) -> None:
        with self._lock:
            process = self._workers.get(worker)
        if process is not None:
            process.act("instruct", encode(instruction))

    def seal(self, unit: UnitId) -> None:
        """Workers seal by their own clock, at the latest a batch interval after the first row."""

    def stop_unit(self, unit: UnitId) -> None:
        with self._lock:
            self._units.pop(unit, None)
            workers = list(self._workers.values())
        for worker in workers:
            worker.act("end_unit", unit.encode())

    def kill(self) -> None:
        self._closing.set()
        with self._lock:
            self._closed = True  # none is replaced
            processes = [*self._workers.values(), *([] if self._replacement is None else [self._replacement])]
        for process in processes:
            process.process.kill()

    def close(self) -> None:
        self._closing.set()
        self._lost.set()
        with self._lock:
            self._closed = True
            workers, self._workers = list(self._workers.values()), {}
            if self._replacement is not None and self._replacement not in workers:
                workers.append(self._replacement)  # it may still be starting
        for worker in workers:
            worker.close()
        self._spawner.end()

    def _spawn(self) -> _Process:
        worker = WorkerId(f"worker-{next(self._numbers)}")
        share = max(1, cores() // max(1, self._settings.cluster.workers))
        config = WorkerConfig(worker, self._token, self._settings, new_notebook(), os.getpid())
        return self._spawner.run(partial(_Process, config, threads=share))

    def _join(self, process: _Process) -> None:
        """Wait until a worker is up, take it in and hear its events."""
        try:
            process.connect()
        except BaseException:
            process.close()
            raise
        with self._lock:
            self._workers[process.worker] = process
        threading.Thread(target=self._hear, args=(process,), name=f"events-{process.worker}", daemon=True).start()

    def _tell_peers(self) -> None:
        with self._lock:
            workers = list(self._workers.values())
        body = msgspec.msgpack.encode({worker.worker: worker.location for worker in workers})
        for worker in workers:
            worker.act("peers", body)

    def _hear(self, process: _Process) -> None:
        """Pass a worker's events on until it is gone; then see to its replacement."""
        try:
            for data in process.events():
                process.heard = time.monotonic()
                for event in decode_events(data):
                    unit = event.task.unit if hasattr(event, "task") else event.unit
                    entry = self._units.get(unit)
                    if entry is not None:
                        entry[1](event)
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
        else:
            reason = "its stream of events ended"
        with self._lock:
            if self._closed or self._workers.pop(process.worker, None) is None:
                return
            self._losses.append(time.monotonic())
            deliveries = [deliver for _, deliver in self._units.values()]
        code = process.close()
        if code is not None:
            reason = f"process {process.process.pid} ended with {code}"
            reason += f", {ending(code)}" if code < 0 else ""
        lost = WorkerLost(process.worker, reason, process.last_words(), by_itself(code))
        self._tell_peers()
        for deliver in deliveries:
            deliver(lost)
        self._lost.set()

    def _watch(self) -> None:
        """End workers that hang; their loss is then heard as any other."""
        while not self._closing.wait(1.0):
            with self._lock:
                workers = list(self._workers.values())
            for worker in workers:
                if time.monotonic() - worker.heard > SILENT_SECONDS:
                    log.warning("worker %s has been silent for %.0f s and is ended", worker.worker, SILENT_SECONDS)
                    worker.process.kill()

    def _replace_lost(self) -> None:
        """Start workers in place of lost ones, and of those that did not start, until the cluster is closed."""
        while True:
            self._lost.wait()
            self._lost.clear()
            while not self._closing.wait(self._back_off()) and len(self.workers) < self._settings.cluster.workers:
                self._replace()
            if self._closing.is_set():
                return

    def _back_off(self) -> float:
        """Seconds to wait before the next worker is started, by how many were lost of late."""
        with self._lock:
            while self._losses and self._losses[0] < time.monotonic() - LOSSES_SECONDS:
                self._losses.popleft()
            many = len(self._losses) - LOSSES_AT_ONCE
        return float(min(0.1 * 2**many, LATEST_SECONDS)) if many > 0 else 0.0

    def _replace(self) -> None:
        with self._lock:
            if self._closed:
                return
            process = self._replacement = self._spawn()
        try:
            self._join(process)
        except (ClusterError, OSError, ValueError, pa.ArrowException) as error:
            with self._lock:
                self._losses.append(time.monotonic())
                deliveries = [] if self._closed else [deliver for _, deliver in self._units.values()]
            for deliver in deliveries:
                deliver(WorkerNotReplaced(process.worker, str(error), self._back_off()))
            return
        with self._lock:
            if self._closed:
                process.close()
                return
            deliveries = [deliver for _, deliver in self._units.values()]
        self._tell_peers()
        for deliver in deliveries:
            deliver(WorkerJoined(process.worker))


class _Spawner:
    """Starts processes, all from one thread that lasts as long as they do.

    The kernel ends a worker that asked for it (`die_with_parent`) when the thread is gone that started it.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[_Process], Callable[[], _Process]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, start: Callable[[], _Process]) -> _Process:
        """What `start` gives. Raises what it raises."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="spawning", daemon=True)
                self._thread.start()
        future: Future[_Process] = Future()
        self._work.put((future, start))
        return future.result()

    def end(self) -> None:
        """All processes have ended."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, start = work
            try:
                future.set_result(start())
            except BaseException as error:
                future.set_exception(error)


class _Process:
    """One worker process and the calls to it."""

    def __init__(self, config: WorkerConfig, *, threads: int) -> None:
        self.worker = config.worker
        self.location = ""
        self.heard = time.monotonic()
        """When it last said something."""
        self._token, self._notebook = config.token, config.notebook
        self._said: LastWords | None = None
        self._client: flight.FlightClient | None = None
        # -m puts the working directory on the path; the driver's whole path comes along, for the user's modules.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = os.environ | {
            "PYTHONPATH": path,
            "POLARS_MAX_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            # Give freed memory back late: faulting NumPy's temporaries in anew costs more than the arithmetic on them
            # (hashing the keys of a batch is 2 to 4 times faster).
            "MALLOC_TRIM_THRESHOLD_": "1000000000",
            "MALLOC_MMAP_THRESHOLD_": "1000000000",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arrowstream.cluster.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver, which stops its workers when it is through
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which `connect` will say
            self.process.stdin.write(msgspec.msgpack.encode(config).hex() + "\n")
            self.process.stdin.flush()

    def connect(self) -> None:
        """Wait for the port. Raises `ClusterError`."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline().strip() if ready else ""
        if not line.isdigit():
            with contextlib.suppress(subprocess.TimeoutExpired):  # its output ends a moment before it does
                self.process.wait(1 if ready else 0)
            code = self.process.poll()
            said = f"ended with {code}" if code is not None else f"did not start within {START_SECONDS:.0f} s"
            raise ClusterError(f"worker {self.worker} {said}; its messages are above, on standard error")
        self.heard = time.monotonic()
        self.location = f"grpc://127.0.0.1:{line}"
        self._client = flight.FlightClient(self.location)

    def act(self, action: str, body: bytes) -> None:
        """A short call; one to a process that is gone does nothing, its loss is heard elsewhere.

        Raises `ClusterError` for a call that the worker could not carry out.
        """
        assert self._client is not None
        try:
            list(self._client.do_action(flight.Action(action, body), call_options(self._token, START_SECONDS)))
        except (flight.FlightUnavailableError, flight.FlightCancelledError):
            pass
        except pa.ArrowException as error:
            raise ClusterError(f"worker {self.worker} could not do {action!r}: {error}") from error

    def events(self) -> Iterator[bytes]:
        """Its events as they come, in pieces; ends with an Arrow error when it dies."""
        assert self._client is not None
        results = self._client.do_action(flight.Action("events", b""), call_options(self._token))
        return (result.body.to_pybytes() for result in results)

    def last_words(self) -> LastWords | None:
        """What it was doing when it died, once it has been closed."""
        return self._said

    def close(self) -> int | None:
        """End the process, by force if it takes long; its exit code."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._said = last_words(self._notebook) or self._said
        return code
