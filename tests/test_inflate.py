"""Both inflaters against each other and against `gzip.decompress`; and the frame splitter."""

from __future__ import annotations

import base64
import gzip
import os
import random
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpos.wire.inflate import inflate_pure, inflater, native_error, new_splitter

pytestmark = pytest.mark.long

try:
    from fastpos._c import _inflate

    NATIVE_MISSING = ""
except ImportError as error:
    NATIVE_MISSING = f"the C extension is not built: {error}"

needs_native = pytest.mark.skipif(bool(NATIVE_MISSING), reason=NATIVE_MISSING)

Inflate = Callable[[bytes, int], bytes]

FRAMES = Path(__file__).parent / "frames"
JSONS = {path.stem: path.read_bytes() for path in sorted(FRAMES.glob("*.json"))}
REAL = base64.b64decode((FRAMES / "adl_price.b64").read_bytes())  # as the exchange sent it
MEMBERS = [REAL, *(gzip.compress(text, mtime=0) for text in JSONS.values())]

KIB = 1024
MIB = 1024 * KIB
FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT = 1, 2, 4, 8, 16


@pytest.fixture(params=["native", "pure"])
def inflate(request: pytest.FixtureRequest) -> Inflate:
    if request.param == "pure":
        return inflate_pure
    if NATIVE_MISSING:
        pytest.skip(NATIVE_MISSING)
    return _inflate.Inflater().inflate


def deflated(content: bytes, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(content) + packer.flush()


def trailer(content: bytes) -> bytes:
    return struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)


def member(content: bytes, body: bytes | None = None, flags: int = 0) -> bytes:
    """A gzip member made by hand, with the optional header fields that `flags` asks for."""
    head = bytes([0x1F, 0x8B, 8, flags]) + b"\x01\x02\x03\x04\x02\x03"
    if flags & FEXTRA:
        head += struct.pack("<H", 7) + b"ab\3\0xyz"
    if flags & FNAME:
        head += b"push.json\0"
    if flags & FCOMMENT:
        head += b"no comment\0"
    if flags & FHCRC:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + (deflated(content) if body is None else body) + trailer(content)


def verdict(inflate: Inflate, data: bytes, max_size: int = MIB) -> bytes | str:
    """The content, or the reason of the refusal."""
    try:
        return inflate(data, max_size)
    except ValueError as error:
        return str(error)


def oracle(data: bytes) -> bytes | None:
    """What zlib makes of exactly one member; None if it refuses."""
    try:
        content = gzip.decompress(data)
        unpacker = zlib.decompressobj(31)
        unpacker.decompress(data)
    except (OSError, EOFError, zlib.error):
        return None
    return content if unpacker.eof and not unpacker.unused_data else None


# What is accepted.


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("text", JSONS.values(), ids=JSONS)
def test_frames(inflate: Inflate, text: bytes, level: int) -> None:
    assert inflate(gzip.compress(text, level), MIB) == text


def test_the_real_frame(inflate: Inflate) -> None:
    content = inflate(REAL, MIB)
    assert content == gzip.decompress(REAL)
    assert b'"channel":"ADL_PRICE"' in content


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
        assert inflate(data, MIB) == content
        assert inflate(data, max(size, 1)) == content


def test_many_blocks_and_flushes(inflate: Inflate) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    content, body = b"", b""
    for number, (text, flush) in enumerate(
        product(JSONS.values(), [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH])
    ):
        part = b"%d" % number + text
        content += part
        body += packer.compress(part) + packer.flush(flush)
    assert inflate(member(content, body + packer.flush()), MIB) == content


def test_lengths_around_the_end_of_the_scratch_buffer(inflate: Inflate) -> None:
    text = b"".join(b'{"n":%d,"v":%d}' % (n, n * n) for n in range(2000))
    for size in [*range(15 * KIB + 480, 15 * KIB + 545), *range(16 * KIB - 2, 16 * KIB + 3)]:
        assert inflate(member(text[:size]), MIB) == text[:size]


