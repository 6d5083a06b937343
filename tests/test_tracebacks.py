"""Tracebacks show no credential in the variables of their frames, and tracing prints none.

The watch (tests/support/credentials.py) looks at both in every test; here is one of each kind.
"""

from __future__ import annotations

import base64
import inspect
import io
import logging
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websocket

from fastpos import ConnectionFailed, FastposError, PositionStream, SnapshotError
from fastpos.net.address import parse_proxy
from fastpos.net.connection import Connection
from fastpos.net.transport import Transport
from fastpos.rest import AccountSnapshot
from fastpos.simulator import Exchange
from fastpos.tracebacks import clears_locals
from fastpos.wire.credential import Credential
from tests.support.credentials import chain_of
from tests.support.frames import read_exactly
from tests.support.recording import SOON
from tests.support.servers import ScriptedServer
from tests.support.upgrade import read_request, upgrade_response

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

TESTS = Path(__file__).parent
KEY = "the-key-9f3b71c2"
PASSWORD = "the-password-51aa"
LOGIN = base64.b64encode(f"user:{PASSWORD}".encode()).decode()


def shown(error: BaseException) -> str:
    """What a tool shows of an exception and all that led to it, but for the tests' own frames."""
    lines: list[str] = []
    for link in chain_of(error):
        whole = traceback.TracebackException.from_exception(link, capture_locals=True)
        lines += [str(link), repr(link)]
        lines += [
            f"{frame.filename} {frame.name} {frame.locals}"
            for frame in whole.stack
            if not Path(frame.filename).is_relative_to(TESTS)
        ]
    return "\n".join(lines)


def shows_a_secret(error: BaseException) -> bool:
    text = shown(error)
    return any(secret in text for secret in (KEY, KEY[::-1], PASSWORD, LOGIN))


