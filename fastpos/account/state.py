"""What is known of an account, merged: positions, balances, open orders and triggers.

An UPDATE and a tick carry only part of a position, so the wire's values are kept and what comes is
merged over them. What was handed out never changes: a merge makes a new dict, and what a push
brought is kept as it is, since nobody is given anything but a copy of it.

No lock and no thread here; book.py has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from ..model.events import (
    AccountUpdate,
    AdlPrice,
    AdlTick,
    AttachedOrder,
    Balance,
    Event,
    Order,
    Position,
    Trigger,
    position_of,
)
from ..model.fields import NumberType, Record, as_integer, as_number, as_text
from ..model.snapshot import Snapshot

__all__ = ["Entry", "PositionEntry", "State", "no_push"]

# What `orderAction` says of an order that is cancelled.
CANCEL = "2"
_CANCEL_AS_INT = 2
# A position that so many ticks in a row do not list is marked.
MISSED_TICKS = 3
# So many closed positions are remembered, for the ticks that still list them.
REMEMBERED = 1000
# A position that so many ticks list after it was closed is open: again, or the snapshot erred.
LATE_TICKS = 3
# Of so many positions, orders or triggers, those of which no push has told since the gap before are
# forgotten at the next, the oldest first: they ended in a gap, and months have many.
KEPT = 10_000

# What only ticks tell of a position.
_TICK_KEYS = frozenset(field.key for field in AdlTick._fields.values() if field.key) - frozenset(
    ("id", "rp", "mr")
)
_LASTING = tuple(
    name
    for name, field in Position._fields.items()
    if field.key and field.key[0] != ":" and field.key not in _TICK_KEYS
)
# An order's derived attributes, and how their keys begin on the wire.
_ATTACHED = {":take_profit": "takerProfit", ":stop_loss": "stopLoss"}
_NAMES = {field.key: name for name, field in Position._fields.items() if field.key}


_NOTHING: frozenset[str] = frozenset()


class PositionEntry:
    """One position. `wire` may have been handed out, so it is replaced and not changed."""

    __slots__ = ("complete", "latest", "missed", "stale", "tick", "told", "wire")

    def __init__(
        self, wire: dict[str, Any], latest: Event, complete: bool, told: dict[str, Any] | None
    ) -> None:
        self.wire = wire
        self.latest = latest  # the push that was last merged
        self.complete = complete  # whether its CREATE was seen
        self.told = told  # what on_position was last called with, None if it never was
        self.tick: dict[str, Any] | None = None  # the last one, if it is not in `wire` yet
        self.stale: frozenset[str] = _NOTHING  # keys of what may be out of date
        self.missed = 0  # ticks in a row that did not list it

    def whole(self) -> dict[str, Any]:
        """Give all that is known, the last tick included."""
        if self.tick is not None:
            self.wire, self.tick = _merged(self.wire, self.tick), None
        return self.wire


class Entry:
    """One balance, order or trigger. `wire` is replaced, not changed."""

    __slots__ = ("keys", "latest", "stale", "wire")

    def __init__(self, wire: dict[str, Any], latest: Event) -> None:
        self.wire = wire
        self.keys = [*wire]
        self.latest = latest
        self.stale = False


class State:
    """An account as the pushes (and perhaps a snapshot before them) tell it.

    Args:
        number: type of numbers in what is handed out.
        base: looked in for positions that are not known here, while a journal is applied.
    """

    __slots__ = ("_closed", "_number", "balances", "base", "orders", "positions", "triggers")

    def __init__(self, number: NumberType, base: State | None = None) -> None:
        self._number = number
        self.base = base
        self.positions: dict[int, PositionEntry] = {}
        self.balances: dict[str, Entry] = {}
        self.orders: dict[str, Entry] = {}
        self.triggers: dict[str, Entry] = {}
        # Id of a closed position -> how many ticks have listed it since.
        self._closed: dict[int, int] = {} if base is None else dict(base._closed)

    # --- pushes -----------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Merge any push."""
        kind = type(event)
        if kind is AccountUpdate:
            self.apply_account(event)  # type: ignore[arg-type]
        elif kind is AdlPrice:
            self.apply_ticks(event)  # type: ignore[arg-type]
        elif kind is Order:
            self.apply_order(event)  # type: ignore[arg-type]
        elif kind is Trigger:
            self.apply_trigger(event)  # type: ignore[arg-type]

    def apply_account(self, update: AccountUpdate) -> Position | None:
        """Merge a push; give its position, whole, or None where it has none."""
        body = update._wire["d"]
        balances = self.balances
        for wire in body.get("a") or ():
            coin = wire.get("c")
            if type(coin) is not str:
                coin = as_text(coin)
                if type(coin) is not str:
                    continue
            known = balances.get(coin)
            if known is None and self.base is not None:
                known = self.base.balances.get(coin)
            if known is None:
                balances[coin] = Entry(wire, update)
            elif (
                [*wire] == known.keys
                and wire.get("an") is not None
                and wire.get("la") is not None
                and wire.get("pn") is not None
            ):  # it tells all that is known
                if known is balances.get(coin):
                    known.wire = wire
                    known.latest = update
                    known.stale = False
                else:  # the base's, which stays as it is
                    balances[coin] = Entry(wire, update)
            else:
                entry = balances[coin] = Entry(_merged(known.wire, wire), update)
                entry.stale = known.stale and not known.wire.keys() <= _told(wire)
        part = body.get("p")
        return self._apply_position(update, part, body.get("et")) if part else None

    def _apply_position(self, update: AccountUpdate, part: Any, change: Any) -> Position:
        id = part.get("id")
        if type(id) is not int:
            id = as_integer(id)
            if type(id) is not int:  # there is nothing to merge it with
                return position_of(update, part, {}, change == "CREATE", change)
        entry = self.positions.get(id) or self._base_entry(id)
        complete = change == "CREATE" or (entry is not None and entry.complete)
        if entry is None or (change == "CREATE" and entry.complete):
            before: dict[str, Any] = {}  # a new position, of which all is told
            wire = part
        else:
            before = entry.wire if entry.tick is None else _merged(entry.wire, entry.tick)
            wire = _merged(before, part)
        position = position_of(update, wire, before, complete, change)
        stale: frozenset[str] = _NOTHING
        if entry is not None and entry.stale and change != "CREATE":
            stale = entry.stale - _told(part)
            _show_stale(position, stale)
        if change == "DELETE":
            self.positions.pop(id, None)
            self.note_closed(id)
        elif entry is None:
            self._closed.pop(id, None)
            self.positions[id] = PositionEntry(wire, update, complete, wire)
        else:
            entry.wire = entry.told = wire
            entry.tick = None
            entry.latest = update
            entry.complete = complete
            entry.stale = stale
            entry.missed = 0
            self.positions[id] = entry
            if self.base is not None:  # the entry may be its, of a position that was opened again
                self._closed.pop(id, None)
        return position

    def apply_ticks(self, event: AdlPrice) -> None:
        """Merge a risk tick."""
        ticks = event._wire.get("l")
        if ticks is None:
            return
        listed = set()
        for wire in ticks:
            id = wire.get("id")
            if type(id) is not int:
                id = as_integer(id)
            if type(id) is not int or self._is_late(id):
                continue
            entry = self.positions.get(id)
            if entry is None and self.base is not None:
                continue  # the snapshot does not have it, and no push has said that it is open
            listed.add(id)
            if entry is None:
                entry = PositionEntry(wire, event, False, None)
            else:
                tick = entry.tick
                if tick is None or ([*tick] == [*wire] and None not in wire.values()):
                    entry.tick = wire  # it tells all that the one before it did
                else:
                    entry.tick = _merged(tick, wire)
                entry.latest = event
                entry.missed = 0
                if entry.stale:
                    entry.stale -= _told(wire)
            self.positions[id] = entry
        if len(listed) < len(self.positions):
            for id, entry in self.positions.items():
                if id not in listed:
                    entry.missed += 1

    def note_closed(self, id: int) -> None:
        """Take note that a position is closed, for ticks that were made before."""
        self._closed[id] = 0
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]

    def _is_late(self, id: int) -> bool:
        """Whether a tick that lists `id` was made before its position was closed."""
        times = self._closed.get(id)
        if times is None:
            return False
        if times < LATE_TICKS:
            self._closed[id] = times + 1
            return True
        del self._closed[id]
        return False

    def apply_order(self, order: Order) -> None:
        """Keep an open order; one that is cancelled or filled is open no more."""
        wire = order._wire
        id = wire.get("orderId")
        if type(id) is not str:
            id = as_text(id)
            if type(id) is not str:
                return
        known = self.orders.get(id)
        # It may tell all that the one before it did.
        if known is not None and ([*wire] != known.keys or None in wire.values()):
            wire = _merged(known.wire, wire)
            known = None
        action = wire.get("orderAction")
        if action in (CANCEL, _CANCEL_AS_INT) or _is_filled(wire, self._number):
            self.orders.pop(id, None)
        elif known is None:
            self.orders[id] = Entry(wire, order)
        else:
            known.wire = wire
            known.latest = order
            known.stale = False

    def apply_trigger(self, trigger: Trigger) -> None:
        """Keep a waiting trigger order."""
        id = as_text(trigger._wire.get("triggerOrderId"))
        if type(id) is not str:
            return
        if str(trigger._wire.get("orderAction")) == CANCEL:
            self.triggers.pop(id, None)
        else:
            known = self.triggers.get(id)
            wire = trigger._wire if known is None else _merged(known.wire, trigger._wire)
            self.triggers[id] = Entry(wire, trigger)

    def _base_entry(self, id: int) -> PositionEntry | None:
        if self.base is not None:
            entry = self.base.positions.get(id)
            if entry is not None:  # the base stays as it is
                copy = PositionEntry(entry.whole(), entry.latest, entry.complete, entry.told)
                copy.stale = entry.stale
                return copy
        return None

    # --- gaps and snapshots -----------------------------------------------------------------

    def mark_stale(self) -> None:
        """Take note that pushes may have been missed."""
        things: tuple[dict[Any, Any], ...] = (self.positions, self.orders, self.triggers)
        for known in things:
            if len(known) > KEPT:
                unheard = [id for id, entry in known.items() if entry.stale]
                for id in unheard[: len(known) - KEPT]:
                    del known[id]
        for entry in self.positions.values():
            entry.stale = frozenset(entry.whole().keys() & _NAMES)
            entry.missed = 0
        for known in (self.balances, self.orders, self.triggers):
            for other in known.values():
                other.stale = True

    def take(self, snapshot: Snapshot, received_ns: int) -> None:
        """Put a snapshot in, into an empty state that has a base.

        What the snapshot does not tell of a position or a coin is taken from the base, but for
        what ticks tell, which is soon out of date.

        Raises:
            TypeError, ValueError: it is no snapshot.
        """
        base = self.base
        assert base is not None
        for position, id, latest in self._items(snapshot.positions, Position, int, received_ns):
            known = base.positions.get(id)
            before = {} if known is None else known.whole()
            wire = {key: value for key, value in before.items() if key not in _TICK_KEYS}
            wire.update(self._wire_of(position))
            self.positions[id] = PositionEntry(wire, latest, True, None)
            self._closed.pop(id, None)
        for balance, coin, latest in self._items(snapshot.balances, Balance, str, received_ns):
            other = base.balances.get(coin)
            before = {} if other is None else other.wire
            self.balances[coin] = Entry({**before, **self._wire_of(balance)}, latest)
        if snapshot.orders is None:
            self.orders = dict(base.orders)
        else:
            for order, id, latest in self._items(snapshot.orders, Order, str, received_ns):
                wire = self._wire_of(order)
                if not _is_filled(wire, self._number):
                    self.orders[id] = Entry(wire, latest)
        if snapshot.triggers is None:
            self.triggers = dict(base.triggers)
        else:
            for trigger, id, latest in self._items(snapshot.triggers, Trigger, str, received_ns):
                self.triggers[id] = Entry(self._wire_of(trigger), latest)

    def _items(
        self, records: Iterable[Any], kind: type[Any], id_kind: type, received_ns: int
    ) -> Iterator[tuple[Any, Any, Event]]:
        """Give each record with its id, and with what stands for the push that it came in."""
        for record in records:
            if not isinstance(record, kind):
                raise TypeError(f"the snapshot holds {record!r} where a {kind.__name__} belongs")
            id = getattr(record, kind._identity)
            if type(id) is not id_kind:
                raise ValueError(f"the snapshot holds a {kind.__name__} of no {kind._identity}")
            yield record, id, no_push(self._number, received_ns, record._raw)

    def _wire_of(self, record: Record) -> dict[str, Any]:
        wire = {
            key: self._adapted(value)
            for key, value in record._wire.items()
            if key[0] != ":" and value is not None
        }
        if type(record) is Order:  # made with keywords it holds these apart
            for key, prefix in _ATTACHED.items():
                attached = record._wire.get(key)
                if type(attached) is AttachedOrder:
                    parts = {prefix + k: v for k, v in self._wire_of(attached).items()}
                    wire["otoOrder"] = {**wire.get("otoOrder", {}), **parts}
        return wire

    def _adapted(self, value: Any) -> Any:
        if type(value) is Decimal and self._number is float:
            return float(value)
        if type(value) is float and self._number is Decimal:
            return Decimal(repr(value))  # the shortest decimal that is this float
        return value

    def differences(self, received_ns: int) -> list[Position]:
        """Give, as events, what a bot has to be told that was told what the base says."""
        assert self.base is not None
        events = []
        for entry in self.positions.values():
            wire = entry.whole()
            if entry.told is None:
                events.append(position_of(entry.latest, wire, {}, entry.complete, "CREATE"))
            elif _differ(entry.told, wire, self._number):
                event = position_of(entry.latest, wire, entry.told, entry.complete, "UPDATE")
                events.append(event)
        nothing = no_push(self._number, received_ns)
        for id, old in self.base.positions.items():
            if id not in self.positions and old.told is not None:
                wire = old.whole()
                events.append(position_of(nothing, wire, wire, old.complete, "DELETE"))
        for event in events:
            event._source = "SNAPSHOT"
            event._received_ns = received_ns
        return events

    # --- what is handed out -----------------------------------------------------------------

    def show_positions(self) -> dict[int, Position]:
        """The positions by id."""
        shown = {}
        for id, entry in self.positions.items():
            wire = entry.whole()
            position = position_of(entry.latest, wire, wire, entry.complete, None)
            if entry.stale:
                _show_stale(position, entry.stale)
            if entry.missed >= MISSED_TICKS:
                position._missing = True
            shown[id] = position
        return shown

    def show_balances(self) -> dict[str, Balance]:
        """The balances by coin."""
        return {coin: self._shown(Balance, entry) for coin, entry in self.balances.items()}

    def show_orders(self) -> dict[str, Order]:
        """The open orders by id."""
        return {id: self._shown(Order, entry) for id, entry in self.orders.items()}

    def show_triggers(self) -> dict[str, Trigger]:
        """The waiting triggers by id."""
        return {id: self._shown(Trigger, entry) for id, entry in self.triggers.items()}

    def _shown(self, kind: Any, entry: Entry) -> Any:
        record = kind._view(entry.wire, self._number)
        record._stale = entry.stale
        if kind is not Balance:
            record._raw = entry.latest._raw
            record._received_ns = entry.latest._received_ns
        return record


