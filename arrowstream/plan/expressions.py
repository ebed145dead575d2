"""Polars expressions as a small tree of our own: parse, look, change, build again.

`parse` reads the MessagePack form of an expression (`Expr.meta.serialize()`), which, unlike the JSON
form, keeps NaN and infinite literals and large integers. A tree holds what was said and nothing of Polars'
memory: it compares, hashes and pickles, so fingerprints are made of it. `build(parse(e))` is `e` again.

`expand` resolves what can name many columns (`pl.all()`, selectors, `pl.col("a", "b")`, struct fields)
against a schema, by the rules of Polars' own expansion, and is checked against Polars' answer each time.
The layout that is relied on is pinned by a test, so a Polars that changes it is found.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import polars.selectors as cs

from arrowstream.errors import PlanError, kind_of, unknown_column

PANIC = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises; a panic is a BaseException and must never reach a user."""

_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the input, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; `scalar` is False for a Series, which may be of any length."""

    value: bytes
    scalar: bool


@dataclass(frozen=True, slots=True)
class Selector:
    """Columns by a rule, to be resolved by `expand`."""

    rule: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on inputs: a function, an operator, an aggregate, an alias.

    `op` is the kind and, where it has one, the function: `BinaryExpr.Plus`, `Function.StringExpr.Uppercase`,
    `Agg.Sum`, `Cast`, `Len`. `options` is all the rest, encoded. `inner` are expressions of a
    scope of their own (the body of `list.eval`), where a column is not a column of the frame.
    """

    op: str
    options: bytes
    inputs: tuple[Node, ...] = ()
    inner: tuple[Node, ...] = ()

    @property
    def detail(self) -> Any:
        """The options, decoded: plain lists, dicts and values, as Polars writes them."""
        return msgspec.msgpack.decode(self.options)


@dataclass(frozen=True, slots=True)
class Opaque:
    """A form that this module does not know; `why` says so in words."""

    why: str
    form: bytes


Node = Column | Literal | Selector | Call | Opaque

# Where a kind of call keeps its inputs: the fields that hold one, and the field that holds a list.
_SLOTS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "AnonymousFunction": ((), "input"),
    "BinaryExpr": (("left", "right"), None),
    "Cast": (("expr",), None),
    "Eval": (("expr",), None),
    "Explode": (("input",), None),
    "Filter": (("input", "by"), None),
    "Function": ((), "input"),
    "Gather": (("expr", "idx"), None),
    "Over": (("function",), "partition_by"),
    "RenameAlias": (("expr",), None),
    "Rolling": (("function", "index_column"), None),
    "Slice": (("input", "offset", "length"), None),
    "Sort": (("expr",), None),
    "SortBy": (("expr",), "by"),
    "StructEval": (("expr",), None),
    "Ternary": (("predicate", "truthy", "falsy"), None),
}

# Functions that take all the columns of a selector as inputs, instead of one call a column.
_TAKES_ALL = frozenset(
    f"Function.{name}"
    for name in (
        "ArrayExpr.Concat",
        "AsStruct",
        "Boolean.AllHorizontal",
        "Boolean.AnyHorizontal",
        "Coalesce",
        "FoldHorizontal",
        "ListExpr.Concat",
        "MaxHorizontal",
        "MeanHorizontal",
        "MinHorizontal",
        "ReduceHorizontal",
        "StringExpr.ConcatHorizontal",
        "SumHorizontal",
    )
)

_encode = msgspec.msgpack.encode


def parse(expr: pl.Expr) -> Node:
    """The tree of an expression; what Polars cannot write down becomes one `Opaque`."""
    try:
        form = expr.meta.serialize()
    except PANIC as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Opaque(f"it cannot be serialized ({first})", b"")
    return _node(msgspec.msgpack.decode(form))


