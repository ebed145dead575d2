"""The front door: a streaming context holds the sources and the outputs, and runs them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

from arrowstream import hints, running
from arrowstream.catalog import Catalog, unknown_table
from arrowstream.clock import Clock, SystemClock
from arrowstream.cluster.cluster import Cluster
from arrowstream.connectors.source import SupportsBounded
from arrowstream.errors import ArrowStreamError, ContextError, PlanError
from arrowstream.plan.nodes import Aggregate, Node, Output, SourceNode
from arrowstream.plan.tables import Table, refreshed_tables
from arrowstream.plan.unit import topological
from arrowstream.read import ReadFrom
from arrowstream.run import Run, Status, make_cluster
from arrowstream.schedule.deadletters import DEAD_LETTERS, DeadLetters
from arrowstream.schedule.progress import BatchReport, Progress
from arrowstream.settings import (
    BatchSettings,
    BlockSettings,
    Settings,
    cluster_settings,
    parse_duration,
    parse_size,
    workers_from_environment,
)
from arrowstream.write import WriteTo

if TYPE_CHECKING:
    from types import TracebackType

    import polars as pl

    from arrowstream.cluster.driver import UnitDriver
    from arrowstream.lettersview import DeadLetterSnapshot
    from arrowstream.snapshot import Snapshot

log = logging.getLogger("arrowstream")

WARN_SECONDS = 60.0
"""How often `sql` says that the run has failed, and the answer is old."""


def contexts() -> list[StreamingContext]:
    """The contexts of this process that have been started and not stopped, the oldest first; among them those that
    have failed and whose error nobody has been told yet."""
    return cast(list[StreamingContext], running.contexts())


class StreamingContext:
    """Sources, outputs, and the run that joins them.

    New -> (`start`) -> Running -> (`stop`, or all sources ended) -> Stopped, or Failed; a context runs once.
    A run that fails says so at once, in one line of the log, and is seen in `status` and `error`; its error is raised
    by `await_termination`, `run`, `process_all_available`, `stop` and the end of a `with` block, and a program that
    ends without having heard of it ends with code 1.

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
        degraded        while fewer workers than that hold a received block, after a loss or where a disk is full:
                        "wait" with its acknowledgement for the copy or the commit; or "go on", and one more loss may
                        lose rows that were acknowledged
        name            of the context, in reports; in a notebook a context that starts stops one of the same name
        memory          of blocks per worker; beyond, they are spilled to disk, and senders are slowed down
        max_batch_rows  rows in a batch at most (blocks are not cut: one block may exceed it)
        max_batch_size  bytes of blocks in a batch at most
        spill           folder for spilled blocks; the system's temporary one unless given
        stop_timeout    how long a stop may take that has no limit of its own: by SIGTERM or SIGHUP, at the end of the
                        program, and by `stop(graceful=False)`; what is not through by then is given up
        slow_batch      after which a batch that is still under way is named in the log, with the line of your code
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
        degraded: Literal["wait", "go on"] = "wait",
        memory: str | int = "512MB",
        max_batch_rows: int | None = None,
        max_batch_size: str | int = "128MB",
        spill: str | os.PathLike[str] | None = None,
        stop_timeout: str | timedelta = "20s",
        slow_batch: str | timedelta = "30s",
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
        batches = BatchSettings(
            interval=batch_seconds,
            rows=max_batch_rows,
            bytes=parse_size(max_batch_size, "max_batch_size"),
            slow=parse_duration(slow_batch, "slow_batch"),
            stop=parse_duration(stop_timeout, "stop_timeout"),
        )
        if workers is None:
            workers = len(cluster.workers) if cluster is not None else workers_from_environment()
        self.settings = Settings(blocks, batches, cluster_settings(workers, replication, degraded))
        self.progress = Progress()
        """Reports of the last batches, and sums."""
        self._clock = clock or SystemClock()
        self._given_cluster = cluster
        self._outputs: list[Output] = []
        self._run: Run | None = None
        self._dead_letters = DeadLetters()
        self._catalog = Catalog()
        self._catalog.register(DEAD_LETTERS, self._dead_letters.view)
        self._listeners: list[Callable[[BatchReport], object]] = []
        self._error_listeners: list[Callable[[ArrowStreamError], object]] = []
        self._told = False  # of a failure, by an exception
        self._warned: float | None = None
        self._read = ReadFrom(self)

    @property
    def read(self) -> ReadFrom:
        """Sources: `ctx.read.socket(...)`, `.parquet(...)`, `.ndjson(...)`, `.rate(...)`, `.memory(...)`."""
        return self._read

    def add_output(self, output: Output) -> None:
        """Register an output; `frame.write` does. Raises `ContextError` once started, `PlanError` for a name twice."""
        if self._run is not None:
            raise ContextError(f"the context is {self.status}: declare every output before start()")
        taken = [other.sink.name for other in self._outputs]
        if output.sink.name in taken or output.sink.name == DEAD_LETTERS:
            raise PlanError(f"there is already an output {output.sink.name!r}; give this one another name=")
        self._outputs.append(output)

    def listen(
        self,
        listener: Callable[[BatchReport], object] | None = None,
        *,
        on_error: Callable[[ArrowStreamError], object] | None = None,
    ) -> None:
        """Call `listener(report)` after every batch, and `on_error(error)` once when the run fails.

        Both are called on the engine's thread: keep them short. One that fails is logged.
        """
        if listener is not None:
            self._listeners.append(listener)
        if on_error is not None:
            self._error_listeners.append(on_error)

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
            raise TimeoutError(f"not through after {timeout} s; {self.progress!r}")
        self.stop()

    def await_termination(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, at most `timeout` seconds; whether it has.

        Ctrl-C stops it gracefully; a second one leaves at once. Raises what made the run fail.
        """
        run = self._must_be_started("await_termination")
        run.refuse_within("await_termination")
        try:
            ended = run.wait(None if timeout is None else time.monotonic() + timeout)
        except KeyboardInterrupt as interrupt:
            self._stop_interrupted()
            raise interrupt.with_traceback(None) from None
        running.leave_if_told()
        if ended:
            self._raise_failure()
        return ended

    def process_all_available(self, timeout: float | None = None) -> None:
        """Wait until all rows that the sources have at this moment are committed; does not wait for the interval.

        Raises `TimeoutError`, and whatever made the run fail.
        """
        run = self._must_be_started("process_all_available")
        run.refuse_within("process_all_available")
        until = None if timeout is None else time.monotonic() + timeout
        for done in [driver.flush() for driver in run.drivers]:
            if not done.wait(None if until is None else max(0.0, until - time.monotonic())):
                raise TimeoutError(f"rows were still on their way after {timeout} s; {self.progress!r}")
        running.leave_if_told()
        self._raise_failure()

    def stop(self, *, graceful: bool = True, timeout: float | None = None) -> None:
        """Stop the run; `graceful` finishes what has arrived, else the batch under way is finished and the rest let
        go. Once stopped, outputs can still be queried. A second call does nothing.

        What has not stopped after `timeout` seconds is given up, and `TimeoutError` says where it was: worker
        processes are ended; a function inside this process cannot be, and its thread is left behind, but nothing that
        it gives is committed. Without a timeout a graceful stop takes as long as it needs, and one that is not
        graceful `stop_timeout`. Raises `ContextError` before `start` and in functions that the stream calls, and
        whatever made the run fail.
        """
        run = self._must_be_started("stop")
        run.refuse_within("stop")
        if run.closed:
            running.left(self)
            self._raise_failure(once=True)
            return
        try:
            run.stop(graceful=graceful, timeout=timeout)
        except TimeoutError:
            self._told = True
            run.close()
            running.left(self)
            raise
        run.close()
        self._raise_failure(once=True)
        running.left(self)

    def refresh(self, table: Table) -> None:
        """Read a table of `arrowstream.table(..., refresh=)` again, for all batches that are allotted from now on.

        From any thread, also from a `foreach_batch`, and at once. Raises `ContextError` before `start`, `PlanError` for
        a table that no join reads again.
        """
        run = self._must_be_started("refresh")
        drivers = [driver for driver in run.drivers if table in refreshed_tables(driver.unit)]
        if not drivers:
            raise PlanError(f"refresh: no join of this context reads {table} again; make it with table(..., refresh=)")
        for driver in drivers:
            driver.refresh(table)

    # --- how it is

    @property
    def status(self) -> Status:
        """new, starting, running, stopping, stopped or failed."""
        return "new" if self._run is None else self._run.status

    @property
    def error(self) -> ArrowStreamError | None:
        """What made the run fail; None while nothing has.

        It has `batch_id`, `where` (output or node), `line` (of your code) and `rows` (as JSON), as far as they are
        known.
        """
        return None if self._run is None else self._run.error

    @property
    def is_running(self) -> bool:
        """Whether batches are run: from `start` until the run has ended or failed."""
        return self.status in ("running", "stopping")

    @property
    def stop_timeout(self) -> float:
        """Seconds that a stop without a limit of its own may take."""
        return self.settings.batches.stop

    # --- what has come out

    def sql(self, statement: str, *, allow_files: bool = False) -> Snapshot:
        """The answer to a query over the outputs, by name, as they stand now; also after `stop`.

        All outputs of a connected plan are seen at the same batch. `dead_letters` is a table too. Of a run that has
        failed it is the state of the last whole batch, and a line in the log says so. The statement reaches no files
        but the outputs' own; with `allow_files=True` it reads whatever the program can. Raises `QueryError`.
        """
        from arrowstream.query import run_sql

        self._warn_of_failure()
        whole = None if self._run is None else self._run.whole_batches()
        return run_sql(statement, self._catalog, whole, allow_files=allow_files)

    def state(self, name: str | None = None, *, timeout: float | None = None) -> Snapshot:
        """What stateful operators keep, while it runs, as of the last committed batch (waits for one under way).

        Without a name, a row for each table: `name` (of the call and its keys, as `explain` says), `operator`, `rows`,
        `bytes`, `bounded`. With one, the rows of that table: keys, and what is kept for them; accumulators are named
        for what they hold. All of it comes here, so ask for large ones with care. Raises `ContextError` before `start`
        and once the run has ended, `QueryError` for an unknown name, `TimeoutError`.
        """
        from arrowstream.stateview import content, entries, listing

        run = self._must_be_started("state")
        found = []
        for driver in run.drivers:
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
    def dead_letters(self) -> DeadLetterSnapshot:
        """Records that were no rows, and rows that were turned away, with the reason.

        Printed, each with its source and place, the reason in full, and the raw text. As a frame: batch, source,
        split, raw (bytes), reason, path, line, offset, and of rows the operator and times.
        """
        from arrowstream.lettersview import DeadLetterSnapshot

        return DeadLetterSnapshot(self._dead_letters.view())

    def preview(self, node: Node, seconds: float) -> pl.DataFrame:
        """Run a node alone for some seconds; `frame.preview` does."""
        import polars as pl

        with StreamingContext("100ms", workers=0, name=f"preview of {self.name}") as trial:
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
        if self._run is None or self.status == "stopped" or (self.status == "failed" and self._told):
            return
        if error is None:
            self.stop()
            return
        leaving = isinstance(error, KeyboardInterrupt | SystemExit)  # no fault: what has arrived is finished
        bounded = leaving and not isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(ArrowStreamError, TimeoutError):  # both are in the log
            self.stop(graceful=leaving, timeout=self.stop_timeout if bounded else None)

    def __repr__(self) -> str:
        names = ", ".join(output.sink.name for output in self._outputs) or "no outputs"
        failure = "" if self.error is None else f": {self._failure_text()}"
        return f"<StreamingContext {self.name}: {self.status}{failure}; {names}; {self.progress!r}>"

    def _repr_html_(self) -> str:
        from arrowstream.display import html_context

        plan = self.explain("svg") if self._outputs else ""
        failure = "" if self.error is None else self._failure_text()
        return html_context(self.name, self.status, self.tables, self.progress, plan, failure)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise hints.no_such_call("a StreamingContext", name, hints.CONTEXT, dir(type(self)))

    # --- inside

    def _start(self, *, bounded: bool) -> None:
        if self._run is not None:
            raise ContextError(f"the context is {self.status} already; make a new StreamingContext")
        if not self._outputs:
            raise ContextError("nothing to do: no frame is written anywhere; add for example frame.write.console()")
        self._check_sources(bounded)
        self._warn_of_unbounded_state()
        running.replace_older(self)
        run = self._run = Run(
            self.name,
            self._outputs,
            self.settings,
            self._clock,
            self._given_cluster or make_cluster(self.settings, self._clock),
            owns_cluster=self._given_cluster is None,
            progress=self.progress,
            dead_letters=self._dead_letters,
            catalog=self._catalog,
            on_batch=self._on_batch,
            on_failed=self._on_failed,
            on_end=self._on_end,
        )
        running.entered(self)
        try:
            run.start(bounded=bounded)
        except BaseException:
            self._told = True
            running.left(self)
            raise

    @property
    def _drivers(self) -> list[UnitDriver]:
        return [] if self._run is None else self._run.drivers

    @property
    def _cluster(self) -> Cluster | None:
        return self._given_cluster if self._run is None else self._run.cluster

    def _check_sources(self, bounded: bool) -> None:
        for node in topological(self._outputs):
            if isinstance(node, SourceNode) and bounded and not isinstance(node.source, SupportsBounded):
                raise PlanError(f"source {node.name} never ends: use start() and stop() in place of run()")

    def _warn_of_unbounded_state(self) -> None:
        """Counts of distinct values keep every value for ever: nobody should find that out at three in the morning."""
        for node in topological(self._outputs):
            if isinstance(node, Aggregate) and node.decomposition.pairs and node.ttl is None:
                log.warning("state without a bound: %s keeps every distinct value it has seen", node.label)

    def _on_batch(self, report: BatchReport) -> None:
        for listener in self._listeners:
            try:
                listener(report)
            except Exception:  # who only looks on must not stop the stream
                log.exception("a listener failed at batch %d", report.batch)

    def _on_failed(self, error: ArrowStreamError) -> None:
        for listener in self._error_listeners:
            try:
                listener(error)
            except Exception:
                log.exception("a listener failed when it was told of the failure of context %r", self.name)

    def _on_end(self) -> None:
        if self.error is None or self._told:  # else the end of the program tells
            running.left(self)

    def _stop_interrupted(self) -> None:
        """Ctrl-C while the program waits: finish what has arrived; at once where it comes again."""
        running.say_stopping()
        try:
            self.stop()
        except KeyboardInterrupt:  # a notebook: the process has to stay
            with contextlib.suppress(ArrowStreamError, TimeoutError):
                self.stop(graceful=False, timeout=1.0)

    def _warn_of_failure(self) -> None:
        now = time.monotonic()
        if self.error is not None and (self._warned is None or now - self._warned >= WARN_SECONDS):
            self._warned = now
            log.warning(
                "context %r has failed, so this is the answer of its last whole batch: %s",
                self.name,
                self._failure_text(),
            )

    def _failure_text(self) -> str:
        text = f"{type(self.error).__name__}: {' '.join(str(self.error).split())}"
        return text if len(text) <= 500 else text[:499] + "…"

    def _raise_failure(self, *, once: bool = False) -> None:
        """Raise what made the run fail; `once`: only where it has not been raised yet."""
        if self._run is None or self._run.error is None or (once and self._told):
            return
        self._told = True
        self._run.close()
        running.left(self)
        raise self._run.error.with_traceback(None)  # the way through the engine tells nobody anything

    def kill_workers(self) -> None:
        """End the worker processes at once, as the process is about to leave."""
        if self._run is not None:
            self._run.kill()

    def _must_be_started(self, call: str) -> Run:
        if self._run is None:
            raise ContextError(f"{call}() before start(): call start() first")
        return self._run
