"""What a stream has done so far, in numbers."""

# Annotations are evaluated here: NamedTuple would compile each of them from its text.

from typing import Any, NamedTuple

from ..clock import monotonic
from .callbacks import callback_name
from .dispatch import CallbackQueue
from .timing import CallbackTimes

__all__ = ["Counters", "Stats", "count"]


class Stats(NamedTuple):
    """A snapshot of a stream's counters. Counts are since the stream was made."""

    connects: int
    """Connections that were opened (the upgrade succeeded)."""
    subscriptions: int
    """Times the exchange answered ``sub success``."""
    disconnects: dict[str, int]
    """Connections that ended or could not be made, by reason."""
    messages: int
    """Messages received (WebSocket data frames, put together where they came in parts): pushes,
    replies and pongs."""
    bytes_received: int
    """Bytes read off the network, after decryption."""
    events: dict[str, int]
    """Pushes decoded, by the name of their event class."""
    decode_errors: int
    """Pushes that could not be decoded."""
    callback_errors: int
    """Exceptions raised by callbacks."""
    unknown_channels: dict[str, int]
    """Pushes on channels that are not documented, by channel."""
    last_message_ns: int | None
    """When something was last received, `time.time_ns()`."""
    last_ping_ns: int | None
    """When the last ping was sent, `time.time_ns()`."""
    last_pong_ns: int | None
    """When the last pong was received, `time.time_ns()`."""
    round_trip_s: float | None
    """From the last answered ping to its pong, seconds."""
    queue_depth: int
    """Events that wait for the callback thread; 0 with ``dispatch="reader"``."""
    conflated_ticks: int
    """`AdlPrice` events dropped in favour of a newer one, because the queue was full."""
    slowest_callback_s: float
    """The longest that a callback took, seconds; 0.0 before there was one."""
    slowest_callback: str | None
    """The name of that function."""
    lag_s: float
    """How long the last delivered event waited from its receipt until its callback began,
    seconds."""
    max_lag_s: float
    """The longest that an event waited, seconds."""
    current_callback: str | None
    """The name of the function that is running at this moment, None where none is."""
    current_callback_s: float
    """For how long it has been running, seconds."""
    stream: str
    """The stream's name."""
    state: str
    """What it does at this moment: "ready" (subscribed), "connecting", "waiting" (for its next
    attempt), "paused", "stopped" (or not begun) or "failed" (ended for good)."""
    synced: bool | None
    """Whether positions and balances are the account's; None: there is no snapshot source."""
    attempts: int
    """Connections that were tried."""
    gap_s: float
    """Seconds in which no pushes came, though the stream had been subscribed before and not
    stopped, the time since the last push of a gap that is under way included."""
    stales: int
    """Times `on_stale` was told."""
    causes: dict[str, int]
    """The same as `disconnects`, by few fixed words: the labels ``reason`` of docs/metrics.md."""
    errors: dict[str, int]
    """Errors that did not end the stream, by few fixed words: the labels ``kind`` of
    docs/metrics.md."""
    callback_counts: list[int]
    """How many calls of functions took up to 1, 5, 10, 50, 100 and 500 ms, 1 and 5 s, and longer;
    each is counted once."""
    callback_total_s: float
    """How long all calls of functions took together, seconds."""

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain dict, for a metrics exporter."""
        return self._asdict()


class Counters:
    """The counters as they run. Anybody may look.

    All are the reader's to write, but for `callback_errors` and what is "callback" in `errors`,
    which the thread that calls the user's functions does; and `gap`, which the ping thread
    replaces too when it pauses the stream.
    """

    __slots__ = (
        "attempts", "bytes_received", "callback_errors", "causes", "conflated", "connects",
        "decode_errors", "disconnects", "errors", "gap", "last_message_ns", "messages",
        "stales", "subscriptions", "unknown_channels",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connects: int = 0
        self.subscriptions: int = 0
        self.disconnects: dict[str, int] = {}
        self.messages: int = 0
        self.bytes_received: int = 0
        self.decode_errors: int = 0
        self.callback_errors: int = 0
        self.unknown_channels: dict[str, int] = {}
        self.last_message_ns: int | None = None
        self.attempts: int = 0
        self.stales: int = 0
        self.conflated: int = 0
        """Of the callback queues before this one; it counts on from there."""
        self.causes: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.gap: tuple[float, float | None] = 0.0, None
        """Of the gaps that are over how long they were, seconds, and since when there is one,
        `clock.monotonic()`; replaced as a whole."""

    def gap_begins(self, at: float) -> None:
        """No pushes come since then."""
        total, since = self.gap
        if since is None:
            self.gap = total, at

    def gap_ends(self) -> None:
        """They come again, or are not to come any more; nothing where there is none."""
        self.gap = self.gap_s, None

    @property
    def gap_s(self) -> float:
        """How long all gaps were together, up to this moment, seconds."""
        total, since = self.gap
        return total if since is None else total + max(monotonic() - since, 0.0)

    def snapshot(
        self,
        state: str,
        synced: bool | None,
        last_ping_ns: int | None,
        last_pong_ns: int | None,
        round_trip_s: float | None,
        events: dict[str, int],
        times: CallbackTimes,
        stream: str,
        dispatcher: CallbackQueue | None,
    ) -> Stats:
        """Give the counters as they are now, with what others know."""
        slowest_s, slowest = times.slowest
        lag_s, max_lag_s = times.lags()
        running = times.running
        return Stats(
            connects=self.connects,
            subscriptions=self.subscriptions,
            disconnects=dict(self.disconnects),
            messages=self.messages,
            bytes_received=self.bytes_received,
            events=events,
            decode_errors=self.decode_errors,
            callback_errors=self.callback_errors,
            unknown_channels=dict(self.unknown_channels),
            last_message_ns=self.last_message_ns,
            last_ping_ns=last_ping_ns,
            last_pong_ns=last_pong_ns,
            round_trip_s=round_trip_s,
            queue_depth=0 if dispatcher is None else dispatcher.depth,
            conflated_ticks=self.conflated if dispatcher is None else dispatcher.conflated,
            slowest_callback_s=slowest_s,
            slowest_callback=slowest,
            lag_s=lag_s,
            max_lag_s=max_lag_s,
            current_callback=None if running is None else callback_name(running.function),
            current_callback_s=0.0 if running is None else monotonic() - running.begun,
            stream=stream,
            state=state,
            synced=synced,
            attempts=self.attempts,
            gap_s=self.gap_s,
            stales=self.stales,
            causes=dict(self.causes),
            errors=dict(self.errors),
            callback_counts=times.counts(),
            callback_total_s=times.total_s,
        )


# So many different channels or reasons are counted by name, of so many characters; a peer can't
# make it more.
MAX_NAMES = 100
MAX_LENGTH = 200


def count(counts: dict[str, int], name: str) -> None:
    """Count one more of `name`."""
    name = name[:MAX_LENGTH]
    if name not in counts and len(counts) >= MAX_NAMES:
        name = "other"
    counts[name] = counts.get(name, 0) + 1
