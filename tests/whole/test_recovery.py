"""How connections end, and how the stream comes back or says that it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastpos import (
    AuthenticationError,
    ConnectionFailed,
    DecodeError,
    PositionStream,
    SubscriptionError,
)
from fastpos.runtime.pinger import Pinger
from fastpos.simulator import Exchange
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


# --- ends of a connection -------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"clean": True, "code": None}], ids=["reset", "bare end"])
def test_drop(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, how: dict[str, Any]
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.drop(**how)
        first, second = recorder.wait("on_ready", 2)
        exchange.push(order(1))
        recorder.wait("on_order")
        (event,) = recorder.on_disconnect
        assert event.reason
        assert event.close_code is None
        assert type(event.error) is ConnectionFailed
        assert 0 <= event.retry_in_s <= 1.0
        assert recorder.on_error == [event.error]
        assert (first.first, first.gap_s, first.attempts) == (True, None, 1)
        assert (second.first, second.attempts) == (False, 1)
        assert 0 < second.gap_s < SOON
    assert exchange.counts["sub"] == 2
    assert exchange.violations == []


@pytest.mark.parametrize("code", [1000, 1008, 4999])
def test_clean_close(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, code: int
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.push(order(1))  # what was sent before the end is delivered before it is told
        exchange.drop(clean=True, code=code, reason="for maintenance")
        recorder.wait("on_ready", 2)
    (event, _) = recorder.on_disconnect
    assert event.close_code == code
    assert str(code) in event.reason
    assert "for maintenance" in event.reason
    assert event.error is None
    assert recorder.on_error == []
    assert recorder.names[:2] == ["on_order", "on_disconnect"]
    assert exchange.connections[0].close_code == code  # RFC 6455, 5.5.1: answered in kind


def test_server_restart(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.stop()
        recorder.wait("on_disconnect", 4)  # the port is closed for a while
        exchange.start()
        began = time.monotonic()
        ready = recorder.wait("on_ready", 2)[1]
        assert time.monotonic() - began < 2.0
        exchange.push(order(1))
        recorder.wait("on_order")
    assert ready.attempts >= 4
    assert ready.gap_s > 0
    first, *refused = recorder.on_disconnect[:4]
    assert first.close_code == 1001
    assert all("connect" in event.reason for event in refused)
    assert all(event.error.status is None for event in refused)


# --- the credential -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("how", ["run_forever", "join", "wait_ready"])
def test_refused_credential_ends_the_stream(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, status: int, how: str
) -> None:
    exchange.refuse_upgrade(status)
    stream = new_stream(exchange)
    if how != "run_forever":
        stream.start()
    with pytest.raises(AuthenticationError, match=str(status)) as caught:
        getattr(stream, how)(*(() if how == "run_forever" else (SOON,)))
    assert exchange.rejections == [status]
    (event,) = recorder.on_disconnect
    assert event.retry_in_s is None
    assert event.error is caught.value
    assert recorder.on_error == []  # it gets those that did not end the stream
    with pytest.raises(AuthenticationError):  # whenever it is asked
        stream.join(SOON)
    with pytest.raises(AuthenticationError):
        stream.wait_ready(0)
    stream.stop()
    exchange.clear_faults()
    stream.start()  # a new attempt is a new start
    assert stream.wait_ready(SOON)


def test_restart_right_after_a_refusal_has_its_pings(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of one run must not end the ping thread of the next."""
    exchange.refuse_upgrade(401, times=1)
    stream = new_stream(exchange, ping_interval=0.1, pong_timeout=1.0)
    stop = Pinger.stop
    busy = threading.Event()

    def stop_late(self: Pinger) -> None:
        busy.wait(0.2)  # as when the machine is busy
        stop(self)

    monkeypatch.setattr(Pinger, "stop", stop_late)
    stream.start()
    with pytest.raises(AuthenticationError):
        stream.wait_ready(SOON)
    stream.start()
    assert stream.wait_ready(SOON)
    assert exchange.wait_for("ping", count=5, timeout=3.0)
    busy.set()
    stream.stop()


