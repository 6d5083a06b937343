"""The rigs of the other tests, each shown to do what it says."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_socks.sync import Proxy

from tests.conformance.fuzzingserver import CaseResult, NotAvailable, find_python27, read_reports
from tests.support.certificates import Certificates, make_certificates
from tests.support.frames import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    ClientFrame,
    Peer,
    close_frame,
    frame,
    frames,
    read_exactly,
    read_frame,
)
from tests.support.network import TcpProxy
from tests.support.openssl import OpensslServer
from tests.support.proxies import HttpProxy, SocksProxy
from tests.support.servers import ScriptedServer
from tests.support.upgrade import accept_upgrade

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def connect_tls(port: int, certificates: Certificates) -> ssl.SSLSocket:
    return certificates.client_context().wrap_socket(
        connect(port), server_hostname="localhost", suppress_ragged_eofs=False
    )


def upgrade(peer: Peer) -> bytes:
    """A client's half of the opening handshake; returns the answer."""
    key = base64.b64encode(os.urandom(16))
    peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += read_exactly(peer, 1)
    return answer


def echo_bytes(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            connection.sendall(data)


# --- certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("good", None),
        ("wrong_host", "(?i)hostname mismatch"),
        ("expired", "expired"),
        ("untrusted", "(?i)unable to get local issuer|self.signed"),
    ],
)
def test_a_client_refuses_every_certificate_but_the_good_one(
    certificates: Certificates, name: str, complaint: str | None
) -> None:
    identity = getattr(certificates, name)
    with ScriptedServer(echo_bytes, identity.context()) as server:
        if complaint is None:
            with connect_tls(server.port, certificates) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
                connect_tls(server.port, certificates)


# --- frames and the scripted server ---------------------------------------------------------------


def test_frames_are_built_as_asked() -> None:
    assert frame(TEXT, b"hi") == b"\x81\x02hi"
    assert frame(BINARY, b"hi", fin=False, rsv=4) == b"\x42\x02hi"
    assert frame(BINARY, b"hi", length_form=16) == b"\x82\x7e\x00\x02hi"
    assert frame(BINARY, b"hi", length_form=64) == b"\x82\x7f" + bytes(7) + b"\x02hi"
    assert frame(BINARY, bytes(126))[:4] == b"\x82\x7e\x00\x7e"
    assert frame(BINARY, bytes(65536))[:10] == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
    assert (
        frame(PING, b"\xff\x00", masked=b"\xf0\x0f\x00\x00") == b"\x89\x82\xf0\x0f\x00\x00\x0f\x0f"
    )
    assert frame(BINARY, announce=1 << 40)[2:] == (1 << 40).to_bytes(8, "big")
    assert close_frame(1002, b"no") == b"\x88\x04\x03\xeano"
    assert close_frame() == b"\x88\x00"


def test_scripted_server_upgrades_and_reads_masked_frames() -> None:
    headers: dict[str, str] = {}
    seen: list[ClientFrame] = []

    def handler(connection: socket.socket) -> None:
        headers.update(accept_upgrade(connection, first_data=frame(TEXT, b"hello")))
        seen.extend(frames(connection))

    with ScriptedServer(handler) as server:
        with connect(server.port) as client:
            assert upgrade(client).startswith(b"HTTP/1.1 101 ")
            assert read_exactly(client, 7) == b"\x81\x05hello"
            client.sendall(frame(BINARY, b"x" * 300, masked=True) + frame(PING, b"p", masked=True))
            client.sendall(frame(CLOSE, b"\x03\xe8", masked=True))
            assert client.recv(1) == b""
        server.wait_finished(1)

    data, ping, close = seen
    assert headers["host"] == "x"
    assert (data.opcode, data.payload, data.mask) == (BINARY, b"x" * 300, b"\x12\x34\x56\x78")
    assert (ping.opcode, ping.payload) == (PING, b"p")
    assert close.close_code == 1000


def test_scripted_server_ends_while_a_handler_waits_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with ScriptedServer(echo_bytes) as server:
        client = connect(server.port)
        server.wait_accepted(1)
    with client:
        assert client.recv(1) == b""
    assert threading.active_count() == before


def test_a_failing_handler_fails_the_test() -> None:
    def handler(connection: socket.socket) -> None:
        raise AssertionError("seen")

    def session() -> None:
        with ScriptedServer(handler) as server, connect(server.port) as client:
            assert client.recv(1) == b""

    with pytest.raises(AssertionError, match="seen"):
        session()