@pytest.mark.parametrize("flags", range(32))
def test_header_fields(inflate: Inflate, flags: int) -> None:
    text = JSONS["order"]
    data = member(text, flags=flags)
    assert gzip.decompress(data) == text
    assert inflate(data, MIB) == text


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_kinds_of_buffers(inflate: Inflate, make: Callable[[bytes], bytes]) -> None:
    assert inflate(make(REAL), MIB) == gzip.decompress(REAL)


def test_more_than_64_kib_of_input(inflate: Inflate) -> None:
    content = random.Random(7).randbytes(700 * KIB)
    data = gzip.compress(content, 1)
    assert len(data) > 64 * KIB
    assert inflate(data, MIB) == content
    assert verdict(inflate, data, len(content) - 1) == "inflates to more than 716799 bytes"
    assert verdict(inflate, data + b"\0") == "trailing bytes"
    assert verdict(inflate, data[:-1]) == "cut short"
    assert verdict(inflate, data[:-5] + b"\0" + data[-4:]) == "wrong checksum or length"


# What is refused.


@pytest.mark.parametrize(
    "data",
    [b"connect success", b'{"pong":1713338308233}', b"\x1f\x8b\x07" + REAL[3:], bytes(100)],
    ids=["text", "json", "method", "zeros"],
)
def test_not_gzip(inflate: Inflate, data: bytes) -> None:
    assert verdict(inflate, data) == "not gzip"


@pytest.mark.parametrize("flags", [0, FHCRC | FEXTRA | FNAME | FCOMMENT])
@pytest.mark.parametrize("level", [0, 9])
def test_every_truncation(inflate: Inflate, flags: int, level: int) -> None:
    for text in JSONS.values():
        data = member(text, deflated(text, level), flags)
        reasons = {verdict(inflate, data[:size]) for size in range(len(data))}
        assert reasons == {"cut short"}


def test_wrong_checksum(inflate: Inflate) -> None:
    for bit in range(32):
        data = bytearray(REAL)
        data[-8 + bit // 8] ^= 1 << bit % 8
        assert verdict(inflate, bytes(data)) == "wrong checksum or length"


@pytest.mark.parametrize("claim", [0, 1, 207, 209, 720, 64 * KIB, MIB, MIB + 1, 2**31, 2**32 - 1])
def test_wrong_length(inflate: Inflate, claim: int) -> None:
    assert len(gzip.decompress(REAL)) == 208
    data = REAL[:-4] + struct.pack("<I", claim)
    for max_size in (MIB, 209, 208):
        assert verdict(inflate, data, max_size) == "wrong checksum or length"


def test_wrong_header_checksum(inflate: Inflate) -> None:
    data = bytearray(member(b"{}", flags=FHCRC))
    data[10] ^= 1
    assert verdict(inflate, bytes(data)) == "wrong checksum or length"


@pytest.mark.parametrize(
    "body", [b"\7", b"\x05\xe0\xff\xff", b"\1\5\0\0\0hello", b"\x4b\x04\x7f\x00"],
    ids=["type 3", "dynamic header", "stored length", "distance"],
)  # fmt: skip
def test_bad_deflate_data(inflate: Inflate, body: bytes) -> None:
    with pytest.raises(zlib.error):
        zlib.decompress(body + bytes(8), -15)
    assert verdict(inflate, member(b"", body + bytes(300))) == "bad deflate data"


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\n", REAL, REAL + REAL, REAL[:5], REAL[-8:], REAL[-4:], b"x" + REAL[-8:], bytes(512),
     gzip.compress(b""), b"\xff" * 8],
)  # fmt: skip
def test_trailing_bytes(inflate: Inflate, tail: bytes) -> None:
    assert verdict(inflate, REAL + tail) == "trailing bytes"


def test_max_size(inflate: Inflate) -> None:
    for data in MEMBERS:
        content = gzip.decompress(data)
        size = len(content)
        assert inflate(data, size) == content
        for limit in (1, 16, size - 1):
            assert verdict(inflate, data, limit) == f"inflates to more than {limit} bytes"
    assert inflate(gzip.compress(b""), 1) == b""
    assert inflate(REAL, sys.maxsize) == gzip.decompress(REAL)


