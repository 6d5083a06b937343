"""Leases: what a real server grants, and what a worker knows by a clock that a test sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from fastpos.redis.leases import SYNC, Answer, Leases, WorkerKeys
from tests.support.recording import until
from tests.support.redis_server import RedisServer

LEASE = 60.0  # seconds, here: none ends unless a test says so
SHORT = 0.5
KEYS = WorkerKeys("test")


class Party:
    """A worker that asks when a test says so."""

    def __init__(self, redis: Any, name: str, lease: float = LEASE) -> None:
        self._redis = redis
        self.now = 100.0
        self.leases = Leases(name, lambda: self.now, lease, lease / 5)

    def sync(
        self, wanted: set[int] | None = None, asked: set[int] | None = None, **more: Any
    ) -> Answer:
        """Ask; what is said is taken note of."""
        released = frozenset(self.leases.released)
        text = self.leases.request(wanted or (), asked or (), **more)
        answer = Answer.of(self._redis.eval(SYNC, 4, *KEYS.of_script, KEYS.news, text))
        self.gained, self.lost = self.leases.take(answer, self.now, released)
        return answer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Any]:
    """A client of an empty server that has been there for long."""
    with server.client() as client:
        client.flushall()
        client.hset(KEYS.server, mapping={"run_id": client.info("server")["run_id"], "since": 0})
        yield client


def test_what_is_nobodys_is_granted_and_what_is_anothers_is_not(redis: Any) -> None:
    alice, bob = Party(redis, "alice"), Party(redis, "bob")
    assert alice.sync().held == {}
    answer = alice.sync({1, 2, 3})
    assert sorted(answer.held) == [1, 2, 3]
    assert alice.gained == {1, 2, 3}
    assert sorted(bob.sync({3, 4}).held) == [4]
    assert alice.leases.shards == {1, 2, 3}
    assert bob.leases.shards == {4}
    answer = alice.sync()
    assert answer.alive == {"alice", "bob"}
    assert {shard: lease.owner for shard, lease in answer.leases.items()} == {
        1: "alice", 2: "alice", 3: "alice", 4: "bob"
    }  # fmt: skip
    assert all(0 < lease.left <= LEASE for lease in answer.leases.values())


def test_a_server_whose_memory_is_full_still_renews_and_grants(redis: Any) -> None:
    alice = Party(redis, "alice")
    alice.sync({1})
    redis.config_set("maxmemory", 1)
    try:
        assert sorted(alice.sync({1, 2}).held) == [1, 2]
    finally:
        redis.config_set("maxmemory", 0)


def test_an_epoch_rises_when_a_shard_changes_hands_and_only_then(redis: Any) -> None:
    alice, bob = Party(redis, "alice"), Party(redis, "bob")
    first = alice.sync({1}).held[1]
    assert alice.sync({1}).held[1] == first
    alice.leases.release(1)
    assert not alice.leases.has(1)
    alice.sync()
    assert bob.sync({1}).held[1] > first


def test_a_lease_that_is_not_renewed_is_anothers_soon(redis: Any) -> None:
    alice, bob = Party(redis, "alice", SHORT), Party(redis, "bob")
    began = time.monotonic()
    first = alice.sync({1}).held[1]
    until(lambda: bob.sync({1}).held, 20)
    assert time.monotonic() - began > SHORT * 0.9
    answer = bob.sync()
    second = answer.held[1]
    assert second > first
    assert answer.alive == {"bob"}
    # Who was away still says that it has it, and is not believed.
    alice.leases._lease = LEASE  # no other lease is cut to two of a short one
    assert alice.sync({1}).held == {}
    assert alice.lost == {1}
    assert bob.sync().held[1] == second


def test_what_was_not_renewed_and_nobody_took_is_still_its_owners(redis: Any) -> None:
    alice = Party(redis, "alice")
    first = alice.sync({1}).held[1]
    redis.hset(KEYS.leases, "1", f"alice {first} 17")  # long over
    assert alice.sync().held[1] == first


def test_who_leaves_leaves_nothing_behind(redis: Any) -> None:
    alice, bob = Party(redis, "alice"), Party(redis, "bob")
    alice.sync({1, 2}, {5})
    alice.sync(leaving=True)
    answer = bob.sync({1, 2})
    assert sorted(answer.held) == [1, 2]
    assert (answer.alive, answer.asked) == ({"bob"}, {})


def test_an_owner_is_told_what_others_ask_for_while_they_live(redis: Any) -> None:
    alice, bob = Party(redis, "alice"), Party(redis, "bob")
    alice.sync({1, 2, 3})
    bob.sync(asked={2, 3})
    assert alice.sync().asked == {"bob": frozenset({2, 3})}
    bob.sync(asked={3})
    assert alice.sync().asked == {"bob": frozenset({3})}
    bob.sync()
    assert alice.sync().asked == {}
    bob.leases._lease = SHORT
    bob.sync(asked={3})
    until(lambda: "bob" not in alice.sync().alive, 20)
    assert alice.sync().asked == {}


def test_a_change_is_told_and_a_renewal_is_not(redis: Any) -> None:
    alice, bob = Party(redis, "alice"), Party(redis, "bob")

    def told() -> list[str]:
        redis.publish(KEYS.news, "that is all")
        found = []
        while (message := next(messages)["data"]) != "that is all":
            found.append(message)
        return found

    with redis.pubsub(ignore_subscribe_messages=True) as news:
        news.subscribe(KEYS.news)
        messages = news.listen()
        assert told() == []
        alice.sync({1, 2})
        assert told() == ["alice"]  # it has come
        alice.sync({1, 2})
        bob.sync(asked={1})
        assert told() == ["bob"]
        bob.sync(asked={1})
        assert told() == []
        alice.leases.release(1)
        alice.sync()
        assert told() == ["alice"]


def test_a_server_that_was_restarted_grants_nothing_until_owners_have_had_time_to_come() -> None:
    with RedisServer() as server:
        with server.client() as redis:
            alice = Party(redis, "alice", SHORT)
            began = time.monotonic()
            until(lambda: alice.sync({1, 2}).held, 20)  # the first of all waits, too
            assert time.monotonic() - began > SHORT * 0.9
            alice.leases._lease = LEASE
            epochs = alice.sync({1, 2}).held
        server.restart()
        with server.client() as redis:
            bob = Party(redis, "bob")
            alice._redis = redis
            answer = bob.sync({1, 2, 3})
            assert answer.held == {}
            assert 0 < answer.wait <= LEASE
            assert alice.sync().held == epochs  # it is believed
            assert bob.sync({1, 2, 3}).held == {}
            redis.hincrby(KEYS.server, "since", -1000 * int(LEASE))  # so long ago, that is
            answer = bob.sync({1, 2, 3})
            assert answer.wait == 0
            assert [*answer.held] == [3]
            assert bob.leases.shards == {3}
            assert alice.sync().held == epochs


def test_after_a_failover_the_higher_epoch_is_believed(redis: Any) -> None:
    alice, bob = Party(redis, "alice"), Party(redis, "bob")
    first = alice.sync({1}).held[1]
    before = redis.hget(KEYS.leases, "1")
    alice.leases.release(1)
    alice.sync()
    second = bob.sync({1}).held[1]
    redis.hset(KEYS.leases, "1", before)  # the other server has not heard of what came after
    assert bob.sync().held == {1: second}
    assert second > first
    redis.delete(KEYS.leases)  # … or of nothing at all
    assert bob.sync().held == {1: second}
    redis.delete(KEYS.leases)
    assert alice.sync({1}).held[1] > 1_700_000_000  # seconds: it does not begin at 1


def test_for_its_owner_a_lease_is_over_before_it_is_for_the_server() -> None:
    party = Party(None, "alice", SHORT)
    party.leases.take(Answer({1: 7}), sent_at=99.9, released=frozenset())
    assert party.leases.has(1)
    party.now = 99.9 + SHORT * 4 / 5 - 0.001
    assert party.leases.has(1)
    assert party.leases.lapse() == frozenset()
    party.now += 0.001
    assert not party.leases.has(1)  # at once, whoever looks at the clock later
    assert '"held": {}' in party.leases.request()
    assert party.leases.lapse() == {1}
    assert party.leases.lapse() == frozenset()


def test_what_has_lapsed_is_lost_though_an_answer_comes_before_anybody_looks_at_the_clock() -> None:
    for answer in (Answer(), Answer({1: 7})):  # what was asked before a pause of this machine
        party = Party(None, "alice", SHORT)
        party.leases.take(Answer({1: 7}), sent_at=100.0, released=frozenset())
        party.now = 112.0
        assert party.leases.take(answer, sent_at=100.1, released=frozenset()) == (set(), {1})
    party.leases.take(Answer({1: 7}), sent_at=112.0, released=frozenset())
    party.now = 113.0
    # It is its own again: who has ended it meanwhile begins it anew.
    assert party.leases.take(Answer({1: 7}), 113.0, frozenset()) == ({1}, set())


def test_a_clock_that_was_set_back_keeps_nobody_from_what_is_nobodys(redis: Any) -> None:
    later = int(time.time() * 1000) + 3_600_000
    redis.hset(KEYS.server, "since", later)
    redis.hset(KEYS.leases, "1", f"dead 5 {later}")
    redis.zadd(KEYS.alive, {"dead": later})
    alice = Party(redis, "alice", SHORT)
    began = time.monotonic()
    assert alice.sync({1}).held == {}
    until(lambda: alice.sync({1}).held, 20)
    assert time.monotonic() - began > SHORT * 1.9
    assert alice.sync({1}).alive == {"alice"}


def test_an_answer_that_comes_too_late_grants_nothing() -> None:
    party = Party(None, "alice", SHORT)
    party.leases.take(Answer({1: 7}), sent_at=100.0, released=frozenset())
    party.now = 100.1
    gained, lost = party.leases.take(Answer({1: 7, 2: 7}), sent_at=99.6, released=frozenset())
    assert (gained, lost) == (frozenset(), {1})


def test_what_was_released_meanwhile_does_not_come_back() -> None:
    party = Party(None, "alice", SHORT)
    party.leases.take(Answer({1: 7, 2: 7}), sent_at=100.0, released=frozenset())
    party.leases.release(1)
    party.leases.take(Answer({1: 7, 2: 7}), sent_at=100.0, released=frozenset())  # asked before
    assert party.leases.shards == {2}
    assert '"released": ["1"]' in party.leases.request()
    party.leases.take(Answer({2: 7}), sent_at=100.0, released=frozenset({1}))
    assert '"released": []' in party.leases.request()