# --- s_server -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl_server_speaks_websocket_by_hand(certificates: Certificates, version: str) -> None:
    with (
        OpensslServer(certificates.good.pem, "1.2" if version == "1.2" else "1.3") as server,
        connect_tls(server.port, certificates) as client,
    ):
        assert client.version() == f"TLSv{version}"
        thread = threading.Thread(target=accept_upgrade, args=(server,))
        thread.start()
        assert upgrade(client).startswith(b"HTTP/1.1 101 ")
        thread.join()

        # Bytes that s_server would take for commands, anywhere but at the beginning.
        payload = bytes(range(256)) * 400 + b"Q" * 4000 + b"\nQ\nK\n"
        sent = frame(BINARY, payload)
        writer = threading.Thread(target=server.sendall, args=(sent,))
        writer.start()
        assert read_exactly(client, len(sent)) == sent
        writer.join()
        with pytest.raises(ValueError, match="command"):
            server.sendall(b"Quit")

        client.sendall(frame(TEXT, b"Read BLOCK\n", masked=True))
        assert read_frame(server).payload == b"Read BLOCK\n"

        # A close_notify is answered with one.
        client.unwrap()
        server.wait_ended()
        assert server.recv(1) == b""


def test_openssl_server_updates_keys_in_mid_stream(certificates: Certificates) -> None:
    with (
        OpensslServer(certificates.good.pem, tickets=5) as server,
        connect_tls(server.port, certificates) as client,
    ):
        for answer in (False, True, True):
            server.update_keys(answer)
            server.sendall(frame(TEXT, b"down"))
            assert read_exactly(client, 6) == b"\x81\x04down"
            client.sendall(frame(TEXT, b"up", masked=True))
            assert read_frame(server).payload == b"up"
        assert client.session is not None
        assert client.session.has_ticket


def test_openssl_server_ends_without_close_notify(certificates: Certificates) -> None:
    for how in (OpensslServer.end, OpensslServer.kill):
        with (
            OpensslServer(certificates.good.pem) as server,
            connect_tls(server.port, certificates) as client,
        ):
            server.sendall(b"\x81")
            assert client.recv(1) == b"\x81"
            how(server)
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                client.recv(1)


def test_openssl_server_sends_what_is_no_tls(certificates: Certificates) -> None:
    with (
        OpensslServer(certificates.good.pem) as server,
        connect_tls(server.port, certificates) as client,
    ):
        server.wait_handshakes(1)
        server.send_plaintext()
        with pytest.raises(ssl.SSLError):
            client.recv(1)


# --- faults ---------------------------------------------------------------------------------------


@pytest.fixture
def echo_proxy() -> Iterator[TcpProxy]:
    with ScriptedServer(echo_bytes) as server, TcpProxy("127.0.0.1", server.port) as proxy:
        yield proxy


