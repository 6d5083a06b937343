"""`PositionStream`: the life cycle.

Its arguments are in settings.py, the user's functions in runtime/callbacks.py. What goes on between
the socket and the functions is in runtime/driver.py.

Threads: a started stream has two, the reader and the ping thread (pinger.py), and with
``dispatch="thread"`` a third, which calls the user's functions (dispatch.py). What they share is in
the objects made here, each of which says what guards it. No lock is held while a user's function
runs.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from math import inf
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

from .account.book import Book
from .clock import monotonic
from .errors import FastposError
from .fork import Forked, OwnerProcess
from .logs import fields, log
from .model.events import Balance, Order, Position, Trigger
from .reconnect import ReconnectPolicy
from .runtime.callbacks import Callbacks, Handlers
from .runtime.delivery import Delivery
from .runtime.dispatch import CallbackQueue, Dispatcher
from .runtime.stats import Counters, Stats
from .runtime.timing import CallbackTimes
from .settings import Settings, takes
from .wire.heartbeat import Heartbeat

if TYPE_CHECKING:
    from .journal.journal import Journal
    from .journal.recorder import Publishes, Recorder, Several
    from .runtime.loop import Seat
    from .runtime.pool import PooledQueue
    from .runtime.run import Control, Parts, Run

__all__ = ["PositionStream", "begin", "begin_seat", "hand_over", "let_go"]

_numbers = itertools.count(1)
# Waits are cut into slices, as a Ctrl-C that comes just before one does not end it, seconds.
SLICE = 0.5
# How long the thread of a run that has ended is waited for, seconds.
LAST_STEPS = 2.0


class PositionStream(Callbacks):
    """Pushes a futures account's positions, balances, orders and triggers into functions.

    Functions are registered with ``on_position=f`` here, with ``@stream.on_position``, with
    ``stream.on_position(f)`` (each adds one) or with ``stream.on_position = f`` (replaces them);
    a subclass's method ``on_position`` is one too. They are plain functions, no coroutines. They
    run on the reader thread, or with ``dispatch="thread"`` on one of their own, in the order
    of arrival. What they raise goes to `on_error`.

    Args:
        url: the exchange's WebSocket, ws or wss.
        token: the login token, or a callable that gives one, asked at every connect.
        api_key: the API key, or such a callable. Exactly one of the two is needed.
        broker: the merchant's id.
        on_position, on_order, …: the functions to call. Each attribute of the stream that is named
            so says with what and when.
        name: the stream's, in logs; an ``<n>`` in it becomes a number that no other stream has.
        number: `float`, or `decimal.Decimal` for exact numbers.
        ping_interval: seconds between pings.
        pong_timeout: seconds to wait for the answer before the connection counts as dead.
        connect_timeout: seconds for opening a connection, everything included but what the
            system takes to look the name up beyond that, which can't be interrupted.
        subscribe_timeout: seconds to wait for each of the exchange's two replies.
        tick_timeout: seconds without a tick, once some came, while a position is open, after which
            `on_stale` is called; None: never.
        reconnect: when to try again; None: never.
        headers: further HTTP headers for the upgrade, or one in place of the usual ``Origin``; with
            None for a value it is left out.
        ssl_context: TLS settings instead of the default ones, which verify the server.
        proxy: URL of a proxy, ``http://``, ``socks5://`` or ``socks5h://`` (which resolves
            names there). None takes it from the environment (``https_proxy``, ``no_proxy``, …),
            "" uses none.
        source_address: where to connect from: an IP address of this machine, or a tuple of that
            and a port. None: the system chooses.
        max_message_size: the largest message taken, bytes, compressed or not.
        snapshot: a callable that gives a `Snapshot` of the account, called on a thread of its own
            after every subscription; `fastpos.rest.AccountSnapshot` is one. None: there is none.
        snapshot_timeout: seconds after which a call of it counts as failed.
        dispatch: "reader": the functions run on the reader thread, which reads on when they have
            returned. "thread": they run on a thread of their own behind a queue, and `positions`
            and the like may be ahead of the event at hand. When the queue is full the reader waits
            (`on_error` is told when that begins), but of the `AdlPrice` events that wait only the
            newest is kept, and those are not waited with. `stop()` throws away what waits: it is in
            `positions` and the like, but is not told of.
        queue_size: so many events may wait in that queue.
        slow_callback_s: a function that took longer is logged, at most once a minute, and one that
            has been running for longer is named while it does, seconds.
        journal: where all that comes is written down, for `fastpos.journal.read` and `replay`: a
            `fastpos.journal.Journal`, or a folder's path. None: nowhere.
        publisher: sends the same to Redis, for streams on other machines; a
            `fastpos.redis.Publisher`. None: nobody does.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
    """

    _drives_itself: ClassVar[str | None] = None  # why it can't be in a fleet or a replay

    @takes(Settings)
    def __init__(self, settings: Settings) -> None:
        # What opens connections and moves bytes comes with the first stream: it takes as long as
        # the rest of the package. Not later than here, as with websocket-client (see `_begin`).
        from .runtime.driver import Driver  # noqa: PLC0415
        from .runtime.feed import Feed  # noqa: PLC0415
        from .runtime.lookout import Lookout  # noqa: PLC0415
        from .runtime.run import Parts, Run  # noqa: PLC0415
        from .runtime.snapshots import Snapshots  # noqa: PLC0415
        from .wire.session import CLOSE_TIMEOUT  # noqa: PLC0415

        self._settings = settings
        self._register(settings)
        self._callbacks: Callbacks = settings
        self._owner = OwnerProcess()
        self._heartbeat = Heartbeat()
        self._book = Book(settings.number, self._owner, self._heartbeat)
        self._counters = Counters()
        self._times = CallbackTimes(settings.slow_callback_s, settings.name)
        self._own_dispatcher: Dispatcher | None = None
        if settings.dispatch == "thread":
            self._own_dispatcher = Dispatcher(
                settings.queue_size, self.on_error, self._owner, settings.name
            )
        self._dispatcher: CallbackQueue | None = self._own_dispatcher  # else a fleet's
        self._delivery = Delivery(
            self._callbacks,
            self._book,
            self._counters,
            settings.number,
            self._times,
            self._dispatcher,
            settings.credential.hide,
            settings.name,
        )
        self._owner.in_child = self._delivery.abandon
        self._journal, self._publisher = _sinks(settings)
        recorder = _recorder(settings, self._journal, self._publisher)
        self._sync = Snapshots(
            settings.snapshot,
            settings.snapshot_timeout,
            settings.reconnect or ReconnectPolicy(),
            self._book,
            recorder,
        )
        self._feed = Feed(
            settings,
            self._delivery,
            self._counters,
            self._sync,
            self._heartbeat,
            self._book,
            recorder,
        )
        self._new_run = Run
        self._close_timeout = CLOSE_TIMEOUT
        self._lookout = Lookout(self._times, settings.slow_callback_s)
        self._parts = Parts(
            self._feed,
            self._delivery,
            self._sync,
            self._own_dispatcher,
            self._owner,
            self._lookout,
        )
        self._own_driver = Driver(self._parts)
        self._driver: Control = self._own_driver  # else a fleet's
        self._is_let_go = False  # by its fleet

    def __repr__(self) -> str:
        settings = getattr(self, "_settings", None)
        if settings is None:  # its arguments were refused, and a tool shows the traceback
            return "<PositionStream>"
        return f"<PositionStream {settings.name} {settings.address} broker={settings.broker}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # A copy would have the same threads and connection, or none: no stream either way.
        raise TypeError(
            "a PositionStream can't be copied or pickled: make one of its own where it is needed, "
            "in the other process for instance"
        )

    @property
    def name(self) -> str:
        """What it is called in logs."""
        return self._settings.name

    # --- life cycle -------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run in the calling thread until `stop`; Ctrl-C stops too and is raised again.

        Raises:
            FastposError: what ended the stream: `AuthenticationError`, `ReconnectExhausted`, or
                with ``reconnect=None`` the first failure.
            RuntimeError: it is running already, or was started before an `os.fork()`.
            ImportError: websocket-client is not there, or a module of yours is named websocket.
            JournalError: its journal can't be written, or another one writes there.
        """
        self._check_alone()
        thread = threading.current_thread()
        run = self._new_run(next(_numbers), thread, is_ours=False, background=False)
        try:
            self._begin(run)
            self._own_driver.run(run)
        except Forked:
            self._owner.check()
            raise
        finally:  # whatever a Ctrl-C left undone
            self._driver.give_up(run)

    def start(self) -> PositionStream:
        """Run in a thread of its own; return the stream.

        Raises:
            RuntimeError: it is running already, no thread can be started, or it was started
                before an `os.fork()`.
            ImportError: websocket-client is not there, or a module of yours is named websocket.
            JournalError: its journal can't be written, or another one writes there.
        """
        self._check_alone()
        number = next(_numbers)
        thread = threading.Thread(
            target=lambda: self._run_in_background(run),
            name=f"fastpos-reader-{number}",
            daemon=True,
        )
        run = self._new_run(number, thread, is_ours=True, background=True)
        try:
            self._begin(run)
            thread.start()
        except BaseException:  # a Ctrl-C may find the thread begun
            self._driver.give_up(run)
            raise
        return self

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the stream is subscribed, at most `timeout` seconds.

        Returns:
            True once it is; False when the time is up, or it was stopped or not started.

        Raises:
            FastposError: what ended the stream.
            RuntimeError: it is not, and this is called in a callback on the reader thread, which
                would wait for itself.
        """
        self._owner.check()
        return self._driver.wait_ready(timeout)

    def stop(self, timeout: float | None = 5.0) -> None:
        """Unsubscribe, close the connection and end the threads.

        May be called from any thread, from a callback, and any number of times. In a callback it
        returns at once, and the stream ends when the callback does. Elsewhere no callback begins
        any more after it has returned. With ``dispatch="thread"`` the events that wait in the queue
        are not delivered; only `on_disconnect` is called yet. In a child that was forked it does
        nothing: the stream is the parent's.

        Args:
            timeout: seconds to wait for all this, None for ever; a callback that takes longer is
                left to finish.
        """
        if self._owner.is_another:
            return
        run = self._driver.last_run
        if run is None or run.ended:
            return
        deadline = inf if timeout is None else monotonic() + timeout
        self._driver.stop(run)
        if self._driver.is_within(run):
            return
        first = min(2 * self._close_timeout, (deadline - monotonic()) / 2)
        if not self._wait_ended(run, monotonic() + first):
            self._driver.abort(run)
            if not self._wait_ended(run, deadline):
                self._driver.mute(run)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the stream has ended, at most `timeout` seconds.

        Returns:
            True once it has, False when the time is up.

        Raises:
            FastposError: what ended the stream.
            RuntimeError: called in a callback.
        """
        self._owner.check()
        run = self._driver.last_run
        if run is None:
            return True
        if self._driver.is_within(run):
            raise RuntimeError("join() in a callback would wait for itself")
        if not self._wait_ended(run, inf if timeout is None else monotonic() + timeout):
            return False
        if run.failure is not None:
            raise run.failure
        return True

    def __enter__(self) -> PositionStream:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _begin(self, run: Run) -> None:
        # Needed by the threads, but not to be imported by them: in a process that is forked
        # meanwhile nobody could import it any more.
        from .net.upgrade import import_websocket_client  # noqa: PLC0415

        import_websocket_client()
        self._owner.claim()
        self._driver.begin(run)
        self._book.now_ns = time_ns
        try:
            self._feed.open_journal()
        except BaseException:
            self._driver.give_up(run)
            raise
        self._delivery.begin(background=run.background or self._dispatcher is not None)

    def _check_alone(self) -> None:
        self._come_home()
        if self._driver is not self._own_driver:
            raise RuntimeError(f"{self.name} is in a fleet: start that")

    def _come_home(self) -> None:
        """Be driven by itself again, once its fleet has let it go and it has ended there."""
        run = self._driver.last_run
        if self._is_let_go and (run is None or run.ended):
            if self._driver.wants_pushes:
                self._own_driver.resume()
            else:
                self._own_driver.pause()
            self._driver, self._is_let_go = self._own_driver, False
            self._queue_in(None)
            self._delivery.dispatch_by(None)

    def _queue_in(self, queue: CallbackQueue | None) -> None:
        """Have events wait in another queue, None: in none; what was counted is counted on."""
        if self._dispatcher is not None:
            self._counters.conflated = self._dispatcher.conflated
        if queue is not None:
            queue.conflated = self._counters.conflated
        self._dispatcher = queue

    def _run_in_background(self, run: Run) -> None:
        if not run.claim():  # who started the thread was interrupted, and has given up
            return
        try:
            self._own_driver.run(run)
        except Forked:
            pass  # the child has no use for this thread
        except FastposError as error:
            # join() and wait_ready() raise it too, but nobody may be calling them.
            log.error("%r has ended: %s", self, error, extra=self._fields("ended", error))
        except BaseException as error:
            text = "%r has ended by an exception that nobody caught"
            log.critical(text, self, exc_info=True, extra=self._fields("crashed", error))

    def _fields(self, event: str, error: BaseException) -> dict[str, object]:
        settings, kind = self._settings, type(error).__name__
        return fields(event, stream=settings.name, url=str(settings.address), error=kind)

    def _wait_ended(self, run: Run, deadline: float) -> bool:
        """Wait until a run has ended, and its thread if it is ours."""
        if not self._driver.wait_ended(run, max(deadline - monotonic(), 0.0)):
            return False
        # Its thread is in its last steps. A signal handler that has interrupted this very wait may
        # find it alive for as long as it looks, hence the bound.
        last = min(deadline, monotonic() + LAST_STEPS)
        while run.is_ours and run.thread.is_alive():
            remaining = last - monotonic()
            if remaining <= 0:
                return last < deadline
            run.thread.join(min(remaining, SLICE))
        return True

    # --- pausing ----------------------------------------------------------------------------

    def unsubscribe(self) -> None:
        """Pause the pushes. The connection stays; if it is lost it comes back paused."""
        self._owner.check()
        self._driver.pause()

    def subscribe(self) -> None:
        """Resume the pushes. `on_ready` tells when they come again, and how long the gap was."""
        self._owner.check()
        self._driver.resume()

    # --- what is known ----------------------------------------------------------------------

    @property
    def positions(self) -> dict[int, Position]:
        """The positions, merged, by id: a dict of the caller's own."""
        return self._book.positions

    @property
    def balances(self) -> dict[str, Balance]:
        """The balances by coin: a dict of the caller's own."""
        return self._book.balances

    @property
    def orders(self) -> dict[str, Order]:
        """The open orders that were heard of, by id: a dict of the caller's own.

        What ended while no push came stays here as stale, until a snapshot with orders; but of
        over 10,000 the oldest go. What never rests, like a market order, is not listed.
        """
        return self._book.orders

    @property
    def triggers(self) -> dict[str, Trigger]:
        """The waiting trigger orders that were heard of, by id: a dict of the caller's own.

        Nothing tells that one has fired: an order with an id of its own follows, and the trigger
        stays here until it is cancelled or expires.
        """
        return self._book.triggers

    @property
    def book(self) -> Book:
        """All that is known, with `dump()` and `load()` to keep it over a restart."""
        return self._book

    @property
    def synced(self) -> bool:
        """Whether positions and balances are the account's: a snapshot was merged, and no gap
        came since. Without a snapshot source it is always False, and after the machine has slept it
        is until the connection has shown that it is alive."""
        return self._sync.synced and not self._heartbeat.owed_since_sleep

    @property
    def journal(self) -> Journal | None:
        """Where what comes is written down: its own, or its publisher's; None: nowhere."""
        return self._journal or (None if self._publisher is None else self._publisher.journal)

    @property
    def publisher(self) -> Publishes | None:
        """What sends it to Redis; None: nobody does."""
        return self._publisher

    @property
    def stats(self) -> Stats:
        """What the stream has done so far, at this moment."""
        heartbeat = self._heartbeat
        return self._counters.snapshot(
            self._driver.state.value,
            self.synced if self._sync.rules.has_source else None,
            heartbeat.last_ping_ns,
            heartbeat.last_pong_ns,
            heartbeat.round_trip_s,
            self._delivery.counts,
            self._times,
            self.name,
            self._dispatcher,
        )


