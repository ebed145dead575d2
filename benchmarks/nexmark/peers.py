"""One measurement of one engine, in a process of its own: a line of JSON with its seconds.

    python -m benchmarks.nexmark.peers polars q5 DIR

The engine is loaded and has answered a trifle before the clock starts; the result is made in full, in Arrow's form.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.nexmark.runner import count_events


def by_polars(query: str, data: Path) -> Callable[[], int]:
    """The streaming engine, which was the faster one of Polars' two over most queries."""
    import polars as pl

    from benchmarks.nexmark.batch import by_polars

    pl.LazyFrame({"a": [1]}).select(pl.col("a").sum()).collect(engine="streaming")
    return lambda: by_polars(query, data).collect(engine="streaming").height


def by_polars_in_memory(query: str, data: Path) -> Callable[[], int]:
    import polars as pl

    from benchmarks.nexmark.batch import by_polars

    pl.LazyFrame({"a": [1]}).select(pl.col("a").sum()).collect(engine="in-memory")
    return lambda: by_polars(query, data).collect(engine="in-memory").height


def by_duckdb(query: str, data: Path) -> Callable[[], int]:
    from benchmarks.nexmark.batch import SQL, connect

    connection = connect(data)
    connection.sql("SELECT 1").to_arrow_table()
    return lambda: int(connection.sql(SQL[query]).to_arrow_table().num_rows)


ENGINES = {"polars": by_polars, "polars_in_memory": by_polars_in_memory, "duckdb": by_duckdb}


def main() -> None:
    engine, query, data = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    events = count_events(query, data)
    go = ENGINES[engine](query, data)
    began = time.perf_counter()
    rows = go()
    seconds = time.perf_counter() - began
    found = {"engine": engine, "query": query, "events": events, "seconds": seconds, "rows": rows}
    print(json.dumps(found | {"events_per_second": round(events / seconds)}), flush=True)


if __name__ == "__main__":
    main()