@pytest.mark.parametrize("max_size", [0, -1, -sys.maxsize])
def test_max_size_that_makes_no_sense(inflate: Inflate, max_size: int) -> None:
    with pytest.raises(ValueError, match="max_size must be at least 1"):
        inflate(REAL, max_size)


@pytest.mark.parametrize(
    "arguments", [(), (REAL,), (REAL, 1, 2), (REAL, "1"), ("text", 1), (None, 1), (REAL, 1.0)]
)
def test_wrong_arguments(inflate: Inflate, arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        inflate(*arguments)  # type: ignore[arg-type]


def test_a_buffer_with_gaps(inflate: Inflate) -> None:
    with pytest.raises(BufferError):
        inflate(memoryview(REAL + REAL)[::2], MIB)  # type: ignore[arg-type]


@pytest.mark.parametrize("claim", [0, 1000, MIB, 64 * MIB, 2**32 - 1])
def test_a_bomb_is_bounded_in_memory(inflate: Inflate, claim: int) -> None:
    bomb = gzip.compress(bytes(64 * MIB))  # about 64 KiB
    bomb = bomb[:-4] + struct.pack("<I", claim)
    for data in (bomb, bomb[:-4000], bomb[:30000] + bomb[-4:]):
        tracemalloc.start()
        try:
            reason = verdict(inflate, data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert reason == f"inflates to more than {MIB} bytes"
        assert peak < MIB + 256 * KIB  # the content, ISA-L's state, a copy of the input


# Both accept and refuse the same bytes, for the same reasons; gzip.decompress is the oracle.


def check_agreement(data: bytes, max_size: int = MIB, lenient: bool = False) -> None:
    """Both do the same, and what zlib does; `lenient`: or they accept what zlib refuses."""
    pure = verdict(inflate_pure, data, max_size)
    if not NATIVE_MISSING:
        native = verdict(SHARED.inflate, data, max_size)
        if isinstance(native, str) and isinstance(pure, str) and "inflates" in native + pure:
            pass  # both refuse; what else is wrong beyond max_size, they see differently far
        else:
            assert native == pure
    expected = oracle(data)
    if expected is not None and len(expected) <= max_size:
        assert pure == expected
    elif isinstance(pure, bytes) and not lenient:
        assert data[3] & 0xE0, "accepted, but zlib refuses"  # reserved flags, which gzip ignores
        assert gzip.decompress(data) == pure


if not NATIVE_MISSING:
    SHARED = _inflate.Inflater()

frames = st.sampled_from(MEMBERS)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(frames))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "set", "cut", "insert", "delete", "repeat", "end"])):
            case "flip" if where < len(data):
                data[where] ^= 1 << draw(st.integers(0, 7))
            case "set" if where < len(data):
                data[where] = draw(st.integers(0, 255))
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


@given(st.binary(max_size=300))
@example(b"")
def test_agreement_on_arbitrary_bytes(data: bytes) -> None:
    check_agreement(data)
    check_agreement(b"\x1f\x8b\x08\0\0\0\0\0\0\3" + data)
    check_agreement(b"\x1f\x8b\x08" + data)


@settings(max_examples=300)
@given(mutated(), st.sampled_from([1, 100, 208, 600, MIB]))
def test_agreement_on_mutated_frames(data: bytes, max_size: int) -> None:
    check_agreement(data, max_size)


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 3))
def test_agreement_on_arbitrary_deflate_streams(body: bytes, kind: int) -> None:
    """Bytes that happen to be a deflate stream, with the right trailer.

    ISA-L accepts sets of Huffman codes that leave some codes unused, which zlib refuses.
    """
    body = bytes([body[0] & 0xF8 | kind << 1 | 1]) + body[1:]
    unpacker = zlib.decompressobj(-15)
    try:
        content = unpacker.decompress(body)
    except zlib.error:
        content = b""
    if unpacker.eof:
        body = body[: len(body) - len(unpacker.unused_data)]
    check_agreement(member(content, body), lenient=True)


