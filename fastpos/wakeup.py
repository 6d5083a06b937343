"""Waking a thread, and guarding what it shares, where a Ctrl-C may come at any moment.

Python raises KeyboardInterrupt on the main thread between two steps of whatever that does. The
methods of `threading.Event`, and those that a `with` calls of a `threading.Condition`, are written
in Python: where one of them is interrupted after it has taken its lock, or before it gives it back,
nobody gives it back any more, and whoever wants it next waits for ever. So

* threads are woken by a `Wakeup`;
* a condition has a lock of its own, and is entered by that: ``with self._lock:``, never
  ``with self._changed:``. Taking it and giving it back are one step each.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue

__all__ = ["Wakeup"]


class Wakeup:
    """What one thread waits for, and anybody may set, also in a signal handler.

    `SimpleQueue.put` may be entered again while it runs.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Have the thread go on, or not wait the next time."""
        if self._queue.empty():  # else it would grow while the thread is busy
            self._queue.put(None)

    def is_set(self) -> bool:
        """Whether it was set, and the thread has not come to it."""
        return not self._queue.empty()

    def wait(self, timeout: float | None) -> None:
        """Wait until it is set, for so many seconds at the most (None: for ever), and take that
        back."""
        with suppress(Empty):
            self._queue.get(timeout=timeout)
        self.clear()

    def clear(self) -> None:
        """Take back that it was set."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
