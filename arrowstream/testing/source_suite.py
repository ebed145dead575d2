"""What every source must do: a test suite to subclass, in this project and for third parties' connectors.

    class TestMySource(SourceSuite):
        @pytest.fixture
        def supply(self, tmp_path):
            return MySupply(tmp_path)

A `Supply` is the other end: it makes the source, and feeds it rows. The suite reads back what was fed through
nothing but the source's contract.
"""

from __future__ import annotations

import json
import pickle
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial, reduce

import polars as pl
import polars.testing
import pyarrow as pa
import pytest

from arrowstream.connectors.source import (
    REJECT_SCHEMA,
    EndOfStream,
    Offset,
    Reader,
    Reference,
    Source,
    SupportsBounded,
    SupportsRange,
    SupportsRejects,
    joined,
    remembered,
)

PATIENCE = 10.0
"""Seconds that a row may take from the supply to the reader, on a busy machine."""


class Supply(ABC):
    """The other end of a source, and the source that reads from it."""

    malformed: int = 0
    """How many records that are no rows `feed_malformed` feeds; 0 where the source cannot meet any."""

    @abstractmethod
    def source(self) -> Source:
        """The source, always of the same stream."""

    @abstractmethod
    def feed(self, first: int, count: int) -> pl.DataFrame:
        """Feed rows number `first` to `first + count - 1`, one after the other; gives them as the source should."""

    def feed_malformed(self) -> None:
        """Feed `malformed` records that are no rows."""
        raise NotImplementedError

    def again(self, count: int) -> None:  # noqa: B027
        """A reader was opened at an earlier position, `count` rows back; for sources whose rows come by the clock."""

    @abstractmethod
    def end(self) -> None:
        """No more will be fed. May do nothing where only `bounded` ends the source."""


class SourceSuite:
    """Tests of a source's contract. Subclass it, and give a fixture `supply`."""

    def test_the_description_is_a_source_and_can_be_pickled(self, supply: Supply) -> None:
        """Workers get the description by pickle; it must describe the same stream there."""
        source = supply.source()
        copied = pickle.loads(pickle.dumps(source))
        assert isinstance(copied, Source)
        assert copied.schema == source.schema
        assert copied.replayable == source.replayable
        assert list(copied.splits()) == list(source.splits())

    def test_splits_are_named_once(self, supply: Supply) -> None:
        names = list(supply.source().splits())
        assert names
        assert len(set(names)) == len(names)
        assert all(isinstance(name, str) for name in names)

    def test_every_row_arrives_once_and_in_order(self, supply: Supply) -> None:
        """The ordinary life of a source: rows come while it is read."""
        source = supply.source()
        with reading(source) as reader:
            expected = [supply.feed(0, 3)]
            got = [polled(source, reader, 3)]
            expected.append(supply.feed(3, 5))
            got.append(polled(source, reader, 5))
        assert_rows(got, expected)

    def test_the_bounded_source_ends_after_what_there_is(self, supply: Supply) -> None:
        """`ctx.run()`: all that is there, and then the end, again and again if asked again."""
        source = supply.source()
        if not isinstance(source, SupportsBounded):
            pytest.skip("the source is not SupportsBounded")
        fed = [supply.feed(0, 8)] if source.replayable else []
        with reading(source.bounded()) as reader:
            fed = fed or [supply.feed(0, 8)]  # who cannot replay gives only what comes while it is read
            supply.end()
            assert_rows([polled(source, reader, None)], fed)
            with pytest.raises(EndOfStream):
                reader.poll(0)

    def test_poll_waits_no_longer_than_its_timeout(self, supply: Supply) -> None:
        """A receiver hears that it should stop between two polls."""
        with reading(supply.source()) as reader:
            for timeout in (0.0, 0.05):
                began = time.monotonic()
                assert reader.poll(timeout) is None
                assert time.monotonic() - began < timeout + 1.0

    def test_closing_twice_is_closing_once(self, supply: Supply) -> None:
        source = supply.source()
        reader = source.open(source.splits()[0], None)
        reader.close()
        reader.close()

    def test_closing_from_another_thread_ends_a_waiting_poll(self, supply: Supply) -> None:
        """A context that stops does not wait for a source that is silent."""
        source = supply.source()
        reader = source.open(source.splits()[0], None)
        outcome: list[object] = []

        def wait() -> None:
            try:
                outcome.append(reader.poll(PATIENCE))
            except (EndOfStream, OSError) as error:
                outcome.append(error)

        waiting = threading.Thread(target=wait)
        began = time.monotonic()
        waiting.start()
        closer = threading.Timer(0.1, reader.close)
        closer.start()
        waiting.join(PATIENCE)
        closer.join()
        assert outcome
        assert time.monotonic() - began < PATIENCE / 2

    def test_positions_are_json(self, supply: Supply) -> None:
        """Positions are written into the offset log."""
        source = supply.source()
        with reading(source) as reader:
            supply.feed(0, 4)
            polled(source, reader, 4)
            position = reader.position()
        assert json.loads(json.dumps(position)) == position

    def test_positions_stay_small(self, supply: Supply) -> None:
        """They are written with every batch, and must not grow with all that was ever read (see `SupportsSteps`)."""
        source = supply.source()
        sizes: list[int] = []
        with reading(source) as reader:
            for number in range(8):
                supply.feed(number, 1)
                polled(source, reader, 1)
                sizes.append(len(json.dumps(reader.position())))
        assert max(sizes) < 2 * sizes[1] + 32

    def test_acknowledging_takes_any_position_given(self, supply: Supply) -> None:
        """Positions are acknowledged in order, some are skipped, and the newest may come twice."""
        source = supply.source()
        with reading(source) as reader:
            supply.feed(0, 2)
            polled(source, reader, 2)
            first = reader.position()
            supply.feed(2, 2)
            polled(source, reader, 2)
            for position in (first, reader.position(), reader.position()):
                reader.acknowledge(position)

    def test_it_reads_on_from_any_position(self, supply: Supply) -> None:
        """After a crash, a replayable source gives the same rows after the same position again."""
        source = replayable(supply)
        rows, seen = read_in_pieces(supply, source)
        memory: Offset | None = None
        for count, position in seen:
            memory = memory if position is None else remembered(source, memory, position)
            with reading(source, json.loads(json.dumps(memory))) as reader:
                supply.again(rows.height - count)
                assert_rows([polled(source, reader, rows.height - count)], [rows[count:]])

    def test_a_range_scans_as_it_was_read(self, supply: Supply) -> None:
        """A block of a replayable source is read again by whichever worker runs its task."""
        source = replayable(supply)
        assert isinstance(source, SupportsRange)
        rows, seen = read_in_pieces(supply, source)
        for place, (first, start) in enumerate(seen):
            stop: Offset | None = None
            for last, position in seen[place + 1 :]:
                assert position is not None
                stop = position if stop is None else joined(source, stop, position)
                scanned = source.scan(source.splits()[0], start, stop).collect()
                assert scanned.schema == empty(source).schema
                assert_rows([scanned], [rows[first:last]])

    def test_a_copy_out_of_a_pickle_scans_the_same(self, supply: Supply) -> None:
        """The worker that scans is mostly not the process in which the source was made."""
        source = replayable(supply)
        with reading(source) as reader:
            rows = supply.feed(0, 4)
            steps: list[Offset] = []
            polled(source, reader, 4, steps=steps)
            stop = reduce(partial(joined, source), steps)
        copied = pickle.loads(pickle.dumps(source))
        assert isinstance(copied, SupportsRange)
        assert_rows([copied.scan(source.splits()[0], None, stop).collect()], [rows])

    def test_malformed_records_are_refused_and_the_stream_goes_on(self, supply: Supply) -> None:
        """A sender with a bug: its records go to the dead letters, each with a reason, and all rows arrive."""
        if not supply.malformed:
            pytest.skip("the source cannot meet malformed records")
        source = supply.source()
        with reading(source) as reader:
            assert isinstance(reader, SupportsRejects)
            expected = [supply.feed(0, 2)]
            supply.feed_malformed()
            expected.append(supply.feed(2, 2))
            refused: list[pa.RecordBatch] = []
            got = [polled(source, reader, 4, refused)]
            assert reader.rejects() is None
        assert_rows(got, expected)
        assert sum(batch.num_rows for batch in refused) == supply.malformed
        for batch in refused:
            assert batch.schema == REJECT_SCHEMA
            assert all(batch["reason"].to_pylist())


