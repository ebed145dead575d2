"""How often a function of the user is called again when it fails, and after which pause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import tenacity

from arrowstream.errors import PlanError

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Retries:
    """Call again, up to `times` times, what raises one of `on`.

    The first pause is `wait` seconds, each one after it twice as long, and none longer than `longest`.

    `OSError` is what connections, files and time limits raise. What is none of `on`, and the last failure, goes on as
    it is. The function must be fit to be called twice with the same rows.

        ars.Retries(5, on=(OSError, MyServiceBusy), wait=0.5)
    """

    times: int
    on: tuple[type[Exception], ...] = (OSError,)
    wait: float = 0.1
    longest: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.times, bool) or not isinstance(self.times, int) or self.times < 0:
            raise PlanError(f"retries={self.times!r} is no number of times: 0 for none, 3 for up to four calls")
        given = self.on if isinstance(self.on, tuple) else (self.on,)
        if not given or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in given):
            raise PlanError(f"Retries: on={self.on!r} is no tuple of exceptions, such as (OSError, TimeoutError)")
        object.__setattr__(self, "on", given)
        if not (0 <= self.wait <= self.longest):
            raise PlanError(f"Retries: wait={self.wait!r} s must be between 0 and longest={self.longest!r} s")

    def call(self, function: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
        """What the function gives, in the end. Raises what it raises."""
        if not self.times:
            return function(*args, **kwargs)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(self.on),
            stop=tenacity.stop_after_attempt(self.times + 1),
            wait=tenacity.wait_exponential(multiplier=self.wait, max=self.longest),
            reraise=True,
        )
        return again(function, *args, **kwargs)


NO_RETRIES = Retries(0)


def as_retries(given: int | Retries) -> Retries:
    """`retries=3` is `Retries(3)`. Raises `PlanError`."""
    return given if isinstance(given, Retries) else Retries(given)
