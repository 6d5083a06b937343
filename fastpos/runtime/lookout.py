"""What the ping thread looks after for a stream, beside its connection: a callback that hangs.

It looks at what others keep anyway, now and then, so nothing on the data path is done for it.
"""

from __future__ import annotations

from ..logs import fields, log
from .callbacks import callback_name
from .timing import CallbackTimes

__all__ = ["Lookout"]

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
            "%s callback %s has been running for %.1f s",
            running.slot,
            name,
            seconds,
            extra=fields("callback_running", slot=running.slot, callback=name, seconds=seconds),
        )
        return now + self._slow_s
