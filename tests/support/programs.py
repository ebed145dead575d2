"""Random programs: a few lines of code, as a user would write them, of all that a stream frame can do.

A program is text that runs, so that what fails can be shown, and made smaller line by line. Lines that the plan refuses
with an error of ours are left out; any other error is a fault.

What depends on the order of arrival is asked only where there is one: of rows as they come from their source. Floats
are multiples of a quarter, whose sums are exact; what is not (a mean, a variance) is called `x...`, and is no key.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from spans import SPANS, Span

import arrowstream as ars
from arrowstream.connectors.changes import Append
from arrowstream.frame import StreamFrame

COLUMNS = {
    "k": "pl.String()",
    "g": "pl.Float64()",
    "i": "pl.Int64()",
    "j": "pl.Int32()",
    "f": "pl.Float64()",
    "b": "pl.Boolean()",
    "l": "pl.List(pl.Int64())",
    "m": "pl.Decimal(12, 2)",
    "e": "pl.Enum(['x', 'y', 'z'])",
    "h": "pl.Float32()",
}
"""Columns of a source besides its time `t`, with their types as code."""


class Spread:
    """An aggregate of one's own: how far the values of a group are apart, and how many are not null."""

    def partial(self, value: pl.Expr) -> dict[str, pl.Expr]:
        return {"low": value.min(), "high": value.max(), "n": value.count()}

    def merge(self, parts: dict[str, pl.Expr]) -> dict[str, pl.Expr]:
        return {"low": parts["low"].min(), "high": parts["high"].max(), "n": parts["n"].sum()}

    def final(self, parts: dict[str, pl.Expr]) -> pl.Expr:
        return (parts["high"] - parts["low"]) * 2 + parts["n"]


def sizes(group: pl.DataFrame) -> pl.DataFrame:
    """A row for a group: how many rows it has."""
    return pl.DataFrame({"rows": [group.height], "columns": [group.width]})


def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    """Each row twice, but not one after the other."""
    return pl.concat([frame, frame])


def space() -> dict[str, Any]:
    """The names that a program may use."""
    return {"pl": pl, "ars": ars, "dt": dt, "ctx": ars.StreamingContext(), "Spread": Spread, "sizes": sizes,
            "doubled": doubled}  # fmt: skip


class Fault(AssertionError):
    """What should not have happened."""


@dataclass
class Program:
    """Lines of code, each of which makes a frame; the last one is the answer."""

    lines: list[str] = field(default_factory=list)

    def frame(self) -> StreamFrame:
        """The frame of the last line."""
        names = space()
        for line in self.lines:
            exec(line, names)
        made = names[self.lines[-1].split(" = ")[0]]
        assert isinstance(made, StreamFrame)
        return made


@dataclass
class _Made:
    """A frame by name. `ordered` says whether its rows come in the order of a source."""

    name: str
    frame: StreamFrame
    ordered: bool

    @property
    def schema(self) -> pl.Schema:
        return self.frame.schema

    @property
    def appends(self) -> bool:
        return isinstance(self.frame.kind, Append)

    @property
    def time(self) -> str | None:
        """The column of event time."""
        return None if self.frame._node.time is None else self.frame._node.time.column

    def of(self, *kinds: str) -> list[str]:
        """Columns of these kinds that are exact."""
        return [name for name, dtype in self.schema.items() if not name.startswith("x") and _kind(dtype) in kinds]

    @property
    def keys(self) -> list[str]:
        return self.of("int", "float", "str", "bool", "decimal", "enum", "time")

    @property
    def exact(self) -> bool:
        return not any(name.startswith("x") for name in self.schema)


def _kind(dtype: pl.DataType) -> str:
    match dtype:
        case pl.List():
            return "list"
        case pl.String():
            return "str"
        case pl.Boolean():
            return "bool"
        case pl.Decimal():
            return "decimal"
        case pl.Enum():
            return "enum"
    if dtype.is_temporal():
        return "time" if not isinstance(dtype, pl.Duration) else "duration"
    return "int" if dtype.is_integer() else "float" if dtype.is_float() else "other"