def _sinks(settings: Settings) -> tuple[Journal | None, Publishes | None]:
    """Say to what a stream hands over what comes; a publisher hands over to its own journal."""
    journal, publisher = settings.journal, settings.publisher
    if journal is not None:
        from .journal.journal import Journal, journal_at  # noqa: PLC0415 -- for who has one only

        if not isinstance(journal, Journal):
            journal = journal_at(journal)
    if publisher is not None and publisher.journal is not None:
        if journal not in (None, publisher.journal):
            raise ValueError("journal must be that of the publisher, where it has one")
        journal = None
    return journal, publisher


def _recorder(
    settings: Settings, journal: Journal | None, publisher: Publishes | None
) -> Recorder | Several | None:
    """Make what writes down and publishes what comes to a stream; None: nobody does."""
    if journal is None and publisher is None:
        return None
    from .journal.recorder import Recorder, Several, Sink  # noqa: PLC0415 -- for who has one only

    sinks: list[Sink] = [sink for sink in (journal, publisher) if sink is not None]
    recorders = [Recorder(sink, settings.name, settings.credential) for sink in sinks]
    return recorders[0] if len(recorders) == 1 else Several(recorders)


# --- for cli/serve.py -----------------------------------------------------------------------------


def cut(streams: Sequence[PositionStream]) -> None:
    """Close the connections of many streams at once, and stop these.

    Each `stop` waits for the stream's own threads a little, so first no connection is left.
    """
    for stream in streams:
        stream._driver.cut()
    for stream in streams:
        stream.stop(0)


