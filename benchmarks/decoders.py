"""Ways to turn one push into something a program can read, each as (decode, reader's kind).

A factory imports what it needs when it is called, in a process of its own: a missing package
makes one decoder unavailable, and one decoder's imports never touch another's timing.
"""
# ruff: noqa: PLC0415

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.spec import Spec

__all__ = ["DECODERS", "Decoder"]


class Decoder(NamedTuple):
    decode: Callable[[bytes], Any]
    gives_events: bool
    """True for objects with the attributes of fastpos's events, False for the wire's dicts."""


def gzip_json() -> Decoder:
    import gzip
    import json

    decompress, loads = gzip.decompress, json.loads
    return Decoder(lambda data: loads(decompress(data)), gives_events=False)


def zlib_orjson() -> Decoder:
    import zlib

    import orjson

    decompress, loads = zlib.decompress, orjson.loads
    return Decoder(lambda data: loads(decompress(data, 31)), gives_events=False)


def isal_orjson() -> Decoder:
    import orjson
    from isal import isal_zlib

    decompress, loads = isal_zlib.decompress, orjson.loads
    return Decoder(lambda data: loads(decompress(data, 31)), gives_events=False)


def isal_msgspec() -> Decoder:
    import msgspec
    from isal import isal_zlib

    decompress, loads = isal_zlib.decompress, msgspec.json.Decoder().decode
    return Decoder(lambda data: loads(decompress(data, 31)), gives_events=False)


def floor() -> Decoder:
    """What no decoder in Python can beat: fastpos's inflater in C, and a parser in C."""
    import orjson

    from fastpos.wire.inflate import inflate

    loads, most = orjson.loads, 1 << 20
    return Decoder(lambda data: loads(inflate(data, most)), gives_events=False)


def fastpos_decode() -> Decoder:
    import fastpos

    return Decoder(fastpos.decode, gives_events=True)


def _spec(label: str, factory: str, **more: Any) -> Spec:
    return Spec(label, "benchmarks.decoders", factory, **more)


DECODERS = {
    "gzip-json": _spec("gzip + json", "gzip_json"),
    "zlib-orjson": _spec("zlib + orjson", "zlib_orjson"),
    "isal-orjson": _spec("isal + orjson", "isal_orjson"),
    "isal-msgspec": _spec("isal + msgspec", "isal_msgspec"),
    "floor": _spec("ISA-L in C + orjson, nothing else", "floor", native=True),
    "fastpos-pure": _spec("fastpos, pure", "fastpos_decode", native=False),
    "fastpos-native": _spec("fastpos, native", "fastpos_decode", native=True),
}
