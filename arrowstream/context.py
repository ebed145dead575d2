"""The front door: a streaming context holds the sources, the outputs and the run."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from arrowstream.catalog import Catalog, unknown_table
from arrowstream.clock import Clock, SystemClock
from arrowstream.cluster.cluster import Cluster
from arrowstream.cluster.driver import UnitDriver
from arrowstream.connectors.sink import Committer, SupportsEarlierRows, SupportsView
from arrowstream.connectors.source import SupportsBounded
from arrowstream.connectors.view import TableView
from arrowstream.errors import ArrowStreamError, ContextError, PlanError
from arrowstream.ids import UnitId
from arrowstream.plan.nodes import Aggregate, Node, Output, SourceNode
from arrowstream.plan.tables import Table, refreshed_tables
from arrowstream.plan.unit import Unit, topological, units
from arrowstream.read import ReadFrom
from arrowstream.schedule.deadletters import DEAD_LETTERS, DeadLetters
from arrowstream.schedule.logs import MemoryLog
from arrowstream.schedule.progress import BatchReport, Progress
from arrowstream.settings import (
    BatchSettings,
    BlockSettings,
    ClusterSettings,
    Settings,
    parse_duration,
    parse_size,
)
from arrowstream.write import WriteTo

if TYPE_CHECKING:
    from types import TracebackType

    import polars as pl

    from arrowstream.snapshot import Snapshot

log = logging.getLogger("arrowstream")

WORKERS_VARIABLE = "ARROWSTREAM_WORKERS"
"""Environment variable with the number of workers where the program does not say (`arrowstream run --workers`)."""

OPEN_SECONDS = 30.0
"""How long start() waits for the sources to be open; one that takes longer goes on being opened."""

contexts: weakref.WeakSet[StreamingContext] = weakref.WeakSet()
"""The contexts of this process that have been started and not stopped: for the command line."""


class StreamingContext:
    """Sources, outputs, and the run that joins them.

    New -> (`start`) -> Running -> (`stop`, or all sources ended, or a failure) -> Stopped; a context runs once.
    A run that has failed raises its error at `await_termination`, `run`, `process_all_available` and `stop`.

        with StreamingContext(batch_interval="1s") as ctx:
            ctx.read.rate(10).write.console()
            ctx.start()
            ctx.await_termination(timeout=10)

    Arguments:
        batch_interval  from one batch to the next; "10ms" and more
        block_interval  after which a receiver's block is sealed; a batch that is due seals it sooner
        workers         0: inside this process; N: N worker processes on this machine
        replication     workers that must hold a received block, and a change of state, before it counts as safe;
                        min(2, workers) unless given
        name            of the context, in reports
        memory          of blocks per worker; beyond, they are spilled to disk, and senders are slowed down
        max_batch_rows  rows in a batch at most (blocks are not cut: one block may exceed it)
        max_batch_size  bytes of blocks in a batch at most
        spill           folder for spilled blocks; the system's temporary one unless given
        clock           where to read the time (`arrowstream.testing.ManualClock` in tests)
        cluster         workers that are there already, in place of `workers`; the context does not end them
    """

    def __init__(
        self,
        batch_interval: str | timedelta = "1s",
        block_interval: str | timedelta = "200ms",
        workers: int | None = None,
        replication: int | None = None,
        name: str = "arrowstream",
        *,
        memory: str | int = "512MB",
        max_batch_rows: int | None = None,
        max_batch_size: str | int = "128MB",
        spill: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.name = name
        batch_seconds = parse_duration(batch_interval, "batch_interval")
        if batch_seconds < 0.001:
            raise PlanError(f'batch_interval={batch_interval!r} is too short: "1ms" is the least, "10ms" is usual')
        memory_bytes = parse_size(memory, "memory")
        blocks = BlockSettings(
            interval=min(parse_duration(block_interval, "block_interval"), batch_seconds),
            bytes=min(BlockSettings().bytes, max(memory_bytes // 8, 1)),  # a block must fit, several times over
            memory=memory_bytes,
            spill=None if spill is None else os.fspath(spill),
        )
        if max_batch_rows is not None and max_batch_rows < 1:
            raise PlanError(f"max_batch_rows={max_batch_rows} must be at least 1")
        batches = BatchSettings(batch_seconds, max_batch_rows, parse_size(max_batch_size, "max_batch_size"))
        if workers is None:
            workers = len(cluster.workers) if cluster is not None else _workers_from_environment()
        self.settings = Settings(blocks, batches, _cluster_settings(workers, replication))
        self.progress = Progress()
        """Reports of the last batches, and sums."""
        self._clock = clock or SystemClock()
        self._cluster, self._owns_cluster = cluster, cluster is None
        self._outputs: list[Output] = []
        self._drivers: list[UnitDriver] = []
        self._dead_letters = DeadLetters()
        self._catalog = Catalog()
        self._catalog.register(DEAD_LETTERS, self._dead_letters.view)
        self._listeners: list[Callable[[BatchReport], object]] = []
        self._state = "new"
        self._read = ReadFrom(self)

    @property
    def read(self) -> ReadFrom:
        """Sources: `ctx.read.socket(...)`, `.parquet(...)`, `.ndjson(...)`, `.rate(...)`, `.memory(...)`."""
        return self._read

    def add_output(self, output: Output) -> None:
        """Register an output; `frame.write` does. Raises `ContextError` once started, `PlanError` for a name twice."""
        if self._state != "new":
            raise ContextError(f"the context is {self._state}: declare every output before start()")
        taken = [other.sink.name for other in self._outputs]
        if output.sink.name in taken or output.sink.name == DEAD_LETTERS:
            raise PlanError(f"there is already an output {output.sink.name!r}; give this one another name=")
        self._outputs.append(output)

    def listen(self, listener: Callable[[BatchReport], object]) -> None:
        """Call `listener(report)` after every batch, on the engine's thread: keep it short. One that fails is
        logged."""
        self._listeners.append(listener)

    # --- the run

    def start(self) -> None:
        """Start receiving and running batches; returns at once.

        Raises `ContextError` when called twice or without an output, `SourceError` and `SinkError` where one cannot be
        opened.
        """
        self._start(bounded=False)

    def run(self, timeout: float | None = None) -> None:
        """Process all there is, then stop: directories as they are now, sockets until the peer closes.

        Raises `PlanError` for a source that never ends, `TimeoutError`, and whatever made the run fail.
        """
        self._start(bounded=True)
        if not self.await_termination(timeout):
            self.stop(graceful=False)
            raise TimeoutError(f"not through after {timeout} s")
        self.stop()

    def await_termination(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, at most `timeout` seconds; whether it has. Ctrl-C stops it gracefully.

        Raises what made the run fail.
        """
        self._must_be_started("await_termination")
        until = None if timeout is None else SystemClock().now() + timeout
        try:
            for driver in self._drivers:
                while not driver.wait(0.2 if until is None else max(0.0, min(0.2, until - SystemClock().now()))):
                    if self._failed():
                        break
                    if until is not None and SystemClock().now() >= until:
                        return False
        except KeyboardInterrupt:
            self.stop()
            raise
        self._raise_failure()
        return True

    def process_all_available(self, timeout: float | None = None) -> None:
        """Wait until all rows that the sources have at this moment are committed; does not wait for the interval.

        Raises `TimeoutError`, and whatever made the run fail.
        """
        self._must_be_started("process_all_available")
        for done in [driver.flush() for driver in self._drivers]:
            if not done.wait(timeout):
                raise TimeoutError(f"rows were still on their way after {timeout} s; {self.progress!r}")
        self._raise_failure()

    def stop(self, *, graceful: bool = True, timeout: float | None = None) -> None:
        """Stop the run; `graceful` finishes what has arrived, else the batch under way is finished and the rest let
        go. Once stopped, outputs can still be queried. A second call does nothing.

        Raises `ContextError` before `start`, `TimeoutError`, and whatever made the run fail.
        """
        self._must_be_started("stop")
        if self._state == "stopped":
            return
        try:
            for driver in self._drivers:
                driver.stop(drain=graceful)
            for driver in self._drivers:
                if not driver.wait(timeout):
                    raise TimeoutError(f"not stopped after {timeout} s; {self.progress!r}")
        finally:
            if all(driver.wait(0) for driver in self._drivers):
                self._close()
        self._raise_failure()

    def refresh(self, table: Table) -> None:
        """Read a table of `arrowstream.table(..., refresh=)` again, for all batches that are allotted from now on.

        From any thread, also from a `foreach_batch`, and at once. Raises `ContextError` before `start`, `PlanError` for
        a table that no join reads again.
        """
        self._must_be_started("refresh")
        drivers = [driver for driver in self._drivers if table in refreshed_tables(driver.unit)]
        if not drivers:
            raise PlanError(f"refresh: no join of this context reads {table} again; make it with table(..., refresh=)")
        for driver in drivers:
            driver.refresh(table)

    # --- what has come out

    def sql(self, statement: str, *, allow_files: bool = False) -> Snapshot:
        """The answer to a query over the outputs, by name, as they stand now; also after `stop`.

        All outputs of a connected plan are seen at the same batch. `dead_letters` is a table too. The statement reaches
        no files but the outputs' own; with `allow_files=True` it reads whatever the program can. Raises `QueryError`.
        """
        from arrowstream.query import run_sql

        return run_sql(statement, self._catalog, self._whole_batches(), allow_files=allow_files)

    def state(self, name: str | None = None, *, timeout: float | None = None) -> Snapshot:
        """What stateful operators keep, while it runs, as of the last committed batch (waits for one under way).

        Without a name, a row for each table: `name` (of the call and its keys, as `explain` says), `operator`, `rows`,
        `bytes`, `bounded`. With one, the rows of that table: keys, and what is kept for them; accumulators are named
        for what they hold. All of it comes here, so ask for large ones with care. Raises `ContextError` before `start`
        and once the run has ended, `QueryError` for an unknown name, `TimeoutError`.
        """
        from arrowstream.stateview import content, entries, listing

        self._must_be_started("state")
        found = []
        for driver in self._drivers:
            shown = driver.state([], timeout)
            for entry in entries(self._outputs, driver.keepers, dict.fromkeys(table.name for table in shown)):
                if name is None:
                    found.append((entry, [table for table in shown if table.name == entry.table]))
                elif name == entry.name:
                    full = driver.state([entry.table], timeout)
                    return content(entry, [table for table in full if table.name == entry.table])
                else:
                    found.append((entry, []))
        if name is not None:
            raise unknown_table(name, [entry.name for entry, _ in found])
        return listing(found)

    @property
    def tables(self) -> list[str]:
        """The names that `sql` knows."""
        return self._catalog.names()

    @property
    def dead_letters(self) -> Snapshot:
        """Records that were no rows, with the reason: batch, source, split, raw, reason."""
        return self.sql(f"SELECT * FROM {DEAD_LETTERS}")

    def preview(self, node: Node, seconds: float) -> pl.DataFrame:
        """Run a node alone for some seconds; `frame.preview` does."""
        import polars as pl

        with StreamingContext("100ms", workers=0) as trial:
            WriteTo(node, trial).memory("preview")
            trial.start()
            trial.await_termination(seconds)
            trial.stop(graceful=False)
            rows = [pl.DataFrame(table) for table in trial._catalog.view("preview").rows]
        return pl.concat([node.schema.to_frame(), *rows])

    def explain(self, format: str = "text") -> str:
        """The plans of all outputs, as "text", "mermaid" or "svg": see `StreamFrame.explain`."""
        from arrowstream.diagram import draw

        return draw(self._outputs, format)

    def __enter__(self) -> StreamingContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state != "running":
            return
        if error is None:
            self.stop()
        else:
            with contextlib.suppress(ArrowStreamError):
                self.stop(graceful=False)

    def __repr__(self) -> str:
        names = ", ".join(output.sink.name for output in self._outputs) or "no outputs"
        return f"<StreamingContext {self.name}: {self._state}; {names}; {self.progress!r}>"

    def _repr_html_(self) -> str:
        from arrowstream.display import html_context

        plan = self.explain("svg") if self._outputs else ""
        return html_context(self.name, self._state, self.tables, self.progress, plan)

    # --- inside

    def _start(self, *, bounded: bool) -> None:
        if self._state != "new":
            raise ContextError(f"the context is {self._state} already; make a new StreamingContext")
        if not self._outputs:
            raise ContextError("nothing to do: no frame is written anywhere; add for example frame.write.console()")
        self._check_sources(bounded)
        self._warn_of_unbounded_state()
        self._state = "starting"
        _hear_ctrl_c_alone()
        self._cluster = self._cluster or _make_cluster(self.settings, self._clock)
        try:
            self._cluster.start()
            self._open(bounded)
            for driver in self._drivers:
                driver.wait_until_open(OPEN_SECONDS)
            if failed := self._failed():
                raise failed[0]
        except BaseException:
            self._state = "stopped"
            for driver in self._drivers:
                driver.stop(drain=False)
            for driver in self._drivers:
                driver.wait(10)
            self._close()
            raise
        self._state = "running"
        contexts.add(self)

    def _check_sources(self, bounded: bool) -> None:
        for node in topological(self._outputs):
            if isinstance(node, SourceNode) and bounded and not isinstance(node.source, SupportsBounded):
                raise PlanError(f"source {node.name} never ends: use start() and stop() in place of run()")

    def _warn_of_unbounded_state(self) -> None:
        """Counts of distinct values keep every value for ever: nobody should find that out at three in the morning."""
        for node in topological(self._outputs):
            if isinstance(node, Aggregate) and node.decomposition.pairs and node.ttl is None:
                log.warning("state without a bound: %s keeps every distinct value it has seen", node.label)

    def _warn_of_doubles(self, unit: Unit, output: str, committer: Committer) -> None:
        """A run over the same files once more has all rows twice: nobody should find that out from a sum."""
        again = [node.name for _, node in unit.sources if node.source.replayable]
        if again and isinstance(committer, SupportsEarlierRows) and (rows := committer.earlier_rows()):
            note = (
                f"output {output} holds {rows:,} rows of earlier runs, and {', '.join(again)} is read from its "
                "beginning: rows that were written before come once more; mode='overwrite' replaces them"
            )
            log.warning("%s", note)
            self.progress.notes.append(note)

    def _open(self, bounded: bool) -> None:
        assert self._cluster is not None
        run = uuid.uuid4().hex
        for unit in units(self._outputs):
            if not self._owns_cluster:  # others have units there too, or late news of theirs is on its way
                unit = replace(unit, id=UnitId(f"{unit.id}-{secrets.token_hex(4)}"))
            with contextlib.ExitStack() as opened:
                committers: list[Committer] = []
                for output in unit.outputs:
                    committer = output.sink.committer(run)
                    opened.callback(committer.close)
                    committers.append(committer)
                    if isinstance(committer, SupportsView):
                        self._catalog.register(output.sink.name, partial(_view, committer))
                    self._warn_of_doubles(unit, output.sink.name, committer)
                driver = UnitDriver(
                    unit,
                    self._cluster,
                    self.settings,
                    self._clock,
                    MemoryLog(),
                    committers,
                    self._dead_letters,
                    self.progress,
                    self._on_batch,
                )
                driver.start(bounded=bounded)
                opened.pop_all()
                self._drivers.append(driver)

    def _on_batch(self, report: BatchReport) -> None:
        for listener in self._listeners:
            try:
                listener(report)
            except Exception:  # who only looks on must not stop the stream
                log.exception("a listener failed at batch %d", report.batch)

    @contextlib.contextmanager
    def _whole_batches(self) -> Iterator[None]:
        """For as long as outputs are looked at, no plan is in the middle of a commit."""
        with contextlib.ExitStack() as held:
            for driver in self._drivers:
                held.enter_context(driver.instant)
            yield

    def _failed(self) -> list[ArrowStreamError]:
        return [driver.error for driver in self._drivers if driver.error is not None]

    def _raise_failure(self) -> None:
        for error in self._failed():
            self._close()
            raise error

    def _close(self) -> None:
        """End what is left of the run; outputs stay readable."""
        if self._state != "stopped":
            self._state = "stopped"
            contexts.discard(self)
        for driver in self._drivers:
            driver.stop(drain=False)
            driver.wait(10)
        if self._owns_cluster and self._cluster is not None:
            self._cluster.close()

    def _must_be_started(self, call: str) -> None:
        if self._state == "new":
            raise ContextError(f"{call}() before start(): call start() first")


