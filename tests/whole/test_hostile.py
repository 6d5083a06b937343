"""Pushes that are meant to do harm, by themselves and over a real connection.

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

from fastpos import DecodeError, Event, Order, PositionStream, Unknown, decode
from fastpos.runtime.stats import count
from fastpos.simulator import Exchange
from tests.support.pushes import bomb, order, packed
from tests.support.recording import SOON, Recorder, until

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
    "lone surrogate": (packed(b'{"channel":"x","a":"\xed\xa0\x80"}'), DecodeError, MIB),
    "10,000 digits": (with_order(f'"price":{NINES}'), DecodeError, MIB),
    "10,000 digits after the point": (with_order(f'"price":0.{NINES}'), Order, MIB),
    "10,000 digits as strings": (with_order(f'"price":"{NINES}","orderId":"{NINES}"'), Order, MIB),
    "an exponent of 10,000 digits": (with_order(f'"price":1e-{NINES}'), Order, MIB),
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


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize(("data", "expected", "memory"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_push(data: bytes, expected: type, memory: int, number: Any) -> None:
    outcome: Event | DecodeError
    with at_most(memory):
        try:
            outcome = decode(data, number)
        except DecodeError as error:
            outcome = error
    assert type(outcome) is expected
    assert not isinstance(outcome, DecodeError) or len(outcome.data) <= 300


def test_a_stream_goes_on_after_all_of_them(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange) as stream:
        assert stream.wait_ready(SOON)
        with at_most(256 * MIB):
            for data, _, _ in HOSTILE.values():
                exchange.push_bytes(data)
            for text in (b"[" * LIMIT, b'"' * LIMIT):  # not compressed
                exchange.push_bytes(text, text=True)
            exchange.push(order(4711))
            until(lambda: recorder.calls[-1][0] == "on_order"
                  and recorder.calls[-1][1].order_id == "4711", 60)  # fmt: skip
        came = [type(event) for name, event in recorder.calls if name != "on_ready"]
        expected = [expected for _, expected, _ in HOSTILE.values()]
        assert came == [*expected, DecodeError, DecodeError, Order]
        assert stream.stats.connects == 1
        assert len(repr(stream.stats)) < 10 * KIB


def test_channels_are_counted_by_names_of_a_bounded_length() -> None:
    counts: dict[str, int] = {}
    for number in range(120):
        count(counts, f"{number}{'x' * 50_000}")
    assert sum(counts.values()) == 120
    assert len(counts) <= 101
    assert max(map(len, counts)) <= 200
