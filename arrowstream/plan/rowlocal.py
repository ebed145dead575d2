"""Decide whether an expression answers row by row, so that cutting the stream cannot change its answer.

Every node of the tree is looked at, not the outermost: `a - a.mean()` is arithmetic on top and an aggregate
below (`Expr.meta.is_row_separable()` says True for it). What is not on the allow-list is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import polars as pl

from arrowstream.errors import NotRowLocalError
from arrowstream.plan.elementwise import ELEMENTWISE, LENGTH_CHANGING, WHOLE_INPUT, refusal
from arrowstream.plan.expressions import Call, Column, Literal, Node, Opaque, build, describe, expand, parse, resolve

# polars-plan's FunctionFlags: 1 << 6 is ROW_SEPARABLE, 1 << 7 is LENGTH_PRESERVING. The user sets both by
# `is_elementwise=True`, and `map_elements` has them because Polars calls it value by value.
_ROW_SEPARABLE = (1 << 6) | (1 << 7)


class Height(IntEnum):
    """How many rows an expression gives on a frame."""

    SCALAR = 0
    """One, whatever the frame: it reads no column."""
    ROWS = 1
    """As many as the frame has."""
    CHANGED = 2
    """More or fewer: an explode, a filter."""


def check_row_local(call: str, expr: pl.Expr | Node, schema: pl.Schema, *, sole: bool = False) -> None:
    """Raise NotRowLocalError unless each output of `expr` is row-local over a frame of `schema`.

    `call` is the method that the user wrote and opens the message, which names the part of the expression
    at fault, why, and the call that does it. An expression that changes the number of rows passes only
    if it is the `sole` output. A constant passes: see `check_outputs` for a select of nothing else.
    """
    trees = [parse(one) for _, one in expand(schema, expr)] if isinstance(expr, pl.Expr) else [expr]
    for tree in trees:
        if height(call, tree, schema) is Height.CHANGED and not (sole and len(trees) == 1):
            raise NotRowLocalError(
                f"{call}: {describe(tree)} changes the number of rows, which only the sole output of a select may do; "
                f"use select with nothing beside it, or frame.explode(...), frame.filter(...), frame.drop_nulls(...)"
            )


def check_outputs(call: str, outputs: Sequence[tuple[str, pl.Expr]], schema: pl.Schema) -> None:
    """Check the expanded outputs of a select together: at least one has to follow the rows.

    A select of constants gives one row for each batch that arrives, so its height would tell of the cut.
    """
    heights = []
    for _, expr in outputs:
        tree = parse(expr)
        check_row_local(call, tree, schema, sole=len(outputs) == 1)
        heights.append(height(call, tree, schema))
    if outputs and all(one is Height.SCALAR for one in heights):
        first = describe(parse(outputs[0][1]))
        raise NotRowLocalError(
            f"{call}: {first} reads no column, so this would give one row for every batch; select a column beside it, "
            "or use with_columns(...) to add a constant to each row"
        )


def height(call: str, node: Node, schema: pl.Schema) -> Height:
    """How many rows a row-local tree gives; raises NotRowLocalError for one that is not row-local."""
    match node:
        case Column():
            return Height.ROWS
        case Literal(_, scalar):
            if not scalar and pl.select(build(node)).height != 1:
                raise _refused(call, node, "is a Series, whose length a batch need not have", "frame.join(...)")
            return Height.SCALAR
        case Opaque(why):
            raise _refused(call, node, f"cannot be looked into: {why}", "frame.map_batches(...)")
        case Call():
            return _call_height(call, node, schema)
    raise _refused(call, node, "is a selector in a place where Polars does not expand it", "the columns by name")


def _call_height(call: str, node: Call, schema: pl.Schema) -> Height:
    if node.op not in ELEMENTWISE | LENGTH_CHANGING and not _vouched(node):
        reason = refusal(node.op)
        raise _refused(call, node, reason.why, reason.cure)
    _check_special(call, node, schema)
    for inner in node.inner:
        _check_inner(call, node, inner)
    whole = WHOLE_INPUT.get(node.op, ())
    heights = [
        height(call, child, schema)
        for at, child in enumerate(node.inputs)
        if not (at in whole and isinstance(child, Literal))
    ]
    if heights.count(Height.CHANGED) > 1 or (Height.CHANGED in heights and Height.ROWS in heights):
        # One row left over by a filter would be broadcast; two would be an error.
        raise _refused(
            call, node, "combines columns of different lengths", "frame.filter(...) or frame.explode(...) first"
        )
    if node.op in LENGTH_CHANGING:
        if heights[0] is Height.SCALAR:
            raise _refused(call, node, "changes the length of a constant", "a column in its place")
        return Height.CHANGED
    return max(heights, default=Height.SCALAR)


def _vouched(node: Call) -> bool:
    """Whether a user's function is called value by value, or was declared to be elementwise."""
    detail = node.detail
    if node.op == "AnonymousFunction":
        options = detail.get("options", {})
    elif node.op == "Function.FfiPlugin":
        options = detail["function"]["FfiPlugin"].get("flags", {})
    else:
        return False
    flags = options.get("flags", 0) if isinstance(options, dict) else 0
    return isinstance(flags, int) and flags & _ROW_SEPARABLE == _ROW_SEPARABLE


