"""What is known of a stream's pings and pongs. The sessions write it, anybody looks."""

from __future__ import annotations

__all__ = ["Heartbeat"]


class Heartbeat:
    """What is known of pings and pongs, for anybody to look at. A stream's sessions share it."""

    __slots__ = ("last_ping_ns", "last_pong_ns", "owed_since_sleep", "round_trip_s")

    def __init__(self) -> None:
        self.last_ping_ns: int | None = None
        """When the last ping was sent, `time.time_ns()`."""
        self.last_pong_ns: int | None = None
        """When the last pong was read, `time.time_ns()`."""
        self.round_trip_s: float | None = None
        """From the last answered ping to its pong, seconds."""
        self.owed_since_sleep: int = 0
        """How many pongs must come until it is known that the connection has outlived the time for
        which the machine slept, and that so all that was sent meanwhile has been read."""
