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
from ..model.fields import NumberType, as_parsed
from ..model.table import Channel, Part
from .inflate import inflate

__all__ = ["MAX_SIZE", "OddPart", "all_begin", "decode", "event_from", "inflate_push"]

# The largest JSON that a push may hold, bytes; real ones stay under 2 KiB.
MAX_SIZE = 1024 * 1024
# Objects and lists within each other; real pushes have 4. Python's own limits (for pickling, for
# repr) begin at a few hundred.
MAX_DEPTH = 256
# So many bytes, and no fewer, can be nested more deeply; most pushes have fewer.
_FLAT = 2 * MAX_DEPTH

_CHANNEL = as_parsed("channel")
_BY_NAME = {channel.name: channel for channel in CHANNELS}  # as they are usually spelt


class OddPart(DecodeError):
    """A part of a push has the wrong shape, and the others do not.

    Attributes:
        event: of the others; set where it is raised.
    """

    event: Any = None


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
    try:
        text = inflate(data, MAX_SIZE)
    except ValueError as error:
        raise DecodeError(f"not a push: {error}", data) from None
    try:
        event: Event = event_from(text, time_ns(), number)
    except OddPart as error:
        raise DecodeError(*error.args) from None
    return event


def inflate_push(data: bytes, max_size: int) -> bytes:
    """Inflate a message, at most `max_size` bytes of it; raises DecodeError."""
    try:
        return inflate(data, max_size)
    except ValueError as error:
        raise DecodeError(f"not a push: {error}", data) from None


def all_begin(texts: list[bytes], heads: tuple[bytes, ...]) -> bool:
    """Whether each of `texts` begins with one of `heads`."""
    for text in texts:  # noqa: SIM110 -- compiled, a generator costs more than the loop
        if not text.startswith(heads):
            return False
    return True


def event_from(text: bytes, received_ns: int, number: NumberType, stream: str | None = None) -> Any:
    """Make the event of a push, from its JSON.

    Args:
        text: the JSON.
        received_ns: when it was read, `time.time_ns()`.
        number: type of numbers.
        stream: the name of the stream that it came by.

    Raises:
        DecodeError: it is no JSON, no push, or a push of the wrong shape.
        OddPart: a part of it has the wrong shape.
    """
    try:
        parsed = loads(text)
        if number is not float:  # after orjson, so that the same texts are refused in both modes
            parsed = json.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", text) from None
    if len(text) > _FLAT and _too_deep(parsed, text):
        raise DecodeError(f"not a push: nested over {MAX_DEPTH} levels deep", text)
    try:
        push = parsed
        channel = _BY_NAME[push[_CHANNEL]]
        if channel.only is not None and not _is_only(push, channel):
            channel = UNDOCUMENTED
        body = push if channel.body is None else push[channel.body]
    except (KeyError, TypeError):
        channel = _channel_of(parsed, text)
        push = parsed
        body = push if channel.body is None else push.get(channel.body)
    if type(body) is not dict:
        raise _wrong(channel, None, "an object", text)
    odd: tuple[Part, ...] = ()  # those of the wrong shape
    exact = True  # whether all ids have all their digits
    for key in channel.exact:
        if type(push.get(key)) is float:
            exact = False
    for key in channel.body_exact:
        if type(body.get(key)) is float:
            exact = False
    for part in channel.inner:
        value = body.get(part.key)
        if value is None:
            continue
        if part.many:
            if type(value) is not list:
                odd = (*odd, part)
                continue
            items = value
            for item in items:
                if type(item) is not dict:
                    if part not in odd:
                        odd = (*odd, part)
                    continue
                thing = item
                for key in part.exact:
                    if type(thing.get(key)) is float:
                        exact = False
        elif type(value) is dict:
            thing = value
            for key in part.exact:
                if type(thing.get(key)) is float:
                    exact = False
        elif value:
            odd = (*odd, part)
    if not exact:
        # orjson gives integers beyond 64 bits as doubles; the standard library gives all digits.
        push = json.loads(text)
        body = push if channel.body is None else push[channel.body]
    partly = None
    if odd:
        body, partly = _without(odd, channel, body, text)
    event = primitives.new(channel.event)
    event._raw = push
    event._wire = body
    event._received_ns = received_ns
    event._number = number
    event._stream = stream
    if partly is not None:
        partly.event = event
        raise partly
    return event


def _without(
    odd: tuple[Part, ...], channel: Channel, body: dict[str, Any], text: bytes
) -> tuple[dict[str, Any], OddPart]:
    """Give a body without the odd parts, or the odd objects of a list, and what is to be told.

    Raises:
        DecodeError: there is nothing else in it.
    """
    rest = dict(body)
    for part in odd:
        value = rest.pop(part.key)
        if part.many and type(value) is list:
            rest[part.key] = [item for item in value if type(item) is dict]
    part = odd[0]
    expected = "an object"
    if part.many:
        expected = "a list of objects" if part.key in rest else "a list"
    error = _wrong(channel, part, expected, text)
    if not any(rest.get(part.key) if part.key else True for part in channel.parts):
        raise error
    return rest, OddPart(*error.args)


def _channel_of(parsed: Any, text: bytes) -> Channel:
    """Give the row of a push that has none of its own.

    Raises:
        DecodeError: it is no push, or one without a body.
    """
    if type(parsed) is not dict:
        raise DecodeError(f"not a push: a JSON {type(parsed).__name__}", text)
    if _CHANNEL not in parsed:
        raise DecodeError("not a push: no channel in it", text)
    name = parsed[_CHANNEL]
    if type(name) is not str:
        raise DecodeError("wrong shape: channel is not a string", text)
    for channel in CHANNELS:
        if channel.name.lower() == name.lower():
            if type(parsed if channel.body is None else parsed.get(channel.body)) is not dict:
                raise _wrong(channel, None, "an object", text)
            if channel.only is None or _is_only(parsed, channel):
                return channel
    return UNDOCUMENTED


def _is_only(push: dict[str, Any], channel: Channel) -> bool:
    """Whether a push says the one value, in either case, that makes it the channel's event."""
    assert channel.only is not None
    key, value = channel.only
    said = push.get(key)
    return type(said) is str and said.lower() == value


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