class Writer:
    """Writes one program, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.span = chance, chance.choice(SPANS)
        self.program, self._names, self._count = Program(), space(), 0
        self.sources: dict[str, pl.Schema] = {}

    def write(self) -> Program:
        """A program of up to three sources."""
        frames = [self._source(name) for name in ("one", "two")[: self.chance.choice([1, 2, 2])]]
        for _ in range(self.chance.randint(1, 5)):
            at = self.chance.choice(frames[-2:])
            made = self._step(at, frames)
            if made is not None:
                frames.append(made)
        last = frames[-1]
        if self.program.lines[-1].split(" = ")[0] != last.name:
            self._add(f"{last.name}.pipe(lambda frame: frame)", ordered=last.ordered)
        return self.program

    # --- lines

    def _add(self, code: str, *, ordered: bool) -> _Made | None:
        """A line, where the plan takes it."""
        name = f"f{self._count}"
        line = f"{name} = {code}"
        try:
            exec(line, self._names)
        except ars.ArrowStreamError:
            return None
        except Exception as error:
            text = "\n".join([*self.program.lines, line])
            raise Fault(f"the plan fails with {type(error).__name__}: {error}\n{text}") from error
        self._count += 1
        self.program.lines.append(line)
        return _Made(name, self._names[name], ordered)

    def _source(self, name: str) -> _Made:
        chosen = ["k", *self.chance.sample([each for each in COLUMNS if each != "k"], 4)]
        types = {"t": self.span.text, **{each: COLUMNS[each] for each in COLUMNS if each in chosen}}
        schema = "{" + ", ".join(f"{each!r}: {dtype}" for each, dtype in types.items()) + "}"
        self.sources[name] = pl.Schema(eval(schema, self._names))
        made = self._add(f"ctx.read.memory({schema}, name={name!r})", ordered=True)
        assert made is not None
        if self.chance.random() < 0.1:
            live = f"{name}_live"
            self.sources[live] = self.sources[name]
            other = self._add(f"ctx.read.memory({schema}, name={live!r})", ordered=True)
            assert other is not None
            # `at` is taken from the frame's own type, so it is no text.
            at = repr(self.span.times([10])[0]) if not _ns(self.span) else repr("2026-03-01 00:00:10")
            at = at.replace("datetime.", "dt.").replace("zoneinfo.", "")
            if "ZoneInfo" not in at:
                code = f"ars.concat_history({made.name}, {other.name}, on='t', at={at})"
                made = self._add(code, ordered=False) or made
        elif self.chance.random() < 0.3:
            made = self._rows(made) or made
        if "t" in made.schema and self.chance.random() < 0.85:
            delay = self.span.duration(3)
            late = f", allowed_lateness={self.span.duration(2)}" if self.chance.random() < 0.15 else ""
            made = self._add(f"{made.name}.with_watermark('t', {delay}{late})", ordered=made.ordered) or made
        return made

    def _step(self, at: _Made, frames: Sequence[_Made]) -> _Made | None:
        steps = [self._rows, self._rows, self._aggregate, self._distinct, self._best, self._over, self._groups,
                 self._concat, self._table]  # fmt: skip
        if at.time is not None and at.appends:
            steps += [self._windows] * 4 + [self._session] * 2 + [self._rolling, self._cumulate, self._within]
        if at.ordered:
            steps += [self._numbered]
        step = self.chance.choice(steps)
        if self.chance.random() < 0.3:
            return self._join(at, self.chance.choice(frames))
        return step(at)

    # --- row by row

    def _predicate(self, at: _Made, exclude: Sequence[str] = ()) -> str:
        names = [name for name in at.keys if name not in exclude] or at.keys or list(at.schema)
        name = self.chance.choice(names)
        column = f"pl.col({name!r})"
        match _kind(at.schema[name]):
            case "int" | "float" | "decimal":
                return f"({column} {self.chance.choice(['>', '<=', '!='])} {self.chance.randint(-2, 3)})"
            case "str":
                return f"({column} != 'a')"
            case "bool":
                return column
        return f"{column}.is_not_null()"

    def _rows(self, at: _Made) -> _Made | None:
        names = list(at.schema)
        fresh = f"n{self._count}"
        numbers, lists = at.of("int", "float"), at.of("list")
        codes = [
            f".filter({self._predicate(at)})",
            f".remove({self._predicate(at)})",
            f".with_columns({fresh}={self._predicate(at)})",
            ".fill_null(1)",
            f".rename({{{self.chance.choice(names)!r}: {fresh!r}}})",
            f".drop_nulls({self.chance.choice(names)!r})",
            f".map_batches(lambda frame: frame.with_columns({fresh}={self._predicate(at)}))",
        ]
        if numbers:
            name = self.chance.choice(numbers)
            column = f"pl.col({name!r})"
            codes += [
                f".with_columns({fresh}={column} * 2 - 1)",
                f".with_columns({name}=pl.when({column} > 0).then({column}).otherwise(None))",
                f".with_columns({fresh}={column}.cast(pl.Float64).fill_null(0.5))",
                f".filter({column}.is_between(-2, 4))",
            ]
        if len(names) > 2:
            kept = [name for name in names if self.chance.random() < 0.7] or names[:1]
            codes += [f".select({kept!r})", f".drop({self.chance.choice(names)!r})"]
        if lists:
            name = self.chance.choice(lists)
            codes += [f".explode({name!r})", f".with_columns({fresh}=pl.col({name!r}).list.len().cast(pl.Int64))"]
        ints = at.of("int")
        ordered = at.ordered
        if len(ints) > 1 and self.chance.random() < 0.3:
            index = [name for name in names if name not in ints[:2]]
            codes = [f".unpivot({ints[:2]!r}, index={index!r}, variable_name='v{fresh}', value_name={fresh!r})"]
            ordered = False
        if ints and self.chance.random() < 0.2:
            columns = ", ".join(f'"{name}"' for name in names)
            codes = [f'.sql(\'SELECT {columns}, "{ints[0]}" + 1 AS {fresh} FROM self WHERE "{ints[0]}" < 4\')']
        if self.chance.random() < 0.05:
            codes, ordered = [".map_batches(doubled)"], False
        if self.chance.random() < 0.1:
            return self._add(f"ars.concat([{at.name}, {at.name}.filter({self._predicate(at)})])", ordered=False)
        return self._add(f"{at.name}{self.chance.choice(codes)}", ordered=ordered)

    def _concat(self, at: _Made) -> _Made | None:
        same = f"{at.name}.filter({self._predicate(at)})"
        return self._add(f"ars.concat([{same}, {at.name}])", ordered=False)

    # --- groups

    def _some(self, names: Sequence[str], most: int = 2) -> list[str]:
        return self.chance.sample(list(names), min(len(names), self.chance.randint(0, most)))

    def _agg(self, at: _Made, number: int) -> str:
        """One aggregate, as `name=expression`."""
        name = self.chance.choice(list(at.schema))
        kind = _kind(at.schema[name])
        inexact = name.startswith("x")
        column = f"pl.col({name!r})"
        if self.chance.random() < 0.25:
            column += f".filter({self._predicate(at)})"
        exact = [f"{column}.count()", "pl.len()", f"{column}.null_count()"]
        rough: list[str] = []
        if kind not in ("list", "other") and not inexact:
            exact += [f"{column}.n_unique()"]
        if kind in ("int", "float", "decimal", "time", "str", "duration"):
            (rough if inexact else exact).extend([f"{column}.max()", f"{column}.min()"])
        if kind in ("int", "float", "decimal"):
            (rough if inexact else exact).append(f"{column}.sum()")
        if kind in ("int", "float"):
            exact += [] if inexact else [f"{column}.sum() - pl.len()", f"({column} > 1).any()", f"({column} > 1).all()"]
            rough += [f"{column}.mean()", f"{column}.std()", f"{column}.sum() / pl.len()"]
            rough += [f"{column}.median()", f"{column}.quantile(0.3, 'nearest')"]
            rough += [f"ars.aggregate(Spread(), {column})"]
        if kind == "bool":
            exact += [f"{column}.any()", f"{column}.all()", f"{column}.sum()"]
        if at.ordered:
            (rough if inexact else exact).extend([f"{column}.first()", f"{column}.last()"])
            if kind != "list":
                exact += [] if inexact else [f"{column}.implode()"]
        if rough and self.chance.random() < 0.4:
            return f"x{self._count}_{number}={self.chance.choice(rough)}"
        return f"a{self._count}_{number}={self.chance.choice(exact)}"

    def _aggs(self, at: _Made) -> str:
        return ", ".join(self._agg(at, number) for number in range(self.chance.randint(1, 3)))

    def _aggregate(self, at: _Made) -> _Made | None:
        keys = self._some(at.keys)
        if not keys:
            return self._add(f"{at.name}.agg({self._aggs(at)})", ordered=False)
        by = ", ".join(map(repr, keys))
        if at.of("int") and self.chance.random() < 0.2:
            by += f", (pl.col({at.of('int')[0]!r}) % 2).alias('p{self._count}')"
        ttl = ""
        if at.time is not None and self.chance.random() < 0.15:
            ttl = f", ttl={self.span.duration(100_000)}"
        return self._add(f"{at.name}.group_by({by}{ttl}).agg({self._aggs(at)})", ordered=False)

    def _groups(self, at: _Made) -> _Made | None:
        keys = self._some(at.keys) or at.keys[:1]
        if not keys:
            return None
        schema = "{'rows': pl.Int64(), 'columns': pl.Int64()}"
        return self._add(f"{at.name}.group_by({keys!r}).map_groups(sizes, {schema})", ordered=False)

    def _distinct(self, at: _Made) -> _Made | None:
        if at.ordered and at.keys:
            subset = self._some(at.keys) or at.keys[:1]
            keep = self.chance.choice(["any", "first", "last", "none"])
            return self._add(f"{at.name}.unique({subset!r}, keep={keep!r})", ordered=False)
        if not at.exact or len(at.keys) < len(at.schema):
            return None
        keep = self.chance.choice(["any", "none"])
        return self._add(f"{at.name}.unique(keep={keep!r})", ordered=False)

    def _within(self, at: _Made) -> _Made | None:
        if not at.ordered:
            return None
        keys = self._some(at.keys) or at.keys[:1]
        within = self.span.duration(self.chance.randint(1, 5))
        return self._add(f"{at.name}.unique({keys!r}, within={within})", ordered=False)

    def _best(self, at: _Made) -> _Made | None:
        """In an order that leaves nothing open, where rows come in none."""
        if at.ordered and at.keys:
            by = self._some(at.keys) or at.keys[:1]
        elif at.exact and len(at.keys) == len(at.schema):
            by = at.keys
        else:
            return None
        call = self.chance.choice(["top_k", "bottom_k"])
        groups = self._some([name for name in at.keys if name not in by or not at.ordered])
        if at.time is not None and self.chance.random() < 0.4:
            groups = list(dict.fromkeys([*groups, at.time]))
        code = f"{at.name}.{call}({self.chance.choice([1, 1, 2, 3])}, by={by!r}"
        code += f", group_by={groups!r}" if groups else ""
        code += f", reverse={[self.chance.random() < 0.5 for _ in by]!r}" if self.chance.random() < 0.3 else ""
        code += f", rank='r{self._count}'" if self.chance.random() < 0.4 else ""
        return self._add(f"{code})", ordered=False)

    def _over(self, at: _Made) -> _Made | None:
        if not at.keys:
            return None
        keys = self._some(at.keys) or at.keys[:1]
        if at.time is not None and self.chance.random() < 0.4:
            keys = list(dict.fromkeys([*keys, at.time]))
        number = self.chance.choice(at.of("int", "float", "decimal") or at.keys)
        column = f"pl.col({number!r})"
        exprs = [f"{column}.max()", "pl.len()", f"{column}.rank('dense')", f"{column}.n_unique()"]
        if at.ordered:
            exprs += [f"{column}.cum_count()", f"{column}.shift()", "pl.int_range(pl.len())"]
        expr = f"{self.chance.choice(exprs)}.over({keys!r}).alias('o{self._count}')"
        return self._add(f"{at.name}.with_columns({expr})", ordered=False)

    # --- by time

    def _by(self, at: _Made) -> tuple[str, list[str]]:
        keys = self._some([name for name in at.keys if name != at.time], 1)
        return (f", group_by={keys!r}" if keys else ""), keys

    def _windows(self, at: _Made) -> _Made | None:
        every = self.span.length(self.chance)
        code = f"{at.name}.group_by_dynamic({at.time!r}, every={every}"
        if self.chance.random() < 0.6:
            code += f", period={self.span.length(self.chance)}"
        if self.chance.random() < 0.3:
            offset = self.span.duration(self.chance.randint(1, 3))
            code += f", offset={offset}" if self.chance.random() < 0.5 else f", offset='-' + str({offset})"
        if self.chance.random() < 0.3:
            code += f", closed={self.chance.choice(['right', 'both', 'none'])!r}"
        if self.chance.random() < 0.2:
            code += ", label='right'"
        if self.chance.random() < 0.2:
            code += ", include_boundaries=True"
        if self.chance.random() < 0.2:
            code += ", emit='update'"
        by, _ = self._by(at)
        return self._add(f"{code}{by}).agg({self._aggs(at)})", ordered=False)

    def _cumulate(self, at: _Made) -> _Made | None:
        step, times = self.chance.randint(1, 3), self.chance.randint(1, 4)
        code = f"step={self.span.duration(step)}, every={self.span.duration(step * times)}"
        by, _ = self._by(at)
        return self._add(f"{at.name}.group_by_cumulate({at.time!r}, {code}{by}).agg({self._aggs(at)})", ordered=False)

    def _session(self, at: _Made) -> _Made | None:
        code = f"{at.name}.group_by_session({at.time!r}, gap={self.span.duration(self.chance.randint(1, 4))}"
        code += ", include_boundaries=True" if self.chance.random() < 0.4 else ""
        code += ", emit='update'" if self.chance.random() < 0.2 else ""
        by, _ = self._by(at)
        return self._add(f"{code}{by}).agg({self._aggs(at)})", ordered=False)

    def _rolling(self, at: _Made) -> _Made | None:
        closed = self.chance.choice(["right", "left", "both", "none"])
        period = self.span.duration(self.chance.randint(1, 6))
        by, _ = self._by(at)
        code = f"{at.name}.rolling({at.time!r}, period={period}, closed={closed!r}{by})"
        return self._add(f"{code}.agg({self._aggs(at)})", ordered=False)

    def _numbered(self, at: _Made) -> _Made | None:
        by, _ = self._by(at)
        size = self.chance.randint(1, 4)
        return self._add(f"{at.name}.group_by_count({size}{by}).agg({self._aggs(at)})", ordered=False)

    # --- joins

    def _table(self, at: _Made) -> _Made | None:
        key = self.chance.choice(at.keys or [""])
        tables = {
            "str": "{'key': ['a', 'a', 'b', None], 'w': [1, 2, 3, 4]}",
            "float": "{'key': [0.0, float('nan'), 1.5, None], 'w': [1, 2, 3, 4]}",
            "int": "{'key': [0, 1, 1, None], 'w': [1, 2, 3, 4]}",
        }
        if not key or _kind(at.schema[key]) not in tables or "key" in at.schema or "w" in at.schema:
            return None
        how = self.chance.choice(["inner", "left", "semi", "anti", "cross"])
        rows = tables[_kind(at.schema[key])]
        table = f"pl.DataFrame({rows}).cast({{'key': pl.{at.schema[key]}}}).head({self.chance.choice([1, 2, 4])})"
        on = "" if how == "cross" else f", left_on={key!r}, right_on='key', nulls_equal={self.chance.random() < 0.3}"
        return self._add(f"{at.name}.join({table}, how={how!r}{on})", ordered=False)

    def _join(self, left: _Made, right: _Made) -> _Made | None:
        if right.name == left.name or self.chance.random() < 0.2:
            mirrored = self._add(f"{right.name}.filter({self._predicate(right)})", ordered=right.ordered)
            if mirrored is None:
                return None
            right = mirrored
        call = self.chance.choice([self._join_on, self._join_on, self._join_on, self._join_where, self._join_asof])
        made = call(left, right)
        if made is not None and len(made.schema) > 8:
            names = list(made.schema)
            kept = self.chance.sample(names, 6)
            kept += [made.time] if made.time is not None and made.time not in kept else []
            made = self._add(f"{made.name}.select({[each for each in names if each in kept]!r})", ordered=False) or made
        return made

    def _common(self, left: _Made, right: _Made) -> list[tuple[str, str]]:
        return [(a, b) for a in left.keys for b in right.keys if left.schema[a] == right.schema[b]]

    def _join_on(self, left: _Made, right: _Made) -> _Made | None:
        pairs = self._common(left, right)
        timed = left.time is not None and right.time is not None
        if not pairs and not timed:
            return None
        chosen = self.chance.sample(pairs, min(len(pairs), self.chance.choice([1, 1, 1, 2])))
        if timed and left.appends and right.appends and self.chance.random() < 0.3:
            assert left.time is not None
            assert right.time is not None
            chosen.append((left.time, right.time))
        chosen = [
            (a, b)
            for n, (a, b) in enumerate(chosen)
            if a not in [x for x, _ in chosen[:n]] and b not in [y for _, y in chosen[:n]]
        ]
        how = self.chance.choice(["inner", "inner", "left", "right", "full", "semi", "anti"])
        code = f"{left.name}.join({right.name}, how={how!r}, suffix='_{self._count}'"
        if chosen:
            code += f", left_on={[a for a, _ in chosen]!r}, right_on={[b for _, b in chosen]!r}"
        code += f", nulls_equal={self.chance.random() < 0.3}"
        code += f", coalesce={self.chance.choice([True, False])}" if self.chance.random() < 0.3 else ""
        if timed and (self.chance.random() < 0.5 or not chosen):
            low, high = sorted(self.chance.sample(range(-3, 6), 2))
            code += f", within=({self._signed(low)}, {self._signed(high)})"
        return self._add(f"{code})", ordered=False)

    def _signed(self, count: int) -> str:
        text = self.span.duration(abs(count))
        if count >= 0:
            return text
        return f"-{text}" if text.isdigit() else f"'-' + {text}"

    def _join_where(self, left: _Made, right: _Made) -> _Made | None:
        suffix = f"_{self._count}"
        name = {each: each + suffix if each in left.schema else each for each in right.schema}
        predicates = [f"pl.col({a!r}) == pl.col({name[b]!r})" for a, b in self._common(left, right)]
        chosen = self.chance.sample(predicates, min(len(predicates), self.chance.choice([0, 1, 1])))
        pairs = [(a, b) for a, b in self._common(left, right) if _kind(left.schema[a]) in ("int", "time", "float")]
        for a, b in self.chance.sample(pairs, min(len(pairs), self.chance.choice([0, 1]))):
            chosen.append(f"pl.col({a!r}) {self.chance.choice(['<', '>=', '<='])} pl.col({name[b]!r})")
        if left.time is not None and right.time is not None and self.chance.random() < 0.7:
            one, two = f"pl.col({left.time!r})", f"pl.col({name[right.time]!r})"
            bounds = [f"{one} <= {two}", f"{two} <= {one} + {self._offset(3)}", f"{one} < {two} + {self._offset(2)}"]
            chosen += self.chance.sample(bounds, self.chance.choice([1, 2, 2]))
        if not chosen:
            return None
        how = self.chance.choice(["inner", "left", "semi", "anti"])
        code = f"{left.name}.join_where({right.name}, {', '.join(chosen)}, how={how!r}, suffix={suffix!r})"
        return self._add(code, ordered=False)

    def _offset(self, count: int) -> str:
        if isinstance(self.span.unit, int):
            return f"pl.lit({count}, {self.span.text})"
        micro = int(self.span.unit.total_seconds() * 1_000_000) * count
        return f"pl.duration(microseconds={micro})"

    def _join_asof(self, left: _Made, right: _Made) -> _Made | None:
        if left.time is None or right.time is None or not right.ordered:
            return None
        pairs = [(a, b) for a, b in self._common(left, right) if a != left.time and b != right.time]
        by = self.chance.sample(pairs, min(len(pairs), self.chance.choice([0, 1])))
        if by and self.chance.random() < 0.2:
            on = f"left_on={by[0][0]!r}, right_on={by[0][1]!r}"
            how = self.chance.choice(["left", "inner"])
            code = f"{left.name}.join_temporal({right.name}, {on}, how={how!r}, suffix='_{self._count}')"
            return self._add(code, ordered=False)
        strategy = self.chance.choice(["backward", "backward", "forward", "nearest"])
        code = f"{left.name}.join_asof({right.name}, left_on={left.time!r}, right_on={right.time!r}"
        code += f", by_left={by[0][0]!r}, by_right={by[0][1]!r}" if by else ""
        code += f", strategy={strategy!r}, suffix='_{self._count}'"
        if strategy != "backward" or self.chance.random() < 0.5:
            code += f", tolerance={self.span.duration(self.chance.randint(1, 5))}"
        code += ", allow_exact_matches=False" if self.chance.random() < 0.2 else ""
        code += ", coalesce=False" if self.chance.random() < 0.2 else ""
        return self._add(f"{code})", ordered=False)


def _ns(span: Span) -> bool:
    return getattr(span.dtype, "time_unit", None) == "ns"
