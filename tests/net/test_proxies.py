"""Proxies: which one the environment names, and what is said to them; real ones are marked."""

from __future__ import annotations

import base64
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastpos.errors import ConnectionFailed, FastposError
from fastpos.net.address import parse_proxy, parse_url
from fastpos.net.proxy import proxy_from_environment
from fastpos.net.upgrade import MAX_HANDSHAKE
from tests.support.bench import Bench
from tests.support.certificates import Certificates
from tests.support.connections import concurrently, opened, refusal, take
from tests.support.frames import TEXT, read_exactly
from tests.support.proxies import RealProxy
from tests.support.rig import kept_port
from tests.support.servers import ScriptedServer, echo
from tests.support.upgrade import read_request

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

NAMES = ("http", "https", "ws", "wss", "all", "no")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own settings are none of these tests'."""
    for name in NAMES:
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)


def round_trip(url: str, proxy: str, **options: Any) -> None:
    with opened(url, proxy=parse_proxy(proxy), **options) as connection:
        connection.send("through")
        assert take(connection, 1) == [(TEXT, "through")]


def refused(url: str, proxy: str, **options: Any) -> FastposError:
    return refusal(url, 10, proxy=parse_proxy(proxy), **options)


# --- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "ws", "wss"),
    [
        ({}, None, None),
        ({"http_proxy": "http://p:1"}, "http://p:1", None),
        ({"https_proxy": "http://p:1"}, None, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, None, "http://p:1"),
        ({"all_proxy": "socks5://p:1"}, "socks5://p:1", "socks5://p:1"),
        ({"ALL_PROXY": "socks5h://p:1"}, "socks5h://p:1", "socks5h://p:1"),
        (
            {"ws_proxy": "http://w:1", "http_proxy": "http://p:1", "all_proxy": "http://a:1"},
            "http://w:1",
            "http://a:1",
        ),
        ({"wss_proxy": "http://w:1", "https_proxy": "http://p:1"}, None, "http://w:1"),
        ({"https_proxy": "", "all_proxy": "http://a:1"}, "http://a:1", "http://a:1"),
        ({"https_proxy": "p:3128"}, None, "http://p:3128"),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, None, None),
        ({"https_proxy": "http://p:1", "no_proxy": "a.test, exchange.test"}, None, None),
        ({"https_proxy": "http://p:1", "NO_PROXY": ".test"}, None, None),
        ({"https_proxy": "http://p:1", "no_proxy": "exchange.test:8443"}, None, "http://p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "exchange.test:443"}, None, None),
        ({"https_proxy": "http://p:1", "no_proxy": "nge.test"}, None, "http://p:1"),
    ],
)
def test_the_environment(
    variables: dict[str, str], ws: str | None, wss: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [
        proxy_from_environment(parse_url(f"{scheme}://exchange.test/")) for scheme in ("ws", "wss")
    ]
    assert [None if proxy is None else str(proxy) for proxy in found] == [ws, wss]


def test_an_environment_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, new_stream: Callable[..., Any]
) -> None:
    monkeypatch.setenv("https_proxy", "socks4://user:s3cret@p:1")
    with pytest.raises(ValueError, match="https_proxy in the environment: proxy must begin"):
        proxy_from_environment(parse_url("wss://exchange.test/"))
    stream = new_stream("wss://exchange.test/", proxy=None, reconnect=None).start()
    with pytest.raises(ConnectionFailed, match="https_proxy in the environment") as failed:
        stream.wait_ready(5)
    assert "s3cret" not in str(failed.value)


# --- what is said to a proxy ----------------------------------------------------------------------


Requests = list[tuple[str, dict[str, str]]]


