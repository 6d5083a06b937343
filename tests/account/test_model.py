"""A model check: whatever is lost, the book and a bot that only hears on_position end true.

The number of runs is in the environment's FASTPOS_MODEL_RUNS.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastpos.account.book
from fastpos import Position, ReconnectPolicy, Snapshot, SnapshotError
from tests.account.truth import POSITION, TICKS, Bench, shown, told, truth_of

RUNS = int(os.environ.get("FASTPOS_MODEL_RUNS", "40"))

CONTRACTS = ("E-BTC-USDT", "E-ETH-USDT")
SUBSCRIBED = b"sub success"

prices = st.sampled_from([1, 2.5, 61000.5, Decimal("85717.01833333999523920"), Decimal("0.10")])
picks = st.integers(1, 50)
fields = st.sampled_from(["volume", "margin_rate", "liquidation_price", "mark_price"])
WHAT = """open open update update update update close close balance
order fill change empty cancel trigger untrigger"""
LIVES = ["order change cancel", "order fill", "trigger untrigger", "open update close"]
acts = st.tuples(
    st.sampled_from(WHAT.split()),
    picks,
    prices,
    st.dictionaries(fields, prices, min_size=1, max_size=2),
)


class Gaps(RuleBasedStateMachine):
    """An account, a wire that loses things, and the library from the inflated push on.

    The wire is a queue: what is in it when the connection is lost never arrives. A snapshot is
    taken at any moment of its call, so it may be older than pushes that have arrived when it is
    given, and newer than pushes that have not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.wire: list[Any] = []
        self.arrived: list[Any] = []  # the last of what did
        self.ended: set[Any] = set()  # ids of orders, triggers, positions whose end has arrived
        self.connected = False
        self.sending = False  # the exchange sends pushes
        self.subscribed = False  # and the stream has read "sub success"
        self.left = 0.0
        self.bench: Any = None
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
        self, number: Any, source: str, limit: int, policy: Any, before: Any, connected: bool
    ) -> None:
        def patch(where: Any, name: str, what: Any) -> None:
            self.stack.enter_context(mock.patch.object(where, name, what))

        patch(fastpos.account.book, "JOURNAL_LIMIT", limit)
        self.kind, self.number = source, number
        self.bench = Bench(patch, number, source == "orders", source != "none", policy)
        for arguments in before:
            self.act(*arguments)
        if connected:
            self.connect()
            self.deliver(1)

    def teardown(self) -> None:
        if self.bench is not None:
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
            for _ in range(len(self.bench.calls)):
                self.answer(0, "truth")
            if self.bench.sync.synced:
                break
            self.pass_time(9.0)  # a wait is over, a new call is not
        assert self.bench.sync.synced
        self.tick()
        self.deliver(len(self.wire))
        self.what_is_shown_is_true()
        for id, wire in self.bench.state["ticks"].items():
            truth = Position._view(wire, self.number)
            assert told(self.bench.book.positions[id], TICKS) == told(truth, TICKS)

    # --- the account ------------------------------------------------------------------------

    def push(self, message: Any) -> None:
        if message is not None and self.sending:
            self.wire.append(message)

    def act(self, what: str, which: int, price: Any, changes: dict[str, Any]) -> None:
        """Something happens to the account; nothing does where there is nothing to do it to."""
        account = self.bench.account
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
            elif what == "empty":  # an order is told as a whole: what is null there is gone
                self.push(account.change_order(id, {"price": None, "oto_order": None}))
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
        self.push(self.bench.account.tick())

    # --- the wire ---------------------------------------------------------------------------

    @precondition(lambda self: self.bench and not self.sending)
    @rule()
    def connect(self) -> None:
        """Connect, or end a pause."""
        self.connected = self.sending = True
        self.wire.append(SUBSCRIBED)

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        arrived, self.wire = self.wire[:count], self.wire[count:]
        for message in arrived:
            if message is SUBSCRIBED:
                self.bench.sync.begin(self.bench.now - self.left if self.left else None)
                self.subscribed = self.sending
            else:
                self.bench.push(message)
                self.arrived = [*self.arrived[-50:], message]
                self.note_end(message)
                if message["channel"] == "order":
                    self.heard_of.add(self.id_in(message))
        self.poll()

    @precondition(lambda self: self.subscribed and self.ended)
    @rule(which=picks)
    def late(self, which: int) -> None:
        """A push comes once more, or late: after one that ended what it tells of."""
        ended = self.ended - {*self.bench.account.positions}  # opened again, in a gap
        about = [message for message in self.arrived if self.id_in(message) in ended]
        for message in about[which % (len(about) or 1) :][: which % 3 + 1]:
            if message["channel"] != "ACCOUNT_UPDATE":
                self.bench.push(message)
            elif message["d"]["et"] != "CREATE":
                # Without its balances: they are older than what is known, which nobody could tell.
                self.bench.push(message | {"d": message["d"] | {"a": []}})

    @precondition(lambda self: self.subscribed)
    @rule(life=st.sampled_from(LIVES), which=picks, price=prices)
    def live_and_come_late(self, life: str, which: int, price: Any) -> None:
        """A thing begins and ends, and what told of that comes once more."""
        for what in life.split():
            self.act(what, which, price, {"volume": price})
        self.deliver(len(self.wire))
        self.late(which)

    def id_in(self, message: Any) -> Any:
        """The id of the order, trigger or position in a push; None where there is none."""
        if message["channel"] == "ACCOUNT_UPDATE":
            return (message["d"].get("p") or {}).get("id")
        body = message.get(message["channel"], {})
        return body.get("orderId") or body.get("triggerOrderId")

    def note_end(self, message: Any) -> None:
        id, channel = self.id_in(message), message["channel"]
        body = message["d"] if channel == "ACCOUNT_UPDATE" else message.get(channel, {})
        if body.get("et") == "CREATE":
            self.ended.discard(id)
        elif (
            body.get("et") == "DELETE"
            or body.get("orderAction") == "2"
            or ("dealVolume" in body and body["dealVolume"] >= body["volume"])
        ):
            self.ended.add(id)

    @precondition(lambda self: self.connected)
    @rule()
    def drop(self) -> None:
        self.wire.clear()
        if self.subscribed:
            self.left = self.bench.now
        self.connected = self.sending = self.subscribed = False
        self.bench.sync.end()

    @precondition(lambda self: self.subscribed)
    @rule(told=st.booleans())
    def pause(self, told: bool) -> None:
        """Unsubscribe; what was sent before that still arrives."""
        self.sending = self.subscribed = False
        self.left = self.bench.now
        if told:
            self.bench.sync.interrupt()

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

    @precondition(lambda self: self.bench and not self.connected)
    @rule()
    def restart(self) -> None:
        """Save, end, begin anew, load."""
        saved = self.bench.book.dump()
        self.left = 0.0
        self.bench.restart()
        self.ended.clear()  # it is not saved
        self.bench.book.load(saved)
        self.bench.bot.begin_with(self.bench.book.positions)

    # --- the source -------------------------------------------------------------------------

    def poll(self) -> None:
        if self.connected:
            self.bench.poll()

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.bench.now += seconds
        self.poll()

    @precondition(lambda self: self.bench and self.bench.calls)
    @rule(which=picks)
    def take(self, which: int) -> None:
        """A call reads the account; what it read is given later."""
        self.bench.calls[which % len(self.bench.calls)].take()

    @precondition(lambda self: self.bench and self.bench.calls)
    @rule(which=picks, what=st.sampled_from(["truth", "truth", "truth", "error", "nonsense"]))
    def answer(self, which: int, what: str) -> None:
        """A call ends, in time or not."""
        outcome: Any = None
        if what == "error":
            outcome = SnapshotError("not now", retry_after=None if which % 2 else 7.0)
        elif what == "nonsense":
            outcome = Snapshot([which], []) if which % 2 else 5  # type: ignore[list-item]
        self.bench.calls.pop(which % len(self.bench.calls)).end(outcome)
        self.poll()

    @precondition(lambda self: self.bench and self.bench.calls)
    @rule(missed=st.lists(acts, max_size=2), ticks=st.booleans())
    def take_and_answer(self, missed: list[Any], ticks: bool) -> None:
        """The truth comes soon, with some pushes between."""
        calls = self.bench.calls
        call = calls[-1]
        call.take()
        for arguments in missed:
            self.act(*arguments)
        if ticks and self.sending:
            self.tick()
        if self.wire:
            self.deliver(len(self.wire))
        if calls and calls[-1] is call:
            self.answer(len(calls) - 1, "truth")

    # --- what must be so --------------------------------------------------------------------

    @invariant()
    def what_is_shown_is_true(self) -> None:
        if not self.subscribed or self.wire:
            return
        bench = self.bench
        truth = truth_of(bench.state, self.number)
        books = {what: getattr(bench.book, what) for what in truth}
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
        if bench.sync.synced:
            bench.assert_true()


Gaps.TestCase.settings = settings(
    max_examples=RUNS,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(60 + RUNS)
class TestGaps(Gaps.TestCase):  # type: ignore[misc,valid-type]
    pass
