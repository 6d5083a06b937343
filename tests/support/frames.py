"""WebSocket frames by hand (RFC 6455, section 5): a server's, valid or not, and a client's, read.

Nothing here is the library's: it must not be judged by its own rules.
"""

from __future__ import annotations

import contextlib
import io
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Peer(Protocol):
    """The two methods of a socket that the helpers use."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...


def read_exactly(peer: Peer, size: int) -> bytes:
    """Raises ConnectionError if the client ends first."""
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError(f"the client left {size - len(data)} bytes before the end")
        data += piece
    return bytes(data)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool | bytes = False,
    length_form: Literal[7, 16, 64] | None = None,
    announce: int | None = None,
) -> bytes:
    """One frame, valid or not.

    `rsv` holds the three bits as a number from 0 to 7. `masked` may be the masking key itself.
    `length_form` is the width of the length field, by default the shortest that fits. `announce`
    is the length that the header claims instead of the true one.
    """
    length = len(payload) if announce is None else announce
    if length_form is None:
        length_form = 7 if length < 126 else 16 if length < 1 << 16 else 64
    mask_bit = 0x80 if masked else 0
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if length_form == 7:
        header = bytes([first, mask_bit | length])
    elif length_form == 16:
        header = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        header = struct.pack("!BBQ", first, mask_bit | 127, length)
    if masked:
        key = masked if isinstance(masked, bytes) else b"\x12\x34\x56\x78"
        return header + key + _mask(payload, key)
    return header + payload


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def text_frame(text: str) -> bytes:
    return frame(TEXT, text.encode())


def _mask(payload: bytes, key: bytes) -> bytes:
    if not payload:
        return b""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
        len(payload), "big"
    )


@dataclass(frozen=True)
class ClientFrame:
    """A frame as the client sent it, its payload unmasked."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int
    mask: bytes | None
    """The masking key; None is against the protocol for a client."""

    @property
    def close_code(self) -> int | None:
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


def read_frame(peer: Peer) -> ClientFrame:
    """The client's next frame; raises ConnectionError when there is none to come."""
    first, second = read_exactly(peer, 2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", read_exactly(peer, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read_exactly(peer, 8))
    key = read_exactly(peer, 4) if second & 0x80 else None
    payload = read_exactly(peer, length)
    return ClientFrame(
        opcode=first & 0xF,
        payload=_mask(payload, key) if key else payload,
        fin=bool(first & 0x80),
        rsv=first >> 4 & 0x7,
        mask=key,
    )


def frames(peer: Peer) -> Iterator[ClientFrame]:
    """The client's frames up to its close frame, which is the last of them, or to its end."""
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while True:
            read = read_frame(peer)
            yield read
            if read.opcode == CLOSE:
                return


class _Sent(io.BytesIO):
    """Bytes that a client has sent, read like a socket."""

    recv = io.BytesIO.read

    def sendall(self, data: bytes, /) -> None:
        raise AssertionError("nobody is there")


def whole_frames(data: bytes) -> tuple[list[ClientFrame], bytes]:
    """The frames of a client at the beginning of `data`, and what is behind the last whole one."""
    peer, found, end = _Sent(data), [], 0
    with contextlib.suppress(ConnectionError):
        while end < len(data):
            found.append(read_frame(peer))
            end = peer.tell()
    return found, data[end:]


def frames_in(data: bytes) -> list[ClientFrame]:
    """The frames of a client in `data`, which holds no other bytes."""
    found, rest = whole_frames(data)
    assert not rest, f"{rest!r} is no whole frame"
    return found
