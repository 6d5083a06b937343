"""Both inflaters, each against the format (RFC 1952, 1951) and zlib; and the frame splitter."""

from __future__ import annotations

import gzip
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos._c import mechanism, why_not
from fastpos.wire.inflate import inflate_pure
from tests.fuzz.mutators import strictly_inflated
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.support.gil import another_thread
from tests.support.pushes import ALTERED, FHCRC, MEMBERS, REAL, deflated, member, packed, text_of

pytestmark = pytest.mark.long

_inflate = mechanism("_inflate")
Inflate = Callable[[bytes, int], bytes]
Split = Callable[..., int]

KIB = 1024
MIB = 1024 * KIB


def new_inflater() -> Any:
    if _inflate is None:
        pytest.skip(why_not["_inflate"])
    return _inflate.Inflater()


@pytest.fixture(params=["native", "pure"])
def inflate(request: pytest.FixtureRequest) -> Inflate:
    native: Inflate = inflate_pure if request.param == "pure" else new_inflater().inflate
    return native


@pytest.fixture
def split() -> Split:
    native: Split = new_inflater().split
    return native


def verdict(inflate: Inflate, data: bytes, max_size: int = MIB) -> bytes | str:
    """The content, or the reason of the refusal."""
    try:
        return inflate(data, max_size)
    except ValueError as error:
        return str(error)


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 257, 258, 259, 16 * KIB, 40 * KIB, 300 * KIB])
@pytest.mark.parametrize(
    ("level", "strategy"),
    [(0, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FIXED), (9, zlib.Z_HUFFMAN_ONLY), (6, 0), (1, 0)],
    ids=["stored", "fixed", "huffman", "dynamic", "fast"],
)
def test_kinds_of_blocks(inflate: Inflate, size: int, level: int, strategy: int) -> None:
    chance = random.Random(size)
    for content in (chance.randbytes(size), (b"0.1234567890," * size)[:size], bytes(size)):
        data = member(content, deflated(content, level, strategy))
        assert inflate(data, MIB) == inflate(data, max(size, 1)) == content


def test_lengths_around_the_end_of_the_scratch_buffer(inflate: Inflate) -> None:
    text = b"".join(b'{"n":%d,"v":%d}' % (n, n * n) for n in range(2000))
    for size in [*range(15 * KIB + 480, 15 * KIB + 545), *range(16 * KIB - 2, 16 * KIB + 3)]:
        assert inflate(member(text[:size]), MIB) == text[:size]


@pytest.mark.parametrize("flags", range(32))
def test_header_fields(inflate: Inflate, flags: int) -> None:
    assert inflate(member(text_of("order"), flags=flags), MIB) == text_of("order")


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_kinds_of_buffers(inflate: Inflate, make: Callable[[bytes], bytes]) -> None:
    assert inflate(make(REAL), MIB) == gzip.decompress(REAL)


def test_more_than_64_kib_of_input(inflate: Inflate) -> None:
    content = random.Random(7).randbytes(700 * KIB)
    data = packed(content)
    assert inflate(data, MIB) == content
    assert verdict(inflate, data, len(content) - 1) == "inflates to more than 716799 bytes"
    assert verdict(inflate, data + b"\0") == "trailing bytes"
    assert verdict(inflate, data[:-1]) == "cut short"
    assert verdict(inflate, data[:-5] + b"\0" + data[-4:]) == "wrong checksum or length"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "reason"), ALTERED.values(), ids=ALTERED)
def test_what_is_no_push_is_refused_with_the_reason(
    inflate: Inflate, data: bytes, reason: str
) -> None:
    assert verdict(inflate, data) == reason


@pytest.mark.parametrize("claim", [0, 1, 207, 209, 720, 64 * KIB, MIB, MIB + 1, 2**31, 2**32 - 1])
def test_wrong_length_or_checksum(inflate: Inflate, claim: int) -> None:
    assert len(gzip.decompress(REAL)) == 208
    data = REAL[:-4] + claim.to_bytes(4, "little")
    for max_size in (MIB, 209, 208):
        assert verdict(inflate, data, max_size) == "wrong checksum or length"
    head = bytearray(member(b"{}", flags=FHCRC))
    head[10] ^= 1
    assert verdict(inflate, bytes(head)) == "wrong checksum or length"


@pytest.mark.parametrize(
    "body", [b"\7", b"\x05\xe0\xff\xff", b"\1\5\0\0\0hello", b"\x4b\x04\x7f\x00"],
    ids=["type 3", "dynamic header", "stored length", "distance"],
)  # fmt: skip
def test_bad_deflate_data(inflate: Inflate, body: bytes) -> None:
    assert verdict(inflate, member(b"", body + bytes(300))) == "bad deflate data"


