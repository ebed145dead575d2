"""Growing logs, followed by lines through rotation."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import arrowstream as ars
from arrowstream.connectors.source import Offset, Reader
from arrowstream.errors import PlanError, SourceError
from arrowstream.sources._tail import TailReader
from arrowstream.sources.files import FileSource
from arrowstream.testing.source_suite import SourceSuite, Supply, polled, reading
from tests.sources.test_files import rejects

SCHEMA = {"n": pl.Int64, "name": pl.String}


def following(path: Path, **options: Any) -> FileSource:
    return FileSource(path, "csv", SCHEMA, tail=True, poll_interval="1ms", **options)


def add(path: Path, *numbers: int, rest: str = "") -> None:
    with path.open("a") as file:
        file.write("".join(f"{number},x\n" for number in numbers) + rest)


def got(source: FileSource, reader: Reader, count: int) -> list[int]:
    found: list[int] = polled(source, reader, count)["n"].to_list()
    return found


def silent(reader: Reader) -> None:
    for _ in range(3):
        assert reader.poll(0.005) is None
        assert not rejects(reader)


class LogSupply(Supply):
    malformed = 2

    def __init__(self, directory: Path) -> None:
        self._path = directory / "app.log"

    def source(self) -> FileSource:
        return following(self._path)

    def feed(self, first: int, count: int) -> pl.DataFrame:
        add(self._path, *range(first, first + count))
        return pl.DataFrame({"n": range(first, first + count), "name": "x"}, schema=SCHEMA)

    def feed_malformed(self) -> None:
        with self._path.open("a") as file:
            file.write("one,x\n1\n")

    def end(self) -> None:
        """A log has no end but that of the bounded source."""


class TestTail(SourceSuite):
    @pytest.fixture
    def supply(self, tmp_path: Path) -> LogSupply:
        return LogSupply(tmp_path)


def test_a_line_is_given_once_it_has_its_end(tmp_path: Path) -> None:
    """The writer's buffer ends where it likes."""
    log = tmp_path / "app.log"
    source = following(log)
    with reading(source) as reader:
        silent(reader)
        add(log, 1, rest="2")
        assert got(source, reader, 1) == [1]
        silent(reader)
        add(log, rest=",x\n3,")
        assert got(source, reader, 1) == [2]
        add(log, rest="x")
        silent(reader)
    with reading(source.bounded()) as reader:
        assert polled(source, reader, None)["n"].to_list() == [1, 2, 3]


def test_rotation_by_renaming_loses_nothing(tmp_path: Path) -> None:
    """logrotate: the old file is still written to for a moment, then the program opens the new one."""
    log = tmp_path / "app.log"
    add(log, 1)
    source = following(log, patience="5s")
    with reading(source) as reader:
        assert got(source, reader, 1) == [1]
        add(log, 2)
        log.rename(tmp_path / "app.log.1")
        add(tmp_path / "app.log.1", 3)
        add(log, 10)
        assert sorted(got(source, reader, 3)) == [2, 3, 10]
        add(tmp_path / "app.log.1", 4, rest="5,x")
        assert got(source, reader, 1) == [4]
        silent(reader)
        os.utime(tmp_path / "app.log.1", (1, 1))
        assert got(source, reader, 1) == [5]  # it has been left, and its last line lacks its end
        add(log, 11)
        assert got(source, reader, 1) == [11]
        silent(reader)


def test_rotated_files_that_the_path_matches_are_the_same_files(tmp_path: Path) -> None:
    """A directory of logs: app.log.1 is not new rows, nor is app.log.2 a day later."""
    log = tmp_path / "app.log"
    add(log, 1, 2)
    source = following(tmp_path, endings="*", patience="0s")
    with reading(source) as reader:
        assert got(source, reader, 2) == [1, 2]
        for number in range(3, 6):
            for old in (2, 1):
                if (older := tmp_path / f"app.log.{old}").exists():
                    older.rename(tmp_path / f"app.log.{old + 1}")
            log.rename(tmp_path / "app.log.1")
            add(log, number)
            assert got(source, reader, 1) == [number]
            silent(reader)