def _merged(known: dict[str, Any], news: dict[str, Any]) -> dict[str, Any]:
    """Both together; a null is no news."""
    merged = {**known, **news}
    if None in news.values():
        for key, value in known.items():
            if news.get(key) is None:
                merged[key] = value
    return merged


def _told(wire: dict[str, Any]) -> frozenset[str]:
    """The keys of which `wire` says something; a null is no news."""
    return frozenset(key for key, value in wire.items() if value is not None)


def _is_filled(wire: dict[str, Any], number: NumberType) -> bool:
    filled, volume = wire.get("dealVolume"), wire.get("volume")
    if type(filled) is not int or type(volume) is not int:
        filled, volume = as_number(filled, number), as_number(volume, number)
        if type(filled) is not number or type(volume) is not number:
            return False
    return bool(filled >= volume > 0)


def _differ(old: dict[str, Any], new: dict[str, Any], number: NumberType) -> bool:
    before, after = Position._view(old, number), Position._view(new, number)
    return any(getattr(before, name) != getattr(after, name) for name in _LASTING)


def _show_stale(position: Position, keys: frozenset[str]) -> None:
    if keys:
        position._stale = True
        position._stale_fields = frozenset(_NAMES[key] for key in keys)


def no_push(
    number: NumberType, received_ns: int, raw: dict[str, Any] | None = None
) -> AccountUpdate:
    """Make a push that says nothing, for what did not come by one."""
    event = AccountUpdate._view({}, number)
    event._received_ns = received_ns
    if raw is not None:
        event._raw = raw
    return event