def build(node: Node) -> pl.Expr:
    """The expression of a tree. Raises PlanError for an `Opaque` that was never serialized."""
    if isinstance(node, Opaque) and not node.form:
        raise PlanError(f"this expression cannot be rebuilt: {node.why}")
    return pl.Expr.deserialize(io.BytesIO(_encode(_form(node))))


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, outermost first; the bodies of inner scopes are left out."""
    yield node
    if isinstance(node, Call):
        for child in node.inputs:
            yield from walk(child)


def columns(node: Node) -> set[str]:
    """The columns of the frame that a tree reads, those in inner scopes included."""
    if isinstance(node, Column):
        return {node.name} if node.name else set()
    if not isinstance(node, Call):
        return set()
    return set().union(*(columns(child) for child in (*node.inputs, *node.inner)))


def unaliased(node: Node) -> Node:
    """The tree without the names given at its top."""
    while isinstance(node, Call) and node.op in ("Alias", "RenameAlias", "KeepName"):
        node = node.inputs[0]
    return node


def describe(node: Node, limit: int = 80) -> str:
    """The expression of a tree as Polars prints it, on one line and cut to `limit` characters."""
    if isinstance(node, Opaque) and not node.form:
        return "<an expression that cannot be serialized>"
    text = " ".join(str(build(node)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def expand(schema: pl.Schema, *exprs: Any, **named: Any) -> list[tuple[str, pl.Expr]]:
    """One output name and one single-output expression for each column that `select` would give.

    Takes what `LazyFrame.select` takes: names, expressions, selectors, one iterable of those, plain values,
    and `name=expression`. The expressions no longer carry their name: alias them by the name beside them.
    Raises ColumnError for a column that is not there and PlanError for all else that Polars refuses.
    """
    inputs = as_expressions(exprs, named)
    found = resolve(pl.LazyFrame(schema=schema).select(inputs), schema)
    return _named(inputs, found, schema, frozenset())


def expand_grouped(
    schema: pl.Schema, by: Sequence[pl.Expr], aggs: Sequence[pl.Expr]
) -> tuple[list[tuple[str, pl.Expr]], list[tuple[str, pl.Expr]]]:
    """Expand `group_by(by).agg(aggs)` into keys and aggregates; selectors in `aggs` leave the keys out."""
    keys = expand(schema, *by) if by else []
    if not by:
        return [], expand(schema, *aggs)
    found = resolve(pl.LazyFrame(schema=schema).group_by(by).agg(aggs), schema)
    outputs = pl.Schema(list(found.items())[len(keys) :])
    return keys, _named(aggs, outputs, schema, frozenset(name for name, _ in keys))


def as_expressions(exprs: Sequence[Any], named: Mapping[str, Any]) -> list[pl.Expr]:
    """What `LazyFrame.select` takes, as a list of expressions; strings are columns, values are literals."""
    if (
        len(exprs) == 1
        and isinstance(exprs[0], Iterable)
        and not isinstance(exprs[0], str | bytes | Mapping | pl.Series | pl.Expr)
    ):
        exprs = list(exprs[0])
    plain = [_as_expression(value) for value in exprs]
    return plain + [_as_expression(value).alias(name) for name, value in named.items()]


def resolve(plan: pl.LazyFrame, schema: pl.Schema, where: str = "the frame") -> pl.Schema:
    """The schema of a plan over `schema`, with Polars' errors in our words, and without its forty lines."""
    try:
        return plan.collect_schema()
    except PANIC as error:
        raise plan_error(error, schema, where) from None


def plan_error(error: BaseException, schema: pl.Schema, where: str = "the frame") -> PlanError:
    """The error of ours for one of Polars', without the plan that Polars prints after the first lines."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, pl.exceptions.ColumnNotFoundError):
        name = lines[-1].strip() if len(lines) > 1 else lines[0]
        quoted = lines[0].split('"')
        missing = quoted[1] if len(quoted) > 2 else name
        if missing not in schema:
            return unknown_column(missing, where, schema.names())
    text = lines[0].strip().rstrip(".")
    return PlanError(f"Polars cannot plan this over {where}: {text}")


@dataclass(frozen=True, slots=True, eq=False)
class ExprRef:
    """An expression as a value: it compares, hashes, pickles and knows the user's line.

    `source` is `file:line` of the first caller outside this package, for error messages; it takes no
    part in comparisons.
    """

    expr: pl.Expr
    source: str = ""

    @classmethod
    def here(cls, expr: pl.Expr) -> ExprRef:
        """Wrap an expression and note the line of the user's code that is being run."""
        return cls(expr, user_line())

    @property
    def tree(self) -> Node:
        """The expression's tree."""
        return parse(self.expr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExprRef) and (
            self.expr is other.expr or self.expr.meta.eq(other.expr) or self.tree == other.tree
        )

    def __hash__(self) -> int:
        # Polars calls some trees equal that differ in options, so only operations and columns count.
        return hash(tuple(_outline(self.tree)))

    def __repr__(self) -> str:
        return f"{self.expr}"


