"""Pings, pongs and dead connections, over real sockets."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest

from fastpos import ConnectionFailed, Position, PositionStream, Snapshot
from fastpos.simulator import Exchange
from tests.chaos.host import Host
from tests.support.network import TcpProxy
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder, until

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


def test_server_that_misses_pings_disconnects_and_the_stream_comes_back(
    new_stream: NewStream, recorder: Recorder
) -> None:
    with Exchange(ping_timeout=0.2) as exchange:
        with new_stream(exchange, ping_interval=30.0):
            recorder.wait("on_ready", 2)
        assert exchange.connections[0].timed_out
    event = recorder.on_disconnect[0]
    assert event.close_code == 1001
    assert "no ping" in event.reason


# --- no pong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 1.0, 0.1, 0.01])
def test_no_pong_ends_the_connection(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, every: float | None
) -> None:
    """Data is no pong: a server that sends much is noticed as soon as any other."""
    exchange.open_position()
    stream = new_stream(exchange, ping_interval=INTERVAL, pong_timeout=PONG_TIMEOUT)
    with stream:
        assert stream.wait_ready(SOON)
        assert exchange.wait_for("ping")
        if every is not None:
            exchange.start_ticking(every)
        began = time.monotonic()
        exchange.stall(pushes=every is not None, handshakes=True)
        (event,) = recorder.wait("on_disconnect")
        noticed = time.monotonic() - began
        exchange.clear_faults()
        recorder.wait("on_ready", 2)
    assert noticed < INTERVAL + PONG_TIMEOUT + 1.0
    assert "no pong within 0.3 s" in event.reason
    assert type(event.error) is ConnectionFailed
    assert event.close_code is None
    assert event.retry_in_s is not None
    assert event.error in recorder.on_error


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
    assert PONG_TIMEOUT + 0.3 < ready.gap_s < gap + INTERVAL + 0.5
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


# --- sleep ----------------------------------------------------------------------------------------


def test_after_sleep_all_is_stale_until_the_pong_of_a_ping_that_goes_out_at_once(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    id = exchange.open_position()
    known = Snapshot([Position(id=id)], [])
    with Host() as host, new_stream(exchange, snapshot=lambda: known) as stream:
        until(lambda: stream.synced, what="a snapshot")
        exchange.update_position(id, volume=7)
        recorder.wait("on_position", 2)
        assert not stream.positions[id].stale
        exchange.stall(pushes=True, handshakes=True, closes=True)
        host.slept_s = 28800.0
        assert exchange.wait_for("ping", 5.0)  # of an interval of 30 s
        until(lambda: stream.positions[id].stale, what="that it is stale")
        assert not stream.synced
        exchange.resume()
        exchange.push_bytes('{"pong":1713338308233}', text=True)
        until(lambda: stream.synced, what="that it is certain again")
        assert not stream.positions[id].stale
        assert recorder.on_disconnect == []
    (record,) = [r for r in caplog.records if vars(r).get("fastpos_event") == "slept"]
    assert 28799 < vars(record)["fastpos_seconds"] < 28810


def test_a_night_without_a_connection_is_told_as_a_night(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with Host() as host, new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.refuse_upgrade(503, headers={"Retry-After": "3600"})
        exchange.drop()
        recorder.wait("on_disconnect", 2)
        exchange.clear_faults()
        host.slept_s = 28800.0  # so the hour that the server asked for is over, too
        ready = recorder.wait("on_ready", 2)[1]
    assert 28800 <= ready.gap_s < 28800 + SOON


def test_a_connection_that_died_in_the_night_is_noticed_by_that_ping(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with Host() as host, new_stream(exchange, pong_timeout=0.5) as stream:
        assert stream.wait_ready(SOON)
        exchange.stall()
        host.slept_s = 28800.0
        assert recorder.wait("on_disconnect")[0].reason == "no pong within 0.5 s"
        exchange.resume()
