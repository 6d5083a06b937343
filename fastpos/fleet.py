"""`Fleet`: many accounts on few threads.

The streams are the same objects as alone, with their functions and all that can be asked of them;
only who drives them differs (runtime/loop.py). How a fleet begins and ends is here.

Threads: one reads all streams and calls the users' functions, one sends the pings, and a few open
connections while there are any to open. `_changing` guards changes of `_streams`, `_seats` and
`_run`, and is not held while anything is waited for or a user's function runs. What a signal
handler may do, `stop` and looking, takes no lock: who goes over a dict takes a copy, in one step.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from .clock import monotonic
from .errors import FastposError
from .fork import Forked, OwnerProcess
from .logs import fields, log
from .runtime.claim import Claim
from .stream import PositionStream, begin_seat, hand_over, let_go

if TYPE_CHECKING:
    from .runtime.loop import Loop, Seat
    from .runtime.run import Run

__all__ = ["Fleet", "FleetStats"]

_numbers = itertools.count(1)
# How long streams are given to say goodbye after a Ctrl-C, and threads to end, seconds.
LAST_STEPS = 2.0
# Waits are cut into slices, as a Ctrl-C that comes just before one does not end it, seconds.
SLICE = 0.5


class FleetStats(NamedTuple):
    """What a fleet is doing at this moment, in numbers."""

    streams: int
    """How many there are."""
    ready: int
    """Those that are subscribed."""
    connecting: int
    """Those whose connection is being opened, or is open and not subscribed or over."""
    waiting: int
    """Those that wait for their next attempt."""
    ended: int
    """Those that have ended, for good or by `stop`, and those that have not begun."""
    messages: int
    """Messages received by all of them."""
    bytes_received: int
    """Bytes read by all of them, after decryption."""
    slowest_turn_s: float
    """The longest time for which one stream kept the others waiting, its callbacks included,
    seconds."""
    slowest_turn: str | None
    """The name of that stream."""

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain dict, for a metrics exporter."""
        return self._asdict()


class _FleetRun:
    """One run of a fleet, from its start to its end. Anybody may look at it."""

    def __init__(self, number: int, thread: threading.Thread, background: bool, loop: Loop) -> None:
        self.number = number
        self.thread = thread
        self.background = background
        self.loop = loop
        self.beginner = threading.current_thread()
        """The thread that makes it begin."""
        self.begun = False
        """All streams that there were at the start have begun."""
        self.ended = False
        self.claim = Claim().take
        """Whether this is the first call: who is told so drives it, or says that nobody does."""


