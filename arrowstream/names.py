"""Names of columns: those that users may give, and those that the engine makes for itself, which do not meet."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase, ascii_uppercase
from typing import Final

from arrowstream.errors import ColumnError

PREFIX: Final = "\ufdd0"
"""How inner names begin. Unicode keeps U+FDD0 for the inside of programs: it is a noncharacter, which stands for
nothing, is on no keyboard and must not be exchanged. Polars, Arrow, DuckDB, IPC and Parquet files, JSON and pickles
carry it as any other."""

_FOLD: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


def inner(name: str) -> str:
    """The inner name for `name`. Each name is made in one module only, so that rooms do not meet each other either."""
    return PREFIX + name


def is_inner(name: str) -> bool:
    """Whether the engine has made this name."""
    return name.startswith(PREFIX)


def readable(text: str) -> str:
    """A text about columns for people, with inner names spelled `__name`."""
    return text.replace(PREFIX, "__")


def check_names(columns: Iterable[str], where: str) -> None:
    """Raise `ColumnError` where a user has given a column a name that cannot be asked for.

    Any text is a name but the empty one, what `pl.col` takes for a pattern (`*`, `^...$`), texts with a zero byte,
    which Arrow cannot hand over, and those that begin as inner names do.
    """
    for name in columns:
        if name.startswith(PREFIX):
            raise ColumnError(
                f"{where}: the column {name!r} begins with U+FDD0, a character that Unicode reserves and that marks "
                f"the engine's own columns here; call it {name.lstrip(PREFIX)!r}"
            )
        if not name:
            raise ColumnError(f"{where}: a column has no name; give it one, such as 'column_0'")
        if name == "*" or (name.startswith("^") and name.endswith("$")):
            plain = name.strip("^$*.") or "star"
            raise ColumnError(
                f"{where}: pl.col({name!r}) means every column like that, so none can be called so; call it {plain!r}"
            )
        if "\0" in name:
            raise ColumnError(f"{where}: the name of the column {name!r} has a zero byte in it; leave that out")


def twins(columns: Iterable[str]) -> tuple[str, str] | None:
    """Two columns whose names differ by case only: SQL takes one for the other (DuckDB folds the letters A to Z)."""
    seen: dict[str, str] = {}
    for name in columns:
        other = seen.setdefault(name.translate(_FOLD), name)
        if other != name:
            return other, name
    return None


def refuse_twins(columns: Iterable[str], where: str) -> None:
    """Raise `ColumnError` where SQL, for which `where` is meant, would take one column for another."""
    names = list(columns)
    if found := twins(names):
        one, other = found
        number = next(n for n in range(2, len(names) + 3) if f"{other}_{n}" not in names)
        raise ColumnError(
            f"{where}: the columns {one!r} and {other!r} differ by case only, and SQL cannot tell them apart; "
            f"rename one: .rename({{{other!r}: {f'{other}_{number}'!r}}})"
        )
