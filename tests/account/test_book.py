"""The position book: merging, and that what it handed out stays as it was."""

from __future__ import annotations

import gc
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import AccountUpdate, AdlPrice, Position, Snapshot, decode
from fastpos.account import state
from fastpos.account.book import Book
from tests.account.truth import merge
from tests.support.pushes import is_of_a_book, load, packed, pushed


class Exchange:
    """Pushes into a book, as a stream does, each a millisecond after the last."""

    def __init__(self, number: Any = float) -> None:
        self.book = Book(number)
        self.number = number
        self.now_ms = 0

    def push(self, push: Any) -> Any:
        event = decode(pushed(push), self.number)
        merge(self.book, event)
        return event

    def account(self, change: Any, position: Any = None, balances: Any = None) -> AccountUpdate:
        self.now_ms += 1
        body = {"et": change, "p": position, "a": balances}
        push = {"channel": "ACCOUNT_UPDATE", "uid": 9, "t": str(self.now_ms), "d": body}
        event: AccountUpdate = self.push(push)
        return event

    def position(self, change: Any, **fields: Any) -> Position:
        position = self.account(change, fields).position
        assert position is not None
        return position

    def tick(self, *ticks: Any) -> AdlPrice:
        event: AdlPrice = self.push({"channel": "ADL_PRICE", "uid": 9, "l": list(ticks)})
        return event

    @property
    def positions(self) -> dict[int, Position]:
        return self.book.positions


def said(record: Any) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in type(record)._fields}
    return {
        name: value
        for name, value in values.items()
        if name not in ("raw", "received_ns") and not is_of_a_book(name, value)
    }


def known(position: Position) -> dict[str, Any]:
    """What is known of the position itself."""
    about_the_push = ("change", "changed", "complete", "uid", "time_ms", "missing_from_ticks")
    return {
        name: value
        for name, value in said(position).items()
        if value is not None and name not in about_the_push
    }


# --- one position ---------------------------------------------------------------------------------


def test_changed_names_only_what_became_different() -> None:
    exchange = Exchange()
    exchange.position("CREATE", id=7, pv=3, op="1.50", pt=1)
    position = exchange.position("UPDATE", id="7", pv="3", op=1.5, pt="1", s="SELL")
    assert position.changed == {"side"}
    assert exchange.position("UPDATE", id=7).changed == frozenset()


def test_one_position_whatever_its_id_looks_like() -> None:
    exchange = Exchange()
    exchange.position("CREATE", id="7", pv=1)
    exchange.position("UPDATE", id=7.0, s="BUY")
    exchange.tick({"id": 7, "lt": 2})
    assert known(exchange.position("delete", id="7")) == {  # nor does the case of that matter
        "id": 7,
        "volume": 1.0,
        "side": "BUY",
        "last_price": 2.0,
    }
    assert exchange.positions == {}


@pytest.mark.parametrize("id_", [None, "x", True, 1.5, [1], {"a": 1}])
@pytest.mark.parametrize("change", ["CREATE", "UPDATE", "DELETE", None, "MERGE", 5, ["CREATE"]])
def test_a_position_without_a_usable_id_is_passed_on(id_: Any, change: Any) -> None:
    exchange = Exchange()
    exchange.position("CREATE", id=7)
    position = exchange.position(change, id=id_, pv=3)
    assert (position.id, position.volume, position.change) == (id_, 3.0, change)
    assert position.complete == (change == "CREATE")
    exchange.tick({"id": id_, "lt": 1}, {"lt": 1})
    assert [*exchange.positions] == [7]


def test_null_does_not_wipe_out_what_is_known() -> None:
    """A field may be null where another deployment leaves it out."""
    exchange = Exchange()
    exchange.position("CREATE", id=7, pv=3, s="BUY")
    position = exchange.position("UPDATE", id=7, pv=2, s=None, op=None)
    assert known(position) == {"id": 7, "volume": 2.0, "side": "BUY"}
    assert position.changed == {"volume"}
    exchange.tick({"id": 7, "rp": 3.0, "lt": 4.0})
    assert exchange.positions[7].liquidation_price == 3.0
    exchange.tick({"id": 7, "rp": None, "lt": 4.0})  # a tick is whole, so that is a fact
    assert known(exchange.positions[7]) == {**known(position), "last_price": 4.0}
    for amounts in ({"an": "1", "la": "2"}, {"an": "5", "la": None}):
        exchange.account("UPDATE", None, [{"c": "USDT", **amounts}])
    assert exchange.book.balances["USDT"].frozen == 2.0


