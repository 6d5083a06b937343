"""The ping thread: keeps the schedule, watches for the pong, and for other deadlines.

It does nothing else, so that a callback that takes its time delays no ping. `_changed` guards
what is below it in `__init__`; it is not held while anything is sent.
"""

from __future__ import annotations

import threading
from math import inf
from time import monotonic, time_ns

from .connection import Connection
from .errors import ConnectionFailed, FastposError

__all__ = ["Heartbeat"]

# How long the reader may take to notice what the kernel has, on a busy machine, seconds.
GRACE = 0.25
# How often to look again once a deadline has passed, seconds.
LOOK_AGAIN = 0.05


class Heartbeat:
    """Sends ``{"ping": ms}`` on a connection and ends it when no pong comes.

    Args:
        interval: seconds between pings; the first comes one interval after `watch`.
        pong_timeout: seconds to wait for the pong.
    """

    def __init__(self, interval: float, pong_timeout: float) -> None:
        self._interval = interval
        self._pong_timeout = pong_timeout
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self._connection: Connection | None = None
        self._next_ping = 0.0
        self._pinged = 0.0
        self._pong_due: float | None = None
        self._next_look = 0.0
        # The thread's own: how many reads there had been when silence was first seen, and when.
        self._silent_since: tuple[int, float] | None = None
        self._limit: tuple[float, FastposError] | None = None
        self.last_ping_ns: int | None = None
        """When the last ping was sent, `time.time_ns()`."""
        self.last_pong_ns: int | None = None
        """When the last pong was read, `time.time_ns()`."""
        self.round_trip_s: float | None = None
        """From the last answered ping to its pong, seconds."""

    def start(self, name: str) -> None:
        """Start the thread."""
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def watch(self, connection: Connection) -> None:
        """Look after `connection`, which has just been opened."""
        with self._changed:
            self._connection = connection
            self._next_ping = monotonic() + self._interval
            self._pong_due = self._limit = None
            self._next_look = 0.0
            self._changed.notify()

    def unwatch(self) -> None:
        """Leave the connection alone."""
        with self._changed:
            self._connection = None

    def pong(self) -> None:
        """Say that a pong was read."""
        with self._changed:
            if self._pong_due is not None:
                self._pong_due = None
                self.round_trip_s = monotonic() - self._pinged
            self.last_pong_ns = time_ns()

    def limit(self, seconds: float, error: FastposError) -> None:
        """End the connection with `error` in so many seconds, unless `unlimit` is called."""
        with self._changed:
            self._limit = monotonic() + seconds, error
            self._changed.notify()

    def unlimit(self) -> None:
        """Take `limit` back."""
        with self._changed:
            self._limit = None

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                connection = self._connection
                now = monotonic()
                due = self._due() if connection is not None else None
                if due is None or due > now:
                    self._changed.wait(None if due is None else due - now)
                    continue
                ping = self._next_ping <= now
                if ping:
                    # Missed ones (the machine was asleep) are not made up for.
                    missed = (now - self._next_ping) // self._interval
                    self._next_ping += (missed + 1) * self._interval
                    self._pinged = now
                    if self._pong_due is None:
                        self._pong_due = now + self._pong_timeout
            assert connection is not None
            if ping:
                self._ping(connection)
            else:
                self._judge(connection)

    def _due(self) -> float:
        """When there is next something to do."""
        deadline = min(
            inf if self._pong_due is None else self._pong_due,
            inf if self._limit is None else self._limit[0],
        )
        return min(self._next_ping, max(deadline, self._next_look))

    def _ping(self, connection: Connection) -> None:
        now_ns = time_ns()
        try:
            connection.send(f'{{"ping":{now_ns // 1_000_000}}}', timeout=self._pong_timeout)
        except OSError as error:
            reason = f"a ping could not be sent: {error}"
            connection.abort(reason, ConnectionFailed(reason))
            self._leave(connection)
        else:
            self.last_ping_ns = now_ns

    def _judge(self, connection: Connection) -> None:
        """A deadline has passed: end the connection, unless the answer may lie unread."""
        now, reads = monotonic(), connection.reads
        self._next_look = now + LOOK_AGAIN
        if not connection.silent():
            self._silent_since = None
        elif self._silent_since is None or self._silent_since[0] != reads:
            self._silent_since = reads, now
        elif now - self._silent_since[1] >= GRACE:
            self._expire(connection)

    def _expire(self, connection: Connection) -> None:
        error: FastposError | None = None
        with self._changed:
            now = monotonic()
            if self._connection is not connection:
                return
            if self._pong_due is not None and self._pong_due <= now:
                error = ConnectionFailed(f"no pong within {self._pong_timeout:g} s")
            elif self._limit is not None and self._limit[0] <= now:
                error = self._limit[1]
        if error is not None:
            connection.abort(str(error), error)
            self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        with self._changed:
            if self._connection is connection:
                self._connection = None