def test_agreement_on_every_bit_flipped() -> None:
    for data in MEMBERS:
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            check_agreement(bytes(flipped))


@needs_native
def test_nothing_is_left_of_the_member_before() -> None:
    inflater = _inflate.Inflater()
    chance = random.Random(3)
    for data in MEMBERS * 20:
        broken = bytearray(data)
        broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        verdict(inflater.inflate, bytes(broken), chance.choice([1, 100, MIB]))
        assert inflater.inflate(data, MIB) == gzip.decompress(data)


# Threads and the GIL.


def test_many_threads_on_one_inflater(inflate: Inflate) -> None:
    large = random.Random(1).randbytes(100 * KIB)
    work = [(data, gzip.decompress(data)) for data in [*MEMBERS, gzip.compress(large)]]
    wrong: list[object] = []
    barrier = threading.Barrier(8)

    def hammer(seed: int) -> None:
        chance = random.Random(seed)
        barrier.wait()
        for _ in range(300):
            data, content = chance.choice(work)
            if verdict(inflate, data) != content:
                wrong.append(content)
            if verdict(inflate, data[:-1]) != "cut short":
                wrong.append(data)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@contextmanager
def another_thread() -> Iterator[Callable[[], int]]:
    """Gives how often another thread got to run. It only does when the GIL is let go of."""
    turns, done = [0], threading.Event()

    def run() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)  # lets go of the GIL

    thread = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nobody is made to let go of it
    try:
        thread.start()
        while turns[0] < 10:
            time.sleep(0)
        yield lambda: turns[0]
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()


has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()


@needs_native
@pytest.mark.skipif(not has_gil, reason="there is no GIL")
def test_small_input_is_inflated_without_letting_go_of_the_gil() -> None:
    inflater = _inflate.Inflater()
    largest = gzip.compress(random.Random(1).randbytes(64 * KIB - 100))
    assert 65000 < len(largest) <= 64 * KIB
    frames = b"".join(map(frame, MEMBERS))
    with another_thread() as turns:
        before = turns()
        for _ in range(200):
            for data in MEMBERS:
                inflater.inflate(data, MIB)
            inflater.inflate(largest, MIB)
            inflater.split(frames, 0, len(frames), MIB, [])
        assert turns() == before


@needs_native
@pytest.mark.skipif(not has_gil, reason="there is no GIL")
def test_large_input_is_inflated_without_the_gil() -> None:
    inflater = _inflate.Inflater()
    data = gzip.compress(random.Random(1).randbytes(2 * MIB), 1)
    with another_thread() as turns:
        before = turns()
        for _ in range(1000):
            inflater.inflate(data, 4 * MIB)
            if turns() > before:
                return
    pytest.fail("no other thread ever ran")


# Frames out of a receive buffer.


def frame(payload: bytes, first: int = 0x82, form: int | None = None, mask: int = 0) -> bytes:
    """An RFC 6455 frame; `form` makes its length longer than it must be."""
    size = len(payload)
    form = form or (size if size < 126 else 126 if size < 64 * KIB else 127)
    length = {126: struct.pack(">H", size & 0xFFFF), 127: struct.pack(">Q", size)}.get(form, b"")
    return bytes([first, mask | form]) + length + payload


SMALL = gzip.compress(b"{}")  # its frame has a short length, those of MEMBERS a 16-bit one
STREAM = [frame(data) for data in [SMALL, *MEMBERS, SMALL, SMALL, REAL]]
CONTENTS = [gzip.decompress(data) for data in [SMALL, *MEMBERS, SMALL, SMALL, REAL]]


