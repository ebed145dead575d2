"""What a format promises: a buffer of whole lines in, one Arrow record batch and the refused lines out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from arrowstream.connectors.formats.records import Cutter
from arrowstream.connectors.source import REJECT_SCHEMA


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a buffer held: its rows, in order, and the lines that are no rows (`REJECT_SCHEMA`), in order."""

    rows: pa.RecordBatch
    rejects: pa.RecordBatch | None = None


class Format(Protocol):
    """A way to write rows as lines, or as records of several. A picklable description; decoding keeps nothing between
    calls.

    What becomes of a record depends on that record alone, never on its neighbours in the buffer.
    """

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def header(self) -> bool:
        """The first record of a file, or connection, is no row but names of columns, say: it goes to `with_header`."""

    def with_header(self, line: bytes) -> Format:
        """This format for what follows such a record; it may want one more. Raises `ValueError` where it cannot be."""

    def cutter(self) -> Cutter | None:
        """What finds the ends of records, anew for each file or connection; None where a line is a record."""

    def decode(self, data: bytes) -> Decoded:
        """Rows of whole records; the last one may lack its end. The rows may share memory with `data`."""


def count_lines(data: bytes) -> int:
    """How many lines a buffer of whole lines has; the last one may lack its line end."""
    if not data:
        return 0
    ends = int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n")))
    return ends if data.endswith(b"\n") else ends + 1


def make_rejects(
    refused: Sequence[tuple[bytes, str]],
    *,
    path: str | None = None,
    lines: Sequence[int | None] | None = None,
    offsets: Sequence[int | None] | None = None,
) -> pa.RecordBatch | None:
    """Refused records and their reasons as a record batch (`REJECT_SCHEMA`), with the place of each where it is known;
    None where there are none."""
    if not refused:
        return None
    raw, reasons = zip(*refused, strict=True)
    unknown = [None] * len(refused)
    columns = [raw, reasons, [path] * len(refused), lines or unknown, offsets or unknown]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, REJECT_SCHEMA.types, strict=True)]
    return pa.record_batch(arrays, REJECT_SCHEMA)


def is_utf8(data: bytes) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(line: bytes) -> str | None:
    """Why a line is not UTF-8; None where it is."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start}"
    return None
