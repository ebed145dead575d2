"""How users say in which form dates are written: for all columns, or column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa

from arrowstream.connectors.formats.convert import check_date_formats
from arrowstream.errors import PlanError

DateFormats: TypeAlias = Mapping[str, Sequence[str] | str] | Sequence[str] | str


def spelled_formats(formats: DateFormats, schema: pa.Schema) -> DateFormats:
    """Formats of dates in one form, tuples; raises `PlanError` for what is none, or a column that is not there."""
    if not isinstance(formats, Mapping):
        return _several(formats)
    for name in formats:
        if name not in schema.names:
            raise PlanError(
                f"date_formats= names column {name!r}, which is not in the schema: {', '.join(schema.names)}"
            )
    return {name: _several(given) for name, given in formats.items()}


def of_column(formats: DateFormats, name: str) -> Sequence[str]:
    """The formats, once they are in one form, for a column."""
    return formats.get(name, ()) if isinstance(formats, Mapping) else formats


def _several(given: Sequence[str] | str) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given)
    try:
        check_date_formats(found)
    except ValueError as error:
        raise PlanError(f"date_formats=: {error}") from None
    return found
