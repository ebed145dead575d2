"""What every sink must do, as tests that a sink's author inherits.

    class TestMySink(SinkSuite):
        kinds = (Append(), Upsert(("key",)))

        def make(self, tmp_path):
            return MySink(tmp_path / "out")

        def read_back(self, tmp_path, committer):
            return pl.read_csv(tmp_path / "out")      # by another way than the sink's own

A type that the sink cannot keep must be refused at `bind` with the column's name; `refused` says which ones are
expected to be, so that a type that silently went away is found.
"""

from __future__ import annotations

import datetime as dt
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import cloudpickle
import polars as pl
import pyarrow as pa
import pytest

from arrowstream.catalog import Catalog
from arrowstream.connectors.changes import Append, ChangeBatch, ChangeKind, Retract, Upsert
from arrowstream.connectors.sink import Committer, Guarantee, Receipt, Sink, SupportsLastBatch, SupportsView
from arrowstream.errors import ChangeKindError, PlanError
from arrowstream.query import run_sql

SCHEMA = pa.schema([("key", pa.string_view()), ("value", pa.int64())])
_APPEND = Append()
FLOAT_KEYS = pa.schema([("key", pa.float64()), ("value", pa.int64())])

_DAY = dt.datetime(2026, 11, 22, 12, 30, 1, 123000)
_SUMMER = _DAY.replace(month=7, tzinfo=dt.UTC)
_SPAN = dt.timedelta(days=3, seconds=5)
_CATEGORY = pa.dictionary(pa.uint32(), pa.string_view())

TYPES: dict[str, tuple[pa.DataType, Sequence[object]]] = {
    "string_view": (pa.string_view(), ["", "a", "größer als zwölf Zeichen", 'quo"te, and\nline']),
    "string": (pa.string(), ["", "a"]),
    "large_string": (pa.large_string(), ["", "a"]),
    "binary": (pa.binary(), [b"", b"\x00\xff"]),
    "binary_view": (pa.binary_view(), [b"", b"\x00\xff and more than twelve"]),
    "bool": (pa.bool_(), [True, False]),
    "int8": (pa.int8(), [-128, 127]),
    "int16": (pa.int16(), [-(2**15), 2**15 - 1]),
    "int32": (pa.int32(), [-(2**31), 2**31 - 1]),
    "int64": (pa.int64(), [-(2**63), 2**63 - 1]),
    "uint8": (pa.uint8(), [0, 255]),
    "uint16": (pa.uint16(), [0, 2**16 - 1]),
    "uint32": (pa.uint32(), [0, 2**32 - 1]),
    "uint64": (pa.uint64(), [0, 2**64 - 1]),
    "float16": (pa.float16(), [1.5, -0.25]),
    "float32": (pa.float32(), [1.5, math.inf, -0.0]),
    "float64": (pa.float64(), [0.1, -math.inf, 1e300]),
    "float64_nan": (pa.float64(), [0.1, math.nan]),
    "decimal": (pa.decimal128(38, 4), [Decimal("12345678901234567890.1234"), Decimal("-0.5000")]),
    "decimal256": (pa.decimal256(60, 2), [Decimal("1.50")]),
    "date": (pa.date32(), [dt.date(1969, 12, 31), dt.date(2026, 11, 22)]),
    "time": (pa.time64("ns"), [dt.time(0), dt.time(23, 59, 59, 999999)]),
    "timestamp_ms": (pa.timestamp("ms"), [_DAY]),
    "timestamp_us": (pa.timestamp("us"), [_DAY, dt.datetime(1, 1, 1)]),
    "timestamp_ns": (pa.timestamp("ns"), [_DAY]),
    "timestamp_utc": (pa.timestamp("us", "UTC"), [_SUMMER]),
    "timestamp_ms_zone": (pa.timestamp("ms", "Europe/Berlin"), [_SUMMER]),
    "timestamp_ns_zone": (pa.timestamp("ns", "America/New_York"), [_SUMMER]),
    "duration_ms": (pa.duration("ms"), [_SPAN, -_SPAN]),
    "duration_us": (pa.duration("us"), [_SPAN, -_SPAN]),
    "duration_ns": (pa.duration("ns"), [_SPAN]),
    "categorical": (_CATEGORY, ["a", "b", "a"]),
    "enum": (pa.dictionary(pa.uint8(), pa.string_view(), ordered=True), ["low", "high"]),
    "null": (pa.null(), [None]),
    "list": (pa.large_list(pa.int64()), [[], [1, None, 3]]),
    "list_string": (pa.large_list(pa.string_view()), [[], ["a", None]]),
    "array": (pa.list_(pa.int32(), 2), [[1, 2]]),
    "struct": (pa.struct([("a", pa.int64()), ("b", pa.string_view())]), [{"a": 1, "b": "x"}, {"a": None, "b": None}]),
    "nested": (pa.large_list(pa.struct([("a", pa.large_list(pa.float64()))])), [[{"a": [1.5]}, {"a": []}], []]),
    "list_categorical": (pa.large_list(_CATEGORY), [["a", "b"], []]),
}
"""Every Arrow type that Polars makes, and those that come near, with telling values."""


