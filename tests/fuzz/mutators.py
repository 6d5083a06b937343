"""Changes to an input that keep what a decoder checks first: checksums, lengths, JSON's syntax.

libFuzzer's own changes to a gzip member are found out by its CRC. So what is in it is changed, and
compressed anew; and what is in a frame gets a header that fits.
"""

from __future__ import annotations

import re
import zlib
from random import Random

from tests.support.frames import frame
from tests.support.pushes import packed

TOKENS = [
    *(b"null", b"true", b"false", b"0", b"-0", b"1", b"1.5", b"-1e5", b"1e400", b"1e-400"),
    *(b"9007199254740993", b"18446744073709551616", b"99999999999999999999999", b"1e30", b"2.0"),
    *(b"85717.01833333999523920", b"1e-99999999999999999999", b"NaN", b"-Infinity", b"01"),
    *(b'""', b'"1"', b'"2"', b'"x"', b'"close"', b'"CREATE"', b'"UPDATE"', b'"DELETE"'),
    *(b'"NaN"', b'"-1.5e3"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xff"', b"[]", b"{}", b"[[]]"),
    *(b"[{}]", b"[1]", b'{"id":1}', b'{"a":[]}', b'"ACCOUNT_UPDATE"', b'"ADL_PRICE"', b'"SYSTEM"'),
    *(b'"order"', b'"trigOrder"', b'"channel"', b'"pong"', b'"d"', b'"a"', b'"p"', b'"l"', b'"et"'),
    *(b'"id"', b'"cid"', b'"uid"', b'"orderId"', b'"otoOrder"', b'"takerProfitTriggerId"'),
    *(b"sub success", b"connect success", b"unsub success", b"[" * 210 + b"]" * 210),
]
VALUE = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|\[[^][{}]*\]|\{[^][{}]*\}'
)


def mutate_bytes(data: bytes, max_size: int) -> bytes:
    """One of libFuzzer's own changes."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415 (only the fuzzer has it)

    changed: bytes = atheris.Mutate(data, max_size)
    return changed


def mutate_text(text: bytes, max_size: int, random: Random) -> bytes:
    """Change JSON, mostly to other JSON."""
    found = list(VALUE.finditer(text))
    if not found or random.random() < 0.4:
        return mutate_bytes(text, max_size)
    place = random.choice(found)
    other = random.choice(TOKENS) if random.random() < 0.7 else random.choice(found)[0]
    start, end = place.span()
    if random.random() < 0.1:  # once more, further on: a second member, perhaps
        return text[:end] + b"," + other + b":" + random.choice(TOKENS) + text[end:]
    return text[:start] + other + text[end:]


def mutate_push(data: bytes, max_size: int, random: Random) -> bytes:
    """Change what is in a gzip member; a member's own bytes at times, and of what is none."""
    text = strictly_inflated(data, 64 * 1024)
    if text is None or random.random() < 0.1:
        return mutate_bytes(data, max_size)
    text = mutate_text(text, max_size, random)
    if random.random() < 0.8:
        return packed(text)
    packer = zlib.compressobj(random.randrange(10), zlib.DEFLATED, 31, 9, random.randrange(5))
    return packer.compress(text) + packer.flush(random.choice([zlib.Z_FINISH, zlib.Z_SYNC_FLUSH]))


def mutate_wire(wire: bytes, max_size: int, seed: int) -> bytes:
    """Change one frame of several, or their order."""
    random = Random(seed)
    parts = frames_of(wire)
    if not parts or random.random() < 0.2:
        return mutate_bytes(wire, max_size)
    at = random.randrange(len(parts))
    first, payload = parts[at]
    what = random.random()
    if what < 0.6:
        if payload[:2] == b"\x1f\x8b":
            payload = mutate_push(payload, max_size, random)
        else:
            payload = mutate_text(payload, max_size, random)
        parts[at] = first, payload
    elif what < 0.7:
        parts.insert(random.randrange(len(parts) + 1), parts[at])
    elif what < 0.8:
        del parts[at]
    elif what < 0.9:  # in two fragments
        middle = random.randrange(len(payload) + 1)
        parts[at : at + 1] = [(first & 0x7F, payload[:middle]), (first & 0x80, payload[middle:])]
    else:
        parts[at] = random.choice([first ^ 1 << random.randrange(8), 0x81, 0x82]), payload
    changed = b"".join(rebuilt(first, payload) for first, payload in parts)
    return changed[:max_size]


def rebuilt(first: int, payload: bytes) -> bytes:
    return frame(first & 15, payload, fin=bool(first & 0x80), rsv=first >> 4 & 7)


def frames_of(wire: bytes) -> list[tuple[int, bytes]]:
    """First byte and payload of each frame, as far as they can be made out."""
    parts = []
    while len(wire) >= 2:
        length, header = wire[1] & 127, 2
        if length > 125:
            header = 4 if length == 126 else 10
            length = int.from_bytes(wire[2:header], "big")
        parts.append((wire[0], wire[header : header + length]))
        wire = wire[header + length :]
    return parts


def strictly_inflated(data: bytes, limit: int) -> bytes | None:
    """The content of exactly one gzip member by the standard library; None for anything else."""
    member = zlib.decompressobj(31)
    try:
        text = member.decompress(data, limit + 1)
    except zlib.error:
        return None
    return text if member.eof and not member.unused_data and len(text) <= limit else None
