"""The contexts that run in this process, and what ends them all: Ctrl-C, signals, the end of the program."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Final, Protocol

from arrowstream.errors import ArrowStreamError, ContextError

log = logging.getLogger("arrowstream")


class Context(Protocol):
    """A context, as far as ending it goes."""

    name: str

    @property
    def error(self) -> ArrowStreamError | None: ...

    @property
    def stop_timeout(self) -> float: ...

    def stop(self, *, graceful: bool = True, timeout: float | None = None) -> None: ...

    def kill_workers(self) -> None: ...


_lock = threading.RLock()
_running: list[Context] = []

STOPPING: Final = "stopping: finishing what has arrived (Ctrl-C again to leave at once)"

FLUSH_SECONDS: Final = 0.5
"""How long a process that leaves at once waits for what it has printed to be taken."""

LAST_SECONDS: Final = 5.0
"""How long a program may take to end by itself after a signal has stopped its contexts."""


def contexts() -> list[Context]:
    """The contexts of this process that have been started and not stopped, the oldest first; also those that have
    failed and whose error nobody has been told yet."""
    with _lock:
        return list(_running)


def stop_all(*, graceful: bool = True, timeout: float | None = None) -> None:
    """Stop every context that runs in this process, each as `ctx.stop` does; what went wrong is logged."""
    for context in contexts():
        _stop(context, graceful, timeout)


def entered(context: Context) -> None:
    """A context has started."""
    with _lock:
        _running.append(context)
    _signals.hear()


def left(context: Context) -> None:
    """A context has stopped. A second call does nothing."""
    with _lock:
        if context in _running:
            _running.remove(context)
        none = not _running
    if none:
        _signals.forget()


def replace_older(context: Context) -> None:
    """In an interactive session: stop contexts of the same name, which a cell that was run again has left running."""
    if not interactive():
        return
    for other in contexts():
        if other is not context and other.name == context.name:
            log.warning(
                "context %r was running still and is stopped, as another of this name starts; "
                "give each a name of its own to run both",
                other.name,
            )
            _stop(other, True, other.stop_timeout)


def interactive() -> bool:
    """Whether somebody types: a notebook, IPython, Python's own prompt. Nothing may end such a process for them."""
    if hasattr(sys, "ps1") or sys.flags.interactive:
        return True
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def leave_if_told() -> None:
    """Raise `SystemExit` in the main thread where a signal has stopped the contexts; they are given time to end."""
    _signals.leave_if_told()


def say_stopping() -> None:
    """That Ctrl-C has been heard, where no handler of ours has said it."""
    _signals.say_stopping()


def say(text: str) -> None:
    """A line on standard error, also from a handler of signals."""
    newline = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""  # the terminal has shown ^C
    try:
        print(f"{newline}{text}", file=sys.stderr, flush=True)
    except (RuntimeError, OSError, ValueError):  # in the middle of another print; a terminal that is gone
        with contextlib.suppress(OSError):
            os.write(2, f"{newline}{text}\n".encode())


MAIN_SECONDS: Final = 0.2
"""How long a main thread that waits for a context has to notice that a signal has stopped it."""


def _stop(context: Context, graceful: bool, timeout: float | None) -> None:
    try:
        context.stop(graceful=graceful, timeout=timeout)
    except ContextError as error:
        log.error("context %r was not stopped: %s", context.name, error)
    except (ArrowStreamError, TimeoutError):
        """The run has said so when it failed."""


