"""Truth after a gap: snapshots, what is stale, orders, exact numbers, saving and loading."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

import fastpos.account.book
import fastpos.runtime.snapshots
from fastpos import (
    AccountUpdate,
    AdlPrice,
    AttachedOrder,
    Balance,
    ConnectionFailed,
    Order,
    Position,
    PositionStream,
    ReconnectPolicy,
    Snapshot,
    SnapshotError,
    Synced,
    Trigger,
)
from fastpos.account.book import Book
from fastpos.account.state import LATE_TICKS
from fastpos.runtime.callbacks import Callbacks
from fastpos.runtime.delivery import Delivery
from fastpos.runtime.snapshots import MAX_CALLS, Snapshots
from fastpos.runtime.stats import Counters
from fastpos.simulator import Exchange
from tests.recording import SOON, Recorder, until
from tests.truth import Bot, Source, merge, shown, told, truth_of

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"
EMPTY = Snapshot([], [])


@pytest.fixture
def source(exchange: Exchange) -> Iterator[Source]:
    source = Source(exchange)
    yield source
    source.release()
    source.wait_until_idle()


@pytest.fixture
def bot() -> Bot:
    return Bot()


@pytest.fixture
def synceds() -> list[Synced]:
    return []


@pytest.fixture
def stream(
    exchange: Exchange, new_stream: NewStream, source: Source, bot: Bot, synceds: list[Synced]
) -> PositionStream:
    """A stream with a source, not yet started."""
    stream = new_stream(exchange, snapshot=source, on_synced=synceds.append)
    stream.on_position(bot.on_position)
    return stream


def start(stream: PositionStream) -> PositionStream:
    stream.start()
    assert stream.wait_ready(SOON)
    return stream


def wait_synced(stream: PositionStream, synceds: list[Synced], count: int = 1) -> Synced:
    until(lambda: len(synceds) >= count and stream.synced, what="that the stream is synced")
    return synceds[count - 1]


def lose(exchange: Exchange, recorder: Recorder) -> None:
    """Drop the connection; the stream has noticed when this returns, and may be back."""
    count = len(recorder.on_disconnect)
    assert exchange.drop() == 1
    recorder.wait("on_disconnect", count + 1)


@contextmanager
def away(exchange: Exchange, recorder: Recorder) -> Iterator[None]:
    """A gap: what happens inside is pushed to nobody."""
    count = len(recorder.on_ready)
    exchange.stall(handshakes=False)
    lose(exchange, recorder)
    yield
    exchange.resume()
    recorder.wait("on_ready", count + 1)


def snapshot_errors(recorder: Recorder) -> list[SnapshotError]:
    """What on_error got, but for the connections that the tests drop."""
    return [error for error in recorder.on_error if type(error) is not ConnectionFailed]


def assert_true(stream: PositionStream, exchange: Exchange, bot: Bot) -> None:
    """The book and the bot end with the truth, and nothing in it is stale."""
    truth = truth_of(exchange.snapshot_state())

    def is_true() -> bool:
        positions, balances = stream.positions, stream.balances
        return (
            shown(positions) == truth["positions"] == bot.positions
            and shown(balances) == truth["balances"]
            and all(p.complete and not p.stale and not p.stale_fields for p in positions.values())
            and not any(balance.stale for balance in balances.values())
            and stream.synced
        )

    until(is_true, what="that all show the truth")


# --- the source -----------------------------------------------------------------------------------


def test_it_is_called_after_every_subscription_on_a_thread_of_its_own(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    synceds: list[Synced],
    recorder: Recorder,
) -> None:
    threads: list[threading.Thread] = []
    stream.on_ready(lambda _: threads.append(threading.current_thread()))
    start(stream)
    wait_synced(stream, synceds, 1)
    lose(exchange, recorder)
    wait_synced(stream, synceds, 2)
    stream.unsubscribe()
    assert exchange.wait_for("unsub")
    stream.subscribe()
    wait_synced(stream, synceds, 3)
    assert len(source.calls) == 3
    assert len({thread.name for thread in source.calls}) == 3
    assert not set(source.calls) & {*threads, threading.main_thread()}
    assert snapshot_errors(recorder) == []


def test_it_is_not_called_before_the_subscription(
    exchange: Exchange, stream: PositionStream, source: Source, synceds: list[Synced]
) -> None:
    exchange.refuse_subscription(times=2)
    start(stream)
    wait_synced(stream, synceds)
    assert len(source.calls) == 1


def test_positions_that_were_open_before_are_known(
    exchange: Exchange, stream: PositionStream, bot: Bot, synceds: list[Synced]
) -> None:
    first = exchange.open_position(side="SELL", volume=3, leverage=7)
    second = exchange.open_position("E-ETH-USDT", margin_mode="ISOLATED")
    exchange.set_balance("BTC", available="0.123456789012345678")
    start(stream)
    synced = wait_synced(stream, synceds)
    assert (synced.created, synced.updated, synced.deleted) == (2, 0, 0)
    assert synced.gap_s is None
    assert bot.changes == [(CREATE, "SNAPSHOT", first), (CREATE, "SNAPSHOT", second)]
    assert_true(stream, exchange, bot)
    position = stream.positions[first]
    assert (position.side, position.volume, position.leverage) == ("SELL", 3.0, 7)
    assert position.source == "STREAM"  # no event
    assert stream.positions[second].margin_mode == "ISOLATED"


def test_pushes_are_delivered_while_a_snapshot_is_on_its_way(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    source.hold()
    start(stream)
    source.wait_until_taken(1)
    opened = exchange.open_position()
    exchange.update_position(opened, volume=5)
    exchange.place_order()
    exchange.place_trigger()
    exchange.set_balance(available="77")
    exchange.tick()
    for name in ("on_order", "on_trigger", "on_adl_price"):
        recorder.wait(name)
    assert bot.changes == [(CREATE, "STREAM", opened), (UPDATE, "STREAM", opened)]
    assert stream.positions[opened].volume == 5.0
    assert stream.balances["USDT"].available == 77.0
    assert not stream.synced
    assert synceds == []
    source.release()
    synced = wait_synced(stream, synceds)
    assert (synced.created, synced.updated, synced.deleted) == (0, 0, 0)
    assert len(bot.events) == 2


def test_nothing_newer_is_overwritten_by_a_snapshot(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    changed, closed, untouched = (exchange.open_position(volume=9) for _ in range(3))
    source.hold()
    start(stream)
    source.wait_until_taken(1)
    exchange.update_position(changed, volume=4)
    exchange.close_position(closed)
    opened = exchange.open_position()
    gone = exchange.open_position()
    exchange.close_position(gone)
    exchange.set_balance(available="12.5", frozen="1")
    exchange.set_price("E-BTC-USDT", 70000)
    exchange.tick()
    recorder.wait("on_adl_price")
    before = len(bot.events)
    source.release()
    synced = wait_synced(stream, synceds)
    # `changed` was told by an UPDATE of two fields, so the rest of it is news.
    assert bot.changes[before:] == [
        (UPDATE, "SNAPSHOT", changed),
        (CREATE, "SNAPSHOT", untouched),
    ]
    assert (synced.created, synced.updated, synced.deleted) == (1, 1, 0)
    assert sorted(stream.positions) == sorted((changed, untouched, opened))
    assert stream.positions[changed].mark_price == 70000.0
    assert_true(stream, exchange, bot)


def test_what_a_user_does_to_raw_does_not_reach_the_journal(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    @stream.on_account
    def spoil(update: AccountUpdate) -> None:
        if update.position is not None:
            update.raw["d"]["p"]["pv"] = 999
        update.raw["d"]["a"][0]["an"] = "999"

    source.hold()
    start(stream)
    source.wait_until_taken(1)
    exchange.open_position(volume=3)
    recorder.wait("on_account")
    source.release()
    wait_synced(stream, synceds)
    assert_true(stream, exchange, bot)


def _raising_iterable() -> Iterator[Any]:
    yield Position(id=1)
    raise KeyError("the second one")


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (lambda: OSError("no route"), "raised OSError: no route"),
    "exits": (lambda: SystemExit(3), "raised SystemExit: 3"),
    "gives nothing": (lambda: None, "a NoneType, not a Snapshot"),
    "gives a tuple": (lambda: ([], []), "a tuple, not a Snapshot"),
    "no iterable": (lambda: Snapshot(5, []), "raised TypeError"),  # type: ignore[arg-type]
    "iterable raises": (lambda: Snapshot(_raising_iterable(), []), "raised KeyError"),
    "no position": (lambda: Snapshot([17], []), "unusable.*17 where a Position"),  # type: ignore[list-item]
    "no id": (lambda: Snapshot([Position(side="BUY")], []), "unusable.*Position of no id"),
    "balances": (lambda: Snapshot([], [Position(id=1)]), "where a Balance"),  # type: ignore[list-item]
    "no coin": (lambda: Snapshot([], [Balance(available=1)]), "Balance of no coin"),
    "orders": (lambda: Snapshot([], [], [Order()]), "Order of no order_id"),
    "triggers": (lambda: Snapshot([], [], [], [Order()]), "where a Trigger"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_reported_and_the_call_repeated(
    name: str,
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    make, message = FAILURES[name]
    exchange.open_position()
    source.plan = [make(), make()]
    start(stream)
    wait_synced(stream, synceds)
    assert len(source.calls) == 3
    assert len(synceds) == 1
    assert [type(error) for error in recorder.on_error] == [SnapshotError, SnapshotError]
    for error in recorder.on_error:
        assert re.search(message, str(error))
    assert recorder.on_disconnect == []
    assert_true(stream, exchange, bot)


def test_a_snapshot_error_is_reported_as_it_is(
    stream: PositionStream, source: Source, recorder: Recorder, synceds: list[Synced]
) -> None:
    error = SnapshotError("not now", code=-1121, status=400)
    cause = ZeroDivisionError("a mistake")
    source.plan = [error, cause]
    start(stream)
    wait_synced(stream, synceds)
    assert recorder.on_error[0] is error
    assert recorder.on_error[1].__cause__ is cause


def test_failures_are_logged_where_nobody_listens(
    exchange: Exchange,
    new_stream: NewStream,
    source: Source,
    synceds: list[Synced],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source.plan = [ValueError("oh no")]
    stream = new_stream(exchange, snapshot=source, on_error=None, on_synced=synceds.append)
    wait_synced(start(stream), synceds)
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.getMessage() == "the snapshot source raised ValueError: oh no"


def test_pushes_come_while_snapshots_fail(
    exchange: Exchange, stream: PositionStream, source: Source, bot: Bot, recorder: Recorder
) -> None:
    source.plan = [OSError()] * 1000
    start(stream)
    source.wait_for_calls(2)
    opened = exchange.open_position()
    source.wait_for_calls(4)
    exchange.update_position(opened, volume=2)
    recorder.wait("on_position", 2)
    source.plan.clear()
    until(lambda: stream.synced)
    assert len(bot.events) == 2
    assert_true(stream, exchange, bot)


class _Policy(ReconnectPolicy):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(0.02, 0.1)
        self.failures: list[int] = []

    def delay(self, failures: int, *rest: Any, **named: Any) -> float:
        if threading.current_thread().name.startswith("fastpos-reader") and not rest:
            self.failures.append(failures)
        return super().delay(failures, *rest, **named)


def test_the_waits_between_calls_are_those_of_the_reconnect_policy(
    exchange: Exchange,
    new_stream: NewStream,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    policy = _Policy()
    source.plan = [OSError(), OSError(), OSError()]
    stream = start(
        new_stream(exchange, snapshot=source, on_synced=synceds.append, reconnect=policy)
    )
    wait_synced(stream, synceds, 1)
    assert policy.failures == [1, 2, 3]
    source.plan = [OSError()]
    lose(exchange, recorder)
    wait_synced(stream, synceds, 2)
    assert policy.failures == [1, 2, 3, 1]


@pytest.mark.parametrize("reconnects", [False, True])
def test_a_source_that_asks_for_a_pause_gets_it(
    reconnects: bool,
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    source.plan = [SnapshotError("slow down", status=429, retry_after=0.4)]
    start(stream)
    recorder.wait("on_error")
    began = time.monotonic()
    if reconnects:
        lose(exchange, recorder)
    wait_synced(stream, synceds)
    assert time.monotonic() - began > 0.3
    assert len(source.calls) == 2


def test_a_call_that_takes_too_long_counts_as_failed_and_its_result_as_nothing(
    exchange: Exchange,
    new_stream: NewStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    late = threading.Event()

    def slow() -> Snapshot:
        assert late.wait(SOON)
        return EMPTY

    source.plan = [slow]
    exchange.open_position()
    stream = new_stream(exchange, snapshot=source, snapshot_timeout=0.1, on_synced=synceds.append)
    stream.on_position(bot.on_position)
    start(stream)
    (error,) = recorder.wait("on_error")
    assert type(error) is SnapshotError
    assert str(error) == "no snapshot within 0.1 s"
    wait_synced(stream, synceds)  # by another call, while the first is still under way
    assert source.running == 1
    late.set()
    source.wait_until_idle()
    exchange.tick()
    recorder.wait("on_adl_price")
    assert len(source.calls) == 2
    assert_true(stream, exchange, bot)
    assert len(synceds) == 1


def test_a_journal_that_is_outgrown_means_asking_again(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fastpos.account.book, "JOURNAL_LIMIT", 4)
    stay, close = exchange.open_position(volume=1), exchange.open_position()
    source.hold()
    start(stream)
    source.wait_until_taken(1)
    exchange.close_position(close)  # the first that is in no journal
    for volume in range(2, 8):
        exchange.update_position(stay, volume=volume)
    recorder.wait("on_position", 7)
    source.release()
    wait_synced(stream, synceds)
    assert len(source.calls) == 2
    assert "journal" in caplog.text
    assert recorder.on_error == []
    assert_true(stream, exchange, bot)


def test_a_full_journal_is_whole(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fastpos.account.book, "JOURNAL_LIMIT", 4)
    stay = exchange.open_position(volume=1)
    source.hold()
    start(stream)
    source.wait_until_taken(1)
    for volume in range(2, 6):
        exchange.update_position(stay, volume=volume)
    recorder.wait("on_position", 4)
    source.release()
    wait_synced(stream, synceds)
    assert len(source.calls) == 1
    assert_true(stream, exchange, bot)


# --- the synchronizer, with the clock in the test's hand ------------------------------------------


class _Threads:
    """Stands for `threading.Thread`: a thread runs when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.refuse = False

    def __call__(self, target: Callable[[], None], **_: Any) -> _Threads:
        self._target = target
        return self

    def start(self) -> None:
        if self.refuse:
            raise RuntimeError("can't start new thread")
        self.waiting.append(self._target)


