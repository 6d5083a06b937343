"""`fastpos.decode`: what is refused, what is exact, and that nothing else can come of any bytes."""

from __future__ import annotations

import decimal
import json
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import reduce
from operator import getitem
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import DecodeError, FastposError, Order, SystemClose, Unknown, decode
from fastpos.cli.lines import line
from fastpos.wire.decoder import MAX_DEPTH
from tests.fuzz.decoder import one
from tests.support.pushes import ALTERED, NAMES, REAL, bomb, load, packed, pushed, text_of

KEPT = 300  # bytes of a bad push that an error keeps
NUMBERS = [float, Decimal]
ORDER = pushed(load("order"))


# --- refusals -------------------------------------------------------------------------------------


NOT_JSON = [
    b"",
    b" ",
    b"connect success",
    b"{",
    b'{"channel":"order"',
    b'{"channel":"order"}}',
    b"{'channel':'order'}",
    b'{"channel":"order",}',
    b'{"channel":"x","a":NaN}',
    b'{"channel":"x","a":Infinity}',
    b'{"channel":"x","a":-Infinity}',
    b'{"channel":"x","a":01}',
    b'{"channel":"x","a":+1}',
    b'{"channel":"x","a":.5}',
    b'{"channel":"x","a":1e400}',
    b'{"channel":"x","a":"\xff"}',
    b'{"channel":"x","a":"\xed\xa0\x80"}',  # a lone surrogate in UTF-8
    b'{"channel":"x","a":"\\ud800"}',  # and as an escape
    b'{"channel":"x","a":"\n"}',
    b'\xef\xbb\xbf{"channel":"x"}',
    '{"channel":"x"}'.encode("utf-16"),
    '{"channel":"x"}'.encode("utf-16-le"),
    b'{"channel":"x","a":' + b"9" * 10_000 + b"}",
    b"[" * 100_000,
]


BOMB = bomb(50 * 1024 * 1024, b'{"channel":"x"}')
NOT_A_PUSH = [b"null", b"true", b"0", b"1.5", b'"channel"', b"[]", b'["channel"]', b"{}"]
REFUSED = [
    # the bytes, what is said of them, what is kept of them
    *((data, "not a push", data) for data, _ in ALTERED.values()),
    *((data, "not a push", data) for data in (b"\x1f", zlib.compress(text_of("order")))),
    (bytes(100_000), "not a push", bytes(100_000)),
    (BOMB, "not a push", BOMB),
    *((packed(text), "not a push", text) for text in NOT_A_PUSH),
    *((packed(text), "not JSON", text) for text in NOT_JSON),
]


@pytest.mark.parametrize(("data", "said", "kept"), REFUSED, ids=lambda value: repr(value[:40]))
@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_no_push(data: bytes, said: str, kept: bytes, number: Any) -> None:
    with pytest.raises(DecodeError, match=said) as caught:
        decode(data, number)
    error = caught.value
    assert error.data == kept[:KEPT]
    assert len(repr(error)) < 10 * KEPT
    assert len(str(error)) < KEPT
    assert isinstance(error, FastposError)
    assert isinstance(error, ValueError)


ODD: list[Any] = [None, 1, 1.5, True, "x", [], {}, [1], [None], [{}], [{}, []], ["order"]]


