"""Truth after a gap: snapshots, what is stale, orders, exact numbers, saving and loading.

What is a rule is tested on a bench (truth.py); below it, what threads and sockets add.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

import fastpos.account.book
from fastpos import (
    AccountUpdate,
    AttachedOrder,
    Balance,
    Order,
    Position,
    PositionStream,
    Snapshot,
    SnapshotError,
    Synced,
    Trigger,
)
from fastpos.account.book import Book
from fastpos.account.state import LATE_TICKS
from fastpos.runtime.snapshots import MAX_CALLS
from fastpos.simulator import Exchange
from tests.account.truth import Bench, Bot, shown, snapshot_of, told, truth_of
from tests.support.connections import at_once, concurrently
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"
EMPTY = Snapshot([], [])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch.setattr)


@pytest.fixture
def lone(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One without a source, subscribed."""
    bench = Bench(monkeypatch.setattr, has_source=False)
    bench.begin()
    return bench


def open_(bench: Bench, pushed: bool = True, **fields: Any) -> int:
    """Open a position; give its id."""
    given = {"cn": "E-BTC-USDT", "s": "BUY", "pv": 10, "op": 61000.5, **fields}
    id, push = bench.account.open_position(None, given)
    bench.push(push if pushed else None)
    return id


def update(bench: Bench, id: int, pushed: bool = True, **fields: Any) -> None:
    push = bench.account.update_position(id, fields)
    bench.push(push if pushed else None)


def close(bench: Bench, id: int, pushed: bool = True) -> None:
    push = bench.account.close_position(id)
    bench.push(push if pushed else None)


def place(bench: Bench, tp: Any = None, sl: Any = None, **fields: Any) -> str:
    given = {"contractName": "E-BTC-USDT", "volume": 10, "price": 61000, **fields}
    id, push = bench.account.place_order(given, tp, sl)
    bench.push(push)
    return id


def tick_of(*ticks: Any) -> dict[str, Any]:
    return {"channel": "ADL_PRICE", "uid": 1001, "l": list(ticks)}


def account_update(change: str, position: Any = None, *balances: Any) -> dict[str, Any]:
    body = {"et": change, "p": position, "a": list(balances)}
    return {"channel": "ACCOUNT_UPDATE", "uid": 1001, "t": "5", "d": body}


def order_push(id: Any, action: Any = "1", **more: Any) -> dict[str, Any]:
    return {"channel": "order", "order": {"orderId": id, "orderAction": action, **more}}


def trigger_push(id: Any, action: Any = "1") -> dict[str, Any]:
    return {"channel": "trigOrder", "trigOrder": {"triggerOrderId": id, "orderAction": action}}


def counts(synced: Synced) -> tuple[int, int, int]:
    return synced.created, synced.updated, synced.deleted


# --- asking, and what comes of the answer ---------------------------------------------------------


def test_nothing_newer_is_overwritten_by_a_snapshot(bench: Bench) -> None:
    handed: list[Any] = []

    def spoil(event: AccountUpdate) -> None:
        """What a user does to an event reaches neither the book nor the journal."""
        handed.append((event.position, repr(event)))
        event.raw["d"]["a"][0]["an"] = event.raw["d"]["p"]["pv"] = "999"

    changed, closed, untouched = (open_(bench, False, volume=9) for _ in range(3))
    bench.begin()
    bench.calls[0].take()
    bench.callbacks.on_account(spoil)
    update(bench, changed, volume=4)
    close(bench, closed)
    opened = open_(bench)
    bench.callbacks.on_account.replace(None)
    bench.push(bench.account.set_balance("USDT", {"an": "12.5", "la": "1"}))
    bench.account.set_price("E-BTC-USDT", 70000, 1)
    order = place(bench)  # of which the source does not tell
    bench.push(bench.account.tick())
    assert bench.book.positions[opened].volume is not None  # pushes are merged meanwhile
    assert not bench.sync.synced
    bench.answer()
    # `changed` was told by an UPDATE of two fields, so the rest of it is news.
    news = [(UPDATE, "SNAPSHOT", changed), (CREATE, "SNAPSHOT", untouched)]
    assert bench.bot.changes[-2:] == news
    assert bench.synceds[-1].gap_s is None
    assert bench.book.positions[changed].mark_price == 70000.0
    assert list(bench.book.orders) == [order]
    bench.assert_true()
    for position, text in handed:  # nor does the merge change what was handed out
        assert repr(position) in text


