"""Callbacks on a thread of their own: the queue, what it keeps, how it ends."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from fastpos import (
    AdlPrice,
    Disconnect,
    FastposError,
    Order,
    PositionStream,
    ReconnectExhausted,
    ReconnectPolicy,
)
from fastpos.fork import OwnerProcess
from fastpos.runtime.callbacks import Handlers
from fastpos.runtime.dispatch import Dispatcher
from tests.support.bench import Bench
from tests.support.connections import at_once, concurrently
from tests.support.recording import SOON, logged, until

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


# --- the queue ------------------------------------------------------------------------------------


class Desk:
    """A dispatcher of room for four, whose thread is held in its first call until `open`."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        """What functions were called with: numbers of orders, uids of ticks, other events."""
        self.entered, self.open = threading.Event(), threading.Event()
        self.on_error: Handlers[FastposError] = Handlers("on_error")
        self.on_error(self.seen.append)
        self.dispatcher = Dispatcher(4, self.on_error, OwnerProcess())
        self.ended = threading.Event()
        self._handlers: Handlers[Any] = Handlers("on_any")
        self._handlers(self.work)

    def start(self) -> None:
        self.open.clear()
        self.dispatcher.start("fastpos-callbacks-test", self._call, self.ended.set)
        self.order(0)
        assert self.entered.wait(SOON)

    def work(self, event: Any) -> None:
        number = event.order_id if isinstance(event, Order) else None
        tick = f"tick {event.uid}" if isinstance(event, AdlPrice) else event
        self.seen.append(int(number) if number else tick)
        self.entered.set()
        assert self.open.wait(SOON)

    def put(self, event: Any) -> None:
        self.dispatcher.put(self._handlers, event, 0.0)

    def order(self, number: int) -> None:
        self.put(Order(order_id=str(number)))

    def orders(self, *numbers: int) -> None:
        for number in numbers:
            self.order(number)

    def tick(self, number: int) -> None:
        self.put(AdlPrice(uid=number))

    def finish(self) -> list[Any]:
        """Let it go on to its end; what it has seen."""
        self.open.set()
        self.dispatcher.finish(SOON)
        assert not self.dispatcher.is_alive
        return self.seen

    @staticmethod
    def _call(handlers: Handlers[Any], event: Any, _heard: float) -> None:
        for function in handlers.functions:
            function(event)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.start()
    yield desk
    desk.open.set()
    desk.dispatcher.discard()
    desk.dispatcher.finish(SOON)


@pytest.mark.parametrize("heard", [True, False])
def test_waiting_is_told_once_for_each_time_it_begins(
    desk: Desk, caplog: pytest.LogCaptureFixture, heard: bool
) -> None:
    records = partial(logged, caplog, "queue_full")
    if not heard:
        desk.on_error.replace(None)
    for episode in (1, 2):
        with concurrently(lambda: desk.orders(*range(1, 20))):
            until(lambda: len(records()) == episode)  # noqa: B023
            desk.open.set()
        until(lambda: desk.dispatcher.depth == 0 and desk.dispatcher._current is None)
        desk.dispatcher._full_until -= 3600  # as if that had been an hour ago
        desk.entered.clear()
        desk.open.clear()
        desk.order(20)
        assert desk.entered.wait(SOON)
    errors = [event for event in desk.seen if isinstance(event, FastposError)]
    assert len(errors) == 2 * heard
    for error in errors:
        assert re.search("callback queue.*4 events.*on_any.*Desk.work.* s ago", str(error))
    # It waited and lost nothing, and was told before what waited.
    others = [event for event in desk.seen if event not in errors]
    assert others == [0, *range(1, 21), *range(1, 21)]
    assert not heard or desk.seen[:2] == [0, errors[0]]
    first, _ = records()
    assert first["levelno"] == logging.WARNING
    assert (first["fastpos_queue_depth"], first["fastpos_slot"]) == (4, "on_any")
    assert "Desk.work" in first["fastpos_callback"]


@pytest.mark.parametrize(
    ("ticks", "orders", "more_ticks", "conflated", "seen"),
    [
        ([1, 2, 3, 4], [], [], 0, ["tick 1", "tick 2", "tick 3", "tick 4"]),  # there is room
        ([1], [1, 2, 3], range(2, 50), 48, [1, 2, 3, "tick 49"]),  # they do not wait
        ([1, 2, 3], [1, 2, 3], [], 2, ["tick 3", 1, 2, 3]),  # they make room for an order
    ],
)
def test_ticks_are_conflated_to_the_newest(
    desk: Desk, ticks: Any, orders: Any, more_ticks: Any, conflated: int, seen: list[Any]
) -> None:
    for numbers, put in ((ticks, desk.tick), (orders, desk.order), (more_ticks, desk.tick)):
        for number in numbers:
            put(number)
    assert (desk.dispatcher.conflated, desk.dispatcher.depth) == (conflated, 4)
    assert desk.finish() == [0, *seen]


def test_discard_throws_away_what_waits_and_lets_only_a_disconnect_in(desk: Desk) -> None:
    """Also when somebody stops for the second time, or stopped in the middle of a `put`."""
    with concurrently(lambda: desk.orders(*range(1, 10))):
        until(lambda: desk.dispatcher.depth == 5)
        desk.dispatcher.discard()  # which is room for whoever waits
    desk.order(10)
    desk.tick(1)
    disconnect = Disconnect(reason="stopped")
    desk.put(disconnect)
    desk.dispatcher.wake()
    assert desk.dispatcher.depth == 1
    desk.dispatcher._waiting.append((desk._handlers, Order(order_id="4"), 0.0))
    assert desk.finish() == [0, disconnect]


def test_what_ends_the_thread_is_raised_to_the_reader(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Any) -> None:
        raise ArithmeticError if event == "ours" else KeyboardInterrupt("the user's")

    handlers: Handlers[Any] = Handlers("on_odd")
    handlers(fail)
    desk.dispatcher.put(handlers, "ours", 0.0)  # a mistake of the library's does not end it
    desk.order(1)
    desk.dispatcher.put(handlers, "the user's", 0.0)
    desk.order(2)
    desk.open.set()
    with pytest.raises(KeyboardInterrupt, match="the user's"):
        desk.dispatcher.finish(SOON)
    assert desk.seen == [0, 1]
    assert desk.ended.is_set()
    assert [vars(record).get("fastpos_event") for record in caplog.records] == ["internal_error"]
    desk.start()  # for the fixture's end


# --- streams that have one ------------------------------------------------------------------------


def hold(bench: Bench, **options: Any) -> PositionStream:
    """Order 0 is in the hands of the callback thread of a stream, which waits."""
    stream = bench.start(dispatch="thread", **options)
    stream.on_order(bench.gate)
    bench.push(0)
    assert bench.entered.wait(SOON)
    return stream


def run(stream: PositionStream, how: str) -> None:
    """Run it until something in it stops it."""
    if how == "start":
        stream.start()
        assert stream.join(SOON)
    else:
        stream.run_forever()


both_ways = pytest.mark.parametrize("how", ["start", "run_forever"])


@both_ways
def test_all_callbacks_run_on_one_thread_in_order(bench: Bench, how: str) -> None:
    threads: set[threading.Thread] = set()

    def work(_: object) -> None:
        bench.exchange.place_trigger()
        bench.exchange.push_bytes(b"garbage")
        bench.push(*range(500))
        bench.exchange.push({"channel": "news"})

    stream = bench.new(dispatch="thread")
    for name in bench.recorder.callbacks:
        getattr(stream, name)(lambda _: threads.add(threading.current_thread()))
    stream.on_ready(work)
    stream.on_unknown(lambda _: stream.stop())
    run(stream, how)
    (thread,) = threads
    assert thread.name.startswith("fastpos-callbacks-")
    assert thread.daemon
    names = ["on_trigger", "on_error", *["on_order"] * 500, "on_unknown", "on_disconnect"]
    assert bench.recorder.names == names
    assert bench.orders == list(range(500))


@both_ways
def test_ctrl_c_in_a_callback_ends_the_stream(bench: Bench, how: str) -> None:
    def leave(_: object) -> None:
        raise KeyboardInterrupt("the user's")

    stream = bench.new(dispatch="thread")
    stream.on_order(leave)
    stream.on_ready(lambda _: bench.push(*range(5)))
    with pytest.raises((FastposError, KeyboardInterrupt), match="the user's") as caught:
        run(stream, how)
    if how == "start":
        assert isinstance(caught.value.__cause__, KeyboardInterrupt)
    else:
        assert isinstance(caught.value, KeyboardInterrupt)
    assert bench.orders == [0]
    assert bench.exchange.wait_for_clients(0)
    assert bench.exchange.wait_for("unsub")
    stream.on_order = bench.recorder.callbacks["on_order"]
    with stream:  # and it can begin again
        bench.recorder.wait("on_order", 2)


def test_events_nobody_listens_to_take_no_room(bench: Bench) -> None:
    stream = hold(bench, queue_size=1, on_trigger=None)
    for _ in range(10):
        bench.exchange.place_trigger()
    until(lambda: stream.stats.events.get("Trigger") == 10, what="the reader past them")
    assert stream.stats.queue_depth == 0


# --- their end ------------------------------------------------------------------------------------


def test_wait_ready_in_a_callback_ends_with_the_stream(bench: Bench) -> None:
    """The stream can't end before the callback has, nor does it have to."""
    answers: list[Any] = []

    def wait(_: object) -> None:
        try:
            answers.append(stream.wait_ready())
        except FastposError as error:
            answers.append(error)

    stream = bench.start(
        dispatch="thread", on_disconnect=wait, reconnect=ReconnectPolicy(0.02, max_attempts=1)
    )
    bench.exchange.drop()  # the stream comes back
    until(lambda: answers == [True], what="subscribed again")
    bench.exchange.refuse_upgrade(503)
    bench.exchange.drop()
    with pytest.raises(ReconnectExhausted):
        stream.join(SOON)
    assert all(isinstance(answer, ReconnectExhausted) for answer in answers[1:])
    assert len(answers) == 3


