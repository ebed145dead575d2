"""KeyedTable against a dict: whatever a stream of batches, crashes and restores does to it."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arrowstream.errors import StateError
from arrowstream.state.changelog import ChangeLog
from arrowstream.state.delta import from_delta
from arrowstream.state.keyhash import hash_rows
from arrowstream.state.table import KeyedTable

Row = tuple[Any, ...]

# Types with a few values each, so that keys meet again; nulls are added to all.
POOLS: dict[pl.DataType, list[Any]] = {
    pl.Int8(): [-1, 0, 5],
    pl.Int64(): [-(2**63), -1, 0, 1, 2**62],
    pl.UInt64(): [0, 7, 2**64 - 1],
    pl.Int128(): [-(2**127), -1, 0, 2**64, 2**127 - 1],
    pl.UInt128(): [0, 2**64, 2**128 - 1],
    pl.Float32(): [0.5, float("inf"), float("nan")],
    pl.Float64(): [0.0, 1.5, float("nan"), float("-inf")],
    pl.Boolean(): [True, False],
    pl.String(): ["", "a", "b" * 40, "é\x00x"],
    pl.Binary(): [b"", b"\x00", b"\x00\x00"],
    pl.Date(): [dt.date(1969, 1, 1), dt.date(2024, 2, 29)],
    pl.Time(): [dt.time(1, 2, 3), dt.time(0)],
    pl.Datetime("us", "Europe/Paris"): [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)],
    pl.Datetime("ms"): [dt.datetime(2024, 1, 1), dt.datetime(1960, 1, 1)],
    pl.Duration("ns"): [dt.timedelta(seconds=-1), dt.timedelta(days=3)],
    pl.Decimal(20, 2): [Decimal("-1.25"), Decimal("99999999999.00"), Decimal(0)],
    pl.Enum(["x", "y", "z"]): ["x", "z"],
    pl.Categorical(): ["p", "q"],
    pl.List(pl.Int32): [[], [1], [1, None], [None]],
    pl.Array(pl.Float64, 2): [[1.0, 2.0], [2.0, 1.0]],
    pl.Struct({"a": pl.Int64, "b": pl.String}): [{"a": 1, "b": None}, {"a": None, "b": "s"}],
    pl.List(pl.List(pl.String)): [[["a"], []], [None]],
}


def frozen(value: Any) -> Any:
    """A value a dict can have as key: NaN equal to itself."""
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, frozen(item)) for name, item in value.items())
    return value


def contents(frame: pl.DataFrame, keys: int) -> dict[Row, Row]:
    """A scan as a dict; fails when a key is there twice."""
    rows = [frozen(row) for row in frame.rows()] if frame.width else []
    found = {row[:keys]: row[keys:] for row in rows}
    assert len(found) == len(rows)
    return found


def schemas(prefix: str, least: int, most: int) -> st.SearchStrategy[pl.Schema]:
    return st.lists(st.sampled_from(list(POOLS)), min_size=least, max_size=most).map(
        lambda types: pl.Schema({f"{prefix}{n}": dtype for n, dtype in enumerate(types)})
    )


def rows_of(schema: pl.Schema) -> st.SearchStrategy[Row]:
    return st.tuples(*(st.none() | st.sampled_from(POOLS[dtype]) for dtype in schema.values()))


def frame_of(schema: pl.Schema, rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(
        [pl.Series(name, [row[n] for row in rows], dtype) for n, (name, dtype) in enumerate(schema.items())]
    )


class TableMachine(RuleBasedStateMachine):
    """One table, the dict it should be, the dict at the last commit, a follower fed by deltas, a change log."""

    @initialize(data=st.data(), weak=st.booleans())
    def start(self, data: st.DataObject, weak: bool) -> None:
        self.keys = data.draw(schemas("k", 0, 3))
        self.values = data.draw(schemas("v", 1, 3))
        mask = np.uint64(0x0000000300000000)
        self.hasher = (lambda keys: hash_rows(keys) & mask) if weak else hash_rows
        self.table = self.new()
        self.follower = self.new()
        self.log = ChangeLog(self.keys.names())
        self.model: dict[Row, Row] = {}
        self.committed: dict[Row, Row] = {}
        self.version = 0

    def new(self) -> KeyedTable:
        return KeyedTable(self.keys, self.values, hasher=self.hasher)

    def draw_keys(self, data: st.DataObject) -> list[Row]:
        if not self.keys:
            return [()]
        rows = data.draw(st.lists(rows_of(self.keys), max_size=6))
        return list({frozen(row): row for row in rows}.values())

    @rule(data=st.data(), write=st.booleans(), again=st.booleans())
    def upsert(self, data: st.DataObject, write: bool, again: bool) -> None:
        rows = self.draw_keys(data)
        names = [frozen(row) for row in rows]
        at = self.table.upsert(frame_of(self.keys, rows))
        assert at.fresh.tolist() == [name not in self.model for name in names]
        nothing = (None,) * len(self.values)
        before = self.table.gather(at.slots)
        assert [frozen(row) for row in before.rows()] == [self.model.get(name, nothing) for name in names]
        if self.keys:
            assert [frozen(row) for row in self.table.gather_keys(at.slots).rows()] == names
        for name in names:
            self.model.setdefault(name, nothing)
        for _ in range(write + (write and again)):
            values = data.draw(st.lists(rows_of(self.values), min_size=len(rows), max_size=len(rows)))
            self.table.put(at.slots, frame_of(self.values, values))
            self.model.update(zip(names, map(frozen, values), strict=True))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        rows = self.draw_keys(data)
        slots = self.table.find(frame_of(self.keys, rows))
        assert (slots >= 0).tolist() == [frozen(row) in self.model for row in rows]
        self.table.gather(slots)
        self.table.delete(slots[slots >= 0])
        for row in rows:
            self.model.pop(frozen(row), None)

    @rule()
    def commit(self) -> None:
        delta = self.table.delta()
        rows, deleted = from_delta(delta, pl.Schema({**self.keys, **self.values}))
        changed = contents(rows.filter(~deleted), len(self.keys))
        assert changed.items() <= self.model.items()
        assert self.model.items() <= (self.committed | changed).items()
        assert contents(rows.filter(deleted), len(self.keys)).keys().isdisjoint(self.model)
        self.table.commit()
        self.version += 1
        self.log.append(self.version, delta)
        self.follower.apply(delta)
        self.follower.apply(delta)
        self.committed = dict(self.model)
        assert contents(self.follower.scan(), len(self.keys)) == self.model

    @rule()
    def rollback(self) -> None:
        self.table.rollback()
        self.model = dict(self.committed)

    @precondition(lambda self: self.model == self.committed)
    @rule(from_log=st.booleans())
    def restart(self, from_log: bool) -> None:
        tables = self.log.tables() if from_log else [self.table.snapshot()]
        self.table = self.new()
        self.table.restore(tables)
        assert self.table.delta().num_rows == 0

    @invariant()
    def same(self) -> None:
        if hasattr(self, "table"):
            assert len(self.table) == len(self.model)
            assert contents(self.table.scan(), len(self.keys)) == self.model


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(
    max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def counter(key: pl.DataType | type[pl.DataType] = pl.Int64) -> KeyedTable:
    return KeyedTable(pl.Series("k", dtype=key).to_frame().schema, pl.Schema({"n": pl.Int64}))


def keys(values: Any) -> pl.DataFrame:
    return pl.DataFrame({"k": values})


def numbers(values: Any) -> pl.DataFrame:
    return pl.DataFrame({"n": pl.Series(values, dtype=pl.Int64)})


def test_a_key_is_one_key_however_its_float_is_written() -> None:
    """-0.0 and two kinds of NaN come from different sensors; Polars groups them as one, and so does state."""
    table = counter(pl.Float64)
    strange = np.array([0xFFF8000000000001], np.uint64).view(np.float64)
    first = table.upsert(keys([0.0, float("nan"), None])).slots
    assert table.find(keys(pl.Series([-0.0, strange[0], None]))).tolist() == first.tolist()
    other = counter(pl.Float64)
    at = other.upsert(keys([-0.0]))
    other.put(at.slots, numbers([1]))
    assert str(pl.DataFrame(other.delta())["k"][0]) == "0.0"


def test_slots_of_deleted_keys_are_used_again_after_the_commit() -> None:
    """Windows close and others open: the table must not grow with time."""
    table = counter()
    for start in range(0, 50_000, 1000):
        at = table.upsert(keys(range(start, start + 1000)))
        assert at.fresh.all()
        assert table.gather(at.slots)["n"].null_count() == 1000
        table.put(at.slots, numbers(range(1000)))
        table.commit()
        table.delete(at.slots)
        assert len(table) == 0
        table.commit()
    assert at.slots.max() < 2000
    assert table.memory_bytes() < 400_000


def test_a_slot_is_not_used_again_in_the_version_that_deletes_its_key() -> None:
    """A batch that expires a key and then fails must find it again where it was."""
    table = counter()
    slots = table.upsert(keys([1])).slots
    table.put(slots, numbers([5]))
    table.commit()
    table.delete(slots)
    assert table.find(keys([1])).tolist() == [-1]
    assert table.upsert(keys([2])).slots.tolist() != slots.tolist()
    again = table.upsert(keys([1]))
    assert again.slots.tolist() == slots.tolist()
    assert again.fresh.all()
    assert table.gather(again.slots)["n"].to_list() == [None]
    table.rollback()
    assert table.scan().rows() == [(1, 5)]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_growing_in_an_open_version_can_be_undone(end: str) -> None:
    """The batch that doubles the table fails after some of its keys were added."""
    table = counter()
    at = table.upsert(keys(range(3000)))
    table.put(at.slots, numbers(range(3000)))
    table.commit()
    for start in range(2000, 120_000, 7000):
        at = table.upsert(keys(range(start, start + 7000)))
        table.put(at.slots, numbers(range(7000)))
    getattr(table, end)()
    expected = 3000 if end == "rollback" else 2000 + 17 * 7000
    assert len(table) == expected
    assert (table.find(keys(range(130_000))) >= 0).sum() == expected
    if end == "rollback":
        assert table.scan().select((pl.col("k") == pl.col("n")).all()).item()


def test_long_values_are_vacuumed() -> None:
    """Profiles overwritten for days take the space of the profiles, not of the days."""
    table = KeyedTable(pl.Schema({"k": pl.String}), pl.Schema({"note": pl.String(), "tags": pl.List(pl.String)}))
    names = keys([f"customer {n}" for n in range(20_000)])
    for day in range(60):
        at = table.upsert(names)
        notes = pl.select(note=pl.format(f"day {day:03d} of {{}} and a long text besides", names["k"]))
        table.put(at.slots, notes.with_columns(tags=pl.concat_list("note", "note")))
        if day % 10 == 3:
            table.rollback()
        else:
            table.commit()
    day_bytes = notes.estimated_size() * 3
    assert table.memory_bytes() < 14 * day_bytes
    rows = table.scan().sort("k")
    assert rows["k"].to_list() == sorted(names["k"].to_list())
    assert rows["note"].str.starts_with("day 059").all()
    assert (rows["tags"].list.get(1) == rows["note"]).all()


def test_state_does_not_keep_a_batch_alive_for_one_row() -> None:
    """One key in a thousand is new: what is kept is the key, not the batch it came with."""
    table = counter(pl.String)
    batch = pl.DataFrame({"k": ["x" * 1000 + str(n) for n in range(5000)]})
    table.upsert(batch[17:18])
    table.commit()
    assert table.memory_bytes() < 20_000


def test_what_a_gather_gave_does_not_change() -> None:
    """An operator holds what was, to emit it as a retraction after the put."""
    table = counter()
    slots = table.upsert(keys([1, 2])).slots
    table.put(slots, numbers([1, 2]))
    held, named = table.gather(slots), table.gather_keys(slots)
    table.put(slots, numbers([3, 4]))
    assert held["n"].to_list() == [1, 2]
    assert named["k"].to_list() == [1, 2]
    assert table.gather(np.array([-1, slots[1]]))["n"].to_list() == [None, 4]


def test_wrong_use_says_so() -> None:
    """Operators are ours, but their mistakes must not become wrong counts."""
    table = counter()
    slots = table.upsert(keys([1])).slots
    with pytest.raises(StateError, match="k: Int64"):
        table.upsert(pl.DataFrame({"k": ["a"]}))
    with pytest.raises(StateError, match="n: Int64"):
        table.put(slots, pl.DataFrame({"n": [1.0]}))
    with pytest.raises(StateError, match="1 slots cannot take 2 rows"):
        table.put(slots, numbers([1, 2]))
    with pytest.raises(StateError, match="slots outside"):
        table.put(np.array([7]), numbers([1]))
    with pytest.raises(StateError, match="open version"):
        table.apply(table.delta())
    table.delete(slots)
    with pytest.raises(StateError, match="twice"):
        table.delete(slots)
    with pytest.raises(StateError, match="deleted key"):
        table.put(slots, numbers([1]))
    with pytest.raises(StateError, match="Object"):
        counter(pl.Object)
    with pytest.raises(StateError, match="Int128 inside"):
        counter(pl.List(pl.Int128))
    with pytest.raises(StateError, match="'k' twice"):
        KeyedTable(pl.Schema({"k": pl.Int64}), pl.Schema({"k": pl.Int64}))
    with pytest.raises(StateError, match="not a delta"):
        counter().apply(pa.table({"k": [1]}))


def test_a_distinct_needs_no_values() -> None:
    """`unique` keeps keys only."""
    table = KeyedTable(pl.Schema({"k": pl.String}), pl.Schema())
    assert table.upsert(keys(["a", "b"])).fresh.all()
    follower = KeyedTable(table.keys, table.values)
    follower.apply(table.delta())
    table.commit()
    assert table.upsert(keys(["b", "c"])).fresh.tolist() == [False, True]
    assert follower.scan()["k"].to_list() == ["a", "b"]


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_delta_through_parquet_is_the_delta(data: st.DataObject) -> None:
    """Snapshots are Parquet: types come back from the schema, not from the file."""
    simple = [dtype for dtype in POOLS if not dtype.is_nested()]
    schema = pl.Schema({f"v{n}": dtype for n, dtype in enumerate(simple)})
    table = KeyedTable(pl.Schema({"k": pl.Int64}), schema)
    rows = data.draw(st.lists(rows_of(schema), min_size=1, max_size=4))
    table.put(table.upsert(keys(range(len(rows)))).slots, frame_of(schema, rows))
    file = io.BytesIO()
    pq.write_table(table.delta(), file)
    file.seek(0)
    restored = KeyedTable(table.keys, table.values)
    restored.restore([pq.read_table(file)])
    assert restored.scan().equals(table.scan())