def _check_special(call: str, node: Call, schema: pl.Schema) -> None:
    """Operations that are row-local only with some arguments or types."""
    match node.op:
        case "Function.StringExpr.Strptime":
            if node.detail["function"]["StringExpr"]["Strptime"][1]["format"] is None:
                why = "infers the format from the first value of the batch"
                raise _refused(call, node, why, 'format="%Y-%m-%d" or the like')
        case "Function.Bin":
            if "Breaks" not in node.detail["function"]["Bin"]["method"].get("Intervals", {}).get("spec", ()):
                raise _refused(call, node, "takes the limits of its bins from the batch", "bin_intervals([...], ...)")
        case "Function.ToPhysical" | "Function.Categorical.Physical" | "Cast":
            found, into = _dtype(node.inputs[0], schema), _dtype(node, schema)
            if isinstance(found, pl.Categorical) and (into.is_numeric() or node.op != "Cast"):
                why = "shows the codes of a Categorical, which follow the order of arrival"
                raise _refused(call, node, why, "cast(pl.Enum([...])) first")
        case "Function.Boolean.IsIn":
            left, right = (_dtype(child, schema) for child in node.inputs)
            if not isinstance(node.inputs[1], Literal) and (left.is_nested() or not right.is_nested()):
                why = "looks a value up in all rows of a column"
                raise _refused(call, node, why, 'frame.join(..., how="semi")')
        case "Function.ListExpr.Gather":
            pass  # a list of indices a row, or a constant
        case op if op in WHOLE_INPUT:
            for at in WHOLE_INPUT[op]:
                if at < len(node.inputs) and not isinstance(node.inputs[at], Literal):
                    raise _refused(call, node, "reads an argument as one whole column", "constant values there")


def _check_inner(call: str, outer: Call, node: Node) -> None:
    """What the body of list.eval may hold: anything that the one list determines.

    The fields of a struct (StructEval) are columns of the rows, so their expressions obey the common rule.
    """
    if outer.op == "StructEval":
        _check_fields(call, node)
        return
    if isinstance(node, Opaque) or (isinstance(node, Call) and _uncertain(node)):
        raise _refused(call, outer, "holds a part that one list does not determine", "frame.map_batches(...)")
    for child in (*node.inputs, *node.inner) if isinstance(node, Call) else ():
        _check_inner(call, outer, child)


def _uncertain(node: Call) -> bool:
    return node.op.startswith("Function.Random") or (node.op == "AnonymousFunction" and not _vouched(node))


def _check_fields(call: str, node: Node) -> None:
    if isinstance(node, Opaque) or (isinstance(node, Literal) and not node.scalar):
        raise _refused(call, node, "cannot be shown to work row by row", "frame.map_batches(...)")
    if isinstance(node, Call):
        if (node.op not in ELEMENTWISE or node.op in WHOLE_INPUT or node.inner) and not _vouched(node):
            reason = refusal(node.op)
            raise _refused(call, node, reason.why, reason.cure)
        for child in node.inputs:
            _check_fields(call, child)


def _dtype(node: Node, schema: pl.Schema) -> pl.DataType:
    (dtype,) = resolve(pl.LazyFrame(schema=schema).select(build(node).alias("_")), schema).values()
    return dtype


def _refused(call: str, node: Node, why: str, cure: str) -> NotRowLocalError:
    return NotRowLocalError(
        f"{call}: {describe(node)} {why}, so its answer would depend on how the stream is cut into batches; use {cure}"
    )