def holders(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all objects and lists in a message."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield (*path, key)
            yield from holders(inner, (*path, key))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_odd_where_an_object_or_a_list_belongs(name: str) -> None:
    for *above, key in [("channel",), *holders(load(name))]:
        for odd in ODD:
            push = load(name)
            reduce(getitem, above, push)[key] = odd
            one(pushed(push))


def test_the_error_says_where() -> None:
    for push, where in (
        ({"channel": "ACCOUNT_UPDATE", "d": {"a": 1}}, "d.a"),
        ({"channel": "ACCOUNT_UPDATE", "d": {"p": 1}}, "d.p"),
        ({"channel": "order", "order": {"otoOrder": 1}}, "order.otoOrder"),
        ({"channel": "ACCOUNT_UPDATE"}, "d"),
        ({"channel": "order"}, "order"),
        ({"channel": "trigOrder", "order": {}}, "trigOrder"),
        ({"channel": 5}, "channel"),
    ):
        for number in NUMBERS:
            with pytest.raises(DecodeError, match=f"wrong shape.*{where}") as caught:
                decode(pushed(push), number)
            assert caught.value.data == json.dumps(push).encode()


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_any_buffer_will_do(make: Callable[[bytes], Any]) -> None:
    assert decode(make(ORDER)) == decode(ORDER)
    with pytest.raises(DecodeError) as caught:
        decode(make(b"abc"))
    assert caught.value.data == b"abc"
    assert type(caught.value.data) is bytes


@pytest.mark.parametrize(
    ("data", "number", "error"),
    [
        *((data, float, TypeError) for data in (None, "text", 5, [1])),
        *((ORDER, number, ValueError) for number in (int, str, None, "float", 1.0, complex)),
    ],
)
def test_wrong_arguments(data: Any, number: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        decode(data, number)
    assert ("number" in str(caught.value)) == (error is ValueError)


# --- what is passed on ----------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["", "fundingFee", "系统", "\U0001f600"])
def test_unknown_channels(channel: str) -> None:
    push = {"channel": channel, "uid": 7, "order": 1, "d": [None]}
    event = decode(pushed(push))
    assert (type(event), event.raw) == (Unknown, push)
    assert line(event)


@pytest.mark.parametrize(
    ("push", "kind"),
    [
        *(({"et": said}, SystemClose) for said in ("close", "CLOSE", "Close")),
        *((push, Unknown) for push in ({"et": "open"}, {"et": None}, {}, {"et": ["close"]})),
    ],
)
def test_the_system_closes_in_either_case_and_with_no_other_word(push: Any, kind: type) -> None:
    event = decode(pushed({"channel": "SYSTEM", **push}))
    assert (type(event), event.raw) == (kind, {"channel": "SYSTEM", **push})


def test_escapes_and_the_last_of_two_equal_keys() -> None:
    text = rb'{"channel":"order","order":{"symbol":"\u0042\ud83d\ude00\u0000\"\\","x":"\/"}}'
    twice = b'{"channel":"x","channel":"order","order":1,"order":{"symbol":"1","symbol":"2"}}'
    for number in NUMBERS:
        for pushed_, symbol in ((text, 'B\U0001f600\0"\\'), (twice, "2")):
            order = decode(packed(pushed_), number)
            assert isinstance(order, Order)
            assert order.symbol == symbol


@pytest.mark.parametrize("white", [b" ", b"\n", b"\r\n\t", b" " * 5000])
def test_white_space_around(white: bytes) -> None:
    assert decode(packed(white + text_of("order") + white)) == decode(ORDER)


# --- exact numbers --------------------------------------------------------------------------------


EXACT = [
    "85717.01833333999523920",
    "12345678901234567890",
    "0.00000000000000000001",
    "-1.10",
    "1E-30",
    "3.141592653589793238462643383279502884197",
    "0." + "123456789" * 1111,
]


@pytest.mark.parametrize("text", EXACT, ids=lambda text: text[:30])
@pytest.mark.parametrize("form", ["%s", '"%s"'], ids=["number", "string"])
def test_decimal_is_exact(text: str, form: str) -> None:
    push = f'{{"channel":"order","order":{{"price":{form % text}}}}}'
    order = decode(packed(push), Decimal)
    assert isinstance(order, Order)
    assert type(order.price) is Decimal
    assert str(order.price) == str(Decimal(text))
    assert str(order.raw["order"]["price"]) == str(Decimal(text)) or form == '"%s"'


def test_decimal_is_exact_whatever_the_context() -> None:
    traps = [decimal.Inexact, decimal.Rounded, decimal.FloatOperation]
    with decimal.localcontext(decimal.Context(prec=3, traps=traps)):
        one(REAL)
        order = decode(pushed({"channel": "order", "order": {"price": "x"}}), Decimal)
        assert isinstance(order, Order)
        assert order.price == "x"


@pytest.mark.parametrize(
    "number",
    [
        # A double rounds them to 0; a Decimal cannot be made of the first two.
        *("1e-99999999999999999999", "0e99999999999999999999", "-0E-9"),
        *(
            "9" * 10_000,
            "0." + "9" * 10_000,
            '"' + "9" * 10_000 + '"',
            "1e-" + "9" * 10_000,
            "1e300",
        ),
    ],
    ids=lambda text: text[:25],
)
def test_numbers_of_any_size(number: str) -> None:
    one(packed(f'{{"channel":"order","order":{{"price":{number},"contractId":{number}}}}}'))
    one(packed(f'{{"channel":"order","order":{{"price":{number},"orderId":0}}}}'))


# --- nests ----------------------------------------------------------------------------------------


PLACES = {
    "unknown": '{"channel":"x","a":%s}',
    "symbol": '{"channel":"order","order":{"symbol":%s}}',
    "beside a fractional id": '{"channel":"order","order":{"orderId":1.5,"new":%s}}',
    "beside a huge id": '{"channel":"ADL_PRICE","l":[{"id":99999999999999999999,"new":%s}]}',
    "position": '{"channel":"ACCOUNT_UPDATE","d":{"et":"CREATE","p":{"id":1e30,"s":%s}}}',
}


def nest(depth: int, pair: str) -> str:
    return ("[" if pair == "[]" else '{"a":') * depth + "1" + pair[1] * depth


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize("depth", [20, 100, 300, 990, 1000, 1015, 2000, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_nests_are_refused_with_both_types_or_none(place: str, depth: int, pair: str) -> None:
    one(packed(place % nest(depth, pair)))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("white", ["", " " * 1000])
def test_the_limit_of_nests_is_the_same_in_short_texts(number: Any, white: str) -> None:
    text = f'{{"channel":"x","a":%s}}{white}'
    assert isinstance(decode(packed(text % nest(MAX_DEPTH - 1, "[]")), number), Unknown)
    with pytest.raises(DecodeError, match="nested over 256 levels"):
        decode(packed(text % nest(MAX_DEPTH, "[]")), number)


# --- anything at all ------------------------------------------------------------------------------


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes(data: bytes) -> None:
    one(data)
    one(packed(data))


numerals = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["0", "-0", "7", "-12345678901234567890123", "9" * 300]),
        st.sampled_from(["", ".0", ".00000000000000000000000001", ".98765432109876543210"]),
        st.sampled_from(["", "e0", "E5", "e-30", "e+400", "e-400", "e99999999999999999999"]),
    ),
)
values = st.one_of(
    numerals,
    numerals.map('"{}"'.format),
    st.sampled_from(["null", "true", "NaN", "-Infinity", '"\\ud800"', '"sNaN"', '""', "[]", "{}"]),
    st.text(max_size=4).map(json.dumps),
)


@given(st.sampled_from([*NAMES, "adl_price_two"]), st.integers(0, 100), values)
@settings(max_examples=200, deadline=None)
def test_any_value_in_any_place(name: str, which: int, value: str) -> None:
    parts = re.split(r'(?<=:)("[^"]*"|[^][{}",]+)', json.dumps(load(name), separators=(",", ":")))
    place = which % (len(parts) // 2) * 2 + 1
    one(packed("".join([*parts[:place], value, *parts[place + 1 :]])))


def test_many_threads_at_once() -> None:
    frames = {data: decode(data) for data in (REAL, *(packed(text_of(name)) for name in NAMES))}

    def run(_: int) -> bool:
        return all(decode(data) == event for data, event in [*frames.items()] * 40)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))


def test_sizes_up_to_the_limit() -> None:
    limit = 1024 * 1024
    fits, too_large = (b'{"channel":"x","a":"%s"}' % (b"x" * (limit - n)) for n in (22, 21))
    assert len(fits) == limit
    assert type(decode(packed(fits))) is Unknown
    with pytest.raises(DecodeError):
        decode(packed(too_large))
