"""A user's functions: registering them on a stream, calling them, and what one that raises does."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastpos import (
    AccountUpdate,
    AdlPrice,
    CallbackError,
    Order,
    Position,
    PositionStream,
    SystemClose,
    Trigger,
    Unknown,
)

from .pushes import NAMES, load

NAMES_OF_SLOTS = [
    "on_position",
    "on_order",
    "on_trigger",
    "on_system_close",
    "on_account",
    "on_adl_price",
    "on_ready",
    "on_disconnect",
    "on_error",
    "on_unknown",
]
SECRET = "kN7vQ2xW9"


def stream_with(**functions: Any) -> PositionStream:
    return PositionStream("ws://127.0.0.1:9/", api_key=SECRET, broker=1, **functions)


def deliver(stream: PositionStream, push: Any) -> None:
    """Hand a push to the stream's functions as its reader does."""
    stream._delivery.pushes([json.dumps(push).encode()], 1)


class Boom(Exception):
    pass


def boom(event: object) -> None:
    raise Boom("went off")


# --- registering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES_OF_SLOTS)
def test_the_three_ways(name: str) -> None:
    def first(event: object) -> None: ...
    def second(event: object) -> None: ...
    def third(event: object) -> None: ...
    def alone(event: object) -> None: ...

    stream = stream_with(**{name: first})
    slot = getattr(stream, name)
    assert slot(second) is second  # a call
    decorated = slot(third)  # and a decorator is one
    assert decorated is third
    assert getattr(stream, name).functions == (first, second, third)
    setattr(stream, name, alone)
    assert getattr(stream, name).functions == (alone,)
    slot(first)
    assert getattr(stream, name).functions == (alone, first)
    setattr(stream, name, None)
    assert getattr(stream, name).functions == ()


def test_as_a_decorator() -> None:
    stream = stream_with()

    @stream.on_order
    @stream.on_unknown
    def handle(event: object) -> str:
        return "mine"

    assert handle(None) == "mine"
    assert stream.on_order.functions == (handle,)
    assert stream.on_unknown.functions == (handle,)


@pytest.mark.parametrize("name", NAMES_OF_SLOTS)
@pytest.mark.parametrize("wrong", [5, "handle", False, [], ()])
def test_what_is_no_function_is_refused(name: str, wrong: Any) -> None:
    def kept(event: object) -> None: ...

    with pytest.raises(TypeError, match=name):
        stream_with(**{name: wrong})
    stream = stream_with(**{name: kept})
    with pytest.raises(TypeError, match=name):
        getattr(stream, name)(wrong)
    with pytest.raises(TypeError, match=name):
        setattr(stream, name, wrong)
    assert getattr(stream, name).functions == (kept,)


def test_none_is_nothing_to_add() -> None:
    stream = stream_with(on_order=None)
    assert stream.on_order.functions == ()
    with pytest.raises(TypeError, match="on_order"):
        stream.on_order(None)  # type: ignore[type-var]


def test_streams_share_no_functions() -> None:
    one, other = stream_with(on_order=boom), stream_with()
    one.on_trigger = boom
    assert other.on_order.functions == ()
    assert other.on_trigger.functions == ()


def test_a_slot_of_the_class_can_be_looked_at() -> None:
    assert PositionStream.on_order is PositionStream.__dict__["on_order"]


def test_a_slot_says_what_it_is() -> None:
    assert "on_order" in repr(stream_with(on_order=boom).on_order)


def test_methods_and_objects_will_do() -> None:
    class Bot:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def handle(self, order: Order) -> None:
            self.seen.append(order)

        def __call__(self, order: Order) -> None:
            self.seen.append(order)

    bot = Bot()
    stream = stream_with(on_order=bot.handle)
    stream.on_order(bot)
    stream.on_order(bot.seen.append)
    deliver(stream, load("order"))
    assert len(bot.seen) == 3


def test_adding_from_many_threads_loses_none() -> None:
    stream = stream_with()
    barrier = threading.Barrier(4)

    def add() -> None:
        barrier.wait()
        for _ in range(250):
            stream.on_order(lambda order: None)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.on_order.functions) == 1000


# --- calling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "unknown"])
def test_each_channel_has_its_callback(name: str) -> None:
    calls: list[tuple[str, type]] = []

    def note(slot: str) -> Callable[[object], None]:
        return lambda event: calls.append((slot, type(event)))

    stream = stream_with(**{slot: note(slot) for slot in NAMES_OF_SLOTS})
    deliver(stream, load(name) if name != "unknown" else {"channel": "fundingFee"})
    both = [("on_position", Position), ("on_account", AccountUpdate)]
    expected: dict[str, list[tuple[str, type]]] = {
        "account_update_create": both,
        "account_update_update": both,
        "account_update_delete": both,
        "account_update_default": [("on_account", AccountUpdate)],
        "adl_price_two": [("on_adl_price", AdlPrice)],
        "order": [("on_order", Order)],
        "trig_order": [("on_trigger", Trigger)],
        "system_close": [("on_system_close", SystemClose)],
        "unknown": [("on_unknown", Unknown)],
    }
    assert calls == expected[name]


def test_an_update_without_balances_is_for_on_position_alone() -> None:
    calls: list[object] = []
    stream = stream_with(on_position=calls.append, on_account=calls.append)
    without: list[dict[str, Any]] = [{}, {"a": None}, {"a": []}]
    for balances in without:
        body = {"et": "UPDATE", "p": {"id": 7, "pv": 1}, **balances}
        deliver(stream, {"channel": "ACCOUNT_UPDATE", "d": body})
    assert [type(event) for event in calls] == [Position] * 3
    deliver(stream, {"channel": "ACCOUNT_UPDATE", "d": {"et": "DEFAULT"}})
    assert len(calls) == 3


