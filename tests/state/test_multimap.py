"""MultiMap against a list of rows: whatever batches, retractions, crashes and restores do to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arrowstream.errors import StateError
from arrowstream.state.changelog import ChangeLog
from arrowstream.state.extents import Extents
from arrowstream.state.multimap import MATCHES, ROW, MultiMap

Ints = npt.NDArray[np.int64]
Row = tuple[Any, ...]

# Few values of each type, so that keys and whole rows meet again.
KEYS: dict[pl.DataType, list[Any]] = {
    pl.Int64(): [-(2**63), 0, 7, None],
    pl.Float64(): [0.0, -0.0, float("nan"), 1.5, None],
    pl.String(): ["", "a", "b" * 40, None],
}
VALUES: dict[pl.DataType, list[Any]] = {**KEYS, pl.List(pl.Int32()): [[], [1, None], None], pl.Boolean(): [True, None]}


def frozen(value: Any) -> Any:
    """Values as keys are equal: NaN to itself, -0.0 to 0.0."""
    if isinstance(value, float):
        return "NaN" if value != value else value + 0.0
    return tuple(value) if isinstance(value, list) else value


def named(frame: pl.DataFrame) -> list[Row]:
    return [tuple(frozen(value) for value in row) for row in frame.rows()]


def schemas(pool: dict[pl.DataType, list[Any]], prefix: str, least: int) -> st.SearchStrategy[pl.Schema]:
    return st.lists(st.sampled_from(list(pool)), min_size=least, max_size=2).map(
        lambda types: pl.Schema({f"{prefix}{n}": dtype for n, dtype in enumerate(types)})
    )


class MapMachine(RuleBasedStateMachine):
    """One map, the rows it should have by id, those at the last commit, and a change log merged as it goes."""

    @initialize(data=st.data(), matches=st.booleans())
    def start(self, data: st.DataObject, matches: bool) -> None:
        self.by = data.draw(schemas(KEYS, "k", 0))
        self.rest = data.draw(schemas(VALUES, "v", 1))
        self.schema = pl.Schema({**self.by, **self.rest})
        self.matches = matches
        self.map = self.new()
        self.log = ChangeLog(self.map.keys.names(), few=3)
        self.model: dict[int, tuple[Row, int]] = {}
        self.committed: dict[int, tuple[Row, int]] = {}
        self.given: set[int] = set()
        self.version = 0

    def new(self) -> MultiMap:
        return MultiMap(self.by, self.rest, matches=self.matches)

    def frame(self, rows: list[Row], schema: pl.Schema) -> pl.DataFrame:
        columns = [pl.Series(name, [row[n] for row in rows], dtype) for n, (name, dtype) in enumerate(schema.items())]
        return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(rows))

    def rows(self, data: st.DataObject, schema: pl.Schema) -> list[Row]:
        return data.draw(
            st.lists(st.tuples(*(st.sampled_from(VALUES[dtype]) for dtype in schema.values())), max_size=8)
        )

    def some(self, data: st.DataObject) -> Ints:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=8)) if self.model else []
        return np.array(ids, np.int64)

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        frame = self.frame(self.rows(data, self.schema), self.schema)
        ids = self.map.append(frame).tolist()
        assert ids == sorted(set(ids))
        assert not ids or not self.given or ids[0] > max(self.given)
        self.given.update(ids)
        self.model.update((n, (row, 0)) for n, row in zip(ids, named(frame), strict=True))

    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        keys = self.frame(self.rows(data, self.by), self.by)
        width = len(self.by)
        wanted = (
            [
                (place, n)
                for place, key in enumerate(named(keys))
                for n in sorted(self.model)
                if self.model[n][0][:width] == key
            ]
            if width
            else [(place, n) for place in range(keys.height) for n in sorted(self.model)]
        )
        places, ids = self.map.lookup(keys)
        assert list(zip(places.tolist(), ids.tolist(), strict=True)) == wanted
        assert self.map.ids_of(keys).tolist() == sorted({n for _, n in wanted})
        places, ids = self.map.lookup(keys, nulls_equal=False)
        known = [pair for pair in wanted if None not in keys.row(pair[0])] if width else wanted
        assert list(zip(places.tolist(), ids.tolist(), strict=True)) == known

    @rule(data=st.data())
    def gather(self, data: st.DataObject) -> None:
        ids = self.some(data)
        assert named(self.map.gather(ids)) == [self.model[n][0] for n in ids.tolist()]
        last = self.schema.names()[-1:]
        assert named(self.map.gather(ids, last)) == [self.model[n][0][-1:] for n in ids.tolist()]

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        wanted = [self.model[n][0] for n in np.unique(self.some(data)).tolist()]
        ids = np.sort([n for n in self.model if self.model[n][0] in wanted])[: len(wanted)]
        chosen = self.map.gather(ids.astype(np.int64))
        expected, left = [], dict(self.model)
        for row in named(chosen):
            oldest = min(n for n in left if left[n][0] == row)
            expected.append(oldest)
            del left[oldest]
        assert sorted(self.map.remove(chosen).tolist()) == sorted(expected)
        self.model = left

    @rule(data=st.data())
    def remove_too_often(self, data: st.DataObject) -> None:
        rows = self.rows(data, self.schema)
        frame = self.frame(rows * (len(self.model) + 1), self.schema)
        if rows:
            with pytest.raises(StateError, match="never there"):
                self.map.remove(frame)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ids = np.unique(self.some(data))
        before = self.map.gather(ids)
        self.map.delete(ids)
        assert self.map.gather(ids).equals(before)
        for n in ids.tolist():
            del self.model[n]

    @precondition(lambda self: self.matches)
    @rule(data=st.data())
    def count(self, data: st.DataObject) -> None:
        ids = self.some(data)
        self.map.add_counts(ids, np.arange(len(ids)))
        for by, n in enumerate(ids.tolist()):
            self.model[n] = (self.model[n][0], self.model[n][1] + by)

    @rule(copied=st.booleans())
    def commit(self, copied: bool) -> None:
        delta = self.map.delta()
        self.map.commit()
        self.version += 1
        self.log.append(self.version, delta)
        self.log.compact()
        self.committed = dict(self.model)
        self.is_true(self.restored())

    @rule()
    def rollback(self) -> None:
        self.map.rollback()
        self.model = dict(self.committed)

    @precondition(lambda self: self.model == self.committed)
    @rule(from_log=st.booleans())
    def restart(self, from_log: bool) -> None:
        """Ids of rows that are gone may be given again after a restore; those of live rows stay."""
        if from_log:
            self.map = self.restored()
        else:
            snapshot = self.map.snapshot()
            self.map = self.new()
            self.map.restore([snapshot])
        self.given = set(self.model)
        assert self.map.delta().num_rows == 0

    def restored(self) -> MultiMap:
        fresh = self.new()
        fresh.restore(self.log.tables())
        return fresh

    def is_true(self, table: MultiMap) -> None:
        assert len(table) == len(self.model)
        held = pl.DataFrame(table.snapshot()).sort(ROW)
        assert held[ROW].to_list() == sorted(self.model)
        assert named(held.select(self.schema.names())) == [self.model[n][0] for n in sorted(self.model)]
        assert named(table.scan()) == [self.model[n][0] for n in sorted(self.model)]
        if self.matches:
            assert held[MATCHES].to_list() == [self.model[n][1] for n in sorted(self.model)]

    @invariant()
    def same(self) -> None:
        if hasattr(self, "map"):
            self.is_true(self.map)


TestMapMachine = MapMachine.TestCase
TestMapMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def numbers(key: Any = pl.Int64, **options: Any) -> MultiMap:
    return MultiMap(pl.Schema({"k": key()}), pl.Schema({"n": pl.Int64()}), **options)


def rows(keys: Any, values: Any) -> pl.DataFrame:
    return pl.DataFrame({"k": keys, "n": values})


@given(st.lists(st.tuples(st.sampled_from(["append", "commit", "rollback", "weed"]), st.integers(0, 2**32))))
@settings(max_examples=60, deadline=None)
def test_extents_hold_what_was_appended(steps: list[tuple[str, int]]) -> None:
    """Extents are moved, given up, taken again, in versions that stand and versions that fall."""
    extents, top = Extents(), 0
    model: dict[int, list[int]] = {}
    committed: dict[int, list[int]] = {}
    for step, seed in steps:
        rng = np.random.default_rng(seed)
        if step == "append":
            slots = rng.integers(0, rng.choice([3, 20, 70_000]), rng.integers(0, 60))
            ids = np.arange(top, top + len(slots))
            top += len(slots)
            extents.append(slots, ids)
            for slot, n in zip(slots.tolist(), ids.tolist(), strict=True):
                model[slot] = [*model.get(slot, []), n]
        elif step == "rollback":
            extents.rollback()
            model = dict(committed)
        else:
            if step == "weed":
                some = np.array(sorted(model)[::2], np.int64)
                odd = [n for slot in some.tolist() for n in model[slot] if n % 2]
                assert extents.weed(some, lambda ids: ids % 2 == 0).tolist() == odd
                model |= {slot: [n for n in model[slot] if n % 2 == 0] for slot in some.tolist()}
            extents.commit()
            committed = dict(model)
        asked = [*sorted(model), -1, 999_999]
        wanted = [(place, n) for place, slot in enumerate(asked) for n in model.get(slot, [])]
        places, found = extents.find(np.array(asked))
        assert list(zip(places.tolist(), found.tolist(), strict=True)) == wanted


def test_a_replica_knows_of_rows_taken_out_before_the_map_tidied_up() -> None:
    """An auction's bids go, their places are given to others; then the worker dies."""
    table, log = numbers(), ChangeLog([ROW], few=2)
    steps = [("append", range(10)), ("remove", range(8)), ("append", [50]), ("remove", [9]), ("append", range(60, 64))]
    for version, (step, keys) in enumerate(steps):
        getattr(table, step)(rows(list(keys), list(keys)))
        log.append(version, table.delta())
        table.commit()
        log.compact()
    replica = numbers()
    replica.restore(log.tables())
    assert replica.scan().rows() == table.scan().rows() == [(k, k) for k in (8, 50, 60, 61, 62, 63)]


