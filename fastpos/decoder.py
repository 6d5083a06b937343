"""One push to one event: inflate, parse, check the shape.

Only the shape is checked here (what is an object, what is a list); single values are translated
when somebody asks the event for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from time import time_ns
from typing import Any, TypeVar

from orjson import loads

from .errors import DecodeError
from .events import AccountUpdate, AdlPrice, Event, Order, SystemClose, Trigger, Unknown
from .fields import NumberType
from .inflate import inflate, native

__all__ = [
    "KEYS",
    "MAX_SIZE",
    "NoChannel",
    "decode",
    "event_from",
    "event_from_pure",
    "inflate_push",
    "native_decoder",
]

E = TypeVar("E", bound=Event)

_new = object.__new__

_TAKE, _STOP = "takerProfitTriggerId", "stopLossTriggerId"

# The largest JSON that a push may hold, bytes; real ones stay under 2 KiB.
MAX_SIZE = 1024 * 1024
# Objects and lists within each other; real pushes have 4. Python's own limits (for pickling, for
# repr) begin at a few hundred.
MAX_DEPTH = 200


class NoChannel(DecodeError):
    """JSON, but no push: a pong or a reply, perhaps.

    Attributes:
        value: what the JSON says.
    """

    def __init__(self, value: Any, text: bytes) -> None:
        what = "no channel in it" if type(value) is dict else f"a JSON {type(value).__name__}"
        super().__init__(f"not a push: {what}", text)
        self.value = value


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
    return _decode(data, number)


def inflate_push(data: bytes, max_size: int) -> bytes:
    """Inflate a message, at most `max_size` bytes of it; raises DecodeError."""
    try:
        return inflate(data, max_size)
    except ValueError as error:
        raise DecodeError(f"not a push: {error}", data) from None


def _decode_pure(data: bytes, number: NumberType) -> Event:
    if number is not float and number is not Decimal:
        raise ValueError(f"number must be float or decimal.Decimal, not {number!r}")
    try:
        text = inflate(data, MAX_SIZE)
    except ValueError as error:
        raise DecodeError(f"not a push: {error}", data) from None
    try:
        return event_from_pure(text, time_ns(), number)
    except NoChannel as error:
        raise DecodeError(str(error), error.data) from None


def event_from_pure(text: bytes, received_ns: int, number: NumberType) -> Event:
    """Make the event of a push, from its JSON.

    Raises:
        NoChannel: it is JSON, but no push.
        DecodeError: it is no JSON, or a push of the wrong shape.
    """
    try:
        push = loads(text)
        if number is not float:  # after orjson, so that the same texts are refused in both modes
            push = json.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", text) from None
    # A nest of so many levels needs as many brackets twice; most messages are shorter.
    if len(text) > 2 * MAX_DEPTH and _too_deep(push, text):
        raise DecodeError(f"not a push: nested over {MAX_DEPTH} levels deep", text)
    try:
        make = _MAKERS.get(push["channel"], _unknown)
    except (TypeError, KeyError):
        if type(push) is dict and "channel" in push:
            raise _wrong("channel", "a string", text) from None
        raise NoChannel(push, text) from None
    return make(push, text, received_ns, number)


def _account_update(push: Any, text: bytes, received_ns: int, number: NumberType) -> AccountUpdate:
    body = push.get("d")
    if type(body) is not dict:
        raise _wrong("d", "an object", text)
    balances = body.get("a")
    if balances is not None:
        if type(balances) is not list:
            raise _wrong("d.a", "a list", text)
        for balance in balances:
            if type(balance) is not dict:
                raise _wrong("d.a", "a list of objects", text)
    position = body.get("p")
    if position:
        if type(position) is not dict:
            raise _wrong("d.p", "an object", text)
        if type(position.get("id")) is float or type(position.get("cid")) is float:
            push = _with_exact_ids(text)
    if type(push.get("uid")) is float:
        push = _with_exact_ids(text)
    event = _new(AccountUpdate)
    event._raw = event._wire = push
    event._received_ns = received_ns
    event._number = number
    return event


def _adl_price(push: Any, text: bytes, received_ns: int, number: NumberType) -> AdlPrice:
    exact = type(push.get("uid")) is not float
    ticks = push.get("l")
    if ticks is not None:
        if type(ticks) is not list:
            raise _wrong("l", "a list", text)
        for tick in ticks:
            if type(tick) is not dict:
                raise _wrong("l", "a list of objects", text)
            if type(tick.get("id")) is float:
                exact = False
    if not exact:
        push = _with_exact_ids(text)
    event = _new(AdlPrice)
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
    if (
        type(body.get("orderId")) is float
        or type(body.get("contractId")) is float
        or (attached and (type(attached.get(_TAKE)) is float or type(attached.get(_STOP)) is float))
    ):
        push = _with_exact_ids(text)
        body = push["order"]
    event = _new(Order)
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
    event = _new(Trigger)
    event._raw = push
    event._wire = body
    event._received_ns = received_ns
    event._number = number
    return event


def _system(push: Any, text: bytes, received_ns: int, number: NumberType) -> SystemClose | Unknown:
    if push.get("et") != "close":  # the one documented value; another must not end the connection
        return _unknown(push, text, received_ns, number)
    if type(push.get("uid")) is float:
        push = _with_exact_ids(text)
    return _plain(SystemClose, push, received_ns, number)


def _unknown(push: Any, text: bytes, received_ns: int, number: NumberType) -> Unknown:
    if type(push["channel"]) is not str:
        raise _wrong("channel", "a string", text)
    return _plain(Unknown, push, received_ns, number)


def _plain(kind: type[E], push: Any, received_ns: int, number: NumberType) -> E:
    event = kind._view(push, number)
    event._received_ns = received_ns
    return event


def _wrong(where: str, expected: str, text: bytes) -> DecodeError:
    return DecodeError(f"wrong shape: {where} is not {expected}", text)


def _too_deep(push: Any, text: bytes) -> bool:
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    level = [push]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True


def _decimal(text: str) -> Decimal:
    with suppress(ArithmeticError):
        value = Decimal(text)
        if value.is_finite():
            return value
    # An exponent of 19 digits; orjson says 0.0, and refuses what is not as small as that.
    return Decimal("-0" if text[0] == "-" else 0)


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

# What _native.c goes by; see there for the meaning of each column. It makes the events of these
# channels where everything is as usual and leaves the rest to the functions above.
_KINDS: dict[str, tuple[Any, ...]] = {
    "ACCOUNT_UPDATE": (AccountUpdate, "d", False, "a", "p", ("uid",), (), (), ("id", "cid")),
    "ADL_PRICE": (AdlPrice, None, False, "l", None, ("uid",), (), ("id",), ()),
    "order": (
        Order,
        "order",
        True,
        None,
        "otoOrder",
        (),
        ("orderId", "contractId"),
        (),
        (_TAKE, _STOP),
    ),
    "trigOrder": (Trigger, "trigOrder", True, None, None, (), ("triggerOrderId",), (), ()),
}

# The keys that _native.c and _delivery.c look up, as the very objects that orjson makes of them: it
# keeps keys and gives the same each time, and a dict finds the same object quickest.
KEYS: dict[str, str] = {
    key: key
    for key in loads(
        b'{"channel":0,"uid":0,"d":0,"a":0,"c":0,"an":0,"la":0,"pn":0,"p":0,"et":0,"id":0,"cid":0,'
        b'"l":0,"order":0,"orderId":0,"contractId":0,"orderAction":0,"dealVolume":0,"volume":0,'
        b'"otoOrder":0,"takerProfitTriggerId":0,"stopLossTriggerId":0,"trigOrder":0,'
        b'"triggerOrderId":0}'
    )
}

_decode: Callable[[bytes, NumberType], Event]
event_from: Callable[[bytes, int, NumberType], Event]
"""`event_from_pure`, or the same in C."""

native_decoder: Any = None

if native is None:
    _decode, event_from = _decode_pure, event_from_pure
else:
    from ._native import Decoder

    def _with_keys(entry: Any) -> Any:
        if type(entry) is tuple:
            return tuple(map(_with_keys, entry))
        return KEYS[entry] if type(entry) is str else entry

    _slots: Any = tuple(
        getattr(Event, name) for name in ("_raw", "_wire", "_number", "_received_ns")
    )
    native_decoder = Decoder(
        native,
        loads,
        KEYS["channel"],
        {channel: _with_keys(kind) for channel, kind in _KINDS.items()},
        _slots,
        _decode_pure,
        event_from_pure,
        MAX_SIZE,
        MAX_DEPTH,
    )
    _decode, event_from = native_decoder.decode, native_decoder.event_from