def user_line() -> str:
    """`file:line` of the innermost running frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _outline(node: Node) -> Iterator[str]:
    for part in walk(node):
        yield part.name if isinstance(part, Column) else getattr(part, "op", type(part).__name__)


def _as_expression(value: Any) -> pl.Expr:
    if isinstance(value, Mapping):
        raise PlanError(f"a dict is no expression: {_instead_of_dict(value)}")
    if type(value).__module__.partition(".")[0] == "pandas":
        raise PlanError(f"{kind_of(value)} is no expression")
    if isinstance(value, pl.Expr):
        return value
    return pl.col(value) if isinstance(value, str) else pl.lit(value)


def _instead_of_dict(value: Mapping[Any, Any]) -> str:
    """What to write for the dicts that pandas and Spark take: `agg({"v": "sum"})`."""
    for name, how in value.items():
        first = how if isinstance(how, str) else how[0] if isinstance(how, list | tuple) and how else None
        if isinstance(name, str) and isinstance(first, str):
            method = {"avg": "mean", "count": "count", "nunique": "n_unique", "size": "len"}.get(first, first)
            return f'write pl.col("{name}").{method}() in place of {{{name!r}: {how!r}}}'
    return "write name=expression, or expression.alias(name)"


def _named(
    exprs: Sequence[pl.Expr], found: pl.Schema, schema: pl.Schema, ignored: frozenset[str]
) -> list[tuple[str, pl.Expr]]:
    """Pair the variants of `exprs` with the columns that Polars gives for them."""
    variants: list[pl.Expr] = []
    for expr in exprs:
        tree = unaliased(parse(expr))
        many = [tree] if isinstance(tree, Opaque) else _variants(tree, schema, ignored)
        # The very expression where nothing was expanded: a user's function then stays the same object.
        plain = isinstance(tree, Opaque) or (len(many) == 1 and many[0] == tree and tree == parse(expr))
        variants.extend([expr] if plain else [build(one) for one in many])
    if len(variants) != len(found):
        texts = ", ".join(str(expr) for expr in exprs)
        raise PlanError(
            f"cannot tell which columns {texts} stands for: Polars gives {len(found)} "
            f"({', '.join(found)}), its parts give {len(variants)}; name the columns one by one"
        )
    return list(zip(found, variants, strict=True))


def _variants(node: Node, schema: pl.Schema, ignored: frozenset[str]) -> list[Node]:
    """The single-output trees that a tree stands for, in the order of their columns."""
    if isinstance(node, Selector):
        found = cs.expand_selector(schema, build(node).meta.as_selector())
        # Polars leaves the keys of a group out of rules, but not out of a list of names.
        by_name = "ByName" in msgspec.msgpack.decode(node.rule)
        return [Column(name) for name in found if by_name or name not in ignored]
    if not isinstance(node, Call):
        return [node]
    branches = [_variants(child, schema, ignored) for child in node.inputs]
    if node.op in _TAKES_ALL:
        return [replace(node, inputs=tuple(child for branch in branches for child in branch))]
    width = max((len(branch) for branch in branches if len(branch) != 1), default=1)
    if any(len(branch) not in (1, width) for branch in branches):
        raise PlanError(f"{describe(node)} combines selectors of unequal numbers of columns")
    rows = [
        replace(node, inputs=tuple(branch[i if len(branch) > 1 else 0] for branch in branches)) for i in range(width)
    ]
    if node.op == "Function.StructExpr.SelectFields":
        return [field for row in rows for field in _fields(row, schema)]
    return list(rows)


def _fields(node: Call, schema: pl.Schema) -> list[Node]:
    """One call a field for the selection of several fields of a struct."""
    (dtype,) = resolve(pl.LazyFrame(schema=schema).select(build(node.inputs[0])), schema).values()
    if not isinstance(dtype, pl.Struct):
        raise PlanError(f"{describe(node)} asks for the fields of a {dtype}, which is not a struct")
    rule = build(Selector(_encode(node.detail["function"]["StructExpr"]["SelectFields"]))).meta.as_selector()
    names = cs.expand_selector(pl.Schema({field.name: field.dtype for field in dtype.fields}), rule)
    op = "Function.StructExpr.FieldByName"
    return [Call(op, _encode({"function": {"StructExpr": {"FieldByName": name}}}), node.inputs) for name in names]


def _node(form: Any) -> Node:
    """Our node for Polars' form: a bare word, or a map of one kind to its fields."""
    if isinstance(form, str):
        return Call(form, _encode(None)) if form in ("Len", "Element") else _unknown(form, form)
    kind, fields = next(iter(form.items()))
    match kind:
        case "Column":
            return Column(fields)
        case "Literal":
            return Literal(_encode(fields), "Scalar" in fields or "Dyn" in fields)
        case "Selector":
            return Selector(_encode(fields))
        case "Field":
            return Call("Field", _encode(fields))
        case "Alias" | "KeepName":
            inner, *name = fields if kind == "Alias" else [fields]
            return Call(kind, _encode(name), (_node(inner),))
        case "Agg":
            return _aggregate(fields)
    if kind not in _SLOTS:
        return _unknown(kind, form)
    single, listed = _SLOTS[kind]
    inputs = [_node(fields[slot]) for slot in single]
    inputs += [_node(one) for one in fields[listed]] if listed else []
    body = fields.get("evaluation", [])
    inner = tuple(_node(one) for one in (body if isinstance(body, list) else [body]))
    rest = {slot: value for slot, value in fields.items() if slot not in (*single, listed)}
    return Call(_operation(kind, fields), _encode(rest), tuple(inputs), inner)