class SinkSuite:
    """Inherit, say `make` and `read_back`, and pytest does the rest."""

    kinds: Sequence[ChangeKind] = (Append(),)
    """The change kinds that the sink takes; keyed ones by `key`."""

    refused: Collection[str] = ()
    """The names in `TYPES` that `bind` refuses."""

    durable = True
    """Whether the output outlives the process."""

    def make(self, tmp_path: Path) -> Sink:
        """A sink that writes below `tmp_path`; each call describes the same output."""
        raise NotImplementedError

    def read_back(self, tmp_path: Path, committer: Committer) -> pa.Table | pl.DataFrame:
        """All rows of the output, in any order, by a way that is not the sink's own."""
        raise NotImplementedError

    # --- descriptions

    def test_descriptions_can_be_pickled(self, tmp_path: Path) -> None:
        """A description goes to workers, bound and unbound."""
        sink = self.make(tmp_path)
        for described in (sink, sink.bind(SCHEMA, self.kinds[0])):
            copy = cloudpickle.loads(cloudpickle.dumps(described))
            assert isinstance(copy, Sink)
            assert copy.name == sink.name

    def test_the_name_is_one_word(self, tmp_path: Path) -> None:
        """SQL uses the name unquoted."""
        assert self.make(tmp_path).name.isidentifier()

    def test_kinds_that_it_cannot_take_are_refused(self, tmp_path: Path) -> None:
        """The error comes at the line that says `.write`."""
        for kind in (Append(), Upsert(("key",)), Retract()):
            if any(isinstance(kind, type(taken)) for taken in self.kinds):
                self.make(tmp_path).bind(SCHEMA, kind)
            else:
                with pytest.raises(ChangeKindError):
                    self.make(tmp_path).bind(SCHEMA, kind)

    # --- appended rows

    def test_appended_rows_are_read_back(self, tmp_path: Path) -> None:
        """Batches of several tasks, one of them empty, and a batch of nothing at all."""
        self._needs(Append())
        with closing(self._committer(tmp_path)) as committer:
            self._commit(tmp_path, committer, 0, [[rows(a=1, b=2)], [rows(c=3)], []])
            self._commit(tmp_path, committer, 1, [[]])
            self._commit(tmp_path, committer, 2, [[rows(a=4), rows(b=5)]])
            self._check(tmp_path, committer, [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("b", 5)])

    def test_nothing_can_be_seen_before_the_commit(self, tmp_path: Path) -> None:
        """A task may fail after it has staged its rows."""
        self._needs(Append())
        with closing(self._committer(tmp_path)) as committer:
            self._commit(tmp_path, committer, 0, [[rows(a=1)]])
            receipts = self._stage(tmp_path, 1, [[rows(b=2)]])
            self._check(tmp_path, committer, [("a", 1)])
            committer.commit(1, receipts)
            self._check(tmp_path, committer, [("a", 1), ("b", 2)])

    def test_a_repeated_batch_changes_nothing(self, tmp_path: Path) -> None:
        """The driver asks again when it does not know whether the first call came through."""
        self._needs(Append())
        with closing(self._committer(tmp_path)) as committer:
            receipts = self._stage(tmp_path, 0, [[rows(a=1)]])
            committer.commit(0, receipts)
            committer.commit(0, receipts)
            self._commit(tmp_path, committer, 1, [[rows(b=2)]])
            self._commit(tmp_path, committer, 0, [[rows(a=1)]])
            self._commit(tmp_path, committer, 1, [[rows(b=2)]])
            self._check(tmp_path, committer, [("a", 1), ("b", 2)])
            if isinstance(committer, SupportsLastBatch):
                assert committer.last_batch() == 1

    def test_an_aborted_batch_runs_again(self, tmp_path: Path) -> None:
        """One task of the batch has failed: the others are told to forget theirs."""
        self._needs(Append())
        with closing(self._committer(tmp_path)) as committer:
            self._commit(tmp_path, committer, 0, [[rows(a=1)]])
            committer.abort(1, self._stage(tmp_path, 1, [[rows(x=9)]]))
            given_up = self._bound(tmp_path).open(1, "0-7", SCHEMA)
            given_up.write(ChangeBatch(rows(y=9)))
            given_up.close()
            given_up.close()
            self._commit(tmp_path, committer, 1, [[rows(b=2)]], attempt=1)
            self._check(tmp_path, committer, [("a", 1), ("b", 2)])

    def test_nulls_stay_nulls(self, tmp_path: Path) -> None:
        """A column may hold nothing but nulls in one batch, and none in the next."""
        self._needs(Append())
        nothing = pa.table({"key": [None, None], "value": [None, 1]}, schema=SCHEMA)
        with closing(self._committer(tmp_path)) as committer:
            self._commit(tmp_path, committer, 0, [[nothing]])
            self._commit(tmp_path, committer, 1, [[rows(a=1)]])
            self._check(tmp_path, committer, [(None, None), (None, 1), ("a", 1)])

    @pytest.mark.parametrize("case", TYPES)
    def test_types_are_kept_or_refused(self, tmp_path: Path, case: str) -> None:
        """No value changes on its way; what cannot be kept is refused when the plan is made."""
        kind, values = TYPES[case]
        schema = pa.schema([("key", pa.int64()), ("column", kind)])
        if case in self.refused:
            with pytest.raises(PlanError, match="column"):
                self.make(tmp_path).bind(schema, self.kinds[0])
            return
        column = typed([None, *values], kind)
        table = pa.table([pa.array(range(len(column)), pa.int64()), column], schema=schema)
        for number, changes in enumerate(self.kinds):
            place = tmp_path / str(number)
            place.mkdir()
            self._check_types(place, self.make(place).bind(schema, changes), table, isinstance(changes, Upsert))

    def _check_types(self, place: Path, sink: Sink, table: pa.Table, keyed: bool) -> None:
        with closing(sink.committer()) as committer:
            for batch in range(2):
                writer = sink.open(batch, "0-0", table.schema)
                writer.write(ChangeBatch(table))
                committer.commit(batch, [writer.finish()])
                writer.close()
            committer.flush()
            expected = table if keyed else pa.concat_tables([table, table])
            assert multiset(self.read_back(place, committer)) == multiset(expected)
            if isinstance(committer, SupportsView):
                catalog = Catalog()
                catalog.register("output", committer.view)
                assert len(run_sql("SELECT * FROM output", catalog)) == expected.num_rows

    # --- rows by key

    def test_rows_of_a_key_are_replaced(self, tmp_path: Path) -> None:
        """A running count: the newest row of a word is the one that counts, within a batch and between batches."""
        kind = self._needs(Upsert(("key",)))
        with closing(self._committer(tmp_path, kind)) as committer:
            self._commit(tmp_path, committer, 0, [[rows(a=1, b=1)], [rows(c=1), rows(c=2)]], kind)
            self._commit(tmp_path, committer, 1, [[rows(b=5, d=1)]], kind)
            self._check(tmp_path, committer, [("a", 1), ("b", 5), ("c", 2), ("d", 1)])

    def test_rows_of_a_key_are_taken_away(self, tmp_path: Path) -> None:
        """-1 removes the row of a key, unless the batch has a +1 row of that key, wherever it stands."""
        kind = self._needs(Upsert(("key",)))
        with closing(self._committer(tmp_path, kind)) as committer:
            self._commit(tmp_path, committer, 0, [[rows(a=1, b=1, c=1)]], kind)
            changes = ChangeBatch(rows(a=1, b=2, c=1), pa.array([-1, 1, 1]))
            replaced = ChangeBatch(pa.concat_tables([rows(b=1), rows(d=4), rows(c=1)]), pa.array([-1, 1, -1]))
            self._commit(tmp_path, committer, 1, [[changes, replaced]], kind)
            self._check(tmp_path, committer, [("b", 2), ("c", 1), ("d", 4)])
            gone = ChangeBatch(rows(b=2, c=1, d=4, nobody=0), pa.array([-1, -1, -1, -1]))
            self._commit(tmp_path, committer, 2, [[gone]], kind)
            self._check(tmp_path, committer, [])

    def test_odd_keys_are_one_key_each(self, tmp_path: Path) -> None:
        """null = null, NaN = NaN, -0.0 = 0.0: a database's own idea of a unique key doubles the first."""
        kind = self._needs(Upsert(("key",)))
        sink = self.make(tmp_path).bind(FLOAT_KEYS, kind)
        with closing(sink.committer()) as committer:
            for batch, keys in enumerate(([None, math.nan, 0.0, 1.0], [math.nan, None, -0.0])):
                table = pa.table({"key": keys, "value": [batch] * len(keys)}, schema=FLOAT_KEYS)
                writer = sink.open(batch, "0-0", FLOAT_KEYS)
                writer.write(ChangeBatch(table))
                committer.commit(batch, [writer.finish()])
            found = multiset(self.read_back(tmp_path, committer))
        assert found == sorted([repr((None, 1)), repr(("nan", 1)), repr((0.0, 1)), repr((1.0, 0))])

    def test_no_key_is_one_row(self, tmp_path: Path) -> None:
        """The count of everything, without a group."""
        self._needs(Upsert(("key",)))
        kind = Upsert(())
        with closing(self._committer(tmp_path, kind)) as committer:
            self._commit(tmp_path, committer, 0, [[rows(all=1)]], kind)
            self._commit(tmp_path, committer, 1, [[rows(all=2)]], kind)
            self._check(tmp_path, committer, [("all", 2)])

    # --- rows that are taken back

    def test_rows_are_taken_back_one_by_one(self, tmp_path: Path) -> None:
        """A join of aggregates: equal rows are several, and -1 takes one of them."""
        kind = self._needs(Retract())
        with closing(self._committer(tmp_path, kind)) as committer:
            table = pa.table({"key": ["a", "a", "a", None, "b"], "value": [1, 1, 1, None, 2]}, schema=SCHEMA)
            self._commit(tmp_path, committer, 0, [[table]], kind)
            back = pa.table({"key": ["a", "a", None, "c", "b"], "value": [1, 1, None, 3, 2]}, schema=SCHEMA)
            self._commit(tmp_path, committer, 1, [[ChangeBatch(back, pa.array([-1, -1, -1, 2, -1]))]], kind)
            self._check(tmp_path, committer, [("a", 1), ("c", 3), ("c", 3)])
            once_more = ChangeBatch(rows(b=2, c=3), pa.array([1, -1]))
            self._commit(tmp_path, committer, 2, [[once_more], [ChangeBatch(rows(b=2), pa.array([-1]))]], kind)
            self._check(tmp_path, committer, [("a", 1), ("c", 3)])

    # --- crashes

    @pytest.mark.parametrize("kind", [Append(), Upsert(("key",)), Retract()], ids=["append", "upsert", "retract"])
    def test_a_crash_between_staging_and_commit(self, tmp_path: Path, kind: ChangeKind) -> None:
        """The process is killed with a batch staged; the run goes on in a new process and runs the batch again."""
        kind = self._needs(kind)
        sink = self._lasting(tmp_path, kind)
        crashed = subprocess.run([sys.executable, "-c", _CRASH], input=cloudpickle.dumps(sink), capture_output=True)
        assert crashed.returncode == 9, crashed.stderr.decode()
        with closing(sink.committer("run")) as committer:
            if isinstance(committer, SupportsLastBatch):
                assert committer.last_batch() == 0
            self._commit(tmp_path, committer, 0, [[rows(a=1, b=1)]], kind)
            self._check(tmp_path, committer, [("a", 1), ("b", 1)])
            self._commit(tmp_path, committer, 1, [[rows(c=2)]], kind)
            self._check(tmp_path, committer, [("a", 1), ("b", 1), ("c", 2)])

    def test_a_new_run_goes_on_after_the_old(self, tmp_path: Path) -> None:
        """Without a checkpoint batches count from 0 again; nothing of before is lost or hides them."""
        sink = self._lasting(tmp_path, self._needs(Append()))
        for expected in ([("a", 0)], [("a", 0), ("a", 0)]):
            with closing(sink.committer()) as committer:
                self._commit(tmp_path, committer, 0, [[rows(a=0)]])
                self._check(tmp_path, committer, expected)

    # --- views

    def test_the_view_has_the_schema(self, tmp_path: Path) -> None:
        """A table without a row has columns all the same."""
        with closing(self._committer(tmp_path, self.kinds[0])) as committer:
            if not isinstance(committer, SupportsView):
                pytest.skip("no view")
            assert committer.view().schema == SCHEMA
            catalog = Catalog()
            catalog.register("output", committer.view)
            assert run_sql("SELECT * FROM output", catalog).columns == SCHEMA.names

    def test_the_view_shows_whole_batches(self, tmp_path: Path) -> None:
        """A query while a batch is committed sees all of it or nothing."""
        self._needs(Append())
        with closing(self._committer(tmp_path)) as committer:
            if not isinstance(committer, SupportsView):
                pytest.skip("no view")
            catalog, seen, done = Catalog(), list[int](), threading.Event()
            catalog.register("output", committer.view)

            def look() -> None:
                while not done.is_set():
                    seen.append(len(run_sql("SELECT * FROM output", catalog)))

            reader = threading.Thread(target=look)
            reader.start()
            try:
                for batch in range(20):
                    self._commit(tmp_path, committer, batch, [[rows(a=batch)], [rows(b=batch, c=batch)]])
            finally:
                done.set()
                reader.join()
            assert {count % 3 for count in seen} == {0}
            assert seen == sorted(seen)
            assert len(run_sql("SELECT * FROM output", catalog)) == 60

    # --- helpers

    def _needs(self, kind: ChangeKind) -> ChangeKind:
        if not any(isinstance(kind, type(taken)) for taken in self.kinds):
            pytest.skip(f"takes no stream that is {kind}")
        return kind

    def _lasting(self, tmp_path: Path, kind: ChangeKind) -> Sink:
        if not self.durable:
            pytest.skip("the output does not outlive the process")
        sink = self.make(tmp_path).bind(SCHEMA, kind)
        if sink.guarantee is not Guarantee.EXACTLY_ONCE:
            pytest.skip("a crash may write twice")
        return sink

    def _bound(self, tmp_path: Path, kind: ChangeKind = _APPEND) -> Sink:
        return self.make(tmp_path).bind(SCHEMA, kind)

    def _committer(self, tmp_path: Path, kind: ChangeKind = _APPEND) -> Committer:
        return self._bound(tmp_path, kind).committer()

    def _stage(
        self,
        tmp_path: Path,
        batch_id: int,
        tasks: Iterable[Sequence[pa.Table | ChangeBatch]],
        kind: ChangeKind = _APPEND,
        attempt: int = 0,
    ) -> list[Receipt]:
        """The receipts of the tasks, as they come over the wire."""
        receipts = []
        for task, written in enumerate(tasks):
            writer = self._bound(tmp_path, kind).open(batch_id, f"{task}-{attempt}", SCHEMA)
            for changes in written:
                writer.write(changes if isinstance(changes, ChangeBatch) else ChangeBatch(changes))
            receipts.append(pickle.loads(pickle.dumps(writer.finish())))
            writer.close()
        return receipts

    def _commit(
        self,
        tmp_path: Path,
        committer: Committer,
        batch_id: int,
        tasks: Iterable[Sequence[pa.Table | ChangeBatch]],
        kind: ChangeKind = _APPEND,
        attempt: int = 0,
    ) -> None:
        committer.commit(batch_id, self._stage(tmp_path, batch_id, tasks, kind, attempt))

    def _check(self, tmp_path: Path, committer: Committer, expected: Iterable[tuple[object, ...]]) -> None:
        if isinstance(committer, SupportsView):
            catalog = Catalog()
            catalog.register("output", committer.view)
            assert sorted(map(repr, run_sql("SELECT * FROM output", catalog))) == sorted(map(repr, expected))
        committer.flush()
        found = self.read_back(tmp_path, committer)
        assert multiset(found) == sorted(map(repr, expected))


