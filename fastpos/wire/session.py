"""The conversation with the exchange on one connection, without I/O: bytes and the clock in; pushes
and what else happened, what to send and the next deadline out.

One `Session` lives from the end of the HTTP upgrade to the end of the connection. Whoever drives it
reads into `writable`, says `wrote`, takes events until `next_event` gives None, sends what
`data_to_send` gives, and calls `tick` when `deadline` has come:

    session = Session(credential, credential.get(), broker, timing, now=monotonic())
    while True:
        if readable(until=session.deadline):
            session.wrote(read_into(session.writable(scratch)))
            while (event := session.next_event(monotonic())) is not None:
                ...
        event = session.tick(monotonic())
        send(session.data_to_send())

THE PHASES

                    "connect success"            "sub success"
    GREETING ------------------> PAUSED      SUBSCRIBING ------> READY
                                   ^ |  sub      ^                 |
                                   | +-----------+                 |
                                   +-------------------------------+
                                                unsub

Two things move, and neither waits for the other.

* What was said is the **phase**. GREETING and SUBSCRIBING wait for a reply and have a deadline for
  it. READY and PAUSED are at rest: nothing is owed by anybody.
* What the user wants is the **wish**, pushes or none (`want`), which may change at any moment and
  outlives the connection. It is looked at only where the phase is at rest: READY without the wish
  sends "unsub" and is PAUSED; PAUSED with it sends "sub" and is SUBSCRIBING. So two requests are
  never under way at once, and who changes his mind in between has said nothing.

`_REPLIES` has what a reply means in each phase, `_RESTS` what the wish does. What is no reply that
is known (see exchange.py) is reported, once while a reply is waited for, and the wait goes on: only
a refusal or the deadline ends it. The answer to "unsub" is not documented: while PAUSED anything is
taken for it, and when it comes late, into the next SUBSCRIBING, it is known by its "unsub".

Beside this every phase has pushes, pings of the exchange (answered at once), pongs, and WebSocket's
own control frames (endpoint.py). From every phase there are two ways out, and no way back:

* `close`, or a mistake of the exchange's: our close frame is on its way, CLOSING. Nothing but the
  peer's close frame is of interest then.
* ENDED: the peer closed, broke the protocol or refused, a deadline passed, or the driver says
  `lost`. A `Closed` tells of it, once; it is the last event. `deadline` is then the time until
  which the peer is given to end the TCP connection, which is the server's to do (RFC 6455, section
  7.1.1).

THE CLOCK

All times are of one monotonic clock, seconds, given in with each call. Pings keep their schedule
whatever comes; the pong of the first ping that has none is waited for `pong_timeout`. Deadlines
count only when everything has been read that came before them (see `tick`): bytes that lie in the
kernel have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import inf
from time import time_ns
from typing import Any, NamedTuple

from ..errors import (
    KEPT_BYTES,
    ConnectionFailed,
    DecodeError,
    FastposError,
    ProtocolError,
    SubscriptionError,
)
from ..model.exchange import (
    CONNECTED,
    REFUSALS,
    SUBSCRIBED,
    Said,
    ping,
    push_head,
    read,
    why_no_push,
)
from ..printable import printable
from ..tracebacks import clears_locals
from .credential import Credential
from .decoder import all_begin
from .endpoint import Endpoint
from .frames import CLOSE, INFLATED, TEXT, parse_close, split_pure
from .heartbeat import Heartbeat
from .inflate import Splitter, inflate, new_splitter

__all__ = [
    "ANNOUNCED",
    "CLOSE_TIMEOUT",
    "LOST",
    "NO_PONG",
    "SYSTEM_CLOSE_GRACE",
    "Closed",
    "Event",
    "Paused",
    "Phase",
    "Pong",
    "Pushes",
    "Session",
    "Subscribed",
    "Timing",
    "Undecodable",
]

# How long the peer's part of the closing handshake is waited for, seconds.
CLOSE_TIMEOUT = 1.0
# How long the server may stay after it said that the system closes, seconds.
SYSTEM_CLOSE_GRACE = 5.0

# How reasons begin by which others tell (runtime/causes.py) what there is no error of its own for.
LOST = "the connection was lost: "
NO_PONG = "no pong within "
ANNOUNCED = "the exchange said that it closes, and did not"

GZIP_MAGIC = b"\x1f\x8b"
# So many ways in which pushes begin are remembered. The keys before "channel" are few, and the
# user's id is one.
MAX_HEADS = 8


class Phase(Enum):
    """Where the conversation stands."""

    GREETING = "waits for the greeting"
    SUBSCRIBING = "waits for the answer to sub"
    READY = "pushes come"
    PAUSED = "no pushes are wanted"
    CLOSING = "our close frame is sent"
    ENDED = "over"


class _Then(Enum):
    """What a reply does that leads to no other phase."""

    IGNORE = 0
    REFUSE = 1
    """It ends the connection: no service is to be had on it."""
    REPORT = 2
    """It is neither a push nor the answer to anything, and changes nothing."""


# (phase, reply) -> the next phase, or what else follows. No line: IGNORE.
_REPLIES: dict[tuple[Phase, Said], Phase | _Then] = {
    (Phase.GREETING, Said.CONNECTED): Phase.PAUSED,
    (Phase.GREETING, Said.SUBSCRIBED): _Then.REPORT,
    (Phase.GREETING, Said.OTHER): _Then.REPORT,
    (Phase.SUBSCRIBING, Said.SUBSCRIBED): Phase.READY,
    (Phase.SUBSCRIBING, Said.OTHER): _Then.REPORT,
    (Phase.READY, Said.OTHER): _Then.REPORT,
    **{(Phase.GREETING, said): _Then.REFUSE for said in REFUSALS},
    **{(Phase.SUBSCRIBING, said): _Then.REFUSE for said in REFUSALS},
    **{(Phase.READY, said): _Then.REPORT for said in REFUSALS},  # nothing was asked for
}

# (phase at rest, whether pushes are wanted) -> the request that is sent, and the next phase.
_RESTS: dict[tuple[Phase, bool], tuple[str, Phase]] = {
    (Phase.PAUSED, True): ("sub", Phase.SUBSCRIBING),
    (Phase.READY, False): ("unsub", Phase.PAUSED),
}

# The phases in which a reply is owed, and which one.
_OWED = {Phase.GREETING: CONNECTED, Phase.SUBSCRIBING: SUBSCRIBED}


class Timing(NamedTuple):
    """How long things may take, seconds."""

    ping_interval: float = 30.0
    pong_timeout: float = 10.0
    reply_timeout: float = 10.0
    """For the greeting, and for the answer to "sub"."""


# --- events ---------------------------------------------------------------------------------------


class _Event:
    """What happened; compared by value. Not a dataclass, as making six costs every import 2 ms."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({inside})"

    __hash__: None  # type: ignore[assignment]


