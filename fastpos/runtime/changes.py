"""Waiting for something to become so, in a way that a signal handler may take part in.

A handler runs between two steps of whatever the main thread does, and may call a stream's methods.
What it waits for must not be held by the frame that it interrupted, so nothing here is a lock: each
who waits has a `Wakeup` of its own, which may be set again while it is being set, and a list's
`append` and `remove` are one step each.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ..clock import monotonic
from ..wakeup import Wakeup

__all__ = ["Changes"]

# Waits are cut into slices, as a Ctrl-C that comes just before one does not end it, seconds.
SLICE = 0.5


class Changes:
    """Wakes whoever waits for a condition. Anybody may call this, from anywhere."""

    def __init__(self) -> None:
        self._waiting: list[Wakeup] = []

    def notify(self) -> None:
        """Have everybody who waits look again."""
        for wakeup in tuple(self._waiting):
            wakeup.set()

    def wait_for(self, condition: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until `condition()` is true, at most `timeout` seconds; True if it is.

        It is called on this thread, when somebody calls `notify` and now and then.
        """
        if condition():
            return True
        deadline = inf if timeout is None else monotonic() + timeout
        mine = Wakeup()
        self._waiting.append(mine)
        try:
            while not condition():
                remaining = deadline - monotonic()
                if remaining <= 0:
                    return False
                mine.wait(min(remaining, SLICE))
        finally:
            self._waiting.remove(mine)
        return True
