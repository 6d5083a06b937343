"""Model checks: whatever is lost, the book and a bot that only hears on_position end true.

The number of runs is in the environment's FASTPOS_MODEL_RUNS.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastpos.account.book
import fastpos.runtime.snapshots
from fastpos import (
    CallbackError,
    FastposError,
    Position,
    PositionStream,
    ReconnectPolicy,
    Snapshot,
    SnapshotError,
)
from fastpos.account.book import Book
from fastpos.runtime.callbacks import Callbacks
from fastpos.runtime.delivery import Delivery
from fastpos.runtime.snapshots import Snapshots
from fastpos.runtime.stats import Counters
from fastpos.simulator import Exchange
from fastpos.simulator._account import Account
from fastpos.simulator._wire import to_json
from tests.recording import SOON, until
from tests.truth import POSITION, TICKS, Bot, shown, snapshot_of, told, truth_of

pytestmark = pytest.mark.long

RUNS = int(os.environ.get("FASTPOS_MODEL_RUNS", "60"))

CONTRACTS = ("E-BTC-USDT", "E-ETH-USDT")
TIMEOUT = 10.0
SUBSCRIBED = b"sub success"

prices = st.sampled_from([1, 2.5, 61000.5, Decimal("85717.01833333999523920"), Decimal("0.10")])
picks = st.integers(1, 50)
fields = st.sampled_from(["volume", "margin_rate", "liquidation_price", "mark_price"])
WHAT = """open open update update update update close close balance
order fill change cancel trigger untrigger"""
acts = st.tuples(
    st.sampled_from(WHAT.split()),
    picks,
    prices,
    st.dictionaries(fields, prices, min_size=1, max_size=2),
)


def state_of(account: Account, number: Any) -> dict[str, dict[Any, dict[str, Any]]]:
    """The account, in the numbers that the wire carries."""
    return {
        what: {id: json.loads(to_json(wire), parse_float=number) for id, wire in records.items()}
        for what, records in account.copy().items()
    }


class _Call:
    """A call of the source that is under way: its thread, which runs when the test says so."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self.target = target
        self.taken: Snapshot | None = None


class _Calls(list[_Call]):
    """Stands for `threading.Thread`."""

    def __call__(self, **arguments: Any) -> Any:
        call = _Call(**arguments)
        return SimpleNamespace(start=lambda: self.append(call))


