"""The position book: what is known of each position and balance, merged.

An UPDATE and a tick carry only part of a position, so the book keeps the wire's values and merges
what comes over them. What it hands out is never changed afterwards: a merge makes a new dict.

Threads: the reader applies, anybody reads. `_lock` guards the two dicts and the entries in them.
"""

from __future__ import annotations

import threading
from typing import Any

from .events import AccountUpdate, AdlPrice, Balance, Position, position_of
from .fields import NumberType, as_integer, as_text

__all__ = ["Book"]


class _Entry:
    """One position. `wire` may have been handed out, so it is replaced and not changed."""

    __slots__ = ("complete", "latest", "wire")

    def __init__(
        self, wire: dict[str, Any], complete: bool, latest: AccountUpdate | AdlPrice
    ) -> None:
        self.wire = wire
        self.complete = complete
        self.latest = latest  # the push that was last merged


class Book:
    """Positions by id and balances by coin.

    Args:
        number: type of numbers in what is handed out.
    """

    def __init__(self, number: NumberType) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._positions: dict[int, _Entry] = {}
        self._balances: dict[str, dict[str, Any]] = {}

    @property
    def positions(self) -> dict[int, Position]:
        """All positions, merged; a new dict. They are no events: their `change` is None."""
        with self._lock:
            entries = [(id, e.latest, e.wire, e.complete) for id, e in self._positions.items()]
        return {
            id: position_of(latest, wire, wire, complete, None)
            for id, latest, wire, complete in entries
        }

    @property
    def balances(self) -> dict[str, Balance]:
        """All balances; a new dict."""
        with self._lock:
            items = list(self._balances.items())
        return {coin: Balance._view(wire, self._number) for coin, wire in items}

    def apply_account(self, update: AccountUpdate) -> None:
        """Merge a push, and make its position the merged one."""
        body = update._wire["d"]
        with self._lock:
            for wire in body.get("a") or ():
                coin = as_text(wire.get("c"))
                if type(coin) is str:
                    self._balances[coin] = _merged(self._balances.get(coin, {}), wire)
            wire = body.get("p")
            if wire:
                update._position = self._merge(update, wire, body.get("et"))

    def _merge(self, update: AccountUpdate, part: dict[str, Any], change: Any) -> Position:
        id = as_integer(part.get("id"))
        entry = self._positions.get(id) if type(id) is int else None
        before = entry.wire if entry is not None else {}
        wire = _merged(before, part)
        complete = change == "CREATE" or (entry is not None and entry.complete)
        if type(id) is not int:  # nothing to merge with later
            pass
        elif change == "DELETE":
            self._positions.pop(id, None)
        else:
            self._positions[id] = _Entry(wire, complete, update)
        return position_of(update, wire, before, complete, change)

    def apply_ticks(self, event: AdlPrice) -> None:
        """Merge a risk tick."""
        with self._lock:
            for wire in event._wire.get("l") or ():
                id = as_integer(wire.get("id"))
                if type(id) is not int:
                    continue
                entry = self._positions.get(id)
                if entry is None:
                    self._positions[id] = _Entry({**wire}, False, event)
                else:
                    entry.wire = _merged(entry.wire, wire)
                    entry.latest = event


def _merged(known: dict[str, Any], news: dict[str, Any]) -> dict[str, Any]:
    """Both together; a null is no news."""
    merged = {**known, **news}
    if None in news.values():
        for key, value in known.items():
            if news.get(key) is None:
                merged[key] = value
    return merged
