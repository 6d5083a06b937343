"""RFC 6455 frames to messages, without I/O: bytes in, complete messages and control frames out.

Whoever reads lends a scratch buffer, which all connections of a thread may share: `writable` says
where the next bytes belong, `wrote` how many were put there, and `next_message` takes out what is
complete with them, until it gives None. From then on the scratch is not looked at any more; the
bytes of a frame that is not all there are kept in a buffer of their own, of the size of that frame.
An idle connection keeps nothing.

* A frame's length is checked against the limit when its header is there, before its payload is
  waited for and before memory is taken.
* The work is linear in the bytes fed, however they are cut. The head of a frame goes back into the
  scratch once, so that a read which ends within a frame costs the next one nothing. If the frame
  is still not all there, or is larger than the scratch, the rest of it is read into its own buffer.
  So a byte is moved three times at the most.

Frames that hold a whole push, which are nearly all, are taken and inflated many at a time by a
`splitter`: in one call of C (see inflate.py), or by `split_pure`. Everything else, and everything
that is wrong, is decided here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from ..errors import ProtocolError
from .inflate import BytesLike, Splitter, inflate_pure

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
    "split_pure",
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
# What `split_pure` takes at once, bytes of content: it stays in a processor's nearest cache.
SPLIT_UP_TO = 32 * 1024
GZIP_HEAD = 18  # a gzip member has no fewer bytes

_NOTHING = memoryview(b"")


class FrameParser:
    """Takes a server's bytes, gives its messages.

    Not safe for use from several threads: it belongs to the one that reads.

    Args:
        max_message_size: largest message payload, in bytes; a larger one is a ProtocolError.
        splitter: takes pushes out of the buffer and inflates them; they come as INFLATED. None:
            messages come as they are.
    """

    __slots__ = (
        "_again", "_buffer", "_closed", "_end", "_fragments", "_have", "_max", "_needed",
        "_opcode", "_own", "_splitter", "_start", "_utf8", "is_idle",
    )  # fmt: skip

    def __init__(self, max_message_size: int, splitter: Splitter | None = None) -> None:
        self._max = max_message_size
        self._splitter = splitter
        self._buffer = _NOTHING  # what is read into and parsed: the scratch, or `_own`
        self._start = 0  # of the first frame not yet taken
        self._end = 0  # of the bytes there are
        self._own = _NOTHING  # the frame under way, between reads
        self._have = 0  # bytes of it that are there
        self._again = False  # its head was put back into the scratch once
        self._needed = 2  # bytes that this frame has, as far as is known
        self._opcode = 0  # of the fragmented message under way, 0 when there is none
        # One buffer for all of its fragments: kept apart, tiny ones take many times their size.
        self._fragments = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        self._closed = False
        self.is_idle: bool = True
        """Whether more has to be read for a message."""

    def writable(self, scratch: memoryview) -> memoryview:
        """Give the place for the next bytes, never empty: in `scratch`, or in a buffer of ours."""
        have = self._have
        if not have or self._closed:
            self._buffer, self._start, self._end = scratch, 0, 0
            return scratch
        if self._again or self._needed > len(scratch):
            if len(self._own) < self._needed:
                larger = memoryview(bytearray(self._needed))
                larger[:have] = self._own[:have]
                self._own = larger
            self._buffer = self._own
        else:
            scratch[:have] = self._own[:have]
            self._buffer = scratch
            self._again = True
        self._start, self._end = 0, have
        return self._buffer[have:]

    def wrote(self, count: int) -> None:
        """Say that `count` bytes were put where `writable` pointed."""
        self._end += count
        self.is_idle = False

    def feed(self, data: bytes) -> Iterator[Message]:
        """Put `data` in and give the messages that it completes; raises ProtocolError."""
        rest = memoryview(data)
        scratch = memoryview(bytearray(len(data)))
        while rest:
            free = self.writable(scratch)
            count = min(len(rest), len(free))
            free[:count] = rest[:count]
            self.wrote(count)
            rest = rest[count:]
            while (message := self.next_message()) is not None:
                yield message

    def take_pushes(self) -> list[bytes]:
        """Give the pushes at the head of what there is, inflated; none where something else is."""
        pushes: list[bytes] = []
        if self._splitter is not None and not self._opcode and not self.is_idle:
            self._start = self._splitter(self._buffer, self._start, self._end, self._max, pushes)
            if self._start == self._end:
                self._keep()
        return pushes

    def next_message(self) -> Message | None:
        """Give the next message that is complete; None when there is no more.

        After a CLOSE nothing more is given, whatever else was sent (RFC 6455, section 5.5.1).

        Raises:
            ProtocolError: the server broke the protocol; the parser is then of no more use.
        """
        while not self.is_idle and not self._closed:
            pushes = self.take_pushes()
            if pushes:
                return INFLATED, pushes
            message = self._next_frame()
            if message is None:
                self._keep()
            elif message[0] >= 0:
                return message
        return None

    def _keep(self) -> None:
        """Let go of what was read into; keep the bytes of the frame under way."""
        start, end = self._start, self._end
        if start == end:
            self._own, self._again = _NOTHING, False
        elif self._buffer is not self._own:
            self._again = self._again and not start
            self._own = memoryview(bytes(self._buffer[start:end]))
        self._have = end - start
        self._buffer, self._start, self._end = _NOTHING, 0, 0
        self.is_idle = True

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
        payload = bytes(buffer[start + header : start + needed])
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


def split_pure(buffer: BytesLike, start: int, end: int, max_size: int, out: list[bytes], /) -> int:
    """Take the pushes at the head of ``buffer[start:end]``: the `Splitter` where no C is.

    It takes what the other takes: complete, unfragmented binary frames of less than 64 KiB in the
    shortest form, which are one gzip member of at most `max_size` bytes, compressed or not.
    """
    taken = 0
    with memoryview(buffer) as view:
        while end - start >= 2 and taken < SPLIT_UP_TO and view[start] == FIN | BINARY:
            length, first = view[start + 1], start + 2
            if length == 126:
                if end - start < 4:
                    break
                length, first = view[start + 2] << 8 | view[start + 3], start + 4
                if length < 126:  # not the shortest form
                    break
            elif length > 126:
                break
            after = first + length
            if after > end or not GZIP_HEAD <= length <= max_size:
                break
            try:
                text = inflate_pure(view[first:after], max_size)
            except ValueError:
                break
            out.append(text)
            taken += len(text)
            start = after
    return start


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
