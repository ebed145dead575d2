"""What becomes of files that are not whole, damaged, replaced, moved or gone; and the columns that tell of them."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import arrowstream as ars
from arrowstream.connectors.source import Offset, Reader
from arrowstream.errors import SourceError
from arrowstream.sources.files import FileSource
from arrowstream.testing.source_suite import polled, reading
from tests.sources.test_files import frame, in_order_of_age, numbers, rejects, write

SCHEMA = {"n": pl.Int64, "name": pl.String}
SUFFIXES = ["parquet", "arrow", "ndjson", "csv", "ndjson.gz", "csv.zst"]
_FORMATS = {"parquet": "parquet", "arrow": "ipc", "ndjson": "ndjson", "csv": "csv"}


def source_of(path: Path, suffix: str, **options: Any) -> FileSource:
    return FileSource(path, _FORMATS[suffix.split(".")[0]], SCHEMA, poll_interval="1ms", **options)


def content(rows: pl.DataFrame, suffix: str, scratch: Path) -> bytes:
    """The bytes of a file of this kind."""
    path = scratch / f"x.{suffix.removesuffix('.zst')}"
    write(rows, path)
    data = path.read_bytes()
    path.unlink()
    if suffix.endswith(".zst"):
        buffer = pa.BufferOutputStream()
        with pa.CompressedOutputStream(buffer, "zstd") as stream:
            stream.write(data)
        data = buffer.getvalue().to_pybytes()
    return data


def come(path: Path, data: bytes) -> None:
    """A file comes as it should: whole, by renaming."""
    path.with_name(f".{path.name}").write_bytes(data)
    path.with_name(f".{path.name}").rename(path)


def silent(reader: Reader, polls: int = 3) -> list[dict[str, Any]]:
    """Polls that look at the directory each, and give nothing; what they refuse."""
    found = []
    for _ in range(polls):
        assert reader.poll(0.005) is None
        found += rejects(reader)
    return found


class TestNotWhole:
    @pytest.mark.parametrize("suffix", ["parquet", "arrow", "ndjson.gz", "csv.zst"])
    def test_it_is_waited_for_while_others_are_read(self, tmp_path: Path, suffix: str) -> None:
        """A copy that takes its time; the end of the file shows that it is not whole."""
        (inbox := tmp_path / "in").mkdir()
        whole = content(frame(0, 500), suffix, tmp_path)
        source = source_of(inbox, suffix)
        with reading(source) as reader:
            for part in (3, len(whole) // 2, len(whole) - 1):
                (inbox / f"a.{suffix}").write_bytes(whole[:part])
                come(inbox / f"b{part}.{suffix}", content(frame(part, 1), suffix, tmp_path))
                assert polled(source, reader, 1)["n"].to_list() == [part]
                assert not silent(reader)
            (inbox / f"a.{suffix}").write_bytes(whole)
            assert polled(source, reader, 500)["n"].to_list() == list(range(500))
            assert not silent(reader)

    @pytest.mark.parametrize("suffix", ["parquet", "arrow", "ndjson.gz", "csv.zst"])
    def test_after_a_while_it_is_a_bad_file_and_read_all_the_same_when_it_changes(
        self, tmp_path: Path, suffix: str
    ) -> None:
        """The writer has died an hour ago; later somebody copies the file again."""
        (inbox := tmp_path / "in").mkdir()
        whole = content(frame(0, 500), suffix, tmp_path)
        (inbox / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
        in_order_of_age(inbox / f"a.{suffix}")
        source = source_of(inbox, suffix, patience="10s")
        with reading(source) as reader:
            [letter] = silent(reader)
            assert letter["raw"] == whole[: len(whole) // 2][:1024]
            assert letter["path"] == str(inbox / f"a.{suffix}")
            assert "it has not changed for 10 seconds" in letter["reason"]
            come(inbox / f"a.{suffix}", whole)
            assert polled(source, reader, 500)["n"].to_list() == list(range(500))

    @pytest.mark.parametrize("name", ["a.ndjson.gz", "a.parquet"])
    def test_what_only_waits_ends_with_what_there_is(self, tmp_path: Path, name: str) -> None:
        """`ctx.run()` waits for nobody."""
        (tmp_path / name).write_bytes(content(frame(0, 50), name[2:], tmp_path)[:30])
        suffix = name[2:]
        refused: list[pa.RecordBatch] = []
        with reading(source_of(tmp_path, suffix).bounded()) as reader:
            assert polled(source_of(tmp_path, suffix), reader, None, refused).is_empty()
        assert [batch.num_rows for batch in refused] == [1]
        with reading(source_of(tmp_path, suffix, bad_files="wait").bounded()) as reader:
            assert polled(source_of(tmp_path, suffix), reader, None).is_empty()

    def test_what_a_long_file_gave_before_its_cut_is_not_given_again(self, tmp_path: Path) -> None:
        """Compressed rows are read as far as they go; when the rest has come, the stream goes on there."""
        path = tmp_path / "a.csv.gz"
        lines = [f"{number},{os.urandom(100).hex()}\n" for number in range(60_000)]
        whole = gzip.compress("".join(lines).encode(), 1)
        path.write_bytes(whole[:-100_000])
        source = source_of(path, "csv")
        got: list[int] = []
        steps: list[Offset] = []
        with reading(source) as reader:
            while (rows := reader.poll(0.02)) is not None:
                assert isinstance(rows, pa.RecordBatch)
                got += rows["n"].to_pylist()
                steps.append(reader.position())
            assert 0 < len(got) < len(lines)
            assert not silent(reader)
        memory: Offset | None = None
        for step in steps:
            memory = source.remembered(memory, step)
        path.write_bytes(whole)
        assert got + numbers(source, json.loads(json.dumps(memory))) == list(range(len(lines)))


class TestBad:
    @pytest.mark.parametrize("name", ["README.md", "b.parquet", "_SUCCESS", ".a.parquet.crc", "empty.parquet", "c.csv"])
    def test_the_good_files_come_beside_it(self, tmp_path: Path, name: str) -> None:
        """The same through a context: what is no data is left alone, what is damaged is a dead letter."""
        for value in (1, 2):
            pl.DataFrame({"v": [value]}).write_parquet(tmp_path / f"{value}.parquet")
        damaged = b"PAR1" + bytes(200) + b"\x10\0\0\0PAR1"
        (tmp_path / name).write_bytes(b"" if name in ("_SUCCESS", "empty.parquet") else damaged)
        in_order_of_age(tmp_path / "1.parquet", tmp_path / name, tmp_path / "2.parquet")
        with ars.StreamingContext() as ctx:
            ctx.read.parquet(tmp_path).write.memory("rows")
            ctx.run(timeout=60)
            assert sorted(ctx.sql("FROM rows").fetchall()) == [(1,), (2,)]
            letters = ctx.sql("SELECT path, reason FROM dead_letters").fetchall()
        bad = name == "b.parquet"
        assert [path for path, _ in letters] == ([str(tmp_path / name)] if bad else [])

    def test_it_is_left_until_it_changes(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """bad_files='wait': somebody will mend it, and nothing must be lost meanwhile."""
        path = tmp_path / "a.parquet"
        path.write_bytes(b"no Parquet")
        source = source_of(tmp_path, "parquet", bad_files="wait", patience="0s")
        with reading(source) as reader:
            assert not silent(reader)
            come(path, content(frame(0, 2), "parquet", tmp_path))
            assert polled(source, reader, 2)["n"].to_list() == [0, 1]
        assert [record.message for record in caplog.records if "until it changes" in record.message] == [
            f"{path} is no Parquet file: it begins with b'no P'; the stream goes on without it until it changes"
        ]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read_is_waited_for(self, tmp_path: Path) -> None:
        """Copied as root, and given away a moment later."""
        write(frame(0, 1), tmp_path / "a.parquet")
        (tmp_path / "a.parquet").chmod(0)
        source = source_of(tmp_path, "parquet")
        with reading(source) as reader:
            assert not silent(reader)
            (tmp_path / "a.parquet").chmod(0o600)
            os.utime(tmp_path / "a.parquet")
            assert polled(source, reader, 1)["n"].to_list() == [0]

    def test_damage_in_the_middle_loses_what_comes_after_it_and_says_so(self, tmp_path: Path) -> None:
        lines = "".join(f"{number},{os.urandom(100).hex()}\n" for number in range(60_000)).encode()
        data = bytearray(gzip.compress(lines, 1))
        data[-200_000:-199_900] = bytes(100)
        (tmp_path / "a.csv.gz").write_bytes(data)
        source = source_of(tmp_path, "csv")
        refused: list[pa.RecordBatch] = []
        with reading(source.bounded()) as reader:
            rows = polled(source, reader, None, refused)
        assert 0 < rows.height < 60_000
        letter = refused[-1].to_pylist()[-1]
        assert "a.csv.gz is damaged" in letter["reason"]
        assert letter["line"] == rows.height + 1
        assert letter["offset"] == sum(len(line) for line in lines.splitlines(keepends=True)[: rows.height])


class TestReplaced:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("how", ["renamed", "in place"])
    def test_it_is_an_error_unless_the_user_says_otherwise(self, tmp_path: Path, suffix: str, how: str) -> None:
        """A program that writes the same name every night: its rows are neither lost nor doubled in silence."""
        (inbox := tmp_path / "in").mkdir()
        path = inbox / f"x.{suffix}"
        put: Callable[[bytes], object] = path.write_bytes if how == "in place" else lambda data: come(path, data)
        first, second = (content(frame(at, count), suffix, tmp_path) for at, count in ((0, 2), (7, 3)))
        outcomes: dict[str, object] = {}
        for choice in ("error", "read", "ignore"):
            come(path, first)
            source = source_of(inbox, suffix, on_replaced=choice)
            with reading(source) as reader:
                assert polled(source, reader, 2)["n"].to_list() == [0, 1]
                put(second)
                try:
                    outcomes[choice] = (
                        silent(reader) if choice == "ignore" else polled(source, reader, 3)["n"].to_list()
                    )
                except SourceError as error:
                    outcomes[choice] = str(error)
                assert choice == "error" or not silent(reader)
            path.unlink()
        assert f"{path} has changed after it was read: {len(first)} bytes then, {len(second)} now" in str(
            outcomes.pop("error")
        )
        assert outcomes == {"read": [7, 8, 9], "ignore": []}

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_touch_a_copy_and_a_move_are_no_replacement(self, tmp_path: Path, suffix: str) -> None:
        """`touch`, `rsync` over it, `mv` into the archive below, a restart: the same rows are not read twice."""
        (inbox := tmp_path / "in").mkdir()
        path, data = inbox / f"x.{suffix}", content(frame(0, 2), suffix, tmp_path)
        come(path, data)
        source = source_of(inbox, suffix)
        with reading(source) as reader:
            polled(source, reader, 2)
            memory = source.remembered(None, reader.position())
            os.utime(path)
            assert not silent(reader)
            come(path, data)
            assert not silent(reader)
            (inbox / "done").mkdir()
            path.rename(inbox / "done" / f"y.{suffix}")
            assert not silent(reader)
        (inbox / "done" / f"y.{suffix}").rename(path)
        assert numbers(source, memory) == []

    def test_a_grown_file_of_lines_is_told_of_tail(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text("1,a\n")
        source = source_of(path, "csv")
        with reading(source) as reader:
            polled(source, reader, 1)
            with path.open("a") as file:
                file.write("2,b\n")
            with pytest.raises(SourceError, match=r"a file that grows is followed with tail=True"):
                polled(source, reader, 1)

    def test_a_directory_that_goes_and_comes_back_is_not_read_twice(self, tmp_path: Path) -> None:
        """A mount that drops out for a minute."""
        (inbox := tmp_path / "in").mkdir()
        write(frame(0, 2), inbox / "a.parquet")
        source = source_of(inbox, "parquet")
        with reading(source) as reader:
            polled(source, reader, 2)
            inbox.rename(tmp_path / "away")
            assert not silent(reader)
            (tmp_path / "away").rename(inbox)
            assert not silent(reader)
            write(frame(2, 1), inbox / "b.parquet")
            assert polled(source, reader, 1)["n"].to_list() == [2]

    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_a_file_replaced_while_it_was_read_in_part(self, tmp_path: Path, suffix: str) -> None:
        """The worker was lost in the middle of the file, and the next one finds another under its name."""
        path = tmp_path / f"a.{suffix}"
        write(frame(0, 9), path)
        source = source_of(tmp_path, suffix, max_rows_per_poll=3)
        with reading(source) as reader:
            reader.poll(0)
            memory = source.remembered(None, reader.position())
        assert numbers(source, memory) == list(range(3, 9))
        write(frame(100, 8), path)
        with pytest.raises(SourceError, match=r"was replaced after (row|line) 3 was read"):
            numbers(source, memory)
        assert numbers(source_of(tmp_path, suffix, on_replaced="ignore"), memory) == []
        assert numbers(source_of(tmp_path, suffix, on_replaced="read"), memory) == list(range(100, 108))
        path.unlink()
        with reading(source.bounded(), memory) as reader:
            assert reader.poll(0) is None
            assert "is gone, and was read up to" in rejects(reader)[0]["reason"]

    def test_rows_of_a_replaced_file_are_not_taken_for_those_that_were_there(self, tmp_path: Path) -> None:
        """Between the finding and the task that reads it."""
        write(frame(0, 5), tmp_path / "a.parquet")
        source = source_of(tmp_path, "parquet")
        with reading(source) as reader:
            reader.poll(0)
            write(frame(5, 5), tmp_path / "a.parquet")
            with pytest.raises(SourceError, match=r"a.parquet was replaced after 5 rows of it were taken"):
                source.scan("files-0", None, reader.position())


class TestNothing:
    def test_a_source_that_matches_nothing_says_so_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The wrong directory, the wrong ending: no row and no error is the worst answer."""
        (tmp_path / "a.dat").write_text("x")
        (tmp_path / "_b.csv").write_text("x")
        with reading(source_of(tmp_path, "csv")) as reader, caplog.at_level(logging.WARNING):
            silent(reader)
        [record] = caplog.records
        assert f"no file at {tmp_path} yet; passed over: 1 hidden or not finished, 1 ending in .dat" in record.message

    def test_endings_can_be_given(self, tmp_path: Path) -> None:
        for name, value in (("a.dat", 1), ("part-00000", 2), ("b.csv", 3)):
            (tmp_path / name).write_text(f"{value},x\n")
        assert numbers(source_of(tmp_path, "csv")) == [3]
        assert numbers(source_of(tmp_path, "csv", endings=".DAT")) == [1]
        assert sorted(numbers(source_of(tmp_path, "csv", endings="*"))) == [1, 2, 3]
        assert sorted(numbers(source_of(tmp_path, "csv", endings=[".dat", "*.csv"]))) == [1, 3]

    def test_a_name_that_is_not_finished_is_read_when_it_is_renamed(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv.part").write_text("1,x\n")
        source = source_of(tmp_path, "csv")
        with reading(source) as reader:
            assert not silent(reader)
            (tmp_path / "a.csv.part").rename(tmp_path / "a.csv")
            assert polled(source, reader, 1)["n"].to_list() == [1]
        (tmp_path / "b.csv.new").write_text("2,x\n")
        assert numbers(source_of(tmp_path, "csv", endings="*", ignore="*.new")) == [1]


class TestColumns:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_path_time_and_row_number(self, tmp_path: Path, suffix: str) -> None:
        """Every row knows its origin, in whichever pieces the file was read, and read again."""
        for name in ("a", "b"):
            (tmp_path / f"{name}.{suffix}").write_bytes(content(frame(0, 7), suffix, tmp_path))
        paths = [str(tmp_path / f"{name}.{suffix}") for name in ("a", "b")]
        in_order_of_age(*map(Path, paths))
        source = source_of(
            tmp_path,
            suffix,
            max_rows_per_poll=4,
            include_path="path",
            include_modified="changed",
            include_row_number="row",
        )
        steps: list[Offset] = []
        with reading(source.bounded()) as reader:
            rows = polled(source, reader, None, steps=steps)
        times = [datetime.fromtimestamp(1_700_000_000 + age, UTC) for age in (0, 1)]
        wanted = [
            (n, f"the name number {n}", path, time, n)
            for path, time in zip(paths, times, strict=True)
            for n in range(7)
        ]
        assert rows.rows() == wanted
        memory, start, count = None, None, 0
        for step in steps:
            scanned = source.scan("files-0", start, step).collect()
            assert scanned.rows() == wanted[count : count + scanned.height]
            start, count, memory = step, count + scanned.height, source.remembered(memory, step)
            with reading(source.bounded(), memory) as reader:
                assert polled(source, reader, None).rows() == wanted[count:]

    def test_filters_on_the_file_leave_the_rest_as_it_is(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(frame(0, 7), tmp_path / f"{name}.parquet")
        with ars.StreamingContext() as ctx:
            rows = ctx.read.parquet(tmp_path, include_path="path", include_row_number="row")
            rows.filter(pl.col("path").str.ends_with("b.parquet"), pl.col("n") > 4).select("row", "n").write.memory("r")
            ctx.run(timeout=60)
            assert sorted(ctx.sql("FROM r").fetchall()) == [(5, 5), (6, 6)]

    def test_a_refused_line_has_its_place(self, tmp_path: Path) -> None:
        """To open the file there and look, over cuts, blank lines, headers and compression."""
        good = '{"n": 1, "name": "x"}\n'
        text = good + "\n" + "no\r\n" + good * 3 + ' {"n": "one"} \n' + "no\n" + good + '{"n":'
        (tmp_path / "a.ndjson").write_text(text)
        (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(text.encode()))
        in_order_of_age(tmp_path / "a.ndjson", tmp_path / "b.ndjson.gz")
        for most in (1, 2, 100):
            refused: list[pa.RecordBatch] = []
            source = source_of(tmp_path, "ndjson", max_rows_per_poll=most)
            with reading(source.bounded()) as reader:
                assert polled(source, reader, None, refused).height == 10
            letters = [letter for batch in refused for letter in batch.to_pylist()]
            lines = text.splitlines(keepends=True)
            places = [(number, len("".join(lines[: number - 1]))) for number in (3, 7, 8, 10)]
            assert [(letter["line"], letter["offset"]) for letter in letters] == places * 2
            assert [Path(letter["path"]).name for letter in letters] == ["a.ndjson"] * 4 + ["b.ndjson.gz"] * 4
        (tmp_path / "c.csv").write_text("name,n\nx,1\nx,one\n")
        with reading(source_of(tmp_path / "c.csv", "csv", has_header=True)) as reader:
            reader.poll(0)
            [letter] = rejects(reader)
        assert (letter["line"], letter["offset"]) == (3, 11)

    def test_a_column_of_that_name_is_refused_at_the_line(self, tmp_path: Path) -> None:
        for option in ("include_path", "include_modified", "include_row_number"):
            with pytest.raises(ars.ArrowStreamError, match=rf"{option}='n': there is a column of that name already"):
                source_of(tmp_path, "csv", **{option: "n"})
        with pytest.raises(ars.ArrowStreamError, match=r"include_path='x'"):
            source_of(tmp_path, "csv", include_path="x", include_row_number="x")
