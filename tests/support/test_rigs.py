"""What the other tests rely on and would not miss: a fault is one, and a failure shows."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.fuzzingserver import CaseResult, read_reports
from tests.support.certificates import Certificates
from tests.support.frames import (
    BINARY,
    PING,
    TEXT,
    close_frame,
    frame,
    read_exactly,
    read_frame,
)
from tests.support.network import TcpProxy
from tests.support.openssl import OpensslServer
from tests.support.pushes import ALTERED, MEMBERS, member
from tests.support.servers import ScriptedServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def echo(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            connection.sendall(data)


def round_trip(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    assert read_exactly(client, len(data)) == data


# --- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (frame(TEXT, b"hi"), b"\x81\x02hi"),
        (frame(BINARY, b"hi", fin=False, rsv=4), b"\x42\x02hi"),
        (frame(BINARY, b"hi", length_form=16), b"\x82\x7e\x00\x02hi"),
        (frame(BINARY, b"hi", length_form=64), b"\x82\x7f" + bytes(7) + b"\x02hi"),
        (frame(BINARY, bytes(126))[:4], b"\x82\x7e\x00\x7e"),
        (frame(BINARY, bytes(65536))[:10], b"\x82\x7f\0\0\0\0\0\1\0\0"),
        (frame(BINARY, announce=1 << 40)[2:], (1 << 40).to_bytes(8, "big")),
        (frame(PING, b"\xff\0", masked=b"\xf0\x0f\0\0"), b"\x89\x82\xf0\x0f\0\0\x0f\x0f"),
        (close_frame(1002, b"no"), b"\x88\x04\x03\xeano"),
        (close_frame(), b"\x88\x00"),
    ],
)
def test_frames_are_built_as_asked(built: bytes, expected: bytes) -> None:
    assert built == expected


def test_no_altered_member_is_a_good_one() -> None:
    assert member(b"{}", flags=31) not in MEMBERS
    assert not {data for data, _ in ALTERED.values()} & set(MEMBERS)


# --- servers --------------------------------------------------------------------------------------


def test_a_failing_handler_fails_the_test() -> None:
    def fail(connection: socket.socket) -> None:
        raise AssertionError("seen")

    def session() -> None:
        with ScriptedServer(fail) as server, connect(server.port) as client:
            assert client.recv(1) == b""

    with pytest.raises(AssertionError, match="seen"):
        session()


def test_openssl_server_takes_no_data_for_commands(certificates: Certificates) -> None:
    context = certificates.client_context()
    with (
        OpensslServer(certificates.good.pem) as server,
        context.wrap_socket(connect(server.port), server_hostname="localhost") as client,
    ):
        # Bytes that s_server would take for commands, anywhere but at the beginning.
        sent = frame(BINARY, bytes(range(256)) * 400 + b"Q" * 4000 + b"\nQ\nK\n")
        writer = threading.Thread(target=server.sendall, args=(sent,))
        writer.start()
        assert read_exactly(client, len(sent)) == sent
        writer.join()
        with pytest.raises(ValueError, match="command"):
            server.sendall(b"Quit")
        client.sendall(frame(TEXT, b"Read BLOCK\n", masked=True))
        assert read_frame(server).payload == b"Read BLOCK\n"


# --- faults of the network ------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    with ScriptedServer(echo) as server, TcpProxy("127.0.0.1", server.port) as proxy:
        yield proxy


def test_tcp_proxy_forwards_and_counts(proxy: TcpProxy) -> None:
    with connect(proxy.port) as client:
        thread = threading.Thread(target=client.sendall, args=(bytes(1_000_000),))
        thread.start()
        assert read_exactly(client, 1_000_000) == bytes(1_000_000)
        thread.join()
        assert proxy.open_connections == 1
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert proxy.up_bytes == proxy.down_bytes == 1_000_000
    assert proxy.open_connections == 0


@pytest.mark.parametrize("fault", ["blackhole", "pause_downstream", "stop_reading_client"])
def test_tcp_proxy_holds_back_until_it_resumes(proxy: TcpProxy, fault: str) -> None:
    with connect(proxy.port) as client:
        round_trip(client, b"before")
        getattr(proxy, fault)()
        client.sendall(b"during")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert proxy.up_bytes == (12 if fault == "pause_downstream" else 6)
        client.settimeout(5)
        proxy.resume()
        assert read_exactly(client, 6) == b"during"


def test_tcp_proxy_trickles(proxy: TcpProxy) -> None:
    proxy.trickle(1, interval=0.002)
    with connect(proxy.port) as client:
        started = time.monotonic()
        round_trip(client, b"x" * 50)
        assert time.monotonic() - started > 0.09
        proxy.trickle(3)
        round_trip(client, b"y" * 5000)


def test_tcp_proxy_ends_connections(proxy: TcpProxy) -> None:
    with connect(proxy.port) as client:
        round_trip(client, b"whole")
        proxy.truncate_after(3)
        client.sendall(b"truncated")
        assert read_exactly(client, 3) == b"tru"
        assert client.recv(1) == b""
    with connect(proxy.port) as client:
        round_trip(client, b"x")
        proxy.close()
        assert client.recv(1) == b""
    with connect(proxy.port) as client:
        round_trip(client, b"x")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy.port)
        round_trip(client, b"still there")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    proxy.accept_again()
    with connect(proxy.port) as client:
        round_trip(client, b"x")
    ended = [connection.ended for connection in proxy.connections]
    assert ended[:3] == ["truncated", "closed", "reset"]


# --- the fuzzing server's reports -----------------------------------------------------------------


def test_reports_are_read(tmp_path: Path) -> None:
    verdicts = {
        "1.1.1": ("OK", "OK"),
        "1.1.2": ("FAILED", "OK"),
        "1.1.3": ("NON-STRICT", "UNCLEAN"),
        "1.1.4": ("INFORMATIONAL", "INFORMATIONAL"),
    }
    entries = {
        case: {"behavior": one, "behaviorClose": end, "duration": 2, "remoteCloseCode": None}
        for case, (one, end) in verdicts.items()
    }
    (tmp_path / "index.json").write_text(json.dumps({"fastpos": entries}))
    results = read_reports(tmp_path, "fastpos")
    assert results["1.1.1"] == CaseResult("1.1.1", "OK", "OK")
    assert [case for case, result in results.items() if result.failed] == ["1.1.2"]
    assert [case for case, result in results.items() if result.unclean] == ["1.1.3"]
    assert read_reports(tmp_path, "another") == {}
