"""The book: the account's state, with a journal for when a snapshot is on its way.

Threads: one writes, the reader thread. Anybody reads, dumps, and calls `interrupt`, at any moment
and without a lock: what is read is replaced and never changed (state.py), and `_interrupted` is one
flag that only `interrupt` sets and only the writer takes back. The journal is the writer's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from time import time_ns
from typing import Any

from ..fork import OwnerProcess
from ..model.events import Balance, Order, Position, Trigger
from ..model.fields import NumberType
from ..model.snapshot import Snapshot
from ..model.table import Channel
from ..wire.heartbeat import Heartbeat
from .state import STORED, State, adapted, entry_of, no_push, whole

__all__ = ["Book"]

# How many pushes are kept for a snapshot that is on its way.
JOURNAL_LIMIT = 10_000


class Book:
    """What is known of the account: positions, balances, open orders and triggers.

    Args:
        number: type of numbers in what is handed out.
        owner: of the stream. In a child that was forked nothing is known, so the methods for
            anybody raise RuntimeError there.
        heartbeat: of the stream. While pongs are owed since a sleep, all counts as stale.
    """

    __slots__ = (
        "_heartbeat", "_held", "_interrupted", "_journal", "_number", "_owner", "_state", "now_ns",
    )  # fmt: skip

    def __init__(
        self,
        number: NumberType,
        owner: OwnerProcess | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._number = number
        self._owner = owner or OwnerProcess()
        self._heartbeat = heartbeat or Heartbeat()
        self._state = State(number)
        self._held: State | None = None  # is shown in place of it
        self._interrupted = False
        self.now_ns: Callable[[], int] = time_ns
        """The wall clock, nanoseconds since the epoch; a replay has another."""
        # Pushes and their channels; None: none is kept.
        self._journal: list[tuple[Any, Channel]] | None = None

    # --- anybody's --------------------------------------------------------------------------

    @property
    def positions(self) -> dict[int, Position]:
        """All positions, merged; a new dict. They are no events: their `change` is None."""
        return self._shown("positions")

    @property
    def balances(self) -> dict[str, Balance]:
        """All balances; a new dict."""
        return self._shown("balances")

    @property
    def orders(self) -> dict[str, Order]:
        """The open orders that were heard of; a new dict."""
        return self._shown("orders")

    @property
    def triggers(self) -> dict[str, Trigger]:
        """The waiting triggers that were heard of and have not expired; a new dict. Nothing tells
        that one has fired: an order of another id follows."""
        return self._shown("triggers")

    def _shown(self, name: str) -> dict[Any, Any]:
        self._owner.check()
        stale = self._interrupted or self._heartbeat.owed_since_sleep > 0
        state = self._held or self._state
        shown: dict[Any, Any] = state.show(name, stale, self.now_ns() // 1_000_000)
        return shown

    def interrupt(self) -> None:
        """Have all that is known count as stale, until `mark_stale`."""
        self._interrupted = True

    @property
    def has_open_position(self) -> bool:
        """Whether a position is open of which something was told since the last gap."""
        part = STORED["positions"]
        if self._interrupted:
            return False
        for entry in self._state.stores["positions"].entries.copy().values():
            if entry.stale != frozenset(whole(entry).keys() & part.names):
                return True
        return False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not any(store.entries for store in self._state.stores.values())

    def dump(self) -> str:
        """Give all that is known as JSON, for `load`. Decimals are kept in full."""
        self._owner.check()
        stores = self._state.stores
        content: dict[str, Any] = {"version": 1}
        for name, part in STORED.items():
            entries = [*stores[name].entries.copy().values()]
            if part.change is None:
                content[name] = [whole(entry) for entry in entries]
            else:
                content[name] = [
                    {"complete": entry.complete, "wire": whole(entry)} for entry in entries
                ]
        return json.dumps(content, default=str)

    def content(self) -> dict[str, Any]:
        """Give all that is known, with what is stale of it, for another's `replace`."""
        return {
            name: [
                {
                    "wire": whole(entry),
                    "complete": entry.complete,
                    "stale": sorted(entry.stale),
                }
                for entry in store.entries.copy().values()
            ]
            for name, store in self._state.stores.items()
        }

    # --- the writer's -----------------------------------------------------------------------

    def apply(self, event: Any, channel: Channel) -> None:
        """Merge a push of `channel`; the part that is told as an event is then merged."""
        self._state.apply(event, channel)
        if self._journal is not None:
            self._note(event, channel)

    def mark_stale(self) -> None:
        """Take note that pushes may have been missed."""
        self._state.mark_stale()
        self._interrupted = False

    @property
    def contradicted(self) -> bool:
        """Whether pushes tell of a position that the last snapshot should have had."""
        return self._state.contradicted

    def begin_journal(self) -> None:
        """Keep the pushes from now on, until `merge`."""
        self._state.contradicted = False
        self._journal = []

    @property
    def journal_is_whole(self) -> bool:
        """Whether every push since `begin_journal` was kept."""
        return self._journal is not None

    def end_journal(self) -> None:
        """Keep no pushes any more."""
        self._journal = None

    def _note(self, event: Any, channel: Channel) -> None:
        assert self._journal is not None
        if len(self._journal) < JOURNAL_LIMIT:
            self._journal.append((event, channel))
        else:
            self._journal = None

    def merge(self, snapshot: Snapshot, received_ns: int) -> list[Position]:
        """Take a snapshot that was asked for after `begin_journal`, and the journal over it.

        Who reads meanwhile sees all of what was known before, or all of what is known then.

        Returns:
            What has changed by it, as events.

        Raises:
            TypeError, ValueError: it is no snapshot. Nothing has changed then.
        """
        journal = self._journal
        assert journal is not None
        state = State(self._number, base=self._state)
        state.take(snapshot, received_ns)
        for event, channel in journal:
            if not any(
                part.store and getattr(snapshot, part.store) is None for part in channel.merged
            ):  # else what was taken from the base has it already
                state.apply(event, channel)
        events = state.settle(received_ns)
        self._state = state
        self._journal = None
        return events

    def replace(
        self, content: dict[str, Any], received_ns: int, keep: bool = False
    ) -> list[Position]:
        """Know what another's `content` says.

        The journal goes on: who has missed pushes since `begin_journal` has ended it.

        Args:
            content: what it is.
            received_ns: when it was told.
            keep: what it does not tell of is kept, as stale; else it is known no more.

        Returns:
            What has changed by it, as events.

        Raises:
            ValueError: it is none. Nothing has changed then.
        """
        latest = no_push(self._number, received_ns)
        state = State(self._number, base=self._state)
        try:
            for name, part in STORED.items():
                for item in content[name]:
                    wire = adapted(item["wire"], self._number)
                    state.stores[name].entries[part.id_of(wire)] = entry_of(
                        wire, latest, frozenset(item["stale"]), complete=item["complete"]
                    )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no state of an account: {error!r}") from None
        return self._settle(state, keep, received_ns)

    def take_out(self) -> State:
        """Know nothing any more; give what was known, which is shown until `put_over`."""
        state = self._held = self._state
        self.forget()
        return state

    def put_over(self, before: State, received_ns: int, keep: bool) -> list[Position]:
        """Put what has become known since `take_out` over what was known before.

        Args:
            before: what was.
            received_ns: now.
            keep: see `replace`.

        Returns:
            What has changed since then, as events.
        """
        state = State(self._number, base=before)
        state.go_on_from(self._state)
        return self._settle(state, keep, received_ns)

    def _settle(self, state: State, keep: bool, received_ns: int) -> list[Position]:
        if keep:
            state.keep_base()
        events = state.settle(received_ns)
        self._state = state
        self._held = None
        self._interrupted = False
        return events

    def forget(self) -> None:
        """Know nothing any more."""
        self._state = State(self._number)
        self._journal = None
        self._interrupted = False

    def load(self, text: str) -> None:
        """Take in what `dump` gave, as stale; what is known already is not touched.

        To be called before the stream is started.

        Raises:
            ValueError: it is not what `dump` gave. Nothing is taken in then.
        """
        self._owner.check()
        latest = no_push(self._number, 0)
        loaded = State(self._number)
        loaded.ticks = self._state.ticks
        try:
            content = json.loads(text, parse_float=self._number)
            if content["version"] != 1:
                raise ValueError(f"version {content['version']!r} is not known")
            for name, part in STORED.items():
                for item in content[name]:
                    told = part.change is not None
                    wire = dict(item["wire"] if told else item)
                    id = part.id_of(wire)
                    if id is None:
                        raise ValueError(f"{name} with {part.id_key} {wire.get(part.id_key)!r}")
                    complete = told and bool(item["complete"])
                    loaded.stores[name].entries[id] = entry_of(
                        wire, latest, complete=complete, published=wire
                    )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not what Book.dump() gave: {error}") from None
        loaded.mark_stale()
        for name, store in self._state.stores.items():
            loaded.stores[name].entries.update(store.entries)
        self._state = loaded
