"""The simulated exchange's truth, as snapshots and in the words of events; a bench for both."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import fastpos.account.book
import fastpos.runtime.snapshots
from fastpos import (
    AttachedOrder,
    Balance,
    Order,
    Position,
    ReconnectPolicy,
    Snapshot,
    Synced,
    Trigger,
)
from fastpos.account.book import Book
from fastpos.model.exchange import CHANNELS
from fastpos.runtime.callbacks import Callbacks
from fastpos.runtime.delivery import Delivery
from fastpos.runtime.snapshots import Snapshots
from fastpos.runtime.stats import Counters
from fastpos.simulator._account import Account
from fastpos.simulator._wire import to_json

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
        self._closed: set[int] = set()
        self.events: list[Position] = []

    def on_position(self, position: Position) -> None:
        with self._lock:
            self.events.append(position)
            assert position.id is not None
            if position.change == "DELETE":
                self._positions.pop(position.id, None)
                self._closed.add(position.id)
            elif position.change == "CREATE" or position.id not in self._closed:
                self._positions[position.id] = told(position)
                self._closed.discard(position.id)

    def begin_with(self, positions: dict[int, Position]) -> None:
        """Forget everything but these."""
        with self._lock:
            self._positions = shown(positions)
            self._closed.clear()

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


class Call:
    """A call of the source that is under way: its thread, which runs when the test says so."""

    def __init__(self, bench: Bench, target: Callable[[], None]) -> None:
        self._bench = bench
        self._target = target
        self.taken: Snapshot | None = None
        """What it has read of the account; it gives that, however long it takes."""

    def take(self) -> None:
        """Read the account, if it was not."""
        self.taken = self.taken or self._bench.truth()

    def end(self, outcome: object = None) -> None:
        """Give what was taken, or `outcome`: an exception is raised. Nobody looks at it yet."""
        self.take()
        self._bench.outcome = self.taken if outcome is None else outcome
        self._target()


class Bench:
    """An account, and from the push's JSON on all that knows of it: no sockets, no threads.

    Args:
        patch: sets an attribute of a module until the test ends.
        number: type of numbers.
        orders: whether the source tells of orders and triggers.
        has_source: whether there is one.
        policy: when to ask again.
    """

    def __init__(
        self,
        patch: Callable[[Any, str, Any], object],
        number: Any = float,
        orders: bool = False,
        has_source: bool = True,
        policy: ReconnectPolicy = ReconnectPolicy(1.0, 8.0, jitter=0.0),  # noqa: B008 (immutable)
    ) -> None:
        self.now = 1000.0
        self.account = Account(1001, 1003, lambda: int(self.now * 1000))
        self.account.set_balance("USDT", {"an": "100000", "la": "0", "pn": "0"})
        self.calls: list[Call] = []
        """Those that have not ended."""
        self.asked = 0
        """How many there have been."""
        self.refuse_threads = False
        self.outcome: Any = None
        self._number, self._orders, self._policy = number, orders, policy
        self._has_source = has_source
        patch(fastpos.runtime.snapshots, "monotonic", lambda: self.now)
        patch(fastpos.account.book, "time_ns", lambda: int(self.now * 1e9))
        patch(fastpos.runtime.snapshots, "threading", SimpleNamespace(Thread=self._thread))
        self.restart()

    def restart(self) -> None:
        """Begin with a new client that knows nothing."""
        self.calls.clear()
        self.book = Book(self._number)
        self.bot = Bot()
        self.callbacks = Callbacks()
        self.errors: list[Any] = []
        self.synceds: list[Synced] = []
        self.callbacks.on_position(self.bot.on_position)
        self.callbacks.on_error(self.errors.append)
        self.callbacks.on_synced(self.synceds.append)
        self.delivery = Delivery(self.callbacks, self.book, Counters(), self._number)
        source: Any = self._source if self._has_source else None
        self.sync = Snapshots(source, 10.0, self._policy, self.book)

    def _source(self) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def _thread(self, target: Callable[[], None], **_: Any) -> Any:
        def start() -> None:
            if self.refuse_threads:
                raise RuntimeError("can't start new thread")
            self.asked += 1
            self.calls.append(Call(self, target))

        return SimpleNamespace(start=start)

    def truth(self) -> Snapshot:
        """What the source would give now."""
        return snapshot_of(self.account.copy(), self._orders)

    def push(self, *messages: Any) -> None:
        """Have messages delivered, objects or their JSON; a None is none."""
        texts = [m if isinstance(m, bytes) else to_json(m) for m in messages if m is not None]
        self.delivery.pushes(texts, int(self.now * 1e9))

    def poll(self, seconds: float = 0.0) -> None:
        """Let time pass, and then have the reader look."""
        self.now += seconds
        for _ in range(3):
            for name, event in self.sync.poll() if self.sync.pending else ():
                if name == "on_error":
                    self.delivery.report(event)  # type: ignore[arg-type]
                else:
                    self.delivery.tell(name, event)

    def begin(self, gap_s: float | None = None) -> None:
        """Subscribe, and have the source asked if that is due."""
        self.sync.begin(gap_s)
        self.poll()

    def answer(self, outcome: object = None, which: int = -1) -> None:
        """A call ends, and the reader sees it."""
        self.calls.pop(which).end(outcome)
        self.poll()

    def gap(self, seconds: float = 1.0) -> None:
        """Lose the connection and have another."""
        self.sync.end()
        self.begin(seconds)

    def sync_now(self, gap_s: float | None = None) -> Synced:
        """Subscribe and take a snapshot."""
        self.begin(gap_s)
        self.answer()
        assert self.sync.synced
        return self.synceds[-1]

    @property
    def state(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """The account, in the numbers that the wire carries."""
        return {
            what: {i: json.loads(to_json(w), parse_float=self._number) for i, w in records.items()}
            for what, records in self.account.copy().items()
        }

    def assert_true(self) -> None:
        """The book and the bot show the truth, and nothing in it is stale."""
        truth = truth_of(self.state, self._number)
        positions, balances = self.book.positions, self.book.balances
        assert self.sync.synced
        assert shown(positions) == truth["positions"] == self.bot.positions
        assert shown(balances) == truth["balances"]
        assert all(p.complete and not p.stale and not p.stale_fields for p in positions.values())
        assert not any(balance.stale for balance in balances.values())
        if self._orders:
            assert shown(self.book.orders) == truth["orders"]
            assert shown(self.book.triggers) == truth["triggers"]