def test_max_size(inflate: Inflate) -> None:
    for data in MEMBERS:
        content = gzip.decompress(data)
        assert inflate(data, len(content)) == content
        for limit in (1, 16, len(content) - 1):
            assert verdict(inflate, data, limit) == f"inflates to more than {limit} bytes"
    assert inflate(packed(b""), 1) == b""
    assert inflate(REAL, sys.maxsize) == gzip.decompress(REAL)
    for nonsense in (0, -1, -sys.maxsize):
        assert verdict(inflate, REAL, nonsense) == "max_size must be at least 1"


@pytest.mark.parametrize(
    "arguments",
    [(), (REAL,), (REAL, 1, 2), (REAL, "1"), ("text", 1), (None, 1), (REAL, 1.0),
     (memoryview(REAL + REAL)[::2], 1)],
)  # fmt: skip
def test_wrong_arguments(inflate: Inflate, arguments: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, BufferError)):
        inflate(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("claim", [0, 1000, MIB, 64 * MIB, 2**32 - 1])
def test_a_bomb_is_bounded_in_memory(inflate: Inflate, claim: int) -> None:
    bomb = gzip.compress(bytes(64 * MIB))  # about 64 KiB
    bomb = bomb[:-4] + claim.to_bytes(4, "little")
    for data in (bomb, bomb[:-4000], bomb[:30000] + bomb[-4:]):
        tracemalloc.start()
        try:
            reason = verdict(inflate, data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert reason == f"inflates to more than {MIB} bytes"
        assert peak < MIB + 256 * KIB  # the content, ISA-L's state, a copy of the input


# --- both accept and refuse the same bytes, for the same reasons; zlib is the oracle --------------


def check_agreement(data: bytes, max_size: int = MIB, inflate: Inflate | None = None) -> None:
    pure = verdict(inflate_pure, data, max_size)
    inflate = inflate or (inflate_pure if SHARED is None else SHARED.inflate)
    native = verdict(inflate, data, max_size)
    # What is wrong beside a content that is too large, each sees as far as it looks.
    both_refuse = isinstance(native, str) and isinstance(pure, str)
    assert native == pure or (both_refuse and "inflates" in f"{native}{pure}")
    expected = strictly_inflated(data, max_size)
    if expected is not None:
        assert pure == expected
    elif isinstance(pure, bytes):
        assert data[3] & 0xE0, "accepted, but zlib refuses"  # reserved flags, which gzip ignores
        assert gzip.decompress(data) == pure


SHARED = None if _inflate is None else _inflate.Inflater()
members = st.sampled_from(MEMBERS)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(members))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "insert", "delete", "repeat", "end"])):
            case "flip" if where < len(data):
                data[where] ^= draw(st.integers(1, 255))
            case "cut":
                del data[where:]
            case "insert":
                data[where:where] = draw(st.binary(max_size=20))
            case "delete":
                del data[where : where + draw(st.integers(1, 20))]
            case "repeat":
                data[where:where] = data[where : where + draw(st.integers(1, 40))]
            case "end":
                data[-4:] = draw(st.binary(min_size=4, max_size=4))
    return bytes(data)


@settings(max_examples=300)
@given(mutated(), st.sampled_from([1, 100, 208, 600, MIB]))
def test_agreement_on_mutated_frames(data: bytes, max_size: int) -> None:
    check_agreement(data, max_size)


# --- threads and the GIL --------------------------------------------------------------------------


def test_small_input_is_inflated_without_letting_go_of_the_gil() -> None:
    inflater = new_inflater()
    largest = packed(random.Random(1).randbytes(64 * KIB - 100))
    assert 65000 < len(largest) <= 64 * KIB
    buffer = b"".join(STREAM)
    with another_thread() as turns:
        before = turns()
        for _ in range(200):
            for data in [*MEMBERS, largest]:
                inflater.inflate(data, MIB)
            inflater.split(buffer, 0, len(buffer), MIB, [])
        assert turns() == before


def test_large_input_is_inflated_without_the_gil() -> None:
    inflater = new_inflater()
    data = packed(random.Random(1).randbytes(2 * MIB))
    with another_thread() as turns:
        before = turns()
        for _ in range(1000):
            inflater.inflate(data, 4 * MIB)
            if turns() > before:
                return
    pytest.fail("no other thread ever ran")


# --- frames out of a receive buffer ---------------------------------------------------------------

