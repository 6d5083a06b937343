"""`fastpos.decode`, with floats and Decimals, against gzip and json.

An input is a push: what the standard library makes of it, and a plain description of the shapes,
tell whether it is to be an event or a `DecodeError`.
"""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from math import isinf
from random import Random
from typing import Any

from fastpos import DecodeError, Event, decode
from fastpos.cli.lines import line
from fastpos.model.fields import NumberType
from fastpos.wire.decoder import MAX_DEPTH, MAX_SIZE, event_from
from fastpos.wire.inflate import inflate, inflate_pure
from tests.fuzz.mutators import mutate_push, strictly_inflated

KEPT = 300  # bytes of a bad push that an error keeps

BODIES = {"ACCOUNT_UPDATE": "d", "order": "order", "trigOrder": "trigOrder"}


def one(data: bytes) -> None:
    text = same_inflated(data, MAX_SIZE)
    for number in (float, Decimal):
        expected = text is not None and is_push(text, number)
        found = outcome(lambda number=number: decode(data, number))  # type: ignore[misc]
        assert isinstance(found, Event) == expected, f"{found!r}, of {text!r}"
        if text is None:
            assert isinstance(found, DecodeError)
            assert found.data == data[:KEPT]
            continue
        pure = outcome(lambda number=number: event_from(text, 1, number))  # type: ignore[misc]
        assert type(found) is type(pure) or isinstance(found, DecodeError)
        if isinstance(found, DecodeError):
            assert isinstance(pure, DecodeError)
            assert found.args == pure.args
            assert found.data == text[:KEPT]
        else:
            assert isinstance(pure, Event)
            assert found == pure
            assert repr(found.raw) == repr(pure.raw)
            examine(found, text, number)


def outcome(function: Callable[[], Event]) -> Event | DecodeError:
    try:
        return function()
    except DecodeError as error:
        refusal = error
    assert 0 < len(str(refusal)) < 1000
    assert line(refusal)
    return refusal


def examine(event: Event, text: bytes, number: NumberType) -> None:
    """Everything that a user may do with an event works, and its numbers are the wire's."""
    assert repr(event).startswith(type(event).__name__)
    assert line(event)
    assert event in {event}
    again = pickle.loads(pickle.dumps(event))
    assert again == event
    assert again.raw == event.raw
    if number is Decimal:
        assert repr(event.raw) == repr(json.loads(text, parse_float=as_decimal))
    else:
        assert rounded(event.raw) == rounded(json.loads(text))


def same_inflated(data: bytes, limit: int) -> bytes | None:
    """The content of one gzip member, None where it is none; both inflaters and zlib agree."""
    content = strictly_inflated(data, limit)
    for function in (inflate, inflate_pure):
        try:
            found = function(data, limit)
        except ValueError:
            assert content is None
            continue
        if content is None:
            # ISA-L takes incomplete Huffman codes and reserved flags, which zlib does not. The
            # checksum shows that the content is the sender's.
            assert len(found) <= limit
            assert data[-8:] == struct.pack("<II", zlib.crc32(found), len(found))
            content = found
        assert found == content
    return content


def is_push(text: bytes, number: NumberType = float) -> bool:
    """Whether this is to become an event."""

    def parse_float(digits: str) -> float | Decimal:
        value = finite(digits)
        # In the place of a position or of attached orders 1e-400 is something with Decimal, and
        # nothing with float.
        return value if number is float else as_decimal(digits)

    try:
        push = json.loads(
            text.decode(), parse_constant=refuse, parse_float=parse_float, parse_int=finite
        )
        pairs = json.loads(text, object_pairs_hook=list)  # those of equal keys too
        json.dumps(pairs, ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, RecursionError):
        return False
    if type(push) is not dict or type(push.get("channel")) is not str or depth(push) > MAX_DEPTH:
        return False
    known = {name.lower(): name for name in ("ADL_PRICE", *BODIES)}
    channel = known.get(push["channel"].lower())
    body = push.get(BODIES[channel]) if channel in BODIES else push
    if type(body) is not dict:
        return False
    if channel == "ACCOUNT_UPDATE":
        return are_objects(body.get("a")) and (not body.get("p") or type(body["p"]) is dict)
    if channel == "ADL_PRICE":
        return are_objects(body.get("l"))
    if channel == "order":
        return not body.get("otoOrder") or type(body["otoOrder"]) is dict
    return True


def are_objects(value: Any) -> bool:
    return value is None or (
        type(value) is list and all(type(element) is dict for element in value)
    )


def refuse(constant: str) -> None:
    raise ValueError(constant)


def finite(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ValueError("beyond a double")
    return value


def depth(value: Any) -> int:
    """Objects and lists within each other."""
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        deepest += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest


def rounded(value: Any) -> Any:
    """The same JSON with every number as a double."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(value) if type(value) in (int, float) else value


def as_decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits or more, which a double rounds to 0
        return Decimal("-0" if text[0] == "-" else 0)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return mutate_push(data, max_size, Random(seed))
