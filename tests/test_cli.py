"""The command line, as a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest

from arrowstream import __version__

ARROWSTREAM = [sys.executable, "-m", "arrowstream.cli"]

APP = """
import sys
import polars as pl
import arrowstream as ars

ctx = ars.StreamingContext(batch_interval="50ms", name="numbers")
numbers = ctx.read.rate(5_000, rows=int(sys.argv[1]) if len(sys.argv) > 1 else None)
numbers.write.parquet("numbers")
numbers.group_by(parity=pl.col("value") % 2).agg(rows=pl.len()).write.duckdb("parities.duckdb", table="parities")
ctx.start()
print("workers:", ctx.settings.cluster.workers, flush=True)
"""


def call(*arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ARROWSTREAM, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "100"} | (environment or {}),
    )


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def rows_of(directory: Path) -> tuple[int, int, list[int]]:
    """Rows in Parquet, rows counted in DuckDB, and whether each number is there once."""
    numbers = pl.read_parquet(directory / "numbers" / "*.parquet")["value"].sort().to_list()
    with duckdb.connect(str(directory / "parities.duckdb"), read_only=True) as connection:
        ((counted,),) = connection.sql("SELECT sum(rows)::BIGINT FROM parities").fetchall()
    return len(numbers), counted, numbers


def test_help_and_version_are_quick_and_say_what_there_is(tmp_path: Path) -> None:
    assert call("--version", cwd=tmp_path).stdout == f"arrowstream, version {__version__}\n"
    helped = call("--help", cwd=tmp_path).stdout
    assert "run" in helped
    assert "sql" in helped


@pytest.mark.parametrize("workers", [None, "2"])
def test_run_waits_until_the_sources_have_ended(app: Path, workers: str | None) -> None:
    """The program starts a context and ends; the command line waits for it. Arguments go to the program."""
    chosen = ["--workers", workers] if workers else []
    done = call("run", *chosen, str(app), "2000", cwd=app.parent)
    assert done.returncode == 0, done.stderr
    assert f"workers: {workers or 0}" in done.stdout
    in_parquet, in_duckdb, numbers = rows_of(app.parent)
    assert in_parquet == in_duckdb == 2000
    assert numbers == list(range(2000))


def test_the_number_of_workers_may_come_from_the_environment(app: Path) -> None:
    done = call("run", str(app), "10", cwd=app.parent, environment={"ARROWSTREAM_WORKERS": "1"})
    assert "workers: 1" in done.stdout
    wrong = call("run", str(app), "10", cwd=app.parent, environment={"ARROWSTREAM_WORKERS": "many"})
    assert wrong.returncode == 1
    assert "ARROWSTREAM_WORKERS='many' must be a number of worker processes" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_finishes_what_has_arrived(app: Path, workers: str) -> None:
    """Somebody looks at the terminal, has seen enough, and wants whole outputs."""
    process = subprocess.Popen(
        [*ARROWSTREAM, "run", "--workers", workers, str(app)],
        cwd=app.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"workers: {workers}\n"
    until = time.monotonic() + 30
    while not list((app.parent / "numbers").glob("*.parquet")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopping: finishing what has arrived" in said
    assert "Traceback" not in said
    in_parquet, in_duckdb, numbers = rows_of(app.parent)
    assert in_parquet == in_duckdb > 0
    assert numbers == list(range(in_parquet))


def test_an_error_of_the_plan_is_one_line(tmp_path: Path) -> None:
    """No traceback through the engine for a mistake in the user's program."""
    program = tmp_path / "wrong.py"
    program.write_text("import arrowstream as ars\nars.StreamingContext().read.rate(1).select('valeu')\n")
    done = call("run", str(program), cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "ColumnError: column 'valeu' is not in the frame; it has: timestamp, value; did you mean 'value'?"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    done = call("run", "nothing.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "'nothing.py' does not exist" in done.stderr


def test_the_progress_line_is_drawn_on_a_terminal_and_taken_away(app: Path) -> None:
    """One line on standard error; what stays on the screen is what the program printed."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*ARROWSTREAM, "run", str(app), "9000"], cwd=app.parent, stdout=subprocess.DEVNULL, stderr=follower
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the program is
        while select.select([leader], [], [], 60)[0] and (data := os.read(leader, 65536)):
            shown += data
    os.close(leader)
    assert process.wait(60) == 0
    text = shown.decode()
    assert re.search(r"numbers: in [\d,]+ rows/s, out [\d,]+, batch [\d.]+ ms, lag \d+ ms, [\d,]+ batches", text)
    assert text.endswith(" \r")
    assert "\n" not in text


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of ten numbers has left; only read."""
    directory = tmp_path_factory.mktemp("outputs")
    (directory / "app.py").write_text(APP)
    done = call("run", "app.py", "10", cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory


def test_sql_in_three_formats(outputs: Path) -> None:
    """A person, a spreadsheet, a script."""
    query = "SELECT parity, rows FROM parities ORDER BY parity"
    table = call("sql", query, "--at", "parities.duckdb", cwd=outputs).stdout
    assert re.search(r"│ +0 │ +5 │", table)
    assert call("sql", query, "--at", "parities.duckdb", "--format", "csv", cwd=outputs).stdout == (
        "parity,rows\n0,5\n1,5\n"
    )
    lines = call("sql", query, "--at", "parities.duckdb", "--format", "json", cwd=outputs).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"parity": 0, "rows": 5}, {"parity": 1, "rows": 5}]


def test_sql_over_a_parquet_directory_and_over_all(outputs: Path) -> None:
    """One output, or all that are in a place, together."""
    assert call(
        "sql", "SELECT max(value) AS m FROM numbers", "--at", "numbers", "--format", "csv", cwd=outputs
    ).stdout == ("m\n9\n")
    both = "SELECT (SELECT count(*) FROM numbers) AS n, (SELECT sum(rows)::BIGINT FROM parities) AS p"
    assert call("sql", both, "--at", ".", "--format", "csv", cwd=outputs).stdout == "n,p\n10,10\n"


@pytest.mark.parametrize(
    ("statement", "at", "said"),
    [
        ("FROM parties", ".", "there is no table 'parties'; there are: parities, numbers"),
        ("SELECT 1", "nowhere", "there is nothing at "),
        ("DROP TABLE parities", "parities.duckdb", "outputs can be read, not changed"),
        ("SELEC 1", ".", "syntax error"),
    ],
)
def test_errors_of_sql_are_one_line_and_exit_code_1(outputs: Path, statement: str, at: str, said: str) -> None:
    done = call("sql", statement, "--at", at, cwd=outputs)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
