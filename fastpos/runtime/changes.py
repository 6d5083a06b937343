"""Waiting for something to become so, in a way that a signal handler may take part in.

A handler runs between two steps of whatever the main thread does, and may call a stream's methods.
What it waits for must not be held by the frame that it interrupted, so nothing here is a lock: each
who waits has a queue of its own, and is woken by an entry in it. `SimpleQueue.put` may be entered
again while it runs, and a list's `append` and `remove` are one step each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue

from ..clock import monotonic

__all__ = ["Changes"]

# Waits are cut into slices, as a Ctrl-C that comes just before one does not end it, seconds.
SLICE = 0.5


class Changes:
    """Wakes whoever waits for a condition. Anybody may call this, from anywhere."""

    def __init__(self) -> None:
        self._waiting: list[SimpleQueue[None]] = []

    def notify(self) -> None:
        """Have everybody who waits look again."""
        for queue in tuple(self._waiting):
            queue.put(None)

    def wait_for(self, condition: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until `condition()` is true, at most `timeout` seconds; True if it is.

        It is called on this thread, when somebody calls `notify` and now and then.
        """
        if condition():
            return True
        deadline = inf if timeout is None else monotonic() + timeout
        mine: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(mine)
        try:
            while not condition():
                remaining = deadline - monotonic()
                if remaining <= 0:
                    return False
                with suppress(Empty):
                    mine.get(timeout=min(remaining, SLICE))
                    while True:  # of many changes at once one look is enough
                        mine.get_nowait()
        finally:
            self._waiting.remove(mine)
        return True
