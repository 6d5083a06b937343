"""The opening handshake: what is asked, what is refused, and that nothing makes it hang."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest
import websocket

from fastpos import PositionStream
from fastpos.errors import AuthenticationError, ConnectionFailed, FastposError
from fastpos.net import dial as dial_module
from fastpos.net.address import Source, parse_proxy, parse_url
from fastpos.net.connection import Connection
from fastpos.net.dial import ATTEMPT_DELAY, _by_turns
from fastpos.net.transport import Transport
from fastpos.net.upgrade import MAX_HANDSHAKE, Upgrading, upgrade
from tests.fuzz.opening import Peer
from tests.support.connections import at_once, concurrently, refusal
from tests.support.recording import SOON, until
from tests.support.rig import free_port, kept_port
from tests.support.servers import ScriptedServer
from tests.support.upgrade import accept_upgrade, read_request, upgrade_response

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]


@contextmanager
def opening_in_vain(connection: Connection, match: str | None = None) -> Iterator[None]:
    """It is being opened while the block runs, which makes that fail."""

    def open_in_vain() -> None:
        with pytest.raises(ConnectionFailed, match=match):
            connection.open()

    with at_once(), concurrently(open_in_vain):
        yield
    connection.end()


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("ws://example.com", ("ws", "example.com", 80), "ws://example.com:80"),
        ("wss://Example.com/a?b", ("wss", "example.com", 443), "wss://example.com:443"),
        ("wss://127.0.0.1:8443/x/y", ("wss", "127.0.0.1", 8443), "wss://127.0.0.1:8443"),
        ("ws://[::1]:9000", ("ws", "::1", 9000), "ws://[::1]:9000"),
    ],
)
def test_urls(url: str, address: tuple[str, str, int], shown: str) -> None:
    parsed = parse_url(url)
    assert parsed[:3] == address
    assert str(parsed) == repr(parsed) == shown


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://example.com", "must begin with ws:// or wss://"),
        ("example.com", "must begin with"),
        ("", "must begin with"),
        ("ws://", "has no host"),
        ("ws://:80", "has no host"),
        ("ws://example.com:port", "no port number"),
        ("ws://example.com:70000", "no port number"),
        ("ws://user:password@example.com", "user or password"),
        ("ws://example.com/#top", "fragment"),
        ("ws://example.com/a b", "white space"),
        ("ws://example.com/\r\nHost: x", "white space"),
        ("ws://[::1", "malformed"),
    ],
)
def test_urls_that_are_refused(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://proxy", ("http", "proxy", 80, None, None)),
        ("http://user:p%40ss@proxy:3128", ("http", "proxy", 3128, "user", "p@ss")),
        ("socks5://user@proxy", ("socks5", "proxy", 1080, "user", None)),
        ("socks5h://proxy:9050/", ("socks5h", "proxy", 9050, None, None)),
    ],
)
def test_proxies(url: str, address: tuple[str, str, int, str | None, str | None]) -> None:
    parsed = parse_proxy(url)
    assert parsed == address
    assert "user" not in repr(parsed)
    assert "p@ss" not in f"{parsed}"


def test_proxies_that_are_refused() -> None:
    for url in ("https://proxy", "socks4://proxy", "proxy:3128", "http://"):
        with pytest.raises(ValueError, match="proxy"):
            parse_proxy(url)
    with pytest.raises(TypeError, match="url must be a str, not bytes"):
        parse_url(b"ws://example.com")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="proxy must be a str, not int"):
        parse_proxy(8080)  # type: ignore[arg-type]


# --- what is asked --------------------------------------------------------------------------------


class Answering(Peer):
    """A transport whose peer answers a request and then ends the connection, or falls silent."""

    def __init__(self, answer: str | bytes, silent: bool = False) -> None:
        super().__init__(answer.encode("latin-1") if isinstance(answer, str) else answer)
        self.silent = silent
        self.request = ""
        self.asked: list[tuple[str, str]] = []
        """The request's headers, their names in lower case."""

    def wait(self, timeout: float) -> bool:
        return bool(self.left) or not self.silent

    def send(self, data: bytes, timeout: float) -> None:
        self.request, *lines = data.decode().splitlines()[:-1]
        pairs = (line.split(": ", 1) for line in lines)
        self.asked = [(name.lower(), value) for name, value in pairs]
        key = dict(self.asked)["sec-websocket-key"]
        right = upgrade_response(key)[:-2]  # without the empty line
        self.left = self.left.replace(b"<101>\r\n", right)


