"""Whose rows wait until others have ended: history first, then live. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeAlias

from arrowstream.ids import SourceId
from arrowstream.plan.handover import turns
from arrowstream.plan.unit import Unit

Split: TypeAlias = tuple[SourceId, str]


class Turns:
    """Who may be in a batch: sources that come later wait until those before them have ended and nothing waits of them.

    A unit that is being stopped has no more turns (`release`): what has arrived is worked off.
    """

    def __init__(self, unit: Unit) -> None:
        self._turns = turns(unit)
        self._reading: set[Split] = set()

    def __bool__(self) -> bool:
        """Whether anybody may have to wait."""
        return bool(self._turns)

    @property
    def first(self) -> set[SourceId]:
        """Sources that others wait for."""
        return set().union(*(turn.first for turn in self._turns))

    def expect(self, splits: Iterable[Split]) -> None:
        """These splits will be read."""
        self._reading = {split for split in splits if split[0] in self.first}

    def end(self, source: SourceId, split: str) -> None:
        """A split has ended."""
        self._reading.discard((source, split))

    def release(self) -> None:
        """Nobody waits any more."""
        self._turns = []

    def waiting(self, blocks: Collection[Split] = ()) -> set[SourceId]:
        """Sources whose turn has not come, while `blocks` of these splits are there."""
        busy = {source for source, _ in (*self._reading, *blocks)}
        return set().union(*(turn.later for turn in self._turns if turn.first & busy))

    def held(self, blocks: Collection[Split]) -> set[Split]:
        """Those of the splits with blocks that have to wait."""
        waiting = self.waiting(blocks)
        return {split for split in blocks if split[0] in waiting}
