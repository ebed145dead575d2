"""What the docs build does besides: pages of folders into the navigation, tables in docstrings as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

SECTIONS = {"Connectors": "connectors", "Decisions": "decisions"}


def on_config(config: Any) -> Any:
    """A new file is all that a new page about a connector or a decision needs."""
    root = Path(config["docs_dir"])
    for title, folder in SECTIONS.items():
        pages = [f"{folder}/{page.name}" for page in sorted((root / folder).glob("*.md"))]
        if pages:
            config["nav"].append({title: pages})
    return config


class AsTyped(griffe.Extension):
    """Paragraphs of a docstring that are set in columns, or indented, are shown as they were typed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = "\n\n".join(map(_fenced, obj.docstring.value.split("\n\n")))
            obj.docstring.value = text.replace("\n```\n\n\n```text\n", "\n\n")


_COLUMNS = re.compile(r"^\s*\S+(?: \S+){0,3}\s{2,}\S", re.MULTILINE)


def _fenced(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if not _COLUMNS.search(paragraph) and not all(line.startswith("    ") for line in lines):
        return paragraph
    # A first line that is a sentence stays one: `Arguments:`.
    head = [lines.pop(0)] if re.match(r"\S.*:$", lines[0]) else []
    least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join([*head, "", "```text", *(line[least:] for line in lines), "```"])
