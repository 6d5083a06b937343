"""The ping thread: keeps the schedule, watches for the pong, and for other deadlines.

It does nothing that takes long, so that a callback which takes its time delays no ping.
`_changed` guards what `__init__` lists below it; it is not held while anything is sent. It may be
entered again by the thread that holds it, so a signal handler may call all this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic, time_ns

from ..errors import ConnectionFailed, FastposError
from ..logs import fields, log
from ..net.connection import CLOSE_TIMEOUT, Connection

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
        self.last_ping_ns: int | None = None
        """When the last ping was sent, `time.time_ns()`."""
        self.last_pong_ns: int | None = None
        """When the last pong was read, `time.time_ns()`."""
        self.round_trip_s: float | None = None
        """From the last answered ping to its pong, seconds."""

        self._changed = threading.Condition()
        self._stopped = False
        self._connection: Connection | None = None
        self._next_ping = 0.0
        self._pinged = 0.0
        self._pong_due: float | None = None
        self._limit: tuple[float, FastposError] | None = None
        self._next_look = 0.0
        # When silence was first seen after a deadline, and how many reads there had been.
        self._silent_since: tuple[float, int] | None = None
        self._farewell: Callable[[], None] | None = None
        self._dismissed: float | None = None  # when the connection is to be ended whatever comes

    def start(self, name: str, interrupted: Callable[[BaseException], None]) -> None:
        """Start the thread.

        Args:
            name: the thread's.
            interrupted: is told on it of a Ctrl-C that arrives there. Only where threads are
                greenlets (gevent) can that be.
        """
        self._stopped = False
        thread = threading.Thread(target=self._run, args=(interrupted,), name=name, daemon=True)
        thread.start()
        self._thread = thread

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
            self._pong_due = self._limit = self._dismissed = None
            self._look_anew()

    def unwatch(self) -> None:
        """Leave the connection alone."""
        with self._changed:
            self._connection = self._farewell = None

    def pong(self) -> None:
        """Say that a pong was read."""
        with self._changed:
            if self._pong_due is not None:
                self._pong_due = None
                self.round_trip_s = monotonic() - self._pinged
            self.last_pong_ns = time_ns()
            self._look_anew()

    def limit(self, connection: Connection, seconds: float, error: FastposError) -> None:
        """End the connection with `error` in so many seconds, unless `unlimit` is called."""
        with self._changed:
            if self._connection is connection:
                self._limit = monotonic() + seconds, error
                self._look_anew()

    def unlimit(self) -> None:
        """Take `limit` back."""
        with self._changed:
            self._limit = None
            self._look_anew()

    def dismiss(self, farewell: Callable[[], None] | None) -> None:
        """Call `farewell` on the ping thread, and end the connection if the peer does not."""
        with self._changed:
            self._farewell = farewell
            if self._connection is not None:
                self._dismissed = monotonic() + CLOSE_TIMEOUT
            self._changed.notify()

    def _look_anew(self) -> None:
        self._next_look = 0.0
        self._silent_since = None
        self._changed.notify()

    # --- the thread ---------------------------------------------------------------------------

    def _run(self, interrupted: Callable[[BaseException], None]) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except KeyboardInterrupt as error:
                interrupted(error)
            except Exception:  # without this thread a dead connection would go unnoticed
                log.exception(
                    "the ping thread met an exception, and goes on", extra=fields("internal_error")
                )

    def _turn(self) -> bool:
        """Do the next thing that is due, or wait for it; False at the end."""
        with self._changed:
            if self._stopped:
                return False
            farewell, self._farewell = self._farewell, None
            connection, now = self._connection, monotonic()
            ping = False
            if farewell is None:
                due = self._due()
                if due > now:
                    self._changed.wait(None if due == inf else due - now)
                    return True
                ping = self._next_ping <= now
                if ping:
                    # Missed ones (the machine was asleep) are not made up for.
                    missed = (now - self._next_ping) // self._interval
                    self._next_ping += (missed + 1) * self._interval
                    self._pinged = now
                    if self._pong_due is None:
                        self._pong_due = now + self._pong_timeout
        if farewell is not None:
            farewell()
        elif connection is not None and ping:
            self._ping(connection)
        elif connection is not None:
            self._judge(connection)
        return True

    def _due(self) -> float:
        """When there is next something to do; called under the lock."""
        if self._connection is None:
            return inf
        if self._dismissed is not None:  # no ping goes out after a close frame
            return self._dismissed
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
            self._end(connection, ConnectionFailed(reason))
        else:
            self.last_ping_ns = now_ns

    def _judge(self, connection: Connection) -> None:
        """A deadline has passed: end the connection, unless the answer may lie unread.

        It does not once the reader has handled all that there was at the deadline: when it waits
        and the kernel has nothing for it, and that twice with a read in between, or for a while
        without one.
        """
        reads, silent = connection.reads, connection.silent()
        error: FastposError | None = None
        with self._changed:
            now = monotonic()
            self._next_look = now + LOOK_AGAIN
            if self._connection is not connection:
                return
            if self._dismissed is not None:
                if self._dismissed <= now:
                    error = ConnectionFailed("stopped; the server did not answer the close frame")
            elif not silent:
                return
            elif self._silent_since is None:
                self._silent_since = now, reads
                return
            elif reads == self._silent_since[1] and now - self._silent_since[0] < GRACE:
                return
            elif self._pong_due is not None and self._pong_due <= now:
                error = ConnectionFailed(f"no pong within {self._pong_timeout:g} s")
            elif self._limit is not None and self._limit[0] <= now:
                error = self._limit[1]
        if error is not None:
            self._end(connection, error)

    def _end(self, connection: Connection, error: FastposError) -> None:
        with self._changed:
            if self._connection is connection:
                self._connection = None
        with suppress(OSError):
            connection.abort(str(error), error)
