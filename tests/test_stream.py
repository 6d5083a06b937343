"""The stream against the simulated exchange: each row of the protocol, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastpos import (
    AccountUpdate,
    AdlPrice,
    CallbackError,
    ConnectionFailed,
    Order,
    Position,
    PositionStream,
    SystemClose,
    Trigger,
    Unknown,
)
from fastpos.simulator import Exchange
from tests.support.certificates import Certificates
from tests.support.pushes import REAL, load, order
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


@pytest.fixture
def stream(exchange: Exchange, new_stream: NewStream) -> Iterator[PositionStream]:
    """A stream that is subscribed."""
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        yield stream


def ids(orders: list[Order]) -> list[str | None]:
    return [order.order_id for order in orders]


# --- connecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "header"), [("api_key", "api-key"), ("token", "token")])
def test_credential_travels_in_the_header_and_in_the_messages(
    exchange: Exchange, new_stream: NewStream, kind: str, header: str
) -> None:
    stream = new_stream(exchange, **{kind: getattr(exchange, kind)}).start()
    assert stream.wait_ready(SOON)
    stream.stop()
    assert exchange.wait_for_clients(0)
    (connection,) = exchange.connections
    assert connection.kind == header
    assert header in connection.headers  # spelled like this
    assert len(connection.subscriptions) == 1
    assert exchange.wait_for("unsub")
    assert connection.close_code == 1000
    assert exchange.violations == []


def test_credential_that_cannot_be_had_is_tried_again(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    answers: list[Any] = [OSError("the login server is away"), "", 17, "two\nlines"]

    def token() -> str:
        answer = answers.pop(0) if answers else exchange.token
        if isinstance(answer, Exception):
            raise answer
        return str(answer) if answer != 17 else answer

    with new_stream(exchange, token=token):
        (ready,) = recorder.wait("on_ready")
    errors = recorder.on_error
    assert len(errors) == 4
    assert all(type(error) is ConnectionFailed for error in errors)
    assert all("token callable" in str(error) for error in errors)
    assert isinstance(errors[0].__cause__, OSError)
    assert ready.first
    assert ready.attempts == 5
    assert [event.error for event in recorder.on_disconnect[:4]] == errors
    assert len(exchange.connections) == 1


def test_extra_headers(new_stream: NewStream) -> None:
    # As on the deployment that spells the header in another way.
    with Exchange(api_key_header="apiKey") as exchange:
        headers = {"apiKey": exchange.api_key, "X-Desk": "7"}
        with new_stream(exchange, headers=headers) as stream:
            assert stream.wait_ready(SOON)
        (connection,) = exchange.connections
    assert connection.headers["X-Desk"] == "7"
    assert "apiKey" in connection.headers
    assert "api-key" in connection.headers


def test_over_tls(new_stream: NewStream, recorder: Recorder, certificates: Certificates) -> None:
    server_side = certificates.good.context()
    with Exchange(ssl_context=server_side) as exchange:
        assert exchange.url.startswith("wss://")
        context = certificates.client_context()
        with new_stream(exchange, ssl_context=context, ping_interval=0.05, pong_timeout=SOON) as s:
            assert s.wait_ready(SOON)
            for number in range(200):
                exchange.push(order(number))
            assert ids(recorder.wait("on_order", 200)) == [str(number) for number in range(200)]
            until(lambda: s.stats.last_pong_ns, what="a pong")
        assert exchange.wait_for_clients(0)
        assert exchange.connections[0].close_code == 1000
        assert exchange.violations == []


# --- the channels ---------------------------------------------------------------------------------


def test_all_channels_in_the_order_in_which_they_came(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    """What is in each event is the subject of test_events.py."""
    before = time.time_ns()
    sent = {name: load(name) for name in ("account_update_create", "order", "trig_order")}
    for message in sent.values():
        exchange.push(message)
    # A frame as it was recorded, gzip and all.
    exchange.push_bytes(REAL)
    exchange.push({"channel": "news"})
    exchange.push(load("system_close"))
    recorder.wait("on_system_close")
    after = time.time_ns()
    assert [(name, type(event)) for name, event in recorder.calls[1:]] == [
        ("on_position", Position),
        ("on_account", AccountUpdate),
        ("on_order", Order),
        ("on_trigger", Trigger),
        ("on_adl_price", AdlPrice),
        ("on_unknown", Unknown),
        ("on_system_close", SystemClose),
    ]
    events = [event for _, event in recorder.calls[1:]]
    assert [events[index].raw for index in (0, 2, 3)] == list(sent.values())
    assert all(before <= event.received_ns <= after for event in events)
    assert stream.stats.unknown_channels == {"news": 1}


# --- positions, balances, stats -------------------------------------------------------------------


def test_stats(exchange: Exchange, stream: PositionStream, recorder: Recorder) -> None:
    before = stream.stats
    exchange.place_order()
    exchange.place_order()
    exchange.open_position()
    exchange.push_bytes(b"garbage")
    recorder.wait("on_error")
    exchange.drop(clean=True, code=1012)
    recorder.wait("on_ready", 2)
    exchange.place_trigger()
    recorder.wait("on_trigger")
    until(lambda: stream.stats.messages >= 9)
    stats = stream.stats
    assert before.connects == 1
    assert before.events == {}  # a snapshot
    assert (stats.connects, stats.subscriptions) == (2, 2)
    assert stats.events == {"Order": 2, "AccountUpdate": 1, "Trigger": 1}
    assert stats.messages == 9  # with two replies on each connection
    assert stats.decode_errors == 1
    assert stats.callback_errors == 0
    assert sum(stats.disconnects.values()) == 1
    assert "1012" in next(iter(stats.disconnects))
    assert stats.bytes_received > 500
    assert stats.last_message_ns is not None
    assert abs(stats.last_message_ns - time.time_ns()) < 60e9
    assert stats.last_ping_ns is None
    assert stats.as_dict()["connects"] == 2
    json.dumps(stats.as_dict())
    with pytest.raises(AttributeError):
        stats.connects = 3  # type: ignore[misc]


# --- functions ------------------------------------------------------------------------------------


def test_on_ready_and_on_disconnect_may_raise(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange)

    @stream.on_ready
    @stream.on_disconnect
    def fail(_: object) -> None:
        raise ValueError("mine")

    with stream:
        recorder.wait("on_ready", 1)
        exchange.drop(clean=True)
        recorder.wait("on_ready", 2)
        exchange.push(order(1))
        recorder.wait("on_order")
    errors = [error for error in recorder.on_error if isinstance(error, CallbackError)]
    assert len(errors) == 4


# --- pausing --------------------------------------------------------------------------------------


def test_unsubscribe_and_subscribe(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    stream.unsubscribe()
    assert exchange.wait_for("unsub")
    assert stream.wait_ready(0.01) is False
    assert exchange.push(order(1)) == 0
    stream.unsubscribe()  # once more does nothing
    stream.subscribe()
    first, second = recorder.wait("on_ready", 2)
    assert stream.wait_ready(SOON)
    exchange.push(order(2))
    assert ids(recorder.wait("on_order")) == ["2"]
    assert (first.first, first.gap_s, first.attempts) == (True, None, 1)
    assert second.first is False
    assert second.gap_s is not None
    assert 0.0 < second.gap_s < SOON
    stream.subscribe()  # it is already
    assert len(exchange.connections) == 1
    assert exchange.counts["sub"] == 2
    assert exchange.counts["unsub"] == 1
    assert recorder.on_disconnect == []
    assert exchange.violations == []


def test_paused_stream_that_is_dropped_comes_back_paused(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    stream.unsubscribe()
    assert exchange.wait_for("unsub")
    exchange.drop()
    assert exchange.wait_for("connect", count=2)
    recorder.wait("on_disconnect")
    assert stream.wait_ready(0.05) is False
    stream.subscribe()
    assert stream.wait_ready(SOON)
    exchange.push(order(1))
    recorder.wait("on_order")
    assert exchange.counts["sub"] == 2
    assert len(exchange.connections) == 2
    assert exchange.violations == []


def test_paused_before_the_start(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange)
    stream.unsubscribe()
    with stream:
        assert exchange.wait_for("connect")
        assert stream.wait_ready(0.05) is False
        assert exchange.counts["sub"] == 0
        stream.subscribe()
        (ready,) = recorder.wait("on_ready")
        assert (ready.first, ready.attempts) == (True, 1)


def test_pause_and_resume_from_callbacks(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    recorder.wait("on_ready", 1)
    stream.on_order(lambda _: stream.unsubscribe())
    stream.on_ready(lambda _: stream.unsubscribe())
    exchange.push(order(1))
    assert exchange.wait_for("unsub", count=1)
    stream.subscribe()
    assert exchange.wait_for("unsub", count=2)
    recorder.wait("on_ready", 2)


# --- life cycle, the ordinary part ----------------------------------------------------------------


def test_run_forever_calls_back_on_the_calling_thread(
    exchange: Exchange, new_stream: NewStream
) -> None:
    stream = new_stream(exchange)
    threads: list[int] = []

    @stream.on_ready
    def leave(_: object) -> None:
        threads.append(threading.get_ident())
        stream.stop()

    stream.run_forever()
    assert threads == [threading.get_ident()]


def test_restart_after_stop(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    stream = new_stream(exchange)
    for run in range(1, 4):
        stream.start()
        assert stream.wait_ready(SOON)
        exchange.push(order(run))
        recorder.wait("on_order", run)
        stream.stop()
        assert stream.wait_ready(0) is False
        assert exchange.wait_for_clients(0)
    assert ids(recorder.on_order) == ["1", "2", "3"]
    assert [ready.first for ready in recorder.on_ready] == [True, True, True]
    assert [event.reason for event in recorder.on_disconnect] == ["stopped"] * 3
    assert exchange.violations == []
