"""One push to one event: inflate, parse, check the shape.

Only the shape is checked here (what is an object, what is a list); single values are translated
when somebody asks the event for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from time import time_ns
from typing import Any, TypeVar

import orjson

from .errors import DecodeError
from .events import AccountUpdate, AdlPrice, Event, Order, Position, SystemClose, Trigger, Unknown
from .fields import NumberType
from .inflate import inflate

__all__ = ["MAX_SIZE", "check_number", "decode", "event_of", "inflate_push", "parse"]

E = TypeVar("E", bound=Event)

# The largest JSON that a push may hold, bytes; real ones stay under 2 KiB.
MAX_SIZE = 1024 * 1024


def decode(data: bytes, number: NumberType = float) -> Event:
    """Decode one push: the payload of one binary WebSocket message.

    For those who have a socket of their own. Nothing is merged: an `AccountUpdate` has in
    `position` what this push says of it.

    Args:
        data: a gzip member (RFC 1952) that holds one JSON object with a ``channel``.
        number: `float`, or `decimal.Decimal` for every price, volume and amount exactly as the
            exchange wrote it, in the attributes and in `raw`.

    Returns:
        An `AccountUpdate`, `AdlPrice`, `Order`, `Trigger`, `SystemClose` or, for a channel that
        is not documented, `Unknown`.

    Raises:
        DecodeError: the bytes are not that.
        ValueError: `number` is neither float nor Decimal.
    """
    check_number(number)
    received_ns = time_ns()
    text = inflate_push(data, MAX_SIZE)
    return event_of(parse(text, number), text, received_ns, number)


def check_number(number: Any) -> None:
    """Raise ValueError unless `number` is one of the two types that numbers can have."""
    if number is not float and number is not Decimal:
        raise ValueError(f"number must be float or decimal.Decimal, not {number!r}")


def inflate_push(data: bytes, max_size: int) -> bytes:
    """Inflate a message, at most `max_size` bytes of it; raises DecodeError."""
    try:
        return inflate(data, max_size)
    except ValueError as error:
        raise DecodeError(f"not a push: {error}", data) from None


def parse(text: bytes, number: NumberType) -> Any:
    """Parse JSON; raises DecodeError. With Decimal no number passes through a double."""
    try:
        value = orjson.loads(text)
        if number is Decimal:  # after orjson, so that the same texts are refused in both modes
            return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", text) from None
    return value


def event_of(push: Any, text: bytes, received_ns: int, number: NumberType) -> Event:
    """Make the event of a push that was parsed from `text`; raises DecodeError for its shape."""
    try:
        make = _MAKERS.get(push["channel"], _unknown)
    except (TypeError, KeyError, IndexError):
        what = "no channel in it" if type(push) is dict else f"a JSON {type(push).__name__}"
        raise DecodeError(f"not a push: {what}", text) from None
    return make(push, text, received_ns, number)


def _account_update(push: Any, text: bytes, received_ns: int, number: NumberType) -> AccountUpdate:
    body = push.get("d")
    if type(body) is not dict:
        raise _wrong("d", "an object", text)
    _check_list(body.get("a"), "d.a", text)
    wire = body.get("p") or None
    if wire is not None:
        if type(wire) is not dict:
            raise _wrong("d.p", "an object", text)
        if type(wire.get("id")) is float:
            push = _with_exact_ids(text)
            body = push["d"]
            wire = body["p"]
    event = object.__new__(AccountUpdate)
    event._raw = event._wire = push
    event._received_ns = received_ns
    event._number = number
    if wire is None:
        event._position = None
        return event
    event._position = position = object.__new__(Position)
    position._raw = push
    position._wire = wire
    position._received_ns = received_ns
    position._number = number
    position._before = None
    position._change = change = body.get("et")
    position._complete = change == "CREATE"
    return event


def _adl_price(push: Any, text: bytes, received_ns: int, number: NumberType) -> AdlPrice:
    ticks = push.get("l")
    _check_list(ticks, "l", text)
    if ticks and any(type(tick.get("id")) is float for tick in ticks):
        push = _with_exact_ids(text)
    event = object.__new__(AdlPrice)
    event._raw = event._wire = push
    event._received_ns = received_ns
    event._number = number
    return event


def _order(push: Any, text: bytes, received_ns: int, number: NumberType) -> Order:
    body = push.get("order")
    if type(body) is not dict:
        raise _wrong("order", "an object", text)
    attached = body.get("otoOrder")
    if attached is not None and type(attached) is not dict:
        raise _wrong("order.otoOrder", "an object", text)
    if type(body.get("orderId")) is float:
        push = _with_exact_ids(text)
        body = push["order"]
    event = object.__new__(Order)
    event._raw = push
    event._wire = body
    event._received_ns = received_ns
    event._number = number
    return event


def _trigger(push: Any, text: bytes, received_ns: int, number: NumberType) -> Trigger:
    body = push.get("trigOrder")
    if type(body) is not dict:
        raise _wrong("trigOrder", "an object", text)
    if type(body.get("triggerOrderId")) is float:
        push = _with_exact_ids(text)
        body = push["trigOrder"]
    event = object.__new__(Trigger)
    event._raw = push
    event._wire = body
    event._received_ns = received_ns
    event._number = number
    return event


def _system(push: Any, text: bytes, received_ns: int, number: NumberType) -> SystemClose | Unknown:
    if push.get("et") != "close":  # the one documented value; another must not end the connection
        return _unknown(push, text, received_ns, number)
    return _plain(SystemClose, push, received_ns, number)


def _unknown(push: Any, text: bytes, received_ns: int, number: NumberType) -> Unknown:
    if type(push["channel"]) is not str:
        raise _wrong("channel", "a string", text)
    return _plain(Unknown, push, received_ns, number)


def _plain(kind: type[E], push: Any, received_ns: int, number: NumberType) -> E:
    event = kind._view(push, number)
    event._received_ns = received_ns
    return event


def _check_list(value: Any, where: str, text: bytes) -> None:
    if value is None:
        return
    if type(value) is not list:
        raise _wrong(where, "a list", text)
    for item in value:
        if type(item) is not dict:
            raise _wrong(where, "a list of objects", text)


def _wrong(where: str, expected: str, text: bytes) -> DecodeError:
    return DecodeError(f"wrong shape: {where} is not {expected}", text)


def _with_exact_ids(text: bytes) -> Any:
    # orjson gives integers beyond 64 bits as doubles; the standard library gives all digits.
    return json.loads(text)


_MAKERS: dict[str, Callable[[Any, bytes, int, NumberType], Event]] = {
    "ACCOUNT_UPDATE": _account_update,
    "ADL_PRICE": _adl_price,
    "SYSTEM": _system,
    "order": _order,
    "trigOrder": _trigger,
}
