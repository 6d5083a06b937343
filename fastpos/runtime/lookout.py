"""What the ping thread looks after for a stream, beside its connection: a callback that hangs, and
ticks that stop.

It looks at what others keep anyway, now and then, so nothing on the data path is done for it.

WHO TELLS OF TICKS THAT STOP?

The user's functions are called by the reader, which waits in a system call when nothing comes, and
nothing on this machine can end that at no cost to what does come. So the exchange is asked to: a
ping goes out, and its pong wakes the reader. It proves the rest as well. The connection is alive,
and what was sent before the pong has been read, so the ticks do not lie in the kernel while a
callback takes its time. Only its own pong does: one of a ping before it may lie there too, before
the first of the ticks. Where no pong comes, that ends the connection, and tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..account.ticks import TickWatch
from ..logs import fields, log
from ..wire.session import Phase
from .callbacks import callback_name
from .link import Link
from .pinger import Scheduled
from .timing import CallbackTimes

__all__ = ["Lookout", "SharedLookout", "TickLookout"]

# It looks no more often than so, seconds.
SHORTEST = 0.1


class Lookout:
    """A schedule for the ping thread. All is that thread's own.

    Args:
        times: what is known of the callbacks.
        slow_s: a callback that has been running for longer is named, seconds.
    """

    def __init__(self, times: CallbackTimes, slow_s: float) -> None:
        self._times = times
        self._slow_s = max(slow_s, SHORTEST)
        self._named = 0.0  # when the callback began that was last named

    @property
    def has_ended(self) -> bool:
        """Never, as long as the thread runs."""
        return False

    def woke(self, now: float) -> None:
        """Note that the machine has slept: nothing follows."""

    def keep_schedule(self, now: float) -> float:
        """Look; give when to look again."""
        return self._look_at_callbacks(now)

    def _look_at_callbacks(self, now: float) -> float:
        """Name a callback that hangs, once.

        What begins after this look is not slow before the next.
        """
        running = self._times.running
        if running is None or running.begun == self._named:
            return now + self._slow_s
        seconds = now - running.begun
        if seconds < self._slow_s:
            return running.begun + self._slow_s
        self._named = running.begun
        name = callback_name(running.function)
        log.warning(
            "%s: %s callback %s has been running for %.1f s",
            self._times.stream,
            running.slot,
            name,
            seconds,
            extra=fields(
                "callback_running",
                stream=self._times.stream,
                slot=running.slot,
                callback=name,
                seconds=seconds,
            ),
        )
        return now + self._slow_s


class SharedLookout:
    """The same for a thread that calls the functions of many streams: one schedule for all.

    Args:
        at_hand: gives what looks after the stream whose turn it is, None where it is nobody's.
    """

    def __init__(self, at_hand: Callable[[], Scheduled | None]) -> None:
        self._at_hand = at_hand

    @property
    def has_ended(self) -> bool:
        """Never, as long as the thread runs."""
        return False

    def woke(self, now: float) -> None:
        """Note that the machine has slept: nothing follows."""

    def keep_schedule(self, now: float) -> float:
        """Look; give when to look again."""
        lookout = self._at_hand()
        if lookout is not None:
            lookout.keep_schedule(now)
        return now + SHORTEST


class _Silence(NamedTuple):
    since: float
    ticks: int
    pings: int  # the last of them asks


class TickLookout:
    """A schedule for the ping thread, while a connection lasts: notices that ticks stop.

    `_silence` goes from the ping thread to the reader, which takes it away; the rest is the ping
    thread's.

    Args:
        link: the connection.
        timeout: ticks may be away for so long, seconds.
        expects: whether a position is known to be open; asked on either thread.
        ticks: how many ticks there have been; asked on either thread.
    """

    def __init__(
        self,
        link: Link,
        timeout: float,
        expects: Callable[[], bool],
        ticks: Callable[[], int],
    ) -> None:
        self._link = link
        self._watch = TickWatch(timeout)
        # Each look wakes the ping thread: of a thousand streams all would be a thread's work.
        self._interval = max(timeout / 4, SHORTEST / 2)
        self._expects = expects
        self._ticks = ticks
        self._silence: _Silence | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the connection has."""
        return self._link.has_ended

    def woke(self, now: float) -> None:
        """Note that the machine has slept: no tick could come meanwhile."""
        self._watch.look(False, 0, now)

    def keep_schedule(self, now: float) -> float:
        """Look; give when to look again."""
        ticks, session = self._ticks(), self._link.session
        if self._watch.look(self._is_expected(), ticks, now) and session is not None:
            assert self._watch.since is not None
            self._silence = _Silence(self._watch.since, ticks, session.pings + 1)
            self._link.ping_now(now)
        return now + self._interval

    def _is_expected(self) -> bool:
        session = self._link.session
        return session is not None and session.phase is Phase.READY and self._expects()

    def confirmed(self) -> float | None:
        """Say since when there have been no ticks, if that is to be told; for the reader, when a
        pong has come."""
        silence, session = self._silence, self._link.session
        if silence is None or session is None or session.pongs < silence.pings:
            return None
        self._silence = None
        still = silence.ticks == self._ticks() and self._is_expected()
        return silence.since if still else None