@contextmanager
def handmade(
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
) -> Iterator[tuple[Requests, str]]:
    """An HTTP proxy that answers as it is told, and tunnels if that is a 200; what it was asked."""
    requests: Requests = []

    def forward(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        requests.append(read_request(client))
        client.sendall(answer)
        if b" 200 " not in answer:
            while client.recv(1000):
                pass
            return
        host, _, port = requests[-1][0].split()[1].rpartition(":")
        with (
            socket.create_connection((host.strip("[]"), int(port)), 10) as server,
            concurrently(lambda: forward(server, client)),
        ):
            forward(client, server)

    with ScriptedServer(serve) as running:
        yield requests, f"127.0.0.1:{running.port}"


@pytest.mark.parametrize("tls", [False, True])
def test_connect(certificates: Certificates, tls: bool) -> None:
    context = certificates.good.context() if tls else None
    options = {"ssl_context": certificates.client_context()} if tls else {}
    with ScriptedServer(echo, context) as server, handmade() as (requests, address):
        round_trip(server.url, f"http://us%20er:p%3Ass@{address}", **options)
        round_trip(server.url, f"http://{address}", **options)
    target = f"127.0.0.1:{server.port}"
    (request, headers), (_, without) = requests
    assert request == f"CONNECT {target} HTTP/1.1"
    login = base64.b64encode(b"us er:p:ss").decode()
    assert headers == {"host": target, "proxy-authorization": f"Basic {login}"}
    assert without == {"host": target}


def test_the_server_behind_a_proxy_is_verified(certificates: Certificates) -> None:
    with (
        ScriptedServer(echo, certificates.wrong_host.context()) as server,
        handmade() as (_, address),
    ):
        error = refused(server.url, f"http://{address}", ssl_context=certificates.client_context())
    assert "certificate is not accepted" in str(error)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Requ"),
        (b"HTTP/1.1 403 \xff" + b"x" * 10_000 + b"\r\n\r\n", "'403 "),
        (b"HTTP/1.1 302 x\r\nLocation: http://elsewhere/\r\n\r\n", "302"),
        (b"\r\n\r\n", "refuses"),
        (b"HTTP/1.1 200", "no whole answer to the handshake in time"),
        (b"HTTP/1.1 200" + b"x" * MAX_HANDSHAKE, "over 64 KiB"),
    ],
    ids=["407", "long reason", "redirect", "empty", "half", "endless"],
)
def test_a_proxy_that_refuses(answer: bytes, complaint: str) -> None:
    timeout = 30 if len(answer) > 20 else 0.3
    with handmade(answer) as (requests, address):
        error = refused(
            "ws://exchange.test/", f"http://user:s3cret@{address}", connect_timeout=timeout
        )
    assert isinstance(error, ConnectionFailed)
    assert f"proxy http://{address}: " in str(error)
    assert complaint in str(error)
    assert "s3cret" not in str(error)
    assert len(str(error)) < 500
    assert "api-key" not in requests[0][1]


@pytest.mark.parametrize(
    "said", ["s3cret", base64.b64encode(b"user:s3cret").decode(), "the-token", "x" * 183 + "s3cret"]
)
def test_a_proxy_that_repeats_a_credential(said: str) -> None:
    with handmade(f"HTTP/1.1 407 not with {said}\r\n\r\n".encode()) as (_, address):
        error = refused(
            "ws://exchange.test/",
            f"http://user:s3cret@{address}",
            hide=lambda text: text.replace("the-token", "***"),
        )
    assert "refuses to connect to exchange.test:80: '407 not with " in str(error)
    for start in range(0, len(said) - 4, 2):
        assert set(said[start : start + 4]) == {"x"} or said[start : start + 4] not in str(error)


def test_an_answer_through_a_proxy_that_repeats_its_password() -> None:
    moved = b"HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/?user:s3cret\r\n\r\n"
    with handmade(b"HTTP/1.1 200 OK\r\n\r\n" + moved) as (_, address):
        error = refused("ws://exchange.test/", f"http://user:s3cret@{address}")
    assert "redirects to 'http://elsewhere/?user:***'" in str(error)


def test_a_proxy_that_is_not_there() -> None:
    with kept_port() as port:
        for scheme in ("http", "socks5h"):
            error = refused("ws://exchange.test/", f"{scheme}://127.0.0.1:{port}")
            assert f"{scheme}://127.0.0.1:{port}: cannot connect: " in str(error)


