"""NEXMark's events, as a function of their numbers: what event n holds depends on (seed, rate, n) alone.

The distributions are those of nexmark/nexmark (https://github.com/nexmark/nexmark). Randomness comes from a hash of the
event's number and the column (SplitMix64: Steele, Lea, Flood 2014), so any range of events, and any of its columns, is
made without the rest. Strings are cut out of pools of random letters as Arrow string views: no byte is copied.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from arrowstream.sources._texts import Letters, Numbers, Words

Bits: TypeAlias = npt.NDArray[np.uint64]

CYCLE = 50
"""Of so many events in a row, the same are persons, auctions and bids."""

SHARE = {"person": (0, 1), "auction": (1, 4), "bid": (4, 50)}
"""Which numbers of a cycle (from, up to) are events of a stream."""

START_MS = 1_436_918_400_000
"""2015-07-15T00:00:00Z, as in Beam: ten-second windows begin with the stream."""

ROW_BYTES = {"person": 200, "auction": 500, "bid": 100}
"""The mean size of a row, which the column `extra` fills up to, give or take a fifth."""

_MS = pl.Datetime("ms")

SCHEMAS = {
    "person": pl.Schema(
        {
            "id": pl.Int64(),
            "name": pl.String(),
            "emailAddress": pl.String(),
            "creditCard": pl.String(),
            "city": pl.String(),
            "state": pl.String(),
            "dateTime": _MS,
            "extra": pl.String(),
            "seq": pl.Int64(),
        }
    ),
    "auction": pl.Schema(
        {
            "id": pl.Int64(),
            "itemName": pl.String(),
            "description": pl.String(),
            "initialBid": pl.Int64(),
            "reserve": pl.Int64(),
            "dateTime": _MS,
            "expires": _MS,
            "seller": pl.Int64(),
            "category": pl.Int64(),
            "extra": pl.String(),
            "seq": pl.Int64(),
        }
    ),
    "bid": pl.Schema(
        {
            "auction": pl.Int64(),
            "bidder": pl.Int64(),
            "price": pl.Int64(),
            "channel": pl.String(),
            "url": pl.String(),
            "dateTime": _MS,
            "extra": pl.String(),
            "seq": pl.Int64(),
        }
    ),
}
"""The columns of each stream; `seq` is the event's number."""

_FIRST_ID = 1000
_AUCTIONS = 3  # of a cycle
_HOT = 100  # every so many ids, one is hot
_IN_FLIGHT = 100  # auctions that cold bids go to
_ACTIVE = 1000  # persons who sell and bid
_LEAD = 10  # ids that are named before they exist
_CHANNELS = 10_000
_POOL = 1 << 19  # letters that texts are cut out of
_LONGEST = 1024

_FIRST_NAMES = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"]
_LAST_NAMES = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"]
_CITIES = ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland"]
_CITIES += ["Bend", "Redmond", "Seattle", "Kent", "Cheyenne"]
_STATES = ["AZ", "CA", "ID", "OR", "WA", "WY"]


@dataclass(frozen=True, slots=True)
class Generator:
    """Events of a seed and a rate (events a second of event time). `start_ms` is the time of event 0."""

    seed: int = 42
    rate: float = 10_000
    start_ms: int = START_MS

    def frame(self, stream: str, first: int, stop: int, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows of a stream among events `first` to `stop - 1`, in order; all columns unless `columns` says."""
        events = _STREAMS[stream](self, event_numbers(stream, first, stop))
        schema = SCHEMAS[stream]
        series = [_series(name, getattr(events, name), schema[name]) for name in columns or schema]
        return pl.DataFrame(series)

    def time_ms(self, numbers: Numbers) -> Numbers:
        """The times of events: milliseconds since the epoch, cut off from whole microseconds."""
        if self.rate == int(self.rate):
            micros = numbers * 1_000_000 // int(self.rate)
        else:
            micros = (numbers * (1_000_000 / self.rate)).astype(np.int64)
        return self.start_ms + micros // 1000


def event_numbers(stream: str, first: int, stop: int) -> Numbers:
    """The numbers of a stream's events among `first` to `stop - 1`."""
    low, high = SHARE[stream]
    cycles = np.arange(first // CYCLE, -(-stop // CYCLE), dtype=np.int64)
    numbers = (cycles[:, None] * CYCLE + np.arange(low, high)).ravel()
    return numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, stop)]


def rows_before(stream: str, event: int) -> int:
    """How many rows a stream has before event number `event`."""
    low, high = SHARE[stream]
    cycles, rest = divmod(event, CYCLE)
    return cycles * (high - low) + min(max(rest - low, 0), high - low)


