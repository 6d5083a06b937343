"""The conversation with the exchange: bytes and the clock in, events and bytes out; credentials.

Nothing here opens a socket, but for one test, which has no other use for the library.
"""

from __future__ import annotations

import json
import socket
import time
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from math import inf
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import ConnectionFailed, ProtocolError, SubscriptionError
from fastpos.model.exchange import CONNECTED, SUBSCRIBED, Said, read
from fastpos.wire.credential import Credential
from fastpos.wire.heartbeat import Heartbeat
from fastpos.wire.session import (
    Closed,
    Event,
    Paused,
    Phase,
    Pong,
    Pushes,
    Session,
    Subscribed,
    Timing,
    Undecodable,
)
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    frames_in,
    read_frame,
    text_frame,
)
from tests.support.pushes import order, packed
from tests.support.sessions import fed

SECRET = "bQ9/xT2+mW7rL4kZ8cV1nJ6pF3sD5gH0=="


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "header", "key"), [("token", "token", "token"), ("api_key", "api-key", "apiKey")]
)
def test_where_a_credential_goes(kind: str, header: str, key: str) -> None:
    credential = Credential(kind, SECRET)
    assert credential.header == header
    assert credential.get() == SECRET
    assert SECRET not in repr(credential) + str(credential)
    for event in ("sub", "unsub"):
        message = json.loads(credential.message(event, SECRET, 1003))
        assert message == {"event": event, key: SECRET, "broker": 1003}
        assert type(message["broker"]) is int
    odd = "\"\\{}'</script>%s"
    assert json.loads(credential.message("sub", odd, 1))[key] == odd


def test_a_callable_is_asked_each_time_and_the_one_before_the_last_is_hidden_too() -> None:
    values = iter(["first-secret", "second-secret", "third-secret"])
    credential = Credential("token", lambda: next(values))
    assert [credential.get() for _ in range(2)] == ["first-secret", "second-secret"]
    assert credential.hide("a first-secret, a second-secret") == "a ***, a ***"


@pytest.mark.parametrize("value", [None, b"key", 5, "", "a\nb", " a", "a ", "é", "\0"], ids=ascii)
@pytest.mark.parametrize("kind", ["token", "api_key"])
def test_a_callable_that_gives_something_unusable(kind: str, value: Any) -> None:
    credential = Credential(kind, lambda: value)
    with pytest.raises(ConnectionFailed, match=kind):
        credential.get()


@pytest.mark.parametrize(
    "error", [OSError(f"the login answered {SECRET}"), CancelledError()], ids=["error", "cancelled"]
)
def test_what_a_callable_raises_is_its_failure(error: BaseException) -> None:
    answers: list[Any] = [SECRET, error]

    def log_in() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    credential = Credential("token", log_in)
    assert credential.get() == SECRET
    with pytest.raises(ConnectionFailed, match="token") as caught:
        credential.get()
    assert caught.value.__cause__ is error
    assert SECRET not in str(caught.value)
    assert str(error).replace(SECRET, "***") in str(caught.value)


def test_what_a_callable_raises_to_end_the_program_is_not_caught() -> None:
    def leave() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Credential("token", leave).get()


@pytest.mark.parametrize("odd", ['q"uo"ted-secret', "back\\slash-secret", "sla/shed-secret"])
def test_a_credential_is_hidden_as_json_spells_it(odd: str) -> None:
    credential = Credential("token", odd)
    credential.get()
    for spelling in (json.dumps(odd), json.dumps(odd).replace("/", "\\/")):
        assert "secret" not in credential.hide(f'{{"token":{spelling}}}')


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_hiding_changes_nothing_else(before: str, after: str) -> None:
    credential = Credential("token", SECRET)
    assert credential.hide(before + after) == before + after
    credential.get()
    assert credential.hide(before + SECRET + after) == f"{before}***{after}"


# --- what a text of the exchange is ---------------------------------------------------------------

WRAPPINGS = [
    "{}",
    '"{}"',
    " {} \r\n",
    '"{}"\n',
    ' " {} " ',
    "\t{}",
    '{{"event":"{}"}}',
    '{{"code":0,"msg":"{}"}}',
    ' {{"msg": " {} ", "code": "0"}}',
    '{{"event":"{}","status":"ok"}}',
]


