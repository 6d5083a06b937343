"""Pings, pongs and dead connections, over real sockets."""

from __future__ import annotations

import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable

import pytest

from fastpos import ConnectionFailed, PositionStream
from fastpos.simulator import Exchange
from tests.recording import (
    SOON,
    Recorder,
    answer_until_close,
    order,
    push_frame,
    serve_subscription,
    text_frame,
    until,
)
from tests.servers import PING, PONG, ScriptedServer, TcpProxy, frame, frames, read_frame

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

INTERVAL, PONG_TIMEOUT = 0.2, 0.3
"""Seconds, for tests in which no pong comes."""


def test_pings_keep_their_schedule_while_a_callback_is_slow(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    interval = 0.2
    release = threading.Event()
    with new_stream(exchange, ping_interval=interval, pong_timeout=SOON) as stream:
        stream.on_order(lambda _: release.wait(SOON))
        assert stream.wait_ready(SOON)
        assert exchange.wait_for("ping", count=2)
        exchange.push(order(1))
        recorder.wait("on_order")
        assert exchange.wait_for("ping", count=6)
        release.set()
        assert exchange.wait_for("ping", count=7)
    (connection,) = exchange.connections
    came = [when for when, _ in connection.pings[:7]]
    assert 0.5 * interval < came[0] - connection.connected_at < 1.5 * interval
    late = [when - (came[0] + number * interval) for number, when in enumerate(came)]
    # A busy machine may hold up one of them, but none moves those after it.
    assert statistics.median(late) < interval / 4, late
    assert max(late) - min(late) < interval, late
    assert exchange.violations == []  # among them: a ping's value is the time in ms


def test_ping_is_this_very_message(new_stream: NewStream) -> None:
    heard: list[bytes] = []
    before = time.time_ns() // 1_000_000

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        heard.append(read_frame(peer).payload)
        peer.sendall(text_frame('{"pong":1713338308233}'))
        answer_until_close(peer)

    with (
        ScriptedServer(serve) as server,
        new_stream(server.url, ping_interval=0.05, pong_timeout=SOON) as stream,
    ):
        until(lambda: stream.stats.last_pong_ns, what="a pong")
        stats = stream.stats
    name, value = heard[0].rstrip(b"}").split(b":")
    assert name == b'{"ping"'
    assert before <= int(value) <= time.time_ns() // 1_000_000
    assert stats.last_ping_ns is not None
    assert stats.last_pong_ns is not None
    assert stats.last_ping_ns <= stats.last_pong_ns
    assert stats.round_trip_s is not None
    assert 0 < stats.round_trip_s < SOON


@pytest.mark.parametrize("wrong", ["an hour back", "jumping"])
def test_the_clock_of_the_host_does_not_matter(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    exchange.ping_tolerance = 1e6
    real, calls = time.time_ns, itertools.count()
    offsets = [0, -3600] if wrong == "an hour back" else [0, 86400, -86400]

    def odd() -> int:
        number = next(calls)
        offset = offsets[min(number, 1) if len(offsets) == 2 else number % 3]
        return real() + offset * 10**9

    for module in ("wire.session", "runtime.link"):
        monkeypatch.setattr(f"fastpos.{module}.time_ns", odd)
    with new_stream(exchange, ping_interval=0.1, pong_timeout=1.0) as stream:
        assert stream.wait_ready(SOON)
        assert exchange.wait_for("ping", count=6)
        round_trip = stream.stats.round_trip_s
    (connection,) = exchange.connections
    came = [when for when, _ in connection.pings]
    assert came[5] - came[0] > 0.4
    assert round_trip is not None
    assert 0 < round_trip < SOON
    assert recorder.on_error == []


def test_pings_go_on_while_paused(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange, ping_interval=0.05, pong_timeout=1.0) as stream:
        assert stream.wait_ready(SOON)
        stream.unsubscribe()
        assert exchange.wait_for("unsub")
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 3)
        assert recorder.on_disconnect == []


# --- the server's part of the bargain -------------------------------------------------------------


def test_server_that_wants_pings_gets_them_in_time(
    new_stream: NewStream, recorder: Recorder
) -> None:
    with Exchange(ping_timeout=0.6) as exchange:
        with new_stream(exchange, ping_interval=0.15, pong_timeout=SOON) as stream:
            assert stream.wait_ready(SOON)
            assert exchange.wait_for("ping", count=8)
            exchange.push(order(1))
            recorder.wait("on_order")
        assert exchange.counts["timeout"] == 0
        assert len(exchange.connections) == 1


def test_server_that_misses_pings_disconnects_and_the_stream_comes_back(
    new_stream: NewStream, recorder: Recorder
) -> None:
    with Exchange(ping_timeout=0.2) as exchange:
        with new_stream(exchange, ping_interval=30.0) as stream:
            recorder.wait("on_ready", 2)
            assert stream.stats.connects >= 2
        assert exchange.connections[0].timed_out
    event = recorder.on_disconnect[0]
    assert event.close_code == 1001
    assert "no ping" in event.reason


def test_websocket_pings_are_answered(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.ws_ping(b"")
        exchange.ws_ping(b"second")
        exchange.ws_ping(b"x" * 125)
        assert exchange.wait_for("ws_pong", count=3)
        assert exchange.connections[0].pongs == [b"", b"second", b"x" * 125]
    assert recorder.on_error == []


def test_websocket_ping_during_a_slow_callback_is_answered_after_it(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    release = threading.Event()
    with new_stream(exchange) as stream:
        stream.on_order(lambda _: release.wait(SOON))
        assert stream.wait_ready(SOON)
        exchange.push(order(1))
        recorder.wait("on_order")
        exchange.ws_ping(b"later")
        release.set()
        assert exchange.wait_for("ws_pong")


def test_websocket_ping_that_can_no_longer_be_answered(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """The server is gone when its ping is read: a lost connection like any other."""
    gone = threading.Event()
    served = itertools.count()

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        if next(served) == 0:
            peer.sendall(push_frame(order(1)) + frame(PING, b"still there?"))
            recorder.wait("on_order")
            return  # the client's callback is not back yet
        answer_until_close(peer)

    with ScriptedServer(serve) as server:
        stream = new_stream(server.url)

        @stream.on_order
        def wait_for_the_end(_: object) -> None:
            server.wait_finished(1)
            # What is sent now meets a socket that is closed, and the answer to that is a reset.
            stream.unsubscribe()
            stream.subscribe()
            gone.set()

        with stream:
            assert gone.wait(SOON)
            recorder.wait("on_ready", 2)
        assert recorder.on_disconnect[0].reason
    assert server.accepted == 2


# --- no pong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pushes", [False, True], ids=["silence", "ticks"])
def test_no_pong_ends_the_connection(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, pushes: bool
) -> None:
    exchange.open_position()
    stream = new_stream(exchange, ping_interval=INTERVAL, pong_timeout=PONG_TIMEOUT)
    with stream:
        assert stream.wait_ready(SOON)
        assert exchange.wait_for("ping")
        if pushes:
            exchange.start_ticking(1.0)
        began = time.monotonic()
        exchange.stall(pushes=pushes, handshakes=True)
        (event,) = recorder.wait("on_disconnect")
        noticed = time.monotonic() - began
        recorder.wait("on_ready", 2)
        exchange.resume()
    assert noticed < INTERVAL + PONG_TIMEOUT + 1.0
    assert "no pong within 0.3 s" in event.reason
    assert type(event.error) is ConnectionFailed
    assert event.close_code is None
    assert event.retry_in_s is not None
    assert event.error in recorder.on_error


@pytest.mark.parametrize("every", [0.1, 0.01], ids=["10/s", "100/s"])
def test_data_is_no_pong(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, every: float
) -> None:
    """A server that sends much and answers no ping: noticed as soon as any other."""
    exchange.open_position()
    stream = new_stream(exchange, ping_interval=INTERVAL, pong_timeout=PONG_TIMEOUT)
    with stream:
        assert stream.wait_ready(SOON)
        exchange.start_ticking(every)
        recorder.wait("on_adl_price", 3)
        began = time.monotonic()
        exchange.stall(pushes=True, handshakes=True)
        (event,) = recorder.wait("on_disconnect", timeout=3.0)
        assert time.monotonic() - began < INTERVAL + PONG_TIMEOUT + 1.0
        exchange.clear_faults()
        recorder.wait("on_ready", 2)
    assert "no pong" in event.reason


def test_half_open_connection(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """Packets vanish, nobody closes anything."""
    with TcpProxy("127.0.0.1", exchange.port) as network:
        stream = new_stream(
            network.url(path="/position_order/ws"),
            api_key=exchange.api_key,
            ping_interval=INTERVAL,
            pong_timeout=PONG_TIMEOUT,
            connect_timeout=0.3,
        )
        with stream:
            assert stream.wait_ready(SOON)
            exchange.push(order(1))
            recorder.wait("on_order")
            began = time.monotonic()
            network.blackhole()
            (event, *_) = recorder.wait("on_disconnect")
            assert time.monotonic() - began < INTERVAL + PONG_TIMEOUT + 1.0
            assert "no pong" in event.reason
            recorder.wait("on_disconnect", 2)  # neither can it connect
            network.resume()
            ready = recorder.wait("on_ready", 2)[1]
            gap = time.monotonic() - began
    # It was last subscribed when it last heard something, not when it noticed.
    assert ready.gap_s is not None
    assert PONG_TIMEOUT < ready.gap_s < gap + INTERVAL + 0.5
    assert ready.attempts >= 2


def test_pong_that_lies_unread_is_not_missing(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    release = threading.Event()
    with new_stream(exchange, ping_interval=0.1, pong_timeout=0.2) as stream:
        stream.on_order(lambda _: release.wait(SOON))
        assert stream.wait_ready(SOON)
        exchange.push(order(1))
        recorder.wait("on_order")
        # The callback is busy for many times as long as a pong may take.
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 7)
        assert recorder.on_disconnect == []
        release.set()
        exchange.push(order(2))
        recorder.wait("on_order", 2)
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 3)
        assert recorder.on_disconnect == []
    assert len(exchange.connections) == 1


def test_dead_connection_is_noticed_after_a_slow_callback(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    release = threading.Event()
    with new_stream(exchange, ping_interval=0.1, pong_timeout=0.2) as stream:
        stream.on_order(lambda _: release.wait(SOON))
        assert stream.wait_ready(SOON)
        exchange.push(order(1))
        recorder.wait("on_order")
        exchange.stall(handshakes=True)
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 5)
        began = time.monotonic()
        release.set()
        (event,) = recorder.wait("on_disconnect")
        assert time.monotonic() - began < 1.0 + PONG_TIMEOUT
        exchange.clear_faults()
        recorder.wait("on_ready", 2)
    assert "no pong" in event.reason


def test_one_pong_late_within_the_time_out_is_good(
    new_stream: NewStream, recorder: Recorder
) -> None:
    """The time-out may be longer than the interval: then several pings are under way."""
    pings = threading.Semaphore(0)

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        for number, heard in enumerate(frames(peer)):
            if b'"ping"' in heard.payload:
                pings.release()
                if number % 4 == 3:
                    peer.sendall(text_frame('{"pong":1}'))
            elif heard.opcode == 0x8:
                peer.sendall(frame(0x8, heard.payload))

    with ScriptedServer(serve) as server:
        with new_stream(server.url, ping_interval=0.05, pong_timeout=1.0):
            for _ in range(12):
                assert pings.acquire(timeout=SOON)
            assert recorder.on_disconnect == []
        assert server.accepted == 1


def test_pong_as_a_websocket_frame_is_no_pong(new_stream: NewStream, recorder: Recorder) -> None:
    """Only the application's own counts."""

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        for heard in frames(peer):
            if b'"ping"' in heard.payload:
                peer.sendall(frame(PONG, heard.payload))

    with (
        ScriptedServer(serve) as server,
        new_stream(server.url, ping_interval=0.1, pong_timeout=0.2),
    ):
        (event, *_) = recorder.wait("on_disconnect")
        assert "no pong" in event.reason