def ask(peer: Answering, seconds: float = 60.0, **options: Any) -> None:
    """Become a WebSocket, within so many seconds."""
    deadline = time.monotonic() + seconds
    upgrade(Upgrading(peer, deadline, "peer", **options), "ws://127.0.0.1:81/path?query=1")  # type: ignore[arg-type]


def test_the_request() -> None:
    keys = set()
    for _ in range(2):
        peer = Answering("<101>\r\n\r\n")
        ask(peer, headers={"api-key": "k", "X-More": "y"})
        assert peer.request == "GET /path?query=1 HTTP/1.1"
        headers = dict(peer.asked)
        keys.add(headers["sec-websocket-key"])
        wanted = {"host": "127.0.0.1:81", "api-key": "k", "x-more": "y"}
        wanted |= {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
        assert wanted.items() <= headers.items()
        assert "sec-websocket-extensions" not in headers
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, "http://127.0.0.1:81"),
        ({"Origin": "https://app.exchange.test"}, "https://app.exchange.test"),
        ({"origin": "https://app.exchange.test"}, "https://app.exchange.test"),
        ({"Origin": None}, None),
        ({"Cookie": "id=2"}, "http://127.0.0.1:81"),
    ],
)
def test_no_header_is_there_twice(headers: dict[str, str | None], origin: str | None) -> None:
    """Whether websocket-client sets it too or not; it may know a cookie of the host."""
    jar = websocket._handshake.CookieJar
    jar.add("id=1; Domain=127.0.0.1")
    given = {"X-A": "1", **headers}
    stream = PositionStream("ws://127.0.0.1:81/", api_key="k", broker=1, headers=given)
    peer = Answering("<101>\r\n\r\n")
    try:
        ask(peer, headers=stream._settings.headers)
    finally:
        jar.jar.clear()
    sent = dict(peer.asked)
    assert len(sent) == len(peer.asked)
    assert sent.get("origin") == origin
    assert sent["cookie"] == headers.get("Cookie", "id=1")
    assert sent["x-a"] == "1"


@pytest.mark.parametrize("cookie", ["id=1; Domain=127.0.0.1", "a/b=\x01;;=", "x" * 3000])
def test_cookies_are_not_kept(cookie: str) -> None:
    for _ in range(2):
        peer = Answering(f"<101>\r\nSet-Cookie: {cookie}\r\n\r\n")
        ask(peer)
        assert "cookie" not in dict(peer.asked)


# --- answers that are no upgrade ------------------------------------------------------------------

NO_WEBSOCKET = "not a WebSocket server's answer"
AN_EDGES = ["Server: cloudflare", "CF-Mitigated: challenge\r\nContent-Type: application/json",
            "Content-Type: text/html; charset=UTF-8", "Retry-After: 7"]  # fmt: skip

