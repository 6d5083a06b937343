"""One connection and its session, between the thread that reads and the ping thread.

The session (wire/session.py) knows no threads. `_lock` guards it, and the order in which what it
wants sent goes to the connection; it is held for work in memory and for system calls that can't
block, never while anything is waited for or a user's function runs. Only the two threads take it,
so nothing that a signal handler calls waits for it. What only the reader writes is listed with
its attributes.

WHEN IS A CONNECTION DEAD?

When something that was to come by a deadline (a pong, a reply) has not come. But "not come" is not
"not read": while a callback takes its time the pong may lie in the kernel, or in OpenSSL, or
between the two, and a machine that was suspended finds its deadlines passed before it has read a
byte. So a deadline counts only once the reader has *caught up*: it has handled all that was there
when the deadline passed. That is so when it is found waiting while the kernel has nothing for it,

* twice, with a read in between: whatever lay there at the first look was read and handled before
  the reader could wait again, as it does so on one thread; or
* twice, `GRACE` seconds apart without a read: the reader was about to take up what had woken it,
  and even a busy machine lets it run in that time.

One look alone proves nothing: between the system call that takes the last bytes and the step that
says so, the reader counts as waiting, and there is nothing in the kernel either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import time_ns

from ..clock import monotonic
from ..errors import FastposError
from ..net.connection import Connection
from ..net.tls import CIPHERTEXT_SIZE
from ..net.transport import Transport
from ..wire.scratch import SCRATCH_SIZE, SMALL, Scratch
from ..wire.session import Closed, Event, Phase, Session

__all__ = ["Buffers", "Link"]

# How long the reader may take to notice what the kernel has, on a busy machine, seconds.
GRACE = 0.25
# How often to look again once a deadline has passed, seconds.
LOOK_AGAIN = 0.05
# A ping that somebody asks for goes out so long after the last at the earliest, seconds.
SPACING = 1.0


class Buffers:
    """What one thread reads into, for all the connections that it reads.

    Args:
        size: so much is read of one of them at once, bytes.
    """

    def __init__(self, size: int = SCRATCH_SIZE) -> None:
        self.received: Scratch = Scratch(size)
        self.ciphertext: Scratch = Scratch(CIPHERTEXT_SIZE)


class Link:
    """A connection with its session.

    Args:
        connection: to be opened.
        new_session: makes the session when that is done; it is given the time.
        buffers: those of the thread that reads.
        wake: is called with it when the ping thread has something to do earlier than it knows.
    """

    __slots__ = (
        "_awaited", "_buffers", "_closed", "_connection", "_count", "_is_asked", "_is_idle",
        "_lock", "_new_session", "_next_look", "_reads", "_silent_since", "_transport",
        "_waiting", "_wake", "bytes_received", "last_received", "received_ns", "session",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        new_session: Callable[[float], Session],
        buffers: Buffers,
        wake: Callable[[Link], None],
    ) -> None:
        self._connection = connection
        self._new_session = new_session
        self._buffers = buffers
        self._wake = wake

        # The reader's; others may look.
        self.session: Session | None = None
        """None until the connection is open."""
        self.received_ns: int = 0
        """When the bytes at hand were read, `time.time_ns()`."""
        self.last_received: float = monotonic()
        """When something was last read, or the peer ended the connection, `clock.monotonic()`."""
        self.bytes_received: int = 0
        """How many bytes were read."""
        self._count = 0  # of the last read
        self._reads = 0  # how many there were
        self._waiting = False  # for the peer: all that was read is handled
        self._is_idle = False  # the session has no more events of what was read
        self._transport: Transport | None = None  # what is read where nobody waits

        self._lock = threading.Lock()
        self._closed: Closed | None = None  # how it ended, where the session did not say it itself
        self._awaited = inf  # what the ping thread waits for

        self._is_asked = False  # for a ping: anybody sets it, and the ping thread takes it back

        # The ping thread's.
        self._next_look = 0.0
        # A deadline that has passed, when silence was first seen after it, and how many reads there
        # had been.
        self._silent_since: tuple[float, float, int] | None = None

    # --- the reader's -----------------------------------------------------------------------

    def open(self) -> Closed | None:
        """Open the connection; how that ended, None if it went well."""
        try:
            self._connection.open()
        except FastposError as error:
            return self._closed or Closed(error.message, None, error)
        if threading.current_thread() is threading.main_thread():
            self._connection.wake_for_signals()
        with self._lock:
            self.last_received = now = monotonic()
            self.session = self._new_session(now)
        return None

    def read(self, timeout: float | None = None) -> list[bytes] | None:
        """Read once, what there is.

        Args:
            timeout: seconds to wait for something to read, None for ever.

        Returns:
            The fast path: pushes, where nothing else was read. None: `next_event` tells what was,
            and is to be called until it gives None.
        """
        session, buffers = self.session, self._buffers
        assert session is not None
        if self._count > SMALL or buffers.received.is_large:
            buffers.received.used(self._count)
            buffers.ciphertext.used(self._count)
        view = session.writable(buffers.received.view)
        self._is_idle = False
        self._waiting = True
        try:
            if timeout is not None and not self._connection.wait(timeout):
                return None
            source = self._transport or self._connection
            self._count = count = source.read_into(view, buffers.ciphertext.view)
        except BlockingIOError:  # see `never_wait`
            return None
        except (EOFError, OSError) as error:
            self._lost(error)
            return None
        finally:
            self._waiting = False
            self._reads += 1
        self.received_ns = time_ns()
        self.last_received = monotonic()
        self.bytes_received += count
        pushes = session.take_pushes(count)
        self._is_idle = pushes is not None
        return pushes

    def next_event(self) -> Event | None:
        """Give the next event; None when more has to be read for one."""
        if self._is_idle and self._closed is None:
            return None
        session = self.session
        assert session is not None
        with self._lock:
            event = session.next_event(self.last_received)
            if event is None and self._closed is not None:
                session.lost(EOFError(), self.last_received)  # if it does not know yet
                event, self._closed = self._closed, None
            if session.outgoing:
                self._send(session)
            self._is_idle = session.is_idle
            sooner = session.deadline < self._awaited
        if sooner:
            self._wake(self)
        return event

    def system_closes(self) -> None:
        """Say that a push has announced the end of the system."""
        assert self.session is not None
        with self._lock:
            self.session.system_closes(monotonic())
        self._wake(self)

    def never_wait(self) -> int:
        """Have `read` not wait, as somebody looks whether there is something; give the descriptor.

        Call `rest` when all that it gave is handled.
        """
        self._transport = self._connection.never_wait()
        return self._transport.fileno()

    def rest(self) -> bool:
        """Say that all that was read is handled; whether there is more, which no selector sees."""
        more = self._transport is not None and self._transport.has_more
        self._waiting = not more
        return more

    def has_left(self) -> bool:
        """Whether the socket may be closed: the peer has ended the connection, or had its time."""
        session = self.session
        if session is None or session.phase is not Phase.ENDED or monotonic() >= session.deadline:
            return True
        try:
            self._connection.read_into(self._buffers.received.view, self._buffers.ciphertext.view)
        except BlockingIOError:
            pass
        except (EOFError, OSError):
            return True
        return False

    def close_socket(self) -> None:
        """Close the socket."""
        self._connection.end()

    def end(self) -> None:
        """Close the socket, once the peer has ended the connection if that is to be waited for."""
        session = self.session
        try:
            if session is not None and session.phase is Phase.ENDED:
                self._connection.drain(session.deadline, self._buffers.received.view)
        finally:
            self._connection.end()

    def _lost(self, error: Exception) -> None:
        assert self.session is not None
        now = monotonic()
        with self._lock:
            is_ours = self._closed is not None or self.session.phase is Phase.ENDED
            if isinstance(error, EOFError) and not is_ours:
                self.last_received = now  # it comes in order, so nothing was lost before it
            self._closed = self._closed or self.session.lost(error, now)

    def fail(self, error: Exception) -> None:
        """Say that the reader can't go on with it, so that nobody looks after it any more."""
        with self._lock:
            if self.session is not None:
                self.session.lost(error, monotonic())

    # --- the reader's and the ping thread's ---------------------------------------------------

    def close(self) -> None:
        """End the connection in an orderly way; at once where it is not open yet."""
        with self._lock:
            session = self.session
            if session is not None:
                session.close(monotonic())
                self._send(session)
        if session is None:
            self.abort("stopped")
        else:
            self._wake(self)

    def _send(self, session: Session) -> None:
        """Send what there is to be sent; called under the lock."""
        if not session.outgoing:
            return
        try:
            self._connection.send(session.data_to_send())
        except TimeoutError as error:
            closed = session.lost(error, monotonic())
            self._closed = self._closed or closed
            self._connection.shutdown()
        except OSError:  # the next read tells; what came before it must not be lost
            pass

    # --- anybody's ----------------------------------------------------------------------------

    def ask_for_pong(self) -> None:
        """Have the reader read something soon, though nothing may come: a ping goes out, where the
        stream is subscribed or paused."""
        self._is_asked = True
        self._wake(self)

    def cut(self) -> None:
        """End the connection at once, and wait for nobody."""
        self._connection.shutdown()

    # --- the ping thread's --------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to be looked after."""
        return self.session is not None and self.session.phase is Phase.ENDED

    def follow(self, wanted: bool) -> bool:
        """Say whether pushes are wanted; whether they came until now, and are stopped by this."""
        with self._lock:
            session = self.session
            if session is None:
                return False
            before = session.phase
            session.want(wanted, monotonic())
            self._send(session)
        self._wake(self)
        return before is Phase.READY and session.phase is Phase.PAUSED

    def abort(self, reason: str, error: FastposError | None = None) -> None:
        """End the connection at once, for that reason."""
        with self._lock:
            if self._closed is None and not self.has_ended:
                self._closed = Closed(reason, None, error)
        self._connection.shutdown()

    def woke(self, now: float) -> None:
        """Note that the machine has slept."""
        if self.session is not None:
            with self._lock:
                self.session.woke(now)

    def ping_now(self, now: float) -> None:
        """Have a ping sent at once."""
        if self.session is not None:
            with self._lock:
                self.session.ping_at(now)
            self._wake(self)

    def keep_schedule(self, now: float) -> float:
        """Do what is due; give when there is next something to do, `math.inf` for never."""
        session = self.session
        if session is not None and self._is_asked:
            self._is_asked = False
            if session.phase in (Phase.READY, Phase.PAUSED):
                with self._lock:
                    session.ping_at(max(now, session.pinged + SPACING))
        if session is None or now < self._due(session):
            return self._await(session)
        caught_up = now >= session.limit and self._has_caught_up(session, now)
        with self._lock:
            closed = session.tick(now, caught_up)
            self._send(session)
            self._closed = self._closed or closed
        if closed is not None:
            self._connection.shutdown()
        return self._await(session)

    def _await(self, session: Session | None) -> float:
        with self._lock:
            self._awaited = inf if session is None else self._due(session)
            return self._awaited

    def _due(self, session: Session) -> float:
        if session.phase is Phase.ENDED:
            return inf
        if session.phase is Phase.CLOSING:
            return session.deadline
        return min(session.next_ping, max(session.limit, self._next_look))

    def _has_caught_up(self, session: Session, now: float) -> bool:
        """Whether the reader has handled all that there was at the deadline (see the top)."""
        reads, limit = self._reads, session.limit
        self._next_look = now + LOOK_AGAIN
        if not self._is_silent():
            # The longer that takes, as a callback takes its time, the less often.
            self._next_look = now + max(LOOK_AGAIN, min(1.0, (now - limit) / 4))
            return False
        if self._silent_since is None or self._silent_since[0] != limit:
            self._silent_since = limit, now, reads
            return False
        _, since, reads_then = self._silent_since
        return reads != reads_then or now - since >= GRACE

    def _is_silent(self) -> bool:
        """Whether the reader waits, and the system has nothing for it."""
        with suppress(OSError):
            return self._waiting and not self._connection.unread()
        return False
