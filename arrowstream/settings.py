"""What can be set, in small frozen groups, each with its unit and the reason for its default.

Durations that users write are Polars duration strings ("200ms", "10s", "1h30m") or `timedelta`; sizes are
numbers of bytes or strings ("256MB", "1GiB"). Inside, both are plain numbers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from arrowstream.errors import PlanError

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d|w)")
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_duration(value: str | timedelta | float, name: str) -> float:
    """Seconds, of "200ms", `timedelta(seconds=1)` or a number of seconds; never negative.

    Raises `PlanError` naming the argument.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and value and _DURATION.sub("", value) == "":
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(value))
    else:
        raise PlanError(f'{name}={value!r} is no duration; write "200ms", "10s", "1h30m" or a timedelta')
    if not 0 <= seconds < float("inf"):
        raise PlanError(f"{name}={value!r} must not be negative")
    return seconds


def parse_size(value: str | int, name: str) -> int:
    """Bytes, of "256MB", "1GiB" or a number of bytes. Raises `PlanError` naming the argument."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        unit = match[2].upper()
        if unit in _BYTES and (size := int(float(match[1]) * _BYTES[unit])) > 0:
            return size
    raise PlanError(f'{name}={value!r} is no size; write "256MB", "1GiB" or a number of bytes')


@dataclass(frozen=True, slots=True)
class BlockSettings:
    """How receivers cut and keep blocks, per worker.

    interval     seconds after which a block is sealed; a batch that is due seals it sooner
    rows, bytes  a block is sealed sooner at this size: 8 MiB is far above the fixed cost of a block (some
                 0.1 ms) and small enough to spread over workers and to copy in a few milliseconds
    memory       bytes of blocks kept in memory; beyond, the oldest are spilled to disk as Arrow IPC
    backlog      bytes of received blocks not yet worked off at which a worker's receivers wait, so that the
                 sender is slowed down; half of `memory`, as copies for other workers want room too
    spill        where spilled blocks go; None is a folder in the system's temporary directory
    """

    interval: float = 0.2
    rows: int = 1_000_000
    bytes: int = 8 * 2**20
    memory: int = 512 * 10**6
    spill: str | None = None

    @property
    def backlog(self) -> int:
        return max(self.memory // 2, 1)


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How batches are cut.

    interval  seconds from one batch to the next; a batch that takes longer is followed at once
    rows      rows in a batch at most, None for no limit (blocks are never cut: one block may exceed it)
    bytes     bytes of blocks in a batch at most, so that a backlog is worked off in pieces that fit in memory
              several times over (a batch of text may grow tenfold while it is split into words)
    attempts  times a batch is tried when workers or connections are lost, before the run fails
    slow      seconds after which a batch that is still under way is named, with the line of the user's code that it is
              in; again after twice the time, and so on
    stop      seconds that a stop may take which nobody bounded: of a signal, of the end of the program, of
              `stop(graceful=False)`; below the 30 s after which container platforms kill
    """

    interval: float = 1.0
    rows: int | None = None
    bytes: int = 128 * 10**6
    attempts: int = 5
    slow: float = 30.0
    stop: float = 20.0


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Which processes do the work.

    workers      0: inside this process; N: N worker processes on this machine
    replication  on how many workers a block and a change of state must be before it counts as safe
    degraded     what becomes of acknowledgements while fewer workers hold a block: "wait" for the copy or the commit,
                 whichever comes first, so that one more loss loses nothing that was acknowledged; or "go on"
    """

    workers: int = 0
    replication: int = 1
    degraded: Literal["wait", "go on"] = "wait"


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it, as the context has worked it out from its arguments."""

    blocks: BlockSettings = field(default_factory=BlockSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)


WORKERS_VARIABLE = "ARROWSTREAM_WORKERS"
"""Environment variable with the number of workers where the program does not say (`arrowstream run --workers`)."""


def workers_from_environment() -> int:
    """The number of workers that `WORKERS_VARIABLE` gives, else 0. Raises `PlanError`."""
    text = os.environ.get(WORKERS_VARIABLE, "0")
    if not text.isdigit():
        raise PlanError(f"{WORKERS_VARIABLE}={text!r} must be a number of worker processes, such as 2")
    return int(text)


def cluster_settings(
    workers: int, replication: int | None, degraded: Literal["wait", "go on"] = "wait"
) -> ClusterSettings:
    """The group for what the user gave; replication is min(2, workers) where it was not. Raises `PlanError`."""
    if workers < 0:
        raise PlanError(f"workers={workers}: 0 runs inside this process, N starts N worker processes")
    if replication is None:
        replication = min(2, max(workers, 1))
    if replication < 1 or replication > max(workers, 1):
        raise PlanError(f"replication={replication} must be between 1 and the number of workers, {max(workers, 1)}")
    if degraded not in ("wait", "go on"):
        raise PlanError(f'degraded={degraded!r}: "wait" for the missing copy before rows are acknowledged, or "go on"')
    return ClusterSettings(workers, replication, degraded)


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