# What is answered, and what is said of it; None: that the credential is refused.
ANSWERS: list[tuple[str, str | None]] = [
    # Known from the status line: the body, however long, is not waited for.
    *(
        (f"HTTP/1.1 {status} No\r\n{rest}\r\n\r\n", None)
        for status in (401, 403)
        for rest in ("X: y", "Content-Length: 999999999999\r\n\r\nwhy", "Content-Length: odd")
    ),
    ("HTTP/1.1 403 No\r\nContent-Type: application/json\r\n\r\n", None),
    *((f"HTTP/1.1 401 No\r\n{headers}\r\n\r\n", None) for headers in AN_EDGES),
    *((f"HTTP/1.1 403 No\r\n{headers}\r\n\r\n", "HTTP 403") for headers in AN_EDGES),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP 200"),
    ("HTTP/1.1 500 Oh\r\n\r\n", "HTTP 500"),
    ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP 100"),
    ("HTTP/1.1 304 Not Modified\r\n\r\n", "redirects to 'nowhere'"),
    ("SSH-2.0-OpenSSH\r\n\r\n", NO_WEBSOCKET),
    ("\r\n\r\n", NO_WEBSOCKET),
    ("HTTP/1.1 101 \xff\r\n\r\n", NO_WEBSOCKET),
    ("HTTP/1.1 101 ok\r\nno colon\r\n\r\n", NO_WEBSOCKET),
    ("HTTP/1.1 101 ok\r\n\r\n", NO_WEBSOCKET),
    ("<101>\r\nSec-WebSocket-Accept: wrong\r\n\r\n", NO_WEBSOCKET),
    ("<101>\r\nUpgrade: h2c\r\n\r\n", NO_WEBSOCKET),
    ("<101>\r\nConnection: close\r\n\r\n", NO_WEBSOCKET),
    *(
        (f"<101>\r\n{name}: x\r\n\r\n", f"{name.lower()}, of which nothing was offered")
        for name in ("Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol")
    ),
    ("", "closed the connection"),
    ("HTTP/1.1 101 Swit", "closed the connection"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_answers_that_are_no_upgrade(answer: str, said: str | None) -> None:
    with pytest.raises(FastposError) as raised:
        ask(Answering(answer))
    assert type(raised.value) is (AuthenticationError if said is None else ConnectionFailed)
    assert str(raised.value).startswith("peer: ")
    assert (said or "the credential is refused: HTTP 40") in str(raised.value)
    if isinstance(raised.value, ConnectionFailed):
        assert raised.value.retry_after == (7 if "Retry-After" in answer else None)


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("17", 17),
        ("0", 0),
        ("9" * 5000, 86400),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        (formatdate(0, usegmt=True), 0),
        pytest.param(formatdate(time.time() + 10_000_000, usegmt=True), 86400, id="far off"),
    ],
)
def test_retry_after(status: int, retry_after: str, seconds: float | None) -> None:
    with pytest.raises(ConnectionFailed) as raised:
        ask(Answering(f"HTTP/1.1 {status} No\r\nRetry-After: {retry_after}\r\n\r\n"))
    assert (raised.value.status, raised.value.retry_after) == (status, seconds)


