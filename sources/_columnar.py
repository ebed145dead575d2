"""Parquet and Arrow IPC files: their footers, and frames over ranges of their rows."""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PanicException

from arrowstream.errors import SourceError
from arrowstream.sources._knownfiles import Stamp, mark_of
from arrowstream.sources._unfinished import Unfinished

_MAGIC = {"parquet": b"PAR1", "ipc": b"ARROW1"}


@dataclass(frozen=True, slots=True)
class Footer:
    """What a columnar file says of itself.

    ends    where each row group ends, in rows
    nbytes  the size of the rows
    stamp   what the file is: another one in its place has another
    ranges  for each row group the lowest and highest value of its columns of times and whole numbers, as physical
            integers; without those that have nulls, or of which it does not say
    """

    schema: pl.Schema
    ends: tuple[int, ...]
    nbytes: int
    stamp: Stamp
    ranges: tuple[Mapping[str, tuple[int, int]], ...] = ()

    @property
    def num_rows(self) -> int:
        return self.ends[-1] if self.ends else 0

    def cut(self, first: int, most: int) -> int:
        """Where to stop after at most `most` rows from `first`: where a row group ends, or within one too large."""
        if first == self.num_rows:
            return first
        place = bisect_right(self.ends, first + most)
        return self.ends[place - 1] if place and self.ends[place - 1] > first else first + most

    def ranges_of(self, first: int, last: int) -> Mapping[str, tuple[int, int]]:
        """The ranges of the rows from `first` up to `last`; none where a row group is cut."""
        places = [0, *self.ends]
        if not self.ranges or first not in places or last not in places:
            return {}
        return widest(self.ranges[places.index(first) : places.index(last)])

    def nbytes_of(self, count: int) -> int:
        return self.nbytes * count // max(self.num_rows, 1)


def read_footer(path: str, format: str) -> Footer:
    """The footer of a file. Raises `Unfinished`, `FileNotFoundError`, or `SourceError` for what is no such file.

    Whoever polls a file and whoever scans it want its footer, so the last ones are kept (1 ms each).
    """
    return _read_footer(path, format, Stamp.of(os.stat(path)))


@dataclass(frozen=True)
class _Written:
    """A Parquet file's schema as Arrow has it, with its metadata; which file does not matter."""

    schema: pa.Schema
    path: str = field(compare=False)

    def __hash__(self) -> int:
        return hash(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Written) and self.schema.equals(other.schema, check_metadata=True)


@lru_cache(maxsize=64)
def _read_as(written: _Written) -> tuple[pl.Schema, Sequence[tuple[int, str]]]:
    """What Polars reads in files of this schema (0.15 ms), the same for most files of a directory; and which columns
    count, by their places among those of the file."""
    _check_columns(written.path, written.schema)
    schema = scan_file(written.path, "parquet").collect_schema()
    group = pq.read_metadata(written.path)
    columns = ((place, group.schema.column(place).path) for place in range(group.num_columns))
    return schema, [(place, name) for place, name in columns if name in schema and _counts(schema[name])]


@lru_cache(maxsize=1024)
def _read_footer(path: str, format: str, seen: Stamp) -> Footer:
    tail = _tail(path, format, 1 << 14)
    stamp = replace(seen, mark=mark_of(tail))
    with reading(path):
        if format == "parquet":
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if length > len(tail):
                tail = _tail(path, format, length)
            return _parquet_footer(path, pq.read_metadata(pa.BufferReader(tail)), stamp)
        with pa.memory_map(path) as file, pa.ipc.open_file(file) as reader:
            _check_columns(path, reader.schema)
            schema = scan_file(path, format).collect_schema()
            return Footer(schema, (reader.count_rows(),), stamp.size, stamp)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Whatever reading a columnar file raises, a native library's panic among it, as a `SourceError` with its path."""
    try:
        yield
    except (FileNotFoundError, SourceError, Unfinished):
        raise
    except (OSError, ValueError, OverflowError, pa.ArrowException, pl.exceptions.PolarsError, PanicException) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise SourceError(f"{path} is damaged: {said[0]}") from error


