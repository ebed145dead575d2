"""Paths that users give to sources and sinks, on this machine."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from arrowstream.errors import PlanError


def local_path(path: str | os.PathLike[str], what: str) -> str:
    """The path as text; `file://` is taken away, and `~` is the home of the user.

    Raises `PlanError` for an address of another scheme (`s3://...`), which would otherwise become a folder of that
    name. `what` is the connector, for people.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise PlanError(f"{text!r} is no path in text")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", text)  # `Path("s3://x")` has one slash left
    if found is None:
        return os.path.expanduser(text)
    scheme = found[1].lower()
    if scheme != "file":
        raise PlanError(
            f"{what} cannot take {text!r}: only files of this machine are supported yet, not {scheme}://. Mount the"
            " store as a directory (rclone mount, mount-s3, gcsfuse, blobfuse2) or copy the files, and give that path"
        )
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise PlanError(f"{what} cannot take {text!r}: it is a file of {parts.netloc}, and not of this machine")
    return unquote(parts.path)
