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
from typing import Any, NamedTuple, TypeVar

from isal.isal_zlib import decompressobj
from orjson import loads

from ..errors import DecodeError
from ..model.events import AccountUpdate, AdlPrice, Event, Order, SystemClose, Trigger, Unknown
from ..model.fields import NumberType
from .inflate import GZIP_WBITS, inflate, native

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

# The largest JSON that a push may hold, bytes; real ones stay under 2 KiB.
MAX_SIZE = 1024 * 1024
# Objects and lists within each other; real pushes have 4. Python's own limits (for pickling, for
# repr) begin at a few hundred.
MAX_DEPTH = 256
# So many bytes, and no fewer, can be nested more deeply; most pushes have fewer.
_FLAT = 2 * MAX_DEPTH
# A member of so many bytes has no content of over MAX_SIZE: deflate packs at most 1,032 into one.
_SMALL = MAX_SIZE // 1032


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
    # A usual push takes the shortest way, without a call that can be spared. Whatever is not usual
    # begins again, and is looked at with care.
    try:
        if number is float and len(data) <= _SMALL:
            member = decompressobj(GZIP_WBITS)
            text = member.decompress(data)
            if member.eof and not member.unused_data and len(text) <= _FLAT:
                push = loads(text)
                return _MAKERS[push[_CHANNEL]](push, text, time_ns(), number)
    except Exception:
        pass
    return _decode_any(data, number)


def _decode_any(data: bytes, number: NumberType) -> Event:
    if number is not float and number is not Decimal:
        raise ValueError(f"number must be float or decimal.Decimal, not {number!r}")
    try:
        return event_from_pure(inflate_push(data, MAX_SIZE), time_ns(), number)
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
    if len(text) > _FLAT and _too_deep(push, text):
        raise DecodeError(f"not a push: nested over {MAX_DEPTH} levels deep", text)
    try:
        make = _MAKERS.get(push[_CHANNEL], _unknown)
    except (TypeError, KeyError):
        if type(push) is dict and "channel" in push:
            raise _wrong("channel", "a string", text) from None
        raise NoChannel(push, text) from None
    return make(push, text, received_ns, number)


# Makers begin with a look at what is usual: the keys are there, and hold what they should. Only
# where that fails does `_checked` decide.


def _account_update(push: Any, text: bytes, received_ns: int, number: NumberType) -> AccountUpdate:
    try:
        body = push[_D]
        balances = body[_A]
        for balance in balances:
            if type(balance) is not dict:
                raise TypeError
        if type(balances) is not list or type(push[_UID]) is float:
            raise TypeError
        position = body.get(_P)
        if position and (type(position[_ID]) is float or type(position.get(_CID)) is float):
            raise TypeError
    except (KeyError, TypeError):
        push = _checked(push, text)
    event = _new(AccountUpdate)
    event._raw = event._wire = push
    event._received_ns = received_ns
    event._number = number
    return event


def _adl_price(push: Any, text: bytes, received_ns: int, number: NumberType) -> AdlPrice:
    try:
        ticks = push[_L]
        for tick in ticks:
            if type(tick[_ID]) is float:
                raise TypeError
        if type(ticks) is not list or type(push[_UID]) is float:
            raise TypeError
    except (KeyError, TypeError):
        push = _checked(push, text)
    event = _new(AdlPrice)
    event._raw = event._wire = push
    event._received_ns = received_ns
    event._number = number
    return event


def _order(push: Any, text: bytes, received_ns: int, number: NumberType) -> Order:
    try:
        body = push[_ORDER]
        if type(body[_ORDER_ID]) is float or type(body[_CONTRACT_ID]) is float:
            raise TypeError
        attached = body.get(_OTO_ORDER)
        if attached and (type(attached[_TAKE]) is float or type(attached[_STOP]) is float):
            raise TypeError
    except (KeyError, TypeError):
        push = _checked(push, text)
        body = push[_ORDER]
    event = _new(Order)
    event._raw = push
    event._wire = body
    event._received_ns = received_ns
    event._number = number
    return event


def _trigger(push: Any, text: bytes, received_ns: int, number: NumberType) -> Trigger:
    push = _checked(push, text)
    event = _new(Trigger)
    event._raw = push
    event._wire = push["trigOrder"]
    event._received_ns = received_ns
    event._number = number
    return event