def raised_by(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 -- whatever it is
        function()
    return raised.value


def test_what_a_function_raises_shows_no_variables() -> None:
    def inner(secret: str) -> None:
        copy = f"<{secret}>"
        raise ValueError(len(copy))

    @clears_locals
    def outer(secret: str, *, more: str) -> None:
        try:
            inner(secret + more)
        except ValueError as error:
            raise RuntimeError("no") from error

    error = raised_by(lambda: outer(KEY, more=PASSWORD))
    assert not shows_a_secret(error)
    for link in (error, error.__cause__):
        frames = traceback.extract_tb(link.__traceback__ if link else None)
        assert frames[-1].name in ("outer", "inner")  # where it was raised is told
    assert list(inspect.signature(outer).parameters) == ["secret", "more"]


def test_what_the_caller_was_handling_is_left_as_it_is() -> None:
    @clears_locals
    def refuse() -> None:
        raise ValueError

    def handle() -> None:
        try:
            failing()
        except OSError:
            refuse()

    error = raised_by(handle)
    assert error.__context__ is not None
    *_, (frame, _) = traceback.walk_tb(error.__context__.__traceback__)
    assert frame.f_locals == {"secret": f"<{KEY}>"}  # a variable of the caller's


def unusable() -> str:
    return f"{KEY}\n"


def failing() -> str:
    secret = f"<{KEY}>"
    raise OSError(len(secret))


def stream_with(**options: Any) -> PositionStream:
    return PositionStream("wss://127.0.0.1:9", broker=1, reconnect=None, **options)


def source_with(**options: Any) -> AccountSnapshot:
    given = {"base_url": "https://127.0.0.1:9", "api_key": KEY, "api_secret": KEY[::-1], **options}
    return AccountSnapshot(**given)


RAISING: dict[str, tuple[type[BaseException], Callable[[], object]]] = {
    "number": (ValueError, lambda: stream_with(token=KEY, number=int)),
    "two credentials": (ValueError, lambda: stream_with(token=KEY, api_key=KEY)),
    "two lines": (ValueError, lambda: stream_with(token=f"{KEY}\n")),
    "no such argument": (TypeError, lambda: stream_with(api_key=KEY, no_such=1)),
    "headers": (ValueError, lambda: stream_with(api_key=KEY, headers={"Host": KEY})),
    "proxy": (ValueError, lambda: stream_with(api_key=KEY, proxy=f"http://u:{PASSWORD}@p\u2100")),
    "source's time-out": (ValueError, lambda: source_with(timeout=-1)),
    "source's secret": (ValueError, lambda: source_with(api_secret=f"{KEY}\n")),
    "source's URL": (ValueError, lambda: source_with(base_url=f"https://user:{PASSWORD}@host")),
    "source's proxy": (ValueError, lambda: source_with(proxy=f"socks4://user:{PASSWORD}@proxy")),
    "unusable token": (ConnectionFailed, lambda: stream_with(token=unusable).run_forever()),
    "no token": (ConnectionFailed, lambda: stream_with(token=failing).run_forever()),
    "environment": (ConnectionFailed, lambda: stream_with(api_key=KEY).run_forever()),
    "source's environment": (SnapshotError, source_with()),
}


@pytest.mark.parametrize("what", RAISING)
def test_what_is_refused_shows_no_secret(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"ftp://user:{PASSWORD}@proxy")
    kind, function = RAISING[what]
    error = raised_by(function)
    assert isinstance(error, kind)
    assert not shows_a_secret(error)
    assert ("https_proxy in the environment" in str(error)) == ("environment" in what)


def refuse_proxy(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(f"HTTP/1.1 407 not with {LOGIN}\r\n\r\n".encode())


def refuse_socks(peer: socket.socket) -> None:
    read_exactly(peer, 4)
    peer.sendall(b"\x05\x02")
    read_exactly(peer, 3 + len("user") + len(PASSWORD))
    peer.sendall(b"\x01\x01")


def refuse_upgrade(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(f"HTTP/1.1 500 {KEY}\r\nX-Key: {KEY}\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("handler", "proxy"),
    [(refuse_proxy, "http"), (refuse_socks, "socks5h"), (refuse_upgrade, None)],
)
def test_a_connection_that_is_refused(
    handler: Callable[[socket.socket], None], proxy: str | None
) -> None:
    with ScriptedServer(handler) as server:
        through = f"{proxy}://user:{PASSWORD}@127.0.0.1:{server.port}" if proxy else ""
        stream = PositionStream(
            server.url, api_key=KEY, broker=1, reconnect=None, proxy=through, on_error=print
        )
        assert not shows_a_secret(raised_by(stream.run_forever))


@pytest.mark.parametrize("method", ["send", "wait"])
@pytest.mark.parametrize("scheme", [None, "http", "socks5h"])
def test_ctrl_c_while_connecting(
    method: str, scheme: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Transport, method, interrupted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        proxy = parse_proxy(f"{scheme}://user:{PASSWORD}@127.0.0.1:{port}") if scheme else None
        connection = Connection(f"ws://127.0.0.1:{port}", {"api-key": KEY}, proxy=proxy)
        error = raised_by(connection.open)
        connection.end()
    assert isinstance(error, KeyboardInterrupt)
    assert not shows_a_secret(error)


def test_a_snapshot_that_is_refused() -> None:
    with Exchange(api_key=KEY, api_secret=KEY[::-1]) as exchange:
        exchange.rest_fail(500, body=f'{{"code":-1,"msg":"{KEY}"}}'.encode())
        with AccountSnapshot(exchange.rest_url, KEY, KEY[::-1]) as source:
            assert not shows_a_secret(raised_by(source))


def test_a_credential_is_not_shown_by_what_holds_it() -> None:
    credential = Credential("token", KEY)
    value = credential.get()
    assert value == KEY
    assert KEY not in repr({"token": value})
    assert f"{value}" == str(value) == KEY


def test_tracing_websocket_client_prints_no_credential() -> None:
    printed = io.StringIO()
    handler = logging.StreamHandler(printed)
    was: Any = sys.modules["websocket._logging"]
    before = was._trace_handler
    websocket.enableTrace(True, handler)
    try:
        with Exchange() as exchange:
            stream = PositionStream(exchange.url, api_key=exchange.api_key, broker=exchange.broker)
            with stream:
                assert stream.wait_ready(SOON)
        with ScriptedServer(refuse_upgrade) as server:
            error = raised_by(Connection(server.url, {"api-key": KEY}, hide=hidden).open)
            assert isinstance(error, FastposError)
    finally:
        websocket.enableTrace(True, before)  # as the watch has it
    text = printed.getvalue()
    assert "request header" in text
    assert "HTTP/1.1 500 ***" in text
    assert exchange.api_key not in text
    assert KEY not in text


def hidden(text: str) -> str:
    return text.replace(KEY, "***")


def test_what_an_answer_needs_is_not_hidden_in_it() -> None:
    """Of a credential that is a letter or a word of it, by chance."""

    def handler(peer: socket.socket) -> None:
        asked = read_request(peer)[1]
        requests.append(asked)
        peer.sendall(upgrade_response(asked["sec-websocket-key"]))

    requests: list[dict[str, str]] = []
    with ScriptedServer(handler) as server:
        for credential in ("e", "P/1", "101", "Up", "=", "Connection"):
            connection = Connection(
                server.url,
                {"token": credential},
                hide=lambda text, credential=credential: text.replace(credential, "***"),  # type: ignore[misc]
            )
            connection.open()
            connection.end()
    assert [asked["token"] for asked in requests] == ["e", "P/1", "101", "Up", "=", "Connection"]
