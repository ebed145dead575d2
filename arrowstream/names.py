"""The names of columns that the engine makes for itself, which no column of a user can be called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from arrowstream.errors import ColumnError

PREFIX: Final = "\ufdd0"
"""How inner names begin. Unicode keeps U+FDD0 for the inside of programs: it is a noncharacter, which stands for
nothing, is on no keyboard and must not be exchanged. Polars, Arrow, DuckDB, IPC and Parquet files, JSON and pickles
carry it as any other."""


def inner(name: str) -> str:
    """The inner name for `name`. Each name is made in one module only, so that rooms do not meet each other either."""
    return PREFIX + name


def is_inner(name: str) -> bool:
    """Whether the engine has made this name."""
    return name.startswith(PREFIX)


def readable(text: str) -> str:
    """A text about columns for people, with inner names spelled `__name`."""
    return text.replace(PREFIX, "__")


def refuse_inner(columns: Iterable[str], where: str) -> None:
    """Raise `ColumnError` where one of the columns that a user has named is called like an inner one."""
    for name in columns:
        if name.startswith(PREFIX):
            raise ColumnError(
                f"{where}: the column {name!r} begins with U+FDD0, a character that Unicode reserves and that marks "
                f"the engine's own columns here; call it {name.lstrip(PREFIX)!r}"
            )