class _Bench:
    """A synchronizer that stands alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.threads = _Threads()
        monkeypatch.setattr(fastpos.runtime.snapshots, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            fastpos.runtime.snapshots, "threading", SimpleNamespace(Thread=self.threads)
        )
        self.callbacks = Callbacks()
        self.synced: list[Synced] = []
        self.errors: list[Any] = []
        self.callbacks.on_synced(self.synced.append)
        self.callbacks.on_error(self.errors.append)
        self.book = Book(float)
        self.answer: Any = Snapshot([Position(id=1)], [])
        self.sync = Snapshots(
            lambda: self.answer, 10.0, ReconnectPolicy(1.0, 8.0, jitter=0.0), self.book
        )
        self.delivery = Delivery(self.callbacks, self.book, Counters(), float)

    def poll(self, seconds: float = 0.0) -> None:
        self.now += seconds
        for _ in range(3):
            if self.sync.pending:
                for name, event in self.sync.poll():
                    self.delivery.tell(name, event)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> _Bench:
    return _Bench(monkeypatch)


def test_waits_grow_and_time_outs_are_exact(bench: _Bench) -> None:
    bench.sync.begin(None)
    bench.poll()
    for failures, wait in enumerate((1.0, 2.0, 4.0, 8.0, 8.0), 1):
        assert len(bench.threads.waiting) == failures
        bench.poll(10.0)
        assert len(bench.errors) == failures - 1
        bench.poll(0.001)
        assert len(bench.errors) == failures
        bench.threads.waiting[-1]()  # too late
        bench.poll(wait - 0.01)
        assert len(bench.threads.waiting) == failures
        bench.poll(0.01)
    assert not bench.sync.synced


def test_calls_do_not_pile_up_without_end(bench: _Bench) -> None:
    bench.sync.begin(None)
    for _ in range(50):
        bench.poll(11.0)
    assert len(bench.threads.waiting) == len(bench.errors) == MAX_CALLS
    bench.threads.waiting[1]()
    bench.poll()
    assert len(bench.threads.waiting) == MAX_CALLS + 1
    bench.threads.waiting[-1]()
    bench.poll()
    assert bench.sync.synced
    assert len(bench.synced) == 1


def test_a_reconnect_waits_for_the_call_before_unless_that_takes_too_long(bench: _Bench) -> None:
    bench.sync.begin(None)
    bench.poll()
    for _ in range(3):
        bench.sync.end()
        bench.sync.begin(1.0)
        bench.poll(1.0)
    assert len(bench.threads.waiting) == 1
    bench.poll(8.0)
    assert len(bench.threads.waiting) == 2
    bench.threads.waiting[0]()
    bench.poll()
    assert not bench.sync.synced
    bench.threads.waiting[1]()
    bench.poll()
    assert bench.sync.synced
    assert bench.errors == []


def test_no_thread_to_be_had_is_a_failure_like_any_other(bench: _Bench) -> None:
    bench.threads.refuse = True
    bench.sync.begin(None)
    bench.poll()
    (error,) = bench.errors
    assert type(error) is SnapshotError
    assert "can't start new thread" in str(error)
    bench.threads.refuse = False
    bench.poll(1.0)
    bench.threads.waiting[0]()
    bench.poll()
    assert bench.sync.synced


@pytest.mark.parametrize("asked", [False, True])
def test_an_interruption_lasts_until_the_next_beginning(bench: _Bench, asked: bool) -> None:
    bench.sync.begin(None)
    bench.poll()
    bench.threads.waiting[0]()
    bench.poll()
    assert bench.sync.synced
    if asked:
        bench.sync.begin(2.0)
        bench.poll()
    bench.sync.interrupt()
    assert not bench.sync.synced
    assert bench.book.positions[1].stale
    if asked:
        bench.threads.waiting[1]()
        bench.poll()
    assert not bench.sync.synced
    assert len(bench.synced) == 1
    bench.sync.begin(3.0)
    bench.poll()
    bench.poll()
    bench.threads.waiting[-1]()
    bench.poll()
    assert bench.sync.synced
    assert bench.synced[-1].gap_s == (5.0 if asked else 3.0)
    assert not bench.book.positions[1].stale


def test_what_was_on_its_way_at_an_interruption_is_stale_after_it(bench: _Bench) -> None:
    bench.sync.begin(None)
    bench.sync.interrupt()
    bench.poll()
    update = AccountUpdate._view({"et": "CREATE", "p": {"id": 1}}, float)
    update._received_ns = 0
    merge(bench.book, update)
    assert not bench.book.positions[1].stale
    bench.sync.begin(1.0)
    assert bench.book.positions[1].stale


def test_a_function_that_interrupts_leaves_it_unsynced(bench: _Bench) -> None:
    """As `unsubscribe()` does in a callback, or from another thread during a merge."""
    bench.callbacks.on_position(lambda _: bench.sync.interrupt())
    bench.sync.begin(None)
    bench.poll()
    bench.threads.waiting[0]()
    bench.poll()
    assert not bench.sync.synced
    assert bench.book.positions[1].stale


# --- the difference as events ---------------------------------------------------------------------


def test_each_difference_is_an_event(
    exchange: Exchange,
    stream: PositionStream,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    start(stream)
    wait_synced(stream, synceds, 1)
    same, changed, closed = (exchange.open_position(volume=9) for _ in range(3))
    recorder.wait("on_position", 3)
    with away(exchange, recorder):
        exchange.update_position(changed, volume=4, margin_mode="ISOLATED")
        exchange.close_position(closed)
        opened = exchange.open_position(side="SELL")
    synced = wait_synced(stream, synceds, 2)
    assert (synced.created, synced.updated, synced.deleted) == (1, 1, 1)
    assert synced.gap_s is not None
    assert 0 < synced.gap_s < SOON
    assert bot.changes[:3] == [(CREATE, "STREAM", id) for id in (same, changed, closed)]
    update, create, delete = bot.events[3:]
    assert bot.changes[3:] == [
        (UPDATE, "SNAPSHOT", changed),
        (CREATE, "SNAPSHOT", opened),
        (DELETE, "SNAPSHOT", closed),
    ]
    assert update.changed == {"volume", "margin_mode"}
    assert (update.volume, update.margin_mode, update.leverage) == (4.0, "ISOLATED", 20)
    assert create.changed == {name for name, value in told(create).items() if value is not None} - {
        "id"
    }
    assert delete.changed == frozenset()
    assert (delete.volume, delete.side) == (9.0, "BUY")  # the last known state
    for event in (update, create, delete):
        assert event.complete
        assert not event.stale
        assert abs(event.received_ns - time.time_ns()) < 60e9
    assert_true(stream, exchange, bot)


def test_raw_is_what_the_source_said(
    stream: PositionStream, source: Source, bot: Bot, synceds: list[Synced]
) -> None:
    raw = {"id": 7, "uid": 10023, "openPrice": "1.50"}
    source.plan = [Snapshot([Position(id=7, open_price="1.50", raw=raw)], [])]
    start(stream)
    wait_synced(stream, synceds)
    (event,) = bot.events
    assert event.raw == stream.positions[7].raw == raw
    assert event.uid == 10023
    assert event.open_price == 1.5


def test_what_only_a_tick_told_is_told_by_the_snapshot(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    """A tick brings no on_position, so what it said is still news to a bot."""
    start(stream)
    wait_synced(stream, synceds, 1)
    held = exchange.open_position(margin_rate=0.1)
    recorder.wait("on_position")
    source.hold()
    with away(exchange, recorder):
        exchange.update_position(held, margin_rate=0.2)
        opened = exchange.open_position()
    source.wait_until_taken(2)
    exchange.tick()
    recorder.wait("on_adl_price")
    assert stream.positions[held].margin_rate == 0.2
    assert set(stream.positions) == {held, opened}
    assert not stream.positions[opened].complete
    assert len(bot.events) == 1
    source.release()
    wait_synced(stream, synceds, 2)
    assert bot.changes[1:] == [(UPDATE, "SNAPSHOT", held), (CREATE, "SNAPSHOT", opened)]
    assert bot.events[1].changed >= {"margin_rate"}
    assert stream.positions[held].mark_price is not None
    assert_true(stream, exchange, bot)


def test_a_position_that_a_later_update_touched_is_not_deleted(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    start(stream)
    wait_synced(stream, synceds, 1)
    updated, ticked, closed = (exchange.open_position() for _ in range(3))
    recorder.wait("on_position", 3)
    source.hold()
    source.plan = [lambda: (source.truth(), EMPTY)[1]]
    lose(exchange, recorder)
    source.wait_until_taken(2)
    exchange.update_position(updated, volume=5)
    tick = {"channel": "ADL_PRICE", "uid": 1001, "l": [{"id": ticked, "tp": 5.5}]}
    exchange.push(tick)
    recorder.wait("on_adl_price")
    source.release()
    synced = wait_synced(stream, synceds, 2)
    assert synced.deleted == 2
    assert {*bot.changes[-2:]} == {(DELETE, "SNAPSHOT", closed), (DELETE, "SNAPSHOT", ticked)}
    assert set(stream.positions) == {updated}
    # Nobody has confirmed the rest of it.
    assert stream.positions[updated].stale
    assert not {"volume", "id"} & stream.positions[updated].stale_fields
    # A tick or some may be older than the snapshot; if they go on, the snapshot was wrong.
    for count in range(LATE_TICKS):
        assert set(stream.positions) == {updated}
        exchange.push(tick)
        recorder.wait("on_adl_price", 2 + count)
    exchange.push(tick)
    until(lambda: set(stream.positions) == {updated, ticked})
    assert not stream.positions[ticked].complete


@pytest.mark.parametrize("kind", ["order", "trigger"])
def test_a_snapshot_without_orders_leaves_them_as_they_are(
    kind: str,
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    def push(action: str, **news: object) -> None:
        before = len(recorder.on_order) + len(recorder.on_trigger)
        if kind == "order":
            body = {"orderId": "11", "orderAction": action, **news}
            exchange.push({"channel": "order", "order": body})
        else:
            body = {"triggerOrderId": "11", "orderAction": action}
            exchange.push({"channel": "trigOrder", "trigOrder": body})
        until(lambda: len(recorder.on_order) + len(recorder.on_trigger) == before + 1)

    def shown() -> dict[str, Any]:
        return {**stream.orders, **stream.triggers}

    start(stream)
    wait_synced(stream, synceds, 1)
    push("1", volume=10, dealVolume=0)
    assert [*shown()] == ["11"]
    source.hold()
    lose(exchange, recorder)
    source.wait_until_taken(2)
    # Of an order this says all that there was to fill, but not how much that was.
    push("3" if kind == "order" else "2", dealVolume=10)
    assert shown() == {}
    source.release()
    wait_synced(stream, synceds, 2)
    assert shown() == {}


def test_a_pause_just_after_the_stream_is_ready(
    exchange: Exchange, new_stream: NewStream, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(logging.Handler):
        """As one that writes to a slow disk: here until the stream was paused."""

        def createLock(self) -> None:
            self.lock = None

        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "fastpos_event", "") == "subscribed":
                paused.wait(SOON)

    paused = threading.Event()
    stream = new_stream(exchange, snapshot=lambda: EMPTY, ping_interval=0.05)
    handler = Slow()
    caplog.set_level(logging.INFO, "fastpos")
    logging.getLogger("fastpos").addHandler(handler)
    try:
        stream.start()
        assert stream.wait_ready(SOON)
        stream.unsubscribe()
        paused.set()
        assert exchange.wait_for_subscribers(0, SOON)
        pongs = set()
        until(lambda: pongs.add(stream.stats.last_pong_ns) or len(pongs) > 4)
        assert not stream.synced
        stream.subscribe()
        assert exchange.wait_for_subscribers(1, SOON)
        until(lambda: stream.synced, what="that it is synced")
    finally:
        logging.getLogger("fastpos").removeHandler(handler)


def test_numbers_are_compared_by_value(
    stream: PositionStream, source: Source, bot: Bot, synceds: list[Synced], exchange: Exchange
) -> None:
    start(stream)
    wait_synced(stream, synceds)
    held = exchange.open_position(volume=3, open_price=61000.5)
    until(lambda: bot.events)
    wire = exchange.positions[held]
    same = Position(
        id=held,
        volume="3.0",
        open_price=Decimal("61000.500"),
        side="BUY",
        leverage=20,
        contract_name=wire["cn"],
        margin_mode="CROSS",
    )
    source.plan = [Snapshot([same], [])]
    exchange.drop()
    synced = wait_synced(stream, synceds, 2)
    assert (synced.created, synced.updated, synced.deleted) == (0, 0, 0)
    # What the source left out is kept.
    assert stream.positions[held].contract_alias == wire["con"]
    assert not stream.positions[held].stale


# --- knowing what one does not know ---------------------------------------------------------------


def test_everything_is_stale_from_a_disconnect_to_the_next_snapshot(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def look(_: object) -> None:
        stale = {p.stale for p in stream.positions.values()}
        stale_coins = {b.stale for b in stream.balances.values()}
        seen.append((stream.synced, stale == {True}, stale_coins == {True}))

    start(stream)
    wait_synced(stream, synceds, 1)
    held = exchange.open_position(volume=9)
    other = exchange.open_position()
    exchange.place_order()
    exchange.place_trigger()
    recorder.wait("on_trigger")
    assert_true(stream, exchange, bot)
    stream.on_disconnect(look)
    stream.on_ready(look)
    source.hold()
    lose(exchange, recorder)
    source.wait_until_taken(2)
    look(None)
    assert seen == [(False, True, True)] * 3
    assert stream.positions[held].stale_fields == {
        name for name, value in told(stream.positions[held]).items() if value is not None
    }
    assert all(order.stale for order in stream.orders.values())
    assert all(trigger.stale for trigger in stream.triggers.values())

    exchange.update_position(held, volume=5)
    recorder.wait("on_position", 3)
    for position in (stream.positions[held], bot.events[-1]):
        assert position.stale
        assert not {"id", "volume"} & position.stale_fields
        assert "side" in position.stale_fields
    assert not stream.balances["USDT"].stale  # that push brought it whole
    exchange.close_position(other)
    recorder.wait("on_position", 4)
    assert bot.events[-1].stale  # the last known state
    created = exchange.open_position()
    recorder.wait("on_position", 5)
    assert not stream.positions[created].stale
    assert not stream.synced

    source.release()
    wait_synced(stream, synceds, 2)
    assert_true(stream, exchange, bot)
    # Of these the source does not know.
    assert [order.stale for order in stream.orders.values()] == [True]
    assert [trigger.stale for trigger in stream.triggers.values()] == [True]


def test_a_balance_is_stale_until_all_of_it_came(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = start(new_stream(exchange))
    exchange.set_balance(available="5", frozen="1")
    recorder.wait("on_account")
    lose(exchange, recorder)
    recorder.wait("on_ready", 2)

    def push(**amounts: str) -> None:
        body = {"et": "DEFAULT", "a": [{"c": "USDT", **amounts}]}
        count = len(recorder.on_account)
        exchange.push({"channel": "ACCOUNT_UPDATE", "uid": 1001, "t": "5", "d": body})
        recorder.wait("on_account", count + 1)

    push(an="7")
    assert (stream.balances["USDT"].stale, stream.balances["USDT"].available) == (True, 7.0)
    push(an="8", la="1", pn="0")
    assert not stream.balances["USDT"].stale


def test_the_gap_is_told_and_grows_until_it_is_filled(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    source.plan = [OSError()] * 1000
    start(stream)
    lose(exchange, recorder)
    recorder.wait("on_ready", 2)
    source.plan.clear()
    assert wait_synced(stream, synceds, 1).gap_s is None  # nothing was known before
    source.plan = [OSError()] * 1000
    for count in (3, 4):
        lose(exchange, recorder)
        recorder.wait("on_ready", count)
    source.plan.clear()
    gap = wait_synced(stream, synceds, 2).gap_s
    assert gap == pytest.approx(sum(ready.gap_s for ready in recorder.on_ready[2:]))
    lose(exchange, recorder)
    assert wait_synced(stream, synceds, 3).gap_s == recorder.on_ready[4].gap_s


def test_a_pause_is_a_gap(
    exchange: Exchange,
    stream: PositionStream,
    bot: Bot,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    start(stream)
    wait_synced(stream, synceds, 1)
    held = exchange.open_position(volume=9)
    recorder.wait("on_position")
    stream.unsubscribe()
    assert exchange.wait_for("unsub")
    exchange.update_position(held, volume=4)
    source.hold()
    stream.subscribe()
    source.wait_until_taken(2)
    assert not stream.synced
    assert stream.positions[held].stale
    # Once more, with a call under way that knows nothing of what happens now.
    stream.unsubscribe()
    assert exchange.wait_for("unsub", count=2)
    exchange.update_position(held, volume=2)
    exchange.open_position()
    stream.subscribe()
    recorder.wait("on_ready", 3)
    source.release()
    synced = wait_synced(stream, synceds, 2)
    assert (synced.created, synced.updated) == (1, 1)
    assert_true(stream, exchange, bot)


def test_without_a_source_ticks_confirm_what_they_carry(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, synceds: list[Synced]
) -> None:
    stream = start(new_stream(exchange, on_synced=synceds.append))
    held, created = exchange.open_position(), exchange.open_position()
    exchange.tick()
    recorder.wait("on_adl_price", 1)
    lose(exchange, recorder)
    recorder.wait("on_ready", 2)
    assert {position.stale for position in stream.positions.values()} == {True}
    assert "mark_price" in stream.positions[held].stale_fields
    tick = exchange.ticks[held] | {"id": held, "rp": 5, "mr": 6}
    exchange.push({"channel": "ADL_PRICE", "uid": 1001, "l": [tick]})
    recorder.wait("on_adl_price", 2)
    position = stream.positions[held]
    assert position.stale
    carried = {"id", "liquidation_price", "margin_rate", "adl_level", "margin"}
    carried |= {"best_bid", "best_ask", "last_price", "mark_price"}
    all_known = {name for name in Position._fields if told(position, [name])[name] is not None}
    kept = set(told(position)) - carried
    assert position.stale_fields == kept & all_known
    assert "volume" in position.stale_fields
    assert "id" in stream.positions[created].stale_fields

    exchange.close_position(created)
    exchange.update_position(
        held, **{name: value for name, value in told(position, kept).items() if name != "id"}
    )
    wire = exchange.positions[held]
    exchange.push(
        {
            "channel": "ACCOUNT_UPDATE",
            "uid": 1001,
            "t": "5",
            "d": {"et": "UPDATE", "p": wire, "a": []},
        }
    )
    until(lambda: not stream.positions[held].stale, what="that all of it is confirmed")
    assert not stream.synced
    assert synceds == []


def test_an_id_that_three_ticks_do_not_list_is_marked_and_kept(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = start(new_stream(exchange))
    lost, held = exchange.open_position(), exchange.open_position()
    recorder.wait("on_position", 2)
    ticks = 0

    def tick(*ids: int, listed: bool = True) -> None:
        nonlocal ticks
        ticks += 1
        body = {"l": [{"id": id, "tp": 5} for id in ids]} if listed else {}
        exchange.push({"channel": "ADL_PRICE", "uid": 1001, **body})
        recorder.wait("on_adl_price", ticks)

    def missing() -> list[bool]:
        return [stream.positions[id].missing_from_ticks for id in (lost, held)]

    with away(exchange, recorder):
        exchange.close_position(lost)
    tick(held)
    tick(held)
    assert missing() == [False, False]
    tick(held)
    assert missing() == [True, False]
    tick(held)
    tick(listed=False)  # says nothing of any
    assert missing() == [True, False]
    assert set(stream.positions) == {lost, held}
    assert len(recorder.on_position) == 2
    tick(held, lost)  # in a row, that is
    tick(held)
    tick(held)
    assert missing() == [False, False]
    tick(held)
    assert missing() == [True, False]
    tick()
    tick()
    tick()
    assert missing() == [True, True]
    exchange.update_position(held, volume=77)
    recorder.wait("on_position", 3)
    assert missing() == [True, False]


# --- orders and triggers --------------------------------------------------------------------------


def test_orders_by_id(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    stream = start(new_stream(exchange))
    first = exchange.place_order(volume=100, price=61001, take_profit=70000)
    second = exchange.place_order(volume=10)
    third = exchange.place_order(volume=5)
    recorder.wait("on_order", 3)
    assert list(stream.orders) == [first, second, third]
    assert stream.orders[first].remaining == 100.0
    exchange.fill_order(first, 30)
    exchange.change_order(first, price=61002)
    exchange.cancel_order(second)
    exchange.fill_order(third)
    events = recorder.wait("on_order", 7)
    assert [event.remaining for event in events[3:5]] == [70.0, 70.0]
    assert events[6].remaining == 0.0
    (order,) = stream.orders.values()
    assert (order.order_id, order.remaining, order.price) == (first, 70.0, 61002.0)
    assert order.take_profit is not None
    assert (order.take_profit.trigger_price, order.stale) == (70000.0, False)
    assert shown(stream.orders) == truth_of(exchange.snapshot_state())["orders"]
    stream.orders.clear()
    assert list(stream.orders) == [first]


@pytest.mark.parametrize(
    ("volume", "filled", "remaining"),
    [
        (5, 2, 3.0),
        ("5", "2.5", 2.5),
        (5, None, None),
        (None, 5, None),
        ("x", 1, None),
        (None, None, None),
    ],
)
def test_remaining(volume: Any, filled: Any, remaining: float | None) -> None:
    assert Order(volume=volume, filled_volume=filled).remaining == remaining


def test_remaining_is_exact() -> None:
    order = Order._view({"volume": "0.3", "dealVolume": "0.1"}, Decimal)
    assert str(order.remaining) == "0.2"


@pytest.mark.parametrize(
    ("body", "leaves"),
    [
        ({"volume": 5, "dealVolume": "5"}, True),
        ({"dealVolume": 5.0}, True),  # the volume is known from before
        ({"volume": 5, "dealVolume": 6}, True),
        ({"volume": 5, "dealVolume": 4.9999}, False),
        ({"volume": 0, "dealVolume": 0}, False),
        ({"volume": "x", "dealVolume": 9}, False),
        ({"price": 7}, False),
    ],
)
def test_when_an_order_leaves(
    body: dict[str, Any],
    leaves: bool,
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
) -> None:
    stream = start(new_stream(exchange))
    base = {"orderId": "17", "orderAction": "1"}
    exchange.push({"channel": "order", "order": {**base, "volume": 5, "dealVolume": 0}})
    exchange.push({"channel": "order", "order": {**base, **body, "orderAction": "3"}})
    recorder.wait("on_order", 2)
    assert (list(stream.orders) == []) == leaves


def test_triggers_by_id(exchange: Exchange, new_stream: NewStream, recorder: Recorder) -> None:
    stream = start(new_stream(exchange))
    first, second = exchange.place_trigger(), exchange.place_trigger(side="sell")
    recorder.wait("on_trigger", 2)
    assert list(stream.triggers) == [first, second]
    exchange.cancel_trigger(first)
    recorder.wait("on_trigger", 3)
    assert shown(stream.triggers) == truth_of(exchange.snapshot_state())["triggers"]
    assert list(stream.triggers) == [second]


def test_orders_without_a_usable_id_are_passed_on(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = start(new_stream(exchange))
    unusable: tuple[Any, ...] = (None, [1], {}, True)
    for id in unusable:
        exchange.push({"channel": "order", "order": {"orderId": id, "orderAction": "1"}})
        trigger = {"triggerOrderId": id, "orderAction": "1"}
        exchange.push({"channel": "trigOrder", "trigOrder": trigger})
    recorder.wait("on_order", 4)
    recorder.wait("on_trigger", 4)
    assert stream.orders == stream.triggers == {}


def test_orders_are_stale_after_a_gap_until_they_are_heard_of(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = start(new_stream(exchange))
    filled, open_ = exchange.place_order(volume=5), exchange.place_order(volume=5)
    trigger = exchange.place_trigger()
    recorder.wait("on_trigger")
    with away(exchange, recorder):
        exchange.fill_order(filled)
    assert [order.stale for order in stream.orders.values()] == [True, True]
    assert stream.triggers[trigger].stale
    exchange.fill_order(open_, 2)
    new = exchange.place_order()
    recorder.wait("on_order", 4)
    stale = {id: order.stale for id, order in stream.orders.items()}
    assert stale == {filled: True, open_: False, new: False}


def test_a_snapshot_may_bring_orders_and_triggers(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    source._orders = True
    start(stream)
    wait_synced(stream, synceds, 1)
    kept = exchange.place_order(volume=8, take_profit=70000, stop_loss=50000)
    filled, cancelled, later = (exchange.place_order(volume=5) for _ in range(3))
    gone, stays = exchange.place_trigger(), exchange.place_trigger()
    recorder.wait("on_trigger", 2)
    source.hold()
    with away(exchange, recorder):
        exchange.fill_order(filled)
        exchange.cancel_order(cancelled)
        exchange.fill_order(kept, 3)
        exchange.cancel_trigger(gone)
        opened = exchange.place_order(stop_loss=51000)
    source.wait_until_taken(2)
    exchange.fill_order(opened, 1)
    exchange.cancel_order(later)
    newest = exchange.place_trigger()
    recorder.wait("on_trigger", 3)
    source.release()
    wait_synced(stream, synceds, 2)
    truth = truth_of(exchange.snapshot_state())
    assert shown(stream.orders) == truth["orders"]
    assert shown(stream.triggers) == truth["triggers"]
    assert set(stream.orders) == {kept, opened}
    assert set(stream.triggers) == {stays, newest}
    assert not any(order.stale for order in stream.orders.values())
    assert not any(trigger.stale for trigger in stream.triggers.values())
    stop_loss = stream.orders[kept].stop_loss
    assert stop_loss is not None
    assert stop_loss.trigger_price == 50000.0


def test_orders_of_a_snapshot_as_users_make_them(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    source.plan = [
        Snapshot(
            (),
            (Balance(coin="BTC", available=1),),
            [
                Order(order_id="1", volume=Decimal(5), filled_volume=Decimal(5)),
                Order(
                    order_id="2",
                    volume=Decimal(5),
                    filled_volume=1,
                    stop_loss=AttachedOrder(active=True, trigger_price=Decimal("0.5")),
                ),
            ],
            [Trigger(trigger_order_id="3", price=None)],
        )
    ]
    start(stream)
    wait_synced(stream, synceds)
    (order,) = stream.orders.values()  # a filled one is no open one
    assert (order.order_id, order.remaining, order.take_profit) == ("2", 4.0, None)
    assert order.stop_loss == AttachedOrder(active=True, trigger_price=0.5)
    assert list(stream.triggers) == ["3"]
    assert list(stream.balances) == ["BTC"]
    news = {"orderId": "2", "otoOrder": {"stopLossTrigger": 7}, "orderAction": "3"}
    exchange.push({"channel": "order", "order": news})
    recorder.wait("on_order")
    assert stream.orders["2"].stop_loss == AttachedOrder(trigger_price=7.0)


def _event(kind: type[Any], wire: dict[str, Any]) -> Any:
    event = kind._view(wire, float)
    event._received_ns = 0
    return event


def test_neither_a_null_nor_a_user_changes_what_is_known() -> None:
    book = Book(float)
    for last in (1, 2, 3, None):
        tick = _event(AdlPrice, {"l": [{"id": 7, "tp": 5, "lt": last}]})
        order = _event(Order, {"orderId": "8", "price": last, "volume": 9, "dealVolume": 1})
        trigger = _event(Trigger, {"triggerOrderId": "9", "price": last})
        for event in (tick, order, trigger):
            merge(book, event)
        tick.raw["l"][0]["tp"] = order.raw["volume"] = trigger.raw["volume"] = 77
    assert (book.positions[7].mark_price, book.positions[7].last_price) == (5.0, 3.0)
    assert (book.orders["8"].volume, book.orders["8"].price) == (9.0, 3.0)
    assert (book.triggers["9"].volume, book.triggers["9"].price) == (None, 3.0)


# --- exact numbers --------------------------------------------------------------------------------


TWENTY = "85717.01833333999523920"


def test_decimals_are_exact_everywhere(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, synceds: list[Synced]
) -> None:
    price = Decimal(TWENTY)
    amount = "12345678901234567890.123456789012345678901234567890"
    exchange.set_balance("BTC", available=amount)
    exchange.open_position(position_id=1, open_price=price)
    source = Source(exchange)
    stream = new_stream(exchange, number=Decimal, snapshot=source, on_synced=synceds.append)
    wait_synced(start(stream), synceds)
    exchange.open_position(position_id=2, open_price=price, mark_price=price)
    exchange.place_order(price=price, volume=Decimal("0.3"))
    exchange.place_trigger(trigger_price=price)
    exchange.tick()
    (tick,) = recorder.wait("on_adl_price")
    snapshot, push = recorder.on_position
    (order,), (trigger,) = recorder.on_order, recorder.on_trigger
    assert (snapshot.source, push.source) == ("SNAPSHOT", "STREAM")
    found = [
        snapshot.open_price,
        push.open_price,
        push.raw["d"]["p"]["op"],
        stream.positions[1].open_price,
        stream.positions[2].open_price,
        tick.ticks[1].mark_price,
        tick.raw["l"][1]["tp"],
        stream.positions[2].mark_price,
        order.price,
        order.raw["order"]["price"],
        stream.orders[order.order_id].price,
        trigger.trigger_price,
        stream.triggers[trigger.trigger_order_id].trigger_price,
    ]
    assert [(type(number), str(number)) for number in found] == [(Decimal, TWENTY)] * len(found)
    assert str(stream.balances["BTC"].available) == amount
    assert str(order.remaining) == "0.3"
    assert type(push.volume) is type(snapshot.volume) is Decimal

    # Saved and loaded, they still are.
    book = Book(Decimal)
    book.load(stream.book.dump())
    assert str(book.positions[2].mark_price) == str(book.positions[1].open_price) == TWENTY
    assert str(book.balances["BTC"].available) == amount
    assert str(book.orders[order.order_id].price) == TWENTY


def test_a_decimal_snapshot_with_floats_and_the_reverse(
    exchange: Exchange, new_stream: NewStream, synceds: list[Synced]
) -> None:
    for number, given, shown_ in (
        (Decimal, 98533.6, Decimal("98533.6")),
        (float, Decimal(TWENTY), float(TWENTY)),
        (Decimal, "0.10", Decimal("0.10")),
        (Decimal, 3, Decimal(3)),
    ):
        synceds.clear()
        snapshot = Snapshot([Position(id=1, open_price=given)], [Balance(coin="A", frozen=given)])
        stream = new_stream(
            exchange,
            number=number,
            snapshot=lambda snapshot=snapshot: snapshot,
            on_synced=synceds.append,
        )
        wait_synced(start(stream), synceds)
        for value in (stream.positions[1].open_price, stream.balances["A"].frozen):
            assert (type(value), str(value)) == (number, str(shown_))
        stream.stop()


# --- saving and loading ---------------------------------------------------------------------------


def test_a_restarted_bot_begins_with_what_it_knew(
    exchange: Exchange,
    new_stream: NewStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    first = start(new_stream(exchange))
    same, changed, closed = (exchange.open_position(volume=9) for _ in range(3))
    order, trigger = exchange.place_order(take_profit=70000), exchange.place_trigger()
    exchange.tick()
    recorder.wait("on_adl_price")
    first.stop()
    saved = first.book.dump()
    json.loads(saved)
    exchange.update_position(changed, volume=4)
    exchange.close_position(closed)
    opened = exchange.open_position()

    source.hold()
    stream = new_stream(exchange, snapshot=source, on_synced=synceds.append)
    stream.book.load(saved)
    bot.begin_with(stream.positions)
    stream.on_position(bot.on_position)
    for what in ("positions", "balances", "orders", "triggers"):
        before, after = getattr(first, what), getattr(stream, what)
        assert list(after) == list(before)
        assert shown(after) == shown(before)
        assert all(record.stale for record in after.values())
    assert stream.positions[same].mark_price == first.positions[same].mark_price
    assert stream.positions[same].complete
    assert not stream.synced
    start(stream)
    assert stream.positions[same].stale
    source.release()
    synced = wait_synced(stream, synceds)
    assert (synced.created, synced.updated, synced.deleted) == (1, 1, 1)
    assert bot.changes == [
        (UPDATE, "SNAPSHOT", changed),
        (CREATE, "SNAPSHOT", opened),
        (DELETE, "SNAPSHOT", closed),
    ]
    assert_true(stream, exchange, bot)
    assert stream.orders[order].stale
    assert stream.triggers[trigger].stale


def test_ticks_confirm_what_was_loaded(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    held = exchange.open_position()
    stream = new_stream(exchange)
    stream.book.load(
        json.dumps(
            {
                "version": 1,
                "positions": [{"complete": False, "wire": {"id": held, "tp": 1}}],
                "balances": [],
                "orders": [],
                "triggers": [],
            }
        )
    )
    assert stream.positions[held].stale_fields == {"id", "mark_price"}
    start(stream)
    exchange.tick()
    recorder.wait("on_adl_price")
    position = stream.positions[held]
    assert not position.stale
    assert not position.complete


def test_what_is_known_already_is_not_touched_by_loading() -> None:
    book, other = Book(float), Book(float)
    for into, volume, id in ((book, 1, 1), (other, 2, 1), (other, 3, 2)):
        update = AccountUpdate._view({"et": "CREATE", "p": {"id": id, "pv": volume}}, float)
        update._received_ns = 0
        merge(into, update)
    book.load(other.dump())
    known = {id: (p.volume, p.stale) for id, p in book.positions.items()}
    assert known == {1: (1.0, False), 2: (3.0, True)}


GOOD: dict[str, Any] = {
    "version": 1,
    "positions": [{"complete": True, "wire": {"id": 1}}],
    "balances": [{"c": "USDT"}],
    "orders": [{"orderId": "5"}],
    "triggers": [{"triggerOrderId": "6"}],
}


def test_the_format_of_a_dump() -> None:
    book = Book(float)
    book.load(json.dumps(GOOD))
    assert json.loads(book.dump()) == GOOD
    assert [*book.positions, *book.balances, *book.orders, *book.triggers] == [1, "USDT", "5", "6"]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        "17",
        "null",
        "{}",
        {"version": 2},
        {"positions": None},
        {"positions": [{"wire": {"id": 1}}]},
        {"positions": [{"complete": True, "wire": 5}]},
        {"positions": [{"complete": True, "wire": {"id": "x"}}]},
        {"positions": [{"complete": True, "wire": {"id": [1]}}]},
        {"positions": [{"complete": True, "wire": {}}]},
        {"positions": [7]},
        {"balances": [{"c": None}]},
        {"balances": {"c": 1}},
        {"orders": [{}]},
        {"orders": [{"orderId": [5]}]},
        {"triggers": ["x"]},
        None,
    ],
)
def test_what_is_no_dump_is_refused_whole(bad: Any) -> None:
    book = Book(float)
    text: Any = json.dumps({**GOOD, **bad}) if type(bad) is dict else bad
    with pytest.raises(ValueError, match=r"not what Book\.dump"):
        book.load(text)
    assert [*book.positions, *book.balances, *book.orders, *book.triggers] == []


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("loaded_as", [float, Decimal])
def test_numbers_survive_whatever_type_they_are_loaded_as(number: Any, loaded_as: Any) -> None:
    book, other = Book(number), Book(loaded_as)
    stream_of = AccountUpdate._view(
        {"et": "CREATE", "p": {"id": 1, "op": number("98533.6"), "pv": 3}}, number
    )
    stream_of._received_ns = 0
    merge(book, stream_of)
    other.load(book.dump())
    price = other.positions[1].open_price
    assert (type(price), str(price)) == (loaded_as, "98533.6")
    assert type(other.positions[1].volume) is loaded_as


# --- stopping, losing, racing ---------------------------------------------------------------------


def test_stop_while_a_call_is_under_way(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    exchange.open_position()
    source.hold()
    start(stream)
    source.wait_until_taken(1)
    began = time.monotonic()
    stream.stop()
    assert time.monotonic() - began < 1.0
    assert not stream.synced
    source.release()
    source.wait_until_idle()
    assert bot.events == synceds == recorder.on_error == []
    start(stream)  # and again
    wait_synced(stream, synceds)
    assert_true(stream, exchange, bot)


@pytest.mark.parametrize("name", ["on_position", "on_synced"])
def test_stop_in_a_callback_of_a_snapshot(
    name: str,
    exchange: Exchange,
    stream: PositionStream,
    bot: Bot,
    synceds: list[Synced],
) -> None:
    exchange.open_position()
    exchange.open_position()
    getattr(stream, name)(lambda _: stream.stop())
    stream.start()
    assert stream.join(SOON)
    # The bot has heard of all that the book holds.
    assert shown(stream.positions) == bot.positions
    assert len(bot.events) == 2
    assert len(synceds) == 1
    assert not stream.synced
    assert {position.stale for position in stream.positions.values()} == {True}


def _fail(_: object) -> None:
    raise ZeroDivisionError


def test_a_callback_that_raises_does_not_stop_the_rest(
    exchange: Exchange,
    stream: PositionStream,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    stream.on_position(_fail)
    stream.on_synced(_fail)
    exchange.open_position()
    exchange.open_position()
    start(stream)
    wait_synced(stream, synceds)
    errors = recorder.wait("on_error", 3)
    assert [type(error.__cause__) for error in errors] == [ZeroDivisionError] * 3
    assert_true(stream, exchange, bot)


def test_a_call_that_was_under_way_when_the_connection_was_lost_counts_for_nothing(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    held, closed = exchange.open_position(volume=1), exchange.open_position()
    source.hold()
    start(stream)
    source.wait_until_taken(1)
    with away(exchange, recorder):
        exchange.update_position(held, volume=2)
        exchange.close_position(closed)
    assert len(source.calls) == 1  # one at a time
    source.release()
    wait_synced(stream, synceds)
    assert len(source.calls) == 2
    assert closed not in {event.id for event in bot.events}
    assert_true(stream, exchange, bot)


def test_a_disconnect_in_a_callback_of_a_snapshot(
    exchange: Exchange,
    stream: PositionStream,
    source: Source,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    held = exchange.open_position(volume=1)
    exchange.open_position()

    @stream.on_position
    def drop(_: object) -> None:
        if len(bot.events) == 1:
            exchange.drop()
            exchange.update_position(held, volume=2)

    start(stream)
    wait_synced(stream, synceds, 2)
    assert_true(stream, exchange, bot)


def test_the_account_endpoint_as_source(
    exchange: Exchange,
    new_stream: NewStream,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    rest = pytest.importorskip("fastpos.rest")
    with rest.AccountSnapshot(
        exchange.rest_url, exchange.api_key, exchange.api_secret, proxy=""
    ) as source:
        stream = new_stream(exchange, snapshot=source, on_synced=synceds.append)
        stream.on_position(bot.on_position)
        held, closed = exchange.open_position(volume=9), exchange.open_position()
        start(stream)
        wait_synced(stream, synceds, 1)
        assert_true(stream, exchange, bot)
        assert bot.events[0].raw["closeVolume"] == 0
        with away(exchange, recorder):
            exchange.update_position(held, volume=4)
            exchange.close_position(closed)
            exchange.open_position(margin_mode="ISOLATED")
        synced = wait_synced(stream, synceds, 2)
        assert (synced.created, synced.updated, synced.deleted) == (1, 1, 1)
        assert_true(stream, exchange, bot)
        exchange.rest_fail(503, times=1)
        lose(exchange, recorder)
        wait_synced(stream, synceds, 3)
        assert_true(stream, exchange, bot)
        (error,) = snapshot_errors(recorder)
        assert error.status == 503


@pytest.fixture
def frantic() -> Iterator[None]:
    """Threads take turns a million times a second."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.long
