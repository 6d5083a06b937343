"""The table of faults, `FAULTS`: how each is put in and taken out, and what is expected of it."""

from __future__ import annotations

import enum
import gzip
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic

from tests.chaos.rig import (
    CONNECT_TIMEOUT,
    PING_INTERVAL,
    PONG_TIMEOUT,
    SUBSCRIBE_TIMEOUT,
    Rig,
)
from tests.support.recording import until

__all__ = ["BACK_WITHIN", "FAULTS", "RESET", "RETRY_WITHIN", "Fault", "Loss", "Seen"]


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


@dataclass(frozen=True)
class Fault:
    """One fault, and what is expected."""

    name: str
    inject: Callable[[Rig], AbstractContextManager[None]]
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
    tls: bool = False

    @property
    def id(self) -> str:
        return f"{self.name}: {self.case}" if self.case else self.name


# --- bounds, seconds ------------------------------------------------------------------------------

RETRY_WITHIN = 1.0
"""From the end of a connection to the first attempt to have another."""
BACK_WITHIN = 2.0
"""From the server's return to on_ready, after an outage of under 5 s."""

# What the promises leave to a busy machine.
MARGIN = 1.0
AT_ONCE = MARGIN
DEAD = PING_INTERVAL + PONG_TIMEOUT + MARGIN
UNOPENED = CONNECT_TIMEOUT + MARGIN
UNSUBSCRIBED = SUBSCRIBE_TIMEOUT + MARGIN
# After its own close frame the stream leaves the server 1 s to end the connection.
CLOSED_BY_US = 1.0 + MARGIN

# --- what is said ---------------------------------------------------------------------------------

ENDED = r"the connection was lost: the peer ended the connection"
RESET = r"the connection was lost: .*Connection reset by peer"
NO_PONG = rf"no pong within {PONG_TIMEOUT:g} s"
NO_HANDSHAKE = r"wss?://localhost:\d+: no whole answer to the handshake in time"

# Of a number that no event has: it would be seen if any of it were delivered.
ORDER = b'{"channel":"order","order":{"orderId":"1","volume":-1,"orderAction":"1"}}'

# --- ends of a connection -------------------------------------------------------------------------


@contextmanager
def reset(rig: Rig) -> Iterator[None]:
    rig.network.reset()
    yield


@contextmanager
def closed(code: int | None, rig: Rig) -> Iterator[None]:
    rig.exchange.drop(clean=True, code=code, reason="maintenance")
    yield


@contextmanager
def cut_by_the_network(rig: Rig) -> Iterator[None]:
    rig.network.truncate_after(rig.rng.randint(1, 400))
    yield


@contextmanager
def cut_by_the_server(rig: Rig) -> Iterator[None]:
    rig.exchange.truncate_frame(ORDER, end=True)
    yield


@contextmanager
def half_open(rig: Rig) -> Iterator[None]:
    rig.network.blackhole()
    yield
    rig.network.resume()


@contextmanager
def deaf(rig: Rig) -> Iterator[None]:
    rig.network.stop_reading_client()
    yield
    rig.network.resume()


@contextmanager
def no_pongs(rig: Rig) -> Iterator[None]:
    rig.exchange.stall(pushes=True, handshakes=True, closes=True)
    yield
    rig.exchange.clear_faults()


@contextmanager
def huge_message(rig: Rig) -> Iterator[None]:
    rig.exchange.push_bytes(bytes(64 * 1024 * 1024))
    yield


# --- attempts that fail ---------------------------------------------------------------------------


@contextmanager
def no_upgrade(rig: Rig) -> Iterator[None]:
    rig.exchange.stall(pushes=True, pongs=True, closes=True)
    rig.network.reset()
    yield
    rig.exchange.clear_faults()


@contextmanager
def upgrade_refused(status: int, headers: dict[str, str], rig: Rig) -> Iterator[None]:
    rig.exchange.refuse_upgrade(status, headers, b"<html>not now</html>")
    rig.network.reset()
    yield
    rig.exchange.clear_faults()


@contextmanager
def tls_stalls(rig: Rig) -> Iterator[None]:
    rig.network.pause_downstream()
    rig.network.reset()
    yield
    rig.network.resume()


@contextmanager
def name_unknown(rig: Rig) -> Iterator[None]:
    rig.host.resolves = False
    rig.network.reset()
    yield
    rig.host.resolves = True


@contextmanager
def port_closed(rig: Rig) -> Iterator[None]:
    rig.network.refuse()
    rig.network.reset()
    yield
    rig.network.accept_again()


@contextmanager
def not_greeted(rig: Rig) -> Iterator[None]:
    rig.exchange.silent_connect(times=1)
    rig.network.reset()
    yield


