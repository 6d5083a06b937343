"""The clock for gaps, silence and deadlines: it can't be set, and it counts the time asleep.

Python's `time.monotonic` stands still on Linux and macOS while the machine sleeps, so a night would
be told as a second, and a connection that is long dead would be waited for.

* Linux has CLOCK_BOOTTIME, which costs no more than the other: both are read without a system call.
* macOS counts sleep in CLOCK_MONOTONIC (`time.monotonic` reads another clock there).
* Windows' `time.monotonic` counts it.

`model/primitives.pxd` reads the same clock in C. Nothing else in the library asks `time.monotonic`,
as times of two clocks can't be compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

__all__ = ["asleep", "monotonic"]


def _reader(name: str) -> Callable[[], float] | None:
    """Give what reads a clock of that name, None where there is none (or a sandbox forbids it)."""
    number = getattr(time, name, None)
    if number is None:
        return None
    try:
        time.clock_gettime(number)
    except OSError:
        return None
    return partial(time.clock_gettime, number)


_macos = sys.platform == "darwin"

monotonic: Callable[[], float] = (
    _reader("CLOCK_MONOTONIC" if _macos else "CLOCK_BOOTTIME") or time.monotonic
)
"""Seconds since some moment, with those in which the machine slept."""

_awake: Callable[[], float] = (
    _reader("CLOCK_UPTIME_RAW" if _macos else "CLOCK_MONOTONIC") or monotonic
)


def asleep() -> float:
    """Seconds for which the machine has slept; always the same where the system does not tell.

    It is never too much, but may be too little where the thread was held up between two steps.
    """
    # In this order: what passes in between makes the difference smaller.
    now = monotonic()
    return now - _awake()
