"""How long the user's functions take, and how long events wait for them.

How many took how long is counted in classes (`BOUNDS`). Nearly all are in the first, which is two
additions; who is told of the others, `took`, is told of what is slow anyway.

All of it is written by the thread that calls the functions, the reader or the callback thread.
Anybody may look.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from ..logs import fields, log
from ..model import primitives
from .callbacks import Handlers, callback_name

__all__ = ["BOUNDS", "CallbackTimes", "Running"]

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""Calls are counted by how long they took, up to each of these and beyond the last, seconds."""

# A slow function is logged once in so many seconds.
LOG_INTERVAL = 60.0
# So many slow functions are told apart; who makes a new one for each event may see more records.
MAX_FUNCTIONS = 100


class Running(NamedTuple):
    """A function that has not returned yet."""

    slot: str
    """The callback's name."""
    function: Callable[[Any], object]
    begun: float
    """Since when, `clock.monotonic()`."""


class CallbackTimes:
    """Takes the time of functions that are called one after the other.

    The clock is read once for each: what ends one begins the next. What the library does between
    two functions, some microseconds, counts for the second.

    Args:
        slow_s: a function that took longer is logged, seconds.
        stream: the name of the stream whose functions they are.
    """

    __slots__ = (
        "_logged",
        "_max_lag_s",
        "_received",
        "_slow_s",
        "begun",
        "function",
        "handlers",
        "limit",
        "now",
        "quick",
        "slow",
        "slowest",
        "stream",
        "total_s",
    )

    def __init__(self, slow_s: float, stream: str | None = None) -> None:
        self._slow_s = slow_s
        self.stream: str | None = stream
        self._logged: dict[int, float] = {}  # id of a function -> when it was last logged
        self._max_lag_s = 0.0  # of all events but the last
        self._received = 0.0  # when the event at hand was received
        self.now: float = primitives.monotonic()
        """When the last function ended, or the event at hand was taken up."""
        self.begun: float = 0.0
        """When the last function began."""
        self.function: Callable[[Any], object] | None = None
        """The function that runs, None where none does."""
        self.handlers: Handlers[Any] | None = None
        """For whom it runs, or the last one did."""
        self.limit: float = 0.0
        """`took` wants to know of functions that took longer than this, seconds."""
        self.slowest: tuple[float, str | None] = 0.0, None
        """The longest time that a function took, seconds, and its name."""
        self.quick: int = 0
        """How many calls took no longer than the first of `BOUNDS`."""
        self.slow: list[int] = [0] * len(BOUNDS)
        """How many took longer than each, and no longer than the next."""
        self.total_s: float = 0.0
        """How long all of them took together, seconds."""

    def take_up(self, received: float) -> None:
        """Begin with an event that was received at `received`, `clock.monotonic()`."""
        self._max_lag_s = max(self._max_lag_s, self.begun - self._received)
        self._received = received
        self.now = primitives.monotonic()

    def took(self, slot: str, function: Callable[[Any], object], seconds: float) -> None:
        """`function`, called for `slot`, took so many seconds."""
        self.total_s += seconds
        if seconds > BOUNDS[0]:
            self.slow[bisect_left(BOUNDS, seconds) - 1] += 1
        else:
            self.quick += 1
        if seconds > self.slowest[0]:
            self.slowest = seconds, callback_name(function)
            self.limit = min(seconds, self._slow_s, BOUNDS[0])
        if seconds > self._slow_s and self._is_due(id(function)):
            name = callback_name(function)
            log.warning(
                "%s: %s callback %s took %.3f s",
                self.stream,
                slot,
                name,
                seconds,
                extra=fields(
                    "slow_callback",
                    stream=self.stream,
                    slot=slot,
                    callback=name,
                    seconds=seconds,
                ),
            )
            self.now = primitives.monotonic()

    @property
    def running(self) -> Running | None:
        """The function that runs, if one does."""
        begun, function, handlers = self.begun, self.function, self.handlers
        if function is None or handlers is None or self.begun != begun:  # it has just begun
            return None
        return Running(handlers.name, function, begun)

    def _is_due(self, function: int) -> bool:
        if self.now - self._logged.get(function, -inf) < LOG_INTERVAL:
            return False
        self._logged.pop(function, None)  # to stand last: the first is the one logged longest ago
        while len(self._logged) >= MAX_FUNCTIONS:
            del self._logged[next(iter(self._logged))]
        self._logged[function] = self.now
        return True

    def counts(self) -> list[int]:
        """Give how many calls took no longer than each of `BOUNDS`, and longer than the one before;
        the last is of those that took longer than all."""
        return [self.quick, *self.slow]

    def lags(self) -> tuple[float, float]:
        """Give how long the last event waited for its function, and the longest wait, seconds."""
        begun = (
            self.begun
        )  # read first: of a later event `_received` is later, and the lag not huge
        lag = max(begun - self._received, 0.0)
        return lag, max(self._max_lag_s, lag)
