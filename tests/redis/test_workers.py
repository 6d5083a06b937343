"""`Worker`s in one process, on a real server: who has what, and what each is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fastpos.clock import monotonic
from fastpos.redis import leases
from fastpos.redis.leases import WorkerKeys
from fastpos.redis.shards import SHARDS
from fastpos.redis.worker import Worker
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(60)


class Party:
    """A worker, and what it was told; it gives what it is asked for at once."""

    def __init__(self, url: str, name: str, at_once: int = SHARDS) -> None:
        self.told: list[tuple[str, int]] = []
        self.lost_at: list[float] = []
        self.most_given = 0
        self.holds_back = False
        self._at_once = at_once
        self.worker = Worker(
            url, "test", name=name, gained=self._gained, lost=self._lost, give=self._give,
            choose=lambda shards: sorted(shards)[: self._at_once],
        )  # fmt: skip
        self.worker.start()

    def _gained(self) -> None:
        self.told.append(("gained", len(self.shards)))

    def _lost(self, shards: frozenset[int]) -> None:
        self.lost_at.append(monotonic())
        self.told.append(("lost", len(shards)))

    def _give(self, shards: frozenset[int]) -> None:
        self.most_given = max(self.most_given, len(shards))
        if not self.holds_back:
            for shard in shards:
                self.worker.release(shard)

    @property
    def shards(self) -> set[int]:
        """What it has."""
        return {shard for shard in range(SHARDS) if self.worker.has(shard)}


class Rig:
    """A server, and workers on it."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(RedisServer())
        self._stack = stack
        self.know()

    def know(self) -> None:
        """Have the server be known for long."""
        with self.server.client() as client:
            key, run_id = WorkerKeys("test").server, client.info("server")["run_id"]
            client.hset(key, mapping={"run_id": run_id, "since": 0})

    def party(self, name: str, at_once: int = SHARDS) -> Party:
        party = Party(self.server.url, name, at_once)
        self._stack.callback(party.worker.leave, 2.0)
        return party


def until(condition: Callable[[], Any], *parties: Party, timeout: float = 10.0) -> None:
    """Wait until it is so; no two have a shard at any time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, [(len(p.shards), p.told) for p in parties]
        apart(*parties)
        time.sleep(0.01)
    apart(*parties)


def apart(*parties: Party) -> None:
    for shard in range(SHARDS):
        # Each is asked after the one before, so who releases it comes first or is asked again.
        owners = [party for party in parties if party.worker.has(shard)]
        owners = [party for party in owners if party.worker.has(shard)]
        assert len(owners) < 2


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack)


def test_one_alone_has_all_and_a_second_gets_its_part_a_few_at_a_time(rig: Rig) -> None:
    alice = rig.party("alice")
    until(lambda: len(alice.shards) == SHARDS)
    bob = rig.party("bob", at_once=20)
    until(lambda: len(alice.shards | bob.shards) == SHARDS and len(bob.shards) > 90, alice, bob)
    assert alice.most_given <= 20
    assert not [what for what, _ in alice.told + bob.told if what == "lost"]


def test_until_it_is_given_a_shard_stays_with_its_owner(rig: Rig) -> None:
    alice = rig.party("alice")
    until(lambda: len(alice.shards) == SHARDS)
    alice.holds_back = True
    bob = rig.party("bob")
    until(lambda: alice.most_given > 90, alice, bob)
    assert (len(alice.shards), len(bob.shards)) == (SHARDS, 0)


def test_what_is_left_behind_is_anothers_at_once(rig: Rig) -> None:
    alice, bob = rig.party("alice"), rig.party("bob")
    until(lambda: len(alice.shards | bob.shards) == SHARDS and alice.shards and bob.shards)
    began = time.monotonic()
    alice.worker.leave(2.0)
    until(lambda: len(bob.shards) == SHARDS, bob)
    # Before its leases would have ended, of which the oldest has this left.
    assert time.monotonic() - began < leases.LEASE - leases.RENEWAL


def test_while_redis_is_away_it_has_its_shards_until_its_leases_end_and_then_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    alice = rig.party("alice")
    until(lambda: len(alice.shards) == SHARDS)
    rig.server.kill()
    ends = alice.worker._leases._until  # as the server has said last
    assert ends - monotonic() < leases.LEASE - leases.MARGIN
    until(lambda: ("lost", SHARDS) in alice.told)
    assert alice.lost_at[0] >= ends
    assert alice.shards == set()
    rig.server.start()
    rig.know()
    until(lambda: len(alice.shards) == SHARDS)
    ours = (record for record in caplog.records if record.name == "fastpos")
    events = [record.__dict__["fastpos_event"] for record in ours]
    assert events == ["redis_away", "shards_lost", "redis_again"]


def test_a_url_that_is_no_use_is_refused() -> None:
    for url in ("redis+cluster://a", "http://a"):
        with pytest.raises(ValueError, match=r"redis"):
            Worker(url, "test", gained=print, lost=print, give=print)
