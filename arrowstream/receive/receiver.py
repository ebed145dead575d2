"""A receiver: one split, read by one thread into blocks for as long as the context runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
import tenacity

from arrowstream.blocks.block import Block
from arrowstream.blocks.generator import BlockGenerator
from arrowstream.clock import Clock
from arrowstream.connectors.source import (
    EndOfStream,
    Offset,
    Reader,
    Reference,
    Source,
    SupportsRejects,
    SupportsWake,
    remembered,
)
from arrowstream.errors import ArrowStreamError

POLL_SECONDS = 0.05
"""The longest a receiver waits in one poll: how fast it hears that it should stop."""

DRAIN_SECONDS = 1.0
"""How long a receiver that is stopped goes on taking in what is at hand: a sender that never pauses must not
keep it for ever."""


class Outlet(Protocol):
    """Where a receiver's blocks go (`BlockManager`)."""

    def put(self, block: Block) -> None: ...

    def after(self, action: Callable[[], None]) -> None:
        """Call `action` once all blocks put before are known to the driver."""

    def wait_for_room(self, stop: threading.Event) -> None: ...


class Listener(Protocol):
    """Who hears what becomes of a receiver; called from the receiver's thread."""

    def started(self) -> None: ...

    def failed(self, reason: str, fatal: bool) -> None: ...

    def ended(self, exhausted: bool) -> None:
        """It reads no more: the split has come to its end (`exhausted`), or the receiver was stopped, or has failed."""


class Receiver:
    """Read a split until it ends or `stop` is called.

    New -> (`start`) -> Reading <-> Broken (back-off) -> Ended -> (`release`) -> Released. The source stays open
    until the release, so that the last rows can be acknowledged. All that was read is in blocks, and the blocks are
    known to the outlet, before `Listener.ended`. A broken connection (`OSError`) is opened again from the last
    position: at once where it has given something, else after 0.1 s, doubling up to 10 s; what a source raises as
    its own error is final.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        resume: Offset | None,
        generator: BlockGenerator,
        outlet: Outlet,
        clock: Clock,
        listener: Listener,
    ) -> None:
        self._source, self._split, self._resume = source, split, resume
        self._generator, self._outlet, self._clock, self._listener = generator, outlet, clock, listener
        self._lock = threading.Lock()  # the generator, and the order of blocks into the outlet
        self._reader: Reader | None = None
        self._rejects: Callable[[], pa.RecordBatch | None] = _no_rejects
        self._stop = threading.Event()
        self._drain = True
        self._exhausted = self._ended = False
        self._flushes: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name=f"receiver-{split}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, drain: bool = True) -> None:
        """Ask it to end, after it has taken in what the source has at hand (`drain`); returns at once."""
        self._drain = drain
        self._stop.set()

    def release(self, timeout: float | None = None) -> None:
        """Wait for the end, and close the source. A second call does nothing."""
        self._thread.join(timeout)
        self._close()

    def seal(self) -> None:
        """Seal the open block now, from any thread: a batch is due."""
        with self._lock:
            self._put(self._generator.seal())

    def flush(self, done: Callable[[], None]) -> None:
        """Call `done` (from some thread) once all that the source has at hand is in blocks that are known."""
        with self._lock:
            if not self._ended:
                self._flushes.append(done)
                if isinstance(reader := self._reader, SupportsWake):
                    reader.wake()
                return
        self._outlet.after(done)

    def acknowledge(self, offset: Offset) -> None:
        """Tell the source that all up to `offset` is safe; a connection that is broken is not told."""
        if (reader := self._reader) is not None:
            with contextlib.suppress(OSError):
                reader.acknowledge(offset)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self._read_with_backoff():
                pass
        except ArrowStreamError as error:
            self._listener.failed(str(error), fatal=True)
        except BaseException as error:  # a connector's bug, or a native panic, must end the run with its name
            self._listener.failed(f"{type(error).__name__} in {type(self._source).__name__}: {error}", fatal=True)
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            try:
                self._put(self._generator.seal())
            except ArrowStreamError as error:
                self._listener.failed(str(error), fatal=True)
            # First: who waits for all that there is waits for what the end of the split brings, too.
            self._outlet.after(lambda: self._listener.ended(self._exhausted))
            flushes, self._flushes = self._flushes, []
            self._ended = True
        for done in flushes:
            self._outlet.after(done)

    def _read_with_backoff(self) -> bool:
        """Read until the connection breaks after it gave something (True), or the split ends (False)."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OSError),
            wait=tenacity.wait_exponential(multiplier=0.1, max=10.0),
            sleep=tenacity.sleep_using_event(self._stop),
            stop=tenacity.stop_when_event_set(self._stop),
            before_sleep=self._broken,
        )
        try:
            return retrying(self._read)
        except tenacity.RetryError:
            return False

    def _broken(self, state: tenacity.RetryCallState) -> None:
        """There is no connection: say so, and that nothing is at hand."""
        self._listener.failed(str(state.outcome.exception()) if state.outcome is not None else "", fatal=False)
        self._answer(len(self._flushes))

    def _read(self) -> bool:
        progressed = False
        reader = self._source.open(self._split, self._resume)
        self._reader = reader
        # Asked once: it costs as much as a small poll.
        self._rejects = reader.rejects if isinstance(reader, SupportsRejects) else _no_rejects
        try:
            self._listener.started()
            while not self._stop.is_set():
                self._outlet.wait_for_room(self._stop)
                progressed = self._poll(reader, POLL_SECONDS) or progressed
            until = time.monotonic() + DRAIN_SECONDS
            while self._drain and time.monotonic() < until and self._poll(reader, 0):
                pass
        except EndOfStream:
            self._exhausted = True
        except OSError as error:
            self._take(reader, None)
            self._close()
            if not progressed:
                raise
            self._listener.failed(str(error), fatal=False)
            return True
        self._take(reader, None)
        return False

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _poll(self, reader: Reader, longest: float) -> bool:
        due, now = self._generator.due, self._clock.now()
        wait = longest if due is None else min(longest, max(due - now, 0.001))
        asked = len(self._flushes)  # a flush that comes during the poll wants another one
        rows = reader.poll(0 if asked else wait)
        rejected = self._take(reader, rows)
        if rows is None and not rejected:
            self._answer(asked)
        return rows is not None or rejected

    def _answer(self, flushes: int) -> None:
        """All that was at hand is in blocks: seal the open one, and tell the first so many that asked."""
        if not flushes:
            return
        with self._lock:
            self._put(self._generator.seal())
            answered, self._flushes = self._flushes[:flushes], self._flushes[flushes:]
        for done in answered:
            self._outlet.after(done)

    def _take(self, reader: Reader, rows: pa.RecordBatch | Reference | None) -> bool:
        """Put what a poll gave into the generator; says whether there were rejected records."""
        rejects = self._rejects()
        with self._lock:
            now = self._clock.now()
            if rows is not None or rejects is not None:
                position = reader.position()
                self._resume = remembered(self._source, self._resume, position)
                self._put(self._generator.append(rows, rejects, position, now))
            self._put(self._generator.tick(now))
        return rejects is not None

    def _put(self, blocks: list[Block]) -> None:
        for block in blocks:
            self._outlet.put(block)


def _no_rejects() -> None:
    """What a reader rejects that has no notion of it."""