class _Signals:
    """Ctrl-C, SIGTERM and SIGHUP, for as long as contexts run.

    Handlers are set by the main thread alone, only in the place of the default ones (a program's own handlers stay),
    and given back when no context runs. The first signal has what arrived finished, the second leaves at once: Ctrl-C
    raises `KeyboardInterrupt` in the main thread as ever, SIGTERM and SIGHUP stop all contexts within their
    `stop_timeout` and then raise `SystemExit`. A notebook deals with Ctrl-C itself.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._first: int | None = None
        self._stopping: threading.Thread | None = None
        self._stopped, self._main_told = threading.Event(), threading.Event()

    def hear(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and number not in self._before and signal.getsignal(number) is signal.SIG_DFL:
                self._before[number] = signal.signal(number, self._terminated)
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler and not interactive():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupted)
        elif before is not None:
            # Polars has a handler of its own, before Python's, which ends every query of the process, also the engine's
            # in the middle of a batch. To set Python's once more puts it in the place of Polars'.
            signal.signal(signal.SIGINT, before)

    def forget(self) -> None:
        """Give the handlers back; but not while the process is on its way out by a signal."""
        if threading.current_thread() is not threading.main_thread() or self._stopping is not None:
            return
        self._first = None
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) in (self._interrupted, self._terminated):
                signal.signal(number, before)

    def leave_if_told(self) -> None:
        if self._stopping is None or threading.current_thread() is not threading.main_thread():
            return
        self._stopped.wait()
        self._main_told.set()
        raise SystemExit(128 + (self._first or 0))

    def say_stopping(self) -> None:
        """That Ctrl-C has been heard, where no handler of ours has said it."""
        if self._first is None:
            say(STOPPING)

    @property
    def heard(self) -> bool:
        """Whether a signal ends the program."""
        return self._first is not None

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if not contexts():
            self._first = None
            signal.default_int_handler(number, frame)
        if self._first is not None:
            leave_at_once(128 + number)
        self._first = number  # before anything is said: the second one may come in the middle of that
        say(STOPPING)
        raise KeyboardInterrupt

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        if self._stopped.is_set() and not self._main_told.is_set():
            self._main_told.set()
            raise SystemExit(128 + (self._first or number))
        if self._first is not None:
            leave_at_once(128 + number)
        if not contexts():  # all ended while another thread looked on, which could not give the handler back
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._first = number
        bound = max(context.stop_timeout for context in contexts())
        name = signal.Signals(number).name
        say(f"{name}, stopping: finishing what has arrived, for at most {bound:g} s (once more to leave at once)")
        self._stopping = threading.Thread(target=self._stop, args=(number, bound), name="stopping", daemon=True)
        self._stopping.start()

    def _stop(self, number: int, bound: float) -> None:
        """Stop all contexts, then have the main thread end the program, and end it where that takes long."""
        until = time.monotonic() + bound
        for context in contexts():
            _stop(context, True, max(0.0, until - time.monotonic()))
        self._stopped.set()
        if not self._main_told.wait(MAIN_SECONDS):
            os.kill(os.getpid(), number)
        time.sleep(LAST_SECONDS)
        leave_at_once(128 + number)


def leave_at_once(code: int) -> None:
    """End the process and its workers now, whatever any thread does."""
    for context in contexts():
        with contextlib.suppress(Exception):
            context.kill_workers()
    flushing = threading.Thread(target=_flush, daemon=True)
    with contextlib.suppress(RuntimeError):
        flushing.start()
        flushing.join(FLUSH_SECONDS)  # a pipe that nobody reads takes nothing
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


_signals = _Signals()


@atexit.register
def _stop_at_exit() -> None:
    """A program that ends while a context runs: finish what has arrived, rather than lose it, for as long as
    `stop_timeout`. One that ends without having heard of a failure does not end with code 0."""
    failed = False
    for context in contexts():
        if context.error is not None:
            log.error("the program ended, and context %r had failed: %s", context.name, context.error)
            failed = True
            _quietly_stop(context)
            continue
        if not _signals.heard:
            log.warning(
                "the program ended while context %r was running; what has arrived is finished. "
                "Call ctx.await_termination() or ctx.stop() at its end",
                context.name,
            )
        try:
            context.stop(timeout=context.stop_timeout)
        except (ArrowStreamError, TimeoutError):  # the run has said so when it failed
            failed = True
    if failed and not interactive():
        logging.shutdown()
        _flush()
        os._exit(1)  # Python has no other way to change the code by now


def _quietly_stop(context: Context) -> None:
    with contextlib.suppress(ArrowStreamError, TimeoutError):
        context.stop(graceful=False)
