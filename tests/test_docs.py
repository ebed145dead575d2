"""What the documentation says is so: its code runs, its links lead somewhere, its table names what is there."""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONNECTORS_PAGE = DOCS / "writing-connectors.md"

_BLOCK = re.compile(r"^( *)```python([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_SKIP = re.compile(r"# skip: (.+)")
"""A block whose first line is `# skip: REASON` is not run."""


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """The Python blocks of a page that are to be run, with the line they begin at."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        code = found[3]
        if not _SKIP.match(code.lstrip()):
            yield text[: found.start(3)].count("\n") + 1, re.sub(f"^{found[1]}", "", code, flags=re.MULTILINE)


def run_block(page: Path, line: int, code: str, names: dict[str, object]) -> None:
    """Run with the lines of the page, so that a traceback points into it."""
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def _told(page: Path) -> bool:
    """Whether a page tells a story from top to bottom; a connector's page has fragments."""
    return page.parent.name != "connectors" and any(blocks(page))


@pytest.mark.parametrize("page", [page for page in pages() if _told(page)], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newcomer copies one block after the other, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, code in blocks(page):
        run_block(page, line, code, module.__dict__)


@pytest.mark.parametrize("page", sorted((DOCS / "connectors").glob("*.md")), ids=lambda page: page.stem)
def test_the_fragments_of_a_connectors_page_are_python(page: Path) -> None:
    """They are of pipelines that are not shown; what they call is run by the connector's own tests."""
    for line, code in blocks(page):
        compile("\n" * (line - 1) + code, str(page), "exec")


def _definitions() -> types.ModuleType:
    """The classes that the page on connectors defines, as a module of their own."""
    module = types.ModuleType("page_of_connectors")
    sys.modules[module.__name__] = module
    cloudpickle.register_pickle_by_value(module)  # the suite's crash test unpickles them in another process
    for line, code in blocks(CONNECTORS_PAGE):
        if re.search("^class ", code, re.MULTILINE):
            run_block(CONNECTORS_PAGE, line, code, module.__dict__)
    return module


_page = _definitions()


class TestTheSourceOfThePage(_page.TestSqliteSource):  # type: ignore[misc,name-defined]
    """What a reader would write by the page passes the suite of sources."""


class TestTheSinkOfThePage(_page.TestArrowFileSink):  # type: ignore[misc,name-defined]
    """And the suite of sinks."""


@pytest.mark.parametrize(
    "page", [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    """A page was renamed, and another still points at it."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.relative_to(ROOT)}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in [_anchor(title) for title in titles], f"{page.relative_to(ROOT)}: {target}"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def _rows_of_the_way() -> list[tuple[str, list[Path], list[str]]]:
    """Of each step of a batch's way: what it is, the files it names, the functions it names."""
    text = (DOCS / "architecture.md").read_text()
    table = text[text.index("## The way of a batch") :]
    rows = []
    for line in table.splitlines():
        if match := re.match(r"\| *\d+ *\|([^|]*)\|(.*)\|$", line):
            code = re.findall(r"`([^`]+)`", match[2])
            files = [_file(name) for name in code if name.endswith(".py")]
            names = [name.partition("(")[0] for name in code if not name.endswith(".py")]
            rows.append((match[1].strip(), files, names))
    return rows


def _file(name: str) -> Path:
    at = [ROOT / name, ROOT / "arrowstream" / name]
    return next((path for path in at if path.exists()), at[-1])


@pytest.mark.parametrize(
    ("step", "files", "names"), _rows_of_the_way(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_way_of_a_batch_is_true(step: str, files: list[Path], names: list[str]) -> None:
    """The code has moved on, and the table of the architecture must follow."""
    defined: set[str] = set()
    for file in files:
        assert file.exists(), file
        defined |= _defined(ast.parse(file.read_text()))
    assert files
    for name in names:
        assert name in defined, f"{name} is in none of {', '.join(str(file.relative_to(ROOT)) for file in files)}"


def test_the_table_is_there() -> None:
    assert len(_rows_of_the_way()) >= 12


def _defined(tree: ast.Module) -> set[str]:
    """Functions and classes of a module, and methods and fields as `Class.name`."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    names.add(f"{node.name}.{member.name}")
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    names.add(f"{node.name}.{member.target.id}")
    return names
