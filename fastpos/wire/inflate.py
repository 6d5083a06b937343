"""The inflater in use: exactly one gzip member (RFC 1952) to its content.

There are two, and they accept and refuse the same bytes. `_inflate` inflates a push without
letting go of the GIL, and takes whole frames out of a receive buffer. Where it can't be used, the
`isal` wheel inflates, and frames are taken in Python. Either way ISA-L does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import isal.igzip_lib  # noqa: F401 -- isal_zlib's binary needs it, which no source text says
from isal import isal_zlib
from isal.isal_zlib import decompressobj

from .._c import mechanism, why_not

if TYPE_CHECKING:
    from .._c._inflate import Inflater

__all__ = [
    "GZIP_WBITS",
    "BytesLike",
    "Splitter",
    "inflate",
    "inflate_pure",
    "inflater",
    "native_error",
    "new_splitter",
]

BytesLike = bytes | bytearray | memoryview

# (buffer, start, end, max_size, out) -> position; see `Inflater.split` in _inflate.c.
Splitter = Callable[[BytesLike, int, int, int, list[bytes]], int]

GZIP_WBITS = 31
"""To zlib and isal: a gzip member with its header and trailer."""

_IsalError: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]  # isal's stub errs

# What ISA-L's numbers mean, in the words of _inflate.c.
_REASONS = {
    "-6": "wrong checksum or length",
    "-5": "not gzip",
    "-4": "not gzip",
    "-3": "bad deflate data",
    "-2": "bad deflate data",
    "-1": "bad deflate data",
}


def inflate_pure(data: BytesLike, max_size: int, /) -> bytes:
    """Return the content of `data`, which must be one gzip member and nothing else.

    Raises ValueError for anything else, and for a content of more than `max_size` bytes.
    """
    if max_size < 1:  # to isal, 0 means no limit
        raise ValueError("max_size must be at least 1")
    # isal's one-shot `decompress` is 0.2 µs faster, but does not tell where the member ended.
    member = decompressobj(GZIP_WBITS)
    try:
        content = member.decompress(data, max_size)
        if member.eof and not member.unused_data:
            return content
        if not member.eof and len(content) == max_size:  # full, but that may be all there is
            if member.decompress(member.unconsumed_tail, 1):
                raise ValueError(f"inflates to more than {max_size} bytes")
            if member.eof and not member.unused_data:
                return content
    except _IsalError as error:
        raise ValueError(_REASONS.get(str(error).split()[1], str(error))) from None
    raise ValueError("trailing bytes" if member.eof else "cut short")


inflate: Callable[[BytesLike, int], bytes]
"""What the rest of the package calls: native where there is one, else `inflate_pure`."""

inflater: str
"""Which one that is: "isa-l" (native) or "isal" (the wheel)."""

native_error: str | None
"""Why it is not the native one; None when it is."""

native: Inflater | None
"""The one native inflater of the process, for all threads; its state has 85 KiB."""

_module = mechanism("_inflate")
native_error = why_not.get("_inflate")
if _module is None:
    inflate, inflater, native = inflate_pure, "isal", None
else:
    native = _module.Inflater()
    inflate, inflater = native.inflate, "isa-l"


def new_splitter() -> Splitter | None:
    """Return a function that takes pushes out of a receive buffer; None if pure."""
    return None if native is None else native.split