def test_a_whole_state_before_a_snapshot_keeps_the_pushes_since_that_was_asked_for() -> None:
    exchange = Exchange()
    exchange.position("CREATE", id=7, pv=3)
    exchange.book.begin_journal()
    exchange.position("CREATE", id=8, pv=1)
    exchange.book.replace(exchange.book.content(), 5)
    exchange.position("UPDATE", id=8, pv=2)
    exchange.book.merge(Snapshot([Position(id=7, volume=3.0)], []), 6)
    assert {id: each.volume for id, each in exchange.positions.items()} == {7: 3.0, 8: 2.0}


def test_balances_are_merged_by_coin() -> None:
    exchange = Exchange()
    exchange.push(load("account_update_default"))
    update = exchange.account("DEFAULT", None, [{"c": "BTC", "la": "7"}, {"c": "ETH", "an": 1}])
    assert list(update.balances) == ["BTC", "ETH"]
    assert update.balances["BTC"].available is None  # an update shows what it said
    balances = exchange.book.balances
    assert (balances["BTC"].available, balances["BTC"].frozen) == (122624.12345678, 7.0)

    odd = [{"c": coin, "an": 1} for coin in (None, True, ["BTC"], {})]
    assert exchange.account("DEFAULT", None, odd).balances == {}
    assert exchange.account("DEFAULT", None, [{"c": 5, "an": 1}]).balances.keys() == {"5"}
    balances.clear()  # the caller's own
    assert list(exchange.book.balances) == ["USDT", "BTC", "ETH", "5"]


# --- ends, doubts and bounds ----------------------------------------------------------------------


def test_ticks_of_a_position_that_is_closed() -> None:
    """Some may be late; if they go on, it was opened again, and nobody has said so."""
    exchange = Exchange()
    exchange.position("CREATE", id=7, pv=1)
    exchange.position("DELETE", id=7)
    exchange.book.mark_stale()
    for _ in range(state.LATE_TICKS):
        exchange.tick({"id": 7, "lt": 5})
        assert exchange.positions == {}
    exchange.tick({"id": 7, "lt": 6})
    assert known(exchange.positions[7]) == {"id": 7, "last_price": 6.0}


def test_a_null_confirms_nothing() -> None:
    exchange = Exchange()
    exchange.position("CREATE", id=7, pv=1, op=2)
    exchange.book.mark_stale()
    exchange.position("UPDATE", id=7, pv=None, op=2)
    assert exchange.positions[7].volume == 1.0
    assert exchange.positions[7].stale_fields & {"volume", "open_price"} == {"volume"}
    exchange.tick({"id": 7, "rp": None, "pv": 1})
    assert "volume" not in exchange.positions[7].stale_fields


def test_no_more_is_kept_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "KEPT", 20)
    exchange = Exchange()
    book = exchange.book

    def hear(number: int) -> None:
        exchange.account("CREATE", {"id": number, "pv": 1}, [{"c": f"{number}", "an": 1}])
        exchange.push({"channel": "order", "order": {"orderId": f"{number}"}})
        exchange.push({"channel": "trigOrder", "trigOrder": {"triggerOrderId": f"{number}"}})

    for number in (*range(20), 0):  # so that the first is not the oldest
        hear(number)
    assert len(book.positions) == 20
    assert "forgotten" not in caplog.text
    for number in range(20, 100):
        hear(number)
        for kept in (book.positions, book.balances, book.orders, book.triggers):
            assert 18 <= len(kept) <= 20
        if number == 20:
            assert [*map(int, book.orders)] == [0, *range(4, 21)]
    for what in ("positions", "balances", "orders", "triggers"):
        assert caplog.text.count(f"over 20 {what}") == 1
    exchange.tick(*({"id": number} for number in range(1000, 1030)))
    assert 18 <= len(book.positions) <= 20


FIELDS = {"pv": "volume", "op": "open_price", "rp": "liquidation_price", "mr": "margin_rate"}
TICKS = {"rp": "liquidation_price", "mr": "margin_rate", "lt": "last_price", "ha": "margin"}
small = st.integers(0, 3)
ids = st.integers(1, 3)


def some(fields: dict[str, str]) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(sorted(fields)), small)


operations = st.one_of(
    st.tuples(st.sampled_from(["CREATE", "UPDATE", "DEFAULT", "DELETE"]), ids, some(FIELDS)),
    st.tuples(st.just("tick"), ids, some(TICKS)),
    st.tuples(st.just("balance"), ids, st.dictionaries(st.sampled_from(["an", "la"]), small)),
)


STORED: set[Any] = {(None, frozenset(), 9)}


