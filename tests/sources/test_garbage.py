"""Files of garbage, cut off, or mixed up: rows, rejects or an error of ours, never a panic, a bare error or a hang."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arrowstream.connectors.source import EndOfStream
from arrowstream.errors import ArrowStreamError, SourceError
from arrowstream.sources.files import FileSource

ROWS = pl.DataFrame({"i": range(60), "s": [f"x{n % 7}" for n in range(60)], "l": [[n] * (n % 3) for n in range(60)]})
FLAT = ROWS.drop("l")


def blobs(directory: Path) -> dict[str, bytes]:
    ROWS.write_parquet(directory / "whole", row_group_size=20)
    parquet = (directory / "whole").read_bytes()
    ROWS.write_ipc(directory / "whole")
    texts = {
        "csv": FLAT.write_csv(),
        "ndjson": ROWS.write_ndjson(),
        "json": ROWS.write_json(),
        "text": FLAT.write_csv(),
    }
    return {
        "parquet": parquet,
        "ipc": (directory / "whole").read_bytes(),
        **{name: text.encode() for name, text in texts.items()},
    }


def spoiled(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    if kind == 1:
        return chance.randbytes(chance.choice([1, 3, 20, 500]))
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 10])):
        place = chance.randrange(len(found))
        found[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    return bytes(found)


def read(path: Path, format: str, **options: Any) -> None:
    """Read a file to its end, or to an error of ours."""
    try:
        source = FileSource(path, format, **options).bounded()
        reader = source.open("files-0", None)
    except ArrowStreamError:
        return
    try:
        for _ in range(1000):
            reader.poll(0)
            reader.rejects()  # type: ignore[attr-defined]
    except (EndOfStream, ArrowStreamError):
        return
    finally:
        reader.close()
    pytest.fail("it never ends")


@pytest.mark.parametrize("format", ["parquet", "ipc", "csv", "ndjson", "json", "text"])
def test_garbage_is_never_more_than_a_refusal(tmp_path: Path, format: str) -> None:
    chance = random.Random(format)
    whole = blobs(tmp_path)
    for number in range(60):
        path = tmp_path / f"{number}.{format}"
        path.write_bytes(spoiled(whole[chance.choice([format, format, format, *whole])], chance))
        options: dict[str, Any] = {"bad_files": chance.choice(["fail", "dead_letter"])}
        if format != "text" and chance.random() < 0.5:
            options["schema"] = (FLAT if format == "csv" else ROWS).schema
        if format != "text" and chance.random() < 0.5:
            options["new_columns"] = chance.choice(["rescue", "fail"])
        if format == "csv":
            options["has_header"] = chance.random() < 0.5
        if format not in ("parquet", "ipc") and chance.random() < 0.2:
            options["encoding"] = chance.choice(["utf-16", "latin-1", "utf8-lossy"])
        read(path, format, **options)


UNION = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
LACKING: dict[str, pa.Array] = {
    "union": UNION,
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1])),
    "interval": pa.array([(1, 2, 3)] * 2, pa.month_day_nano_interval()),
    "wide decimal": pa.array([1, 2]).cast(pa.decimal256(50, 2)),
    "offset": pa.array([1, 2], pa.timestamp("us", "+05:30")),
    "view": pa.array([[1], [2]], pa.list_view(pa.int64())),
    "inner": pa.StructArray.from_arrays([UNION], ["u"]),
}


@pytest.mark.parametrize("name", list(LACKING))
def test_a_sound_file_of_types_that_polars_lacks_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    """Other writers' files. The column and the type are named; nothing panics on the way."""
    table = pa.table({"n": [1, 2], name: LACKING[name]})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(SourceError, match=rf"cannot be read: its column '{name}' has .*Polars has no type"):
        FileSource(tmp_path / "a.arrow")


def test_names_given_twice_are_named(tmp_path: Path) -> None:
    table = pa.table([[1], [2]], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(SourceError, match=rf"{name} has 2 columns of the name 'a'"):
            FileSource(tmp_path / name)
