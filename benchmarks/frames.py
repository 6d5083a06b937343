"""The frames that are sent and decoded: the exchange's messages, compressed as it does.

The one frame at hand that the exchange really sent (`adl_price`) has a bare gzip header, the OS
byte zero and one dynamic block, and deflates to the same bytes at zlib's default level. So the
others are made in that way.
"""

import base64
import json
import struct
import zlib
from pathlib import Path

__all__ = ["FRAMES", "MIXED", "compress", "websocket_frame"]

_FOLDER = Path(__file__).parent.parent / "tests" / "frames"
_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0))


def compress(text: bytes) -> bytes:
    """One gzip member, as the exchange writes it."""
    deflate = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
    body = deflate.compress(text) + deflate.flush()
    return _HEADER + body + struct.pack("<II", zlib.crc32(text), len(text))


def websocket_frame(payload: bytes, opcode: int = 2) -> bytes:
    """`payload` in an unmasked frame with FIN set, as a server sends it."""
    first = 0x80 | opcode
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    return struct.pack("!BBH", first, 126, len(payload)) + payload


def _load() -> dict[str, bytes]:
    frames = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix == ".json":
            compact = json.dumps(json.loads(path.read_bytes()), separators=(",", ":"))
            frames[path.stem] = compress(compact.encode())
        elif path.suffix == ".b64":
            frames[path.stem] = base64.b64decode(path.read_bytes())
    return frames


FRAMES = _load()
"""Every message kind by its name, as the gzip member that is a push's payload."""

MIXED = ("account_update_create", "adl_price", "order")
"""The three kinds that the groups measure; on a socket they take turns."""
