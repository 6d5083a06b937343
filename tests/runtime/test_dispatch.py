"""Callbacks on a thread of their own: the queue, what it keeps, how it ends."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from fastpos.simulator import Exchange
from tests.support.connections import at_once, concurrently
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

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
    def records() -> list[dict[str, Any]]:
        return [r for r in map(vars, caplog.records) if r.get("fastpos_event") == "queue_full"]

    if not heard:
        desk.on_error.replace(None)
    for episode in (1, 2):
        with concurrently(lambda: desk.orders(*range(1, 20))):
            until(lambda: len(records()) == episode)  # noqa: B023
            desk.open.set()
        until(lambda: desk.dispatcher.depth == 0)
        desk.dispatcher._waited -= 3600  # as if that had been an hour ago
        desk.entered.clear()
        desk.open.clear()
        desk.order(20)
        assert desk.entered.wait(SOON)
    errors = [event for event in desk.seen if isinstance(event, FastposError)]
    assert len(errors) == 2 * heard
    for part in ("callback queue", "4 events", "on_any", "Desk.work", " s ago"):
        assert all(part in str(error) for error in errors)
    # It waited and lost nothing, and was told before what waited.
    assert [event for event in desk.seen if event not in errors] == [
        0,
        *range(1, 21),
        *range(1, 21),
    ]
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


class Bench:
    """An exchange and streams with a callback thread."""

    def __init__(self, exchange: Exchange, recorder: Recorder, new_stream: NewStream) -> None:
        self.exchange = exchange
        self.recorder = recorder
        self.entered, self.open = threading.Event(), threading.Event()
        self.new = partial(new_stream, exchange, dispatch="thread", slow_callback_s=60)

    def start(self, **options: Any) -> PositionStream:
        """A subscribed stream; its second function for orders waits in each call until `open`."""
        stream: PositionStream = self.new(**options)
        stream.on_order(self.gate)
        stream.start()
        assert stream.wait_ready(SOON)
        return stream

    def gate(self, _: object) -> None:
        self.entered.set()
        assert self.open.wait(SOON)

    def push(self, *numbers: int) -> None:
        for number in numbers:
            self.exchange.push(order(number))

    def hold(self) -> None:
        """Order 0 is in the hands of the callback thread, which waits."""
        self.push(0)
        assert self.entered.wait(SOON)

    def fill(self, stream: PositionStream) -> None:
        """Of a queue of two: orders 1 and 2 wait, the reader has one more and waits too."""
        self.hold()
        self.push(1, 2, 3)
        until(lambda: stream.stats.events.get("Order") == 4, what="the reader at the full queue")

    @property
    def orders(self) -> list[int]:
        """The numbers that came."""
        return [int(event.order_id) for event in self.recorder.on_order]


@pytest.fixture
def bench(exchange: Exchange, recorder: Recorder, new_stream: NewStream) -> Iterator[Bench]:
    bench = Bench(exchange, recorder, new_stream)
    yield bench
    bench.open.set()


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

    stream = bench.new()
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

    stream = bench.new()
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


def test_reader_waits_and_nothing_is_lost(bench: Bench) -> None:
    """Neither a pong that is unread behind a full queue, nor pings, nor events."""
    exchange, recorder = bench.exchange, bench.recorder
    stream = bench.start(queue_size=2, ping_interval=0.05, pong_timeout=0.1)
    bench.fill(stream)
    bench.push(*range(4, 100))
    exchange.push_bytes(b"garbage")
    exchange.place_trigger()
    # For many times as long as a pong may take.
    assert exchange.wait_for("ping", count=exchange.counts["ping"] + 8)
    assert recorder.on_disconnect == []
    bench.open.set()
    recorder.wait("on_trigger")
    assert exchange.wait_for("ping", count=exchange.counts["ping"] + 3)
    full, _garbage = recorder.on_error
    assert "callback queue" in str(full)
    assert recorder.on_disconnect == []
    assert bench.orders == list(range(100))


def test_events_nobody_listens_to_take_no_room(bench: Bench) -> None:
    stream = bench.start(queue_size=1, on_trigger=None)
    bench.hold()
    for _ in range(10):
        bench.exchange.place_trigger()
    until(lambda: stream.stats.events.get("Trigger") == 10, what="the reader past them")
    assert stream.stats.queue_depth == 0


# --- their end ------------------------------------------------------------------------------------


def test_stop_in_time_though_a_callback_takes_longer(bench: Bench) -> None:
    later: list[object] = []
    stream = bench.start(queue_size=2)
    stream.on_order(later.append)
    bench.fill(stream)
    with at_once(0.8):
        stream.stop(timeout=0.3)
    calls = list(bench.recorder.calls)
    with pytest.raises(RuntimeError, match="running"):
        stream.start()
    bench.open.set()
    assert stream.join(SOON)
    assert bench.recorder.calls == calls
    assert later == []


@pytest.mark.parametrize("slot", ["on_order", "on_ready", "on_error", "on_disconnect"])
@both_ways
def test_stop_in_a_callback(bench: Bench, slot: str, how: str) -> None:
    took: list[float] = []
    stream = bench.new(queue_size=2)

    def leave(_: object) -> None:
        if slot == "on_order" and not took:
            bench.push(1, 2, 3, 4)
            until(lambda: stream.stats.queue_depth >= 2, what="a full queue")
        began = time.monotonic()
        stream.stop()
        with pytest.raises(RuntimeError, match="join"):
            stream.join()
        took.append(time.monotonic() - began)

    def work(_: object) -> None:
        if slot == "on_disconnect":
            bench.exchange.drop()
        else:
            bench.exchange.push_bytes(b"garbage")
            bench.push(99)

    getattr(stream, slot)(leave)
    stream.on_ready(work)
    run(stream, how)
    assert max(took) < 0.5
    assert len(bench.orders) <= 1
    if slot != "on_disconnect":
        assert bench.recorder.on_disconnect[-1].reason == "stopped"
        assert bench.exchange.wait_for("unsub")
    assert bench.exchange.wait_for_clients(0)


def test_wait_ready_in_a_callback_ends_with_the_stream(bench: Bench) -> None:
    """The stream can't end before the callback has, nor does it have to."""
    answers: list[Any] = []

    def wait(_: object) -> None:
        try:
            answers.append(stream.wait_ready())
        except FastposError as error:
            answers.append(error)

    policy = ReconnectPolicy(initial=0.02, max_attempts=2)
    stream = bench.start(on_disconnect=wait, reconnect=policy)
    bench.exchange.drop()  # the stream comes back
    until(lambda: answers == [True], what="subscribed again")
    bench.exchange.refuse_upgrade(503)
    bench.exchange.drop()
    with pytest.raises(ReconnectExhausted):
        stream.join(SOON)
    assert all(isinstance(answer, ReconnectExhausted) for answer in answers[1:])
    assert len(answers) == 4