def rows(**values: int) -> pa.Table:
    """Rows of the suite's schema: `rows(a=1, b=2)`."""
    return pa.table({"key": list(values), "value": list(values.values())}, schema=SCHEMA)


def typed(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    """An Arrow array of a type that `pa.array` does not always make from Python values."""
    if pa.types.is_dictionary(kind):
        words = list(dict.fromkeys(value for value in values if value is not None))
        indices = [None if value is None else words.index(value) for value in values]
        return pa.DictionaryArray.from_arrays(
            pa.array(indices, kind.index_type), pa.array(words, kind.value_type), ordered=kind.ordered
        )
    if pa.types.is_large_list(kind) and pa.types.is_dictionary(kind.value_type):
        lengths = [0 if value is None else len(value) for value in values]  # type: ignore[arg-type]
        flat = [word for value in values if value is not None for word in value]  # type: ignore[attr-defined]
        offsets = pa.array([sum(lengths[:i]) for i in range(len(lengths) + 1)], pa.int64())
        mask = pa.array([value is None for value in values])
        return pa.LargeListArray.from_arrays(offsets, typed(flat, kind.value_type), type=kind, mask=mask)
    if pa.types.is_float16(kind):
        return pa.array(values, pa.float32()).cast(kind)
    return pa.array(values, kind)


def multiset(table: pa.Table | pl.DataFrame) -> list[str]:
    """The rows of a table such that equal tables give equal lists, whatever the order of their rows."""
    if isinstance(table, pl.DataFrame):
        table = table.to_arrow(compat_level=pl.CompatLevel.newest())
    columns = [[_canonical(value) for value in column.to_pylist()] for column in table.columns]
    return sorted(map(repr, zip(*columns, strict=True)))


def _canonical(value: Any) -> object:
    match value:
        case float() if math.isnan(value):
            return "nan"
        case float():
            return value + 0.0
        case dt.timedelta():  # pandas has subclasses for nanoseconds
            return getattr(value, "to_pytimedelta", lambda: value)()
        case dt.datetime():
            value = getattr(value, "to_pydatetime", lambda: value)()
            return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
        case dict():
            return {key: _canonical(inner) for key, inner in value.items()}
        case list():
            return [_canonical(inner) for inner in value]
        case _:
            return value


_CRASH = """
import os, sys, cloudpickle, pyarrow as pa
from arrowstream.connectors.changes import ChangeBatch
from arrowstream.testing.sink_suite import SCHEMA, rows

sink = cloudpickle.load(sys.stdin.buffer)
committer = sink.committer("run")
for batch, table in enumerate((rows(a=1, b=1), rows(c=2))):
    writer = sink.open(batch, "0-0", SCHEMA)
    writer.write(ChangeBatch(table))
    receipt = writer.finish()
    if batch == 1:
        os._exit(9)
    committer.commit(batch, [receipt])
"""
