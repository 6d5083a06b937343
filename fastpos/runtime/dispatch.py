"""The callback thread of ``dispatch="thread"``: a bounded queue, and a thread that empties it.

A fleet's queues are emptied by a few threads for all of them (pool.py).

When the queue is full, of the ticks that wait only the newest is kept, and whatever else comes
makes the reader wait: no order, trigger, position, balance or error is dropped. While the reader
waits the kernel keeps what the exchange sends, and the pings go on.

Threads: the reader calls `start`, `put` and `finish`; the rest is anybody's. `_lock` guards what
`__init__` lists below it; it is not held while a function runs or something is logged. What a
signal handler may do, `discard` and looking, takes no lock: it may have interrupted who holds it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from ..clock import monotonic
from ..errors import FastposError
from ..fork import OwnerProcess
from ..logs import fields, log
from ..model.events import Disconnect
from ..model.exchange import CHANNELS
from .callbacks import Handlers, callback_name

__all__ = ["CallbackQueue", "Dispatcher"]

# Waits are cut into slices, as a Ctrl-C that comes just before one does not end it, seconds.
SLICE = 0.5
# Waits of the reader for room in the queue are told of as one where less lies between, seconds.
EPISODE_GAP = 5.0

# Events of which the newest will do: ticks, in the words of this file.
CONFLATED = frozenset(channel.event for channel in CHANNELS if channel.conflated)

# The functions, the event, and when it was received (`clock.monotonic`).
Entry = tuple[Handlers[Any], Any, float]


class CallbackQueue:
    """Events that wait for their functions to be called on another thread.

    Args:
        size: so many events may wait. A tick, and the error that tells of a full queue, are let in
            beyond that.
        on_error: is told when the queue is full; once while that happens again and again.
        owner: the process that this runs in.
        stream: the name of the stream whose events they are.
    """

    def __init__(
        self,
        size: int,
        on_error: Handlers[FastposError],
        owner: OwnerProcess,
        stream: str | None = None,
    ) -> None:
        self._size = size
        self._stream = stream
        self._on_error = on_error
        self._owner = owner

        self._discarding = False  # set by anybody, taken back by `_begin`
        self._lock = threading.RLock()  # see wakeup.py
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Entry] = deque()
        self._ticks = 0  # how many of those are ticks
        self.conflated: int = 0
        """How many ticks were dropped in favour of a newer one; under the lock, anybody looks."""
        self._full_until = -inf  # when it was last seen to be full
        self._current: tuple[Handlers[Any], float] | None = None  # being delivered, since when

    def _begin(self) -> None:
        """A run begins."""
        with self._lock:
            self._waiting.clear()
            self._ticks = 0
            self._full_until = -inf
            self._discarding = False

    def _append(self, entry: Entry) -> None:
        """Called under the lock."""
        if not self._unwanted(entry[1]):
            self._waiting.append(entry)
            self._ticks += type(entry[1]) in CONFLATED
            self._changed.notify()

    def _is_full(self, tick: bool) -> bool:
        """Whether an event has to wait for room; makes some where it can. Called under the lock."""
        if len(self._waiting) < self._size or self._discarding:
            return False
        keep = 0 if tick else 1
        if self._ticks > keep:
            newest = None
            if keep:
                newest = next(e for e in reversed(self._waiting) if type(e[1]) in CONFLATED)
            self._waiting = deque(
                e for e in self._waiting if type(e[1]) not in CONFLATED or e is newest
            )
            self.conflated += self._ticks - keep
            self._ticks = keep
        return not tick and len(self._waiting) >= self._size

    def _tell(self) -> None:
        """Say that the reader waits, once for waits that come one soon after the other."""
        with self._lock:
            if not self._waiting or monotonic() - self._full_until < EPISODE_GAP:
                return
            depth, now = len(self._waiting), monotonic()
            # The thread may not have come to begin yet.
            handlers, began = self._current or (self._waiting[0][0], now)
        names = ", ".join(map(callback_name, handlers.functions))
        error = FastposError(
            f"the callback queue is full, {depth} events wait: reading waits for {handlers.name} "
            f"callback {names}, which began {now - began:.3f} s ago"
        )
        error.stream = self._stream
        extra = fields(
            "queue_full",
            stream=self._stream,
            queue_depth=depth,
            slot=handlers.name,
            callback=names,
            seconds=now - began,
        )
        if self._on_error.functions:
            with self._lock:
                if not self._discarding:  # first, as it is about all the others
                    self._waiting.appendleft((self._on_error, error, monotonic()))
        log.warning("%s: %s", self._stream, error, extra=extra)

    def _pop(self) -> Entry | None:
        """Take the next event, None where none waits. Called under the lock."""
        while self._waiting:
            entry = self._waiting.popleft()
            self._ticks -= type(entry[1]) in CONFLATED
            if not self._unwanted(entry[1]):
                self._current = entry[0], monotonic()
                return entry
        self._current = None
        return None

    def _unwanted(self, event: Any) -> bool:
        return self._discarding and type(event) is not Disconnect

    def put(self, handlers: Handlers[Any], event: Any, heard: float) -> None:
        """Have `handlers` called with `event`, received at `heard` (`clock.monotonic`)."""
        raise NotImplementedError

    # --- anybody's --------------------------------------------------------------------------

    def discard(self) -> None:
        """Deliver nothing of what waits, and of what comes only a `Disconnect`."""
        self._discarding = True

    def wake(self) -> None:
        """Have it seen at once that `discard` was called. Not for signal handlers."""
        with self._lock:
            if self._discarding:
                self._waiting = deque(e for e in self._waiting if not self._unwanted(e[1]))
                self._ticks = 0
                self._changed.notify_all()

    @property
    def is_current(self) -> bool:
        """Whether this is asked by a function that is called by it."""
        raise NotImplementedError

    @property
    def is_alive(self) -> bool:
        """Whether one may still be running."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """How many events wait."""
        return len(self._waiting)


class Dispatcher(CallbackQueue):
    """Has events delivered on a thread of its own, in the order of arrival.

    The reader waits while the queue is full.
    """

    _thread: threading.Thread | None = None  # the reader's; the one that was last started
    # Guarded by `_lock`:
    _finishing = False
    _failure: BaseException | None = None  # with which a function ended the thread

    # --- the reader's -----------------------------------------------------------------------

    def start(
        self,
        name: str,
        call: Callable[[Handlers[Any], Any, float], None],
        end: Callable[[], None],
    ) -> None:
        """Start the thread.

        Args:
            name: the thread's.
            call: calls the functions with an event that was received at the given time.
            end: called on the thread when a function has ended it, to end the stream.
        """
        self._begin()
        with self._lock:
            self._finishing = False
            self._failure = None
        thread = threading.Thread(target=self._run, args=(call, end), name=name, daemon=True)
        thread.start()
        self._thread = thread

    def put(self, handlers: Handlers[Any], event: Any, heard: float) -> None:
        """Have `handlers` called with `event`, which was received at `heard` (`clock.monotonic`).

        Waits while the queue is full, but not with a tick, and not after `discard`.
        """
        entry = handlers, event, heard
        with self._lock:
            if not self._is_full(type(event) in CONFLATED):
                self._append(entry)
                return
        self._tell()
        with self._lock:
            while self._is_full(False):  # `discard` makes room too
                self._changed.wait(SLICE)
            self._full_until = monotonic()
            self._append(entry)

    def finish(self, timeout: float | None = None) -> None:
        """Wait until all that waits was delivered and the thread has ended.

        Args:
            timeout: seconds after which it is left to itself.

        Raises:
            BaseException: what a function raised to end the stream, KeyboardInterrupt or such.
        """
        deadline = None if timeout is None else monotonic() + timeout
        self.leave()
        while self.is_alive:
            assert self._thread is not None
            left = SLICE if deadline is None else min(SLICE, deadline - monotonic())
            if left <= 0:
                return
            self._thread.join(left)
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """Have the thread end once all that waits was delivered, but do not wait for it."""
        with self._lock:
            self._finishing = True
            self._changed.notify_all()

    # --- anybody's --------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """Whether this is asked on the callback thread."""
        return self._thread is threading.current_thread()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread is not None and self._thread.is_alive()

    # --- the thread -------------------------------------------------------------------------

    def _run(
        self, call: Callable[[Handlers[Any], Any, float], None], end: Callable[[], None]
    ) -> None:
        while (entry := self._take()) is not None:
            try:
                call(*entry)
            except Exception:
                log.exception(  # a mistake of ours, which must not end the feed
                    "the callback thread met an exception, and goes on",
                    extra=fields("internal_error"),
                )
            except BaseException as error:
                if not self._owner.is_another:
                    self._failure = error
                    end()
                return
            if self._owner.is_another:  # a function has forked, and this is the child
                return

    def _take(self) -> Entry | None:
        """Wait for an event; None at the end."""
        with self._lock:
            while True:
                entry = self._pop()
                if entry is not None:
                    self._changed.notify()
                    return entry
                if self._finishing:
                    return None
                self._changed.wait()
