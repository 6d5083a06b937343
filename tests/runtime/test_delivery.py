"""From a push to the functions, and that compiled code does what the Python says."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from fastpos import Ready, Unknown, _c
from fastpos.account.book import Book
from fastpos.errors import DecodeError
from fastpos.runtime.stats import count
from tests.runtime.outcome import Rig, text

# --- compiled and not -----------------------------------------------------------------------------

_ODD = (
    b'{"channel":"SYSTEM","et":"odd"}',
    b'{"channel":"SYSTEM","et":"close","uid":99999999999999999999}',
    b'{"channel":"news"}',
    b'{"channel":5}',
    b"{}",
    b"[]",
    b"7",
    b'{"channel":',
    b"\xff",
    b'{"channel":"x","a":' + b"[" * 300 + b"]" * 300 + b"}",
)


class _Pushes:
    """Random pushes: few ids, so that they meet, most of them whole, and nulls everywhere."""

    def __init__(self, seed: int) -> None:
        self.luck = Random(seed)

    def mostly(self, usual: list[Any], *odd: Any) -> Any:
        return self.luck.choice(odd if odd and self.luck.random() < 0.1 else usual)

    def value(self) -> Any:
        return self.mostly([0, 1, 2, 3, 2.5, "1.5", None, None], "x", True, [1], 10**20)

    def object(self, keys: str, **named: Any) -> dict[str, Any]:
        whole = {**named, **{key: self.value() for key in keys.split()}}
        if self.luck.random() < 0.7:
            return whole
        kept = [key for key in whole if self.luck.random() < 0.6]
        self.luck.shuffle(kept)
        return {key: whole[key] for key in kept}

    def account(self) -> dict[str, Any]:
        position = self.object("cid pv op rp mr s", id=self.mostly([1, 2], "2", 2.0, None, 10**20))
        balances = [
            self.object("an la pn", c=self.mostly(["USDT", "BTC"], 5, None))
            for _ in range(self.luck.randrange(3))
        ]
        body = {
            "et": self.mostly(["CREATE", "UPDATE", "UPDATE"], "DELETE", "DELETE", "DEFAULT", 7),
            "p": self.mostly([position], None, {}, "", 3),
            "a": self.mostly([balances], None, "", [1]),
        }
        push = {"channel": "ACCOUNT_UPDATE", "d": self.mostly([body], None, [], 5)}
        return {**push, **self.object("t", uid=self.mostly([5], 10**20, None))}

    def tick(self) -> dict[str, Any]:
        ticks = [
            self.object("al rp ha mr tp", id=self.mostly([1, 2], "2", None, 10**20))
            for _ in range(self.luck.randrange(4))
        ]
        return {"channel": "ADL_PRICE", "uid": 5, "l": self.mostly([ticks], None, {}, [3])}

    def order(self) -> dict[str, Any]:
        attached = self.object("takerProfitStatus takerProfitPrice stopLossTriggerId more")
        body = self.object(
            "price contractId",
            orderId=self.mostly(["1", "2"], 1, None),
            orderAction=self.mostly(["1", "3"], "2", 2, 1, None),
            dealVolume=self.mostly([0, 1, 1.5, None], 3, "2", 10**20),
            volume=self.mostly([2, 3, 2.5, None], 0, "2"),
            otoOrder=self.mostly([attached, None], 4),
        )
        return {"channel": "order", "order": self.mostly([body], None, 4)}

    def trigger(self) -> dict[str, Any]:
        id, action = self.mostly(["1", "2"], 1, None), self.mostly(["1"], "2", 2)
        body = self.object("price volume side", triggerOrderId=id, orderAction=action)
        return {"channel": "trigOrder", "trigOrder": body}

    def __call__(self) -> bytes:
        if self.luck.random() < 0.05:
            return self.luck.choice(_ODD)
        kinds = [self.account, self.account, self.tick, self.order, self.trigger]
        return text(self.luck.choice(kinds)())

    def reads(self) -> list[tuple[list[str], str]]:
        """Texts, and what is done after them."""
        then = ["nothing"] * 6 + ["stale", "interrupt", "load"]
        return [
            ([self().decode("latin-1") for _ in range(4)], self.luck.choice(then))
            for _ in range(10)
        ]


class _Child:
    """outcome.py in a process of its own."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.outcome"],
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, **environment, "PYTHONHASHSEED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kind = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def outcome(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def children() -> Iterator[tuple[_Child, _Child]]:
    both = _Child(FASTPOS_PURE="0"), _Child(FASTPOS_PURE="1")
    try:
        if both[0].kind != "compiled":
            pytest.skip("nothing is compiled here")
        assert both[1].kind == "not compiled"
        yield both
    finally:
        for child in both:
            child.end()