def _raising() -> Iterator[Any]:
    yield Position(id=1)
    raise KeyError("the second one")


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (lambda: OSError("no route"), "raised OSError: no route"),
    "exits": (lambda: SystemExit(3), "raised SystemExit: 3"),
    "gives a tuple": (lambda: ([], []), "a tuple, not a Snapshot"),
    "no iterable": (lambda: Snapshot(5, []), "raised TypeError"),  # type: ignore[arg-type]
    "nothing": (lambda: Snapshot(None, []), "raised TypeError"),  # type: ignore[arg-type]
    "iterable raises": (lambda: Snapshot(_raising(), []), "raised KeyError"),
    "no position": (lambda: Snapshot([17], []), "unusable.*17 where a Position"),  # type: ignore[list-item]
    "no id": (lambda: Snapshot([Position(side="BUY")], []), "unusable.*Position of no id"),
    "balances": (lambda: Snapshot([], [Position(id=1)]), "where a Balance"),  # type: ignore[list-item]
    "no coin": (lambda: Snapshot([], [Balance(available=1)]), "Balance of no coin"),
    "orders": (lambda: Snapshot([], [], [Order()]), "Order of no order_id"),
    "triggers": (lambda: Snapshot([], [], [], [Order()]), "where a Trigger"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_reported_and_the_call_repeated(name: str, bench: Bench) -> None:
    make, message = FAILURES[name]
    open_(bench, False)
    bench.begin()
    for wait in (1.0, 2.0):
        bench.answer(make())
        assert not bench.calls
        bench.poll(wait)
    bench.answer()
    assert [type(error) for error in bench.errors] == [SnapshotError, SnapshotError]
    assert all(re.search(message, str(error)) for error in bench.errors)
    assert len(bench.synceds) == 1
    bench.assert_true()


def test_a_snapshot_error_is_reported_as_it_is_and_logged_where_nobody_listens(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    error, cause = SnapshotError("not now", code=-1121, status=400), ZeroDivisionError("a mistake")
    bench.begin()
    for seconds, outcome in ((1.0, error), (2.0, cause)):
        bench.answer(outcome)
        bench.poll(seconds)
    assert bench.errors[0] is error
    assert bench.errors[1].__cause__ is cause
    bench.callbacks.on_error.replace(None)
    bench.answer(ValueError("oh no"))
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.getMessage().startswith("the snapshot source raised ValueError: oh no. It is ")


def test_waits_grow_and_time_outs_are_exact(bench: Bench) -> None:
    bench.begin()
    for failures, wait in enumerate((1.0, 2.0, 4.0, 8.0, 8.0), 1):
        assert bench.asked == failures
        bench.poll(10.0)
        assert len(bench.errors) == failures - 1
        bench.poll(0.001)
        assert bench.errors[-1].message == "no snapshot within 10 s"
        assert len(bench.errors) == failures
        bench.answer()  # too late: it counts for nothing
        bench.poll(wait - 0.01)
        assert bench.asked == failures
        bench.poll(0.01)
    assert not bench.sync.synced
    bench.gap()  # and begin anew
    bench.answer(OSError())
    bench.poll(1.0)
    assert len(bench.calls) == 1


@pytest.mark.parametrize("reconnects", [False, True])
def test_a_source_that_asks_for_a_pause_gets_it(bench: Bench, reconnects: bool) -> None:
    bench.begin()
    bench.answer(SnapshotError("slow down", status=429, retry_after=30.0))
    if reconnects:
        bench.gap()
    bench.poll(29.0)
    assert bench.asked == 1
    bench.poll(1.0)
    assert bench.asked == 2


@pytest.mark.parametrize(("limit", "asked"), [(4, 2), (5, 1)])
def test_a_journal_that_is_outgrown_means_asking_again(
    bench: Bench,
    limit: int,
    asked: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fastpos.account.book, "JOURNAL_LIMIT", limit)
    stay, gone = open_(bench, False, volume=1), open_(bench, False)
    bench.begin()
    bench.calls[0].take()
    close(bench, gone)  # the first that is in no journal
    for volume in range(2, 6):
        update(bench, stay, volume=volume)
    bench.answer()
    if asked > 1:
        bench.answer()
    assert bench.asked == asked
    assert ("journal" in caplog.text) == (asked > 1)
    assert bench.errors == []
    bench.assert_true()


def test_calls_do_not_pile_up_without_end(bench: Bench) -> None:
    bench.begin()
    bench.gap()  # what was asked before it is of no use, and is still under way
    for _ in range(50):
        bench.poll(11.0)
    assert len(bench.calls) == len(bench.errors) + 1 == MAX_CALLS
    bench.answer(which=1)
    assert bench.asked == MAX_CALLS + 1
    bench.answer()
    assert bench.sync.synced
    assert len(bench.synceds) == 1


def test_no_thread_to_be_had_is_a_failure_like_any_other(bench: Bench) -> None:
    bench.refuse_threads = True
    bench.begin()
    (error,) = bench.errors
    assert type(error) is SnapshotError
    assert "can't start new thread" in str(error)
    bench.refuse_threads = False
    bench.poll(1.0)
    bench.answer()
    assert bench.sync.synced


@pytest.mark.parametrize("asked", [False, True])
def test_an_interruption_lasts_until_the_next_beginning(bench: Bench, asked: bool) -> None:
    id = open_(bench, False)
    bench.sync_now()
    if asked:
        bench.begin(2.0)
    bench.sync.interrupt()
    assert "volume" in bench.book.positions[id].stale_fields
    assert bench.book.balances["USDT"].stale
    if asked:
        bench.answer()
    assert not bench.sync.synced
    assert len(bench.synceds) == 1
    assert bench.sync_now(3.0).gap_s == (5.0 if asked else 3.0)
    bench.assert_true()


def test_a_function_that_interrupts_leaves_it_unsynced(bench: Bench) -> None:
    """As `unsubscribe()` does in a callback, or from another thread during a merge."""
    id = open_(bench, False)
    bench.callbacks.on_position(lambda _: bench.sync.interrupt())
    bench.begin()
    bench.answer()
    assert not bench.sync.synced
    assert bench.book.positions[id].stale


def test_the_gap_is_told_and_grows_until_it_is_filled(bench: Bench) -> None:
    bench.begin()
    bench.answer(OSError())
    bench.gap(5.0)
    bench.answer()
    assert bench.synceds[-1].gap_s is None  # nothing was known before
    for seconds in (1.0, 2.0):
        bench.gap(seconds)
        bench.answer(OSError())
    bench.gap(4.0)
    bench.answer()
    assert bench.synceds[-1].gap_s == 7.0
    assert bench.sync_now(3.0).gap_s == 3.0


# --- the difference as events ---------------------------------------------------------------------


def known(position: Position) -> set[str]:
    """The attributes of which something is known."""
    return {name for name, value in told(position).items() if value is not None}


def test_each_difference_is_an_event(bench: Bench) -> None:
    bench.sync_now()
    same, changed, closed = (open_(bench, volume=9) for _ in range(3))
    bench.sync.end()
    update(bench, changed, False, volume=4, margin_mode="ISOLATED")
    close(bench, closed, False)
    opened = open_(bench, False, side="SELL")
    synced = bench.sync_now(2.5)
    assert (counts(synced), synced.gap_s) == ((1, 1, 1), 2.5)
    assert bench.bot.changes == [
        *((CREATE, "STREAM", id) for id in (same, changed, closed)),
        (UPDATE, "SNAPSHOT", changed),
        (CREATE, "SNAPSHOT", opened),
        (DELETE, "SNAPSHOT", closed),
    ]
    updated, created, deleted = bench.bot.events[3:]
    assert updated.changed == {"volume", "margin_mode"}
    assert (updated.volume, updated.margin_mode, updated.leverage) == (4.0, "ISOLATED", 20)
    assert created.changed == known(created) - {"id"}
    assert deleted.changed == frozenset()
    assert (deleted.volume, deleted.side) == (9.0, "BUY")  # the last known state
    for event in (updated, created, deleted):
        assert event.complete
        assert not event.stale
        assert abs(event.received_ns - time.time_ns()) < 60e9
    assert bench.book.positions[opened].source == "STREAM"  # no event
    bench.assert_true()


def test_a_position_that_a_later_update_touched_is_not_deleted(bench: Bench) -> None:
    bench.sync_now()
    updated, ticked, closed = (open_(bench) for _ in range(3))
    bench.gap()
    update(bench, updated, volume=5)
    tick = tick_of({"id": ticked, "tp": 5.5})
    bench.push(tick)
    bench.answer(EMPTY)
    assert bench.synceds[-1].deleted == 2
    assert {*bench.bot.changes[-2:]} == {(DELETE, "SNAPSHOT", i) for i in (closed, ticked)}
    # Nobody has confirmed the rest of it.
    assert bench.book.positions[updated].stale
    assert not {"volume", "id"} & bench.book.positions[updated].stale_fields
    # A tick or some may be older than the snapshot; if they go on, the snapshot was wrong.
    for _ in range(LATE_TICKS):
        assert set(bench.book.positions) == {updated}
        bench.push(tick)
    assert bench.sync.synced
    bench.push(tick)
    assert set(bench.book.positions) == {updated, ticked}
    assert not bench.book.positions[ticked].complete
    asked = bench.asked
    bench.poll()
    assert not bench.sync.synced
    bench.poll(1.0)
    assert bench.asked == asked + 1
    bench.answer()
    bench.assert_true()
    bench.poll(60.0)
    assert bench.asked == asked + 1


def test_numbers_are_compared_by_value(bench: Bench) -> None:
    bench.sync_now()
    held = open_(bench, volume=3, open_price=61000.5)
    wire = bench.account.positions[held]
    same = Position(
        id=held, volume="3.0", open_price=Decimal("61000.500"), side="BUY", leverage=20,
        contract_name=wire["cn"], margin_mode="CROSS",
    )  # fmt: skip
    bench.gap()
    bench.answer(Snapshot([same], []))
    assert counts(bench.synceds[-1]) == (0, 0, 0)
    # What the source left out is kept, and as doubtful as the gap has made it.
    position = bench.book.positions[held]
    assert position.contract_alias == wire["con"]
    assert {"contract_alias", "closable_volume"} <= position.stale_fields
    assert position.stale_fields.isdisjoint({"volume", "open_price", "side", "leverage"})


def test_a_stop_loss_that_a_snapshot_does_not_tell_is_kept_as_doubtful(bench: Bench) -> None:
    bench.sync_now()
    id = place(bench, sl=60000)
    bench.gap()
    bench.answer(Snapshot([], [], [Order(order_id=id, volume=10, action="NEW")]))
    assert bench.book.orders[id].stop_loss is not None
    assert bench.book.orders[id].stale


def test_an_update_of_what_a_snapshot_closed_says_that_it_erred(bench: Bench) -> None:
    bench.sync_now()
    held = open_(bench)
    bench.gap()
    bench.answer(EMPTY)
    assert bench.sync.synced
    update(bench, held, margin_rate=0.5)
    bench.poll()
    assert not bench.sync.synced


@pytest.mark.parametrize("by", ["ticks", "an update", "ticks before a CREATE"])
def test_a_position_that_a_snapshot_lacks_and_nobody_knew_says_that_it_erred(
    by: str, bench: Bench
) -> None:
    bench.begin()
    id, create = bench.account.open_position(None, {"cn": "E-A-B", "s": "BUY", "pv": 3, "op": 5})
    bench.answer(EMPTY)
    if by == "an update":
        update(bench, id, volume=5)
    else:
        bench.push(*[bench.account.tick()] * LATE_TICKS)
        assert bench.book.positions[id].mark_price is not None
        assert bench.sync.synced
        assert not bench.sync.pending
        bench.push(create if by.endswith("CREATE") else None, bench.account.tick())
    bench.poll()
    assert bench.sync.synced == (by == "ticks before a CREATE")
    if not bench.sync.synced:
        bench.poll(1.0)
        bench.answer()
    assert bench.asked == (1 if by == "ticks before a CREATE" else 2)
    bench.assert_true()


# --- knowing what one does not know ---------------------------------------------------------------


def test_everything_is_stale_from_a_disconnect_to_the_next_snapshot(bench: Bench) -> None:
    bench.sync_now()
    held, other = open_(bench, volume=9), open_(bench)
    place(bench)
    bench.push(bench.account.place_trigger({})[1])
    bench.assert_true()
    bench.sync.end()
    for kind in ("positions", "balances", "orders", "triggers"):
        assert all(record.stale for record in getattr(bench.book, kind).values())
    assert not bench.sync.synced
    position = bench.book.positions[held]
    assert position.stale_fields == known(position)

    bench.begin(1.0)
    update(bench, held, volume=5)
    for position in (bench.book.positions[held], bench.bot.events[-1]):
        assert position.stale
        assert {"id", "volume", "side"} & position.stale_fields == {"side"}
    assert not bench.book.balances["USDT"].stale  # that push brought it whole
    close(bench, other)
    assert bench.bot.events[-1].stale  # the last known state
    created = open_(bench)
    assert not bench.book.positions[created].stale
    bench.answer()
    bench.assert_true()
    # Of these the source does not know.
    assert [order.stale for order in bench.book.orders.values()] == [True]
    assert [trigger.stale for trigger in bench.book.triggers.values()] == [True]


def test_a_balance_is_stale_until_all_of_it_came(lone: Bench) -> None:
    lone.push(lone.account.set_balance("USDT", {"an": "5", "la": "1"}))
    lone.gap()

    def push(**amounts: str | None) -> Balance:
        lone.push(account_update("DEFAULT", None, {"c": "USDT", **amounts}))
        return lone.book.balances["USDT"]

    assert (push(an="7").stale, push(an="7").available) == (True, 7.0)
    assert push(la="1", pn=None).stale  # a null is no news
    assert not push(pn="0").stale


def test_without_a_source_ticks_confirm_what_they_carry(lone: Bench) -> None:
    held, created = open_(lone), open_(lone)
    lone.push(lone.account.tick())
    lone.gap()
    assert {position.stale for position in lone.book.positions.values()} == {True}
    assert "mark_price" in lone.book.positions[held].stale_fields
    lone.push(tick_of(lone.account.ticks[held] | {"id": held, "rp": 5, "mr": 6}))
    position = lone.book.positions[held]
    assert position.stale
    assert position.stale_fields == known(position) - {"id", "liquidation_price", "margin_rate"}
    assert "volume" in position.stale_fields
    assert "id" in lone.book.positions[created].stale_fields
    lone.push(account_update("UPDATE", lone.account.positions[held]))
    assert not lone.book.positions[held].stale
    assert not lone.sync.synced
    assert lone.synceds == []


def test_an_id_that_three_ticks_do_not_list_is_marked_and_kept(lone: Bench) -> None:
    lost, held = open_(lone), open_(lone)

    def missing(*ids: int) -> list[bool]:
        lone.push(tick_of(*({"id": id, "tp": 5} for id in ids)))
        return [lone.book.positions[id].missing_from_ticks for id in (lost, held)]

    assert [missing(held)[0] for _ in range(4)] == [False, False, True, True]
    lone.push({"channel": "ADL_PRICE", "uid": 1001})  # says nothing of any
    assert missing(held, lost) == [False, False]  # in a row, that is
    assert [missing(held)[0] for _ in range(3)] == [False, False, True]
    assert [missing()[1] for _ in range(3)] == [False, False, True]
    update(lone, held, volume=77)
    assert not lone.book.positions[held].missing_from_ticks
    assert lone.book.positions[lost].missing_from_ticks


# --- orders and triggers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "volume", "filled", "remaining"),
    [
        (None, 5, 2, 3.0),
        (5, 5, 2, 3.0),
        (2, 5, 2, None),  # nothing remains of what never rests
        (None, "5", "2.5", 2.5),
        (None, 5, None, None),
        (None, None, 5, None),
        (None, "x", 1, None),
    ],
)
def test_remaining(type: Any, volume: Any, filled: Any, remaining: float | None) -> None:
    assert Order(type=type, volume=volume, filled_volume=filled).remaining == remaining
    exact = Order._view({"volume": "0.3", "dealVolume": "0.1"}, Decimal).remaining
    assert str(exact) == "0.2"


@pytest.mark.parametrize(
    ("leaves", "body"),
    [
        (True, {"volume": 5, "dealVolume": "5"}),
        (False, {"dealVolume": 5.0}),  # it no longer says of how much
        (True, {"volume": 5, "dealVolume": 6}),
        (False, {"volume": 5, "dealVolume": 4.9999}),
        (False, {"volume": 0, "dealVolume": 0}),
        (False, {"volume": "x", "dealVolume": 9}),
        (False, {"price": 7}),
        *((True, {"action": action}) for action in ("2", 2, 2.0, "cancel")),
        (True, {"type": 2}),  # a market order does not rest, whatever its volume says
        (True, {"type": "4", "volume": 5}),
        (False, {"type": 1, "volume": 5, "dealVolume": 1}),
    ],
)
def test_when_an_order_leaves(leaves: bool, body: dict[str, Any], lone: Bench) -> None:
    lone.push(order_push("17", volume=5, dealVolume=0), order_push("17", **{"action": "3", **body}))
    assert (list(lone.book.orders) == []) == leaves


def test_a_trigger_that_has_expired_is_not_listed(lone: Bench) -> None:
    """Nothing tells that it has, but it told when it would."""
    for expires in (lone.now + 5, lone.now + 50, None, 0):
        at = expires and int(expires * 1000)
        lone.push(lone.account.place_trigger({"expireTime": at})[1])
    assert len(lone.book.triggers) == 4
    lone.now += 10
    assert len(lone.book.triggers) == 3


@pytest.mark.parametrize("last", [{"action": "2"}, {"action": "3", "dealVolume": 5}])
def test_what_has_ended_does_not_come_back(last: dict[str, Any], lone: Bench) -> None:
    """Nothing orders the pushes, so one can come late; it is told, and opens nothing."""
    told_: list[Any] = []
    lone.callbacks.on_order(told_.append)
    of_order = {"volume": 5, "dealVolume": 0}
    for more in ({}, last, {}, {"action": "3"}):
        lone.push(order_push("1", **{**of_order, **more}))
    lone.push(*(trigger_push("2", action) for action in "121"))
    id = open_(lone)
    close(lone, id)
    lone.push(account_update("UPDATE", {"id": id, "mr": 0.5}))
    assert len(told_) == 4
    assert lone.bot.events[-1].margin_rate == 0.5
    assert not lone.bot.events[-1].complete
    assert lone.book.orders == lone.book.triggers == lone.book.positions == {}
    lone.push(account_update("CREATE", {"id": id, "s": "BUY"}))
    assert lone.book.positions[id].side == "BUY"


@pytest.mark.parametrize("id", [None, [1], {}, True])
def test_orders_without_a_usable_id_are_passed_on(id: Any, lone: Bench) -> None:
    told_: list[Any] = []
    lone.callbacks.on_order(told_.append)
    lone.callbacks.on_trigger(told_.append)
    lone.push(order_push(id), trigger_push(id))
    assert [type(event) for event in told_] == [Order, Trigger]
    assert lone.book.orders == lone.book.triggers == {}


def test_what_a_snapshot_says_as_users_make_it(bench: Bench) -> None:
    loss = AttachedOrder(active=True, trigger_price=Decimal("0.5"))
    orders = [
        Order(order_id="1", volume=Decimal(5), filled_volume=Decimal(5)),
        Order(order_id="2", volume=Decimal(5), filled_volume=1, stop_loss=loss),
    ]
    triggers = [Trigger(trigger_order_id="3", price=None)]
    raw = {"id": 7, "uid": 10023, "openPrice": "1.50"}
    positions = (Position(id=7, open_price="1.50", raw=raw),)
    bench.begin()
    bench.answer(Snapshot(positions, (Balance(coin="BTC", available=1),), orders, triggers))
    (event,) = bench.bot.events
    assert event.raw == bench.book.positions[7].raw == raw  # what the source said
    assert (event.uid, event.open_price) == (10023, 1.5)
    (order,) = bench.book.orders.values()  # a filled one is no open one
    assert (order.order_id, order.remaining, order.take_profit) == ("2", 4.0, None)
    assert order.stop_loss == AttachedOrder(active=True, trigger_price=0.5)
    assert [*bench.book.triggers, *bench.book.balances] == ["3", "BTC"]


def test_an_order_is_whole_and_what_it_does_not_say_is_gone(lone: Bench) -> None:
    then: dict[str, Any]
    for then in ({}, {"otoOrder": None, "price": None}, {"otoOrder": {}}):
        lone.push(order_push("2", "3", otoOrder={"stopLossTrigger": 7}))
        assert lone.book.orders["2"].stop_loss == AttachedOrder(trigger_price=7.0)
        lone.push(order_push("2", "3", **then))
        assert lone.book.orders["2"].stop_loss is None


TWENTY = "85717.01833333999523920"


@pytest.mark.parametrize(
    ("number", "given", "expected"),
    [
        (Decimal, 98533.6, Decimal("98533.6")),
        (float, Decimal(TWENTY), float(TWENTY)),
        (Decimal, "0.10", Decimal("0.10")),
        (Decimal, 3, Decimal(3)),
    ],
)
def test_a_decimal_snapshot_with_floats_and_the_reverse(
    number: Any, given: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch.setattr, number)
    bench.begin()
    bench.answer(Snapshot([Position(id=1, open_price=given)], [Balance(coin="A", frozen=given)]))
    for value in (bench.book.positions[1].open_price, bench.book.balances["A"].frozen):
        assert (type(value), str(value)) == (number, str(expected))


# --- saving and loading ---------------------------------------------------------------------------


def test_a_restarted_bot_begins_with_what_it_knew(lone: Bench, bench: Bench) -> None:
    lone.account = bench.account
    same, changed, closed = (open_(lone, volume=9) for _ in range(3))
    order = place(lone, tp=70000)
    trigger, push = lone.account.place_trigger({})
    lone.push(push, lone.account.tick())
    update(bench, changed, False, volume=4)
    close(bench, closed, False)
    opened = open_(bench, False)

    bench.book.load(lone.book.dump())
    bench.bot.begin_with(bench.book.positions)
    for what in ("positions", "balances", "orders", "triggers"):
        before, after = getattr(lone.book, what), getattr(bench.book, what)
        assert list(after) == list(before)
        assert shown(after) == shown(before)
        assert all(record.stale for record in after.values())
    assert bench.book.positions[same].mark_price == lone.book.positions[same].mark_price
    assert bench.book.positions[same].complete
    assert counts(bench.sync_now()) == (1, 1, 1)
    changes = [(UPDATE, changed), (CREATE, opened), (DELETE, closed)]
    assert bench.bot.changes == [(change, "SNAPSHOT", id) for change, id in changes]
    bench.assert_true()
    assert bench.book.orders[order].stale
    assert bench.book.triggers[trigger].stale


GOOD: dict[str, Any] = {
    "version": 1,
    "positions": [{"complete": False, "wire": {"id": 1, "tp": 1}}],
    "balances": [{"c": "USDT"}],
    "orders": [{"orderId": "5"}],
    "triggers": [{"triggerOrderId": "6"}],
}


def ids_in(book: Book) -> list[Any]:
    return [*book.positions, *book.balances, *book.orders, *book.triggers]


def test_the_format_of_a_dump_and_that_ticks_confirm_what_was_loaded(lone: Bench) -> None:
    lone.book.load(json.dumps(GOOD))
    assert json.loads(lone.book.dump()) == GOOD
    assert ids_in(lone.book) == [1, "USDT", "5", "6"]
    assert lone.book.positions[1].stale_fields == {"id", "mark_price"}
    lone.push(tick_of({"id": 1, "tp": 2}))
    assert not lone.book.positions[1].stale
    assert not lone.book.positions[1].complete


@pytest.mark.parametrize(
    "bad",
    [
        *("", "{", "[]", "17", "null", "{}", None),
        {"version": 2},
        {"positions": None},
        {"positions": [{"wire": {"id": 1}}]},
        {"positions": [{"complete": True, "wire": 5}]},
        {"positions": [{"complete": True, "wire": {"id": "x"}}]},
        {"positions": [{"complete": True, "wire": {}}]},
        {"positions": [7]},
        {"balances": [{"c": None}]},
        {"balances": {"c": 1}},
        {"orders": [{}]},
        {"orders": [{"orderId": [5]}]},
        {"triggers": ["x"]},
    ],
)
def test_what_is_no_dump_is_refused_whole(bad: Any) -> None:
    book = Book(float)
    text: Any = json.dumps({**GOOD, **bad}) if type(bad) is dict else bad
    with pytest.raises(ValueError, match=r"not what Book\.dump"):
        book.load(text)
    assert ids_in(book) == []


# --- threads and sockets --------------------------------------------------------------------------


class Live:
    """A stream on an exchange, not yet started; its snapshots tell the truth when they are told."""

    def __init__(self, exchange: Exchange, new_stream: NewStream, **options: Any) -> None:
        self.exchange = exchange
        self.free = threading.Event()
        """Calls of the source that have taken the truth give it once this is set."""
        self.free.set()
        self.calls: list[threading.Thread] = []
        self.taken = self.ended = 0
        self.bot = Bot()
        self.synceds: list[Synced] = []
        given = {"snapshot": self._source, "on_synced": self.synceds.append, **options}
        self.stream = new_stream(exchange, **given)
        self.stream.on_position(self.bot.on_position)

    def _source(self) -> Snapshot:
        self.calls.append(threading.current_thread())
        try:
            snapshot = snapshot_of(self.exchange.snapshot_state())
            self.taken += 1
            self.free.wait(60.0)
            return snapshot
        finally:
            self.ended += 1

    def end_calls(self) -> None:
        self.free.set()
        until(lambda: self.ended == len(self.calls))

    def start(self) -> None:
        self.stream.start()
        assert self.stream.wait_ready(SOON)

    def wait_synced(self, count: int) -> Synced:
        until(lambda: len(self.synceds) >= count and self.stream.synced, what="that it is synced")
        return self.synceds[count - 1]

    def assert_true(self) -> None:
        """The book and the bot end with the truth, and nothing in it is stale."""
        truth = truth_of(self.exchange.snapshot_state())

        def is_true() -> bool:
            positions, balances = self.stream.positions, self.stream.balances
            return (
                shown(positions) == truth["positions"] == self.bot.positions
                and shown(balances) == truth["balances"]
                and all(p.complete and not p.stale for p in positions.values())
                and not any(balance.stale for balance in balances.values())
                and self.stream.synced
            )

        until(is_true, what="that all show the truth")


@pytest.fixture
def live(exchange: Exchange, new_stream: NewStream) -> Iterator[Live]:
    live = Live(exchange, new_stream)
    yield live
    live.end_calls()


def test_it_is_called_after_every_subscription_on_a_thread_of_its_own(
    live: Live, recorder: Recorder
) -> None:
    threads: list[threading.Thread] = []
    live.stream.on_ready(lambda _: threads.append(threading.current_thread()))
    live.exchange.refuse_subscription(times=2)  # nor before one
    live.start()
    live.wait_synced(1)
    live.exchange.drop()
    live.wait_synced(2)
    live.stream.unsubscribe()
    assert live.exchange.wait_for("unsub")
    live.stream.subscribe()
    live.wait_synced(3)
    assert len(live.calls) == len({thread.name for thread in live.calls}) == 3
    assert not {*live.calls} & {*threads, threading.main_thread()}
    assert not [error for error in recorder.on_error if isinstance(error, SnapshotError)]


def test_a_pause_just_after_the_stream_is_ready(
    exchange: Exchange, new_stream: NewStream, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(record: logging.LogRecord) -> bool:
        """As a handler that writes to a slow disk: here until the stream was paused."""
        return getattr(record, "fastpos_event", "") != "subscribed" or paused.wait(SOON)

    paused = threading.Event()
    live = Live(exchange, new_stream, ping_interval=0.05)
    caplog.set_level(logging.INFO, "fastpos")
    logging.getLogger("fastpos").addFilter(slow)
    try:
        live.start()
        live.stream.unsubscribe()
        paused.set()
        assert exchange.wait_for_subscribers(0, SOON)
        pongs = set()
        until(lambda: pongs.add(live.stream.stats.last_pong_ns) or len(pongs) > 4)
        assert not live.stream.synced
        live.stream.subscribe()
        until(lambda: live.stream.synced, what="that it is synced")
    finally:
        logging.getLogger("fastpos").removeFilter(slow)


def test_stop_while_a_call_is_under_way(live: Live) -> None:
    live.exchange.open_position()
    live.free.clear()
    live.start()
    until(lambda: live.taken)
    with at_once(3.0):
        live.stream.stop()
    assert not live.stream.synced
    live.end_calls()
    assert live.bot.events == live.synceds == []
    live.start()  # and again
    live.wait_synced(1)
    live.assert_true()


@pytest.mark.parametrize("name", ["on_position", "on_synced"])
def test_stop_in_a_callback_of_a_snapshot(name: str, live: Live) -> None:
    live.exchange.open_position()
    live.exchange.open_position()
    getattr(live.stream, name)(lambda _: live.stream.stop())
    live.stream.start()
    assert live.stream.join(SOON)
    # The bot has heard of all that the book holds.
    assert shown(live.stream.positions) == live.bot.positions
    assert (len(live.bot.events), len(live.synceds)) == (2, 1)
    assert not live.stream.synced
    assert {position.stale for position in live.stream.positions.values()} == {True}


def test_the_account_endpoint_as_source(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    rest = pytest.importorskip("fastpos.rest")
    credentials = exchange.api_key, exchange.api_secret
    with rest.AccountSnapshot(exchange.rest_url, *credentials, proxy="") as source:
        live = Live(exchange, new_stream, snapshot=source)
        held, closed = exchange.open_position(volume=9), exchange.open_position()
        live.start()
        live.wait_synced(1)
        live.assert_true()
        assert live.bot.events[0].raw["closeVolume"] == 0
        exchange.stall(handshakes=False)
        exchange.drop()
        recorder.wait("on_disconnect")
        exchange.update_position(held, volume=4)
        exchange.close_position(closed)
        exchange.open_position(margin_mode="ISOLATED")
        exchange.resume()
        assert counts(live.wait_synced(2)) == (1, 1, 1)
        live.assert_true()
        exchange.rest_fail(503, times=1)
        exchange.drop()
        live.wait_synced(3)
        (error,) = (error for error in recorder.on_error if isinstance(error, SnapshotError))
        assert error.status == 503


@pytest.fixture
def frantic() -> Iterator[None]:
    """Threads take turns a million times a second."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frantic")
def test_readers_see_whole_states_during_merges(bench: Bench) -> None:
    """Volume and price of a position always move together, in pushes and in snapshots."""
    held = open_(bench, False, volume=1, open_price=1)
    torn: list[Position] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            positions = bench.book.positions.values()
            torn.extend(each for each in positions if each.volume != each.open_price)
            bench.book.dump()
            _ = bench.book.balances, bench.book.orders, bench.book.triggers

    with concurrently(read):
        for number in range(150):
            if number % 5 == 0:
                bench.sync_now(1.0)
                bench.sync.interrupt()
                bench.begin(1.0)
            update(bench, held, volume=number, open_price=number)
            bench.push(bench.account.tick())
            close(bench, open_(bench, volume=number, open_price=number))
            if number % 5 == 4:
                bench.answer()
        done.set()
    assert torn == []


@pytest.mark.usefixtures("frantic")
def test_drops_pauses_and_pushes_race_with_the_snapshot(live: Live) -> None:
    done, exchange = threading.Event(), live.exchange

    def trade() -> None:
        held = [exchange.open_position(volume=1)]
        for number in count(1):
            exchange.update_position(held[-1], volume=number, margin_rate=number / 7)
            if number % 5 == 0:
                held.append(exchange.open_position(volume=1))
            if number % 7 == 0 and len(held) > 1:
                exchange.close_position(held.pop(0))
            if done.wait(0.001):
                return

    live.start()
    with concurrently(trade):
        for number in range(1, 13):
            live.wait_synced(number)
            if number % 3:
                exchange.drop()
            else:
                live.stream.unsubscribe()
                live.stream.book.dump()
                live.stream.subscribe()
        until(lambda: len(live.synceds) > 12)
        done.set()
    live.assert_true()
    assert exchange.violations == []
