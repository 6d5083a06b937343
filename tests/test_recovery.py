"""How connections end, and how the stream comes back or says that it does not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from fastpos import (
    AuthenticationError,
    ConnectionFailed,
    PositionStream,
    ReconnectPolicy,
    SubscriptionError,
    SystemClose,
)
from fastpos.runtime.pinger import Pinger
from fastpos.simulator import Exchange
from tests.recording import (
    SOON,
    Recorder,
    answer_until_close,
    order,
    push_frame,
    serve_subscription,
    until,
)
from tests.servers import (
    CLOSE,
    ScriptedServer,
    close_frame,
    frames,
    read_frame,
    read_request,
)

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


# --- ends of a connection -------------------------------------------------------------------------


def test_drop(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.drop()
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


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 3000, 4999])
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


def test_bare_end_of_the_stream(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.drop(clean=True, code=None)
        recorder.wait("on_ready", 2)
    assert recorder.on_disconnect[0].close_code is None
    assert type(recorder.on_disconnect[0].error) is ConnectionFailed


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


def test_wrong_key_of_a_real_exchange(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with pytest.raises(AuthenticationError):
        new_stream(exchange, api_key="not-the-right-key").run_forever()
    with pytest.raises(AuthenticationError):
        new_stream(exchange, token="not-the-right-token").run_forever()
    assert exchange.rejections == [401, 401]


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


def test_three_refusals_in_a_row_end_the_stream(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    exchange.refuse_subscription("broker unknown")
    stream = new_stream(exchange)
    with pytest.raises(AuthenticationError, match="broker unknown") as caught:
        stream.run_forever()
    assert isinstance(caught.value.__cause__, SubscriptionError)
    assert caught.value.__cause__.reply is not None
    assert "broker unknown" in caught.value.__cause__.reply
    assert exchange.counts["refusal"] == 3
    assert len(recorder.on_disconnect) == 3
    assert [event.retry_in_s is None for event in recorder.on_disconnect] == [False, False, True]
    assert len(recorder.on_error) == 2
    assert recorder.on_ready == []


@pytest.mark.parametrize("fault", ["silent_connect", "ignore_subscription"])
def test_silence_is_tried_again(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, fault: str
) -> None:
    getattr(exchange, fault)(times=2)
    with new_stream(exchange, subscribe_timeout=0.1):
        (ready,) = recorder.wait("on_ready")
    assert ready.attempts == 3
    assert len(recorder.on_error) == 2
    for error in recorder.on_error:
        assert type(error) is SubscriptionError
        assert error.reply is None
        assert "within 0.1 s" in str(error)


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


@pytest.mark.parametrize("status", [302, 400, 404, 426, 429, 500, 502, 503])
def test_other_refusals_of_the_upgrade_are_tried_again(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, status: int
) -> None:
    exchange.refuse_upgrade(status, body=b"<html>no</html>", times=2)
    with new_stream(exchange):
        (ready,) = recorder.wait("on_ready")
    assert ready.attempts == 3
    assert exchange.rejections == [status, status]
    assert [error.status for error in recorder.on_error] == [status, status]
    assert all(str(status) in e.reason or status == 302 for e in recorder.on_disconnect[:2])


@pytest.mark.long
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, form: str
) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    exchange.refuse_upgrade(429, headers={"Retry-After": value}, times=1)
    with new_stream(exchange):
        (refused,) = recorder.wait("on_disconnect")
        recorder.wait("on_ready")
    waited = recorder.times["on_ready"][0] - recorder.times["on_disconnect"][0]
    assert refused.retry_in_s >= 0.9
    assert waited >= 0.9
    assert refused.error.status == 429
    assert 0.9 <= refused.error.retry_after <= 2.0


def test_server_that_never_upgrades(new_stream: NewStream, recorder: Recorder) -> None:
    def serve(peer: socket.socket) -> None:
        if len(recorder.on_disconnect) >= 2:
            serve_subscription(peer)
            answer_until_close(peer)
            return
        read_request(peer)
        assert peer.recv(1) == b""  # until the client has enough

    with ScriptedServer(serve) as server, new_stream(server.url, connect_timeout=0.2):
        (ready,) = recorder.wait("on_ready")
    assert ready.attempts == 3
    assert all(type(error) is ConnectionFailed for error in recorder.on_error)


# --- the policy -----------------------------------------------------------------------------------


def test_first_retry_comes_within_a_second(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange, reconnect=ReconnectPolicy()) as stream:
        assert stream.wait_ready(SOON)
        began = time.monotonic()
        exchange.drop()
        assert exchange.wait_for("connect", count=2)
        assert time.monotonic() - began < 1.3
    assert recorder.on_disconnect[0].retry_in_s <= 1.0


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


def test_failures_before_the_first_subscription_are_no_gap(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    exchange.refuse_upgrade(503, times=2)
    with new_stream(exchange):
        (ready,) = recorder.wait("on_ready")
    assert (ready.first, ready.gap_s, ready.attempts) == (True, None, 3)


def test_positions_survive_a_drop(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        position = exchange.open_position(volume=3)
        recorder.wait("on_position")
        exchange.drop()
        recorder.wait("on_ready", 2)
        exchange.update_position(position, volume=4)
        updated = recorder.wait("on_position", 2)[1]
        assert updated.complete
        assert (updated.volume, updated.side) == (4, "BUY")
        assert stream.positions[position].volume == 4


def test_stats_tell_why(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.drop(clean=True, code=1012)
        recorder.wait("on_ready", 2)
        exchange.drop(clean=True, code=1012)
        recorder.wait("on_ready", 3)
    stats = stream.stats
    assert (stats.connects, stats.subscriptions) == (3, 3)
    reasons = {event.reason for event in recorder.on_disconnect}
    assert stats.disconnects.keys() == reasons
    assert sorted(stats.disconnects.values()) == [1, 2]


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


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
def test_server_that_says_it_closes_and_stays(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    busy: bool,
) -> None:
    monkeypatch.setattr("fastpos.wire.session.SYSTEM_CLOSE_GRACE", 0.3)
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        exchange.push({"channel": "SYSTEM", "uid": 1001, "et": "close"})
        if busy:
            exchange.open_position()
            exchange.start_ticking(0.02)
        (event,) = recorder.wait("on_disconnect", timeout=3.0)
        waited = recorder.times["on_disconnect"][0] - recorder.times["on_system_close"][0]
        recorder.wait("on_ready", 2)
    assert 0.3 <= waited < 2.0
    assert "said that it closes" in event.reason
    assert event.retry_in_s is not None


def test_stop_at_system_close_of_a_server_that_stays(
    new_stream: NewStream, recorder: Recorder
) -> None:
    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        peer.sendall(push_frame({"channel": "SYSTEM", "et": "close"}))
        assert list(frames(peer))[-1].opcode == CLOSE
        assert peer.recv(1) == b""  # no answer: it is the client that ends it

    with ScriptedServer(serve) as server:
        stream = new_stream(server.url)

        @stream.on_system_close
        def leave(_: SystemClose) -> None:
            stream.stop()

        stream.start()
        recorder.wait("on_system_close")
        began = time.monotonic()
        assert stream.join(SOON + 1)
        assert time.monotonic() - began < 3.0


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


def test_server_that_closes_without_ending_tcp(new_stream: NewStream, recorder: Recorder) -> None:
    """It should end the connection after the close frames; some do not."""
    over = threading.Event()

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        if recorder.on_disconnect:
            answer_until_close(peer)
            return
        peer.sendall(close_frame(1001))
        over.wait(SOON)

    with ScriptedServer(serve) as server, new_stream(server.url):
        recorder.wait("on_ready", 2, timeout=3.0)
        over.set()
    assert recorder.on_disconnect[0].close_code == 1001


def test_nothing_after_a_close_frame_counts(new_stream: NewStream, recorder: Recorder) -> None:
    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        if recorder.on_disconnect:
            answer_until_close(peer)
            return
        peer.sendall(push_frame(order(1)) + close_frame(1001) + push_frame(order(2)))
        read_frame(peer)

    with ScriptedServer(serve) as server, new_stream(server.url):
        recorder.wait("on_ready", 2)
    assert [o.order_id for o in recorder.on_order] == ["1"]