@contextmanager
def not_answered(rig: Rig) -> Iterator[None]:
    rig.exchange.ignore_subscription(times=1)
    rig.network.reset()
    yield


@contextmanager
def refused(times: int, rig: Rig) -> Iterator[None]:
    rig.exchange.refuse_subscription("sub fail: busy", times=times)
    rig.network.reset()
    yield
    assert rig.exchange.wait_for("refusal", count=times), "not refused as often as planned"


# --- bad messages ---------------------------------------------------------------------------------


@contextmanager
def message(data: bytes, rig: Rig) -> Iterator[None]:
    rig.exchange.push_bytes(data)
    rig.burst()
    yield


@contextmanager
def text_message(text: str, rig: Rig) -> Iterator[None]:
    rig.exchange.push_bytes(text, text=True)
    rig.burst()
    yield


PUSH = gzip.compress(ORDER, mtime=0)
WRONG_CHECKSUM = PUSH[:-8] + struct.pack("<II", 0, len(ORDER))
BOMB = gzip.compress(bytes(64 * 1024 * 1024), mtime=0)


# --- nothing that ends a connection ---------------------------------------------------------------


@contextmanager
def silent(rig: Rig) -> Iterator[None]:
    rig.exchange.stall(pongs=True, handshakes=True, closes=True)
    rig.wait_pings(2)
    yield
    rig.exchange.clear_faults()


@contextmanager
def byte_by_byte(rig: Rig) -> Iterator[None]:
    before = len(rig.sessions[-1])
    rig.network.trickle(1)
    rig.wait_events(before + rig.rng.randint(20, 40))
    yield
    rig.network.resume()


@contextmanager
def clock_back(rig: Rig) -> Iterator[None]:
    with _clock(rig, lambda: -3600.0):
        answered = rig.stream.stats.last_pong_ns
        rig.wait_pings(2)
        until(lambda: rig.stream.stats.last_pong_ns != answered, what="a pong")
        yield


@contextmanager
def clock_back_and(
    fault: Callable[[Rig], AbstractContextManager[None]], rig: Rig
) -> Iterator[None]:
    """Another fault, while the clock is set back ten times a second: in every wait there is."""
    began = monotonic()
    with _clock(rig, lambda: -3600.0 * (1 + (monotonic() - began) // 0.1)), fault(rig):
        yield


@contextmanager
def _clock(rig: Rig, offset_s: Callable[[], float]) -> Iterator[None]:
    rig.exchange.ping_tolerance = 1e9  # seconds; a ping says what the host takes for the time
    right, rig.host.clock_offset_s = rig.host.clock_offset_s, offset_s
    yield
    rig.host.clock_offset_s = right


# --- the table ------------------------------------------------------------------------------------

# RFC 6455, section 7.4, and the registry it made; 1010 is a client's.
SENT_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4999)
# Reserved for what no close frame says, not assigned, or out of range.
FORBIDDEN_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)