def _view(committer: SupportsView) -> TableView:
    return committer.view()


def _hear_ctrl_c_alone() -> None:
    """Have Ctrl-C reach the program, and nobody else.

    Polars has a handler of its own, before Python's, which ends every query of the process with a KeyboardInterrupt:
    also the engine's, in the middle of a batch or of lines just taken from a socket, and a graceful stop would lose
    them. To set Python's handler once more puts it in the place of Polars'. Only the main thread may do so.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGINT, handler)


def _workers_from_environment() -> int:
    text = os.environ.get(WORKERS_VARIABLE, "0")
    if not text.isdigit():
        raise PlanError(f"{WORKERS_VARIABLE}={text!r} must be a number of worker processes, such as 2")
    return int(text)


def _cluster_settings(workers: int, replication: int | None) -> ClusterSettings:
    if workers < 0:
        raise PlanError(f"workers={workers}: 0 runs inside this process, N starts N worker processes")
    if replication is None:
        replication = min(2, max(workers, 1))
    if replication < 1 or replication > max(workers, 1):
        raise PlanError(f"replication={replication} must be between 1 and the number of workers, {max(workers, 1)}")
    return ClusterSettings(workers, replication)


def _make_cluster(settings: Settings, clock: Clock) -> Cluster:
    if settings.cluster.workers == 0:
        from arrowstream.cluster.embedded import EmbeddedCluster

        return EmbeddedCluster(settings, clock)
    from arrowstream.cluster.local import LocalCluster

    return LocalCluster(settings)


def stop_all() -> None:
    """Stop every running context of this process gracefully (Ctrl-C at the command line)."""
    for context in list(contexts):
        context.stop()


@atexit.register
def _stop_at_exit() -> None:
    """A program that ends while a context runs: finish what has arrived, rather than lose it."""
    for context in list(contexts):
        log.warning("the program ended while %r was running; call ctx.await_termination() or ctx.stop()", context.name)
        with contextlib.suppress(ArrowStreamError):
            context.stop()