def _unknown(kind: str, form: Any) -> Opaque:
    return Opaque(f"the kind of expression {kind!r} is not known", _encode(form))


def _aggregate(fields: dict[str, Any]) -> Call:
    # Three layouts: {"Sum": input}, {"Std": [input, ddof]}, {"Min": {"input": ..., "propagate_nans": ...}}.
    name, body = next(iter(fields.items()))
    if isinstance(body, list):
        return Call(f"Agg.{name}", _encode(body[1:]), (_node(body[0]),))
    if isinstance(body, dict) and "input" in body:
        rest = {slot: value for slot, value in body.items() if slot != "input"}
        return Call(f"Agg.{name}", _encode(rest), (_node(body["input"]),))
    return Call(f"Agg.{name}", _encode(None), (_node(body),))


def _operation(kind: str, fields: Any) -> str:
    if kind == "BinaryExpr":
        return f"BinaryExpr.{fields['op']}"
    if kind == "Eval":
        variant = fields["variant"]
        return f"Eval.{variant if isinstance(variant, str) else next(iter(variant))}"
    if kind != "Function":
        return kind
    function = fields["function"]
    words = ["Function"]
    # {"StringExpr": {"Strptime": [...]}} and "Negate": a word is CamelCase, an option is not.
    while isinstance(function, dict) and len(function) == 1 and (word := next(iter(function)))[0].isupper():
        words.append(word)
        function = function[word]
        if len(words) == 3:
            break
    if isinstance(function, str) and len(words) < 3 and function[:1].isupper():
        words.append(function)
    return ".".join(words)


def _form(node: Node) -> Any:
    """Polars' form of our node; the reverse of `_node`."""
    match node:
        case Column(name):
            return {"Column": name}
        case Literal(value):
            return {"Literal": msgspec.msgpack.decode(value)}
        case Selector(rule):
            return {"Selector": msgspec.msgpack.decode(rule)}
        case Opaque(_, form):
            return msgspec.msgpack.decode(form)
    rest, inputs = node.detail, [_form(child) for child in node.inputs]
    kind, _, name = node.op.partition(".")
    match kind:
        case "Len" | "Element":
            return kind
        case "Field":
            return {"Field": rest}
        case "Alias":
            return {"Alias": [inputs[0], *rest]}
        case "KeepName":
            return {"KeepName": inputs[0]}
        case "Agg":
            match rest:
                case None:
                    return {"Agg": {name: inputs[0]}}
                case list():
                    return {"Agg": {name: [inputs[0], *rest]}}
                case _:
                    return {"Agg": {name: {"input": inputs[0], **rest}}}
    single, listed = _SLOTS[kind]
    fields = {**rest, **dict(zip(single, inputs, strict=False))}
    if listed:
        fields[listed] = inputs[len(single) :]
    return {kind: fields}