FAULTS: tuple[Fault, ...] = (
    Fault("connection reset", reset, Seen.END, RESET, AT_ONCE),
    Fault(
        "clean close without a close frame",
        partial(closed, None),
        Seen.END,
        ENDED,
        AT_ONCE,
        Loss.OUTAGE,
    ),
    *(
        Fault(
            "close frame with code",
            partial(closed, code),
            Seen.END,
            rf"closed by the server with code {code}: maintenance",
            CLOSED_BY_US,
            Loss.OUTAGE,
            case=str(code),
        )
        for code in SENT_CODES
    ),
    *(
        Fault(
            "close frame with a forbidden code",
            partial(closed, code),
            Seen.END,
            rf"protocol error: close code {code} may not be sent",
            CLOSED_BY_US,
            Loss.OUTAGE,
            case=str(code),
        )
        for code in FORBIDDEN_CODES
    ),
    Fault(
        "half-open: packets vanish",
        half_open,
        Seen.END,
        NO_PONG,
        DEAD,
        case="both ways",
        away=True,
        meanwhile=NO_HANDSHAKE,
    ),
    Fault(
        "half-open: packets vanish",
        deaf,
        Seen.END,
        NO_PONG,
        DEAD,
        case="to the server",
        away=True,
        meanwhile=NO_HANDSHAKE,
    ),
    Fault("pings not answered, events sent", no_pongs, Seen.END, NO_PONG, DEAD),
    Fault(
        "frame cut short by the end",
        cut_by_the_server,
        Seen.END,
        ENDED,
        AT_ONCE,
        Loss.OUTAGE,
        case="by the server",
    ),
    Fault(
        "frame cut short by the end",
        cut_by_the_network,
        Seen.END,
        ENDED,
        AT_ONCE,
        case="by the network",
    ),
    Fault(
        "message of 64 MiB",
        huge_message,
        Seen.END,
        r"protocol error: message of 67108864 bytes, over the limit of 1048576",
        CLOSED_BY_US,
    ),
    Fault(
        "upgrade never answered",
        no_upgrade,
        Seen.ATTEMPT,
        NO_HANDSHAKE,
        UNOPENED,
        away=True,
    ),
    Fault(
        "HTTP 502",
        partial(upgrade_refused, 502, {}),
        Seen.ATTEMPT,
        r"ws://localhost:\d+: the upgrade is refused: HTTP 502",
        AT_ONCE,
        away=True,
    ),
    Fault(
        "HTTP 429 with Retry-After: 1",
        partial(upgrade_refused, 429, {"Retry-After": "1"}),
        Seen.ATTEMPT,
        r"ws://localhost:\d+: the upgrade is refused: HTTP 429",
        AT_ONCE,
        away=True,
        retry_after=1.0,
    ),
    Fault(
        "TLS handshake stalls",
        tls_stalls,
        Seen.ATTEMPT,
        r"wss://localhost:\d+: the TLS handshake failed: the TLS handshake took too long",
        UNOPENED,
        away=True,
        tls=True,
    ),
    Fault(
        "name not resolved",
        name_unknown,
        Seen.ATTEMPT,
        r"ws://localhost:\d+: the host name cannot be resolved: "
        r".*Temporary failure in name resolution",
        AT_ONCE,
        away=True,
    ),
    Fault(
        "port closed",
        port_closed,
        Seen.ATTEMPT,
        r"ws://localhost:\d+: cannot connect: .*Connection refused",
        AT_ONCE,
        away=True,
    ),
    Fault(
        "never greeted",
        not_greeted,
        Seen.ATTEMPT,
        rf"no 'connect success' from the exchange within {SUBSCRIBE_TIMEOUT:g} s",
        UNSUBSCRIBED,
    ),
    Fault(
        "`sub` never answered",
        not_answered,
        Seen.ATTEMPT,
        rf"no 'sub success' from the exchange within {SUBSCRIBE_TIMEOUT:g} s",
        UNSUBSCRIBED,
    ),
    *(
        Fault(
            "`sub` refused, then accepted",
            partial(refused, times),
            Seen.ATTEMPT,
            r"the subscription was refused: 'sub fail: busy'",
            AT_ONCE,
            case="once" if times == 1 else "twice",
        )
        for times in (1, 2)
    ),
    *(
        Fault(
            "corrupt gzip", partial(message, data), Seen.MESSAGE, reason, AT_ONCE, Loss.NONE, case
        )
        for case, data, reason in (
            ("checksum", WRONG_CHECKSUM, r"not a push: wrong checksum or length"),
            ("data", PUSH[:10] + b"\xff" + PUSH[11:], r"not a push: bad deflate data"),
            ("cut short", PUSH[:-9], r"not a push: cut short"),
        )
    ),
    Fault(
        "gzip bomb, 64 MiB in 64 KiB",
        partial(message, BOMB),
        Seen.MESSAGE,
        r"not a push: inflates to more than 1048576 bytes",
        AT_ONCE,
        Loss.NONE,
    ),
    *(
        Fault("garbage JSON", inject, Seen.MESSAGE, reason, AT_ONCE, Loss.NONE, case)
        for case, inject, reason in (
            ("no JSON", partial(message, gzip.compress(ORDER[:-1])), r"not JSON: .+"),
            ("text", partial(text_message, "<html>"), r"not JSON: .+"),
            (
                "other shape",
                partial(message, gzip.compress(b'{"channel":"order","order":[]}')),
                r"wrong shape: order is not an object",
            ),
        )
    ),
    Fault("events not sent, pings answered", silent, Seen.NOT, loss=Loss.OUTAGE),
    Fault("one byte at a time", byte_by_byte, Seen.NOT, loss=Loss.NONE),
    Fault("host's clock set back an hour", clock_back, Seen.NOT, loss=Loss.NONE),
    Fault(
        "host's clock set back again and again",
        partial(clock_back_and, half_open),
        Seen.END,
        NO_PONG,
        DEAD,
        case="and half-open",
        away=True,
        meanwhile=NO_HANDSHAKE,
    ),
    Fault(
        "host's clock set back again and again",
        partial(clock_back_and, no_upgrade),
        Seen.ATTEMPT,
        NO_HANDSHAKE,
        UNOPENED,
        case="and upgrade never answered",
        away=True,
    ),
)
