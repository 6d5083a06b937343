"""Callbacks on a thread of their own: the queue, what it keeps, how it ends; and slow ones."""

from __future__ import annotations

import logging
import signal
import socket
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
    AuthenticationError,
    CallbackError,
    DecodeError,
    FastposError,
    PositionStream,
    ReconnectPolicy,
)
from fastpos.fork import Home
from fastpos.model.events import Disconnect, Order
from fastpos.runtime.callbacks import Handlers
from fastpos.runtime.dispatch import Dispatcher
from fastpos.runtime.timing import LOG_INTERVAL, MAX_FUNCTIONS, CallbackTimes
from fastpos.simulator import Exchange
from tests.support.pushes import order, push_frame
from tests.support.recording import SOON, Recorder, until
from tests.support.servers import ScriptedServer, answer_until_close, serve_subscription

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


class Gate:
    """A callback that waits until it may go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.seen: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.seen.append(event)
        self.entered.set()
        assert self.open.wait(SOON)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def threaded(new_stream: NewStream) -> NewStream:
    return partial(new_stream, dispatch="thread")


def tick(number: int) -> dict[str, Any]:
    return {"channel": "ADL_PRICE", "uid": number, "l": []}


def numbers(orders: list[Order]) -> list[int]:
    return [int(event.order_id or -1) for event in orders]


def fill(exchange: Exchange, stream: PositionStream, size: int, gate: Gate | None = None) -> None:
    """Have the queue be full and the reader wait, while a gate keeps the callback thread.

    Order 0 is in the gate's hands, 1 to `size` wait, and the reader has one more.
    """
    exchange.push(order(0))
    assert gate is None or gate.entered.wait(SOON)
    for number in range(1, size + 2):
        exchange.push(order(number))
    until(lambda: stream.stats.events.get("Order") == size + 2, what="the reader at the full queue")
    assert stream.stats.queue_depth >= size


def records_of(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if vars(record).get("fastpos_event") == event]


# --- on the callback thread -----------------------------------------------------------------------


@pytest.mark.parametrize("background", [True, False], ids=["start", "run_forever"])
def test_all_callbacks_run_on_one_thread_in_order(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, background: bool
) -> None:
    threads: set[threading.Thread] = set()

    def note(_: object) -> None:
        threads.add(threading.current_thread())

    def work(_: object) -> None:
        position = exchange.open_position()
        exchange.place_trigger()
        exchange.push_bytes(b"garbage")
        for number in range(500):
            exchange.push(order(number))
        exchange.close_position(position)
        exchange.push({"channel": "news"})

    stream = threaded(exchange)
    for name in recorder.callbacks:
        getattr(stream, name)(note)
    stream.on_ready(work)
    stream.on_unknown(lambda _: stream.stop())
    if background:
        stream.start()
        assert stream.join(SOON)
    else:
        stream.run_forever()
    (thread,) = threads
    assert thread.name.startswith("fastpos-callbacks-")
    assert thread.daemon
    names = [name for name, _ in recorder.calls]
    assert names[:5] == ["on_ready", "on_position", "on_account", "on_trigger", "on_error"]
    assert names[5:505] == ["on_order"] * 500
    assert numbers(recorder.on_order) == list(range(500))
    assert names[-1] == "on_disconnect"
    assert stream.stats.queue_depth == 0


def test_three_threads_of_one_number(exchange: Exchange, threaded: NewStream) -> None:
    def own() -> list[str]:
        wanted = ("fastpos-reader-", "fastpos-ping-", "fastpos-callbacks-")
        return sorted(t.name for t in threading.enumerate() if t.name.startswith(wanted))

    stream = threaded(exchange)
    assert own() == []
    for _ in range(2):  # it can be started again
        with stream:
            assert stream.wait_ready(SOON)
            names = [name.rpartition("-") for name in own()]
            kinds = [kind for kind, _, _ in names]
            assert kinds == ["fastpos-callbacks", "fastpos-ping", "fastpos-reader"]
            assert len({number for _, _, number in names}) == 1
        assert own() == []


@pytest.mark.parametrize("background", [True, False], ids=["start", "run_forever"])
def test_what_a_callback_raises_is_reported_on_its_thread(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, background: bool
) -> None:
    def fail(event: Order) -> None:
        raise SystemExit if event.order_id == "2" else ArithmeticError("went off")

    threads: list[str] = []
    stream = threaded(exchange)
    stream.on_order(fail)
    stream.on_error(lambda _: threads.append(threading.current_thread().name))
    stream.on_ready(lambda _: [exchange.push(order(number)) for number in (1, 2, 3)])
    stream.on_trigger(lambda _: stream.stop())
    stream.on_ready(lambda _: exchange.place_trigger())
    if background:
        stream.start()
        assert stream.join(SOON)
    else:
        stream.run_forever()
    errors = recorder.on_error
    assert stream.stats.callback_errors == 3
    assert [type(error) for error in errors[:2]] == [CallbackError] * 2
    assert [type(error.__cause__) for error in errors[:2]] == [ArithmeticError, SystemExit]
    assert all(name.startswith("fastpos-callbacks-") for name in threads)
    # As if it had been called directly: the report follows the call.
    names = [name for name, _ in recorder.calls]
    assert names[1:-2] == ["on_order", "on_error"] * 3


@pytest.mark.parametrize("background", [True, False], ids=["start", "run_forever"])
def test_ctrl_c_in_a_callback_ends_the_stream(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, background: bool
) -> None:
    def leave(_: object) -> None:
        raise KeyboardInterrupt("the user's")

    stream = threaded(exchange)
    stream.on_order(leave)
    stream.on_ready(lambda _: [exchange.push(order(number)) for number in range(5)])
    if background:
        stream.start()
        with pytest.raises(FastposError, match="KeyboardInterrupt") as caught:
            stream.join(SOON)
        assert isinstance(caught.value.__cause__, KeyboardInterrupt)
    else:
        with pytest.raises(KeyboardInterrupt, match="the user's"):
            stream.run_forever()
    assert numbers(recorder.on_order) == [0]
    assert exchange.wait_for_clients(0)
    assert exchange.wait_for("unsub")
    stream.on_order = recorder.callbacks["on_order"]
    with stream:  # and it can begin again
        recorder.wait("on_order", 2)


def test_exception_of_a_logging_handler_does_not_end_the_feed(
    exchange: Exchange, threaded: NewStream, recorder: Recorder
) -> None:
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ArithmeticError("a handler of the host's")

    def fail(_: object) -> None:
        raise ValueError

    logger, handler = logging.getLogger("fastpos"), Bad()
    stream = threaded(exchange, on_error=None)
    stream.on_order(fail)
    logger.addHandler(handler)
    try:
        with stream:
            assert stream.wait_ready(SOON)
            exchange.push(order(1))
            exchange.push(order(2))
            recorder.wait("on_order", 2)
    finally:
        logger.removeHandler(handler)


# --- a full queue ---------------------------------------------------------------------------------


def test_reader_waits_and_nothing_is_lost(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    stream = threaded(exchange, queue_size=4, slow_callback_s=60)
    stream.on_order(gate)
    with stream:
        assert stream.wait_ready(SOON)
        exchange.push(order(0))
        assert gate.entered.wait(SOON)
        for number in range(1, 300):
            exchange.push(order(number))
        exchange.push_bytes(b"garbage")
        position = exchange.open_position()
        exchange.place_trigger()
        # The reader has one more in its hands, and the error that tells of it waits too.
        until(lambda: stream.stats.events.get("Order") == 6, what="the reader at the full queue")
        until(lambda: stream.stats.queue_depth == 5, what="the error")
        gate.open.set()
        recorder.wait("on_trigger")
        full, garbage = recorder.on_error
        assert [event.id for event in recorder.on_position] == [position]
        assert recorder.on_account
        assert stream.stats.conflated_ticks == 0
    assert numbers(recorder.on_order) == list(range(300))
    assert type(full) is FastposError
    for part in ("callback queue", "4 events", "on_order", "Gate", " s ago"):
        assert part in str(full)
    assert type(garbage) is DecodeError
    # The error came first, when the callback had returned.
    names = [name for name, _ in recorder.calls]
    assert names.index("on_error") == 2


@pytest.mark.parametrize("heard", [True, False])
def test_waiting_is_told_once_for_each_time_it_begins(
    exchange: Exchange,
    threaded: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    heard: bool,
) -> None:
    options = {} if heard else {"on_error": None}
    stream = threaded(exchange, queue_size=2, slow_callback_s=60, **options)
    with stream:
        recorder.wait("on_ready")
        for episode in (1, 2):
            gate = Gate()
            stream.on_order = gate
            for number in range(20):
                exchange.push(order(number))
            until(lambda: len(records_of(caplog, "queue_full")) == episode)  # noqa: B023
            gate.open.set()
            until(lambda: len(gate.seen) == 20, what="all of them")  # noqa: B023
            assert stream._dispatcher is not None
            stream._dispatcher._waited -= 3600  # as if that had been an hour ago
    assert len(recorder.on_error) == (2 if heard else 0)
    record = records_of(caplog, "queue_full")[0]
    assert record.levelno == logging.WARNING
    assert vars(record)["fastpos_queue_depth"] == 2
    assert vars(record)["fastpos_slot"] == "on_order"
    assert "Gate" in vars(record)["fastpos_callback"]
    assert len(records_of(caplog, "queue_full")) == 2


def test_ticks_are_conflated_to_the_newest_and_do_not_wait(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    stream = threaded(exchange, queue_size=3, slow_callback_s=60)
    stream.on_order(gate)
    with stream:
        assert stream.wait_ready(SOON)
        exchange.push(order(0))
        assert gate.entered.wait(SOON)
        exchange.push(tick(1))
        exchange.push(order(1))
        exchange.push(order(2))  # full
        for number in range(2, 50):
            exchange.push(tick(number))
        until(lambda: stream.stats.events.get("AdlPrice") == 49, what="the reader past all ticks")
        assert stream.stats.conflated_ticks == 48
        assert stream.stats.queue_depth == 3
        assert recorder.on_error == []
        gate.open.set()
        recorder.wait("on_adl_price")
    assert [name for name, _ in recorder.calls[1:5]] == ["on_order"] * 3 + ["on_adl_price"]
    assert [event.uid for event in recorder.on_adl_price] == [49]


def test_ticks_that_wait_make_room_for_an_order(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    stream = threaded(exchange, queue_size=4, slow_callback_s=60)
    stream.on_order(gate)
    with stream:
        assert stream.wait_ready(SOON)
        exchange.push(order(0))
        assert gate.entered.wait(SOON)
        for number in range(1, 4):
            exchange.push(tick(number))
        for number in range(1, 4):
            exchange.push(order(number))
        until(lambda: stream.stats.events.get("Order") == 4, what="the reader past all orders")
        until(lambda: stream.stats.queue_depth == 4)
        assert stream.stats.conflated_ticks == 2
        assert recorder.on_error == []
        gate.open.set()
        recorder.wait("on_order", 4)
    assert [event.uid for event in recorder.on_adl_price] == [3]


def test_ticks_are_all_delivered_while_there_is_room(
    exchange: Exchange, threaded: NewStream, recorder: Recorder
) -> None:
    with threaded(exchange, queue_size=100) as stream:
        assert stream.wait_ready(SOON)
        for number in range(50):
            exchange.push(tick(number))
        ticks = recorder.wait("on_adl_price", 50)
        assert stream.stats.conflated_ticks == 0
    assert [event.uid for event in ticks] == list(range(50))


def test_events_nobody_listens_to_take_no_room(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    stream = threaded(exchange, queue_size=1, on_trigger=None, slow_callback_s=60)
    stream.on_order(gate)
    with stream:
        assert stream.wait_ready(SOON)
        exchange.push(order(0))
        assert gate.entered.wait(SOON)
        for _ in range(10):
            exchange.place_trigger()
        until(lambda: stream.stats.events.get("Trigger") == 10, what="the reader past them")
        assert stream.stats.queue_depth == 0
        gate.open.set()


def test_pong_unread_behind_a_full_queue_is_not_missing(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    """Pings go on, too."""
    stream = threaded(exchange, queue_size=2, ping_interval=0.05, pong_timeout=0.1)
    stream.on_order(gate)
    with stream:
        assert stream.wait_ready(SOON)
        fill(exchange, stream, 2, gate)
        # For many times as long as a pong may take.
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 8)
        assert recorder.on_disconnect == []
        gate.open.set()
        exchange.push({"channel": "news"})
        recorder.wait("on_unknown")
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 3)
        assert recorder.on_disconnect == []
    assert len(exchange.connections) == 1
    assert numbers(recorder.on_order) == [0, 1, 2, 3]


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False], ids=["full", "not full"])
def test_stop_throws_away_what_waits(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate, full: bool
) -> None:
    stream = threaded(exchange, queue_size=5, slow_callback_s=60)
    stream.on_order(gate)
    with stream:
        assert stream.wait_ready(SOON)
        if full:
            fill(exchange, stream, 5, gate)
        else:
            exchange.push(order(0))
            assert gate.entered.wait(SOON)
            exchange.push(order(1))
            exchange.push(order(2))
            until(lambda: stream.stats.queue_depth == 2)
        stopper = threading.Thread(target=stream.stop)
        stopper.start()
        until(lambda: stream.stats.queue_depth < 2, what="none but the Disconnect")
        gate.open.set()
        stopper.join(SOON)
        assert not stopper.is_alive()
        calls = list(recorder.calls)
    assert numbers(recorder.on_order) == [0]
    assert recorder.on_error == []
    assert [event.reason for event in recorder.on_disconnect] == ["stopped"]
    assert recorder.calls == calls
    assert exchange.wait_for("unsub")


def test_stop_in_time_though_a_callback_takes_longer(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    later: list[object] = []
    stream = threaded(exchange, queue_size=2, slow_callback_s=60)
    stream.on_order(gate)
    stream.on_order(later.append)
    stream.start()
    assert stream.wait_ready(SOON)
    fill(exchange, stream, 2, gate)
    began = time.monotonic()
    stream.stop(timeout=0.3)
    assert time.monotonic() - began < 0.8
    calls = list(recorder.calls)
    with pytest.raises(RuntimeError, match="running"):
        stream.start()
    gate.open.set()
    assert stream.join(SOON)
    assert recorder.calls == calls
    assert later == []


@pytest.mark.parametrize("slot", ["on_order", "on_ready", "on_error", "on_disconnect"])
@pytest.mark.parametrize("background", [True, False], ids=["start", "run_forever"])
def test_stop_in_a_callback(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, slot: str, background: bool
) -> None:
    took: list[float] = []
    stream = threaded(exchange, queue_size=2, slow_callback_s=60)

    def leave(_: object) -> None:
        if slot == "on_order":
            fill(exchange, stream, 2) if not took else None
        began = time.monotonic()
        stream.stop()
        with pytest.raises(RuntimeError, match="join"):
            stream.join()
        took.append(time.monotonic() - began)

    def work(_: object) -> None:
        if slot == "on_disconnect":
            exchange.drop()
        else:
            exchange.push_bytes(b"garbage")
            exchange.push(order(99))

    getattr(stream, slot)(leave)
    stream.on_ready(work)
    if background:
        stream.start()
        assert stream.join(SOON)
    else:
        stream.run_forever()
    assert max(took) < 0.5
    assert len(recorder.on_order) <= 1
    if slot != "on_disconnect":
        assert recorder.on_disconnect[-1].reason == "stopped"
        assert exchange.wait_for("unsub")
    assert exchange.wait_for_clients(0)


def test_wait_ready_in_a_callback_ends_with_the_stream(
    exchange: Exchange, threaded: NewStream, recorder: Recorder
) -> None:
    """The stream can't end before the callback has, nor does it have to."""
    answers: list[Any] = []

    def wait(_: object) -> None:
        try:
            answers.append(stream.wait_ready())
        except FastposError as error:
            answers.append(error)

    stream = threaded(exchange, reconnect=ReconnectPolicy(initial=0.02, max_attempts=2))
    stream.on_disconnect = wait
    stream.start()
    assert stream.wait_ready(SOON)
    exchange.drop()  # the stream comes back
    until(lambda: answers == [True], what="subscribed again")
    exchange.refuse_upgrade(401)
    exchange.drop()
    with pytest.raises(AuthenticationError):
        stream.join(SOON)
    assert all(isinstance(answer, AuthenticationError) for answer in answers[1:])
    assert len(answers) == 3


