"""The run of a context: the drivers of its plans and their workers, from start to end."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal, TypeAlias

from arrowstream.catalog import Catalog
from arrowstream.clock import Clock
from arrowstream.cluster.cluster import Cluster
from arrowstream.cluster.driver import Underway, UnitDriver
from arrowstream.cluster.embedded import EmbeddedCluster
from arrowstream.connectors.sink import Committer, SupportsEarlierRows, SupportsView
from arrowstream.connectors.source import SupportsFailure
from arrowstream.connectors.view import TableView
from arrowstream.errors import ArrowStreamError, BatchError, ContextError
from arrowstream.ids import UnitId
from arrowstream.plan.nodes import Output, SourceNode
from arrowstream.plan.unit import Unit, topological, units
from arrowstream.schedule.deadletters import DeadLetters
from arrowstream.schedule.logs import MemoryLog
from arrowstream.schedule.progress import BatchReport, Progress
from arrowstream.settings import Settings
from arrowstream.usercode import running_line

log = logging.getLogger("arrowstream")

Status: TypeAlias = Literal["new", "starting", "running", "stopping", "stopped", "failed"]

OPEN_SECONDS: Final = 30.0
"""How long start() waits for the sources to be open; one that takes longer goes on being opened."""

LOOK_SECONDS: Final = 0.5
"""How often the run is looked at: for batches that take long, and for dead letters that nobody has been told of."""


class Run:
    """Runs the plans of a context once.

    starting -> (`start` returns) -> running -> (`stop`) -> stopping -> stopped; or, from any of them, failed, and
    `error` says why. When one plan fails, the others are stopped and sources that the program feeds are told at once.
    A run that does not come back from a function of the user is abandoned by a stop that has a limit.
    """

    def __init__(
        self,
        name: str,
        outputs: Sequence[Output],
        settings: Settings,
        clock: Clock,
        cluster: Cluster,
        *,
        owns_cluster: bool,
        progress: Progress,
        dead_letters: DeadLetters,
        catalog: Catalog,
        on_batch: Callable[[BatchReport], None],
        on_failed: Callable[[ArrowStreamError], None],
        on_end: Callable[[], None],
    ) -> None:
        self.status: Status = "starting"
        self.error: ArrowStreamError | None = None
        self.cluster = cluster
        self.drivers: list[UnitDriver] = []
        self._name, self._outputs, self._settings, self._clock = name, list(outputs), settings, clock
        self._owns_cluster = owns_cluster
        self._progress, self._dead_letters, self._catalog = progress, dead_letters, catalog
        self._on_batch, self._on_failed, self._on_end = on_batch, on_failed, on_end
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._closing = threading.Lock()
        self.closed = False
        """Whether nothing is left of it but what can be read."""

    def start(self, *, bounded: bool) -> None:
        """Start workers, open outputs and sources, begin. Raises what makes that impossible; then nothing is left."""
        self._tell_sources(None)
        try:
            self.cluster.start()
            self._open(bounded)
            for driver in self.drivers:
                driver.wait_until_open(OPEN_SECONDS)
            with self._lock:
                if self.error is not None:
                    raise self.error
                self.status = "running"
        except BaseException as error:
            with self._lock:
                if self.error is None and isinstance(error, ArrowStreamError):
                    self.error = error
                self.status = "stopped"  # nothing has run, and who called hears why
            self.close()
            raise
        threading.Thread(target=self._look, name="watching", daemon=True).start()

    def kill(self) -> None:
        """End its worker processes, whatever they do."""
        if self._owns_cluster:
            self.cluster.kill()

    def _open(self, bounded: bool) -> None:
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
                    self.cluster,
                    self._settings,
                    self._clock,
                    MemoryLog(),
                    committers,
                    self._dead_letters,
                    self._progress,
                    self._on_batch,
                    self._failed,
                )
                driver.start(bounded=bounded)
                opened.pop_all()
                self.drivers.append(driver)

    def _warn_of_doubles(self, unit: Unit, output: str, committer: Committer) -> None:
        """A run over the same files once more has all rows twice: nobody should find that out from a sum."""
        again = [node.name for _, node in unit.sources if node.source.replayable]
        if again and isinstance(committer, SupportsEarlierRows) and (rows := committer.earlier_rows()):
            note = (
                f"output {output} holds {rows:,} rows of earlier runs, and {', '.join(again)} is read from its "
                "beginning: rows that were written before come once more; mode='overwrite' replaces them"
            )
            log.warning("%s", note)
            self._progress.notes.append(note)

    # --- waiting

    def wait(self, until: float | None) -> bool:
        """Wait until all has ended, or something has failed, or `time.monotonic()` is `until`; whether it has."""
        for driver in self.drivers:
            while not driver.wait(0.2 if until is None else max(0.0, min(0.2, until - time.monotonic()))):
                if self.error is not None:
                    return True
                if until is not None and time.monotonic() >= until:
                    return False
        return True

    def stop(self, *, graceful: bool, timeout: float | None) -> None:
        """Stop, and wait until it has; what has not stopped after `timeout` seconds is abandoned.

        Raises `TimeoutError` then. Without a timeout a graceful stop waits for what it takes, and one that is not for
        `settings.batches.stop` seconds.
        """
        with self._lock:
            if self.status in ("starting", "running"):
                self.status = "stopping"
        for driver in self.drivers:
            driver.stop(drain=graceful)
        if timeout is None and not graceful:
            timeout = self._settings.batches.stop
        until = None if timeout is None else time.monotonic() + timeout
        hanging: list[UnitDriver] = []
        for driver in self.drivers:
            if not driver.wait(None if until is None else max(0.0, until - time.monotonic())):
                hanging.append(driver)
        if hanging:
            raise self._abandon(hanging, timeout or 0.0)

    def refuse_within(self, call: str) -> None:
        """Raise `ContextError` where this thread is the engine's: it would wait for itself."""
        if any(threading.current_thread() is driver.thread for driver in self.drivers):
            raise ContextError(
                f"{call}() in a function that the stream calls would wait for the batch that it is a part of: "
                f"call it from the program, or have another thread do it, threading.Thread(target=ctx.{call}).start()"
            )

    @contextlib.contextmanager
    def whole_batches(self) -> Iterator[None]:
        """For as long as outputs are looked at, no plan is in the middle of a commit."""
        with contextlib.ExitStack() as held:
            for driver in self.drivers:
                held.enter_context(driver.instant)
            yield

    # --- failing

    def _failed(self, error: ArrowStreamError) -> None:
        """A plan has failed; on its thread. The first error is the run's."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            started, self.status = self.status != "starting", "failed"
        if started:
            log.error("context %r has failed: %s", self._name, _one_line(error))
            self._tell_sources(_one_line(error))
        for driver in self.drivers:
            driver.stop(drain=False)
        if started:
            self._on_failed(error)

    def _tell_sources(self, failed: str | None) -> None:
        for node in topological(self._outputs):
            if isinstance(node, SourceNode) and isinstance(node.source, SupportsFailure):
                node.source.run_failed(failed)

    def _abandon(self, hanging: Sequence[UnitDriver], timeout: float) -> TimeoutError:
        """Give up units that do not come back; what they hold is let go of, or ended with its process."""
        at = [self._where(driver) for driver in hanging]
        text = f"not stopped after {timeout:.3g} s: {'; '.join(at)}"
        error = BatchError(f"{text}; it was given up, and nothing more is committed").located(
            batch_id=(hanging[0].underway or Underway(-1, 0, "")).batch
        )
        self._failed(error)
        self.kill()
        for driver in hanging:
            driver.abandon(error)
        left = "" if not isinstance(self.cluster, EmbeddedCluster) else "; its thread ends when the function returns"
        return TimeoutError(f"{text}; it was given up{left}")

    def _where(self, driver: UnitDriver) -> str:
        underway = driver.underway
        if underway is None:
            return f"the end of plan {driver.unit.id} is waited for"
        line = underway.line or self._line(driver)
        return f"batch {underway.batch} is in {underway.what}" + (f", at {line}" if line else "")

    def _line(self, driver: UnitDriver) -> str:
        """The line of the user's code in which a unit of this process is."""
        ahead = [each.ident for each in threading.enumerate() if each.name.startswith("arrowstream-ahead-")]
        return running_line([driver.thread.ident, *ahead])

    # --- looking on

    def _look(self) -> None:
        """Say what somebody should know while it runs."""
        limits: dict[UnitDriver, tuple[int, float]] = {}
        while not self._over.wait(LOOK_SECONDS):
            if all(driver.wait(0) for driver in self.drivers):
                self.close()
                return
            self._tell_dead_letters()
            for driver in self.drivers:
                if (underway := driver.underway) is not None:
                    self._name_slow(driver, underway, limits)

    def _name_slow(self, driver: UnitDriver, now: Underway, limits: dict[UnitDriver, tuple[int, float]]) -> None:
        slow = self._settings.batches.slow
        batch, limit = limits.get(driver, (now.batch, slow))
        limit = limit if batch == now.batch else slow
        seconds = time.monotonic() - now.since
        elsewhere = now.what == "its tasks" and not isinstance(self.cluster, EmbeddedCluster)  # workers tell of theirs
        if seconds >= limit and not elsewhere:
            text = f"{self._where(driver)}, and has been under way for {seconds:.0f} s; "
            text += "ctx.stop(graceful=False) gives it up"
            log.warning("%s", text)
            self._progress.notes.append(text)
            limit = 2 * seconds
        limits[driver] = now.batch, limit

    def _tell_dead_letters(self, *, last: bool = False) -> None:
        if text := self._dead_letters.news(time.monotonic(), last=last):
            log.warning("%s", text)
            self._progress.notes.append(text)

    # --- the end

    def close(self) -> None:
        """End what is left of the run; outputs stay readable. A second call does nothing."""
        with self._closing:
            if not self.closed:
                self._close()
                self.closed = True
        self._on_end()

    def _close(self) -> None:
        for driver in self.drivers:
            driver.stop(drain=False)
        for driver in self.drivers:
            if not driver.wait(self._settings.batches.stop):
                driver.abandon(self.error or BatchError(f"the run was given up: {self._where(driver)}"))
        with self._lock:
            if self.status != "failed":
                self.status = "stopped"
        self._over.set()
        if self._owns_cluster:
            self.cluster.close()
        self._tell_dead_letters(last=True)


def _view(committer: SupportsView) -> TableView:
    return committer.view()


def _one_line(error: ArrowStreamError) -> str:
    """What a run failed with, on one line, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def make_cluster(settings: Settings, clock: Clock) -> Cluster:
    """Where a context's work is done: inside this process, or in worker processes."""
    if settings.cluster.workers == 0:
        return EmbeddedCluster(settings, clock)
    from arrowstream.cluster.local import LocalCluster

    return LocalCluster(settings)
