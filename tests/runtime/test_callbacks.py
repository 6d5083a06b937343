"""A user's functions: registering them on a stream, calling them, and what one that raises does."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
from functools import partial
from typing import Any

import pytest

from fastpos import AccountUpdate, CallbackError, Order, Position, PositionStream
from fastpos.runtime.callbacks import CALLBACK_NAMES, Callback
from tests.support.pushes import load

SECRET = "kN7vQ2xW9"


def stream_with(kind: type[PositionStream] = PositionStream, **functions: Any) -> Any:
    return kind("ws://127.0.0.1:9/", api_key=SECRET, broker=1, **functions)


def deliver(stream: PositionStream, push: Any) -> None:
    """Hand a push to the stream's functions as its reader does."""
    stream._delivery.pushes([json.dumps(push).encode()], 1)


class Boom(Exception):
    pass


def boom(event: object) -> None:
    raise Boom("went off")


# --- registering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLBACK_NAMES)
def test_the_three_ways(name: str) -> None:
    first, second, alone = (partial(boom) for _ in range(3))
    other, stream = stream_with(), stream_with(**{name: first})
    handlers = getattr(stream, name)
    assert handlers(second) is second  # a call, and so a decorator
    assert getattr(stream, name).functions == (first, second)
    setattr(stream, name, alone)
    assert handlers.functions == (alone,)
    handlers(first)
    assert getattr(stream, name).functions == (alone, first)
    setattr(stream, name, None)
    assert getattr(stream, name).functions == ()
    assert getattr(other, name).functions == ()
    assert name in repr(handlers)
    assert isinstance(getattr(PositionStream, name), Callback)


async def coroutine(event: object) -> None: ...


class Later:
    async def __call__(self, event: object) -> None: ...

    def method(self, event: object) -> Any:
        yield event


class Latest(Later):
    pass


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        *((wrong, "function, not") for wrong in (5, "handle", False, [], ())),
        (coroutine, "run_coroutine_threadsafe"),
        (partial(partial(coroutine), 1), "run_coroutine_threadsafe"),
        (Latest(), "run_coroutine_threadsafe"),
        (lambda event: (yield), "queue.Queue"),
        (Latest().method, "queue.Queue"),
    ],
)
def test_what_would_not_run_is_refused_with_what_to_do(function: Any, hint: str) -> None:
    stream = stream_with(on_order=boom, on_trigger=None)
    with pytest.raises(TypeError, match=f"on_order takes a .*{hint}"):
        stream.on_order(function)
    with pytest.raises(TypeError, match=hint):
        stream.on_order = function
    with pytest.raises(TypeError, match=hint):
        stream_with(on_order=function)
    with pytest.raises(TypeError, match="on_order"):
        stream.on_order(None)  # there is nothing to add
    assert stream.on_order.functions == (boom,)
    assert stream.on_trigger.functions == ()


def test_an_awaitable_result_is_an_error_and_closed() -> None:
    made = coroutine(None)
    errors: list[Any] = []
    stream = stream_with(on_order=lambda order: made, on_error=errors.append)
    stream.on_order(lambda order: order)  # anything else may be returned
    deliver(stream, load("order"))
    [error] = errors
    assert re.search("returned a coroutine.*run_coroutine_threadsafe", str(error))
    with pytest.raises(RuntimeError, match="cannot reuse"):  # it was closed: no warning later
        made.send(None)


# --- subclasses, misspelt names, copies -----------------------------------------------------------


class Bot(PositionStream):
    calls: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls = []
        self.on_trigger(lambda trigger: self.calls.append("early"))
        super().__init__(*args, **kwargs)

    def on_order(self, order: Order) -> None:
        self.calls.append("method")

    def on_fill(self) -> None:
        """Like no callback's name: a method of its own."""


class BetterBot(Bot):
    on_unknown = staticmethod(boom)

    def on_order(self, order: Order) -> None:
        super().on_order(order)
        self.calls.append("better")


def test_methods_of_a_subclass_are_callbacks() -> None:
    stream = stream_with(BetterBot, on_order=lambda order: stream.calls.append("function"))
    deliver(stream, load("order"))
    assert stream.calls == ["function", "method", "better"]
    assert stream.on_unknown.functions == (boom,)
    deliver(stream, load("trig_order"))
    assert stream.calls[3:] == ["early"]  # registered before the constructor was called
    stream.on_order = lambda order: stream.calls.append("instead")
    deliver(stream, load("order"))
    assert stream.calls[4:] == ["instead"]
    with pytest.raises(TypeError, match="on_order takes a plain function"):
        stream_with(type("Waits", (PositionStream,), {"on_order": coroutine}))


