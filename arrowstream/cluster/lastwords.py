"""What a worker process was doing when it died: a small file that it writes while it lives, and its driver reads after.

A function that ends the process (`os._exit`, a segmentation fault) leaves no time for a message. So each step is noted
before it begins, in memory that the file shares, and Python writes the lines it was in when a native fault comes.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass
from typing import Final

from arrowstream.ids import UnitId
from arrowstream.usercode import is_users, shown_path

_ROOM: Final = 128
"""Bytes of the note; what Python writes comes after."""

_FRAME = re.compile(r'File "(.+)", line (\d+) in (.+)')

_BY_OTHERS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""Signals that come from outside: an operator, the kernel when memory is short."""


@dataclass(frozen=True, slots=True)
class LastWords:
    """The step that a worker was in when it died, and the line of the user's code, as far as they are known."""

    unit: UnitId
    batch: int
    step: int
    line: str = ""


class Notebook:
    """A worker's side: it says which step begins."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115
        self._memory = mmap.mmap(self._file.fileno(), _ROOM)
        self._file.seek(_ROOM)
        faulthandler.enable(self._file, all_threads=False)

    def note(self, unit: str, batch: int, step: int) -> None:
        """This step begins; a unit of "" says that none is under way."""
        self._memory[:_ROOM] = f"{unit} {batch} {step}".encode().ljust(_ROOM)[:_ROOM]


def new_notebook() -> str:
    """The path of an empty one, made by the driver."""
    handle, path = tempfile.mkstemp(prefix="arrowstream-worker-")
    with os.fdopen(handle, "wb") as file:
        file.write(b" " * _ROOM)
    return path


def last_words(path: str) -> LastWords | None:
    """What the notebook of a worker that died says; None where it was in no step. The file is gone then."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        os.unlink(path)
    note = data[:_ROOM].decode(errors="replace").split()
    if len(note) != 3:
        return None
    line = ""
    for file_name, number, function in _FRAME.findall(data[_ROOM:].decode(errors="replace")):
        if is_users(file_name):
            line = f"{shown_path(file_name)}:{number} in {function}"
            break
    return LastWords(UnitId(note[0]), int(note[1]), int(note[2]), line)


def by_itself(code: int | None) -> bool:
    """Whether a process with this exit code has ended by what it did, and not by a signal from outside."""
    return code is not None and -code not in _BY_OTHERS


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def die_with_parent(yes: bool) -> None:
    """Have the kernel end this process when the thread that started it does: for as long as a function of the user
    may hold the interpreter, so that nothing here could notice. Linux only."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if yes else 0)


_PR_SET_PDEATHSIG: Final = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
