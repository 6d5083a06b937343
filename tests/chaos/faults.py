"""The table of faults, `FAULTS`: how each is put in and taken out, and what is expected of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from time import monotonic, sleep

from tests.chaos.rig import Rig
from tests.chaos.settings import (
    CONNECT_TIMEOUT,
    MARGIN,
    PING_INTERVAL,
    PONG_TIMEOUT,
    SUBSCRIBE_TIMEOUT,
)
from tests.support.pushes import bomb, packed
from tests.support.recording import SOON, until

MARKS = ("<!-- faults -->", "<!-- /faults -->")
"""Between these docs/explanation/faults.md has the table of what became of them."""


class Seen(enum.Enum):
    """Where a fault shows, and from when to when the noticing of it is measured."""

    END = "a connection ends: from the fault to on_disconnect"
    ATTEMPT = "a new connection can't be had: from the attempt's begin to on_disconnect"
    MESSAGE = "a message is bad and the connection is not: from its sending to on_error"
    NOT = "nothing is wrong with the connection, and it is kept"


class Loss(enum.Enum):
    """Which events the stream may miss."""

    NONE = "none"
    OUTAGE = "those that happened while no connection was subscribed"
    BROKEN = "those, and the last ones that were sent on the connection that broke"


Inject = Callable[[Rig], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One fault, and what is expected."""

    name: str
    inject: Inject
    """Entering puts it in, leaving takes it out. What is not noticed has lasted when entered."""
    seen: Seen
    reason: str = ""
    """What the stream says of it: a regular expression for all of the text."""
    within: float = 0.0
    """Seconds in which it is noticed."""
    loss: Loss = Loss.BROKEN
    case: str = ""
    """Tells faults of one name apart."""
    away: bool = False
    """The stream can't come back before the fault is taken out."""
    meanwhile: str = ""
    """Of other ends and attempts while it lasts: what the stream says, as in `reason`."""
    retry_after: float = 0.0
    """Seconds that the server asks to be left alone."""
    reported: bool = False
    """It is a bad message besides, which is told to on_error."""
    tls: bool = False
    subscriptions: int = 2
    """How many there are, where it ends connections: the first, and one after each end."""
    holds: float = 0.0
    """Seconds for which a user's function takes the thread that calls it. In a fleet without
    callback threads that is the neighbours' too: for so long nothing may come to them, but their
    pings go out."""

    @property
    def id(self) -> str:
        return f"{self.name}: {self.case}" if self.case else self.name


# --- bounds, seconds ------------------------------------------------------------------------------

RETRY_WITHIN = 1.0
"""From the end of a connection to the first attempt to have another."""
BACK_WITHIN = 2.0
"""From the server's return to on_ready, after an outage of under 5 s."""

AT_ONCE = MARGIN
DEAD = PING_INTERVAL + PONG_TIMEOUT + MARGIN
UNOPENED = CONNECT_TIMEOUT + MARGIN
UNSUBSCRIBED = SUBSCRIBE_TIMEOUT + MARGIN
# A function that takes longer than a dead connection.
HOLDS = PING_INTERVAL + PONG_TIMEOUT + 0.5
# After its own close frame the stream leaves the server 1 s to end the connection.
CLOSED_BY_US = 1.0 + MARGIN

# --- what is said ---------------------------------------------------------------------------------

ENDED = r"the connection was lost: the peer ended the connection"
RESET = r"the connection was lost: .*Connection reset by peer"
NO_PONG = rf"no pong within {PONG_TIMEOUT:g} s"
NO_HANDSHAKE = r"wss?://localhost:\d+: no whole answer to the handshake in time"

CLOSED = r"closed by the server with code %d: maintenance"
FORBIDDEN = r"protocol error: close code %d may not be sent"
HTTP = r"ws://localhost:\d+: the upgrade is refused: HTTP "
TOO_LARGE = r"protocol error: message of 67108864 bytes, over the limit of 1048576"
TLS_LONG = r"wss://localhost:\d+: the TLS handshake failed: the TLS handshake took too long"
NAME = (
    r"ws://localhost:\d+: the host name cannot be resolved: "
    r".*Temporary failure in name resolution"
)
REFUSED = r"ws://localhost:\d+: cannot connect: .*Connection refused"
NOT_SAID = f"no '%s success' from the exchange within {SUBSCRIBE_TIMEOUT:g} s"
REFUSAL = "the subscription was refused: '%s'"
SHAPE = r"wrong shape: order is not an object"
BOMB = r"not a push: inflates to more than 1048576 bytes"

