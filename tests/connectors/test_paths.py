"""Paths that users give to sources and sinks."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

import arrowstream as ars
from arrowstream.connectors.paths import local_path
from arrowstream.errors import PlanError


@pytest.mark.parametrize(
    "address", ["s3://bucket/in", "gs://b/*.csv", "abfss://c@a/x", "https://h/a.parquet", "S3://b"]
)
def test_an_address_elsewhere_is_refused_at_the_line(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would become a local folder called `s3:`, and the stream would wait there for ever."""
    monkeypatch.chdir(tmp_path)
    scheme = address.split(":")[0].lower()
    said = rf"cannot take .*not {scheme}://. Mount the store"
    ctx = ars.StreamingContext()
    frame = ctx.read.memory({"n": pl.Int64})
    for path in (address, Path(address)):
        for read in (ctx.read.parquet, ctx.read.csv, ctx.read.ndjson, ctx.read.ipc):
            with pytest.raises(PlanError, match=said):
                read(path, schema={"n": pl.Int64})
        with pytest.raises(PlanError, match=said):
            frame.write.parquet(path)
        with pytest.raises(PlanError, match=said):
            frame.write.duckdb(path, "t")
    assert os.listdir(tmp_path) == []


def test_what_is_a_path_of_this_machine_is_taken() -> None:
    home = os.path.expanduser("~")
    assert local_path("~/in", "x") == f"{home}/in"
    assert local_path("file:///a/b%20c", "x") == "/a/b c"
    assert local_path("file://localhost/a", "x") == "/a"
    assert local_path("a:b/c=d", "x") == "a:b/c=d"
    assert local_path(Path("a") / "b", "x") == "a/b"
    with pytest.raises(PlanError, match="a file of elsewhere"):
        local_path("file://elsewhere/a", "x")
