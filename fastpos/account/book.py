"""The book: the account's state, with a journal for when a snapshot is on its way.

Threads: the reader applies and merges, anybody reads, dumps and loads. `lock` guards `_state` and
what is in it. The journal is the reader's own.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from ..fork import Home
from ..model.events import AccountUpdate, AdlPrice, Balance, Event, Order, Position, Trigger
from ..model.fields import NumberType, as_integer, as_text
from ..model.snapshot import Snapshot
from .state import Entry, PositionEntry, State, no_push

__all__ = ["Book"]

# How many pushes are kept for a snapshot that is on its way.
JOURNAL_LIMIT = 10_000


class Book:
    """What is known of the account: positions, balances, open orders and triggers.

    Args:
        number: type of numbers in what is handed out.
        home: of the stream. In a child that was forked the lock may be held for ever, so the
            methods for anybody raise RuntimeError there.
    """

    __slots__ = ("_home", "_journal", "_number", "_state", "lock")

    def __init__(self, number: NumberType, home: Home | None = None) -> None:
        self._number = number
        self._home = home or Home()
        self.lock = threading.RLock()  # a signal handler may read while the reader merges
        self._state = State(number)
        self._journal: list[Event] | None = None

    # --- reading ----------------------------------------------------------------------------

    @property
    def positions(self) -> dict[int, Position]:
        """All positions, merged; a new dict. They are no events: their `change` is None."""
        self._home.check()
        with self.lock:
            return self._state.show_positions()

    @property
    def balances(self) -> dict[str, Balance]:
        """All balances; a new dict."""
        self._home.check()
        with self.lock:
            return self._state.show_balances()

    @property
    def orders(self) -> dict[str, Order]:
        """The open orders that were heard of; a new dict."""
        self._home.check()
        with self.lock:
            return self._state.show_orders()

    @property
    def triggers(self) -> dict[str, Trigger]:
        """The waiting triggers that were heard of; a new dict."""
        self._home.check()
        with self.lock:
            return self._state.show_triggers()

    # --- the reader's -----------------------------------------------------------------------

    def apply_account(self, update: AccountUpdate) -> None:
        """Merge a push, and make its position the merged one."""
        with self.lock:
            position = self._state.apply_account(update)
        if position is not None:
            update._position = position
        if self._journal is not None:
            self._note(update)

    def apply_ticks(self, event: AdlPrice) -> None:
        """Merge a risk tick."""
        with self.lock:
            self._state.apply_ticks(event)
        if self._journal is not None:
            self._note(event)

    def apply_order(self, order: Order) -> None:
        """Keep or drop an order."""
        with self.lock:
            self._state.apply_order(order)
        if self._journal is not None:
            self._note(order)

    def apply_trigger(self, trigger: Trigger) -> None:
        """Keep or drop a trigger."""
        with self.lock:
            self._state.apply_trigger(trigger)
        if self._journal is not None:
            self._note(trigger)

    def mark_stale(self) -> None:
        """Take note that pushes may have been missed; for any thread."""
        with self.lock:
            self._state.mark_stale()

    def begin_journal(self) -> None:
        """Keep the pushes from now on, until `merge`."""
        self._journal = []

    @property
    def journal_is_whole(self) -> bool:
        """Whether every push since `begin_journal` was kept."""
        return self._journal is not None

    def end_journal(self) -> None:
        """Keep no pushes any more."""
        self._journal = None

    def _note(self, event: Event) -> None:
        assert self._journal is not None
        if len(self._journal) < JOURNAL_LIMIT:
            self._journal.append(event)
        else:
            self._journal = None

    def merge(self, snapshot: Snapshot, received_ns: int) -> list[Position]:
        """Take a snapshot that was asked for after `begin_journal`, and the journal over it.

        Returns:
            What has changed by it, as events.

        Raises:
            TypeError, ValueError: it is no snapshot. Nothing has changed then.
        """
        journal = self._journal
        assert journal is not None
        with self.lock:
            base = self._state
            state = State(self._number, base=base)
            state.take(snapshot, received_ns)
            for event in journal:
                if not (
                    (type(event) is Order and snapshot.orders is None)
                    or (type(event) is Trigger and snapshot.triggers is None)
                ):  # else what was taken from the base has it already
                    state.apply(event)
            for id, entry in state.positions.items():
                known = base.positions.get(id)
                entry.told = None if known is None else known.told  # not by the journal
                entry.missed = 0
            events = state.differences(received_ns)
            for entry in state.positions.values():
                entry.told = entry.whole()
            for id in base.positions.keys() - state.positions.keys():
                state.note_closed(id)
            state.base = None
            self._state = state
        self._journal = None
        return events

    # --- saving and loading -----------------------------------------------------------------

    def dump(self) -> str:
        """Give all that is known as JSON, for `load`. Decimals are kept in full."""
        self._home.check()
        with self.lock:
            state = self._state
            content = {
                "version": 1,
                "positions": [
                    {"complete": entry.complete, "wire": entry.whole()}
                    for entry in state.positions.values()
                ],
                "balances": [entry.wire for entry in state.balances.values()],
                "orders": [entry.wire for entry in state.orders.values()],
                "triggers": [entry.wire for entry in state.triggers.values()],
            }
            return json.dumps(content, default=str)

    def load(self, text: str) -> None:
        """Take in what `dump` gave, as stale; what is known already is not touched.

        To be called before the stream is started.

        Raises:
            ValueError: it is not what `dump` gave. Nothing is taken in then.
        """
        self._home.check()
        latest = no_push(self._number, 0)
        try:
            content = json.loads(text, parse_float=self._number)
            if content["version"] != 1:
                raise ValueError(f"version {content['version']!r} is not known")
            loaded = State(self._number)
            for item in content["positions"]:
                wire = dict(item["wire"])
                id = as_integer(wire["id"])
                if type(id) is not int:
                    raise ValueError(f"a position of id {id!r}")
                loaded.positions[id] = PositionEntry(wire, latest, bool(item["complete"]), wire)
            for name, key in _KEYS.items():
                known: dict[str, Entry] = getattr(loaded, name)
                for item in content[name]:
                    wire = dict(item)
                    id = as_text(wire[key])
                    if type(id) is not str:
                        raise ValueError(f"{name} with {key} {id!r}")
                    known[id] = Entry(wire, latest)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not what Book.dump() gave: {error}") from None
        loaded.mark_stale()
        with self.lock:
            for name in ("positions", *_KEYS):
                mine: dict[Any, Any] = getattr(self._state, name)
                setattr(self._state, name, {**getattr(loaded, name), **mine})


# What balances, orders and triggers go by.
_KEYS = {"balances": "c", "orders": "orderId", "triggers": "triggerOrderId"}
