"""What the C extension does with pushes is what Python does with them."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos.account.book import Book
from fastpos.errors import CallbackError, DecodeError
from fastpos.runtime import delivery
from fastpos.runtime.callbacks import Callbacks
from fastpos.runtime.delivery import Delivery
from fastpos.runtime.stats import Counters
from fastpos.runtime.timing import CallbackTimes

needs_native = pytest.mark.skipif(delivery.Deliverer is None, reason="the extension is not built")

CALLED = ("on_position", "on_account", "on_adl_price", "on_order", "on_trigger", "on_unknown")


class _Telling(Delivery):
    handled: list[type]

    def handle(self, event: Any) -> None:
        self.handled.append(type(event))
        super().handle(event)


class Rig:
    """A `Delivery` with all that it needs, which keeps what it tells.

    Args:
        native: whether the C extension is used.
    """

    def __init__(self, native: bool) -> None:
        self.callbacks = Callbacks()
        self.told: list[tuple[str, Any]] = []
        for name in (*CALLED, "on_error"):
            getattr(self.callbacks, name)(self._keep(name))
        self.book = Book(float)
        self.counters = Counters()
        self.times = CallbackTimes(1.0)
        self.handled: list[type] = []
        self.delivery = _Telling(self.callbacks, self.book, self.counters, float, self.times)
        self.delivery.handled = self.handled
        if not native:
            self.delivery._native = None

    def _keep(self, name: str) -> Callable[[Any], None]:
        return lambda event: self.told.append((name, event))

    def deliver(self, texts: list[bytes]) -> None:
        """Deliver as the reader does."""
        at = 0
        while True:
            at = self.delivery.pushes(texts, at, 7)
            if at == len(texts):
                return
            try:
                self.delivery.push(texts[at], 7)
            except DecodeError as error:
                self.delivery.report(error)
            at += 1

    @property
    def outcome(self) -> dict[str, Any]:
        """All that anybody can see of what was delivered."""
        return {
            "told": [(name, type(event), _seen(event)) for name, event in self.told],
            "counts": self.delivery.counts,
            "errors": self.counters.decode_errors,
            "dump": self.book.dump(),
            "positions": {
                id: (_seen(position), position.missing_from_ticks)
                for id, position in self.book.positions.items()
            },
            "balances": {coin: _seen(balance) for coin, balance in self.book.balances.items()},
            "orders": {id: _seen(order) for id, order in self.book.orders.items()},
            "told last": {id: entry.told for id, entry in self.book._state.positions.items()},
        }


def _seen(event: Any) -> Any:
    if isinstance(event, Exception):
        return str(event)
    changed = getattr(event, "changed", None)
    return repr(event), changed, event.raw, getattr(event, "received_ns", None), list(event._wire)


def text(push: Any) -> bytes:
    return json.dumps(push).encode()


# --- pushes, most of them as usual, and few ids so that they meet --------------------------------

_numbers = st.one_of(st.integers(-3, 3), st.floats(-3, 3), st.sampled_from(["1.5", "x", None]))


def _object(required: dict[str, st.SearchStrategy[Any]], keys: str) -> st.SearchStrategy[Any]:
    """Objects with mostly the same keys."""
    names = keys.split()
    usual = st.fixed_dictionaries({**required, **dict.fromkeys(names, st.integers(0, 3))})
    return st.one_of(
        usual,
        usual,
        st.fixed_dictionaries(required, optional=dict.fromkeys(names, _numbers)),
        st.fixed_dictionaries({}, optional={**required, **dict.fromkeys(names, _numbers)}),
    )


def _mostly(usual: list[Any], *odd: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([*usual * 4, *odd])


_ids = _mostly([1, 2, 3], "2", 2.0, None, 10**20)
_order_ids = _mostly(["1", "2"], 1, None)
_uids = _mostly([5], 10**20, None)
_position = _object({"id": _ids}, "cid pv op rp mr s")
_balance = _object({"c": _mostly(["USDT", "BTC"], 5, None)}, "an la pn")
_account = st.fixed_dictionaries(
    {
        "channel": st.just("ACCOUNT_UPDATE"),
        "d": st.one_of(
            st.fixed_dictionaries(
                {"et": _mostly(["CREATE", "UPDATE", "UPDATE"], "DELETE", "DEFAULT", 7)},
                optional={
                    "p": st.one_of(_position, _position, st.sampled_from([None, {}, "", 3])),
                    "a": st.one_of(
                        st.lists(_balance, max_size=3), st.sampled_from([None, "", [1]])
                    ),
                },
            ),
            st.sampled_from([None, [], 5]),
        ),
    },
    optional={"uid": _uids, "t": st.integers(0, 9)},
)
_tick = st.fixed_dictionaries(
    {
        "channel": st.just("ADL_PRICE"),
        "l": st.one_of(
            st.lists(_object({"id": _ids}, "al rp ha mr bo so lt tp"), max_size=4),
            st.sampled_from([None, {}, [3]]),
        ),
    },
    optional={"uid": _uids},
)
_order = st.fixed_dictionaries(
    {
        "channel": st.just("order"),
        "order": st.one_of(
            _object(
                {
                    "orderId": _order_ids,
                    "orderAction": _mostly(["1", "3"], "2", 2, 1, None),
                    "dealVolume": _mostly([0, 1, 1.5], 3, "2", None, 10**20),
                    "volume": _mostly([2, 3, 2.5], 0, "2", None),
                },
                "price contractId otoOrder",
            ),
            st.sampled_from([None, 4]),
        ),
    }
)
_trigger = st.fixed_dictionaries(
    {
        "channel": st.just("trigOrder"),
        "trigOrder": _object(
            {"triggerOrderId": _order_ids, "orderAction": _mostly(["1"], "2", 2)}, "price volume"
        ),
    }
)
_other = st.sampled_from(
    [
        b'{"channel":"SYSTEM","et":"odd"}',
        b'{"channel":"news"}',
        b'{"channel":5}',
        b"{}",
        b"[]",
        b"7",
        b'{"channel":',
        b'{"pong":1}',
        b"\xff",
    ]
)
_push = st.one_of(
    _account.map(text), _account.map(text), _tick.map(text), _order.map(text), _trigger.map(text),
    _other,
)  # fmt: skip
# What happens to the book between reads.
_between = st.sampled_from(["nothing", "nothing", "nothing", "stale", "journal", "no journal"])


@needs_native
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(_push, max_size=6), _between), max_size=8))
def test_native_and_python_do_the_same(reads: list[tuple[list[bytes], str]]) -> None:
    rigs = Rig(native=True), Rig(native=False)
    for texts, between in reads:
        for rig in rigs:
            rig.deliver(texts)
            if between == "stale":
                rig.book.mark_stale()
            elif between == "journal":
                rig.book.begin_journal()
            elif between == "no journal":
                rig.book.end_journal()
    assert rigs[0].outcome == rigs[1].outcome
    for rig in rigs:
        assert (rig.book._journal is None) == (rigs[1].book._journal is None)


class Usual(NamedTuple):
    first: list[Any]
    then: list[Any]


def account(change: str, **fields: Any) -> dict[str, Any]:
    balance = {"c": "USDT", "an": 1.0, "la": 2, "pn": 3}
    part = {"id": 7, "pv": 1, "op": 2.5, **fields}
    return {"channel": "ACCOUNT_UPDATE", "uid": 5, "d": {"et": change, "a": [balance], "p": part}}


def tick(*ids: int, **fields: Any) -> dict[str, Any]:
    return {"channel": "ADL_PRICE", "l": [{"id": id, "tp": 5.5, **fields} for id in ids]}


def order(action: str = "3", filled: float = 0) -> dict[str, Any]:
    body = {"orderId": "8", "orderAction": action, "dealVolume": filled, "volume": 2}
    return {"channel": "order", "order": body}


@needs_native
@pytest.mark.parametrize(
    "pushes",
    [
        pytest.param(Usual([account("CREATE")], [account("UPDATE", pv=2)] * 3), id="update"),
        pytest.param(Usual([account("CREATE")], [account("CREATE", pv=2)]), id="created again"),
        pytest.param(Usual([account("UPDATE")], [account("CREATE")]), id="created after all"),
        pytest.param(Usual([account("CREATE"), tick(7)], [tick(7), account("UPDATE")]), id="tick"),
        pytest.param(Usual([account("CREATE")], [tick(7, rp=1)] * 2), id="first tick"),
        pytest.param(
            Usual([account("CREATE"), tick(9)], [tick(9), tick(9), tick(9), tick(9)]),
            id="one is not listed",
        ),
        pytest.param(
            Usual([order("1")], [order(), order(filled=1), order(filled=1.5)]), id="order"
        ),
    ],
)
def test_what_is_usual_does_not_reach_python(pushes: Usual) -> None:
    rig, python = Rig(native=True), Rig(native=False)
    rig.deliver(list(map(text, pushes.first)))
    python.deliver(list(map(text, pushes.first)))
    rig.handled.clear()
    rig.deliver(list(map(text, pushes.then)))
    assert not rig.handled
    python.deliver(list(map(text, pushes.then)))
    assert rig.outcome == python.outcome


@needs_native
def test_what_was_handed_out_is_not_changed_by_what_comes() -> None:
    rig = Rig(native=True)
    rig.deliver([text(account("CREATE")), text(account("UPDATE", pv=2))])
    first, second = (event for name, event in rig.told if name == "on_position")
    second.raw["d"]["p"]["pv"] = 1000
    second.raw["d"]["a"][0]["an"] = 1000
    rig.deliver([text(account("UPDATE", op=3)), text(tick(7))])
    assert first.volume == 1
    assert second.volume == 2
    assert rig.book.positions[7].volume == 1
    assert rig.book.balances["USDT"].available == 1.0


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_a_look_at_the_book_while_garbage_is_collected(native: bool) -> None:
    """The collector may run in the middle of a merge (before CPython 3.12), and then finalizers."""
    known = {f"k{number}": number for number in range(20)}
    rig = Rig(native=native)
    rig.deliver([text(account("CREATE", **known))])
    ticked, updated = [text(tick(7))], [text(account("UPDATE", pv=2))]
    looking = False
    found: list[object] = []

    def look(phase: str, info: object) -> None:
        nonlocal looking
        if looking:
            looking = False
            rig.book.dump()
            found.append([{} for _ in range(40)])  # in the places of what was freed

    thresholds = gc.get_threshold()
    gc.callbacks.append(look)
    gc.disable()
    gc.freeze()  # what other tests have left need not be looked through each time
    try:
        for allocations in range(1, 40):
            rig.deliver(ticked)
            rig.book.dump()  # now what is known is the entry's alone
            rig.deliver(ticked)
            gc.set_threshold(allocations, 100_000, 100_000)
            gc.collect()  # and empties the interpreter's list of dicts to use again
            looking = True
            gc.enable()
            rig.deliver(updated)
            gc.disable()
            looking = False
            found.clear()
            assert known.items() <= rig.book._state.positions[7].wire.items()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(look)
        gc.unfreeze()
        gc.enable()


@pytest.fixture(params=[pytest.param(True, marks=needs_native, id="native"), False])
def rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(native=request.param)
    rig.deliver([text(account("CREATE")), text(tick(7)), text(order("1"))])
    rig.told.clear()
    return rig


def test_on_error_is_called_while_the_exception_is_handled(rig: Rig) -> None:
    handled: list[object] = []

    def fail(event: object) -> None:
        raise KeyError("mine")

    rig.callbacks.on_position.replace(fail)
    rig.callbacks.on_error(lambda error: handled.append(sys.exc_info()[1]))
    rig.deliver([text(account("UPDATE"))] * 2)
    assert [repr(error) for error in handled] == ["KeyError('mine')"] * 2
    assert sys.exc_info() == (None, None, None)


def test_an_exception_is_reported_and_the_rest_is_delivered(rig: Rig) -> None:
    def fail(event: object) -> None:
        raise KeyError("mine")

    rig.callbacks.on_position.replace(fail)
    rig.callbacks.on_position(rig._keep("on_position"))
    rig.deliver([text(account("UPDATE"))] * 2)
    assert [name for name, _ in rig.told] == ["on_error", "on_position", "on_account"] * 2
    error = rig.told[0][1]
    assert isinstance(error, CallbackError)
    assert error.callback is fail
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.__traceback__ is not None
    assert rig.counters.callback_errors == 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_stream_is_raised(rig: Rig, kind: type[BaseException]) -> None:
    def fail(event: object) -> None:
        raise kind("over")

    rig.delivery.begin(background=False)
    rig.callbacks.on_order.replace(fail)
    with pytest.raises(kind, match="over"):
        rig.deliver([text(order()), text(account("UPDATE"))])
    assert not rig.told


def test_exit_on_a_thread_of_ours_is_an_error_like_others(rig: Rig) -> None:
    def fail(event: object) -> None:
        raise SystemExit("over")

    rig.callbacks.on_order.replace(fail)
    rig.deliver([text(order())])
    assert [name for name, _ in rig.told] == ["on_error"]


def test_no_function_is_called_once_muted(rig: Rig) -> None:
    def mute(event: object) -> None:
        rig.delivery.mute()

    rig.callbacks.on_order.replace(mute)
    rig.callbacks.on_order(rig._keep("on_order"))
    rig.deliver([text(order()), text(account("UPDATE"))])
    assert not rig.told


@needs_native
def test_no_push_is_begun_once_halted() -> None:
    rig = Rig(native=True)
    rig.deliver([text(order("1"))])
    rig.told.clear()
    rig.callbacks.on_order(lambda event: rig.delivery.halt())
    assert rig.delivery.pushes([text(order())] * 3, 0, 7) == 1
    assert len(rig.told) == 1


def test_a_function_that_is_added_meanwhile_is_called_from_the_next_event_on(rig: Rig) -> None:
    rig.callbacks.on_order.replace(lambda event: rig.callbacks.on_order(rig._keep("on_order")))
    rig.deliver([text(order())] * 3)
    assert len(rig.told) == 1 + 2


def test_the_slowest_function_is_known(rig: Rig) -> None:
    rig.times.slowest = -1.0, None
    rig.times.limit = -1.0
    before = rig.times.now
    rig.deliver([text(order())])
    seconds, name = rig.times.slowest
    assert seconds == rig.times.now - before >= 0.0
    assert name is not None
    assert "_keep" in name
    assert rig.times.begun == before


@needs_native
@pytest.mark.parametrize(
    "arguments", [(), ([],), ([], 0), ((), 0, 0), ([], -1, 0), ([], "0", 0), ([], 0, 0, 0)]
)
def test_wrong_arguments(arguments: tuple[Any, ...]) -> None:
    native = Rig(native=True).delivery._native
    assert native is not None
    with pytest.raises((TypeError, ValueError)):
        native.deliver(*arguments)


@needs_native
def test_start_beyond_the_end() -> None:
    native = Rig(native=True).delivery._native
    assert native is not None
    assert native.deliver([], 5, 0) == 5
