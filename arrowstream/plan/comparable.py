"""Comparisons of types that cannot be compared: Polars accepts them when it plans, and fails when it runs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

import polars as pl

from arrowstream.errors import ColumnError, PlanError
from arrowstream.plan.expressions import PANIC, Call, Column, Literal, Node, build, describe, resolve, walk

_COMPARISONS: Final = frozenset(
    f"BinaryExpr.{name}" for name in ("Eq", "EqValidity", "Gt", "GtEq", "Lt", "LtEq", "NotEq", "NotEqValidity")
)


def check_comparisons(call: str, tree: Node, schema: pl.Schema) -> None:
    """Raise `PlanError` where a tree over columns of `schema` compares, say, times of two zones."""
    for node in walk(tree):
        if isinstance(node, Call) and node.op in _COMPARISONS:
            types = tuple(None if isinstance(each, Literal) else _dtype(each, schema) for each in node.inputs)
            sides = [each if isinstance(each, Literal) else Column(str(at)) for at, each in enumerate(node.inputs)]
            if not _runs(replace(node, inputs=tuple(sides)), types):
                one, two = (dtype or describe(each) for dtype, each in zip(types, node.inputs, strict=True))
                raise PlanError(
                    f"{call}: {describe(node)} compares {one} with {two}, which cannot be; cast one of them"
                )


def _dtype(node: Node, schema: pl.Schema) -> pl.DataType | None:
    try:
        (dtype,) = resolve(pl.LazyFrame(schema=schema).select(build(node).alias("value")), schema).values()
    except ColumnError:
        return None  # a field of a struct, in a scope of its own
    return dtype


@lru_cache(maxsize=1000)
def _runs(node: Call, types: tuple[pl.DataType | None, ...]) -> bool:
    """Whether a comparison of columns of these types, called 0 and 1, runs; also where nobody knows the types."""
    if any(dtype is None and not isinstance(each, Literal) for dtype, each in zip(types, node.inputs, strict=True)):
        return True
    rows = pl.DataFrame(schema={str(at): dtype for at, dtype in enumerate(types) if dtype is not None})
    try:
        rows.select(build(node).alias("value"))
    except PANIC:
        return False
    return True