class Pushes(_Event):
    """Pushes, in order, as JSON. That they can be decoded is not promised."""

    __slots__ = ("texts",)

    def __init__(self, texts: list[bytes]) -> None:
        self.texts: list[bytes] = texts


class Subscribed(_Event):
    """Pushes come from now on."""

    __slots__ = ()


class Paused(_Event):
    """The connection is as it should be, and no pushes are wanted."""

    __slots__ = ()


class Pong(_Event):
    """The exchange has answered a ping."""

    __slots__ = ()


class Undecodable(_Event):
    """A message that is of no use: damaged, or no answer to anything."""

    __slots__ = ("error",)

    def __init__(self, error: DecodeError) -> None:
        self.error: DecodeError = error


class Closed(_Event):
    """The connection is over; the last event.

    Attributes:
        reason: how it ended, for a person; without credentials.
        close_code: of the peer's close frame, None where it sent none.
        error: the failure, None where it was none.
        said: what the exchange said in place of what was waited for, or in its close frame, where
            that tells something; None where it said nothing.
    """

    __slots__ = ("close_code", "error", "reason", "said")

    def __init__(
        self,
        reason: str,
        close_code: int | None = None,
        error: FastposError | None = None,
        said: Said | None = None,
    ) -> None:
        self.reason: str = reason
        self.close_code: int | None = close_code
        self.error: FastposError | None = error
        self.said: Said | None = said


