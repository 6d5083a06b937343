"""Pushes as the exchange sends them: the stored frames, and any other content."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "REAL", "load", "packed", "pushed", "text_of"]

_FRAMES = Path(__file__).parent / "frames"

REAL: bytes = base64.b64decode((_FRAMES / "adl_price.b64").read_bytes())
"""An ADL_PRICE frame that the exchange really sent."""

NAMES: list[str] = sorted(path.stem for path in _FRAMES.glob("*.json"))
"""Names of the stored messages."""


def text_of(name: str) -> bytes:
    """A stored message as JSON text."""
    return (_FRAMES / f"{name}.json").read_bytes()


def load(name: str) -> Any:
    """A stored message as an object of the test's own."""
    return json.loads(text_of(name))


def packed(text: bytes | str) -> bytes:
    """A push that holds `text`, JSON or not."""
    return gzip.compress(text.encode() if isinstance(text, str) else text, 1, mtime=0)


def pushed(push: object) -> bytes:
    """A push that holds `push` as JSON."""
    return packed(json.dumps(push))


# Attributes that a stream's book sets, and what they are on everything else.
OF_A_BOOK = {
    "source": "STREAM",
    "stale": False,
    "stale_fields": frozenset(),
    "missing_from_ticks": False,
}


def is_of_a_book(name: str, value: object) -> bool:
    """Whether this says nothing but that no book has set it."""
    return name == "remaining" or (name in OF_A_BOOK and value == OF_A_BOOK[name])