# --- SOCKS ----------------------------------------------------------------------------------------


def socks_server(*answers: tuple[int, bytes]) -> Callable[[socket.socket], None]:
    """Reads so many bytes before each answer, and waits for the client to leave."""

    def handler(peer: socket.socket) -> None:
        for size, answer in answers:
            read_exactly(peer, size)
            peer.sendall(answer)
        while peer.recv(1000):
            pass

    return handler


REQUEST = 7 + len("exchange.test")  # by name, with the port


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([(3, b"\x05\xff")], "authentication methods"),
        ([(3, b"\x04\x00")], "version"),
        ([(3, b"\x05\x02")], "authentication method"),
        ([(3, b"\x05\x00"), (REQUEST, b"\x05\x05\x00\x01")], "refused"),
        ([(3, b"\x05\x00"), (REQUEST, b"\x05\x00\x00\x03\x02\xff\xfe\x00\x00")], "decode"),
        ([(3, b"\x05\x00"), (REQUEST, b"\x05\x00\x00\x01")], "in time"),
        ([(3, b"\x05")], "in time"),
        ([], "in time"),
    ],
)
def test_socks_proxies_that_refuse(answers: list[tuple[int, bytes]], complaint: str) -> None:
    with ScriptedServer(socks_server(*answers)) as server:
        proxy = f"socks5h://127.0.0.1:{server.port}"
        timeout = 0.4 if complaint == "in time" else 30
        error = refused("ws://exchange.test/", proxy, connect_timeout=timeout)
    assert isinstance(error, ConnectionFailed)
    assert f"proxy {proxy}: " in str(error)
    assert complaint in str(error)


def test_a_socks_password_that_cannot_be_sent() -> None:
    with ScriptedServer(socks_server((4, b"\x05\x02"))) as server:
        for password in ("x" * 300, "%C3%BC"):
            proxy = f"socks5h://user:{password}@127.0.0.1:{server.port}"
            error = refused("ws://exchange.test/", proxy)
            assert isinstance(error, ConnectionFailed)


def test_socks_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with ScriptedServer(lambda _: None) as server:
        error = refused("ws://exchange.test/", f"socks5://127.0.0.1:{server.port}")
    assert 'pip install "fastpos[socks]"' in str(error)
    assert "python-socks" in str(error)


# --- real proxies ---------------------------------------------------------------------------------


@pytest.mark.proxy
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("login", [(), ("user", "secret")])
@pytest.mark.parametrize("schemes", [["http"], ["socks5h", "socks5"]])
def test_through_a_real_proxy(
    schemes: list[Any], login: tuple[str, ...], tls: bool, certificates: Certificates
) -> None:
    context = certificates.good.context() if tls else None
    options = {"ssl_context": certificates.client_context()} if tls else {}
    with ScriptedServer(echo, context) as server, RealProxy(schemes[0], *login) as proxy:
        for scheme in schemes:
            url = server.url.replace("127.0.0.1", "localhost")
            round_trip(url, proxy.url.replace(proxy.scheme, scheme, 1), **options)
        proxy.wait_logged(str(server.port))
        plain = f"{proxy.scheme}://{proxy.address}"
        for wrong in (proxy.url.replace("secret", "guess"), plain) if login else ():
            error = refused(server.url, wrong, **options)
            assert isinstance(error, ConnectionFailed)
            assert f"proxy {plain}" in str(error)
        assert server.accepted == len(schemes)


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_through_a_proxy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the argument, or by the environment but for what that excepts; or through none."""
    with handmade() as (requests, address):
        url = f"http://{address}"
        for argument, named, excepted, count in (
            (url, "", "", 1),
            (None, url, "", 2),
            (None, url, "127.0.0.1", 2),
            ("", url, "", 2),
        ):
            monkeypatch.setenv("http_proxy", named)
            monkeypatch.setenv("no_proxy", excepted)
            bench.start(proxy=argument).stop()
            assert len(requests) == count