class Gaps(RuleBasedStateMachine):
    """An account, a wire that loses things, and the library from the inflated push on.

    The wire is a queue: what is in it when the connection is lost never arrives. A snapshot is
    taken at any moment of its call, so it may be older than pushes that have arrived when it is
    given, and newer than pushes that have not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.now = 1000.0
        self.account = Account(1001, 1003, lambda: int(self.now * 1000))
        self.wire: list[bytes] = []
        self.connected = False
        self.sending = False  # the exchange sends pushes
        self.subscribed = False  # and the stream has read "sub success"
        self.left = 0.0
        self.began = False
        self.outcome: object = None
        self.heard_of: set[str] = set()

    @initialize(
        number=st.sampled_from([float, Decimal]),
        source=st.sampled_from(["none", "positions", "orders", "orders"]),
        limit=st.sampled_from([1, 5, 10_000]),
        policy=st.sampled_from([ReconnectPolicy(0.0), ReconnectPolicy(1.0, 5.0, jitter=0.0)]),
        before=st.lists(acts, max_size=4),
        connected=st.booleans(),
    )
    def begin(
        self,
        number: Any,
        source: str,
        limit: int,
        policy: ReconnectPolicy,
        before: list[Any],
        connected: bool,
    ) -> None:
        self.number, self.policy, self.kind = number, policy, source
        self.calls = _Calls()
        for where, name, what in (
            (fastpos.runtime.snapshots, "monotonic", lambda: self.now),
            (fastpos.runtime.snapshots, "threading", SimpleNamespace(Thread=self.calls)),
            (fastpos.account.book, "JOURNAL_LIMIT", limit),
        ):
            self.stack.enter_context(mock.patch.object(where, name, what))
        self.began = True
        self.make_client()
        for arguments in before:
            self.act(*arguments)
        if connected:
            self.connect()
            self.deliver(1)

    def make_client(self) -> None:
        self.book = Book(self.number)
        self.bot = Bot()
        callbacks = Callbacks()
        callbacks.on_position(self.bot.on_position)
        self.errors: list[Any] = []
        callbacks.on_error(self.errors.append)
        self.delivery = Delivery(callbacks, self.book, Counters(), self.number)
        source: Any = None if self.kind == "none" else lambda: self.outcome
        self.sync = Snapshots(source, TIMEOUT, self.policy, self.book)

    def teardown(self) -> None:
        if self.began:
            self.settle()
        self.stack.close()

    def settle(self) -> None:
        """Let everything come to rest: then the stream is synced, and all show the truth."""
        if not self.sending:
            self.connect()
        self.deliver(len(self.wire))
        if self.kind == "none":
            return
        for _ in range(20):
            for _ in range(len(self.calls)):
                self.answer(0, "truth")
            if self.sync.synced:
                break
            self.pass_time(TIMEOUT - 1.0)  # a wait is over, a new call is not
        assert self.sync.synced
        self.tick()
        self.deliver(len(self.wire))
        self.what_is_shown_is_true()
        for id, wire in state_of(self.account, self.number)["ticks"].items():
            truth = Position._view(wire, self.number)
            assert told(self.book.positions[id], TICKS) == told(truth, TICKS)

    # --- the account ------------------------------------------------------------------------

    def push(self, message: Any) -> None:
        if message is not None and self.sending:
            self.wire.append(to_json(message))

    def act(self, what: str, which: int, price: Any, changes: dict[str, Any]) -> None:
        """Something happens to the account; nothing does where there is nothing to do it to."""
        account = self.account
        held, orders = sorted(account.positions), sorted(account.orders)
        triggers = sorted(account.triggers)
        if what == "open":
            # Few ids, so that one is closed and opened again now and then.
            if free := sorted({1, 2, 3, 4} - {*held}):
                fields = {"cn": CONTRACTS[which % 2], "s": "BUY", "pv": which, "op": price}
                self.push(account.open_position(free[which % len(free)], fields)[1])
        elif what == "update" and held:
            self.push(account.update_position(held[which % len(held)], changes))
        elif what == "close" and held:
            self.push(account.close_position(held[which % len(held)]))
        elif what == "balance":
            self.push(account.set_balance(("USDT", "BTC")[which % 2], {"an": price}))
        elif what == "order":
            fields = {"contractName": CONTRACTS[0], "volume": which % 4 + 1, "price": price}
            self.push(account.place_order(fields, price if which % 3 else None, None)[1])
        elif what == "trigger":
            self.push(account.place_trigger({"price": price})[1])
        elif what == "untrigger" and triggers:
            self.push(account.cancel_trigger(triggers[which % len(triggers)]))
        elif orders:
            id = orders[which % len(orders)]
            if what == "fill":
                self.push(account.fill_order(id, None if which % 2 else 1, 3))
            elif what == "change":
                self.push(account.change_order(id, {"price": price}))
            elif what == "cancel":
                self.push(account.cancel_order(id))

    @rule(arguments=acts)
    def happens(self, arguments: Any) -> None:
        self.act(*arguments)

    @precondition(lambda self: self.sending)
    @rule(arguments=acts)
    def is_pushed(self, arguments: Any) -> None:
        self.act(*arguments)

    @precondition(lambda self: self.sending)
    @rule()
    def tick(self) -> None:
        self.push(self.account.tick())

    # --- the wire ---------------------------------------------------------------------------

    @precondition(lambda self: self.began and not self.sending)
    @rule()
    def connect(self) -> None:
        """Connect, or end a pause."""
        self.connected = self.sending = True
        self.wire.append(SUBSCRIBED)

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        arrived, self.wire = self.wire[:count], self.wire[count:]
        for text in arrived:
            if text == SUBSCRIBED:
                self.sync.begin(self.now - self.left if self.left else None)
                self.subscribed = self.sending
            else:
                self.delivery.pushes([text], int(self.now * 1e9))
                push = json.loads(text)
                if push["channel"] == "order":
                    self.heard_of.add(push["order"]["orderId"])
        self.poll()

    @precondition(lambda self: self.connected)
    @rule()
    def drop(self) -> None:
        self.wire.clear()
        if self.subscribed:
            self.left = self.now
        self.connected = self.sending = self.subscribed = False
        self.sync.end()

    @precondition(lambda self: self.subscribed)
    @rule(told=st.booleans())
    def pause(self, told: bool) -> None:
        """Unsubscribe; what was sent before that still arrives."""
        self.sending = self.subscribed = False
        self.left = self.now
        if told:
            self.sync.interrupt()

    @precondition(lambda self: self.subscribed)
    @rule(how=st.sampled_from(["drop", "drop", "pause", "told"]), missed=st.lists(acts, max_size=3))
    def gap(self, how: str, missed: list[Any]) -> None:
        """A short one: the stream is subscribed again at its end."""
        if how == "drop":
            self.drop()
        else:
            self.pause(how == "told")
        for arguments in missed:
            self.act(*arguments)
        self.connect()
        self.deliver(len(self.wire))

    @precondition(lambda self: self.began and not self.connected)
    @rule()
    def restart(self) -> None:
        """Save, end, begin anew, load."""
        saved = self.book.dump()
        self.calls.clear()
        self.left = 0.0
        self.make_client()
        self.book.load(saved)
        self.bot.begin_with(self.book.positions)

    # --- the source -------------------------------------------------------------------------

    def poll(self) -> None:
        if self.connected and self.sync.pending:
            for name, event in self.sync.poll():
                self.delivery.tell(name, event)

    def truth(self) -> Snapshot:
        return snapshot_of(self.account.copy(), orders=self.kind == "orders")

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.poll()

    @precondition(lambda self: self.began and self.calls)
    @rule(which=picks)
    def take(self, which: int) -> None:
        """A call reads the account; what it read is given later."""
        call = self.calls[which % len(self.calls)]
        if call.taken is None:
            call.taken = self.truth()

    @precondition(lambda self: self.began and self.calls)
    @rule(which=picks, what=st.sampled_from(["truth", "truth", "truth", "error", "nonsense"]))
    def answer(self, which: int, what: str) -> None:
        """A call ends, in time or not."""
        call = self.calls.pop(which % len(self.calls))
        outcomes = {
            "truth": call.taken or self.truth(),
            "error": SnapshotError("not now", retry_after=None if which % 2 else 7.0),
            "nonsense": Snapshot([which], []),  # type: ignore[list-item]
        }
        self.outcome = outcomes[what]
        if what == "error":
            self.outcome = None if which % 3 else outcomes[what]
        call.target()
        self.poll()

    @precondition(lambda self: self.began and self.calls)
    @rule(missed=st.lists(acts, max_size=2), ticks=st.booleans())
    def take_and_answer(self, missed: list[Any], ticks: bool) -> None:
        """The usual: the truth comes soon, with some pushes between."""
        call = self.calls[-1]
        call.taken = call.taken or self.truth()
        for arguments in missed:
            self.act(*arguments)
        if ticks and self.sending:
            self.tick()
        if self.wire:
            self.deliver(len(self.wire))
        if self.calls and self.calls[-1] is call:
            self.answer(len(self.calls) - 1, "truth")

    # --- what must be so --------------------------------------------------------------------

    @invariant()
    def what_is_shown_is_true(self) -> None:
        if not self.subscribed or self.wire:
            return
        truth = truth_of(state_of(self.account, self.number), self.number)
        books = {what: getattr(self.book, what) for what in truth}
        # What does not count as stale is as it is shown, synced or not.
        for id, position in books["positions"].items():
            if "id" not in position.stale_fields:
                assert id in truth["positions"]
            if id in truth["positions"]:
                assert not position.missing_from_ticks
                for name in set(POSITION) - position.stale_fields:
                    value = getattr(position, name)
                    assert value is None or value == truth["positions"][id][name], name
        for what in ("balances", "orders", "triggers"):
            fresh = {id: record for id, record in books[what].items() if not record.stale}
            assert shown(fresh).items() <= truth[what].items()
        if self.kind != "orders":  # no gap makes it forget one
            assert self.heard_of & truth["orders"].keys() <= books["orders"].keys()
        if not self.sync.synced:
            return
        assert shown(books["positions"]) == truth["positions"] == self.bot.positions
        assert shown(books["balances"]) == truth["balances"]
        for position in books["positions"].values():
            assert position.complete
            assert not position.stale
        if self.kind == "orders":
            assert shown(books["orders"]) == truth["orders"]
            assert shown(books["triggers"]) == truth["triggers"]


Gaps.TestCase.settings = settings(
    max_examples=RUNS,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(60 + RUNS)
class TestGaps(Gaps.TestCase):  # type: ignore[misc,valid-type]
    pass


# --- the same over real sockets -------------------------------------------------------------------


class _Source:
    """Tells the truth, now late, now never, now something else; or has REST tell it."""

    def __init__(self, luck: random.Random, ask: Callable[[], Snapshot]) -> None:
        self._luck = luck
        self._ask = ask
        self.ending = threading.Event()
        """When this is set nothing goes wrong any more."""

    def __call__(self) -> Any:
        if self.ending.is_set():
            return self._ask()
        fate, delay = self._luck.random(), self._luck.random() * 0.03
        if fate < 0.1:
            raise OSError("no luck")
        if fate < 0.2:
            return "no snapshot"
        if fate < 0.3:
            delay = 1.0  # more than there is time for
        if fate < 0.6:
            self.ending.wait(delay)
        snapshot = self._ask()
        if fate >= 0.3:
            self.ending.wait(delay)
        return snapshot


class _Trader:
    """Does something to an exchange's account, or to its connections."""

    def __init__(self, exchange: Exchange, stream: PositionStream, luck: random.Random) -> None:
        self.exchange = exchange
        self.stream = stream
        self.luck = luck

    def act(self) -> None:
        exchange, luck = self.exchange, self.luck
        held, orders = [*exchange.positions], [*exchange.orders]
        acts: list[Callable[[], object]] = [
            lambda: exchange.open_position(luck.choice(CONTRACTS), volume=luck.randint(1, 9)),
            lambda: exchange.set_balance("BTC", available=luck.randint(1, 10**6)),
            lambda: exchange.place_order(volume=3),
            exchange.tick,
        ]
        if held:
            id = luck.choice(held)
            acts += [
                lambda: exchange.update_position(id, volume=luck.randint(1, 9)),
                lambda: exchange.update_position(id, margin_rate=luck.random()),
                lambda: exchange.update_position(id, realized_pnl=luck.randint(-9, 9)),
                lambda: exchange.close_position(id),
            ]
        if orders:
            acts.append(lambda: exchange.fill_order(luck.choice(orders), 1))
        luck.choice(acts)()

    def disturb(self) -> None:
        exchange, luck = self.exchange, self.luck
        how = luck.randrange(6)
        if how == 0:
            exchange.drop(clean=True, code=1001)
        elif how == 1:
            exchange.system_close(close_after=0.0)
        elif how == 2:
            self.stream.unsubscribe()
            self.act()
            self.stream.subscribe()
        elif how == 3:
            exchange.refuse_upgrade(503, times=1)
            exchange.drop()
        elif how == 4:
            exchange.truncate_frame(end=True)
        else:
            exchange.drop()


