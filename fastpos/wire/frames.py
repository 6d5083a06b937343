"""RFC 6455 frames to messages, without I/O: bytes in, complete messages and control frames out.

One buffer is used for all that is read. Whoever reads asks for its free part (`writable`), says
how much was put there (`wrote`), and takes out every message that is complete (`messages`).

* A frame's length is checked against the limit when its header is there, before its payload is
  waited for and before memory is taken.
* A payload is moved at most once after it was written: when a frame that does not fit the rest
  of the buffer is moved to its front, or to a larger buffer made for it. So the work is linear in
  the bytes fed, however they are cut.
* The buffer goes back to its usual size when a large message has gone through.

Frames that hold a whole push, which are nearly all, can be taken and inflated in one call of C
(`splitter`, see inflate.py). Everything else, and everything that is wrong, is decided here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ProtocolError

if TYPE_CHECKING:
    from .inflate import Splitter

__all__ = [
    "BINARY",
    "CLOSE",
    "INFLATED",
    "PING",
    "PONG",
    "TEXT",
    "FrameParser",
    "Message",
    "parse_close",
]

# Opcodes (RFC 6455, section 5.2).
CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA
# Not on the wire: a list of what was in binary messages that came one after the other and were
# one gzip member each, inflated by the splitter.
INFLATED = 0x12

Message = tuple[int, Any]
"""An opcode, and the payload: str for TEXT, a list of bytes for INFLATED, bytes for all else."""

FIN = 0x80
RSV = 0x70
MASK = 0x80
MAX_CONTROL_PAYLOAD = 125
LONGEST_HEADER = 10  # a server's, which is never masked
BUFFER_SIZE = 32 * 1024


class FrameParser:
    """Takes a server's bytes, gives its messages.

    Not safe for use from several threads: it belongs to the one that reads.

    Args:
        max_message_size: largest message payload, in bytes; a larger one is a ProtocolError.
        splitter: takes pushes out of the buffer and inflates them; they come as INFLATED.
    """

    def __init__(self, max_message_size: int, splitter: Splitter | None = None) -> None:
        self._max = max_message_size
        self._splitter = splitter
        self._buffer = bytearray(BUFFER_SIZE)
        self._start = 0  # of the first frame not yet taken
        self._end = 0  # of the bytes there are
        self._needed = 2  # bytes from _start on that the frame there has, as far as is known
        self._opcode = 0  # of the fragmented message under way, 0 when there is none
        # One buffer for all of its fragments: kept apart, tiny ones take many times their size.
        self._fragments = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        self._closed = False

    def writable(self) -> memoryview:
        """Give the free part of the buffer, never empty; the frame under way fits into it."""
        start, end = self._start, self._end
        if start == end or self._closed:
            self._start = self._end = start = end = 0
        size = len(self._buffer)
        if start + self._needed > size or end == size:
            larger = max(self._needed, BUFFER_SIZE)
            old = memoryview(self._buffer)[start:end]
            if larger != size:
                self._buffer = bytearray(larger)
            memoryview(self._buffer)[: end - start] = old
            self._start, self._end = 0, end - start
        elif start == end and size > BUFFER_SIZE and self._needed <= BUFFER_SIZE:
            self._buffer = bytearray(BUFFER_SIZE)
        return memoryview(self._buffer)[self._end :]

    def wrote(self, count: int) -> None:
        """Say that `count` bytes were put where `writable` pointed."""
        self._end += count

    def feed(self, data: bytes) -> Iterator[Message]:
        """Put `data` in and give the messages that it completes; raises ProtocolError."""
        rest = memoryview(data)
        while rest:
            free = self.writable()
            count = min(len(rest), len(free))
            free[:count] = rest[:count]
            self.wrote(count)
            rest = rest[count:]
            yield from self.messages()

    def messages(self) -> Iterator[Message]:
        """Give the messages that are complete; take them all before reading on.

        After a CLOSE nothing more is given, whatever else was sent (RFC 6455, section 5.5.1).

        Raises:
            ProtocolError: the server broke the protocol; the parser is then of no more use.
        """
        while not self._closed:
            if self._splitter is not None and not self._opcode:
                pushes: list[bytes] = []
                self._start = self._splitter(
                    self._buffer, self._start, self._end, self._max, pushes
                )
                if pushes:
                    yield INFLATED, pushes
                    continue
            elif not self._opcode:
                yield from self._plain_frames()
            message = self._next_frame()
            if message is None:
                return
            if message[0] >= 0:
                yield message

    def _plain_frames(self) -> Iterator[Message]:
        """Give the run of small, unfragmented binary messages at the head of the buffer.

        A short cut for what nearly all frames are; `_next_frame` would give the same.
        """
        buffer, start, end = self._buffer, self._start, self._end
        limit = min(self._max, 0xFFFF)
        with memoryview(buffer) as view:
            while end - start >= 4 and buffer[start] == FIN | BINARY:
                length = buffer[start + 1]
                first = start + 2
                if length == 126:
                    length = buffer[start + 2] << 8 | buffer[start + 3]
                    first = start + 4
                elif length > 126:
                    return
                after = first + length
                if after > end or length > limit:
                    return
                payload = bytes(view[first:after])
                self._start = start = after
                yield BINARY, payload

    # --- one frame --------------------------------------------------------------------------

    def _next_frame(self) -> Message | None:
        """Take one frame: the message it completes, one with opcode -1 where it completes none,
        None where it is not all there yet."""
        buffer, start = self._buffer, self._start
        have = self._end - start
        self._needed = 2
        if have < 2:
            return None
        first, length = buffer[start], buffer[start + 1]
        header = 2
        opcode = first & 0x0F
        if first & RSV:
            raise ProtocolError("reserved bits set in a frame, and no extension was negotiated")
        if length & MASK:
            raise ProtocolError("masked frame from a server")
        self._check_opcode(opcode, first & FIN)
        if opcode & 0x8:
            if length > MAX_CONTROL_PAYLOAD:
                raise ProtocolError("control frame of more than 125 bytes")
        else:
            if length > MAX_CONTROL_PAYLOAD:  # the length is in the next two or eight bytes
                header = 4 if length == 126 else LONGEST_HEADER
                if have < header:
                    self._needed = header
                    return None
                length = int.from_bytes(buffer[start + 2 : start + header], "big")
            self._check_length(length)
        needed = header + length
        if have < needed:
            self._needed = needed
            return None
        self._start = start + needed
        with memoryview(buffer) as view:
            payload = bytes(view[start + header : start + needed])
        if opcode & 0x8:
            if opcode == CLOSE:
                parse_close(payload)
                self._closed = True
            return opcode, payload
        if first & FIN and not self._opcode:
            return opcode, payload if opcode == BINARY else _utf8(payload)
        return self._fragment(opcode, bool(first & FIN), payload)

    def _check_opcode(self, opcode: int, fin: int) -> None:
        if opcode & 0x8:
            if opcode > PONG:
                raise ProtocolError(f"reserved opcode {opcode:#x}")
            if not fin:
                raise ProtocolError("fragmented control frame")
            return
        if opcode > BINARY:
            raise ProtocolError(f"reserved opcode {opcode:#x}")
        if opcode == CONTINUATION and not self._opcode:
            raise ProtocolError("continuation frame without a message to continue")
        if opcode != CONTINUATION and self._opcode:
            raise ProtocolError("new message in the middle of a fragmented one")

    def _check_length(self, length: int) -> None:
        if length >> 63:
            raise ProtocolError("frame length with its highest bit set")
        size = len(self._fragments) + length
        if size > self._max:
            raise ProtocolError(f"message of {size} bytes, over the limit of {self._max}", 1009)

    def _fragment(self, opcode: int, fin: bool, payload: bytes) -> Message:
        if opcode != CONTINUATION:
            self._opcode = opcode
            self._utf8 = codecs.getincrementaldecoder("utf-8")() if opcode == TEXT else None
        self._fragments += payload
        if self._utf8 is not None:  # a fragment may end within a character
            try:
                self._utf8.decode(payload, final=fin)
            except UnicodeDecodeError:
                raise ProtocolError("invalid UTF-8 in a text message", 1007) from None
        if not fin:
            return -1, b""
        opcode, message = self._opcode, bytes(self._fragments)
        self._opcode, self._fragments = 0, bytearray()
        return opcode, message if opcode == BINARY else message.decode()


def _utf8(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolError("invalid UTF-8 in a text message", 1007) from None


def parse_close(payload: bytes) -> tuple[int, str]:
    """Give code and reason of a close frame's payload; 1005 stands for no code (section 7.1.5).

    Raises:
        ProtocolError: the code may not be sent, or the reason is not UTF-8.
    """
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise ProtocolError("close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ProtocolError(f"close code {code} may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError("invalid UTF-8 in a close reason", 1007) from None
