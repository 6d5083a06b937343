"""The frame parser: any bytes, in any pieces, against RFC 6455 written out plainly.

An input is one byte that says how it is cut, one that says which limit holds, and the wire.
"""

from __future__ import annotations

import codecs
import gzip
from contextlib import suppress

from fastpos.errors import ProtocolError
from fastpos.wire.frames import INFLATED, FrameParser, Message, parse_close, split_pure
from fastpos.wire.inflate import Splitter, inflate_pure, new_splitter
from tests.fuzz.mutators import mutate_wire
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame
from tests.support.pushes import NAMES, REAL, packed, text_of

__all__ = ["Outcome", "mutate", "one", "reference", "seeds"]

LIMITS = (100, 1000, 64 * 1024)

Outcome = tuple[list[Message], int | None]
"""The messages, and the close code of the ProtocolError that ended them, if one did."""


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    size, limit, wire = data[0] or 1, LIMITS[data[1] % len(LIMITS)], data[2:]
    expected = opened(reference(wire, limit), limit)
    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    splitter = new_splitter()
    for way in (None, split_pure, splitter) if splitter else (None, split_pure):
        for cut in ([wire], pieces):
            found = opened(parse(cut, limit, way), limit)
            assert found == expected, f"{found} instead of {expected}"


def parse(pieces: list[bytes], limit: int, splitter: Splitter | None) -> Outcome:
    parser = FrameParser(limit, splitter)
    messages: list[Message] = []
    try:
        for piece in pieces:
            messages.extend(parser.feed(piece))
            assert len(parser._own) <= limit + 10
            assert len(parser._fragments) <= limit
    except ProtocolError as error:
        return messages, error.close_code
    return messages, None


def opened(outcome: Outcome, limit: int) -> Outcome:
    """The outcome with every push as its content, whoever inflated it."""
    messages: list[Message] = []
    for opcode, payload in outcome[0]:
        if opcode == INFLATED:
            messages += [(INFLATED, push) for push in payload]
            continue
        message = opcode, payload
        if opcode == BINARY:
            with suppress(ValueError):
                message = INFLATED, inflate_pure(payload, limit)
        messages.append(message)
    return messages, outcome[1]


def reference(wire: bytes, limit: int) -> Outcome:
    """What is in `wire`, by the sections of the RFC and with no thought of speed."""
    messages: list[Message] = []
    started: int | None = None  # opcode of the fragmented message under way
    parts = b""
    while len(wire) >= 2:
        fin, reserved, opcode = wire[0] >> 7, wire[0] >> 4 & 7, wire[0] & 15
        masked, length = wire[1] >> 7, wire[1] & 127
        control = opcode >= 8
        if (
            reserved
            or masked
            or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
            or (control and (not fin or length > 125))
            or (opcode == CONTINUATION and started is None)
            or (opcode in (TEXT, BINARY) and started is not None)
        ):
            return messages, 1002
        header = 2
        if length > 125:
            header = 4 if length == 126 else 10
            if len(wire) < header:
                break
            length = int.from_bytes(wire[2:header], "big")
            if length >= 1 << 63:
                return messages, 1002
        if not control and len(parts) + length > limit:
            return messages, 1009
        if len(wire) < header + length:
            break
        payload, wire = wire[header : header + length], wire[header + length :]
        if control:
            if opcode == CLOSE and (code := wrong_close(payload)):
                return messages, code
            messages.append((opcode, payload))
            if opcode == CLOSE:
                break
            continue
        if opcode != CONTINUATION:
            started, parts = opcode, b""
        parts += payload
        message: Message = started or 0, parts
        if started == TEXT:
            try:
                message = TEXT, codecs.utf_8_decode(parts, "strict", bool(fin))[0]
            except UnicodeDecodeError:
                return messages, 1007
        if fin:
            messages.append(message)
            started, parts = None, b""
    return messages, None


def wrong_close(payload: bytes) -> int | None:
    """The code that answers this close frame if it may not be sent (sections 5.5.1, 7.4)."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big")
    allowed = code in {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    if len(payload) == 1 or not allowed:
        return 1002
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        return 1007
    assert parse_close(payload) == (code, reason)
    return None


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return data[:2] + mutate_wire(data[2:], max(max_size - 2, 1), seed)


def seeds() -> list[bytes]:
    push = packed(text_of("order"))
    wires = [
        *(frame(BINARY, packed(text_of(name))) for name in NAMES),
        frame(BINARY, REAL) * 3,
        frame(TEXT, b"connect success") + frame(TEXT, b'{"pong":1}'),
        frame(TEXT, "gr\u00fcn \u20ac".encode(), fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, b"\xf0\x9f\x98\x80"),
        frame(BINARY, push[:50], fin=False) + frame(CONTINUATION, push[50:]) + frame(PONG),
        frame(BINARY, push, length_form=64) + frame(BINARY, b"x", length_form=16),
        frame(BINARY, bytes(126)) + frame(BINARY, b"x" * 1001) + frame(TEXT, announce=1 << 40),
        frame(BINARY, gzip.compress(bytes(100_000), mtime=0)),
        frame(PING, bytes(126)),
        frame(TEXT, b"x", masked=True),
        frame(TEXT, b"x", rsv=4),
        frame(3) + frame(11),
        frame(TEXT, b"\xff"),
        frame(CONTINUATION),
        frame(TEXT, announce=1 << 63),
        *(close_frame(code, b"bye") for code in (1000, 1004, 1015, 3000, 5000)),
        close_frame(1000, b"\xff"),
        frame(CLOSE, b"x") + frame(TEXT),
    ]
    return [bytes([7 + 60 * (i % 4), i]) + wire for i, wire in enumerate(wires)]
