"""The frame parser: RFC 6455 by hand and by hypothesis."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos.errors import ProtocolError
from fastpos.wire.frames import FrameParser, Message, parse_close, split_pure
from fastpos.wire.inflate import Splitter, new_splitter
from fastpos.wire.scratch import SCRATCH_SIZE, Scratch
from tests.fuzz.frames import opened, parse
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

KIB = 1024
MIB = 1024 * KIB


def splitters() -> list[Splitter | None]:
    native = new_splitter()
    return [None, split_pure] if native is None else [None, split_pure, native]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces; the places are taken modulo its length."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def each_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


# --- what is valid --------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [lambda data: data, each_byte], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("data", "messages"),
    [
        *((frame(BINARY, bytes(size)), [(BINARY, bytes(size))]) for size in (0, 125, 126, 65535)),
        (frame(BINARY, bytes(65536)), [(BINARY, bytes(65536))]),
        (frame(PING, b"p" * 125) + frame(PONG), [(PING, b"p" * 125), (PONG, b"")]),
        # The RFC asks senders for the shortest length, and receivers to do nothing about it.
        (frame(BINARY, b"x", length_form=16), [(BINARY, b"x")]),
        (frame(TEXT, b"x", length_form=64), [(TEXT, "x")]),
        # A fragment ends within a character, and control frames come in between.
        (
            frame(TEXT, b"\xe2\x82", fin=False)
            + frame(PING, b"1")
            + frame(CONTINUATION, b"\xac", fin=False)
            + frame(PONG)
            + frame(CONTINUATION, b"!")
            + frame(BINARY, b"next"),
            [(PING, b"1"), (PONG, b""), (TEXT, "€!"), (BINARY, b"next")],
        ),
        # What comes after a close frame is not looked at.
        (close_frame(1000, b"bye") + b"\xff" * 99, [(CLOSE, b"\x03\xe8bye")]),
        (close_frame(), [(CLOSE, b"")]),
        (frame(TEXT, b"cut", fin=False) + close_frame(), [(CLOSE, b"")]),
    ],
)
def test_valid(
    data: bytes, messages: list[Message], pieces: Callable[[bytes], list[bytes]]
) -> None:
    for splitter in splitters():
        assert parse(pieces(data), splitter=splitter) == (messages, None)


# --- what is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [b"", frame(TEXT, b"fine") * 3], ids=["first", "later"])
@pytest.mark.parametrize("pieces", [lambda data: data, each_byte], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        *((frame(TEXT, b"x", rsv=rsv), 1002) for rsv in range(1, 8)),
        (frame(PING, rsv=4), 1002),
        *((frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (frame(TEXT, b"x", masked=True), 1002),
        (frame(BINARY, masked=True), 1002),
        (frame(PING, masked=True), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, fin=False), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(PONG, announce=1 << 40), 1002),
        (frame(CLOSE, b"\x03\xe8", length_form=16), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(CONTINUATION, b"x", fin=False), 1002),
        (frame(TEXT, fin=False) + frame(TEXT), 1002),
        (frame(TEXT, fin=False) + frame(BINARY, fin=False), 1002),
        (frame(BINARY, announce=1 << 63), 1002),
        (frame(BINARY, announce=(1 << 64) - 1), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (close_frame(1000, b"\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),  # a surrogate
        (frame(TEXT, b"\xc0\x80"), 1007),  # not the shortest form
        (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),  # beyond U+10FFFF
        (frame(TEXT, b"\xe2\x82"), 1007),
        (frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION), 1007),
        # Not waited for until the message is complete.
        (frame(TEXT, b"\xce\xba\xff", fin=False), 1007),
        (frame(TEXT, b"\xf4", fin=False) + frame(CONTINUATION, b"\x90", fin=False), 1007),
        (frame(TEXT, announce=MIB + 1), 1009),
        (frame(BINARY, announce=(1 << 63) - 1), 1009),
    ],
)
def test_invalid(
    data: bytes, code: int, pieces: Callable[[bytes], list[bytes]], after: bytes
) -> None:
    for splitter in splitters():
        messages, refused = parse(pieces(after + data), splitter=splitter)
        assert messages == ([(TEXT, "fine")] * 3 if after else [])
        assert refused == code


def test_close_codes() -> None:
    """Section 7.4, and 1012 to 1014, which IANA has registered since."""
    accepted, refused = set(), set()
    for code in range(65536):
        try:
            assert parse_close(code.to_bytes(2, "big") + b"why") == (code, "why")
            accepted.add(code)
        except ProtocolError as error:
            refused.add(error.close_code)
    assert refused == {1002}
    assert accepted == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert parse_close(b"") == (1005, "")
    assert parse_close(b"\x03\xe8") == (1000, "")


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_limit_is_enforced_from_the_header(opcode: int) -> None:
    for size in (1, 100, 125, 126, 5000, 65536):
        header = frame(opcode, announce=size, length_form=64)
        assert parse(header, size) == ([], None)
        assert parse(header, size - 1) == ([], 1009)
        assert parse(header + bytes(size), size)[1] is None


def test_the_limit_is_on_messages_not_on_fragments() -> None:
    start = frame(BINARY, bytes(60), fin=False) + frame(PING, bytes(125))
    whole = [(PING, bytes(125)), (BINARY, bytes(100))]
    assert parse(start + frame(CONTINUATION, announce=41), 100) == (whole[:1], 1009)
    assert parse((start + frame(CONTINUATION, bytes(40))) * 3, 100) == (whole * 3, None)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak(action: Callable[[], object]) -> int:
    """The bytes that `action` takes at the most."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    action()
    return tracemalloc.get_traced_memory()[1] - before


