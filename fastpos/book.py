"""The position book: what is known of each position and balance, merged.

An UPDATE and a tick carry only part of a position, so the book keeps the wire's values and merges
what comes over them. What it hands out is never changed afterwards: a merge makes a new dict.

Threads: the reader applies, anybody reads. `_lock` guards the two dicts and the entries in them.
"""

from __future__ import annotations

import threading
from typing import Any

from .events import AccountUpdate, AdlPrice, Balance, Event, Position
from .fields import NumberType, as_integer

__all__ = ["Book"]


class _Entry:
    """One position. `wire` may have been handed out, so it is replaced and not changed."""

    __slots__ = ("complete", "latest", "wire")

    def __init__(self, wire: dict[str, Any], complete: bool, latest: Event) -> None:
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
            id: _position(latest, wire, wire, complete, None)
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
                coin = wire.get("c")
                if type(coin) is str:
                    self._balances[coin] = {**self._balances.get(coin, {}), **wire}
            partial = update._position
            if partial is not None:
                update._position = self._merge(partial, body.get("et"), update)

    def _merge(self, partial: Position, change: Any, update: AccountUpdate) -> Position:
        id = as_integer(partial._wire.get("id"))
        if type(id) is not int:  # nothing to merge with
            return partial
        entry = self._positions.get(id)
        before = entry.wire if entry is not None else {}
        wire = {**before, **partial._wire}
        complete = change == "CREATE" or (entry is not None and entry.complete)
        if change == "DELETE":
            self._positions.pop(id, None)
        else:
            self._positions[id] = _Entry(wire, complete, update)
        return _position(update, wire, before, complete, change)

    def apply_ticks(self, event: AdlPrice) -> None:
        """Merge a risk tick."""
        with self._lock:
            for wire in event._wire.get("l") or ():
                id = as_integer(wire.get("id"))
                if type(id) is not int:
                    continue
                entry = self._positions.get(id)
                if entry is None:
                    self._positions[id] = _Entry(wire, False, event)
                else:
                    entry.wire = {**entry.wire, **wire}
                    entry.latest = event


def _position(
    push: Event, wire: dict[str, Any], before: dict[str, Any], complete: bool, change: Any
) -> Position:
    position = object.__new__(Position)
    position._raw = push._raw
    position._received_ns = push._received_ns
    position._number = push._number
    position._wire = wire
    position._before = before
    position._complete = complete
    position._change = change
    return position
