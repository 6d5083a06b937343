"""When to try again: pure arithmetic, no clock and no thread."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["ReconnectPolicy"]

# Most outages are short: a restart, a network that blinks. In the first seconds of one, waiting
# is kept short whatever the back-off has grown to.
SHORT_OUTAGE = 5.0
SHORT_DELAY = 1.0


class ReconnectPolicy:
    """How long to wait before each attempt to reconnect. Immutable.

    The wait grows by `factor` with each failure, from `initial` to at most `maximum`, and a
    random part of it is taken off so that many clients do not come back at the same instant.
    In the first 5 seconds of an outage no wait is longer than 1 second, or than `initial`.

    Args:
        initial: the longest first wait, seconds.
        maximum: the longest of all waits, seconds.
        factor: how fast it grows, at least 1.
        jitter: the part of a wait that is random, 0 to 1: with 1.0 ("full jitter") a wait is
            anything from 0 up, with 0.0 it is exact.
        max_attempts: give up with `ReconnectExhausted` after so many failed attempts in a row;
            None: never.
        reset_after: a connection that stayed subscribed for so many seconds makes the next wait
            begin at `initial` again.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of its range.
    """

    __slots__ = ("_factor", "_initial", "_jitter", "_max_attempts", "_maximum", "_reset_after")

    def __init__(
        self,
        initial: float = 0.5,
        maximum: float = 30.0,
        factor: float = 2.0,
        jitter: float = 1.0,
        max_attempts: int | None = None,
        reset_after: float = 60.0,
    ) -> None:
        self._initial = _within("initial", initial, 0.0)
        self._maximum = _within("maximum", maximum, 0.0)
        self._factor = _within("factor", factor, 1.0)
        self._jitter = _within("jitter", jitter, 0.0, 1.0)
        self._reset_after = _within("reset_after", reset_after, 0.0)
        if max_attempts is not None:
            if type(max_attempts) is not int:
                raise TypeError(f"max_attempts must be an int or None, not {max_attempts!r}")
            _within("max_attempts", max_attempts, 0)
        self._max_attempts = max_attempts

    @property
    def max_attempts(self) -> int | None:
        """Failed attempts in a row after which to give up; None: never."""
        return self._max_attempts

    @property
    def reset_after(self) -> float:
        """Seconds subscribed after which the waits begin anew."""
        return self._reset_after

    def delay(
        self,
        failures: int,
        outage_s: float = float("inf"),
        rand: Callable[[], float] = random.random,
    ) -> float:
        """Give the seconds to wait before the next attempt.

        Args:
            failures: how many attempts or connections have failed since the waits began anew,
                at least 1.
            outage_s: how long the outage has lasted, seconds.
            rand: a source of random numbers from 0 to 1.
        """
        if not self._initial:
            return 0.0
        try:
            ceiling = min(self._initial * self._factor ** (failures - 1), self._maximum)
        except OverflowError:
            ceiling = self._maximum
        if outage_s < SHORT_OUTAGE:
            ceiling = min(ceiling, max(SHORT_DELAY, self._initial))
        return ceiling * (1.0 - self._jitter * rand())

    def __repr__(self) -> str:
        values = ", ".join(f"{name[1:]}={getattr(self, name)!r}" for name in _ORDER)
        return f"ReconnectPolicy({values})"


_ORDER = ("_initial", "_maximum", "_factor", "_jitter", "_max_attempts", "_reset_after")


def _within(name: str, value: float, low: float, high: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)  # an int would be raised to powers of any length
    except OverflowError:
        number = value = float("inf")
    if not low <= number <= high or number == float("inf"):  # NaN is in no range
        wanted = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return number