def test_stop_while_a_callback_waits_for_the_subscription(
    exchange: Exchange, threaded: NewStream, recorder: Recorder
) -> None:
    answers: list[bool] = []
    entered = threading.Event()

    def wait(_: object) -> None:
        entered.set()
        answers.append(stream.wait_ready())

    stream = threaded(exchange, reconnect=ReconnectPolicy(initial=20, jitter=0))
    stream.on_disconnect(wait)
    stream.start()
    assert stream.wait_ready(SOON)
    exchange.refuse_upgrade(503)
    exchange.drop()
    assert entered.wait(SOON)
    began = time.monotonic()
    stream.stop()
    assert time.monotonic() - began < 1.0
    assert answers == [False]


def test_what_waits_is_delivered_when_the_stream_ends_by_itself(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    stream = threaded(exchange, reconnect=None, queue_size=50, slow_callback_s=60)
    stream.on_order(gate)
    stream.start()
    assert stream.wait_ready(SOON)
    exchange.push(order(0))
    assert gate.entered.wait(SOON)
    for number in range(1, 30):
        exchange.push(order(number))
    until(lambda: stream.stats.queue_depth == 29)
    exchange.drop()
    until(lambda: stream.stats.queue_depth == 30, what="on_disconnect in the queue")
    assert not stream.join(0.01)
    gate.open.set()
    with pytest.raises(FastposError):
        stream.join(SOON)
    assert numbers(recorder.on_order) == list(range(30))
    assert [name for name, _ in recorder.calls][-1] == "on_disconnect"


@contextmanager
def signal_when_full(
    stream: PositionStream, exchange: Exchange, recorder: Recorder, gate: Gate, signum: int
) -> Iterator[None]:
    """Fills the queue of a stream that runs in this thread, then sends it a signal."""
    this = threading.get_ident()

    def run() -> None:
        recorder.wait("on_ready")
        fill(exchange, stream, 2, gate)
        signal.pthread_kill(this, signum)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(SOON)


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals between threads")
def test_ctrl_c_does_not_wait_long_for_a_callback(
    exchange: Exchange,
    threaded: NewStream,
    recorder: Recorder,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C reaches the reader in run_forever(), not the callback."""
    monkeypatch.setattr("fastpos.runtime.driver.CLOSE_TIMEOUT", 0.1)
    later: list[object] = []
    stream = threaded(exchange, queue_size=2, slow_callback_s=60)
    stream.on_order(gate)
    stream.on_order(later.append)
    began = time.monotonic()
    with (
        signal_when_full(stream, exchange, recorder, gate, signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        stream.run_forever()
    assert time.monotonic() - began < SOON / 2
    with pytest.raises(RuntimeError, match="running"):
        stream.start()
    stream.stop()
    calls = list(recorder.calls)
    gate.open.set()
    until(lambda: not stream._dispatcher.is_alive)  # type: ignore[union-attr]
    assert recorder.calls == calls
    assert later == []
    with stream:  # and it can begin again
        assert stream.wait_ready(SOON)
        exchange.push(order(9))
        recorder.wait("on_order", 2)


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals between threads")
def test_stop_in_a_signal_handler_while_the_reader_waits(
    exchange: Exchange, threaded: NewStream, recorder: Recorder, gate: Gate
) -> None:
    stream = threaded(exchange, queue_size=2, slow_callback_s=60)
    stream.on_order(gate)

    def handle(*_: object) -> None:
        stream.stop()
        gate.open.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with signal_when_full(stream, exchange, recorder, gate, signal.SIGUSR1):
            stream.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert numbers(recorder.on_order) == [0]
    assert [event.reason for event in recorder.on_disconnect] == ["stopped"]
    assert exchange.wait_for("unsub")


def test_discard_keeps_a_disconnect_that_comes_later() -> None:
    """Also when somebody stops for the second time, or stopped in the middle of a `put`."""
    seen: list[object] = []
    handlers: Handlers[Any] = Handlers("on_any")
    handlers(seen.append)
    dispatcher = Dispatcher(10, Handlers("on_error"), Home())
    entered, release = threading.Event(), threading.Event()

    def call(handlers: Handlers[Any], event: Any, heard: float) -> None:
        entered.set()
        release.wait(SOON)
        for function in handlers.functions:
            function(event)

    dispatcher.start("fastpos-callbacks-test", call, lambda: None)
    dispatcher.put(handlers, Order(order_id="1"), 0.0)
    assert entered.wait(SOON)
    dispatcher.put(handlers, Order(order_id="2"), 0.0)
    dispatcher.discard()
    dispatcher.put(handlers, Order(order_id="3"), 0.0)
    dispatcher.put(handlers, AdlPrice(uid=1), 0.0)
    dispatcher.put(handlers, Disconnect(reason="stopped"), 0.0)
    dispatcher.discard()
    dispatcher._waiting.append((handlers, Order(order_id="4"), 0.0))
    release.set()
    dispatcher.finish(SOON)
    assert seen == [Order(order_id="1"), Disconnect(reason="stopped")]


# --- slow callbacks -------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
def test_slow_callback_is_logged_once_with_its_name_and_time(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    dispatch: str,
) -> None:
    class Bot:
        def slow(self, _: object) -> None:
            time.sleep(0.03)

        def raises(self, _: object) -> None:
            time.sleep(0.03)
            raise ValueError

        def quick(self, _: object) -> None: ...

    bot = Bot()
    with new_stream(exchange, dispatch=dispatch, slow_callback_s=0.025) as stream:
        stream.on_order(bot.slow)
        stream.on_order(bot.raises)
        stream.on_order(bot.quick)
        assert stream.wait_ready(SOON)
        for number in range(3):
            exchange.push(order(number))
        recorder.wait("on_error", 3)
        exchange.push({"channel": "news"})
        recorder.wait("on_unknown")
        stats = stream.stats
    records = {vars(r)["fastpos_callback"]: r for r in records_of(caplog, "slow_callback")}
    names = [name.rpartition(".")[2] for name in records]
    assert {"slow", "raises"} <= set(names)
    assert "quick" not in names
    own = [r for name, r in records.items() if name.endswith((".slow", ".raises"))]
    assert len([r for r in records_of(caplog, "slow_callback") if r in own]) == 2
    for name, record in records.items():
        assert (record.name, record.levelno) == ("fastpos", logging.WARNING)
        assert name in record.getMessage()
        assert 0.025 < vars(record)["fastpos_seconds"] < SOON
    assert stats.slowest_callback is not None
    assert stats.slowest_callback_s >= 0.03


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
@pytest.mark.parametrize("what", ["push", "disconnect", "error"])
def test_time_without_events_counts_for_no_callback(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    dispatch: str,
    what: str,
) -> None:
    """Nor for the lag."""
    with new_stream(exchange, dispatch=dispatch, slow_callback_s=30) as stream:
        assert stream.wait_ready(SOON)
        exchange.push(order(1))
        recorder.wait("on_order")
        connection, dispatcher = stream._reader._connection, stream._dispatcher
        assert connection is not None
        until(lambda: connection.waiting and (dispatcher is None or dispatcher._current is None))
        # As if that had been an hour ago.
        for name in ("now", "begun", "_received"):
            setattr(stream._times, name, getattr(stream._times, name) - 3600)
        if what == "push":
            exchange.push(order(2))
            recorder.wait("on_order", 2)
        elif what == "error":
            exchange.push_bytes(b"garbage")
            recorder.wait("on_error")
        else:
            exchange.drop()
            recorder.wait("on_ready", 2)
        exchange.push({"channel": "news"})
        recorder.wait("on_unknown")
        assert stream.stats.max_lag_s < 30
        assert stream.stats.slowest_callback_s < 30
    assert records_of(caplog, "slow_callback") == []


def test_time_before_an_error_that_was_not_read_counts_for_no_callback() -> None:
    errors: list[FastposError] = []
    stream = PositionStream("ws://127.0.0.1:9/", api_key="k", broker=1, on_error=errors.append)
    stream._times.now -= 3600
    stream._delivery.report(FastposError("no snapshot"))
    assert len(errors) == 1
    assert stream.stats.slowest_callback_s < 60


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
def test_lag(new_stream: NewStream, recorder: Recorder, dispatch: str) -> None:
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
            time.sleep(0.1)

    with ScriptedServer(serve) as server:
        stream = new_stream(server.url, dispatch=dispatch)
        stream.on_order(nap)
        with stream:
            recorder.wait("on_order", 2)
            until(lambda: stream.stats.lag_s >= 0.1, what="the lag")
            stats = stream.stats
            go_on.set()
            recorder.wait("on_order", 3)
            until(lambda: stream.stats.lag_s < 0.1, what="no lag")
            assert stream.stats.max_lag_s == stats.max_lag_s
    assert stats.lag_s == stats.max_lag_s < SOON
    assert stats.slowest_callback == nap.__qualname__
    assert 0.1 <= stats.slowest_callback_s < SOON


def test_a_function_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    def one(_: object) -> None: ...
    def other(_: object) -> None: ...

    times = CallbackTimes(1.0)
    began = times.now

    def at(seconds: float, function: Callable[[Any], None], took: float) -> int:
        times.now = began + seconds
        times.took("on_order", function, took)
        return len(records_of(caplog, "slow_callback"))

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


def test_name_of_a_callback_shows_no_arguments(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    def work(secret: str, event: object) -> None:
        raise ValueError

    with new_stream(exchange) as stream:
        stream.on_order(partial(work, "kept-to-itself"))
        assert stream.wait_ready(SOON)
        exchange.push(order(1))
        (error,) = recorder.wait("on_error")
        assert "work" in str(error)
        assert "kept-to-itself" not in str(error)
