"""JSON: objects one after the other or in arrays, each over as many lines as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np

from arrowstream.connectors.formats.format import Decoded
from arrowstream.connectors.formats.ndjson import NdjsonFormat
from arrowstream.connectors.formats.records import Cutter, JsonRecords

_BETWEEN = b" \t\r\n,[]"


@dataclass(frozen=True, slots=True)
class JsonFormat(NdjsonFormat):
    """Each object is a row: of an array, one that fills the file, or one of several in a row.

    What a value becomes is as in NDJSON. What stands between objects and is no part of an array is refused. A record
    that lacks its closing brace takes in what follows; where records are lines, `ndjson` loses that line only.
    """

    def cutter(self) -> Cutter:
        return JsonRecords()

    def decode(self, data: bytes) -> Decoded:
        records, refused = self.records(data)
        return self.decode_records(records, refused) if refused else super(JsonFormat, self).decode(b"\n".join(records))

    def records(self, data: bytes) -> tuple[list[bytes], dict[int, str]]:
        """The objects, a line each, and among them what is none, with the reason by its place."""
        ends = JsonRecords().feed(np.frombuffer(data, np.uint8)).tolist()
        records: list[bytes] = []
        refused: dict[int, str] = {}
        for begin, end in pairwise([0, *ends]):
            record = data[begin:end].lstrip(_BETWEEN)
            if not record.startswith(b"{"):
                between, brace, record = record.partition(b"{")
                refused[len(records)] = "not a JSON object"
                records.append(between.rstrip(_BETWEEN))
                record = brace + record
            if b"\n" in record or b"\r" in record:
                try:
                    record = msgspec.json.format(record, indent=-1)
                except (msgspec.MsgspecError, RecursionError) as error:
                    refused[len(records)] = f"not JSON: {str(error).removeprefix('JSON is malformed: ')}"
            if record:
                records.append(record)
        if rest := data[ends[-1] if ends else 0 :].strip(_BETWEEN):
            refused[len(records)] = "the JSON object has no end" if b"{" in rest else "not a JSON object"
            records.append(rest)
        return records, refused