class Fleet:
    """Drives many streams (`PositionStream`) with few threads.

    Each stream is used as it is alone: its functions, `positions`, `stats`, `stop()`. It is not
    started by itself, but by the fleet. Streams may be added and removed at any time, from any
    thread and any callback.

    All functions are called on one thread, one after the other: one that takes long keeps the
    other streams waiting, and is named in the log and in `stats`. With `callback_threads` they are
    called on so many others: each stream's in order, by one thread at a time, and one that takes
    long holds one thread. Pings wait for none of them.

    Args:
        streams: the first ones, none of them started.
        connect_rate: so many connections are opened in a second at most; None: there is no limit.
        connect_threads: so many are being opened at once at most.
        callback_threads: so many threads call the functions; 0: the one that reads does.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
    """

    def __init__(
        self,
        streams: Iterable[PositionStream] = (),
        *,
        connect_rate: float | None = 20.0,
        connect_threads: int = 8,
        callback_threads: int = 0,
    ) -> None:
        if connect_rate is not None:
            if isinstance(connect_rate, bool) or not isinstance(connect_rate, (int, float)):
                kind = type(connect_rate).__name__
                raise TypeError(f"connect_rate must be a number or None, not {kind}")
            if not 0 < connect_rate <= 1e6:
                raise ValueError(
                    f"connect_rate must be above 0 and at most 1e6, not {connect_rate}"
                )
        _check_threads("connect_threads", connect_threads, 1)
        _check_threads("callback_threads", callback_threads, 0)
        self._callback_threads = callback_threads
        self._connect_rate = connect_rate
        self._connect_threads = connect_threads
        self._owner = OwnerProcess()
        self._changing = threading.RLock()
        self._streams: dict[str, PositionStream] = {}
        self._seats: dict[str, Seat] = {}
        self._run: _FleetRun | None = None
        from .runtime.changes import Changes  # noqa: PLC0415 -- see PositionStream.__init__

        self._changes = Changes()
        for stream in streams:
            self.add(stream)

    def __repr__(self) -> str:
        return f"<Fleet of {len(self._streams)} streams>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Fleet can't be copied or pickled: make one where it is needed")

    # --- the streams ------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, PositionStream]:
        """The streams by name: a dict of the caller's own."""
        return dict(self._streams)

    def add(self, stream: PositionStream) -> PositionStream:
        """Take a stream in, and begin it if the fleet runs; give it back.

        Raises:
            TypeError: it is no stream.
            ValueError: one of its name is here, it is in a fleet, or it has
                ``dispatch="thread"``.
            RuntimeError: it is running, or the fleet was started before an `os.fork()`.
        """
        self._owner.check()
        if not isinstance(stream, PositionStream):
            raise TypeError(f"a PositionStream is needed, not {stream!r}")
        from .runtime.loop import Seat  # noqa: PLC0415 -- see PositionStream.__init__

        with self._changing:
            if stream.name in self._streams:
                raise ValueError(f"there is a stream of the name {stream.name} in the fleet")
            seat = hand_over(stream, Seat)
            run = self._run
            try:
                self._seats[stream.name] = seat
                self._streams[stream.name] = stream
                if run is not None and run.begun and not run.ended and not run.loop.stopping:
                    self._begin_stream(stream, seat, run)
            except BaseException:
                self._forget(stream)
                let_go(stream)
                raise
        return stream

    def _forget(self, stream: PositionStream) -> None:
        self._streams.pop(stream.name, None)
        self._seats.pop(stream.name, None)

    def remove(self, stream: PositionStream, timeout: float | None = 5.0) -> None:
        """Stop a stream, and let it go: it can then be started alone, or be added elsewhere.

        In a callback it returns at once, and the stream ends soon after.

        Args:
            stream: which.
            timeout: see `PositionStream.stop`.

        Raises:
            ValueError: it is not in the fleet.
        """
        with self._changing:
            if self._streams.get(getattr(stream, "name", "")) is not stream:
                raise ValueError(f"{stream!r} is not in the fleet")
            self._forget(stream)
        stream.stop(timeout)
        let_go(stream)

    def _begin_stream(self, stream: PositionStream, seat: Seat, run: _FleetRun) -> None:
        from .runtime.run import Run  # noqa: PLC0415

        own: Run = Run(
            run.number,
            run.thread,
            is_ours=False,
            background=run.background,
            pinger=run.loop.pinger,
        )
        pool, loop = run.loop.pool, run.loop
        new_queue = None
        if pool is not None:
            from .runtime.pool import PooledQueue  # noqa: PLC0415

            new_queue = partial(PooledQueue, pool=pool, roomy=partial(loop.make_room, seat))
        begin_seat(stream, seat, own, new_queue)
        loop.enter(seat, own)

    # --- life cycle -------------------------------------------------------------------------

    def start(self) -> Fleet:
        """Run in a thread of its own; return the fleet.

        Raises:
            RuntimeError: it is running already, no thread can be started, or it was started
                before an `os.fork()`.
            ImportError: websocket-client is not there, or a module of yours is named websocket.
        """
        number = next(_numbers)
        thread = threading.Thread(
            target=lambda: self._drive_in_background(run),
            name=f"fastpos-fleet-{number}",
            daemon=True,
        )
        run = self._new_run(number, thread, background=True)
        try:
            self._begin(run)
            thread.start()
        except BaseException:  # a Ctrl-C may find the thread begun
            self._give_up(run)
            raise
        return self

    def run_forever(self) -> None:
        """Run in the calling thread until `stop`; Ctrl-C stops too and is raised again.

        It goes on when all streams have ended, as others may be added.

        Raises:
            RuntimeError: it is running already, or was started before an `os.fork()`.
            ImportError: websocket-client is not there, or a module of yours is named websocket.
        """
        run = self._new_run(next(_numbers), threading.current_thread(), background=False)
        try:
            self._begin(run)
            if run.claim():
                self._drive(run)
        except Forked:
            self._owner.check()
            raise
        finally:  # whatever a Ctrl-C left undone
            self._give_up(run)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until every stream is subscribed or has ended for good.

        Args:
            timeout: for how long at most, seconds; None: for as long as it takes.

        Returns:
            True once it is so; False when the time is up, or the fleet is stopped or not started.

        Raises:
            RuntimeError: it is not so, and this is called in a callback, which would wait for
                itself.
        """
        self._owner.check()
        run = self._run
        if run is None:
            return False

        def is_so() -> bool:
            return run.begun and all(
                seat.is_ready or ((last := seat.last_run) is not None and last.ended)
                for seat in tuple(self._seats.values())
            )

        if run.thread is threading.current_thread() and not is_so():
            raise RuntimeError("wait_ready() in a callback would wait for itself")
        self._changes.wait_for(lambda: is_so() or run.ended or run.loop.stopping, timeout)
        return is_so() and not run.ended and not run.loop.stopping

    def stop(self, timeout: float | None = 5.0) -> None:
        """Stop all streams, and end the threads.

        May be called from any thread, from a callback, and any number of times. In a callback it
        returns at once, and the fleet ends soon after; elsewhere no callback begins any more after
        it has returned. In a child that was forked it does nothing: the fleet is the parent's.

        Args:
            timeout: seconds to wait for all this, None for ever; a callback that takes longer is
                left to finish.
        """
        run = self._run
        if self._owner.is_another or run is None or run.ended:
            return
        deadline = inf if timeout is None else monotonic() + timeout
        run.loop.stop()
        self._each(lambda seat, own: seat.stop(own))
        if self._is_within(run):
            return
        first = min(LAST_STEPS, (deadline - monotonic()) / 2)
        if not self._wait_ended(run, monotonic() + first):
            self._each(lambda seat, own: seat.abort(own))
            if not self._wait_ended(run, deadline):
                self._each(lambda seat, own: seat.mute(own))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the fleet has ended, at most `timeout` seconds; True once it has.

        Raises:
            RuntimeError: called in a callback.
        """
        self._owner.check()
        run = self._run
        if run is None:
            return True
        if self._is_within(run):
            raise RuntimeError("join() in a callback would wait for itself")
        return self._wait_ended(run, inf if timeout is None else monotonic() + timeout)

    def __enter__(self) -> Fleet:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _each(self, do: Callable[[Seat, Run], object]) -> None:
        for seat in tuple(self._seats.values()):
            own = seat.last_run
            if own is not None and not own.ended:
                do(seat, own)

    def _is_within(self, run: _FleetRun) -> bool:
        if run.ended:
            return False
        thread, pool = threading.current_thread(), run.loop.pool
        if run.thread is thread or (pool is not None and pool.is_current):
            return True
        if run.thread.ident is None and run.beginner is thread:  # it is about to start that one
            return True
        return any(seat.opener is thread for seat in tuple(self._seats.values()))

    def _wait_ended(self, run: _FleetRun, deadline: float) -> bool:
        if not self._changes.wait_for(lambda: run.ended, max(deadline - monotonic(), 0.0)):
            return False
        last = min(deadline, monotonic() + LAST_STEPS)
        while run.background and run.thread.is_alive() and monotonic() < last:
            run.thread.join(SLICE)
        return True

    def _new_run(self, number: int, thread: threading.Thread, background: bool) -> _FleetRun:
        """Take the place of the run that is under way; raises RuntimeError where there is one."""
        from .runtime.loop import Loop  # noqa: PLC0415 -- see PositionStream.__init__

        self._owner.claim()
        loop = Loop(
            self._connect_rate,
            self._connect_threads,
            self._callback_threads,
            self._stream_ended,
            self._changes.notify,
        )
        run = _FleetRun(number, thread, background, loop)
        with self._changing:
            busy = self._run is not None and not self._run.ended
            if not busy:
                self._run = run
        if busy:
            loop.close()
            raise RuntimeError("the fleet is running already")
        return run

    def _begin(self, run: _FleetRun) -> None:
        loop = run.loop
        loop.pinger.start(f"fastpos-ping-fleet-{run.number}", loop.fail)
        if loop.pool is not None:
            loop.pool.start()
        with self._changing:
            for name, stream in tuple(self._streams.items()):
                self._begin_stream(stream, self._seats[name], run)
            run.begun = True

    def _give_up(self, run: _FleetRun) -> None:
        """Have a run not begin, or be over if it was left in the midst of something."""
        if run.claim() or (not run.background and not run.ended):
            self._finish(run)
        elif not run.ended:
            self.stop(0)

    def _drive_in_background(self, run: _FleetRun) -> None:
        if not run.claim():  # who started the thread was interrupted, and has given up
            return
        try:
            self._drive(run)
        except Forked:
            pass  # the child has no use for this thread
        except BaseException as error:
            text = "%r has ended by an exception that nobody caught"
            log.critical(
                text, self, exc_info=True, extra=fields("crashed", error=type(error).__name__)
            )

    def _drive(self, run: _FleetRun) -> None:
        try:
            run.loop.run()
        except Forked:
            raise
        except BaseException:  # Ctrl-C, sys.exit() in a callback: leave in an orderly way
            if not self._owner.is_another:
                run.loop.stop()
                self._each(lambda seat, own: seat.stop(own))
                run.loop.run_out(LAST_STEPS / 2)
            raise
        finally:
            self._finish(run)

    def _finish(self, run: _FleetRun) -> None:
        if self._owner.is_another or run.ended:  # all of it is the parent's
            return
        loop = run.loop
        try:
            loop.pinger.stop()
        finally:  # also if another Ctrl-C came, wherever that was
            loop.pinger.leave()
            try:
                if loop.pool is not None:
                    loop.pool.stop()
                    loop.pool.join(LAST_STEPS / 2)
                loop.join_openers(LAST_STEPS / 2)
            finally:
                # Who adds a stream meanwhile finds the run either running or ended. Who holds this
                # may be a frame that a signal handler has interrupted, which waits for the end.
                held = self._changing.acquire(timeout=1.0)
                try:
                    loop.close()
                finally:
                    self._end_of(run)
                    if held:
                        self._changing.release()

    def _end_of(self, run: _FleetRun) -> None:
        for seat in tuple(self._seats.values()):
            own = seat.last_run
            if own is not None and own.thread is run.thread and not own.ended:
                own.ended = True
                seat.changed()
        run.ended = True
        self._changes.notify()

    def _stream_ended(self, seat: Seat, failure: FastposError | None) -> None:
        if failure is not None:
            # join() and wait_ready() of the stream raise it too, but nobody may be calling them.
            extra = fields("ended", stream=seat.feed.name, error=type(failure).__name__)
            log.error("%s has ended: %s", seat.feed.name, failure, extra=extra)

    # --- what is known ----------------------------------------------------------------------

    @property
    def last_turn_s(self) -> float | None:
        """How long ago its loop began its last turn, seconds; None while it does not run.

        A turn comes at least every half second, unless a function takes longer.
        """
        run = self._run
        return (
            None
            if run is None or run.ended or self._owner.is_another
            else max(monotonic() - run.loop.turned, 0.0)
        )

    @property
    def slowest_turn_s(self) -> float:
        """The longest time for which one stream kept the others waiting, seconds; 0.0 before a run.

        It is also in `stats`; to read it here costs nothing.
        """
        run = self._run
        return 0.0 if run is None else run.loop.longest_turn[0]

    @property
    def stats(self) -> FleetStats:
        """What it is doing at this moment."""
        from .runtime.loop import Place  # noqa: PLC0415

        streams, run = self.streams, self._run
        places = dict.fromkeys(Place, 0) if run is None else run.loop.places
        ready = sum(seat.is_ready for seat in tuple(self._seats.values()))
        begun = sum(places.values()) - places[Place.ENDED]
        waiting = places[Place.WAITING] + places[Place.QUEUED]
        counters = [stream.stats for stream in streams.values()]
        turn, name = (0.0, None) if run is None else run.loop.longest_turn
        return FleetStats(
            streams=len(streams),
            ready=ready,
            connecting=max(begun - waiting - ready, 0),
            waiting=waiting,
            ended=max(len(streams) - begun, 0),
            messages=sum(each.messages for each in counters),
            bytes_received=sum(each.bytes_received for each in counters),
            slowest_turn_s=turn,
            slowest_turn=name,
        )


def _check_threads(name: str, value: Any, least: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not least <= value <= 1000:
        raise ValueError(f"{name} must be from {least} to 1000, not {value}")
