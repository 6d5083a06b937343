"""Bytes as the exchange makes them: JSON, gzip members, unmasked WebSocket frames."""

import json
import struct
import zlib
from decimal import Decimal, InvalidOperation
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

REPLY_FORMATS = ("text", "quoted", "binary", "gzip", "gzip-quoted", "json-event", "json-code")
# Of the exchange's own JSON messages, pongs and pings.
JSON_FORMATS = ("text", "binary", "gzip")

# The exchange runs on Java, whose gzip writer leaves time, flags and operating system at zero.
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(7)


def gzip_member(data: bytes) -> bytes:
    """One gzip member (RFC 1952), byte for byte what the exchange's Java would send."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflater.compress(data) + deflater.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def to_json(value: Any) -> bytes:
    """Compact JSON; a `Decimal` becomes a number with all its digits.

    Raises `ValueError` for NaN and infinities, `TypeError` for what JSON can't hold.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except TypeError:  # a Decimal, most likely, which the fast encoder does not take
        text = _exact_json(value)
    return text.encode()


def _exact_json(value: Any) -> str:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"not a JSON number: {value}")
        return format(value, "f")
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))}:{_exact_json(item)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_exact_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def swapped(value: Any) -> Any:
    """The same message from a careless deployment: numbers as strings, numeric strings as
    numbers, and a field that nobody documented in every object."""
    if isinstance(value, dict):
        return {key: swapped(item) for key, item in value.items()} | {"undocumented": [1, "x"]}
    if isinstance(value, (list, tuple)):
        return [swapped(item) for item in value]
    if isinstance(value, str):
        return _number(value)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return format(value, "f") if isinstance(value, Decimal) else repr(value)
    return value


def _number(text: str) -> Any:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite():
        return text
    return int(number) if number == number.to_integral_value() and "." not in text else number


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole WebSocket frame, as a server sends it (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        header = bytes((0x80 | opcode, size))
    elif size < 65536:
        header = struct.pack("!BBH", 0x80 | opcode, 126, size)
    else:
        header = struct.pack("!BBQ", 0x80 | opcode, 127, size)
    return header + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame with any code at all, also one that RFC 6455 forbids."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


def reply_frame(text: str, reply_format: str) -> bytes:
    """A reply such as `sub success`, wrapped as `reply_format` (one of `REPLY_FORMATS`) says."""
    if reply_format == "json-event":
        text = json.dumps({"event": text})
    elif reply_format == "json-code":
        text = json.dumps({"code": 0, "msg": text})
    payload = (json.dumps(text) if reply_format.endswith("quoted") else text).encode()
    if reply_format.startswith("gzip"):
        return frame(BINARY, gzip_member(payload))
    return frame(BINARY if reply_format == "binary" else TEXT, payload)