@pytest.mark.parametrize("words", [CONNECTED, SUBSCRIBED])
@pytest.mark.parametrize("wrapped", WRAPPINGS)
def test_a_reply_is_known_in_every_wrapping(words: str, wrapped: str) -> None:
    assert read(wrapped.format(words).encode()) == (Said(words), words)
    assert read(wrapped.format(words.title()).encode()) == (Said(words), words)


@pytest.mark.parametrize(
    ("text", "said", "words"),
    [
        ('{"channel":"order"}', Said.PUSH, ""),
        (' {"uid":1, "channel" : 5}', Said.PUSH, ""),
        ('{"channel":', Said.PUSH, ""),
        ('\r\n{"half":', Said.PUSH, ""),
        ("{" * 100_000, Said.PUSH, ""),
        ('{"pong":1713338308233}', Said.PONG, ""),
        (' {"a":1,"pong":null} ', Said.PONG, ""),
        ('{"ping":1790145583}', Said.PING, '{"pong":1790145583}'),
        ('{"ping":123456789012345678901234567890}', Said.PING, None),
        (' { "ping" : "1790" }', Said.PING, '{"pong":"1790"}'),
        ('{"ping":[1]}', Said.PING, '{"pong":null}'),
        ('{"ping":"' + "x" * 1000 + '"}', Said.PING, '{"pong":null}'),
        ("sub failed", Said.REFUSED, "sub failed"),
        ("", Said.OTHER, ""),
        ("Ping", Said.OTHER, "Ping"),
        ("[1]", Said.OTHER, "[1]"),
        ('["channel"]', Said.OTHER, '["channel"]'),
        ("sub success!", Said.OTHER, "sub success!"),
        ("no sub success", Said.OTHER, "no sub success"),
        ('{"code":-1,"msg":"Bad Token"}', Said.CREDENTIAL, '{"code":-1,"msg":"Bad Token"}'),
        *(
            (f'{{{code},"msg":"sub success"}}', Said.SUBSCRIBED, SUBSCRIBED)
            for code in (
                *('"code":"00000"', '"success":1', '"success":"true"', '"status":"OK"'),
                *('"status":"subscribed"', '"success":true,"code":"SUCCESS"', '"status":"1"'),
            )
        ),
        ('{"code":1,"msg":"sub success"}', Said.REFUSED, '{"code":1,"msg":"sub success"}'),
        ("Mantenimiento, el login no funciona", Said.OTHER, "Mantenimiento, el login no funciona"),
        ("no permission", Said.CREDENTIAL, "no permission"),
        ('{"code":401,"msg":"sub success"}', Said.CREDENTIAL, '{"code":401,"msg":"sub success"}'),
        ('{"event":{"sub success":1}}', Said.OTHER, '{"event":{"sub success":1}}'),
        ("x" * 1000, Said.OTHER, "x" * 200),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) else None,
)
def test_what_a_text_is(text: str, said: Said, words: str | None) -> None:
    if words is None:  # digit for digit
        words = text.replace("ping", "pong")
    assert read(text.encode()) == (said, words)