def test_state_that_comes_and_goes_does_not_grow() -> None:
    """Orders open and close for weeks: keys, rows, texts and extents are all used again."""
    table = MultiMap(pl.Schema({"k": pl.Int64()}), pl.Schema({"text": pl.String()}))
    for start in range(0, 120_000, 500):
        keys = np.repeat(np.arange(start, start + 500), 3)
        ids = table.append(pl.DataFrame({"k": keys, "text": ["a text of some length"] * 1500}))
        table.commit()
        table.delete(np.random.default_rng(start).permutation(ids)[:1400])
        table.commit()
        table.delete(table.ids_of(pl.DataFrame({"k": keys})))
        table.commit()
    assert len(table) == 0
    assert (ids & ((1 << 30) - 1)).max() < 1500
    # One segment that is filled before it can be let go; all rows together would be 10 MB.
    assert table.memory_bytes() < 4_500_000


def test_a_key_with_many_rows_gives_up_those_taken_out() -> None:
    """One hot key, as much taken out as comes: its extent stays small, and so do its places."""
    table = numbers()
    kept = table.append(rows([1] * 1000, range(1000)))
    table.commit()
    for _ in range(100):
        ids = table.append(rows([1] * 1000, range(1000)))
        table.delete(kept)
        kept = ids
        table.commit()
    assert len(table) == 1000
    assert (kept & ((1 << 30) - 1)).max() < 4000
    assert table.memory_bytes() < 400_000
    assert table.lookup(pl.DataFrame({"k": [1]}))[1].tolist() == kept.tolist()