def event_of_row(stream: str, row: int) -> int:
    """The event number of a stream's row (both from 0)."""
    low, high = SHARE[stream]
    cycles, rest = divmod(row, high - low)
    return cycles * CYCLE + low + rest


def random_bits(seed: int, purpose: str, numbers: Numbers) -> Bits:
    """64 random bits for each number: the same for the same seed, purpose and number."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _key(seed, purpose)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _series(name: str, values: Any, dtype: pl.DataType) -> pl.Series:
    series = pl.Series(name, values) if isinstance(values, np.ndarray) else pl.Series(name, pl.from_arrow(values))
    return series if series.dtype == dtype else series.cast(dtype)


class _Events:
    """The events of these numbers. Columns are attributes of their names, made when they are asked for."""

    def __init__(self, generator: Generator, numbers: Numbers) -> None:
        self._generator, self._seed = generator, generator.seed
        self.seq = numbers
        self._cycle = numbers // CYCLE

    @cached_property
    def dateTime(self) -> Numbers:
        return self._generator.time_ms(self.seq)

    def _bits(self, purpose: str) -> Bits:
        return random_bits(self._seed, purpose, self.seq)

    def _below(self, bound: int | Numbers, purpose: str) -> Numbers:
        """A random number from 0 up to `bound`, at most 2**31, an event."""
        high = self._bits(purpose) >> np.uint64(32)
        return ((high * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int64)

    def _unit(self, purpose: str) -> npt.NDArray[np.float64]:
        return (self._bits(purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _price(self, purpose: str) -> Numbers:
        return np.rint(10.0 ** (self._unit(purpose) * 6.0) * 100.0).astype(np.int64)

    def _someone(self, hot: Numbers, purpose: str) -> Numbers:
        """The id of a person: three times in four the hot one, else one of the last or of the next to come."""
        people = self._cycle + 1
        active = np.minimum(people, _ACTIVE)
        cold = people - active + self._below(active + _LEAD, f"{purpose} cold")
        return np.where(self._below(4, f"{purpose} hot") > 0, hot, cold) + _FIRST_ID

    def _text(self, purpose: str, longest: int) -> tuple[pa.Array, Numbers]:
        """Words of 3 to `longest - 1` letters before they are stripped of blanks, and their lengths."""
        pool = _letters(self._seed, " ")
        start = self._below(_POOL, f"{purpose} start")
        return pool.stripped(start, 3 + self._below(longest - 3, f"{purpose} length"))

    def _extra(self, size: int, rest: Numbers | int) -> pa.Array:
        """Letters that fill rows up to a size of `size` bytes on average; `rest` is what the other columns have."""
        wanted = np.broadcast_to(size - np.asarray(rest, np.int64), self.seq.shape)
        margin = np.rint(wanted * 0.2).astype(np.int64)
        spread = self._below(np.maximum(2 * margin, 1), "extra length")
        length = np.where(wanted < 0, 0, wanted - margin + spread)
        return _letters(self._seed, "").cut(self._below(_POOL, "extra start"), length)


class _Persons(_Events):
    @cached_property
    def id(self) -> Numbers:
        return self._cycle + _FIRST_ID

    @cached_property
    def _name(self) -> tuple[pa.Array, Numbers]:
        return _names().take(self._below(len(_FIRST_NAMES) * len(_LAST_NAMES), "name"))

    @property
    def name(self) -> pa.Array:
        return self._name[0]

    @cached_property
    def _email(self) -> tuple[pa.Array, Numbers]:
        (user, long), (host, short) = self._text("user", 7), self._text("host", 5)
        address = pc.binary_join_element_wise(user.cast(pa.string()), host.cast(pa.string()), "@")
        return pc.binary_join_element_wise(address, "com", "."), long + short + len("@.com")

    @property
    def emailAddress(self) -> pa.Array:
        return self._email[0]

    @property
    def creditCard(self) -> pa.Array:
        groups = [_digits().take(self._below(10_000, f"card {n}"))[0].cast(pa.string()) for n in range(4)]
        return pc.binary_join_element_wise(*groups, " ")

    @cached_property
    def _city(self) -> tuple[pa.Array, Numbers]:
        return _cities().take(self._below(len(_CITIES), "city"))

    @property
    def city(self) -> pa.Array:
        return self._city[0]

    @property
    def state(self) -> pa.Array:
        return _states().take(self._below(len(_STATES), "state"))[0]

    @property
    def extra(self) -> pa.Array:
        rest = self._name[1] + self._email[1] + self._city[1] + 8 + len("0000 0000 0000 0000") + len("AZ")
        return self._extra(ROW_BYTES["person"], rest)


class _Auctions(_Events):
    @cached_property
    def id(self) -> Numbers:
        return self._cycle * _AUCTIONS + self.seq % CYCLE - SHARE["auction"][0] + _FIRST_ID

    @cached_property
    def _item(self) -> tuple[pa.Array, Numbers]:
        return self._text("item", 20)

    @property
    def itemName(self) -> pa.Array:
        return self._item[0]

    @cached_property
    def _description(self) -> tuple[pa.Array, Numbers]:
        return self._text("description", 100)

    @property
    def description(self) -> pa.Array:
        return self._description[0]

    @cached_property
    def initialBid(self) -> Numbers:
        return self._price("first bid")

    @property
    def reserve(self) -> Numbers:
        return self.initialBid + self._price("reserve")

    @property
    def expires(self) -> Numbers:
        """Auctions last from 1 ms to twice the time in which as many come as are in flight."""
        horizon = self._generator.time_ms(self.seq + _IN_FLIGHT * CYCLE // _AUCTIONS) - self.dateTime
        return self.dateTime + 1 + self._below(np.maximum(2 * horizon, 1), "expires")

    @property
    def seller(self) -> Numbers:
        return self._someone(self._cycle // _HOT * _HOT, "seller")

    @property
    def category(self) -> Numbers:
        return 10 + self._below(5, "category")

    @property
    def extra(self) -> pa.Array:
        return self._extra(ROW_BYTES["auction"], 48 + self._item[1] + self._description[1])


class _Bids(_Events):
    @property
    def auction(self) -> Numbers:
        last = self._cycle * _AUCTIONS + _AUCTIONS - 1
        oldest = np.maximum(last - _IN_FLIGHT, 0)
        cold = oldest + self._below(last - oldest + 1 + _LEAD, "auction cold")
        return np.where(self._below(2, "auction hot") > 0, last // _HOT * _HOT, cold) + _FIRST_ID

    @property
    def bidder(self) -> Numbers:
        return self._someone(self._cycle // _HOT * _HOT + 1, "bidder")

    @property
    def price(self) -> Numbers:
        return self._price("price")

    @cached_property
    def _where(self) -> Numbers:
        """Half of the bids come by one of four channels, and half by one of ten thousand."""
        return np.where(self._below(2, "channel hot") > 0, self._below(4, "hot"), 4 + self._below(_CHANNELS, "cold"))

    @property
    def channel(self) -> pa.Array:
        return _channels().take(self._where)[0]

    @property
    def url(self) -> pa.Array:
        return _urls(self._seed).take(self._where)[0]

    @property
    def extra(self) -> pa.Array:
        return self._extra(ROW_BYTES["bid"], 32)


_STREAMS = {"person": _Persons, "auction": _Auctions, "bid": _Bids}


@cache
def _key(seed: int, purpose: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


@cache
def _letters(seed: int, special: str) -> Letters:
    """Random letters; one in thirteen is the special character, where there is one."""
    random = np.random.default_rng(int(_key(seed, f"letters {special!r}")))
    letters = random.integers(ord("a"), ord("z") + 1, _POOL + _LONGEST, np.uint8)
    if special:
        letters[random.integers(0, 13, len(letters)) == 0] = ord(special)
    return Letters(letters.tobytes())


@cache
def _names() -> Words:
    return Words([f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES])


@cache
def _cities() -> Words:
    return Words(_CITIES)


@cache
def _states() -> Words:
    return Words(_STATES)


@cache
def _digits() -> Words:
    return Words([f"{number:04}" for number in range(10_000)])


@cache
def _channels() -> Words:
    return Words(["Google", "Facebook", "Baidu", "Apple", *(f"channel-{number}" for number in range(_CHANNELS))])


@cache
def _urls(seed: int) -> Words:
    """A fixed address for each channel; nine of ten of the cold ones name a channel in it."""
    random = np.random.default_rng(int(_key(seed, "urls")))
    letters = random.integers(ord("a"), ord("z") + 1, (_CHANNELS + 4, 3, 4), np.uint8)
    letters[random.integers(0, 13, letters.shape) == 0] = ord("_")
    lengths = random.integers(3, 5, letters.shape[:2])
    named = random.integers(0, 10, len(letters)) > 0
    addresses = []
    for row, number in enumerate(range(-4, _CHANNELS)):
        parts = [letters[row, part, : lengths[row, part]].tobytes().decode() for part in range(3)]
        address = f"https://www.nexmark.com/{'/'.join(parts)}/item.htm?query=1"
        if number >= 0 and named[row]:
            address += f"&channel_id={abs(_reversed_bits(number))}"
        addresses.append(address)
    return Words(addresses)


def _reversed_bits(number: int) -> int:
    """The 32 bits of a number from last to first, read as a signed number."""
    value = int(f"{number:032b}"[::-1], 2)
    return value - (1 << 32) if value >= 1 << 31 else value
