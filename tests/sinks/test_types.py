"""Every type of Polars at every depth: a sink keeps it, or refuses it at `.write` with a cast that works."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
import pytest

import arrowstream as ars
from arrowstream.catalog import Catalog
from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract, Upsert
from arrowstream.connectors.sink import Sink, SupportsView
from arrowstream.errors import PlanError
from arrowstream.query import run_sql
from arrowstream.sinks.console import ConsoleSink
from arrowstream.sinks.duckdb import DuckDBSink
from arrowstream.sinks.foreach_batch import ForeachBatchSink
from arrowstream.sinks.memory import MemorySink
from arrowstream.sinks.parquet import ParquetSink

NOON = dt.datetime(2026, 11, 22, 12, 30, 1, 123000)
DAY = dt.timedelta(days=1, microseconds=5000)

LEAVES: dict[str, tuple[Any, tuple[Any, Any]]] = {
    "String": (pl.String, ("x", "größer als zwölf Zeichen")),
    "Binary": (pl.Binary, (b"\x00", b"more than twelve bytes")),
    "Boolean": (pl.Boolean, (True, False)),
    "Int8": (pl.Int8, (-128, 127)),
    "Int64": (pl.Int64, (-(2**63), 2**63 - 1)),
    "UInt64": (pl.UInt64, (0, 2**64 - 1)),
    "Float16": (pl.Float16, (1.5, -0.25)),
    "Float32": (pl.Float32, (1.5, -0.25)),
    "Float64": (pl.Float64, (0.1, float("inf"))),
    "Decimal(38, 4)": (pl.Decimal(38, 4), (Decimal("12345678901234567890.1234"), Decimal("-0.5000"))),
    "Date": (pl.Date, (NOON.date(), dt.date(1969, 12, 31))),
    "Time": (pl.Time, (NOON.time(), dt.time(0))),
    "Datetime('ms')": (pl.Datetime("ms"), (NOON, NOON)),
    "Datetime('us')": (pl.Datetime("us"), (NOON, dt.datetime(1, 1, 1))),
    "Datetime('ns')": (pl.Datetime("ns"), (NOON, NOON)),
    "Datetime('us', 'Europe/Berlin')": (pl.Datetime("us", "Europe/Berlin"), (NOON.replace(tzinfo=dt.UTC),) * 2),
    "Duration('ms')": (pl.Duration("ms"), (DAY, -DAY)),
    "Duration('us')": (pl.Duration("us"), (DAY, -DAY)),
    "Categorical": (pl.Categorical, ("a", "b")),
    "Enum(['a', 'b'])": (pl.Enum(["a", "b"]), ("a", "b")),
    "Null": (pl.Null, (None, None)),
    "Struct of no field": (pl.Struct({}), ({}, {})),
    "Struct of a and A": (pl.Struct({"a": pl.Int64, "A": pl.Int64}), ({"a": 1, "A": 2}, {"a": None, "A": 3})),
    "Array of width 0": (pl.Array(pl.Int64, 0), ([], [])),
}

Shape: TypeAlias = Callable[[Any, Any, Any], tuple[Any, list[Any]]]

SHAPES: dict[str, Shape] = {
    "{}": lambda of, a, b: (of, [a, None, b, a, b]),
    "List({})": lambda of, a, b: (pl.List(of), [[a], None, [], [b, None, a], [b]]),
    "Array({}, 2)": lambda of, a, b: (pl.Array(of, 2), [[a, b], None, [None, b], [a, a], [b, b]]),
    "Struct(f={})": lambda of, a, b: (
        pl.Struct({"f": of, "n": pl.Int64}),
        [{"f": a, "n": 1}, None, {"f": None, "n": None}, {"f": b, "n": 2}, {"f": b, "n": 2}],
    ),
    "List(Struct(f={}))": lambda of, a, b: (
        pl.List(pl.Struct({"f": of, "n": pl.Int64})),
        [[{"f": a, "n": 1}], None, [], [{"f": b, "n": 2}, {"f": a, "n": 3}], [{"f": b, "n": 2}]],
    ),
    "Array(Struct(f={}), 1)": lambda of, a, b: (
        pl.Array(pl.Struct({"f": of}), 1),
        [[{"f": a}], None, [{"f": b}], [{"f": None}], [{"f": b}]],
    ),
    "Struct(l=List(Struct(f={})))": lambda of, a, b: (
        pl.Struct({"l": pl.List(pl.Struct({"f": of}))}),
        [{"l": [{"f": a}]}, None, {"l": None}, {"l": []}, {"l": [{"f": b}, {"f": a}]}],
    ),
    "List(List({}))": lambda of, a, b: (pl.List(pl.List(of)), [[[a], []], None, [], [[b, None], None], [[b]]]),
    "List(Array({}, 1))": lambda of, a, b: (pl.List(pl.Array(of, 1)), [[[a], [b]], None, [], [[b], [None]], [[b]]]),
}
NOTHING_WITHIN = ("Struct of no field", "Struct of a and A", "Array of width 0", "Null")

SINKS: dict[str, tuple[Callable[[Path], Sink], ChangeKind]] = {
    "Parquet": (lambda place: ParquetSink(place / "out"), Append()),
    "Parquet, roll": (lambda place: ParquetSink(place / "out", roll="1h"), Append()),
    "Parquet, partitioned": (lambda place: ParquetSink(place / "out", partition_by="k"), Append()),
    "Parquet, complete": (lambda place: ParquetSink(place / "out", mode="complete"), Append()),
    "Parquet, complete by key": (lambda place: ParquetSink(place / "out", mode="complete"), Upsert(("k",))),
    "fastparquet": (lambda place: ParquetSink(place / "out", engine="fastparquet"), Append()),
    "DuckDB": (lambda place: DuckDBSink(place / "out.duckdb", "out"), Append()),
    "DuckDB, by key": (lambda place: DuckDBSink(place / "out.duckdb", "out"), Upsert(("k",))),
    "DuckDB, taken back": (lambda place: DuckDBSink(place / "out.duckdb", "out"), Retract()),
    "memory": (lambda place: MemorySink("out"), Append()),
    "memory, taken back": (lambda place: MemorySink("out"), Retract()),
    "console": (lambda place: ConsoleSink(), Append()),
    "console, by key": (lambda place: ConsoleSink(), Upsert(("k",))),
    "foreach_batch": (lambda place: ForeachBatchSink(lambda frame, batch: frame.rows()), Append()),
    "foreach_batch, taken back": (lambda place: ForeachBatchSink(lambda frame, batch: frame.rows()), Retract()),
}


def columns() -> Iterator[tuple[str, pl.Series]]:
    """A column of five rows for every type in every shape."""
    for leaf, (dtype, (a, b)) in LEAVES.items():
        for shape, made in SHAPES.items():
            if leaf not in NOTHING_WITHIN or shape in ("{}", "List({})", "Struct(f={})"):
                of, values = made(dtype, a, b)
                yield shape.format(leaf), pl.Series(values, dtype=of)


def arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.newest())


def refusal(sink: Sink, series: pl.Series, kind: ChangeKind) -> str | None:
    """What `bind` says to a column, or None where the sink takes it."""
    table = arrow(pl.DataFrame({"k": pl.Series([], dtype=pl.Int64), "c": series.clear()}))
    try:
        sink.bind(table.schema, kind)
    except PlanError as error:
        return str(error)
    return None


def canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | pl.Series):
        return [canonical(inner) for inner in value]
    if isinstance(value, dt.datetime):  # pandas has a subclass for nanoseconds
        value = getattr(value, "to_pydatetime", lambda: value)()
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    return value


def differences(found: pl.DataFrame, expected: pl.DataFrame) -> list[str]:
    return [
        f"{name}: {found[name].to_list()} in place of {expected[name].to_list()}"
        for name in expected.columns
        if canonical(found[name].to_list()) != canonical(expected[name].to_list())
    ]


@pytest.mark.filterwarnings("ignore:Series.values:Warning")  # fastparquet asks pandas for zones in an old way
@pytest.mark.parametrize("name", SINKS)
def test_every_type_at_every_depth(tmp_path: Path, name: str) -> None:
    """Orders hold lists of items that hold texts: what comes as slices of a larger table is read back as it was."""
    make, kind = SINKS[name]
    taken = {label: series for label, series in columns() if refusal(make(tmp_path / "never"), series, kind) is None}
    assert len(taken) > (10 if name == "fastparquet" else 120)
    frame = pl.DataFrame({"k": range(5), **{f"c{i}": series for i, series in enumerate(taken.values())}})
    table = arrow(frame)
    sink = make(tmp_path).bind(table.schema, kind)
    committer = sink.committer()
    try:
        for batch, part in enumerate((table.slice(1, 3), table.slice(4, 1), table.slice(0, 1))):
            writer = sink.open(batch, "0-0", table.schema)
            writer.write(ChangeBatch(part))
            with contextlib.redirect_stdout(io.StringIO()):
                committer.commit(batch, [writer.finish()])
            writer.close()
        if isinstance(committer, SupportsView):
            check_answer(committer, frame)
        committer.flush()
    finally:
        committer.close()
    if isinstance(sink, ParquetSink) and name != "fastparquet":
        found = pl.read_parquet(tmp_path / "out", hive_partitioning="part" in name).sort("k")
        assert differences(found, frame) == []


def check_answer(committer: SupportsView, frame: pl.DataFrame) -> None:
    """SQL gives the same values, and whatever takes the answer can."""
    catalog = Catalog()
    catalog.register("out", committer.view)
    answer = run_sql("SELECT * FROM out ORDER BY k", catalog)
    assert differences(answer.pl(), frame) == []
    for name, *values in zip(frame.columns, *answer.fetchall(), strict=True):
        assert canonical(values) == canonical(frame[name].to_list()), name
    assert len(repr(answer)) > 0
    assert "<table" in answer._repr_html_()


@pytest.mark.parametrize("name", SINKS)
def test_a_refusal_has_a_cast_that_works(tmp_path: Path, name: str) -> None:
    """The error of a type names the column and what to cast it to: the stream goes on from there."""
    make, kind = SINKS[name]
    for label, series in columns():
        said = refusal(make(tmp_path), series, kind)
        if said is None:
            continue
        assert "column 'c'" in said, label
        if (cast := re.search(r"cast it to (?:one, such as )?([A-Z].*)$", said)) is not None:
            cured = series.cast(eval(cast[1], {**vars(pl)}))
            assert refusal(make(tmp_path), cured, kind) is None, (label, said)
        else:
            assert re.search(r"drop the column|rename them apart|leave engine= out|engine=", said), (label, said)


@pytest.mark.parametrize("dtype", [pl.Int128, pl.UInt128, pl.List(pl.Int128), pl.Struct({"a": pl.UInt128})])
def test_integers_of_128_bits_are_refused(dtype: Any) -> None:
    """Arrow has no such type: the line that writes or reads says so, and what to use."""
    ctx = ars.StreamingContext()
    with pytest.raises(PlanError, match=r"column 'n' .* 128 bits.*Int64"):
        ctx.read.memory({"n": dtype})
    frame = ctx.read.memory({"k": pl.Int64}).with_columns(pl.lit(None, dtype=dtype).alias("n"))
    for write in (frame.write.memory, frame.write.parquet):
        with pytest.raises(PlanError, match=r"column 'n' .* 128 bits.*Int64"):
            write("out")
    narrow = eval(str(dtype).replace("UInt128", "UInt64").replace("Int128", "Int64"), {**vars(pl)})
    frame.with_columns(pl.col("n").cast(narrow)).write.memory("out")


def type_table() -> str:
    """What the documentation says: types by sinks, as `bind` answers."""
    names = ("Parquet", "fastparquet", "DuckDB", "memory", "console", "foreach_batch")
    lines = [f"| type | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for leaf, (dtype, (a, b)) in LEAVES.items():
        series = pl.Series([a, b], dtype=dtype)
        lines.append(f"| `{leaf}` | {' | '.join(cell(*SINKS[name], name, series) for name in names)} |")
    return "\n".join(lines)


def cell(make: Callable[[Path], Sink], kind: ChangeKind, name: str, series: pl.Series) -> str:
    said = refusal(make(Path("never")), series, kind)
    if said is None:
        words = isinstance(series.dtype, pl.Categorical | pl.Enum) and name in ("Parquet", "fastparquet", "DuckDB")
        return "as words" if words else "yes"
    cast = re.search(r"cast it to (?:one, such as )?([A-Z].*)$", said)
    return f"no: `{cast[1]}`" if cast else "no"


def test_the_table_in_the_documentation() -> None:
    """Types by sink, in `docs/connectors/types.md`: what is said there is what happens."""
    page = Path(__file__).parents[2] / "docs" / "connectors" / "types.md"
    found: Sequence[str] = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert "\n".join(found) == type_table()