def test_wrong_use_says_so() -> None:
    """A retraction of what never came is a mistake upstream; it must not become a wrong join."""
    table = numbers()
    ids = table.append(rows([1, 1], [5, 5]))
    with pytest.raises(StateError, match="1 rows were taken back that were never there"):
        table.remove(rows([1, 1, 1], [5, 5, 5]))
    assert len(table) == 2
    assert table.remove(rows([1], [5])).tolist() == ids[:1].tolist()
    with pytest.raises(StateError, match="not there, or twice"):
        table.delete(ids)
    with pytest.raises(StateError, match="twice"):
        table.delete(ids[[1, 1]])
    with pytest.raises(StateError, match="matches=True"):
        table.counts(ids)
    with pytest.raises(StateError, match="is used inside"):
        MultiMap(pl.Schema({ROW: pl.Int64()}), pl.Schema())


def test_rows_of_a_hot_key_are_found_among_thousands() -> None:
    """Rows of one key are taken back, oldest first, some of them there twice, in places that others had before."""
    table = numbers()
    model: list[int] = []
    for batch in range(4):
        came = np.random.default_rng(batch).integers(0, 4000, 3000)
        table.append(rows([7] * 3000, came))
        model += came.tolist()
        table.commit()
        gone = np.sort(np.random.default_rng(batch).permutation(came)[:1500])
        taken = table.remove(rows([7] * 1500, gone))
        assert sorted(table.gather(taken)["n"].to_list()) == gone.tolist()
        for n in gone.tolist():
            model.remove(n)
        table.commit()
        assert table.scan()["n"].to_list() == model
