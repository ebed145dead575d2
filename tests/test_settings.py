"""Durations and sizes as users write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from arrowstream.errors import PlanError
from arrowstream.settings import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("10s", 10.0), ("1h30m", 5400.0), ("1d", 86400.0), (timedelta(minutes=1), 60.0), (0.5, 0.5)],
)
def test_a_duration_is_seconds(text: str | timedelta | float, seconds: float) -> None:
    assert parse_duration(text, "every") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "10", "10 s", "-1s", "1s-", timedelta(seconds=-1), -1, float("nan")])
def test_what_is_no_duration_is_named_with_the_cure(text: str | timedelta | float) -> None:
    """A typo in a configuration: the error says which argument, what it was, and how to write it."""
    with pytest.raises(PlanError, match="batch_interval"):
        parse_duration(text, "batch_interval")


@pytest.mark.parametrize(
    ("text", "octets"), [("256MB", 256_000_000), ("1GiB", 2**30), ("1.5 kb", 1500), (4096, 4096), ("10", 10)]
)
def test_a_size_is_bytes(text: str | int, octets: int) -> None:
    assert parse_size(text, "memory") == octets


@pytest.mark.parametrize("text", ["", "big", "-5MB", 0, -1, True, "0MB"])
def test_what_is_no_size_is_named_with_the_cure(text: str | int) -> None:
    with pytest.raises(PlanError, match=r"memory=.*256MB"):
        parse_size(text, "memory")
