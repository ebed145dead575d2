"""An Arrow table as text for a terminal: a box, numbers to the right, as wide as there is room."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa

_NARROWEST = 6


def text_table(table: pa.Table, *, rows: int = 20, width: int | None = None, total: int | None = None) -> str:
    """`table` in a box, its first `rows` rows, and "… n more rows" where there are more.

    `width` is that of the terminal where it is not given. `total` is how many rows there are where `table` is only
    their beginning. Cells that are too long end in "…"; columns that do not fit at all become one column "…".
    """
    room = width or shutil.get_terminal_size().columns
    cells = [[name, type_name(kind), *shown] for name, kind, shown in _columns(table, rows)]
    right = [is_number(kind) for kind in table.schema.types]
    widths = [max(map(_width, column)) for column in cells]
    cells, right, widths = _fitted(cells, right, widths, room)
    lines = [
        _rule("╭┬╮", widths),
        _line([c[0] for c in cells], right, widths),
        _line([c[1] for c in cells], right, widths),
    ]
    lines.append(_rule("├┼┤", widths))
    shown = min(rows, table.num_rows)
    lines += [_line([column[row + 2] for column in cells], right, widths) for row in range(shown)]
    lines.append(_rule("╰┴╯", widths))
    if more := more_rows((total or table.num_rows) - shown):
        lines.append(more)
    return "\n".join(lines)


def more_rows(count: int) -> str:
    """The line below a table that does not show all; empty where nothing is left out."""
    return f"… {count:,} more row{'s' * (count != 1)}" if count > 0 else ""


def cell_texts(column: pa.ChunkedArray) -> list[str]:
    """Every value of a column as a person reads it; a null is `null`."""
    kind = column.type
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind) and not pa.types.is_interval(kind):
        return ["null" if text is None else _moment(text) for text in column.cast(pa.string()).to_pylist()]
    return [_text(_python(value)) for value in column]


def type_name(kind: pa.DataType) -> str:
    """The short name of a type."""
    name = str(kind)
    if pa.types.is_dictionary(kind):
        return "enum" if kind.ordered else "cat"
    for long, short in (("string_view", "str"), ("large_string", "str"), ("string", "str"), ("binary_view", "binary"),
                        ("large_list", "list"), ("item: ", ""), ("decimal128", "decimal"), ("double", "float64"),
                        ("timestamp", "datetime"), ("date32[day]", "date")):  # fmt: skip
        name = name.replace(long, short)
    return name


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _columns(table: pa.Table, rows: int) -> list[tuple[str, pa.DataType, list[str]]]:
    head = table.slice(0, rows)
    return [
        (field.name, field.type, cell_texts(column)) for field, column in zip(head.schema, head.columns, strict=True)
    ]


def _python(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except ValueError:  # nanoseconds below a microsecond, without pandas
        return str(scalar)


def _moment(text: str) -> str:
    """A time without zeros behind the seconds."""
    whole, dot, rest = text.partition(".")
    digits = rest.rstrip("Z").rstrip("0")
    zone = "Z" if rest.endswith("Z") else ""
    return f"{whole}{dot if digits else ''}{digits}{zone}"


def _text(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return _float(value)
        case Decimal() | int():
            return str(value)
        case str():
            return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
        case dict():
            return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(_text(inner) for inner in value) + "]"
        case _:
            return str(value)


def _float(value: float) -> str:
    if value == 0 or 1e-4 <= abs(value) < 1e15:
        text = f"{value:.6f}".rstrip("0")
        return text + "0" if text.endswith(".") else text
    return f"{value:.6g}"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _fitted(
    cells: list[list[str]], right: list[bool], widths: list[int], room: int
) -> tuple[list[list[str]], list[bool], list[int]]:
    """Cut long cells, widest column first; where that is not enough, leave out columns in the middle."""

    def excess() -> int:
        return sum(widths) + 3 * len(widths) + 1 - room

    while excess() > 0 and max(widths, default=0) > _NARROWEST:
        widest = max(range(len(widths)), key=widths.__getitem__)
        second = max((w for w in widths if w < widths[widest]), default=_NARROWEST)
        widths[widest] = max(_NARROWEST, second, widths[widest] - excess())
        if second == widths[widest] and excess() > 0:
            widths[widest] = max(_NARROWEST, widths[widest] - 1)
    kept = len(widths)
    while excess() > 0 and kept > 1:
        kept -= 1
        keep = [*range((kept + 1) // 2), *range(len(widths) - kept // 2, len(widths))]
        if sum(widths[i] + 3 for i in keep) + 5 <= room or kept == 1:
            middle = (kept + 1) // 2
            cells, right, widths = [cells[i] for i in keep], [right[i] for i in keep], [widths[i] for i in keep]
            cells.insert(middle, ["…"] * len(cells[0]))
            right.insert(middle, False)
            widths.insert(middle, 1)
            break
    return cells, right, widths


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[: max(0, len(text) - max(1, (_width(text) - width) // 2))]
    return text + "…"


def _line(texts: Sequence[str], right: Sequence[bool], widths: Sequence[int]) -> str:
    padded = []
    for text, to_right, width in zip(texts, right, widths, strict=True):
        cut = _cut(text, width)
        gap = " " * (width - _width(cut))
        padded.append(f" {gap}{cut} " if to_right else f" {cut}{gap} ")
    return "│" + "│".join(padded) + "│"


def _rule(corners: str, widths: Sequence[int]) -> str:
    return corners[0] + corners[1].join("─" * (width + 2) for width in widths) + corners[2]