def test_the_update_holds_the_merged_position() -> None:
    positions: list[Position] = []
    updates: list[AccountUpdate] = []
    stream = stream_with(on_position=positions.append, on_account=updates.append)
    for name in ("account_update_create", "account_update_update", "account_update_delete"):
        deliver(stream, load(name))
    assert [update.position for update in updates] == positions
    assert [position.leverage for position in positions] == [20, 20, 20]
    assert [position.volume for position in positions] == [12.0, 7.0, 7.0]


def test_the_book_is_up_to_date_in_a_callback() -> None:
    seen: list[object] = []
    stream = stream_with()
    stream.on_position(lambda event: seen.append(sorted(stream.positions)))
    stream.on_adl_price(lambda event: seen.append(stream.positions[7001].mark_price))
    stream.on_account(lambda event: seen.append(sorted(stream.balances)))
    deliver(stream, load("account_update_create"))
    deliver(stream, load("account_update_delete"))
    deliver(stream, load("adl_price_two"))
    coins = ["BTC", "USDT"]
    assert seen == [[90762], coins, [], coins, 78000.0]


def test_the_order_is_that_of_adding() -> None:
    calls: list[int] = []
    stream = stream_with(on_order=lambda order: calls.append(0))
    for number in range(1, 5):
        stream.on_order(lambda order, number=number: calls.append(number))
    deliver(stream, load("order"))
    deliver(stream, load("order"))
    assert calls == [0, 1, 2, 3, 4] * 2


def test_the_same_function_twice_is_called_twice() -> None:
    calls: list[object] = []
    stream = stream_with(on_order=calls.append)
    stream.on_order(calls.append)
    deliver(stream, load("order"))
    assert len(calls) == 2


def test_registering_in_a_callback_holds_from_the_next_event_on() -> None:
    calls: list[str] = []
    stream = stream_with()

    @stream.on_order
    def first(order: Order) -> None:
        calls.append("first")
        stream.on_order = second

    def second(order: Order) -> None:
        calls.append("second")
        stream.on_order = None

    for _ in range(3):
        deliver(stream, load("order"))
    assert calls == ["first", "second"]


# --- functions that raise -------------------------------------------------------------------------


def test_what_a_callback_raises_is_reported() -> None:
    errors: list[Any] = []
    orders: list[Order] = []
    stream = stream_with(on_order=boom, on_error=errors.append)
    stream.on_order(orders.append)
    deliver(stream, load("order"))
    [error] = errors
    assert type(error) is CallbackError
    assert error.callback is boom
    assert error.event is orders[0]
    assert type(error.__cause__) is Boom
    assert error.__cause__.__traceback__ is not None
    for part in ("on_order", "boom", "Boom", "went off"):
        assert part in str(error)
    assert stream.stats.callback_errors == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_next_push_is_delivered(name: str) -> None:
    events: list[object] = []
    errors: list[object] = []
    stream = stream_with(**{slot: boom for slot in NAMES_OF_SLOTS if slot != "on_error"})
    stream.on_error = errors.append
    stream.on_order(events.append)
    deliver(stream, load(name))
    assert errors
    deliver(stream, load("order"))
    assert events


def test_without_on_error_it_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = stream_with(on_order=boom)
    deliver(stream, load("order"))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("fastpos", logging.ERROR)
    assert "Traceback" in caplog.text
    assert "went off" in caplog.text
    assert "in boom" in caplog.text
    assert SECRET not in caplog.text


def test_with_on_error_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stream = stream_with(on_order=boom, on_error=lambda error: None)
    deliver(stream, load("order"))
    assert caplog.records == []


def test_on_error_that_raises_is_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[object] = []
    stream = stream_with(on_order=boom, on_error=boom)
    stream.on_error(errors.append)
    deliver(stream, load("order"))
    deliver(stream, load("order"))
    assert [type(error) for error in errors] == [CallbackError] * 2
    assert len(caplog.records) == 2
    assert "Traceback" in caplog.text
    assert stream.stats.callback_errors == 4


class Mute(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Nameless:
    """A function that cannot be shown."""

    def __call__(self, event: object) -> None:
        raise Boom

    def __repr__(self) -> str:
        raise RuntimeError("no name")


def mute(event: object) -> None:
    raise Mute


@pytest.mark.parametrize("function", [mute, Nameless()], ids=["exception", "function"])
@pytest.mark.parametrize("heard", [True, False])
def test_what_cannot_be_shown_is_reported_all_the_same(function: Any, heard: bool) -> None:
    errors: list[Any] = []
    orders: list[object] = []
    stream = stream_with(on_order=function, on_error=errors.append if heard else None)
    stream.on_order(orders.append)
    logging.disable()  # what pytest makes of such a record is not the subject
    try:
        deliver(stream, load("order"))
    finally:
        logging.disable(logging.NOTSET)
    assert len(orders) == 1
    if heard:
        assert errors[0].callback is function


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_wish_to_leave_is_no_error(end: type[BaseException]) -> None:
    def leave(event: object) -> None:
        raise end

    stream = stream_with(on_order=leave, on_error=boom)
    stream._delivery.begin(background=False)  # as under run_forever()
    with pytest.raises(end):
        deliver(stream, load("order"))
