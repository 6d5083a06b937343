"""TLS against OpenSSL's own server and Python's: versions, keys, ends, threads, certificates."""

from __future__ import annotations

import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from fastpos.errors import ConnectionFailed
from tests.support.certificates import Certificates
from tests.support.connections import (
    Client,
    at_once,
    concurrently,
    opened,
    refusal,
    take,
)
from tests.support.frames import (
    BINARY,
    TEXT,
    ClientFrame,
    frame,
    read_exactly,
    read_frame,
)
from tests.support.gil import switching
from tests.support.network import TcpProxy
from tests.support.openssl import OpensslServer
from tests.support.recording import until
from tests.support.servers import ScriptedServer, echo
from tests.support.upgrade import accept_upgrade

pytestmark = [pytest.mark.usefixtures("tidy", "decrypting"), pytest.mark.timeout(60)]

Version = Literal["1.2", "1.3"]
VERSIONS: list[Version] = ["1.2", "1.3"]
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # handshake_failure


@contextmanager
def openssl(
    certificates: Certificates, version: Version = "1.3"
) -> Iterator[tuple[OpensslServer, Client]]:
    """A connection that `s_server` has accepted and upgraded."""
    with OpensslServer(certificates.good.pem, version) as server:
        connection = Client(server.url, ssl_context=certificates.client_context())
        try:
            with concurrently(connection.open):
                accept_upgrade(server)
            yield server, connection
        finally:
            connection.end()


def only(version: Version) -> ssl.TLSVersion:
    return ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3


# --- versions, records, keys ----------------------------------------------------------------------


def test_keys_are_updated_in_mid_stream(certificates: Certificates) -> None:
    with openssl(certificates) as (server, connection):
        for number in range(6):
            server.update_keys(answer=number % 2 == 1)
            server.sendall(frame(TEXT, f"down {number}".encode()))
            assert take(connection, 1) == [(TEXT, f"down {number}")]
            connection.send(f"up {number}")
            assert read_frame(server).payload == f"up {number}".encode()


def test_keys_are_negotiated_anew_in_mid_stream(certificates: Certificates) -> None:
    with openssl(certificates, "1.2") as (server, connection):
        transport: Any = connection.connection._transport

        def wait_for_keys_other_than(old: bytes) -> None:
            deadline = time.monotonic() + 10
            # There is no version while hands are being shaken; and nothing can be sent then.
            while transport._tls.get_channel_binding("tls-unique") == old or (
                transport._tls.version() is None
            ):
                assert time.monotonic() < deadline
                assert list(connection.receive(0.05)) == []

        for number in range(3):
            keys = transport._tls.get_channel_binding("tls-unique")
            server.sendall(frame(TEXT, f"before {number}".encode()))
            server.renegotiate()
            assert take(connection, 1) == [(TEXT, f"before {number}")]
            wait_for_keys_other_than(keys)
            server.sendall(frame(TEXT, f"after {number}".encode()))
            assert take(connection, 1) == [(TEXT, f"after {number}")]
            connection.send(f"up {number}")
            assert read_frame(server).payload == f"up {number}".encode()


# --- threads --------------------------------------------------------------------------------------


def bombard(connection: Client, name: str, count: int) -> None:
    sizes = random.Random(name)
    for number in range(count):
        connection.send(f"{name}{number}:" + name * sizes.randrange(2000), timeout=10)


def test_two_threads_send_while_one_reads_openssl_and_keys_change(
    certificates: Certificates,
) -> None:
    count = 200
    heard: list[ClientFrame] = []

    def push(server: OpensslServer) -> None:
        for number in range(count):
            server.sendall(frame(BINARY, bytes([number]) * 700))
            if number % 20 == 0:
                server.update_keys(answer=True)

    with (
        switching(1e-6),
        openssl(certificates) as (server, connection),
        concurrently(lambda: heard.extend(read_frame(server) for _ in range(2 * count))),
        concurrently(lambda: push(server)),
        concurrently(lambda: bombard(connection, "a", count)),
        concurrently(lambda: bombard(connection, "b", count)),
    ):
        messages = take(connection, count, 30)
    assert messages == [(BINARY, bytes([number]) * 700) for number in range(count)]
    for name in (b"a", b"b"):
        texts = [sent.payload for sent in heard if sent.payload[:1] == name]
        assert [text.partition(b":")[0] for text in texts] == [
            name + str(number).encode() for number in range(count)
        ]


