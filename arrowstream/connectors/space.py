"""A disk that is full: the work waits until there is room, says so, and nothing is lost."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

log = logging.getLogger("arrowstream")

T = TypeVar("T")

PAUSE: Final = 0.25
"""Seconds from one try to the next."""

SAID_EVERY: Final = 30.0
"""Seconds after which it is said again that a disk is full."""


def with_space(path: Path, write: Callable[[], T], size: int = 0, *, over: threading.Event | None = None) -> T:
    """What `write` gives, which makes or extends the file at `path`; tried again for as long as the disk is full.

    `write` must leave nothing behind that spoils the next try; what it has begun at `path` counts as its own. `size` is
    about how many bytes it needs, for the message. Once `over` is set, the error of a full disk is raised. Other errors
    are raised at once.
    """
    waited, over = 0.0, over or threading.Event()
    while True:
        try:
            return write()
        except OSError as error:
            if not is_full(error) or over.is_set():
                raise
            if waited % SAID_EVERY == 0:
                log.warning("%s", _said(path, size))
        waited += PAUSE
        over.wait(PAUSE)


def is_full(error: OSError) -> bool:
    """Whether a disk, or a quota, is exhausted."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _said(path: Path, size: int) -> str:
    folder = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    needed = f"{size / 1e6:,.1f} MB are to be written and " if size else ""
    missing = f" (about {max(size - free, 1) / 1e6:,.1f} MB are missing)" if size > free else ""
    return (
        f"the disk of {os.fspath(path)!r} is full: {needed}{free / 1e6:,.1f} MB are free{missing}; "
        "waiting until there is room, and nothing is lost"
    )
