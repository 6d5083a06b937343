"""A line of a journal: how it is written, and how it is read back. docs/journal.md has the fields.

A journal is JSON Lines: one object a line. What all have stands first and in this order, so that a
push, whose text is put in as it came, is written and read without being parsed:

    {"ns":…,"stream":"alice","connection":1,"kind":"push","json":{"channel":"order",…}}

A text that is no JSON, or has a line feed in it, stands as base64 instead. A segment begins with a
line of kind "header"; a "check" holds the CRC-32 of all that stands before it in its segment.

No I/O here, and no threads.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from decimal import Decimal
from typing import Any

import orjson
from isal import isal_zlib

__all__ = [
    "CHECK",
    "FORMAT",
    "HEADER",
    "PUSH",
    "RAW",
    "VERSION",
    "Head",
    "check_line",
    "crc_of",
    "header_line",
    "is_json_line",
    "kind_of",
    "label_of",
    "line_of",
    "parse",
    "push_lines",
    "time_of",
]

FORMAT = "fastpos-journal"
VERSION = 1

HEADER, PUSH, CHECK = "header", "push", "check"

# What is nested deeper is left out of a line.
DEEPEST = 200

RAW = b',"kind":"push","json":'
"""What stands between the head of a push's line and its text, where that stands as it came."""
_ENCODED = b',"kind":"push","base64":'
_END = b"}\n"

Head = tuple[int, str | None, int]
"""When, in nanoseconds since the epoch; whose; the number of the connection."""


def crc_of(data: bytes, before: int = 0) -> int:
    """Give the CRC-32 (RFC 1952, section 8) of data that follows what has the CRC `before`."""
    return isal_zlib.crc32(data, before)


# --- writing --------------------------------------------------------------------------------------


def label_of(stream: str) -> bytes:
    """Give a stream's name as it stands in a line, to be made once."""
    return b'"stream":' + orjson.dumps(stream)


def push_lines(label: bytes, connection: int, received_ns: int, texts: list[bytes]) -> bytes:
    """Give the lines of pushes that were read at once. Each must be `is_json_line`."""
    head = b'{"ns":%d,%b,"connection":%d' % (received_ns, label, connection) + RAW
    return head + (_END + head).join(texts) + _END


def is_json_line(text: bytes) -> bool:
    """Whether a text may stand in a line as it is."""
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return b"\n" not in text


def encoded_line(label: bytes, connection: int, received_ns: int, text: bytes) -> bytes:
    """Give the line of a push that may not stand there as it is."""
    head = b'{"ns":%d,%b,"connection":%d' % (received_ns, label, connection) + _ENCODED
    return head + b'"' + b64encode(text) + b'"' + _END


def line_of(label: bytes, connection: int, ns: int, kind: str, values: dict[str, Any]) -> bytes:
    """Give the line of anything else; Decimals are written as numbers, in full."""
    head = b'{"ns":%d,%b,"connection":%d,"kind":"%b"' % (ns, label, connection, kind.encode())
    return head + _rest(values)


def kind_of(line: bytes) -> bytes:
    """Give the kind of a line that was made here."""
    begin = line.index(b'"kind":"') + 8
    return line[begin : line.index(b'"', begin)]


def time_of(line: bytes) -> int:
    """Give the time of a line that was made here."""
    return int(line[6 : line.index(b",")])


def header_line(ns: int, values: dict[str, Any]) -> bytes:
    """Give the first line of a segment."""
    known = {"format": FORMAT, "version": VERSION, **values}
    return b'{"ns":%d,"kind":"header"' % ns + _rest(known)


def check_line(ns: int, crc: int) -> bytes:
    """Give the line that says what the CRC-32 of all before it is."""
    return b'{"ns":%d,"kind":"check","crc32":"%08x"}\n' % (ns, crc)


def _rest(values: dict[str, Any]) -> bytes:
    if not values:
        return _END
    try:
        text = orjson.dumps(values, default=_plain)
    except TypeError:  # an int of more than 64 bits, half of a surrogate pair, or such
        text = orjson.dumps(_written_out(values, DEEPEST), default=_plain)
    return b"," + text[1:] + b"\n"


def _written_out(value: Any, depth: int) -> Any:
    """Give the same as orjson takes it, whatever it is. Texts and ints are kept in full."""
    if isinstance(value, (dict, list)) and not depth:
        return None
    if isinstance(value, dict):
        return {_well_formed(key): _written_out(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_written_out(each, depth - 1) for each in value]
    if isinstance(value, str):
        return orjson.Fragment(json.dumps(str(value)).encode())
    return orjson.Fragment(b"%d" % value) if type(value) is int else value


def _well_formed(key: Any) -> str:
    return str(key).encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value).encode())
    try:
        return _well_formed(value)
    except Exception:  # it is a user's
        return None


# --- reading --------------------------------------------------------------------------------------


def parse(line: bytes) -> tuple[Head, str, bytes, dict[str, Any]]:
    """Take a line apart, without the pushes' fast path (see reader.py).

    Returns:
        The head, the kind, the text of a push, and all else that stands there. Numbers with a
        fraction are Decimals.

    Raises:
        ValueError: it is no line of a journal; the message says what is wrong with it.
    """
    if not line.endswith(b"\n"):
        raise ValueError("it has no end")
    try:
        values = json.loads(line, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):  # the others: a foreign file
        raise ValueError("it is no JSON") from None
    if type(values) is not dict:
        raise ValueError("it is no object")
    ns, kind = values.pop("ns", None), values.pop("kind", None)
    stream, connection = values.pop("stream", None), values.pop("connection", 0)
    if type(ns) is not int or type(kind) is not str or type(connection) is not int:
        raise ValueError('"ns", "kind" or "connection" is missing or of another type')
    if stream is not None and type(stream) is not str:
        raise ValueError('"stream" is no text')
    if stream is None and kind not in (HEADER, CHECK):
        raise ValueError('"stream" is missing')
    text = b""
    if kind == PUSH:
        values.pop("json", None)
        _, found, rest = line.partition(RAW)
        try:
            text = rest[: -len(_END)] if found else b64decode(values.pop("base64"), validate=True)
        except (KeyError, TypeError, ValueError):
            raise ValueError("it is a push without a text") from None
    return (ns, stream, connection), kind, text, values
