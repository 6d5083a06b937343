"""What drives many streams: one thread that reads them all, in turns.

It does for each of them what driver.py does for one, with the same feed and link; but it never
waits for one alone. A poller says who has something to read; a heap, whose time has come; what
takes long, opening a connection or asking for a snapshot, is done by crews of a few threads; and
pings go out from one ping thread for all.

A SEAT'S WAY

    WAITING ---> QUEUED ---> OPENING ---> SERVING ---> LEAVING ---.
       ^            the time    a thread     open         over    |
       |            has come    is free                           |
       '----------------------------------------------------------'
                                                    or ENDED, for good

* WAITING for the time of its next attempt; the first has none to wait for. Nor is there an attempt
  while its callback queue is full, as each brings more to tell.
* QUEUED until it may connect: at most so many do in a second, and so many at once. Who has an open
  position goes first, then who was in service before, and each in the order in which they came;
  those whose last attempt took long in vain hold half of the threads at most, and they and new ones
  all but one of more than three, as they may hang; and who was told to slow down (HTTP 429, 418)
  holds up all that connect to the same host.
* OPENING on one of the crew's threads, which also asks for the credential, a user's function. The
  seat is that thread's meanwhile.
* SERVING: it is read when it has something, at most one buffer full in a turn, so that one that
  floods holds up nobody for longer.
* LEAVING: its session is over, and the peer is given the time to end the TCP connection.

Threads: `run` is one thread, the reader, and so are the seats' fields but for what `Control` has.
Anybody may call `enter`, `wake` and look at the rest; no lock is taken there, so a signal handler
may too.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from heapq import heappop, heappush
from math import inf
from queue import Empty, SimpleQueue

from ..clock import monotonic
from ..errors import ConnectionFailed, FastposError, is_exit
from ..fork import Forked
from ..logs import fields, log
from ..net.poller import Poller
from ..recovery import SLOW_DOWN_STATUSES
from ..wire.session import Closed
from .crew import Crew
from .link import Buffers, Link
from .lookout import SharedLookout
from .pinger import Pinger, Scheduled
from .pool import CallbackPool, PooledQueue
from .run import Control, Parts, Run, unexpected
from .snapshots import POLL_INTERVAL, on_a_thread_of_its_own

__all__ = ["Loop", "Place", "Seat"]

# A signal is handled within so many seconds, also where one does not end the system call.
LONGEST_WAIT = 0.5
# An opening that took so long in vain, seconds: such streams hold half of the threads at most.
SLOW = 1.0
# So few threads that connect are not kept free for anybody.
FEW_THREADS = 3
# An opening that takes so much longer than it may is not counted any more, seconds.
HELD_UP = 5.0
# So much is read of one stream before it is the others' turn, bytes.
TURN_SIZE = 32 * 1024
# However many wait for a snapshot, looking at one of them has so long, seconds.
POLL_SHARE = 1e-4
# So many snapshots are asked for at once.
SNAPSHOT_THREADS = 8
# What to do where the system gives no thread or no place for a socket any more.
_LIMITS = (
    "The stream tries again; raise the limits of open files and threads (ulimit -n, ulimit -u)."
)


class Place(Enum):
    """Where a stream stands in a loop; see the top."""

    WAITING = "waits for its next attempt"
    QUEUED = "waits until it may connect"
    OPENING = "its connection is being opened"
    SERVING = "its connection is open"
    LEAVING = "its connection is over"
    ENDED = "has ended for good, or was stopped"


class Seat(Control):
    """One stream in a loop."""

    __slots__ = (
        "closed", "descriptor", "due", "has_served", "has_source", "is_suspended", "loop",
        "opener", "place", "queue", "run", "was_slow",
    )  # fmt: skip

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.has_source: bool = parts.snapshots.has_source
        """Whether snapshots are to be had."""
        self.place: Place = Place.ENDED
        self.run: Run = Run(0, threading.current_thread(), is_ours=False, background=True)
        self.loop: Loop | None = None
        self.due: float = inf
        """When it is next to be looked at, WAITING or LEAVING."""
        self.closed: Closed | None = None
        """How its connection has ended, LEAVING."""
        self.descriptor: int = -1
        """What the poller knows, -1 where it knows nothing of it."""
        self.is_suspended: bool = False
        """It is not read, or not connected, as its callback queue is full."""
        self.has_served: bool = False
        """It was subscribed in this run."""
        self.was_slow: bool = False
        """Its last opening took long in vain: those must not keep the others from connecting."""
        self.opener: threading.Thread | None = None
        """Which thread opens its connection, where one does; it runs a user's function, too."""
        self.queue: PooledQueue | None = None
        """What waits for its functions, where the fleet has callback threads."""

    def follow(self) -> None:
        """Do what was asked for while there was no session; for the ping thread."""
        self._follow()

    def changed(self) -> None:
        """Have everybody who waits for something of it look again."""
        self._changes.notify()

    def silence(self) -> None:
        """Have no function called any more."""
        self._delivery.mute()

    @property
    def is_crowded(self) -> bool:
        """Whether its functions are to be left in peace, as too much waits for them."""
        return self.queue is not None and self.queue.is_crowded

    def call_by(self, queue: PooledQueue | None) -> None:
        """Have the functions called by the threads of a pool; None: by the reader."""
        self.queue = self._dispatcher = queue
        self._delivery.dispatch_by(queue)
        if queue is not None:
            queue.start(self._delivery.call_queued)

    def is_within(self, run: Run) -> bool:
        """Whether this is asked in a run that is under way, on any of its threads."""
        if not run.ended and self.opener is threading.current_thread():
            return True
        return super().is_within(run)

    def _subscribed(self) -> None:
        self.has_served = True
        super()._subscribed()
        if self.loop is not None:
            self.loop.changed()

    def _stop(self, run: Run) -> None:
        super()._stop(run)
        if self.loop is not None:
            self.loop.wake(self)