@pytest.fixture
def split() -> Callable[..., int]:
    if NATIVE_MISSING:
        pytest.skip(NATIVE_MISSING)
    return _inflate.Inflater().split


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_split(split: Callable[..., int], make: Callable[[bytes], bytes]) -> None:
    buffer = make(b"".join(STREAM))
    out = [b"what was there"]
    assert split(buffer, 0, len(buffer), MIB, out) == len(buffer)
    assert out == [b"what was there", *CONTENTS]


def test_split_at_every_boundary(split: Callable[..., int]) -> None:
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


BAD_FRAMES = {
    "text": frame(REAL, 0x81),
    "continuation": frame(REAL, 0x80),
    "reserved opcode": frame(REAL, 0x83),
    "first fragment": frame(REAL, 0x02),
    "middle fragment": frame(REAL, 0x00),
    "close": frame(b"", 0x88),
    "ping": frame(b"hello", 0x89),
    "pong": frame(b"hello", 0x8A),
    "rsv1": frame(REAL, 0xC2),
    "rsv2": frame(REAL, 0xA2),
    "rsv3": frame(REAL, 0x92),
    "masked": frame(b"\1\2\3\4" + SMALL, mask=0x80),
    "masked, mask of zeros": frame(bytes(4) + REAL, mask=0x80),
    "length not minimal, 16 bits": frame(SMALL, form=126),
    "length not minimal, 64 bits": frame(SMALL, form=127),
    "length not minimal, 64 for 16 bits": frame(REAL, form=127),
    "length of 63 bits": b"\x82\x7f\x7f" + b"\xff" * 7,
    "length of 64 bits": b"\x82\x7f" + b"\xff" * 8,
    "empty": frame(b""),
    "not gzip": frame(b"sub success"),
    "bad checksum": frame(REAL[:-8] + bytes(4) + REAL[-4:]),
    "bad length": frame(REAL[:-4] + bytes(4)),
    "cut short": frame(REAL[:-1]),
    "trailing byte": frame(REAL + b"\0"),
    "two members": frame(REAL + REAL),
    "bomb": frame(gzip.compress(bytes(2 * MIB))),
    "payload of 64 KiB": frame(gzip.compress(random.Random(1).randbytes(70 * KIB))),
}


@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_split_stops_at_anything_else(split: Callable[..., int], bad: bytes) -> None:
    good = frame(REAL)
    out: list[bytes] = []
    buffer = bytearray(good + good + bad + good)
    assert split(buffer, 0, len(buffer), MIB, out) == 2 * len(good)
    assert out == [gzip.decompress(REAL)] * 2
    buffer += b"more"  # it holds on to nothing


def test_split_keeps_to_max_size(split: Callable[..., int]) -> None:
    buffer = frame(REAL)
    size = len(gzip.decompress(REAL))
    out: list[bytes] = []
    for max_size in (1, len(REAL) - 1, len(REAL), size - 1):
        assert split(buffer, 0, len(buffer), max_size, out) == 0
    assert out == []
    assert split(buffer, 0, len(buffer), size, out) == len(buffer)
    stored = gzip.compress(b"0123456789", 0)  # more as gzip than as content
    assert split(frame(stored), 0, len(stored) + 2, len(stored) - 1, out) == 0
    assert split(frame(stored), 0, len(stored) + 2, len(stored), out) == len(stored) + 2


def test_split_takes_the_longest_payload_of_two_length_bytes(split: Callable[..., int]) -> None:
    noise = random.Random(1).randbytes(64 * KIB)
    content = next(
        noise[:size] for size in range(64 * KIB, 0, -1) if len(member(noise[:size])) == 64 * KIB - 1
    )
    buffer = frame(member(content))
    out: list[bytes] = []
    assert split(buffer, 0, len(buffer), MIB, out) == len(buffer)
    assert out == [content]


def test_split_stops_when_it_has_made_16_kib(split: Callable[..., int]) -> None:
    contents = [bytes([number]) * 1600 for number in range(25)]
    buffer = b"".join(frame(gzip.compress(content)) for content in contents)
    out: list[bytes] = []
    counts = []
    position = 0
    while position < len(buffer):
        before = len(out)
        position = split(buffer, position, len(buffer), MIB, out)
        counts.append(len(out) - before)
    assert counts == [11, 11, 3]
    assert out == contents