@given(st.lists(operations, max_size=25))
@settings(max_examples=100, deadline=None)
def test_like_a_plain_dict(steps: list[tuple[str, int, dict[str, int]]]) -> None:
    exchange = Exchange()
    positions: dict[int, dict[str, Any]] = {}
    created: set[int] = set()
    closed: dict[int, int] = {}  # -> ticks that listed it since; a few were made before its DELETE
    balances: dict[str, dict[str, int]] = {}
    handed: list[tuple[Any, dict[str, Any], str]] = []
    for kind, id_, wire in steps:
        event: Any
        if kind == "balance":
            event = exchange.account("DEFAULT", None, [{"c": f"C{id_}", **wire}])
            balances.setdefault(f"C{id_}", {}).update(wire)
        elif kind == "tick":
            event = exchange.tick({"id": id_, **wire})
            news = {TICKS[key]: value for key, value in wire.items()}
            if closed.get(id_, state.LATE_TICKS) < state.LATE_TICKS:
                closed[id_] += 1
            else:  # they go on, so it is open again
                closed.pop(id_, None)
                positions.setdefault(id_, {"id": id_}).update(news)
        else:
            news = {FIELDS[key]: value for key, value in wire.items()}
            before = positions.get(id_, {})
            if kind == "CREATE" and id_ in created:  # another life of the same id
                before = {}
            after = {"id": id_, **before, **news}
            if kind == "CREATE":
                created.add(id_)
            event = exchange.position(kind, id=id_, **wire)
            assert known(event) == after
            assert event.complete == (id_ in created)
            assert (event.change, event.uid, event.time_ms) == (kind, 9, exchange.now_ms)
            differing = {name for name in news if before.get(name) != news[name]}
            assert event.changed == (set() if kind == "DELETE" else differing)
            late = kind != "CREATE" and id_ in closed  # it is told, and opens nothing
            if not late:
                positions[id_] = after
            if late:
                pass
            elif kind == "DELETE":
                del positions[id_]
                created.discard(id_)
                closed[id_] = 0
            else:
                closed.pop(id_, None)
        found, coins = exchange.positions, exchange.book.balances
        assert {key: known(value) for key, value in found.items()} == positions
        assert {key for key, value in found.items() if value.complete} == created
        assert {(value.change, value.changed, value.uid) for value in found.values()} <= STORED
        assert {coin: (balance.available, balance.frozen) for coin, balance in coins.items()} == {
            coin: (wire.get("an"), wire.get("la")) for coin, wire in balances.items()
        }
        records = (event, *found.values(), *coins.values())
        handed += [(record, said(record), repr(record)) for record in records]
    for record, values, shown in handed:  # nothing that was handed out ever changes
        assert (said(record), repr(record)) == (values, shown)


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("id", ["2", "2.0", '"2"', '"2.00"'])
def test_a_dump_is_loaded_to_the_last_digit_whatever_form_an_id_came_in(
    number: Any, id: str
) -> None:
    book, loaded = Book(number), Book(number)
    position = f'{{"id":{id},"pv":85717.01833333999523920}}'
    amount = "12345678901234567890.12345678901234567890"
    body = f'{{"et":"CREATE","p":{position},"a":[{{"c":"BTC","an":"{amount}"}}]}}'
    merge(book, decode(packed(f'{{"channel":"ACCOUNT_UPDATE","d":{body}}}'), number))
    loaded.load(book.dump())
    assert list(loaded.positions) == [2]
    assert str(loaded.positions[2].volume) == str(number("85717.01833333999523920"))
    assert str(loaded.balances["BTC"].available) == str(number(amount))


def test_a_push_is_merged_while_another_thread_reads_a_large_book() -> None:
    exchange, merged = Exchange(), []
    for id in range(2000):
        exchange.position("CREATE", id=id, pv=1)

    def in_the_midst(phase: str, _: object) -> None:
        if phase == "start" and not merged:
            reader = threading.Thread(target=exchange.position, args=("UPDATE",), kwargs={"id": 7})
            merged.append(reader)
            reader.start()
            reader.join(5.0)
            merged.append(not reader.is_alive())

    gc.collect()
    gc.callbacks.append(in_the_midst)  # a collection comes when there are so many new records
    try:
        assert len(exchange.positions) == 2000
    finally:
        gc.callbacks.remove(in_the_midst)
    assert merged[1:] == [True]


def test_what_ended_long_ago_is_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "REMEMBERED", 3)
    exchange = Exchange()
    for action in ("2", "3"):  # the second time each is late
        for id in range(5):
            order = {"orderId": f"{id}", "orderAction": action, "volume": 3}
            exchange.push({"channel": "order", "order": order})
            exchange.position("DELETE" if action == "2" else "UPDATE", id=id)
    assert [*exchange.book.orders] == ["0", "1"]
    assert [*exchange.positions] == [0, 1]
