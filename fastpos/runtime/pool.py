"""The callback threads of a fleet: a queue for each stream, and a few threads that empty them all.

A queue that has events stands in line once, and whichever thread is free takes it: so a stream's
functions are called in order, by one thread at a time, and a slow one holds one thread. After some
events it goes to the end of the line.

A full queue keeps nobody waiting: it *is crowded*, and the reader leaves that stream alone until it
is not: it is not read, so that what the exchange sends waits in the kernel, its pings go on, no
snapshot is looked at, and no connection is tried after one that was lost. So what waits beyond the
queue's size is what one turn brings.

Threads: `put`, `start` and `leave` are the reader's, the rest is anybody's. `_lock` guards what
it does in `CallbackQueue`, and what `PooledQueue.__init__` says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ..clock import monotonic
from ..errors import FastposError
from ..fork import OwnerProcess
from ..logs import fields, log
from .callbacks import Handlers
from .dispatch import CONFLATED, CallbackQueue

__all__ = ["CallbackPool", "PooledQueue"]

# So many events of one stream are delivered before it is the others' turn.
TURN = 16


class CallbackPool:
    """Threads that empty queues.

    Args:
        name: of the threads, which get a number behind it.
        count: how many there are.
        failed: is called on one of them with what a function raised to end the program.
    """

    def __init__(self, name: str, count: int, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._line: SimpleQueue[PooledQueue | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start the threads; raises RuntimeError where that can't be."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have the threads end when nobody stands in line any more, but do not wait for it."""
        for _ in self._threads:
            self._line.put(None)

    def join(self, timeout: float) -> None:
        """Wait until they have ended, at most so many seconds."""
        deadline = monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(deadline - monotonic(), 0.0))

    @property
    def is_current(self) -> bool:
        """Whether this is asked on one of them."""
        return threading.current_thread() in self._threads

    def line_up(self, queue: PooledQueue) -> None:
        """Have a queue emptied when it is its turn."""
        self._line.put(queue)

    def _run(self) -> None:
        while (queue := self._line.get()) is not None:
            try:
                queue.deliver()
            except Exception:
                log.exception(  # a mistake of ours, which must not end the feed
                    "a callback thread met an exception, and goes on",
                    extra=fields("internal_error"),
                )
            except BaseException as error:
                if queue.is_copied:
                    return
                self._failed(error)
            if queue.is_copied:  # a function has forked, and this is the child
                return
            queue.line_up_again()


class PooledQueue(CallbackQueue):
    """Has a stream's events delivered by a pool, in the order of arrival.

    Args:
        size, on_error, owner, stream: see `CallbackQueue`.
        pool: whose threads call the functions.
        roomy: is called when the queue was crowded and is not any more.
    """

    def __init__(
        self,
        size: int,
        on_error: Handlers[FastposError],
        owner: OwnerProcess,
        stream: str,
        pool: CallbackPool,
        roomy: Callable[[], object],
    ) -> None:
        super().__init__(size, on_error, owner, stream)
        self._pool = pool
        self._roomy = roomy
        self._call: Callable[[Handlers[Any], Any, float], None] | None = None  # the reader's
        # Guarded by `_lock`:
        self._is_in_line = False  # or being emptied
        self._is_crowded = False
        self._left: Callable[[], object] | None = None  # is called when all was delivered
        self._by: threading.Thread | None = None  # which thread is emptying it

    # --- the reader's -----------------------------------------------------------------------

    def start(self, call: Callable[[Handlers[Any], Any, float], None]) -> None:
        """Begin a run; `call` calls the functions with an event received at the given time."""
        self._begin()
        self._call = call
        with self._lock:
            self._left = None
            self._is_crowded = False

    def put(self, handlers: Handlers[Any], event: Any, heard: float) -> None:
        """Have `handlers` called with `event`, received at `heard` (`clock.monotonic`)."""
        with self._lock:
            crowded = self._is_full(type(event) in CONFLATED)
            begins = crowded and not self._is_crowded
            self._is_crowded |= crowded
            self._append((handlers, event, heard))
            self._line_up()
        if begins:
            self._tell()
            with self._lock:
                self._full_until = monotonic()

    def leave(self, left: Callable[[], object]) -> None:
        """Have `left` called, once, when all that waits was delivered."""
        with self._lock:
            if self._waiting or self._by is not None:
                self._left = left
                self._line_up()
                return
        left()

    @property
    def is_crowded(self) -> bool:
        """Whether no more should be put there."""
        return self._is_crowded

    def _line_up(self) -> None:
        """Called under the lock."""
        if self._waiting and not self._is_in_line:
            self._is_in_line = True
            self._pool.line_up(self)

    # --- anybody's --------------------------------------------------------------------------

    def wake(self) -> None:
        """Have it seen at once that `discard` was called. Not for signal handlers."""
        super().wake()
        self._make_room()

    @property
    def is_current(self) -> bool:
        """Whether this is asked on one of the pool's threads: none of them may wait for another."""
        return self._pool.is_current

    @property
    def is_alive(self) -> bool:
        """Whether a function is still running."""
        return self._by is not None

    @property
    def is_copied(self) -> bool:
        """Whether this is a copy in another process."""
        return self._owner.is_another

    # --- the pool's threads -----------------------------------------------------------------

    def deliver(self) -> None:
        """Call the functions for the first events that wait."""
        with self._lock:
            self._by = threading.current_thread()
        for _ in range(TURN):
            with self._lock:
                entry = self._pop()
            if entry is None:
                return
            self._make_room()
            assert self._call is not None
            self._call(*entry)
            if self._owner.is_another:
                return

    def line_up_again(self) -> None:
        """Say that this turn is over."""
        left = None
        with self._lock:
            self._by = self._current = None
            self._is_in_line = False
            self._line_up()
            if not self._is_in_line:
                left, self._left = self._left, None
        if left is not None:
            left()

    def _make_room(self) -> None:
        with self._lock:
            if not self._is_crowded or len(self._waiting) > self._size // 2:
                return
            self._is_crowded = False
        self._roomy()
