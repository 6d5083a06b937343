"""When ticks are missed: the exchange sends them once a second while a position is held.

A pure rule: no clock, no thread. It is not known of every deployment that it sends ticks, so they
are missed only once some came.
"""

from __future__ import annotations

__all__ = ["TickWatch"]


class TickWatch:
    """Tells silence from what is no silence. Times are seconds of any one clock.

    Args:
        timeout: ticks may be away for so long.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._told = False
        self._ticks = 0  # at the last look
        self.since: float | None = None
        """When there was last a tick, as far as looks tell, or a reason to expect one; None while
        there is none."""

    def look(self, expected: bool, ticks: int, now: float) -> bool:
        """Whether ticks have been away for too long; so once, until there are some again.

        Args:
            expected: they should come: a position is open, and the stream is subscribed.
            ticks: how many there have ever been.
            now: what time it is.
        """
        if not expected or not ticks:
            self.since = None
        elif self.since is None or ticks != self._ticks:
            self._ticks, self.since, self._told = ticks, now, False
        elif now - self.since > self._timeout and not self._told:
            self._told = True
            return True
        return False
