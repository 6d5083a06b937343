"""Whatever happens to a stream, in whatever order: a replay makes the same calls, and at each of
them shows what was shown then.

A script of random steps drives a stream's parts as a reader and a ping thread would, in one thread,
so that a step of the ping thread can be put exactly between two pushes.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fastpos import (
    Balance,
    DecodeError,
    Disconnect,
    Order,
    Position,
    PositionStream,
    Ready,
    ReconnectPolicy,
    Snapshot,
    Stale,
    Trigger,
)
from fastpos.account import book as book_module
from fastpos.errors import ConnectionFailed, ProtocolError, SnapshotError, SubscriptionError
from fastpos.journal import Journal, replay
from fastpos.journal import recorder as recorder_module
from fastpos.runtime import snapshots as snapshots_module
from fastpos.runtime.callbacks import CALLBACK_NAMES
from fastpos.runtime.run import Control, Parts, Run
from fastpos.stream import begin, hand_over, let_go
from tests.support.digest import told

AT_ONCE = ReconnectPolicy(initial=1e-9, maximum=1e-9)


ALONE = ("on_adl_price", "on_order", "on_trigger", "on_unknown")


class BusyError(SnapshotError):
    """Somebody's own."""


class Watcher:
    """Functions that note with each call what the stream showed, and may do something."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stream: PositionStream | None = None
        self.within: Callable[[str], None] | None = None

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        return {name: self._function(name) for name in CALLBACK_NAMES}

    def _function(self, name: str) -> Callable[[Any], None]:
        def note(event: Any) -> None:
            assert self.stream is not None
            self.calls.append((told(name, event), shown_by(self.stream)))
            if self.within is not None:
                self.within(name)

        return note


def shown_by(stream: PositionStream) -> tuple[Any, ...]:
    """What a stream shows."""
    told_whole = [stream.positions, stream.orders, stream.triggers]
    shown = [
        sorted((str(id), told("", each), each.stale, getattr(each, "missing_from_ticks", None))
               for id, each in part.items())
        for part in told_whole
    ]  # fmt: skip
    balances = sorted((coin, repr(each), each.stale) for coin, each in stream.balances.items())
    return shown, balances, stream.synced


class Script(Control):
    """Drives a stream by random steps."""

    def __init__(self, chance: random.Random, stream: PositionStream, parts: Parts) -> None:
        super().__init__(parts)
        self.chance = chance
        self.stream = stream
        self.ns = 1_764_126_720_000_000_000
        self.jobs: list[Callable[[], object]] = []
        parts.snapshots.do = self.jobs.append
        self.is_up = False
        self.is_paused = False
        self.in_batch = False
        self.gap: float | None = None

    def stop(self, run: Run) -> None:
        self._stop(run)

    # --- what comes from outside ------------------------------------------------------------

    def source(self) -> Snapshot:
        chance = self.chance
        kind = chance.random()
        if kind < 0.1:
            raise chance.choice(
                [
                    SnapshotError("busy", -1121, 429, chance.choice([None, 0.0])),
                    BusyError("no, \udcff", 7),
                    ValueError("odd \u2028"),
                ]
            )
        if kind < 0.15:
            return Snapshot([object()], [])  # type: ignore[list-item]
        if kind < 0.2:
            return Snapshot([Position(side="BUY")], [])
        number: Any = chance.choice([float, Decimal])
        positions = [
            Position(id=id, side="BUY", volume=number(chance.choice(["1", "2.50", "3e-7"])))
            for id in range(1, 6)
            if chance.random() < 0.5
        ]
        orders = [Order(order_id=str(id), price=number("5.5"), volume=1, type=1) for id in (1, 9)]
        triggers = [Trigger(trigger_order_id="3", trigger_price=number("0.1"))]
        return Snapshot(
            positions,
            [Balance(coin="USDT", available=number("1.10"))],
            chance.choice([None, orders]),
            chance.choice([None, triggers]),
        )

    def push(self) -> bytes:
        chance = self.chance
        id = chance.randint(1, 6)
        kind = chance.randrange(13)
        body: dict[str, Any]
        if kind < 5:
            keys = chance.sample(["pv", "op", "rp", "mr", "ccv", "x"], chance.randint(0, 4))
            position = {"id": id, **{key: chance.choice(["@", None, 5]) for key in keys}}
            balance = {"c": chance.choice(["USDT", "BTC"]), "an": "1.50"}
            inner = {"et": chance.choice(["CREATE", "UPDATE", "UPDATE", "DELETE", "odd"])}
            if chance.random() < 0.3:
                inner["a"] = [balance]  # type: ignore[assignment]
            if chance.random() < 0.9:
                inner["p"] = position  # type: ignore[assignment]
            body = {"channel": "ACCOUNT_UPDATE", "uid": 1, "t": "1564745798938", "d": inner}
        elif kind < 8:
            keys = chance.sample(["al", "rp", "ha", "mr", "bo", "lt"], 3)
            ids = [each for each in range(1, 7) if chance.random() < 0.6]
            ticks = [{"id": each, **dict.fromkeys(keys, "@")} for each in ids]
            body = {"channel": "ADL_PRICE", "uid": 1, "l": ticks}
        elif kind == 8:
            order = {"orderId": str(id), "type": 1, "price": "@", "volume": 5, "dealVolume": 1}
            body = {"channel": "order", "order": {**order, "orderAction": chance.choice("123")}}
        elif kind == 9:
            trigger = {"triggerOrderId": str(id), "triggerPrice": "@", "side": "buy"}
            expires = chance.choice([None, self.ns // 1_000_000 + chance.randrange(9000)])
            trigger |= {"expireTime": expires, "orderAction": chance.choice("12")}
            body = {"channel": "trigOrder", "trigOrder": trigger}
        elif kind == 10:
            body = {"channel": "news", "n": "@", "text": "\u6c38\u7eed \u2028"}
        elif kind == 11:
            odd = [
                b"no json",
                b'{"channel"',
                b'{"channel":"news",\n"n":1}',
                b"[]",
                b'{"channel":7}',
            ]
            return chance.choice([*odd, b"\xff", b'{"channel":"x","n":NaN}', b" {}\r"])
        else:
            system = {"channel": "SYSTEM", "uid": 1, "et": "close"}
            body = chance.choice([system, {"channel": "order", "order": [1]}])
        amount = chance.choice(
            [b"1", b"2.50", b"3e-7", b"12345678901234567890.123456789", b"1e400"]
        )
        return json.dumps(body).encode().replace(b'"@"', amount)

    # --- steps ------------------------------------------------------------------------------

    def step(self) -> None:
        chance = self.chance
        self.ns += chance.randrange(1_000_000_000)
        if not self.is_up:
            self.connect()
            return
        chance.choices(
            [self.pushes, self.poll, self.finish_call, self.pause, self.lose, self.other],
            [8, 4, 4, 1, 0.7, 0.7],
        )[0]()

    def connect(self) -> None:
        self.feed.attempt()
        if self.chance.random() < 0.2:
            self.tell_lost()
            return
        if self.feed._recorder is not None:
            self.feed._recorder.connected()
        self.ready()

    def ready(self) -> None:
        self.is_up, self.is_paused = True, False
        event = Ready(first=self.gap is None, gap_s=self.gap, attempts=1, received_ns=self.ns)
        self.gap = 1.5
        self.feed.ready(event)

    def pushes(self) -> None:
        texts = [self.push() for _ in range(self.chance.choice([1, 1, 2, 5]))]
        self.in_batch = True
        recorder = self.feed._recorder
        assert recorder is not None
        self.feed._recorded(recorder, texts, self.ns)
        self.in_batch = False

    def poll(self) -> None:
        if self.snapshots.pending:
            self.poll_snapshots()

    def finish_call(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()
        self.poll()

    def pause(self) -> None:
        if self.is_paused:
            self.ready()
        else:
            self.is_paused = True
            self.feed.paused()

    def lose(self) -> None:
        self.feed.left(None)
        self.tell_lost()
        self.is_up = False

    def tell_lost(self) -> None:
        error = self.chance.choice(
            [
                None,
                ConnectionFailed("refused", 503, 1.5),
                ProtocolError("too big", 1009),
                SubscriptionError("no", "sub fail"),
                DecodeError("odd", b"\xff\0"),
            ]
        )
        if error is not None:
            error.stream = self.stream.name
        self.feed.disconnected(
            Disconnect(
                reason=self.chance.choice(["lost", "closed \u2028"]),
                close_code=self.chance.choice([None, 1001]),
                error=error,
                retry_in_s=self.chance.choice([None, 0.25]),
                received_ns=self.ns,
            )
        )

    def other(self) -> None:
        if self.chance.random() < 0.5:
            self.feed.stale(Stale(reason="no tick", silent_s=3.25, received_ns=self.ns))
        else:
            error = DecodeError("not gzip", b"\xff{\0")
            self.feed.undecodable(error, self.ns)

    def within(self, name: str) -> None:
        """What may happen while a function runs. A pause, only where it is a push's one call: for
        another thread that is one moment, and not looked at more closely."""
        if not self.in_batch:
            return
        chance = self.chance.random()
        if chance < 0.1 and not self.is_paused and name in ALONE:
            self.is_paused = True
            self.feed.paused()  # the ping thread, meanwhile
        elif chance < 0.15:
            self.stream._settings.journal.flush()  # the writer's turn comes
        elif chance < 0.155:
            self._delivery.halt()


@pytest.mark.parametrize("seed", range(60))
def test_a_replay_shows_at_each_call_what_was_shown_then(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "JOURNAL_LIMIT", 12)
    chance = random.Random(seed)
    before, after = Watcher(), Watcher()
    number = chance.choice([float, Decimal])
    for module in (recorder_module, snapshots_module):
        monkeypatch.setattr(module, "time_ns", lambda: script.ns)
    journal = Journal(tmp_path, segment_bytes=chance.choice([5_000, 1 << 26]))
    script: Script
    has_source = chance.random() < 0.7

    def take_snapshot() -> Snapshot:
        return script.source()  # of the run that is under way

    stream = before.stream = PositionStream(
        "ws://127.0.0.1:9",
        api_key="a key of nobody",
        broker=1,
        name="a",
        number=number,
        journal=journal,
        reconnect=AT_ONCE,
        snapshot=take_snapshot if has_source else None,
        **before.callbacks,
    )
    with journal:
        for _ in range(2):
            script = hand_over(stream, lambda parts: Script(chance, stream, parts))
            before.within = script.within
            run_script(script)
    replayed = after.stream = PositionStream(
        "ws://127.0.0.1:9", api_key="x", broker=1, name="a", number=number, **after.callbacks
    )
    replay(tmp_path, into=replayed)
    for count, (one, other) in enumerate(zip(before.calls, after.calls, strict=False)):
        assert one == other, count
    assert len(before.calls) == len(after.calls)
    assert replayed.stats.events == stream.stats.events
    assert shown_by(replayed)[0][0] == shown_by(stream)[0][0]


def run_script(script: Script) -> None:
    """One run of a stream."""
    run = Run(1, threading.current_thread(), is_ours=False, background=False)
    begin(script.stream, run)
    book = script.stream.book
    book.now_ns = lambda: script.ns
    script.feed.begin()
    script.gap = None
    for _ in range(120):
        script.step()
        if script._delivery._halted:
            break
    if script.is_up:
        script.feed.left(None)
        script.tell_lost()
    script.feed.close_journal()
    run.ended = True
    let_go(script.stream)