class Loop:
    """Drives seats on whatever thread calls `run`.

    Args:
        connect_rate: so many connections are opened in a second at most; None: there is no limit.
        connect_threads: so many are opened at once at most.
        callback_threads: so many call the users' functions; 0: the reader does.
        ended: is told of a seat that has ended, and by what if it was not stopped.
        changed: is called when a seat was subscribed or has ended.
    """

    def __init__(
        self,
        connect_rate: float | None,
        connect_threads: int,
        callback_threads: int,
        ended: Callable[[Seat, FastposError | None], None],
        changed: Callable[[], None],
    ) -> None:
        self._interval = 0.0 if connect_rate is None else 1.0 / connect_rate
        self._ended = ended
        self.changed = changed
        self.pinger: Pinger = Pinger()
        self._connect_threads = connect_threads
        self._most_threads = 4 * connect_threads
        self._crew = Crew("fastpos-connect", self._most_threads)
        self._opening: dict[Seat, float] = {}  # since when
        self._held_up: set[Seat] = set()  # those that were named as they take too long
        self._is_over = False  # set by `close`, looked at by anybody
        self._snapshot_crew = Crew("fastpos-snapshot", SNAPSHOT_THREADS)
        self.pool: CallbackPool | None = None
        if callback_threads:
            self.pool = CallbackPool("fastpos-callbacks", callback_threads, self.fail)
        else:
            self.pinger.watch(SharedLookout(self._at_hand))
        self._requests: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._wake_end, self._woken_end = socket.socketpair()
        self._wake_end.setblocking(False)
        self._woken_end.setblocking(False)
        self._poller: Poller[Seat | None] = Poller()
        self._poller.watch(self._woken_end.fileno(), None)
        self._buffers = Buffers(TURN_SIZE)
        self._seats: set[Seat] = set()
        self._numbers = itertools.count()  # of two that are due at once, the first comes first
        self._timers: list[tuple[float, int, Seat]] = []
        # Those with open positions, those that were in service, new ones, and those whose last
        # opening took long in vain.
        self._queues: tuple[deque[Seat], ...] = deque(), deque(), deque(), deque()
        self._again: dict[Seat, None] = {}  # have something of which the poller does not know
        self._pending: set[Seat] = set()  # wait for a snapshot
        self._next_poll = 0.0  # when to look for snapshots
        self._next_start = 0.0  # when the next connection may be opened
        self._turn_of: Seat | None = None  # whose the last step was, or is
        self._barriers: dict[str, float] = {}  # host -> until when it wants no connection
        self.stopping: bool = False
        self.turned: float = monotonic()
        """When it began its last turn; the reader's, and anybody's to look at."""
        self.longest_turn: tuple[float, str | None] = 0.0, None
        """The longest time for which one stream kept the others waiting, seconds, and its place."""

    # --- anybody's ----------------------------------------------------------------------------

    def enter(self, seat: Seat, run: Run) -> None:
        """Have a seat driven in `run`, which has begun."""
        seat.run, seat.loop = run, self
        self.ask(partial(self._enter, seat))

    def wake(self, seat: Seat) -> None:
        """Have a seat looked at: it is to stop."""
        self.ask(partial(self._look_at, seat))

    def ask(self, request: Callable[[], object]) -> None:
        """Have something done by the reader."""
        self._requests.put(request)
        with suppress(OSError):  # it is full of such bytes, or closed
            self._wake_end.send(b"\0")

    def make_room(self, seat: Seat) -> None:
        """Have a seat read again, as its callback queue has room."""
        self.ask(partial(self._guard, seat, self._resume))

    def fail(self, error: BaseException) -> None:
        """Have `run` raise what is to end the program, and came up on another thread."""

        def do() -> None:
            raise error

        self.ask(do)

    def stop(self) -> None:
        """Have `run` return once all seats have ended."""
        self.stopping = True
        self.ask(int)

    @property
    def places(self) -> dict[Place, int]:
        """How many seats stand where."""
        counts = dict.fromkeys(Place, 0)
        for seat in tuple(self._seats):
            counts[seat.place] += 1
        return counts

    def _at_hand(self) -> Scheduled | None:
        """Give what looks after the seat whose turn it is; for the ping thread."""
        seat = self._turn_of
        return None if seat is None else seat.lookout

    # --- the reader ---------------------------------------------------------------------------

    def run(self) -> None:
        """Drive what there is, until `stop` was called and nothing is left.

        Raises:
            BaseException: what a callback raised to end the program, KeyboardInterrupt or such.
        """
        while not (self.stopping and not self._seats and self._requests.empty()):
            self._turn()

    def run_out(self, timeout: float) -> None:
        """Do the same for so many seconds at most, after all seats were told to stop."""
        deadline = monotonic() + timeout
        while self._seats and monotonic() < deadline:
            self._turn()

    def join_openers(self, timeout: float) -> None:
        """Wait for the threads that have opened connections, if all they still do is to end.

        One that has not come back may hang in a user's function or in the look-up of a name.
        """
        if not self._opening:
            self._crew.join(timeout)

    def close(self) -> None:
        """Give back what the system has lent. Seats that are left are over."""
        self.stopping = self._is_over = True
        self._snapshot_crew.clear()
        for seat in tuple(self._seats):
            seat.silence()
        while not self._requests.empty():
            with suppress(BaseException):  # what one of them raises was raised, or is too late
                self._requests.get_nowait()()
        for seat in tuple(self._seats):
            self._forget_socket(seat)
            link, opening = seat.link, seat.place is Place.OPENING
            seat.place = Place.ENDED
            seat.run.stopping = True
            seat.feed.left(None if opening else link)
            seat.link = None
            if link is not None and opening:
                link.abort("stopped")  # the thread that opens it closes it
            elif link is not None:
                link.close_socket()
            if seat.queue is not None:
                seat.queue.discard()
            self._ended_all(seat, seat.run.failure)
        self._poller.close()
        self._wake_end.close()
        self._woken_end.close()

    def _turn(self) -> None:
        seats = self._poller.wait(self._wait())
        self.turned = now = monotonic()
        for ready in seats:
            if ready is None:
                with suppress(BlockingIOError):
                    self._woken_end.recv(4096)
            else:
                now = self._guard(ready, self._read, now)
        if self._again:
            again, self._again = self._again, {}
            for seat in again:
                now = self._guard(seat, self._read, now)
        if not self._requests.empty():
            while not self._requests.empty():
                with suppress(Empty):
                    self._requests.get_nowait()()
            now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, seat = heappop(self._timers)
            if seat.due == due:
                self._guard(seat, self._come_due)
        if self._pending and now >= self._next_poll:
            self._next_poll = now + max(POLL_INTERVAL, len(self._pending) * POLL_SHARE)
            for seat in tuple(self._pending):
                self._guard(seat, self._poll)
        if any(self._queues):
            self._start_some(now)

    def _wait(self) -> float:
        if self._again:
            return 0.0
        due = self._timers[0][0] if self._timers else inf
        if any(self._queues) and any(self._let_in(monotonic())):
            due = min(due, self._next_start)
        if self._pending:
            due = min(due, self._next_poll)
        return min(max(due - monotonic(), 0.0), LONGEST_WAIT)

    def _guard(self, seat: Seat, step: Callable[[Seat], None], began: float | None = None) -> float:
        """Do a step for a seat, and take its time; a mistake of ours must not end the others.

        Args:
            seat: whose.
            step: what.
            began: what time it is, where that is known.

        Returns:
            What time it is afterwards.
        """
        if began is None:
            began = monotonic()
        self._turn_of = seat
        try:
            step(seat)
        except Exception as error:
            if seat.owner.is_another:
                raise
            log.exception(
                "%s met an exception, and connects again",
                seat.feed.name,
                extra=fields("internal_error", stream=seat.feed.name),
            )
            if seat.link is not None:
                seat.link.fail(error)
            closed = unexpected(error)
            try:
                self._over(seat, closed)
            except Exception:  # then not even that: it ends, and the others go on
                self._forget_socket(seat)
                link = seat.link
                seat.link = None
                if link is not None:
                    link.close_socket()
                self._end(seat, closed.error)
        ended = monotonic()
        if ended - began > self.longest_turn[0]:
            self.longest_turn = ended - began, seat.feed.name
        return ended

    # --- a seat's way -------------------------------------------------------------------------

    def _enter(self, seat: Seat) -> None:
        self._seats.add(seat)
        seat.is_suspended, seat.closed, seat.due = False, None, inf
        seat.has_served = seat.was_slow = False
        seat.run.stopping |= self.stopping  # it was told before this was one of them
        seat.snapshots.do = self._snapshot_crew.do
        seat.place = Place.WAITING
        seat.feed.begin()
        if self.pool is not None:  # several functions may run at once
            self.pinger.watch(seat.lookout)
        self._queue(seat)

    def _set_timer(self, seat: Seat, due: float) -> None:
        seat.due = due
        heappush(self._timers, (due, next(self._numbers), seat))

    def _come_due(self, seat: Seat) -> None:
        if seat.place is Place.WAITING:
            self._queue(seat)
        elif seat.place is Place.LEAVING:
            self._read(seat)

    def _look_at(self, seat: Seat) -> None:
        """It is to stop: at once, where nobody has to be told goodbye."""
        if seat.run.stopping and seat.place in (Place.WAITING, Place.QUEUED):
            for queue in self._queues:
                with suppress(ValueError):
                    queue.remove(seat)
            self._end(seat, None)

    def _queue(self, seat: Seat) -> None:
        if seat.run.stopping:
            self._end(seat, None)
            return
        if seat.is_crowded:  # each attempt would bring more to tell
            seat.is_suspended = True
            return
        seat.place = Place.QUEUED
        if seat.was_slow:
            queue = 3
        elif seat.feed.has_position:
            queue = 0
        else:
            queue = 1 if seat.has_served else 2
        self._queues[queue].append(seat)

    def _start_some(self, now: float) -> None:
        """Open connections, as far as that is allowed now."""
        while now >= self._next_start and any(queues := self._let_in(now)):
            seat = self._first(queues, now)
            if seat is None:
                return
            self._next_start = max(self._next_start, now) + self._interval
            seat.place = Place.OPENING
            seat.feed.attempt()
            self._opening[seat] = now
            try:
                self._crew.do(partial(self._open, seat, seat.run))
            except RuntimeError as error:
                del self._opening[seat]
                reason = f"no thread for the connection: {error}"
                self._over(seat, Closed(reason, None, ConnectionFailed(reason).advising(_LIMITS)))

    def _let_in(self, now: float) -> tuple[deque[Seat], ...]:
        """Give the queues for which a thread is free, first things first.

        One that a user's function or the look-up of a name holds for ever is not counted, so that
        the others still connect; but of those there are only so many threads, too.
        """
        counted = slow = doubtful = 0
        for seat, since in self._opening.items():
            if now - since < seat.feed.connect_timeout + HELD_UP:
                counted += 1
                slow += seat.was_slow
                doubtful += seat.was_slow or not seat.has_served
            elif seat not in self._held_up:
                self._held_up.add(seat)
                log.warning(
                    "%s has been connecting for %.0f s: its credential callable, or the look-up of "
                    "the host's name, has not returned",
                    seat.feed.name,
                    now - since,
                    extra=fields("connecting", stream=seat.feed.name, seconds=now - since),
                )
        most = self._connect_threads
        if counted >= most or len(self._opening) >= self._most_threads:
            return ()
        if doubtful >= max(most - 1, FEW_THREADS):
            return self._queues[:2]
        return self._queues[: 3 if slow >= max(most // 2, 1) else 4]

    def _first(self, queues: tuple[deque[Seat], ...], now: float) -> Seat | None:
        """Take the next that may connect; who may not yet waits again."""
        for queue in queues:
            while queue:
                seat = queue.popleft()
                until = self._barriers.get(seat.feed.host, 0.0)
                if until <= now:
                    return seat
                seat.place = Place.WAITING
                self._set_timer(seat, until)
        return None

    def _open(self, seat: Seat, run: Run) -> None:
        """Open a connection; on a thread of the crew."""
        closed: Closed | None = None
        link: Link | None = None
        seat.opener = threading.current_thread()
        try:
            link = seat.new_link(self._buffers, self.pinger)
            if seat.owner.is_another:  # a user's function has forked, and this is the child
                raise Forked
            if run.ended:  # meanwhile, while the user's function took its time
                return
            seat.link = link
            # In this order: who stops it looks at the link after that.
            closed = Closed("stopped") if run.stopping else link.open()
        except FastposError as error:
            closed = Closed(error.message, None, error)
        except Forked:
            raise
        except BaseException as error:  # a user's function gives the credential
            if seat.owner.is_another:
                raise Forked from None
            if is_exit(error) and not (run.background and isinstance(error, SystemExit)):
                self.fail(error)
            closed = unexpected(error)
        finally:
            if seat.opener is threading.current_thread():
                seat.opener = None
        if seat.owner.is_another:
            raise Forked
        if self._is_over:  # nobody is left who would take it
            if link is not None:
                link.close_socket()
            return
        self.ask(partial(self._guard, seat, partial(self._opened, closed)))

    def _opened(self, closed: Closed | None, seat: Seat) -> None:
        took = monotonic() - self._opening.pop(seat, inf)
        seat.was_slow = closed is not None and took > SLOW
        self._held_up.discard(seat)
        link = seat.link
        if closed is not None or link is None:
            self._over(seat, closed or Closed("stopped"))
            return
        seat.feed.opened()
        self.pinger.watch(link)
        lookout = seat.feed.look_out(link)
        if lookout is not None:
            self.pinger.watch(lookout)
        self.pinger.ask(seat.follow)
        seat.place = Place.SERVING
        self._watch(seat, link)

    def _read(self, seat: Seat) -> None:
        """Take what there is, at most a buffer full."""
        link = seat.link
        if link is None:
            return
        if seat.place is Place.LEAVING:
            if link.has_left():
                self._leave(seat)
            return
        if seat.place is not Place.SERVING or seat.is_suspended:
            return
        closed = seat.read(seat.run, link)
        if closed is not None:
            self._over(seat, closed)
            return
        if seat.has_source and seat.snapshots.pending:
            self._pending.add(seat)
        if seat.is_crowded:
            self._forget_socket(seat)
            seat.is_suspended = True
        elif link.rest():
            self._again[seat] = None

    def _resume(self, seat: Seat) -> None:
        """Its callback queue has room again."""
        if not seat.is_suspended:
            return
        seat.is_suspended = False
        if seat.place is Place.SERVING and seat.link is not None:
            self._watch(seat, seat.link)
        elif seat.place is Place.WAITING:
            self._queue(seat)

    def _watch(self, seat: Seat, link: Link) -> None:
        """Have the poller say when there is something to read."""
        descriptor = link.never_wait()
        try:
            self._poller.watch(descriptor, seat)
        except (OSError, ValueError) as error:
            link.fail(error)
            reason = f"no more streams can be read here: {error}"
            self._over(seat, Closed(reason, None, ConnectionFailed(reason).advising(_LIMITS)))
            return
        seat.descriptor = descriptor
        if link.rest():
            self._again[seat] = None

    def _poll(self, seat: Seat) -> None:
        """Look whether a snapshot has come, or is to be asked for."""
        if not seat.snapshots.pending or seat.run.stopping or seat.place is not Place.SERVING:
            self._pending.discard(seat)
            return
        if not seat.is_crowded:
            seat.poll_snapshots()

    def _over(self, seat: Seat, closed: Closed) -> None:
        """A connection is over, or there was none."""
        link = seat.link
        seat.place, seat.closed = Place.LEAVING, closed
        seat.is_suspended = False
        seat.feed.left(link)
        if link is None or link.has_left():
            self._leave(seat)
            return
        assert link.session is not None
        self._set_timer(seat, link.session.deadline)

    def _leave(self, seat: Seat) -> None:
        """Close the socket, tell how the connection has ended, and do what follows from it."""
        self._forget_socket(seat)
        link = seat.link
        seat.link = None
        if link is not None:
            link.close_socket()
        closed, seat.closed = seat.closed, None
        seat.due = inf
        assert closed is not None
        final, retry_in = seat.feed.finish(closed, seat.run.stopping)
        if seat.owner.is_another:
            raise Forked
        if retry_in is None or seat.run.stopping:
            self._end(seat, final)
            return
        now = monotonic()
        if getattr(closed.error, "status", None) in SLOW_DOWN_STATUSES:
            host = seat.feed.host
            self._barriers[host] = max(self._barriers.get(host, 0.0), now + retry_in)
        seat.place = Place.WAITING
        self._set_timer(seat, now + retry_in)

    def _end(self, seat: Seat, failure: FastposError | None) -> None:
        """It has ended, once all that waits for its functions was delivered."""
        seat.place = Place.ENDED
        seat.due = inf
        seat.run.failure = failure
        if seat.queue is None:
            self._ended_all(seat, failure)
        else:
            seat.changed()
            seat.queue.leave(partial(self.ask, partial(self._ended_all, seat, failure)))

    def _ended_all(self, seat: Seat, failure: FastposError | None) -> None:
        wait = seat.feed.close_journal(failure)
        if wait is not None:
            self._wait_aside(wait, partial(self._gone, seat, failure))
        else:
            self._gone(seat, failure)

    def _wait_aside(self, wait: Callable[[], None], then: Callable[[], None]) -> None:
        """Do something once `wait` has returned, which is a disk's matter."""

        def run() -> None:
            wait()
            self.ask(then)

        if not self._is_over:  # else there is nobody to be held up
            with suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=run, name="fastpos-last-writes", daemon=True).start()
                return
        wait()
        then()

    def _gone(self, seat: Seat, failure: FastposError | None) -> None:
        if seat.run.ended:
            return
        self._seats.discard(seat)
        self._pending.discard(seat)
        seat.snapshots.do = on_a_thread_of_its_own
        self.pinger.forget(seat.lookout)
        seat.run.ended = True
        seat.changed()
        self._ended(seat, failure)
        self.changed()

    def _forget_socket(self, seat: Seat) -> None:
        if seat.descriptor >= 0:
            self._poller.forget(seat.descriptor)
            seat.descriptor = -1