def test_copying_and_truncating_loses_nothing_that_the_copy_has(tmp_path: Path) -> None:
    """logrotate's copytruncate, for programs that cannot open a new file. Lines came between the last look and it."""
    log = tmp_path / "app.log"
    add(log, 1, 2)
    source = following(log)
    with reading(source) as reader:
        assert got(source, reader, 2) == [1, 2]
        add(log, 3, 4)
        shutil.copy(log, tmp_path / "app.log.1")
        os.truncate(log, 0)
        add(log, *range(100, 130))  # longer already than it was
        assert got(source, reader, 32) == [3, 4, *range(100, 130)]
        os.truncate(log, 0)
        add(log, 5)
        assert got(source, reader, 1) == [5]
        silent(reader)


def test_a_copy_in_the_directory_that_is_followed_is_not_new(tmp_path: Path) -> None:
    """copytruncate again, where the path matches the copy as well; and a backup that somebody made."""
    log = tmp_path / "app.log"
    add(log, 1, 2)
    source = following(tmp_path, endings="*", patience="0s")
    with reading(source) as reader:
        assert got(source, reader, 2) == [1, 2]
        shutil.copy(log, tmp_path / "app.log.bak")
        silent(reader)
        for number in (3, 5, 7):
            add(log, number)
            shutil.copy(log, tmp_path / f"app.log-{number}")
            os.truncate(log, 0)
            add(log, number + 1)
            assert got(source, reader, 2) == [number, number + 1]
            silent(reader)
        add(tmp_path / "app2.log", 1, 2)
        assert got(source, reader, 2) == [1, 2]


def test_an_inode_that_comes_again_is_another_file(tmp_path: Path) -> None:
    """The system gives the numbers of files that are gone to new ones, mostly at once."""
    source = following(tmp_path, patience="0s")
    with reading(source) as reader:
        for number in range(20):
            log = tmp_path / f"{number}.csv"
            add(log, number)
            assert got(source, reader, 1) == [number]
            log.unlink()
            if number % 2:
                silent(reader)


@pytest.mark.parametrize("rotation", ["none", "rename", "copy"])
@pytest.mark.parametrize("header", [False, True])
def test_it_goes_on_from_any_position(tmp_path: Path, rotation: str, header: bool) -> None:
    """The worker was lost, and the log rotated before the next one opened it."""
    log = tmp_path / "app.log"
    if header:
        add(log, rest="name,n\n")
    lines = {number: f"x,{number}\n" if header else f"{number},x\n" for number in range(30)}
    source = following(log, max_rows_per_poll=3, has_header=header, include_row_number="row")
    memory: Offset | None = None
    with reading(source) as reader:
        for number in range(6):
            add(log, rest=lines[number])
            assert got(source, reader, 1) == [number]
            memory = source.remembered(memory, json.loads(json.dumps(reader.position())))
    add(log, rest=lines[6])
    if rotation == "rename":
        log.rename(tmp_path / "app.log.1")
    elif rotation == "copy":
        shutil.copy(log, tmp_path / "app.log-20261122")
        os.truncate(log, 0)
    if rotation != "none":
        add(log, rest="name,n\n" if header else "")
    add(log, rest=lines[7])
    with reading(source, memory) as reader:
        rows = polled(source, reader, 2)
        assert rows["n"].to_list() == [6, 7]
        assert rows["row"].to_list() == ([6, 7] if rotation == "none" else [6, 0])


def test_what_is_gone_when_the_reader_comes_back_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "app.log"
    add(log, 1)
    source = following(log)
    with reading(source) as reader:
        assert got(source, reader, 1) == [1]
        memory = source.remembered(None, reader.position())
    log.unlink()
    with reading(source, memory) as reader:
        silent(reader)
        add(log, 2)
        assert got(source, reader, 1) == [2]
    said = f"{log} was followed up to byte 4, and is gone"
    assert [record.message for record in caplog.records if record.message.startswith(str(log))] == [said]


def test_many_quiet_logs_hold_no_handles(tmp_path: Path) -> None:
    """Ten thousand logs of which ten are written to: handles are for those."""
    for number in range(400):
        add(tmp_path / f"{number:03}.csv", number)
        os.utime(tmp_path / f"{number:03}.csv", (1_700_000_000, 1_700_000_000))
    source = following(tmp_path)
    with reading(source) as reader:
        assert sorted(got(source, reader, 400)) == list(range(400))
        silent(reader)
        assert len([name for name in os.listdir("/proc/self/fd") if _leads_to(name).startswith(str(tmp_path))]) == 0
        add(tmp_path / "007.csv", 1007)
        assert got(source, reader, 1) == [1007]