def test_what_waits_is_delivered_when_the_stream_ends_by_itself(bench: Bench) -> None:
    stream = bench.start(reconnect=None, queue_size=50)
    bench.hold()
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
def signal_when_full(bench: Bench, stream: PositionStream, signum: int) -> Iterator[None]:
    """Fills the queue of a stream that runs in this thread, then sends it a signal."""
    this = threading.get_ident()

    def work() -> None:
        bench.recorder.wait("on_ready")
        bench.fill(stream)
        signal.pthread_kill(this, signum)

    with concurrently(work):
        yield


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="has none between threads")


@needs_signals
def test_ctrl_c_does_not_wait_long_for_a_callback(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the reader in run_forever(), not the callback."""
    monkeypatch.setattr("fastpos.runtime.driver.CLOSE_TIMEOUT", 0.1)
    later: list[object] = []
    stream = bench.new(queue_size=2)
    stream.on_order(bench.gate)
    stream.on_order(later.append)
    ctrl_c = signal_when_full(bench, stream, signal.SIGINT)
    with at_once(SOON / 2), ctrl_c, pytest.raises(KeyboardInterrupt):
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
    stream = bench.new(queue_size=2)
    stream.on_order(bench.gate)

    def handle(*_: object) -> None:
        stream.stop()
        bench.open.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with signal_when_full(bench, stream, signal.SIGUSR1):
            stream.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert bench.orders == [0]
    assert [event.reason for event in bench.recorder.on_disconnect] == ["stopped"]
    assert bench.exchange.wait_for("unsub")
