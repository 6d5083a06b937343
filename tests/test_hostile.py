"""Pushes that are meant to do harm, over a real connection.

Each gives one event or one `DecodeError`, takes a bounded amount of memory, and leaves the stream
as it was: the next push is delivered, on the same connection. The tests of decoding have what each
is to be decoded to.
"""

from __future__ import annotations

import gc
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from fastpos import DecodeError, Event, Order, PositionStream, ProtocolError, Unknown
from fastpos.simulator import Exchange
from tests.support.frames import BINARY, CONTINUATION, TEXT, frame
from tests.support.pushes import bomb, order, packed
from tests.support.recording import SOON, Recorder

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]

KIB = 1024
MIB = 1024 * KIB
LIMIT = MIB  # of a message, the default

NewStream = Callable[..., PositionStream]


def member_that_claims(size: int) -> bytes:
    """A member whose trailer announces so many bytes."""
    return packed(json.dumps(order(1)))[:-4] + struct.pack("<I", size)


def filled(text: str, what: str) -> bytes:
    """As many of `what` as fit into a push."""
    return packed(text % (what * ((LIMIT - len(text)) // len(what))).rstrip(","))


def with_order(fields: str) -> bytes:
    return packed(f'{{"channel":"order","order":{{{fields}}}}}')


def nest(opening: str, inside: str, closing: str) -> bytes:
    """Brackets in each other, 100,000 of them."""
    return packed(f'{{"channel":"x","a":{opening * 100_000}{inside}{closing * 100_000}}}')


NINES = "9" * 10_000
EXACT = '"orderId":123456789012345678901,"contractId":-98765432109876543210'
TWICE = '{"channel":"x","channel":"order","order":[],"order":{"type":1,"type":2}}'
KEYS = ",".join(f'"{number:x}":0' for number in range(80_000))

# The push, what comes of it, and the memory it may take beyond what is there already: little where
# it is refused before it is parsed, some 60 bytes for each byte where it is full of values.
HOSTILE: dict[str, tuple[bytes, type, int]] = {
    "bomb of 100 MiB": (bomb(100 * MIB, b'{"channel":"x"}'), DecodeError, 4 * MIB),
    "claims 4 GiB": (member_that_claims(0xFFFFFFFF), DecodeError, 4 * MIB),
    "nest of 100,000 lists": (nest("[", "", "]"), DecodeError, 8 * MIB),
    "nest of 100,000 objects": (nest('{"a":', "1", "}"), DecodeError, 8 * MIB),
    "brackets without an end": (packed("[" * 100_000), DecodeError, 8 * MIB),
    "NaN": (with_order('"price":NaN'), DecodeError, MIB),
    "Infinity": (with_order('"price":Infinity'), DecodeError, MIB),
    "-Infinity": (with_order('"price":-Infinity'), DecodeError, MIB),
    "NaN as a string": (with_order('"price":"NaN"'), Order, MIB),
    "duplicate keys": (packed(TWICE), Order, MIB),
    "lone surrogate": (packed(b'{"channel":"x","a":"\xed\xa0\x80"}'), DecodeError, MIB),
    "lone surrogate, escaped": (packed('{"channel":"\\udc00"}'), DecodeError, MIB),
    "10,000 digits": (with_order(f'"price":{NINES}'), DecodeError, MIB),
    "10,000 digits after the point": (with_order(f'"price":0.{NINES}'), Order, MIB),
    "10,000 digits as strings": (with_order(f'"price":"{NINES}","orderId":"{NINES}"'), Order, MIB),
    "an exponent of 10,000 digits": (with_order(f'"price":1e-{NINES}'), Order, MIB),
    "ids beyond 64 bits": (with_order(EXACT), Order, MIB),
    "an id as an exponent": (with_order('"orderId":1e300,"contractId":1e300'), Order, MIB),
    "a channel of 1 MiB": (filled('{"channel":"%s"}', "x"), Unknown, 20 * MIB),
    "a list of nothing but lists": (filled('{"channel":"x","a":[%s]}', "[],"), Unknown, 128 * MIB),
    "as many keys as fit": (packed(f'{{"channel":"x",{KEYS}}}'), Unknown, 64 * MIB),
}


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No more than `size` bytes are allocated at any moment within, beyond those before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= size, f"{peak / MIB:.1f} MiB, not {size / MIB:.1f}"


def check_that_it_goes_on(exchange: Exchange, recorder: Recorder, count: int) -> list[Any]:
    """The next push is delivered; all that came before it, `on_ready` left out."""
    exchange.push(order(4711))
    recorder.wait("on_order", count, timeout=30)  # tracemalloc makes it slow
    assert recorder.on_order[-1].order_id == "4711"
    return [event for name, event in recorder.calls if name != "on_ready"][:-1]


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_push(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, name: str, number: Any
) -> None:
    data, expected, memory = HOSTILE[name]
    orders = 1 + (expected is Order)
    with new_stream(exchange, number=number) as stream:
        assert stream.wait_ready(SOON)
        with at_most(memory + MIB):
            exchange.push_bytes(data)
            came = check_that_it_goes_on(exchange, recorder, orders)
        assert [type(event) for event in came] == [expected]
        if isinstance(came[0], DecodeError):
            assert len(came[0].data) <= 300
        else:
            assert isinstance(came[0], Event)
        assert stream.stats.connects == 1
        assert len(repr(stream.stats)) < 10 * KIB


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(BINARY, announce=1 << 30), 1009),
        (frame(TEXT, announce=1 << 30), 1009),
        (frame(BINARY, announce=(1 << 63) - 1), 1009),
        (frame(BINARY, announce=(1 << 64) - 1), 1002),
        (frame(BINARY, fin=False) + frame(CONTINUATION, announce=1 << 30), 1009),
    ],
    ids=["binary", "text", "2^63 - 1", "2^64 - 1", "fragment"],
)
def test_a_length_of_a_gigabyte(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, wire: bytes, code: int
) -> None:
    """It is refused by its header, on which nothing follows, and the stream comes back."""
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        with at_most(4 * MIB):
            exchange.send_raw(wire)
            recorder.wait("on_ready", 2)
        (ended,) = recorder.on_disconnect
        assert isinstance(ended.error, ProtocolError)
        assert ended.error.close_code == code
        check_that_it_goes_on(exchange, recorder, 1)


def test_channels_are_counted_by_names_of_a_bounded_length(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        for number in range(120):
            exchange.push_bytes(packed(f'{{"channel":"{number}{"x" * 50_000}"}}'))
        recorder.wait("on_unknown", 120)
        channels = stream.stats.unknown_channels
    assert sum(channels.values()) == 120
    assert len(channels) <= 101
    assert max(map(len, channels)) <= 200
