"""A gate in the file system, at which a function on any worker waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl


class Gate:
    """`hold(frame)` says that it is there, and returns the frame once the gate is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "waiting").mkdir(parents=True)

    def holder(self) -> Callable[[pl.DataFrame], pl.DataFrame]:
        folder = self._folder

        def hold(frame: pl.DataFrame) -> pl.DataFrame:
            if frame.height:
                import os
                import time

                (folder / "waiting" / str(os.getpid())).touch()
                while not (folder / "open").exists():
                    time.sleep(0.002)
            return frame

        return hold

    def wait_for_somebody(self, timeout: float = 30.0) -> int:
        """Wait until a function waits at the gate; the process it is in."""
        until = time.monotonic() + timeout
        while not (waiting := list((self._folder / "waiting").iterdir())):
            assert time.monotonic() < until, "nobody came to the gate"
            time.sleep(0.002)
        return int(waiting[0].name)

    def open(self) -> None:
        """Let everybody through, now and later."""
        (self._folder / "open").touch()

    def close(self) -> None:
        """Hold those who come from now on, and forget who was there before."""
        (self._folder / "open").unlink()
        for waiting in (self._folder / "waiting").iterdir():
            waiting.unlink()
