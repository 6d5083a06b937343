"""The events: every attribute, and what they promise as values."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial, reduce
from operator import getitem
from typing import Any

import pytest

from fastpos import (
    AccountUpdate,
    AdlPrice,
    AdlTick,
    AttachedOrder,
    Balance,
    Disconnect,
    Event,
    Order,
    Position,
    Ready,
    SystemClose,
    Trigger,
    Unknown,
    decode,
)
from fastpos.account.book import Book
from tests.account.truth import merge
from tests.support.pushes import NAMES, OF_A_BOOK, REAL, is_of_a_book, load, packed, pushed, text_of

TICK = """id adl_level liquidation_price margin margin_rate best_bid best_ask last_price
    mark_price"""
ATTRIBUTES: dict[type, str] = {
    Position: """change changed complete uid time_ms id contract_id contract_name contract_alias
        margin_mode leverage volume open_price liquidation_price isolated_margin realized_pnl side
        margin_rate open_margin closable_volume adl_level margin best_bid best_ask last_price
        mark_price source stale stale_fields missing_from_ticks""",
    AccountUpdate: "uid time_ms event_type balances position",
    Balance: "coin available frozen isolated_margin stale",
    AdlPrice: "uid ticks",
    AdlTick: TICK,
    Order: """order_id contract_id contract_name symbol side contract_side open_close trade_fee
        realized_pnl type price price_precision volume
        filled_volume avg_price take_profit stop_loss action stale""",
    AttachedOrder: "active trigger_price price trigger_order_id",
    Trigger: """trigger_order_id type side trigger_price price volume trigger_type created_ms
        expires_ms action stale""",
    SystemClose: "uid",
    Unknown: "",
    Ready: "first gap_s attempts",
    Disconnect: "reason close_code error retry_in_s",
}
PARTS = (Balance, AdlTick, AttachedOrder)  # of events
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def names(kind: type) -> list[str]:
    derived = ("as_dict", "remaining")
    return [name for name in dir(kind) if not name.startswith("_") and name not in derived]


def values(record: object) -> dict[str, Any]:
    """All that a record says, without what is always there."""
    said = {name: getattr(record, name) for name in names(type(record))}
    return {
        name: said[name]
        for name in said
        if name not in ("raw", "received_ns") and not is_of_a_book(name, said[name])
    }


def said(record: object) -> dict[str, Any]:
    return {name: value for name, value in values(record).items() if value is not None}


def decoded(name: str, number: Any = float) -> Any:
    return decode(packed(text_of(name)), number)


def order_with(**body: Any) -> Any:
    return decode(pushed({"channel": "order", "order": body}))


def position_with(change: str | None = "UPDATE", **body: Any) -> Position:
    update = decode(pushed({"channel": "ACCOUNT_UPDATE", "d": {"et": change, "p": body}}))
    assert isinstance(update, AccountUpdate)
    assert update.position is not None
    return update.position


def merged() -> Position:
    """A position as a stream hands it out."""
    book = Book(float)
    for name in ("account_update_create", "account_update_update"):
        update = decoded(name)
        merge(book, update)
    assert update.position is not None
    position: Position = update.position
    return position


SAMPLES: dict[str, Callable[[], Any]] = {
    **{name: partial(decoded, name) for name in NAMES},
    **{f"{name}, exact": partial(decoded, name, Decimal) for name in NAMES},
    "the real frame": lambda: decode(REAL),
    "the real frame, exact": lambda: decode(REAL, Decimal),
    "a position": lambda: decoded("account_update_create").position,
    "a merged position": merged,
    "a position of an update of no type": lambda: position_with(None, id=None),
    "a balance": lambda: decoded("account_update_create").balances["BTC"],
    "a tick": lambda: decoded("adl_price_two").ticks[1],
    "an attached order": lambda: decoded("order").stop_loss,
    "an unknown channel": lambda: decode(pushed({"channel": "fundingFee", "n": [1, {"a": None}]})),
    "a position made": lambda: Position(id=7, side="BUY", volume=3),
    "an update made": lambda: AccountUpdate(
        balances={"BTC": Balance(coin="BTC", available=1.5)}, position=Position(id=7)
    ),
    "an order made": lambda: Order(order_id="12", take_profit=AttachedOrder(price=2.0)),
    "a ready": lambda: Ready(first=False, gap_s=1.5, attempts=3),
    "a disconnect": lambda: Disconnect(reason="gone", close_code=1001, retry_in_s=0.5),
}


@pytest.fixture(params=SAMPLES.values(), ids=list(SAMPLES))
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    made: Callable[[], Any] = request.param
    return made


# --- what there is --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ATTRIBUTES, ids=lambda kind: kind.__name__)
def test_each_class_has_its_attributes(kind: type) -> None:
    expected = {*ATTRIBUTES[kind].split(), "raw"}
    if kind not in PARTS:
        expected |= {"received_ns", "stream"}
    assert set(names(kind)) == expected
    assert kind.__doc__
    for name, field in kind._fields.items():  # type: ignore[attr-defined]
        assert not field.__doc__, name  # of something else


AMOUNTS: dict[str, Any] = {
    "available": 122624.12345678,
    "frozen": 100.12345678,
    "isolated_margin": 50.12345678,
}
TWO_COINS = {coin: Balance(coin=coin, **AMOUNTS) for coin in ("USDT", "BTC")}


POSITION = {
    "contract_id": 127,
    "contract_name": "S-BTC-USDT",
    "contract_alias": "BTCUSDT-EXUSD",
    "margin_mode": "CROSS",
    "leverage": 20,
    "volume": 12.0,
    "open_price": 98533.6,
    "liquidation_price": 68000.3,
    "isolated_margin": 98.22008325596366,
    "realized_pnl": 2.0,
    "side": "BUY",
    "margin_rate": 0.0847015132701974,
    "open_margin": 0.0847015132701974,
    "closable_volume": 2.0,
}


@pytest.mark.parametrize(
    ("change", "time_ms", "fields"),
    [
        ("CREATE", 1564745798938, POSITION),
        ("UPDATE", 1564745799938, {"volume": 7.0, "margin_rate": 0.09}),
        ("DELETE", 1564745800938, {}),
        ("DEFAULT", 1564745801938, None),
    ],
)
def test_account_update(change: str, time_ms: int, fields: dict[str, Any] | None) -> None:
    name = f"account_update_{change.lower()}"
    update = decoded(name)
    assert type(update) is AccountUpdate
    assert (update.uid, update.time_ms, update.event_type) == (1001, time_ms, change)
    assert list(update.balances.items()) == list(TWO_COINS.items())
    position: Any = update.position
    if fields is None:
        assert position is None
        return
    assert (position.received_ns, position.raw) == (update.received_ns, load(name))
    assert said(position) == {
        **fields,
        "change": change,
        "changed": frozenset(fields),
        "complete": change == "CREATE",
        "uid": 1001,
        "time_ms": time_ms,
        "id": 90762,
    }


TICKS: dict[str, Any] = {
    "adl_level": 1,
    "liquidation_price": 68000.3,
    "margin": 98.22008325596366,
    "margin_rate": 0.0847015132701974,
    "best_bid": 79000.0,
    "best_ask": 78000.0,
    "last_price": 78500.0,
    "mark_price": 78000.0,
}
RECEIVED: dict[str, Any] = {
    "adl_price_two": AdlPrice(
        uid=1001, ticks=(AdlTick(id=7001, **TICKS), AdlTick(id=7002, **TICKS))
    ),
    "order": Order(
        order_id="2094043912705377045",
        contract_id=127,
        contract_name="E-BTC-USDT",
        symbol="BTC-USDT",
        side="xxx",
        contract_side="xxx",
        type=1,
        price=61001.0,
        price_precision=3,
        volume=100.0,
        filled_volume=0.0,
        avg_price=0.0,
        take_profit=AttachedOrder(active=False, price=0.0, trigger_price=61001.0),
        stop_loss=AttachedOrder(active=False, price=0.0, trigger_price=61004.0),
        action="NEW",
    ),
    "trig_order": Trigger(
        trigger_order_id="1322738336974712854",
        type=1,
        side="BUY",
        trigger_price=61001,
        price=61003.0,
        volume=10,
        trigger_type=3,
        created_ms=1709550135000,
        expires_ms=1710759735000,
        action="NEW",
    ),
    "system_close": SystemClose(uid=1001),
}


@pytest.mark.parametrize("name", RECEIVED)
def test_other_events_and_that_made_is_equal_to_received(name: str) -> None:
    event, made = decoded(name), RECEIVED[name]
    assert event == made
    assert type(event) is type(made)
    assert values(event) == values(made)
    for tick, wire in zip(getattr(event, "ticks", ()), load(name).get("l", ()), strict=True):
        assert tick.raw == wire


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [float, Decimal])
def test_raw_is_the_whole_message_and_numbers_are_of_one_type(name: str, number: Any) -> None:
    before = time.time_ns()
    event = decoded(name, number)
    assert before <= event.received_ns <= time.time_ns()
    assert event.raw == json.loads(text_of(name), parse_float=number)
    parts = [event, *getattr(event, "ticks", ()), *getattr(event, "balances", {}).values()]
    parts += [part for part in (getattr(event, "position", None),) if part]
    for part in parts:
        assert {type(v) for v in values(part).values() if type(v) in (float, Decimal)} <= {number}


# --- what deployments do differently --------------------------------------------------------------


def nulled(value: Any, null: bool) -> Any:
    """The same object with null for every single value in it, or without it."""
    if isinstance(value, list):
        return [nulled(item, null) for item in value]
    if not isinstance(value, dict):
        return None
    kept = {key: item for key, item in value.items() if key in ("channel", "et", "c")}
    inner = {key: nulled(item, null) for key, item in value.items() if key not in kept}
    return {**kept, **{key: item for key, item in inner.items() if null or item is not None}}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("null", [True, False])
def test_what_is_null_or_missing_is_none(name: str, null: bool) -> None:
    event: Any = decode(pushed(nulled(load(name), null)))
    assert type(event) is type(decoded(name))
    change = load(name).get("d", {}).get("et")
    present = said(event)
    position = present.pop("position", None)
    if position is not None:
        assert {k: v for k, v in said(position).items() if k != "complete"} == {
            "change": change,
            "changed": frozenset(),
        }
    for coin, balance in present.pop("balances", {}).items():
        assert said(balance) == {"coin": coin}
    for tick in present.pop("ticks", ()):
        assert said(tick) == {}
    for attached in (present.pop("take_profit", None), present.pop("stop_loss", None)):
        assert attached is None or said(attached) == {}
    assert present in ({}, {"event_type": change})


NO_PARTS: dict[str, Any] = {"position": None, "balances": {}}
NONE_ATTACHED = {"take_profit": None, "stop_loss": None}


@pytest.mark.parametrize(
    ("channel", "body", "parts"),
    [
        ("ADL_PRICE", {"l": None}, {"ticks": ()}),
        ("ACCOUNT_UPDATE", {"d": {"et": "DEFAULT", "a": None, "p": None}}, NO_PARTS),
        ("ACCOUNT_UPDATE", {"d": {"et": "DEFAULT", "p": {}}}, NO_PARTS),
        ("order", {"order": {"otoOrder": None}}, NONE_ATTACHED),
        ("order", {"order": {"otoOrder": []}}, NONE_ATTACHED),
    ],
)
def test_parts_that_are_null_are_not_there(channel: str, body: Any, parts: dict[str, Any]) -> None:
    event = decode(pushed({"channel": channel, **body}))
    assert {name: getattr(event, name) for name in parts} == parts


def flipped(value: Any) -> Any:
    """The same object with a string for each number and flag, and the reverse."""
    if isinstance(value, dict):
        return {key: flipped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [flipped(item) for item in value]
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return json.dumps(value) if value is not None else None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [float, Decimal])
def test_the_other_json_type_says_the_same(name: str, number: Any) -> None:
    other = flipped(load(name))
    assert other != load(name)
    event = decode(pushed(other), number)
    assert event == decoded(name, number)
    assert repr(event) == repr(decoded(name, number))


@pytest.mark.parametrize(
    "value",
    [
        *(True, [], {}, "many", " ", "1e5x", "1_000", "nan", "Infinity", "-inf"),
        *("sNaN", "-sNaN", "sNaN123", "NaN123", "", "--"),
    ],
)
@pytest.mark.parametrize("number", [float, Decimal])
def test_what_is_no_number_is_passed_on_and_nothing_is_none(value: Any, number: Any) -> None:
    body = {"price": value, "contractId": value, "realizedAmount": value}
    order: Any = decode(pushed({"channel": "order", "order": body}), number)
    expected = None if value in ("", "--") else value
    for passed in (order.contract_id, order.price, order.realized_pnl):
        assert (passed, type(passed)) == (expected, type(expected))
    assert repr(order)


@pytest.mark.parametrize("value", ["0", "9", "long", 7, 1.5, True, [1], {"a": 1}])
def test_undocumented_codes_are_passed_on(value: Any) -> None:
    assert order_with(orderAction=value).action == value
    assert position_with(id=1, pt=value).margin_mode == value
    assert order_with(contractSide=value, type=value).side in (value, str(value))
    assert order_with(otoOrder={"stopLossStatus": value}).stop_loss.active == (
        False if value == "0" else value
    )


def test_codes_and_flags_in_any_form() -> None:
    for code, action in ((1, "NEW"), (2, "CANCEL"), (3, "CHANGE")):
        for form in (code, str(code), float(code), f"{code}.0", action, action.lower()):
            assert order_with(orderAction=form).action == action
    update: Any = decode(
        pushed({"channel": "account_update", "d": {"et": "delete", "p": {"id": 1}}})
    )
    assert (update.event_type, update.position.change) == ("DELETE", "DELETE")
    assert type(decode(pushed({"channel": "ORDER", "order": {}}))) is Order
    for mode, forms in (("CROSS", (1, "1", "cross")), ("ISOLATED", (2, 2.0, "2"))):
        assert {position_with(id=1, pt=form).margin_mode for form in forms} == {mode}
    for flag in (True, "true", "True", "TRUE", 1, "1"):
        assert order_with(otoOrder={"takerProfitStatus": flag}).take_profit.active is True
    for id_ in (90762, "90762", 90762.0):
        assert repr(position_with(id=id_).id) == "90762"


def test_a_side_is_in_capitals_and_the_orders_own() -> None:
    for said_, side in (("buy", "BUY"), ("SELL", "SELL"), ("Sell", "SELL"), ("both", "both")):
        assert order_with(contractSide="1", side=said_).side == side
        assert order_with(contractSide=said_).side == side
        assert position_with(id=1, s=said_).side == side
        assert Trigger(side=said_).side == side
    order = order_with(contractSide="1", side="SELL", open="CLOSE", tradeFee="-0.5")
    assert (order.contract_side, order.open_close, order.trade_fee) == ("1", "CLOSE", -0.5)


def test_only_one_of_two_attached_orders() -> None:
    order = order_with(otoOrder={"stopLossPrice": 5, "stopLossTriggerId": 77})
    assert order.take_profit is None
    assert said(order.stop_loss) == {"price": 5.0, "trigger_order_id": "77"}


def test_what_is_done_to_raw_changes_nothing_else() -> None:
    update, order = decoded("account_update_create"), decoded("order")
    tick = decoded("adl_price_two").ticks[0]
    assert update.raw is update.raw
    seen = (update, update.position, order, tick)
    before = [values(record) for record in seen], update.position.raw
    update.raw["d"]["p"]["pv"] = update.raw["uid"] = -1
    update.raw["d"]["a"].clear()
    order.raw["order"]["otoOrder"].clear()
    tick.raw.clear()
    assert ([values(record) for record in seen], update.position.raw) == before


@pytest.mark.parametrize("odd", [[1], {"x": [1]}])
def test_what_is_done_to_an_odd_value_changes_nothing_else(odd: Any) -> None:
    order = order_with(orderId="1", price=odd, type=odd, symbol=odd, orderAction=odd)
    for name in ("price", "type", "symbol", "action"):
        value = getattr(order, name)
        assert value == odd
        value.clear()
        assert getattr(order, name) == odd


def test_undocumented_fields_are_in_raw() -> None:
    order = order_with(orderId="1", feeCoin="BTC")
    assert order.raw["order"]["feeCoin"] == "BTC"
    assert order == order_with(orderId="1")


HUGE = 12345678901234567890123456789  # 29 digits: over 64 bits
OF_ORDER = '"channel":"order","order":{%s}'
IDS = {
    "position.id": '"channel":"ACCOUNT_UPDATE","d":{"p":{"id":%s}}',
    "position.contract_id": '"channel":"ACCOUNT_UPDATE","d":{"p":{"id":1,"cid":%s}}',
    "uid": '"channel":"ACCOUNT_UPDATE","uid":%s,"d":{}',
    "position.uid": '"channel":"ACCOUNT_UPDATE","uid":%s,"d":{"p":{"id":1}}',
    "ticks.1.id": '"channel":"ADL_PRICE","l":[{"id":5},{"id":%s}]',
    "uid of ticks": '"channel":"ADL_PRICE","uid":%s',
    "uid of a close": '"channel":"SYSTEM","et":"close","uid":%s',
    "contract_id": '"channel":"order","order":{"contractId":%s}',
    "order_id": '"channel":"order","order":{"orderId":%s}',
    "trigger_order_id": '"channel":"trigOrder","trigOrder":{"triggerOrderId":%s}',
    "take_profit.trigger_order_id": OF_ORDER % '"otoOrder":{"takerProfitTriggerId":%s}',
    "stop_loss.trigger_order_id": OF_ORDER % '"otoOrder":{"stopLossTriggerId":%s}',
}


@pytest.mark.parametrize("where", IDS)
@pytest.mark.parametrize("number", [float, Decimal])
def test_ids_are_exact(where: str, number: Any) -> None:
    for id_ in (2**53 + 1, 2**63 - 1, 2**64 - 1, -HUGE, HUGE, 2**64 + 1):
        for form in ("%d", '"%d"'):
            found: Any = decode(packed("{" + IDS[where] % (form % id_) + "}"), number)
            for step in where.partition(" ")[0].split("."):
                found = found[int(step)] if step.isdigit() else getattr(found, step)
            assert found == (str(id_) if "order_id" in where else id_), form


# --- values ---------------------------------------------------------------------------------------


def test_immutable(make: Callable[[], Any]) -> None:
    record = make()
    for name in names(type(record)):
        with pytest.raises(AttributeError):
            setattr(record, name, None)
        with pytest.raises(AttributeError):
            delattr(record, name)
    with pytest.raises(AttributeError):
        record.note = "mine"
    assert record == make()


def test_equal_to_its_like(make: Callable[[], Any]) -> None:
    one, other = make(), make()
    assert one is not other
    assert one == other
    assert (one != other) is False
    assert hash(one) == hash(other)
    assert len({one, other}) == 1
    assert one != values(one)
    assert one is not None
    assert one != Position(id=-1)
    assert one != Ready()


@pytest.mark.parametrize("path", [("price",), ("orderId",), ("otoOrder", "stopLossPrice")])
def test_unequal_in_one_attribute(path: tuple[str, ...]) -> None:
    push = load("order")
    *above, key = path
    reduce(getitem, above, push["order"])[key] = 4711
    assert decode(pushed(push)) != decoded("order")


def test_unequal_in_what_they_are() -> None:
    one = decode(pushed({"channel": "fundingFee", "rate": 1}))
    assert one == decode(pushed({"channel": "fundingFee", "rate": 1}))
    assert one != decode(pushed({"channel": "fundingFee", "rate": 2}))
    assert "fundingFee" in repr(one)
    assert AdlTick(id=7) != Position(id=7)
    assert Balance() != AttachedOrder()
    assert Order(type=1) != Trigger(type=1)


def test_hashes_go_by_id() -> None:
    for id_ in ([1], {"a": 1}, None, True, 1.5):
        position = position_with(id=id_, pv=1)
        assert hash(position) == hash(position_with(id=id_, pv=1))
    assert len({hash(Position(id=number)) for number in range(100)}) > 90


def test_repr_is_one_line_with_what_is_known(make: Callable[[], Any]) -> None:
    record = make()
    shown = repr(record)
    assert shown.startswith(f"{type(record).__name__}(")
    assert shown.endswith(")")
    assert "\n" not in shown
    assert "=None" not in shown
    for name, value in said(record).items():
        if value not in (False, 0, ()) and name != "error":
            assert f"{name}={value!r}" in shown


def test_repr_can_be_evaluated() -> None:
    scope = {kind.__name__: kind for kind in ATTRIBUTES}
    for event in (*RECEIVED.values(), decoded("account_update_create")):
        assert eval(repr(event), scope) == event


@pytest.mark.parametrize("how", [*PROTOCOLS, copy.copy, copy.deepcopy])
def test_pickled_and_copied(make: Callable[[], Any], how: Any) -> None:
    record = make()
    again = how(record) if callable(how) else pickle.loads(pickle.dumps(record, how))
    assert type(again) is type(record)
    assert again == record
    assert values(again) == values(record)
    assert again.raw == record.raw
    if isinstance(record, Event):
        assert again.received_ns == record.received_ns


# --- made with keywords ---------------------------------------------------------------------------


def test_every_attribute_can_be_given(make: Callable[[], Any]) -> None:
    record = make()
    kind = type(record)
    given = {**dict.fromkeys(names(kind), 17), **said(record), "raw": record.raw}
    together = kind(**given)
    for name, value in given.items():
        for made in (together, kind(**{name: value})):
            assert getattr(made, name) in (value, str(value)), name


@pytest.mark.parametrize("kind", ATTRIBUTES, ids=lambda kind: kind.__name__)
def test_made_from_nothing(kind: Any) -> None:
    record = kind()
    assert record.raw == {}
    assert repr(record).startswith(f"{kind.__name__}(")
    defaults = {
        "complete": False,
        "changed": frozenset(),
        "balances": {},
        "ticks": (),
        "first": False,
        "attempts": 0,
        "reason": "",
    }
    assert values(record) == {
        name: defaults.get(name)
        for name in names(kind)
        if name not in ("raw", "received_ns", *OF_A_BOOK)
    }


@pytest.mark.parametrize("kind", ATTRIBUTES, ids=lambda kind: kind.__name__)
def test_wrong_names_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="prize"):
        kind(prize=1)
    with pytest.raises(TypeError, match="_raw"):
        kind(_raw={})
    with pytest.raises(TypeError):
        kind(1)


# --- plain values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("name", NAMES)
def test_as_dict_has_every_attribute_as_a_plain_value(name: str, number: Any) -> None:
    event = decode(packed(text_of(name)), number)
    plain = event.as_dict()
    names = set(type(event)._fields) - {"raw"}
    assert plain.keys() == names
    if number is float:
        assert json.loads(json.dumps(plain)) == plain
    for attribute in names:
        value = getattr(event, attribute)
        if value is None or isinstance(value, (str, int, float, Decimal)):
            assert (plain[attribute], type(plain[attribute])) == (value, type(value))


def test_as_dict_of_parts_sets_and_errors() -> None:
    update = decoded("account_update_create")
    plain = update.as_dict()
    assert plain["balances"]["USDT"] == update.balances["USDT"].as_dict()
    assert plain["position"]["id"] == 90762
    assert plain["position"]["changed"] == sorted(plain["position"]["changed"])
    assert json.loads(json.dumps(plain)) == plain
    ticks = decoded("adl_price_two").as_dict()["ticks"]
    assert [tick["id"] for tick in ticks] == [7001, 7002]
    attached: dict[str, Any] = {"active": True, "price": 3.5}
    order = Order(order_id="1", take_profit=AttachedOrder(**attached)).as_dict()
    unknown = {"trigger_price": None, "trigger_order_id": None}
    assert order["take_profit"] == {**attached, **unknown}
    lost = Disconnect(reason="gone", error=OSError("reset")).as_dict()
    assert (lost["reason"], lost["error"], lost["close_code"]) == ("gone", "reset", None)
    assert Unknown(raw={"channel": "x"}).as_dict()["raw"] == {"channel": "x"}
