"""A stream's runs, which begin, are asked to stop, and end; and what anybody may ask of them.

Whoever drives the stream (driver.py) is a subclass, which moves the bytes and says in `link` which
connection there is. What is asked of a run is done on its ping thread; when it is asked within the
run, on the reader or the callback thread, and may not be late, it is done there and then. A request
goes to the run that its caller saw: when that has ended nobody is left who would do it, so a late
`stop` can't touch the next run.

Threads: all but `begin` may be called on any thread and in a signal handler: nothing here holds or
waits for a lock (see changes.py). `_run`, `link` and `_wanted` are replaced as a whole, by whoever
is named beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import NamedTuple

from ..errors import FastposError
from ..fork import Forked, OwnerProcess
from ..printable import printable
from ..wire.session import Closed, Phase, Subscribed
from .changes import Changes
from .claim import Claim
from .delivery import Delivery
from .dispatch import CallbackQueue, Dispatcher
from .feed import Feed
from .link import Buffers, Link
from .pinger import Pinger, Scheduled
from .snapshots import Snapshots

__all__ = ["Control", "Parts", "Run", "State", "unexpected"]

# How long a request is waited for at the most: the ping thread does nothing that takes longer.
REQUEST_TIMEOUT = 1.0


class Run:
    """One run of a stream, from `Control.begin` to its end. Anybody may look at it.

    Args:
        number: tells it from others, in the names of its threads.
        thread: that it is on.
        is_ours: whether the thread was made for it, and ends with it.
        background: whether the thread is the library's, where a user's sys.exit() ends nothing.
        pinger: the ping thread, where several runs share one.
    """

    __slots__ = (
        "background", "beginner", "claim", "ended", "failure", "interruption",
        "is_ours", "number", "pinger", "stopping", "thread",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        thread: threading.Thread,
        is_ours: bool,
        background: bool,
        pinger: Pinger | None = None,
    ) -> None:
        self.number: int = number
        self.thread: threading.Thread = thread
        self.is_ours: bool = is_ours
        self.background: bool = background
        self.beginner: threading.Thread = threading.current_thread()
        """The thread that makes it begin."""
        self.pinger: Pinger = pinger or Pinger()
        self.stopping: bool = False
        """It was asked to end."""
        self.ended: bool = False
        self.failure: FastposError | None = None
        """What ended it; None if it was `stop`."""
        self.interruption: BaseException | None = None
        """A Ctrl-C that came to another thread."""
        self.claim: Callable[[], bool] = Claim().take
        """Whether this is the first call: who is told so runs it, or says that nobody does."""


class State(Enum):
    """What a stream does at a moment, for who looks at many."""

    READY = "ready"
    """It is subscribed: pushes come."""
    CONNECTING = "connecting"
    """Its connection is being opened, or is open and not subscribed or over."""
    WAITING = "waiting"
    """It waits for its next attempt."""
    PAUSED = "paused"
    """`unsubscribe()` was called."""
    STOPPED = "stopped"
    """It has not begun, or was stopped, or is the parent's in a child that was forked."""
    FAILED = "failed"
    """It has ended for good by what happened."""


class Parts(NamedTuple):
    """What a stream is made of, for whoever drives it."""

    feed: Feed
    """The stream's part of its connections."""
    delivery: Delivery
    """Calls the user's functions, and is stopped when a run is."""
    snapshots: Snapshots
    """Is given time while it wants some."""
    dispatcher: Dispatcher | None
    """The callback thread, None where the user's functions are called by the reader."""
    owner: OwnerProcess
    """The process that this runs in."""
    lookout: Scheduled
    """Is given time on the ping thread of each run."""


