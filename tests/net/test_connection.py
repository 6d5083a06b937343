"""Connections and links over real sockets: reading, sending, ending, faults, threads.

What frames and replies mean needs no socket (see test_frames.py, test_session.py). Most tests run
over plain TCP, over it as on systems without MSG_DONTWAIT, and over TLS.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest

from fastpos.errors import ConnectionFailed
from fastpos.net import transport as transport_module
from fastpos.net.connection import Connection
from fastpos.net.transport import MAX_PENDING, Transport
from fastpos.runtime.link import Buffers, Link
from fastpos.wire.credential import Credential
from fastpos.wire.scratch import SCRATCH_SIZE as BUFFER_SIZE
from fastpos.wire.session import (
    Closed,
    Event,
    Phase,
    Pong,
    Pushes,
    Session,
    Subscribed,
    Timing,
)
from tests.support.certificates import Certificates
from tests.support.connections import Client, at_once, concurrently, opened, read_until_end, take
from tests.support.frames import (
    BINARY,
    PING,
    TEXT,
    ClientFrame,
    close_frame,
    frame,
    frames,
    read_frame,
    text_frame,
)
from tests.support.pushes import order, push_frame
from tests.support.recording import until
from tests.support.servers import ScriptedServer, answer_until_close
from tests.support.upgrade import accept_upgrade

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
    def serve(handler: Handler, **options: Any) -> Iterator[tuple[Client, ScriptedServer]]:
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
        connection.send("grün")
        connection.send(large, BINARY, timeout=10)
        assert take(connection, 2) == [(TEXT, "grün"), (BINARY, large)]
        assert connection.bytes_received > len(large)
        assert connection.reads > 1
        connection.close(1000, "done")
        messages, ended = read_until_end(connection)
    assert messages == []
    assert ended.close_code == 1000
    assert ended.error is None
    assert "done" in ended.reason


def test_a_hundred_thousand_frames_in_one_burst(serving: Serving) -> None:
    count = 100_000
    burst = b"".join(frame(BINARY, struct.pack("!I", number)) for number in range(count))

    with serving(lambda peer: peer.sendall(burst)) as (connection, _):
        messages, ended = read_until_end(connection)
        assert connection.reads < count / 100
    assert messages == [(BINARY, struct.pack("!I", number)) for number in range(count)]
    assert ended.close_code is None


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


# --- links: a connection with its session ---------------------------------------------------------


@contextmanager
def linked(handler: Handler, **timing: float) -> Iterator[Link]:
    """A link to a server that has upgraded, and then calls the handler."""

    def upgraded(peer: socket.socket) -> None:
        accept_upgrade(peer)
        handler(peer)

    credential = Credential("token", "s3cret")

    def new_session(now: float) -> Session:
        return Session(credential, credential.get(), 7, Timing(**timing), now)

    with ScriptedServer(upgraded) as server:
        link = Link(Connection(server.url), new_session, Buffers(), lambda _: None)
        assert link.open() is None
        yield link
        link.end()


def events_of(link: Link) -> list[Event]:
    """All events, up to the end."""
    events: list[Event] = []
    while not events or type(events[-1]) is not Closed:
        link.read()
        events += iter(link.next_event, None)
    return events


def end_of(link: Link) -> Closed:
    closed = events_of(link)[-1]
    assert isinstance(closed, Closed)
    return closed


def test_a_pong_that_fails_takes_no_message_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BrokenPipeError("gone")

    push = order(1)
    with linked(lambda peer: peer.sendall(frame(PING) + push_frame(push))) as link:
        monkeypatch.setattr(Transport, "send", fail)
        events = events_of(link)
        monkeypatch.undo()
    assert events[:-1] == [Pushes([json.dumps(push).encode()])]
    assert isinstance(events[-1].error, ConnectionFailed)  # type: ignore[union-attr]


def test_a_server_that_pings_and_reads_nothing() -> None:
    def flood(peer: socket.socket) -> None:
        pings = frame(PING, bytes(125)) * 2000
        while True:
            peer.sendall(pings)

    with linked(flood) as link, at_once(20):
        closed = end_of(link)
    assert isinstance(closed.error, ConnectionFailed)
    assert "does not read" in closed.reason


@pytest.mark.parametrize("manner", ["silent", "talking"])
def test_a_server_that_closes_and_stays_is_left(
    manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastpos.wire.session.CLOSE_TIMEOUT", 0.2)
    left = threading.Event()

    def stay(peer: socket.socket) -> None:
        peer.sendall(close_frame(1000))
        while not left.is_set():
            if manner == "talking":
                peer.sendall(frame(TEXT, bytes(1000)))
            else:
                left.wait(10)

    with linked(stay) as link:
        started = time.monotonic()
        assert end_of(link).close_code == 1000
        link.end()
        assert 0.15 < time.monotonic() - started < 8
        left.set()


def test_a_server_that_closes_is_given_the_end_of_the_connection() -> None:
    heard: list[ClientFrame] = []

    def close(peer: socket.socket) -> None:
        peer.sendall(close_frame(4000, b"bye") + frame(TEXT, b"no more"))
        heard.extend(frames(peer))

    with linked(close) as link, at_once():
        assert end_of(link) == Closed("closed by the server with code 4000: bye", 4000, None)
        assert link.has_ended
    assert [last.payload for last in heard] == [b"\x0f\xa0"]


def test_what_is_asked_of_a_link_from_another_thread_is_sent() -> None:
    heard: list[bytes] = []

    def serve(peer: socket.socket) -> None:
        peer.sendall(text_frame("connect success") + text_frame("sub success"))
        heard.extend(got.payload for got in answer_until_close(peer))

    with linked(serve) as link, concurrently(lambda: end_of(link)) as ended:
        until(lambda: link.session.phase is Phase.READY)  # type: ignore[union-attr]
        assert link.follow(False)
        assert not link.follow(False)
        assert not link.follow(True)
        link.close()
        assert ended.result(5).close_code == 1000
    assert [json.loads(text)["event"] for text in heard[:-1]] == ["sub", "unsub"] * 2


def test_abort_wakes_the_reader() -> None:
    error, done = ConnectionFailed("no pong"), threading.Event()
    with linked(lambda _: done.wait(20)) as link:
        with concurrently(lambda: end_of(link)) as reading:
            until(link._is_silent)
            with at_once():
                link.abort("no pong came", error)
                link.abort("another reason")
                closed = reading.result(5)
        link.abort("late")
        link.close()
        done.set()
    assert closed == Closed("no pong came", None, error)


def test_abort_before_opening() -> None:
    with ScriptedServer(accept_upgrade) as server:
        link = Link(Connection(server.url), lambda _: pytest.fail("no session"), Buffers(), int)  # type: ignore[arg-type, return-value]
        link.close()
        assert link.open() == Closed("stopped", None, None)
        assert not link.follow(False)
        assert link.keep_schedule(1e9) == inf
        link.end()
    assert server.accepted == 0


def test_a_deadline_counts_only_when_the_reader_has_caught_up() -> None:
    """A pong that lies unread is not missing, however late it is."""
    go_on, handling, handled = threading.Event(), threading.Event(), threading.Event()

    def serve(peer: socket.socket) -> None:
        peer.sendall(text_frame("connect success") + text_frame("sub success"))
        handling.wait(10)
        peer.sendall(text_frame('{"pong":1}'))
        for _ in frames(peer):
            pass

    def read(link: Link) -> Closed:
        while not isinstance(link.next_event(), Subscribed):
            link.read()
        handling.set()
        go_on.wait(10)
        while not isinstance(link.next_event(), Pong):
            link.read()
        handled.set()
        return end_of(link)

    with (
        linked(serve, ping_interval=100.0, pong_timeout=10.0) as link,
        concurrently(lambda: read(link)) as reading,
    ):
        assert handling.wait(5)
        until(link._connection.unread)
        began = time.monotonic()
        assert link.keep_schedule(began + 100) == pytest.approx(began + 110, abs=1)
        for later in (110.1, 120, 130, 150):  # it is in a callback
            assert link.keep_schedule(began + later) > began + later
        go_on.set()
        assert handled.wait(5)
        until(link._is_silent)
        due = link.keep_schedule(began + 160)
        assert not link.has_ended
        # The next is really missing: twice silent, and for a while.
        link.keep_schedule(began + 205)
        for later in (225.0, 225.1, 225.2):
            link.keep_schedule(began + later)
            assert not link.has_ended, due
        assert link.keep_schedule(began + 225.3) == inf
        closed = reading.result(5)
    assert closed.reason == "no pong within 10 s"


def test_a_pong_may_be_asked_for_and_no_more_often_than_each_second() -> None:
    def serve(peer: socket.socket) -> None:
        peer.sendall(text_frame("connect success"))
        peer.sendall(text_frame("sub success"))
        for _ in frames(peer):
            pass

    with linked(serve, ping_interval=100.0, pong_timeout=1000.0) as link:
        session = link.session
        assert session is not None
        began = session.pinged
        link.ask_for_pong()  # nothing may be asked before it is subscribed
        assert link.keep_schedule(began + 0.5) > began + 2
        while not isinstance(link.next_event(), Subscribed):
            link.read()
        assert link.keep_schedule(began + 5) == pytest.approx(began + 100)
        assert session.pings == 0
        link.ask_for_pong()
        link.keep_schedule(began + 6)
        assert (session.pings, session.pinged) == (1, began + 6)
        for later in 6.1, 6.5, 6.9:
            link.ask_for_pong()
            assert link.keep_schedule(began + later) == pytest.approx(began + 7)
        link.keep_schedule(began + 7)
        assert (session.pings, session.pinged) == (2, began + 7)
        assert link.keep_schedule(began + 8) > began + 100


# --- ending ---------------------------------------------------------------------------------------


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

    def send_too_much(connection: Client) -> float:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="does not read"):
            connection.send(bytes(20_000_000), BINARY, timeout=0.3)
        return time.monotonic() - started

    with serving(never_read) as (connection, _):
        with concurrently(lambda: send_too_much(connection)) as sending:
            messages = take(connection, 50)
            assert sent_all.wait(5)
        assert 0.25 < sending.result() < 15
        done.set()
    assert messages == [(TEXT, str(number)) for number in range(50)]


def test_what_waits_to_be_sent_is_bounded(serving: Serving) -> None:
    done = threading.Event()

    with serving(lambda _: done.wait(20)) as (connection, _):
        transport = connection.connection._transport
        assert transport is not None

        def send_until_refused() -> None:  # the system may find room for some of it at any time
            while len(transport._pending) < 2 * MAX_PENDING:
                connection.send("x" * 1000)

        with at_once(20), pytest.raises(TimeoutError, match="does not read"):
            send_until_refused()
        assert MAX_PENDING < len(transport._pending) < MAX_PENDING + 2000
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
        transport = connection.connection._transport
        assert transport is not None
        sent = 0
        while not transport._pending:
            connection.send("x" * 1000)
            sent += 1
        threading.Timer(0.1, go_on.set).start()  # by then the sender waits
        connection.send(b"", BINARY, timeout=10)
        assert not transport._pending
        connection.end()
        server.wait_finished(1)
    assert count == sent + 1


def test_a_ctrl_c_right_after_a_send_does_not_have_it_sent_again() -> None:
    class Interrupted:
        def send(self, data: bytes, flags: int) -> int:
            near.send(data, flags)
            raise KeyboardInterrupt

    near, far = socket.socketpair()
    with near, far:
        transport = Transport(near)
        transport._sock = Interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            transport.send(b"pong", 1)
        transport._sock = near
        transport.send(b"close", 1)
        assert far.recv(100) == b"pongclose"


def test_a_sender_that_waits_is_woken_when_the_reader_closes(serving: Serving) -> None:
    done = threading.Event()

    def send(connection: Client) -> None:
        with pytest.raises(OSError, match=r"closed|pipe"):
            connection.send(bytes(20_000_000), BINARY, timeout=30)

    with serving(lambda _: done.wait(20)) as (connection, _):
        transport = connection.connection._transport
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

    def send(connection: Client, name: str) -> None:
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


def test_shutdown_wakes_the_reader_and_is_harmless_later(serving: Serving) -> None:
    done = threading.Event()
    with serving(lambda _: done.wait(20)) as (client, _):
        with concurrently(lambda: read_until_end(client)) as reading:
            until(client.silent)
            with at_once():
                client.connection.shutdown()
                messages, ended = reading.result(5)
        client.end()
        client.end()
        client.connection.shutdown()
        client.close()
        with pytest.raises(ConnectionAbortedError):
            client.connection.unread()
        done.set()
    assert messages == []
    assert "lost" in ended.reason
