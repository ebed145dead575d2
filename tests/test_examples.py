"""Every example runs, as a newcomer would run it."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from apart import source
from hypothesis import given, settings
from hypothesis import strategies as st

import arrowstream
from arrowstream import StreamFrame

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, cwd: Path, timeout: float = 60, told: str = "") -> str:
    """What an example prints; its errors fail the test, and so does a warning that does not begin so."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(told and line.startswith(told) for line in done.stderr.splitlines()), done.stderr
    assert bool(done.stderr) == bool(told)
    return done.stdout


def counted(printed: str) -> dict[str, int]:
    """Words and counts of the table."""
    return {word: int(count) for word, count in re.findall(r"│ (\w+) +│ +(\d+) │", printed)}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_word_count_feeds_itself(tmp_path: Path, workers: str) -> None:
    """The first command that anyone runs. `the` stands four times in the three lines, `fox` twice."""
    printed = run("wordcount.py", "--seconds", "1", "--workers", workers, cwd=tmp_path)
    counts = counted(printed)
    assert counts["the"] > 0
    assert counts["the"] == sum(line.split().count("the") for line in _text()) * counts["brown"]
    assert counts["fox"] == 2 * counts["brown"]


def _text() -> list[str]:
    names: dict[str, object] = {}
    source = (EXAMPLES / "wordcount.py").read_text()
    exec(re.search(r'^TEXT = """.*?\.splitlines\(\)', source, re.MULTILINE | re.DOTALL)[0], names)  # type: ignore[index]
    text = names["TEXT"]
    assert isinstance(text, list)
    return text


def test_the_word_count_reads_a_server_of_ones_own(tmp_path: Path) -> None:
    """As with `nc -lk`: the server sends two lines and waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        example = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "wordcount.py"), "--address", f"{host}:{port}", "--seconds", "0.5"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        client, _ = server.accept()
        with client:
            client.sendall(b"to be or not\nto be\n")
            printed, _ = example.communicate(timeout=60)
    assert example.returncode == 0
    assert counted(printed) == {"to": 2, "be": 2, "or": 1, "not": 1}


def test_the_word_count_says_that_nothing_listens(tmp_path: Path) -> None:
    """The server was forgotten: the error has the cure, and comes at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "wordcount.py"), "--address", address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"nothing listens at {address}" in done.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_orders_go_to_parquet_and_duckdb(tmp_path: Path, workers: str) -> None:
    """Both are seen at one instant while they grow, and are there for the command line afterwards."""
    arguments = ("--seconds", "2", "--into", "shop", "--workers", workers)
    printed = run("orders.py", *arguments, cwd=tmp_path, told="dead letters: ")
    live = re.findall(r"│ \w+ +│ +(\d+) │ +(\d+) │ +[\d.]+ │", printed)
    assert len(live) == 5, printed
    assert all(in_duckdb == in_parquet for in_duckdb, in_parquet in live), printed
    assert "LOST" not in printed
    command = re.search(r"arrowstream sql --at shop '(.*)'", printed)
    assert command is not None
    with arrowstream.connect(tmp_path / "shop") as outputs:
        assert len(outputs.sql(command[1])) == 5
        ((same,),) = outputs.sql("SELECT (SELECT count(*) FROM orders) = (SELECT sum(orders) FROM revenue)").fetchall()
        assert same


def function_of(example: str, name: str) -> Callable[[StreamFrame], StreamFrame]:
    """A pipeline of an example, without running it."""
    found: Callable[[StreamFrame], StreamFrame] = runpy.run_path(str(EXAMPLES / example), run_name="read")[name]
    return found


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=8), max_size=12), st.integers(0, 99))
@settings(max_examples=20)
def test_the_word_count_is_that_of_the_lines(texts: list[str], seed: int) -> None:
    """Any lines, cut anywhere: blanks and empty ones too."""
    lines = pl.DataFrame({"line": texts}, schema={"line": pl.String})
    counts = function_of("wordcount.py", "word_counts")(source(schema=lines.schema))
    counts.check(lines, seed=seed)
    found = dict(counts.collect(lines).iter_rows())
    assert found == Counter(word for text in texts for word in text.split(" "))


@given(st.lists(st.tuples(st.sampled_from(["Oslo", "Lima", None]), st.none() | st.integers(-999, 9999)), max_size=20))
@settings(max_examples=20)
def test_the_revenue_is_that_of_the_orders(sold: list[tuple[str | None, int | None]]) -> None:
    """Any orders, cut anywhere: without a shop and without a price too."""
    schema = {"shop": pl.String, "price": pl.Float64}
    orders = pl.DataFrame([(shop, None if p is None else p / 100) for shop, p in sold], schema=schema, orient="row")
    revenue = function_of("orders.py", "revenue_of")(source(schema=orders.schema))
    revenue.check(orders)
    shops = {shop for shop, _ in sold}
    found = {shop: (n, cents) for shop, n, cents in revenue.collect(orders).iter_rows()}
    assert found == {
        shop: (sum(s == shop for s, _ in sold), pytest.approx(sum(p or 0 for s, p in sold if s == shop) / 100))
        for shop in shops
    }


def test_orders_want_a_new_directory(tmp_path: Path) -> None:
    """State does not outlive a run, so the numbers of two runs in one place would not be equal."""
    (tmp_path / "old.parquet").touch()
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "orders.py"), "--into", "."], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr


NOTEBOOK = """
import sys
import nbclient, nbformat
from jupyter_client.manager import KernelManager

notebook = nbformat.read(sys.argv[1], as_version=4)
manager = KernelManager(kernel_name="python3")
manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
try:
    nbclient.NotebookClient(notebook, km=manager, timeout=60).execute()
finally:
    manager.shutdown_kernel(now=True)
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.mark.parametrize(
    ("name", "shown", "last"),
    [("wordcount", "the", "the same answer each time"), ("nexmark", "hot", "stream = table")],
)
def test_the_notebooks_run(tmp_path: Path, name: str, shown: str, last: str) -> None:
    """From top to bottom in a fresh kernel of this interpreter; and they were committed with their outputs."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("matplotlib")
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 2

    # In a process of its own: the client leaves sockets to the garbage collector.
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, str(EXAMPLES / f"{name}.ipynb")],
        cwd=tmp_path,
        env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")},  # no profile of the machine's
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    data = [out.data for cell in code for out in cell.outputs if "data" in out]
    html = [str(each.get("text/html", "")) for each in data]
    assert any("<table" in each and shown in each for each in html)
    assert name != "nexmark" or any("image/png" in each for each in data)
    assert last in code[-1].outputs[0].text
