"""Pushes as the exchange sends them: stored messages, gzip members (RFC 1952) good and altered."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from tests.support.frames import BINARY, frame

# --- what is stored -------------------------------------------------------------------------------

FRAMES = Path(__file__).parent.parent / "frames"

REAL: bytes = base64.b64decode((FRAMES / "adl_price.b64").read_bytes())
"""An ADL_PRICE push that the exchange really sent, as its bytes were on the wire."""

NAMES: list[str] = sorted(path.stem for path in FRAMES.glob("*.json"))
"""Names of the stored messages."""


def text_of(name: str) -> bytes:
    """A stored message as JSON text."""
    return (FRAMES / f"{name}.json").read_bytes()


def load(name: str) -> Any:
    """A stored message as an object of the test's own."""
    return json.loads(text_of(name))


# --- any other ------------------------------------------------------------------------------------


def order(number: int) -> dict[str, Any]:
    """A push that is told from others by its order id."""
    return {"channel": "order", "order": {"orderId": str(number), "orderAction": "1"}}


def packed(text: bytes | str, level: int = 1) -> bytes:
    """A push that holds `text`, JSON or not."""
    return gzip.compress(text.encode() if isinstance(text, str) else text, level, mtime=0)


def pushed(push: object) -> bytes:
    """A push that holds `push` as JSON."""
    return packed(json.dumps(push))


def push_frame(push: object) -> bytes:
    """The same as it comes: a binary frame."""
    return frame(BINARY, pushed(push))


# --- gzip members by hand -------------------------------------------------------------------------

FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT = 1, 2, 4, 8, 16


def deflated(content: bytes, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(content) + packer.flush()


def trailer(content: bytes) -> bytes:
    return struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)


def member(content: bytes, body: bytes | None = None, flags: int = 0) -> bytes:
    """A gzip member with the optional header fields that `flags` asks for; `body` is its deflate
    data, if that is not `content`'s."""
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


def bomb(size: int, text: bytes = b"") -> bytes:
    """`size` spaces in front of `text`, in about a thousandth of that."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    step = 1 << 20
    parts = [packer.compress(b" " * min(step, size - done)) for done in range(0, size, step)]
    return b"".join([*parts, packer.compress(text), packer.flush()])


MEMBERS: list[bytes] = [REAL, *(packed(text_of(name), 9) for name in NAMES)]
"""Every stored message as a push."""

ALTERED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cut short"),
    "text": (b"connect success", "not gzip"),
    "another method": (b"\x1f\x8b\x07" + REAL[3:], "not gzip"),
    "header only": (REAL[:10], "cut short"),
    "cut short": (REAL[:-9], "cut short"),
    "one byte short": (REAL[:-1], "cut short"),
    "bad block": (REAL[:10] + b"\xff" + REAL[11:], "bad deflate data"),
    "wrong checksum": (REAL[:-8] + bytes(4) + REAL[-4:], "wrong checksum or length"),
    "wrong length": (REAL[:-4] + bytes(4), "wrong checksum or length"),
    "trailing byte": (REAL + b"\0", "trailing bytes"),
    "two members": (REAL + REAL, "trailing bytes"),
}
"""What is no push, each by one alteration of `REAL`, and what an inflater says of it."""


# --- attributes that a stream's book sets, and what they are on everything else -------------------

OF_A_BOOK = {
    "source": "STREAM",
    "stale": False,
    "stale_fields": frozenset(),
    "missing_from_ticks": False,
}


def is_of_a_book(name: str, value: object) -> bool:
    """Whether this says nothing but that no book has set it."""
    return name == "remaining" or (name in OF_A_BOOK and value == OF_A_BOOK[name])
