"""The names that things carry through the engine."""

from __future__ import annotations

from typing import NewType

WorkerId = NewType("WorkerId", str)
"""A worker of the cluster; never used again for another process."""

UnitId = NewType("UnitId", str)
"""A connected plan of a context: the unit of batches, failure and checkpoint."""

SourceId = NewType("SourceId", str)
"""A source of a unit, by its place in the unit (`s000`, `s001`, ...)."""

BlockId = NewType("BlockId", str)
"""A block: source, split, the worker that made it, and a number that worker counts up."""

KEY_GROUPS = 128
"""How many groups the keys fall into, for ever: partitions own ranges of groups, so that state made by four
workers can be read by three. More than the workers one plan will have, few enough that a range is cheap."""


def partition_of_group(partitions: int) -> list[int]:
    """For each key group, the partition that owns it: ranges as even as can be."""
    return [group * partitions // KEY_GROUPS for group in range(KEY_GROUPS)]