def test_three_refusals_of_the_credential_end_the_stream(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    exchange.refuse_subscription("no such token")
    stream = new_stream(exchange)
    with pytest.raises(AuthenticationError, match="no such token") as caught:
        stream.run_forever()
    assert isinstance(caught.value.__cause__, SubscriptionError)
    assert caught.value.__cause__.reply is not None
    assert "no such token" in caught.value.__cause__.reply
    assert exchange.counts["refusal"] == 3
    assert len(recorder.on_disconnect) == 3
    assert [event.retry_in_s is None for event in recorder.on_disconnect] == [False, False, True]
    assert len(recorder.on_error) == 2
    assert recorder.on_ready == []


def test_a_refusal_without_a_reason_ends_the_stream_when_there_is_nothing_else_for_long(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastpos.recovery.REFUSED_FOR", 0.5)
    exchange.refuse_subscription()
    began = time.monotonic()
    with pytest.raises(AuthenticationError, match=r"in a row, for \d s: 'sub fail'"):
        new_stream(exchange).run_forever()
    assert time.monotonic() - began >= 0.5
    assert exchange.counts["refusal"] > 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_credential_that_served_is_not_refused_by_the_upgrade_at_once(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.refuse_upgrade(status, times=5)
        exchange.drop()
        recorder.wait("on_ready", 2)
        monkeypatch.setattr("fastpos.recovery.REFUSED_FOR", 0.2)
        exchange.refuse_upgrade(status)
        exchange.drop()
        with pytest.raises(AuthenticationError, match=str(status)):
            stream.join(SOON)
    assert [type(error) for error in recorder.on_error[1:6]] == [AuthenticationError] * 5


@pytest.mark.parametrize("text", ["Ping", "系统维护中", '{"event":"notice"}'])
def test_a_text_that_nobody_understands_is_waited_out(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, text: str
) -> None:
    exchange.refuse_subscription(text, times=4)
    with new_stream(exchange, subscribe_timeout=0.1):
        (ready,) = recorder.wait("on_ready")
    assert ready.attempts == 5
    assert [type(error) for error in recorder.on_error] == [DecodeError, SubscriptionError] * 4
    assert all("within 0.1 s" in event.reason for event in recorder.on_disconnect[:4])


def test_a_text_that_nobody_understands_may_come_before_the_reply(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    for _ in range(4):
        exchange.push_before_sub_success("Ping")  # as gzip
    with new_stream(exchange):
        (ready,) = recorder.wait("on_ready")
    assert ready.attempts == 1
    assert [str(error) for error in recorder.on_error] == ["'Ping' in place of 'sub success'"]


def test_fresh_token_after_a_drop(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    tokens = ["first-token-1111", "second-token-2222", "third-token-3333"]
    exchange.token = tokens[0]
    with new_stream(exchange, token=lambda: exchange.token):
        for run, token in enumerate(tokens[1:], start=1):
            recorder.wait("on_ready", run)
            exchange.token = token
            exchange.drop()
        recorder.wait("on_ready", 3)
    assert exchange.rejections == []
    assert exchange.counts["refusal"] == 0
    assert exchange.violations == []


# --- upgrades that fail ---------------------------------------------------------------------------


def refused(status: int) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.refuse_upgrade(status, body=b"<html>no</html>", times=2)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        *((refused(status), status) for status in (302, 404, 429, 503)),
        (lambda exchange: exchange.silent_connect(times=2), None),
        (lambda exchange: exchange.ignore_subscription(times=2), None),
    ],
    ids=["302", "404", "429", "503", "no greeting", "no answer to sub"],
)
def test_what_fails_is_tried_again(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    fault: Callable[[Exchange], None],
    status: int | None,
) -> None:
    fault(exchange)
    with new_stream(exchange, subscribe_timeout=0.1):
        (ready,) = recorder.wait("on_ready")
    # Failures before the first subscription are no gap.
    assert (ready.first, ready.gap_s, ready.attempts) == (True, None, 3)
    assert [event.error for event in recorder.on_disconnect[:2]] == recorder.on_error
    for error in recorder.on_error:
        if status is None:
            assert type(error) is SubscriptionError
            assert "within 0.1 s" in str(error)
        else:
            assert error.status == status


# --- what is told ---------------------------------------------------------------------------------


def test_gap_is_measured_over_all_attempts(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.refuse_upgrade(503, times=3)
        before = time.monotonic()
        exchange.drop()
        recorder.wait("on_ready", 2)
        after = time.monotonic()
        exchange.drop()
        recorder.wait("on_ready", 3)
    first, second, third = recorder.on_ready
    assert (first.first, first.gap_s, first.attempts) == (True, None, 1)
    assert (second.first, second.attempts) == (False, 4)
    span = recorder.times["on_ready"][1] - recorder.times["on_disconnect"][0]
    assert span * 0.9 <= second.gap_s <= after - before + 0.5
    assert (third.first, third.attempts) == (False, 1)
    assert third.gap_s < second.gap_s + 1.0


def test_a_gap_begins_with_the_last_sign_of_life(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """A reset may come long after the path has died, and what was sent meanwhile is lost."""
    with new_stream(exchange) as stream:
        recorder.wait("on_ready")
        exchange.push(order(1))
        recorder.wait("on_order")
        (heard,) = recorder.times["on_order"]
        until(lambda: time.monotonic() > heard + 0.3)
        exchange.drop()
        ready = recorder.wait("on_ready", 2)[1]
    assert ready.gap_s >= 0.3
    assert "reset" in recorder.on_disconnect[0].reason
    assert stream.stats.disconnects


# --- SYSTEM close ---------------------------------------------------------------------------------


def test_system_close(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.system_close(close_after=0.05)
        recorder.wait("on_system_close")
        recorder.wait("on_ready", 2)
        exchange.push(order(1))
        recorder.wait("on_order")
    assert recorder.names[:2] == ["on_system_close", "on_disconnect"]
    assert recorder.on_disconnect[0].close_code == 1001
    assert len(recorder.on_system_close) == 1


def test_unread_messages_before_the_end_are_delivered(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """A callback is slow, the server closes meanwhile, a ping fails: nothing is lost."""
    release = threading.Event()
    with new_stream(exchange, ping_interval=0.05, pong_timeout=1.0) as stream:

        @stream.on_order
        def slow(received: Any) -> None:
            if received.order_id == "0":
                release.wait(SOON)

        assert stream.wait_ready(SOON)
        for number in range(20):
            exchange.push(order(number))
        recorder.wait("on_order")
        exchange.drop(clean=True, code=1012)
        assert exchange.wait_for_clients(0)
        assert exchange.wait_for(lambda: exchange.connections[0].ended_at is not None)
        release.set()
        recorder.wait("on_order", 20)
        recorder.wait("on_ready", 2)
    assert [o.order_id for o in recorder.on_order] == [str(number) for number in range(20)]