REFUSALS = {
    Said.CREDENTIAL: [
        "sub fail: token", "no such token", "Token expired", "invalid api key", "bad key",
        "sign error", "SIGNATURE for this request is not valid", "auth fail", "not authorized",
        "Unauthorized", "permission denied", "please login first", "sub fail: session expired",
        "apiKey is disabled", '{"code":401}', '{"code":"403","msg":"no"}',
        '{"event":"sub","status":401}', '{"code":-2015,"msg":"x"}',
        '{"error":{"code":401,"message":"x"}}', '{"success":false,"msg":"token"}',
        '{"event":"sub","error":"bad key","status":"error"}',
    ],
    Said.BUSY: [
        "sub fail: system busy", "sub fail: busy", "sub failed, too many requests",
        "error: rate limit", "sub fail: login service unavailable", "sub fail: server under load",
        "sub fail: maintenance", "Invalid request: token service timeout",
        '{"code":429,"msg":"slow down"}', '{"code":503}', '{"code":1,"msg":"system upgrade"}',
        '{"code":-1003,"msg":"key"}', '{"success":false,"message":"System under maintenance"}',
    ],
    Said.REFUSED: [
        "sub fail", '"sub fail"', "connect fail", "sub error: monkey", "invalid broker",
        "fail: operate", '{"event":"sub fail"}', '{"code":1,"msg":"sub success"}', '{"code":5}',
        '{"success":false}',
    ],
    Said.OTHER: [
        "Ping", "", "pong", "hello", "maintenance soon", "Maintenance: no login until 10:00",
        "系统维护中", "Wartung, Login ab 10 Uhr", "system busy", "login ok", "authenticated",
        "unsub fail: token", "null", "1", '""', "[401]", '{"event":"auth","code":0}',
        '{"event":"sub","token":"x"}', '{"code":0,"msg":"welcome"}', '{"status":"maintenance"}',
        '{"code":{"a":[1]}}', "{}", "x" * 1000 + " sub fail: token",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "text"),
    [(said, text) for said, texts in REFUSALS.items() for text in texts],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_a_text_says_of_the_credential(said: Said, text: str) -> None:
    assert read(text.encode())[0] is said
    if "{" not in text:
        assert read(text.upper().encode())[0] is said
    assert read(f" {text}\r\n".encode())[0] is said


@given(st.binary(max_size=500))
@settings(max_examples=100, deadline=None)
def test_any_text_is_something(data: bytes) -> None:
    said, words = read(data)
    assert isinstance(said, Said)
    assert len(words) <= 200


# --- the conversation -----------------------------------------------------------------------------

TIMING = Timing(ping_interval=30.0, pong_timeout=10.0, reply_timeout=5.0)
GREETING, SUCCESS = text_frame(CONNECTED), text_frame(SUBSCRIBED)
PUSH = json.dumps(order(1)).encode()
PUSHED = frame(BINARY, packed(PUSH))
SUBSCRIBING, READY, PAUSED = Phase.SUBSCRIBING, Phase.READY, Phase.PAUSED
CLOSING, ENDED = Phase.CLOSING, Phase.ENDED


def new_session(secret: str = SECRET, timing: Timing = TIMING, **options: Any) -> Session:
    credential = Credential("token", secret)
    return Session(credential, credential.get(), 7, timing, 1000.0, **options)


class Peer:
    """A session and what its exchange sees of it. The clock stands still unless told."""

    def __init__(self, wanted: bool = True, timing: Timing = TIMING) -> None:
        self.now = 1000.0
        self.heartbeat = Heartbeat()
        self.session = new_session(
            timing=timing,
            wanted=wanted,
            heartbeat=self.heartbeat,
            wall=lambda: 1_713_338_308_232_000_000 + int(self.now * 1e9),
        )

    def says(self, data: bytes, size: int = 4096) -> list[Event]:
        """What comes of these bytes, read in pieces of up to `size`."""
        return fed(self.session, data, self.now, size)

    def heard(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of the frames that were sent since."""
        frames = frames_in(self.session.data_to_send())
        assert all(frame.mask is not None for frame in frames)
        return [(frame.opcode, frame.payload) for frame in frames]

    def at(self, seconds: float, caught_up: bool = True) -> Event | None:
        """The clock says so many seconds after the upgrade."""
        self.now = 1000.0 + seconds
        return self.session.tick(self.now, caught_up)

    def closes(self, seconds: float, caught_up: bool = True) -> Closed:
        """The same, where that ends it."""
        ended = self.at(seconds, caught_up)
        assert isinstance(ended, Closed)
        assert self.session.phase is ENDED
        return ended


def message(event: str) -> tuple[int, bytes]:
    return TEXT, json.dumps({"event": event, "token": SECRET, "broker": 7}).encode()


def in_phase(phase: Phase, **options: Any) -> Peer:
    peer = Peer(wanted=phase is not PAUSED, **options)
    if phase is not Phase.GREETING:
        peer.says(GREETING)
    if phase in (READY, CLOSING):
        peer.says(SUCCESS)
    if phase is CLOSING:
        peer.session.close(peer.now)
    assert peer.session.phase is phase
    peer.session.data_to_send()
    return peer


OPEN = [Phase.GREETING, SUBSCRIBING, READY, PAUSED]


@pytest.mark.parametrize("size", [4096, 1])
def test_from_the_greeting_to_a_push(size: int) -> None:
    peer = Peer()
    events = peer.says(GREETING + SUCCESS + PUSHED * 3, size)
    assert events[0] == Subscribed()
    assert [text for event in events[1:] for text in event.texts] == [PUSH] * 3  # type: ignore[union-attr]
    assert peer.session.messages == 5
    assert peer.heard() == [message("sub")]


@pytest.mark.parametrize("wrapped", WRAPPINGS)
@pytest.mark.parametrize(
    "framed",
    [
        lambda text: frame(TEXT, text),
        lambda text: frame(BINARY, text),
        lambda text: frame(BINARY, packed(text)),
        lambda text: frame(TEXT, text[:4], fin=False) + frame(CONTINUATION, text[4:]),
        lambda text: (
            frame(BINARY, packed(text)[:9], fin=False) + frame(CONTINUATION, packed(text)[9:])
        ),
    ],
    ids=["text", "binary", "gzip", "fragments", "fragments of gzip"],
)
def test_replies_and_pongs_in_every_wrapping_and_framing(
    wrapped: str, framed: Callable[[bytes], bytes]
) -> None:
    peer = Peer()
    greeting, success = (wrapped.format(words).encode() for words in (CONNECTED, SUBSCRIBED))
    assert peer.says(framed(greeting)) == []
    assert peer.says(framed(success)) == [Subscribed()]
    peer.at(30)
    assert peer.says(framed(b'{"pong":1}')) == [Pong()]


SUB, UNSUB = message("sub"), message("unsub")
BAD = f"bad {SECRET}".encode()
NOISE = text_frame("Ping") * 2
# phase, what is said, the events, what is answered, the next phase
CONVERSATIONS: list[tuple[Phase, bytes, list[Any], list[tuple[int, bytes]], Phase]] = [
    (Phase.GREETING, GREETING, [], [SUB], SUBSCRIBING),
    (Phase.GREETING, SUCCESS, [Undecodable], [], Phase.GREETING),
    (Phase.GREETING, NOISE + GREETING + NOISE, [Undecodable] * 2, [SUB], SUBSCRIBING),
    (Phase.GREETING, PUSHED, [Pushes], [], Phase.GREETING),
    (Phase.GREETING, frame(TEXT, PUSH), [Pushes], [], Phase.GREETING),
    (Phase.GREETING, text_frame(' {"half":'), [Pushes], [], Phase.GREETING),
    (Phase.GREETING, frame(BINARY, PUSH), [Undecodable], [], Phase.GREETING),
    (SUBSCRIBING, GREETING, [], [], SUBSCRIBING),
    (SUBSCRIBING, SUCCESS, [Subscribed], [], READY),
    (SUBSCRIBING, text_frame("unsub success"), [Undecodable], [], SUBSCRIBING),
    *(
        (SUBSCRIBING, odd * 3 + SUCCESS, [Undecodable, Subscribed], [], READY)
        for text in (b"", b"Ping", "系统维护中".encode(), b'{"event":"hello"}')
        for odd in (frame(TEXT, text), frame(BINARY, text), frame(BINARY, packed(text)))
    ),
    *(
        (phase, framed, [Closed], [(CLOSE, b"\x03\xe8")], ENDED)
        for phase in (Phase.GREETING, SUBSCRIBING)
        for text in ("sub fail", "no such token", '{"code":503}')
        for framed in (text_frame(text), frame(BINARY, packed(text)))
    ),
    *(
        (READY, text_frame(text) * 2, [Undecodable] * 2, [], READY)
        for text in ("sub fail", "token expired", "sub fail: busy")
    ),
    (SUBSCRIBING, PUSHED + SUCCESS, [Pushes, Subscribed], [], READY),
    (SUBSCRIBING, frame(BINARY, packed(PUSH)[:-1]), [Undecodable], [], SUBSCRIBING),
    (READY, GREETING + SUCCESS, [], [], READY),
    (READY, text_frame("maintenance soon"), [Undecodable], [], READY),
    (READY, frame(BINARY, b""), [Undecodable], [], READY),
    (PAUSED, text_frame("unsub success"), [], [], PAUSED),
    (PAUSED, text_frame("whatever it is"), [], [], PAUSED),
    (PAUSED, PUSHED, [Pushes], [], PAUSED),
    (CLOSING, PUSHED * 3 + frame(TEXT, PUSH), [], [], CLOSING),
    (CLOSING, text_frame("sub fail") + frame(PING, b"x"), [], [], CLOSING),
    *(
        case
        for phase in OPEN
        for case in [
            (phase, text_frame('{"pong":1}'), [Pong], [], phase),
            (phase, frame(BINARY, packed('{"pong":1}')), [Pong], [], phase),
            (phase, text_frame('{"ping":5}'), [], [(TEXT, b'{"pong":5}')], phase),
            (phase, frame(BINARY, packed('{"ping":5}')), [], [(TEXT, b'{"pong":5}')], phase),
            (phase, frame(BINARY, b' {"ping":5}'), [], [(TEXT, b'{"pong":5}')], phase),
            (phase, frame(PING, b"why"), [], [(PONG, b"why")], phase),
            (phase, frame(PONG, b"what"), [], [], phase),
        ]
    ),
    *(
        case
        for phase in [*OPEN, CLOSING]
        for case in [
            (phase, close_frame(1001, b"bye"), [Closed], [(CLOSE, b"\x03\xe9")], ENDED),
            (phase, close_frame(), [Closed], [(CLOSE, b"")], ENDED),
            (phase, frame(TEXT, b"\xff"), [Closed], [(CLOSE, b"\x03\xef")], ENDED),
            (phase, frame(BINARY, announce=1 << 40), [Closed], [(CLOSE, b"\x03\xf1")], ENDED),
            (phase, frame(3), [Closed], [(CLOSE, b"\x03\xea")], ENDED),
        ]
    ),
]


@pytest.mark.parametrize(("phase", "said", "events", "answered", "then"), CONVERSATIONS)
@pytest.mark.parametrize("size", [4096, 1], ids=["whole", "bytewise"])
def test_what_comes_of_what_is_said(
    phase: Phase,
    said: bytes,
    events: list[type],
    answered: list[tuple[int, bytes]],
    then: Phase,
    size: int,
) -> None:
    peer = in_phase(phase)
    assert [type(event) for event in peer.says(said, size)] == events
    # Once our close frame is on its way nothing follows it.
    assert peer.heard() == ([] if phase is CLOSING else answered)
    assert peer.session.phase is then
    if then is ENDED:
        assert peer.says(SUCCESS + PUSHED) == []
        assert peer.at(1000) is None
        assert peer.session.lost(EOFError("gone"), peer.now) is None


def test_pushes_and_other_texts_in_one_read_keep_their_order() -> None:
    other, odd = packed("maintenance"), b'{"uid":1,"channel":"order"}'
    wire = [packed(PUSH), packed(PUSH), packed('{"pong":1}'), packed(odd), other, packed(PUSH)]
    events = in_phase(READY).says(b"".join(frame(BINARY, data) for data in wire))
    assert events[:3] == [Pushes([PUSH, PUSH]), Pong(), Pushes([odd])]
    assert isinstance(events[3], Undecodable)
    assert events[4:] == [Pushes([PUSH])]


IN_PLACE = "'hello ***' in place of 'sub success'"


@pytest.mark.parametrize(
    ("phase", "said", "what", "told"),
    [
        (SUBSCRIBING, f"no such token {SECRET}", "said", Said.CREDENTIAL),
        (SUBSCRIBING, f"no such token {SECRET}", "error.reply", "'no such token ***'"),
        (SUBSCRIBING, f"hello {SECRET}", "error.args", (IN_PLACE, b"hello ***")),
        (READY, f"hello {SECRET}", "error.data", b"hello ***"),
        (READY, close_frame(4001, BAD), "reason", "closed by the server with code 4001: bad ***"),
        (READY, close_frame(4001, BAD), "close_code", 4001),
        (READY, close_frame(4001, BAD), "error", None),
        (READY, close_frame(1000, b"token expired"), "said", Said.CREDENTIAL),
        (READY, close_frame(1000, b"bye"), "said", None),
        (READY, frame(TEXT, b"x", masked=True), "error.__class__", ProtocolError),
    ],
)
def test_what_is_said_is_told_without_the_credential(
    phase: Phase, said: str | bytes, what: str, told: object
) -> None:
    (event,) = in_phase(phase).says(text_frame(said) if isinstance(said, str) else said)
    assert attrgetter(what)(event) == told


def test_a_connection_that_is_lost() -> None:
    lost = in_phase(READY).session.lost(EOFError("the peer is gone"), 1000.0)
    assert lost is not None
    assert lost.reason == "the connection was lost: the peer is gone"
    assert isinstance(lost.error, ConnectionFailed)


@pytest.mark.parametrize("length", [34, 180, 400, 2000])
@pytest.mark.parametrize("before", ["", "refused: ", "x" * 150])
@pytest.mark.parametrize("phase", [SUBSCRIBING, READY])
def test_a_credential_that_is_repeated_is_not_shown(length: int, before: str, phase: Phase) -> None:
    """A token can be longer than what is shown of a reply, and may be cut in the middle."""
    secret = "".join(f"{number:x}." for number in range(10_000, 12_000))[:length]
    said = before.encode() + json.dumps({"event": "sub", "token": secret}).encode()
    begun = GREETING + SUCCESS * (phase is READY)
    events = fed(new_session(secret), begun + frame(TEXT, said))
    error = events[-1].error  # type: ignore[union-attr]
    assert error is not None
    shown = repr(events) + repr(error.__dict__) + str(error)
    pieces = [secret[start : start + 10] for start in range(0, length - 10, 5)]
    assert [piece for piece in pieces if piece in shown] == []


# --- pausing --------------------------------------------------------------------------------------


AGAIN, BOTH = [False, True], [UNSUB, SUB]
UNSUBBED = text_frame("Unsub success")
PAUSES: dict[str, tuple[Phase, list[bool | bytes], list[type], list[Any], Phase]] = {
    # what is wanted and what is said, the events, what is sent, the next phase
    "at rest": (READY, [False, False], [], [UNSUB], PAUSED),
    "and resumed": (PAUSED, [True, SUCCESS], [Subscribed], [SUB], READY),
    "greeted": (Phase.GREETING, [False, GREETING], [Paused], [], PAUSED),
    "answered": (SUBSCRIBING, [False, SUCCESS], [Paused], [UNSUB], PAUSED),
    "another mind": (SUBSCRIBING, [False, True, SUCCESS], [Subscribed], [], READY),
    "late answer to unsub": (READY, [*AGAIN, UNSUBBED, SUCCESS], [Subscribed], BOTH, READY),
    "one answer too many": (READY, [*AGAIN, UNSUBBED * 2], [Undecodable], BOTH, SUBSCRIBING),
}


@pytest.mark.parametrize(("phase", "steps", "events", "sent", "then"), PAUSES.values(), ids=PAUSES)
def test_pausing(
    phase: Phase, steps: list[bool | bytes], events: list[type], sent: list[Any], then: Phase
) -> None:
    peer = in_phase(phase)
    found: list[Event] = []
    for step in steps:
        if isinstance(step, bytes):
            found += peer.says(step)
        else:
            peer.session.want(step, peer.now)
    assert [type(event) for event in found] == events
    assert peer.heard() == sent
    assert peer.session.phase is then


def test_paused_from_the_start() -> None:
    peer = Peer(wanted=False)
    assert peer.says(GREETING) == [Paused()]
    assert peer.heard() == []
    assert peer.session.deadline == 1030.0


# --- the clock ------------------------------------------------------------------------------------


def test_pings_keep_their_schedule() -> None:
    peer = in_phase(READY)
    assert peer.session.deadline == 1030.0
    assert peer.says(text_frame('{"pong":1}')) == [Pong()]  # nobody asked: no round trip
    assert peer.heartbeat.round_trip_s is None
    assert peer.at(29.9) is None
    assert peer.heard() == []
    assert peer.at(30.5) is None
    assert peer.heard() == [(TEXT, b'{"ping":1713339338732}')]
    assert peer.heartbeat.last_ping_ns == 1_713_339_338_732_000_000
    assert peer.session.deadline == 1040.5  # for the pong
    peer.now += 0.25
    assert peer.says(text_frame('{"pong":1}')) == [Pong()]
    assert peer.heartbeat.round_trip_s == 0.25
    assert peer.heartbeat.last_pong_ns == peer.session._wall()
    assert peer.session.deadline == 1060.0
    peer.at(171.0)  # asleep: what was missed is not made up for
    assert len(peer.heard()) == 1
    assert peer.session.next_ping == 1180.0


def test_no_pong() -> None:
    peer = in_phase(READY, timing=Timing(4.0, 10.0, 5.0))
    for second in (4, 8, 12):  # several may be under way; the first counts
        assert peer.at(second) is None
    assert peer.at(13.9) is None
    assert peer.at(14.0, caught_up=False) is None, "it may lie unread"
    assert peer.closes(14.1).reason == "no pong within 10 s"
    assert peer.session.outgoing


def test_a_pong_within_the_time_out_is_good_though_later_than_the_next_ping() -> None:
    peer = in_phase(READY, timing=Timing(4.0, 10.0, 5.0))
    for second in range(4, 60, 4):
        assert peer.at(second) is None
        if second % 12 == 0:
            peer.says(text_frame('{"pong":1}'))
    assert len(peer.heard()) == 14


@pytest.mark.parametrize(
    ("phase", "owed"), [(Phase.GREETING, CONNECTED), (SUBSCRIBING, SUBSCRIBED)]
)
def test_no_reply(phase: Phase, owed: str) -> None:
    peer = in_phase(phase)
    assert peer.session.deadline == 1005.0
    peer.says(PUSHED)  # pushes are no answer
    for second in range(1, 5):
        peer.now = 1000.0 + second
        peer.says(text_frame("maintenance"))  # nor is that
    assert peer.at(4.9) is None
    ended = peer.closes(5.0)
    assert isinstance(ended.error, SubscriptionError)
    assert (ended.error.reply, ended.said) == (None, Said.OTHER)
    assert ended.reason == f"no {owed!r} from the exchange within 5 s"


def test_a_credential_with_telling_words_in_it_says_nothing() -> None:
    (ended,) = fed(new_session("my-login-key"), GREETING + text_frame("sub fail for my-login-key"))
    assert isinstance(ended, Closed)
    assert ended.said is Said.REFUSED


def test_each_reply_has_its_own_time() -> None:
    peer = Peer()
    peer.now += 4
    peer.says(GREETING)
    assert peer.session.deadline == 1009.0
    peer.says(SUCCESS)
    assert peer.session.deadline == 1030.0


def test_a_system_that_says_it_closes_and_stays() -> None:
    peer = in_phase(READY)
    peer.session.system_closes(peer.now)
    assert peer.at(4.9) is None
    assert "closes, and did not" in peer.closes(5.0).reason


@pytest.mark.parametrize("phase", OPEN)
def test_a_graceful_close(phase: Phase) -> None:
    peer = in_phase(phase)
    peer.session.close(peer.now)
    peer.session.close(peer.now)
    subscribed = phase in (SUBSCRIBING, READY)
    assert peer.heard() == [message("unsub")] * subscribed + [(CLOSE, b"\x03\xe8")]
    assert peer.session.deadline == 1001.0
    assert peer.at(0.9) is None
    (closed,) = peer.says(close_frame(1000, b"bye"))
    assert closed == Closed("closed by the server with code 1000: bye", 1000, None)
    assert peer.heard() == []


def test_a_close_frame_that_is_not_answered() -> None:
    peer = in_phase(CLOSING)
    assert "did not answer the close frame" in peer.closes(1.0, caught_up=False).reason
    assert peer.at(40.0) is None
    assert peer.heard() == []


def test_an_ended_session_wants_nothing_more() -> None:
    peer = in_phase(READY)
    peer.says(close_frame())
    peer.session.data_to_send()
    peer.session.want(False, peer.now)
    peer.session.close(peer.now)
    assert peer.session.phase is ENDED
    assert peer.session.limit == inf
    assert not peer.session.outgoing


def test_forty_lines_drive_two_sessions_at_once() -> None:
    """Another driver needs nothing but what is public here: sockets, a clock, and this loop."""
    pairs = [socket.socketpair() for _ in range(2)]
    told: list[list[Event]] = [[], []]
    scratch = memoryview(bytearray(4096))
    links = []
    for ours, theirs in pairs:
        ours.setblocking(False)
        credential = Credential("api_key", SECRET)
        timing = Timing(ping_interval=0.05, pong_timeout=5.0, reply_timeout=5.0)
        links.append((ours, Session(credential, credential.get(), 7, timing, time.monotonic())))
        theirs.sendall(GREETING + SUCCESS + PUSHED)
    deadline = time.monotonic() + 5
    while not all(Pong() in events for events in told) and time.monotonic() < deadline:
        for (ours, session), (_, theirs), events in zip(links, pairs, told, strict=True):
            now = time.monotonic()
            with suppress(BlockingIOError):
                session.wrote(ours.recv_into(session.writable(scratch)))
            while (event := session.next_event(now)) is not None:
                events.append(event)
            if now >= session.deadline:
                session.tick(now)
            if session.outgoing:
                ours.sendall(session.data_to_send())
                if b'"ping"' in read_frame(theirs).payload:
                    theirs.sendall(text_frame('{"pong":1}'))
    for (ours, theirs), events in zip(pairs, told, strict=True):
        assert events[:3] == [Subscribed(), Pushes([PUSH]), Pong()]
        ours.close()
        theirs.close()
