"""The outputs of a context by name: what SQL can ask for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from threading import Lock

from arrowstream.connectors.view import TableView
from arrowstream.errors import PlanError, QueryError


class Catalog:
    """Names and what gives the view of each. Names differ in more than upper and lower case, as SQL wants it.

    Any thread. A provider is called anew for each query, and may be called from any thread.
    """

    def __init__(self) -> None:
        self._providers: dict[str, tuple[str, Callable[[], TableView]]] = {}
        self._lock = Lock()

    def register(self, name: str, provider: Callable[[], TableView]) -> None:
        """Add an output; raises `PlanError` for a name that is taken."""
        with self._lock:
            if name.lower() in self._providers:
                taken = self._providers[name.lower()][0]
                raise PlanError(f"there is an output {taken!r} already: give this one another name=")
            self._providers[name.lower()] = (name, provider)

    def names(self) -> list[str]:
        """All names, in the order in which they came."""
        with self._lock:
            return [name for name, _ in self._providers.values()]

    def view(self, name: str) -> TableView:
        """The output as it stands; raises `QueryError` for a name that is not there."""
        with self._lock:
            found = self._providers.get(name.lower())
        if found is None:
            raise unknown_table(name, self.names())
        return found[1]()


class UnknownTable(QueryError):
    """A statement reads a table that is not there."""


def unknown_table(name: str, names: list[str]) -> UnknownTable:
    """The error for a table that is not there, with the nearest names first."""
    if not names:
        return UnknownTable(f"there is no table {name!r}, and no other: nothing has been written yet")

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return UnknownTable(
        f"there is no table {name!r}; there are: {', '.join(sorted(names, key=likeness, reverse=True))}"
    )
