"""What goes between processes: messages as MessagePack, tables as Arrow IPC, every call with a token."""

from __future__ import annotations

import hmac
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.flight as flight

from arrowstream.blocks.block import BlockInfo
from arrowstream.cluster.executor import Event, Instruction
from arrowstream.ids import WorkerId
from arrowstream.settings import Settings

_HEADER = "authorization"


class WorkerConfig(msgspec.Struct, frozen=True):
    """The first line a worker process reads: who it is, the token without which it answers nobody, the file for its
    last words, and the process that has started it."""

    worker: WorkerId
    token: str
    settings: Settings
    notebook: str
    parent: int


class StateHeader(msgspec.Struct, frozen=True):
    """Goes before a table of state (`executor.StateCopy` without its table)."""

    unit: str
    partition: int
    name: str
    version: int
    snapshot: bool
    keys: list[str]


def _encode_arrow(value: Any) -> bytes:
    if isinstance(value, pa.Table):
        table = value
    elif isinstance(value, pa.Array):
        table = pa.table([value], ["array"])
    else:
        raise NotImplementedError(f"{type(value).__name__} cannot go between processes")
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def _decode_arrow(kind: type, value: Any) -> Any:
    table = pa.ipc.open_stream(value).read_all()
    return table if kind is pa.Table else table.column(0).combine_chunks()


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_arrow)
_instructions = msgspec.msgpack.Decoder(Instruction, dec_hook=_decode_arrow)
_events = msgspec.msgpack.Decoder(list[Event], dec_hook=_decode_arrow)
_infos = msgspec.msgpack.Decoder(BlockInfo)


def encode(message: Any) -> bytes:
    """A message, or a list of them."""
    return _encoder.encode(message)


def decode_instruction(data: bytes) -> Instruction:
    instruction: Instruction = _instructions.decode(data)
    return instruction


def decode_events(data: bytes) -> list[Event]:
    return _events.decode(data)


def decode_info(data: bytes) -> BlockInfo:
    return _infos.decode(data)


def call_options(token: str, timeout: float | None = None) -> flight.FlightCallOptions:
    """The options that every call carries."""
    headers = [(_HEADER.encode(), f"Bearer {token}".encode())]
    return flight.FlightCallOptions(timeout=timeout, headers=headers)


class TokenFactory(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Turns away every call that does not carry the token."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._expected = f"Bearer {token}"

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> None:
        given = next((values for name, values in headers.items() if name.lower() == _HEADER), [""])[0]
        if not hmac.compare_digest(str(given), self._expected):
            raise flight.FlightUnauthenticatedError("the token is missing or wrong")