def least_peak(action: Callable[[], object]) -> int:
    """The same without what another thread, as that of pytest-xdist, takes meanwhile."""
    return min(peak(action) for _ in range(5))


def test_memory_is_bounded(traced: None) -> None:
    parser = FrameParser(MIB)

    def feed(data: bytes) -> None:
        for _ in parser.feed(data):
            pass

    feed(frame(TEXT, b"warm"))
    # No room is made for what is too long, ...
    too_long = frame(BINARY, announce=1 << 40)
    assert least_peak(lambda: parse(too_long)) < 16 * KIB
    # ... tiny fragments take not much more than what is in them, ...
    fragment = frame(CONTINUATION, b"ab", fin=False)
    tiny = frame(BINARY, fin=False) + fragment * (16 * KIB)
    assert peak(lambda: feed(tiny)) < len(tiny) + 100 * KIB  # `feed` has a scratch as large as it
    assert peak(lambda: feed(frame(CONTINUATION))) < 100 * KIB
    # ... empty ones nothing, ...
    empty = frame(CONTINUATION, fin=False) * 1000
    feed(frame(TEXT, fin=False))
    assert least_peak(lambda: [feed(empty) for _ in range(20)]) < 16 * KIB
    feed(frame(CONTINUATION))
    # ... and what a large message took is given back at once.
    before = tracemalloc.get_traced_memory()[0]
    large = frame(BINARY, bytes(MIB))
    assert peak(lambda: [feed(piece) for piece in cut(large, [5, 900, 99_999])]) < 4 * MIB
    large = b""
    assert tracemalloc.get_traced_memory()[0] - before < 16 * KIB  # others allocate, too


def test_an_idle_parser_holds_no_buffer(traced: None) -> None:
    scratch = memoryview(bytearray(32 * KIB))
    before = tracemalloc.get_traced_memory()[0]
    parser = FrameParser(MIB)
    for _ in range(3):
        data = frame(BINARY, b"x" * 300)
        free = parser.writable(scratch)
        free[: len(data)] = data
        parser.wrote(len(data))
        assert parser.next_message() == (BINARY, b"x" * 300)
        assert parser.next_message() is None
    del free
    assert tracemalloc.get_traced_memory()[0] - before < 2 * KIB


