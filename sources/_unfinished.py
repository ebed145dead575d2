"""Files that are not, or no more, what a reader takes them for."""

from __future__ import annotations

from arrowstream.errors import SourceError


class Unfinished(SourceError):
    """The end of the file shows that it is still being written, or was cut off."""


class Replaced(SourceError):
    """Another file is there than the one of which a part was read."""