def test_a_redirect_is_refused_and_the_credential_stays_here() -> None:
    def redirect(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(f"HTTP/1.1 {status} x\r\nLocation: {other.url}s3cret\r\n\r\n".encode())

    with ScriptedServer(accept_upgrade) as other, ScriptedServer(redirect) as server:
        for status in (301, 302, 303, 307, 308):
            error = refusal(server.url, hide=lambda text: text.replace("s3cret", "***"))
            assert isinstance(error, ConnectionFailed)
            assert error.status == status
            assert f"127.0.0.1:{server.port}: redirects to '{other.url}***'" in str(error)
    assert other.accepted == 0


# --- answers without end --------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso"])
def test_an_answer_is_waited_for_in_time(answer: str) -> None:
    with pytest.raises(ConnectionFailed, match="in time"):
        ask(Answering(answer, silent=True))


@pytest.mark.parametrize("piece", [b"H", b"X: y\r\n"])
def test_an_answer_is_limited_in_time(piece: bytes) -> None:
    def trickle(peer: socket.socket) -> None:
        read_request(peer)
        while not threading.Event().wait(0.01):
            peer.sendall(piece)

    with ScriptedServer(trickle) as server:
        error = refusal(server.url, connect_timeout=0.3)
    assert isinstance(error, ConnectionFailed)
    assert re.search("in time|WebSocket", str(error))


@pytest.mark.parametrize(
    "data",
    [
        b"y" * MAX_HANDSHAKE,
        b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 20_000,
        b"Content-Length: 1\r\n" * 5000,  # which are not even handed on
        b"Set-Cookie: " + b"y" * MAX_HANDSHAKE,
    ],
    ids=["one line", "lines", "lines left out", "one line left out"],
)
def test_any_answer_is_limited_in_size(data: bytes) -> None:
    peer = Answering(data)
    with pytest.raises(ConnectionFailed, match="peer: an answer of over 64 KiB"):
        ask(peer)
    assert len(peer.left) == len(data) - MAX_HANDSHAKE


# --- TCP ------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    with kept_port() as port:
        error = refusal(f"ws://127.0.0.1:{port}/")
    assert re.search(rf"127\.0\.0\.1:{port}: cannot connect: .*refused", str(error))


def know_no_name(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", know_no_name)
    assert "host name cannot be resolved: " in str(refusal("ws://exchange.invalid/"))
    monkeypatch.undo()
    assert "cannot be resolved" in str(refusal(f"ws://{'x' * 64}.invalid/"))


@contextmanager
def unresponsive() -> Iterator[int]:
    """A port on which connecting neither succeeds nor fails."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        with socket.socket() as probe:
            probe.settimeout(0.2)
            try:
                probe.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()[1]
            else:
                pytest.skip("a full backlog refuses nobody on this system")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_waiting_for_an_answer_can_be_aborted(scheme: str) -> None:
    """To the request, or to the first message of TLS."""
    asked = threading.Event()

    def handler(peer: socket.socket) -> None:
        while peer.recv(1000):
            asked.set()

    with ScriptedServer(handler) as server:
        connection = Connection(
            server.url.replace("ws", scheme),
            ssl_context=ssl.create_default_context(),
            connect_timeout=30,
        )
        with opening_in_vain(connection):
            assert asked.wait(SOON)
            connection.shutdown()


@contextmanager
def standing_for(*ports: int) -> Iterator[None]:
    """Any name stands for these ports of this machine, and for a family that is not there."""
    found: list[Any] = [(-1, socket.SOCK_STREAM, 0, "", ("", 0))]
    found += [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        yield


def seconds_to_open(*ports: int) -> float:
    """By a name that stands for these ports."""
    connection = Connection("ws://exchange.test/", connect_timeout=60)
    began = time.monotonic()
    with standing_for(*ports):
        connection.open()
    connection.end()
    return time.monotonic() - began


def test_the_next_address_does_not_wait_for_one_that_hangs() -> None:
    with unresponsive() as silent, ScriptedServer(accept_upgrade) as server:
        took = seconds_to_open(silent, silent, server.port)
    assert 2 * ATTEMPT_DELAY <= took < 2 * ATTEMPT_DELAY + 8  # of 60


def test_addresses_that_refuse_are_gone_through_at_once() -> None:
    with ScriptedServer(accept_upgrade) as server, kept_port() as port:
        assert seconds_to_open(*[port] * 80, server.port) < 80 * ATTEMPT_DELAY / 2


def test_an_address_that_is_slow_may_still_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was begun first, and answers while the second hangs."""
    begun: list[Transport] = []
    begin = Transport.begin_connect
    with unresponsive() as silent, ScriptedServer(accept_upgrade) as server:

        def begin_connect(self: Transport, place: Any) -> None:
            begun.append(self)
            if len(begun) == 2:  # only now the first one's packets arrive
                begin(begun[0], ("127.0.0.1", server.port))
                begin(self, place)

        monkeypatch.setattr(Transport, "begin_connect", begin_connect)
        monkeypatch.setattr(dial_module, "_ready", only_begun_ones(dial_module._ready, begun))
        connection = Connection("ws://exchange.test/", connect_timeout=60)
        with standing_for(server.port, silent):
            connection.open()
        assert connection._transport is begun[0]
        connection.end()


def only_begun_ones(ready: Callable[..., Any], begun: list[Any]) -> Callable[..., Any]:
    """A socket that does not connect yet counts as writable, or not, with the system."""

    def wait(racing: list[Any], timeout: float) -> list[Any]:
        if len(begun) > 1:
            return list(ready(racing, timeout))
        time.sleep(timeout)
        return []

    return wait


def test_all_addresses_hang() -> None:
    with unresponsive() as silent, standing_for(silent, silent, silent):
        error = refusal("ws://exchange.test/", connect_timeout=0.8)
    assert "cannot connect: timed out" in str(error)


def test_an_abort_before_the_socket_is_connected_is_heeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adopt = Connection._adopt

    def adopt_and_abort(self: Connection, transport: Transport) -> None:
        adopt(self, transport)
        self.shutdown()

    monkeypatch.setattr(Connection, "_adopt", adopt_and_abort)
    with ScriptedServer(read_request) as server:
        assert isinstance(refusal(server.url, connect_timeout=30), ConnectionFailed)


@pytest.mark.parametrize("second", ["hangs", "fails"])
def test_a_race_of_connects_can_be_aborted(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the address that was begun last has failed already."""
    begun: set[Any] = set()
    adopt = Connection._adopt

    def adopt_and_note(self: Connection, transport: Any) -> None:
        begun.add(transport)
        adopt(self, transport)

    monkeypatch.setattr(Connection, "_adopt", adopt_and_note)
    connection = Connection("ws://exchange.test/", connect_timeout=60)
    with unresponsive() as silent, kept_port() as port:
        ports, failed = (silent, port), 2  # there is one of an unknown family
        if second == "hangs":
            ports, failed = (silent, silent), 1
        with standing_for(*ports), opening_in_vain(connection, "stopped"):
            until(lambda: [len(begun), sum(t.fileno() < 0 for t in begun)] == [3, failed])
            connection.shutdown()


def test_families_are_tried_by_turns() -> None:
    def place(family: int, number: int) -> tuple[int, int, int, int]:
        return family, 0, 0, number

    six, four = socket.AF_INET6, socket.AF_INET
    given = [place(six, 1), place(six, 2), place(six, 3), place(four, 4), place(four, 5)]
    assert [name for *_, name in _by_turns(given)] == [1, 4, 2, 5, 3]
    assert [name for *_, name in _by_turns(given[3:] + given[:1])] == [4, 1, 5]
    assert _by_turns([]) == []


def test_the_other_family_is_tried_second(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[Any, ...]] = []

    def begin(self: Transport, place: tuple[Any, ...]) -> None:
        tried.append(place)
        raise OSError("unreachable")  # which is known at once

    found = [
        *((socket.AF_INET6, socket.SOCK_STREAM, 0, "", (f"::{n}", 1, 0, 0)) for n in (1, 2)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(Transport, "begin_connect", begin)
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    assert "unreachable" in str(refusal("ws://exchange.test/")).lower()
    assert [place[0] for place in tried] == ["::1", "127.0.0.1", "::2"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of the host")
def test_source_address(new_stream: Callable[..., Any]) -> None:
    peers: list[tuple[str, int]] = []

    def handler(peer: socket.socket) -> None:
        peers.append(peer.getpeername())
        accept_upgrade(peer)
        while peer.recv(1000):
            pass

    port = free_port()
    with ScriptedServer(handler) as server:
        for source in ("127.0.0.2", ("127.0.0.3", port), ("127.0.0.3", port)):
            stream = new_stream(server.url, source_address=source)
            count = len(peers)
            stream.start()
            until(lambda count=count: len(peers) > count)
            stream.stop()
    assert [peer[0] for peer in peers[:2]] == ["127.0.0.2", "127.0.0.3"]
    assert {peer[1] for peer in peers[1:]} == {port}


def test_a_source_address_that_can_not_be() -> None:
    with ScriptedServer(accept_upgrade) as server:
        error = refusal(server.url, source=Source("192.0.2.1", 0))
        assert re.search("cannot connect: .*source_address 192.0.2.1: ", str(error))
        assert "of the kind of source_address, ::1" in str(
            refusal(server.url, source=Source("::1", 0))
        )


def test_no_socket_left_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoSocket(socket.socket):
        def __init__(self, *_: object, **__: object) -> None:
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", NoSocket)
    assert "cannot connect: [Errno 24]" in str(refusal("ws://127.0.0.1:1/"))


def test_opening_leaves_nothing_behind_when_it_is_interrupted() -> None:
    """Ctrl-C, say; `tidy` counts the descriptors."""

    def interrupt(_: str) -> str:
        raise KeyboardInterrupt

    def redirect(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(b"HTTP/1.1 302 x\r\nLocation: y\r\n\r\n")

    with ScriptedServer(redirect) as server:
        connection = Connection(server.url, hide=interrupt)
        with pytest.raises(KeyboardInterrupt):
            connection.open()
        server.wait_finished(1)


# --- in clear -------------------------------------------------------------------------------------


def test_one_warning_that_the_credential_travels_in_clear(
    new_stream: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", know_no_name)
    here = ("ws://localhost:1/", "ws://127.0.0.1:1/", "ws://[::1]:1/")
    for url in ("ws://exchange.test/", *here, "wss://exchange.test/"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "fastpos"):
            stream = new_stream(url)
            stream.start()
            until(lambda stream=stream: sum(stream.stats.disconnects.values()) >= 2)
            stream.stop()
        clear = [record for record in caplog.records if "travels in clear" in record.message]
        assert len(clear) == (url == "ws://exchange.test/")
