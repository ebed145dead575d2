"""All benchmarks, one after the other: `python -m benchmarks [NAME ...] [--quick]`."""

from __future__ import annotations

import importlib
import sys
import time

NAMES = ("startup", "batch_overhead", "socket_throughput", "running_count", "replication", "latency")


def main() -> None:
    quick = "--quick" in sys.argv
    chosen = [name for name in sys.argv[1:] if not name.startswith("-")] or NAMES
    for name in chosen:
        started = time.monotonic()
        print(f"\n== {name}", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        module.main(["--quick"] if quick else [])
        print(f"   ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
