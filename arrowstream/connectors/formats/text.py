"""Text: one row a line, in one String column `line`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from arrowstream.connectors.formats.format import Decoded, make_rejects, not_utf8


@dataclass(frozen=True, slots=True)
class TextFormat:
    r"""One row a line; `\n` and `\r\n` end a line and are not part of it. An empty line is a row too."""

    schema: ClassVar[pa.Schema] = pa.schema([("line", pa.string_view())])
    header: ClassVar[bool] = False

    def with_header(self, line: bytes) -> TextFormat:
        raise ValueError("text has no header")

    def cutter(self) -> None:
        return None

    def decode(self, data: bytes) -> Decoded:
        """The lines of `data`, as views of its memory. A line that is not UTF-8 is refused."""
        try:
            return Decoded(self._rows(data))
        except pa.ArrowInvalid:
            pass
        good, refused = [], []
        for line in data.removesuffix(b"\n").split(b"\n"):
            if reason := not_utf8(line):
                refused.append((line, reason))
            else:
                good.append(line)
        return Decoded(self._rows(b"".join(line + b"\n" for line in good)), make_rejects(refused))

    def _rows(self, data: bytes) -> pa.RecordBatch:
        if not data:
            return pa.record_batch([pa.array([], pa.string_view())], self.schema)
        lines = pl.Series(_one_string(data)).str.split("\n").explode()
        if b"\r" in data:
            lines = lines.str.strip_suffix("\r")
        return pa.record_batch([lines.to_arrow(compat_level=pl.CompatLevel.newest())], self.schema)


def _one_string(data: bytes) -> pa.Array:
    """All of `data` but its last line end as one string, without a copy; raises `ArrowInvalid` if not UTF-8."""
    length = len(data) - data.endswith(b"\n")
    offsets = pa.py_buffer(np.array([0, length], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)]).cast(pa.large_string())
