"""How connections end, and how the stream comes back or says that it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fastpos import AuthenticationError, ConnectionFailed, DecodeError, SubscriptionError
from fastpos.simulator import Exchange
from tests.support.bench import Bench
from tests.support.recording import SOON, until

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


# --- ends of a connection -------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"clean": True, "code": None}], ids=["reset", "bare end"])
def test_drop(bench: Bench, how: dict[str, Any]) -> None:
    bench.start()
    bench.exchange.drop(**how)
    first, second = bench.wait("on_ready", 2)
    bench.push(1)
    bench.wait("on_order")
    (event,) = bench.recorder.on_disconnect
    assert event.reason
    assert event.close_code is None
    assert type(event.error) is ConnectionFailed
    assert 0 <= event.retry_in_s <= 1.0
    assert bench.recorder.on_error == [event.error]
    assert (first.first, first.gap_s, first.attempts) == (True, None, 1)
    assert (second.first, second.attempts) == (False, 1)
    assert 0 < second.gap_s < SOON
    assert bench.exchange.counts["sub"] == 2
    assert bench.exchange.violations == []


@pytest.mark.parametrize("code", [1000, 1008, 4999])
def test_clean_close(bench: Bench, code: int) -> None:
    bench.start()
    bench.push(1)  # what was sent before the end is delivered before it is told
    bench.exchange.drop(clean=True, code=code, reason="for maintenance")
    bench.wait("on_ready", 2)
    (event,) = bench.recorder.on_disconnect
    assert event.close_code == code
    assert str(code) in event.reason
    assert "for maintenance" in event.reason
    assert event.error is None
    assert bench.recorder.on_error == []
    assert bench.recorder.names[:2] == ["on_order", "on_disconnect"]
    assert bench.exchange.connections[0].close_code == code  # RFC 6455, 5.5.1: answered in kind


# --- the credential -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("how", ["run_forever", "join", "wait_ready"])
def test_refused_credential_ends_the_stream(bench: Bench, status: int, how: str) -> None:
    bench.exchange.refuse_upgrade(status)
    stream = bench.new()
    if how != "run_forever":
        stream.start()
    with pytest.raises(AuthenticationError, match=str(status)) as caught:
        getattr(stream, how)(*(() if how == "run_forever" else (SOON,)))
    assert bench.exchange.rejections == [status]
    (event,) = bench.recorder.on_disconnect
    assert event.retry_in_s is None
    assert event.error is caught.value
    assert bench.recorder.on_error == []  # it gets those that did not end the stream
    for ask in (stream.join, stream.wait_ready):  # whenever it is asked
        with pytest.raises(AuthenticationError):
            ask(SOON)
    stream.stop()
    bench.exchange.clear_faults()
    stream.start()  # a new attempt is a new start
    assert stream.wait_ready(SOON)


def test_three_refusals_of_the_credential_end_the_stream(bench: Bench) -> None:
    bench.exchange.refuse_subscription("no such token")
    with pytest.raises(AuthenticationError, match="no such token") as caught:
        bench.new().run_forever()
    assert isinstance(caught.value.__cause__, SubscriptionError)
    assert "no such token" in str(caught.value.__cause__.reply)
    assert bench.exchange.counts["refusal"] == 3
    final = [event.retry_in_s is None for event in bench.recorder.on_disconnect]
    assert final == [False, False, True]
    assert len(bench.recorder.on_error) == 2
    assert bench.recorder.on_ready == []


def test_a_refusal_without_a_reason_ends_the_stream_when_there_is_nothing_else_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastpos.recovery.REFUSED_FOR", 0.5)
    bench.exchange.refuse_subscription()
    began = time.monotonic()
    with pytest.raises(AuthenticationError, match=r"in a row, for \d s: 'sub fail'"):
        bench.new().run_forever()
    assert time.monotonic() - began >= 0.5
    assert bench.exchange.counts["refusal"] >= 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_credential_that_served_is_not_refused_by_the_upgrade_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    stream = bench.start()
    bench.exchange.refuse_upgrade(status, times=5)
    bench.exchange.drop()
    bench.wait("on_ready", 2)
    monkeypatch.setattr("fastpos.recovery.REFUSED_FOR", 0.2)
    bench.exchange.refuse_upgrade(status)
    bench.exchange.drop()
    with pytest.raises(AuthenticationError, match=str(status)):
        stream.join(SOON)
    refusals = [type(error) for error in bench.recorder.on_error[1:6]]
    assert refusals == [AuthenticationError] * 5


def test_a_text_that_nobody_understands_is_waited_out(bench: Bench) -> None:
    bench.exchange.refuse_subscription("系统维护中", times=4)
    bench.new(subscribe_timeout=0.5).start()
    (ready,) = bench.wait("on_ready")
    assert ready.attempts >= 5  # one more where a busy machine takes longer for the right answer
    errors = [type(error) for error in bench.recorder.on_error]
    assert errors[:8] == [DecodeError, SubscriptionError] * 4
    assert all("within 0.5 s" in event.reason for event in bench.recorder.on_disconnect[:4])


def test_a_text_that_nobody_understands_may_come_before_the_reply(bench: Bench) -> None:
    for _ in range(4):
        bench.exchange.push_before_sub_success("Ping")  # as gzip
    bench.new().start()
    (ready,) = bench.wait("on_ready")
    assert ready.attempts == 1
    said = [error.message for error in bench.recorder.on_error]
    assert said == ["'Ping' in place of 'sub success'"]


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
    bench: Bench, fault: Callable[[Exchange], None], status: int | None
) -> None:
    fault(bench.exchange)
    # The third attempt has as long.
    bench.new(**({"subscribe_timeout": 1.5} if status is None else {})).start()
    (ready,) = bench.wait("on_ready")
    # Failures before the first subscription are no gap.
    assert (ready.first, ready.gap_s, ready.attempts) == (True, None, 3)
    errors = bench.recorder.on_error
    assert [event.error for event in bench.recorder.on_disconnect[:2]] == errors
    for error in errors:
        if status is None:
            assert type(error) is SubscriptionError
            assert "within 1.5 s" in str(error)
        else:
            assert error.status == status


# --- what is told ---------------------------------------------------------------------------------


def test_gap_is_measured_over_all_attempts(bench: Bench) -> None:
    began = time.time_ns()
    bench.start()
    bench.exchange.refuse_upgrade(503, times=3)
    bench.exchange.drop()
    bench.wait("on_ready", 2)
    after = time.time_ns()
    bench.exchange.drop()
    _, second, third = bench.wait("on_ready", 3)
    assert (second.first, second.attempts) == (False, 4)
    # From the last byte before the end to the first after it: no shorter than what lies between
    # the two that were told, and no longer than all of it.
    span_ns = second.received_ns - bench.recorder.on_disconnect[0].received_ns
    assert span_ns - 1e6 <= second.gap_s * 1e9 <= after - began + 1e6
    assert (third.first, third.attempts) == (False, 1)
    assert third.gap_s * 1e9 <= time.time_ns() - second.received_ns + 1e6  # it begins anew


def test_a_gap_begins_with_the_last_sign_of_life(bench: Bench) -> None:
    """A reset may come long after the path has died, and what was sent meanwhile is lost."""
    stream = bench.start()
    bench.push(1)
    bench.wait("on_order")
    (heard,) = bench.recorder.times["on_order"]
    until(lambda: time.monotonic() > heard + 0.3)
    bench.exchange.drop()
    ready = bench.wait("on_ready", 2)[1]
    assert ready.gap_s >= 0.3
    assert "reset" in bench.recorder.on_disconnect[0].reason
    assert stream.stats.disconnects


def test_system_close(bench: Bench) -> None:
    bench.start()
    bench.exchange.system_close(close_after=0.05)
    bench.wait("on_ready", 2)
    bench.push(1)
    bench.wait("on_order")
    assert bench.recorder.names[:2] == ["on_system_close", "on_disconnect"]
    assert bench.recorder.on_disconnect[0].close_code == 1001
    assert len(bench.recorder.on_system_close) == 1


def test_unread_messages_before_the_end_are_delivered(bench: Bench) -> None:
    """A callback is slow, the server closes meanwhile, a ping fails: nothing is lost."""
    stream = bench.start(ping_interval=0.05, pong_timeout=SOON)
    stream.on_order(bench.gate)
    bench.push(*range(20))
    assert bench.entered.wait(SOON)
    bench.exchange.drop(clean=True, code=1012)
    assert bench.exchange.wait_for_clients(0)
    assert bench.exchange.wait_for(lambda: bench.exchange.connections[0].ended_at is not None)
    bench.open.set()
    bench.wait("on_ready", 2)
    assert bench.orders == list(range(20))
