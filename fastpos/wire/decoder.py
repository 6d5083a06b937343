"""One push to one event: inflate, parse, check the shape by the table of channels.

Only the shape is checked here (what is an object, what is a list); single values are translated
when somebody asks the event for them.
"""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from time import time_ns
from typing import Any

from orjson import loads

from ..errors import DecodeError
from ..model import primitives
from ..model.events import Event
from ..model.exchange import CHANNELS, UNDOCUMENTED
from ..model.fields import NumberType
from ..model.table import Channel, Part, as_parsed
from .inflate import inflate

__all__ = ["MAX_SIZE", "decode", "event_from", "inflate_push"]

# The largest JSON that a push may hold, bytes; real ones stay under 2 KiB.
MAX_SIZE = 1024 * 1024
# Objects and lists within each other; real pushes have 4. Python's own limits (for pickling, for
# repr) begin at a few hundred.
MAX_DEPTH = 256
# So many bytes, and no fewer, can be nested more deeply; most pushes have fewer.
_FLAT = 2 * MAX_DEPTH

_CHANNEL = as_parsed("channel")
_BY_NAME = {channel.name: channel for channel in CHANNELS}


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
    if number is not float and number is not Decimal:
        raise ValueError(f"number must be float or decimal.Decimal, not {number!r}")
    event: Event = event_from(inflate_push(data, MAX_SIZE), time_ns(), number)
    return event


def inflate_push(data: bytes, max_size: int) -> bytes:
    """Inflate a message, at most `max_size` bytes of it; raises DecodeError."""
    try:
        return inflate(data, max_size)
    except ValueError as error:
        raise DecodeError(f"not a push: {error}", data) from None


def event_from(text: bytes, received_ns: int, number: NumberType) -> Any:
    """Make the event of a push, from its JSON.

    Raises:
        DecodeError: it is no JSON, no push, or a push of the wrong shape.
    """
    try:
        parsed = loads(text)
        if number is not float:  # after orjson, so that the same texts are refused in both modes
            parsed = json.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", text) from None
    if len(text) > _FLAT and _too_deep(parsed, text):
        raise DecodeError(f"not a push: nested over {MAX_DEPTH} levels deep", text)
    if type(parsed) is not dict:
        raise DecodeError(f"not a push: a JSON {type(parsed).__name__}", text)
    push = parsed
    channel = _channel_of(push, text)
    found = push if channel.body is None else push.get(channel.body)
    if type(found) is not dict:
        raise _wrong(channel, None, "an object", text)
    body = found
    exact = True
    for key in channel.exact:
        if type(push.get(key)) is float:
            exact = False
    for part in channel.parts:
        if not _is_exact(channel, part, body, text):
            exact = False
    if not exact:
        # orjson gives integers beyond 64 bits as doubles; the standard library gives all digits.
        push = json.loads(text)
        body = push if channel.body is None else push[channel.body]
    event = primitives.new(channel.event)
    event._raw = push
    event._wire = body
    event._received_ns = received_ns
    event._number = number
    return event


def _channel_of(push: dict[str, Any], text: bytes) -> Channel:
    name = push.get(_CHANNEL)
    if type(name) is not str:
        if _CHANNEL in push:
            raise DecodeError("wrong shape: channel is not a string", text)
        raise DecodeError("not a push: no channel in it", text)
    channel = _BY_NAME.get(name)
    if channel is None or (
        channel.only_key is not None and push.get(channel.only_key) != channel.only_value
    ):
        return UNDOCUMENTED
    return channel


def _is_exact(channel: Channel, part: Part, body: dict[str, Any], text: bytes) -> bool:
    """Whether all ids of a part have all their digits.

    Raises:
        DecodeError: the part has the wrong shape.
    """
    value = body if part.key is None else body.get(part.key)
    if value is None:
        return True
    exact = True
    if part.many:
        if type(value) is not list:
            raise _wrong(channel, part, "a list", text)
        for item in value:
            if type(item) is not dict:
                raise _wrong(channel, part, "a list of objects", text)
            for key in part.exact:
                if type(item.get(key)) is float:
                    exact = False
    elif type(value) is dict:
        for key in part.exact:
            if type(value.get(key)) is float:
                exact = False
    elif value:
        raise _wrong(channel, part, "an object", text)
    return exact


def _wrong(channel: Channel, part: Part | None, expected: str, text: bytes) -> DecodeError:
    where = ".".join(key for key in (channel.body, part and part.key) if key)
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
