"""RowTable against a list: rows come and go with the watermark, batches fail, workers die."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from polars import CompatLevel

from arrowstream.errors import StateError
from arrowstream.state.changelog import ChangeLog
from arrowstream.state.delta import DELETED
from arrowstream.state.rows import ID, RowTable

SCHEMA = pl.Schema(
    {"n": pl.Int64(), "s": pl.String(), "t": pl.Datetime("us"), "w": pl.Int128(), "l": pl.List(pl.Int8())}
)
Row = tuple[Any, ...]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 5) | st.none(),
        st.sampled_from(["", "a", "b" * 40, None]),
        st.sampled_from([dt.datetime(2024, 1, 1), None]),
        st.sampled_from([-(2**100), 2**100, None]),
        st.sampled_from([[], [1, None], None]),
    ),
    max_size=8,
)


def framed(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame([pl.Series(name, [row[n] for row in rows], SCHEMA[name]) for n, name in enumerate(SCHEMA)])


class RowMachine(RuleBasedStateMachine):
    """One table, its rows by number, those at the last commit, and a change log merged as it goes."""

    @initialize()
    def start(self) -> None:
        self.table = RowTable(SCHEMA)
        self.log = ChangeLog(self.table.keys.names(), few=3)
        self.model: dict[int, Row] = {}
        self.committed: dict[int, Row] = {}
        self.highest = self.committed_highest = 0
        self.version = 0

    def came(self, rows: list[Row], ids: list[int]) -> None:
        if ids:
            assert ids == list(range(ids[0], ids[0] + len(rows)))
            assert ids[0] > self.highest
            self.highest = ids[-1]
        self.model.update(zip(ids, rows, strict=True))

    @rule(rows=ROWS)
    def append(self, rows: list[Row]) -> None:
        self.came(rows, self.table.append(framed(rows)).to_list())

    @rule(least=st.integers(0, 6), series=st.booleans())
    def keep(self, least: int, series: bool) -> None:
        before = self.table.frame
        rows = before.rows()
        self.table.keep(before["n"] >= least if series else pl.col("n") >= least)
        assert before.rows() == rows
        self.model = {n: row for n, row in self.model.items() if row[0] is not None and row[0] >= least}

    @rule()
    def keep_none(self) -> None:
        self.table.keep(pl.lit(False))
        self.model = {}

    @rule(rows=ROWS)
    def replace(self, rows: list[Row]) -> None:
        self.table.replace(framed(rows))
        self.model = {}
        self.came(rows, self.table.frame[ID].to_list())

    @rule()
    def commit(self) -> None:
        delta = self.table.delta()
        self.table.commit()
        self.version += 1
        self.log.append(self.version, delta)
        self.log.compact()
        self.committed, self.committed_highest = dict(self.model), self.highest
        self.is_true(self.restored())

    @rule()
    def rollback(self) -> None:
        self.table.rollback()
        self.model = dict(self.committed)

    @precondition(lambda self: self.model == self.committed)
    @rule(from_log=st.booleans())
    def restart(self, from_log: bool) -> None:
        """Numbers that were committed are not given again; those rolled back nobody has seen."""
        tables = self.log.tables() if from_log else [self.table.snapshot()]
        if from_log:
            self.highest = self.committed_highest
        self.table = RowTable(SCHEMA)
        self.table.restore(tables)

    def restored(self) -> RowTable:
        fresh = RowTable(SCHEMA)
        fresh.restore(self.log.tables())
        assert fresh.next_id == self.table.next_id
        return fresh

    def is_true(self, table: RowTable) -> None:
        assert len(table) == len(self.model)
        assert table.frame.schema == pl.Schema({ID: pl.Int64(), **SCHEMA})
        assert table.frame.rows() == [(n, *self.model[n]) for n in sorted(self.model)]

    @invariant()
    def same(self) -> None:
        if hasattr(self, "table"):
            self.is_true(self.table)


TestRowMachine = RowMachine.TestCase
TestRowMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def buffers(frame: pl.DataFrame) -> int:
    """Bytes of the whole buffers that a frame refers to."""
    return int(frame.to_arrow(compat_level=CompatLevel.newest()).get_total_buffer_size())


def texts(batch: int) -> pl.DataFrame:
    return pl.DataFrame({"n": np.arange(5000), "s": [f"{batch} {n} " + "x" * 100 for n in range(5000)]})


@pytest.mark.parametrize("how", ["slice", "keep", "replace"])
def test_a_few_rows_of_each_batch_do_not_keep_the_batches(how: str) -> None:
    """One row in a thousand waits for its match; the others are dropped at once."""
    table = RowTable(texts(0).schema)
    for batch in range(30):
        if how == "slice":
            table.append(texts(batch)[:5])
        elif how == "keep":
            table.append(texts(batch))
            table.keep(pl.col("n") < 5)
        else:
            table.replace(texts(batch).filter(pl.col("n") < 5))
        table.commit()
    rows = 5 if how == "replace" else 150
    assert len(table) == rows
    assert buffers(table.frame) < rows * 1000 + 10_000


def test_appends_do_not_pile_up_chunks() -> None:
    """A day of small batches while the watermark stands still."""
    table = RowTable(pl.Schema({"n": pl.Int64()}))
    for n in range(2000):
        table.append(pl.DataFrame({"n": [n]}))
        table.commit()
    assert table.frame.n_chunks() < 16
    assert table.frame["n"].to_list() == list(range(2000))


def test_a_change_of_a_thousand_rows_is_what_changed() -> None:
    """The delta is what goes to the copies: not the state."""
    table = RowTable(pl.Schema({"n": pl.Int64()}))
    table.append(pl.DataFrame({"n": range(1000)}))
    table.commit()
    table.append(pl.DataFrame({"n": [1, 2]}))
    table.keep(pl.col(ID) != 7)
    assert sorted(pl.DataFrame(table.delta()).select(ID, DELETED).rows()) == [
        (7, True),
        (1001, False),
        (1002, False),
    ]
    table.commit()
    assert table.delta().num_rows == 0


def test_wrong_use_says_so() -> None:
    """Operators are ours, but their mistakes must not become wrong counts."""
    with pytest.raises(StateError, match="used inside"):
        RowTable(pl.Schema({ID: pl.Int64()}))
    with pytest.raises(StateError, match="Object"):
        RowTable(pl.Schema({"o": pl.Object()}))
