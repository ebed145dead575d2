"""What is installed is what is meant: one top level, connectors inside, nothing loaded before it is used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import arrowstream

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist, the wheel built out of the sdist as installers do."""
    to = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(to), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return to


@pytest.fixture
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


def files_of(folder: str) -> set[str]:
    """The modules of a folder of the checkout."""
    return {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")}


def test_the_wheel_has_one_top_level(wheel: Path) -> None:
    """`sources` and `sinks` are names that somebody else has, too."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"arrowstream", f"arrowstream-{arrowstream.__version__}.dist-info"}


def test_the_wheel_has_the_connectors_and_the_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"arrowstream/{name}" for name in files_of("sources") | files_of("sinks")} <= names
    assert "arrowstream/py.typed" in names
    assert not [name for name in names if "__pycache__" in name]


def test_the_sdist_has_what_builds_and_tests_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "do",
        "mkdocs.yml",
        "tests/test_packaging.py",
        "examples/wordcount.py",
    }
    assert wanted <= names
    # The builder follows the links, and packs a file once.
    assert {f"arrowstream/{name}" for name in files_of("sources") | files_of("sinks")} <= names


def test_the_wheel_runs_where_nothing_else_of_the_checkout_is(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment that borrows the dependencies: the command is there, and a pipeline runs."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Behind the wheel on the path: the dependencies, without the editable install's own `.pth` file.
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    python = home / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = """
import arrowstream, polars as pl
assert "site-packages" in arrowstream.__file__, arrowstream.__file__
with arrowstream.StreamingContext() as ctx:
    rows = ctx.read.memory({"a": pl.Int64})
    rows.agg(pl.col("a").sum()).write.memory("total")
    ctx.start()
    rows.source.send([{"a": 1}, {"a": 2}])
    ctx.process_all_available()
    print(ctx.sql("FROM total").fetchall())
"""
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[(3,)]\n", done.stderr
    command = [str(python), "-m", "arrowstream.cli", "--version"]
    version = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert version.stdout == f"arrowstream, version {arrowstream.__version__}\n"


def test_every_entry_point_loads() -> None:
    """A connector that is registered under a name that is gone would fail at its first user."""
    found = {}
    for group in ("arrowstream.sources", "arrowstream.sinks"):
        for point in entry_points(group=group):
            found[f"{group}:{point.name}"] = point.load()
    ours = {"socket", "files", "rate", "memory"}
    assert {f"arrowstream.sources:{name}" for name in ours} <= found.keys()
    assert {
        f"arrowstream.sinks:{name}" for name in ("parquet", "duckdb", "console", "memory", "foreach_batch")
    } <= found.keys()


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_importing_loads_no_engine() -> None:
    """`import arrowstream` and `arrowstream --help` cost next to nothing."""
    heavy = {"polars", "pyarrow", "duckdb", "numpy", "sqlglot", "msgspec", "pandas"}
    assert not heavy & modules_after("import arrowstream")
    assert not heavy & modules_after("import arrowstream.cli")


def test_connectors_are_loaded_under_one_name_only() -> None:
    """Through the symbolic links the same file could be loaded twice, with two classes of each name."""
    code = """
import arrowstream as ars
ctx = ars.StreamingContext()
ctx.read.rate(1).write.console()
ctx.read.memory({"a": int}).write.memory("m")
"""
    assert not {"sources", "sinks"} & modules_after(code)


def test_the_links_are_committed_as_links() -> None:
    for name in ("sources", "sinks"):
        link = ROOT / "arrowstream" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"


def test_the_version_is_told_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", arrowstream.__version__)
    assert arrowstream.__version__ not in (ROOT / "pyproject.toml").read_text().partition("[project.optional")[0]
    assert f"## {arrowstream.__version__}" in (ROOT / "CHANGELOG.md").read_text()