def test_the_rest_of_a_large_frame_is_read_into_its_own_buffer() -> None:
    parser, scratch = FrameParser(MIB), memoryview(bytearray(32 * KIB))
    data = frame(BINARY, bytes(300 * KIB))

    def put(piece: bytes) -> list[Message]:
        free = parser.writable(scratch)
        free[: len(piece)] = piece
        parser.wrote(len(piece))
        return list(iter(parser.next_message, None))

    assert put(data[:10]) == []
    assert len(parser.writable(scratch)) == len(data) - 10
    assert put(data[10:-1]) == []
    assert len(parser.writable(scratch)) == 1
    assert put(data[-1:]) == [(BINARY, bytes(300 * KIB))]
    assert parser.writable(scratch) is scratch


def test_a_scratch_is_exchanged_when_a_burst_is_over() -> None:
    scratch = Scratch()
    first = scratch.view
    assert len(first) == SCRATCH_SIZE
    for _ in range(1000):
        scratch.used(4096)
    assert scratch.view is first, "only its first page was ever written"
    scratch.used(4097)
    for _ in range(63):
        scratch.used(100)
    assert scratch.view is first
    scratch.used(100)
    assert scratch.view is not first


def seconds(data: bytes, piece: int) -> float:
    """The CPU time that parsing takes, at the least of three times."""
    taken = []
    for _ in range(3):
        pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
        began = time.thread_time()
        assert parse(pieces)[0]
        taken.append(time.thread_time() - began)
    return min(taken)


@pytest.mark.parametrize(
    "wire",
    [
        lambda size: frame(BINARY, bytes(size)),
        lambda size: frame(TEXT, b"x") * (size // 3),
        lambda size: (
            frame(BINARY, fin=False)
            + frame(CONTINUATION, bytes(60), fin=False) * (size // 62)
            + frame(CONTINUATION)
        ),
    ],
    ids=["one frame", "tiny frames", "fragments"],
)
def test_the_work_is_linear(wire: Callable[[int], bytes]) -> None:
    """However a message is cut: 8 times the bytes are 64 times the work where it is quadratic."""
    small, large = 100 * KIB, 800 * KIB
    assert seconds(wire(large), 64) < 24 * seconds(wire(small), 64)


# --- any frames, cut anywhere ---------------------------------------------------------------------

texts = st.text(max_size=200)
binaries = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=300).map(lambda content: gzip.compress(content, mtime=0)),
    st.integers(0, 70_000).map(bytes),
)
reasons = st.text(max_size=30).map(str.encode)  # at most 120 bytes
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
messages = st.one_of(st.tuples(st.just(TEXT), texts), st.tuples(st.just(BINARY), binaries))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Message]]:
    """Valid frames, and the messages in them."""
    wire, expected = bytearray(), []

    def send(opcode: int, payload: bytes, fin: bool = True) -> None:
        forms: list[Any] = [7] if len(payload) < 126 else []
        if opcode < CLOSE:
            forms += [16] if len(payload) < 65536 else []
            forms += [64]
        wire.extend(frame(opcode, payload, fin=fin, length_form=draw(st.sampled_from(forms))))

    for opcode, message in draw(st.lists(messages, max_size=8)):
        payload = message.encode() if isinstance(message, str) else message
        parts = cut(payload, draw(st.lists(st.integers(0, 1 << 16), max_size=4)))
        for number, part in enumerate(parts):
            for control in draw(st.lists(controls, max_size=2)):
                send(*control)
                expected.append(control)
            send(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1)
        expected.append((opcode, message))
    if draw(st.booleans()):
        code = draw(st.sampled_from([1000, 1001, 1011, 3000, 4999]))
        wire += close_frame(code, reason := draw(reasons))
        expected.append((CLOSE, code.to_bytes(2, "big") + reason))
    return bytes(wire), expected


places = st.lists(st.integers(0, 1 << 20), max_size=12)


@settings(deadline=None)
@given(conversations(), places)
def test_any_conversation_cut_anywhere(
    conversation: tuple[bytes, list[Message]], places: list[int]
) -> None:
    wire, expected = conversation
    assert parse(cut(wire, places)) == (expected, None)
    for splitter in splitters():
        found = parse(cut(wire, places), splitter=splitter)
        assert opened(found, MIB) == opened((expected, None), MIB)