def test_split_of_nothing(split: Callable[..., int]) -> None:
    out: list[bytes] = []
    assert split(b"", 0, 0, MIB, out) == 0
    assert split(STREAM[0], 5, 5, MIB, out) == 5
    assert split(STREAM[0], 0, 1, MIB, out) == 0
    assert out == []


@pytest.mark.parametrize(
    ("start", "end", "max_size"),
    [(-1, 5, MIB), (3, 2, MIB), (0, 11, MIB), (11, 11, MIB), (0, -1, MIB), (0, 10, 0), (0, 9, -5)],
)
def test_split_outside_the_buffer(
    split: Callable[..., int], start: int, end: int, max_size: int
) -> None:
    buffer = bytearray(10)
    with pytest.raises(ValueError, match=r"must be at least|the buffer has 10 bytes"):
        split(buffer, start, end, max_size, [])
    buffer += b"more"


@pytest.mark.parametrize(
    "arguments",
    [(), (b"", 0, 0, 1), (b"", 0, 0, 1, ()), ("", 0, 0, 1, []), (b"", 0, 0.5, 1, []),
     (b"", "0", 0, 1, []), (b"", 0, 0, None, []), (b"", 0, 0, 1, [], 1)],
)  # fmt: skip
def test_split_with_wrong_arguments(
    split: Callable[..., int], arguments: tuple[object, ...]
) -> None:
    with pytest.raises(TypeError):
        split(*arguments)


def split_in_python(buffer: bytes, max_size: int) -> tuple[int, list[bytes]]:
    position, out = 0, []
    while len(buffer) - position >= 2 and buffer[position] == 0x82 and buffer[position + 1] <= 126:
        header, size = 2, buffer[position + 1]
        if size == 126:
            header, size = 4, int.from_bytes(buffer[position + 2 : position + 4], "big")
            if size < 126:
                break
        payload = buffer[position + header : position + header + size]
        if len(payload) < size or size > max_size:
            break
        content = verdict(inflate_pure, payload, max_size)
        if isinstance(content, str):
            break
        out.append(content)
        position += header + size
    return position, out


@needs_native
@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            frames.map(frame),
            mutated().map(frame),
            st.sampled_from(list(BAD_FRAMES.values())),
            st.binary(max_size=20),
        ),
        max_size=6,
    ),
    st.sampled_from([100, 300, MIB]),
)
def test_split_agrees_with_python(parts: list[bytes], max_size: int) -> None:
    buffer = b"".join(parts)
    out: list[bytes] = []
    assert (SHARED.split(buffer, 0, len(buffer), max_size, out), out) == split_in_python(
        buffer, max_size
    )


# Which one is in use.


def chosen(pure: str) -> list[str]:
    code = (
        "from fastpos.wire.inflate import *;"
        "print(inflater, native_error, new_splitter(), inflate is inflate_pure, sep='|')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTPOS_PURE": pure},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return result.stdout.strip().split("|")


def test_pure_can_be_asked_for() -> None:
    assert chosen("1") == ["isal", "FASTPOS_PURE is set", "None", "True"]


@needs_native
@pytest.mark.parametrize("pure", ["", "0"])
def test_native_is_used_where_it_was_built(pure: str) -> None:
    name, error, splitter, is_pure = chosen(pure)
    assert (name, error, is_pure) == ("isa-l", "None", "False")
    assert "split" in splitter


def test_a_splitter_comes_with_the_native_inflater_only() -> None:
    assert (new_splitter() is None) == (inflater == "isal") == (native_error is not None)


@needs_native
def test_native_names_the_version_of_isal() -> None:
    assert all(part.isdigit() for part in _inflate.ISAL_VERSION.split("."))
    assert "Inflater" in repr(_inflate.Inflater())
    with pytest.raises(TypeError):
        _inflate.Inflater(1)  # type: ignore[call-arg]
