"""The stream against the simulated exchange: each row of the protocol, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastpos import (
    AccountUpdate,
    AdlPrice,
    ConnectionFailed,
    Order,
    Position,
    PositionStream,
    SystemClose,
    Trigger,
    Unknown,
)
from fastpos.runtime.stats import Stats
from fastpos.simulator import Exchange
from tests.support.bench import Bench
from tests.support.certificates import Certificates
from tests.support.pushes import REAL, load, order
from tests.support.recording import SOON, Recorder, until

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


# --- connecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "header"), [("api_key", "api-key"), ("token", "token")])
def test_credential_travels_in_the_header_and_in_the_messages(
    bench: Bench, kind: str, header: str
) -> None:
    exchange = bench.exchange
    bench.start(**{kind: getattr(exchange, kind)}).stop()
    assert exchange.wait_for("unsub")
    assert exchange.wait_for_clients(0)
    (connection,) = exchange.connections
    assert (connection.kind, connection.close_code) == (header, 1000)
    assert header in connection.headers  # spelled like this
    assert len(connection.subscriptions) == 1
    assert exchange.violations == []


def test_credential_that_cannot_be_had_is_tried_again(bench: Bench) -> None:
    answers: list[Any] = ["", 17, "two\nlines"]
    bench.start(token=lambda: answers.pop(0) if answers else bench.exchange.token)
    (ready,) = bench.wait("on_ready")
    errors = bench.recorder.on_error
    assert [type(error) for error in errors] == [ConnectionFailed] * 3
    assert all("token callable" in str(error) for error in errors)
    assert (ready.first, ready.attempts) == (True, 4)
    assert [event.error for event in bench.recorder.on_disconnect] == errors
    assert len(bench.exchange.connections) == 1


def test_extra_headers(new_stream: Callable[..., PositionStream]) -> None:
    # As on the deployment that spells the header in another way.
    with Exchange(api_key_header="apiKey") as exchange:
        headers = {"apiKey": exchange.api_key, "X-Desk": "7"}
        with new_stream(exchange, headers=headers) as stream:
            assert stream.wait_ready(SOON)
        (connection,) = exchange.connections
    assert connection.headers["X-Desk"] == "7"
    assert {"apiKey", "api-key"} <= {*connection.headers}


def test_over_tls(
    new_stream: Callable[..., PositionStream], recorder: Recorder, certificates: Certificates
) -> None:
    context = certificates.client_context()
    with Exchange(ssl_context=certificates.good.context()) as exchange:
        assert exchange.url.startswith("wss://")
        with new_stream(exchange, ssl_context=context, ping_interval=0.05, pong_timeout=SOON) as s:
            assert s.wait_ready(SOON)
            for number in range(200):
                exchange.push(order(number))
            came = recorder.wait("on_order", 200)
            assert [event.order_id for event in came] == [str(number) for number in range(200)]
            until(lambda: s.stats.last_pong_ns, what="a pong")
        assert exchange.wait_for_clients(0)
        assert exchange.connections[0].close_code == 1000
        assert exchange.violations == []


# --- what comes -----------------------------------------------------------------------------------


def test_all_channels_in_the_order_in_which_they_came(bench: Bench) -> None:
    """What is in each event is the subject of test_events.py."""
    bench.start()
    before = time.time_ns()
    for name in ("account_update_create", "order", "trig_order"):
        bench.exchange.push(load(name))
    bench.exchange.push_bytes(REAL)  # a frame as it was recorded, gzip and all
    bench.exchange.push({"channel": "news"})
    bench.exchange.push(load("system_close"))
    bench.wait("on_system_close")
    after = time.time_ns()
    assert [(name, type(event)) for name, event in bench.recorder.calls[1:]] == [
        ("on_position", Position),
        ("on_account", AccountUpdate),
        ("on_order", Order),
        ("on_trigger", Trigger),
        ("on_adl_price", AdlPrice),
        ("on_unknown", Unknown),
        ("on_system_close", SystemClose),
    ]
    events = [event for _, event in bench.recorder.calls[1:]]
    assert events[2].raw == load("order")
    assert all(before <= event.received_ns <= after for event in events)


def is_answered(stats: Stats) -> bool:
    return (stats.last_ping_ns or 0) < (stats.last_pong_ns or 0)


def test_stats(bench: Bench) -> None:
    stream = bench.start(ping_interval=0.05)
    before = stream.stats
    bench.push(1, 2)
    bench.exchange.open_position()
    bench.exchange.push({"channel": "news"})
    bench.exchange.push_bytes(b"garbage")
    bench.wait("on_error")
    until(lambda: stream.stats.round_trip_s is not None)
    bench.exchange.drop(clean=True, code=1012)
    bench.wait("on_ready", 2)
    bench.exchange.place_trigger()
    bench.wait("on_trigger")
    until(lambda: is_answered(stream.stats), what="a moment at which no pong is awaited")
    stats = stream.stats
    assert (before.connects, before.events) == (1, {})  # a snapshot
    assert (stats.connects, stats.subscriptions) == (2, 2)
    assert stats.events == {"Order": 2, "AccountUpdate": 1, "Unknown": 1, "Trigger": 1}
    assert stats.messages >= 2 * 2 + 6 + 1  # replies on each connection, pushes, a pong
    assert (stats.unknown_channels, stats.decode_errors) == ({"news": 1}, 1)
    assert stats.callback_errors == 0
    assert [("1012" in reason, times) for reason, times in stats.disconnects.items()] == [(True, 1)]
    assert stats.bytes_received > 500
    assert abs((stats.last_message_ns or 0) - time.time_ns()) < 60e9
    assert 0 < (stats.round_trip_s or 0) < SOON
    plain = stats.as_dict()  # for an exporter
    assert json.loads(json.dumps(plain)) == plain
    assert plain["connects"] == 2
    assert isinstance(plain["slowest_callback"], str)
    with pytest.raises(AttributeError):
        stats.connects = 3  # type: ignore[misc]


# --- pausing, and runs ----------------------------------------------------------------------------


def test_unsubscribe_and_subscribe(bench: Bench) -> None:
    stream, exchange = bench.start(), bench.exchange
    stream.unsubscribe()
    assert exchange.wait_for("unsub")
    assert stream.wait_ready(0.01) is False
    assert exchange.push(order(1)) == 0
    stream.unsubscribe()  # once more does nothing
    stream.subscribe()
    first, second = bench.wait("on_ready", 2)
    assert stream.wait_ready(SOON)
    bench.push(2)
    bench.wait("on_order")
    assert bench.orders == [2]
    assert (first.first, first.gap_s, first.attempts) == (True, None, 1)
    assert (second.first, 0.0 < second.gap_s < SOON) == (False, True)
    stream.subscribe()  # it is already
    assert [exchange.counts[what] for what in ("connect", "sub", "unsub")] == [1, 2, 1]
    assert bench.recorder.on_disconnect == []
    assert exchange.violations == []


@pytest.mark.parametrize("firsts", [[True], [True, False]], ids=["before the start", "in service"])
def test_paused_stream_that_is_dropped_comes_back_paused(bench: Bench, firsts: list[bool]) -> None:
    exchange = bench.exchange
    stream = bench.new() if len(firsts) == 1 else bench.start()
    stream.unsubscribe()
    if len(firsts) == 1:
        stream.start()
    else:
        assert exchange.wait_for("unsub")
    assert exchange.wait_for("connect")
    exchange.drop()
    assert exchange.wait_for("connect", count=2)
    assert stream.wait_ready(0.05) is False
    stream.subscribe()
    assert stream.wait_ready(SOON)
    bench.push(1)
    bench.wait("on_order")
    assert [ready.first for ready in bench.recorder.on_ready] == firsts
    assert exchange.counts["sub"] == len(firsts)
    assert exchange.violations == []


def test_pause_and_resume_from_callbacks(bench: Bench) -> None:
    stream = bench.start()
    bench.wait("on_ready", 1)
    stream.on_order(lambda _: stream.unsubscribe())
    stream.on_ready(lambda _: stream.unsubscribe())
    bench.push(1)
    assert bench.exchange.wait_for("unsub", count=1)
    stream.subscribe()
    assert bench.exchange.wait_for("unsub", count=2)
    bench.wait("on_ready", 2)


def test_run_forever_calls_back_on_the_calling_thread_in_each_run(bench: Bench) -> None:
    stream = bench.new()
    threads: list[int] = []

    @stream.on_ready
    def leave(_: object) -> None:
        threads.append(threading.get_ident())
        stream.stop()

    for _ in range(3):
        stream.run_forever()
        assert stream.wait_ready(0) is False
        assert bench.exchange.wait_for_clients(0)
    assert threads == [threading.get_ident()] * 3
    assert [ready.first for ready in bench.recorder.on_ready] == [True] * 3
    assert [event.reason for event in bench.recorder.on_disconnect] == ["stopped"] * 3
    assert bench.exchange.violations == []
