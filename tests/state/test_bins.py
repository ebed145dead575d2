"""BinTable against a list: what comes out of order lands with its bin, and bins go as windows close."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from polars import CompatLevel

from arrowstream.state.bins import BinTable
from arrowstream.state.changelog import ChangeLog
from arrowstream.state.rows import ID

SCHEMA = pl.Schema({"bin": pl.Int64(), "s": pl.String()})
Row = tuple[int, str | None]
# A batch of few bins is cut, one of many is not.
ROWS = st.lists(
    st.tuples(st.integers(-2, 4).map(lambda n: 10 * n), st.sampled_from(["", "b" * 40, None])), max_size=12
) | st.lists(st.tuples(st.integers(-10, 30).map(lambda n: 10 * n), st.just("many")), max_size=40)
EDGES = st.integers(-120, 320)


class BinMachine(RuleBasedStateMachine):
    """One table, its rows by number, those at the last commit, and a change log merged as it goes."""

    @initialize(ordered=st.booleans(), step=st.sampled_from([None, 10]))
    def start(self, ordered: bool, step: int | None) -> None:
        self.ordered, self.step = ordered, step
        self.table = self.made()
        self.log = ChangeLog(self.table.keys.names(), few=3)
        self.model: dict[int, Row] = {}
        self.committed: dict[int, Row] = {}
        self.version = 0

    def made(self) -> BinTable:
        return BinTable(SCHEMA, "bin", step=self.step, ordered=self.ordered)

    @rule(rows=ROWS, whole=st.booleans())
    def append(self, rows: list[Row], whole: bool) -> None:
        frame = pl.DataFrame(rows, SCHEMA, orient="row")
        self.model.update(zip(self.table.append(frame, whole=whole).to_list(), rows, strict=True))

    @rule(before=EDGES)
    def drop(self, before: int) -> None:
        self.table.drop(before)
        self.model = {n: row for n, row in self.model.items() if row[0] >= before}

    @rule(least=EDGES)
    def keep(self, least: int) -> None:
        self.table.keep(pl.col("bin") >= least)
        self.model = {n: row for n, row in self.model.items() if row[0] >= least}

    @rule()
    def commit(self) -> None:
        delta = self.table.delta()
        self.table.commit()
        self.version += 1
        self.log.append(self.version, delta)
        self.log.compact()
        self.committed = dict(self.model)
        fresh = self.made()
        fresh.restore(self.log.tables())
        assert fresh.next_id == self.table.next_id
        self.is_true(fresh)

    @rule()
    def rollback(self) -> None:
        self.table.rollback()
        self.model = dict(self.committed)

    @precondition(lambda self: self.model == self.committed)
    @rule(from_log=st.booleans())
    def restart(self, from_log: bool) -> None:
        tables = self.log.tables() if from_log else [self.table.snapshot()]
        self.table = self.made()
        self.table.restore(tables)

    @rule(low=EDGES, length=st.integers(0, 100))
    def look(self, low: int, length: int) -> None:
        found = self.table.between(low, low + length)
        assert found.schema == self.table.frame.schema
        rows = [(n, *row) for n, row in sorted(self.model.items()) if low <= row[0] < low + length]
        assert (found if self.ordered else found.sort(ID)).rows() == rows

    def is_true(self, table: BinTable) -> None:
        assert len(table) == len(self.model)
        frame = table.frame if self.ordered else table.frame.sort(ID)
        assert frame.rows() == [(n, *row) for n, row in sorted(self.model.items())]
        assert table.bins.tolist() == sorted({row[0] for row in self.model.values()})

    @invariant()
    def same(self) -> None:
        if hasattr(self, "table"):
            self.is_true(self.table)


TestBinMachine = BinMachine.TestCase
TestBinMachine.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def hours(*numbers: int) -> pl.Series:
    return pl.Series("hour", [dt.datetime(2024, 1, 1, n) for n in numbers])


def test_bins_are_times_too() -> None:
    """As the operators of windows use it: a bin is when it begins."""
    table = BinTable(pl.Schema({"hour": pl.Datetime("us"), "n": pl.Int64()}), "hour", step=None, ordered=False)
    table.append(pl.DataFrame([hours(3, 1, 3, 2), pl.Series("n", [1, 2, 3, 4])]))
    one, two, three = table.bins.tolist()
    assert table.between(two, three + 1)["n"].to_list() == [4, 1, 3]
    table.drop(three)
    assert table.frame["n"].to_list() == [1, 3]
    assert two - one == 3600 * 10**6


@pytest.mark.parametrize("bins", [[0], [0, 1], list(range(20))])
def test_a_day_of_small_batches_leaves_few_pieces(bins: list[int]) -> None:
    """While the watermark stands still, rows of few bins, or of many, come in turns."""
    table = BinTable(pl.Schema({"bin": pl.Int64}), "bin", step=1, ordered=False)
    for _ in range(500):
        table.append(pl.DataFrame({"bin": bins}))
        table.commit()
    assert table.frame.n_chunks() < 16 * min(len(bins), 2)
    assert len(table) == 500 * len(bins)


@pytest.mark.parametrize("bins", [1, 2, 100])
def test_bins_that_are_dropped_keep_nothing_alive(bins: int) -> None:
    """The last bin of each batch stays, a twentieth of its rows."""
    schema = pl.Schema({"bin": pl.Int64, "s": pl.String})
    table = BinTable(schema, "bin", step=1, ordered=False)
    for batch in range(20):
        at = np.where(np.arange(2000) % 20 == 0, 10**6, 100 * batch + np.arange(2000) % bins)
        texts = [f"{batch} {n} " + "x" * 100 for n in range(2000)]
        table.append(pl.DataFrame({"bin": at, "s": texts}))
        table.drop(10**6)
        table.commit()
    assert len(table) == 20 * 100
    held = int(table.frame.to_arrow(compat_level=CompatLevel.newest()).get_total_buffer_size())
    assert held < 3 * table.frame.estimated_size()