def round_trip(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    assert read_exactly(client, len(data)) == data


def test_tcp_proxy_forwards_and_counts(echo_proxy: TcpProxy) -> None:
    with connect(echo_proxy.port) as client:
        thread = threading.Thread(target=client.sendall, args=(bytes(1_000_000),))
        thread.start()
        assert read_exactly(client, 1_000_000) == bytes(1_000_000)
        thread.join()
        assert echo_proxy.up_bytes == 1_000_000
        assert echo_proxy.open_connections == 1
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    (connection,) = echo_proxy.connections
    assert connection.up_bytes == connection.down_bytes == 1_000_000


@pytest.mark.parametrize("fault", ["blackhole", "pause_downstream", "stop_reading_client"])
def test_tcp_proxy_holds_back_until_it_resumes(echo_proxy: TcpProxy, fault: str) -> None:
    with connect(echo_proxy.port) as client:
        round_trip(client, b"before")
        getattr(echo_proxy, fault)()
        client.sendall(b"during")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert echo_proxy.up_bytes == (12 if fault == "pause_downstream" else 6)
        client.settimeout(5)
        echo_proxy.resume()
        assert read_exactly(client, 6) == b"during"


def test_tcp_proxy_trickles(echo_proxy: TcpProxy) -> None:
    echo_proxy.trickle(1, interval=0.002)
    with connect(echo_proxy.port) as client:
        started = time.monotonic()
        round_trip(client, b"x" * 50)
        assert time.monotonic() - started > 0.09
        echo_proxy.trickle(3)
        round_trip(client, b"y" * 5000)


def test_tcp_proxy_truncates(echo_proxy: TcpProxy) -> None:
    with connect(echo_proxy.port) as client:
        round_trip(client, b"whole")
        echo_proxy.truncate_after(3)
        client.sendall(b"truncated")
        assert read_exactly(client, 3) == b"tru"
        assert client.recv(1) == b""
    assert echo_proxy.connections[0].ended == "truncated"
    with connect(echo_proxy.port) as client:
        round_trip(client, b"whole again")


def test_tcp_proxy_closes_and_resets(echo_proxy: TcpProxy) -> None:
    with connect(echo_proxy.port) as client:
        round_trip(client, b"x")
        echo_proxy.close()
        assert client.recv(1) == b""
    with connect(echo_proxy.port) as client:
        round_trip(client, b"x")
        echo_proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert [connection.ended for connection in echo_proxy.connections] == ["closed", "reset"]


def test_tcp_proxy_refuses_and_accepts_again(echo_proxy: TcpProxy) -> None:
    with connect(echo_proxy.port) as client:
        round_trip(client, b"x")
        echo_proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(echo_proxy.port)
        round_trip(client, b"still there")
    echo_proxy.accept_again()
    with connect(echo_proxy.port) as client:
        round_trip(client, b"x")


def test_tcp_proxy_passes_the_end_of_either_side_on() -> None:
    def one_byte(connection: socket.socket) -> None:
        connection.sendall(connection.recv(1))

    with (
        ScriptedServer(one_byte) as server,
        TcpProxy("127.0.0.1", server.port) as proxy,
        connect(proxy.port) as client,
    ):
        client.sendall(b"x")
        assert client.recv(2) == b"x"
        assert client.recv(2) == b""
        assert (proxy.up_bytes, proxy.down_bytes) == (1, 1)


# --- proxy programs -------------------------------------------------------------------------------


@pytest.mark.proxy
@pytest.mark.parametrize("credentials", [(), ("user", "secret")])
def test_http_proxy(credentials: tuple[str, ...]) -> None:
    with ScriptedServer(echo_bytes) as server, HttpProxy(*credentials) as proxy:
        tunnel = Proxy.from_url(proxy.url).connect("127.0.0.1", server.port, timeout=5)
        with tunnel:
            round_trip(tunnel, b"through")
        proxy.wait_logged(f"CONNECT 127.0.0.1:{server.port}")
        if credentials:
            with connect(proxy.port) as client:
                client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % server.port)
                assert client.recv(12).endswith(b" 407")


@pytest.mark.proxy
@pytest.mark.parametrize("credentials", [(), ("user", "secret")])
def test_socks_proxy(credentials: tuple[str, ...]) -> None:
    with ScriptedServer(echo_bytes) as server, SocksProxy(*credentials) as proxy:
        url = proxy.url.replace("socks5h", "socks5")
        tunnel = Proxy.from_url(url, rdns=True).connect("localhost", server.port, timeout=5)
        with tunnel:
            round_trip(tunnel, b"through")
        proxy.wait_logged(f"connected to localhost:{server.port}")
        if credentials:
            with connect(proxy.port) as client:
                client.sendall(b"\x05\x01\x00")
                assert client.recv(2) == b"\x05\xff"


# --- the fuzzing server's reports -----------------------------------------------------------------


def test_reports_are_read(tmp_path: Path) -> None:
    def entry(behavior: str, close: str) -> dict[str, object]:
        return {
            "behavior": behavior,
            "behaviorClose": close,
            "duration": 2,
            "remoteCloseCode": None,
            "reportfile": "x.json",
        }

    written = {
        "fastpos": {
            "1.1.1": entry("OK", "OK"),
            "1.1.2": entry("FAILED", "OK"),
            "1.1.3": entry("NON-STRICT", "UNCLEAN"),
            "1.1.4": entry("INFORMATIONAL", "INFORMATIONAL"),
        }
    }
    (tmp_path / "index.json").write_text(json.dumps(written))

    results = read_reports(tmp_path, "fastpos")
    assert results["1.1.1"] == CaseResult("1.1.1", "OK", "OK", 2, None)
    assert [case for case, result in results.items() if result.failed] == ["1.1.2"]
    assert [case for case, result in results.items() if result.unclean] == ["1.1.3"]
    assert read_reports(tmp_path, "another") == {}


def test_without_python27_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTPOS_PYTHON27", str(tmp_path / "missing"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match=r"no CPython 2\.7"):
        find_python27()