@pytest.mark.timeout(60 + RUNS)
@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("with_rest", [False, True])
def test_a_bot_that_only_hears_on_position_ends_with_the_truth(with_rest: bool) -> None:
    if with_rest:
        pytest.importorskip("httpx")
    for seed in range(max(1, RUNS // 40)):
        with ExitStack() as stack:
            _run(stack, seed, with_rest)


def _run(stack: ExitStack, seed: int, with_rest: bool) -> None:
    luck = random.Random(seed)
    exchange = stack.enter_context(Exchange())

    def state() -> Snapshot:
        return snapshot_of(exchange.snapshot_state())

    ask: Callable[[], Snapshot] = state
    if with_rest:
        from fastpos.rest import AccountSnapshot  # noqa: PLC0415 (an extra)

        key, secret = exchange.api_key, exchange.api_secret
        ask = stack.enter_context(AccountSnapshot(exchange.rest_url, key, secret, proxy=""))
    source, bot = _Source(random.Random(seed), ask), Bot()
    errors: list[FastposError] = []
    stack.callback(source.ending.set)
    stream = PositionStream(
        exchange.url,
        api_key=exchange.api_key,
        broker=exchange.broker,
        on_position=bot.on_position,
        on_error=errors.append,
        proxy="",
        reconnect=ReconnectPolicy(0.01, 0.03),
        snapshot=source,
        snapshot_timeout=0.2,
    )
    trader = _Trader(exchange, stream, luck)
    for _ in range(luck.randrange(5)):
        trader.act()
    stack.enter_context(stream)
    for _ in range(luck.randrange(2, 8)):
        stream.wait_ready(SOON)
        for _ in range(luck.randrange(20)):
            trader.act()
            if luck.random() < 0.2:
                source.ending.wait(luck.random() * 0.01)  # or pushes would come all at once
        if luck.random() < 0.3:
            until(lambda: stream.synced)
        trader.disturb()
        for _ in range(luck.randrange(4)):
            trader.act()
    source.ending.set()
    _assert_true(exchange, stream, bot, seed)
    assert not [error for error in errors if isinstance(error, CallbackError)]
    assert exchange.violations == []


def _assert_true(exchange: Exchange, stream: PositionStream, bot: Bot, seed: int) -> None:
    truth = truth_of(exchange.snapshot_state())

    def is_true() -> bool:
        return (
            stream.synced
            and shown(stream.positions) == truth["positions"] == bot.positions
            and shown(stream.balances) == truth["balances"]
            and not any(position.stale for position in stream.positions.values())
        )

    until(is_true, what=f"that the stream shows the truth (seed {seed})")