MIB = 1 << 20
# Of a number that no event has: it would be seen if any of it were delivered.
ORDER = b'{"channel":"order","order":{"orderId":"1","volume":-1,"orderAction":"1"}}'

# --- how faults are put in and taken out ----------------------------------------------------------


def during(
    put: Callable[[Rig], object],
    take: Callable[[Rig], object] = lambda _: None,
    reset: bool = False,
) -> Inject:
    """A fault that is there from `put` to `take`; with `reset`, for connections to come."""

    @contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        put(rig)
        if reset:
            rig.network.reset()
        yield
        take(rig)

    return inject


def network(fault: str, *parameters: object, reset: bool = False) -> Inject:
    """A method of `TcpProxy`, until it resumes."""
    put = lambda rig: getattr(rig.network, fault)(*parameters)  # noqa: E731
    return during(put, lambda rig: rig.network.resume(), reset)


def exchange(fault: str, *parameters: object, reset: bool = False, **more: object) -> Inject:
    """A method of the simulator, until its faults are cleared."""
    put = lambda rig: getattr(rig.exchange, fault)(*parameters, **more)  # noqa: E731
    return during(put, lambda rig: rig.exchange.clear_faults(), reset)


def closed(code: int | None) -> Inject:
    return exchange("drop", clean=True, code=code, reason="maintenance")


def upgrade_refused(status: int, headers: dict[str, str]) -> Inject:
    return exchange("refuse_upgrade", status, headers, b"<html>not now</html>", reset=True)


def message(data: bytes | str) -> Inject:
    """A bad message in the midst of good ones."""
    return during(
        lambda rig: (rig.exchange.push_bytes(data, text=isinstance(data, str)), rig.burst())
    )


@contextmanager
def refused(text: str, times: int, rig: Rig) -> Iterator[None]:
    with exchange("refuse_subscription", text, times=times, reset=True)(rig):
        yield
        assert rig.exchange.wait_for("refusal", count=times), "not refused as often as planned"


@contextmanager
def silent(rig: Rig) -> Iterator[None]:
    with exchange("stall", pongs=True, handshakes=True, closes=True)(rig):
        rig.wait_pings(2)
        yield


@contextmanager
def byte_by_byte(rig: Rig) -> Iterator[None]:
    before = len(rig.sessions[-1])
    with network("trickle", 1)(rig):
        rig.wait_events(before + rig.rng.randint(20, 40))
        yield


@contextmanager
def clock_back(rig: Rig, fault: Inject | None = None) -> Iterator[None]:
    """By an hour; while there is another fault, ten times a second: in every wait there is."""
    rig.exchange.ping_tolerance = 1e9  # seconds; a ping says what the host takes for the time
    began, answered = monotonic(), rig.stream.stats.last_pong_ns
    rig.host.clock_offset_s = lambda: -3600.0 * (1 + bool(fault) * ((monotonic() - began) // 0.1))
    if fault is None:
        rig.wait_pings(2)
        until(lambda: rig.stream.stats.last_pong_ns != answered, what="a pong")
        yield
    else:
        with fault(rig):
            yield
    rig.host.clock_offset_s = lambda: 0.0


@contextmanager
def asleep(rig: Rig, fault: Inject | None = None) -> Iterator[None]:
    """A ping goes out at once; until its pong comes, all that is shown is stale."""
    if fault is not None:
        rig.host.slept_s += 28800.0
        with fault(rig):
            yield
        return
    rig.wait_pings(1)  # just now, so that the next is due a while later
    rig.exchange.stall(pushes=True, handshakes=True, closes=True)
    pinged = rig.stream.stats.last_ping_ns
    rig.host.slept_s += 28800.0
    until(lambda: all(p.stale for p in rig.stream.positions.values()), what="that it is stale")
    until(lambda: rig.stream.stats.last_ping_ns != pinged, PING_INTERVAL, "a ping")
    rig.exchange.resume()
    for _ in range(2):  # one of before the sleep may have none
        rig.exchange.push_bytes('{"pong":1713338308233}', text=True)
    until(lambda: not any(p.stale for p in rig.stream.positions.values()), what="a pong")
    rig.wait_pings(1)
    yield


@contextmanager
def restarted(rig: Rig) -> Iterator[None]:
    """One thread stops the stream; another, which sees first that it has ended, starts it again."""

    def start_again() -> None:
        if rig.stream.join(SOON):
            rig.start_again()

    restart = Thread(target=start_again)
    restart.start()
    until(lambda: rig.stream._driver._changes._waiting, what="that it waits for the end")
    began = monotonic()
    rig.stream.stop()
    assert monotonic() - began < MARGIN, "stop() waits for the next run"
    restart.join(SOON)
    yield


@contextmanager
def takes_long(rig: Rig) -> Iterator[None]:
    """A user's function does not return for longer than the answer to a ping may take."""
    entered = Event()

    def take_long(_: object) -> None:
        if not entered.is_set():
            entered.set()
            sleep(HOLDS)

    rig.stream.on_order(take_long)
    assert entered.wait(SOON), "the function was not called"
    rig.wait_pings(2)
    yield


@contextmanager
def short_lived(rig: Rig) -> Iterator[None]:
    """Three connections end as soon as they are subscribed: one outage, in which waits grow."""
    for number in (2, 3, 4):
        rig.network.reset()
        rig.recorder.wait("on_ready", number)
    assert rig.policy.asked == [1, 2, 3], f"asked for waits after {rig.policy.asked} failures"
    yield


@contextmanager
def pinged(form: str, rig: Rig) -> Iterator[None]:
    """The exchange sends a ping of its own, and has its answer."""
    before = rig.exchange.counts["pong"]
    assert rig.exchange.json_ping(form=form) == 1
    rig.burst()
    assert rig.exchange.wait_for("pong", SOON, before + 1), "a ping was not answered"
    yield


# --- the table ------------------------------------------------------------------------------------

# RFC 6455, section 7.4, and the registry it made; 1010 is a client's.
SENT_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4999)
# Reserved for what no close frame says, not assigned, or out of range.
FORBIDDEN_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)

