"""Files whose columns are not quite those of the stream: which values are kept, and how the columns are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.names import match_names
from arrowstream.connectors.formats.schema import RESCUED, NewColumns, NewColumnsError
from arrowstream.connectors.source import REJECT_SCHEMA
from arrowstream.errors import SourceError


@dataclass(frozen=True, slots=True)
class Fit:
    """How the columns of a stream are made of those of a file.

    columns  the columns of the stream, in order
    misfits  of columns of which not every value can be kept: the name, the one in the file, and whether a row's cannot
    """

    columns: tuple[pl.Expr, ...]
    misfits: tuple[tuple[str, str, pl.Expr], ...] = ()

    def apply(self, frame: pl.LazyFrame, *more: pl.Expr) -> pl.LazyFrame:
        """The rows of the stream among those of a file; with `more` columns after its own."""
        for _, _, misfit in self.misfits:
            frame = frame.filter(~misfit)
        return frame.select(*self.columns, *more)

    def refused(self, frame: pl.LazyFrame, path: str, first: int, wanted: pl.Schema) -> pa.RecordBatch | None:
        """Of rows of a file, the first of which is its row `first`, those with a value that cannot be kept, as
        `REJECT_SCHEMA`; None where there are none. Only the columns in question are read where all values are kept."""
        misfit = pl.any_horizontal(misfit for _, _, misfit in self.misfits)
        places = frame.select(misfit.alias("misfit")).collect()["misfit"].arg_true()
        if not len(places):
            return None
        rows = frame.select(pl.all().gather(places)).collect()
        raw, reasons = _as_json(rows), []
        flags = rows.select(flag.alias(str(place)) for place, (_, _, flag) in enumerate(self.misfits))
        for row, bad in enumerate(flags.iter_rows()):
            name, own, _ = self.misfits[bad.index(True)]
            value = rows[own][row]
            value = value.to_list() if isinstance(value, pl.Series) else value
            reasons.append(f"{name}: {value!r:.100} is no {wanted[name]}, and the file has {rows.schema[own]}")
        numbers = (places.cast(pl.Int64) + first + 1).to_list()
        return pa.record_batch(
            [
                pa.array([text.encode() for text in raw], REJECT_SCHEMA.field("raw").type),
                pa.array(reasons, REJECT_SCHEMA.field("reason").type),
                pa.array([path] * len(places), REJECT_SCHEMA.field("path").type),
                pa.array(numbers, REJECT_SCHEMA.field("line").type),
                pa.nulls(len(places), REJECT_SCHEMA.field("offset").type),
            ],
            REJECT_SCHEMA,
        )


class Misfit(Exception):
    """A type from which no value, or not the meaning of one, can be kept."""


def fit(path: str, found: pl.Schema, wanted: pl.Schema, new_columns: NewColumns, strict: bool) -> Fit:
    """How the columns of `wanted` are made of a file that has `found`.

    Columns, and fields of structs, are found by name, or by the only one that differs in case alone; one that is
    missing is null. Raises `SourceError`, with path and cure, for a file that has none of the columns, or one
    of another kind.
    """
    try:
        return _fit(tuple(found.items()), tuple(wanted.items()), new_columns, strict)
    except Misfit as error:
        raise SourceError(f"{path}: {error}") from None


@lru_cache(maxsize=64)
def _fit(
    found: tuple[tuple[str, pl.DataType], ...],
    wanted: tuple[tuple[str, pl.DataType], ...],
    new_columns: NewColumns,
    strict: bool,
) -> Fit:
    target = {name: dtype for name, dtype in wanted if not (new_columns == "rescue" and name == RESCUED)}
    names = [name for name, _ in found]
    matched = match_names(names, list(target))
    if not matched:
        raise Misfit(f"it has none of the columns {', '.join(map(repr, target))}; it has: {', '.join(names)}")
    places = {name: place for place, name in matched.items()}
    columns: list[pl.Expr] = []
    misfits = []
    rests = [_jsonable(pl.col(name), dtype) for place, (name, dtype) in enumerate(found) if place not in matched]
    for name, dtype in target.items():
        if name not in places:
            columns.append(pl.lit(None, dtype).alias(name))
            continue
        own, has = found[places[name]]
        try:
            value, bad = _convert(pl.col(own), has, dtype, strict)
        except Misfit as error:
            hint = "; strict=False reads it as text" if strict and dtype == pl.String and has.is_numeric() else ""
            raise Misfit(f"column {own!r} is {has} in it, and {dtype} in the stream{error}{hint}") from None
        columns.append(value.alias(name))
        if bad is not None:
            misfits.append((name, own, bad.fill_null(False)))
        if new_columns != "ignore" and (rest := _rest(pl.col(own), has, dtype)) is not None:
            rests.append(rest.alias(own))
    if rests and new_columns == "fail":
        new = ", ".join(repr(expr.meta.output_name()) for expr in rests)
        raise NewColumnsError(f"the file has columns, or fields of them ({new}),")
    if new_columns == "rescue":
        columns.append(_encoded(rests).alias(RESCUED))
    return Fit(tuple(columns), tuple(misfits))


def _convert(value: pl.Expr, found: pl.DataType, wanted: pl.DataType, strict: bool) -> tuple[pl.Expr, pl.Expr | None]:
    """The value as the type that is wanted, and whether it cannot be kept (None: it always can)."""
    if found == wanted:
        return value, None
    if isinstance(found, pl.Array):
        value, found = value.arr.to_list(), pl.List(found.inner)
        if isinstance(wanted, pl.Array):
            raise Misfit
        return _convert(value, found, wanted, strict)
    if isinstance(wanted, pl.Null):
        return pl.lit(None, pl.Null), value.is_not_null()
    if isinstance(found, pl.Struct) and isinstance(wanted, pl.Struct):
        return _convert_struct(value, found, wanted, strict)
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        item, bad = _convert(pl.element(), _dtype(found.inner), _dtype(wanted.inner), strict)
        misfit = None if bad is None else value.list.eval(bad.fill_null(False)).list.any()
        return value.list.eval(item), misfit
    if found.is_nested() or wanted.is_nested():
        if not isinstance(found, pl.Null):
            raise Misfit
        return value.cast(wanted), None
    return _convert_scalar(value, found, wanted, strict)


def _convert_struct(
    value: pl.Expr, found: pl.Struct, wanted: pl.Struct, strict: bool
) -> tuple[pl.Expr, pl.Expr | None]:
    names = [field.name for field in found.fields]
    matched = match_names(names, [field.name for field in wanted.fields])
    places = {name: place for place, name in matched.items()}
    fields, misfits = [], []
    for field in wanted.fields:
        dtype = _dtype(field.dtype)
        if field.name not in places:
            fields.append(pl.lit(None, dtype).alias(field.name))
            continue
        own = found.fields[places[field.name]]
        try:
            item, bad = _convert(value.struct.field(own.name), _dtype(own.dtype), dtype, strict)
        except Misfit:
            raise Misfit(f": its field {own.name!r} is {own.dtype}, not {dtype}") from None
        fields.append(item.alias(field.name))
        if bad is not None:
            misfits.append(bad.fill_null(False))
    made = pl.when(value.is_not_null()).then(pl.struct(fields))
    return made, pl.any_horizontal(misfits) if misfits else None


def _convert_scalar(
    value: pl.Expr, found: pl.DataType, wanted: pl.DataType, strict: bool
) -> tuple[pl.Expr, pl.Expr | None]:
    if isinstance(found, pl.Datetime) and isinstance(wanted, pl.Datetime):
        if (found.time_zone is None) != (wanted.time_zone is None):
            raise Misfit(": one has a time zone, the other has none, and which one it would be is not known")
        if found.time_zone != wanted.time_zone and wanted.time_zone is not None:
            value = value.dt.convert_time_zone(wanted.time_zone)
            found = pl.Datetime(found.time_unit, wanted.time_zone)
            if found == wanted:
                return value, None
    if lossless(found, wanted):
        return value.cast(wanted), None
    if isinstance(found, pl.Categorical | pl.Enum) and isinstance(wanted, pl.Categorical | pl.Enum):
        value, found = value.cast(pl.String), pl.String()
    if wanted == pl.String and not strict and (found.is_numeric() or found == pl.Boolean):
        return value.cast(pl.String), None
    if found == pl.Binary and wanted == pl.String:
        made = value.map_batches(_decoded, return_dtype=pl.String(), is_elementwise=True)
        return made, value.is_not_null() & made.is_null()
    made = value.cast(wanted, strict=False)
    if found.is_float() and wanted.is_float():  # floats round: but a number that is finite stays so
        return made, value.is_finite() & ~made.is_finite()
    if _same_kind(found, wanted):
        return made, value.is_not_null() & (made.cast(found, strict=False) != value).fill_null(True)
    if found == pl.String and isinstance(wanted, pl.Enum):
        return made, value.is_not_null() & made.is_null()
    if found == pl.String and (isinstance(wanted, pl.Categorical) or wanted == pl.Binary):
        return made, None
    raise Misfit


def _decoded(octets: pl.Series) -> pl.Series:
    """Bytes as text; null where they are not UTF-8 (Polars' own cast fails then, whatever it is told)."""
    try:
        return octets.cast(pl.String)
    except pl.exceptions.PolarsError:
        return pl.Series(octets.name, [_text_of(value) for value in octets], pl.String)


def _text_of(octets: bytes | None) -> str | None:
    try:
        return None if octets is None else octets.decode()
    except UnicodeDecodeError:
        return None


def _same_kind(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Are values of the two comparable, so that one that comes back the same has been kept?"""
    if found.is_numeric() and wanted.is_numeric():
        return True
    days = isinstance(found, pl.Date | pl.Datetime) and isinstance(wanted, pl.Date | pl.Datetime)
    zones = getattr(found, "time_zone", None) == getattr(wanted, "time_zone", None)
    return (days and zones) or (isinstance(found, pl.Duration) and isinstance(wanted, pl.Duration))


def lossless(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Does `wanted`, no list or struct, hold every value of `found`?"""
    if found == wanted or found == pl.Null:
        return True
    if isinstance(found, pl.Decimal) and isinstance(wanted, pl.Decimal):
        whole = (wanted.precision or 38) - wanted.scale - ((found.precision or 38) - found.scale)
        return wanted.scale >= found.scale and whole >= 0
    if found.is_integer() and wanted.is_integer():
        return _range(wanted)[0] <= _range(found)[0] and _range(found)[1] <= _range(wanted)[1]
    if found.is_integer() and wanted in (pl.Float64, pl.Float32):
        return _range(found)[1] <= (1 << (53 if wanted == pl.Float64 else 24))
    if found == pl.Float32 and wanted == pl.Float64:
        return True
    if isinstance(found, pl.Datetime) and isinstance(wanted, pl.Datetime):
        units = ("ms", "us")  # nanoseconds hold three centuries
        return found.time_zone == wanted.time_zone and (found.time_unit, wanted.time_unit) == units
    if found == pl.Date and isinstance(wanted, pl.Datetime):
        return wanted.time_zone is None and wanted.time_unit != "ns"
    return wanted == pl.String and isinstance(found, pl.Categorical | pl.Enum)


def _range(dtype: pl.DataType) -> tuple[int, int]:
    """The least and greatest value of an integer type."""
    text = str(dtype)
    bits = int(text.removeprefix("U").removeprefix("Int"))
    return (0, (1 << bits) - 1) if text.startswith("U") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _rest(value: pl.Expr, found: pl.DataType, wanted: pl.DataType) -> pl.Expr | None:
    """The fields that a struct, or structs in a list, have and the schema lacks; None where there are none."""
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        item = _rest(pl.element(), _dtype(found.inner), _dtype(wanted.inner))
        return None if item is None else value.list.eval(item)
    if not isinstance(found, pl.Struct) or not isinstance(wanted, pl.Struct):
        return None
    matched = match_names([field.name for field in found.fields], [field.name for field in wanted.fields])
    known = {field.name: _dtype(field.dtype) for field in wanted.fields}
    rests = []
    for place, field in enumerate(found.fields):
        own, dtype = value.struct.field(field.name), _dtype(field.dtype)
        rest = _rest(own, dtype, known[matched[place]]) if place in matched else _jsonable(own, dtype)
        if rest is not None:
            rests.append(rest.alias(field.name))
    return pl.when(value.is_not_null()).then(pl.struct(rests)) if rests else None


def _encoded(columns: Sequence[pl.Expr]) -> pl.Expr:
    """The columns as a JSON object; null where all are."""
    if not columns:
        return pl.lit(None, pl.String)
    some = pl.any_horizontal(column.is_not_null() for column in columns)
    return pl.when(some).then(pl.struct(columns).struct.json_encode())


def _as_json(rows: pl.DataFrame) -> list[str]:
    """Each row as a JSON object."""
    columns = [_jsonable(pl.col(name), dtype).alias(name) for name, dtype in rows.schema.items()]
    return rows.select(pl.struct(columns).struct.json_encode()).to_series().to_list()


def _jsonable(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """What JSON has no type for as text; bytes in base64."""
    if isinstance(dtype, pl.Binary):
        return value.bin.encode("base64")
    if isinstance(dtype, pl.List):
        return value.list.eval(_jsonable(pl.element(), _dtype(dtype.inner)))
    if isinstance(dtype, pl.Array):
        return value.arr.to_list().list.eval(_jsonable(pl.element(), _dtype(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        if not dtype.fields:
            return value
        fields = [_jsonable(value.struct.field(f.name), _dtype(f.dtype)).alias(f.name) for f in dtype.fields]
        return pl.when(value.is_not_null()).then(pl.struct(fields))
    if dtype in (pl.String, pl.Boolean, pl.Null) or (dtype.is_numeric() and not dtype.is_decimal()):
        return value
    return value.dt.to_string("iso") if isinstance(dtype, pl.Duration) else value.cast(pl.String)


def _dtype(dtype: object) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype  # type: ignore[return-value]