@contextmanager
def reading(source: Source, resume: Offset | None = None) -> Iterator[Reader]:
    """A reader of the source's first split."""
    with closing(source.open(source.splits()[0], resume)) as reader:
        yield reader


def replayable(supply: Supply) -> Source:
    source = supply.source()
    if not source.replayable:
        pytest.skip("the source is not replayable")
    return source


def read_in_pieces(supply: Supply, source: Source) -> tuple[pl.DataFrame, list[tuple[int, Offset | None]]]:
    """Rows fed and read piece by piece, and each position with the number of rows before it."""
    pieces: list[pl.DataFrame] = []
    seen: list[tuple[int, Offset | None]] = [(0, None)]
    with reading(source) as reader:
        for count in (3, 1, 4):
            first = seen[-1][0]
            pieces.append(supply.feed(first, count))
            steps: list[Offset] = []
            assert_rows([polled(source, reader, count, steps=steps)], pieces[-1:])
            seen.append((first + count, reduce(partial(joined, source), steps)))
    return pl.concat(pieces), seen


def polled(
    source: Source,
    reader: Reader,
    count: int | None,
    refused: list[pa.RecordBatch] | None = None,
    steps: list[Offset] | None = None,
) -> pl.DataFrame:
    """The next `count` rows (None: all to the end); fails where they do not come, or more do.

    A reference is scanned. Rejects go to `refused`, and are a failure where it is not given; positions after each poll
    that gave something go to `steps`.
    """
    found = [empty(source)]
    deadline = time.monotonic() + PATIENCE
    with suppress(EndOfStream):
        while count is None or sum(frame.height for frame in found) < count:
            assert time.monotonic() < deadline, f"{count} rows were to come, and these did: {pl.concat(found)}"
            before = reader.position()
            polled = reader.poll(0.05)
            given = polled is not None
            if isinstance(reader, SupportsRejects) and (rejects := reader.rejects()) is not None:
                assert refused is not None, f"records were refused: {rejects.to_pylist()}"
                refused.append(rejects)
                given = True
            if given and steps is not None:
                steps.append(reader.position())
            if isinstance(polled, Reference):
                assert isinstance(source, SupportsRange)
                found.append(source.scan(source.splits()[0], before, reader.position()).collect())
                assert found[-1].height == polled.num_rows
            elif polled is not None:
                assert polled.schema == source.schema
                found.append(pl.DataFrame(polled))
    rows = pl.concat(found)
    assert count is None or rows.height == count
    return rows


def empty(source: Source) -> pl.DataFrame:
    return pl.DataFrame(source.schema.empty_table())


def assert_rows(got: list[pl.DataFrame], expected: list[pl.DataFrame]) -> None:
    polars.testing.assert_frame_equal(pl.concat(got), pl.concat(expected))