END, ATTEMPT, MESSAGE, NOT = Seen
HALF_OPEN = network("blackhole")
NO_UPGRADE = exchange("stall", pushes=True, pongs=True, closes=True, reset=True)
PUSH = packed(ORDER)
WRONG_CHECKSUM = PUSH[:-8] + bytes(4) + PUSH[-4:]
BAD_DATA = PUSH[:10] + b"\xff" + PUSH[11:]
ODD_SHAPE = packed('{"channel":"order","order":[]}')
SLOW_DOWN = upgrade_refused(429, {"Retry-After": "1"})
CHALLENGE = upgrade_refused(403, {"Server": "cloudflare", "CF-Mitigated": "challenge"})
PORT_CLOSED = during(
    lambda rig: rig.network.refuse(), lambda rig: rig.network.accept_again(), reset=True
)
TLS_STALLS = network("pause_downstream", reset=True)
NO_NAMES = during(
    lambda rig: setattr(rig.host, "resolves", False),
    lambda rig: setattr(rig.host, "resolves", True),
    reset=True,
)
CUT = during(lambda rig: rig.network.truncate_after(rig.rng.randint(1, 400)))
NO_PONGS = exchange("stall", pushes=True, handshakes=True, closes=True)
HUGE = exchange("push_bytes", bytes(64 * MIB))
OTHER_TEXT = "another text than `sub success`"
REFUSED_FIRST = "`sub` refused, then accepted"
MOMENTARY = "connections that live for a moment, one after the other"
BUSY_FIRST = "too busy for `sub`, then accepted"
CLOCK = "host's clock set back again and again"

