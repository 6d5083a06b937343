"""What servers and proxies say is shown on one line, printable and of bounded length."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpos import Disconnect, FastposError, PositionStream, SubscriptionError, Unknown
from fastpos.cli.lines import LONGEST, line
from fastpos.net.address import parse_proxy
from fastpos.net.connection import Connection
from fastpos.printable import LIMIT, printable
from fastpos.rest import AccountSnapshot
from fastpos.simulator import Exchange
from fastpos.wire.credential import Credential
from fastpos.wire.session import Closed, Session, Timing
from tests.support.frames import BINARY, TEXT, close_frame, frame
from tests.support.servers import ScriptedServer
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


# --- the session's --------------------------------------------------------------------------------


def closed_by(*frames: bytes) -> Closed:
    credential = Credential("token", "the-token")
    session = Session(credential, credential.get(), 7, Timing(), monotonic())
    scratch = memoryview(bytearray(4096))
    for data in frames:
        free = session.writable(scratch)
        free[: len(data)] = data
        session.wrote(len(data))
        while (event := session.next_event(monotonic())) is not None:
            if isinstance(event, Closed):
                return event
    raise AssertionError


def test_close_reasons() -> None:
    closed = closed_by(close_frame(1008, EVIL.encode()))
    check(closed.reason)
    assert closed.reason.endswith(ESCAPED)


def test_cut_after_the_credential_was_taken_out() -> None:
    assert "the-" not in closed_by(close_frame(1008, b"x" * 110 + b"the-token")).reason


# --- what HTTP says -------------------------------------------------------------------------------


def answering(answer: str) -> Callable[[socket.socket], None]:
    def handler(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(f"{answer}\r\n\r\n".encode("utf-8", "surrogateescape"))

    return handler


HEADER = EVIL.replace("\n", "").replace("\r", "")  # which end a header


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 302 {HEADER}\r\nLocation: {HEADER}",
        f"HTTP/1.1 302 x\r\nLocation: {'/' * 9000}",
        f"HTTP/1.1 500 {HEADER}\r\nServer: {HEADER}",
        f"HTTP/1.1 403 {HEADER}\r\nServer: {HEADER}",
        f"HTTP/1.1 {'9' * 4000} x",
        f"HTTP/1.1 {'9' * 9000} x",
        f"HTTP/1.1 {HEADER}",
        f"HTTP/1.1 101 ok\r\nUpgrade: {HEADER}",
        f"HTTP/1.1 429 ok\r\nRetry-After: {HEADER}",
        f"{HEADER * 100}",
    ],
)
def test_answers_to_the_upgrade(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(answering(answer)) as server:
        connection = Connection(server.url)
        with pytest.raises(FastposError) as refused:
            connection.open()
        connection.end()
    check(str(refused.value))
    for record in caplog.records:
        if not record.getMessage().startswith("GET "):  # our request, in websocket-client's trace
            assert record.getMessage().isprintable(), record


def test_answers_of_proxies() -> None:
    with ScriptedServer(answering(f"HTTP/1.1 407 {HEADER}{'x' * 1000}")) as server:
        proxy = parse_proxy(f"http://127.0.0.1:{server.port}")
        connection = Connection("ws://exchange.test", proxy=proxy)
        with pytest.raises(FastposError, match=r"407 a\\x1b\[2J") as refused:
            connection.open()
        connection.end()
    check(str(refused.value))


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (400, {}, '{"code":-1,"msg":"a\\u001b[2J\\nCRITICAL: sold"}'),
        (400, {}, '{"code":%s,"msg":"x"}' % ("9" * 4000)),
        (200, {}, '{"code":-1,"msg":"%s"}' % ("x" * 10_000)),
        (302, {"Location": "/" * 9000}, ""),
    ],
)
def test_answers_of_the_rest_interface(status: int, headers: dict[str, str], body: str) -> None:
    with Exchange() as exchange:
        exchange.rest_fail(status, headers, body.encode())
        source = AccountSnapshot(exchange.rest_url, exchange.api_key, exchange.api_secret)
        with source, pytest.raises(FastposError) as refused:
            source()
    check(str(refused.value))


# --- on the way to people -------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("greeted", [False, True])
def test_replies_reach_events_and_logs_on_one_line(
    opcode: int, greeted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "fastpos")

    def handler(peer: socket.socket) -> None:
        said = [EVIL.encode() + b"sub fail: the token" + b"x" * 1000]
        if greeted:
            said.insert(0, b"connect success")
        accept_upgrade(peer, b"".join(frame(opcode, each) for each in said))
        while peer.recv(1000):
            pass

    told: list[Disconnect] = []
    errors: list[FastposError] = []
    with ScriptedServer(handler) as server:
        stream = PositionStream(
            server.url,
            token="the-token",
            broker=1,
            reconnect=None,
            subscribe_timeout=0.3,
            on_disconnect=told.append,
            on_error=errors.append,
        )
        with pytest.raises(FastposError) as ended:
            stream.run_forever()
        errors += [ended.value]
    assert told
    for event in told:
        check(event.reason)
        check(line(event)[14:])
    for error in errors:
        check(str(error))
        if isinstance(error, SubscriptionError):
            check(error.reply or "")
    for record in caplog.records:
        if record.name == "fastpos":
            check(record.getMessage())


def test_lines_of_the_command_line() -> None:
    shown = line(Unknown(raw={"channel": EVIL, "more": ["x" * 100_000]}))
    assert shown.isprintable()
    assert len(shown) < LONGEST + 100
