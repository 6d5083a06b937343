"""`RemoteStream`: a bot elsewhere is told what it would have been told beside the owner."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("redis")

from fastpos import (
    AuthenticationError,
    Balance,
    CallbackError,
    ConnectionFailed,
    Fleet,
    Order,
    Position,
    PositionStream,
    PublisherError,
    ReconnectExhausted,
    ReconnectPolicy,
    Snapshot,
)
from fastpos.journal.format import kind_of, label_of, line_of, push_lines
from fastpos.redis import Publisher, RemoteStream, entries, following
from fastpos.redis import member as members
from fastpos.redis.scripts import PRUNE
from fastpos.simulator import Exchange
from tests.support.digest import told
from tests.support.programs import ROOT
from tests.support.recording import KEY, Recorder, logged, until
from tests.support.redis_server import RedisServer
from tests.support.rig import free_port

QUICK = ReconnectPolicy(initial=0.05, maximum=0.1)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange(api_key=KEY) as exchange:
        yield exchange


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


def owner(exchange: Exchange, redis: RedisServer, **arguments: Any) -> PositionStream:
    """A stream that publishes as alice."""
    return PositionStream(
        exchange.url,
        api_key=KEY,
        broker=exchange.broker,
        name="alice",
        publisher=Publisher(redis.url),
        **arguments,
    )


def follower(redis: RedisServer, log: Recorder | None = None, **arguments: Any) -> RemoteStream:
    return RemoteStream(
        redis.url,
        "alice",
        **{"reconnect": QUICK, **({} if log is None else log.callbacks), **arguments},
    )


@contextlib.contextmanager
def both(
    exchange: Exchange, redis: RedisServer, log: Recorder, **arguments: Any
) -> Iterator[tuple[PositionStream, RemoteStream]]:
    """An owner, and who follows it, both ready."""
    with owner(exchange, redis) as first:
        assert first.wait_ready(5)
        stream = follower(redis, log, **arguments)
        with stream:
            assert stream.wait_ready(5)
            yield first, stream


class Author:
    """Publishes as alice, record by record."""

    def __init__(self, redis: RedisServer, epoch: int = 1) -> None:
        self.redis = redis.client()
        self.epoch = epoch
        self.sequence = 1
        self.stay()

    def stay(self, seconds: float = 60.0) -> None:
        """Say that the owner is there."""
        self.redis.set("fastpos:{alice}:owner", f"{self.epoch} me", px=int(seconds * 1000))

    def go(self) -> None:
        """Say that it is not."""
        self.redis.delete("fastpos:{alice}:owner")

    def append(self, line: bytes) -> None:
        values: dict[Any, Any] = {"kind": kind_of(line), "record": line[:-1]}
        self.redis.xadd("fastpos:{alice}:events", values, id=f"{self.epoch}-{self.sequence}")
        self.sequence += 1

    def tell(self, kind: str, **values: Any) -> None:
        self.append(line_of(label_of("alice"), 1, time.time_ns(), kind, values))

    def begin(self, *positions: int, synced: bool = False, run: int = 1) -> None:
        """A run begins, is subscribed, and knows these."""
        self.tell("started", run=run, book=None)
        self.tell("subscribed", first=True, gap_s=None, attempts=1)
        self.state(*positions, synced=synced)

    def state(self, *positions: int, synced: bool = False, **more: Any) -> None:
        known = [
            {"wire": {"id": id, "a": "1", "v": "1"}, "complete": True, "stale": []}
            for id in positions
        ]
        parts: dict[str, Any] = {key: [] for key in ("balances", "orders", "triggers")}
        self.tell("state", positions=known, synced=synced, gap_s=None, **parts, **more)

    def order(self, id: int | str) -> None:
        order = {"orderId": str(id), "orderAction": "1", "price": "1", "orderType": "LIMIT"}
        self.push({"channel": "order", "order": order})

    def position(self, id: int) -> None:
        body = {"et": "CREATE", "p": {"id": id, "a": "1", "v": "1"}, "a": None}
        self.push({"channel": "ACCOUNT_UPDATE", "uid": 9, "t": "1", "d": body})

    def push(self, push: dict[str, Any]) -> None:
        texts = [json.dumps(push).encode()]
        self.append(push_lines(label_of("alice"), 1, time.time_ns(), texts))

    def snapshot(self, *positions: int) -> None:
        known = [{"id": id, "a": "1", "v": "1"} for id in positions]
        self.tell("snapshot", positions=known, balances=[], orders=None, triggers=None)


def ids(log: Recorder) -> list[str]:
    return [order.order_id for order in log.on_order]


def left_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("fastpos")]


# --- what is told ---------------------------------------------------------------------------------


def test_what_is_open_is_told_first_and_then_what_comes(
    exchange: Exchange, redis: RedisServer
) -> None:
    log = Recorder()
    with owner(exchange, redis) as first:
        assert first.wait_ready(5)
        position = exchange.open_position(volume=5)
        until(lambda: first.positions)
        until(lambda: b"ACCOUNT_UPDATE" in str(redis_tail(redis)).encode())
        stream = follower(redis, log)
        with stream:
            assert stream.wait_ready(5)
            assert stream.positions[position].volume == 5
            assert not stream.positions[position].stale
            exchange.update_position(position, volume=7)
            exchange.place_order(price=1, volume=1)
            log.wait("on_order")
            created, updated = log.on_position
            assert (created.change, created.source, created.volume) == ("CREATE", "SNAPSHOT", 5)
            assert (updated.change, updated.source, updated.volume) == ("UPDATE", "STREAM", 7)
            assert updated.changed == {"volume"}
            assert [ready.first for ready in log.on_ready] == [True]
            assert stream.positions == first.positions
            assert stream.orders == first.orders
            assert stream.balances == first.balances
            stats = stream.stats
            assert stats.events["Order"] == 1
            assert (stats.connects, stats.subscriptions, stats.stream) == (1, 1, "alice")
            assert stats.last_ping_ns is stats.last_pong_ns is stats.round_trip_s is None
    assert log.calls[-1][1].reason == "stopped"


def redis_tail(redis: RedisServer) -> Any:
    with redis.client() as client:
        return client.xrevrange("fastpos:{alice}:events", count=20)


def snapshot_of(exchange: Exchange) -> Snapshot:
    state = exchange.snapshot_state()
    positions = [
        Position(id=each["id"], side="BUY", volume=each["v"]) for each in state["positions"]
    ]
    return Snapshot(positions, [Balance(coin="USDT", available=1.0)])


@pytest.mark.parametrize("number", [float, Decimal])
def test_a_bot_is_told_what_it_would_be_beside_the_owner(
    exchange: Exchange, redis: RedisServer, number: Any
) -> None:
    here, there = Recorder(), Recorder()
    known: dict[int, Position] = {}
    arguments: dict[str, Any] = {"number": number, "reconnect": QUICK}
    with owner(
        exchange,
        redis,
        snapshot=lambda: Snapshot([*known.values()], []),
        **arguments,
        **here.callbacks,
    ) as first:
        here.wait("on_synced")
        until(lambda: "snapshot" in [values["kind"] for _, values in redis_tail(redis)])
        stream = follower(redis, there, number=number)
        with stream:
            assert stream.wait_ready(5)
            assert stream.synced
            begin = len(here.calls)
            position = exchange.open_position(volume=5)
            exchange.tick()
            exchange.update_position(position, volume="7.123456789012345678901")
            exchange.set_balance("USDT", available=12)
            exchange.push({"channel": "news", "x": 1})
            exchange.push_bytes(b"\x1f\x8b nonsense")
            exchange.place_trigger()
            here.wait("on_trigger")
            known[position] = Position(id=position, side="BUY", volume=number("8.5"))
            exchange.drop()
            here.wait("on_synced", 2)
            exchange.close_position(position)
            exchange.place_order(price=1, volume=1)
            here.wait("on_order")
            there.wait("on_order")
            assert stream.positions == first.positions
            assert stream.balances == first.balances
            assert stream.synced
            owners = [told(*each) for each in here.calls[begin:]]
            followers = [told(*each) for each in there.calls if each[0] != "on_ready"]
            kept = [each for each in owners if not each.startswith(b'["on_ready')]
            assert followers == kept
            assert len(kept) > 8
            again = there.on_ready[1]
            assert told("", again) == told("", here.on_ready[1])


def test_two_streams_follow_one_account_and_one_follows_beside_its_owner(
    exchange: Exchange, redis: RedisServer
) -> None:
    logs = [Recorder(), Recorder()]
    with both(exchange, redis, logs[0]), follower(redis, logs[1], dispatch="thread") as other:
        assert other.wait_ready(5)
        for _ in range(20):
            exchange.place_order(price=1, volume=1)
        for log in logs:
            log.wait("on_order", 20)
        assert ids(logs[0]) == ids(logs[1])


def test_what_was_before_is_not_told_with_a_thread_for_callbacks(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    author.order(1)
    with follower(redis, log, dispatch="thread") as stream:
        assert stream.wait_ready(5)
        author.order(2)
        log.wait("on_order")
        assert ids(log) == ["2"]
        assert [*stream.orders] == ["1", "2"]
        assert [each.id for each in log.on_position] == [7]


def test_methods_of_a_subclass_are_called(redis: RedisServer) -> None:
    seen: list[Order] = []

    class Bot(RemoteStream):
        def on_order(self, order: Order) -> None:  # type: ignore[override]
            seen.append(order)

    author = Author(redis)
    author.begin()
    with Bot(redis.url, "alice") as bot:
        assert bot.wait_ready(5)
        author.order(1)
        until(lambda: seen)
    assert repr(bot) == f"<Bot alice {redis.url}>"


# --- the owner ------------------------------------------------------------------------------------


def test_when_the_owner_is_gone_all_is_stale_until_the_next_ones_state(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    began = time.time()
    author.begin(7, synced=True)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        assert stream.synced
        assert not stream.positions[7].stale
        author.stay(0.2)
        log.wait("on_stale")
        assert stream.positions[7].stale
        assert not stream.synced
        assert not stream.wait_ready(0)
        successor = Author(redis, epoch=2)
        successor.tell("started", run=1, book=None)
        successor.tell("subscribed", first=True, gap_s=None, attempts=1)
        successor.order(1)
        log.wait("on_order")
        assert stream.positions[7].stale
        assert not stream.wait_ready(0)
        assert len(log.on_ready) == 1
        successor.state(8, synced=True)
        log.wait("on_ready", 2)
        assert not log.on_ready[1].first
        assert 0.1 < log.on_ready[1].gap_s < time.time() - began
        assert stream.wait_ready(5)
        assert stream.synced
        assert not stream.positions[8].stale
        changes = [(each.change, each.id) for each in log.on_position]
        assert changes == [("CREATE", 7), ("CREATE", 8), ("DELETE", 7)]


def test_the_same_owner_that_comes_back_has_missed_nothing(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7, synced=True)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        author.go()
        log.wait("on_stale")
        author.order(1)
        author.stay()
        log.wait("on_order")
        log.wait("on_ready", 2)
        assert log.on_ready[1].gap_s == 0
        assert stream.synced
        assert not stream.positions[7].stale


def test_an_owner_that_begins_with_nothing_says_not_that_positions_are_closed(
    redis: RedisServer,
) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7, 8)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        successor = Author(redis, epoch=2)
        successor.begin()
        log.wait("on_ready", 2)
        assert stream.wait_ready(5)
        assert {id: each.stale for id, each in stream.positions.items()} == {7: True, 8: True}
        successor.tell("snapshot_asked")
        successor.snapshot(7)
        log.wait("on_synced")
        assert [*stream.positions] == [7]
        assert [each.id for each in log.on_position if each.change == "DELETE"] == [8]


def test_a_stream_without_an_owner_is_not_ready_and_says_so(redis: RedisServer) -> None:
    log = Recorder()
    with follower(redis, log) as stream:
        log.wait("on_stale")
        assert not stream.wait_ready(0.1)
        author = Author(redis)
        author.begin(7)
        assert stream.wait_ready(5)
        assert log.wait("on_ready")[0].first
        log.wait("on_position")


def test_what_the_owner_is_not_subscribed_to_is_not_ready(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        lost = {"reason": "lost", "close_code": None, "error": ["ConnectionFailed", "lost"]}
        author.tell("disconnected", **lost, retry_in_s=0.5)
        event = log.wait("on_disconnect")[0]
        assert (event.reason, event.retry_in_s) == ("lost", 0.5)
        assert isinstance(log.wait("on_error")[0], ConnectionFailed)
        assert stream.positions[7].stale
        assert not stream.wait_ready(0)


def test_a_state_of_an_owner_that_is_not_subscribed_is_not_ready(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    author.tell("disconnected", reason="x", close_code=None, error=None, retry_in_s=1.0)
    author.state(7, subscribed=False)
    with follower(redis, log) as stream:
        log.wait("on_position")
        author.order(1)
        log.wait("on_order")
        assert stream.stats.state == "connecting"
        assert log.on_ready == []
        assert stream.positions[7].stale
        author.tell("subscribed", first=False, gap_s=1.0, attempts=1)
        log.wait("on_ready")
        assert stream.positions[7].stale


def test_an_owner_says_in_its_state_whether_it_is_subscribed(
    exchange: Exchange, redis: RedisServer
) -> None:
    with owner(exchange, redis) as first:
        assert first.wait_ready(5)
        until(lambda: len(states(redis)) == 1)
        first._feed._recorder.wants_state = True  # type: ignore[union-attr]
        exchange.drop()
        until(lambda: first.stats.subscriptions == 2)
        until(lambda: len(states(redis)) == 3)
        assert [state["subscribed"] for state in states(redis)] == [True, False, True]


def states(redis: RedisServer) -> list[dict[str, Any]]:
    with redis.client() as client:
        found = client.xrange("fastpos:{alice}:events")
    return [json.loads(each["record"]) for _, each in found if each["kind"] == "state"]


def test_when_another_owner_is_ready_so_is_the_follower_and_once(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    ready: list[tuple[bool, bool]] = []
    with follower(redis, log) as stream:
        log.wait("on_ready")

        @stream.on_ready
        def look(_: object) -> None:
            ready.append((stream.wait_ready(0), stream.positions[7].stale))

        for epoch, is_gone in (2, True), (3, False):
            if is_gone:
                author.go()
                log.wait("on_stale")
            author.epoch, author.sequence = epoch, 1
            author.stay()
            author.begin(7)
            author.order(epoch)
            log.wait("on_order", epoch - 1)
            log.wait("on_ready", epoch)
        author.order(4)
        log.wait("on_order", 3)
        assert ready == [(True, False)] * 2
        assert len(log.on_ready) == 3
        assert log.on_error == []


def test_redis_always_has_a_state_to_begin_with(exchange: Exchange, redis: RedisServer) -> None:
    with PositionStream(
        exchange.url,
        api_key=KEY,
        broker=exchange.broker,
        name="alice",
        publisher=Publisher(redis.url, max_length=100),
    ) as first:
        assert first.wait_ready(5)
        position = exchange.open_position(volume=5)
        for _ in range(1000):
            last = exchange.place_order(price=1, volume=1)
        with redis.client() as client:
            until(lambda: last in str(client.xrevrange("fastpos:{alice}:events", count=3)), 20)
            client.xtrim("fastpos:{alice}:events", maxlen=100, approximate=False)
        with follower(redis) as stream:
            assert stream.wait_ready(5)
            assert [*stream.positions] == [position]
            assert len(stream.orders) == 1000


# --- records that are missing ---------------------------------------------------------------------


def test_records_that_redis_let_go_are_told_and_a_state_mends_it(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7, synced=True)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        author.sequence += 10
        author.order(1)
        error = log.wait("on_error")[0]
        assert isinstance(error, PublisherError)
        assert "10 records" in str(error)
        log.wait("on_order")
        assert stream.positions[7].stale
        assert not stream.wait_ready(0)
        author.state(8, synced=True)
        assert stream.wait_ready(5)
        assert [*stream.positions] == [8]


def test_records_of_a_new_owner_that_are_missing_are_told(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        successor = Author(redis, epoch=2)
        successor.sequence = 4
        successor.state(7)
        assert "3 records" in str(log.wait("on_error")[0])
        assert stream.wait_ready(5)


def test_what_could_not_be_published_is_told(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        author.sequence += 99
        author.tell("dropped", count=100, from_ns=0, to_ns=2_500_000_000)
        assert "100 records of 2.5 s" in str(log.wait("on_error")[0])
        author.state(7)
        assert stream.wait_ready(5)
        assert len(log.on_error) == 1


def test_a_state_between_a_question_and_its_snapshot_takes_no_push_from_that(
    redis: RedisServer,
) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        author.tell("dropped", count=1, from_ns=0, to_ns=0)
        author.tell("snapshot_asked")
        author.position(8)
        author.state(7, 8)
        author.position(9)
        author.snapshot(7)
        author.state(7, 8, 9, synced=True)
        log.wait("on_synced")
        assert stream.synced
        assert [*stream.positions] == [7, 8, 9]
        author.order(1)
        log.wait("on_order")
        assert [type(error) for error in log.on_error] == [PublisherError]
        assert len(log.on_synced) == 1


def test_who_begins_between_a_question_and_its_snapshot_is_synced_by_the_next_state(
    redis: RedisServer,
) -> None:
    author, log = Author(redis), Recorder()
    author.begin(6, 7)
    author.tell("snapshot_asked")
    author.position(8)
    author.state(6, 7, 8)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        author.position(9)
        author.snapshot(7)
        author.state(7, 8, 9, synced=True)
        (synced,) = log.wait("on_synced")
        assert (synced.created, synced.updated, synced.deleted) == (0, 0, 1)
        assert stream.synced
        assert [*stream.positions] == [7, 8, 9]
        author.order(1)
        log.wait("on_order")
        assert not log.on_error


def test_a_record_that_can_not_be_read_is_told_and_the_next_is_read(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        for values in ({"record": "nonsense"}, {"other": "thing"}):
            author.redis.xadd("fastpos:{alice}:events", values, id=f"1-{author.sequence}")
            author.sequence += 1
        author.tell("of_a_later_version", x=1)
        author.tell("snapshot", positions=7)
        author.order(1)
        log.wait("on_order")
        assert len(log.on_error) == 2
        author.state()
        assert stream.wait_ready(5)


# --- Redis ----------------------------------------------------------------------------------------


def test_a_redis_that_is_restarted_costs_nothing_but_time(
    exchange: Exchange, redis: RedisServer
) -> None:
    log = Recorder()
    with both(exchange, redis, log) as (first, stream):
        position = exchange.open_position(volume=1)
        log.wait("on_position")
        redis.kill()
        event = log.wait("on_disconnect")[0]
        assert "is away" in event.reason
        assert isinstance(event.error, ConnectionFailed)
        until(lambda: stream.positions[position].stale)
        for volume in range(2, 12):
            exchange.update_position(position, volume=volume)
        redis.start()
        log.wait("on_position", 11)
        assert [each.volume for each in log.on_position] == [*range(1, 12)]
        assert log.wait("on_ready", 2)[1].gap_s == 0
        assert not stream.positions[position].stale
        assert stream.positions == first.positions


def test_a_redis_that_forgets_all_is_followed_on(exchange: Exchange) -> None:
    log = Recorder()
    with RedisServer() as redis, both(exchange, redis, log) as (first, stream):
        position = exchange.open_position(volume=1)
        log.wait("on_position")
        redis.restart()
        exchange.update_position(position, volume=2)
        log.wait("on_position", 2)
        log.wait("on_ready", 2)
        assert stream.positions == first.positions


@pytest.mark.parametrize("group", [None, "risk"])
@pytest.mark.parametrize("epoch", [1, 1_764_000_000], ids=["below", "above"])
def test_a_redis_that_forgets_and_another_owner_are_followed(
    redis: RedisServer, epoch: int, group: str | None
) -> None:
    author, log = Author(redis, epoch=5), Recorder()
    author.begin(7, synced=True)
    with follower(redis, log, group=group) as stream:
        assert stream.wait_ready(5)
        author.redis.flushall()
        successor = Author(redis, epoch=epoch)
        successor.begin(8, synced=True)
        until(lambda: [*stream.positions] == [8])
        assert stream.wait_ready(5)
        if group is None:
            told = [(each.change, each.id) for each in log.wait("on_position", 3)]
            assert told == [("CREATE", 7), ("CREATE", 8), ("DELETE", 7)]
        assert any("lost its records" in str(error) for error in log.on_error)


def test_a_redis_that_comes_later_is_waited_for() -> None:
    log = Recorder()
    with RedisServer() as redis:
        redis.kill()
        with follower(redis, log) as stream:
            log.wait("on_disconnect", 2)
            assert not stream.wait_ready(0)
            redis.start()
            author = Author(redis)
            author.begin()
            assert stream.wait_ready(5)
    assert all(0 <= each.retry_in_s <= 0.1 for each in log.on_disconnect[:2])


def test_without_a_policy_the_first_failure_ends_it() -> None:
    url = f"redis://:secret-word@127.0.0.1:{free_port()}/0"
    stream = RemoteStream(url, "alice", reconnect=None)
    with pytest.raises(ConnectionFailed) as caught:
        stream.run_forever()
    assert "secret-word" not in str(caught.value)
    with pytest.raises(ReconnectExhausted):
        RemoteStream(
            url, "alice", reconnect=ReconnectPolicy(initial=0.01, max_attempts=2)
        ).run_forever()


def test_the_log_names_redis_when_it_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    stream = RemoteStream(f"redis://:secret@127.0.0.1:{free_port()}/0", "alice", reconnect=None)
    stream.start()
    with pytest.raises(ConnectionFailed):
        stream.join(5)
    (ended,) = logged(caplog, "ended")
    assert ended["fastpos_url"].startswith("redis://")
    assert "secret" not in ended["fastpos_url"]


def test_a_wrong_password_ends_it() -> None:
    log = Recorder()
    with RedisServer() as redis:
        with redis.client() as client:
            client.config_set("requirepass", "right")
        stream = RemoteStream(redis.url.replace("//", "//:wrong-word@"), "alice", **log.callbacks)
        with pytest.raises(AuthenticationError) as caught:
            stream.run_forever()
        assert "wrong-word" not in str(caught.value)
        assert log.on_disconnect[0].retry_in_s is None
        with pytest.raises(AuthenticationError):
            RemoteStream(redis.url, "alice").run_forever()


def test_a_redis_that_hangs_is_noticed_and_stop_does_not_wait_for_it(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "ANSWER", 1.3)
    author, log = Author(redis), Recorder()
    author.begin()
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        assert redis.process is not None
        redis.process.send_signal(signal.SIGSTOP)
        assert "Timeout" in log.wait("on_disconnect")[0].reason
        stream.stop()  # which waits for 5 s at the most, and leaves a thread then
        assert not left_threads()
        redis.process.send_signal(signal.SIGCONT)


# --- the life cycle -------------------------------------------------------------------------------


def test_stop_is_quick_leaves_no_thread_and_it_starts_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "BLOCK", 40_000)
    monkeypatch.setattr(entries, "ANSWER", 60.0)
    author, log = Author(redis), Recorder()
    author.begin(7)
    stream = follower(redis, log)
    for _ in range(3):
        with stream:
            assert stream.wait_ready(5)
            names = sorted(name.rpartition("-")[0] for name in left_threads())
            assert names == ["fastpos-ping", "fastpos-reader"]
            until(lambda: stream._own_driver._entries._is_waiting)  # type: ignore[attr-defined]
            began = time.monotonic()
        assert time.monotonic() - began < 4
        assert not left_threads()
        assert stream.positions[7].stale
    assert len(log.on_position) == 1  # nothing has changed since
    author.state(8)
    with stream:
        assert stream.wait_ready(5)
    assert [(each.change, each.id) for each in log.on_position[1:]] == [
        ("CREATE", 8),
        ("DELETE", 7),
    ]


def test_a_callback_may_stop_it(redis: RedisServer) -> None:
    author, seen = Author(redis), []
    author.begin()
    stream = follower(redis)

    @stream.on_order
    def order(event: Order) -> None:
        seen.append(event.order_id)
        stream.stop()

    stream.start()
    assert stream.wait_ready(5)
    author.order(1)
    author.order(2)
    assert stream.join(5)
    assert seen == ["1"]


def test_a_signal_handler_may_stop_it(redis: RedisServer) -> None:
    Author(redis).begin()
    stream = follower(redis)
    before = signal.signal(signal.SIGUSR1, lambda *_: stream.stop())
    try:
        stream.on_ready(
            lambda _: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        )
        stream.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_ends_it_and_is_raised_again(redis: RedisServer) -> None:
    Author(redis).begin()
    stream = follower(redis)
    stream.on_ready(lambda _: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start())
    with pytest.raises(KeyboardInterrupt):
        stream.run_forever()
    until(lambda: not left_threads())


def test_what_a_callback_raises_is_told_and_a_keyboard_interrupt_ends_it(
    redis: RedisServer,
) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    raised: list[BaseException] = [ValueError("a mistake"), KeyboardInterrupt()]
    stream = follower(redis, log)

    @stream.on_order
    def order(event: Order) -> None:
        raise raised.pop(0)

    stream.start()
    assert stream.wait_ready(5)
    author.order(1)
    error = log.wait("on_error")[0]
    assert isinstance(error, CallbackError)
    author.order(2)
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        stream.join(5)


def test_a_pause_ends_with_what_has_changed(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        began = time.time()
        stream.unsubscribe()
        until(lambda: stream.positions[7].stale)
        author.order(1)
        author.state(7, 8)
        assert not stream.wait_ready(0.1)
        stream.subscribe()
        assert stream.wait_ready(5)
        ready = log.wait("on_ready", 2)[1]
        assert 0 < ready.gap_s < time.time() - began
        assert ids(log) == []
        assert [each.id for each in log.on_position] == [7, 8]
        author.order(2)
        log.wait("on_order")


@pytest.mark.parametrize("group", [None, "risk"])
def test_a_pause_is_at_once_and_is_no_failure(redis: RedisServer, group: str | None) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with follower(redis, log, group=group, reconnect=None) as stream:
        assert stream.wait_ready(5)
        for count in range(2, 12):
            until(lambda: stream._own_driver._entries._is_waiting)  # type: ignore[attr-defined]
            stream.unsubscribe()
            assert stream.stats.state in {"paused", "connecting"}
            assert stream.positions[7].stale
            assert not stream.wait_ready(0)
            stream.subscribe()
            assert stream.wait_ready(5)
            log.wait("on_ready", count)
        assert log.on_disconnect == log.on_error == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_was_forked_leaves_it_alone(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    with follower(redis, log) as stream:
        assert stream.wait_ready(5)
        child = os.fork()
        if not child:
            try:
                stream.stop()
                try:
                    stream.positions  # noqa: B018
                except RuntimeError:
                    os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        author.order(1)
        log.wait("on_order")


# --- in a group -----------------------------------------------------------------------------------


def member(redis: RedisServer, log: Recorder | None, name: str, **more: Any) -> RemoteStream:
    return follower(redis, log, group="risk", consumer=name, **more)


def unacknowledged(redis: RedisServer) -> int:
    with redis.client() as client:
        return int(client.xpending("fastpos:{alice}:events", "risk")["pending"])


def test_a_group_goes_on_where_it_stopped(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    author.order(0)
    with member(redis, log, "a") as stream:
        assert stream.wait_ready(5)
        author.order(1)
        author.order(2)
        log.wait("on_order", 2)
    assert unacknowledged(redis) == 0
    author.order(3)
    with member(redis, log, "b") as stream:
        log.wait("on_order", 3)
        author.order(4)
        log.wait("on_order", 4)
        assert [*stream.positions] == [7]
    assert ids(log) == ["1", "2", "3", "4"]
    assert unacknowledged(redis) == 0


def test_it_is_acknowledged_after_the_function_returned(redis: RedisServer) -> None:
    author, held, go = Author(redis), threading.Event(), threading.Event()
    author.begin()
    stream = member(redis, None, "a")

    @stream.on_order
    def order(event: Order) -> None:
        held.set()
        assert go.wait(5)

    with stream:
        assert stream.wait_ready(5)
        author.order(1)
        assert held.wait(5)
        assert unacknowledged(redis) == 1
        go.set()
        until(lambda: unacknowledged(redis) == 0)


@pytest.mark.parametrize("others", [True, False])
def test_what_a_dead_member_had_read_and_redis_let_go_is_told(
    redis: RedisServer, others: bool
) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    key = "fastpos:{alice}:events"
    author.redis.xgroup_create(key, "risk", id="$")
    for number in range(4):
        author.order(number)
    author.redis.xreadgroup("risk", "dead", {key: ">"})
    author.state(7)
    author.redis.xtrim(key, minid="1-6" if others else "1-8", approximate=False)
    with member(redis, log, "b") as stream:
        assert isinstance(log.wait("on_error")[0], PublisherError)
        assert ("2 records" if others else "4 records") in str(log.on_error[0])
        assert stream.wait_ready(5)
        assert [*stream.positions] == [7]
        assert not stream.positions[7].stale
        author.order(9)
        log.wait("on_order", 3 if others else 1)
        assert ids(log) == (["2", "3", "9"] if others else ["9"])
        assert len(log.on_ready) == len(log.on_error) == 1


def test_one_member_reads_and_the_next_is_there_at_once(redis: RedisServer) -> None:
    author, logs = Author(redis), [Recorder(), Recorder()]
    author.begin()
    first, second = member(redis, logs[0], "a"), member(redis, logs[1], "b")
    with first:
        assert first.wait_ready(5)
        with second:
            assert not second.wait_ready(0.2)
            for number in range(100):
                author.order(number)
            logs[0].wait("on_order", 50)
            first.stop()
            assert second.wait_ready(5)
            for number in range(100, 150):
                author.order(number)
            until(lambda: "149" in ids(logs[1]))
    every = ids(logs[0]) + ids(logs[1])
    assert every == [str(number) for number in range(150)]  # a stop in order doubles nothing


def test_what_a_dead_member_has_not_acknowledged_is_told_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    redis_client = author.redis
    key = "fastpos:{alice}:events"
    redis_client.xgroup_create(key, "risk", id="$")
    for number in range(10):
        author.order(number)
    redis_client.xreadgroup("risk", "dead", {key: ">"}, count=5)
    redis_client.set(f"{key}:risk", "dead 1", px=60_000)
    with member(redis, log, "b") as stream:
        assert not stream.wait_ready(0.1)
        redis_client.pexpire(f"{key}:risk", 100)
        log.wait("on_order", 10)
    assert ids(log) == [str(number) for number in range(10)]


def test_members_that_were_are_removed_but_none_that_has_something_to_acknowledge(
    redis: RedisServer,
) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    key = "fastpos:{alice}:events"
    author.redis.xgroup_create(key, "risk", id="$")
    author.order(1)
    author.redis.xgroup_createconsumer(key, "risk", "idle")
    author.redis.xreadgroup("risk", "dead", {key: ">"})
    author.redis.eval(PRUNE, 1, key, "risk", "b")

    def members() -> dict[str, int]:
        return {each["name"]: each["pending"] for each in author.redis.xinfo_consumers(key, "risk")}

    assert members() == {"dead": 1}
    with member(redis, log, "b"):
        log.wait("on_order")
        until(lambda: members() == {"b": 0})


def test_who_hangs_longer_than_its_lock_does_not_go_on(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LOCK", 1.0)
    monkeypatch.setattr(members, "RENEWAL", 0.1)
    monkeypatch.setattr(following, "STANDBY", 0.1)
    monkeypatch.setattr(entries, "BLOCK", 100)
    author, log, go, seen = Author(redis), Recorder(), threading.Event(), []
    author.begin()
    first = member(redis, None, "a")

    @first.on_order
    def order(event: Order) -> None:
        seen.append(event.order_id)
        assert go.wait(10)

    with first:
        assert first.wait_ready(5)
        author.order(1)
        author.order(2)
        until(lambda: seen)
        monkeypatch.setattr(members, "LOCK", 60.0)  # of the other, which is not to lose it in turn
        with member(redis, log, "b"):
            log.wait("on_order", 2)
            go.set()
            author.order(3)
            log.wait("on_order", 3)
            assert ids(log) == ["1", "2", "3"]
            assert seen == ["1"]


def test_a_group_misses_nothing_while_redis_restarts(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    with member(redis, log, "a") as stream:
        assert stream.wait_ready(5)
        author.order(1)
        log.wait("on_order")
        redis.restart()
        author = Author(redis)
        author.sequence = 5
        author.order(2)
        log.wait("on_order", 2)
        assert stream.wait_ready(5)
    assert ids(log)[-1] == "2"
    assert not log.on_error or all(isinstance(e, ConnectionFailed) for e in log.on_error)


def test_a_group_that_redis_has_lost_with_all_else_is_ready_with_the_next_state(
    redis: RedisServer,
) -> None:
    author, log = Author(redis), Recorder()
    author.begin(7)
    with member(redis, log, "a") as stream:
        assert stream.wait_ready(5)
        author.order(1)
        log.wait("on_order")
        redis.restart(empty=True)
        until(lambda: b"risk" in groups(redis))
        assert not stream.wait_ready(0)
        author.stay()
        author.state(7, 8)  # the owner goes on where it was
        assert stream.wait_ready(5)
        until(lambda: not stream.positions[7].stale)
        assert [*stream.positions] == [7, 8]


def groups(redis: RedisServer) -> list[bytes]:
    with redis.client() as client:
        if not client.exists("fastpos:{alice}:events"):
            return []
        return [each["name"].encode() for each in client.xinfo_groups("fastpos:{alice}:events")]


def test_what_was_not_read_before_it_went_is_told(redis: RedisServer) -> None:
    author, log = Author(redis), Recorder()
    author.begin()
    with member(redis, None, "a") as stream:
        assert stream.wait_ready(5)
    for number in range(10):
        author.order(number)
    author.redis.xtrim("fastpos:{alice}:events", maxlen=4, approximate=False)
    with member(redis, log, "a"):
        log.wait("on_order", 4)
        assert "6 records" in str(log.wait("on_error")[0])
    assert ids(log) == ["6", "7", "8", "9"]


# --- its arguments --------------------------------------------------------------------------------


def test_its_signature_names_the_callbacks_and_no_others() -> None:
    parameters = inspect.signature(RemoteStream).parameters
    assert [*parameters][:5] == ["url", "name", "prefix", "group", "consumer"]
    assert parameters["on_order"].annotation == "Callable[[Order], object] | None"
    assert "broker" not in parameters
    assert "snapshot" not in parameters


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"url": "http://x"}, "redis://"),
        ({"url": 7}, "url"),
        ({"name": ""}, "name"),
        ({"name": "a-<n>"}, "<n>"),
        ({"prefix": "a{b}"}, "prefix"),
        ({"group": ""}, "group"),
        ({"consumer": "a"}, "group"),
        ({"group": "a", "dispatch": "thread"}, "acknowledges"),
        ({"number": int}, "number"),
        ({"broker": 1}, "broker"),
        ({"on_orders": print}, "on_orders"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], said: str) -> None:
    given = {"url": "redis://127.0.0.1:1/0", "name": "alice", **arguments}
    with pytest.raises((TypeError, ValueError), match=said):
        RemoteStream(**given)


def test_it_is_not_copied_and_not_driven_by_others() -> None:
    stream = RemoteStream("redis://user:secret@127.0.0.1:1/0", "alice")
    with pytest.raises(TypeError, match="RemoteStream"):
        pickle.dumps(stream)
    with pytest.raises(ValueError, match="RemoteStream"):
        Fleet().add(stream)
    assert "secret" not in repr(stream)


# --- members that are killed ----------------------------------------------------------------------

_MEMBER = """
import os, sys
from fastpos.redis import RemoteStream, following, member