FAULTS: tuple[Fault, ...] = (
    Fault("connection reset", during(lambda rig: rig.network.reset()), END, RESET, AT_ONCE),
    Fault("clean close without a close frame", closed(None), END, ENDED, AT_ONCE, Loss.OUTAGE),
    *(
        Fault(name, closed(code), END, reason % code, CLOSED_BY_US, Loss.OUTAGE, str(code))
        for name, codes, reason in (
            ("close frame with code", SENT_CODES, CLOSED),
            ("close frame with a forbidden code", FORBIDDEN_CODES, FORBIDDEN),
        )
        for code in codes
    ),
    *(
        Fault(name, inject, END, NO_PONG, DEAD, case=case, away=True, meanwhile=NO_HANDSHAKE)
        for name, inject, case in (
            ("half-open: packets vanish", HALF_OPEN, "both ways"),
            ("half-open: packets vanish", network("stop_reading_client"), "to the server"),
            (CLOCK, partial(clock_back, fault=HALF_OPEN), "and half-open"),
            ("half-open after a night asleep", partial(asleep, fault=HALF_OPEN), ""),
        )
    ),
    Fault("pings not answered, events sent", NO_PONGS, END, NO_PONG, DEAD),
    *(
        Fault("frame cut short by the end", inject, END, ENDED, AT_ONCE, loss, case)
        for inject, loss, case in (
            (exchange("truncate_frame", ORDER, end=True), Loss.OUTAGE, "by the server"),
            (CUT, Loss.BROKEN, "by the network"),
        )
    ),
    Fault("message of 64 MiB", HUGE, END, TOO_LARGE, CLOSED_BY_US),
    *(
        Fault(name, inject, ATTEMPT, NO_HANDSHAKE, UNOPENED, case=case, away=True)
        for name, inject, case in (
            ("upgrade never answered", NO_UPGRADE, ""),
            (CLOCK, partial(clock_back, fault=NO_UPGRADE), "and upgrade never answered"),
        )
    ),
    *(
        Fault(name, inject, ATTEMPT, reason, AT_ONCE, away=True, retry_after=retry_after)
        for name, inject, reason, retry_after in (
            ("HTTP 502", upgrade_refused(502, {}), HTTP + "502", 0.0),
            ("HTTP 429 with Retry-After: 1", SLOW_DOWN, HTTP + "429", 1.0),
            ("HTTP 403 of a CDN", CHALLENGE, HTTP + "403", 0.0),
            ("name not resolved", NO_NAMES, NAME, 0.0),
            ("port closed", PORT_CLOSED, REFUSED, 0.0),
        )
    ),
    Fault("TLS handshake stalls", TLS_STALLS, ATTEMPT, TLS_LONG, UNOPENED, away=True, tls=True),
    *(
        Fault(name, exchange(fault, times=1, reset=True), ATTEMPT, NOT_SAID % what, UNSUBSCRIBED)
        for name, fault, what in (
            ("never greeted", "silent_connect", "connect"),
            ("`sub` never answered", "ignore_subscription", "sub"),
        )
    ),
    *(
        Fault(OTHER_TEXT, inject, ATTEMPT, NOT_SAID % "sub", UNSUBSCRIBED, case=case, reported=True)
        for inject, case in (
            (exchange("refuse_subscription", "Ping", times=1, reset=True), "a ping"),
            (exchange("refuse_subscription", "系统维护中", times=1, reset=True), "a notice"),
        )
    ),
    *(
        Fault(name, partial(refused, text, times), ATTEMPT, REFUSAL % text, AT_ONCE, case=case)
        for name, text, times, case in (
            (REFUSED_FIRST, "sub fail", 1, "once"),
            (REFUSED_FIRST, "sub fail", 2, "twice"),
            (BUSY_FIRST, "sub fail: system busy", 4, "four times"),
        )
    ),
    *(
        Fault(name, message(data), MESSAGE, reason, AT_ONCE, Loss.NONE, case)
        for name, case, data, reason in (
            ("corrupt gzip", "checksum", WRONG_CHECKSUM, r"not a push: wrong checksum or length"),
            ("corrupt gzip", "data", BAD_DATA, r"not a push: bad deflate data"),
            ("corrupt gzip", "cut short", PUSH[:-9], r"not a push: cut short"),
            ("gzip bomb, 64 MiB in 64 KiB", "", bomb(64 * MIB), BOMB),
            ("garbage JSON", "no JSON", packed(ORDER[:-1]), r"not JSON: .+"),
            ("garbage JSON", "text", "<html>", r"not JSON: .+"),
            ("garbage JSON", "other shape", ODD_SHAPE, SHAPE),
        )
    ),
    Fault(MOMENTARY, short_lived, END, RESET, AT_ONCE, subscriptions=4),
    *(
        Fault("pings of the exchange's own", partial(pinged, form), NOT, loss=Loss.NONE, case=form)
        for form in ("text", "binary", "gzip")
    ),
    Fault("events not sent, pings answered", silent, NOT, loss=Loss.OUTAGE),
    Fault("one byte at a time", byte_by_byte, NOT, loss=Loss.NONE),
    Fault("host's clock set back an hour", clock_back, NOT, loss=Loss.NONE),
    Fault("host asleep for a night", asleep, NOT, loss=Loss.NONE),
    Fault("a user's function takes long", takes_long, NOT, loss=Loss.NONE, holds=HOLDS),
    # What has arrived when it is stopped is not told any more.
    Fault("`stop()` overlaps the next `start()`", restarted, END, "stopped", AT_ONCE),
)