class Control:
    """What anybody may ask of a stream's runs.

    Args:
        parts: of the stream.
    """

    __slots__ = (
        "_beginning", "_changes", "_delivery", "_dispatcher", "_run", "_wanted", "feed", "link",
        "lookout", "owner", "snapshots",
    )  # fmt: skip

    def __init__(self, parts: Parts) -> None:
        self.feed: Feed = parts.feed
        self.snapshots: Snapshots = parts.snapshots
        self.owner: OwnerProcess = parts.owner
        self.lookout: Scheduled = parts.lookout
        self._delivery = parts.delivery
        self._dispatcher: CallbackQueue | None = parts.dispatcher
        self._changes = Changes()
        self._beginning = threading.Lock()  # held by who begins a run; nobody waits for it
        self._run: Run | None = None  # `begin`'s
        self.link: Link | None = None
        """The connection, and what is said on it; the reader's."""
        self._wanted = True  # False between pause() and resume(), whose it is

    def begin(self, run: Run) -> None:
        """Make ready for a run.

        Raises:
            RuntimeError: one is under way.
        """
        if not self._beginning.acquire(blocking=False):
            raise RuntimeError("the stream is running already")
        try:
            if self._run is not None and not self._run.ended:
                raise RuntimeError("the stream is running already")
            if self._dispatcher is not None and self._dispatcher.is_alive:
                raise RuntimeError("a callback of the stream's last run is still running")
            self._run = run
        finally:
            self._beginning.release()

    def give_up(self, run: Run) -> None:
        """Have a run not begin; where that is too late, end soon."""
        if run.claim():
            wait = self.feed.close_journal()
            if wait is not None:
                wait()
            run.ended = True
            self._changes.notify()
        else:
            self.stop(run)

    def wait_ready(self, timeout: float | None) -> bool:
        """Wait until the stream is subscribed; False when the time is up or it has ended.

        Raises:
            FastposError: what ended it.
            RuntimeError: it would have to wait, and this is the thread that it would wait for.
        """
        run = self._run
        if run is None:
            return False

        def is_known() -> bool:
            # The run may not have ended yet because of a callback that calls this.
            return self.is_ready or run.ended or run.stopping or run.failure is not None

        if self._is_waited_for(run) and not is_known():
            raise RuntimeError("wait_ready() on the reader thread would wait for itself")
        self._changes.wait_for(is_known, timeout)
        if run.failure is not None:
            raise run.failure
        return not run.ended and not run.stopping and self.is_ready

    @property
    def is_ready(self) -> bool:
        """Whether it is subscribed."""
        link = self.link
        return link is not None and link.session is not None and link.session.phase is Phase.READY

    @property
    def is_trying(self) -> bool:
        """Whether there is a connection, or one is being opened."""
        return self.link is not None

    @property
    def state(self) -> State:
        """What it does at this moment."""
        run = self._run
        if run is not None and run.failure is not None:
            return State.FAILED
        if run is None or run.ended or run.stopping or self.owner.is_another:
            return State.STOPPED
        if self.is_ready:
            return State.READY
        if not self._wanted:
            return State.PAUSED
        return State.CONNECTING if self.is_trying else State.WAITING

    @property
    def wants_pushes(self) -> bool:
        """Whether it is not paused."""
        return self._wanted

    @property
    def last_run(self) -> Run | None:
        """The run that is under way, or was last."""
        return self._run

    def wait_ended(self, run: Run, timeout: float | None) -> bool:
        """Wait until a run has ended; False when the time is up."""
        return self._changes.wait_for(lambda: run.ended, timeout)

    def is_within(self, run: Run) -> bool:
        """Whether this is asked in a run that is under way: on its thread or the callbacks'."""
        if run.ended:
            return False
        if self._dispatcher is not None and self._dispatcher.is_current:
            return True
        return self._is_waited_for(run)

    def _is_waited_for(self, run: Run) -> bool:
        """Whether this thread is the one that a run can't go on without."""
        thread = threading.current_thread()
        # Or it is about to start that one, and this is asked by a signal handler in between.
        return run.thread is thread or (run.thread.ident is None and run.beginner is thread)

    def stop(self, run: Run) -> None:
        """Ask a run to end: unsubscribe, send a close frame, begin nothing new."""
        if self._dispatcher is None:
            run.stopping = True
        if self.is_within(run):
            self._stop(run)
        else:
            run.pinger.ask(partial(self._stop, run))

    def abort(self, run: Run) -> None:
        """End a run's connection at once, after `stop`."""
        run.pinger.ask(self._abort)

    def cut(self) -> None:
        """End the connection at once, before `stop`; for any thread."""
        run, link = self._run, self.link
        if run is not None and self._dispatcher is None:
            run.stopping = True  # or it would connect again until `stop` comes
        if link is not None:
            link.cut()

    def mute(self, run: Run) -> None:
        """Have no function called any more in a run that does not end."""
        self._ask(run, self._delivery.mute)

    def pause(self) -> None:
        """Unsubscribe and keep the connection."""
        self._want(False)

    def resume(self) -> None:
        """Subscribe again."""
        self._want(True)

    def _want(self, wanted: bool) -> None:
        self._wanted = wanted
        run = self._run
        if run is not None and not run.ended:
            self._ask(run, self._follow)

    def _ask(self, run: Run, request: Callable[[], object]) -> None:
        """Have the run's ping thread do something, and wait for it if that can be."""
        done: list[bool] = []

        def do() -> None:
            try:
                request()
            finally:
                done.append(True)
                self._changes.notify()

        run.pinger.ask(do)
        if not self.is_within(run):
            self._changes.wait_for(lambda: done or run.ended, REQUEST_TIMEOUT)

    # --- on the ping thread -------------------------------------------------------------------

    def _stop(self, run: Run) -> None:
        """Stop a run; within it this is called on its own threads too."""
        if self._dispatcher is not None:
            # Before the reader can know: of what it tells then, on_disconnect is to be called.
            self._dispatcher.discard()
        run.stopping = True
        self._delivery.halt()
        run.pinger.ask(self._close)
        self._changes.notify()

    def _close(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.wake()
        link = self.link
        if link is not None:
            link.close()

    def _abort(self) -> None:
        link = self.link
        if link is not None:
            link.abort("stopped")

    def _follow(self) -> None:
        link = self.link
        if link is not None and link.follow(self._wanted):
            self.feed.paused()

    # --- the reader's -------------------------------------------------------------------------

    def new_link(self, buffers: Buffers, pinger: Pinger) -> Link:
        """Make the connection that is to be tried; raises FastposError."""
        return self.feed.new_link(self._wanted, buffers, pinger.wake)

    def read(self, run: Run, link: Link, timeout: float | None = None) -> Closed | None:
        """Read once, and do what that means.

        Args:
            run: the one that is under way.
            link: the connection.
            timeout: seconds to wait for something to read, None for ever.

        Returns:
            How the connection has ended, None if it has not.
        """
        pushes = link.read(timeout)
        if pushes is not None:  # the fast path
            if not run.stopping:  # else only the end matters now
                self.feed.take_pushes(link, pushes)
                if self.owner.is_another:
                    raise Forked
            return None
        while (event := link.next_event()) is not None:
            if type(event) is Closed:
                return event
            if run.stopping:
                continue
            if type(event) is Subscribed:
                self._subscribed()
            self.feed.take(link, event)
            self._check_process()
        self.feed.count(link)
        return None

    def _subscribed(self) -> None:
        """Pushes come from now on."""
        self._changes.notify()

    def _check_process(self) -> None:
        """To be called after each call of a user's function, before anything else is done."""
        if self.owner.is_another:  # it has forked, and this is the child
            raise Forked

    def poll_snapshots(self) -> None:
        """Look whether a snapshot has come, or is to be asked for, and tell the user of it."""
        self._tell(self.snapshots.poll())

    def _tell(self, news: list[tuple[str, object]]) -> None:
        """Tell the user, each with the callback's name."""
        for name, told in news:
            if isinstance(told, FastposError):
                self._delivery.report(told)
            else:
                self._delivery.tell(name, told)
            self._check_process()


def unexpected(error: BaseException) -> Closed:
    """Say that a connection has ended by a mistake of ours, or of a user's function beside it."""
    reason = f"unexpected {type(error).__name__}: {printable(str(error))}"
    failure = FastposError(reason)
    failure.__cause__ = error
    return Closed(reason, None, failure)