member.LOCK, member.RENEWAL, following.STANDBY = 1.0, 0.3, 0.1
stream = RemoteStream(sys.argv[1], "alice", group="risk")
stream.on_error(lambda error: os.write(1, f"error {error}\\n".encode()))
stream.on_order(lambda order: os.write(1, f"{order.order_id}\\n".encode()))
stream.run_forever()
"""


def test_members_that_are_killed_miss_nothing_and_keep_the_order(redis: RedisServer) -> None:
    author = Author(redis)
    author.begin()
    author.redis.xgroup_create("fastpos:{alice}:events", "risk", id="$")
    read, write = os.pipe()
    ended = threading.Event()
    count = 0

    def tell() -> None:
        nonlocal count
        while not ended.wait(0.001):
            author.order(count)
            count += 1

    def start() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", _MEMBER, redis.url]
        return subprocess.Popen(
            words, stdout=write, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    output: list[bytes] = []

    def listen() -> None:
        while part := os.read(read, 65536):
            output.append(part)

    listener, teller = threading.Thread(target=listen), threading.Thread(target=tell)
    members = [start(), start()]
    listener.start()
    teller.start()
    try:
        for _ in range(4):
            seen = len(output)
            until(lambda seen=seen: len(output) > seen + 50, 20)
            for each in members:  # the one that reads, and the one that waits for it
                each.kill()
                each.wait()
                members[members.index(each)] = start()
                seen = len(output)
                until(lambda seen=seen: len(output) > seen, 20)
        ended.set()
        teller.join()
        last = b"%d\n" % (count - 1)
        until(lambda: last in b"".join(output), 20)
        until(lambda: unacknowledged(redis) == 0)
    finally:
        ended.set()
        for each in members:
            each.kill()
            each.wait()
        os.close(write)
        listener.join()
        os.close(read)
    lines = b"".join(output).decode().split()
    assert "error" not in lines
    numbers = [int(line) for line in lines]
    first_times = [*dict.fromkeys(numbers)]
    assert first_times == [*range(count)]