SMALL = packed(b"{}")  # its frame has a short length, those of MEMBERS a 16-bit one
PUSHES = [SMALL, *MEMBERS, SMALL, SMALL, REAL]
STREAM = [frame(BINARY, data) for data in PUSHES]
CONTENTS = [gzip.decompress(data) for data in PUSHES]
NOISE = random.Random(1).randbytes(70 * KIB)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_split(split: Split, make: Callable[[bytes], bytes]) -> None:
    buffer = make(b"".join(STREAM))
    out = [b"what was there"]
    assert split(buffer, 0, len(buffer), MIB, out) == len(buffer)
    assert out == [b"what was there", *CONTENTS]
    assert split(buffer, 5, 5, MIB, out) == 5
    assert split(b"", 0, 0, MIB, out) == 0


def test_split_at_every_boundary(split: Split) -> None:
    """Whatever `start` and `end` are, only whole frames between them are taken."""
    buffer = bytearray(b"".join(STREAM))
    ends = [0]
    for data in STREAM:
        ends.append(ends[-1] + len(data))
    for first, start in enumerate(ends):
        for end in range(start, len(buffer) + 1):
            last = max(index for index, position in enumerate(ends) if position <= end)
            out: list[bytes] = []
            assert split(buffer, start, end, MIB, out) == ends[last]
            assert out == CONTENTS[first:last]
            # The same where the memory ends with the frames: no byte after `end` is looked at.
            out = []
            assert split(bytes(buffer[start:end]), 0, end - start, MIB, out) == ends[last] - start
            assert out == CONTENTS[first:last]


NOT_TAKEN = {
    "text": frame(TEXT, REAL),
    "continuation": frame(CONTINUATION, REAL),
    "reserved opcode": frame(3, REAL),
    "first fragment": frame(BINARY, REAL, fin=False),
    "close": frame(CLOSE),
    "ping": frame(PING, b"hello"),
    "pong": frame(PONG, b"hello"),
    **{f"rsv {rsv}": frame(BINARY, REAL, rsv=rsv) for rsv in (1, 2, 4)},
    "masked, short": frame(BINARY, SMALL, masked=True),
    "masked, mask of zeros": frame(BINARY, REAL, masked=bytes(4)),
    "length not minimal, 16 bits": frame(BINARY, SMALL, length_form=16),
    "length not minimal, 64 bits": frame(BINARY, SMALL, length_form=64),
    "length not minimal, 64 for 16 bits": frame(BINARY, REAL, length_form=64),
    "length of 64 bits": frame(BINARY, announce=2**64 - 1),
    "payload of 64 KiB": frame(BINARY, packed(NOISE)),
    "bomb": frame(BINARY, packed(bytes(2 * MIB))),
    **{name: frame(BINARY, data) for name, (data, _) in ALTERED.items()},
}


@pytest.mark.parametrize("bad", NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_split_stops_at_anything_else(split: Split, bad: bytes) -> None:
    good = frame(BINARY, REAL)
    out: list[bytes] = []
    buffer = bytearray(good + good + bad + good)
    assert split(buffer, 0, len(buffer), MIB, out) == 2 * len(good)
    assert out == [gzip.decompress(REAL)] * 2
    buffer += b"more"  # it holds on to nothing


def test_split_stops_when_it_has_made_32_kib(split: Split) -> None:
    contents = [bytes([number]) * 1600 for number in range(25)]
    buffer = b"".join(frame(BINARY, packed(content)) for content in contents)
    out: list[bytes] = []
    counts = []
    position = 0
    while position < len(buffer):
        before = len(out)
        position = split(buffer, position, len(buffer), MIB, out)
        counts.append(len(out) - before)
    assert counts == [21, 4]
    assert out == contents


@pytest.mark.parametrize(
    "arguments",
    [(), (b"", 0, 0, 1), (b"", 0, 0, 1, ()), ("", 0, 0, 1, []), (b"", 0, 0.5, 1, []),
     (b"", "0", 0, 1, []), (b"", 0, 0, None, []), (b"", 0, 0, 1, [], 1),
     # Outside the buffer.
     (b"ten bytes.", -1, 5, 9, []), (b"ten bytes.", 3, 2, 9, []), (b"ten bytes.", 0, 11, 9, []),
     (b"ten bytes.", 11, 11, 9, []), (b"ten bytes.", 0, -1, 9, []), (b"ten bytes.", 0, 9, 0, [])],
)  # fmt: skip
def test_split_with_wrong_arguments(split: Split, arguments: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        split(*arguments)
