"""What servers and proxies say is shown on one line, printable and of bounded length."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpos import Disconnect, FastposError, PositionStream, Ready, Stale, Synced, Unknown
from fastpos.cli.lines import LONGEST, line
from fastpos.model.events import Event
from fastpos.net.address import parse_proxy
from fastpos.net.connection import Connection
from fastpos.printable import LIMIT, printable
from fastpos.wire.credential import Credential
from fastpos.wire.session import Closed, Session, Timing
from tests.support.frames import BINARY, TEXT, close_frame, frame
from tests.support.servers import ScriptedServer
from tests.support.sessions import fed
from tests.support.upgrade import accept_upgrade, read_request

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

# Clears the screen, begins a line like a log record's, reads backwards; and then goes on.
EVIL = "a\x1b[2J\x1b]0;title\x07\nCRITICAL: sold\r\x85\u2028\u202e\x9b1A\x00"
ESCAPED = r"a\x1b[2J\x1b]0;title\x07\nCRITICAL: sold\r\x85\u2028\u202e\x9b1A\x00"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("sub fail: 系统繁忙 — später", "sub fail: 系统繁忙 — später"),
        (EVIL, ESCAPED),
        ('it\'s \\ "so"', 'it\'s \\ "so"'),
        ("\ud800", r"\ud800"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 99 + "…"),
        ("\x00" * 26, r"\x00" * 24 + r"\x0" + "…"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert printable(text, 100) == shown


@given(st.text(), st.integers(1, 50))
def test_any_text_is_printable_and_bounded(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def check(text: str) -> None:
    assert text.isprintable(), repr(text)
    assert len(text) < 2 * LIMIT + 100


def closed_by(reason: bytes) -> Closed:
    credential = Credential("token", "the-token")
    session = Session(credential, credential.get(), 7, Timing(), 0.0)
    (closed,) = fed(session, close_frame(1008, reason))
    assert isinstance(closed, Closed)
    return closed


def test_close_reasons() -> None:
    closed = closed_by(EVIL.encode())
    check(closed.reason)
    assert closed.reason.endswith(ESCAPED)
    # It is cut after the credential was taken out.
    assert "the-" not in closed_by(b"x" * 110 + b"the-token").reason


HEADER = EVIL.replace("\n", "").replace("\r", "")  # which end a header


@pytest.mark.parametrize("whose", ["server", "proxy"])
@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 302 {HEADER}\r\nLocation: {HEADER}",
        f"HTTP/1.1 302 x\r\nLocation: {'/' * 9000}",
        f"HTTP/1.1 500 {HEADER}\r\nServer: {HEADER}",
        f"HTTP/1.1 403 {HEADER}\r\nServer: {HEADER}",
        f"HTTP/1.1 407 {HEADER}{'x' * 1000}",
        f"HTTP/1.1 {'9' * 4000} x",
        f"HTTP/1.1 {'9' * 9000} x",
        f"HTTP/1.1 {HEADER}",
        f"HTTP/1.1 101 ok\r\nUpgrade: {HEADER}",
        f"HTTP/1.1 429 ok\r\nRetry-After: {HEADER}",
        f"{HEADER * 100}",
    ],
)
def test_answers_to_the_handshake(
    answer: str, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(f"{answer}\r\n\r\n".encode("utf-8", "surrogateescape"))

    caplog.set_level(logging.DEBUG)
    with ScriptedServer(handler) as server:
        proxy = parse_proxy(f"http://127.0.0.1:{server.port}") if whose == "proxy" else None
        connection = Connection("ws://exchange.test" if proxy else server.url, proxy=proxy)
        with pytest.raises(FastposError) as refused:
            connection.open()
        connection.end()
    check(str(refused.value))
    for record in caplog.records:
        if not record.getMessage().startswith("GET "):  # our request, in websocket-client's trace
            assert record.getMessage().isprintable(), record


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("greeted", [False, True])
def test_replies_reach_events_and_logs_on_one_line(
    opcode: int, greeted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "fastpos")

    def handler(peer: socket.socket) -> None:
        evil = frame(opcode, EVIL.encode() + b"sub fail: the token" + b"x" * 1000)
        accept_upgrade(peer, frame(opcode, b"connect success") * greeted + evil)
        while peer.recv(1000):
            pass

    told: list[Disconnect] = []
    errors: list[Any] = []
    functions: dict[str, Any] = {"on_disconnect": told.append, "on_error": errors.append}
    options = {"reconnect": None, "subscribe_timeout": 0.3, **functions}
    with ScriptedServer(handler) as server, pytest.raises(FastposError) as ended:
        PositionStream(server.url, token="the-token", broker=1, **options).run_forever()
    assert told
    for event in told:
        check(event.reason)
        check(line(event)[14:])
    for error in (*errors, ended.value):
        check(str(error))
        check(getattr(error, "reply", None) or "")
    for record in caplog.records:
        if record.name == "fastpos":
            check(record.getMessage())


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (Synced(), "a snapshot was merged; positions: all as known"),
        (
            Synced(gap_s=3.456, created=1, deleted=2),
            "a snapshot was merged after a gap of 3.46 s; positions: 1 new, 2 closed",
        ),
        (Stale(reason="no tick for 3.0 s"), "no tick for 3.0 s"),
        (Ready(gap_s=None), "subscribed"),
    ],
)
def test_what_happens_to_a_stream_is_told_in_words(event: Event, shown: str) -> None:
    assert line(event, 0).partition(type(event).__name__)[2].strip() == shown


def test_lines_of_the_command_line() -> None:
    shown = line(Unknown(raw={"channel": EVIL, "more": ["x" * 100_000]}))
    assert shown.isprintable()
    assert len(shown) < LONGEST + 100