def _leads_to(handle: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


def test_refused_lines_have_their_place(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    add(log, 1, rest="one,x\n")
    source = following(log)
    with reading(source) as reader:
        refused: list[pa.RecordBatch] = []
        polled(source, reader, 1, refused)
        add(log, 2, rest="\ntwo,x\n")
        polled(source, reader, 1, refused)
    letters = [letter for batch in refused for letter in batch.to_pylist()]
    assert [(letter["path"], letter["line"], letter["offset"]) for letter in letters] == [
        (str(log), 2, 4),
        (str(log), 5, 15),
    ]


def test_a_header_that_does_not_fit_is_a_bad_file(tmp_path: Path) -> None:
    add(tmp_path / "a.csv", rest="who\n1\n")
    add(tmp_path / "b.csv", rest="n,name\n1,x\n")
    refused: list[pa.RecordBatch] = []
    source = following(tmp_path, has_header=True)
    with reading(source) as reader:
        assert polled(source, reader, 1, refused)["n"].to_list() == [1]
        silent(reader)
    assert [letter["path"] for batch in refused for letter in batch.to_pylist()] == [str(tmp_path / "a.csv")]
    source = following(tmp_path / "a.csv", has_header=True, bad_files="fail")
    with reading(source) as reader, pytest.raises(SourceError, match=r"a.csv: the header"):
        reader.poll(0)


def test_only_lines_in_utf8_grow() -> None:
    for options in ({"format": "parquet"}, {"format": "csv", "encoding": "utf-16"}):
        with pytest.raises(PlanError, match="tail"):
            FileSource("/nowhere/in", schema=SCHEMA, tail=True, **options)  # type: ignore[arg-type]


def test_any_mix_of_writing_and_rotating_gives_every_line_once(tmp_path: Path) -> None:
    """A busy program under logrotate, lines between the last look and the rotation, the reader lost at random."""
    for seed in range(12):
        program = _Program(tmp_path / str(seed), random.Random(seed))
        for step in range(25):
            program.step(step)
        program.read()
        program.reader.close()
        assert sorted(program.seen) == list(range(program.written)), seed


class _Program:
    """Who writes a log, who rotates it, and who reads it."""

    def __init__(self, place: Path, chance: random.Random) -> None:
        place.mkdir()
        self._place, self._log, self._chance = place, place / "app.log", chance
        self.source = following(self._log, max_rows_per_poll=3, patience="1h")
        self.reader = self.source.open("files-0", None)
        self._memory: Offset | None = None
        self.written, self.seen = 0, list[int]()

    def step(self, number: int) -> None:
        match self._chance.choice(["write", "write", "read", "rename", "copy", "lose"]):
            case "write":
                self._write()
            case "read":
                self.read()
            case "lose":
                self.reader.close()
                self.reader = self.source.open("files-0", json.loads(json.dumps(self._memory)))
            case rotation:
                self._write()
                self.read()
                self._write()
                if rotation == "rename":
                    self._log.rename(self._place / f"app.log.{number}")
                else:
                    shutil.copy(self._log, self._place / f"app.log.{number}")
                    os.truncate(self._log, 0)

    def _write(self) -> None:
        count = self._chance.randrange(1, 6)
        add(self._log, *range(self.written, self.written + count))
        self.written += count

    def read(self) -> None:
        """All that is there now, and what a look finds."""
        assert isinstance(self.reader, TailReader)
        for _ in range(3):
            while (rows := self.reader.poll(0)) is not None:
                self.seen += rows["n"].to_pylist()
                self._memory = self.source.remembered(self._memory, self.reader.position())
            self.reader._look()  # now, and not when the clock says so


def test_a_context_follows_a_log(tmp_path: Path) -> None:
    """From the first line to the dead letters."""
    log = tmp_path / "app.ndjson"
    log.write_text('{"a": 1}\n{"a":')
    with ars.StreamingContext(batch_interval="10ms") as ctx:
        ctx.read.ndjson(log, schema={"a": pl.Int64}, poll_interval="5ms", tail=True).write.memory("out")
        ctx.start()
        ctx.process_all_available(30)
        assert ctx.sql("FROM out").fetchall() == [(1,)]
        with log.open("a") as file:
            file.write(' 2}\n{"a": 3}\n{"a": "x"}\n')
        while len(ctx.sql("FROM dead_letters").fetchall()) < 1:
            ctx.process_all_available(30)
        assert sorted(ctx.sql("FROM out").fetchall()) == [(1,), (2,), (3,)]
        assert ctx.sql("SELECT path, line FROM dead_letters").fetchall() == [(str(log), 4)]
