"""Connections over real sockets: messages, control frames, closing, faults, threads.

Most tests run over plain TCP, over it as on systems without MSG_DONTWAIT, and over TLS.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastpos.errors import ConnectionFailed, ProtocolError
from fastpos.net import connection as connection_module
from fastpos.net import transport as transport_module
from fastpos.net.connection import Connection, ConnectionEnded
from fastpos.net.transport import MAX_PENDING, Transport
from fastpos.wire.frames import BUFFER_SIZE
from tests.certificates import Certificates
from tests.connections import at_once, concurrently, opened, read_until_end, take
from tests.recording import answer_until_close, serve_subscription, until
from tests.servers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ClientFrame,
    ScriptedServer,
    TcpProxy,
    accept_upgrade,
    close_frame,
    frame,
    frames,
    read_frame,
)

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

Handler = Callable[[socket.socket], object]
Serving = Callable[..., Any]


@pytest.fixture(params=["tcp", "tcp without dontwait", "tls"])
def serving(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Serving:
    """`with serving(handler) as (connection, server)`: after the upgrade the handler is called."""
    if request.param == "tcp without dontwait":
        monkeypatch.setattr(transport_module, "_DONTWAIT", 0)
    tls = request.param == "tls"

    @contextmanager
    def serve(handler: Handler, **options: Any) -> Iterator[tuple[Connection, ScriptedServer]]:
        def upgraded(peer: socket.socket) -> None:
            accept_upgrade(peer)
            handler(peer)

        if tls:
            options["ssl_context"] = certificates.client_context()
        with (
            ScriptedServer(upgraded, certificates.good.context() if tls else None) as server,
            opened(server.url, **options) as connection,
        ):
            yield connection, server

    return serve


# --- messages -------------------------------------------------------------------------------------


def test_messages_both_ways(serving: Serving) -> None:
    large = bytes(range(256)) * 2000

    def echo(peer: socket.socket) -> None:
        for received in frames(peer):
            assert received.mask is not None
            assert received.fin
            assert not received.rsv
            peer.sendall(frame(received.opcode, received.payload))

    with serving(echo) as (connection, _):
        before = time.time_ns()
        connection.send("grün")
        connection.send(large, BINARY, timeout=10)
        assert take(connection, 2) == [(TEXT, "grün"), (BINARY, large)]
        assert before <= connection.received_ns <= time.time_ns()
        assert connection.bytes_received > len(large)
        assert connection.reads > 1
        connection.close(1000, "done")
        messages, ended = read_until_end(connection)
    assert messages == []
    assert ended.close_code == 1000
    assert ended.error is None
    assert "done" in ended.reason


def test_frames_that_come_with_the_upgrade_are_not_lost() -> None:
    def serve(peer: socket.socket) -> None:
        accept_upgrade(peer, frame(TEXT, b"first") + frame(TEXT, b"second"))

    with ScriptedServer(serve) as server, opened(server.url) as connection:
        assert take(connection, 2) == [(TEXT, "first"), (TEXT, "second")]


def test_a_hundred_thousand_frames_in_one_burst(serving: Serving) -> None:
    count = 100_000
    burst = b"".join(frame(BINARY, struct.pack("!I", number)) for number in range(count))

    with serving(lambda peer: peer.sendall(burst)) as (connection, _):
        messages, ended = read_until_end(connection)
        assert connection.reads < count / 100
    assert messages == [(BINARY, struct.pack("!I", number)) for number in range(count)]
    assert ended.close_code is None


def test_one_byte_at_a_time(serving: Serving) -> None:
    wire = (
        frame(TEXT, "grün".encode())
        + frame(BINARY, bytes(200), fin=False)
        + frame(PING, b"in between")
        + frame(CONTINUATION, bytes(100))
        + close_frame(1001)
    )
    pongs: list[ClientFrame] = []

    def trickle(peer: socket.socket) -> None:
        for byte in wire:
            peer.sendall(bytes([byte]))
        pongs.extend(frames(peer))

    with serving(trickle) as (connection, server):
        messages, ended = read_until_end(connection)
        connection.end()
        server.wait_finished(1)
    assert messages == [(TEXT, "grün"), (BINARY, bytes(300))]
    assert ended.close_code == 1001
    assert [(pong.opcode, pong.payload) for pong in pongs] == [
        (PONG, b"in between"),
        (CLOSE, b"\x03\xe9"),
    ]


def test_a_server_that_stops_within_a_frame(serving: Serving) -> None:
    go_on = threading.Event()

    def stop(peer: socket.socket) -> None:
        peer.sendall(frame(TEXT, b"whole") + frame(BINARY, bytes(70_000))[:50_000])
        go_on.wait(10)

    with serving(stop) as (connection, _):
        assert take(connection, 1) == [(TEXT, "whole")]
        until(lambda: not list(connection.receive(0)) and connection.bytes_received > 50_000)
        with at_once():
            assert list(connection.receive(0.05)) == []
        assert connection.silent() is False  # nobody reads just now
        go_on.set()
        messages, ended = read_until_end(connection)
    assert messages == []
    assert ended.close_code is None
    assert isinstance(ended.error, ConnectionFailed)
    assert "lost" in ended.reason


def test_a_read_that_fills_the_buffer_is_not_waited_on_again(serving: Serving) -> None:
    done = threading.Event()

    def fill(peer: socket.socket) -> None:
        peer.sendall(frame(BINARY, bytes(BUFFER_SIZE - 4)))  # with its header as large as that
        done.wait(10)

    with serving(fill) as (connection, _):
        assert take(connection, 1) == [(BINARY, bytes(BUFFER_SIZE - 4))]
        with at_once():
            assert list(connection.receive(0.01)) == []
            assert list(connection.receive(0.01)) == []
        done.set()


# --- control frames -------------------------------------------------------------------------------


def test_pings_are_answered_and_pongs_are_not(serving: Serving) -> None:
    answers: list[ClientFrame] = []

    def ping(peer: socket.socket) -> None:
        peer.sendall(frame(PONG, b"nobody asked") + frame(PING) + frame(PING, b"x" * 125))
        answers.extend(read_frame(peer) for _ in range(2))
        peer.sendall(frame(TEXT, b"after"))

    with serving(ping) as (connection, _):
        messages, _ = read_until_end(connection)
    assert messages == [(TEXT, "after")]
    assert [(pong.opcode, pong.payload) for pong in answers] == [(PONG, b""), (PONG, b"x" * 125)]
    assert all(pong.mask is not None for pong in answers)


def test_a_pong_that_fails_takes_no_message_along(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BrokenPipeError("gone")

    with serving(lambda peer: peer.sendall(frame(PING) + frame(TEXT, b"last"))) as (connection, _):
        monkeypatch.setattr(Transport, "send", fail)
        messages, ended = read_until_end(connection)
    assert messages == [(TEXT, "last")]
    assert isinstance(ended.error, ConnectionFailed)


def test_a_server_that_pings_and_reads_nothing(serving: Serving) -> None:
    def flood(peer: socket.socket) -> None:
        pings = frame(PING, bytes(125)) * 2000
        while True:
            peer.sendall(pings)

    with serving(flood) as (connection, _), at_once(20):
        messages, ended = read_until_end(connection)
    assert messages == []
    assert isinstance(ended.error, ConnectionFailed)
    assert "does not read" in ended.reason


# --- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "code", "answer"),
    [
        (b"\x03\xe8", 1000, b"\x03\xe8"),
        (b"\x03\xe9bye", 1001, b"\x03\xe9"),
        (b"\x0f\xa0", 4000, b"\x0f\xa0"),
        (b"", 1005, b""),
    ],
)
def test_the_server_closes(serving: Serving, payload: bytes, code: int, answer: bytes) -> None:
    heard: list[ClientFrame] = []

    def close(peer: socket.socket) -> None:
        peer.sendall(frame(TEXT, b"last words") + frame(CLOSE, payload) + frame(TEXT, b"no more"))
        heard.extend(frames(peer))

    with serving(close) as (connection, server), at_once():
        messages, ended = read_until_end(connection)
        connection.send("too late")
        connection.end()
        server.wait_finished(1)
    assert messages == [(TEXT, "last words")]
    assert (ended.close_code, ended.error) == (code, None)
    assert str(code) in ended.reason
    assert ("bye" in ended.reason) == (b"bye" in payload)
    assert [(last.opcode, last.payload) for last in heard] == [(CLOSE, answer)]


def test_the_client_closes(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.1)
    heard: list[ClientFrame] = []

    def answer(peer: socket.socket) -> None:
        peer.sendall(frame(TEXT, b"under way"))
        heard.extend(answer_until_close(peer))
        with pytest.raises(ConnectionError):
            heard.append(read_frame(peer))

    with serving(answer) as (connection, server):
        connection.send("hello")
        connection.close(1000, "enough")
        connection.close(1001)
        connection.send("nobody hears this")
        messages, ended = read_until_end(connection)
        connection.end()
        server.wait_finished(1)
    assert messages == [(TEXT, "under way")]
    assert (ended.close_code, ended.error) == (1000, None)
    assert [last.payload for last in heard] == [b"hello", b"\x03\xe8enough"]


def test_what_the_server_says_is_hidden_where_it_must_be(serving: Serving) -> None:
    def close(peer: socket.socket) -> None:
        peer.sendall(close_frame(1008, b"token s3cret is wrong"))

    with serving(close, hide=lambda text: text.replace("s3cret", "***")) as (connection, _):
        _, ended = read_until_end(connection)
    assert "token *** is wrong" in ended.reason


@pytest.mark.parametrize("manner", ["silent", "talking"])
def test_a_server_that_closes_and_stays_is_left(
    serving: Serving, manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.2)
    left = threading.Event()

    def stay(peer: socket.socket) -> None:
        peer.sendall(close_frame(1000))
        while not left.is_set():
            if manner == "talking":
                peer.sendall(frame(TEXT, bytes(1000)))
            else:
                left.wait(10)

    with serving(stay) as (connection, _):
        started = time.monotonic()
        _, ended = read_until_end(connection)
        assert 0.15 < time.monotonic() - started < 3
        left.set()
    assert ended.close_code == 1000


def test_an_end_without_a_close_frame_is_unclean(serving: Serving) -> None:
    for abruptly in (False, True):

        def leave(peer: socket.socket, abruptly: bool = abruptly) -> None:
            peer.sendall(frame(TEXT, b"x"))
            read_frame(peer)
            if abruptly:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with serving(leave) as (connection, _):
            assert take(connection, 1) == [(TEXT, "x")]
            connection.send("read")
            messages, ended = read_until_end(connection)
        assert messages == []
        assert ended.close_code is None
        assert isinstance(ended.error, ConnectionFailed)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(3), 1002),
        (frame(TEXT, b"x", masked=True), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, announce=1001), 1009),
    ],
)
def test_a_protocol_error_is_told_to_the_server(serving: Serving, wrong: bytes, code: int) -> None:
    heard: list[ClientFrame] = []

    def break_the_protocol(peer: socket.socket) -> None:
        peer.sendall(frame(TEXT, b"good") + wrong + frame(TEXT, b"good again") * 1000)
        heard.extend(frames(peer))

    with serving(break_the_protocol, max_message_size=1000) as (connection, server), at_once():
        messages, ended = read_until_end(connection)
        connection.end()
        server.wait_finished(1)
    assert messages == [(TEXT, "good")]
    assert ended.close_code is None
    assert isinstance(ended.error, ProtocolError)
    assert ended.error.close_code == code
    assert [last.close_code for last in heard] == [code]


def test_a_stream_that_stops_waits_a_bounded_time(new_stream: Callable[..., Any]) -> None:
    heard: list[ClientFrame] = []
    gone = threading.Event()

    def ignore(peer: socket.socket) -> None:
        heard.append(serve_subscription(peer))
        heard.extend(frames(peer))
        gone.wait(20)

    with ScriptedServer(ignore) as server:
        stream = new_stream(server.url).start()
        assert stream.wait_ready(5)
        with at_once(connection_module.CLOSE_TIMEOUT + 2):
            stream.stop()
        assert stream.join(0)
        gone.set()
    assert [last.opcode for last in heard] == [TEXT, TEXT, CLOSE]
    assert heard[-1].close_code == 1000


# --- sending to one who does not read -------------------------------------------------------------


def test_a_send_that_cannot_be_completed_fails_while_data_is_read(serving: Serving) -> None:
    sent_all, done = threading.Event(), threading.Event()

    def never_read(peer: socket.socket) -> None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for number in range(50):
            peer.sendall(frame(TEXT, str(number).encode()))
            done.wait(0.002)
        sent_all.set()
        done.wait(20)

    def send_too_much(connection: Connection) -> float:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="does not read"):
            connection.send(bytes(20_000_000), BINARY, timeout=0.3)
        return time.monotonic() - started

    with serving(never_read) as (connection, _):
        with concurrently(lambda: send_too_much(connection)) as sending:
            messages = take(connection, 50)
            assert sent_all.wait(5)
        assert 0.25 < sending.result() < 5
        done.set()
    assert messages == [(TEXT, str(number)) for number in range(50)]


def test_what_waits_to_be_sent_is_bounded(serving: Serving) -> None:
    done = threading.Event()

    with serving(lambda _: done.wait(20)) as (connection, _):
        transport = connection._transport
        assert transport is not None
        with at_once(20):
            while len(transport._pending) <= MAX_PENDING - 2000:
                connection.send("x" * 1000)
        with pytest.raises(TimeoutError, match="does not read"):
            connection.send("x" * 2000)
        assert MAX_PENDING < len(transport._pending) < MAX_PENDING + 3000
        done.set()


def test_what_could_not_be_sent_at_once_goes_out_with_the_next(serving: Serving) -> None:
    go_on, count = threading.Event(), 0

    def read_late(peer: socket.socket) -> None:
        nonlocal count
        go_on.wait(10)
        for received in frames(peer):
            assert received.payload in (b"x" * 1000, b"")
            count += 1

    with serving(read_late) as (connection, server):
        transport = connection._transport
        assert transport is not None
        sent = 0
        while not transport._pending:
            connection.send("x" * 1000)
            sent += 1
        go_on.set()
        connection.send(b"", BINARY, timeout=10)
        assert not transport._pending
        connection.end()
        server.wait_finished(1)
    assert count == sent + 1


def test_a_sender_that_waits_is_woken_when_the_reader_closes(serving: Serving) -> None:
    done = threading.Event()

    def send(connection: Connection) -> None:
        with pytest.raises(OSError, match=r"closed|pipe"):
            connection.send(bytes(20_000_000), BINARY, timeout=30)

    with serving(lambda _: done.wait(20)) as (connection, _):
        transport = connection._transport
        assert transport is not None
        with at_once(10), concurrently(lambda: send(connection)):
            until(lambda: transport._pending)
            connection.end()
        with pytest.raises(ConnectionAbortedError):
            connection.send("x")
        done.set()


# --- threads --------------------------------------------------------------------------------------


def test_senders_do_not_mix_up_their_frames(serving: Serving) -> None:
    heard: list[ClientFrame] = []

    def listen(peer: socket.socket) -> None:
        heard.extend(frames(peer))
        peer.sendall(close_frame(1000))

    def send(connection: Connection, name: str) -> None:
        for number in range(300):
            connection.send(f"{name} {number} " + name * (number % 7 * 500), timeout=10)

    with serving(listen) as (connection, _):
        with (
            concurrently(lambda: send(connection, "a")),
            concurrently(lambda: send(connection, "b")),
        ):
            pass
        connection.close()
        _, ended = read_until_end(connection)
    assert ended.close_code == 1000
    for name in "ab":
        texts = [sent.payload.decode() for sent in heard if sent.payload.startswith(name.encode())]
        assert texts == [f"{name} {n} " + name * (n % 7 * 500) for n in range(300)]


def test_abort_wakes_the_reader(serving: Serving) -> None:
    error = ConnectionFailed("no pong")
    done = threading.Event()

    with serving(lambda _: done.wait(20)) as (connection, _):
        with concurrently(lambda: read_until_end(connection)) as reading:
            until(connection.silent)
            with at_once():
                connection.abort("no pong came", error)
                connection.abort("another reason")
                messages, ended = reading.result(5)
        done.set()
    assert messages == []
    assert (ended.reason, ended.close_code, ended.error) == ("no pong came", None, error)


def test_abort_after_the_end_is_harmless(serving: Serving) -> None:
    with serving(lambda _: None) as (connection, _):
        read_until_end(connection)
        connection.end()
        connection.end()
        connection.abort("late")
        connection.close()
        assert connection.silent() is False


def test_abort_before_opening() -> None:
    with ScriptedServer(accept_upgrade) as server:
        connection = Connection(server.url)
        connection.abort("changed my mind")
        with pytest.raises(ConnectionEnded, match="changed my mind"):
            connection.open()
        connection.end()
    assert server.accepted == 0


def test_silent_means_that_all_was_handled(serving: Serving) -> None:
    steps = threading.Semaphore(0)
    handling, go_on = threading.Event(), threading.Event()

    def push(peer: socket.socket) -> None:
        for _ in range(2):
            steps.acquire(timeout=10)
            peer.sendall(frame(TEXT, b"x"))
        steps.acquire(timeout=10)

    def read(connection: Connection) -> None:
        while not handling.is_set():
            for _ in connection.receive():
                handling.set()
                go_on.wait(10)
        take(connection, 1)

    with serving(push) as (connection, _):
        assert not connection.silent()
        with concurrently(lambda: read(connection)):
            until(connection.silent)
            steps.release()
            assert handling.wait(5)
            assert not connection.silent()
            go_on.set()
            until(connection.silent)
            steps.release()
        steps.release()


# --- faults of the network ------------------------------------------------------------------------


def test_faults_of_a_network() -> None:
    def echo(peer: socket.socket) -> None:
        accept_upgrade(peer)
        for received in frames(peer):
            peer.sendall(frame(received.opcode, received.payload))

    with ScriptedServer(echo) as server, TcpProxy("127.0.0.1", server.port) as proxy:
        proxy.trickle(1)
        with opened(proxy.url()) as connection:
            connection.send("slow" * 100)
            assert take(connection, 1) == [(TEXT, "slow" * 100)]
            proxy.resume()
            proxy.pause_downstream()
            connection.send("held back")
            assert list(connection.receive(0.05)) == []
            proxy.resume()
            assert take(connection, 1) == [(TEXT, "held back")]
            proxy.truncate_after(3)
            connection.send("truncated")
            messages, ended = read_until_end(connection)
            assert messages == []
            assert ended.close_code is None
        with opened(proxy.url()) as connection:
            proxy.reset()
            messages, ended = read_until_end(connection)
            assert isinstance(ended.error, ConnectionFailed)