@pytest.mark.usefixtures("frantic")
def test_readers_see_whole_states_during_merges(
    exchange: Exchange, stream: PositionStream, source: Source, synceds: list[Synced]
) -> None:
    """Volume and price of a position always move together, in pushes and in snapshots."""
    held = exchange.open_position(volume=1, open_price=1)
    torn: list[Position] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for position in stream.positions.values():
                if position.volume != position.open_price:
                    torn.append(position)
            stream.book.dump()
            _ = stream.balances, stream.orders, stream.triggers, stream.synced

    reader = threading.Thread(target=read)
    reader.start()
    try:
        start(stream)
        for round_ in range(12):
            wait_synced(stream, synceds, round_ + 1)
            exchange.drop()
            for number in range(round_ * 5, round_ * 5 + 5):
                exchange.update_position(held, volume=number, open_price=number)
    finally:
        done.set()
        reader.join()
    assert torn == []


@pytest.mark.long
@pytest.mark.usefixtures("frantic")
def test_stop_races_with_the_snapshot(
    exchange: Exchange, stream: PositionStream, source: Source, bot: Bot
) -> None:
    stopped = threading.Event()
    late: list[object] = []
    for callback in (stream.on_position, stream.on_synced, stream.on_error):
        callback(lambda event: late.append(event) if stopped.is_set() else None)
    exchange.open_position()
    for round_ in range(25):
        stopped.clear()
        start(stream)
        source.wait_until_taken(round_ + 1)
        for _ in range(round_ * 40):  # a little later each time
            math.sqrt(2.0)
        stream.stop()
        stopped.set()
        assert late == []
        assert not stream.synced
        assert shown(stream.positions) == bot.positions
    source.wait_until_idle()
    stopped.clear()
    start(stream)
    until(lambda: stream.synced)
    assert_true(stream, exchange, bot)