def test_a_ping_leaves_at_once_while_the_reader_waits(certificates: Certificates) -> None:
    with openssl(certificates) as (server, connection):
        stop = frame(TEXT, b"stop")
        with concurrently(lambda: take(connection, 1)), at_once():
            until(connection.silent)
            connection.send("ping")
            assert read_frame(server).payload == b"ping"
            server.sendall(stop)


# --- certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("wrong_host", "(?i)mismatch.*127.0.0.1"),
        ("expired", "expired"),
        ("untrusted", "(?i)unable to get local issuer|self.signed"),
    ],
)
def test_a_wrong_certificate_is_refused(
    certificates: Certificates, name: str, complaint: str, version: Version
) -> None:
    heard: list[bytes] = []
    context = getattr(certificates, name).context(only(version))
    with ScriptedServer(lambda peer: heard.append(peer.recv(1000)), context) as server:
        error = refusal(server.url, ssl_context=certificates.client_context())
        server.wait_finished(1)
    assert "certificate is not accepted" in str(error)
    assert re.search(complaint, str(error))
    assert f"127.0.0.1:{server.port}" in str(error)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert not any(heard)


def test_the_callers_own_context_decides(certificates: Certificates) -> None:
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    for identity in (certificates.wrong_host, certificates.expired, certificates.untrusted):
        with (
            ScriptedServer(echo, identity.context()) as server,
            opened(server.url, ssl_context=anything) as connection,
        ):
            connection.send("trusted")
            assert take(connection, 1) == [(TEXT, "trusted")]

    old = certificates.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with ScriptedServer(echo, certificates.good.context(ssl.TLSVersion.TLSv1_3)) as server:
        error = refusal(server.url, ssl_context=old)
    assert re.search("(?i)TLS handshake failed.*(version|protocol)", str(error))
    with ScriptedServer(lambda _: None) as server:
        refusal(
            server.url.replace("ws", "wss"), ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        )


def test_a_stream_trusts_nobody_unasked(
    certificates: Certificates, new_stream: Callable[..., Any]
) -> None:
    with ScriptedServer(echo, certificates.good.context()) as server:
        stream = new_stream(server.url, reconnect=None)
        stream.start()
        with pytest.raises(ConnectionFailed, match="certificate is not accepted"):
            stream.wait_ready(5)


# --- handshakes that lead nowhere -----------------------------------------------------------------


def answering(answer: bytes, stay: bool = False) -> Callable[[Any], None]:
    """A server that answers the first it hears with this, and stays or leaves."""

    def handler(peer: Any) -> None:
        read_exactly(peer, 5)
        peer.sendall(answer)
        while stay and peer.recv(1000):
            pass

    return handler


@pytest.mark.parametrize(
    ("handler", "slowly", "timeout", "complaint"),
    [
        (answering(b"", stay=True), False, 0.4, "TLS handshake failed.*took too long"),
        (answering(b""), False, 30, "TLS handshake failed.*(EOF|reset)"),
        (
            answering(b"HTTP/1.1 400 Bad\r\n\r\n"),
            False,
            30,
            "TLS handshake failed.*(version|record)",
        ),
        (answering(ALERT), False, 30, "TLS handshake failed.*handshake.failure"),
        (None, True, 0.4, "TLS handshake failed.*took too long"),  # all of it has one deadline
        # And the upgrade after it; there is time for the handshake, on a busy machine, too.
        (None, False, 2.5, "no whole answer to the handshake in time"),
    ],
    ids=["silence", "end", "no TLS", "alert", "trickling", "silence after it"],
)
def test_a_handshake_that_fails(
    certificates: Certificates,
    handler: Callable[[Any], None] | None,
    slowly: bool,
    timeout: float,
    complaint: str,
) -> None:
    context = None if handler else certificates.good.context()
    with (
        ScriptedServer(handler or answering(b"", stay=True), context) as server,
        TcpProxy("127.0.0.1", server.port) as proxy,
    ):
        if slowly:
            proxy.trickle(1, 0.01)
        clients = certificates.client_context()
        error = refusal(proxy.url("wss"), 15, ssl_context=clients, connect_timeout=timeout)
    assert re.search(f"(?i){complaint}", str(error))


def test_a_name_that_no_certificate_can_have(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(answering(b"", stay=True)) as server:
        place = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place])
        error = refusal("wss://.example/", ssl_context=certificates.client_context())
    assert "TLS handshake failed" in str(error)
