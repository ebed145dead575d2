"""Which version of each table a batch sees. No I/O, time as an argument."""

from __future__ import annotations

from arrowstream.plan.tables import Table, refreshed_tables
from arrowstream.plan.unit import Unit


class TableVersions:
    """When each table of a unit that is read again was to be read: decided as a batch is allotted and written in it,
    so that all its tasks, on whichever worker, and a replay of it read at the same batches."""

    def __init__(self, unit: Unit) -> None:
        self._tables = refreshed_tables(unit)
        self._versions: list[float | None] = [None] * len(self._tables)

    def ask(self, table: Table) -> bool:
        """The next batch is to read this table again; whether it is one of these."""
        found = [number for number, each in enumerate(self._tables) if each is table]
        for number in found:
            self._versions[number] = None
        return bool(found)

    def stand(self, now: float) -> list[float]:
        """The versions for a batch: the times at which each table was to be read."""
        stands = []
        for number, (table, version) in enumerate(zip(self._tables, self._versions, strict=True)):
            assert table.refresh is not None
            if version is None or now - version >= table.refresh:
                version = self._versions[number] = now
            stands.append(version)
        return stands
