"""The simulated exchange's truth, as snapshots and in the words of events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from fastpos import AttachedOrder, Balance, Order, Position, Snapshot, Trigger
from fastpos.account.book import Book
from fastpos.model.exchange import CHANNELS
from fastpos.simulator import Exchange
from tests.recording import SOON

__all__ = [
    "POSITION",
    "TICKS",
    "Bot",
    "Source",
    "merge",
    "shown",
    "snapshot_of",
    "told",
    "truth_of",
]

_ROWS = {channel.event: channel for channel in CHANNELS}


def merge(book: Book, event: Any) -> None:
    """Have a book merge an event, as a delivery does."""
    book.apply(event, _ROWS[type(event)])


TICKS = frozenset(("adl_level", "margin", "best_bid", "best_ask", "last_price", "mark_price"))
"""The attributes of a position that only ticks tell."""


def _keys(kind: type[Any], without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Attribute -> key on the wire."""
    return {
        name: field.key
        for name, field in kind._fields.items()
        if field.key and field.key[0] != ":" and name not in without
    }


POSITION = _keys(Position, TICKS)
"""The attributes of a position that pushes and snapshots tell, and their keys."""
_BALANCE, _ORDER, _TRIGGER = _keys(Balance), _keys(Order), _keys(Trigger)


def _made(kind: type[Any], keys: dict[str, str], wire: dict[str, Any]) -> Any:
    return kind(**{name: wire[key] for name, key in keys.items() if key in wire})


def _order(wire: dict[str, Any]) -> Order:
    """An order as a source would make it: its attached orders are records."""
    values = {name: wire[key] for name, key in _ORDER.items() if key in wire}
    for name, prefix in (("take_profit", "takerProfit"), ("stop_loss", "stopLoss")):
        keys = {part: prefix + key for part, key in _keys(AttachedOrder).items()}
        if wire.get("otoOrder"):
            values[name] = _made(AttachedOrder, keys, wire["otoOrder"])
    return Order(**values)


def snapshot_of(state: dict[str, Any], orders: bool = False) -> Snapshot:
    """A snapshot of what `Exchange.snapshot_state` gave, perhaps with orders and triggers."""
    return Snapshot(
        [_made(Position, POSITION, wire) for wire in state["positions"].values()],
        [_made(Balance, _BALANCE, wire) for wire in state["balances"].values()],
        [_order(wire) for wire in state["orders"].values()] if orders else None,
        [_made(Trigger, _TRIGGER, w) for w in state["triggers"].values()] if orders else None,
    )


def told(record: Any, names: Iterable[str] = POSITION) -> dict[str, Any]:
    """The attributes of one record."""
    return {name: getattr(record, name) for name in names}


def shown(records: dict[Any, Any]) -> dict[Any, dict[str, Any]]:
    """What a stream or a book shows: positions without ticks, balances, orders or triggers."""
    return {id: told(record, _names(type(record))) for id, record in records.items()}


def _names(kind: type[Any]) -> Iterable[str]:
    if kind is Position:
        return POSITION
    without = frozenset(("action",))  # what an order did last is not part of the truth
    extra = ("take_profit", "stop_loss") if kind is Order else ()
    return (*(name for name in _keys(kind) if name not in without), *extra)


def truth_of(state: dict[str, Any], number: Any = float) -> dict[str, dict[Any, dict[str, Any]]]:
    """What `shown` must give for "positions", "balances", "orders" and "triggers"."""
    kinds: dict[str, Any] = {
        "positions": Position,
        "balances": Balance,
        "orders": Order,
        "triggers": Trigger,
    }
    return {
        what: shown({id: kind._view(wire, number) for id, wire in state[what].items()})
        for what, kind in kinds.items()
    }


class Bot:
    """Listens to on_position, and to nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[int, dict[str, Any]] = {}
        self.events: list[Position] = []

    def on_position(self, position: Position) -> None:
        with self._lock:
            self.events.append(position)
            assert position.id is not None
            if position.change == "DELETE":
                self._positions.pop(position.id, None)
            else:
                self._positions[position.id] = told(position)

    def begin_with(self, positions: dict[int, Position]) -> None:
        """Forget everything but these."""
        with self._lock:
            self._positions = shown(positions)

    @property
    def positions(self) -> dict[int, dict[str, Any]]:
        """The positions as the events told them."""
        with self._lock:
            return dict(self._positions)

    @property
    def changes(self) -> list[tuple[str | None, str, int | None]]:
        """(change, source, id) of each event."""
        with self._lock:
            return [(event.change, event.source, event.id) for event in self.events]


class Source:
    """A snapshot source: tells an exchange's truth, and waits or fails as it is told.

    Each call takes the next of `plan`, or does the usual when that is used up: an exception is
    raised; a function is called, and gives what the call gives; anything else is given.
    """

    def __init__(self, exchange: Exchange, orders: bool = False) -> None:
        self._exchange = exchange
        self._orders = orders
        self._changed = threading.Condition()
        self._held = False
        self.plan: list[object] = []
        self.calls: list[threading.Thread] = []
        """The thread of each call."""
        self.taken = 0
        """How many calls have taken the truth, to give it when nothing holds them."""
        self.running = 0
        """How many calls are under way."""

    def __call__(self) -> Any:
        with self._changed:
            self.calls.append(threading.current_thread())
            planned = self.plan.pop(0) if self.plan else self.truth
            self.running += 1
            self._changed.notify_all()
        try:
            if isinstance(planned, BaseException):
                raise planned
            return planned() if callable(planned) else planned
        finally:
            with self._changed:
                self.running -= 1
                self._changed.notify_all()

    def truth(self) -> Snapshot:
        """Give the truth of this moment, once nothing holds it back."""
        snapshot = snapshot_of(self._exchange.snapshot_state(), self._orders)
        with self._changed:
            self.taken += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._held, 60.0)
        return snapshot

    def hold(self) -> None:
        """Make every call take the truth and then wait for `release`."""
        self._held = True

    def release(self) -> None:
        """Let them go."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def wait_for_calls(self, count: int) -> None:
        """Wait until so many calls have begun."""
        self._wait_for(lambda: len(self.calls) >= count)

    def wait_until_taken(self, count: int) -> None:
        """Wait until so many calls have taken the truth."""
        self._wait_for(lambda: self.taken >= count)

    def wait_until_idle(self) -> None:
        """Wait until no call is under way."""
        self._wait_for(lambda: not self.running)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, SOON), (len(self.calls), self.taken)
