"""The stream against the simulated exchange: each row of the protocol, over real sockets."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpos import (
    AccountUpdate,
    AdlPrice,
    CallbackError,
    ConnectionFailed,
    DecodeError,
    Order,
    Position,
    PositionStream,
    ReconnectPolicy,
    SystemClose,
    Trigger,
    Unknown,
)
from fastpos.simulator import Exchange
from tests.certificates import Certificates
from tests.recording import (
    SOON,
    Recorder,
    load,
    order,
    until,
)

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


def test_callable_credential_is_asked_at_every_connect(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    asked = []

    def token() -> str:
        asked.append(threading.current_thread().name)
        exchange.token = f"fresh-token-{len(asked)}"  # the one before has expired
        return exchange.token

    with new_stream(exchange, token=token):
        recorder.wait("on_ready", 1)
        exchange.drop()
        recorder.wait("on_ready", 2)
        exchange.place_order()
        recorder.wait("on_order")
    assert len(asked) == 2
    assert exchange.rejections == []
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


def test_default_tls_settings_verify_the_server(
    new_stream: NewStream, certificates: Certificates
) -> None:
    with Exchange(ssl_context=certificates.good.context()) as exchange:
        stream = new_stream(exchange, reconnect=None)
        with pytest.raises(ConnectionFailed, match="certificate"):
            stream.run_forever()
        assert exchange.connections == []
        assert isinstance(stream.stats.disconnects, dict)
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED  # nobody changed it


# --- the channels ---------------------------------------------------------------------------------


def test_all_five_channels_typed(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    before = time.time_ns()
    tick_frame = base64.b64decode((Path(__file__).parent / "frames/adl_price.b64").read_bytes())
    sent = {name: load(name) for name in ("account_update_create", "order", "trig_order")}
    for message in sent.values():
        exchange.push(message)
    exchange.push_bytes(tick_frame)
    exchange.push(load("system_close"))
    recorder.wait("on_system_close")
    after = time.time_ns()

    (update,) = recorder.on_account
    assert type(update) is AccountUpdate
    assert update.raw == sent["account_update_create"]
    assert (update.uid, update.event_type, update.time_ms) == (1001, "CREATE", 1564745798938)
    assert update.balances["USDT"].available == 122624.12345678
    assert update.balances["BTC"].frozen == 100.12345678

    (position,) = recorder.on_position
    assert type(position) is Position
    assert position.raw == sent["account_update_create"]
    assert position == update.position
    assert position.change == "CREATE"
    assert position.complete
    assert (position.id, position.side, position.volume) == (90762, "BUY", 12)
    assert (position.margin_mode, position.leverage) == ("CROSS", 20)

    (placed,) = recorder.on_order
    assert type(placed) is Order
    assert placed.raw == sent["order"]
    assert placed.order_id == "2094043912705377045"
    assert (placed.action, placed.side, placed.price) == ("NEW", "xxx", 61001)
    assert placed.take_profit is not None
    assert placed.take_profit.active is False

    (trigger,) = recorder.on_trigger
    assert type(trigger) is Trigger
    assert trigger.raw == sent["trig_order"]
    assert (trigger.trigger_order_id, trigger.side) == ("1322738336974712854", "BUY")

    (price,) = recorder.on_adl_price
    assert type(price) is AdlPrice
    assert price.raw == json.loads(gzip.decompress(tick_frame))
    assert price.ticks
    assert all(tick.mark_price is not None for tick in price.ticks)

    (system,) = recorder.on_system_close
    assert type(system) is SystemClose
    assert system.uid == 1001

    events = (update, position, placed, trigger, price, system)
    assert all(before <= event.received_ns <= after for event in events)
    assert recorder.names == [
        "on_position",
        "on_account",
        "on_order",
        "on_trigger",
        "on_adl_price",
        "on_system_close",
    ]


def test_unknown_channel(exchange: Exchange, stream: PositionStream, recorder: Recorder) -> None:
    exchange.push({"channel": "funding", "rate": "0.0001"})
    exchange.push({"channel": "SYSTEM", "et": "maintenance"})
    funding, maintenance = recorder.wait("on_unknown", 2)
    assert type(funding) is Unknown
    assert funding.raw == {"channel": "funding", "rate": "0.0001"}
    assert maintenance.raw["et"] == "maintenance"
    assert stream.stats.unknown_channels == {"funding": 1, "SYSTEM": 1}
    assert recorder.on_system_close == []


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


def test_three_ways_to_register(exchange: Exchange, recorder: Recorder) -> None:
    called: list[str] = []
    stream = PositionStream(
        exchange.url,
        api_key=exchange.api_key,
        broker=exchange.broker,
        proxy="",
        on_order=lambda _: called.append("argument"),
        on_trigger=lambda _: called.append("replaced"),
    )

    @stream.on_order
    def decorated(order: Order) -> None:
        called.append("decorator")

    stream.on_order(lambda _: called.append("call"))
    stream.on_trigger = lambda _: called.append("assignment")
    stream.on_error = recorder.callbacks["on_error"]
    with stream:
        assert stream.wait_ready(SOON)
        exchange.place_order()
        exchange.place_trigger()
        until(lambda: len(called) == 4)
        stream.on_order = None
        exchange.place_order()
        exchange.place_trigger()
        until(lambda: len(called) == 5)
    assert called == ["argument", "decorator", "call", "assignment", "assignment"]
    assert callable(decorated)
    assert recorder.on_error == []


def test_callback_that_raises_is_reported_and_the_rest_go_on(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    after: list[Order] = []

    @stream.on_order
    def broken(order: Order) -> None:
        raise KeyError(f"no such order: {order.order_id}")

    stream.on_order(after.append)
    exchange.push(order(1))
    exchange.push(order(2))
    until(lambda: len(after) == 2)
    first, second = recorder.wait("on_error", 2)
    assert type(first) is CallbackError
    assert first.event is recorder.on_order[0]
    assert first.callback is broken
    assert isinstance(first.__cause__, KeyError)
    assert first.__cause__.__traceback__ is not None
    assert "on_order" in str(first)
    assert "broken" in str(first)
    assert second.event.order_id == "2"
    assert ids(recorder.on_order) == ids(after) == ["1", "2"]
    assert stream.stats.callback_errors == 2
    assert stream.stats.connects == 1


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


def test_exception_that_cannot_be_shown_does_not_end_the_stream(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("nor this")

    @stream.on_trigger
    def fail(_: Trigger) -> None:
        raise Unspeakable

    exchange.place_trigger()
    exchange.push(order(1))
    recorder.wait("on_order")
    (error,) = recorder.on_error
    assert isinstance(error.__cause__, Unspeakable)


def test_callback_that_exits_does_not_silently_end_a_background_stream(
    exchange: Exchange, stream: PositionStream, recorder: Recorder
) -> None:
    @stream.on_trigger
    def leave(_: Trigger) -> None:
        raise SystemExit(3)

    exchange.place_trigger()
    exchange.push(order(1))
    recorder.wait("on_order")


def test_on_error_that_raises_is_logged(
    exchange: Exchange,
    stream: PositionStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @stream.on_error
    def fail(_: object) -> None:
        raise ArithmeticError("on_error itself")

    exchange.push_bytes(b"garbage")
    exchange.push(order(1))
    recorder.wait("on_order")
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.name == "fastpos"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ArithmeticError)
    assert len(recorder.on_error) == 1


def test_without_on_error_both_kinds_are_logged_with_their_traceback(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: Trigger) -> None:
        raise ArithmeticError("what the user's function raised")

    with new_stream(exchange, on_error=None, on_trigger=fail) as stream:
        assert stream.wait_ready(SOON)
        exchange.push_bytes(b"garbage")
        exchange.place_trigger()
        exchange.push(order(1))
        recorder.wait("on_order")
    decode, callback = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert decode.name == callback.name == "fastpos"
    assert decode.exc_info is not None
    assert isinstance(decode.exc_info[1], DecodeError)
    assert callback.exc_info is not None
    assert isinstance(callback.exc_info[1], CallbackError)
    assert "what the user's function raised" in caplog.text
    assert "in fail" in caplog.text


# --- bad pushes -----------------------------------------------------------------------------------

MEMBER = gzip.compress(json.dumps(order(1)).encode())

BAD = {
    "not gzip": b"\x00\x01\x02 nothing of the kind",
    "JSON without gzip": json.dumps(order(1)).encode(),
    "empty": b"",
    "cut short": MEMBER[:-9],
    "wrong checksum": MEMBER[:-8] + bytes([MEMBER[-8] ^ 1]) + MEMBER[-7:],
    "wrong length": MEMBER[:-1] + b"\x01",
    "corrupt block": MEMBER[:12] + bytes([MEMBER[12] ^ 0xFF]) + MEMBER[13:],
    "not JSON": gzip.compress(b'{"channel":"order",'),
    "NaN": gzip.compress(b'{"channel":"order","order":{"price":NaN}}'),
    "not UTF-8": gzip.compress(b'{"channel":"\xff\xfe"}'),
    "a list": gzip.compress(b'[{"channel":"order"}]'),
    "a number": gzip.compress(b"17"),
    "null": gzip.compress(b"null"),
    "no channel": gzip.compress(b'{"order":{}}'),
    "channel is no string": gzip.compress(b'{"channel":5}'),
    "order is missing": gzip.compress(b'{"channel":"order"}'),
    "order is a list": gzip.compress(b'{"channel":"order","order":[]}'),
    "trigOrder is a string": gzip.compress(b'{"channel":"trigOrder","trigOrder":"x"}'),
    "d is a list": gzip.compress(b'{"channel":"ACCOUNT_UPDATE","d":[1]}'),
    "p is a string": gzip.compress(b'{"channel":"ACCOUNT_UPDATE","d":{"p":"x"}}'),
    "a is an object": gzip.compress(b'{"channel":"ACCOUNT_UPDATE","d":{"a":{"c":"USDT"}}}'),
    "l holds a number": gzip.compress(b'{"channel":"ADL_PRICE","l":[{"id":1},2]}'),
    "long": gzip.compress(b'{"order":"' + b"x" * 5000 + b'"}'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_push_is_reported_and_the_next_is_delivered(
    exchange: Exchange, stream: PositionStream, recorder: Recorder, name: str
) -> None:
    exchange.push_bytes(BAD[name])
    exchange.push(order(2))
    assert ids(recorder.wait("on_order")) == ["2"]
    (error,) = recorder.on_error
    assert isinstance(error, DecodeError)
    assert isinstance(error.data, bytes)
    assert len(error.data) <= 500
    assert bool(error.data) == bool(BAD[name])
    assert stream.stats.decode_errors == 1
    assert stream.stats.connects == 1


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


def test_a_paused_stream_that_comes_back_has_not_failed(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    policy = ReconnectPolicy(initial=0.02, maximum=0.02, max_attempts=2)
    with new_stream(exchange, reconnect=policy) as stream:
        recorder.wait("on_ready")
        stream.unsubscribe()
        assert exchange.wait_for("unsub")
        for count in range(1, 6):
            exchange.drop()
            recorder.wait("on_disconnect", count)
            assert exchange.wait_for("connect", count=count + 1)
            until(lambda want=2 + count: stream.stats.messages == want, what="it was greeted")
        stream.subscribe()
        ready = recorder.wait("on_ready", 2)[1]
        assert (ready.first, ready.attempts) == (False, 5)


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


def test_with(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    stream = new_stream(exchange)
    with stream as entered:
        assert entered is stream
        assert stream.wait_ready(SOON)
    assert exchange.wait_for_clients(0)
    (event,) = recorder.on_disconnect
    assert (event.reason, event.error, event.retry_in_s) == ("stopped", None, None)
    assert stream.join(0) is True
    assert stream.wait_ready(0) is False


def test_run_forever_returns_after_stop(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange)
    here = threading.get_ident()
    threads: list[int] = []
    stream.on_order(lambda _: threads.append(threading.get_ident()))
    stopped: list[float] = []

    def stop_later() -> None:
        recorder.wait("on_ready")
        exchange.push(order(1))
        recorder.wait("on_order")
        stream.stop()
        stopped.append(time.monotonic())

    helper = threading.Thread(target=stop_later)
    helper.start()
    stream.run_forever()
    helper.join(SOON)
    assert threads == [here]
    assert stopped
    assert exchange.wait_for_clients(0)
    assert exchange.connections[0].close_code == 1000


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
