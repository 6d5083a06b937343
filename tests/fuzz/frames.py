"""The frame parser: any bytes, in any pieces, give the same whoever splits and inflates.

An input is one byte that says how it is cut, one that says which limit holds, and the wire. What
RFC 6455 says of it is in test_frames.py.
"""

from __future__ import annotations

from contextlib import suppress

from fastpos.errors import ProtocolError
from fastpos.wire.frames import INFLATED, FrameParser, Message, split_pure
from fastpos.wire.inflate import Splitter, inflate_pure, new_splitter
from tests.fuzz.mutators import mutate_wire
from tests.support.frames import BINARY, frame

LIMITS = (100, 1000, 64 * 1024)

Outcome = tuple[list[Message], int | None]
"""The messages, and the close code of the ProtocolError that ended them, if one did."""


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    size, limit, wire = data[0] or 1, LIMITS[data[1] % len(LIMITS)], data[2:]
    messages, code = parse(wire, limit)
    expected = opened((messages, code), limit)
    assert code in (None, 1002, 1007, 1009)
    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    splitter = new_splitter()
    for way in (None, split_pure, splitter) if splitter else (None, split_pure):
        for cut in ([wire], pieces):
            found = opened(parse(cut, limit, way), limit)
            assert found == expected, f"{found} instead of {expected}"
    # What was understood is what a peer says that has it to say.
    said = b"".join(frame(opcode, encoded(payload)) for opcode, payload in messages)
    assert parse(said, limit) == (messages, None)


def encoded(payload: str | bytes) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload


def parse(
    pieces: bytes | list[bytes], limit: int = 1 << 20, splitter: Splitter | None = None
) -> Outcome:
    """Parse what is read piece by piece into a scratch that others write to in between."""
    parser = FrameParser(limit, splitter)
    messages: list[Message] = []
    scratch = memoryview(bytearray(4096))
    try:
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            left = memoryview(piece)
            while left:
                free = parser.writable(scratch)[: len(left)]
                free[:], left = left[: len(free)], left[len(free) :]
                parser.wrote(len(free))
                messages += iter(parser.next_message, None)
                scratch[:] = bytes(4096)
                assert len(parser._own) <= max(limit, 125) + 10  # no limit for control frames
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


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return data[:2] + mutate_wire(data[2:], max(max_size - 2, 1), seed)