@pytest.mark.usefixtures("frantic")
def test_drops_and_pushes_race_with_the_snapshot(
    exchange: Exchange,
    stream: PositionStream,
    bot: Bot,
    recorder: Recorder,
    synceds: list[Synced],
) -> None:
    done = threading.Event()

    def trade() -> None:
        held = [exchange.open_position(volume=1)]
        number = 0
        while not done.is_set():
            number += 1
            exchange.update_position(held[-1], volume=number, margin_rate=number / 7)
            if number % 5 == 0:
                held.append(exchange.open_position(volume=1))
            if number % 7 == 0:
                exchange.close_position(held.pop(0))
                if not held:
                    held.append(exchange.open_position())
            done.wait(0.001)

    trader = threading.Thread(target=trade)
    start(stream)
    trader.start()
    try:
        for count in range(1, 13):
            wait_synced(stream, synceds, count)
            exchange.drop()
        until(lambda: len(synceds) > 12)
    finally:
        done.set()
        trader.join()
    until(lambda: stream.synced)
    assert_true(stream, exchange, bot)
    assert snapshot_errors(recorder) == []
    assert exchange.violations == []


@pytest.mark.usefixtures("frantic")
def test_saving_and_pausing_race_with_the_reader(
    exchange: Exchange, stream: PositionStream, bot: Bot, synceds: list[Synced]
) -> None:
    held = exchange.open_position(volume=1)
    start(stream)
    wait_synced(stream, synceds)
    for number in range(2, 20):
        stream.book.dump()
        stream.unsubscribe()
        exchange.update_position(held, volume=number)
        stream.subscribe()
    assert_true(stream, exchange, bot)
    exchange.update_position(held, volume=99)
    assert_true(stream, exchange, bot)
