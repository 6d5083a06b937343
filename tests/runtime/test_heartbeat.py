"""Pings, pongs and dead connections, over real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from fastpos import ConnectionFailed, Position, PositionStream, Snapshot
from fastpos.simulator import Exchange
from tests.chaos.host import Host
from tests.support.bench import Bench
from tests.support.recording import SOON, Recorder, logged, until

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

INTERVAL, PONG_TIMEOUT = 0.2, 0.3
PATIENT = 1.0  # where a pong is to be missed by nobody but who does not look
"""Seconds."""


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
def test_while_a_callback_is_slow_pings_keep_their_schedule_and_nothing_is_lost(
    bench: Bench, dispatch: str
) -> None:
    """It is busy for longer than a pong may take, while that lies unread behind a full queue."""
    timing = {"ping_interval": INTERVAL, "pong_timeout": PATIENT}
    began = time.monotonic()
    stream = bench.start(dispatch=dispatch, queue_size=2, **timing)
    stream.on_order(bench.gate)
    assert bench.exchange.wait_for("ping", count=2)
    bench.push(*range(100))
    assert bench.entered.wait(SOON)
    assert bench.exchange.wait_for("ping", SOON, 11)
    bench.open.set()
    bench.wait("on_order", 100)
    assert bench.orders == list(range(100))
    assert bench.exchange.wait_for("ping", SOON, 13)
    assert bench.recorder.on_disconnect == []
    (connection,) = bench.exchange.connections
    came = [when - began for when, _ in connection.pings[:13]]
    assert came[0] >= INTERVAL
    # A busy machine may hold up some of them or leave them out, but none moves those after it: most
    # are whole intervals apart.
    late = [[(each - base + INTERVAL / 8) % INTERVAL for each in came] for base in came]
    assert max(sum(each < INTERVAL / 4 for each in of) for of in late) > len(came) / 2, came
    assert bench.exchange.violations == []  # among them: a ping's value is the time in ms


def test_server_that_misses_pings_disconnects_and_the_stream_comes_back(
    new_stream: Callable[..., PositionStream], recorder: Recorder
) -> None:
    with Exchange(ping_timeout=0.2) as exchange:
        new_stream(exchange, ping_interval=30.0).start()
        recorder.wait("on_ready", 2)
        assert exchange.connections[0].timed_out
    event = recorder.on_disconnect[0]
    assert event.close_code == 1001
    assert "no ping" in event.reason


@pytest.mark.parametrize("every", [None, 1.0, 0.1, 0.01])
def test_no_pong_ends_the_connection(bench: Bench, every: float | None) -> None:
    """Data is no pong: a server that sends much is noticed as soon as any other."""
    exchange = bench.exchange
    exchange.open_position()
    bench.start(ping_interval=INTERVAL, pong_timeout=PONG_TIMEOUT)
    assert exchange.wait_for("ping")
    if every is not None:
        exchange.start_ticking(every)
    began = time.monotonic()
    exchange.stall(pushes=every is not None, handshakes=True)
    (event,) = bench.wait("on_disconnect")
    assert time.monotonic() - began < INTERVAL + PONG_TIMEOUT + 5.0
    exchange.clear_faults()
    ready = bench.wait("on_ready", 2)[1]
    # It was last subscribed when it last heard something, not when it noticed.
    assert every is not None or ready.gap_s > PONG_TIMEOUT
    assert "no pong within 0.3 s" in event.reason
    assert type(event.error) is ConnectionFailed
    assert event.close_code is None
    assert event.retry_in_s is not None
    assert event.error in bench.recorder.on_error


# --- sleep ----------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def test_after_sleep_all_is_stale_until_the_pong_of_a_ping_that_goes_out_at_once(
    host: Host, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = bench.exchange
    id = exchange.open_position()
    known = Snapshot([Position(id=id)], [])
    stream = bench.start(snapshot=lambda: known)
    until(lambda: stream.synced, what="a snapshot")
    exchange.update_position(id, volume=7)
    bench.wait("on_position")
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
    assert bench.recorder.on_disconnect == []
    (record,) = logged(caplog, "slept")
    assert 28799 < record["fastpos_seconds"] < 28810


def test_a_night_without_a_connection_is_told_as_a_night(host: Host, bench: Bench) -> None:
    bench.start()
    bench.exchange.refuse_upgrade(503, headers={"Retry-After": "3600"})
    bench.exchange.drop()
    bench.wait("on_disconnect", 2)
    bench.exchange.clear_faults()
    host.slept_s = 28800.0  # so the hour that the server asked for is over, too
    ready = bench.wait("on_ready", 2)[1]
    assert 28800 <= ready.gap_s < 28800 + SOON


def test_a_connection_that_died_in_the_night_is_noticed_by_that_ping(
    host: Host, bench: Bench
) -> None:
    bench.start(pong_timeout=0.5)
    bench.exchange.stall()
    host.slept_s = 28800.0
    assert bench.wait("on_disconnect")[0].reason == "no pong within 0.5 s"
    bench.exchange.resume()
