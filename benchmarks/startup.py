"""What it costs to begin: importing the package, and the first result of the word count."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import median, row

ENGINES = "import polars, pyarrow, duckdb"
OURS = "import arrowstream"
FRONT_DOOR = "import arrowstream; arrowstream.StreamingContext, arrowstream.connect"
EXAMPLE = Path(__file__).parent.parent / "examples" / "wordcount.py"


def seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def first_result() -> float:
    """Seconds from the start of the word count's process to its first batch."""
    started = time.perf_counter()
    process = subprocess.run([sys.executable, str(EXAMPLE), "--until-first-batch"], check=True, capture_output=True)
    assert b"first batch" in process.stdout, process.stdout
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    runs = 3 if parser.parse_args(arguments).quick else 9
    times: dict[str, list[float]] = {code: [] for code in ("pass", ENGINES, OURS, FRONT_DOOR)}
    for _ in range(runs + 1):  # the first round fills the page cache, and is dropped
        for code, each in times.items():
            each.append(seconds(code))
    engines, ours, door = (median(times[code][1:]) for code in (ENGINES, OURS, FRONT_DOOR))
    row("python -c pass", f"{median(times['pass'][1:]) * 1000:.0f} ms")
    row("import polars, pyarrow, duckdb", f"{engines * 1000:.0f} ms")
    row("import arrowstream", f"{ours / engines:.2f} x", "at most 1.3 x", ours <= 1.3 * engines)
    row(
        "import arrowstream with all that start() needs",
        f"{door / engines:.2f} x",
        "at most 1.3 x",
        door <= 1.3 * engines,
    )
    first = median([first_result() for _ in range(max(3, runs // 2))])
    row("first result of the word count, from process start", f"{first:.2f} s", "at most 2 s", first <= 2)


if __name__ == "__main__":
    main()