Event = Pushes | Subscribed | Paused | Pong | Undecodable | Closed


class Session:
    """One connection's conversation. See the top of this file.

    It knows no threads: calls must come one at a time, but `writable`, `wrote` and `take_pushes`
    may overlap with any other than `next_event`. The attributes may be looked at by anybody.

    Args:
        credential: whose; takes itself out of what is shown.
        value: the credential that the connection was opened with.
        broker: the merchant's id.
        timing: how long things may take.
        now: when the upgrade had ended (`clock.monotonic`, as all times here).
        wanted: whether pushes are.
        max_message_size: the largest message taken, bytes, compressed or not.
        heartbeat: is kept up to date.
        splitter: takes pushes off the wire (see inflate.py).
        wall: the wall clock, ns since the epoch, whose time a ping carries; None: the system's.
    """

    __slots__ = (
        "_broker", "_close_due", "_credential", "_endpoint", "_heads", "_heartbeat", "_max",
        "_pong_due", "_reply_due", "_reported", "_system_close_due", "_texts",
        "_timing", "_unanswered", "_value", "_wall", "_wanted", "deadline", "ended_in",
        "limit", "messages", "next_ping", "outgoing", "phase", "pinged", "pings", "pongs",
        "writable", "wrote",
    )  # fmt: skip

    def __init__(
        self,
        credential: Credential,
        value: str,
        broker: int,
        timing: Timing,
        now: float,
        *,
        wanted: bool = True,
        max_message_size: int = 1024 * 1024,
        heartbeat: Heartbeat | None = None,
        splitter: Splitter | None = None,
        wall: Callable[[], int] | None = None,
    ) -> None:
        self._credential = credential
        self._value = value
        self._broker = broker
        self._timing = timing
        self._wanted = wanted
        self._max = max_message_size
        self._heartbeat = heartbeat or Heartbeat()
        self._heartbeat.owed_since_sleep = 0  # that was the last one's
        self._wall = wall or _wall_clock
        self._endpoint = Endpoint(max_message_size, splitter or new_splitter() or split_pure)
        self.writable: Callable[[memoryview], memoryview] = self._endpoint.writable
        """Gives the place for the next bytes, in the scratch that is lent (see `FrameParser`)."""
        self.wrote: Callable[[int], None] = self._endpoint.wrote
        """Is told how many were put there."""
        self.outgoing: list[bytes] = self._endpoint.outgoing
        """Whether it is empty tells if `data_to_send` would give something."""
        self._texts: list[bytes] = []  # taken off the wire, and not given yet
        # What pushes were seen to begin with, up to "channel": whatever begins so is one.
        self._heads: tuple[bytes, ...] = ()
        self._reported = False  # something else than the reply that is waited for
        self._unanswered = 0  # times "unsub" was sent without an answer, which is allowed

        self.messages: int = 0
        """How many messages came."""
        self.pings: int = 0
        """How many pings were sent."""
        self.pongs: int = 0
        """How many of them were answered. Pongs come in order, with all else that is sent: when the
        pong of a ping is read, so is what was sent before that ping had come."""
        self.phase: Phase = Phase.GREETING
        """Where the conversation stands."""
        self.ended_in: Phase | None = None
        """In which phase it ended, None while it has not."""
        self.next_ping: float = now + timing.ping_interval
        """When the next ping is due."""
        # Of each thing that is waited for: until when.
        self._reply_due = now + timing.reply_timeout
        self._pong_due = inf
        self._system_close_due = inf
        self._close_due = inf
        self.pinged: float = now
        """When the last ping went out; at first when the session began."""
        self.limit: float = 0.0
        """The first time at which something that is waited for is late."""
        self.deadline: float = 0.0
        """When `tick` is to be called next, `math.inf` for never."""
        self._reckon()

    @property
    def is_idle(self) -> bool:
        """Whether more has to be read for an event."""
        return self._endpoint.is_idle and not self._texts

    # --- bytes in -----------------------------------------------------------------------------

    def next_event(self, now: float) -> Event | None:
        """Give the next event that is complete; None when more has to be read for one.

        Args:
            now: when the bytes at hand were read.
        """
        endpoint = self._endpoint
        while self.phase is not Phase.ENDED:
            if self._texts:
                event = self._next_text(now)
            elif texts := endpoint.take_pushes():
                event = self._inflated(texts)
            elif endpoint.is_idle:
                return None
            else:
                try:
                    message = endpoint.next_message()
                except ProtocolError as error:
                    return self._end(
                        f"protocol error: {error.message}", None, error, now + CLOSE_TIMEOUT
                    )
                if message is None:
                    return None
                event = self._message(*message, now)
            if event is not None:
                return event
        return None

    def take_pushes(self, count: int) -> list[bytes] | None:
        """Say `wrote`; the fast path: what came, where that is whole pushes and nothing else.

        Returns:
            Their texts, of which there is no event; None: `next_event` tells what came.
        """
        endpoint = self._endpoint
        endpoint.wrote(count)
        if self.phase is not Phase.READY or self._texts:
            return None
        texts = endpoint.take_pushes()
        if texts:
            self.messages += len(texts)
            if endpoint.is_idle and all_begin(texts, self._heads):
                return texts
            self._texts = texts
        return None

    def lost(self, error: Exception, now: float) -> Closed | None:
        """Say that the connection has failed, or that the peer has ended it (EOFError)."""
        reason = f"{LOST}{error}"
        return self._end(reason, None, ConnectionFailed(reason), now)

    def _inflated(self, texts: list[bytes]) -> Pushes | None:
        self.messages += len(texts)
        if self.phase is not Phase.CLOSING:
            if all_begin(texts, self._heads):
                return Pushes(texts)
            self._texts = texts
        return None

    def _message(self, opcode: int, payload: Any, now: float) -> Event | None:
        if opcode == INFLATED:  # a ping came before them
            return self._inflated(payload)
        if opcode == CLOSE:
            code, words = parse_close(payload)
            shown = f": {printable(self._credential.hide(words))}" if words else ""
            reason = f"closed by the server with code {code}{shown}"
            about = self._read(words.encode())[0] is Said.CREDENTIAL
            said = Said.CREDENTIAL if about else None
            return self._end(reason, code, None, now + CLOSE_TIMEOUT, said)
        self.messages += 1
        if self.phase is Phase.CLOSING:
            return None
        if opcode == TEXT:
            text = payload.encode()
        elif payload[:2] == GZIP_MAGIC:
            try:
                text = inflate(payload, self._max)
            except ValueError as error:
                return self._undecodable(f"not a push: {error}", payload)
        elif b'"channel"' in payload:
            return self._undecodable("not a push: not gzip", payload)
        else:  # a reply or a pong as deployments may send them
            text = payload
        return self._text(text, now)

    def _next_text(self, now: float) -> Event | None:
        """Take texts that are not all known for pushes: a run of pushes, or one that is none."""
        texts = self._texts
        for count, text in enumerate(texts):
            if not (text.startswith(self._heads) or self._is_push(text)):
                if count:
                    self._texts = texts[count:]
                    return Pushes(texts[:count])
                self._texts = texts[1:]
                return self._text(text, now)
        self._texts = []
        return Pushes(texts)

    def _is_push(self, text: bytes) -> bool:
        head = push_head(text)
        if head is None:
            return read(text)[0] is Said.PUSH
        if len(self._heads) < MAX_HEADS:
            self._heads += (head,)
        return True

    def _text(self, text: bytes, now: float) -> Event | None:
        said, words = self._read(text)
        if said is Said.PUSH:
            return Pushes([text])
        if said is Said.PONG:
            return self._pong(now)
        if said is Said.PING:
            self._endpoint.send(words)
            return None
        return self._reply(said, words, text, now)

    def _read(self, text: bytes) -> tuple[Said, str]:
        said, words = read(text)
        if said is Said.CREDENTIAL:  # or is it a credential with such a word in it?
            said = read(text.replace(self._value.encode(), b""))[0]
        return said, words

    def _undecodable(self, what: str, data: bytes) -> Undecodable:
        shown = self._credential.hide(data[:KEPT_BYTES].decode("latin-1"))
        return Undecodable(DecodeError(what, shown.encode("latin-1")))

    def _reply(self, said: Said, words: str, text: bytes, now: float) -> Event | None:
        then = _REPLIES.get((self.phase, said), _Then.IGNORE)
        if isinstance(then, Phase):
            self.phase = then
            self._reply_due = inf
            self._reported = False
            return self._rest(now)
        if then is _Then.REFUSE:
            return self._refused(said, words, now)
        if then is _Then.REPORT:
            if self._unanswered and self.phase is Phase.SUBSCRIBING and "unsub" in words.lower():
                self._unanswered -= 1
                return None
            return self._odd(words, text)
        return None

    def _odd(self, words: str, text: bytes) -> Undecodable | None:
        if self.phase is Phase.READY:
            return self._undecodable(why_no_push(text), text)
        if self._reported:
            return None
        self._reported = True
        shown = printable(self._credential.hide(words))
        return self._undecodable(f"'{shown}' in place of {_OWED[self.phase]!r}", text)

    def _refused(self, said: Said, words: str, now: float) -> Closed | None:
        shown = f"'{printable(self._credential.hide(words))}'"
        if self.phase is Phase.GREETING:
            what = f"greeted with {shown} instead of {CONNECTED}"
        else:
            what = f"the subscription was refused: {shown}"
        self._endpoint.close()
        return self._end(what, None, SubscriptionError(what, shown), now, said)

    def _rest(self, now: float) -> Event | None:
        """Follow the wish, as the phase is at rest; tell where it stays so."""
        reached = self.phase
        move = _RESTS.get((reached, self._wanted))
        if move is None:
            self._reckon()
            return Subscribed() if reached is Phase.READY else Paused()
        event, self.phase = move
        self._request(event)
        if self.phase is Phase.SUBSCRIBING:
            self._reply_due = now + self._timing.reply_timeout
        else:
            self._unanswered += 1
        self._reckon()
        return Paused() if self.phase is Phase.PAUSED else None

    @clears_locals
    def _request(self, event: str) -> None:
        self._endpoint.send(self._credential.message(event, self._value, self._broker))

    def _pong(self, now: float) -> Pong:
        heartbeat = self._heartbeat
        self.pongs = min(self.pongs + 1, self.pings)
        if self._pong_due != inf:
            self._pong_due = inf
            heartbeat.round_trip_s = max(now - self.pinged, 0.0)
            self._reckon()
        if heartbeat.owed_since_sleep:
            heartbeat.owed_since_sleep -= 1
        heartbeat.last_pong_ns = self._wall()
        return Pong()

    # --- what is wanted -----------------------------------------------------------------------

    def want(self, wanted: bool, now: float) -> None:
        """Say whether pushes are wanted; what follows from it is done when it can be."""
        self._wanted = wanted
        if self.phase in (Phase.READY, Phase.PAUSED):
            self._rest(now)

    def system_closes(self, now: float) -> None:
        """Say that a push announced the end of the system: the server has some seconds to go."""
        self._system_close_due = now + SYSTEM_CLOSE_GRACE
        self._reckon()

    def close(self, now: float) -> None:
        """End in an orderly way: unsubscribe, and send a close frame."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            return
        if self.phase in (Phase.SUBSCRIBING, Phase.READY):
            self._request("unsub")
        self._endpoint.close()
        self.phase = Phase.CLOSING
        self._close_due = now + CLOSE_TIMEOUT
        self._reckon()

    # --- the clock ----------------------------------------------------------------------------

    def tick(self, now: float, caught_up: bool = True) -> Closed | None:
        """Do what is due: send a ping, or end what has been waited for long enough.

        Args:
            now: what time it is.
            caught_up: all that came before `limit` has been read. Who can't say so, as the reader
                is busy elsewhere, says False, and what is late stays so until the next time.
        """
        if self.phase is Phase.ENDED:
            return None
        if self.phase is Phase.CLOSING:  # no ping goes out after a close frame
            return self._late(now) if now >= self._close_due else None
        if caught_up and now >= self.limit:
            return self._late(now)
        if now >= self.next_ping:
            self._ping(now)
        return None

    def woke(self, now: float) -> None:
        """Say that the machine has slept: whether the peer is still there, a ping tells at once."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            return
        # The pong of a ping from before is no answer.
        self._heartbeat.owed_since_sleep = self.pings - self.pongs + 1
        self._pong_due = inf
        self.next_ping = now
        self._reckon()

    def ping_at(self, at: float) -> None:
        """Have the next ping be due by then; those after it follow from there."""
        if self.phase not in (Phase.CLOSING, Phase.ENDED):
            self.next_ping = min(self.next_ping, at)
            self._reckon()

    def _ping(self, now: float) -> None:
        interval = self._timing.ping_interval
        # Missed ones (the machine was asleep) are not made up for.
        self.next_ping += ((now - self.next_ping) // interval + 1) * interval
        self.pinged = now
        if self._pong_due == inf:
            self._pong_due = now + self._timing.pong_timeout
        now_ns = self._wall()
        self._endpoint.send(ping(now_ns // 1_000_000))
        self.pings += 1
        self._heartbeat.last_ping_ns = now_ns
        self._reckon()

    def _late(self, now: float) -> Closed | None:
        timing = self._timing
        error: FastposError
        said = None
        if self.phase is Phase.CLOSING:
            error = ConnectionFailed("stopped; the server did not answer the close frame")
        elif now >= self._pong_due:
            error = ConnectionFailed(f"{NO_PONG}{timing.pong_timeout:g} s")
        elif now >= self._reply_due:
            owed = _OWED[self.phase]
            error = SubscriptionError(
                f"no {owed!r} from the exchange within {timing.reply_timeout:g} s"
            )
            said = Said.OTHER if self._reported else None
        else:
            error = ConnectionFailed(ANNOUNCED)
        return self._end(error.message, None, error, now, said)

    def _reckon(self) -> None:
        """Find the next deadline anew."""
        if self.phase is Phase.CLOSING:
            self.limit = self.deadline = self._close_due
            return
        self.limit = min(self._reply_due, self._pong_due, self._system_close_due)
        self.deadline = min(self.limit, self.next_ping)

    def _end(
        self,
        reason: str,
        close_code: int | None,
        error: FastposError | None,
        deadline: float,
        said: Said | None = None,
    ) -> Closed | None:
        if self.phase is Phase.ENDED:
            return None
        self.ended_in, self.phase = self.phase, Phase.ENDED
        self._texts = []
        self.deadline = deadline
        self.limit = self.next_ping = inf
        return Closed(reason, close_code, error, said)

    # --- bytes out ----------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Give the bytes that are to be sent, once."""
        return self._endpoint.data_to_send()


def _wall_clock() -> int:
    return time_ns()  # looked up for each ping: tests turn the clock
