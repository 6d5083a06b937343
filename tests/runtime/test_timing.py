"""How long callbacks take, and how long events wait for them: what is measured and logged."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from fastpos import Order, PositionStream
from fastpos.runtime.callbacks import Handlers
from fastpos.runtime.lookout import Lookout
from fastpos.runtime.timing import LOG_INTERVAL, MAX_FUNCTIONS, CallbackTimes
from tests.runtime.outcome import Rig
from tests.support.bench import Bench
from tests.support.pushes import order, push_frame
from tests.support.recording import SOON, Recorder, logged, until
from tests.support.servers import ScriptedServer, answer_until_close, serve_subscription

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

on_either_thread = pytest.mark.parametrize("dispatch", ["reader", "thread"])


@on_either_thread
def test_slow_callback_is_logged_once_with_its_name_and_time(
    bench: Bench, caplog: pytest.LogCaptureFixture, dispatch: str
) -> None:
    def slow(secret: str, event: object) -> None:
        time.sleep(0.3)
        raise ValueError

    def quick(_: object) -> None: ...

    stream = bench.start(dispatch=dispatch, slow_callback_s=0.25)
    stream.on_order(partial(slow, "kept-to-itself"))
    stream.on_order(quick)
    bench.push(0, 1, 2)
    error, *_ = bench.wait("on_error", 3)
    bench.exchange.push({"channel": "news"})
    bench.wait("on_unknown")
    stats = stream.stats
    records = {record["fastpos_callback"]: record for record in logged(caplog, "slow_callback")}
    assert len(logged(caplog, "slow_callback")) == len(records), "one is there twice"
    assert quick.__qualname__ not in records
    record = records[slow.__qualname__]
    assert slow.__qualname__ in record["message"]
    assert 0.25 < record["fastpos_seconds"] < SOON
    assert stats.slowest_callback is not None
    assert stats.slowest_callback_s >= 0.3
    # Its name shows no arguments.
    assert "slow" in str(error)
    assert "kept-to-itself" not in str(error) + caplog.text


@on_either_thread
def test_time_without_events_counts_for_no_callback(
    bench: Bench, caplog: pytest.LogCaptureFixture, dispatch: str
) -> None:
    """Nor for the lag."""
    stream = bench.start(dispatch=dispatch, slow_callback_s=1.0)
    bench.push(1)
    bench.wait("on_order")
    # An exchange that says nothing for so long is the thing itself.
    assert not bench.exchange.wait_for("disconnect", 1.2)
    bench.push(2)
    bench.wait("on_order", 2)
    bench.exchange.push_bytes(b"garbage")
    bench.wait("on_error")
    bench.exchange.drop()
    bench.wait("on_ready", 2)
    bench.exchange.push({"channel": "news"})
    bench.wait("on_unknown")
    assert stream.stats.max_lag_s < 1.0
    assert stream.stats.slowest_callback_s < 1.0
    assert logged(caplog, "slow_callback") == []


@on_either_thread
def test_lag(new_stream: Callable[..., PositionStream], recorder: Recorder, dispatch: str) -> None:
    """What is received with something that a callback takes long for waits for that."""
    go_on = threading.Event()

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        peer.sendall(push_frame(order(1)) + push_frame(order(2)))  # one read takes both
        assert go_on.wait(SOON)
        peer.sendall(push_frame(order(3)))
        answer_until_close(peer)

    def nap(event: Order) -> None:
        if event.order_id == "1":
            time.sleep(0.5)

    with ScriptedServer(serve) as server:
        stream = new_stream(server.url, dispatch=dispatch)
        stream.on_order(nap)
        with stream:
            recorder.wait("on_order", 2)
            until(lambda: stream.stats.lag_s >= 0.5, what="the lag")
            stats = stream.stats
            go_on.set()
            recorder.wait("on_order", 3)
            until(lambda: stream.stats.lag_s < 0.5, what="no lag")
            assert stream.stats.max_lag_s == stats.max_lag_s
    assert stats.lag_s == stats.max_lag_s < SOON
    assert stats.slowest_callback == nap.__qualname__
    assert 0.5 <= stats.slowest_callback_s < SOON


def test_a_function_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    def one(_: object) -> None: ...
    def other(_: object) -> None: ...

    times = CallbackTimes(1.0)
    began = times.now

    def at(seconds: float, function: Callable[[Any], None], took: float) -> int:
        times.now = began + seconds
        times.took("on_order", function, took)
        return len(logged(caplog, "slow_callback"))

    assert at(0.0, one, 1.0) == 0  # not longer
    assert at(0.0, one, 1.1) == 1
    times.now = began
    assert at(1.0, one, 30.0) == 1
    assert at(2.0, other, 2.0) == 2
    assert at(LOG_INTERVAL - 1.0, one, 2.0) == 2
    assert at(LOG_INTERVAL + 3.0, one, 2.0) == 3
    assert times.slowest[0] == 30.0
    assert (times.slowest[1] or "").endswith("one")
    for function in [lambda _: None for _ in range(3 * MAX_FUNCTIONS)]:
        times.took("on_order", function, 2.0)
    assert len(times._logged) == MAX_FUNCTIONS


# --- a function that hangs ------------------------------------------------------------------------


@on_either_thread
def test_a_function_that_hangs_is_named_while_it_does(
    bench: Bench, caplog: pytest.LogCaptureFixture, dispatch: str
) -> None:
    release = threading.Event()

    def hang(_: object) -> None:
        release.wait(SOON)
        release.clear()

    def named() -> list[dict[str, Any]]:
        """But for others, which a busy machine may hold up as long."""
        records = logged(caplog, "callback_running")
        return [each for each in records if each["fastpos_callback"] == hang.__qualname__]

    stream = bench.start(dispatch=dispatch, slow_callback_s=0.15)
    stream.on_order(hang)
    until(lambda: stream.stats.current_callback is None)
    for call in (1, 2):
        bench.push(call)
        until(lambda call=call: len(named()) == call, what="that it is named")
        stats = stream.stats
        assert stats.current_callback == hang.__qualname__
        assert 0.15 <= stats.current_callback_s < SOON
        record = named()[-1]
        assert record["fastpos_slot"] == "on_order"
        assert record["fastpos_callback"] == hang.__qualname__
        assert 0.15 <= record["fastpos_seconds"] < SOON
        assert record["threadName"].startswith("fastpos-ping-")
        release.set()
        until(lambda: stream.stats.current_callback is None)
        assert len(named()) == call
        assert stream.stats.current_callback_s == 0.0


def test_who_looks_next_finds_what_has_begun_meanwhile() -> None:
    """No look is late for what began after the one before it, and none is in vain."""
    times = CallbackTimes(1.0)
    lookout = Lookout(times, slow_s=2.0)
    assert lookout.keep_schedule(10.0) == 12.0
    times.handlers, times.function, times.begun = Handlers("on_order"), print, 11.5
    assert times.running == ("on_order", print, 11.5)
    assert lookout.keep_schedule(12.0) == 13.5
    assert lookout.keep_schedule(13.5) == 15.5  # it was named
    assert lookout.keep_schedule(15.5) == 17.5
    times.function = None
    assert times.running is None
    times.function, times.begun = print, 15.6
    assert lookout.keep_schedule(16.0) == 17.6


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_function_that_raised_does_not_run_any_more(error: type[BaseException]) -> None:
    rig = Rig()

    def fail(_: object) -> None:
        assert rig.times.running is not None
        raise error

    rig.callbacks.on_order.replace(fail)
    with suppress(KeyboardInterrupt):
        rig.deliver(order(1))
    assert rig.times.running is None
