"""What holds for every test: determinism, and nothing left behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "arrowstream",
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.register_profile("hunt", parent=settings.get_profile("arrowstream"), derandomize=False)
settings.load_profile("arrowstream")

# Whoever starts the tests in the background of a shell script has Ctrl-C ignored, and every child inherits that: the
# tests that press it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

OURS = ("receiver-", "driver-", "replication", "events-", "tasks")
"""Names of the engine's threads, which are daemons: they must not outlive their context all the same."""

GRACE_SECONDS = 5.0
"""A thread that was told to end may need a moment, on a machine that does other things too."""


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon or thread.name.startswith(OURS)}


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """A thread or process that a test leaves running fails it."""
    threads, children = _threads(), _children()
    yield
    until = time.monotonic() + GRACE_SECONDS
    while (left := (_threads() - threads) | (_children() - children)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left, f"left running: {left}"