def _compare(children: tuple[_Child, _Child], seed: int) -> None:
    pushes = _Pushes(seed)
    number, reads = pushes.mostly(["float", "float", "Decimal"]), pushes.reads()
    outcomes = [child.outcome(json.dumps([number, reads])) for child in children]
    if outcomes[0] != outcomes[1]:  # find the read with which they part
        for end in range(1, len(reads) + 1):
            outcomes = [child.outcome(json.dumps([number, reads[:end]])) for child in children]
            assert outcomes[0] == outcomes[1], (seed, reads[:end])
    assert outcomes[0].startswith("{")


def test_compiled_code_does_what_the_python_says(children: tuple[_Child, _Child]) -> None:
    for seed in range(150):
        _compare(children, seed)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_it_does_so_whatever_comes(children: tuple[_Child, _Child]) -> None:
    for _ in range(5000):
        _compare(children, SystemRandom().getrandbits(40))


# --- calling --------------------------------------------------------------------------------------


def account(change: str, **fields: Any) -> dict[str, Any]:
    balance = {"c": "USDT", "an": 1.0, "la": 2, "pn": 3}
    part = {"id": 7, "pv": 1, "op": 2.5, **fields}
    return {"channel": "ACCOUNT_UPDATE", "uid": 5, "d": {"et": change, "a": [balance], "p": part}}


def tick(*ids: int, **fields: Any) -> dict[str, Any]:
    return {"channel": "ADL_PRICE", "l": [{"id": id, "tp": 5.5, **fields} for id in ids]}


def order(action: str = "3", filled: float = 0) -> dict[str, Any]:
    body = {"orderId": "8", "orderAction": action, "dealVolume": filled, "volume": 2}
    return {"channel": "order", "order": body}


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.deliver(account("CREATE"), tick(7), order("1"))
    rig.told.clear()
    return rig


def _fail(error: BaseException) -> Any:
    def fail(event: object) -> None:
        raise error

    return fail


def test_what_was_handed_out_is_not_changed_by_what_comes() -> None:
    rig = Rig()
    rig.deliver(account("CREATE"), account("UPDATE", pv=2))
    first, second = (event for name, event in rig.told if name == "on_position")
    second.raw["d"]["p"]["pv"] = 1000
    second.raw["d"]["a"][0]["an"] = 1000
    rig.deliver(account("UPDATE", op=3), tick(7))
    assert (first.volume, second.volume) == (1, 2)
    assert rig.book.positions[7].volume == 1
    assert rig.book.balances["USDT"].available == 1.0


def test_a_look_at_the_book_while_garbage_is_collected() -> None:
    """The collector may run in the middle of a merge (before CPython 3.12), and then finalizers."""
    known = {f"k{number}": number for number in range(20)}
    rig = Rig()
    rig.deliver(account("CREATE", **known))
    found: list[object] = []

    def look(phase: str, info: object) -> None:
        if phase == "start" and not found:
            found.append(rig.book.dump())
            found.append([{} for _ in range(40)])  # in the places of what was freed

    threshold = gc.get_threshold()
    gc.callbacks.append(look)
    try:
        for allocations in range(1, 40):
            rig.deliver(tick(7))
            found.clear()
            gc.set_threshold(allocations, 100_000, 100_000)
            rig.deliver(account("UPDATE", pv=2))
            gc.set_threshold(*threshold)
            (position,) = json.loads(rig.book.dump())["positions"]
            assert known.items() <= position["wire"].items()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(look)


def test_on_error_is_called_while_the_exception_is_handled(rig: Rig) -> None:
    handled: list[object] = []
    rig.callbacks.on_position.replace(_fail(KeyError("mine")))
    rig.callbacks.on_error(lambda error: handled.append(sys.exc_info()[1]))
    rig.deliver(account("UPDATE"), account("UPDATE"))
    assert [repr(error) for error in handled] == ["KeyError('mine')"] * 2
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_stream_is_raised(rig: Rig, kind: type[BaseException]) -> None:
    rig.delivery.begin(background=False)
    rig.callbacks.on_order.replace(_fail(kind("over")))
    with pytest.raises(kind, match="over"):
        rig.deliver(order(), account("UPDATE"))
    assert not rig.told


def test_the_end_of_its_greenlet_ends_the_stream(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = type("GreenletExit", (BaseException,), {})
    rig.callbacks.on_order.replace(_fail(killed("over")))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "greenlet", types.SimpleNamespace(GreenletExit=killed))
        with pytest.raises(killed, match="over"):
            rig.deliver(order(), account("UPDATE"))
    assert not rig.told


@pytest.mark.parametrize(
    ("background", "kind"),
    [
        (True, SystemExit),  # it would end no more than a thread of ours
        *product([True, False], [asyncio.CancelledError, GeneratorExit, BaseException]),
    ],
)
def test_other_exceptions_that_are_no_exception_are_errors_like_others(
    rig: Rig, background: bool, kind: type[BaseException]
) -> None:
    rig.delivery.begin(background)
    rig.callbacks.on_order.replace(_fail(kind("mine")))
    rig.deliver(order(), order())
    assert [name for name, _ in rig.told] == ["on_error"] * 2
    assert type(rig.told[0][1].__cause__) is kind
    rig.callbacks.on_error.replace(_fail(kind("mine again")))
    rig.deliver(order())  # on_error's own is logged
    assert rig.counters.callback_errors == 4