def test_a_misspelt_name_is_named_not_ignored() -> None:
    stream = stream_with()
    with pytest.raises(AttributeError, match="no callback on_orders: did you mean on_order"):
        stream.on_orders = boom
    with pytest.raises(AttributeError, match="no callback on_xyz: there are on_position, on_order"):
        stream.on_xyz = boom
    with pytest.raises(AttributeError, match="no callback onOrder: did you mean on_order"):
        stream.onOrder = boom
    with pytest.raises(TypeError, match="on_orders"):
        stream_with(on_orders=boom)
    for wrong in ("on_orders", "onOrder"):
        with pytest.raises(TypeError, match=f"Wrong.{wrong} is no callback.*call it on_order"):
            type("Wrong", (PositionStream,), {wrong: boom})
    stream.online = True
    stream_with(Bot).on_fill = None  # which its class has


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_cannot_be_copied(copied: Any) -> None:
    with pytest.raises(TypeError, match="in the other process"):
        copied(stream_with())


# --- calling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("balances", [{}, {"a": None}, {"a": []}])
def test_an_update_without_balances_is_for_on_position_alone(balances: dict[str, Any]) -> None:
    calls: list[object] = []
    stream = stream_with(on_position=calls.append, on_account=calls.append)
    body = {"et": "UPDATE", "p": {"id": 7, "pv": 1}, **balances}
    deliver(stream, {"channel": "ACCOUNT_UPDATE", "d": body})
    assert [type(event) for event in calls] == [Position]
    deliver(stream, {"channel": "ACCOUNT_UPDATE", "d": {"et": "DEFAULT"}})
    assert len(calls) == 1


def test_in_a_callback_the_event_is_merged_and_the_book_up_to_date() -> None:
    positions: list[Position] = []
    updates: list[AccountUpdate] = []
    seen: list[object] = []
    stream = stream_with(on_position=positions.append, on_account=updates.append)
    stream.on_position(lambda event: seen.append(sorted(stream.positions)))
    stream.on_adl_price(lambda event: seen.append(stream.positions[7001].mark_price))
    stream.on_account(lambda event: seen.append(sorted(stream.balances)))
    for name in ("account_update_create", "account_update_update", "account_update_delete"):
        deliver(stream, load(name))
    deliver(stream, load("adl_price_two"))
    assert seen == [[90762], ["BTC", "USDT"]] * 2 + [[], ["BTC", "USDT"], 78000.0]
    assert [update.position for update in updates] == positions
    assert [position.leverage for position in positions] == [20, 20, 20]
    assert [position.volume for position in positions] == [12.0, 7.0, 7.0]


def test_the_order_is_that_of_adding_and_one_may_be_there_twice() -> None:
    calls: list[int] = []
    add = [partial(lambda number, order: calls.append(number), number) for number in range(4)]
    stream = stream_with(on_order=add[0])
    for each in (*add[1:], add[2]):
        stream.on_order(each)
    deliver(stream, load("order"))
    assert calls == [0, 1, 2, 3, 2]


# --- functions that raise -------------------------------------------------------------------------


def test_what_a_callback_raises_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Any] = []
    orders: list[Order] = []
    stream = stream_with(on_order=boom, on_error=errors.append)
    stream.on_order(orders.append)
    deliver(stream, load("order"))
    [error] = errors
    assert (orders, type(error)) == ([error.event], CallbackError)
    assert error.callback is boom
    assert type(error.__cause__) is Boom
    assert error.__cause__.__traceback__ is not None
    for part in ("on_order", "boom", "Boom", "went off"):
        assert part in str(error)
    assert stream.stats.callback_errors == 1
    assert caplog.records == []
    deliver(stream, load("order"))  # the next push is delivered
    assert len(orders) == 2


def test_what_nobody_listens_to_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = stream_with(on_order=boom)
    deliver(stream, load("order"))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("fastpos", logging.ERROR)
    for part in ("Traceback", "went off", "in boom"):
        assert part in caplog.text
    assert SECRET not in caplog.text
    caplog.clear()
    errors: list[object] = []
    stream.on_error(boom)  # which is called with that, and raises too
    stream.on_error(errors.append)
    deliver(stream, load("order"))
    assert [type(error) for error in errors] == [CallbackError]
    assert len(caplog.records) == 1
    assert "Traceback" in caplog.text
    assert stream.stats.callback_errors == 3


class Mute(Exception):
    """An exception, and a function that raises it, which can't even be shown."""

    def __call__(self, event: object) -> None:
        raise self

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no words")

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize("listening", [True, False])
def test_what_cannot_be_shown_is_reported_all_the_same(listening: bool) -> None:
    errors: list[Any] = []
    orders: list[object] = []
    function = Mute()
    stream = stream_with(on_order=function, on_error=errors.append if listening else None)
    stream.on_order(orders.append)
    logging.disable()  # what pytest makes of such a record is not the subject
    try:
        deliver(stream, load("order"))
    finally:
        logging.disable(logging.NOTSET)
    assert len(orders) == 1
    assert [error.callback for error in errors] == [function] * listening