def test_what_waits_is_delivered_when_the_stream_ends_by_itself(bench: Bench) -> None:
    stream = hold(bench, reconnect=None, queue_size=50)
    bench.push(*range(1, 30))
    until(lambda: stream.stats.queue_depth == 29)
    bench.exchange.drop()
    until(lambda: stream.stats.queue_depth == 30, what="on_disconnect in the queue")
    assert not stream.join(0.01)
    bench.open.set()
    with pytest.raises(FastposError):
        stream.join(SOON)
    assert bench.orders == list(range(30))
    assert bench.recorder.names[-1] == "on_disconnect"


@contextmanager
def signal_when_full(bench: Bench, signum: int) -> Iterator[PositionStream]:
    """A stream that is to run in this thread, which gets a signal once its queue is full."""
    this = threading.get_ident()
    stream = bench.new(dispatch="thread", queue_size=2)
    stream.on_order(bench.gate)

    def work() -> None:
        bench.wait("on_ready")
        bench.push(0)
        assert bench.entered.wait(SOON)
        bench.push(1, 2, 3)  # 1 and 2 wait, the reader has one more and waits too
        until(lambda: stream.stats.events.get("Order") == 4, what="the reader at the full queue")
        signal.pthread_kill(this, signum)

    with concurrently(work):
        yield stream


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="has none between threads")


@needs_signals
def test_ctrl_c_does_not_wait_long_for_a_callback(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the reader in run_forever(), not the callback."""
    monkeypatch.setattr("fastpos.runtime.driver.CLOSE_TIMEOUT", 0.1)
    later: list[object] = []
    with at_once(SOON / 2), signal_when_full(bench, signal.SIGINT) as stream:
        stream.on_order(later.append)
        with pytest.raises(KeyboardInterrupt):
            stream.run_forever()
    with pytest.raises(RuntimeError, match="running"):
        stream.start()
    bench.open.set()
    until(lambda: not stream._dispatcher.is_alive)  # type: ignore[union-attr]
    assert later == []
    with stream:  # and it can begin again
        assert stream.wait_ready(SOON)


@needs_signals
def test_stop_in_a_signal_handler_while_the_reader_waits(bench: Bench) -> None:
    def handle(*_: object) -> None:
        stream.stop()
        bench.open.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with signal_when_full(bench, signal.SIGUSR1) as stream:
            stream.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert bench.orders == [0]
    assert [event.reason for event in bench.recorder.on_disconnect] == ["stopped"]
    assert bench.exchange.wait_for("unsub")
