"""Whose code a line is: the user's own, or a library's.

An error of a user's function is found by the line of the user's own code that it came from, and not by the last line of
some library that this line called.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent) + os.sep
_LIBRARIES = tuple(
    {
        *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        _PACKAGE,
        *(str(Path(_PACKAGE).parent / folder) + os.sep for folder in ("sinks", "sources") if "site-" not in _PACKAGE),
        "<frozen ",
    }
)


def is_users(filename: str) -> bool:
    """Whether a code object's file is the user's own: neither this package's, nor Python's, nor an installed one."""
    return not filename.startswith(_LIBRARIES) and "site-packages" not in filename


def line_of(error: BaseException) -> str:
    """Where in the user's own code an error came from, as `file:line in function`; empty where none of it was running.

    Of several frames of theirs the innermost, which called the library that raised, or raised itself.
    """
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        if line := _innermost(at.__traceback__):
            return line
        at = at.__cause__ or at.__context__
    return ""


def _innermost(trace: TracebackType | None) -> str:
    found = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_users(code.co_filename):
            found = _text(code.co_filename, trace.tb_lineno, code.co_name)
        trace = trace.tb_next
    return found


def told_trace(error: BaseException) -> str:
    """The traceback of an error from the first line of the user's own code on, as text; empty where there is none."""
    trace = error.__traceback__
    while trace is not None and not is_users(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_tb(trace)).rstrip() if trace is not None else ""


def point_at(error: BaseException, rows: Any) -> None:
    """Note with which rows a function of the user was called when it raised this error."""
    with contextlib.suppress(AttributeError):
        error._rows_at_fault = rows  # type: ignore[attr-defined]


def rows_pointed_at(error: BaseException) -> Any:
    """The rows of `point_at`; None where nobody has."""
    return getattr(error, "_rows_at_fault", None)


def running_line(threads: Iterable[int | None] = ()) -> str:
    """The line of the user's own code that one of these threads (by `Thread.ident`) is in now, or that a thread is in
    which no Python code has started: native libraries call functions from such. Empty where there is none."""
    frames = sys._current_frames()
    known = {thread.ident for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)}
    named = [ident for ident in threads if ident in frames]
    for ident in [*named, *(ident for ident in frames if ident not in known and ident not in named)]:
        frame: FrameType | None = frames[ident]
        while frame is not None:
            if is_users(frame.f_code.co_filename):
                return _text(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
            frame = frame.f_back
    return ""


def calling_line() -> str:
    """`file:line` of the user's own code that is being run by this thread: where a call of the SDK was written."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return f"{shown_path(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def shown_path(filename: str) -> str:
    """A path as people write it: from the working directory on, where it lies below."""
    here = os.getcwd() + os.sep
    return filename.removeprefix(here)


def _text(filename: str, line: int, function: str) -> str:
    where = f"{shown_path(filename)}:{line}"
    return where if function == "<module>" else f"{where} in {function}"
