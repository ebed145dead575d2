"""Files of NEXMark's streams and of the Yahoo benchmark's: the same for the same arguments.

DIR/{person,auction,bid}/part-*.parquet     cut at the same event numbers, in order of arrival
DIR/side_input.parquet                      10,000 rows: key, value
DIR/ysb/part-*.parquet, DIR/ysb_campaigns.parquet
DIR/meta.json                               how they were made
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from arrowstream.sources._nexmark import SHARE, START_MS, Generator, random_bits
from arrowstream.sources._texts import Numbers

STREAMS = tuple(SHARE)

ADS_A_CAMPAIGN = 10
CAMPAIGNS = 100
USERS = PAGES = 100
SIDE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """What to write: `events` at `rate` a second of event time, `rows_per_file` events a file.

    With `disorder` (seconds) an event arrives up to so much later than it happened, after events of after it.
    `start_ms` is the time of the first event.
    """

    events: int = 1_000_000
    rate: float = 10_000
    rows_per_file: int = 100_000
    seed: int = 42
    disorder: float = 0.0
    start_ms: int = START_MS

    @property
    def files(self) -> int:
        return -(-self.events // self.rows_per_file)

    def write(self, directory: Path) -> None:
        """Write all of it below `directory`, in place of what there was of it."""
        generator = Generator(self.seed, self.rate, self.start_ms)
        for name in (*STREAMS, "ysb"):
            shutil.rmtree(directory / name, ignore_errors=True)
            (directory / name).mkdir(parents=True)
        for number, (first, stop, arrived) in enumerate(self._files()):
            for name in STREAMS:
                frame = generator.frame(name, first, stop)
                if arrived is not None:
                    frame = _in_order_of_arrival(frame, arrived)
                _write(frame, directory / name / f"part-{number:05}.parquet")
            frame = _ysb_events(self.seed, generator, first, stop)
            if arrived is not None:
                frame = _in_order_of_arrival(frame, arrived)
            _write(frame, directory / "ysb" / f"part-{number:05}.parquet")
        _write(side_input(), directory / "side_input.parquet")
        _write(ysb_campaigns(self.seed), directory / "ysb_campaigns.parquet")
        (directory / "meta.json").write_text(json.dumps(asdict(self)) + "\n")

    def _files(self) -> Iterator[tuple[int, int, tuple[int, int, npt.NDArray[np.int64]] | None]]:
        """For each file the range of events it takes from, and when those arrive where that is not their order."""
        late = int(self.disorder * self.rate)
        for place in range(0, self.events, self.rows_per_file):
            stop = min(place + self.rows_per_file, self.events)
            if not late:
                yield place, stop, None
                continue
            first = max(place - late, 0)
            numbers = np.arange(first, stop, dtype=np.int64)
            # What would arrive after the last file arrives with it.
            arrival = np.minimum(numbers + _delays(self.seed, numbers, late), self.events - 1)
            yield first, stop, (place, stop, arrival)


def _in_order_of_arrival(frame: pl.DataFrame, arrived: tuple[int, int, npt.NDArray[np.int64]]) -> pl.DataFrame:
    """The rows that arrive in a file: those of which the place of arrival is in its range, ordered by it."""
    start, stop, arrival = arrived
    seq = frame["seq"].to_numpy()
    place = arrival[seq - (stop - len(arrival))]
    mine = (place >= start) & (place < stop)
    order = np.lexsort((seq[mine], place[mine]))
    return frame.filter(pl.Series(mine))[order]


def _delays(seed: int, numbers: Numbers, most: int) -> Numbers:
    """By how many places each event comes late: less than `most`, and a function of its number."""
    return (random_bits(seed, "delay", numbers) % np.uint64(most)).astype(np.int64)


def side_input() -> pl.DataFrame:
    """The table that q13 joins with."""
    key = pl.int_range(SIDE_ROWS, dtype=pl.Int64, eager=True)
    return pl.DataFrame({"key": key, "value": key.cast(pl.String)})


def ysb_campaigns(seed: int) -> pl.DataFrame:
    """Which campaign each advertisement belongs to."""
    campaigns = _identifiers(seed, "campaign", CAMPAIGNS)
    ads = _identifiers(seed, "ad", CAMPAIGNS * ADS_A_CAMPAIGN)
    place = np.arange(len(ads)) // ADS_A_CAMPAIGN
    return pl.DataFrame({"ad_id": ads, "campaign_id": campaigns[place]})


def _ysb_events(seed: int, generator: Generator, first: int, stop: int) -> pl.DataFrame:
    numbers = np.arange(first, stop, dtype=np.int64)

    def pick(values: pl.Series, purpose: str) -> pl.Series:
        return values[(random_bits(seed, f"ysb {purpose}", numbers) % np.uint64(len(values))).astype(np.int64)]

    return pl.DataFrame(
        {
            "user_id": pick(_identifiers(seed, "user", USERS), "user"),
            "page_id": pick(_identifiers(seed, "page", PAGES), "page"),
            "ad_id": pick(_identifiers(seed, "ad", CAMPAIGNS * ADS_A_CAMPAIGN), "ad"),
            "ad_type": pick(pl.Series(["banner", "modal", "sponsored-search", "mail", "mobile"]), "ad type"),
            "event_type": pick(pl.Series(["view", "click", "purchase"]), "event type"),
            "event_time": pl.Series(generator.time_ms(numbers)).cast(pl.Datetime("ms")),
            "ip_address": pl.repeat("1.2.3.4", len(numbers), dtype=pl.String, eager=True),
            "seq": numbers,
        }
    )


def _identifiers(seed: int, purpose: str, count: int) -> pl.Series:
    """So many identifiers of 36 letters each, as the original has them."""
    random = np.random.default_rng([seed, *purpose.encode()])
    words = [random.bytes(16).hex() for _ in range(count)]
    return pl.Series([f"{w[:8]}-{w[8:12]}-{w[12:16]}-{w[16:20]}-{w[20:]}" for w in words])


def _write(frame: pl.DataFrame, path: Path) -> None:
    """One row group a file; plain Parquet types, as any engine would write them."""
    table: pa.Table = frame.to_arrow(compat_level=pl.CompatLevel.newest())
    hidden = path.with_name(f".{path.name}")
    pq.write_table(table, hidden, store_schema=False)
    os.replace(hidden, path)