def _check_columns(path: str, schema: pa.Schema) -> None:
    """Raise `SourceError` for a sound file that Polars cannot read: it panics at what it has no type for."""
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise SourceError(f"{path} has {schema.names.count(name)} columns of the name {name!r}: write it with one")
    for column in schema:
        if (lacking := _lacking(column.type)) is not None:
            raise SourceError(
                f"{path} cannot be read: its column {column.name!r} has {lacking}, which Polars has no type for;"
                " write the file without it, or with another type for it"
            )


def _lacking(found: pa.DataType) -> str | None:
    """The type that Polars lacks, in a type or within it; None where it has all of it."""
    types = pa.types
    if isinstance(found, pa.BaseExtensionType):
        return _lacking(found.storage_type)
    if types.is_timestamp(found) and re.fullmatch(r"[+-]\d\d:?\d\d", found.tz or ""):
        return None if found.tz in ("+00:00", "-00:00") else f"{found} (zones have names: 'UTC', 'Asia/Kolkata')"
    if types.is_dictionary(found):
        return _lacking(found.value_type)
    if types.is_decimal(found) and found.precision > 38:
        return str(found)
    plain = (
        types.is_union,
        types.is_run_end_encoded,
        types.is_list_view,
        types.is_large_list_view,
        types.is_interval,
    )
    if any(is_such(found) for is_such in plain):
        return str(found)
    if types.is_nested(found):
        inner = (_lacking(found.field(place).type) for place in range(found.num_fields))
        return next((lacking for lacking in inner if lacking is not None), None)
    return None


def _parquet_footer(path: str, metadata: pq.FileMetaData, stamp: Stamp) -> Footer:
    schema, counting = _read_as(_Written(metadata.schema.to_arrow_schema(), path))
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    ends = tuple(accumulate(group.num_rows for group in groups))
    ranges = tuple(_ranges(group, counting) for group in groups)
    return Footer(schema, ends, sum(group.total_byte_size for group in groups), stamp, ranges)


def _tail(path: str, format: str, most: int) -> bytes:
    """The last bytes of a file, which end as its format does: in one read, since receivers read many."""
    magic = _MAGIC[format]
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        tail = os.pread(file.fileno(), most, max(size - most, 0))
        if tail.endswith(magic) and size > 2 * len(magic):
            return tail
        head = file.read(len(magic))
    if not magic.startswith(head):
        raise SourceError(f"{path} is no {_NAMES[format]} file: it begins with {head!r}")
    raise Unfinished(f"{path} has no footer: it is still being written, or was cut off")


def widest(ranges: Sequence[Mapping[str, tuple[int, int]]]) -> Mapping[str, tuple[int, int]]:
    """The ranges of several stretches of rows together, of columns of which all of them tell."""
    if len(ranges) <= 1:
        return ranges[0] if ranges else {}
    known = set(ranges[0]).intersection(*ranges[1:])
    return {name: (min(each[name][0] for each in ranges), max(each[name][1] for each in ranges)) for name in known}


def _ranges(group: pq.RowGroupMetaData, counting: Sequence[tuple[int, str]]) -> Mapping[str, tuple[int, int]]:
    found = {}
    for place, name in counting:
        column = group.column(place)
        if column.path_in_schema != name or column.physical_type not in ("INT32", "INT64"):
            continue
        told = column.statistics
        if told is not None and told.has_min_max and told.has_null_count and not told.null_count:
            found[name] = (int(told.min_raw), int(told.max_raw))
    return found


def _counts(dtype: pl.DataType) -> bool:
    """Whether a column's values are kept in files as the signed integers that Polars has for them."""
    return isinstance(dtype, pl.Datetime | pl.Date) or dtype in (pl.Int64, pl.Int32)


def scan_file(path: str, format: str, row_number: str | None = None) -> pl.LazyFrame:
    """All rows of a file, as it has them; `row_number` names a column that counts them."""
    if format == "parquet":
        return pl.scan_parquet(path, glob=False, hive_partitioning=False, row_index_name=row_number)
    return pl.scan_ipc(path, glob=False, hive_partitioning=False, row_index_name=row_number)


_NAMES = {"parquet": "Parquet", "ipc": "Arrow IPC"}
