"""Adds a page per connector and per decision to the navigation, so that a new file is all that a new page needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECTIONS = {"Connectors": "connectors", "Decisions": "decisions"}


def on_config(config: Any) -> Any:
    root = Path(config["docs_dir"])
    for title, folder in SECTIONS.items():
        pages = [f"{folder}/{page.name}" for page in sorted((root / folder).glob("*.md"))]
        if pages:
            config["nav"].append({title: pages})
    return config
