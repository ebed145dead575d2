"""What a JSON object has beyond a schema."""

from __future__ import annotations

import msgspec
import pyarrow as pa


def rest_of(record: bytes, schema: pa.Schema) -> bytes | None:
    """The fields of an object that the schema lacks, within structs and lists of them too, as a JSON object with the
    values as they stand there; None where it has none. An item of a list that has none is null."""
    return _rest(record, pa.struct(list(schema)))


def _rest(value: bytes, target: pa.DataType) -> bytes | None:
    if pa.types.is_struct(target) and value[:1] == b"{":
        known = {field.name: field.type for field in target}
        found = []
        for name, item in msgspec.json.decode(value, type=dict[str, msgspec.Raw]).items():
            rest = _rest(bytes(item), known[name]) if name in known else bytes(item)
            if rest is not None:
                found.append(msgspec.json.encode(name) + b":" + rest)
        return b"{" + b",".join(found) + b"}" if found else None
    if pa.types.is_large_list(target) and value[:1] == b"[" and pa.types.is_nested(target.value_type):
        rests = [_rest(bytes(item), target.value_type) for item in msgspec.json.decode(value, type=list[msgspec.Raw])]
        return b"[" + b",".join(rest or b"null" for rest in rests) + b"]" if any(rests) else None
    return None