def _checked(push: Any, text: bytes) -> Any:
    """Give `push` with exact ids, if it has the shape that `_KINDS` says.

    Raises:
        DecodeError: it has another.
    """
    kind = _KINDS[push["channel"]]
    body = push if kind.body is None else push.get(kind.body)
    path = f"{kind.body}." if kind.body else ""
    if type(body) is not dict:
        raise _wrong(path[:-1], "an object", text)
    items = body.get(kind.list)
    if items is not None:
        if type(items) is not list:
            raise _wrong(f"{path}{kind.list}", "a list", text)
        if any(type(item) is not dict for item in items):
            raise _wrong(f"{path}{kind.list}", "a list of objects", text)
    part = body.get(kind.object)
    if part and type(part) is not dict:
        raise _wrong(f"{path}{kind.object}", "an object", text)
    holders = [(push, kind.push_ids), (body, kind.body_ids), (part or {}, kind.object_ids)]
    holders += [(item, kind.list_ids) for item in items or ()]
    if any(type(holder.get(key)) is float for holder, keys in holders for key in keys):
        # orjson gives integers beyond 64 bits as doubles; the standard library gives all digits.
        return json.loads(text)
    return push


def _system(push: Any, text: bytes, received_ns: int, number: NumberType) -> SystemClose | Unknown:
    if push.get("et") != "close":  # the one documented value; another must not end the connection
        return _unknown(push, text, received_ns, number)
    if type(push.get("uid")) is float:
        push = json.loads(text)
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


_MAKERS: dict[str, Callable[[Any, bytes, int, NumberType], Event]] = {
    "ACCOUNT_UPDATE": _account_update,
    "ADL_PRICE": _adl_price,
    "SYSTEM": _system,
    "order": _order,
    "trigOrder": _trigger,
}


class _Kind(NamedTuple):
    """The shape of a channel's pushes, as `_checked` and _native.c go by it."""

    event: type[Event]
    body: str | None
    """Key of the object that holds the rest; None: the push itself."""
    wire_is_body: bool
    """Whether the event's attributes are the body's, and not the push's."""
    list: str | None = None
    """Key, in the body, of a list of objects."""
    object: str | None = None
    """Key, in the body, of an object."""
    # Keys of ids, which may have more digits than a double holds.
    push_ids: tuple[str, ...] = ()
    body_ids: tuple[str, ...] = ()
    list_ids: tuple[str, ...] = ()
    object_ids: tuple[str, ...] = ()


_KINDS: dict[str, _Kind] = {
    "ACCOUNT_UPDATE": _Kind(
        AccountUpdate,
        "d",
        wire_is_body=False,
        list="a",
        object="p",
        push_ids=("uid",),
        object_ids=("id", "cid"),
    ),
    "ADL_PRICE": _Kind(
        AdlPrice, None, wire_is_body=False, list="l", push_ids=("uid",), list_ids=("id",)
    ),
    "order": _Kind(
        Order,
        "order",
        wire_is_body=True,
        object="otoOrder",
        body_ids=("orderId", "contractId"),
        object_ids=("takerProfitTriggerId", "stopLossTriggerId"),
    ),
    "trigOrder": _Kind(Trigger, "trigOrder", wire_is_body=True, body_ids=("triggerOrderId",)),
}

# The keys that are looked up here and in C, as the very objects that orjson makes of them: it keeps
# keys and gives the same each time, and a dict finds the same object quickest.
KEYS: dict[str, str] = {
    key: key
    for key in loads(
        b'{"channel":0,"uid":0,"d":0,"a":0,"c":0,"an":0,"la":0,"pn":0,"p":0,"et":0,"id":0,"cid":0,'
        b'"l":0,"order":0,"orderId":0,"contractId":0,"orderAction":0,"dealVolume":0,"volume":0,'
        b'"otoOrder":0,"takerProfitTriggerId":0,"stopLossTriggerId":0,"trigOrder":0,'
        b'"triggerOrderId":0}'
    )
}

_CHANNEL, _UID, _D, _A = KEYS["channel"], KEYS["uid"], KEYS["d"], KEYS["a"]
_P, _ID, _CID, _L = KEYS["p"], KEYS["id"], KEYS["cid"], KEYS["l"]
_ORDER, _OTO_ORDER = KEYS["order"], KEYS["otoOrder"]
_ORDER_ID, _CONTRACT_ID = KEYS["orderId"], KEYS["contractId"]
_TAKE, _STOP = KEYS["takerProfitTriggerId"], KEYS["stopLossTriggerId"]

_decode: Callable[[bytes, NumberType], Event]
event_from: Callable[[bytes, int, NumberType], Event]
"""`event_from_pure`, or the same in C."""

native_decoder: Any = None

if native is None:
    _decode, event_from = _decode_pure, event_from_pure
else:
    from .._c._native import Decoder

    def _with_keys(entry: Any) -> Any:
        if isinstance(entry, tuple):
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
        _decode_any,
        event_from_pure,
        MAX_SIZE,
        MAX_DEPTH,
    )
    _decode, event_from = native_decoder.decode, native_decoder.event_from
