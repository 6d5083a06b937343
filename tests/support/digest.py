"""What a stream's functions were called with, as values that can be compared with a replay's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson

from fastpos.errors import FastposError
from fastpos.runtime.callbacks import CALLBACK_NAMES

__all__ = ["Digest", "told"]


def _plain(value: Any) -> Any:
    if isinstance(value, FastposError):  # without its advice, which may be worded anew
        return [type(value).__name__, value.message]
    if isinstance(value, BaseException):
        return [type(value).__name__, str(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def told(name: str, given: Any) -> bytes:
    """A call as JSON: the callback's name, the event's class, attributes and time."""
    if isinstance(given, BaseException):
        values = {"error": _plain(given), "stream": getattr(given, "stream", None)}
    else:
        values = {**given.as_dict(), "at": getattr(given, "received_ns", None)}
    return orjson.dumps([name, type(given).__name__, values], default=_plain)


class Digest:
    """Hashes the calls of a stream's functions; each function is one of `callbacks`."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.calls = 0

    @property
    def value(self) -> str:
        """Of all calls until now, in their order."""
        return self._hash.hexdigest()

    def note(self, given: Any, name: str = "") -> None:
        """Take in what a function was called with, or anything else like it."""
        self._hash.update(told(name, given))
        self.calls += 1

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """The functions, as a stream's keyword arguments."""
        return {name: self._function(name) for name in CALLBACK_NAMES}

    def _function(self, name: str) -> Callable[[Any], None]:
        def note(given: Any) -> None:
            self.note(given, name)

        return note