def test_no_function_is_called_once_muted(rig: Rig) -> None:
    rig.callbacks.on_order.replace(lambda event: rig.delivery.mute())
    rig.callbacks.on_order(rig.keep("on_order"))
    rig.deliver(order(), account("UPDATE"))
    assert not rig.told


def test_no_push_is_begun_once_halted(rig: Rig) -> None:
    rig.callbacks.on_order(lambda event: rig.delivery.halt())
    rig.deliver(order(), order(), order())
    assert [name for name, _ in rig.told] == ["on_order"]
    rig.delivery.begin(background=True)
    rig.deliver(order())
    assert len(rig.told) == 2


def test_whether_the_system_closes_is_said_after_all_was_delivered(rig: Rig) -> None:
    close = {"channel": "SYSTEM", "et": "close"}
    assert rig.deliver(order(), close, order())
    assert [name for name, _ in rig.told] == ["on_order", "on_order"]
    assert not rig.deliver(order(), {"channel": "SYSTEM", "et": "open"})
    assert rig.delivery.counts == {
        "AccountUpdate": 1, "AdlPrice": 1, "Order": 4, "SystemClose": 1, "Unknown": 1,
    }  # fmt: skip


def test_channels_are_counted_by_names_of_a_bounded_length() -> None:
    counts: dict[str, int] = {}
    for number in range(120):
        count(counts, f"{number}{'x' * 50_000}")
    assert sum(counts.values()) == 120
    assert len(counts) <= 101
    assert max(map(len, counts)) <= 200


def test_what_cannot_be_decoded_is_reported_without_the_credential() -> None:
    rig = Rig(hide=lambda said: said.replace("secret", "***"))
    rig.deliver(b'{"channel":"order","order":"secret"}', order())
    (_, error), (name, _) = rig.told
    assert isinstance(error, DecodeError)
    assert error.__context__ is None
    assert error.data == b'{"channel":"order","order":"***"}'
    assert name == "on_order"
    assert rig.counters.decode_errors == 1


@pytest.mark.parametrize(
    ("push", "told", "where"),
    [
        ({**account("DELETE"), "a": 1}, ["on_position", "on_account"], ""),
        (account("UPDATE", a=[None]), ["on_position", "on_error"], "d.a is not a list of objects"),
        (account("DELETE", a=5), ["on_position", "on_error"], "d.a is not a list"),
        (account("UPDATE", p=[1]), ["on_account", "on_error"], "d.p is not an object"),
        ({"channel": "order", "order": {"orderId": "8", "orderAction": "2", "otoOrder": "{}"}},
         ["on_order", "on_error"], "order.otoOrder is not an object"),
        ({"channel": "ADL_PRICE", "l": [{"id": 7}, 5]}, ["on_adl_price", "on_error"], "l is not"),
        ({"channel": "ADL_PRICE", "l": [5]}, ["on_error"], "l is not a list of objects"),
    ],
)  # fmt: skip
def test_an_odd_part_does_not_cost_the_others(
    rig: Rig, push: Any, told: list[str], where: str
) -> None:
    for key in ("a", "p"):  # of the body, not of the position
        if key in push.get("d", {}).get("p", {}):
            push["d"][key] = push["d"]["p"].pop(key)
    rig.deliver(push)
    assert [name for name, _ in rig.told] == told
    if where:
        error = rig.told[-1][1]
        assert type(error) is DecodeError
        assert where in str(error)
    if push.get("d", {}).get("et") == "DELETE":
        assert not rig.book.positions
    if push["channel"] == "order":
        assert not rig.book.orders
    event = rig.told[0][1]
    assert isinstance(event, DecodeError) or event.raw == push


def test_what_happens_now_is_told_by_the_callbacks_name(rig: Rig) -> None:
    ready, unknown = Ready(), Unknown()
    rig.delivery.tell("on_order", ready)
    rig.delivery.tell(rig.callbacks.on_unknown, unknown)
    assert rig.told == [("on_order", ready), ("on_unknown", unknown)]


def test_a_function_that_is_added_meanwhile_is_called_from_the_next_event_on(rig: Rig) -> None:
    rig.callbacks.on_order.replace(lambda event: rig.callbacks.on_order(rig.keep("on_order")))
    rig.deliver(order(), order(), order())
    assert len(rig.told) == 1 + 2


# --- compiled classes -----------------------------------------------------------------------------


@pytest.mark.skipif(not _c.compiled, reason="nothing is compiled here")
def test_none_where_an_object_belongs_is_an_exception() -> None:
    rig = Rig()
    for call in (
        lambda: rig.delivery.pushes(None, 7),  # type: ignore[arg-type]
        lambda: rig.delivery.pushes([None], 7),  # type: ignore[list-item]
        lambda: Book(float).apply(None, None),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, AttributeError, DecodeError)):
            call()
