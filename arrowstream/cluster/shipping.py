"""Plans on their way to workers: pickled with the user's functions, which keep the file and lines they are from."""

from __future__ import annotations

import io
from collections import ChainMap
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, ClassVar, Final

import cloudpickle


def pickled(value: object) -> bytes:
    """The pickle of a value; functions and classes of the user's program are in it as they are.

    cloudpickle leaves out which file a function is from: then no error on a worker could say where it happened.
    """
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def _code_with_its_file(code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    make, arguments = _reduce(code)[:2]
    return _code, (make, arguments, code.co_filename)


def _code(make: Callable[..., CodeType], arguments: tuple[Any, ...], file: str) -> CodeType:
    return make(*arguments).replace(co_filename=file)


_table: Final[Mapping[type, Callable[[Any], Any]]] = cloudpickle.Pickler.dispatch_table
_reduce: Final = _table[CodeType]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _code_with_its_file}, _table)  # type: ignore[arg-type]
