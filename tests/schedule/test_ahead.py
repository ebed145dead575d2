"""Blocks that go through stage 0 before their batch comes give what they would have given in it."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lawful import assert_same_rows

import arrowstream as ars
from arrowstream.schedule.ahead import ReadAhead
from arrowstream.sources._columnar import read_footer
from arrowstream.sources.files import FileSource

SCHEMA = pl.Schema({"at": pl.Datetime("ms"), "key": pl.Int64(), "value": pl.Int64()})
DAY = dt.datetime(2026, 3, 1)

rows = st.lists(
    st.tuples(st.none() | st.integers(0, 200), st.integers(0, 2), st.integers(-9, 9)), min_size=4, max_size=4
)


def written(folder: Path, files: list[list[tuple[int | None, int, int]]]) -> Path:
    """A file for each list of (second, key, value), in order."""
    folder.mkdir()
    for number, each in enumerate(files):
        table = [
            (None if second is None else DAY + dt.timedelta(seconds=second), key, value) for second, key, value in each
        ]
        pl.DataFrame(table, schema=SCHEMA, orient="row").write_parquet(folder / f"{number:03}.parquet")
        # Files are read by their time, and these come too quickly for it.
        os.utime(folder / f"{number:03}.parquet", (number + 1, number + 1))
    return folder


def outcome(folder: Path) -> dict[str, pl.DataFrame]:
    """What a run over the files gives, a file of four rows a batch: windows, sums, dead letters."""
    with ars.StreamingContext("1ms") as ctx:
        source = FileSource(folder, "parquet", SCHEMA, watch=False, max_rows_per_batch=4)
        timed = ctx.read.open(source, name="rows").with_watermark("at", "10s")
        timed.group_by_dynamic("at", every="20s", group_by="key").agg(pl.col("value").sum()).write.memory("windows")
        timed.filter(pl.col("value") > 0).group_by("key").agg(pl.len(), pl.col("value").sum()).write.memory("sums")
        ctx.run(timeout=60)
        found = {name: ctx.sql(f"FROM {name}").pl() for name in ("windows", "sums")}
        letters = ctx.dead_letters.pl()
        return found | {"letters": letters.select("reason", "raw", "watermark", "window_start")}


@given(files=st.lists(rows, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_ahead_changes_nothing(
    files: list[list[tuple[int | None, int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows of every file may be late for what the files before it have closed, or have no time: the ones that were run
    ahead are then run again."""
    folder = written(tmp_path_factory.mktemp("rows") / "files", files)
    ahead = outcome(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadAhead, "possible", staticmethod(lambda partition: False))
        plain = outcome(folder)
    for name, frame in ahead.items():
        assert_same_rows(frame, plain[name])


def test_times_are_told_by_the_files(tmp_path: Path) -> None:
    """A footer knows the lowest and the highest time, so nothing is read for it; not where a time is null."""
    folder = written(tmp_path / "files", [[(5, 0, 1), (90, 1, 2)], [(None, 0, 1), (7, 1, 2)]])
    known = [read_footer(str(folder / name), "parquet") for name in ("000.parquet", "001.parquet")]
    low, high = known[0].ranges_of(0, 2)["at"]
    times = pl.Series([low, high]).cast(pl.Datetime("ms")).to_list()
    assert times == [DAY + dt.timedelta(seconds=5), DAY + dt.timedelta(seconds=90)]
    assert known[0].ranges_of(0, 1) == {}, "of a part of a row group nothing is known"
    assert set(known[1].ranges_of(0, 2)) == {"key", "value"}


def test_several_splits_of_one_batch_are_merged(tmp_path: Path) -> None:
    """Each split goes through stage 0 alone, for its own watermark; a key has rows in both."""
    folder = written(tmp_path / "files", [[(second, second % 3, 1)] for second in range(40)])
    with ars.StreamingContext("1h") as ctx:
        timed = ctx.read.parquet(folder, splits=2).with_watermark("at", "10s")
        timed.group_by("key").agg(pl.len(), pl.col("value").n_unique().alias("values")).write.memory("sums")
        ctx.run(timeout=60)
        found = ctx.sql("FROM sums ORDER BY key").pl()
    assert found.rows() == [(0, 14, 1), (1, 13, 1), (2, 13, 1)]