# --- for fleet.py ---------------------------------------------------------------------------------


D = TypeVar("D", bound="Control")


def hand_over(stream: PositionStream, new_driver: Callable[[Parts], D]) -> D:
    """Have a stream driven by a fleet or a replay, until `let_go`.

    Raises:
        RuntimeError: it is running.
        ValueError: it is in a fleet, or it has a callback thread of its own.
    """
    with _handing_over:
        return _handed_over(stream, new_driver)


_handing_over = threading.Lock()  # guards which driver a stream has; held for some steps only


def _handed_over(stream: PositionStream, new_driver: Callable[[Parts], D]) -> D:
    stream._come_home()
    own = stream._own_driver
    if stream._drives_itself is not None:
        raise ValueError(f"{stream.name} {stream._drives_itself}")
    if stream._driver is not own:
        raise ValueError(f"{stream.name} is in a fleet already")
    if stream._own_dispatcher is not None:
        raise ValueError(f'{stream.name} has dispatch="thread": in a fleet there is none')
    if own.last_run is not None and not own.last_run.ended:
        raise RuntimeError(f"{stream.name} is running")
    driver = new_driver(stream._parts)
    if not own.wants_pushes:
        driver.pause()
    stream._driver = driver
    return driver


def let_go(stream: PositionStream) -> None:
    """Have a stream driven by itself again, when it has ended."""
    stream._is_let_go = True


def begin_seat(
    stream: PositionStream,
    seat: Seat,
    run: Run,
    new_queue: Callable[[int, Handlers[FastposError], OwnerProcess, str], PooledQueue] | None,
) -> None:
    """Begin a run in a fleet.

    Args:
        stream: whose.
        seat: its driver.
        run: what begins.
        new_queue: makes what has its functions called on other threads; None: the reader does.

    Raises:
        RuntimeError, ImportError: see `PositionStream.start`.
    """
    if stream._dispatcher is not None and stream._dispatcher.is_alive:
        raise RuntimeError("a callback of the stream's last run is still running")
    queue = None
    if new_queue is not None:
        settings = stream._settings
        queue = new_queue(settings.queue_size, stream.on_error, stream._owner, settings.name)
    stream._queue_in(queue)
    seat.call_by(queue)
    begin(stream, run)


def begin(stream: PositionStream, run: Run) -> None:
    """Begin a run of a stream that was handed over, and has nothing else than its reader.

    Raises:
        RuntimeError, ImportError, JournalError: see `PositionStream.start`.
    """
    stream._begin(run)
